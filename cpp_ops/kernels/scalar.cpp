// The scalar bitmap, ReLU and code kernels: the definition of what every target computes.
#include "scalar.h"

#include <bit>
#include <cstring>

#include "by_type.h"
#include "targets.h"

namespace fxpass::kernels {
namespace scalar {
namespace {

std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// The elements of word `w`: 64, fewer in the last word.
std::int64_t in_word(std::int64_t n, std::int64_t w) { return least(kWordBits, n - w * kWordBits); }

// The word's bits that stand for elements. A foreign bitmap may have more of them set.
std::uint64_t word_mask(std::int64_t count) {
  return count == kWordBits ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

template <typename B>
std::uint64_t mark_word(const B* src, std::int64_t count) {
  std::uint64_t word = 0;
  for (std::int64_t i = 0; i < count; ++i) word |= std::uint64_t{src[i] != 0} << i;
  return word;
}

// Elements are read and written one after the other at their set bits, so nothing beyond the last
// of them is touched.
template <typename B>
B* gather_word(const B* src, std::uint64_t word, B* values) {
  for (; word != 0; word &= word - 1) *values++ = src[std::countr_zero(word)];
  return values;
}

template <typename B>
const B* scatter_word(const B* values, std::uint64_t word, std::int64_t count, B* dst) {
  std::memset(dst, 0, count * sizeof(B));
  for (; word != 0; word &= word - 1) dst[std::countr_zero(word)] = *values++;
  return values;
}

}  // namespace

std::int64_t bitmap_mark(DType dtype, const void* src, std::int64_t n, std::uint64_t* bits) {
  return by_bits(dtype, [&](auto zero) {
    const auto* elements = static_cast<const decltype(zero)*>(src);
    std::int64_t total = 0;
    for (std::int64_t w = 0; w < words_for(n); ++w) {
      bits[w] = mark_word(elements + w * kWordBits, in_word(n, w));
      total += std::popcount(bits[w]);
    }
    return total;
  });
}

void bitmap_gather(DType dtype, const void* src, const std::uint64_t* bits, std::int64_t n,
                   void* values) {
  by_bits(dtype, [&](auto zero) {
    const auto* elements = static_cast<const decltype(zero)*>(src);
    auto* out = static_cast<decltype(zero)*>(values);
    for (std::int64_t w = 0; w < words_for(n); ++w) {
      out = gather_word(elements + w * kWordBits, bits[w] & word_mask(in_word(n, w)), out);
    }
  });
}

std::int64_t bitmap_pack(DType dtype, const void* src, std::int64_t n, std::uint64_t* bits,
                         void* values) {
  return by_bits(dtype, [&](auto zero) {
    const auto* elements = static_cast<const decltype(zero)*>(src);
    auto* const first = static_cast<decltype(zero)*>(values);
    auto* out = first;
    for (std::int64_t w = 0; w < words_for(n); ++w) {
      bits[w] = mark_word(elements + w * kWordBits, in_word(n, w));
      out = gather_word(elements + w * kWordBits, bits[w], out);
    }
    return static_cast<std::int64_t>(out - first);
  });
}

void bitmap_unpack(DType dtype, const std::uint64_t* bits, std::int64_t n, const void* values,
                   void* dst) {
  by_bits(dtype, [&](auto zero) {
    const auto* in = static_cast<const decltype(zero)*>(values);
    auto* elements = static_cast<decltype(zero)*>(dst);
    for (std::int64_t w = 0; w < words_for(n); ++w) {
      const std::int64_t count = in_word(n, w);
      in = scatter_word(in, bits[w] & word_mask(count), count, elements + w * kWordBits);
    }
  });
}

// Integers compare bit patterns, so NaN payloads, signalling NaNs among them, pass untouched.
bool relu_mask(DType dtype, const void* x, void* y, std::int64_t n, std::uint64_t* mask) {
  return by_format(dtype, [&](auto format) {
    using Format = decltype(format);
    using B = typename Format::Bits;
    const auto* in = static_cast<const B*>(x);
    auto* out = static_cast<B*>(y);
    bool negative_zero = false;
    for (std::int64_t w = 0; w < words_for(n); ++w) {
      std::uint64_t word = 0;
      for (std::int64_t i = 0; i < in_word(n, w); ++i) {
        const B value = in[w * kWordBits + i];
        const bool negative = value > Format::kSign && value <= Format::kNegInf;
        const bool zero = (value & static_cast<B>(~Format::kSign)) == 0;
        negative_zero |= value == Format::kSign;
        out[w * kWordBits + i] = negative ? B{0} : value;
        word |= std::uint64_t{!negative && !zero} << i;
      }
      mask[w] = word;
    }
    return negative_zero;
  });
}

// Bit patterns less than the first of a run wrap around, and become greater than its count.
bool runs_mask(DType dtype, const Run (&runs)[2], const void* x, std::int64_t n,
               std::uint64_t* mask) {
  return by_format(dtype, [&](auto format) {
    using Format = decltype(format);
    using B = typename Format::Bits;
    const auto* in = static_cast<const B*>(x);
    bool nan = false;
    for (std::int64_t w = 0; w < words_for(n); ++w) {
      std::uint64_t word = 0;
      for (std::int64_t i = 0; i < in_word(n, w); ++i) {
        const B value = in[w * kWordBits + i];
        const bool marked = static_cast<B>(value - runs[0].first) < runs[0].count ||
                            static_cast<B>(value - runs[1].first) < runs[1].count;
        word |= std::uint64_t{marked} << i;
        nan |= static_cast<B>(value | Format::kSign) > Format::kNegInf;
      }
      mask[w] = word;
    }
    return nan;
  });
}

void select(DType dtype, const void* grad, const std::uint64_t* mask, std::int64_t n, void* out) {
  by_bits(dtype, [&](auto zero) {
    const auto* in = static_cast<const decltype(zero)*>(grad);
    auto* selected = static_cast<decltype(zero)*>(out);
    for (std::int64_t i = 0; i < n; ++i) {
      const bool passes = (mask[i / kWordBits] >> (i % kWordBits) & 1) != 0;
      selected[i] = passes ? in[i] : zero;
    }
  });
}

// Bits of a code above `width` are dropped.
void codes_pack(const std::uint8_t* codes, std::int64_t n, int width, std::uint64_t* words) {
  for (std::int64_t group = 0; group < words_for(n); ++group) {
    for (int plane = 0; plane < width; ++plane) {
      std::uint64_t word = 0;
      for (std::int64_t i = 0; i < in_word(n, group); ++i) {
        word |= std::uint64_t{codes[group * kWordBits + i] >> plane & 1u} << i;
      }
      words[group * width + plane] = word;
    }
  }
}

void codes_unpack(const std::uint64_t* words, std::int64_t begin, std::int64_t n, int width,
                  std::uint8_t* codes) {
  for (std::int64_t i = begin; i < begin + n; ++i) {
    const std::uint64_t* const group = words + i / kWordBits * width;
    unsigned code = 0;
    for (int plane = 0; plane < width; ++plane) {
      code |= static_cast<unsigned>(group[plane] >> (i % kWordBits) & 1) << plane;
    }
    *codes++ = static_cast<std::uint8_t>(code);
  }
}

}  // namespace scalar

const Kernels& scalar_kernels() {
  static constexpr Kernels table{
      .name = "scalar",
      .bitmap_mark = scalar::bitmap_mark,
      .bitmap_gather = scalar::bitmap_gather,
      .bitmap_pack = scalar::bitmap_pack,
      .bitmap_unpack = scalar::bitmap_unpack,
      .relu_mask = scalar::relu_mask,
      .select = scalar::select,
      .runs_mask = scalar::runs_mask,
      .codes_pack = scalar::codes_pack,
      .codes_unpack = scalar::codes_unpack,
      .max_pool2d_nchw = scalar::max_pool2d,
      .max_pool2d_nhwc = scalar::max_pool2d,
      .max_pool2d_nchw_backward = scalar::max_pool2d_backward,
      .max_pool2d_nhwc_backward = scalar::max_pool2d_backward,
      .affine = scalar::affine,
      .affine_relu = scalar::affine_relu,
      .batch_norm_stats_nchw = scalar::batch_norm_stats_nchw,
  };
  return table;
}

}  // namespace fxpass::kernels
