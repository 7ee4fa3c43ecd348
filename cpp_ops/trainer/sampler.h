// The order of the rows, as torch.utils.data.DataLoader(dataset, batch_size, shuffle=...) of torch
// 2.13 has it, without workers. It draws from torch's default CPU generator what the loader draws,
// so that what comes after (dropout) is the same as well.
#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace fxpass::trainer {

class Sampler {
 public:
  Sampler(std::int64_t rows, std::int64_t batch_size, bool shuffle, bool drop_last);

  // What iter(loader) and its first batch do.
  void begin_epoch();
  // The order of an epoch that has begun earlier, from its seed(). Draws nothing.
  void continue_epoch(std::int64_t seed);
  std::int64_t seed() const { return seed_; }

  std::int64_t batches() const;
  c10::ArrayRef<std::int64_t> batch(std::int64_t number) const;

 private:
  std::int64_t rows_, batch_size_;
  bool shuffle_, drop_last_;
  std::int64_t seed_ = 0;
  std::vector<std::int64_t> order_;
};

}  // namespace fxpass::trainer
