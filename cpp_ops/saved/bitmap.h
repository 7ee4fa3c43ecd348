// The bitmap recipe: one bit an element, and the elements whose bit pattern is not zero.
// Source: BitTrain (SEC'21), with the bit pattern instead of the value deciding, so that -0.0 and
// every NaN survive.
#pragma once

#include <torch/csrc/autograd/saved_variable.h>

#include "saved/saved.h"

namespace fxpass {

class BitmapSaved final : public Saved {
 public:
  // `mask`: bits that mark exactly the non-zero elements of `value` if the producer has them
  // already (they are then shared, not written again), else undefined.
  explicit BitmapSaved(const at::Tensor& value, at::Tensor mask = {});

  std::int64_t nbytes() const override;
  std::string recipe() const override { return "bitmap"; }

 protected:
  bool pack(const at::Tensor& base) override;
  at::Tensor restore() override;

 private:
  at::TensorOptions options_;
  at::Tensor mask_;
  std::int64_t nbytes_ = 0;
  torch::autograd::SavedVariable bits_, values_;
};

}  // namespace fxpass
