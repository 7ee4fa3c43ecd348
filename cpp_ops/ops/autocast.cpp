#include "ops/autocast.h"

#include <ATen/ATen.h>

#include "saved/bitmap.h"
#include "saved/rerun.h"

namespace fxpass::autocast {
namespace {

bool is_cast(const at::Tensor& x) {
  return at::autocast::is_autocast_enabled(at::kCPU) && at::autocast::is_eligible(x, at::kCPU);
}

}  // namespace

at::ScalarType dtype_for_fp32_op(const at::Tensor& x) {
  return is_cast(x) ? at::kFloat : x.scalar_type();
}

bool may_hold_dense(const at::Tensor& x) { return x.scalar_type() != at::kFloat || !is_cast(x); }

std::optional<SavedPtr> handle_of_cast(const at::Tensor& cast, const at::Tensor& x,
                                       const std::optional<SavedPtr>& handle) {
  if (cast.is_same(x) || !handle.has_value() || !*handle || !(*handle)->matches(x)) return handle;
  // The non-zero values are half as large once cast, and there are no more of them.
  if (dynamic_cast<const BitmapSaved*>(handle->get()) != nullptr) {
    return c10::make_intrusive<BitmapSaved>(cast);
  }
  RerunInputs inputs;
  inputs.hold(x, handle);
  auto saved = rerun("cast", std::move(inputs),
                     [to = cast.scalar_type()](auto& inputs) { return inputs[0].to(to); });
  saved->bind(cast);
  return saved;
}

}  // namespace fxpass::autocast
