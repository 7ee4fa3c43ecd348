// pad: reflection and replication padding save their whole input in eager, and read only its shape.
// Source: aten::pad.

#include "ops/pad.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "ops/swap.h"
#include "saved/codec.h"
#include "saved/rerun.h"

namespace fxpass {

std::tuple<at::Tensor, SavedPtr> pad(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                                     at::IntArrayRef pad, c10::string_view mode,
                                     std::optional<double> value, std::int64_t dims) {
  TORCH_CHECK_VALUE(dims == 0 || x.dim() == dims + 1 || x.dim() == dims + 2, "expected ", dims + 1,
                    "D or ", dims + 2, "D input (got ", x.dim(), "D input)");
  auto y = at::pad(x, pad, mode, value);
  if (!at::GradMode::is_enabled() || !codec::is_plain(y))
    return {std::move(y), c10::make_intrusive<Saved>()};
  swap::pad_input_by_shape(y, x);
  RerunInputs inputs;
  inputs.hold(x, handle);
  auto saved = rerun("pad", std::move(inputs),
                     // Autocast casts for some modes, and then pads.
                     [pad = pad.vec(), mode = std::string(mode), value, dtype = y.scalar_type()](
                         auto& inputs) { return at::pad(inputs[0].to(dtype), pad, mode, value); });
  saved->bind(y);
  return {std::move(y), std::move(saved)};
}

namespace {

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(fxpass::opaque(
      "pad(Tensor x, __torch__.torch.classes.fxpass.Saved? saved, int[] pad, str mode='constant', "
      "float? value=None, int dims=0) -> (Tensor, __torch__.torch.classes.fxpass.Saved)"));
}

FXPASS_REGISTER("pad", pad)

}  // namespace
}  // namespace fxpass
