// When and how outputs go past the caches.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace fxpass::kernels {
namespace {

// An output this large does not stay in the caches until it is read. Writing it past them saves
// reading its lines first, a third of the traffic of a copy.
constexpr std::int64_t kStreamBytes = std::int64_t{8} << 20;

template <typename L, typename E>
inline bool streams(const E* out, std::int64_t n) {
  return n * static_cast<std::int64_t>(sizeof(E)) >= kStreamBytes &&
         reinterpret_cast<std::uintptr_t>(out) % sizeof(typename L::V) == 0;
}

template <typename L, bool kStream, typename E>
inline void put(E* out, typename L::V v) {
  if constexpr (kStream) {
    L::stream(out, v);
  } else {
    L::store(out, v);
  }
}

}  // namespace
}  // namespace fxpass::kernels
