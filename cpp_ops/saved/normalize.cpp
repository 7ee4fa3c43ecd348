#include "saved/normalize.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "saved/aten_kernels.h"
#include "saved/codec.h"
#include "saved/mask.h"
#include "saved/tensors.h"
#include "saved/tiles.h"

namespace fxpass::normalize {
namespace {

using kernels::DType;
using kernels::kernels;
using kernels::kWordBits;

template <typename T>
bool has_nan_of(const at::Tensor& t) {
  const auto* values = t.const_data_ptr<T>();
  return std::any_of(values, values + t.numel(), [](T value) { return std::isnan(value); });
}

// Of a vector of a value a channel: an operator call would take longer than the loop.
bool has_nan(const at::Tensor& t) {
  return t.scalar_type() == at::kFloat ? has_nan_of<float>(t) : has_nan_of<double>(t);
}

template <typename T>
Terms terms_of(const Vectors& v, const at::TensorOptions& options) {
  const auto channels = v.mean.numel();
  Terms out{at::empty({channels}, options), at::empty({channels}, options)};
  const auto spread = v.training ? v.spread : at::rsqrt(v.spread + v.eps);
  const auto *mean = v.mean.const_data_ptr<T>(), *invstd = spread.template const_data_ptr<T>();
  const auto* weight = v.weight.defined() ? v.weight.const_data_ptr<T>() : nullptr;
  const auto* bias = v.bias.defined() ? v.bias.const_data_ptr<T>() : nullptr;
  auto *a = out.a.template data_ptr<T>(), *b = out.b.template data_ptr<T>();
  for (std::int64_t c = 0; c < channels; ++c) {
    a[c] = invstd[c] * (weight != nullptr ? weight[c] : T(1));
    b[c] = std::fma(-mean[c], a[c], bias != nullptr ? bias[c] : T(0));
  }
  return out;
}

Terms terms_for(const Vectors& v, at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype);
  return dtype == at::kFloat ? terms_of<float>(v, options) : terms_of<double>(v, options);
}

// Values of every magnitude and sign, the special ones among them; the same in every process.
at::Tensor trial_values(at::IntArrayRef sizes, at::ScalarType dtype) {
  auto t = at::empty(sizes, at::TensorOptions().dtype(at::kDouble));
  auto* p = t.data_ptr<double>();
  std::uint64_t state = 0x9e3779b97f4a7c15;
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    p[i] = (static_cast<double>(state >> 11) / (1ull << 53) - 0.5) *
           std::exp2(static_cast<int>(state >> 60) - 8);
  }
  if (t.numel() > 2) {
    p[0] = -0.0;
    p[1] = 1e-42;
  }
  return t.to(dtype);
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

// Computes one batch norm in both ways.
bool trial(at::ScalarType dtype, bool nhwc, bool training) {
  constexpr std::int64_t kChannels = 37;
  auto x = trial_values({3, kChannels, 9, 7}, dtype);
  if (nhwc) x = x.contiguous(at::MemoryFormat::ChannelsLast);
  const auto weight = trial_values({kChannels}, dtype), bias = trial_values({kChannels}, dtype) + 1;
  const auto mean = trial_values({kChannels}, dtype) - 1, var = at::abs(mean) + 0.01;
  const at::Tensor none;
  constexpr double kEps = 1e-5;
  const auto [y, save_mean, save_invstd] = at::native_batch_norm(
      x, weight, bias, training ? none : mean, training ? none : var, training, 0.1, kEps);
  const Vectors vectors{
      training ? save_mean : mean, training ? save_invstd : var, weight, bias, training, kEps};
  const auto out = at::empty_like(x);
  apply(terms_for(vectors, dtype), *layout_of(x), x, out);
  return same_bits(y, out);
}

// ATen's code for the statistics is of two files; the one that updates the running statistics is
// compiled for the baseline CPU, which on x86-64 has no fma, and so is this one.
#if defined(__x86_64__)
constexpr bool kUpdatesAsAten = true;
#else
constexpr bool kUpdatesAsAten = false;
#endif

struct Sums {
  at::Tensor mean, var_sum;  // of the squared differences
  std::int64_t count;        // of values a channel
};

Sums sums_of(const at::Tensor& x, const Layout& layout) {
  const auto channels = layout.channels;
  const Sums out{at::empty({channels}, x.options()), at::empty({channels}, x.options()),
                 layout.images * layout.plane};
  if (layout.nhwc) {
    aten::batch_norm_sums(x, out.mean, out.var_sum);
    return out;
  }
  const kernels::Planes planes{layout.images, channels, layout.plane};
  const auto dtype = *codec::kernel_dtype(x.scalar_type());
  constexpr std::int64_t kGroup = 8;  // the kernel's own
  at::parallel_for(
      0, (channels + kGroup - 1) / kGroup, 1, [&](std::int64_t first, std::int64_t last) {
        kernels().batch_norm_stats_nchw(dtype, planes, x.const_data_ptr(), first * kGroup,
                                        std::min(last * kGroup, channels), out.mean.data_ptr(),
                                        out.var_sum.data_ptr());
      });
  return out;
}

template <typename T>
at::Tensor invstd_of(const Sums& sums, double eps) {
  auto out = at::empty_like(sums.var_sum);
  const auto* sum = sums.var_sum.const_data_ptr<T>();
  auto* invstd = out.template data_ptr<T>();
  for (std::int64_t c = 0; c < out.numel(); ++c) {
    const double var = sum[c] / sums.count;  // divided in T
    invstd[c] = var != 0.0 || eps != 0.0 ? static_cast<T>(1.0 / std::sqrt(var + eps)) : T(0);
  }
  return out;
}

template <typename T>
void update_running(const Sums& sums, const at::Tensor& running_mean, const at::Tensor& running_var,
                    double momentum) {
  const auto channels = sums.mean.numel();
  // ATen rounds the factors to T, and divides in T, but computes the variance's sum in double.
  const auto fresh = static_cast<T>(momentum);
  if (running_mean.defined()) {
    const auto* mean = sums.mean.const_data_ptr<T>();
    auto* running = running_mean.data_ptr<T>();
    for (std::int64_t c = 0; c < channels; ++c) {
      running[c] = fresh * mean[c] + (1 - fresh) * running[c];
    }
  }
  if (running_var.defined()) {
    const auto* sum = sums.var_sum.const_data_ptr<T>();
    auto* running = running_var.data_ptr<T>();
    for (std::int64_t c = 0; c < channels; ++c) {
      const double unbiased = sum[c] / (sums.count - 1);
      running[c] = fresh * unbiased + (1 - fresh) * running[c];
    }
  }
}

template <typename T>
std::optional<Statistics> statistics_of(const at::Tensor& x, const Layout& layout,
                                        const at::Tensor& running_mean,
                                        const at::Tensor& running_var, double momentum,
                                        double eps) {
  const auto sums = sums_of(x, layout);
  Statistics out{sums.mean, invstd_of<T>(sums, eps)};
  // Which NaN it is only ATen can say; the running statistics must not have seen ours by then.
  if (has_nan(out.mean) || has_nan(out.invstd)) return {};
  update_running<T>(sums, running_mean, running_var, momentum);
  return out;
}

std::optional<Statistics> statistics_for(const at::Tensor& x, const Layout& layout,
                                         const at::Tensor& running_mean,
                                         const at::Tensor& running_var, double momentum,
                                         double eps) {
  return x.scalar_type() == at::kFloat
             ? statistics_of<float>(x, layout, running_mean, running_var, momentum, eps)
             : statistics_of<double>(x, layout, running_mean, running_var, momentum, eps);
}

bool statistics_trial(at::ScalarType dtype, bool nhwc) {
  auto x = trial_values({3, 19, 6, 6}, dtype);
  if (nhwc) x = x.contiguous(at::MemoryFormat::ChannelsLast);
  auto mean = at::zeros({19}, x.options()), var = at::ones({19}, x.options());
  auto our_mean = mean.clone(), our_var = var.clone();
  const at::Tensor none;
  const auto [y, save_mean, save_invstd] =
      at::native_batch_norm(x, none, none, mean, var, /*training=*/true, 0.1, 1e-5);
  const auto ours = statistics_for(x, *layout_of(x), our_mean, our_var, 0.1, 1e-5);
  return ours.has_value() && same_bits(save_mean, ours->mean) &&
         same_bits(save_invstd, ours->invstd) && same_bits(mean, our_mean) &&
         same_bits(var, our_var);
}

enum class Verdict : std::uint8_t { NotTried, Holds, Fails };

// Runs a trial once in a process.
template <typename Trial>
bool holds(std::atomic<Verdict>& verdict, const Trial& trial) {
  if (verdict == Verdict::NotTried) {
    verdict = trial() ? Verdict::Holds : Verdict::Fails;
  }
  return verdict == Verdict::Holds;
}

}  // namespace

