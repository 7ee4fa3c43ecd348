// Every target's max pools against a plain loop over windows, both layouts, forward and backward.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>

#include "kernels_support.h"

namespace fxpass::kernels {
namespace {

struct Shape {
  Pool2d pool;
  std::int64_t images;  // NCHW: planes
  bool channels_last;

  std::int64_t inputs() const { return images * pool.channels * pool.in_h * pool.in_w; }
  std::int64_t outputs() const { return images * pool.channels * pool.out_h * pool.out_w; }
};

// ATen's rule for the size of an output.
std::int64_t output_size(std::int64_t in, std::int64_t kernel, std::int64_t stride,
                         std::int64_t pad, std::int64_t dilation, bool ceil) {
  const std::int64_t room = in + 2 * pad - dilation * (kernel - 1) - 1 + (ceil ? stride - 1 : 0);
  if (room < 0) return 0;
  std::int64_t out = room / stride + 1;
  if (ceil && (out - 1) * stride >= in + pad) --out;
  return out;
}

Shape random_shape(std::mt19937_64& random) {
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(high - low + 1));
  };
  Shape s{};
  s.channels_last = pick(0, 1) == 1;
  s.images = pick(0, 5) == 0 ? 0 : pick(1, 2);
  constexpr std::int64_t kChannels[] = {1, 3, 4, 8, 15, 16, 17, 40};
  Pool2d& p = s.pool;
  p.channels = s.channels_last ? kChannels[pick(0, 7)] : 1;
  p.fused_relu = pick(0, 1) == 1;
  const bool ceil = pick(0, 1) == 1;
  const bool common = pick(0, 1) == 1;  // 2x2 or 3x3 with stride 2
  const auto axis = [&](std::int64_t& in, std::int64_t& out, std::int64_t& kernel,
                        std::int64_t& stride, std::int64_t& pad, std::int64_t& dilation,
                        std::int64_t most) {
    do {
      in = pick(1, most);
      kernel = common ? pick(2, 3) : pick(1, 5);
      stride = common ? 2 : pick(1, 4);
      dilation = common ? 1 : pick(1, 3);
      pad = pick(0, kernel / 2);
      out = output_size(in, kernel, stride, pad, dilation, ceil);
    } while (out == 0);
  };
  axis(p.in_h, p.out_h, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h, 12);
  axis(p.in_w, p.out_w, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w, s.channels_last ? 12 : 90);
  return s;
}

std::string describe(const Shape& s) {
  const Pool2d& p = s.pool;
  std::ostringstream text;
  text << (s.channels_last ? "NHWC" : "NCHW") << (p.fused_relu ? " fused" : "") << ", images "
       << s.images << ", channels " << p.channels << ", in " << p.in_h << "x" << p.in_w << ", out "
       << p.out_h << "x" << p.out_w << ", kernel " << p.kernel_h << "x" << p.kernel_w << ", stride "
       << p.stride_h << "x" << p.stride_w << ", pad " << p.pad_h << "x" << p.pad_w << ", dilation "
       << p.dilation_h << "x" << p.dilation_w;
  return text.str();
}

template <typename T>
DType dtype_of() {
  return sizeof(T) == 8 ? DType::F64 : DType::F32;
}

// Input values: few different ones, so that windows have ties, and the difficult ones.
template <typename T>
void fill_input(Buffer& x, std::mt19937_64& random) {
  const auto special = layout(dtype_of<T>()).special();
  const bool difficult = random() % 2 == 0;
  const bool all_low = random() % 8 == 0;
  for (std::int64_t i = 0; i < x.size() / std::int64_t{sizeof(T)}; ++i) {
    x.as<T>()[i] = static_cast<T>(static_cast<int>(random() % 9) - 4);
    if (all_low) x.as<T>()[i] = -std::numeric_limits<T>::infinity();
    if (difficult && random() % 4 == 0)
      put(x.data(), sizeof(T), i, special[random() % special.size()]);
  }
}

std::int64_t at(const Shape& s, std::int64_t image, std::int64_t ih, std::int64_t iw,
                std::int64_t c) {
  return ((image * s.pool.in_h + ih) * s.pool.in_w + iw) * s.pool.channels + c;
}

// Where output i (flat) has its window's first position, and its image and channel.
struct Place {
  std::int64_t image, ih, iw, c;
};

Place place(const Shape& s, std::int64_t i) {
  const Pool2d& p = s.pool;
  const std::int64_t c = i % p.channels;
  const std::int64_t pixel = i / p.channels;
  return {pixel / (p.out_h * p.out_w), pixel / p.out_w % p.out_h * p.stride_h - p.pad_h,
          pixel % p.out_w * p.stride_w - p.pad_w, c};
}

template <typename T>
void expect_output(const Shape& s, const T* x, std::int64_t i, T* out, std::uint8_t* code) {
  const Pool2d& p = s.pool;
  const Layout format = layout(dtype_of<T>());
  const Place o = place(s, i);
  std::uint64_t best = format.inf() | format.sign();
  *code = 0;
  for (std::int64_t k = 0; k < p.kernel_h * p.kernel_w; ++k) {
    const std::int64_t ih = o.ih + k / p.kernel_w * p.dilation_h;
    const std::int64_t iw = o.iw + k % p.kernel_w * p.dilation_w;
    if (ih < 0 || iw < 0 || ih >= p.in_h || iw >= p.in_w) continue;
    std::uint64_t pattern =
        get(reinterpret_cast<const std::uint8_t*>(x), sizeof(T), at(s, o.image, ih, iw, o.c));
    if (p.fused_relu) pattern = format.relu(pattern);
    T value, maximum;
    std::memcpy(&value, &pattern, sizeof(T));
    std::memcpy(&maximum, &best, sizeof(T));
    if (*code == 0 || value > maximum || format.nan(pattern)) {
      best = pattern;
      *code = static_cast<std::uint8_t>(k + 1);
    }
  }
  if (p.fused_relu && !format.passes(best)) *code = 0;
  std::memcpy(out, &best, sizeof(T));
}

