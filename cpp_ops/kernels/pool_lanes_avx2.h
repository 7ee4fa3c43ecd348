// AVX2: the vectors of pool_lanes.h. A code is as wide as the value it belongs to.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "partial_lanes.h"

namespace fxpass::kernels {
namespace {

template <typename T>
struct FloatLanes;

template <>
struct FloatLanes<float> : PartialCodes<FloatLanes<float>> {
  using T = float;
  using V = __m256;
  using Mask = __m256;
  using Codes = __m256i;
  static constexpr int kCount = 8;

  static V load(const T* p) { return _mm256_loadu_ps(p); }
  static void store(T* p, V v) { _mm256_storeu_ps(p, v); }
  static void stream(T* p, V v) { _mm256_stream_ps(p, v); }
  static void fence() { _mm_sfence(); }
  static V set(T x) { return _mm256_set1_ps(x); }
  static V load_lanes(const T* p, int low, int high) {
    return _mm256_maskload_ps(p, lane_range(low, high));
  }
  static void store_n(T* p, V v, int n) { _mm256_maskstore_ps(p, lane_range(0, n), v); }

  // The second operand is returned for NaN and for two zeros.
  static V relu(V v) { return _mm256_max_ps(_mm256_setzero_ps(), v); }
  static Mask better(V v, V best) {
    return _mm256_or_ps(_mm256_cmp_ps(v, best, _CMP_GT_OQ), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  }
  static Mask passes(V v) { return _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NLE_UQ); }
  static Mask negative_zero(V v) {
    return _mm256_castsi256_ps(
        _mm256_cmpeq_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(INT32_MIN)));
  }
  static Mask first(int n) { return _mm256_castsi256_ps(lane_range(0, n)); }
  static std::uint64_t bits(Mask m) { return static_cast<std::uint32_t>(_mm256_movemask_ps(m)); }
  static V choose(Mask m, V a, V b) { return _mm256_blendv_ps(b, a, m); }
  static V fma(V x, V a, V b) { return _mm256_fmadd_ps(x, a, b); }
  static V pick(V v, const std::int32_t* offsets) {
    return _mm256_permutevar8x32_ps(v,
                                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets)));
  }
  // Sums start at +0.0 and so never are -0.0: adding +0.0 leaves the other lanes as they are.
  static V add_where(V sum, V v, Mask m) {
    asm("vaddps %1, %0, %0" : "+x"(sum) : "x"(_mm256_and_ps(v, m)));
    return sum;
  }

  static Codes codes(int c) { return _mm256_set1_epi32(c); }
  static Codes load_codes(const std::uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_codes(std::uint8_t* p, Codes c) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), narrow(c));
  }
  static Codes choose(Mask m, Codes a, Codes b) {
    return _mm256_blendv_epi8(b, a, _mm256_castps_si256(m));
  }
  static Mask equal(Codes a, Codes b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }

  static void deinterleave(V a, V b, V& even, V& odd) {
    even = in_order(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)));
    odd = in_order(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)));
  }
  static void interleave(V even, V odd, V& a, V& b) {
    const V low = _mm256_unpacklo_ps(even, odd);
    const V high = _mm256_unpackhi_ps(even, odd);
    a = _mm256_permute2f128_ps(low, high, 0x20);
    b = _mm256_permute2f128_ps(low, high, 0x31);
  }

 private:
  static __m256i lane_range(int low, int high) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(low), lane),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32(high), lane));
  }
  static __m128i narrow(Codes c) {
    const __m128i halves =
        _mm_packus_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
    return _mm_packus_epi16(halves, halves);
  }
  // Shuffles work within 128 bits: puts a's and b's pairs of pairs in order.
  static V in_order(V v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), _MM_SHUFFLE(3, 1, 2, 0)));
  }
};

template <>
struct FloatLanes<double> : PartialCodes<FloatLanes<double>> {
  using T = double;
  using V = __m256d;
  using Mask = __m256d;
  using Codes = __m256i;
  static constexpr int kCount = 4;

