#include "ops/node.h"

namespace fxpass {

variable_list FxNode::apply(variable_list&& grads) {
  std::lock_guard<std::mutex> lock(mutex_);
  TORCH_CHECK(!at::GradMode::is_enabled(), "fxpass::", op_,
              ": double backward (create_graph=True) is not supported by the compiled graph. Run "
              "the forward pass under `with compiled.eager():` (a model of torch.compile's: `with "
              "torch.compiler.set_stance(\"force_eager\"):`), which builds PyTorch's own graph.");
  bool any = false;
  for (const auto& grad : grads) any |= grad.defined();
  if (!any) return variable_list(num_outputs());
  return backward(grads);
}

std::string FxNode::name() const { return std::string("fxpass::") + op_ + "_backward"; }

void FxNode::release_variables() {
  std::lock_guard<std::mutex> lock(mutex_);
  release();
}

}  // namespace fxpass
