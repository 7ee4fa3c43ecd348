// Every target against plain loops over single elements: bitmaps, ReLU and codes.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <bit>
#include <cstdlib>
#include <string>

#include "kernels_support.h"

namespace fxpass::kernels {
namespace {

constexpr double kDensities[] = {0.0, 0.02, 0.5, 0.95, 1.0};

bool bit(const std::uint64_t* words, std::int64_t i) { return words[i / 64] >> (i % 64) & 1; }

void set_bit(std::uint64_t* words, std::int64_t i, bool value) {
  words[i / 64] |= std::uint64_t{value} << (i % 64);
}

// The words a correct kernel writes for a truth value per element.
template <typename F>
std::vector<std::uint64_t> bits_where(std::int64_t n, F truth) {
  std::vector<std::uint64_t> words(static_cast<std::size_t>(words_for(n)), 0);
  for (std::int64_t i = 0; i < n; ++i) set_bit(words.data(), i, truth(i));
  return words;
}

bool same_words(const Buffer& buffer, const std::vector<std::uint64_t>& expected) {
  return expected.empty() || std::memcmp(buffer.data(), expected.data(), expected.size() * 8) == 0;
}

void check_bitmap(const Kernels& k, DType dtype, std::int64_t n, std::int64_t gap, double density,
                  std::mt19937_64& random) {
  INFO(std::string(k.name), ": ", "dtype ", int(dtype), " n ", n, " gap ", gap, " density ",
       density);
  const int bytes = element_size(dtype);
  Buffer src(n * bytes, gap * bytes);
  fill(src, dtype, density, random);
  const auto expected =
      bits_where(n, [&](std::int64_t i) { return get(src.data(), bytes, i) != 0; });
  std::vector<std::uint64_t> nonzero;
  for (std::int64_t i = 0; i < n; ++i) {
    if (const auto pattern = get(src.data(), bytes, i)) nonzero.push_back(pattern);
  }
  const auto count = static_cast<std::int64_t>(nonzero.size());
  const auto holds_values = [&](const Buffer& values) {
    for (std::int64_t i = 0; i < count; ++i) {
      if (get(values.data(), bytes, i) != nonzero[static_cast<std::size_t>(i)]) return false;
    }
    return true;
  };

  Buffer bits(words_for(n) * 8);
  REQUIRE(k.bitmap_mark(dtype, src.data(), n, bits.as<std::uint64_t>()) == count);
  REQUIRE(same_words(bits, expected));
  REQUIRE(bits.intact());

  Buffer exact(count * bytes, gap * bytes);
  k.bitmap_gather(dtype, src.data(), bits.as<std::uint64_t>(), n, exact.data());
  REQUIRE(holds_values(exact));
  REQUIRE(exact.intact());

  Buffer packed_bits(words_for(n) * 8);
  Buffer packed(n * bytes, gap * bytes);
  REQUIRE(k.bitmap_pack(dtype, src.data(), n, packed_bits.as<std::uint64_t>(), packed.data()) ==
          count);
  REQUIRE(packed_bits == bits);
  REQUIRE(holds_values(packed));
  REQUIRE(packed.intact());
  REQUIRE(packed_bits.intact());

  Buffer back(n * bytes, gap * bytes);
  k.bitmap_unpack(dtype, bits.as<std::uint64_t>(), n, exact.data(), back.data());
  REQUIRE(back == src);
  REQUIRE(back.intact());
}

void check_relu(const Kernels& k, DType dtype, std::int64_t n, std::int64_t gap, bool in_place,
                std::mt19937_64& random) {
  INFO(std::string(k.name), ": ", "dtype ", int(dtype), " n ", n, " gap ", gap, " in_place ",
       in_place);
  const int bytes = element_size(dtype);
  const Layout format = layout(dtype);
  Buffer x(n * bytes, gap * bytes);
  fill(x, dtype, 0.9, random);
  bool negative_zero = false;
  Buffer expected(n * bytes);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint64_t value = get(x.data(), bytes, i);
    negative_zero |= value == format.sign();
    put(expected.data(), bytes, i, format.relu(value));
  }
  const auto expected_mask =
      bits_where(n, [&](std::int64_t i) { return format.passes(get(x.data(), bytes, i)); });

  Buffer other(n * bytes, gap * bytes);
  Buffer mask(words_for(n) * 8);
  Buffer& y = in_place ? x : other;
  REQUIRE(k.relu_mask(dtype, x.data(), y.data(), n, mask.as<std::uint64_t>()) == negative_zero);
  REQUIRE(y == expected);
  REQUIRE(same_words(mask, expected_mask));
  REQUIRE(y.intact());
  REQUIRE(mask.intact());

