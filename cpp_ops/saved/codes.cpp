#include "saved/codes.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>

#include "kernels/kernels.h"
#include "saved/codec.h"

namespace fxpass {

bool WindowDim::all_read() const {
  return std::all_of(starts.begin(), starts.end(), [&](std::int64_t start) {
    const auto first = start < 0 ? (-start + dilation - 1) / dilation : 0;
    return first < extent && start + first * dilation < input;
  });
}

bool Windows::fits_codes() const {
  return positions() <= 255 &&
         std::all_of(dims.begin(), dims.end(), [](const WindowDim& dim) { return dim.all_read(); });
}

std::int64_t Windows::positions() const {
  std::int64_t product = 1;
  for (const auto& d : dims) product *= d.extent;
  return product;
}

std::int64_t Windows::outputs() const {
  std::int64_t product = 1;
  for (const auto& d : dims) product *= static_cast<std::int64_t>(d.starts.size());
  return product;
}

int Windows::width() const { return std::bit_width(static_cast<std::uint64_t>(positions())); }

WindowDim Windows::strided(std::int64_t input, std::int64_t output, std::int64_t kernel,
                           std::int64_t stride, std::int64_t padding, std::int64_t dilation) {
  WindowDim dim{input, std::vector<std::int64_t>(output), kernel, dilation};
  for (std::int64_t o = 0; o < output; ++o) dim.starts[o] = o * stride - padding;
  return dim;
}

Windows Windows::of_pool(int n, const at::Tensor& in, const at::Tensor& out,
                         at::IntArrayRef kernel_size, at::IntArrayRef stride,
                         at::IntArrayRef padding, at::IntArrayRef dilation) {
  const auto of = [](at::IntArrayRef list, int d) { return list.size() == 1 ? list[0] : list[d]; };
  const auto strides = stride.empty() ? kernel_size : stride;
  Windows windows;
  for (int d = 0; d < n; ++d) {
    windows.dims.push_back(strided(in.size(in.dim() - n + d), out.size(out.dim() - n + d),
                                   of(kernel_size, d), of(strides, d), of(padding, d),
                                   of(dilation, d)));
  }
  return windows;
}

WindowDim Windows::adaptive(std::int64_t input, std::int64_t output) {
  WindowDim dim{input, std::vector<std::int64_t>(output), 1, 1};
  for (std::int64_t o = 0; o < output; ++o) {
    dim.starts[o] = o * input / output;
    const auto end = ((o + 1) * input + output - 1) / output;
    dim.extent = std::max(dim.extent, end - dim.starts[o]);
  }
  return dim;
}

namespace codes {

namespace {

constexpr std::int64_t kChunk = 4096;  // outputs whose codes lie unpacked at a time: half of L1

// Coordinates of output `flat` of a plane, in the order of `dims`.
template <typename Body>
void for_dims(const Windows& windows, std::int64_t flat, const Body& body) {
  for (std::size_t d = windows.dims.size(); d-- > 0;) {
    const auto count = static_cast<std::int64_t>(windows.dims[d].starts.size());
    body(windows.dims[d], windows.dims[d].starts[flat % count]);
    flat /= count;
  }
}

std::uint8_t encode(const Windows& windows, std::int64_t output, std::int64_t index) {
  if (index < 0) return 0;
  std::int64_t code = 0, scale = 1;
  for_dims(windows, output, [&](const WindowDim& dim, std::int64_t start) {
    code += (index % dim.input - start) / dim.dilation * scale;
    index /= dim.input;
    scale *= dim.extent;
  });
  return static_cast<std::uint8_t>(code + 1);
}

std::int64_t decode(const Windows& windows, std::int64_t output, std::int64_t code) {
  if (code-- == 0) return -1;
  std::int64_t index = 0, scale = 1;
  for_dims(windows, output, [&](const WindowDim& dim, std::int64_t start) {
    index += (start + code % dim.extent * dim.dilation) * scale;
    code /= dim.extent;
    scale *= dim.input;
  });
  return index;
}

}  // namespace

at::Tensor new_planes(std::int64_t n, int width) {
  return at::empty({kernels::words_for(n) * width}, at::TensorOptions().dtype(at::kLong));
}

void pack(const std::uint8_t* bytes, std::int64_t begin, std::int64_t n, int width,
          const at::Tensor& planes) {
  kernels::kernels().codes_pack(bytes, n, width,
                                codec::words(planes) + begin / kernels::kWordBits * width);
}

void unpack(const at::Tensor& planes, std::int64_t begin, std::int64_t n, int width,
            std::uint8_t* bytes) {
  kernels::kernels().codes_unpack(codec::words(planes), begin, n, width, bytes);
}

at::Tensor from_indices(const at::Tensor& indices, const Windows& windows) {
  const auto flat = indices.contiguous();
  const auto* src = flat.const_data_ptr<std::int64_t>();
  const auto n = flat.numel(), plane = windows.outputs();
  auto planes = new_planes(n, windows.width());
  at::parallel_for(0, (n + kChunk - 1) / kChunk, 1, [&](std::int64_t first, std::int64_t last) {
    std::array<std::uint8_t, kChunk> bytes;
    for (auto chunk = first; chunk < last; ++chunk) {
      const auto begin = chunk * kChunk, count = std::min(kChunk, n - begin);
      for (std::int64_t i = 0; i < count; ++i) {
        bytes[i] = encode(windows, (begin + i) % plane, src[begin + i]);
      }
      pack(bytes.data(), begin, count, windows.width(), planes);
    }
  });
  return planes;
}

at::Tensor to_indices(const at::Tensor& planes, const Windows& windows, at::IntArrayRef sizes,
                      at::IntArrayRef strides) {
  auto flat = at::empty(sizes, at::TensorOptions().dtype(at::kLong));
  codec::check_words(planes, kernels::words_for(flat.numel()) * windows.width(), "max pool");
  auto* dst = flat.data_ptr<std::int64_t>();
  const auto n = flat.numel(), plane = windows.outputs();
  at::parallel_for(0, (n + kChunk - 1) / kChunk, 1, [&](std::int64_t first, std::int64_t last) {
    std::array<std::uint8_t, kChunk> bytes;
    for (auto chunk = first; chunk < last; ++chunk) {
      const auto begin = chunk * kChunk, count = std::min(kChunk, n - begin);
      unpack(planes, begin, count, windows.width(), bytes.data());
      for (std::int64_t i = 0; i < count; ++i) {
        dst[begin + i] = decode(windows, (begin + i) % plane, bytes[i]);
      }
    }
  });
  if (flat.strides() == strides) return flat;
  auto out = at::empty_strided(sizes, strides, flat.options());
  return out.copy_(flat);
}

}  // namespace codes
}  // namespace fxpass
