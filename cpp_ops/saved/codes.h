// The code recipe: where in its window a pooled maximum stood, a few bits an output, instead of an
// int64 index and the input.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace fxpass {

// One spatial dimension of a pool: window o begins at starts[o] (in the padding if negative) and
// looks at `extent` positions, `dilation` apart.
struct WindowDim {
  std::int64_t input;
  std::vector<std::int64_t> starts;
  std::int64_t extent, dilation;

  // Whether each window has a position inside the input. With padding and dilation one may step
  // over all of it; ATen's indices then point nowhere.
  bool all_read() const;
};

// The windows of a pool over the last dims.size() dimensions of its input.
struct Windows {
  std::vector<WindowDim> dims;

  std::int64_t positions() const;  // in one window
  std::int64_t outputs() const;    // in one plane
  // Bits a code takes: ceil(log2(positions + 1)); code 0 is never a position (kernels.h).
  int width() const;
  // Whether every output has a code, and 8 bits hold it.
  bool fits_codes() const;

  static WindowDim strided(std::int64_t input, std::int64_t output, std::int64_t kernel,
                           std::int64_t stride, std::int64_t padding, std::int64_t dilation);
  // The windows of out = max_pool<n>d(in, ...), arguments as ATen takes them.
  static Windows of_pool(int n, const at::Tensor& in, const at::Tensor& out,
                         at::IntArrayRef kernel_size, at::IntArrayRef stride,
                         at::IntArrayRef padding, at::IntArrayRef dilation);
  // Adaptive pooling: window o covers floor(o * in / out) .. ceil((o + 1) * in / out) - 1.
  static WindowDim adaptive(std::int64_t input, std::int64_t output);
};

namespace codes {

// words: int64 bit planes of `n` codes of `width` bits (layout: kernels.h).
at::Tensor new_planes(std::int64_t n, int width);
void pack(const std::uint8_t* bytes, std::int64_t begin, std::int64_t n, int width,
          const at::Tensor& planes);
void unpack(const at::Tensor& planes, std::int64_t begin, std::int64_t n, int width,
            std::uint8_t* bytes);

// ATen's int64 indices (position in the input plane) to codes and back; -1 is code 0. `indices` may
// have any strides; what comes back has the sizes and strides given.
at::Tensor from_indices(const at::Tensor& indices, const Windows& windows);
at::Tensor to_indices(const at::Tensor& planes, const Windows& windows, at::IntArrayRef sizes,
                      at::IntArrayRef strides);

}  // namespace codes
}  // namespace fxpass
