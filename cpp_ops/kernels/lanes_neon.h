// NEON (64-bit ARM): what the kernels need of a vector of bit patterns. The interface is explained
// in lanes.h. There are no stores past the caches here: stream is store.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "shuffles.h"

namespace fxpass::kernels {
namespace {

template <typename B>
struct Lanes;

inline uint8x16_t shuffle(uint8x16_t v, const std::uint8_t* indices) {
  return vqtbl1q_u8(v, vld1q_u8(indices));
}

template <>
struct Lanes<std::uint64_t> {
  using B = std::uint64_t;
  using V = uint64x2_t;
  using Mask = uint64x2_t;
  static constexpr int kCount = 2;
  static constexpr bool kStreams = false;

  static V load(const B* p) { return vld1q_u64(p); }
  static void store(B* p, V v) { vst1q_u64(p, v); }
  static void stream(B* p, V v) { store(p, v); }
  static void fence() {}
  static V set(B b) { return vdupq_n_u64(b); }
  static V add(V a, V b) { return vaddq_u64(a, b); }
  static Mask greater(V a, V b) {
    return vcgtq_s64(vreinterpretq_s64_u64(a), vreinterpretq_s64_u64(b));
  }
  static Mask equal(V a, V b) { return vceqq_u64(a, b); }
  static Mask nonzero(V v) { return vtstq_u64(v, v); }
  static std::uint64_t bits(Mask m) {
    return (vgetq_lane_u64(m, 0) & 1) | (vgetq_lane_u64(m, 1) & 2);
  }
  static Mask mask(std::uint64_t bits) {
    return vtstq_u64(set(bits), vcombine_u64(vcreate_u64(1), vcreate_u64(2)));
  }
  static V keep(V v, Mask m) { return vandq_u64(v, m); }

  static constexpr auto kCompress = compress_table<2, 8>();
  static constexpr auto kExpand = expand_table<2, 8>();
  static B* compress(B* out, V v, std::uint64_t bits) {
    store(out, vreinterpretq_u64_u8(shuffle(vreinterpretq_u8_u64(v), kCompress.rows[bits])));
    return out + __builtin_popcountll(bits);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const uint8x16_t v = shuffle(vreinterpretq_u8_u64(load(in)), kExpand.rows[bits]);
    in += __builtin_popcountll(bits);
    return vreinterpretq_u64_u8(v);
  }
};

template <>
struct Lanes<std::uint32_t> {
  using B = std::uint32_t;
  using V = uint32x4_t;
  using Mask = uint32x4_t;
  static constexpr int kCount = 4;
  static constexpr bool kStreams = false;

  static V load(const B* p) { return vld1q_u32(p); }
  static void store(B* p, V v) { vst1q_u32(p, v); }
  static void stream(B* p, V v) { store(p, v); }
  static void fence() {}
  static V set(B b) { return vdupq_n_u32(b); }
  static V add(V a, V b) { return vaddq_u32(a, b); }
  static Mask greater(V a, V b) {
    return vcgtq_s32(vreinterpretq_s32_u32(a), vreinterpretq_s32_u32(b));
  }
  static Mask equal(V a, V b) { return vceqq_u32(a, b); }
  static Mask nonzero(V v) { return vtstq_u32(v, v); }
  static std::uint64_t bits(Mask m) { return vaddvq_u32(vandq_u32(m, lane_bits())); }
  static Mask mask(std::uint64_t bits) { return vtstq_u32(set(static_cast<B>(bits)), lane_bits()); }
  static V keep(V v, Mask m) { return vandq_u32(v, m); }

  static constexpr auto kCompress = compress_table<4, 4>();
  static constexpr auto kExpand = expand_table<4, 4>();
  static B* compress(B* out, V v, std::uint64_t bits) {
    store(out, vreinterpretq_u32_u8(shuffle(vreinterpretq_u8_u32(v), kCompress.rows[bits])));
    return out + __builtin_popcountll(bits);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const uint8x16_t v = shuffle(vreinterpretq_u8_u32(load(in)), kExpand.rows[bits]);
    in += __builtin_popcountll(bits);
    return vreinterpretq_u32_u8(v);
  }

