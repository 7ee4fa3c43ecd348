#include "saved/mask.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "saved/codec.h"
#include "saved/rows.h"
#include "saved/tensors.h"
#include "saved/tiles.h"

namespace fxpass {

bool kernels_select_as_aten(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble;
}

namespace {

ReluMask relu_by_kernels(const at::Tensor& x, const at::Tensor& y) {
  const auto n = x.numel();
  const auto dtype = *codec::kernel_dtype(x.scalar_type());
  const auto size = element_size(dtype);
  auto mask = codec::new_words(x, kernels::words_for(n));
  auto* bits = codec::words(mask);
  const auto* src = static_cast<const char*>(x.const_data_ptr());
  auto* dst = static_cast<char*>(y.data_ptr());
  std::atomic<bool> negative_zero{false};
  at::parallel_for(0, mask.numel(), codec::kGrainWords, [&](std::int64_t first, std::int64_t last) {
    const auto begin = first * kernels::kWordBits, end = std::min(last * kernels::kWordBits, n);
    if (kernels::kernels().relu_mask(dtype, src + begin * size, dst + begin * size, end - begin,
                                     bits + first)) {
      negative_zero = true;
    }
  });
  return {std::move(mask), negative_zero};
}

// Both zeros, infinities and NaNs of both signs and kinds, in vectors and in what is left over.
template <typename T, typename Bits>
bool relu_is_atens(const at::TensorOptions& options) {
  constexpr auto kInf = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
  constexpr auto kSign = std::bit_cast<Bits>(T(-0.0));
  constexpr auto kQuiet = std::bit_cast<Bits>(std::numeric_limits<T>::quiet_NaN());
  constexpr std::array kSpecial = {kSign,
                                   Bits(kInf | 1),
                                   Bits(kSign | kInf | 1),
                                   Bits(kQuiet | 1),
                                   Bits(kSign | kQuiet | 1),
                                   Bits(kSign | 1),
                                   Bits(kSign | kInf)};
  const auto x = at::empty({131}, options), ours = at::empty_like(x);
  auto* bits = reinterpret_cast<Bits*>(x.mutable_data_ptr<T>());
  for (std::int64_t i = 0; i < x.numel(); ++i) bits[i] = kSpecial[i % kSpecial.size()];
  relu_by_kernels(x, ours);
  return std::memcmp(at::relu(x).const_data_ptr(), ours.const_data_ptr(), x.nbytes()) == 0;
}

}  // namespace

bool kernels_relu_as_aten(at::ScalarType dtype) {
  if (!kernels_select_as_aten(dtype)) return false;
  const at::AutoDispatchBelowADInplaceOrView below;
  if (dtype == at::kFloat) {
    static const bool proven = relu_is_atens<float, std::uint32_t>(at::kFloat);
    return proven;
  }
  static const bool proven = relu_is_atens<double, std::uint64_t>(at::kDouble);
  return proven;
}

ReluMask relu_with_mask(const at::Tensor& x, const at::Tensor& y) {
  if (kernels_relu_as_aten(x.scalar_type())) return relu_by_kernels(x, y);
  auto out = y;
  at::relu_out(out, x);
  return mask_of_result(y);
}

ReluMask mask_of_result(const at::Tensor& y) { return relu_by_kernels(y, y); }

void select_into(const at::Tensor& grad, const at::Tensor& mask, const at::Tensor& out) {
  const auto n = grad.numel();
  const auto dtype = *codec::kernel_dtype(grad.scalar_type());
  const auto size = element_size(dtype);
  const auto* src = static_cast<const char*>(grad.const_data_ptr());
  auto* dst = static_cast<char*>(out.data_ptr());
  at::parallel_for(0, mask.numel(), codec::kGrainWords, [&](std::int64_t first, std::int64_t last) {
    const auto begin = first * kernels::kWordBits, end = std::min(last * kernels::kWordBits, n);
    kernels::kernels().select(dtype, src + begin * size, codec::words(mask) + first, end - begin,
                              dst + begin * size);
  });
}

namespace {

// The same from a gradient with gaps, which is copied a piece at a time into the cache.
void select_rows_into(const Rows& rows, const at::Tensor& mask, const at::Tensor& out) {
  const auto n = out.numel();
  const auto dtype = *codec::kernel_dtype(out.scalar_type());
  const auto size = element_size(dtype);
  auto* dst = static_cast<char*>(out.data_ptr());
  at::parallel_for(0, mask.numel(), codec::kGrainWords, [&](std::int64_t first, std::int64_t last) {
    for (auto word = first; word < last; word += codec::kGrainWords) {
      const auto until = std::min(word + codec::kGrainWords, last);
      const auto begin = word * kernels::kWordBits, end = std::min(until * kernels::kWordBits, n);
      rows.copy(begin, end, dst + begin * size);
      kernels::kernels().select(dtype, dst + begin * size, codec::words(mask) + word, end - begin,
                                dst + begin * size);
    }
  });
}

bool all_differ(std::vector<std::int64_t> strides) {
  std::ranges::sort(strides);
  return std::ranges::adjacent_find(strides) == strides.end();
}

}  // namespace

StandIn::StandIn(at::Tensor mask, double value, at::ScalarType dtype)
    : mask_(std::move(mask)),
      value_(at::full({std::min(kTile + kernels::kWordBits, mask_.numel() * kernels::kWordBits)},
                      value, at::TensorOptions().dtype(dtype).device(mask_.device()))) {}

at::Tensor StandIn::whole(const Geometry& geometry) const {
  auto out = at::empty_strided(geometry.sizes, geometry.strides, value_.options());
  if (out.numel() > 0) out.copy_(value_[0]);
  select_into(out, mask_, out);
  return out;
}

at::Tensor StandIn::tile(std::int64_t begin, std::int64_t end) const {
  const auto word = begin / kernels::kWordBits, before = begin % kernels::kWordBits;
  const auto out = at::empty({before + end - begin}, value_.options());
  kernels::kernels().select(*codec::kernel_dtype(value_.scalar_type()), value_.const_data_ptr(),
                            codec::words(mask_) + word, out.numel(), out.data_ptr());
  return flat_part(out, before, out.numel());
}

MaskSaved::MaskSaved(const at::Tensor& y, const at::Tensor& mask)
    : mask_(mask, /*is_output=*/false),
      result_(y),
      geometry_(Geometry::of(y)),
      dtype_(y.scalar_type()),
      canonical_(has_canonical_strides(y)) {}

at::Tensor MaskSaved::select(at::Tensor grad, const char* op) const {
  const auto mask = mask_.unpack();
  result_.check_unmodified(op);
  codec::check_words(mask, kernels::words_for(c10::multiply_integers(geometry_.sizes)), op);
  const at::IntArrayRef strides = geometry_.strides;
  const bool is_like = canonical_ && grad.sizes() == at::IntArrayRef(geometry_.sizes) &&
                       codec::is_plain(grad) && grad.scalar_type() == dtype_;
  const bool by_kernels = is_like && kernels_select_as_aten(dtype_);
  if (by_kernels && grad.strides() == strides) {
    const auto out = is_mine(grad) ? grad : at::empty_like(grad);
    select_into(grad, mask, out);
    return out;
  }
  // ATen's op gives its result the strides of the ReLU's, in whose order it goes through memory. Of
  // two that are equal, one of a size of 1, the gradient's decide which comes first.
  if (by_kernels && all_differ(geometry_.strides)) {
    const auto rows = Rows::of(grad, strides);
    const auto out = at::empty_strided(grad.sizes(), strides, grad.options());
    if (rows) {
      select_rows_into(*rows, mask, out);
    } else {
      out.copy_(grad);
      select_into(out, mask, out);
    }
    return out;
  }
  const StandIn result(mask, 1, dtype_);
  if (is_like && grad.strides() == strides) {
    static const BoundActivation relu{&activation_named("relu", 0), {}};
    return backward_in_tiles(std::move(grad), relu, [&](std::int64_t begin, std::int64_t end) {
      return result.tile(begin, end);
    });
  }
  return at::threshold_backward(grad, result.whole(geometry_), 0);
}

}  // namespace fxpass
