// The scalar max pools. A plane of an NCHW tensor is an image of one channel in NHWC, so every
// element (ih, iw, c) is at (ih * in_w + iw) * channels + c and one function serves both layouts.
#include <cstring>
#include <limits>

#include "by_type.h"
#include "scalar.h"

namespace fxpass::kernels::scalar {
namespace {

// What ATen's clamp_min(x, 0) gives: NaN and -0.0 stay.
template <typename T>
T relu(T x) {
  return x < T{0} ? T{0} : x;
}

// One output. `image` points at its channel. Positions in the padding, or beyond the input where
// ceil_mode lets a window hang over, are skipped; the first position left is the answer as long as
// nothing is greater than -inf. A window with no position left (dilation can jump over a small
// input) gives -inf and code 0; ATen's index points outside the input there.
template <typename T>
void pool_one(const Pool2d& p, const T* image, std::int64_t oh, std::int64_t ow, T* out,
              std::uint8_t* code) {
  T best = -std::numeric_limits<T>::infinity();
  std::int64_t best_code = 0;
  for (std::int64_t kh = 0; kh < p.kernel_h; ++kh) {
    const std::int64_t ih = oh * p.stride_h - p.pad_h + kh * p.dilation_h;
    if (ih < 0 || ih >= p.in_h) continue;
    for (std::int64_t kw = 0; kw < p.kernel_w; ++kw) {
      const std::int64_t iw = ow * p.stride_w - p.pad_w + kw * p.dilation_w;
      if (iw < 0 || iw >= p.in_w) continue;
      T value = image[(ih * p.in_w + iw) * p.channels];
      if (p.fused_relu) value = relu(value);
      const bool is_nan = value != value;
      if (value > best || is_nan || best_code == 0) {
        // Only -inf fails both tests; as the first it becomes the maximum all the same.
        best = value;
        best_code = 1 + kh * p.kernel_w + kw;
      }
    }
  }
  *out = best;
  *code = p.fused_relu && best <= T{0} ? 0 : static_cast<std::uint8_t>(best_code);
}

// Adds one gradient per output where its code points. Codes that point nowhere (0; those of a
// damaged payload; a position in the padding) are dropped.
template <typename T>
void scatter(const Pool2d& p, const T* grad_out, const std::uint8_t* codes, T* grad_in) {
  // The distance of a code's position from the window's first one, or -1.
  std::int64_t offsets[256];
  const std::int64_t positions = p.kernel_h * p.kernel_w;
  for (std::int64_t code = 0; code < 256; ++code) {
    const std::int64_t kh = (code - 1) / p.kernel_w;
    const std::int64_t kw = (code - 1) % p.kernel_w;
    offsets[code] = code == 0 || code > positions
                        ? -1
                        : (kh * p.dilation_h * p.in_w + kw * p.dilation_w) * p.channels;
  }
  T sink{0};
  const std::int64_t reach_h = (p.kernel_h - 1) * p.dilation_h;
  const std::int64_t reach_w = (p.kernel_w - 1) * p.dilation_w;
  for (std::int64_t oh = 0; oh < p.out_h; ++oh) {
    const std::int64_t ih0 = oh * p.stride_h - p.pad_h;
    for (std::int64_t ow = 0; ow < p.out_w; ++ow) {
      const std::int64_t iw0 = ow * p.stride_w - p.pad_w;
      const std::int64_t first = (ih0 * p.in_w + iw0) * p.channels;
      const bool inside =
          ih0 >= 0 && ih0 + reach_h < p.in_h && iw0 >= 0 && iw0 + reach_w < p.in_w;
      for (std::int64_t c = 0; c < p.channels; ++c) {
        const std::uint8_t code = *codes++;
        std::int64_t offset = offsets[code];
        if (!inside && offset >= 0) {
          const std::int64_t ih = ih0 + (code - 1) / p.kernel_w * p.dilation_h;
          const std::int64_t iw = iw0 + (code - 1) % p.kernel_w * p.dilation_w;
          if (ih < 0 || ih >= p.in_h || iw < 0 || iw >= p.in_w) offset = -1;
        }
        // Written without a branch: whether a gradient passes is as good as random. The sum so
        // far is the first operand, so of two NaNs the first one's payload stays, as in ATen.
        T* const target = offset >= 0 ? grad_in + (first + offset + c) : &sink;
        *target = *target + *grad_out++;
      }
    }
  }
}

}  // namespace

void max_pool2d_one(const Pool2d& p, const float* image, std::int64_t oh, std::int64_t ow,
                    float* out, std::uint8_t* code) {
  pool_one(p, image, oh, ow, out, code);
}

void max_pool2d_one(const Pool2d& p, const double* image, std::int64_t oh, std::int64_t ow,
                    double* out, std::uint8_t* code) {
  pool_one(p, image, oh, ow, out, code);
}

void max_pool2d(DType dtype, const Pool2d& p, const void* x, void* out, std::uint8_t* codes,
                std::int64_t begin, std::int64_t end) {
  by_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t image_size = p.in_h * p.in_w * p.channels;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t c = i % p.channels;
      const std::int64_t pixel = i / p.channels;
      const std::int64_t ow = pixel % p.out_w;
      const std::int64_t oh = pixel / p.out_w % p.out_h;
      const std::int64_t image = pixel / p.out_w / p.out_h;
      pool_one(p, static_cast<const T*>(x) + image * image_size + c, oh, ow,
               static_cast<T*>(out) + i, codes + (i - begin));
    }
  });
}

void max_pool2d_backward(DType dtype, const Pool2d& p, const void* grad_out,
                         const std::uint8_t* codes, void* grad_in) {
  by_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    std::memset(grad_in, 0, p.in_h * p.in_w * p.channels * sizeof(T));
    scatter(p, static_cast<const T*>(grad_out), codes, static_cast<T*>(grad_in));
  });
}

}  // namespace fxpass::kernels::scalar
