// AVX2: what the kernels need of a vector of bit patterns. The interface is explained in lanes.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "shuffles.h"

namespace fxpass::kernels {
namespace {

template <typename B>
struct Lanes;

struct Avx2Base {
  using V = __m256i;
  using Mask = __m256i;  // all ones or all zeros in each lane
  static constexpr bool kStreams = true;
  static V load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(void* p, V v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static void stream(void* p, V v) { _mm256_stream_si256(static_cast<__m256i*>(p), v); }
  static void fence() { _mm_sfence(); }
  static V keep(V v, Mask m) { return _mm256_and_si256(v, m); }
  static Mask invert(Mask m) { return _mm256_xor_si256(m, _mm256_set1_epi32(-1)); }

  // Eight indices of 32-bit lanes, from bytes.
  static __m256i lane_indices(const std::uint8_t* row) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row)));
  }
  static V permute(V v, __m256i indices) { return _mm256_permutevar8x32_epi32(v, indices); }
  // An index of 0xff, negative once widened, gives zero.
  static V permute_or_zero(V v, __m256i indices) {
    return _mm256_andnot_si256(_mm256_srai_epi32(indices, 31), permute(v, indices));
  }
};

template <>
struct Lanes<std::uint64_t> : Avx2Base {
  using B = std::uint64_t;
  static constexpr int kCount = 4;

  static V set(B b) { return _mm256_set1_epi64x(static_cast<long long>(b)); }
  static V add(V a, V b) { return _mm256_add_epi64(a, b); }
  static Mask greater(V a, V b) { return _mm256_cmpgt_epi64(a, b); }
  static Mask equal(V a, V b) { return _mm256_cmpeq_epi64(a, b); }
  static Mask nonzero(V v) { return invert(equal(v, _mm256_setzero_si256())); }
  static std::uint64_t bits(Mask m) {
    return static_cast<std::uint64_t>(_mm256_movemask_pd(_mm256_castsi256_pd(m)));
  }
  static Mask mask(std::uint64_t bits) {
    const V lane = _mm256_set_epi64x(8, 4, 2, 1);
    return equal(_mm256_and_si256(set(bits), lane), lane);
  }

  // A 64-bit lane is moved as two lanes of 32 bits.
  static constexpr auto kCompress = compress_table<4, 2>();
  static constexpr auto kExpand = expand_table<4, 2>();
  static B* compress(B* out, V v, std::uint64_t bits) {
    store(out, permute(v, lane_indices(kCompress.rows[bits])));
    return out + _mm_popcnt_u64(bits);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const V v = permute_or_zero(load(in), lane_indices(kExpand.rows[bits]));
    in += _mm_popcnt_u64(bits);
    return v;
  }
};

template <>
struct Lanes<std::uint32_t> : Avx2Base {
  using B = std::uint32_t;
  static constexpr int kCount = 8;

  static V set(B b) { return _mm256_set1_epi32(static_cast<int>(b)); }
  static V add(V a, V b) { return _mm256_add_epi32(a, b); }
  static Mask greater(V a, V b) { return _mm256_cmpgt_epi32(a, b); }
  static Mask equal(V a, V b) { return _mm256_cmpeq_epi32(a, b); }
  static Mask nonzero(V v) { return invert(equal(v, _mm256_setzero_si256())); }
  static std::uint64_t bits(Mask m) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(m)));
  }
  static Mask mask(std::uint64_t bits) {
    const V lane = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    return equal(_mm256_and_si256(set(static_cast<B>(bits)), lane), lane);
  }

  static constexpr auto kCompress = compress_table<8, 1>();
  static constexpr auto kExpand = expand_table<8, 1>();
  static B* compress(B* out, V v, std::uint64_t bits) {
    store(out, permute(v, lane_indices(kCompress.rows[bits])));
    return out + _mm_popcnt_u64(bits);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const V v = permute_or_zero(load(in), lane_indices(kExpand.rows[bits]));
    in += _mm_popcnt_u64(bits);
    return v;
  }
};

template <>
struct Lanes<std::uint16_t> : Avx2Base {
  using B = std::uint16_t;
  static constexpr int kCount = 16;

  static V set(B b) { return _mm256_set1_epi16(static_cast<short>(b)); }
  static V add(V a, V b) { return _mm256_add_epi16(a, b); }
  static Mask greater(V a, V b) { return _mm256_cmpgt_epi16(a, b); }
  static Mask equal(V a, V b) { return _mm256_cmpeq_epi16(a, b); }
  static Mask nonzero(V v) { return invert(equal(v, _mm256_setzero_si256())); }
  static std::uint64_t bits(Mask m) {
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    return static_cast<std::uint32_t>(_mm_movemask_epi8(bytes));
  }
  static Mask mask(std::uint64_t bits) {
    const V lane = _mm256_set_epi16(-32768, 16384, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32,
                                    16, 8, 4, 2, 1);
    return equal(_mm256_and_si256(set(static_cast<B>(bits)), lane), lane);
  }

  // Half a vector at a time: bytes are shuffled within 128 bits only.
  static constexpr auto kCompress = compress_table<8, 2>();
  static constexpr auto kExpand = expand_table<8, 2>();
  static B* compress(B* out, V v, std::uint64_t bits) {
    out = compress_half(out, _mm256_castsi256_si128(v), bits & 255);
    return compress_half(out, _mm256_extracti128_si256(v, 1), bits >> 8 & 255);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const __m128i low = expand_half(in, bits & 255);
    const __m128i high = expand_half(in, bits >> 8 & 255);
    return _mm256_set_m128i(high, low);
  }

 private:
  static __m128i row(const std::uint8_t* indices) {
    return _mm_load_si128(reinterpret_cast<const __m128i*>(indices));
  }
  static B* compress_half(B* out, __m128i v, std::uint64_t bits) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm_shuffle_epi8(v, row(kCompress.rows[bits])));
    return out + _mm_popcnt_u64(bits);
  }
  static __m128i expand_half(const B*& in, std::uint64_t bits) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
    in += _mm_popcnt_u64(bits);
    return _mm_shuffle_epi8(v, row(kExpand.rows[bits]));
  }
};

// Sixty-four codes, one a byte, and their bit planes.
struct CodeGroup {
  __m256i low = _mm256_setzero_si256();
  __m256i high = _mm256_setzero_si256();

  static CodeGroup load(const std::uint8_t* p) {
    return {Avx2Base::load(p), Avx2Base::load(p + 32)};
  }
  void store(std::uint8_t* p) const {
    Avx2Base::store(p, low);
    Avx2Base::store(p + 32, high);
  }
  // Shifts the plane to the top of each byte (what crosses into a neighbour's low bits is ignored).
  std::uint64_t plane(int p) const {
    const __m128i up = _mm_cvtsi32_si128(7 - p);
    const auto low_bits =
        static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_sll_epi16(low, up)));
    const auto high_bits =
        static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_sll_epi16(high, up)));
    return low_bits | std::uint64_t{high_bits} << 32;
  }
  void add_plane(int p, std::uint64_t word) {
    const __m256i one = _mm256_set1_epi8(static_cast<char>(1 << p));
    low = _mm256_or_si256(low, _mm256_and_si256(spread(static_cast<std::uint32_t>(word)), one));
    high = _mm256_or_si256(high,
                           _mm256_and_si256(spread(static_cast<std::uint32_t>(word >> 32)), one));
  }

 private:
  // Every byte becomes all ones or all zeros after one of the 32 bits.
  static __m256i spread(std::uint32_t bits) {
    const __m256i byte_of =
        _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), byte_of);
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
  }
};

}  // namespace
}  // namespace fxpass::kernels
