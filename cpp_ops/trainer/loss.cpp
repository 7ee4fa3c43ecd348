#include "trainer/loss.h"

#include <ATen/ATen.h>

#include <string>

#include "trainer/error.h"

namespace fxpass::trainer {

void check_labels(Loss loss, const Dataset& data) {
  const Entry& labels = data.labels();
  if (loss == Loss::CrossEntropy && labels.dtype != at::kLong) {
    throw Error(data.path() + ": cross-entropy needs int64 labels, got " +
                describe(labels.dtype, labels.sizes) + "; for other labels there is --loss mse");
  }
  if (loss == Loss::MeanSquares && !at::isFloatingType(labels.dtype)) {
    throw Error(data.path() + ": --loss mse needs labels of the output's type, got " +
                describe(labels.dtype, labels.sizes));
  }
}

void check_output(Loss loss, const at::Tensor& output, const Dataset& data,
                  const LabelRange& range) {
  auto expected = output.sizes().vec();
  if (loss == Loss::CrossEntropy && expected.size() > 1) expected.erase(expected.begin() + 1);
  auto found = data.labels().sizes;
  if (!expected.empty()) found[0] = expected[0];  // the batch
  const bool type_fits = loss == Loss::CrossEntropy || output.scalar_type() == data.labels().dtype;
  if (found != expected || output.dim() < (loss == Loss::CrossEntropy ? 2 : 1) || !type_fits) {
    throw Error(
        data.path() + ": the labels, " + describe(data.labels().dtype, data.labels().sizes) +
        ", do not fit the model's output, " + describe(output.scalar_type(), output.sizes()));
  }
  if (loss != Loss::CrossEntropy) return;
  const std::int64_t classes = output.size(1);
  const bool negative = range.smallest < 0;
  if (negative || range.largest >= classes) {
    throw Error(data.path() + ": the label of row " +
                std::to_string(negative ? range.smallest_row : range.largest_row) + " is " +
                std::to_string(negative ? range.smallest : range.largest) + ", but the model has " +
                std::to_string(classes) + " classes, 0 to " + std::to_string(classes - 1));
  }
}

at::Tensor compute(Loss loss, const at::Tensor& output, const at::Tensor& labels) {
  return loss == Loss::CrossEntropy ? at::cross_entropy_loss(output, labels)
                                    : at::mse_loss(output, labels);
}

std::int64_t count_right(const at::Tensor& output, const at::Tensor& labels) {
  return output.detach().argmax(1).eq(labels).sum().item<std::int64_t>();
}

}  // namespace fxpass::trainer
