#include "io/crc32.h"

#include <caffe2/serialize/crc_alt.h>  // defines functions: to be included once

namespace fxpass::io {

std::uint32_t crc32(const void* data, std::size_t bytes, std::uint32_t before) {
  return crc32_fast(data, bytes, before);
}

}  // namespace fxpass::io
