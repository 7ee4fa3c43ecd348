// x86: eight planes of floats in a 256-bit register, of the columns of columns.h. AVX-512 sums them
// in one register of doubles, AVX2 in two.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fxpass::kernels {
namespace {

struct FloatColumns256 {
  using T = float;
  using V = __m256;
  static constexpr int kPlanes = 8;
  static constexpr int kGroups = 1;

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
  static V square_from(V v, V mean) {
    const V d = _mm256_sub_ps(v, mean);
    return _mm256_mul_ps(d, d);
  }
};

}  // namespace
}  // namespace fxpass::kernels
