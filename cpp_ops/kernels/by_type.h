// Calls a generic function with the C++ type that a DType stands for.
//
// Internal linkage on purpose, here and in every *-inl.h: each target compiles these headers with
// its own instruction set, and the linker must never put one target's copy in another's place.
// For the same reason these headers call no function template of the standard library.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace fxpass::kernels {
namespace {

// A floating-point format as bit patterns. Negative numbers other than -0.0 and NaNs are exactly
// the patterns kSign + 1 ... kNegInf, read as unsigned integers.
template <typename B, B kNegativeInfinity>
struct Format {
  using Bits = B;
  static constexpr B kSign = static_cast<B>(B{1} << (8 * sizeof(B) - 1));
  static constexpr B kNegInf = kNegativeInfinity;
};

using F16 = Format<std::uint16_t, 0xfc00>;
using BF16 = Format<std::uint16_t, 0xff80>;
using F32 = Format<std::uint32_t, 0xff800000u>;
using F64 = Format<std::uint64_t, 0xfff0000000000000u>;

// f(F16{}), f(BF16{}), f(F32{}) or f(F64{}).
template <typename F>
inline auto by_format(DType dtype, F f) {
  switch (dtype) {
    case DType::F64:
      return f(F64{});
    case DType::F32:
      return f(F32{});
    case DType::BF16:
      return f(BF16{});
    default:
      return f(F16{});
  }
}

// Where only the width counts: f(std::uint16_t{}), f(std::uint32_t{}) or f(std::uint64_t{}).
template <typename F>
inline auto by_bits(DType dtype, F f) {
  switch (dtype) {
    case DType::F64:
      return f(std::uint64_t{});
    case DType::F32:
      return f(std::uint32_t{});
    default:
      return f(std::uint16_t{});
  }
}

// The types that pools and batch norms take: f(float{}) or f(double{}).
template <typename F>
inline auto by_float(DType dtype, F f) {
  return dtype == DType::F64 ? f(double{}) : f(float{});
}

}  // namespace
}  // namespace fxpass::kernels
