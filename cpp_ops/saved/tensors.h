// Questions about a tensor's memory.
#pragma once

#include <ATen/core/Tensor.h>

namespace fxpass {

// Whether a gradient may be overwritten: this reference is the only one to tensor and storage, and
// the memory is the allocator's own (what from_blob wrapped belongs to somebody else).
bool is_mine(const at::Tensor& grad);

// Whether sizes and strides are exactly those that ATen gives a fresh contiguous or channels_last
// tensor. With other strides (those of a size-1 dimension, say) ATen's elementwise ops return
// strides that differ from their input's.
bool has_canonical_strides(const at::Tensor& tensor);

}  // namespace fxpass
