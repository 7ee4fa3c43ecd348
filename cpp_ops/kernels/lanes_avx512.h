// AVX-512 (F, BW, VL, DQ, CD): what the kernels need of a vector of bit patterns.
// The interface is explained in lanes.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fxpass::kernels {
namespace {

template <typename B>
struct Lanes;

struct Avx512Base {
  using V = __m512i;
  static constexpr bool kStreams = true;
  static V load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, V v) { _mm512_storeu_si512(p, v); }
  static void stream(void* p, V v) { _mm512_stream_si512(static_cast<__m512i*>(p), v); }
  static void fence() { _mm_sfence(); }
};

template <>
struct Lanes<std::uint64_t> : Avx512Base {
  using B = std::uint64_t;
  using Mask = __mmask8;
  static constexpr int kCount = 8;

  static V set(B b) { return _mm512_set1_epi64(static_cast<long long>(b)); }
  static V add(V a, V b) { return _mm512_add_epi64(a, b); }
  static Mask greater(V a, V b) { return _mm512_cmpgt_epi64_mask(a, b); }
  static Mask equal(V a, V b) { return _mm512_cmpeq_epi64_mask(a, b); }
  static Mask nonzero(V v) { return _mm512_test_epi64_mask(v, v); }
  static std::uint64_t bits(Mask m) { return m; }
  static Mask mask(std::uint64_t bits) { return static_cast<Mask>(bits); }
  static V keep(V v, Mask m) { return _mm512_maskz_mov_epi64(m, v); }

  // To a register first: compressing into memory is microcoded, and very slow, on Zen 4.
  static B* compress(B* out, V v, std::uint64_t bits) {
    store(out, _mm512_maskz_compress_epi64(mask(bits), v));
    return out + _mm_popcnt_u64(bits);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const V v = _mm512_maskz_expand_epi64(mask(bits), load(in));
    in += _mm_popcnt_u64(bits);
    return v;
  }
};

template <>
struct Lanes<std::uint32_t> : Avx512Base {
  using B = std::uint32_t;
  using Mask = __mmask16;
  static constexpr int kCount = 16;

  static V set(B b) { return _mm512_set1_epi32(static_cast<int>(b)); }
  static V add(V a, V b) { return _mm512_add_epi32(a, b); }
  static Mask greater(V a, V b) { return _mm512_cmpgt_epi32_mask(a, b); }
  static Mask equal(V a, V b) { return _mm512_cmpeq_epi32_mask(a, b); }
  static Mask nonzero(V v) { return _mm512_test_epi32_mask(v, v); }
  static std::uint64_t bits(Mask m) { return m; }
  static Mask mask(std::uint64_t bits) { return static_cast<Mask>(bits); }
  static V keep(V v, Mask m) { return _mm512_maskz_mov_epi32(m, v); }

  static B* compress(B* out, V v, std::uint64_t bits) {
    store(out, _mm512_maskz_compress_epi32(mask(bits), v));
    return out + _mm_popcnt_u64(bits);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const V v = _mm512_maskz_expand_epi32(mask(bits), load(in));
    in += _mm_popcnt_u64(bits);
    return v;
  }
};

template <>
struct Lanes<std::uint16_t> : Avx512Base {
  using B = std::uint16_t;
  using Mask = __mmask32;
  static constexpr int kCount = 32;

  static V set(B b) { return _mm512_set1_epi16(static_cast<short>(b)); }
  static V add(V a, V b) { return _mm512_add_epi16(a, b); }
  static Mask greater(V a, V b) { return _mm512_cmpgt_epi16_mask(a, b); }
  static Mask equal(V a, V b) { return _mm512_cmpeq_epi16_mask(a, b); }
  static Mask nonzero(V v) { return _mm512_test_epi16_mask(v, v); }
  static std::uint64_t bits(Mask m) { return m; }
  static Mask mask(std::uint64_t bits) { return static_cast<Mask>(bits); }
  static V keep(V v, Mask m) { return _mm512_maskz_mov_epi16(m, v); }

  // Without VBMI2 16-bit lanes are compressed and expanded as 32-bit ones, half a vector at a time.
  static B* compress(B* out, V v, std::uint64_t bits) {
    out = compress_half(out, _mm512_castsi512_si256(v), static_cast<__mmask16>(bits));
    return compress_half(out, _mm512_extracti64x4_epi64(v, 1), static_cast<__mmask16>(bits >> 16));
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const __m256i low = expand_half(in, static_cast<__mmask16>(bits));
    const __m256i high = expand_half(in, static_cast<__mmask16>(bits >> 16));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }

 private:
  static B* compress_half(B* out, __m256i v, __mmask16 m) {
    const __m512i wide = _mm512_maskz_compress_epi32(m, _mm512_cvtepu16_epi32(v));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(wide));
    return out + _mm_popcnt_u32(m);
  }
  static __m256i expand_half(const B*& in, __mmask16 m) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
    in += _mm_popcnt_u32(m);
    return _mm512_cvtepi32_epi16(_mm512_maskz_expand_epi32(m, _mm512_cvtepu16_epi32(v)));
  }
};

// Sixty-four codes, one a byte, and their bit planes.
struct CodeGroup {
  __m512i codes = _mm512_setzero_si512();

  static CodeGroup load(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  void store(std::uint8_t* p) const { _mm512_storeu_si512(p, codes); }
  std::uint64_t plane(int p) const {
    return _mm512_test_epi8_mask(codes, _mm512_set1_epi8(static_cast<char>(1 << p)));
  }
  void add_plane(int p, std::uint64_t word) {
    codes = _mm512_or_si512(codes, _mm512_maskz_set1_epi8(word, static_cast<char>(1 << p)));
  }
};

}  // namespace
}  // namespace fxpass::kernels
