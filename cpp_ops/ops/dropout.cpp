// pack_noise: of the noise that a dropout keeps, bits; stochastic_depth_noise: what a stochastic
// depth multiplies with.
// Source: aten::dropout and its like (a product with noise of two values); torchvision.ops.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "ops/swap.h"

namespace fxpass {
namespace {

at::Tensor pack_noise(const at::Tensor& y) {
  if (y.requires_grad()) swap::mul_noise_by_bits(y);
  return y;
}

at::Tensor stochastic_depth_noise(const at::Tensor& x, double p, bool by_row) {
  std::vector<std::int64_t> sizes(x.dim(), 1);
  if (by_row) sizes[0] = x.size(0);
  auto noise = at::empty(sizes, x.options()).bernoulli_(1.0 - p);
  if (1.0 - p > 0.0) noise.div_(1.0 - p);
  return noise;
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def("pack_noise(Tensor(a) y) -> Tensor(a)");
  m.def(fxpass::opaque("stochastic_depth_noise(Tensor x, float p, bool by_row) -> Tensor"),
        {at::Tag::nondeterministic_seeded});
}

FXPASS_REGISTER("pack_noise", pack_noise)
FXPASS_REGISTER("stochastic_depth_noise", stochastic_depth_noise)

}  // namespace
}  // namespace fxpass
