#include "trainer/dataset.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "trainer/error.h"

namespace fxpass::trainer {

Dataset::Dataset(const std::string& path)
    : file_(path), images_(file_.entry("images")), labels_(file_.entry("labels")) {
  if (images_.sizes.empty() || labels_.sizes.empty() || images_.sizes[0] != labels_.sizes[0] ||
      images_.sizes[0] == 0) {
    throw Error(path + ": expected images and labels with as many rows, and one at least, got " +
                describe(images_.dtype, images_.sizes) + " and " +
                describe(labels_.dtype, labels_.sizes));
  }
}

at::Tensor Dataset::read_rows(const Entry& entry, at::ArrayRef<std::int64_t> rows) const {
  std::vector<std::int64_t> sizes = entry.sizes;
  sizes[0] = std::ssize(rows);
  at::Tensor tensor = at::empty(sizes, entry.dtype);
  const std::int64_t row_bytes = entry.bytes / entry.sizes[0];
  auto* place = static_cast<char*>(tensor.mutable_data_ptr());
  for (const std::int64_t row : rows) {
    file_.file().read(entry.offset + row * row_bytes, place, row_bytes);
    place += row_bytes;
  }
  return tensor;
}

Batch Dataset::read(at::ArrayRef<std::int64_t> rows) const {
  return {read_rows(images_, rows), read_rows(labels_, rows)};
}

LabelRange Dataset::label_range() const {
  LabelRange range{INT64_MAX, 0, INT64_MIN, 0};
  const std::int64_t count = labels_.bytes / static_cast<std::int64_t>(sizeof(std::int64_t));
  const std::int64_t in_row = std::max<std::int64_t>(count / rows(), 1);
  std::vector<std::int64_t> piece(std::min<std::int64_t>(count, 8192));
  for (std::int64_t done = 0; done < count; done += std::ssize(piece)) {
    piece.resize(std::min<std::int64_t>(std::ssize(piece), count - done));
    file_.file().read(labels_.offset + done * static_cast<std::int64_t>(sizeof(std::int64_t)),
                      piece.data(), std::ssize(piece) * sizeof(std::int64_t));
    const auto [low, high] = std::minmax_element(piece.begin(), piece.end());
    if (*low < range.smallest) {
      range.smallest = *low;
      range.smallest_row = (done + (low - piece.begin())) / in_row;
    }
    if (*high > range.largest) {
      range.largest = *high;
      range.largest_row = (done + (high - piece.begin())) / in_row;
    }
  }
  return range;
}

}  // namespace fxpass::trainer
