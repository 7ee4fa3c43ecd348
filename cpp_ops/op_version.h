// The version of the operators' schemas and meaning, which an exported model names.
#pragma once

#include <cstdint>

namespace fxpass {

inline constexpr std::int64_t kOpVersion = 1;

}  // namespace fxpass
