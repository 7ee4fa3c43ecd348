// The training loop.
#pragma once

#include "trainer/error.h"
#include "trainer/options.h"

namespace fxpass::trainer {

ExitCode train(const Options& options);

}  // namespace fxpass::trainer
