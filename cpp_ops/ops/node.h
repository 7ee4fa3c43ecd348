// What the autograd nodes of all ops share.
//
// The nodes derive from torch::autograd::Node, as ATen's generated ones do, rather than from
// torch::autograd::Function: the engine then releases their payloads itself (release_variables), at
// the same moments as eager's, and nothing hides in a saved_data map.
#pragma once

#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/function.h>

#include <string>

#include "saved/kept.h"
#include "saved/tensors.h"

namespace fxpass {

using torch::autograd::variable_list;

class FxNode : public torch::autograd::Node {
 public:
  explicit FxNode(const char* op) : op_(op) {}

  // Raises under create_graph=True: the nodes have no derivative of their own.
  variable_list apply(variable_list&& grads) final;
  std::string name() const override;
  void release_variables() final;

 protected:
  const char* op() const { return op_; }
  // `grads` holds at least one defined gradient, and this node's own references to them: a gradient
  // may be written in place if nobody else holds it (see is_mine).
  virtual variable_list backward(variable_list& grads) = 0;
  virtual void release() = 0;

 private:
  const char* op_;
};

// Whether a tensor carries a tangent of forward-mode AD, of which these nodes know nothing: eager's
// own op must run.
inline bool has_tangent(const at::Tensor& tensor) { return tensor._fw_grad(/*level=*/0).defined(); }

// Makes a node with edges to `inputs`.
template <typename N, typename... Inputs>
c10::intrusive_ptr<N> make_node(const Inputs&... inputs) {
  auto node = c10::make_intrusive<N>();
  node->set_next_edges(torch::autograd::collect_next_edges(inputs...));
  return node;
}

// Registers one function for an op above and below autograd: the functions here look at the
// tensors they get, build a node where a gradient is needed, and otherwise call ATen.
#define FXPASS_REGISTER(NAME, FUNCTION)                               \
  TORCH_LIBRARY_IMPL(fxpass, Autograd, m) { m.impl(NAME, FUNCTION); } \
  TORCH_LIBRARY_IMPL(fxpass, CompositeExplicitAutograd, m) { m.impl(NAME, FUNCTION); }

}  // namespace fxpass
