// Padding with a handle on both sides (the op fxpass::pad, and convolution's own padding).
#pragma once

#include "saved/saved.h"

namespace fxpass {

// torch.nn.functional.pad(x, ...) with its graph, and a handle that pads the restored x again.
std::tuple<at::Tensor, SavedPtr> pad(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                                     at::IntArrayRef pad, c10::string_view mode,
                                     std::optional<double> value);

}  // namespace fxpass
