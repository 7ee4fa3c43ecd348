// rerun_layer_norm, rerun_group_norm, rerun_instance_norm, rerun_prelu: handles that run an op with
// parameters again. The parameters are copied: where the weight is written to before backward,
// eager has kept the op's result. Statistics are those of a row, a group or a channel, each summed
// up by one thread or by as many as in forward, so that the same input gives the same bits. Source:
// aten::layer_norm, group_norm, instance_norm, prelu.

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "saved/rerun.h"

namespace fxpass {
namespace {

using Handle = std::optional<SavedPtr>;
using OptionalTensor = std::optional<at::Tensor>;
using Values = std::vector<at::Tensor>;

// Copies of parameters that are not small beside the value would eat what is won.
constexpr std::int64_t kMostCopied = 8;

// A handle that calls `again(x, parameters)`.
template <typename Again>
SavedPtr with_parameters(const char* name, const at::Tensor& x, const Handle& handle, bool dense,
                         std::initializer_list<OptionalTensor> parameters, Again again) {
  const auto nothing = [] { return c10::make_intrusive<Saved>(); };
  if (!at::GradMode::is_enabled()) return nothing();
  std::int64_t copied = 0;
  for (const auto& p : parameters) copied += p.has_value() ? p->numel() : 0;
  if (copied * kMostCopied > x.numel()) return nothing();
  RerunInputs inputs;
  inputs.hold(x, handle, dense);
  if (!inputs.complete()) return nothing();
  std::vector<OptionalTensor> copies;
  for (const auto& p : parameters) {
    copies.push_back(p.has_value() ? OptionalTensor(p->detach().clone()) : std::nullopt);
  }
  return rerun(name, std::move(inputs),
               [copies = std::move(copies), again](Values& v) { return again(v[0], copies); });
}

SavedPtr rerun_layer_norm(const at::Tensor& x, const Handle& handle,
                          at::IntArrayRef normalized_shape, const OptionalTensor& weight,
                          const OptionalTensor& bias, double eps, bool dense) {
  return with_parameters("layer_norm", x, handle, dense, {weight, bias},
                         [shape = normalized_shape.vec(), eps](const at::Tensor& x, const auto& p) {
                           return at::layer_norm(x, shape, p[0], p[1], eps);
                         });
}

SavedPtr rerun_group_norm(const at::Tensor& x, const Handle& handle, std::int64_t groups,
                          const OptionalTensor& weight, const OptionalTensor& bias, double eps,
                          bool dense) {
  // Of any other input the norm keeps a copy: to keep the input as well would gain nothing.
  if (!x.is_contiguous(x.suggest_memory_format())) return c10::make_intrusive<Saved>();
  return with_parameters("group_norm", x, handle, dense, {weight, bias},
                         [groups, eps](const at::Tensor& x, const auto& p) {
                           return at::group_norm(x, groups, p[0], p[1], eps);
                         });
}

// With the statistics of the input the running ones are not read, and must not be updated again.
SavedPtr rerun_instance_norm(const at::Tensor& x, const Handle& handle,
                             const OptionalTensor& weight, const OptionalTensor& bias,
                             const OptionalTensor& running_mean, const OptionalTensor& running_var,
                             bool use_input_stats, double eps, bool dense) {
  if (!x.is_contiguous()) return c10::make_intrusive<Saved>();  // as in group norm
  const auto read = [&](const OptionalTensor& t) { return use_input_stats ? std::nullopt : t; };
  return with_parameters(
      "instance_norm", x, handle, dense, {weight, bias, read(running_mean), read(running_var)},
      [use_input_stats, eps](const at::Tensor& x, const auto& p) {
        return at::instance_norm(x, p[0], p[1], p[2], p[3], use_input_stats, /*momentum=*/0.0, eps,
                                 /*cudnn_enabled=*/true);
      });
}

SavedPtr rerun_prelu(const at::Tensor& x, const Handle& handle, const at::Tensor& weight,
                     bool dense) {
  // Autocast casts both, to what is no longer known in backward.
  if (at::autocast::is_autocast_enabled(at::kCPU)) return c10::make_intrusive<Saved>();
  return with_parameters("prelu", x, handle, dense, {weight},
                         [](const at::Tensor& x, const auto& p) { return at::prelu(x, *p[0]); });
}

#define FXPASS_SAVED "__torch__.torch.classes.fxpass.Saved"

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(fxpass::opaque(
      "rerun_layer_norm(Tensor x, " FXPASS_SAVED
      "? saved, int[] normalized_shape, Tensor? weight, Tensor? bias, float eps, bool dense) "
      "-> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_group_norm(Tensor x, " FXPASS_SAVED
                       "? saved, int groups, Tensor? weight, Tensor? bias, float eps, bool dense) "
                       "-> " FXPASS_SAVED));
  m.def(fxpass::opaque(
      "rerun_instance_norm(Tensor x, " FXPASS_SAVED
      "? saved, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
      "bool use_input_stats, float eps, bool dense) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_prelu(Tensor x, " FXPASS_SAVED "? saved, Tensor weight, bool dense) "
                       "-> " FXPASS_SAVED));
}

FXPASS_REGISTER("rerun_layer_norm", rerun_layer_norm)
FXPASS_REGISTER("rerun_group_norm", rerun_group_norm)
FXPASS_REGISTER("rerun_instance_norm", rerun_instance_norm)
FXPASS_REGISTER("rerun_prelu", rerun_prelu)

}  // namespace
}  // namespace fxpass