// sum + g as the processor adds them with the sum first, NaN payloads included.
template <typename T>
void add(T* sum, T g) {
  const Layout format = layout(dtype_of<T>());
  const std::uint64_t quiet = std::uint64_t{1} << (format.mantissa - 1);
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  std::memcpy(&a, sum, sizeof(T));
  std::memcpy(&b, &g, sizeof(T));
#if defined(__aarch64__)
  const bool second_first = format.nan(b) && (b & quiet) == 0;  // signalling NaNs go first there
#else
  const bool second_first = false;
#endif
  if (format.nan(a) && !second_first) {
    a |= quiet;
  } else if (format.nan(b)) {
    a = b | quiet;
  } else {
    *sum += g;
    return;
  }
  std::memcpy(sum, &a, sizeof(T));
}

template <typename T>
void check_forward(const Kernels& k, const Shape& s, const Buffer& x, std::mt19937_64& random) {
  const auto forward = s.channels_last ? k.max_pool2d_nhwc : k.max_pool2d_nchw;
  const std::int64_t n = s.outputs();
  Buffer out(n * std::int64_t{sizeof(T)});
  // Ranges as threads would take them; codes[0] belongs to each range's first output.
  for (std::int64_t begin = 0; begin < n;) {
    const std::int64_t end = std::min<std::int64_t>(
        n, begin + 1 + static_cast<std::int64_t>(random() % std::uint64_t(n)));
    Buffer codes(end - begin);
    forward(dtype_of<T>(), s.pool, x.data(), out.data(), codes.data(), begin, end);
    std::int64_t wrong = -1;
    for (std::int64_t i = begin; i < end && wrong < 0; ++i) {
      T expected;
      std::uint8_t code;
      expect_output(s, x.as<T>(), i, &expected, &code);
      const bool same = std::memcmp(&out.as<T>()[i], &expected, sizeof(T)) == 0;
      if (!same || codes.data()[i - begin] != code) wrong = i;
    }
    REQUIRE(wrong == -1);  // else the first output that differs
    REQUIRE(codes.intact());
    begin = end;
  }
  REQUIRE(out.intact());
}

template <typename T>
void check_backward(const Kernels& k, const Shape& s, const Buffer& x, bool foreign_codes,
                    std::mt19937_64& random) {
  const Pool2d& p = s.pool;
  const auto backward = s.channels_last ? k.max_pool2d_nhwc_backward : k.max_pool2d_nchw_backward;
  const std::int64_t n = s.outputs() / std::max<std::int64_t>(s.images, 1);
  for (std::int64_t image = 0; image < s.images; ++image) {
    Buffer codes(n);
    Buffer grad_out(n * std::int64_t{sizeof(T)});
    fill(grad_out, dtype_of<T>(), 0.9, random);
    std::vector<T> expected(static_cast<std::size_t>(s.inputs() / s.images), T{0});
    for (std::int64_t i = 0; i < n; ++i) {
      T out;
      expect_output(s, x.as<T>(), image * n + i, &out, &codes.data()[i]);
      // A damaged payload may point anywhere; such gradients are dropped.
      if (foreign_codes) codes.data()[i] = static_cast<std::uint8_t>(random());
      const int code = codes.data()[i];
      if (code == 0 || code > p.kernel_h * p.kernel_w) continue;
      const Place o = place(s, i);
      const std::int64_t ih = o.ih + (code - 1) / p.kernel_w * p.dilation_h;
      const std::int64_t iw = o.iw + (code - 1) % p.kernel_w * p.dilation_w;
      if (ih < 0 || iw < 0 || ih >= p.in_h || iw >= p.in_w) continue;
      add(&expected[static_cast<std::size_t>(at(s, 0, ih, iw, o.c))], grad_out.as<T>()[i]);
    }
    Buffer grad_in(static_cast<std::int64_t>(expected.size() * sizeof(T)));
    backward(dtype_of<T>(), p, grad_out.data(), codes.data(), grad_in.data());
    REQUIRE(std::memcmp(grad_in.data(), expected.data(), expected.size() * sizeof(T)) == 0);
    REQUIRE(grad_in.intact());
  }
}

template <typename T>
void check_random_pools(int count) {
  std::mt19937_64 random(sizeof(T));
  for (int i = 0; i < count; ++i) {
    const Shape s = random_shape(random);
    Buffer x(s.inputs() * std::int64_t{sizeof(T)});
    fill_input<T>(x, random);
    for (const Kernels* k : targets()) {
      INFO(std::string(k->name), ", example ", i, ": ", describe(s));
      check_forward<T>(*k, s, x, random);
      check_backward<T>(*k, s, x, i % 4 == 0, random);
    }
  }
}

TEST_CASE("max pools, float") { check_random_pools<float>(3000); }
TEST_CASE("max pools, double") { check_random_pools<double>(1500); }

}  // namespace
}  // namespace fxpass::kernels
