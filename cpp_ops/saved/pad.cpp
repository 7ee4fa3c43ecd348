#include "saved/pad.h"

#include <ATen/ATen.h>

namespace fxpass {

PadSaved::PadSaved(const at::Tensor& padded, const at::Tensor& input,
                   const std::optional<SavedPtr>& handle, PadArgs args)
    : Saved(padded), args_(std::move(args)) {
  has_input_ = input_.keep_packed(input, handle);
}

std::int64_t PadSaved::nbytes() const { return input_.nbytes(); }

bool PadSaved::pack(const at::Tensor&) { return has_input_; }

at::Tensor PadSaved::restore() {
  at::NoGradGuard no_grad;
  // Eager keeps the padded value, so writing into the input afterwards is the user's right.
  return at::pad(input_.unpack_unchecked(), args_.pad, args_.mode, args_.value);
}

}  // namespace fxpass
