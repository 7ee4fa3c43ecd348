// The version of the operators' schemas and of what they compute. An exported model names the
// version it was made with; raise it when an operator changes so that older files would not load or
// would compute something else.
#pragma once

#include <cstdint>

namespace fxpass {

inline constexpr std::int64_t kOpVersion = 1;

}  // namespace fxpass
