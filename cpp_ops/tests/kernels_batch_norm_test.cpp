// Every target's batch norm kernels against plain loops.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels_support.h"

namespace fxpass::kernels {
namespace {

constexpr DType kFloats[] = {DType::F32, DType::F64};
constexpr std::int64_t kChannels[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 100};
constexpr std::int64_t kInner[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 25, 49, 64, 100, 196};

// Difficult values, among them numbers that an addition of the other vector makes zero, but no NaN.
void fill_numbers(Buffer& buffer, DType dtype, std::mt19937_64& random) {
  const int bytes = element_size(dtype);
  const Layout format = layout(dtype);
  fill(buffer, dtype, 0.95, random);
  for (std::int64_t i = 0; i < buffer.size() / bytes; ++i) {
    const bool small = random() % 2 == 0;
    if (!small && !format.nan(get(buffer.data(), bytes, i))) continue;
    const int value = static_cast<int>(random() % 5) - 2;
    dtype == DType::F64 ? buffer.as<double>()[i] = value
                        : buffer.as<float>()[i] = static_cast<float>(value);
  }
}

struct Case {
  DType dtype;
  std::int64_t channels, inner, n, begin, end, gap;
  bool in_place;
};

std::string text(const Kernels& k, const Case& c) {
  return std::string(k.name) + ": dtype " + std::to_string(int(c.dtype)) + " channels " +
         std::to_string(c.channels) + " inner " + std::to_string(c.inner) + " n " +
         std::to_string(c.n) + " range " + std::to_string(c.begin) + " " + std::to_string(c.end) +
         " gap " + std::to_string(c.gap) + (c.in_place ? " in place" : "");
}

std::uint64_t fused(DType dtype, const Buffer& x, std::int64_t i, const Buffer& a, const Buffer& b,
                    std::int64_t c) {
  std::uint64_t pattern = 0;
  if (dtype == DType::F64) {
    const double y = std::fma(x.as<double>()[i], a.as<double>()[c], b.as<double>()[c]);
    std::memcpy(&pattern, &y, sizeof(y));
  } else {
    const float y = std::fma(x.as<float>()[i], a.as<float>()[c], b.as<float>()[c]);
    std::memcpy(&pattern, &y, sizeof(y));
  }
  return pattern;
}

enum class Relu { None, Masked, Plain };

void check_affine(const Kernels& k, const Case& c, Relu relu, bool nan_coefficients,
                  std::mt19937_64& random) {
  INFO(text(k, c), " relu ", int(relu), " nan coefficients ", nan_coefficients);
  const int bytes = element_size(c.dtype);
  const Layout format = layout(c.dtype);
  Buffer x(c.n * bytes, c.gap * bytes);
  fill(x, c.dtype, 0.9, random);
  Buffer a(c.channels * bytes);
  Buffer b(c.channels * bytes);
  for (Buffer* buffer : {&a, &b}) {
    nan_coefficients ? fill(*buffer, c.dtype, 0.9, random) : fill_numbers(*buffer, c.dtype, random);
  }

  // What the range does not cover stays.
  Buffer other(c.n * bytes, c.gap * bytes);
  Buffer& y = c.in_place ? x : other;
  Buffer expected(c.n * bytes);
  std::memcpy(expected.data(), y.data(), static_cast<std::size_t>(y.size()));
  Buffer expected_mask(words_for(c.end - c.begin) * 8);
  std::memset(expected_mask.data(), 0, static_cast<std::size_t>(expected_mask.size()));
  bool negative_zero = false;
  for (std::int64_t i = c.begin; i < c.end; ++i) {
    std::uint64_t value = fused(c.dtype, x, i, a, b, i / c.inner % c.channels);
    negative_zero |= value == format.sign();
    if (relu != Relu::None) {
      const std::int64_t bit = i - c.begin;
      expected_mask.as<std::uint64_t>()[bit / 64] |= std::uint64_t{format.passes(value)}
                                                     << (bit % 64);
      value = format.relu(value);
    }
    put(expected.data(), bytes, i, value);
  }

  const Affine f{a.data(), b.data(), c.channels, c.inner};
  Buffer mask(expected_mask.size());
  if (relu == Relu::None) {
    k.affine(c.dtype, f, x.data(), y.data(), c.begin, c.end);
  } else {
    auto* const words = relu == Relu::Masked ? mask.as<std::uint64_t>() : nullptr;
    REQUIRE(k.affine_relu(c.dtype, f, x.data(), y.data(), c.begin, c.end, words) == negative_zero);
    if (relu == Relu::Masked) REQUIRE(mask == expected_mask);
  }
  if (nan_coefficients) {
    for (Buffer* buffer : {&y, &expected}) {
      for (std::int64_t i = c.begin; i < c.end; ++i) {
        if (format.nan(get(buffer->data(), bytes, i)))
          put(buffer->data(), bytes, i, format.inf() + 1);
      }
    }
  }
  REQUIRE(y == expected);
  REQUIRE(y.intact());
  REQUIRE(mask.intact());
}

TEST_CASE(
    "affine: every dtype, plane, number of channels and remainder, ranges that begin anywhere") {
  std::mt19937_64 random(7);
  const auto up_to = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % (n + 1)); };
  for (const Kernels* k : targets()) {
    for (const DType dtype : kFloats) {
      for (const std::int64_t channels : kChannels) {
        for (const std::int64_t inner : kInner) {
          const std::int64_t n = channels * inner * (1 + up_to(2)) + up_to(3);
          Case c{dtype, channels, inner, n, 0, n, 0, false};
          check_affine(*k, c, Relu::None, false, random);
          check_affine(*k, c, Relu::Masked, false, random);
          c.begin = up_to(n);
          c.end = c.begin + up_to(n - c.begin);
          c.gap = up_to(3);
          c.in_place = up_to(1) == 0;
          check_affine(*k, c, Relu::None, up_to(1) == 0, random);
          c.begin = c.begin / 64 * 64;
          check_affine(*k, c, up_to(1) == 0 ? Relu::Masked : Relu::Plain, up_to(1) == 0, random);
        }
      }
    }
  }
}

