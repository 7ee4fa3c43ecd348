// The bitmap kernels over whole words of 64 elements; the scalar kernels do what is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "by_type.h"
#include "lanes.h"
#include "scalar.h"
#include "stream.h"

namespace fxpass::kernels {
namespace {

template <typename L>
inline std::uint64_t lanes_of(std::uint64_t word, int first) {
  constexpr std::uint64_t kAll = (std::uint64_t{1} << L::kCount) - 1;
  return word >> first & kAll;
}

template <typename L>
inline std::uint64_t mark_word(const typename L::B* src) {
  std::uint64_t word = 0;
  for (int i = 0; i < kWordBits; i += L::kCount) {
    word |= L::bits(L::nonzero(L::load(src + i))) << i;
  }
  return word;
}

template <typename L>
inline typename L::B* gather_word(const typename L::B* src, std::uint64_t word,
                                  typename L::B* values) {
  for (int i = 0; i < kWordBits; i += L::kCount) {
    values = L::compress(values, L::load(src + i), lanes_of<L>(word, i));
  }
  return values;
}

constexpr std::uintptr_t kPrefetchBytes = 2048;

template <typename L, bool kStream>
inline const typename L::B* scatter_word(const typename L::B* values, std::uint64_t word,
                                         typename L::B* dst) {
  // Loads that cross lines, as those of whole vectors of packed values do, start no prefetching by
  // themselves on Zen 5: without this it unpacks at half the speed. A word has two lines on
  // average.
  const auto ahead = reinterpret_cast<std::uintptr_t>(values) + kPrefetchBytes;
  __builtin_prefetch(reinterpret_cast<const void*>(ahead));
  __builtin_prefetch(reinterpret_cast<const void*>(ahead + 64));
  for (int i = 0; i < kWordBits; i += L::kCount) {
    put<L, kStream>(dst + i, L::expand(values, lanes_of<L>(word, i)));
  }
  return values;
}

// The words, from the first, after which at least a vector's worth of values still follows: there
// whole vectors of values may be read and written, though the values end where they end.
template <typename L>
inline std::int64_t words_before_last_vector(const std::uint64_t* bits, std::int64_t words) {
  int values_left = 0;
  while (words > 0 && values_left < L::kCount) {
    values_left += __builtin_popcountll(bits[--words]);
  }
  return words;
}

template <typename L>
std::int64_t mark(DType dtype, const typename L::B* src, std::int64_t n, std::uint64_t* bits) {
  const std::int64_t words = n / kWordBits;
  std::int64_t total = 0;
  for (std::int64_t w = 0; w < words; ++w) {
    bits[w] = mark_word<L>(src + w * kWordBits);
    total += __builtin_popcountll(bits[w]);
  }
  const std::int64_t done = words * kWordBits;
  return total + scalar::bitmap_mark(dtype, src + done, n - done, bits + words);
}

// Packed values on their way past the caches. Compressing writes overlapping vectors at any
// alignment, which cannot be streamed: they are collected in the first-level cache, and whole
// vectors of them are streamed from there.
template <typename L>
class Staged {
 public:
  using B = typename L::B;

  explicit Staged(B* values)
      : head_(reinterpret_cast<std::uintptr_t>(values) % sizeof(typename L::V) / sizeof(B)),
        line_(values - head_),
        fill_(stage_ + head_) {}

  void add_word(const B* src, std::uint64_t word) {
    fill_ = gather_word<L>(src, word, fill_);
    if (fill_ - stage_ >= kStaged) flush();
  }

  // Where the values end, all of them being in memory.
  B* finish() {
    const auto left = static_cast<std::size_t>(fill_ - stage_);
    std::memcpy(line_ + head_, stage_ + head_, (left - head_) * sizeof(B));
    L::fence();
    return line_ + left;
  }

 private:
  static constexpr std::ptrdiff_t kStaged = 4096 / sizeof(B);

