// The mask recipe: of a ReLU's result one bit an element, `!(y <= 0)`, which is all that its
// backward reads.
// Source: aten::threshold_backward(grad, result, 0), a selection by mask.
#pragma once

#include <torch/csrc/autograd/saved_variable.h>

#include "saved/saved.h"

namespace fxpass {

// fp16 and bf16: ATen's vectorised code rewrites some NaN payloads on the way through float, its
// scalar tail does not. There ATen itself computes, and the kernels make what it reads.
bool kernels_select_as_aten(at::ScalarType dtype);

// Whether the kernels' relu is ATen's, which they were written after as x86-64 computes it: a
// selection. On Arm ATen's vectors take the larger of the two, which makes +0.0 of -0.0 and a quiet
// NaN of a signalling one, and its scalar tail selects. There, too, ATen itself computes.
bool kernels_relu_as_aten(at::ScalarType dtype);

struct ReluMask {
  at::Tensor mask;     // int64 words
  bool negative_zero;  // the result holds -0.0, which the mask does not mark but a bitmap must
};

// Writes relu(x) to y (which may be x) and returns the mask. Both flat, of equal strides.
ReluMask relu_with_mask(const at::Tensor& x, const at::Tensor& y);
// The mask of a ReLU's result.
ReluMask mask_of_result(const at::Tensor& y);

// out = mask ? grad : +0.0, bit patterns untouched. Both flat, of equal strides; out may be grad.
void select_into(const at::Tensor& grad, const at::Tensor& mask, const at::Tensor& out);

// A tensor of two values: `value` where a bit of the mask is set, else zero. What a comparison with
// a bound tells of it is all that some backwards read of the tensor it stands for.
class StandIn {
 public:
  StandIn(at::Tensor mask, double value, at::ScalarType dtype);

  at::Tensor whole(const Geometry& geometry) const;
  // Its elements [begin, end), no more than kTile (see tiles.h), in the order of memory.
  at::Tensor tile(std::int64_t begin, std::int64_t end) const;

 private:
  at::Tensor mask_, value_;  // a tile of it
};

class MaskSaved {
 public:
  MaskSaved() = default;
  // `y`: the result; `mask`: its bits.
  MaskSaved(const at::Tensor& y, const at::Tensor& mask);

  // The gradient of the ReLU's input, written over `grad` where that is ours alone. Raises if y was
  // modified in place since; `op` names the consumer.
  at::Tensor select(at::Tensor grad, const char* op) const;
  void reset() { mask_.reset_data(); }

 private:
  torch::autograd::SavedVariable mask_;
  Identity result_;
  Geometry geometry_;
  at::ScalarType dtype_ = at::kFloat;
  bool canonical_ = false;
};

}  // namespace fxpass