std::optional<Layout> layout_of(const at::Tensor& x) {
  const auto dtype = x.scalar_type();
  if ((dtype != at::kFloat && dtype != at::kDouble) || x.dim() < 2 || x.numel() == 0) return {};
  const auto images = x.size(0), channels = x.size(1);
  const auto plane = x.numel() / images / channels;
  if (x.is_contiguous()) return Layout{images, channels, plane, /*nhwc=*/false};
  const bool nhwc = (x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast)) ||
                    (x.dim() == 5 && x.is_contiguous(at::MemoryFormat::ChannelsLast3d));
  if (!nhwc) return {};
  return Layout{images, channels, plane, /*nhwc=*/true};
}

std::optional<Terms> terms(const Vectors& vectors, const Layout& layout, at::ScalarType dtype) {
  static std::atomic<Verdict> verdicts[2][2][2];
  const bool proven = holds(verdicts[dtype == at::kDouble][layout.nhwc][vectors.training],
                            [&] { return trial(dtype, layout.nhwc, vectors.training); });
  if (!proven) return {};
  auto found = terms_for(vectors, dtype);
  if (has_nan(found.a) || has_nan(found.b)) return {};
  return found;
}

namespace {

kernels::Affine affine_of(const Terms& terms, const Layout& layout) {
  return {terms.a.const_data_ptr(), terms.b.const_data_ptr(), layout.channels, layout.inner()};
}

bool tiles(const at::Tensor& x, const BoundActivation& activation) {
  return activation.op->by_element && has_canonical_strides(x);
}

}  // namespace

