// The elementwise activations that save their input, by name: what eager computes, forward and
// backward. A name that ends in "_" is an op which, in place, saves its result instead: backward is
// then another formula.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fxpass {

// The op's arguments besides its input, in the order of its schema.
using ActivationArgs = std::vector<double>;

// The elements between two bounds: without them the gradient passes there as it does not elsewhere;
// `closed`: with them, and it passes elsewhere as it does not there.
struct Interval {
  double low, high;
  bool closed;
  bool rounded = false;  // ATen rounds the bounds to x's dtype, and not only to float
};

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

  // Of x, backward reads only whether it lies in this interval (a NaN aside, which ATen's vectors
  // and its scalar remainders take for different things); null: it reads more.
  Interval (*interval)(const ActivationArgs&) = nullptr;
  // On one side of its bounds the gradient passes as it is, on the other it is zero.
  bool selects = false;
  // Autograd keeps the result, so a write to that is an error.
  bool keeps_result = false;
};

// An activation with its arguments.
struct BoundActivation {
  const Activation* op;
  ActivationArgs args;
};

// Raises for a name that is not among them, or another number of arguments.
const Activation& activation_named(c10::string_view name, std::size_t args);

}  // namespace fxpass
