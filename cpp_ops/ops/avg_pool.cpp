// avg_pool1d/2d/3d: eager's own graph, nothing kept: backward reads only the input's shape.
// Source: aten::avg_pool{1,2,3}d.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "ops/swap.h"

namespace fxpass {
namespace {

at::Tensor avg_pool1d(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                      at::IntArrayRef padding, bool ceil_mode, bool count_include_pad) {
  auto y = at::avg_pool1d(x, kernel_size, stride, padding, ceil_mode, count_include_pad);
  swap::avg_pool_input_by_shape(y, x);
  return y;
}

at::Tensor avg_pool2d(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                      at::IntArrayRef padding, bool ceil_mode, bool count_include_pad,
                      std::optional<std::int64_t> divisor_override) {
  auto y = at::avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad,
                          divisor_override);
  swap::avg_pool_input_by_shape(y, x);
  return y;
}

at::Tensor avg_pool3d(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                      at::IntArrayRef padding, bool ceil_mode, bool count_include_pad,
                      std::optional<std::int64_t> divisor_override) {
  auto y = at::avg_pool3d(x, kernel_size, stride, padding, ceil_mode, count_include_pad,
                          divisor_override);
  swap::avg_pool_input_by_shape(y, x);
  return y;
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(
      fxpass::opaque("avg_pool1d(Tensor x, int[1] kernel_size, int[1] stride=[], int[1] padding=0, "
                     "bool ceil_mode=False, bool count_include_pad=True) -> Tensor"));
  m.def(fxpass::opaque(
      "avg_pool2d(Tensor x, int[2] kernel_size, int[2] stride=[], int[2] padding=0, "
      "bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor"));
  m.def(fxpass::opaque(
      "avg_pool3d(Tensor x, int[3] kernel_size, int[3] stride=[], int[3] padding=0, "
      "bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor"));
}

FXPASS_REGISTER("avg_pool1d", avg_pool1d)
FXPASS_REGISTER("avg_pool2d", avg_pool2d)
FXPASS_REGISTER("avg_pool3d", avg_pool3d)

}  // namespace
}  // namespace fxpass
