// The scalar target. Its functions define what every other target computes, and do the remainders
// for them: what is left after the last whole vector, and the outputs at the edges of a pool.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace fxpass::kernels::scalar {

std::int64_t bitmap_mark(DType, const void* src, std::int64_t n, std::uint64_t* bits);
void bitmap_gather(DType, const void* src, const std::uint64_t* bits, std::int64_t n, void* values);
std::int64_t bitmap_pack(DType, const void* src, std::int64_t n, std::uint64_t* bits, void* values);
void bitmap_unpack(DType, const std::uint64_t* bits, std::int64_t n, const void* values, void* dst);

bool relu_mask(DType, const void* x, void* y, std::int64_t n, std::uint64_t* mask);
bool runs_mask(DType, const Run (&runs)[2], const void* x, std::int64_t n, std::uint64_t* mask);
void select(DType, const void* grad, const std::uint64_t* mask, std::int64_t n, void* out);

void codes_pack(const std::uint8_t* codes, std::int64_t n, int width, std::uint64_t* words);
void codes_unpack(const std::uint64_t* words, std::int64_t begin, std::int64_t n, int width,
                  std::uint8_t* codes);

// A plane in NCHW is an image of one channel in NHWC, so both layouts share one function.
void max_pool2d(DType, const Pool2d&, const void* x, void* out, std::uint8_t* codes,
                std::int64_t begin, std::int64_t end);
void max_pool2d_backward(DType, const Pool2d&, const void* grad_out, const std::uint8_t* codes,
                         void* grad_in);

void affine(DType, const Affine&, const void* x, void* y, std::int64_t begin, std::int64_t end);
bool affine_relu(DType, const Affine&, const void* x, void* y, std::int64_t begin, std::int64_t end,
                 std::uint64_t* mask);
void batch_norm_stats_nchw(DType, const Planes&, const void* x, std::int64_t first,
                           std::int64_t last, void* mean, void* var_sum);

// One output of a pool and its code: `image` points at its plane, or at its channel in its image.
void max_pool2d_one(const Pool2d&, const float* image, std::int64_t oh, std::int64_t ow, float* out,
                    std::uint8_t* code);
void max_pool2d_one(const Pool2d&, const double* image, std::int64_t oh, std::int64_t ow,
                    double* out, std::uint8_t* code);

}  // namespace fxpass::kernels::scalar
