// The mask of the elements whose bit pattern lies in one of two runs, over whole words of 64.
#pragma once

#include <cstdint>

#include "by_type.h"
#include "lanes.h"
#include "scalar.h"

namespace fxpass::kernels {
namespace {

// One comparison a run, as in scalar.cpp: the patterns of the run, moved, are the least integers.
// They are compared as signed ones, so they are moved by half of all patterns more.
template <typename L, typename Format>
bool runs_mask(DType dtype, const Run (&runs)[2], const typename L::B* x, std::int64_t n,
               std::uint64_t* mask) {
  using B = typename L::B;
  constexpr B kSign = Format::kSign;
  const auto move = [](const Run& run) { return L::set(static_cast<B>(kSign - run.first)); };
  const auto end = [](const Run& run) { return L::set(static_cast<B>(kSign + run.count)); };
  const typename L::V moves[] = {move(runs[0]), move(runs[1])};
  const typename L::V ends[] = {end(runs[0]), end(runs[1])};
  // Twice a NaN, its sign shifted out, is more than twice an infinity.
  const typename L::V half = L::set(kSign);
  const typename L::V infinity = L::set(static_cast<B>(Format::kNegInf * 2 + kSign));
  const std::int64_t words = n / kWordBits;
  std::uint64_t nans = 0;
  for (std::int64_t w = 0; w < words; ++w) {
    std::uint64_t word = 0;
    for (int i = 0; i < kWordBits; i += L::kCount) {
      const typename L::V value = L::load(x + w * kWordBits + i);
      word |= (L::bits(L::greater(ends[0], L::add(value, moves[0]))) |
               L::bits(L::greater(ends[1], L::add(value, moves[1]))))
              << i;
      nans |= L::bits(L::greater(L::add(L::add(value, value), half), infinity));
    }
    mask[w] = word;
  }
  const std::int64_t done = words * kWordBits;
  return scalar::runs_mask(dtype, runs, x + done, n - done, mask + words) || nans != 0;
}

}  // namespace
}  // namespace fxpass::kernels
