// Elementwise operators of ATen on a tensor a tile at a time, in the cache, to the bits of one
// call.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "saved/activations.h"
#include "saved/tensors.h"

namespace fxpass {

// Long enough for an operator call, short enough for L2, and a multiple of every vector's length.
constexpr std::int64_t kTile = 32768;

// Elements [begin, end) of a dense tensor's memory, without a graph.
inline at::Tensor flat_part(const at::Tensor& t, std::int64_t begin, std::int64_t end) {
  return t.as_strided({end - begin}, {1}, t.storage_offset() + begin);
}

// Calls tile(begin, end) for parts of [0, n) such that an elementwise operator of ATen on each part
// does what it does on the whole: a thread's range is the one TensorIterator would give it, and the
// tiles in it leave its remainder, which is computed without vectors, where it is.
template <typename Tile>
void for_tiles(std::int64_t n, const Tile& tile) {
  at::parallel_for(0, n, at::internal::GRAIN_SIZE, [&](std::int64_t begin, std::int64_t end) {
    at::AutoDispatchBelowADInplaceOrView below;  // of this thread
    for (auto at = begin; at < end; at += kTile) tile(at, std::min(end, at + kTile));
  });
}

// The gradient of the input x of an activation that goes by element, without x in memory:
// restore(begin, end) makes these elements of it. `grad` is flat, of x's strides, which are
// canonical, and of its dtype; the result is written over it where it is ours alone.
template <typename Restore>
at::Tensor backward_in_tiles(at::Tensor grad, const BoundActivation& activation,
                             const Restore& restore) {
  const bool in_place = is_mine(grad);
  const auto out = in_place ? grad : at::empty_like(grad);
  for_tiles(grad.numel(), [&](std::int64_t begin, std::int64_t end) {
    const auto& [op, args] = activation;
    const auto x = restore(begin, end);
    const auto from = flat_part(grad, begin, end);
    auto to = flat_part(out, begin, end);
    if (op->backward_ == nullptr) {
      to.copy_(op->backward(from, x, args));
      return;
    }
    if (!in_place) to.copy_(from);
    op->backward_(to, x, args);
  });
  return out;
}

}  // namespace fxpass