  Buffer grad(n * bytes, gap * bytes);
  fill(grad, dtype, 0.9, random);
  for (std::int64_t i = 0; i < n; ++i) {
    const bool passes = bit(expected_mask.data(), i);
    put(expected.data(), bytes, i, passes ? get(grad.data(), bytes, i) : 0);
  }
  Buffer elsewhere(n * bytes, gap * bytes);
  Buffer& out = in_place ? grad : elsewhere;
  k.select(dtype, grad.data(), mask.as<std::uint64_t>(), n, out.data());
  REQUIRE(out == expected);
  REQUIRE(out.intact());
}

TEST_CASE("bitmaps: every dtype, remainder and alignment") {
  std::mt19937_64 random(1);
  for (const Kernels* k : targets()) {
    for (const DType dtype : kDTypes) {
      for (std::int64_t n = 0; n <= 200; ++n) {
        check_bitmap(*k, dtype, n, n % 3, kDensities[n % 5], random);
        check_bitmap(*k, dtype, n, 0, kDensities[(n + 2) % 5], random);
      }
      for (const double density : kDensities) check_bitmap(*k, dtype, 5000, 1, density, random);
    }
  }
}

#if defined(__x86_64__)  // elsewhere nothing is written past the caches
TEST_CASE("bitmaps and ReLU: outputs large enough to be written past the caches") {
  std::mt19937_64 random(2);
  for (const Kernels* k : targets()) {
    for (const DType dtype : kDTypes) {
      const std::int64_t n = (std::int64_t{8} << 20) / element_size(dtype);
      const std::int64_t lanes = 64 / element_size(dtype);
      check_bitmap(*k, dtype, n + lanes, 0, 0.5, random);                // aligned
      check_bitmap(*k, dtype, n + lanes + 37, 0, 0.9, random);           // not aligned
      check_bitmap(*k, dtype, n + 37, lanes - 37 % lanes, 0.1, random);  // aligned, a remainder
      check_relu(*k, dtype, n + lanes, 0, false, random);
      check_relu(*k, dtype, n + 37, lanes - 37 % lanes, false, random);
    }
  }
}
#endif

TEST_CASE("a mask of its own: gather and unpack follow the bits, not the values") {
  std::mt19937_64 random(3);
  for (const Kernels* k : targets()) {
    for (const DType dtype : kDTypes) {
      const int bytes = element_size(dtype);
      for (std::int64_t n : {1, 63, 64, 65, 300, 1000}) {
        INFO(std::string(k->name), ": ", "dtype ", int(dtype), " n ", n);
        Buffer src(n * bytes);
        fill(src, dtype, 0.5, random);
        // Bits past the last element, as a damaged payload may have them, are no elements.
        std::vector<std::uint64_t> bits(static_cast<std::size_t>(words_for(n)));
        for (auto& word : bits) word = random();
        std::int64_t count = 0;
        for (std::int64_t i = 0; i < n; ++i) count += bit(bits.data(), i);
        Buffer values(count * bytes);
        k->bitmap_gather(dtype, src.data(), bits.data(), n, values.data());
        Buffer back(n * bytes);
        k->bitmap_unpack(dtype, bits.data(), n, values.data(), back.data());
        bool same = true;
        for (std::int64_t i = 0; i < n; ++i) {
          const auto expected = bit(bits.data(), i) ? get(src.data(), bytes, i) : 0;
          same &= get(back.data(), bytes, i) == expected;
        }
        REQUIRE(same);
        REQUIRE(values.intact());
      }
    }
  }
}

TEST_CASE("ReLU and select: every dtype, remainder and alignment, in place and not") {
  std::mt19937_64 random(4);
  for (const Kernels* k : targets()) {
    for (const DType dtype : kDTypes) {
      for (std::int64_t n = 0; n <= 200; ++n) {
        check_relu(*k, dtype, n, n % 3, n % 2 == 0, random);
        check_relu(*k, dtype, n, 0, n % 2 != 0, random);
      }
      check_relu(*k, dtype, 5003, 1, false, random);
    }
  }
}

TEST_CASE("ReLU says whether a -0.0 is left, wherever it is") {
  for (const Kernels* k : targets()) {
    for (const DType dtype : kDTypes) {
      const int bytes = element_size(dtype);
      for (std::int64_t n : {1, 64, 131}) {
        Buffer x(n * bytes);
        Buffer mask(words_for(n) * 8);
        for (std::int64_t at = -1; at < n; ++at) {
          INFO(std::string(k->name), ": ", "dtype ", int(dtype), " n ", n, " at ", at);
          std::memset(x.data(), 0, static_cast<std::size_t>(x.size()));
          if (at >= 0) put(x.data(), bytes, at, layout(dtype).sign());
          REQUIRE(k->relu_mask(dtype, x.data(), x.data(), n, mask.as<std::uint64_t>()) ==
                  (at >= 0));
        }
      }
    }
  }
}

TEST_CASE("masks of runs: every dtype, remainder and alignment, empty runs and full ones") {
  std::mt19937_64 random(9);
  for (const Kernels* k : targets()) {
    for (const DType dtype : kDTypes) {
      const int bytes = element_size(dtype);
      const Layout format = layout(dtype);
      const auto all = format.sign() - 1 + format.sign();
      for (std::int64_t n = 0; n <= 200; ++n) {
        INFO(std::string(k->name), ": ", "dtype ", int(dtype), " n ", n);
        Buffer x(n * bytes, n % 3 * bytes);
        fill(x, dtype, 0.9, random);
        // Both ends of a run are values that are there.
        Run runs[2] = {};
        for (Run& run : runs) {
          if (n == 0 || random() % 4 == 0) continue;
          run.first = get(x.data(), bytes, static_cast<std::int64_t>(random() % n));
          const auto last = get(x.data(), bytes, static_cast<std::int64_t>(random() % n));
          run.count = random() % 4 == 0 ? all : (last - run.first) & all;
        }
        const auto expected = bits_where(n, [&](std::int64_t i) {
          const auto value = get(x.data(), bytes, i);
          return ((value - runs[0].first) & all) < runs[0].count ||
                 ((value - runs[1].first) & all) < runs[1].count;
        });
        bool nan = false;
        for (std::int64_t i = 0; i < n; ++i) nan |= format.nan(get(x.data(), bytes, i));
        Buffer mask(words_for(n) * 8);
        REQUIRE(k->runs_mask(dtype, runs, x.data(), n, mask.as<std::uint64_t>()) == nan);
        REQUIRE(same_words(mask, expected));
        REQUIRE(mask.intact());
        REQUIRE(x.intact());
      }
    }
  }
}

TEST_CASE("masks of runs say whether there is a NaN, wherever it is") {
  for (const Kernels* k : targets()) {
    for (const DType dtype : kDTypes) {
      const int bytes = element_size(dtype);
      const Layout format = layout(dtype);
      const Run none[2] = {};
      for (std::int64_t n : {1, 64, 131}) {
        Buffer x(n * bytes);
        Buffer mask(words_for(n) * 8);
        for (std::int64_t at = -1; at < n; ++at) {
          for (const auto sign : {std::uint64_t{0}, format.sign()}) {
            INFO(std::string(k->name), ": ", "dtype ", int(dtype), " n ", n, " at ", at);
            for (std::int64_t i = 0; i < n; ++i) put(x.data(), bytes, i, sign | format.inf());
            if (at >= 0) put(x.data(), bytes, at, sign | (format.inf() + 1));
            REQUIRE(k->runs_mask(dtype, none, x.data(), n, mask.as<std::uint64_t>()) == (at >= 0));
          }
        }
      }
    }
  }
}

TEST_CASE("codes: every width, remainder and begin") {
  std::mt19937_64 random(5);
  for (const Kernels* k : targets()) {
    for (int width = 1; width <= 8; ++width) {
      for (std::int64_t n = 0; n <= 200; ++n) {
        INFO(std::string(k->name), ": ", "width ", width, " n ", n);
        Buffer codes(n);
        for (std::int64_t i = 0; i < n; ++i) {
          codes.data()[i] = static_cast<std::uint8_t>(random());  // bits above width are dropped
        }
        Buffer words(words_for(n) * width * 8);
        k->codes_pack(codes.data(), n, width, words.as<std::uint64_t>());
        REQUIRE(words.intact());
        bool same = true;
        for (std::int64_t g = 0; g < words_for(n); ++g) {
          for (int plane = 0; plane < width; ++plane) {
            std::uint64_t expected = 0;
            for (std::int64_t i = 0; i < 64 && g * 64 + i < n; ++i) {
              expected |= std::uint64_t(codes.data()[g * 64 + i] >> plane & 1) << i;
            }
            same &= words.as<std::uint64_t>()[g * width + plane] == expected;
          }
        }
        const std::int64_t begin = static_cast<std::int64_t>(random() % std::uint64_t(n + 1));
        const std::int64_t count =
            static_cast<std::int64_t>(random() % std::uint64_t(n - begin + 1));
        Buffer part(count, n % 5);
        k->codes_unpack(words.as<std::uint64_t>(), begin, count, width, part.data());
        for (std::int64_t i = 0; i < count; ++i) {
          same &= part.data()[i] == (codes.data()[begin + i] & ((1 << width) - 1));
        }
        REQUIRE(same);
        REQUIRE(part.intact());
      }
    }
  }
}

TEST_CASE("FXPASS_TARGET forces a target, is read once, and says what this CPU runs") {
  setenv("FXPASS_TARGET", "sse9", 1);
  std::string message;
  try {
    kernels();
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  CHECK(message.find("FXPASS_TARGET") != std::string::npos);
  CHECK(message.find("sse9") != std::string::npos);
  for (const Kernels* k : targets()) CHECK(message.find(k->name) != std::string::npos);
  CHECK(kernels_for("sse9") == nullptr);

  setenv("FXPASS_TARGET", "scalar", 1);
  CHECK(std::string(kernels().name) == "scalar");
  unsetenv("FXPASS_TARGET");
  CHECK(std::string(kernels().name) == "scalar");
}

}  // namespace
}  // namespace fxpass::kernels