void apply(const Terms& terms, const Layout& layout, const at::Tensor& x, const at::Tensor& y) {
  const auto affine = affine_of(terms, layout);
  const auto dtype = *codec::kernel_dtype(x.scalar_type());
  const auto* src = x.const_data_ptr();
  auto* dst = y.data_ptr();
  at::parallel_for(0, x.numel(), codec::kGrainWords * kWordBits,
                   [&](std::int64_t begin, std::int64_t end) {
                     kernels().affine(dtype, affine, src, dst, begin, end);
                   });
}

void apply_relu(const Terms& terms, const Layout& layout, const at::Tensor& x, const at::Tensor& y,
                const at::Tensor& mask) {
  const auto affine = affine_of(terms, layout);
  const auto dtype = *codec::kernel_dtype(x.scalar_type());
  const auto n = x.numel();
  const auto* src = x.const_data_ptr();
  auto* dst = y.data_ptr();
  auto* bits = mask.defined() ? codec::words(mask) : nullptr;
  at::parallel_for(0, kernels::words_for(n), codec::kGrainWords,
                   [&](std::int64_t first, std::int64_t last) {
                     kernels().affine_relu(dtype, affine, src, dst, first * kWordBits,
                                           std::min(last * kWordBits, n),
                                           bits != nullptr ? bits + first : nullptr);
                   });
}

