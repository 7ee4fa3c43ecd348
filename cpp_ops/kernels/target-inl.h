// The table of the target this file is compiled for. Included once, by that target's .cpp file.
#pragma once

#include <cstdint>

#include "affine-inl.h"
#include "batch_norm-inl.h"
#include "bitmap-inl.h"
#include "by_type.h"
#include "codes-inl.h"
#include "pool_nchw-inl.h"
#include "pool_nhwc-inl.h"
#include "relu-inl.h"
#include "runs-inl.h"

namespace fxpass::kernels {
namespace {

Kernels make_table(const char* name) {
  return Kernels{
      .name = name,
      .bitmap_mark =
          [](DType dtype, const void* src, std::int64_t n, std::uint64_t* bits) {
            return by_bits(dtype, [&](auto zero) {
              using B = decltype(zero);
              return mark<Lanes<B>>(dtype, static_cast<const B*>(src), n, bits);
            });
          },
      .bitmap_gather =
          [](DType dtype, const void* src, const std::uint64_t* bits, std::int64_t n,
             void* values) {
            by_bits(dtype, [&](auto zero) {
              using B = decltype(zero);
              gather<Lanes<B>>(dtype, static_cast<const B*>(src), bits, n, static_cast<B*>(values));
            });
          },
      .bitmap_pack =
          [](DType dtype, const void* src, std::int64_t n, std::uint64_t* bits, void* values) {
            return by_bits(dtype, [&](auto zero) {
              using B = decltype(zero);
              return pack<Lanes<B>>(dtype, static_cast<const B*>(src), n, bits,
                                    static_cast<B*>(values));
            });
          },
      .bitmap_unpack =
          [](DType dtype, const std::uint64_t* bits, std::int64_t n, const void* values,
             void* dst) {
            by_bits(dtype, [&](auto zero) {
              using B = decltype(zero);
              unpack<Lanes<B>>(dtype, bits, n, static_cast<const B*>(values), static_cast<B*>(dst));
            });
          },
      .relu_mask =
          [](DType dtype, const void* x, void* y, std::int64_t n, std::uint64_t* mask) {
            return by_format(dtype, [&](auto format) {
              using Format = decltype(format);
              using B = typename Format::Bits;
              return relu<Lanes<B>, Format>(dtype, static_cast<const B*>(x), static_cast<B*>(y), n,
                                            mask);
            });
          },
      .select =
          [](DType dtype, const void* grad, const std::uint64_t* mask, std::int64_t n, void* out) {
            by_bits(dtype, [&](auto zero) {
              using B = decltype(zero);
              select<Lanes<B>>(dtype, static_cast<const B*>(grad), mask, n, static_cast<B*>(out));
            });
          },
      .runs_mask =
          [](DType dtype, const Run(&runs)[2], const void* x, std::int64_t n, std::uint64_t* mask) {
            return by_format(dtype, [&](auto format) {
              using Format = decltype(format);
              using B = typename Format::Bits;
              return runs_mask<Lanes<B>, Format>(dtype, runs, static_cast<const B*>(x), n, mask);
            });
          },
      .codes_pack = codes_pack,
      .codes_unpack = codes_unpack,
      .max_pool2d_nchw =
          [](DType dtype, const Pool2d& p, const void* x, void* out, std::uint8_t* codes,
             std::int64_t begin, std::int64_t end) {
            by_float(dtype, [&](auto zero) {
              using T = decltype(zero);
              nchw::forward<FloatLanes<T>>(p, static_cast<const T*>(x), static_cast<T*>(out), codes,
                                           begin, end);
            });
          },
      .max_pool2d_nhwc =
          [](DType dtype, const Pool2d& p, const void* x, void* out, std::uint8_t* codes,
             std::int64_t begin, std::int64_t end) {
            by_float(dtype, [&](auto zero) {
              using T = decltype(zero);
              nhwc::forward<FloatLanes<T>>(p, static_cast<const T*>(x), static_cast<T*>(out), codes,
                                           begin, end);
            });
          },
      .max_pool2d_nchw_backward =
          [](DType dtype, const Pool2d& p, const void* grad_out, const std::uint8_t* codes,
             void* grad_in) {
            by_float(dtype, [&](auto zero) {
              using T = decltype(zero);
              if (nchw::takes_backward<FloatLanes<T>>(p)) {
                nchw::backward<FloatLanes<T>>(p, static_cast<const T*>(grad_out), codes,
                                              static_cast<T*>(grad_in));
              } else {
                scalar::max_pool2d_backward(dtype, p, grad_out, codes, grad_in);
              }
            });
          },
      .max_pool2d_nhwc_backward =
          [](DType dtype, const Pool2d& p, const void* grad_out, const std::uint8_t* codes,
             void* grad_in) {
            by_float(dtype, [&](auto zero) {
              using T = decltype(zero);
              nhwc::backward<FloatLanes<T>>(p, static_cast<const T*>(grad_out), codes,
                                            static_cast<T*>(grad_in));
            });
          },
      .affine =
          [](DType dtype, const Affine& f, const void* x, void* y, std::int64_t begin,
             std::int64_t end) {
            by_float(dtype, [&](auto zero) {
              using T = decltype(zero);
              affine<FloatLanes<T>, false>(f, static_cast<const T*>(x), static_cast<T*>(y), begin,
                                           end, nullptr);
            });
          },
      .affine_relu =
          [](DType dtype, const Affine& f, const void* x, void* y, std::int64_t begin,
             std::int64_t end, std::uint64_t* mask) {
            return by_float(dtype, [&](auto zero) {
              using T = decltype(zero);
              return affine<FloatLanes<T>, true>(f, static_cast<const T*>(x), static_cast<T*>(y),
                                                 begin, end, mask);
            });
          },
      .batch_norm_stats_nchw =
          [](DType dtype, const Planes& p, const void* x, std::int64_t first, std::int64_t last,
             void* mean, void* var_sum) {
            by_float(dtype, [&](auto zero) {
              using T = decltype(zero);
              stats_nchw<Columns<T>>(p, static_cast<const T*>(x), first, last,
                                     static_cast<T*>(mean), static_cast<T*>(var_sum));
            });
          },
  };
}

}  // namespace
}  // namespace fxpass::kernels
