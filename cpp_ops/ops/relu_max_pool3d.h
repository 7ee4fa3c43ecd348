// ReLU and the three-dimensional max pool behind it as one node.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "ops/max_pool2d.h"
#include "saved/codes.h"

namespace fxpass {

// max_pool3d(relu(x)), keeping a code per output and nothing else; nothing where the caller has to
// take the two ops one by one.
std::optional<at::Tensor> relu_max_pool3d(const at::Tensor& x, const PoolArgs& args);

}  // namespace fxpass
