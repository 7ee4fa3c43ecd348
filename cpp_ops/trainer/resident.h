// The memory that the process holds, as the kernel counts it (/proc/self/status), in bytes.
#pragma once

#include <cstdint>

namespace fxpass::trainer {

std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();  // since the program began

}  // namespace fxpass::trainer