void apply_activation(const Terms& terms, const Layout& layout, const at::Tensor& x,
                      const at::Tensor& y, const BoundActivation& activation) {
  const auto& [op, args] = activation;
  const auto affine = affine_of(terms, layout);
  const auto dtype = *codec::kernel_dtype(x.scalar_type());
  const auto* src = x.const_data_ptr();
  auto* dst = y.data_ptr();
  for_tiles(x.numel(), [&, op = op, &args = args](std::int64_t begin, std::int64_t end) {
    kernels().affine(dtype, affine, src, dst, begin, end);
    auto tile = flat_part(y, begin, end);
    if (op->forward_ != nullptr) {
      op->forward_(tile, args);
    } else {
      tile.copy_(op->forward(tile, args));
    }
  });
}

at::Tensor output_again(const at::Tensor& x, const Vectors& v,
                        const std::optional<BoundActivation>& activation) {
  const auto layout = layout_of(x);
  const auto found = layout ? terms(v, *layout, x.scalar_type()) : std::nullopt;
  const bool is_relu = activation && std::strcmp(activation->op->name, "relu") == 0 &&
                       kernels_relu_as_aten(x.scalar_type());
  if (found && (!activation || is_relu || tiles(x, *activation))) {
    auto y = at::empty_like(x);
    if (!activation) {
      apply(*found, *layout, x, y);
    } else if (is_relu) {
      apply_relu(*found, *layout, x, y, /*mask=*/{});
    } else {
      apply_activation(*found, *layout, x, y, *activation);
    }
    return y;
  }
  // In training ATen computes the same statistics again; running ones, of whatever value, only tell
  // it in which dtype if there is no weight.
  at::Tensor mean, spread;
  if (!v.training) {
    mean = v.mean;
    spread = v.spread;
  } else if (v.mean.scalar_type() != x.scalar_type()) {
    mean = at::zeros_like(v.mean);
    spread = at::zeros_like(v.mean);
  }
  auto y = std::get<0>(at::native_batch_norm(x, v.weight, v.bias, mean, spread, v.training,
                                             /*momentum=*/0.0, v.eps));
  return activation ? activation->op->forward(y, activation->args) : y;
}

at::Tensor activation_backward(at::Tensor grad, const at::Tensor& x, const Vectors& vectors,
                               const BoundActivation& activation) {
  const auto layout = layout_of(x);
  const auto found = layout ? terms(vectors, *layout, x.scalar_type()) : std::nullopt;
  const bool same_layout = grad.sizes() == x.sizes() && grad.strides() == x.strides() &&
                           grad.scalar_type() == x.scalar_type();
  if (!found || !tiles(x, activation) || !same_layout || !codec::is_flat(grad)) {
    return activation.op->backward(grad, output_again(x, vectors, std::nullopt), activation.args);
  }
  const auto affine = affine_of(*found, *layout);
  const auto dtype = *codec::kernel_dtype(x.scalar_type());
  const auto* src = x.const_data_ptr();
  return backward_in_tiles(std::move(grad), activation, [&](std::int64_t begin, std::int64_t end) {
    // The kernel counts from the tensor's start, and writes only this part.
    auto z = at::empty({end - begin}, x.options());
    const auto offset = begin * static_cast<std::int64_t>(z.itemsize());
    kernels().affine(dtype, affine, src, static_cast<char*>(z.data_ptr()) - offset, begin, end);
    return z;
  });
}

std::optional<Statistics> statistics(const at::Tensor& x, const Layout& layout,
                                     const at::Tensor& running_mean, const at::Tensor& running_var,
                                     double momentum, double eps) {
  static std::atomic<Verdict> verdicts[2][2];
  const auto dtype = *codec::kernel_dtype(x.scalar_type());
  const bool sums_as_aten =
      layout.nhwc ? aten::kHasStubs : kernels::stats_are_atens(dtype, layout.plane);
  if (!kUpdatesAsAten || !sums_as_aten) return {};
  const bool proven = holds(verdicts[x.scalar_type() == at::kDouble][layout.nhwc],
                            [&] { return statistics_trial(x.scalar_type(), layout.nhwc); });
  if (!proven) return {};
  return statistics_for(x, layout, running_mean, running_var, momentum, eps);
}

}  // namespace fxpass::normalize
