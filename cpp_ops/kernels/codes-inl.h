// Codes to bit planes and back, by whole groups of 64; the scalar kernels do what is left.
#pragma once

#include <cstdint>

#include "lanes.h"
#include "scalar.h"

namespace fxpass::kernels {
namespace {

void codes_pack(const std::uint8_t* codes, std::int64_t n, int width, std::uint64_t* words) {
  const std::int64_t groups = n / kWordBits;
  for (std::int64_t g = 0; g < groups; ++g) {
    const CodeGroup group = CodeGroup::load(codes + g * kWordBits);
    for (int plane = 0; plane < width; ++plane) words[g * width + plane] = group.plane(plane);
  }
  const std::int64_t done = groups * kWordBits;
  scalar::codes_pack(codes + done, n - done, width, words + groups * width);
}

void codes_unpack(const std::uint64_t* words, std::int64_t begin, std::int64_t n, int width,
                  std::uint8_t* codes) {
  const std::int64_t end = begin + n;
  const std::int64_t first_group = (begin + kWordBits - 1) / kWordBits;
  const std::int64_t last_group = end / kWordBits;
  if (first_group >= last_group) return scalar::codes_unpack(words, begin, n, width, codes);

  const std::int64_t head = first_group * kWordBits - begin;
  scalar::codes_unpack(words, begin, head, width, codes);
  codes += head;
  for (std::int64_t g = first_group; g < last_group; ++g, codes += kWordBits) {
    CodeGroup group;
    for (int plane = 0; plane < width; ++plane) group.add_plane(plane, words[g * width + plane]);
    group.store(codes);
  }
  scalar::codes_unpack(words, last_group * kWordBits, end - last_group * kWordBits, width, codes);
}

}  // namespace
}  // namespace fxpass::kernels
