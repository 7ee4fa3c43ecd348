// torch/optim/sgd.py, _single_tensor_sgd, computed in the gradient's memory.
#include <ATen/ATen.h>

#include "trainer/optimizer.h"

namespace fxpass::trainer {
namespace {

class Sgd final : public Rule {
 public:
  explicit Sgd(const SgdOptions& options) : o_(options) {}

  void update(at::Tensor& parameter, at::Tensor change, State& state) const override {
    if (o_.weight_decay != 0) change.add_(parameter, o_.weight_decay);
    if (o_.momentum != 0) {
      at::Tensor& buffer = state["momentum_buffer"];
      if (buffer.defined()) {
        buffer.mul_(o_.momentum).add_(change, 1 - o_.dampening);
      } else {
        buffer = o_.nesterov ? change.clone() : change;
      }
      change = o_.nesterov ? change.add_(buffer, o_.momentum) : buffer;
    }
    parameter.add_(change, -o_.lr);
  }

 private:
  SgdOptions o_;
};

}  // namespace

std::unique_ptr<Rule> make_sgd(const SgdOptions& options) { return std::make_unique<Sgd>(options); }

}  // namespace fxpass::trainer
