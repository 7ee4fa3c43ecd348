#include "trainer/resident.h"

#include <fstream>
#include <sstream>
#include <string>

namespace fxpass::trainer {
namespace {

// 0 where the kernel does not say.
std::int64_t status(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key;
    std::int64_t kibibytes = 0;
    if (words >> key >> kibibytes && key == name) return kibibytes * 1024;
  }
  return 0;
}

}  // namespace

std::int64_t resident_bytes() { return status("VmRSS:"); }
std::int64_t peak_resident_bytes() { return status("VmHWM:"); }

}  // namespace fxpass::trainer
