// fxpass-train: trains an exported model. No Python in the process.
#include <malloc.h>

#include <cstdio>
#include <exception>
#include <string>

#include "trainer/error.h"
#include "trainer/options.h"
#include "trainer/signals.h"
#include "trainer/train.h"

namespace {

// Blocks of this size and more are mapped each for itself, so that freeing one gives its memory
// back to the system. Left alone, glibc raises its limit with every block that is freed, and keeps
// what it has: faster, as fresh memory has to be cleared, but it can take a third more.
constexpr int kMappedBytes = 256 << 10;

void give_freed_memory_back() {
  mallopt(M_MMAP_THRESHOLD, kMappedBytes);
  mallopt(M_TRIM_THRESHOLD, kMappedBytes);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace fxpass::trainer;
  const Options options = parse(argc, argv);
  if (!options.keep_freed_memory) give_freed_memory_back();
  watch_signals();
  try {
    return train(options);
  } catch (const std::exception& error) {
    std::string line = one_line(error);
    if (!options.step_after_backward &&
        line.find("modified by an inplace operation") != std::string::npos) {
      line += " (this model needs --step-after-backward)";
    }
    std::fprintf(stderr, "fxpass-train: %s\n", line.c_str());
    return kFailed;
  }
}
