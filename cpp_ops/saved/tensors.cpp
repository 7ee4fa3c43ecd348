#include "saved/tensors.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/Contiguity.h>
#include <c10/core/MemoryFormat.h>

namespace fxpass {

bool is_mine(const at::Tensor& grad) {
  return grad.use_count() == 1 && grad.has_storage() && grad.storage().use_count() == 1 &&
         grad.storage().resizable() && !at::GradMode::is_enabled();
}

bool has_canonical_strides(const at::Tensor& t) {
  const auto sizes = t.sizes(), strides = t.strides();
  std::int64_t expected = 1;
  bool contiguous = true;
  for (auto d = t.dim(); d-- > 0;) {
    contiguous &= strides[d] == expected;
    expected *= std::max<std::int64_t>(sizes[d], 1);
  }
  if (contiguous) return true;
  for (const auto size : sizes) {
    if (size <= 1) return false;  // several layouts fit; leave the choice to ATen
  }
  if (t.dim() == 4) return strides == at::IntArrayRef(c10::get_channels_last_strides_2d(sizes));
  if (t.dim() == 5) return strides == at::IntArrayRef(c10::get_channels_last_strides_3d(sizes));
  return false;
}

}  // namespace fxpass
