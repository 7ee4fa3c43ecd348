// One multiplication and one addition a channel, with or without a ReLU after them.
//
// A vector holds neighbours of the flat tensor, whichever channels they belong to, so that every
// one is full and lies as the tensor does. A walk gives the coefficients of one vector after the
// other: LongRuns where a plane is at least a vector long, ShortRuns where it is not.
#pragma once

#include <cstdint>
#include <type_traits>

#include "pool-inl.h"
#include "stream.h"

namespace fxpass::kernels {
namespace {

template <typename L>
struct Coefficients {
  typename L::V a, b;
};

// Planes of at least a vector: a vector belongs to one channel, or to two.
template <typename L>
class LongRuns {
 public:
  using T = typename L::T;

  LongRuns(const Affine& f, std::int64_t begin)
      : a_(static_cast<const T*>(f.a)),
        b_(static_cast<const T*>(f.b)),
        channels_(f.channels),
        inner_(f.inner),
        channel_(begin / f.inner % f.channels),
        left_(f.inner - begin % f.inner),
        current_{L::set(a_[channel_]), L::set(b_[channel_])} {}

  Coefficients<L> next() {
    if (left_ >= L::kCount) {
      left_ -= L::kCount;
      return current_;
    }
    const Coefficients<L> last = current_;
    if (++channel_ == channels_) channel_ = 0;
    current_ = {L::set(a_[channel_]), L::set(b_[channel_])};
    const typename L::Mask m = L::first(static_cast<int>(left_));
    left_ += inner_ - L::kCount;
    return {L::choose(m, last.a, current_.a), L::choose(m, last.b, current_.b)};
  }

 private:
  const T *a_, *b_;
  std::int64_t channels_, inner_, channel_;
  std::int64_t left_;  // elements of channel_ that no vector has had yet
  Coefficients<L> current_;
};

// Planes shorter than a vector: its lanes take theirs from the kCount channels that start with the
// first lane's. kSingle: planes of one element, so that these are they.
template <typename L, bool kSingle>
class ShortRuns {
 public:
  using T = typename L::T;

  ShortRuns(const Affine& f, std::int64_t begin)
      : a_(static_cast<const T*>(f.a)),
        b_(static_cast<const T*>(f.b)),
        channels_(f.channels),
        inner_(f.inner),
        seam_(most(f.channels - L::kCount, 0)),
        channel_(begin / f.inner % f.channels),
        position_(begin % f.inner) {
    for (std::int64_t j = 0, c = seam_; j < 2 * L::kCount; ++j) {
      seam_a_[j] = a_[c];
      seam_b_[j] = b_[c];
      if (++c == channels_) c = 0;
    }
    if constexpr (kSingle) return;
    for (std::int64_t start = 0; start < inner_; ++start) {
      for (std::int64_t j = 0; j < L::kCount; ++j) {
        offsets_[start][j] = static_cast<Offset>((start + j) / inner_);
      }
    }
  }

  Coefficients<L> next() {
    const bool whole = channel_ + L::kCount <= channels_;
    Coefficients<L> now{L::load(whole ? a_ + channel_ : seam_a_ + (channel_ - seam_)),
                        L::load(whole ? b_ + channel_ : seam_b_ + (channel_ - seam_))};
    channel_ += step_;
    if constexpr (!kSingle) {
      now = {L::pick(now.a, offsets_[position_]), L::pick(now.b, offsets_[position_])};
      position_ += L::kCount % inner_;
      if (position_ >= inner_) {
        position_ -= inner_;
        ++channel_;
      }
    }
    if (channel_ >= channels_) channel_ -= channels_;
    return now;
  }

 private:
  using Offset = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;

  const T *a_, *b_;
  std::int64_t channels_, inner_;
  std::int64_t seam_;  // the channel from which on kCount of them go past the last
  std::int64_t channel_, position_;
  std::int64_t step_ = L::kCount / inner_ % channels_;
  T seam_a_[2 * L::kCount], seam_b_[2 * L::kCount];  // from channel seam_, the first after the last
  Offset offsets_[kSingle ? 1 : L::kCount][L::kCount];
};

template <typename L, bool kRelu, bool kStream, typename Walk>
bool affine_words(const typename L::T* x, typename L::T* y, std::int64_t begin, std::int64_t end,
                  Walk walk, std::uint64_t* mask) {
  using V = typename L::V;
  std::uint64_t negative_zeros = 0;
  const auto one = [&](V value, int bit, std::uint64_t& word) {
    const Coefficients<L> k = walk.next();
    const V result = L::fma(value, k.a, k.b);
    if constexpr (!kRelu) return result;
    word |= L::bits(L::passes(result)) << bit;
    negative_zeros |= L::bits(L::negative_zero(result)) << bit;
    return L::relu(result);
  };
  std::int64_t i = begin;
  for (; i + kWordBits <= end; i += kWordBits) {
    std::uint64_t word = 0;
    for (int j = 0; j < kWordBits; j += L::kCount) {
      put<L, kStream>(y + i + j, one(L::load(x + i + j), j, word));
    }
    if (kRelu && mask != nullptr) *mask++ = word;
  }
  if constexpr (kStream) L::fence();
  if (i == end) return negative_zeros != 0;
  const std::uint64_t before = negative_zeros;
  negative_zeros = 0;
  std::uint64_t word = 0;
  for (int j = 0; i + j < end; j += L::kCount) {
    store_up_to<L>(y + i + j, one(load_up_to<L>(x + i + j, end - i - j), j, word), end - i - j);
  }
  // Lanes past the end had a zero for their x.
  const std::uint64_t elements = (std::uint64_t{1} << (end - i)) - 1;
  if (kRelu && mask != nullptr) *mask = word & elements;
  return (before | (negative_zeros & elements)) != 0;
}

template <typename L, bool kRelu>
bool affine(const Affine& f, const typename L::T* x, typename L::T* y, std::int64_t begin,
            std::int64_t end, std::uint64_t* mask) {
  if (begin >= end) return false;
  const auto run = [&](auto walk) {
    return x != y && streams<L>(y + begin, end - begin)
               ? affine_words<L, kRelu, true>(x, y, begin, end, walk, mask)
               : affine_words<L, kRelu, false>(x, y, begin, end, walk, mask);
  };
  if (f.inner >= L::kCount) return run(LongRuns<L>(f, begin));
  if (f.inner == 1) return run(ShortRuns<L, true>(f, begin));
  return run(ShortRuns<L, false>(f, begin));
}

}  // namespace
}  // namespace fxpass::kernels
