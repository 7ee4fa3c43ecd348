// batch_norm as torch.nn.BatchNorm*d calls it: checks, count of batches, running statistics,
// output; its output is restored from the input that it keeps for itself. Source: aten::batch_norm,
// aten::native_batch_norm and its backward; torch.nn.modules.batchnorm.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/relu.h"
#include "ops/swap.h"
#include "saved/affine.h"
#include "saved/aten_kernels.h"
#include "saved/bitmap.h"
#include "saved/codec.h"
#include "saved/mask.h"
#include "saved/shape_only.h"

namespace fxpass {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

struct BatchNormArgs {
  at::Tensor weight, bias, running_mean, running_var;  // may be undefined
  bool training;
  double momentum, eps;
  std::optional<BoundActivation> activation;
  bool inplace;  // the activation, in eager

  bool relu() const { return activation && std::string_view(activation->op->name) == "relu"; }
};

// aten::native_batch_norm_backward, the input's gradient written over the output's where that is
// ours alone.
variable_list gradients(at::Tensor grad, const at::Tensor& x, const aten::BatchNorm& b,
                        std::array<bool, 3> wanted) {
  const bool in_place = aten::kHasStubs && wanted[0] && is_mine(grad) &&
                        !at::isReducedFloatingType(x.scalar_type()) && codec::is_flat(x) &&
                        codec::is_flat(grad) && has_canonical_strides(x) &&
                        grad.strides() == x.strides() && grad.sizes() == x.sizes() &&
                        grad.scalar_type() == x.scalar_type();
  if (!in_place) {
    auto [of_input, of_weight, of_bias] =
        at::native_batch_norm_backward(grad, x, b.weight, b.running_mean, b.running_var, b.mean,
                                       b.invstd, b.training, b.eps, wanted);
    return {std::move(of_input), std::move(of_weight), std::move(of_bias)};
  }
  const auto vector = [&](bool is_wanted) {
    return is_wanted ? at::empty({x.size(1)}, x.options()) : at::Tensor();
  };
  const auto of_weight = vector(wanted[1]), of_bias = vector(wanted[2]);
  aten::batch_norm_backward(grad, x, b, grad, of_weight, of_bias);
  return {std::move(grad), of_weight, of_bias};
}

class BatchNormNode final : public FxNode {
 public:
  BatchNormNode() : FxNode("batch_norm") {}

  void save(const at::Tensor& x, const std::optional<SavedPtr>& handle, const BatchNormArgs& args,
            const at::Tensor& mean, const at::Tensor& invstd, const normalize::Vectors& vectors) {
    const auto saved = [](const at::Tensor& t) {
      return torch::autograd::SavedVariable(t, /*is_output=*/false);
    };
    input_identity_ = Identity(x);
    input_shape_ = ShapeOnly(x);
    if (keeps_input(args)) input_.keep(x, handle);
    weight_ = saved(args.weight);
    running_mean_ = saved(args.running_mean);
    running_var_ = saved(args.running_var);
    mean_ = saved(mean);
    invstd_ = saved(invstd);
    training_ = args.training;
    eps_ = args.eps;
    if (args.activation && !args.relu()) {
      activation_ = args.activation;
      vectors_ = vectors;
    }
  }
  void save_mask(const at::Tensor& y, const at::Tensor& mask) { relu_ = MaskSaved(y, mask); }
  // Where eager keeps the activation's result, a write to it has to be noticed.
  void watch(const at::Tensor& y) { result_identity_ = Identity(y); }

  // With frozen statistics only the weight's gradient reads the input, and an activation's.
  bool keeps_input(const BatchNormArgs& args) const {
    return args.training || should_compute_output(1) || (args.activation && !args.relu());
  }

 protected:
  variable_list backward(variable_list& grads) override {
    const auto weight = weight_.unpack();
    const auto running_mean = running_mean_.unpack(), running_var = running_var_.unpack();
    input_identity_.check_unmodified("fxpass::batch_norm");
    result_identity_.check_unmodified("fxpass::batch_norm");
    if (relu_) grads[0] = relu_->select(std::move(grads[0]), "fxpass::batch_norm_relu");
    const bool need_weight = task_should_compute_output(1);
    const auto x = training_ || need_weight || activation_ ? input_.unpack("fxpass::batch_norm")
                                                           : input_shape_.tensor();
    if (activation_) {
      grads[0] = normalize::activation_backward(std::move(grads[0]), x, *vectors_, *activation_);
    }
    return gradients(
        std::move(grads[0]), x,
        {weight, running_mean, running_var, mean_.unpack(), invstd_.unpack(), training_, eps_},
        {task_should_compute_output(0), need_weight, task_should_compute_output(2)});
  }

