#include "saved/pieces.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <bit>
#include <cmath>

#include "saved/codec.h"
#include "saved/mask.h"
#include "saved/tensors.h"
#include "saved/tiles.h"

namespace fxpass {
namespace {

// The number that a bit pattern stands for.
double value_of(std::uint64_t pattern, at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return c10::Half(static_cast<std::uint16_t>(pattern), c10::Half::from_bits());
    case at::kBFloat16:
      return c10::BFloat16(static_cast<std::uint16_t>(pattern), c10::BFloat16::from_bits());
    case at::kFloat:
      return std::bit_cast<float>(static_cast<std::uint32_t>(pattern));
    default:
      return std::bit_cast<double>(pattern);
  }
}

std::uint64_t pattern_of_infinity(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return 0x7c00;
    case at::kBFloat16:
      return 0x7f80;
    case at::kFloat:
      return 0x7f800000;
    default:
      return 0x7ff0000000000000;
  }
}

// Numbers without a sign, as bit patterns [begin, end): those grow as the numbers do.
struct Magnitudes {
  std::uint64_t begin, end;
};

// How many magnitudes are less than the bound, or equal to it if `or_equal`.
std::uint64_t count_below(double bound, bool or_equal, at::ScalarType dtype) {
  std::uint64_t low = 0, high = pattern_of_infinity(dtype) + 1;
  while (low < high) {
    const auto middle = low + (high - low) / 2;
    const auto value = value_of(middle, dtype);
    if (value < bound || (or_equal && value == bound)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

Magnitudes between(double low, double high, bool closed, at::ScalarType dtype) {
  const auto begin = count_below(low, !closed, dtype);
  return {begin, std::max(begin, count_below(high, closed, dtype))};
}

// What differs from a zero, in that one of the two lies in the interval and the other does not.
struct Marked {
  Magnitudes positive, negative;
  bool inside;  // it is these that lie in the interval
};

Marked marked_by(const Interval& interval, at::ScalarType dtype) {
  const auto low = interval.low, high = interval.high;
  const auto closed = interval.closed;
  Marked found{between(low, high, closed, dtype), between(-high, -low, closed, dtype), true};
  if (found.positive.begin == 0 && found.positive.end > 0) {
    // A zero lies inside, and so does what comes before the end on either side.
    const auto all = pattern_of_infinity(dtype) + 1;
    found = {{found.positive.end, all}, {found.negative.end, all}, false};
  }
  return found;
}

// A bound as ATen's kernels read it: what they compute of 16 bits they compute in float.
double as_read(double bound, bool rounded, at::ScalarType dtype) {
  if (dtype == at::kDouble) return bound;
  if (rounded && dtype == at::kHalf) return static_cast<c10::Half>(static_cast<float>(bound));
  if (rounded && dtype == at::kBFloat16) {
    return static_cast<c10::BFloat16>(static_cast<float>(bound));
  }
  return static_cast<float>(bound);
}

}  // namespace

bool PieceMask::keep(const at::Tensor& x, const BoundActivation& activation) {
  kept_ = false;
  if (activation.op->interval == nullptr || !codec::is_flat(x)) return false;
  dtype_ = x.scalar_type();
  auto interval = activation.op->interval(activation.args);
  interval.low = as_read(interval.low, interval.rounded, dtype_);
  interval.high = as_read(interval.high, interval.rounded, dtype_);
  if (std::isnan(interval.low) || std::isnan(interval.high)) return false;
  const auto [positive, negative, inside] = marked_by(interval, dtype_);

  const auto n = x.numel();
  const auto dtype = *codec::kernel_dtype(dtype_);
  const auto size = element_size(dtype);
  const auto sign = std::uint64_t{1} << (8 * size - 1);
  const kernels::Run runs[] = {{positive.begin, positive.end - positive.begin},
                               {sign + negative.begin, negative.end - negative.begin}};
  const auto mask = codec::new_words(x, kernels::words_for(n));
  auto* bits = codec::words(mask);
  const auto* src = static_cast<const char*>(x.const_data_ptr());
  std::atomic<bool> nan{false};
  at::parallel_for(0, mask.numel(), codec::kGrainWords, [&](std::int64_t first, std::int64_t last) {
    const auto begin = first * kernels::kWordBits, end = std::min(last * kernels::kWordBits, n);
    if (kernels::kernels().runs_mask(dtype, runs, src + begin * size, end - begin, bits + first)) {
      nan = true;
    }
  });
  if (nan) return false;

  mask_ = torch::autograd::SavedVariable(mask, /*is_output=*/false);
  geometry_ = Geometry::of(x);
  canonical_ = has_canonical_strides(x);
  marked_pass_ = inside != interval.closed;
  if (runs[0].count > 0) {
    marked_ = value_of(positive.end - 1, dtype_);
  } else if (runs[1].count > 0) {
    marked_ = -value_of(negative.end - 1, dtype_);
  }
  return kept_ = true;
}

at::Tensor PieceMask::mask() const {
  auto mask = mask_.unpack();
  codec::check_words(mask, kernels::words_for(c10::multiply_integers(geometry_.sizes)),
                     "fxpass::activation");
  return mask;
}

at::Tensor PieceMask::backward(at::Tensor grad, const BoundActivation& activation) const {
  const auto bits = mask();
  const bool is_like = canonical_ && grad.scalar_type() == dtype_ && codec::is_flat(grad) &&
                       grad.sizes() == at::IntArrayRef(geometry_.sizes) &&
                       grad.strides() == at::IntArrayRef(geometry_.strides);
  if (is_like && activation.op->selects && kernels_select_as_aten(dtype_)) {
    const auto passes = marked_pass_ ? bits : bits.bitwise_not();
    const auto out = is_mine(grad) ? grad : at::empty_like(grad);
    select_into(grad, passes, out);
    return out;
  }
  const StandIn x(bits, marked_, dtype_);
  if (is_like && activation.op->by_element) {
    return backward_in_tiles(
        std::move(grad), activation,
        [&](std::int64_t begin, std::int64_t end) { return x.tile(begin, end); });
  }
  return activation.op->backward(grad, x.whole(geometry_), activation.args);
}

}  // namespace fxpass
