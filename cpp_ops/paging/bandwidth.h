// How fast a directory's disk takes pages and gives them back.
#pragma once

#include <string>

namespace fxpass::paging {

struct Bandwidth {
  double write, read;  // bytes a second, checksums included
};

// Writes a file that nobody sees, 64 MiB or what a second has time for, and reads it. Throws an
// Error as a store does.
Bandwidth measure(const std::string& directory);

}  // namespace fxpass::paging
