// Threads that share one tensor, each with its own range: what the ops do, and what ThreadSanitizer
// is to watch.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <thread>

#include "kernels_support.h"

namespace fxpass::kernels {
namespace {

constexpr int kThreads = 4;

// Runs f(begin, end) on threads, over ranges of [0, n) that start at multiples of `grain`.
template <typename F>
void in_ranges(std::int64_t n, std::int64_t grain, F f) {
  const std::int64_t grains = (n + grain - 1) / grain;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    const std::int64_t begin = std::min(n, grains * t / kThreads * grain);
    const std::int64_t end = std::min(n, grains * (t + 1) / kThreads * grain);
    threads.emplace_back([=] { f(begin, end); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE("bitmaps: ranges of whole words on threads give the bytes of one call") {
  std::mt19937_64 random(6);
  const std::int64_t n = 64 * 100 + 17;
  for (const Kernels* k : targets()) {
    INFO(std::string(k->name));
    Buffer src(n * 4);
    fill(src, DType::F32, 0.5, random);
    Buffer bits(words_for(n) * 8);
    Buffer values(n * 4);
    const std::int64_t count =
        k->bitmap_pack(DType::F32, src.data(), n, bits.as<std::uint64_t>(), values.data());

    Buffer own_bits(words_for(n) * 8);
    Buffer own_values(count * 4);
    Buffer back(n * 4);
    const auto before = [&](std::int64_t element) {
      std::int64_t set = 0;
      for (std::int64_t i = 0; i < element; ++i) set += get(src.data(), 4, i) != 0;
      return set;
    };
    in_ranges(n, kWordBits, [&](std::int64_t begin, std::int64_t end) {
      auto* const words = own_bits.as<std::uint64_t>() + begin / kWordBits;
      const std::int64_t offset = before(begin);
      k->bitmap_mark(DType::F32, src.data() + begin * 4, end - begin, words);
      k->bitmap_gather(DType::F32, src.data() + begin * 4, words, end - begin,
                       own_values.data() + offset * 4);
      k->bitmap_unpack(DType::F32, words, end - begin, own_values.data() + offset * 4,
                       back.data() + begin * 4);
    });
    REQUIRE(own_bits == bits);
    REQUIRE(std::memcmp(own_values.data(), values.data(), static_cast<std::size_t>(count) * 4) ==
            0);
    REQUIRE(back == src);
  }
}

TEST_CASE("max pools: ranges that end anywhere, on threads, give the bytes of one call") {
  std::mt19937_64 random(7);
  for (const bool channels_last : {false, true}) {
    const Pool2d p{.channels = channels_last ? 19 : 1,
                   .in_h = 21,
                   .in_w = 45,
                   .out_h = 11,
                   .out_w = 23,
                   .kernel_h = 3,
                   .kernel_w = 3,
                   .stride_h = 2,
                   .stride_w = 2,
                   .pad_h = 1,
                   .pad_w = 1,
                   .dilation_h = 1,
                   .dilation_w = 1,
                   .fused_relu = true};
    const std::int64_t images = 3;
    const std::int64_t outputs = images * p.out_h * p.out_w * p.channels;
    Buffer x(images * p.in_h * p.in_w * p.channels * 4);
    fill(x, DType::F32, 0.9, random);
    for (const Kernels* k : targets()) {
      INFO(std::string(k->name), ", channels_last ", channels_last);
      const auto forward = channels_last ? k->max_pool2d_nhwc : k->max_pool2d_nchw;
      Buffer out(outputs * 4);
      Buffer codes(outputs);
      forward(DType::F32, p, x.data(), out.data(), codes.data(), 0, outputs);
      Buffer own_out(outputs * 4);
      Buffer own_codes(outputs);
      in_ranges(outputs, 13, [&](std::int64_t begin, std::int64_t end) {
        forward(DType::F32, p, x.data(), own_out.data(), own_codes.data() + begin, begin, end);
      });
      REQUIRE(own_out == out);
      REQUIRE(own_codes == codes);
    }
  }
}

}  // namespace
}  // namespace fxpass::kernels
