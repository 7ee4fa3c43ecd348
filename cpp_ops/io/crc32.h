// zlib's CRC-32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fxpass::io {

// Of `bytes` bytes that follow those whose sum is `before`.
std::uint32_t crc32(const void* data, std::size_t bytes, std::uint32_t before);

}  // namespace fxpass::io
