// All it takes to go on as if nothing had happened: one safetensors file.
//   model.<name>               a parameter or buffer
//   optimizer.<state>.<name>   what the optimizer remembers of a parameter, in torch.optim's names
//   rng                        the state of torch's default CPU generator
// and in its metadata, as JSON: settings, progress, and the strides of what is not contiguous.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "trainer/model.h"
#include "trainer/optimizer.h"

namespace fxpass::trainer {

// How far training has come.
struct Progress {
  std::int64_t epochs = 0;        // that are complete
  std::int64_t steps = 0;         // in all
  std::int64_t batches = 0;       // of the epoch after those
  std::int64_t sampler_seed = 0;  // of that epoch, if it has a batch
  // Over those batches:
  double loss_sum = 0;  // of the rows' losses
  std::int64_t rows = 0, right = 0;
};

// `settings`: what must be the same for training to go on as if nothing had happened.
void save_checkpoint(const std::string& path, const Model& model, const Optimizer& optimizer,
                     const Progress& progress, const nlohmann::json& settings);

// Sets the model, the optimizer and the generator. Where the file is damaged, or of another model
// or other settings, it raises, and nothing was set.
Progress load_checkpoint(const std::string& path, Model& model, Optimizer& optimizer,
                         const nlohmann::json& settings);

}  // namespace fxpass::trainer
