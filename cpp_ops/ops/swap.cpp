#include "ops/swap.h"

#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>

#include "saved/codec.h"
#include "saved/shape_only.h"

namespace fxpass::swap {
namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::SavedVariableHooks;
namespace gen = torch::autograd::generated;

class ShapeHooks final : public SavedVariableHooks {
 public:
  void call_pack_hook(const at::Tensor& tensor) override {
    identity_ = Identity(tensor);
    shape_ = ShapeOnly(tensor);
  }
  at::Tensor call_unpack_hook() override {
    identity_.check_unmodified("a pooling or padding op");
    return shape_.tensor();
  }

 private:
  Identity identity_;
  ShapeOnly shape_;
};

class CodeHooks final : public SavedVariableHooks {
 public:
  explicit CodeHooks(const Windows& windows) : windows_(windows) {}
  void call_pack_hook(const at::Tensor& indices) override {
    identity_ = Identity(indices);
    geometry_ = Geometry::of(indices);
    planes_ = SavedVariable(codes::from_indices(indices, windows_), /*is_output=*/false);
  }
  at::Tensor call_unpack_hook() override {
    identity_.check_unmodified("a max pool");
    return codes::to_indices(planes_.unpack(), windows_, geometry_.sizes, geometry_.strides);
  }

 private:
  Windows windows_;
  Identity identity_;
  Geometry geometry_;
  SavedVariable planes_;
};

// A tensor of zeros and one other value.
class NoiseHooks final : public SavedVariableHooks {
 public:
  // False: there are other values.
  bool pack(const at::Tensor& noise) {
    auto packed = codec::pack(noise);
    if (packed.values.numel() == 0) {
      value_ = at::zeros({}, noise.options());
    } else {
      value_ = packed.values[0].clone();
      if (!packed.values.eq(value_).all().item<bool>()) return false;
    }
    bits_ = SavedVariable(packed.bits, /*is_output=*/false);
    geometry_ = Geometry::of(noise);
    return true;
  }
  void call_pack_hook(const at::Tensor& noise) override { identity_ = Identity(noise); }
  at::Tensor call_unpack_hook() override {
    identity_.check_unmodified("a dropout");
    const auto bits = bits_.unpack();
    const auto set = codec::count(bits);
    auto noise = at::empty_strided(geometry_.sizes, geometry_.strides, value_.options());
    codec::unpack(bits, value_.expand({set}).contiguous(), noise);
    return noise;
  }

 private:
  Identity identity_;
  Geometry geometry_;
  at::Tensor value_;
  SavedVariable bits_;
};

class HandleHooks final : public SavedVariableHooks {
 public:
  explicit HandleHooks(const char* op) : op_(op) {}
  bool claim(const at::Tensor& value, const std::optional<SavedPtr>& handle) {
    return kept_.keep_packed(value, handle);
  }
  void call_pack_hook(const at::Tensor&) override {}
  at::Tensor call_unpack_hook() override { return kept_.unpack(op_); }

 private:
  const char* op_;
  Kept kept_;
};

// Calls edit(node) on the nearest node of one of these types on the path of first inputs from `out`
// back to `in`: composite ops put views before and after their main node. An op that recorded none
// of them (average pooling to one pixel is a mean) is left as it is, and so is whatever made `in`.
template <typename... Nodes, typename Edit>
void edit_nearest(const at::Tensor& out, const at::Tensor& in, const Edit& edit) {
  constexpr int kMostViews = 3;
  const auto* end =
      in.requires_grad() ? torch::autograd::impl::gradient_edge(in).function.get() : nullptr;
  Node* node = out.grad_fn().get();
  const auto is_edited = [&](auto* found) {
    if (found != nullptr) edit(*found);
    return found != nullptr;
  };
  for (int step = 0; node != nullptr && node != end && step <= kMostViews; ++step) {
    if ((is_edited(dynamic_cast<Nodes*>(node)) || ...)) return;
    node = node->num_outputs() > 0 ? node->next_edge(0).function.get() : nullptr;
  }
}

// Whether a saved tensor is one whose memory may be read here, and still ours to replace.
bool is_free(const SavedVariable& saved) {
  const auto raw = saved.get_raw_data();
  return raw.has_value() && raw->defined() && codec::is_plain(*raw);
}

void shape_only(SavedVariable& saved) {
  if (is_free(saved)) saved.register_hooks(std::make_unique<ShapeHooks>());
}

void by_handle(SavedVariable& saved, const std::optional<SavedPtr>& handle, const char* op) {
  if (!is_free(saved)) return;
  auto hooks = std::make_unique<HandleHooks>(op);
  if (hooks->claim(*saved.get_raw_data(), handle)) saved.register_hooks(std::move(hooks));
}

}  // namespace

