// NEON (64-bit ARM): the columns of columns.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace fxpass::kernels {
namespace {

template <typename T>
struct Columns;

template <>
struct Columns<float> {
  using T = float;
  using V = float32x4_t;
  struct Sum {
    float64x2_t low, high;
  };
  static constexpr int kPlanes = 4;
  static constexpr int kGroups = 2;

  static V load(const T* p) { return vld1q_f32(p); }
  static V column(const T* const* planes, std::int64_t i) {
    const T values[kPlanes] = {planes[0][i], planes[1][i], planes[2][i], planes[3][i]};
    return load(values);
  }
  static void four(const T* const* planes, std::int64_t i, V* out) {
    float64x2_t even[2];
    float64x2_t odd[2];
    for (int r = 0; r < 2; ++r) {
      const V a = load(planes[2 * r] + i);
      const V b = load(planes[2 * r + 1] + i);
      even[r] = vreinterpretq_f64_f32(vtrn1q_f32(a, b));
      odd[r] = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
    }
    out[0] = vreinterpretq_f32_f64(vtrn1q_f64(even[0], even[1]));
    out[1] = vreinterpretq_f32_f64(vtrn1q_f64(odd[0], odd[1]));
    out[2] = vreinterpretq_f32_f64(vtrn2q_f64(even[0], even[1]));
    out[3] = vreinterpretq_f32_f64(vtrn2q_f64(odd[0], odd[1]));
  }
  static Sum zero() { return {vdupq_n_f64(0), vdupq_n_f64(0)}; }
  static Sum add(Sum s, V v) {
    return {vaddq_f64(s.low, vcvt_f64_f32(vget_low_f32(v))),
            vaddq_f64(s.high, vcvt_high_f64_f32(v))};
  }
  static void store(double* p, Sum s) {
    vst1q_f64(p, s.low);
    vst1q_f64(p + 2, s.high);
  }
  static V square_from(V v, V mean) {
    const V d = vsubq_f32(v, mean);
    return vmulq_f32(d, d);
  }
};

template <>
struct Columns<double> {
  using T = double;
  using V = float64x2_t;
  using Sum = float64x2_t;
  static constexpr int kPlanes = 2;
  static constexpr int kGroups = 4;

  static V load(const T* p) { return vld1q_f64(p); }
  static V column(const T* const* planes, std::int64_t i) {
    return vcombine_f64(vld1_f64(planes[0] + i), vld1_f64(planes[1] + i));
  }
  static void four(const T* const* planes, std::int64_t i, V* out) {
    for (int half = 0; half < 2; ++half) {
      const V a = load(planes[0] + i + 2 * half);
      const V b = load(planes[1] + i + 2 * half);
      out[2 * half] = vtrn1q_f64(a, b);
      out[2 * half + 1] = vtrn2q_f64(a, b);
    }
  }
  static Sum zero() { return vdupq_n_f64(0); }
  static Sum add(Sum s, V v) { return vaddq_f64(s, v); }
  static void store(double* p, Sum s) { vst1q_f64(p, s); }
  static V square_from(V v, V mean) {
    const V d = vsubq_f64(v, mean);
    return vmulq_f64(d, d);
  }
};

}  // namespace
}  // namespace fxpass::kernels
