#include "saved/rows.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace fxpass {

std::optional<Rows> Rows::of(const at::Tensor& tensor, at::IntArrayRef strides) {
  constexpr std::int64_t kWorthwhile = 64;  // bytes
  const auto sizes = tensor.sizes(), given = tensor.strides();
  std::vector<std::int64_t> order(tensor.dim());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return strides[a] > strides[b]; });
  Rows rows;
  rows.data_ = static_cast<const char*>(tensor.const_data_ptr());
  rows.item_ = static_cast<std::int64_t>(tensor.itemsize());
  for (const auto d : order) {
    if (sizes[d] != 1) rows.outer_.push_back({sizes[d], given[d]});
  }
  while (!rows.outer_.empty() && rows.outer_.back().stride == rows.row_) {
    rows.row_ *= rows.outer_.back().size;
    rows.outer_.pop_back();
  }
  if (rows.row_ * rows.item_ < kWorthwhile) return {};
  return rows;
}

void Rows::copy(std::int64_t begin, std::int64_t end, char* to) const {
  if (begin >= end) return;
  auto left = begin / row_;
  auto within = begin % row_;
  std::vector<std::int64_t> at(outer_.size());
  std::int64_t offset = 0;
  for (auto d = outer_.size(); d-- > 0; left /= outer_[d].size) {
    at[d] = left % outer_[d].size;
    offset += at[d] * outer_[d].stride;
  }
  for (auto done = begin; done < end; within = 0) {
    const auto n = std::min(row_ - within, end - done);
    std::memcpy(to, data_ + (offset + within) * item_, n * item_);
    to += n * item_;
    done += n;
    for (auto d = outer_.size(); d-- > 0;) {
      offset += outer_[d].stride;
      if (++at[d] < outer_[d].size) break;
      offset -= at[d] * outer_[d].stride;
      at[d] = 0;
    }
  }
}

}  // namespace fxpass