void avg_pool_input_by_shape(const at::Tensor& out, const at::Tensor& in) {
  edit_nearest<gen::AvgPool2DBackward0, gen::AvgPool3DBackward0, gen::AdaptiveAvgPool2DBackward0,
               gen::AdaptiveAvgPool3DBackward0>(out, in,
                                                [](auto& node) { shape_only(node.self_); });
}

void pad_input_by_shape(const at::Tensor& out, const at::Tensor& in) {
  edit_nearest<gen::ReflectionPad1DBackward0, gen::ReflectionPad2DBackward0,
               gen::ReflectionPad3DBackward0, gen::ReplicationPad1DBackward0,
               gen::ReplicationPad2DBackward0, gen::ReplicationPad3DBackward0>(
      out, in, [](auto& node) { shape_only(node.self_); });
}

void max_pool_by_codes(const at::Tensor& out, const at::Tensor& in, const Windows& windows) {
  edit_nearest<gen::MaxPool2DWithIndicesBackward0, gen::MaxPool3DWithIndicesBackward0,
               gen::AdaptiveMaxPool2DBackward0, gen::AdaptiveMaxPool3DBackward0>(
      out, in, [&](auto& node) {
        shape_only(node.self_);
        if (is_free(node.result1_)) {
          node.result1_.register_hooks(std::make_unique<CodeHooks>(windows));
        }
      });
}

void linear_input_by_handle(const at::Tensor& out, const at::Tensor& in,
                            const std::optional<SavedPtr>& handle) {
  edit_nearest<gen::AddmmBackward0, gen::MmBackward0>(out, in, [&](auto& node) {
    if constexpr (std::is_same_v<decltype(node), gen::AddmmBackward0&>) {
      by_handle(node.mat1_, handle, "fxpass::linear");
    } else {
      by_handle(node.self_, handle, "fxpass::linear");
    }
  });
}

void batch_norm_input_by_handle(const at::Tensor& out, const at::Tensor& in,
                                const std::optional<SavedPtr>& handle) {
  edit_nearest<gen::NativeBatchNormBackward0>(
      out, in, [&](auto& node) { by_handle(node.input_, handle, "fxpass::batch_norm"); });
}

void mul_inputs_by_handle(const at::Tensor& out, const at::Tensor& a,
                          const std::optional<SavedPtr>& a_handle, const at::Tensor& b,
                          const std::optional<SavedPtr>& b_handle) {
  edit_nearest<gen::MulBackward0>(out, a.requires_grad() ? a : b, [&](auto& node) {
    by_handle(node.self_, a_handle, "fxpass::mul");
    by_handle(node.other_, b_handle, "fxpass::mul");
  });
}

void input_by_handle(const at::Tensor& out, const at::Tensor& in,
                     const std::optional<SavedPtr>& handle) {
  edit_nearest<gen::NativeLayerNormBackward0, gen::NativeGroupNormBackward0,
               gen::NativeBatchNormBackward0, gen::PreluKernelBackward0, gen::GluBackward0>(
      out, in, [&](auto& node) {
        if constexpr (requires { node.input_; }) {
          by_handle(node.input_, handle, "fxpass::keep_input");
        } else {
          by_handle(node.self_, handle, "fxpass::keep_input");
        }
      });
}

void result_by_handle(const at::Tensor& out, const at::Tensor& in,
                      const std::optional<SavedPtr>& handle) {
  edit_nearest<gen::SoftmaxBackward0, gen::LogSoftmaxBackward0, gen::SigmoidBackward0,
               gen::TanhBackward0>(
      out, in, [&](auto& node) { by_handle(node.result_, handle, "fxpass::keep_result"); });
}

void mul_noise_by_bits(const at::Tensor& out) {
  // alpha_dropout adds to the product; whatever else the path leads to holds no such noise.
  constexpr std::int64_t kWorthwhile = 256;
  Node* node = out.grad_fn().get();
  for (int step = 0; node != nullptr && step < 2; ++step) {
    if (auto* mul = dynamic_cast<gen::MulBackward0*>(node)) {
      if (!is_free(mul->other_)) return;
      const auto noise = *mul->other_.get_raw_data();
      auto hooks = std::make_unique<NoiseHooks>();
      if (noise.numel() >= kWorthwhile && codec::is_flat(noise) && !noise.requires_grad() &&
          hooks->pack(noise)) {
        mul->other_.register_hooks(std::move(hooks));
      }
      return;
    }
    node = node->num_outputs() > 0 ? node->next_edge(0).function.get() : nullptr;
  }
}

}  // namespace fxpass::swap
