// AVX-512 with VBMI2, whose instructions compress and expand 16-bit lanes. All else is AVX-512.
#include "bitmap-inl.h"
#include "targets.h"

namespace fxpass::kernels {
namespace {

struct Vbmi2Lanes : Lanes<std::uint16_t> {
  static B* compress(B* out, V v, std::uint64_t bits) {
    store(out, _mm512_maskz_compress_epi16(mask(bits), v));
    return out + _mm_popcnt_u64(bits);
  }
  static V expand(const B*& in, std::uint64_t bits) {
    const V v = _mm512_maskz_expand_epi16(mask(bits), load(in));
    in += _mm_popcnt_u64(bits);
    return v;
  }
};

void gather_16(DType dtype, const void* src, const std::uint64_t* bits, std::int64_t n,
               void* values) {
  if (element_size(dtype) != 2) {
    return avx512_kernels().bitmap_gather(dtype, src, bits, n, values);
  }
  gather<Vbmi2Lanes>(dtype, static_cast<const std::uint16_t*>(src), bits, n,
                     static_cast<std::uint16_t*>(values));
}

std::int64_t pack_16(DType dtype, const void* src, std::int64_t n, std::uint64_t* bits,
                     void* values) {
  if (element_size(dtype) != 2) return avx512_kernels().bitmap_pack(dtype, src, n, bits, values);
  return pack<Vbmi2Lanes>(dtype, static_cast<const std::uint16_t*>(src), n, bits,
                          static_cast<std::uint16_t*>(values));
}

void unpack_16(DType dtype, const std::uint64_t* bits, std::int64_t n, const void* values,
               void* dst) {
  if (element_size(dtype) != 2) return avx512_kernels().bitmap_unpack(dtype, bits, n, values, dst);
  unpack<Vbmi2Lanes>(dtype, bits, n, static_cast<const std::uint16_t*>(values),
                     static_cast<std::uint16_t*>(dst));
}

Kernels make_table() {
  Kernels table = avx512_kernels();
  table.bitmap_gather = gather_16;
  table.bitmap_pack = pack_16;
  table.bitmap_unpack = unpack_16;
  return table;
}

}  // namespace

const Kernels& avx512_vbmi2_kernels() {
  static const Kernels table = make_table();
  return table;
}

}  // namespace fxpass::kernels
