#include "saved/bitmap.h"

#include <ATen/ATen.h>

#include "saved/codec.h"

namespace fxpass {

BitmapSaved::BitmapSaved(const at::Tensor& value, at::Tensor mask)
    : Saved(value), options_(value.options()), mask_(std::move(mask)) {}

std::int64_t BitmapSaved::nbytes() const { return nbytes_; }

bool BitmapSaved::pack(const at::Tensor& base) {
  if (!codec::is_flat(base)) return false;
  const auto bits = mask_.defined() ? std::move(mask_) : codec::mark(base);
  const auto set = codec::count(bits);
  const auto packed_bytes =
      static_cast<std::int64_t>(bits.nbytes()) + set * static_cast<std::int64_t>(base.itemsize());
  if (packed_bytes >= static_cast<std::int64_t>(base.nbytes())) return false;
  // SavedVariables, so that the user's saved_tensors_hooks and an outer checkpoint see the payload.
  bits_ = torch::autograd::SavedVariable(bits, /*is_output=*/false);
  values_ = torch::autograd::SavedVariable(codec::gather(base, bits, set), /*is_output=*/false);
  nbytes_ = packed_bytes;
  return true;
}

at::Tensor BitmapSaved::restore() {
  const auto out = at::empty_strided(geometry().sizes, geometry().strides, options_);
  codec::unpack(bits_.unpack(), values_.unpack(), out);
  return out;
}

}  // namespace fxpass
