#include "saved/codec.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <bit>
#include <numeric>

namespace fxpass::codec {

using kernels::kernels;
using kernels::kWordBits;
using kernels::words_for;

namespace {

// Words in a block: where its values begin is known before it is gathered or unpacked, so that
// blocks are independent. 512 words are 32768 elements, 128 KiB of fp32.
constexpr std::int64_t kBlockWords = 512;

std::vector<std::int64_t> block_offsets(const at::Tensor& bits) {
  const auto total = bits.numel();
  const auto blocks = (total + kBlockWords - 1) / kBlockWords;
  std::vector<std::int64_t> offsets(blocks + 1, 0);
  const auto* data = words(bits);
  at::parallel_for(0, blocks, 64, [&](std::int64_t begin, std::int64_t end) {
    for (auto b = begin; b < end; ++b) {
      const auto last = std::min(total, (b + 1) * kBlockWords);
      std::int64_t set = 0;
      for (auto w = b * kBlockWords; w < last; ++w) set += std::popcount(data[w]);
      offsets[b + 1] = set;
    }
  });
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  return offsets;
}

// A run of blocks that one task takes, as one range: the kernels see how large it is, and stream
// past the caches what would not fit them.
struct Range {
  std::int64_t first_block, first_word, first_element, elements;
};

// Calls body(Range) for the blocks of a bitmap over n elements, in parallel.
template <typename Body>
void for_ranges(std::int64_t n, const Body& body) {
  const auto blocks = (words_for(n) + kBlockWords - 1) / kBlockWords;
  at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto first = begin * kBlockWords * kWordBits;
    body(Range{begin, begin * kBlockWords, first,
               std::min(n, end * kBlockWords * kWordBits) - first});
  });
}

}  // namespace

std::optional<kernels::DType> kernel_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return kernels::DType::F16;
    case at::kBFloat16:
      return kernels::DType::BF16;
    case at::kFloat:
      return kernels::DType::F32;
    case at::kDouble:
      return kernels::DType::F64;
    default:
      return std::nullopt;
  }
}

bool is_plain(const at::Tensor& t) {
  return t.device().is_cpu() && t.layout() == at::kStrided &&
         !t.key_set().has_any(c10::DispatchKeySet(
             {c10::DispatchKey::Python, c10::DispatchKey::Conjugate, c10::DispatchKey::Negative,
              c10::DispatchKey::Functionalize, c10::DispatchKey::FuncTorchBatched,
              c10::DispatchKey::FuncTorchGradWrapper}));
}

bool is_flat(const at::Tensor& t) {
  return is_plain(t) && kernel_dtype(t.scalar_type()).has_value() &&
         t.is_non_overlapping_and_dense();
}

at::Tensor new_words(const at::Tensor& like, std::int64_t count) {
  const memory::InPart part(memory::as_payload());
  return at::empty({count}, at::TensorOptions().dtype(at::kLong).device(like.device()));
}

void check_words(const at::Tensor& bits, std::int64_t count, const char* what) {
  TORCH_CHECK(bits.defined() && is_plain(bits) && bits.scalar_type() == at::kLong &&
                  bits.is_contiguous() && bits.numel() == count,
              what, ": expected a payload of ", count, " contiguous int64 words on the CPU, got ",
              bits.numel(), " of ", bits.scalar_type(), " on ", bits.device(),
              " (did a saved_tensors_hooks change it?)");
}

at::Tensor mark(const at::Tensor& flat) {
  const auto n = flat.numel();
  const auto dtype = *kernel_dtype(flat.scalar_type());
  auto bits = new_words(flat, words_for(n));
  auto* out = words(bits);
  const auto* src = static_cast<const char*>(flat.const_data_ptr());
  for_ranges(n, [&](const Range& range) {
    kernels().bitmap_mark(dtype, src + range.first_element * element_size(dtype), range.elements,
                          out + range.first_word);
  });
  return bits;
}

std::int64_t count(const at::Tensor& bits) { return block_offsets(bits).back(); }

at::Tensor gather(const at::Tensor& flat, const at::Tensor& bits, std::int64_t set) {
  const auto dtype = *kernel_dtype(flat.scalar_type());
  const auto offsets = block_offsets(bits);
  TORCH_INTERNAL_ASSERT(offsets.back() == set);
  auto values = at::empty({set}, flat.options());
  const auto* src = static_cast<const char*>(flat.const_data_ptr());
  auto* out = static_cast<char*>(values.data_ptr());
  const auto size = element_size(dtype);
  for_ranges(flat.numel(), [&](const Range& range) {
    kernels().bitmap_gather(dtype, src + range.first_element * size, words(bits) + range.first_word,
                            range.elements, out + offsets[range.first_block] * size);
  });
  return values;
}

Packed pack(const at::Tensor& flat) {
  auto bits = mark(flat);
  auto values = gather(flat, bits, count(bits));
  return {std::move(bits), std::move(values)};
}

void unpack(const at::Tensor& bits, const at::Tensor& values, const at::Tensor& out) {
  const auto n = out.numel();
  check_words(bits, words_for(n), "bitmap");
  TORCH_CHECK(
      is_plain(values) && values.scalar_type() == out.scalar_type() && values.is_contiguous(),
      "bitmap: expected contiguous values of ", out.scalar_type(), " on the CPU, got ",
      values.scalar_type(), " on ", values.device());
  if (n % kWordBits != 0) {
    const auto beyond = words(bits)[bits.numel() - 1] >> (n % kWordBits);
    TORCH_CHECK(beyond == 0, "bitmap: bits are set past the last of ", n, " elements");
  }
  const auto offsets = block_offsets(bits);
  TORCH_CHECK(offsets.back() == values.numel(), "bitmap: ", offsets.back(),
              " bits are set, but there are ", values.numel(), " values");
  const auto dtype = *kernel_dtype(out.scalar_type());
  const auto size = element_size(dtype);
  const auto* src = static_cast<const char*>(values.const_data_ptr());
  auto* dst = static_cast<char*>(out.data_ptr());
  for_ranges(n, [&](const Range& range) {
    kernels().bitmap_unpack(dtype, words(bits) + range.first_word, range.elements,
                            src + offsets[range.first_block] * size,
                            dst + range.first_element * size);
  });
}

}  // namespace fxpass::codec
