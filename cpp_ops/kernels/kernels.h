// The torch-free kernels: raw pointers and ranges in, bytes out.
//
// Bit order, the contract of every bitmap here: element i is bit (i % 64) of the 64-bit word
// (i / 64), little endian, least significant bit first. Bits past the last element are zero.
//
// Every target (scalar, AVX2, AVX-512, NEON) writes the same bytes. The scalar functions carry the
// explanations; the vector ones only say how.
//
// Of a damaged payload: bits past the last element are ignored by gather and unpack, and codes that
// point nowhere give no gradient. But unpack believes the bits: that there are as many values as
// bits set is for its caller to check.
// Outputs of 8 MiB or more in one call, aligned to 64 bytes, are written past the caches: large
// ranges are the faster ones.
#pragma once

#include <cstdint>

namespace fxpass::kernels {

enum class DType : std::uint8_t { F16, BF16, F32, F64 };

constexpr std::int64_t kWordBits = 64;

constexpr std::int64_t words_for(std::int64_t n) { return (n + kWordBits - 1) / kWordBits; }

constexpr int element_size(DType dtype) {
  return dtype == DType::F64 ? 8 : dtype == DType::F32 ? 4 : 2;
}

// Geometry of a two-dimensional max pool over `planes` planes (NCHW) or images (NHWC).
struct Pool2d {
  std::int64_t channels;  // NHWC: channels of a pixel; NCHW: 1, a plane is one channel
  std::int64_t in_h, in_w, out_h, out_w;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  bool fused_relu;  // the pool reads relu(x); code 0 means "no gradient passes"
};

// One multiplication and one addition a channel: a batch norm whose statistics are known. Element i
// of the flat tensor belongs to channel (i / inner) % channels: `inner` is the size of a plane in
// NCHW, and 1 in NHWC.
struct Affine {
  const void* a;  // `channels` values of the tensor's dtype
  const void* b;  // the same
  std::int64_t channels, inner;
};

// A tensor in NCHW: its planes are `inner` elements each.
struct Planes {
  std::int64_t images, channels, inner;
};

// Whether batch_norm_stats_nchw gives the bits of ATen 2.13. Planes of one element it takes for
// channels_last, and adds in another order. Of an odd plane of doubles its compiler's AVX2 code
// adds the last square without having rounded it (vfmadd231sd).
constexpr bool stats_are_atens(DType dtype, std::int64_t inner) {
  return inner > 1 && (dtype == DType::F32 || (dtype == DType::F64 && inner % 2 == 0));
}

// Bit patterns that follow one another from `first` on.
struct Run {
  std::uint64_t first, count;
};

struct Kernels {
  const char* name;  // "scalar", "avx2", "avx512", "neon"

  // ---- bitmap: the elements whose bit pattern is not zero (so -0.0 counts) ----

  // Writes words_for(n) words of bits; returns how many are set.
  std::int64_t (*bitmap_mark)(DType, const void* src, std::int64_t n, std::uint64_t* bits);
  // Copies the elements whose bit is set, in order, to `values`, which has room for exactly as many
  // as bits are set: not one byte beyond is written.
  void (*bitmap_gather)(DType, const void* src, const std::uint64_t* bits, std::int64_t n,
                        void* values);
  // mark and gather in one pass; `values` has room for n elements. Returns the number of values.
  std::int64_t (*bitmap_pack)(DType, const void* src, std::int64_t n, std::uint64_t* bits,
                              void* values);
  // The inverse: every element of dst is written. Reads exactly as many values as bits are set.
  void (*bitmap_unpack)(DType, const std::uint64_t* bits, std::int64_t n, const void* values,
                        void* dst);

  // ---- ReLU ----

  // y = relu(x) as ATen computes it (y may be x), mask = !(y <= 0): NaN passes, -0.0 stays -0.0 and
  // does not pass. Returns whether y holds a -0.0 (then its bitmap differs from its mask).
  bool (*relu_mask)(DType, const void* x, void* y, std::int64_t n, std::uint64_t* mask);
  // out = mask ? grad : +0.0, bit patterns untouched (ATen's threshold_backward). out may be grad.
  void (*select)(DType, const void* grad, const std::uint64_t* mask, std::int64_t n, void* out);

