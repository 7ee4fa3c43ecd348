// What is minimised, and what counts as right.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/dataset.h"

namespace fxpass::trainer {

enum class Loss : std::uint8_t {
  CrossEntropy,  // F.cross_entropy: int64 labels, the number of the class
  MeanSquares,   // F.mse_loss: labels of the output's type and sizes
};

// Raises unless these labels are of a type for this loss.
void check_labels(Loss loss, const Dataset& data);
// Raises unless the labels fit the model's output; `range` is that of the whole file's labels.
void check_output(Loss loss, const at::Tensor& output, const Dataset& data,
                  const LabelRange& range);
// The mean over the batch, as a scalar.
at::Tensor compute(Loss loss, const at::Tensor& output, const at::Tensor& labels);
// How many labels are those of the largest output.
std::int64_t count_right(const at::Tensor& output, const at::Tensor& labels);

}  // namespace fxpass::trainer
