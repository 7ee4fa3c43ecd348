// What the kernel tests share: targets, buffers that catch a stray byte, and difficult values.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "targets.h"

namespace fxpass::kernels {

// Every target this CPU runs. AVX-512 comes twice where the CPU has VBMI2: kernels_for() gives the
// table that uses it, and the one for CPUs without it must be right too.
inline std::vector<const Kernels*> targets() {
  std::vector<const Kernels*> found;
  for (const char* name : {"scalar", "avx2", "avx512", "neon"}) {
    if (const Kernels* k = kernels_for(name)) found.push_back(k);
  }
#if defined(__x86_64__)
  if (kernels_for("avx512") != nullptr && kernels_for("avx512") != &avx512_kernels()) {
    found.push_back(&avx512_kernels());
  }
#endif
  return found;
}

inline constexpr DType kDTypes[] = {DType::F16, DType::BF16, DType::F32, DType::F64};

// `size` bytes that end `gap` bytes before a page nobody may touch, and start where that puts them:
// with gap 0 one byte too many, read or written, ends the program. What lies before the bytes, and
// the gap, are checked by intact().
class Buffer {
 public:
  explicit Buffer(std::int64_t size, std::int64_t gap = 0) : size_(size), gap_(gap) {
    const std::int64_t page = sysconf(_SC_PAGESIZE);
    const std::int64_t body = (size + gap + kMargin + page - 1) / page * page;
    mapped_ = body + page;
    void* const memory = mmap(nullptr, static_cast<std::size_t>(mapped_), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
    base_ = static_cast<std::uint8_t*>(memory);
    mprotect(base_ + body, static_cast<std::size_t>(page), PROT_NONE);
    data_ = base_ + body - gap - size;
    std::memset(data_ - kMargin, kFill, static_cast<std::size_t>(size + gap + kMargin));
  }
  ~Buffer() { munmap(base_, static_cast<std::size_t>(mapped_)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::uint8_t* data() const { return data_; }
  std::int64_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  bool intact() const {
    for (std::int64_t i = 1; i <= kMargin; ++i) {
      if (data_[-i] != kFill) return false;
    }
    for (std::int64_t i = 0; i < gap_; ++i) {
      if (data_[size_ + i] != kFill) return false;
    }
    return true;
  }
  bool operator==(const Buffer& other) const {
    return size_ == other.size_ &&
           std::memcmp(data_, other.data_, static_cast<std::size_t>(size_)) == 0;
  }

 private:
  static constexpr std::int64_t kMargin = 64;
  static constexpr std::uint8_t kFill = 0xa5;
  std::int64_t size_, gap_, mapped_;
  std::uint8_t* base_;
  std::uint8_t* data_;
};

inline std::uint64_t get(const std::uint8_t* p, int bytes, std::int64_t i) {
  std::uint64_t pattern = 0;
  std::memcpy(&pattern, p + i * bytes, static_cast<std::size_t>(bytes));
  return pattern;
}

inline void put(std::uint8_t* p, int bytes, std::int64_t i, std::uint64_t pattern) {
  std::memcpy(p + i * bytes, &pattern, static_cast<std::size_t>(bytes));
}

// The layout of a floating-point format, and from it the values that go wrong.
struct Layout {
  int bits, mantissa;

  std::uint64_t sign() const { return std::uint64_t{1} << (bits - 1); }
  std::uint64_t inf() const { return sign() - (std::uint64_t{1} << mantissa); }
  bool nan(std::uint64_t v) const { return (v & ~sign()) > inf(); }
  bool passes(std::uint64_t v) const { return nan(v) || (v < sign() && v != 0); }
  std::uint64_t relu(std::uint64_t v) const { return passes(v) || v == sign() ? v : 0; }

  std::vector<std::uint64_t> special() const {
    const std::uint64_t quiet = inf() | std::uint64_t{1} << (mantissa - 1);
    const std::uint64_t one = (inf() >> 1) & inf();
    std::vector<std::uint64_t> values = {
        0,          1,         (std::uint64_t{1} << mantissa) - 1,
        inf(),      inf() - 1, inf() + 1,  // the last a signalling NaN
        inf() | 5,  quiet,     quiet | 3,
        sign() - 1, one};
    for (std::size_t i = 0, n = values.size(); i < n; ++i) values.push_back(values[i] | sign());
    return values;
  }
};

inline Layout layout(DType dtype) {
  switch (dtype) {
    case DType::F16:
      return {16, 10};
    case DType::BF16:
      return {16, 7};
    case DType::F32:
      return {32, 23};
    default:
      return {64, 52};
  }
}

// Fills with zeros, special values and random patterns; `density` of the elements are not zero.
inline void fill(Buffer& buffer, DType dtype, double density, std::mt19937_64& random) {
  const int bytes = element_size(dtype);
  const std::vector<std::uint64_t> special = layout(dtype).special();
  for (std::int64_t i = 0; i < buffer.size() / bytes; ++i) {
    std::uint64_t pattern = 0;
    if (static_cast<double>(random() % 1000) < density * 1000) {
      pattern = random() % 2 == 0 ? special[random() % special.size()] : random();
    }
    put(buffer.data(), bytes, i, pattern);
  }
}

}  // namespace fxpass::kernels
