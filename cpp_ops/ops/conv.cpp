// conv1d/2d/3d and conv_transpose1d/2d/3d: the input is kept by its handle, and backward runs in
// two steps, {weight, bias} and then {input}, so that the restored input is free before the input's
// gradient is allocated.
// Source: aten::conv{1,2,3}d, aten::conv_transpose{1,2,3}d and aten::convolution_backward; the two
// calls give the bits of one.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/autocast.h"
#include "ops/node.h"
#include "ops/pad.h"
#include "ops/schema.h"
#include "saved/codec.h"
#include "saved/shape_only.h"

namespace fxpass {
namespace {

struct ConvArgs {
  std::vector<std::int64_t> stride, padding, dilation;
  std::int64_t groups;
  bool transposed = false;
  std::vector<std::int64_t> output_padding;  // of a transposed one

  std::vector<std::int64_t> all_output_padding() const {
    return transposed ? output_padding : std::vector<std::int64_t>(stride.size(), 0);
  }
};

class ConvNode : public FxNode {
 public:
  ConvNode() : ConvNode("conv", "fxpass::conv") {}

  void save(const at::Tensor& x, const std::optional<SavedPtr>& handle, const at::Tensor& weight,
            const std::optional<at::Tensor>& bias, ConvArgs args) {
    input_identity_ = Identity(x);
    input_shape_ = ShapeOnly(x);
    if (should_compute_output(1)) input_.keep(x, handle);
    weight_ = torch::autograd::SavedVariable(weight, /*is_output=*/false);
    if (bias.has_value() && bias->defined()) bias_sizes_ = bias->sizes().vec();
    args_ = std::move(args);
  }

 protected:
  ConvNode(const char* op, const char* name) : FxNode(op), name_(name) {}

  variable_list backward(variable_list& grads) override {
    const auto weight = weight_.unpack();
    input_identity_.check_unmodified(name_);
    const auto grad = std::move(grads[0]);
    const bool need_input = task_should_compute_output(0);
    const bool need_weight = task_should_compute_output(1);
    const bool need_bias = bias_sizes_.has_value() && task_should_compute_output(2);
    variable_list out(3);
    if (need_weight || need_bias) {
      // Only the weight's gradient reads the input.
      const auto input = need_weight ? input_.unpack(name_) : input_shape_.tensor();
      auto result = call(grad, input, weight, {false, need_weight, need_bias});
      out[1] = std::move(std::get<1>(result));
      out[2] = std::move(std::get<2>(result));
    }
    if (need_input) {
      release_input_early();
      out[0] = std::get<0>(call(grad, input_shape_.tensor(), weight, {true, false, false}));
    }
    return out;
  }

  void release() override {
    input_.reset();
    weight_.reset_data();
  }

 private:
  std::tuple<at::Tensor, at::Tensor, at::Tensor> call(const at::Tensor& grad,
                                                      const at::Tensor& input,
                                                      const at::Tensor& weight,
                                                      std::array<bool, 3> mask) const {
    const auto bias_sizes =
        bias_sizes_.has_value() ? at::OptionalIntArrayRef(*bias_sizes_) : at::OptionalIntArrayRef();
    return at::convolution_backward(grad, input, weight, bias_sizes, args_.stride, args_.padding,
                                    args_.dilation, args_.transposed, args_.all_output_padding(),
                                    args_.groups, mask);
  }

  // The engine would release it after this node; the packed payload is of no more use already.
  void release_input_early() {
    if (!torch::autograd::get_current_graph_task_keep_graph()) input_.reset();
  }

