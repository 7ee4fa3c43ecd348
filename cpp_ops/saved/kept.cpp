#include "saved/kept.h"

namespace fxpass {

bool Kept::keep_packed(const at::Tensor& value, const std::optional<SavedPtr>& handle) {
  TORCH_INTERNAL_ASSERT(state_ == State::Empty);
  if (!handle.has_value() || !*handle || !(*handle)->claim(value)) return false;
  state_ = State::Handle;
  handle_ = *handle;
  view_ = Geometry::of(value);
  return true;
}

void Kept::keep(const at::Tensor& value, const std::optional<SavedPtr>& handle) {
  if (keep_packed(value, handle)) return;
  state_ = State::Dense;
  dense_ = torch::autograd::SavedVariable(value, /*is_output=*/false);
}

at::Tensor Kept::unpack(const char* op) const {
  TORCH_CHECK(state_ != State::Released, torch::autograd::ERR_BACKWARD_TWICE);
  if (state_ != State::Handle) return dense_.unpack();
  return view_of(handle_->fetch(op));
}

at::Tensor Kept::unpack_unchecked() const {
  TORCH_CHECK(state_ != State::Released, torch::autograd::ERR_BACKWARD_TWICE);
  if (state_ != State::Handle) return dense_.unpack();
  return view_of(handle_->fetch_unchecked());
}

at::Tensor Kept::view_of(const at::Tensor& base) const {
  const auto& whole = handle_->geometry();
  if (view_.sizes == whole.sizes && view_.strides == whole.strides &&
      view_.offset == whole.offset) {
    return base;
  }
  // The restored tensor and the original may begin at different places of their storages.
  return base.as_strided(view_.sizes, view_.strides,
                         base.storage_offset() + view_.offset - whole.offset);
}

void Kept::reset() {
  if (state_ == State::Empty || state_ == State::Released) return;
  if (state_ == State::Handle) handle_->unclaim();
  handle_.reset();
  dense_.reset_data();
  state_ = State::Released;
}

}  // namespace fxpass
