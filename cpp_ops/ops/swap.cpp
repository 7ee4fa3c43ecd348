#include "ops/swap.h"

#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>

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

class HandleHooks final : public SavedVariableHooks {
 public:
  bool claim(const at::Tensor& value, const std::optional<SavedPtr>& handle) {
    return kept_.keep_packed(value, handle);
  }
  void call_pack_hook(const at::Tensor&) override {}
  at::Tensor call_unpack_hook() override { return kept_.unpack("fxpass::linear"); }

 private:
  Kept kept_;
};

// The nearest node of type N on the path of first inputs that an op has just recorded: composite
// ops put views before and after their main node.
template <typename N>
N* find(const at::Tensor& out) {
  constexpr int kMostViews = 3;
  Node* node = out.grad_fn().get();
  for (int step = 0; node != nullptr && step <= kMostViews; ++step) {
    if (auto* found = dynamic_cast<N*>(node)) return found;
    node = node->num_outputs() > 0 ? node->next_edge(0).function.get() : nullptr;
  }
  return nullptr;
}

bool is_free(const SavedVariable& saved) {
  const auto raw = saved.get_raw_data();
  return raw.has_value() && raw->defined();
}

void shape_only(SavedVariable& saved) {
  if (is_free(saved)) saved.register_hooks(std::make_unique<ShapeHooks>());
}

template <typename... Nodes>
void input_by_shape(const at::Tensor& out) {
  const auto one = [&](auto* node) {
    if (node == nullptr) return false;
    shape_only(node->self_);
    return true;
  };
  (void)(one(find<Nodes>(out)) || ...);
}

template <typename N>
bool by_codes(const at::Tensor& out, const Windows& windows) {
  auto* node = find<N>(out);
  if (node == nullptr) return false;
  shape_only(node->self_);
  if (is_free(node->result1_)) {
    node->result1_.register_hooks(std::make_unique<CodeHooks>(windows));
  }
  return true;
}

void by_handle(SavedVariable& saved, const std::optional<SavedPtr>& handle) {
  if (!is_free(saved)) return;
  auto hooks = std::make_unique<HandleHooks>();
  if (hooks->claim(*saved.get_raw_data(), handle)) saved.register_hooks(std::move(hooks));
}

}  // namespace

void avg_pool_input_by_shape(const at::Tensor& out) {
  input_by_shape<gen::AvgPool2DBackward0, gen::AvgPool3DBackward0, gen::AdaptiveAvgPool2DBackward0,
                 gen::AdaptiveAvgPool3DBackward0>(out);
}

void pad_input_by_shape(const at::Tensor& out) {
  input_by_shape<gen::ReflectionPad1DBackward0, gen::ReflectionPad2DBackward0,
                 gen::ReflectionPad3DBackward0, gen::ReplicationPad1DBackward0,
                 gen::ReplicationPad2DBackward0, gen::ReplicationPad3DBackward0>(out);
}

void max_pool_by_codes(const at::Tensor& out, const Windows& windows) {
  (void)(by_codes<gen::MaxPool2DWithIndicesBackward0>(out, windows) ||
         by_codes<gen::MaxPool3DWithIndicesBackward0>(out, windows) ||
         by_codes<gen::AdaptiveMaxPool2DBackward0>(out, windows) ||
         by_codes<gen::AdaptiveMaxPool3DBackward0>(out, windows));
}

void linear_input_by_handle(const at::Tensor& out, const std::optional<SavedPtr>& handle) {
  if (auto* node = find<gen::AddmmBackward0>(out)) {
    by_handle(node->mat1_, handle);
  } else if (auto* node = find<gen::MmBackward0>(out)) {
    by_handle(node->self_, handle);
  }
}

}  // namespace fxpass::swap
