// AVX-512: the columns of columns.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "columns_float_256.h"

namespace fxpass::kernels {
namespace {

template <typename T>
struct Columns;

template <>
struct Columns<float> : FloatColumns256 {
  using Sum = __m512d;

  static Sum zero() { return _mm512_setzero_pd(); }
  static Sum add(Sum s, V v) { return _mm512_add_pd(s, _mm512_cvtps_pd(v)); }
  static void store(double* p, Sum s) { _mm512_storeu_pd(p, s); }
};

template <>
struct Columns<double> {
  using T = double;
  using V = __m512d;
  using Sum = __m512d;
  static constexpr int kPlanes = 8;
  static constexpr int kGroups = 1;

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
  static Sum zero() { return _mm512_setzero_pd(); }
  static Sum add(Sum s, V v) { return _mm512_add_pd(s, v); }
  static void store(double* p, Sum s) { _mm512_storeu_pd(p, s); }
  static V square_from(V v, V mean) {
    const V d = _mm512_sub_pd(v, mean);
    return _mm512_mul_pd(d, d);
  }
};

}  // namespace
}  // namespace fxpass::kernels
