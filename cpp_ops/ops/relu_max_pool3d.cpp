// Source: aten::relu and aten::max_pool3d_with_indices, whose own kernels run; what is kept between
// them is a code per output, 0 where the ReLU lets no gradient through.

#include "ops/relu_max_pool3d.h"

#include <ATen/ATen.h>

#include "ops/node.h"
#include "saved/codec.h"
#include "saved/shape_only.h"

namespace fxpass {
namespace {

struct OwnedArgs {
  std::vector<std::int64_t> kernel_size, stride, padding, dilation;
  bool ceil_mode;
};

class ReluMaxPool3dNode final : public FxNode {
 public:
  ReluMaxPool3dNode() : FxNode("relu_max_pool3d") {}

  void save(const at::Tensor& y, const at::Tensor& out, const at::Tensor& planes, Windows windows,
            const PoolArgs& args) {
    pooled_ = ShapeOnly(y);
    out_ = Geometry::of(out);
    planes_ = torch::autograd::SavedVariable(planes, /*is_output=*/false);
    windows_ = std::move(windows);
    args_ = {args.kernel_size.vec(), args.stride.vec(), args.padding.vec(), args.dilation.vec(),
             args.ceil_mode};
  }

 protected:
  variable_list backward(variable_list& grads) override {
    auto indices = codes::to_indices(planes_.unpack(), windows_, out_.sizes, out_.strides);
    // Where no gradient passes, +0.0 is added to some element: no sum that began at +0.0 changes.
    const auto blocked = indices.lt(0);
    indices.masked_fill_(blocked, 0);
    // Its strides stay: ATen's backward refuses some.
    const auto grad = is_mine(grads[0]) ? std::move(grads[0]) : grads[0].clone();
    grad.masked_fill_(blocked, 0);
    return {at::max_pool3d_with_indices_backward(grad, pooled_.tensor(), args_.kernel_size,
                                                 args_.stride, args_.padding, args_.dilation,
                                                 args_.ceil_mode, indices)};
  }

  void release() override { planes_.reset_data(); }

 private:
  ShapeOnly pooled_;
  Geometry out_;
  torch::autograd::SavedVariable planes_;
  Windows windows_;
  OwnedArgs args_;
};

}  // namespace

std::optional<at::Tensor> relu_max_pool3d(const at::Tensor& x, const PoolArgs& args) {
  // fp16 and bf16: ATen's threshold_backward rewrites some NaNs, which is left to it.
  const bool selects = x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble;
  if (!torch::autograd::compute_requires_grad(x) || has_tangent(x) || !selects ||
      !codec::is_flat(x) || !has_canonical_strides(x)) {
    return std::nullopt;
  }
  at::Tensor out;
  const auto node = make_node<ReluMaxPool3dNode>(x);
  {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto y = at::relu(x);
    at::Tensor indices;
    std::tie(out, indices) = at::max_pool3d_with_indices(
        y, args.kernel_size, args.stride, args.padding, args.dilation, args.ceil_mode);
    auto windows =
        Windows::of_pool(3, x, out, args.kernel_size, args.stride, args.padding, args.dilation);
    if (!windows.fits_codes()) return std::nullopt;
    indices.masked_fill_(out.le(0), -1);
    const auto planes = codes::from_indices(indices, windows);
    node->save(y, out, planes, std::move(windows), args);
  }
  torch::autograd::set_history(out, node);
  return out;
}

}  // namespace fxpass
