// Picks the kernels of the best target this CPU runs, or of the one FXPASS_TARGET names.
#include <array>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "targets.h"

namespace fxpass::kernels {
namespace {

constexpr std::array kNames = {"neon", "avx512", "avx2", "scalar"};  // best first

#if defined(FXPASS_KERNELS_X86)
bool runs_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("lzcnt");
}

bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512cd");
}

bool runs_vbmi2() {
  return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}
#endif

const Kernels& choose() {
  const char* const forced = std::getenv("FXPASS_TARGET");
  if (forced != nullptr && *forced != '\0') {
    if (const Kernels* found = kernels_for(forced)) return *found;
    std::string message = "FXPASS_TARGET is \"" + std::string(forced) + "\"; this CPU runs: ";
    const char* separator = "";
    for (const char* name : kNames) {
      if (kernels_for(name) == nullptr) continue;
      message += separator + std::string(name);
      separator = ", ";
    }
    throw std::runtime_error(message);
  }
  for (const char* name : kNames) {
    if (const Kernels* found = kernels_for(name)) return *found;
  }
  return scalar_kernels();
}

}  // namespace

const Kernels* kernels_for(const char* target) {
  const auto is = [target](const char* name) { return std::strcmp(target, name) == 0; };
  if (is("scalar")) return &scalar_kernels();
#if defined(FXPASS_KERNELS_X86)
  if (is("avx2") && runs_avx2()) return &avx2_kernels();
  if (is("avx512") && runs_avx512()) {
    return runs_vbmi2() ? &avx512_vbmi2_kernels() : &avx512_kernels();
  }
#elif defined(FXPASS_KERNELS_ARM64)
  if (is("neon")) return &neon_kernels();
#endif
  return nullptr;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace fxpass::kernels
