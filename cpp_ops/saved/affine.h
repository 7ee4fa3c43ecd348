// The affine recipe: a batch norm's output is computed again from its own input, which it keeps
// anyway, and its per-channel vectors.
#pragma once

#include "saved/kept.h"
#include "saved/normalize.h"

namespace fxpass {

class AffineSaved final : public Saved {
 public:
  // `y`: the batch norm's output, or an activation of it; `x`, `handle`: its input, which its own
  // node keeps in the same way. `vectors` are not written to by anybody else: eager keeps the
  // output itself.
  AffineSaved(const at::Tensor& y, const at::Tensor& x, const std::optional<SavedPtr>& handle,
              normalize::Vectors vectors, std::optional<BoundActivation> activation);

  std::int64_t nbytes() const override { return input_.nbytes(); }
  std::string recipe() const override { return "affine"; }

 protected:
  bool pack(const at::Tensor&) override { return true; }
  at::Tensor restore() override;

 private:
  Kept input_;
  normalize::Vectors vectors_;
  std::optional<BoundActivation> activation_;
};

}  // namespace fxpass