  // ---- other masks ----

  // mask = the elements whose bit pattern lies in one of the two runs. Returns whether x holds a
  // NaN.
  bool (*runs_mask)(DType, const Run (&runs)[2], const void* x, std::int64_t n,
                    std::uint64_t* mask);

  // ---- codes: small integers, `width` bits each (1..8), as bit planes: the codes of elements
  //      64g .. 64g+63 are the words g*width .. g*width+width-1, word p holding bit p of each ----

  void (*codes_pack)(const std::uint8_t* codes, std::int64_t n, int width, std::uint64_t* words);
  // Codes [begin, begin + n) of the packed sequence; `begin` need not be a multiple of 64.
  void (*codes_unpack)(const std::uint64_t* words, std::int64_t begin, std::int64_t n, int width,
                       std::uint8_t* codes);

  // ---- 2-d max pooling, F32 and F64; the window has at most 255 positions ----

  // Outputs [begin, end) of the flat output (NCHW: plane, oh, ow; NHWC: image, oh, ow, channel)
  // with their codes. Code = 1 + (kh * kernel_w + kw) of the maximum as ATen chooses it (the first
  // of equals; a NaN wins, the last NaN of all); with fused_relu 0 where !(max > 0) and max is no
  // NaN. codes[0] belongs to output `begin`; out and x point at the whole tensors.
  // A window without any position inside the input (dilation can jump over a small one) gives -inf
  // and code 0.
  void (*max_pool2d_nchw)(DType, const Pool2d&, const void* x, void* out, std::uint8_t* codes,
                          std::int64_t begin, std::int64_t end);
  void (*max_pool2d_nhwc)(DType, const Pool2d&, const void* x, void* out, std::uint8_t* codes,
                          std::int64_t begin, std::int64_t end);
  // Gradient of one whole plane (NCHW) or image (NHWC): grad_in is written completely.
  // Contributions are added, to a +0.0 start, in order of increasing (oh, ow), as ATen does.
  void (*max_pool2d_nchw_backward)(DType, const Pool2d&, const void* grad_out,
                                   const std::uint8_t* codes, void* grad_in);
  void (*max_pool2d_nhwc_backward)(DType, const Pool2d&, const void* grad_out,
                                   const std::uint8_t* codes, void* grad_in);

  // ---- batch norm, F32 and F64 ----

  // y[i] = fma(x[i], a[c], b[c]), rounded once, for the elements [begin, end); x and y point at the
  // whole tensors, and y may be x. A NaN of x keeps its payload. Of a NaN in a or b only that it
  // gives a NaN is certain.
  void (*affine)(DType, const Affine&, const void* x, void* y, std::int64_t begin,
                 std::int64_t end);
  // The same, then relu_mask, with its result. `begin` is a multiple of 64, and mask[0] the word of
  // element `begin`; nullptr where no mask is wanted.
  bool (*affine_relu)(DType, const Affine&, const void* x, void* y, std::int64_t begin,
                      std::int64_t end, std::uint64_t* mask);
  // The statistics of channels [first, last): the mean, and the sum of the squared differences from
  // it. Both are sums in double, image by image, element by element; the mean is rounded to the
  // dtype before it is subtracted, and so is each square: ATen's loop, see stats_are_atens. x, mean
  // and var_sum point at the whole tensors. Ranges of a multiple of 8 channels are the faster ones.
  // Of a statistic that is a NaN only that is certain, not which one.
  void (*batch_norm_stats_nchw)(DType, const Planes&, const void* x, std::int64_t first,
                                std::int64_t last, void* mean, void* var_sum);
};

// The kernels of the best target this CPU runs. The environment variable FXPASS_TARGET
// (scalar | avx2 | avx512 | neon) forces one; naming an unknown one, or one this CPU cannot run,
// throws std::runtime_error that lists those it can. Read once, at the first call.
const Kernels& kernels();

// The kernels of one target by name, or nullptr where this build or CPU has none.
const Kernels* kernels_for(const char* target);

}  // namespace fxpass::kernels