  void flush() {
    std::ptrdiff_t i = 0;
    if (head_ != 0) {  // what lies before the values is not ours to write
      std::memcpy(line_ + head_, stage_ + head_, (L::kCount - head_) * sizeof(B));
      head_ = 0;
      i = L::kCount;
    }
    for (; i < kStaged; i += L::kCount) L::stream(line_ + i, L::load(stage_ + i));
    line_ += kStaged;
    fill_ -= kStaged;
    for (i = 0; i < kWordBits; i += L::kCount) {
      L::store(stage_ + i, L::load(stage_ + kStaged + i));
    }
  }

  // A word's values may go beyond kStaged, and the last vector of a word beyond its values.
  alignas(64) B stage_[kStaged + kWordBits + L::kCount];
  std::ptrdiff_t head_;
  B* line_;
  B* fill_;
};

template <typename L>
inline bool streams_values(const typename L::B* values, std::int64_t n) {
  return L::kStreams && n * static_cast<std::int64_t>(sizeof(*values)) >= kStreamBytes &&
         reinterpret_cast<std::uintptr_t>(values) % sizeof(*values) == 0;
}

template <typename L>
void gather(DType dtype, const typename L::B* src, const std::uint64_t* bits, std::int64_t n,
            typename L::B* values) {
  std::int64_t words = n / kWordBits;
  if (streams_values<L>(values, n)) {
    Staged<L> staged(values);
    for (std::int64_t w = 0; w < words; ++w) staged.add_word(src + w * kWordBits, bits[w]);
    values = staged.finish();
  } else {
    words = words_before_last_vector<L>(bits, words);
    for (std::int64_t w = 0; w < words; ++w) {
      values = gather_word<L>(src + w * kWordBits, bits[w], values);
    }
  }
  const std::int64_t done = words * kWordBits;
  scalar::bitmap_gather(dtype, src + done, bits + words, n - done, values);
}

template <typename L>
std::int64_t pack(DType dtype, const typename L::B* src, std::int64_t n, std::uint64_t* bits,
                  typename L::B* values) {
  const std::int64_t words = n / kWordBits;
  typename L::B* out = values;
  if (streams_values<L>(values, n)) {
    Staged<L> staged(values);
    for (std::int64_t w = 0; w < words; ++w) {
      bits[w] = mark_word<L>(src + w * kWordBits);
      staged.add_word(src + w * kWordBits, bits[w]);
    }
    out = staged.finish();
  } else {
    // Values never overtake the source, so whole vectors stay inside the room for n elements.
    for (std::int64_t w = 0; w < words; ++w) {
      bits[w] = mark_word<L>(src + w * kWordBits);
      out = gather_word<L>(src + w * kWordBits, bits[w], out);
    }
  }
  const std::int64_t done = words * kWordBits;
  return out - values + scalar::bitmap_pack(dtype, src + done, n - done, bits + words, out);
}

template <typename L, bool kStream>
const typename L::B* unpack_words(const std::uint64_t* bits, std::int64_t words,
                                  const typename L::B* values, typename L::B* dst) {
  for (std::int64_t w = 0; w < words; ++w) {
    values = scatter_word<L, kStream>(values, bits[w], dst + w * kWordBits);
  }
  if constexpr (kStream) L::fence();
  return values;
}

template <typename L>
void unpack(DType dtype, const std::uint64_t* bits, std::int64_t n, const typename L::B* values,
            typename L::B* dst) {
  const std::int64_t words = words_before_last_vector<L>(bits, n / kWordBits);
  values = streams<L>(dst, n) ? unpack_words<L, true>(bits, words, values, dst)
                              : unpack_words<L, false>(bits, words, values, dst);
  const std::int64_t done = words * kWordBits;
  scalar::bitmap_unpack(dtype, bits + words, n - done, values, dst + done);
}

}  // namespace
}  // namespace fxpass::kernels
