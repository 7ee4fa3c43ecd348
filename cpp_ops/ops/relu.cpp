// relu and relu_: the result is kept as one bit an element, `!(y <= 0)`, and handed on with a
// bitmap handle that shares those bits.
// Source: aten::relu, whose backward is threshold_backward(grad, result, 0): a selection by mask.

#include "ops/relu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "ops/node.h"
#include "saved/bitmap.h"
#include "saved/codec.h"

namespace fxpass {
namespace {

using kernels::DType;
using kernels::kernels;
using kernels::kWordBits;

// fp16 and bf16: ATen's vectorised code rewrites some NaN payloads on the way through float, its
// scalar tail does not. There ATen itself computes, and the kernels only read.
bool kernels_select_as_aten(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble;
}

struct MaskedResult {
  at::Tensor mask;     // int64 words
  bool negative_zero;  // the result holds -0.0, which the mask does not mark but a bitmap must
};

// Writes relu(x) to y (which may be x) and returns the mask. Both flat, of equal strides.
MaskedResult relu_into(const at::Tensor& x, const at::Tensor& y) {
  const auto n = x.numel();
  const auto dtype = *codec::kernel_dtype(x.scalar_type());
  const auto size = element_size(dtype);
  auto mask = codec::new_words(x, kernels::words_for(n));
  auto* bits = codec::words(mask);
  const auto* src = static_cast<const char*>(x.const_data_ptr());
  auto* dst = static_cast<char*>(y.data_ptr());
  std::atomic<bool> negative_zero{false};
  at::parallel_for(0, mask.numel(), codec::kGrainWords, [&](std::int64_t first, std::int64_t last) {
    const auto begin = first * kWordBits, end = std::min(last * kWordBits, n);
    if (kernels().relu_mask(dtype, src + begin * size, dst + begin * size, end - begin,
                            bits + first)) {
      negative_zero = true;
    }
  });
  return {std::move(mask), negative_zero};
}

class ReluNode final : public FxNode {
 public:
  ReluNode() : FxNode("relu") {}

  void save(const at::Tensor& y, const at::Tensor& mask) {
    result_ = Identity(y);
    geometry_ = Geometry::of(y);
    dtype_ = y.scalar_type();
    canonical_ = has_canonical_strides(y);
    mask_ = torch::autograd::SavedVariable(mask, /*is_output=*/false);
  }

 protected:
  variable_list backward(variable_list& grads) override {
    const auto mask = mask_.unpack();
    result_.check_unmodified("fxpass::relu");
    codec::check_words(mask, kernels::words_for(c10::multiply_integers(geometry_.sizes)),
                       "fxpass::relu");
    auto grad = std::move(grads[0]);
    const bool same_layout = canonical_ && grad.sizes() == at::IntArrayRef(geometry_.sizes) &&
                             grad.strides() == at::IntArrayRef(geometry_.strides);
    if (!same_layout || !codec::is_flat(grad) || !kernels_select_as_aten(grad.scalar_type()) ||
        grad.scalar_type() != dtype_) {
      return {at::threshold_backward(grad, result_like(mask, grad), 0)};
    }
    const auto out = is_mine(grad) ? grad : at::empty_like(grad);
    select(grad, mask, out);
    return {out};
  }

  void release() override { mask_.reset_data(); }

 private:
  static void select(const at::Tensor& grad, const at::Tensor& mask, const at::Tensor& out) {
    const auto n = grad.numel();
    const auto dtype = *codec::kernel_dtype(grad.scalar_type());
    const auto size = element_size(dtype);
    const auto* src = static_cast<const char*>(grad.const_data_ptr());
    auto* dst = static_cast<char*>(out.data_ptr());
    at::parallel_for(0, mask.numel(), codec::kGrainWords,
                     [&](std::int64_t first, std::int64_t last) {
                       const auto begin = first * kWordBits, end = std::min(last * kWordBits, n);
                       kernels().select(dtype, src + begin * size, codec::words(mask) + first,
                                        end - begin, dst + begin * size);
                     });
  }

  // A tensor that threshold_backward tells from the result only by the sign of its comparison.
  at::Tensor result_like(const at::Tensor& mask, const at::Tensor& grad) const {
    auto ones = at::empty_strided(geometry_.sizes, geometry_.strides, grad.options().dtype(dtype_));
    ones.fill_(1);
    select(ones, mask, ones);
    return ones;
  }

  torch::autograd::SavedVariable mask_;
  Identity result_;
  Geometry geometry_;
  at::ScalarType dtype_ = at::kFloat;
  bool canonical_ = false;
};

SavedPtr handle_of(const at::Tensor& y, const MaskedResult& result) {
  return c10::make_intrusive<BitmapSaved>(y, result.negative_zero ? at::Tensor() : result.mask);
}

// Where nothing can be shown exact: ATen's own op and graph, and a handle that may still pack.
std::tuple<at::Tensor, SavedPtr> with_lazy_handle(at::Tensor y) {
  auto handle = at::GradMode::is_enabled() && codec::is_flat(y)
                    ? SavedPtr(c10::make_intrusive<BitmapSaved>(y))
                    : c10::make_intrusive<Saved>();
  return {std::move(y), std::move(handle)};
}

}  // namespace

std::tuple<at::Tensor, SavedPtr> relu(const at::Tensor& x) {
  if (!torch::autograd::compute_requires_grad(x) || !codec::is_flat(x) || has_tangent(x)) {
    return with_lazy_handle(at::relu(x));
  }
  const auto node = make_node<ReluNode>(x);
  at::Tensor y;
  MaskedResult result;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    if (kernels_select_as_aten(x.scalar_type()) && has_canonical_strides(x)) {
      y = at::empty_like(x);
      result = relu_into(x, y);
    } else {
      y = at::relu(x);
      result = relu_into(y, y);
    }
  }
  torch::autograd::set_history(y, node);
  node->save(y, result.mask);
  auto handle = handle_of(y, result);
  return {std::move(y), std::move(handle)};
}

namespace {

std::tuple<at::Tensor, SavedPtr> relu_(at::Tensor x) {
  // A view's history is rebased on its base (CopySlices); ATen's own node does that as it should.
  if (!torch::autograd::compute_requires_grad(x) || !codec::is_flat(x) || has_tangent(x) ||
      x.is_view()) {
    at::relu_(x);
    return with_lazy_handle(x);
  }
  torch::autograd::check_inplace(x, /*requires_grad=*/true);
  const auto node = make_node<ReluNode>(x);
  MaskedResult result;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    if (!kernels_select_as_aten(x.scalar_type())) at::relu_(x);
    result = relu_into(x, x);
  }
  torch::autograd::increment_version(x);
  torch::autograd::rebase_history(x, node);
  node->save(x, result.mask);
  auto handle = handle_of(x, result);
  return {x, std::move(handle)};
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def("relu(Tensor x) -> (Tensor, __torch__.torch.classes.fxpass.Saved)");
  m.def("relu_(Tensor(a!) x) -> (Tensor(a!), __torch__.torch.classes.fxpass.Saved)");
}

FXPASS_REGISTER("relu", relu)
FXPASS_REGISTER("relu_", relu_)

}  // namespace
}  // namespace fxpass
