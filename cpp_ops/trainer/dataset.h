// A data file: images and labels, row by row, read when they are needed.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "trainer/safetensors.h"

namespace fxpass::trainer {

struct Batch {
  at::Tensor images, labels;
};

// The smallest and the largest label, and where they stand.
struct LabelRange {
  std::int64_t smallest, smallest_row, largest, largest_row;
};

// A safetensors file (see SafeTensors) with two tensors of as many rows, `images` and `labels`.
class Dataset {
 public:
  explicit Dataset(const std::string& path);

  const std::string& path() const { return file_.file().path(); }
  std::int64_t bytes() const { return file_.file().size(); }
  std::int64_t rows() const { return images_.sizes[0]; }
  const Entry& images() const { return images_; }
  const Entry& labels() const { return labels_; }

  // The rows named, in that order, in fresh contiguous tensors.
  Batch read(at::ArrayRef<std::int64_t> rows) const;
  // Of int64 labels; reads all of them, a few at a time.
  LabelRange label_range() const;

 private:
  at::Tensor read_rows(const Entry& entry, at::ArrayRef<std::int64_t> rows) const;

  SafeTensors file_;
  const Entry& images_;
  const Entry& labels_;
};

}  // namespace fxpass::trainer
