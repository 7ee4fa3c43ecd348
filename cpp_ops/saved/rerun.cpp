#include "saved/rerun.h"

#include <ATen/ATen.h>

namespace fxpass {

void RerunInputs::hold(const at::Tensor& value, const std::optional<SavedPtr>& handle, bool dense) {
  if (!complete_) return;
  auto kept = std::make_unique<Kept>();
  if (dense) {
    kept->keep(value, handle);
  } else {
    complete_ = kept->keep_packed(value, handle);
  }
  if (complete_) {
    kept_.push_back(std::move(kept));
  } else {
    kept_.clear();
  }
}

std::vector<at::Tensor> RerunInputs::unpack() const {
  std::vector<at::Tensor> values;
  values.reserve(kept_.size());
  // Eager keeps the result, so writing into an input afterwards is the user's right.
  for (const auto& kept : kept_) values.push_back(kept->unpack_unchecked());
  return values;
}

std::int64_t RerunInputs::nbytes() const {
  std::int64_t sum = 0;
  for (const auto& kept : kept_) sum += kept->nbytes();
  return sum;
}

RerunSaved::RerunSaved(std::string op, RerunInputs inputs, Function function)
    : op_(std::move(op)), inputs_(std::move(inputs)), function_(std::move(function)) {}

bool RerunSaved::pack(const at::Tensor&) { return inputs_.complete(); }

at::Tensor RerunSaved::restore() {
  auto inputs = inputs_.unpack();
  at::AutoDispatchBelowADInplaceOrView below;
  // A sum written over its first term has that one's dtype: eager too rounds it as it writes it.
  auto value = function_(inputs).to(dtype());
  if (value.strides() == at::IntArrayRef(geometry().strides)) return value;
  return at::empty_strided(geometry().sizes, geometry().strides, value.options()).copy_(value);
}

bool is_spare(const at::Tensor& restored) {
  return restored.use_count() == 1 && restored.storage().use_count() == 1;
}

SavedPtr rerun(std::string op, RerunInputs inputs, RerunSaved::Function function) {
  if (!inputs.complete()) return c10::make_intrusive<Saved>();
  return c10::make_intrusive<RerunSaved>(std::move(op), std::move(inputs), std::move(function));
}

}  // namespace fxpass
