// NEON (64-bit ARM): the vectors of pool_lanes.h. A code is as wide as the value it belongs to.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "partial_lanes.h"

namespace fxpass::kernels {
namespace {

template <typename T>
struct FloatLanes;

template <>
struct FloatLanes<float> : PartialCodes<FloatLanes<float>>,
                           PartialValues<FloatLanes<float>, float> {
  using T = float;
  using V = float32x4_t;
  using Mask = uint32x4_t;
  using Codes = uint32x4_t;
  static constexpr int kCount = 4;

  static V load(const T* p) { return vld1q_f32(p); }
  static void store(T* p, V v) { vst1q_f32(p, v); }
  static void stream(T* p, V v) { store(p, v); }
  static void fence() {}
  static V set(T x) { return vdupq_n_f32(x); }

  static V relu(V v) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltzq_f32(v)));
  }
  static Mask better(V v, V best) { return vornq_u32(vcgtq_f32(v, best), vceqq_f32(v, v)); }
  static Mask passes(V v) { return vmvnq_u32(vclezq_f32(v)); }
  static Mask negative_zero(V v) {
    return vceqq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(0x80000000u));
  }
  static Mask first(int n) {
    const uint32x4_t lane =
        vcombine_u32(vcreate_u32(0x0000000100000000), vcreate_u32(0x0000000300000002));
    return vcltq_u32(lane, vdupq_n_u32(static_cast<std::uint32_t>(n)));
  }
  static std::uint64_t bits(Mask m) {
    const uint32x4_t bit =
        vcombine_u32(vcreate_u32(0x0000000200000001), vcreate_u32(0x0000000800000004));
    return vaddvq_u32(vandq_u32(m, bit));
  }
  static V choose(Mask m, V a, V b) { return vbslq_f32(m, a, b); }
  static V fma(V x, V a, V b) { return vfmaq_f32(b, x, a); }
  // By bytes: 4 * offset and the next three.
  static V pick(V v, const std::int32_t* offsets) {
    const uint32x4_t offset = vreinterpretq_u32_s32(vld1q_s32(offsets));
    const uint32x4_t bytes = vmlaq_n_u32(vdupq_n_u32(0x03020100), offset, 0x04040404);
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(v), vreinterpretq_u8_u32(bytes)));
  }
  // Sums start at +0.0 and so never are -0.0: adding +0.0 leaves the other lanes as they are.
  static V add_where(V sum, V v, Mask m) {
    const V kept = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), m));
    asm("fadd %0.4s, %0.4s, %1.4s" : "+w"(sum) : "w"(kept));
    return sum;
  }

  static Codes codes(int c) { return vdupq_n_u32(static_cast<std::uint32_t>(c)); }
  static Codes load_codes(const std::uint8_t* p) {
    std::uint32_t four;
    std::memcpy(&four, p, sizeof(four));
    const uint16x8_t wider = vmovl_u8(vcreate_u8(four));
    return vmovl_u16(vget_low_u16(wider));
  }
  static void store_codes(std::uint8_t* p, Codes c) { store_codes_n(p, c, kCount); }
  static void store_codes_n(std::uint8_t* p, Codes c, int n) {
    const uint16x4_t halves = vmovn_u32(c);
    const std::uint64_t bytes =
        vget_lane_u64(vreinterpret_u64_u8(vmovn_u16(vcombine_u16(halves, halves))), 0);
    std::memcpy(p, &bytes, static_cast<std::size_t>(n));
  }
  static Codes choose(Mask m, Codes a, Codes b) { return vbslq_u32(m, a, b); }
  static Mask equal(Codes a, Codes b) { return vceqq_u32(a, b); }

  static void deinterleave(V a, V b, V& even, V& odd) {
    even = vuzp1q_f32(a, b);
    odd = vuzp2q_f32(a, b);
  }
  static void interleave(V even, V odd, V& a, V& b) {
    a = vzip1q_f32(even, odd);
    b = vzip2q_f32(even, odd);
  }
};

template <>
struct FloatLanes<double> : PartialCodes<FloatLanes<double>>,
                            PartialValues<FloatLanes<double>, double> {
  using T = double;
  using V = float64x2_t;
  using Mask = uint64x2_t;
  using Codes = uint64x2_t;
  static constexpr int kCount = 2;

  static V load(const T* p) { return vld1q_f64(p); }
  static void store(T* p, V v) { vst1q_f64(p, v); }
  static void stream(T* p, V v) { store(p, v); }
  static void fence() {}
  static V set(T x) { return vdupq_n_f64(x); }

  static V relu(V v) {
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(v), vcltzq_f64(v)));
  }
  static Mask better(V v, V best) { return vornq_u64(vcgtq_f64(v, best), vceqq_f64(v, v)); }
  static Mask passes(V v) {
    return vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(vclezq_f64(v))));
  }
  static Mask negative_zero(V v) {
    return vceqq_u64(vreinterpretq_u64_f64(v), vdupq_n_u64(std::uint64_t{1} << 63));
  }
  static Mask first(int n) {
    const uint64x2_t lane = vcombine_u64(vcreate_u64(0), vcreate_u64(1));
    return vcltq_u64(lane, vdupq_n_u64(static_cast<std::uint64_t>(n)));
  }
  static std::uint64_t bits(Mask m) {
    return (vgetq_lane_u64(m, 0) & 1) | (vgetq_lane_u64(m, 1) & 2);
  }
  static V choose(Mask m, V a, V b) { return vbslq_f64(m, a, b); }
  static V fma(V x, V a, V b) { return vfmaq_f64(b, x, a); }
  static V pick(V v, const std::int64_t* offsets) {
    const Mask second = vtstq_u64(vreinterpretq_u64_s64(vld1q_s64(offsets)), vdupq_n_u64(1));
    return vbslq_f64(second, vdupq_laneq_f64(v, 1), vdupq_laneq_f64(v, 0));
  }
  static V add_where(V sum, V v, Mask m) {
    const V kept = vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(v), m));
    asm("fadd %0.2d, %0.2d, %1.2d" : "+w"(sum) : "w"(kept));
    return sum;
  }

  static Codes codes(int c) { return vdupq_n_u64(static_cast<std::uint64_t>(c)); }
  static Codes load_codes(const std::uint8_t* p) {
    return vcombine_u64(vcreate_u64(p[0]), vcreate_u64(p[1]));
  }
  static void store_codes(std::uint8_t* p, Codes c) {
    p[0] = static_cast<std::uint8_t>(vgetq_lane_u64(c, 0));
    p[1] = static_cast<std::uint8_t>(vgetq_lane_u64(c, 1));
  }
  static Codes choose(Mask m, Codes a, Codes b) { return vbslq_u64(m, a, b); }
  static Mask equal(Codes a, Codes b) { return vceqq_u64(a, b); }

  static void deinterleave(V a, V b, V& even, V& odd) {
    even = vuzp1q_f64(a, b);
    odd = vuzp2q_f64(a, b);
  }
  static void interleave(V even, V odd, V& a, V& b) {
    a = vzip1q_f64(even, odd);
    b = vzip2q_f64(even, odd);
  }
};

}  // namespace
}  // namespace fxpass::kernels
