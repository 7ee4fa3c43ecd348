#include "saved/affine.h"

#include <ATen/ATen.h>

namespace fxpass {

AffineSaved::AffineSaved(const at::Tensor& y, const at::Tensor& x,
                         const std::optional<SavedPtr>& handle, normalize::Vectors vectors,
                         std::optional<BoundActivation> activation)
    : Saved(y), vectors_(std::move(vectors)), activation_(std::move(activation)) {
  input_.keep(x, handle);
}

at::Tensor AffineSaved::restore() {
  const auto x = input_.unpack_unchecked();
  at::AutoDispatchBelowADInplaceOrView below;
  return normalize::output_again(x, vectors_, activation_);
}

}  // namespace fxpass
