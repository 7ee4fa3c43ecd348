#include "trainer/sampler.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <numeric>

namespace fxpass::trainer {
namespace {

std::int64_t draw() { return at::empty({}, at::kLong).random_().item<std::int64_t>(); }

}  // namespace

Sampler::Sampler(std::int64_t rows, std::int64_t batch_size, bool shuffle, bool drop_last)
    : rows_(rows), batch_size_(batch_size), shuffle_(shuffle), drop_last_(drop_last) {}

void Sampler::begin_epoch() {
  draw();  // the seed that the loader has ready for its workers
  continue_epoch(shuffle_ ? draw() : 0);
}

void Sampler::continue_epoch(std::int64_t seed) {
  seed_ = seed;
  order_.resize(rows_);
  if (shuffle_) {
    auto generator = at::detail::createCPUGenerator(static_cast<std::uint64_t>(seed));
    const auto permutation = at::randperm(rows_, generator, at::kLong);
    std::copy_n(permutation.const_data_ptr<std::int64_t>(), rows_, order_.begin());
  } else {
    std::iota(order_.begin(), order_.end(), 0);
  }
}

std::int64_t Sampler::batches() const {
  return drop_last_ ? rows_ / batch_size_ : (rows_ + batch_size_ - 1) / batch_size_;
}

c10::ArrayRef<std::int64_t> Sampler::batch(std::int64_t number) const {
  const std::int64_t begin = number * batch_size_;
  return c10::ArrayRef<std::int64_t>(order_).slice(begin, std::min(batch_size_, rows_ - begin));
}

}  // namespace fxpass::trainer
