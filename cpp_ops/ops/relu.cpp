// relu and relu_: the result is kept as one bit an element, `!(y <= 0)`, and handed on with a
// bitmap handle that shares those bits.
// Source: aten::relu, whose backward is threshold_backward(grad, result, 0): a selection by mask.

#include "ops/relu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "saved/bitmap.h"
#include "saved/codec.h"
#include "saved/mask.h"

namespace fxpass {
namespace {

class ReluNode final : public FxNode {
 public:
  ReluNode() : FxNode("relu") {}

  void save(const at::Tensor& y, const at::Tensor& mask) { mask_ = MaskSaved(y, mask); }

 protected:
  variable_list backward(variable_list& grads) override {
    return {mask_.select(std::move(grads[0]), "fxpass::relu")};
  }

  void release() override { mask_.reset(); }

 private:
  MaskSaved mask_;
};

SavedPtr handle_of(const at::Tensor& y, const ReluMask& result) {
  return c10::make_intrusive<BitmapSaved>(y, result.negative_zero ? at::Tensor() : result.mask);
}

// Where nothing can be shown exact: ATen's own op and graph, and a handle that may still pack.
std::tuple<at::Tensor, SavedPtr> with_lazy_handle(at::Tensor y) {
  auto handle = at::GradMode::is_enabled() && codec::is_flat(y)
                    ? SavedPtr(c10::make_intrusive<BitmapSaved>(y))
                    : c10::make_intrusive<Saved>();
  return {std::move(y), std::move(handle)};
}

// `keep_strides`: those of x, as in place; otherwise those that ATen chooses.
std::tuple<at::Tensor, SavedPtr> relu_into_new(const at::Tensor& x, bool keep_strides) {
  const auto by_aten = [&] {
    if (!keep_strides) return at::relu(x);
    auto y = at::empty_strided(x.sizes(), x.strides(), x.options());
    return at::relu_out(y, x);
  };
  if (!torch::autograd::compute_requires_grad(x)) return with_lazy_handle(by_aten());
  if (!codec::is_flat(x) || has_tangent(x)) return with_lazy_handle(at::relu(x));
  const auto node = make_node<ReluNode>(x);
  at::Tensor y;
  ReluMask result;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    if (has_canonical_strides(x)) {
      y = at::empty_like(x);
      result = relu_with_mask(x, y);
    } else {
      y = by_aten();
      result = mask_of_result(y);
    }
  }
  torch::autograd::set_history(y, node);
  node->save(y, result.mask);
  auto handle = handle_of(y, result);
  return {std::move(y), std::move(handle)};
}

}  // namespace

std::tuple<at::Tensor, SavedPtr> relu(const at::Tensor& x) { return relu_into_new(x, false); }

at::Tensor relu_unwritten(const at::Tensor& x) { return std::get<0>(relu_into_new(x, true)); }

std::tuple<at::Tensor, SavedPtr> relu_(at::Tensor x) {
  // A view's history is rebased on its base (CopySlices); ATen's own node does that as it should.
  if (!torch::autograd::compute_requires_grad(x) || !codec::is_flat(x) || has_tangent(x) ||
      x.is_view()) {
    at::relu_(x);
    return with_lazy_handle(x);
  }
  torch::autograd::check_inplace(x, /*requires_grad=*/true);
  const auto node = make_node<ReluNode>(x);
  ReluMask result;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    result = relu_with_mask(x, x);
  }
  torch::autograd::increment_version(x);
  torch::autograd::rebase_history(x, node);
  node->save(x, result.mask);
  auto handle = handle_of(x, result);
  return {x, std::move(handle)};
}

namespace {

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(fxpass::opaque("relu(Tensor x) -> (Tensor, __torch__.torch.classes.fxpass.Saved)"));
  m.def("relu_(Tensor(a!) x) -> (Tensor(a!), __torch__.torch.classes.fxpass.Saved)");
}

FXPASS_REGISTER("relu", relu)
FXPASS_REGISTER("relu_", relu_)

}  // namespace
}  // namespace fxpass
