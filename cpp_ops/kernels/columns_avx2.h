// AVX2: the columns of columns.h.
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
  struct Sum {
    __m256d low, high;
  };

  static Sum zero() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
  static Sum add(Sum s, V v) {
    return {_mm256_add_pd(s.low, _mm256_cvtps_pd(_mm256_castps256_ps128(v))),
            _mm256_add_pd(s.high, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)))};
  }
  static void store(double* p, Sum s) {
    _mm256_storeu_pd(p, s.low);
    _mm256_storeu_pd(p + 4, s.high);
  }
};

template <>
struct Columns<double> {
  using T = double;
  using V = __m256d;
  using Sum = __m256d;
  static constexpr int kPlanes = 4;
  static constexpr int kGroups = 2;

  static V load(const T* p) { return _mm256_loadu_pd(p); }
  static V column(const T* const* planes, std::int64_t i) {
    return _mm256_set_pd(planes[3][i], planes[2][i], planes[1][i], planes[0][i]);
  }
  static void four(const T* const* planes, std::int64_t i, V* out) {
    V row[4];
    for (int r = 0; r < 4; ++r) row[r] = load(planes[r] + i);
    const V even_01 = _mm256_unpacklo_pd(row[0], row[1]);
    const V even_23 = _mm256_unpacklo_pd(row[2], row[3]);
    const V odd_01 = _mm256_unpackhi_pd(row[0], row[1]);
    const V odd_23 = _mm256_unpackhi_pd(row[2], row[3]);
    out[0] = _mm256_permute2f128_pd(even_01, even_23, 0x20);
    out[1] = _mm256_permute2f128_pd(odd_01, odd_23, 0x20);
    out[2] = _mm256_permute2f128_pd(even_01, even_23, 0x31);
    out[3] = _mm256_permute2f128_pd(odd_01, odd_23, 0x31);
  }
  static Sum zero() { return _mm256_setzero_pd(); }
  static Sum add(Sum s, V v) { return _mm256_add_pd(s, v); }
  static void store(double* p, Sum s) { _mm256_storeu_pd(p, s); }
  static V square_from(V v, V mean) {
    const V d = _mm256_sub_pd(v, mean);
    return _mm256_mul_pd(d, d);
  }
};

}  // namespace
}  // namespace fxpass::kernels
