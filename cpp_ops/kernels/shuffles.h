// Shuffle tables that compress or expand the lanes of a vector under a mask, for the targets that
// have no instruction for it.
#pragma once

#include <cstdint>

namespace fxpass::kernels {
namespace {

// One row of byte indices for every mask of kLanes lanes; a lane takes kBytes of them. An index of
// 0xff gives zero, in pshufb as in tbl.
template <int kLanes, int kBytes>
struct ShuffleTable {
  alignas(16) std::uint8_t rows[1 << kLanes][kLanes * kBytes];
};

// The lanes whose bit is set move to the front, in order.
template <int kLanes, int kBytes>
constexpr ShuffleTable<kLanes, kBytes> compress_table() {
  ShuffleTable<kLanes, kBytes> table{};
  for (int mask = 0; mask < 1 << kLanes; ++mask) {
    int to = 0;
    for (int from = 0; from < kLanes; ++from) {
      if ((mask >> from & 1) == 0) continue;
      for (int byte = 0; byte < kBytes; ++byte) {
        table.rows[mask][to++] = static_cast<std::uint8_t>(from * kBytes + byte);
      }
    }
    while (to < kLanes * kBytes) table.rows[mask][to++] = 0xff;
  }
  return table;
}

// The inverse: the first lanes move, in order, to where the mask's bits are set; others get zero.
template <int kLanes, int kBytes>
constexpr ShuffleTable<kLanes, kBytes> expand_table() {
  ShuffleTable<kLanes, kBytes> table{};
  for (int mask = 0; mask < 1 << kLanes; ++mask) {
    int from = 0;
    for (int to = 0; to < kLanes; ++to) {
      const bool set = (mask >> to & 1) != 0;
      for (int byte = 0; byte < kBytes; ++byte) {
        table.rows[mask][to * kBytes + byte] =
            set ? static_cast<std::uint8_t>(from * kBytes + byte) : std::uint8_t{0xff};
      }
      from += set ? 1 : 0;
    }
  }
  return table;
}

}  // namespace
}  // namespace fxpass::kernels