TEST_CASE("affine: short ranges, all of whose remainders are met") {
  std::mt19937_64 random(8);
  for (const Kernels* k : targets()) {
    for (const DType dtype : kFloats) {
      for (std::int64_t n = 0; n <= 200; ++n) {
        const Case c{dtype, kChannels[n % 13], kInner[n % 16], n, 0, n, n % 3, n % 2 == 0};
        check_affine(*k, c, Relu::None, false, random);
        check_affine(*k, c, Relu::Masked, false, random);
        check_affine(*k, c, Relu::Plain, false, random);
      }
    }
  }
}

TEST_CASE("affine is one rounding") {
  // (1 + e) * (1 - e) - 1 is -e * e, and 0 where the product is rounded first.
  for (const Kernels* k : targets()) {
    INFO(std::string(k->name));
    const float x = 1 + 0x1p-13f;
    const float a = 1 - 0x1p-13f;
    const float b = -1;
    float y = 0;
    k->affine(DType::F32, Affine{&a, &b, 1, 1}, &x, &y, 0, 1);
    CHECK(y == -0x1p-26f);
    const double wide_x = 1 + 0x1p-30;
    const double wide_a = 1 - 0x1p-30;
    const double wide_b = -1;
    double wide_y = 0;
    k->affine(DType::F64, Affine{&wide_a, &wide_b, 1, 1}, &wide_x, &wide_y, 0, 1);
    CHECK(wide_y == -0x1p-60);
  }
}

// The channel's statistics by the loop that ATen has.
template <typename T>
void stats_of(const Planes& p, const T* x, std::int64_t c, T* mean, T* var_sum) {
  double sum = 0;
  double squares = 0;
  const auto each = [&](auto f) {
    for (std::int64_t n = 0; n < p.images; ++n) {
      for (std::int64_t i = 0; i < p.inner; ++i) f(x[(n * p.channels + c) * p.inner + i]);
    }
  };
  each([&](T value) { sum += value; });
  *mean = static_cast<T>(sum / static_cast<double>(p.images * p.inner));
  each([&](T value) { squares += (value - *mean) * (value - *mean); });
  *var_sum = static_cast<T>(squares);
}

