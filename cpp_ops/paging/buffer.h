// Memory between a tensor and the disk, of torch's CPU allocator, so that every counter sees it.
#pragma once

#include <c10/core/CPUAllocator.h>

#include <cstdint>
#include <cstring>

#include "paging/file.h"

namespace fxpass::paging {

class Buffer {
 public:
  // For `bytes` bytes, and what fills the last block.
  explicit Buffer(std::int64_t bytes) : memory_(c10::GetCPUAllocator()->allocate(cost(bytes))) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    data_ = reinterpret_cast<char*>((address + kBlock - 1) / kBlock * kBlock);
  }
  // How many bytes are allocated for it.
  static constexpr std::int64_t cost(std::int64_t bytes) { return whole_blocks(bytes) + kBlock; }

  char* data() const { return data_; }

 private:
  c10::DataPtr memory_;
  char* data_;
};

}  // namespace fxpass::paging
