// How the operators are declared.
#pragma once

#include <torch/library.h>

namespace fxpass {

// The schema of an operator that TorchScript must call where it stands, as often as it stands
// there. What it takes for a pure function it may call once where two calls are alike, and the
// gradients of the two would be summed in another order; or not at all if nobody reads the result.
// An operator with aliases in its schema cannot be declared so.
inline c10::FunctionSchema opaque(const char* schema) {
  return torch::schema(schema, c10::AliasAnalysisKind::CONSERVATIVE);
}

}  // namespace fxpass
