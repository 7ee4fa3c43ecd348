// Some lanes of a vector by way of the stack, for targets without masked loads and stores: what
// FloatLanes<T> (pool_lanes.h) inherits there.
#pragma once

#include <cstdint>
#include <cstring>

namespace fxpass::kernels {
namespace {

template <typename L>
struct PartialCodes {
  static auto load_codes_lanes(const std::uint8_t* p, int low, int high) {
    std::uint8_t bytes[L::kCount] = {};
    for (int i = low; i < high; ++i) bytes[i] = p[i];
    return L::load_codes(bytes);
  }
  template <typename Codes>
  static void store_codes_n(std::uint8_t* p, Codes c, int n) {
    std::uint8_t bytes[L::kCount];
    L::store_codes(bytes, c);
    std::memcpy(p, bytes, static_cast<std::size_t>(n));
  }
};

template <typename L, typename T>
struct PartialValues {
  static auto load_lanes(const T* p, int low, int high) {
    T lanes[L::kCount] = {};
    for (int i = low; i < high; ++i) lanes[i] = p[i];
    return L::load(lanes);
  }
  template <typename V>
  static void store_n(T* p, V v, int n) {
    T lanes[L::kCount];
    L::store(lanes, v);
    std::memcpy(p, lanes, static_cast<std::size_t>(n) * sizeof(T));
  }
};

}  // namespace
}  // namespace fxpass::kernels
