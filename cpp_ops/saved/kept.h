// Kept: one consumer's hold on a value that its backward needs, as a Saved handle where one fits
// and as the dense tensor otherwise.
#pragma once

#include <torch/csrc/autograd/saved_variable.h>

#include <optional>

#include "saved/saved.h"

namespace fxpass {

class Kept {
 public:
  Kept() = default;
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() { reset(); }

  // `handle` may be absent, foreign or stale: then the tensor itself is kept, as eager does.
  void keep(const at::Tensor& value, const std::optional<SavedPtr>& handle);
  // Keeps `value` by its handle, or keeps nothing and returns false.
  bool keep_packed(const at::Tensor& value, const std::optional<SavedPtr>& handle);
  // The value, sizes and strides as given to keep(). Raises as a SavedVariable does: after reset(),
  // and if the value was modified in place since. `op` names the consumer in errors.
  at::Tensor unpack(const char* op) const;
  // The same without the check that what the handle restores was not modified since.
  at::Tensor unpack_unchecked() const;
  // Lets go of the payload, as soon as backward has used it.
  void reset();

  // Bytes of the packed payload (0 while dense or empty).
  std::int64_t nbytes() const { return handle_ ? handle_->nbytes() : 0; }

 private:
  enum class State { Empty, Dense, Handle, Released } state_ = State::Empty;
  torch::autograd::SavedVariable dense_;
  at::Tensor view_of(const at::Tensor& base) const;

  SavedPtr handle_;
  Geometry view_;
};

}  // namespace fxpass
