// activation: an elementwise op whose backward reads its input, which is kept by its handle or, of
// an op in linear pieces, as one bit an element.
// Source: aten::silu and its like (activations.cpp), and their backward formulas.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "saved/activations.h"
#include "saved/codec.h"
#include "saved/pieces.h"

namespace fxpass {
namespace {

class ActivationNode final : public FxNode {
 public:
  ActivationNode() : FxNode("activation") {}

  bool keep(const at::Tensor& x, const std::optional<SavedPtr>& handle, BoundActivation activation,
            bool mask) {
    activation_ = std::move(activation);
    canonical_ = has_canonical_strides(x);
    return input_.keep_packed(x, handle) || (mask && mask_.keep(x, activation_));
  }
  // Where eager keeps a tensor itself, a write to it has to be noticed.
  void watch(const at::Tensor& kept) { identity_ = Identity(kept); }

 protected:
  variable_list backward(variable_list& grads) override {
    const auto& [op, args] = activation_;
    auto grad = std::move(grads[0]);
    if (mask_.is_kept()) {
      auto of_input = mask_.backward(std::move(grad), activation_);
      identity_.check_unmodified("fxpass::activation");
      return {std::move(of_input)};
    }
    const auto x = input_.unpack_unchecked();
    identity_.check_unmodified("fxpass::activation");
    const bool in_place = op->backward_ != nullptr && canonical_ && grad.strides() == x.strides() &&
                          grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type() &&
                          codec::is_flat(grad) && is_mine(grad);
    if (!in_place) return {op->backward(grad, x, args)};
    op->backward_(grad, x, args);
    return {std::move(grad)};
  }

  void release() override {
    input_.reset();
    mask_.reset();
  }

 private:
  BoundActivation activation_;
  Kept input_;
  PieceMask mask_;
  Identity identity_;
  bool canonical_ = false;
};

at::Tensor activation(at::Tensor x, const std::optional<SavedPtr>& handle, c10::string_view name,
                      at::ArrayRef<double> list, bool mask, bool inplace) {
  const auto& which = activation_named(name, list.size());
  ActivationArgs args = list.vec();
  // What torch.nn.functional checks before it calls ATen.
  TORCH_CHECK_VALUE(name != "hardtanh" || !(args[0] > args[1]),
                    "min_val cannot be greater than max_val");
  TORCH_CHECK_VALUE(!inplace || which.forward_ != nullptr, "fxpass: activation '", name,
                    "' has no in-place form here");
  const auto eager = [&] {
    if (!inplace) return which.forward(x, args);
    which.forward_(x, args);
    return x;
  };
  if (!torch::autograd::compute_requires_grad(x) || !(handle.has_value() || mask) ||
      !codec::is_plain(x) || !at::isFloatingType(x.scalar_type()) || has_tangent(x) ||
      (inplace && x.is_view())) {
    return eager();
  }
  const auto node = make_node<ActivationNode>(x);
  if (!node->keep(x, handle, {&which, args}, mask)) return eager();
  if (inplace) torch::autograd::check_inplace(x, /*requires_grad=*/true);
  at::Tensor y;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    y = eager();
  }
  if (inplace) {
    torch::autograd::increment_version(x);
    torch::autograd::rebase_history(x, node);
    if (which.keeps_result) node->watch(x);
  } else {
    torch::autograd::set_history(y, node);
    node->watch(x);
  }
  return y;
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(
      fxpass::opaque("activation(Tensor x, __torch__.torch.classes.fxpass.Saved? saved, str name, "
                     "float[] args=[], bool mask=False) -> Tensor"));
  m.def(
      "activation_(Tensor(a!) x, __torch__.torch.classes.fxpass.Saved? saved, str name, "
      "float[] args=[], bool mask=False) -> Tensor(a!)");
}

at::Tensor activation_new(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                          c10::string_view name, at::ArrayRef<double> args, bool mask) {
  return activation(x, handle, name, args, mask, /*inplace=*/false);
}
at::Tensor activation_inplace(at::Tensor x, const std::optional<SavedPtr>& handle,
                              c10::string_view name, at::ArrayRef<double> args, bool mask) {
  return activation(std::move(x), handle, name, args, mask, /*inplace=*/true);
}

FXPASS_REGISTER("activation", activation_new)
FXPASS_REGISTER("activation_", activation_inplace)

}  // namespace
}  // namespace fxpass
