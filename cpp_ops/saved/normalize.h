// Batch norm's arithmetic on tensors: the torch-free kernels on ATen's thread pool, used only where
// they have been seen to give ATen's bits on this machine.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "kernels/kernels.h"
#include "saved/activations.h"

namespace fxpass::normalize {

// What the elements of a batch norm's output depend on besides its input: one value a channel each.
// Training: mean and invstd of the batch. Evaluation: the running mean and variance.
struct Vectors {
  at::Tensor mean, spread;  // spread: invstd in training, the running variance otherwise
  at::Tensor weight, bias;  // may be undefined
  bool training;
  double eps;
};

// output = fma(input, a, b), a channel at a time.
struct Terms {
  at::Tensor a, b;
};

// How the channels lie in a dense tensor [N, C, ...].
struct Layout {
  std::int64_t images, channels, plane;
  bool nhwc;  // channels innermost

  std::int64_t inner() const { return nhwc ? 1 : plane; }
};

// Nothing where ATen takes another way than its contiguous kernels, or ours have no form.
std::optional<Layout> layout_of(const at::Tensor& x);

// Nothing where our kernel would not give ATen's bits: a machine, dtype or layout where a trial
// said so, or a NaN among the terms, whose payload is anybody's guess.
std::optional<Terms> terms(const Vectors& vectors, const Layout& layout, at::ScalarType dtype);

// y = fma(x, a, b).
void apply(const Terms& terms, const Layout& layout, const at::Tensor& x, const at::Tensor& y);
// y = relu(fma(x, a, b)); `mask`: its bits, or undefined where none are wanted.
void apply_relu(const Terms& terms, const Layout& layout, const at::Tensor& x, const at::Tensor& y,
                const at::Tensor& mask);
// y = activation(fma(x, a, b)), in tiles that stay in the cache.
void apply_activation(const Terms& terms, const Layout& layout, const at::Tensor& x,
                      const at::Tensor& y, const BoundActivation& activation);

// The output of a batch norm and an activation once more, from its input and what it depended on.
at::Tensor output_again(const at::Tensor& x, const Vectors& vectors,
                        const std::optional<BoundActivation>& activation);
// The gradient of the batch norm's output from that of the activation's, without the former in
// memory where that can be helped. Written over `grad` where that is ours alone.
at::Tensor activation_backward(at::Tensor grad, const at::Tensor& x, const Vectors& vectors,
                               const BoundActivation& activation);

struct Statistics {
  at::Tensor mean, invstd;
};

// The statistics of a batch, and the running ones updated, as aten::native_batch_norm does in
// training. Nothing (and nothing done) where our kernel would not give its bits.
std::optional<Statistics> statistics(const at::Tensor& x, const Layout& layout,
                                     const at::Tensor& running_mean, const at::Tensor& running_var,
                                     double momentum, double eps);

}  // namespace fxpass::normalize
