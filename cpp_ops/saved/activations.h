// The elementwise activations that save their input, by name: what eager computes, forward and
// backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fxpass {

// The op's arguments besides its input, in the order of its schema.
using ActivationArgs = std::vector<double>;

struct Activation {
  const char* name;
  std::size_t args;  // how many it takes
  at::Tensor (*forward)(const at::Tensor& x, const ActivationArgs&);
  void (*forward_)(at::Tensor& x, const ActivationArgs&);  // in place; null: it has no such form
  at::Tensor (*backward)(const at::Tensor& grad, const at::Tensor& x, const ActivationArgs&);
  // The same into `grad`, where ATen writes there directly; null: it makes a copy.
  void (*backward_)(at::Tensor& grad, const at::Tensor& x, const ActivationArgs&);

  // Whether ATen's kernel looks at one element after the other, in vectors from the start of a
  // thread's range: then tiles of that range give the bits of the whole.
  bool by_element;
};

// An activation with its arguments.
struct BoundActivation {
  const Activation* op;
  ActivationArgs args;
};

// Raises for a name that is not among them, or another number of arguments.
const Activation& activation_named(c10::string_view name, std::size_t args);

}  // namespace fxpass
