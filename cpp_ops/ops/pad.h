// Padding with a handle on both sides (the op fxpass::pad, and convolution's own padding).
#pragma once

#include "saved/saved.h"

namespace fxpass {

// torch.nn.functional.pad(x, ...) with its graph, and a handle that pads the restored x again.
// `dims`: the dimensions of the images, as torch.nn.CircularPad*d checks them; 0: it looks at none.
std::tuple<at::Tensor, SavedPtr> pad(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                                     at::IntArrayRef pad, c10::string_view mode,
                                     std::optional<double> value, std::int64_t dims = 0);

}  // namespace fxpass