 private:
  static V lane_bits() {
    return vcombine_u32(vcreate_u32(0x0000000200000001), vcreate_u32(0x0000000800000004));
  }
};

template <>
struct Lanes<std::uint16_t> {
  using B = std::uint16_t;
  using V = uint16x8_t;
  using Mask = uint16x8_t;
  static constexpr int kCount = 8;
  static constexpr bool kStreams = false;

  static V load(const B* p) { return vld1q_u16(p); }
  static void store(B* p, V v) { vst1q_u16(p, v); }
  static void stream(B* p, V v) { store(p, v); }
  static void fence() {}
  static V set(B b) { return vdupq_n_u16(b); }
  static V add(V a, V b) { return vaddq_u16(a, b); }
  static Mask greater(V a, V b) {
    return vcgtq_s16(vreinterpretq_s16_u16(a), vreinterpretq_s16_u16(b));
  }
  static Mask equal(V a, V b) { return vceqq_u16(a, b); }
  static Mask nonzero(V v) { return vtstq_u16(v, v); }
  static std::uint64_t bits(Mask m) { return vaddvq_u16(vandq_u16(m, lane_bits())); }
  static Mask mask(std::uint64_t bits) { return vtstq_u16(set(static_cast<B>(bits)), lane_bits()); }
  static V keep(V v, Mask m) { return vandq_u16(v, m); }

  static constexpr auto kCompress = compress_table<8, 2>();
  static constexpr auto kExpand = expand_table<8, 2>();
  static B* compress(B* out, V v, std::uint64_t bits) {
    store(out, vreinterpretq_u16_u8(shuffle(vreinterpretq_u8_u16(v), kCompress.rows[bits])));
    return out + __builtin_popcountll(bits);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const uint8x16_t v = shuffle(vreinterpretq_u8_u16(load(in)), kExpand.rows[bits]);
    in += __builtin_popcountll(bits);
    return vreinterpretq_u16_u8(v);
  }

 private:
  static V lane_bits() {
    return vcombine_u16(vcreate_u16(0x0008000400020001), vcreate_u16(0x0080004000200010));
  }
};

// Sixty-four codes, one a byte, and their bit planes.
struct CodeGroup {
  uint8x16_t quarters[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};

  static CodeGroup load(const std::uint8_t* p) {
    return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
  }
  void store(std::uint8_t* p) const {
    for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, quarters[i]);
  }
  // Each byte keeps one bit of its own; adding neighbours three times makes bytes of eight.
  std::uint64_t plane(int p) const {
    const uint8x16_t one = vdupq_n_u8(static_cast<std::uint8_t>(1 << p));
    uint8x16_t set[4];
    for (int i = 0; i < 4; ++i) set[i] = vandq_u8(vtstq_u8(quarters[i], one), bit_of());
    const uint8x16_t fours = vpaddq_u8(vpaddq_u8(set[0], set[1]), vpaddq_u8(set[2], set[3]));
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(fours, fours)), 0);
  }
  void add_plane(int p, std::uint64_t word) {
    const uint8x16_t one = vdupq_n_u8(static_cast<std::uint8_t>(1 << p));
    const uint8x16_t bytes = vreinterpretq_u8_u64(vdupq_n_u64(word));
    const uint8x16_t byte_of = vcombine_u8(vcreate_u8(0), vcreate_u8(0x0101010101010101));
    for (int i = 0; i < 4; ++i) {
      const auto first_byte = vdupq_n_u8(static_cast<std::uint8_t>(2 * i));
      const uint8x16_t spread = vqtbl1q_u8(bytes, vaddq_u8(byte_of, first_byte));
      quarters[i] = vorrq_u8(quarters[i], vandq_u8(vtstq_u8(spread, bit_of()), one));
    }
  }

 private:
  static uint8x16_t bit_of() { return vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)); }
};

}  // namespace
}  // namespace fxpass::kernels
