#include "trainer/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <utility>

namespace fxpass::trainer {
namespace {

// The gradient, in memory that nobody else reads: autograd may have given it to two parameters, as
// views of one storage. `references`: how many there are to it if nobody does.
at::Tensor take_gradient(at::Tensor& parameter, std::size_t references) {
  at::Tensor gradient = std::exchange(parameter.mutable_grad(), {});
  const at::Storage& storage = gradient.storage();
  const bool is_alone = storage.use_count() <= references && storage.nbytes() == gradient.nbytes();
  return is_alone ? gradient : gradient.clone();
}

void update(const Rule& rule, at::Tensor parameter, State& state, std::size_t references) {
  const at::NoGradGuard no_grad;
  rule.update(parameter, take_gradient(parameter, references), state);
}

struct UpdateInBackward final : torch::autograd::PostAccumulateGradHook {
  UpdateInBackward(const Rule& of_rule, State& of_state) : rule(of_rule), state(of_state) {}
  // The node that calls it has a reference to the gradient of its own.
  void operator()(const at::Tensor& parameter) override { update(rule, parameter, state, 2); }

  const Rule& rule;
  State& state;
};

}  // namespace

Optimizer::Optimizer(std::unique_ptr<Rule> rule, const NamedTensors& parameters)
    : rule_(std::move(rule)) {
  for (const auto& [name, parameter] : parameters) {
    if (!parameter.requires_grad()) continue;
    parameters_.emplace_back(name, parameter);
    states_[name];
  }
}

void Optimizer::update_in_backward() {
  for (const auto& [name, parameter] : parameters_) {
    torch::autograd::impl::set_post_acc_grad_hooks(
        parameter, std::make_unique<UpdateInBackward>(*rule_, states_[name]));
  }
}

void Optimizer::step() {
  for (const auto& [name, parameter] : parameters_) {
    if (parameter.grad().defined()) update(*rule_, parameter, states_[name], 1);
  }
}

void Optimizer::set_states(std::map<std::string, State> states) {
  for (auto& [name, state] : states) states_.at(name) = std::move(state);  // which hooks refer to
}

}  // namespace fxpass::trainer
