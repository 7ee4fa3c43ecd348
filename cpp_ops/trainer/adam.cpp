// torch/optim/adam.py, _single_tensor_adam, without amsgrad, computed in the gradient's memory.
#include <ATen/ATen.h>

#include <cmath>

#include "trainer/optimizer.h"

namespace fxpass::trainer {
namespace {

class Adam final : public Rule {
 public:
  explicit Adam(const AdamOptions& options) : o_(options) {}

  void update(at::Tensor& parameter, at::Tensor change, State& state) const override {
    at::Tensor &step = state["step"], &mean = state["exp_avg"], &square = state["exp_avg_sq"];
    if (!step.defined()) {
      step = at::zeros({}, at::kFloat);
      mean = at::zeros_like(parameter, at::MemoryFormat::Preserve);
      square = at::zeros_like(parameter, at::MemoryFormat::Preserve);
    }
    step.add_(1);
    if (o_.weight_decay != 0) {
      if (o_.decoupled_weight_decay) {
        parameter.mul_(1 - o_.lr * o_.weight_decay);
      } else {
        change.add_(parameter, o_.weight_decay);
      }
    }
    mean.lerp_(change, 1 - o_.beta1);
    square.mul_(o_.beta2).addcmul_(change, change, 1 - o_.beta2);
    // Python's numbers: doubles, and ** is pow(), of which 0.5 need not be sqrt().
    const auto count = step.item<double>();
    const double correction1 = 1 - std::pow(o_.beta1, count);
    const double correction2 = 1 - std::pow(o_.beta2, count);
    const double step_size = o_.lr / correction1;
    at::sqrt_out(change, square).div_(std::pow(correction2, 0.5)).add_(o_.eps);
    parameter.addcdiv_(mean, change, -step_size);
  }

 private:
  AdamOptions o_;
};

}  // namespace

std::unique_ptr<Rule> make_adam(const AdamOptions& options) {
  return std::make_unique<Adam>(options);
}

}  // namespace fxpass::trainer