  const char* name_;  // in errors
  Kept input_;
  Identity input_identity_;
  ShapeOnly input_shape_;
  torch::autograd::SavedVariable weight_;
  std::optional<std::vector<std::int64_t>> bias_sizes_;
  ConvArgs args_;
};

class ConvTransposeNode final : public ConvNode {
 public:
  ConvTransposeNode() : ConvNode("conv_transpose", "fxpass::conv_transpose") {}
};

// aten::convolution on a batched input, recorded with our node.
at::Tensor convolution(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                       const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       ConvArgs args) {
  c10::intrusive_ptr<ConvNode> node;
  if (args.transposed) {
    node = make_node<ConvTransposeNode>(x, weight, bias);
  } else {
    node = make_node<ConvNode>(x, weight, bias);
  }
  at::Tensor y;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    y = at::convolution(x, weight, bias, args.stride, args.padding, args.dilation, args.transposed,
                        args.all_output_padding(), args.groups);
  }
  torch::autograd::set_history(y, node);
  node->save(x, handle, weight, bias, std::move(args));
  return y;
}

// One dtype, as conv1d/2d/3d demand (aten::convolution itself may take another for the bias), and
// no tangents of forward-mode AD.
bool are_alike(const at::Tensor& x, const at::Tensor& weight,
               const std::optional<at::Tensor>& bias) {
  const bool has_bias = bias.has_value() && bias->defined();
  return weight.scalar_type() == x.scalar_type() &&
         (!has_bias || bias->scalar_type() == x.scalar_type()) && !has_tangent(x) &&
         !has_tangent(weight) && !(has_bias && has_tangent(*bias));
}

// Where our node adds nothing, or the arguments are not what it expects, eager's own op runs (and
// raises eager's own errors).
template <int N>
bool is_ours(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  return torch::autograd::compute_requires_grad(x, weight, bias) && codec::is_plain(x) &&
         codec::is_plain(weight) && at::isFloatingType(x.scalar_type()) && weight.dim() == N + 2 &&
         (x.dim() == N + 2 || x.dim() == N + 1) && are_alike(x, weight, bias);
}

template <int N>
std::vector<std::int64_t> expand(at::IntArrayRef list) {
  return list.size() == 1 ? std::vector<std::int64_t>(N, list[0]) : list.vec();
}

// Runs `batched(x, handle)` on a batch of one if x has no batch dimension, as aten::conv does.
template <int N, typename Conv>
at::Tensor with_batch(const at::Tensor& x, const Conv& batched) {
  return x.dim() == N + 2 ? batched(x) : batched(x.unsqueeze(0)).squeeze(0);
}

template <int N, auto eager>
at::Tensor conv(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                std::int64_t groups) {
  if (!is_ours<N>(x, weight, bias)) {
    return eager(x, weight, bias, stride, padding, dilation, groups);
  }
  return with_batch<N>(x, [&](const at::Tensor& batch) {
    return convolution(batch, handle, weight, bias,
                       {expand<N>(stride), expand<N>(padding), expand<N>(dilation), groups});
  });
}

template <int N, auto eager>
at::Tensor conv_transpose(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                          const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                          at::IntArrayRef stride, at::IntArrayRef padding,
                          at::IntArrayRef output_padding, std::int64_t groups,
                          at::IntArrayRef dilation) {
  if (!is_ours<N>(x, weight, bias)) {
    return eager(x, weight, bias, stride, padding, output_padding, groups, dilation);
  }
  return with_batch<N>(x, [&](const at::Tensor& batch) {
    return convolution(batch, handle, weight, bias,
                       {expand<N>(stride), expand<N>(padding), expand<N>(dilation), groups,
                        /*transposed=*/true, expand<N>(output_padding)});
  });
}

// padding = "same" or "valid". An uneven "same" pads the input first, by one more at the end.
template <int N, auto eager>
at::Tensor conv_padding(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                        const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                        at::IntArrayRef stride, c10::string_view padding, at::IntArrayRef dilation,
                        std::int64_t groups) {
  const auto strides = expand<N>(stride), dilations = expand<N>(dilation);
  const bool same = padding == "same";
  const bool strided = std::any_of(strides.begin(), strides.end(), [](auto s) { return s != 1; });
  const bool lists_fit = strides.size() == N && dilations.size() == N;
  if (!is_ours<N>(x, weight, bias) || (!same && padding != "valid") || (same && strided) ||
      !lists_fit) {
    return eager(x, weight, bias, stride, padding, dilation, groups);
  }
  std::vector<std::int64_t> before(N, 0), extra(2 * N, 0);
  bool uneven = false;
  for (int d = 0; same && d < N; ++d) {
    const auto total = dilations[d] * (weight.size(d + 2) - 1);
    before[d] = total / 2;
    extra[2 * (N - 1 - d) + 1] = total % 2;
    uneven |= total % 2 != 0;
  }
  return with_batch<N>(x, [&](const at::Tensor& batch) {
    if (!uneven) {
      return convolution(batch, handle, weight, bias, {strides, before, dilations, groups});
    }
    auto [padded, padded_handle] = pad(batch, handle, extra, "constant", 0.0);
    return convolution(padded, padded_handle, weight, bias, {strides, before, dilations, groups});
  });
}

// The eager ops as plain functions, one signature for all dimensions.
#define FXPASS_EAGER_CONV(NAME)                                                            \
  at::Tensor eager_##NAME(const at::Tensor& x, const at::Tensor& w,                        \
                          const std::optional<at::Tensor>& b, at::IntArrayRef s,           \
                          at::IntArrayRef p, at::IntArrayRef d, std::int64_t g) {          \
    return at::NAME(x, w, b, s, p, d, g);                                                  \
  }                                                                                        \
  at::Tensor eager_padding_##NAME(const at::Tensor& x, const at::Tensor& w,                \
                                  const std::optional<at::Tensor>& b, at::IntArrayRef s,   \
                                  c10::string_view p, at::IntArrayRef d, std::int64_t g) { \
    return at::NAME(x, w, b, s, p, d, g);                                                  \
  }

