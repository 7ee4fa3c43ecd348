// The statistics of a batch norm over planes. Each channel's sum is one chain of additions, whose
// order the result shows, and each waits for the last; so many channels are summed side by side.
#pragma once

#include <cstdint>

#include "columns.h"
#include "kernels.h"

namespace fxpass::kernels {
namespace {

template <typename C>
struct Channels {
  static constexpr int kCount = C::kPlanes * C::kGroups;
  using T = typename C::T;
  using V = typename C::V;

  const T* planes[kCount];  // of the first image
  std::int64_t images, image_size, inner;

  // Sums of f(value, group) over each channel's elements, one after the other.
  template <typename F>
  void sum(F f, double* sums) const {
    const T* at[kCount];
    for (int r = 0; r < kCount; ++r) at[r] = planes[r];
    typename C::Sum chains[C::kGroups];
    for (auto& chain : chains) chain = C::zero();
    for (std::int64_t n = 0; n < images; ++n) {
      std::int64_t i = 0;
      for (; i + 4 <= inner; i += 4) take_four(at, i, 0, f, chains);
      if (i < inner && inner >= 4) {
        take_four(at, inner - 4, static_cast<int>(i - (inner - 4)), f, chains);
      } else {
        for (; i < inner; ++i) {
          for (int g = 0; g < C::kGroups; ++g) {
            chains[g] = C::add(chains[g], f(C::column(at + g * C::kPlanes, i), g));
          }
        }
      }
      for (const T*& plane : at) plane += image_size;
    }
    for (int g = 0; g < C::kGroups; ++g) C::store(sums + g * C::kPlanes, chains[g]);
  }

 private:
  // Elements i + skip ... i + 3.
  template <typename F>
  static void take_four(const T* const* at, std::int64_t i, int skip, F f,
                        typename C::Sum* chains) {
    V columns[C::kGroups][4];
    for (int g = 0; g < C::kGroups; ++g) C::four(at + g * C::kPlanes, i, columns[g]);
    for (int j = skip; j < 4; ++j) {
      for (int g = 0; g < C::kGroups; ++g) chains[g] = C::add(chains[g], f(columns[g][j], g));
    }
  }
};

template <typename C>
void stats_nchw(const Planes& p, const typename C::T* x, std::int64_t first, std::int64_t last,
                typename C::T* mean, typename C::T* var_sum) {
  using T = typename C::T;
  using V = typename C::V;
  constexpr int kCount = Channels<C>::kCount;
  const double n = static_cast<double>(p.images * p.inner);
  for (std::int64_t c = first; c < last; c += kCount) {
    Channels<C> group{{}, p.images, p.channels * p.inner, p.inner};
    for (int r = 0; r < kCount; ++r) {
      // What is left of the last group is filled with its last channel.
      const std::int64_t channel = c + r < last ? c + r : last - 1;
      group.planes[r] = x + channel * p.inner;
    }
    double sums[kCount];
    T means[kCount];
    group.sum([](V v, int) { return v; }, sums);
    for (int r = 0; r < kCount; ++r) means[r] = static_cast<T>(sums[r] / n);
    V from[C::kGroups];
    for (int g = 0; g < C::kGroups; ++g) from[g] = C::load(means + g * C::kPlanes);
    group.sum([&](V v, int g) { return C::square_from(v, from[g]); }, sums);
    for (int r = 0; r < kCount && c + r < last; ++r) {
      mean[c + r] = means[r];
      var_sum[c + r] = static_cast<T>(sums[r]);
    }
  }
}

}  // namespace
}  // namespace fxpass::kernels
