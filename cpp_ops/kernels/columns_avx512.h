// AVX-512: the columns of columns.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fxpass::kernels {
namespace {

template <typename T>
struct Columns;

struct Avx512Sums {
  using Sum = __m512d;
  static constexpr int kPlanes = 8;
  static constexpr int kGroups = 1;
  static Sum zero() { return _mm512_setzero_pd(); }
  static void store(double* p, Sum s) { _mm512_storeu_pd(p, s); }
};

template <>
struct Columns<float> : Avx512Sums {
  using T = float;
  using V = __m256;

  static V load(const T* p) { return _mm256_loadu_ps(p); }
  static V column(const T* const* planes, std::int64_t i) {
    return _mm256_set_ps(planes[7][i], planes[6][i], planes[5][i], planes[4][i], planes[3][i],
                         planes[2][i], planes[1][i], planes[0][i]);
  }
  // Planes r and r + 4 share a register, so that shuffles within 128 bits suffice.
  static void four(const T* const* planes, std::int64_t i, V* out) {
    V row[4];
    for (int r = 0; r < 4; ++r) {
      row[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(planes[r] + i)),
                                    _mm_loadu_ps(planes[r + 4] + i), 1);
    }
    const V low_01 = _mm256_unpacklo_ps(row[0], row[1]);
    const V low_23 = _mm256_unpacklo_ps(row[2], row[3]);
    const V high_01 = _mm256_unpackhi_ps(row[0], row[1]);
    const V high_23 = _mm256_unpackhi_ps(row[2], row[3]);
    out[0] = _mm256_shuffle_ps(low_01, low_23, _MM_SHUFFLE(1, 0, 1, 0));
    out[1] = _mm256_shuffle_ps(low_01, low_23, _MM_SHUFFLE(3, 2, 3, 2));
    out[2] = _mm256_shuffle_ps(high_01, high_23, _MM_SHUFFLE(1, 0, 1, 0));
    out[3] = _mm256_shuffle_ps(high_01, high_23, _MM_SHUFFLE(3, 2, 3, 2));
  }
  static Sum add(Sum s, V v) { return _mm512_add_pd(s, _mm512_cvtps_pd(v)); }
  static V square_from(V v, V mean) {
    const V d = _mm256_sub_ps(v, mean);
    return _mm256_mul_ps(d, d);
  }
};

template <>
struct Columns<double> : Avx512Sums {
  using T = double;
  using V = __m512d;

  static V load(const T* p) { return _mm512_loadu_pd(p); }
  static V column(const T* const* planes, std::int64_t i) {
    return _mm512_set_pd(planes[7][i], planes[6][i], planes[5][i], planes[4][i], planes[3][i],
                         planes[2][i], planes[1][i], planes[0][i]);
  }
  static void four(const T* const* planes, std::int64_t i, V* out) {
    V row[4];
    for (int r = 0; r < 4; ++r) {
      row[r] = _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(planes[r] + i)),
                                  _mm256_loadu_pd(planes[r + 4] + i), 1);
    }
    const V even_01 = _mm512_unpacklo_pd(row[0], row[1]);
    const V even_23 = _mm512_unpacklo_pd(row[2], row[3]);
    const V odd_01 = _mm512_unpackhi_pd(row[0], row[1]);
    const V odd_23 = _mm512_unpackhi_pd(row[2], row[3]);
    const __m512i first = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0);
    const __m512i second = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
    out[0] = _mm512_permutex2var_pd(even_01, first, even_23);
    out[1] = _mm512_permutex2var_pd(odd_01, first, odd_23);
    out[2] = _mm512_permutex2var_pd(even_01, second, even_23);
    out[3] = _mm512_permutex2var_pd(odd_01, second, odd_23);
  }
  static Sum add(Sum s, V v) { return _mm512_add_pd(s, v); }
  static V square_from(V v, V mean) {
    const V d = _mm512_sub_pd(v, mean);
    return _mm512_mul_pd(d, d);
  }
};

}  // namespace
}  // namespace fxpass::kernels
