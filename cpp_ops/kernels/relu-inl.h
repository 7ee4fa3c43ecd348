// ReLU with its mask, and the select by a mask, over whole words of 64 elements.
#pragma once

#include <cstdint>

#include "by_type.h"
#include "lanes.h"
#include "scalar.h"
#include "stream.h"

namespace fxpass::kernels {
namespace {

// relu in integers, as in scalar.cpp, with one comparison: the patterns to be zeroed, kSign + 1 ...
// kNegInf, become the least signed integers once 1 is subtracted.
template <typename L, typename Format, bool kStream>
bool relu_words(const typename L::B* x, typename L::B* y, std::int64_t words, std::uint64_t* mask) {
  using B = typename L::B;
  const typename L::V minus_one = L::set(static_cast<B>(-1));
  const typename L::V limit = L::set(static_cast<B>(Format::kNegInf - 1));
  const typename L::V negative_zero = L::set(Format::kSign);
  const typename L::V zero = L::set(B{0});
  std::uint64_t negative_zeros = 0;
  for (std::int64_t w = 0; w < words; ++w) {
    std::uint64_t word = 0;
    for (int i = 0; i < kWordBits; i += L::kCount) {
      const typename L::V value = L::load(x + w * kWordBits + i);
      const auto keep = L::greater(L::add(value, minus_one), limit);
      const auto zeros = L::equal(L::add(value, value), zero);  // of either sign
      put<L, kStream>(y + w * kWordBits + i, L::keep(value, keep));
      word |= (L::bits(keep) & ~L::bits(zeros)) << i;
      negative_zeros |= L::bits(L::equal(value, negative_zero));
    }
    mask[w] = word;
  }
  if constexpr (kStream) L::fence();
  return negative_zeros != 0;
}

template <typename L, typename Format>
bool relu(DType dtype, const typename L::B* x, typename L::B* y, std::int64_t n,
          std::uint64_t* mask) {
  const std::int64_t words = n / kWordBits;
  const std::int64_t done = words * kWordBits;
  const bool found = x != y && streams<L>(y, n) ? relu_words<L, Format, true>(x, y, words, mask)
                                                : relu_words<L, Format, false>(x, y, words, mask);
  return scalar::relu_mask(dtype, x + done, y + done, n - done, mask + words) || found;
}

template <typename L, bool kStream>
void select_words(const typename L::B* grad, const std::uint64_t* mask, std::int64_t words,
                  typename L::B* out) {
  for (std::int64_t w = 0; w < words; ++w) {
    for (int i = 0; i < kWordBits; i += L::kCount) {
      const typename L::V value = L::load(grad + w * kWordBits + i);
      put<L, kStream>(out + w * kWordBits + i, L::keep(value, L::mask(mask[w] >> i)));
    }
  }
  if constexpr (kStream) L::fence();
}

template <typename L>
void select(DType dtype, const typename L::B* grad, const std::uint64_t* mask, std::int64_t n,
            typename L::B* out) {
  const std::int64_t words = n / kWordBits;
  const std::int64_t done = words * kWordBits;
  if (grad != out && streams<L>(out, n)) {
    select_words<L, true>(grad, mask, words, out);
  } else {
    select_words<L, false>(grad, mask, words, out);
  }
  scalar::select(dtype, grad + done, mask + words, n - done, out + done);
}

}  // namespace
}  // namespace fxpass::kernels
