// The bitmap codec on tensors: the torch-free kernels on ATen's thread pool.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "kernels/kernels.h"
#include "saved/saved.h"

namespace fxpass::codec {

// A tensor's elements whose bit pattern is not zero, and where they stand.
// bits: int64, ceil(numel / 64) words (bit order: kernels.h). values: one-dimensional, the dtype of
// the tensor, in the order of its memory.
struct Packed {
  at::Tensor bits, values;
};

// The kernels' dtype, or nothing where they have none.
std::optional<kernels::DType> kernel_dtype(at::ScalarType dtype);

// Whether a tensor's sizes and memory are what they seem: strided, on the CPU, no subclass, fake or
// wrapper of a transform.
bool is_plain(const at::Tensor& tensor);

// Whether the kernels may read this tensor's memory as one flat range: plain, of a supported dtype,
// dense and without overlap.
bool is_flat(const at::Tensor& tensor);

// Elements a task of the thread pool takes at least: below it, handing over costs more than the
// work.
constexpr std::int64_t kGrainWords = 256;

inline std::uint64_t* words(const at::Tensor& bits) {
  return reinterpret_cast<std::uint64_t*>(bits.data_ptr<std::int64_t>());
}
at::Tensor new_words(const at::Tensor& like, std::int64_t count);
// Raises unless these are `count` words, as new_words() makes them: what comes back from the user's
// saved_tensors_hooks may be anything.
void check_words(const at::Tensor& bits, std::int64_t count, const char* what);

// bits of the elements of a flat tensor that are not zero.
at::Tensor mark(const at::Tensor& flat);
// The number of bits set.
std::int64_t count(const at::Tensor& bits);
// The marked elements of a flat tensor; `set` = count(bits).
at::Tensor gather(const at::Tensor& flat, const at::Tensor& bits, std::int64_t set);
Packed pack(const at::Tensor& flat);
// Writes every element of the flat tensor `out`. Raises if bits and values do not fit together.
void unpack(const at::Tensor& bits, const at::Tensor& values, const at::Tensor& out);

}  // namespace fxpass::codec
