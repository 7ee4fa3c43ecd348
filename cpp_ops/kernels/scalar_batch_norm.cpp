// The scalar batch norm kernels: the definition of what every target computes.
#include <cmath>

#include "by_type.h"
#include "scalar.h"

namespace fxpass::kernels::scalar {

// std::fma and no expression: this file's instruction set may have none, and then a product is
// rounded before its sum.
void affine(DType dtype, const Affine& f, const void* x, void* y, std::int64_t begin,
            std::int64_t end) {
  by_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto* const a = static_cast<const T*>(f.a);
    const auto* const b = static_cast<const T*>(f.b);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t c = i / f.inner % f.channels;
      static_cast<T*>(y)[i] = std::fma(static_cast<const T*>(x)[i], a[c], b[c]);
    }
  });
}

bool affine_relu(DType dtype, const Affine& f, const void* x, void* y, std::int64_t begin,
                 std::int64_t end, std::uint64_t* mask) {
  affine(dtype, f, x, y, begin, end);
  auto* const out = static_cast<std::uint8_t*>(y);
  bool negative_zero = false;
  for (std::int64_t i = begin; i < end; i += kWordBits) {
    const std::int64_t count = end - i < kWordBits ? end - i : kWordBits;
    std::uint8_t* const at = out + i * element_size(dtype);
    std::uint64_t word = 0;
    negative_zero |= relu_mask(dtype, at, at, count, &word);
    if (mask != nullptr) *mask++ = word;
  }
  return negative_zero;
}

void batch_norm_stats_nchw(DType dtype, const Planes& p, const void* x, std::int64_t first,
                           std::int64_t last, void* mean, void* var_sum) {
  by_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t c = first; c < last; ++c) {
      const auto sum = [&](auto of) {
        double total = 0;
        for (std::int64_t n = 0; n < p.images; ++n) {
          const T* const plane = static_cast<const T*>(x) + (n * p.channels + c) * p.inner;
          for (std::int64_t i = 0; i < p.inner; ++i) total += of(plane[i]);
        }
        return total;
      };
      const double total = sum([](T value) { return value; });
      const T center = static_cast<T>(total / static_cast<double>(p.images * p.inner));
      static_cast<T*>(mean)[c] = center;
      static_cast<T*>(var_sum)[c] = static_cast<T>(sum([&](T value) {
        const T difference = value - center;
        return difference * difference;
      }));
    }
  });
}

}  // namespace fxpass::kernels::scalar
