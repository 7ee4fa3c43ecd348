// The scalar max pools. A plane of an NCHW tensor is an image of one channel in NHWC, so every
// element (ih, iw, c) is at (ih * in_w + iw) * channels + c and one function serves both layouts.
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "by_type.h"
#include "scalar.h"

namespace fxpass::kernels::scalar {
namespace {

std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// What ATen's clamp_min(x, 0) gives: NaN and -0.0 stay.
template <typename T>
T relu(T x) {
  return x < T{0} ? T{0} : x;
}

// condition ? a : b without a branch: which of two values is greater is as good as random. The
// types are integers and the bit patterns of T.
template <typename I>
I choose(bool condition, I a, I b) {
  return b ^ ((a ^ b) & -static_cast<I>(condition));
}

template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;

// The outputs of channels [begin, end) at one place of one image. Positions in the padding, or
// beyond the input where ceil_mode lets a window hang over, are skipped; the first position left is
// the answer as long as nothing is greater than -inf. A window with no position left (dilation can
// jump over a small input) gives -inf and code 0; ATen's index points outside the input there.
template <typename T>
void pool_pixel(const Pool2d& p, const T* image, std::int64_t oh, std::int64_t ow,
                std::int64_t begin, std::int64_t end, T* out, std::uint8_t* codes) {
  const std::int64_t ih0 = oh * p.stride_h - p.pad_h;
  const std::int64_t iw0 = ow * p.stride_w - p.pad_w;
  std::int64_t kh_begin = 0, kh_end = p.kernel_h, kw_begin = 0, kw_end = p.kernel_w;
  while (kh_begin < kh_end && ih0 + kh_begin * p.dilation_h < 0) ++kh_begin;
  while (kh_begin < kh_end && ih0 + (kh_end - 1) * p.dilation_h >= p.in_h) --kh_end;
  while (kw_begin < kw_end && iw0 + kw_begin * p.dilation_w < 0) ++kw_begin;
  while (kw_begin < kw_end && iw0 + (kw_end - 1) * p.dilation_w >= p.in_w) --kw_end;
  const bool empty = kh_begin == kh_end || kw_begin == kw_end;

  for (std::int64_t c = begin; c < end; ++c) {
    T best = -std::numeric_limits<T>::infinity();
    std::int64_t best_code = empty ? 0 : 1 + kh_begin * p.kernel_w + kw_begin;
    for (std::int64_t kh = kh_begin; kh < kh_end; ++kh) {
      for (std::int64_t kw = kw_begin; kw < kw_end; ++kw) {
        const std::int64_t ih = ih0 + kh * p.dilation_h;
        const std::int64_t iw = iw0 + kw * p.dilation_w;
        T value = image[(ih * p.in_w + iw) * p.channels + c];
        if (p.fused_relu) value = relu(value);
        const bool is_nan = value != value;
        const bool better = (value > best) | is_nan;
        best = std::bit_cast<T>(
            choose(better, std::bit_cast<BitsOf<T>>(value), std::bit_cast<BitsOf<T>>(best)));
        best_code = choose(better, 1 + kh * p.kernel_w + kw, best_code);
      }
    }
    *out++ = best;
    *codes++ = p.fused_relu && best <= T{0} ? 0 : static_cast<std::uint8_t>(best_code);
  }
}

// sum + value. Of two NaNs the processor keeps the payload of the first operand, and ATen's first
// operand is the sum; compilers take the two for interchangeable, so the order is spelled out.
inline float add_in_order(float sum, float value) {
#if defined(__x86_64__)
  asm("addss %1, %0" : "+x"(sum) : "x"(value));
#elif defined(__aarch64__)
  asm("fadd %s0, %s0, %s1" : "+w"(sum) : "w"(value));
#else
  sum = sum + value;
#endif
  return sum;
}
inline double add_in_order(double sum, double value) {
#if defined(__x86_64__)
  asm("addsd %1, %0" : "+x"(sum) : "x"(value));
#elif defined(__aarch64__)
  asm("fadd %d0, %d0, %d1" : "+w"(sum) : "w"(value));
#else
  sum = sum + value;
#endif
  return sum;
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
      const bool inside = ih0 >= 0 && ih0 + reach_h < p.in_h && iw0 >= 0 && iw0 + reach_w < p.in_w;
      for (std::int64_t c = 0; c < p.channels; ++c) {
        const std::uint8_t code = *codes++;
        std::int64_t offset = offsets[code];
        if (!inside && offset >= 0) {
          const std::int64_t ih = ih0 + (code - 1) / p.kernel_w * p.dilation_h;
          const std::int64_t iw = iw0 + (code - 1) % p.kernel_w * p.dilation_w;
          if (ih < 0 || ih >= p.in_h || iw < 0 || iw >= p.in_w) offset = -1;
        }
        // Written without a branch: whether a gradient passes is as good as random.
        T* const target = offset >= 0 ? grad_in + (first + offset + c) : &sink;
        *target = add_in_order(*target, *grad_out++);
      }
    }
  }
}

}  // namespace

void max_pool2d_one(const Pool2d& p, const float* image, std::int64_t oh, std::int64_t ow,
                    float* out, std::uint8_t* code) {
  pool_pixel(p, image, oh, ow, 0, 1, out, code);
}

void max_pool2d_one(const Pool2d& p, const double* image, std::int64_t oh, std::int64_t ow,
                    double* out, std::uint8_t* code) {
  pool_pixel(p, image, oh, ow, 0, 1, out, code);
}

void max_pool2d(DType dtype, const Pool2d& p, const void* x, void* out, std::uint8_t* codes,
                std::int64_t begin, std::int64_t end) {
  by_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (begin >= end) return;  // the pool may have no outputs at all
    const T* image = static_cast<const T*>(x);
    const std::int64_t image_size = p.in_h * p.in_w * p.channels;
    std::int64_t c = begin % p.channels;
    std::int64_t ow = begin / p.channels % p.out_w;
    std::int64_t oh = begin / p.channels / p.out_w % p.out_h;
    image += begin / p.channels / p.out_w / p.out_h * image_size;
    for (std::int64_t i = begin; i < end; c = 0) {
      const std::int64_t count = least(p.channels - c, end - i);
      pool_pixel(p, image, oh, ow, c, c + count, static_cast<T*>(out) + i, codes + (i - begin));
      i += count;
      if (++ow < p.out_w) continue;
      ow = 0;
      if (++oh < p.out_h) continue;
      oh = 0;
      image += image_size;
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
