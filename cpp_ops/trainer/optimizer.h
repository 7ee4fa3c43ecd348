// Optimizers that do what torch.optim's single-tensor path of torch 2.13 does, ATen call by ATen
// call, so that the parameters are the same to the last bit. (libtorch's torch::optim computes
// otherwise.)
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "trainer/safetensors.h"

namespace fxpass::trainer {

// What an optimizer remembers of a parameter, under torch.optim's names.
using State = std::map<std::string, at::Tensor>;

// How one parameter is updated.
class Rule {
 public:
  virtual ~Rule() = default;
  // The gradient's memory is the rule's from here on: to compute in, or to keep.
  virtual void update(at::Tensor& parameter, at::Tensor gradient, State& state) const = 0;
};

struct SgdOptions {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};
std::unique_ptr<Rule> make_sgd(const SgdOptions& options);

struct AdamOptions {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled_weight_decay;  // AdamW
};
std::unique_ptr<Rule> make_adam(const AdamOptions& options);

class Optimizer {
 public:
  // Updates those of the parameters that need a gradient.
  Optimizer(std::unique_ptr<Rule> rule, const NamedTensors& parameters);

  // From now on backward updates every parameter once its gradient is complete, and frees the
  // gradient: never are all of them alive at once. The same bits, as no rule looks at two
  // parameters.
  void update_in_backward();
  // Updates every parameter that has a gradient, and frees the gradients.
  void step();

  // By parameter.
  const std::map<std::string, State>& states() const { return states_; }
  void set_states(std::map<std::string, State> states);

 private:
  std::unique_ptr<Rule> rule_;
  NamedTensors parameters_;
  std::map<std::string, State> states_;
};

}  // namespace fxpass::trainer