  static V load(const T* p) { return _mm256_loadu_pd(p); }
  static void store(T* p, V v) { _mm256_storeu_pd(p, v); }
  static void stream(T* p, V v) { _mm256_stream_pd(p, v); }
  static void fence() { _mm_sfence(); }
  static V set(T x) { return _mm256_set1_pd(x); }
  static V load_lanes(const T* p, int low, int high) {
    return _mm256_maskload_pd(p, lane_range(low, high));
  }
  static void store_n(T* p, V v, int n) { _mm256_maskstore_pd(p, lane_range(0, n), v); }

  static V relu(V v) { return _mm256_max_pd(_mm256_setzero_pd(), v); }
  static Mask better(V v, V best) {
    return _mm256_or_pd(_mm256_cmp_pd(v, best, _CMP_GT_OQ), _mm256_cmp_pd(v, v, _CMP_UNORD_Q));
  }
  static Mask passes(V v) { return _mm256_cmp_pd(v, _mm256_setzero_pd(), _CMP_NLE_UQ); }
  static Mask negative_zero(V v) {
    return _mm256_castsi256_pd(
        _mm256_cmpeq_epi64(_mm256_castpd_si256(v), _mm256_set1_epi64x(INT64_MIN)));
  }
  static Mask first(int n) { return _mm256_castsi256_pd(lane_range(0, n)); }
  static std::uint64_t bits(Mask m) { return static_cast<std::uint32_t>(_mm256_movemask_pd(m)); }
  static V choose(Mask m, V a, V b) { return _mm256_blendv_pd(b, a, m); }
  static V fma(V x, V a, V b) { return _mm256_fmadd_pd(x, a, b); }
  // A 64-bit lane is moved as two lanes of 32 bits, 2 * offset and the next.
  static V pick(V v, const std::int64_t* offsets) {
    const __m256i low =
        _mm256_slli_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets)), 1);
    const __m256i both = _mm256_or_si256(_mm256_slli_epi64(low, 32), low);
    return _mm256_castps_pd(_mm256_permutevar8x32_ps(
        _mm256_castpd_ps(v), _mm256_or_si256(both, _mm256_set1_epi64x(std::int64_t{1} << 32))));
  }
  static V add_where(V sum, V v, Mask m) {
    asm("vaddpd %1, %0, %0" : "+x"(sum) : "x"(_mm256_and_pd(v, m)));
    return sum;
  }

  static Codes codes(int c) { return _mm256_set1_epi64x(c); }
  static Codes load_codes(const std::uint8_t* p) {
    int four;
    std::memcpy(&four, p, sizeof(four));
    return _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
  }
  static void store_codes(std::uint8_t* p, Codes c) { store_codes_n(p, c, kCount); }
  static void store_codes_n(std::uint8_t* p, Codes c, int n) {
    alignas(32) std::uint64_t wide[kCount];
    _mm256_store_si256(reinterpret_cast<__m256i*>(wide), c);
    for (int i = 0; i < n; ++i) p[i] = static_cast<std::uint8_t>(wide[i]);
  }
  static Codes choose(Mask m, Codes a, Codes b) {
    return _mm256_blendv_epi8(b, a, _mm256_castpd_si256(m));
  }
  static Mask equal(Codes a, Codes b) { return _mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b)); }

  static void deinterleave(V a, V b, V& even, V& odd) {
    even = _mm256_permute4x64_pd(_mm256_unpacklo_pd(a, b), _MM_SHUFFLE(3, 1, 2, 0));
    odd = _mm256_permute4x64_pd(_mm256_unpackhi_pd(a, b), _MM_SHUFFLE(3, 1, 2, 0));
  }
  static void interleave(V even, V odd, V& a, V& b) {
    const V low = _mm256_unpacklo_pd(even, odd);
    const V high = _mm256_unpackhi_pd(even, odd);
    a = _mm256_permute2f128_pd(low, high, 0x20);
    b = _mm256_permute2f128_pd(low, high, 0x31);
  }

 private:
  static __m256i lane_range(int low, int high) {
    const __m256i lane = _mm256_set_epi64x(3, 2, 1, 0);
    return _mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_set1_epi64x(low), lane),
                               _mm256_cmpgt_epi64(_mm256_set1_epi64x(high), lane));
  }
};

}  // namespace
}  // namespace fxpass::kernels
