// relu with its handle (the ops fxpass::relu and relu_), for the ops that fall back on it.
#pragma once

#include "saved/saved.h"

namespace fxpass {

std::tuple<at::Tensor, SavedPtr> relu(const at::Tensor& x);
std::tuple<at::Tensor, SavedPtr> relu_(at::Tensor x);

// What relu_ would make of x, in memory of its own.
at::Tensor relu_unwritten(const at::Tensor& x);

}  // namespace fxpass
