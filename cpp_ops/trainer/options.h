// The command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/loss.h"

namespace fxpass::trainer {

struct Options {
  std::string model, data;
  std::string eval_data, output, checkpoint;  // empty: none
  std::string page_dir;                       // empty: the model's own
  std::vector<std::string> libraries;
  std::string optimizer = "sgd";
  std::optional<double> lr, weight_decay;  // else torch.optim's default
  double momentum = 0, dampening = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  bool nesterov = false;
  Loss loss = Loss::CrossEntropy;
  std::int64_t epochs = 1, batch_size = 32, seed = 0;
  std::int64_t max_steps = 0, checkpoint_every = 0;  // 0: no limit, not within an epoch
  int threads = 0;                                   // 0: as many as torch takes
  bool no_shuffle = false, drop_last = false, step_after_backward = false;
  bool keep_freed_memory = false, resume = false;
  bool json = false, log_steps = false;
};

// Exits with kUsage, or kDone after --help, where the arguments ask for it.
Options parse(int argc, char** argv);

}  // namespace fxpass::trainer