FXPASS_EAGER_CONV(conv1d)
FXPASS_EAGER_CONV(conv2d)
FXPASS_EAGER_CONV(conv3d)

#define FXPASS_EAGER_CONV_TRANSPOSE(NAME)                                        \
  at::Tensor eager_##NAME(const at::Tensor& x, const at::Tensor& w,              \
                          const std::optional<at::Tensor>& b, at::IntArrayRef s, \
                          at::IntArrayRef p, at::IntArrayRef o, std::int64_t g,  \
                          at::IntArrayRef d) {                                   \
    return at::NAME(x, w, b, s, p, o, g, d);                                     \
  }

FXPASS_EAGER_CONV_TRANSPOSE(conv_transpose1d)
FXPASS_EAGER_CONV_TRANSPOSE(conv_transpose2d)
FXPASS_EAGER_CONV_TRANSPOSE(conv_transpose3d)

#define FXPASS_CONV(NAME, N)                                                                       \
  TORCH_LIBRARY_FRAGMENT(fxpass, m) {                                                              \
    m.def(fxpass::opaque(#NAME                                                                     \
                         "(Tensor x, __torch__.torch.classes.fxpass.Saved? saved, Tensor weight, " \
                         "Tensor? bias=None, int[" #N "] stride=1, int[" #N "] padding=0, int[" #N \
                         "] dilation=1, int groups=1) -> Tensor"));                                \
    m.def(fxpass::opaque(                                                                          \
        #NAME                                                                                      \
        ".padding(Tensor x, __torch__.torch.classes.fxpass.Saved? saved, Tensor weight, "          \
        "Tensor? bias=None, int[" #N "] stride=1, str padding='valid', int[" #N                    \
        "] dilation=1, int groups=1) -> Tensor"));                                                 \
  }                                                                                                \
  FXPASS_REGISTER(#NAME, (conv<N, eager_##NAME>))                                                  \
  FXPASS_REGISTER(#NAME ".padding", (conv_padding<N, eager_padding_##NAME>))                       \
  FXPASS_AUTOCAST_LOWER_PRECISION(#NAME, (conv<N, eager_##NAME>))                                  \
  FXPASS_AUTOCAST_LOWER_PRECISION(#NAME ".padding", (conv_padding<N, eager_padding_##NAME>))

FXPASS_CONV(conv1d, 1)
FXPASS_CONV(conv2d, 2)
FXPASS_CONV(conv3d, 3)

#define FXPASS_CONV_TRANSPOSE(NAME, N)                                                             \
  TORCH_LIBRARY_FRAGMENT(fxpass, m) {                                                              \
    m.def(fxpass::opaque(#NAME                                                                     \
                         "(Tensor x, __torch__.torch.classes.fxpass.Saved? saved, Tensor weight, " \
                         "Tensor? bias=None, int[" #N "] stride=1, int[" #N "] padding=0, int[" #N \
                         "] output_padding=0, int groups=1, int[" #N "] dilation=1) -> Tensor"));  \
  }                                                                                                \
  FXPASS_REGISTER(#NAME, (conv_transpose<N, eager_##NAME>))                                        \
  FXPASS_AUTOCAST_LOWER_PRECISION(#NAME, (conv_transpose<N, eager_##NAME>))

FXPASS_CONV_TRANSPOSE(conv_transpose1d, 1)
FXPASS_CONV_TRANSPOSE(conv_transpose2d, 2)
FXPASS_CONV_TRANSPOSE(conv_transpose3d, 3)

}  // namespace
}  // namespace fxpass
