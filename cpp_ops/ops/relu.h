// relu with its handle (the op fxpass::relu), for the ops that fall back on it.
#pragma once

#include "saved/saved.h"

namespace fxpass {

std::tuple<at::Tensor, SavedPtr> relu(const at::Tensor& x);

}  // namespace fxpass
