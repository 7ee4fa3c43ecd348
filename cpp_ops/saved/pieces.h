// The mask recipe for an activation in linear pieces (hardtanh, leaky ReLU, ...): of its input one
// bit an element, on which piece it lies, which is all that its backward reads.
// Source: aten::hardtanh_backward and its like, which compare the input with bounds.
#pragma once

#include <torch/csrc/autograd/saved_variable.h>

#include "saved/activations.h"
#include "saved/saved.h"

namespace fxpass {

class PieceMask {
 public:
  // Takes x's bits. False, and nothing is kept, where they are not all that ATen's backward reads:
  // it reads more of every x, or this one holds a NaN, which ATen's vectors and its scalar
  // remainders take for different things.
  bool keep(const at::Tensor& x, const BoundActivation& activation);
  // Whether keep() has been told to.
  bool is_kept() const { return kept_; }
  // The gradient of x, to the bits of the activation's backward; written over `grad` if that is
  // ours alone.
  at::Tensor backward(at::Tensor grad, const BoundActivation& activation) const;
  void reset() { mask_.reset_data(); }

 private:
  at::Tensor mask() const;

  torch::autograd::SavedVariable mask_;
  Geometry geometry_;
  at::ScalarType dtype_ = at::kFloat;
  bool kept_ = false;
  bool canonical_ = false;  // x's strides
  // Bits mark what backward takes for something else than a zero: whether the gradient passes
  // there, and the value of one such element.
  bool marked_pass_ = false;
  double marked_ = 0;
};

}  // namespace fxpass
