// What the vector pools of both layouts share.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "pool_lanes.h"

namespace fxpass::kernels {
namespace {

constexpr int kMostPositions = 255;  // of a window

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// One axis of a pool.
struct Axis {
  std::int64_t in, out, kernel, stride, pad, dilation;

  std::int64_t first(std::int64_t o) const { return o * stride - pad; }
  std::int64_t reach() const { return (kernel - 1) * dilation; }
};

inline Axis height(const Pool2d& p) {
  return {p.in_h, p.out_h, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h};
}
inline Axis width(const Pool2d& p) {
  return {p.in_w, p.out_w, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w};
}

struct Range {
  std::int64_t begin, end;
  bool empty() const { return begin >= end; }
};

// The window positions k of output o that lie in the input: one range, since they ascend.
inline Range positions_inside(const Axis& a, std::int64_t o) {
  const std::int64_t first = a.first(o);
  if (first >= 0 && first + a.reach() < a.in) return {0, a.kernel};
  Range range{0, a.kernel};
  while (range.begin < range.end && first + range.begin * a.dilation < 0) ++range.begin;
  while (range.begin < range.end && first + (range.end - 1) * a.dilation >= a.in) --range.end;
  return range;
}

// The outputs whose windows lie wholly inside the input.
inline Range outputs_inside(const Axis& a) {
  const std::int64_t begin = (a.pad + a.stride - 1) / a.stride;
  const std::int64_t room = a.in - 1 - a.reach() + a.pad;
  const std::int64_t end = room < 0 ? 0 : room / a.stride + 1;
  return {least(begin, a.out), least(end, a.out)};
}

// Output `out` has the input coordinate at its window position `k`.
struct Cover {
  std::int64_t out, k;
};

// All windows that cover an input coordinate, by increasing output. `covers` has room for
// a.kernel of them. Returns how many there are.
inline int covering(const Axis& a, std::int64_t i, Cover* covers) {
  const std::int64_t last = least((i + a.pad) / a.stride, a.out - 1);
  // The least output whose last position reaches i; its quotient is of no negative number.
  const std::int64_t short_of = i + a.pad - a.reach();
  std::int64_t out = short_of <= 0 ? 0 : (short_of + a.stride - 1) / a.stride;
  int count = 0;
  for (; out <= last; ++out) {
    const std::int64_t distance = i - a.first(out);
    if (a.dilation == 1) {
      covers[count++] = {out, distance};
    } else if (distance % a.dilation == 0) {
      covers[count++] = {out, distance / a.dilation};
    }
  }
  return count;
}

// As many lanes as there are elements, zero in the others.
template <typename L>
inline typename L::V load_up_to(const typename L::T* p, std::int64_t available) {
  if (available >= L::kCount) return L::load(p);
  return L::load_lanes(p, 0, static_cast<int>(most(available, 0)));
}

template <typename L>
inline void store_up_to(typename L::T* p, typename L::V v, std::int64_t room) {
  if (room >= L::kCount) return L::store(p, v);
  if (room > 0) L::store_n(p, v, static_cast<int>(room));
}

template <typename L>
inline void store_codes_up_to(std::uint8_t* p, typename L::Codes codes, std::int64_t room) {
  if (room >= L::kCount) return L::store_codes(p, codes);
  if (room > 0) L::store_codes_n(p, codes, static_cast<int>(room));
}

// The maxima so far of as many windows as there are lanes.
template <typename L, bool kRelu>
struct Maxima {
  typename L::V best;
  typename L::Codes code;

  // The first position is the answer as long as nothing is greater than -inf.
  explicit Maxima(std::int64_t first_code)
      : best(L::set(-__builtin_inf())), code(L::codes(static_cast<int>(first_code))) {}

  void take(typename L::V value, std::int64_t value_code) {
    if constexpr (kRelu) value = L::relu(value);
    const typename L::Mask m = L::better(value, best);
    best = L::choose(m, value, best);
    code = L::choose(m, L::codes(static_cast<int>(value_code)), code);
  }
  typename L::Codes codes() const {
    if constexpr (kRelu) return L::choose(L::passes(best), code, L::codes(0));
    return code;
  }
};

}  // namespace
}  // namespace fxpass::kernels
