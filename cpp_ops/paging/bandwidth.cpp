#include "paging/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <random>

#include "io/crc32.h"
#include "paging/chunk.h"
#include "paging/file.h"

namespace fxpass::paging {
namespace {

constexpr int kMost = 64, kLeast = 4;  // chunks
constexpr double kSeconds = 1;

class Clock {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

Bandwidth measure(const std::string& directory) {
  const File file(directory);
  const Buffer buffer(kChunk);
  // Some disks and file systems are faster with what they can compress.
  std::mt19937_64 random;
  auto* words = reinterpret_cast<std::uint64_t*>(buffer.data());
  std::generate_n(words, kChunk / sizeof *words, std::ref(random));

  const Clock writing;
  std::uint32_t sum = 0;
  std::int64_t chunks = 0;
  for (; chunks < kLeast || (chunks < kMost && writing.seconds() < kSeconds); ++chunks) {
    words[0] ^= sum = io::crc32(buffer.data(), kChunk, sum);
    file.write(chunks * kChunk, buffer.data(), kChunk);
  }
  file.settle();
  const double bytes = static_cast<double>(chunks * kChunk), write = bytes / writing.seconds();

  const Clock reading;
  for (std::int64_t i = 0; i < chunks; ++i) {
    file.read(i * kChunk, buffer.data(), kChunk);
    sum = io::crc32(buffer.data(), kChunk, sum);
  }
  return {write, bytes / reading.seconds()};
}

}  // namespace fxpass::paging
