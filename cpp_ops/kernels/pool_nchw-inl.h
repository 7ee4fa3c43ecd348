// Max pools over planes: a vector holds neighbours of one row.
//
// Forward: lane j of a block is output ow + j, whose window column kw is the input column
// (ow + j) * stride - pad + kw * dilation, so a block loads neighbours (stride 1) or every second
// element (stride 2). Windows that reach over an edge, and larger strides, go to the scalar kernel.
//
// Backward: lane j is input column (j0 + j) * stride + phase. It collects the gradients of all
// windows that cover it, in the order ATen adds them, and is written once.
#pragma once

#include <cstdint>

#include "pool-inl.h"
#include "scalar.h"

namespace fxpass::kernels {
namespace {
namespace nchw {

// Outputs [ow, ow + count) of one row, at most a vector of them, all inside the input.
template <typename L, bool kRelu, int kStride>
void block(const Pool2d& p, const typename L::T* plane, std::int64_t ih0, Range khs,
           std::int64_t ow, std::int64_t count, typename L::T* out, std::uint8_t* codes) {
  using V = typename L::V;
  const std::int64_t iw0 = ow * kStride - p.pad_w;
  Maxima<L, kRelu> maxima(1 + khs.begin * p.kernel_w);
  for (std::int64_t kh = khs.begin; kh < khs.end; ++kh) {
    const typename L::T* const row = plane + (ih0 + kh * p.dilation_h) * p.in_w;
    const std::int64_t row_code = 1 + kh * p.kernel_w;
    for (std::int64_t kw = 0; kw < p.kernel_w; ++kw) {
      const std::int64_t iw = iw0 + kw * p.dilation_w;
      const V value = load_up_to<L>(row + iw, p.in_w - iw);
      if constexpr (kStride == 1) {
        maxima.take(value, row_code + kw);
      } else {
        const V more = load_up_to<L>(row + iw + L::kCount, p.in_w - iw - L::kCount);
        V even;
        V odd;
        L::deinterleave(value, more, even, odd);
        maxima.take(even, row_code + kw);
        // The elements between belong to the window's next column.
        if (p.dilation_w == 1 && kw + 1 < p.kernel_w) maxima.take(odd, row_code + ++kw);
      }
    }
  }
  store_up_to<L>(out, maxima.best, count);
  store_codes_up_to<L>(codes, maxima.codes(), count);
}

// Outputs [begin, end) of row oh; `out` and `codes` point at the row's output `begin`.
template <typename L, bool kRelu, int kStride>
void row(const Pool2d& p, const typename L::T* plane, std::int64_t oh, Range outputs,
         typename L::T* out, std::uint8_t* codes) {
  const Range khs = positions_inside(height(p), oh);
  Range inside = outputs_inside(width(p));
  inside = {most(inside.begin, outputs.begin), least(inside.end, outputs.end)};
  if (khs.empty() || inside.empty()) inside = {outputs.end, outputs.end};
  std::int64_t ow = outputs.begin;
  for (; ow < inside.begin; ++ow) scalar::max_pool2d_one(p, plane, oh, ow, out++, codes++);
  while (ow < inside.end) {
    const std::int64_t count = least(L::kCount, inside.end - ow);
    block<L, kRelu, kStride>(p, plane, height(p).first(oh), khs, ow, count, out, codes);
    ow += count;
    out += count;
    codes += count;
  }
  for (; ow < outputs.end; ++ow) scalar::max_pool2d_one(p, plane, oh, ow, out++, codes++);
}

template <typename L, bool kRelu, int kStride>
void rows(const Pool2d& p, const typename L::T* x, typename L::T* out, std::uint8_t* codes,
          std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t global_row = i / p.out_w;
    const std::int64_t start = global_row * p.out_w;
    const Range outputs{i - start, least(end - start, p.out_w)};
    const typename L::T* const plane = x + global_row / p.out_h * p.in_h * p.in_w;
    row<L, kRelu, kStride>(p, plane, global_row % p.out_h, outputs, out + i, codes + (i - begin));
    i = start + outputs.end;
  }
}

template <typename L>
void forward(const Pool2d& p, const typename L::T* x, typename L::T* out, std::uint8_t* codes,
             std::int64_t begin, std::int64_t end) {
  const bool relu = p.fused_relu;
  if (p.stride_w > 2) {
    constexpr DType kType = sizeof(typename L::T) == 8 ? DType::F64 : DType::F32;
    scalar::max_pool2d(kType, p, x, out, codes, begin, end);
  } else if (p.stride_w == 1) {
    relu ? rows<L, true, 1>(p, x, out, codes, begin, end)
         : rows<L, false, 1>(p, x, out, codes, begin, end);
  } else {
    relu ? rows<L, true, 2>(p, x, out, codes, begin, end)
         : rows<L, false, 2>(p, x, out, codes, begin, end);
  }
}

// The window columns that can cover columns of one phase (input column modulo stride), by
// increasing output: output j + shift covers column j * stride + phase at its window column kw.
struct Columns {
  int count = 0;
  struct {
    std::int64_t shift, kw;
  } items[kMostPositions];
};

inline void columns_of_phase(const Pool2d& p, std::int64_t phase, Columns& columns) {
  for (std::int64_t kw = p.kernel_w - 1; kw >= 0; --kw) {
    const std::int64_t distance = phase + p.pad_w - kw * p.dilation_w;
    if (distance % p.stride_w == 0) columns.items[columns.count++] = {distance / p.stride_w, kw};
  }
}

// sum + the gradients of outputs [first, first + kCount) of a row, where their code is `code`.
template <typename L>
inline typename L::V collect(typename L::V sum, const typename L::T* grads,
                             const std::uint8_t* codes, std::int64_t first, std::int64_t out_w,
                             typename L::Codes code) {
  if (first >= 0 && first + L::kCount <= out_w) {
    const auto hit = L::equal(L::load_codes(codes + first), code);
    return L::add_where(sum, L::load(grads + first), hit);
  }
  const int low = static_cast<int>(most(0, least(-first, L::kCount)));
  const int high = static_cast<int>(most(0, least(out_w - first, L::kCount)));
  if (low >= high) return sum;
  const auto hit = L::equal(L::load_codes_lanes(codes + first, low, high), code);
  return L::add_where(sum, L::load_lanes(grads + first, low, high), hit);
}

// Rows narrower than a vector gain nothing, nor do strides that would need more phases.
template <typename L>
bool takes_backward(const Pool2d& p) {
  return p.stride_w <= 2 && p.out_w >= L::kCount / 2;
}

// Input columns [j, j + kCount) * stride of one row, whose windows' rows are `rows`.
template <typename L, int kStride>
void backward_block(const Pool2d& p, const Columns* columns, const Cover* rows, int row_count,
                    std::int64_t j, const typename L::T* grad_out, const std::uint8_t* codes,
                    typename L::T* grad_row) {
  using V = typename L::V;
  V sums[kStride];
  for (int phase = 0; phase < kStride; ++phase) sums[phase] = L::set(0);
  for (int r = 0; r < row_count; ++r) {
    const std::int64_t start = rows[r].out * p.out_w;
    const std::int64_t row_code = 1 + rows[r].k * p.kernel_w;
    for (int phase = 0; phase < kStride; ++phase) {
      for (int c = 0; c < columns[phase].count; ++c) {
        const auto& column = columns[phase].items[c];
        const auto code = L::codes(static_cast<int>(row_code + column.kw));
        sums[phase] = collect<L>(sums[phase], grad_out + start, codes + start, j + column.shift,
                                 p.out_w, code);
      }
    }
  }
  const std::int64_t iw = j * kStride;
  if constexpr (kStride == 1) {
    store_up_to<L>(grad_row + iw, sums[0], p.in_w - iw);
  } else {
    V low;
    V high;
    L::interleave(sums[0], sums[1], low, high);
    store_up_to<L>(grad_row + iw, low, p.in_w - iw);
    store_up_to<L>(grad_row + iw + L::kCount, high, p.in_w - iw - L::kCount);
  }
}

template <typename L, int kStride>
void backward_rows(const Pool2d& p, const typename L::T* grad_out, const std::uint8_t* codes,
                   typename L::T* grad_in) {
  Columns columns[kStride];
  for (int phase = 0; phase < kStride; ++phase) columns_of_phase(p, phase, columns[phase]);
  Cover rows[kMostPositions];
  for (std::int64_t ih = 0; ih < p.in_h; ++ih) {
    const int row_count = covering(height(p), ih, rows);
    for (std::int64_t j = 0; j * kStride < p.in_w; j += L::kCount) {
      backward_block<L, kStride>(p, columns, rows, row_count, j, grad_out, codes,
                                 grad_in + ih * p.in_w);
    }
  }
}

template <typename L>
void backward(const Pool2d& p, const typename L::T* grad_out, const std::uint8_t* codes,
              typename L::T* grad_in) {
  p.stride_w == 1 ? backward_rows<L, 1>(p, grad_out, codes, grad_in)
                  : backward_rows<L, 2>(p, grad_out, codes, grad_in);
}

}  // namespace nchw
}  // namespace
}  // namespace fxpass::kernels
