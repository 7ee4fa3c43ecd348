// A piece of a page, and where it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "paging/buffer.h"

namespace fxpass::paging {

// What is written and read as one.
inline constexpr std::int64_t kChunk = std::int64_t{1} << 20;

struct Chunk {
  enum class Is {
    Waiting,  // in a buffer, to be written
    Writing,
    Stored,  // in the file alone
    Asked,   // in the file, to be read into a buffer
    Reading,
    Ready,  // in the file and in a buffer
    Lost,   // `error` says why
  };

  Chunk(std::uint64_t page, std::int64_t bytes) : page(page), bytes(bytes) {}

  const std::uint64_t page;
  const std::int64_t bytes;
  Is is = Is::Waiting;
  std::optional<Buffer> buffer;
  std::int64_t slot = -1;  // its place in the file, in kChunk bytes; -1: none
  std::uint32_t sum = 0;   // CRC-32 of the bytes, once they were written
  int readers = 0;         // that wait for the bytes or copy them: the buffer must stay
  bool dropped = false;    // its page was given up while the disk was busy with it
  std::string error;

  bool in_memory() const { return is == Is::Waiting || is == Is::Writing || is == Is::Ready; }
};

}  // namespace fxpass::paging