enum class Values { Ordinary, Wide, Special };

template <typename T>
void check_stats(const Kernels& k, DType dtype, const Planes& p, std::int64_t first,
                 std::int64_t last, std::int64_t gap, Values values, std::mt19937_64& random) {
  INFO(std::string(k.name), ": dtype ", int(dtype), " images ", p.images, " channels ", p.channels,
       " inner ", p.inner, " range ", first, " ", last, " gap ", gap, " values ", int(values));
  const int bytes = element_size(dtype);
  const Layout format = layout(dtype);
  const std::int64_t n = p.images * p.channels * p.inner;
  Buffer x(n * bytes, gap * bytes);
  std::normal_distribution<T> normal(T(0.3));
  for (std::int64_t i = 0; i < n; ++i) {
    const int exponent = values == Values::Ordinary ? 0 : static_cast<int>(random() % 60) - 30;
    x.as<T>()[i] = std::ldexp(normal(random), exponent);
  }
  if (values == Values::Special) {  // few, so that some channels have none
    for (std::int64_t i = random() % 50; i < n; i += 1 + random() % 100) {
      put(x.data(), bytes, i, random() % 3 == 0 ? random() : format.special()[random() % 22]);
    }
  }
  Buffer mean(p.channels * bytes);
  Buffer var_sum(p.channels * bytes);
  Buffer expected_mean(p.channels * bytes);
  Buffer expected_var_sum(p.channels * bytes);
  for (std::int64_t c = first; c < last; ++c) {
    stats_of(p, x.as<T>(), c, expected_mean.as<T>() + c, expected_var_sum.as<T>() + c);
  }
  k.batch_norm_stats_nchw(dtype, p, x.data(), first, last, mean.data(), var_sum.data());
  for (Buffer* buffer : {&mean, &var_sum, &expected_mean, &expected_var_sum}) {
    for (std::int64_t c = first; c < last; ++c) {
      if (format.nan(get(buffer->data(), bytes, c)))
        put(buffer->data(), bytes, c, format.inf() + 1);
    }
  }
  REQUIRE(mean == expected_mean);  // channels outside of the range included
  REQUIRE(var_sum == expected_var_sum);
  REQUIRE(mean.intact());
  REQUIRE(var_sum.intact());
}

TEST_CASE("statistics: every number of channels, plane and remainder") {
  std::mt19937_64 random(10);
  const auto up_to = [&](std::int64_t n) { return static_cast<std::int64_t>(random() % (n + 1)); };
  for (const Kernels* k : targets()) {
    for (std::int64_t channels = 1; channels <= 40; ++channels) {
      for (const std::int64_t inner : kInner) {
        const Planes p{1 + up_to(2), channels, inner};
        const auto values = static_cast<Values>(up_to(2));
        const std::int64_t first = up_to(1) == 0 ? 0 : up_to(channels);
        const std::int64_t last = up_to(1) == 0 ? channels : first + up_to(channels - first);
        check_stats<float>(*k, DType::F32, p, first, last, up_to(3), values, random);
        check_stats<double>(*k, DType::F64, p, first, last, up_to(3), values, random);
      }
    }
  }
}

#if defined(__x86_64__)  // elsewhere nothing is written past the caches
TEST_CASE("affine: outputs large enough to be written past the caches") {
  std::mt19937_64 random(9);
  for (const Kernels* k : targets()) {
    for (const DType dtype : kFloats) {
      const std::int64_t n = (std::int64_t{8} << 20) / element_size(dtype) + 64;
      const std::int64_t lanes = 64 / element_size(dtype);
      for (const std::int64_t inner : {1, 3, 49}) {
        const Case aligned{dtype, 30, inner, n + 37, 0, n + 37, lanes - 37 % lanes, false};
        check_affine(*k, aligned, Relu::None, false, random);
        check_affine(*k, aligned, Relu::Masked, false, random);
        check_affine(*k, {dtype, 30, inner, n + 37, 1, n, 0, false}, Relu::None, false, random);
      }
    }
  }
}
#endif

}  // namespace
}  // namespace fxpass::kernels
