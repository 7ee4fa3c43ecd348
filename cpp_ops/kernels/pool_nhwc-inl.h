// Max pools over images of pixels: a vector holds neighbouring channels of one pixel.
//
// Forward: each output pixel keeps its maxima in registers while it visits its window. Backward:
// each input pixel collects the gradients of all windows that cover it, in the order ATen adds
// them, and is written once; no pass fills the image with zeros first.
#pragma once

#include <cstdint>

#include "pool-inl.h"
#include "scalar.h"

namespace fxpass::kernels {
namespace {
namespace nhwc {

// Channels [begin, end) of output pixel (oh, ow); `out` and `codes` point at channel `begin`.
template <typename L, bool kRelu>
void pixel(const Pool2d& p, const typename L::T* image, std::int64_t oh, std::int64_t ow,
           Range channels, typename L::T* out, std::uint8_t* codes) {
  const Range khs = positions_inside(height(p), oh);
  const Range kws = positions_inside(width(p), ow);
  if (khs.empty() || kws.empty()) {
    for (std::int64_t c = channels.begin; c < channels.end; ++c) {
      scalar::max_pool2d_one(p, image + c, oh, ow, out++, codes++);
    }
    return;
  }
  const std::int64_t ih0 = height(p).first(oh);
  const std::int64_t iw0 = width(p).first(ow);
  for (std::int64_t c = channels.begin; c < channels.end; c += L::kCount) {
    const std::int64_t left = channels.end - c;
    Maxima<L, kRelu> maxima(1 + khs.begin * p.kernel_w + kws.begin);
    for (std::int64_t kh = khs.begin; kh < khs.end; ++kh) {
      const typename L::T* const row = image + (ih0 + kh * p.dilation_h) * p.in_w * p.channels + c;
      for (std::int64_t kw = kws.begin; kw < kws.end; ++kw) {
        const typename L::T* const at = row + (iw0 + kw * p.dilation_w) * p.channels;
        maxima.take(load_up_to<L>(at, left), 1 + kh * p.kernel_w + kw);
      }
    }
    store_up_to<L>(out, maxima.best, left);
    store_codes_up_to<L>(codes, maxima.codes(), left);
    out += L::kCount;
    codes += L::kCount;
  }
}

template <typename L, bool kRelu>
void pixels(const Pool2d& p, const typename L::T* x, typename L::T* out, std::uint8_t* codes,
            std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t global_pixel = i / p.channels;
    const std::int64_t start = global_pixel * p.channels;
    const std::int64_t global_row = global_pixel / p.out_w;
    const Range channels{i - start, least(end - start, p.channels)};
    const typename L::T* const image = x + global_row / p.out_h * p.in_h * p.in_w * p.channels;
    pixel<L, kRelu>(p, image, global_row % p.out_h, global_pixel % p.out_w, channels, out + i,
                    codes + (i - begin));
    i = start + channels.end;
  }
}

template <typename L>
void forward(const Pool2d& p, const typename L::T* x, typename L::T* out, std::uint8_t* codes,
             std::int64_t begin, std::int64_t end) {
  p.fused_relu ? pixels<L, true>(p, x, out, codes, begin, end)
               : pixels<L, false>(p, x, out, codes, begin, end);
}

template <typename L>
void backward(const Pool2d& p, const typename L::T* grad_out, const std::uint8_t* codes,
              typename L::T* grad_in) {
  Cover rows[kMostPositions];
  Cover columns[kMostPositions];
  for (std::int64_t ih = 0; ih < p.in_h; ++ih) {
    const int row_count = covering(height(p), ih, rows);
    for (std::int64_t iw = 0; iw < p.in_w; ++iw, grad_in += p.channels) {
      const int column_count = covering(width(p), iw, columns);
      for (std::int64_t c = 0; c < p.channels; c += L::kCount) {
        const std::int64_t left = p.channels - c;
        typename L::V sum = L::set(0);
        for (int r = 0; r < row_count; ++r) {
          for (int k = 0; k < column_count; ++k) {
            const std::int64_t at = (rows[r].out * p.out_w + columns[k].out) * p.channels + c;
            const auto code = L::codes(static_cast<int>(1 + rows[r].k * p.kernel_w + columns[k].k));
            const auto found = left >= L::kCount
                                   ? L::load_codes(codes + at)
                                   : L::load_codes_lanes(codes + at, 0, static_cast<int>(left));
            sum = L::add_where(sum, load_up_to<L>(grad_out + at, left), L::equal(found, code));
          }
        }
        store_up_to<L>(grad_in + c, sum, left);
      }
    }
  }
}

}  // namespace nhwc
}  // namespace
}  // namespace fxpass::kernels
