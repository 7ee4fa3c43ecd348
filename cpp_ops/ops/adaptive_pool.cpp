// Adaptive pools: eager's own graph; average keeps nothing, max keeps a code an output.
// Source: aten::adaptive_avg_pool{1,2,3}d, aten::adaptive_max_pool{1,2,3}d.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "ops/swap.h"
#include "saved/codec.h"

namespace fxpass {
namespace {

using AvgPool = at::Tensor (*)(const at::Tensor&, at::IntArrayRef);
using MaxPool = std::tuple<at::Tensor, at::Tensor> (*)(const at::Tensor&, at::IntArrayRef);

template <AvgPool pool>
at::Tensor adaptive_avg_pool(const at::Tensor& x, at::IntArrayRef output_size) {
  auto y = pool(x, output_size);
  swap::avg_pool_input_by_shape(y, x);
  return y;
}

template <MaxPool pool, int N>
std::tuple<at::Tensor, at::Tensor> adaptive_max_pool(const at::Tensor& x,
                                                     at::IntArrayRef output_size) {
  auto result = pool(x, output_size);
  const auto& y = std::get<0>(result);
  if (!y.requires_grad() || !codec::is_plain(y)) return result;
  Windows windows;
  for (int d = 0; d < N; ++d) {
    windows.dims.push_back(Windows::adaptive(x.size(x.dim() - N + d), y.size(y.dim() - N + d)));
  }
  if (windows.fits_codes()) swap::max_pool_by_codes(y, x, windows);
  return result;
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(fxpass::opaque("adaptive_avg_pool1d(Tensor x, int[1] output_size) -> Tensor"));
  m.def(fxpass::opaque("adaptive_avg_pool2d(Tensor x, int[2] output_size) -> Tensor"));
  m.def(fxpass::opaque("adaptive_avg_pool3d(Tensor x, int[3] output_size) -> Tensor"));
  m.def(fxpass::opaque("adaptive_max_pool1d(Tensor x, int[1] output_size) -> (Tensor, Tensor)"));
  m.def(fxpass::opaque("adaptive_max_pool2d(Tensor x, int[2] output_size) -> (Tensor, Tensor)"));
  m.def(fxpass::opaque("adaptive_max_pool3d(Tensor x, int[3] output_size) -> (Tensor, Tensor)"));
}

FXPASS_REGISTER("adaptive_avg_pool1d", adaptive_avg_pool<at::adaptive_avg_pool1d>)
FXPASS_REGISTER("adaptive_avg_pool2d", adaptive_avg_pool<at::adaptive_avg_pool2d>)
FXPASS_REGISTER("adaptive_avg_pool3d", adaptive_avg_pool<at::adaptive_avg_pool3d>)
FXPASS_REGISTER("adaptive_max_pool1d", (adaptive_max_pool<at::adaptive_max_pool1d, 1>))
FXPASS_REGISTER("adaptive_max_pool2d", (adaptive_max_pool<at::adaptive_max_pool2d, 2>))
FXPASS_REGISTER("adaptive_max_pool3d", (adaptive_max_pool<at::adaptive_max_pool3d, 3>))

}  // namespace
}  // namespace fxpass
