#include "saved/page.h"

#include <ATen/ATen.h>
#include <ATen/SavedTensorHooks.h>
#include <torch/csrc/autograd/engine.h>

#include "paging/stores.h"
#include "saved/task_end.h"

namespace fxpass {

PageSaved::PageSaved(const at::Tensor& value, std::string directory, std::int64_t buffer_bytes)
    : Saved(value),
      options_(value.options()),
      directory_(std::move(directory)),
      buffer_bytes_(buffer_bytes) {}

bool PageSaved::pack(const at::Tensor& base) {
  if (base.numel() == 0 || !base.is_non_overlapping_and_dense()) return false;
  // The user's hooks, and an outer checkpoint, want to see the tensor and keep it themselves.
  if (at::SavedTensorDefaultHooks::get_hooks().has_value()) return false;
  page_ = paging::store_in(directory_)->put(base.const_data_ptr(), base.nbytes(), buffer_bytes_);
  return true;
}

at::Tensor PageSaved::restore() {
  const auto value = at::empty_strided(geometry().sizes, geometry().strides, options_);
  const bool in_backward = torch::autograd::get_current_graph_task_id() != -1;
  if (in_backward) at_task_end([store = page_->store()] { store->drop_read_ahead(); });
  page_->read(value.data_ptr(), /*ahead=*/in_backward);
  return value;
}

}  // namespace fxpass
