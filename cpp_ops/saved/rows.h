// A tensor with gaps (a part of a concatenation, say) as rows of memory that follow each other in
// the order of a dense tensor of its shape.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace fxpass {

class Rows {
 public:
  // In the order of a dense tensor of its sizes with these strides. Nothing unless the rows are
  // worth a copy each.
  static std::optional<Rows> of(const at::Tensor& tensor, at::IntArrayRef strides);

  // Copies elements [begin, end) of the dense order to `to`.
  void copy(std::int64_t begin, std::int64_t end, char* to) const;

 private:
  struct Dim {
    std::int64_t size, stride;
  };

  const char* data_ = nullptr;
  std::int64_t item_ = 0;
  std::int64_t row_ = 1;    // elements
  std::vector<Dim> outer_;  // outermost first
};

}  // namespace fxpass