  void release() override {
    input_.reset();
    if (relu_) relu_->reset();
    vectors_.reset();
    for (auto* saved : {&weight_, &running_mean_, &running_var_, &mean_, &invstd_}) {
      saved->reset_data();
    }
  }

 private:
  Kept input_;
  Identity input_identity_, result_identity_;
  ShapeOnly input_shape_;
  torch::autograd::SavedVariable weight_, running_mean_, running_var_, mean_, invstd_;
  std::optional<MaskSaved> relu_;
  std::optional<BoundActivation> activation_;  // other than relu
  std::optional<normalize::Vectors> vectors_;
  bool training_ = false;
  double eps_ = 0;
};

using Result = std::tuple<at::Tensor, SavedPtr>;

// Whether a vector of a value a channel is what it should be, or absent.
bool fits(const at::Tensor& t, const at::Tensor& x) {
  return !t.defined() || (codec::is_plain(t) && t.is_contiguous() && t.dim() == 1 &&
                          t.numel() == x.size(1) && !has_tangent(t));
}

// The dtypes that ATen takes: one for all, or fp32 vectors for an input of half precision (autocast
// leaves them so).
bool dtypes_fit(const at::Tensor& x, const BatchNormArgs& a) {
  const auto dtype = x.scalar_type();
  const auto all = [&](at::ScalarType wanted) {
    const auto is = [&](const at::Tensor& t) { return !t.defined() || t.scalar_type() == wanted; };
    return is(a.weight) && is(a.bias) && is(a.running_mean) && is(a.running_var);
  };
  return at::isFloatingType(dtype) &&
         (all(dtype) || (at::isReducedFloatingType(dtype) && all(at::kFloat)));
}

// Whether ATen's contiguous kernels run, and our node adds something to them.
bool is_ours(const at::Tensor& x, const BatchNormArgs& a) {
  return torch::autograd::compute_requires_grad(x, a.weight, a.bias) && codec::is_flat(x) &&
         dtypes_fit(x, a) && x.dim() >= 2 && x.numel() > 0 && has_canonical_strides(x) &&
         !has_tangent(x) && fits(a.weight, x) && fits(a.bias, x) && fits(a.running_mean, x) &&
         fits(a.running_var, x) &&
         (a.training || (a.running_mean.defined() && a.running_var.defined()));
}

at::Tensor copy_of(const at::Tensor& t) { return t.defined() ? t.detach().clone() : t; }

// A batch norm done: its output, relu of it, or both in one pass over memory.
struct Normalized {
  at::Tensor y, mean, invstd, mask;  // mask: of the ReLU
  normalize::Vectors vectors;
};

normalize::Vectors vectors_of(const BatchNormArgs& a, const at::Tensor& mean,
                              const at::Tensor& invstd) {
  return {a.training ? mean : copy_of(a.running_mean),
          a.training ? invstd : copy_of(a.running_var),
          copy_of(a.weight),
          copy_of(a.bias),
          a.training,
          a.eps};
}

// With our own kernels, if they are proven for all of it.
std::optional<Normalized> by_kernels(const at::Tensor& x, const BatchNormArgs& a) {
  const auto layout = normalize::layout_of(x);
  if (!layout) return {};
  std::optional<normalize::Statistics> statistics;
  if (a.training) {
    statistics =
        normalize::statistics(x, *layout, a.running_mean, a.running_var, a.momentum, a.eps);
    if (!statistics) return {};
  } else {
    // What ATen returns in evaluation: nothing.
    statistics = {at::empty({0}, x.options()), at::empty({0}, x.options())};
  }
  auto vectors = vectors_of(a, statistics->mean, statistics->invstd);
  at::Tensor y, mask;
  const auto terms = normalize::terms(vectors, *layout, x.scalar_type());
  if (a.relu() && terms && kernels_relu_as_aten(x.scalar_type())) {
    y = at::empty_like(x);
    mask = codec::new_words(x, kernels::words_for(x.numel()));
    normalize::apply_relu(*terms, *layout, x, y, mask);
  } else {
    y = normalize::output_again(x, vectors, a.relu() ? std::nullopt : a.activation);
    if (a.relu()) mask = relu_with_mask(y, y).mask;
  }
  return Normalized{std::move(y), statistics->mean, statistics->invstd, std::move(mask),
                    std::move(vectors)};
}

Normalized by_aten(const at::Tensor& x, const BatchNormArgs& a) {
  Normalized out;
  std::tie(out.y, out.mean, out.invstd) = at::native_batch_norm(
      x, a.weight, a.bias, a.running_mean, a.running_var, a.training, a.momentum, a.eps);
  if (a.relu()) {
    out.mask = relu_with_mask(out.y, out.y).mask;
  } else if (a.activation && a.activation->op->forward_ != nullptr) {
    a.activation->op->forward_(out.y, a.activation->args);
  } else if (a.activation) {
    out.y = a.activation->op->forward(out.y, a.activation->args);
  }
  out.vectors = vectors_of(a, out.mean, out.invstd);
  return out;
}

// aten::batch_norm and its graph.
Result normalize_and_record(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                            const BatchNormArgs& a) {
  if (!is_ours(x, a)) {
    auto y = at::batch_norm(x, a.weight, a.bias, a.running_mean, a.running_var, a.training,
                            a.momentum, a.eps, /*cudnn_enabled=*/true);
    swap::batch_norm_input_by_handle(y, x, handle);
    if (!a.activation) return {std::move(y), c10::make_intrusive<Saved>()};
    // Out of place ATen may choose other strides.
    if (a.relu()) return a.inplace ? fxpass::relu_(y) : fxpass::relu(y);
    if (a.inplace) {
      a.activation->op->forward_(y, a.activation->args);
    } else {
      y = a.activation->op->forward(y, a.activation->args);
    }
    return {std::move(y), c10::make_intrusive<Saved>()};
  }
  const auto node = make_node<BatchNormNode>(x, a.weight, a.bias);
  Normalized done;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    auto fast = by_kernels(x, a);
    done = fast ? std::move(*fast) : by_aten(x, a);
  }
  const auto& y = done.y;
  torch::autograd::set_history(y, node);
  node->save(x, handle, a, done.mean, done.invstd, done.vectors);
  if (a.relu()) node->save_mask(y, done.mask);
  if (a.activation && a.activation->op->keeps_result) node->watch(y);
  // Without the input at hand anyway, the output itself or a bitmap of it is the smaller one.
  SavedPtr saved;
  if (node->keeps_input(a)) {
    saved = c10::make_intrusive<AffineSaved>(y, x, handle, std::move(done.vectors), a.activation);
  } else if (a.relu()) {
    saved = c10::make_intrusive<BitmapSaved>(y);
  } else {
    saved = c10::make_intrusive<Saved>();
  }
  return {y, std::move(saved)};
}

