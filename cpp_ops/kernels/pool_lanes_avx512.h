// AVX-512: the vectors of pool_lanes.h. Codes stay bytes, masks are mask registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fxpass::kernels {
namespace {

template <typename T>
struct FloatLanes;

// Bits low <= i < high. 0 <= low, high <= 16.
inline std::uint32_t lane_range(int low, int high) {
  return high <= low ? 0u : ((1u << high) - 1) & ~((1u << low) - 1);
}

template <>
struct FloatLanes<float> {
  using T = float;
  using V = __m512;
  using Mask = __mmask16;
  using Codes = __m128i;
  static constexpr int kCount = 16;

  static V load(const T* p) { return _mm512_loadu_ps(p); }
  static void store(T* p, V v) { _mm512_storeu_ps(p, v); }
  static void stream(T* p, V v) { _mm512_stream_ps(p, v); }
  static void fence() { _mm_sfence(); }
  static V set(T x) { return _mm512_set1_ps(x); }
  static V load_lanes(const T* p, int low, int high) {
    return _mm512_maskz_loadu_ps(static_cast<Mask>(lane_range(low, high)), p);
  }
  static void store_n(T* p, V v, int n) {
    _mm512_mask_storeu_ps(p, static_cast<Mask>(lane_range(0, n)), v);
  }

  // The second operand is returned for NaN and for two zeros.
  static V relu(V v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }
  static Mask better(V v, V best) {
    return _mm512_cmp_ps_mask(v, best, _CMP_GT_OQ) | _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  }
  static Mask passes(V v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NLE_UQ); }
  static Mask negative_zero(V v) {
    return _mm512_cmpeq_epi32_mask(_mm512_castps_si512(v), _mm512_set1_epi32(INT32_MIN));
  }
  static Mask first(int n) { return static_cast<Mask>(lane_range(0, n)); }
  static std::uint64_t bits(Mask m) { return m; }
  static V choose(Mask m, V a, V b) { return _mm512_mask_mov_ps(b, m, a); }
  static V fma(V x, V a, V b) { return _mm512_fmadd_ps(x, a, b); }
  static V pick(V v, const std::int32_t* offsets) {
    return _mm512_permutexvar_ps(_mm512_loadu_si512(offsets), v);
  }
  static V add_where(V sum, V v, Mask m) {
    asm("vaddps %1, %0, %0%{%2%}" : "+v"(sum) : "v"(v), "Yk"(m));
    return sum;
  }

  static Codes codes(int c) { return _mm_set1_epi8(static_cast<char>(c)); }
  static Codes load_codes(const std::uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static Codes load_codes_lanes(const std::uint8_t* p, int low, int high) {
    return _mm_maskz_loadu_epi8(static_cast<Mask>(lane_range(low, high)), p);
  }
  static void store_codes(std::uint8_t* p, Codes c) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), c);
  }
  static void store_codes_n(std::uint8_t* p, Codes c, int n) {
    _mm_mask_storeu_epi8(p, static_cast<Mask>(lane_range(0, n)), c);
  }
  static Codes choose(Mask m, Codes a, Codes b) { return _mm_mask_mov_epi8(b, m, a); }
  static Mask equal(Codes a, Codes b) { return _mm_cmpeq_epi8_mask(a, b); }

  static void deinterleave(V a, V b, V& even, V& odd) {
    const __m512i index =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    even = _mm512_permutex2var_ps(a, index, b);
    odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(index, _mm512_set1_epi32(1)), b);
  }
  static void interleave(V even, V odd, V& a, V& b) {
    const __m512i index = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    a = _mm512_permutex2var_ps(even, index, odd);
    b = _mm512_permutex2var_ps(even, _mm512_add_epi32(index, _mm512_set1_epi32(8)), odd);
  }
};

template <>
struct FloatLanes<double> {
  using T = double;
  using V = __m512d;
  using Mask = __mmask8;
  using Codes = __m128i;  // in the low eight bytes
  static constexpr int kCount = 8;

  static V load(const T* p) { return _mm512_loadu_pd(p); }
  static void store(T* p, V v) { _mm512_storeu_pd(p, v); }
  static void stream(T* p, V v) { _mm512_stream_pd(p, v); }
  static void fence() { _mm_sfence(); }
  static V set(T x) { return _mm512_set1_pd(x); }
  static V load_lanes(const T* p, int low, int high) {
    return _mm512_maskz_loadu_pd(static_cast<Mask>(lane_range(low, high)), p);
  }
  static void store_n(T* p, V v, int n) {
    _mm512_mask_storeu_pd(p, static_cast<Mask>(lane_range(0, n)), v);
  }

  static V relu(V v) { return _mm512_max_pd(_mm512_setzero_pd(), v); }
  static Mask better(V v, V best) {
    return _mm512_cmp_pd_mask(v, best, _CMP_GT_OQ) | _mm512_cmp_pd_mask(v, v, _CMP_UNORD_Q);
  }
  static Mask passes(V v) { return _mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_NLE_UQ); }
  static Mask negative_zero(V v) {
    return _mm512_cmpeq_epi64_mask(_mm512_castpd_si512(v), _mm512_set1_epi64(INT64_MIN));
  }
  static Mask first(int n) { return static_cast<Mask>(lane_range(0, n)); }
  static std::uint64_t bits(Mask m) { return m; }
  static V choose(Mask m, V a, V b) { return _mm512_mask_mov_pd(b, m, a); }
  static V fma(V x, V a, V b) { return _mm512_fmadd_pd(x, a, b); }
  static V pick(V v, const std::int64_t* offsets) {
    return _mm512_permutexvar_pd(_mm512_loadu_si512(offsets), v);
  }
  static V add_where(V sum, V v, Mask m) {
    asm("vaddpd %1, %0, %0%{%2%}" : "+v"(sum) : "v"(v), "Yk"(m));
    return sum;
  }

  static Codes codes(int c) { return _mm_set1_epi8(static_cast<char>(c)); }
  static Codes load_codes(const std::uint8_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
  static Codes load_codes_lanes(const std::uint8_t* p, int low, int high) {
    return _mm_maskz_loadu_epi8(static_cast<__mmask16>(lane_range(low, high)), p);
  }
  static void store_codes(std::uint8_t* p, Codes c) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), c);
  }
  static void store_codes_n(std::uint8_t* p, Codes c, int n) {
    _mm_mask_storeu_epi8(p, static_cast<__mmask16>(lane_range(0, n)), c);
  }
  static Codes choose(Mask m, Codes a, Codes b) { return _mm_mask_mov_epi8(b, m, a); }
  static Mask equal(Codes a, Codes b) { return static_cast<Mask>(_mm_cmpeq_epi8_mask(a, b)); }

  static void deinterleave(V a, V b, V& even, V& odd) {
    const __m512i index = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
    even = _mm512_permutex2var_pd(a, index, b);
    odd = _mm512_permutex2var_pd(a, _mm512_add_epi64(index, _mm512_set1_epi64(1)), b);
  }
  static void interleave(V even, V odd, V& a, V& b) {
    const __m512i index = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
    a = _mm512_permutex2var_pd(even, index, odd);
    b = _mm512_permutex2var_pd(even, _mm512_add_epi64(index, _mm512_set1_epi64(4)), odd);
  }
};

}  // namespace
}  // namespace fxpass::kernels