// torch.nn.BatchNorm{dims}d._check_input_dim; dims 0 is the functional form, which looks at none.
void check_dims(const at::Tensor& x, std::int64_t dims) {
  if (dims == 0) return;
  const bool fits = x.dim() == dims + 2 || (dims == 1 && x.dim() == 2);
  TORCH_CHECK_VALUE(fits, "expected ",
                    dims == 1   ? "2D or 3D"
                    : dims == 2 ? "4D"
                                : "5D",
                    " input (got ", x.dim(), "D input)");
}

// torch.nn.functional._verify_batch_size.
void check_batch(const at::Tensor& x) {
  if (x.dim() < 2) return;
  auto values = x.size(0);
  for (std::int64_t d = 2; d < x.dim(); ++d) values *= x.size(d);
  TORCH_CHECK_VALUE(values != 1,
                    "Expected more than 1 value per channel when training, got input size "
                    "torch.Size(",
                    x.sizes(), ")");
}

Result batch_norm(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                  const OptionalTensor& weight, const OptionalTensor& bias,
                  const OptionalTensor& running_mean, const OptionalTensor& running_var,
                  const OptionalTensor& num_batches_tracked, bool training,
                  std::optional<double> momentum, double eps, std::int64_t dims,
                  std::optional<c10::string_view> activation, at::ArrayRef<double> arguments,
                  bool inplace) {
  std::optional<BoundActivation> bound;
  if (activation) {
    bound = {&activation_named(*activation, arguments.size()), arguments.vec()};
    TORCH_CHECK_VALUE(!inplace || bound->op->forward_ != nullptr, "fxpass: activation '",
                      *activation, "' has no in-place form here");
  }
  check_dims(x, dims);
  if (num_batches_tracked.has_value()) {
    num_batches_tracked->add_(1);
    if (!momentum.has_value()) momentum = 1.0 / num_batches_tracked->item<double>();
  }
  if (training) check_batch(x);
  const auto tensor = [](const OptionalTensor& t) { return t.value_or(at::Tensor()); };
  return normalize_and_record(
      x, handle,
      {tensor(weight), tensor(bias), tensor(running_mean), tensor(running_var), training,
       momentum.value_or(0.0), eps, std::move(bound), inplace});
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(
      "batch_norm(Tensor x, __torch__.torch.classes.fxpass.Saved? saved, Tensor? weight, "
      "Tensor? bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
      "Tensor(c!)? num_batches_tracked, bool training, float? momentum, float eps, int dims=0, "
      "str? activation=None, float[] arguments=[], bool inplace=False) "
      "-> (Tensor, __torch__.torch.classes.fxpass.Saved)");
}

FXPASS_REGISTER("batch_norm", batch_norm)

}  // namespace
}  // namespace fxpass
