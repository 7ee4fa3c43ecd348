// The re-run recipe of padding: the padded value is padded again from the restored input.
#pragma once

#include <string>
#include <vector>

#include "saved/kept.h"

namespace fxpass {

// What torch.nn.functional.pad was asked for.
struct PadArgs {
  std::vector<std::int64_t> pad;
  std::string mode;
  std::optional<double> value;
};

class PadSaved final : public Saved {
 public:
  // Claims the input at once: forward drops it right after the pad, before any consumer of the
  // padded value could.
  PadSaved(const at::Tensor& padded, const at::Tensor& input, const std::optional<SavedPtr>& handle,
           PadArgs args);

  std::int64_t nbytes() const override;
  std::string recipe() const override { return "re-run(pad)"; }

 protected:
  bool pack(const at::Tensor& base) override;
  at::Tensor restore() override;

 private:
  Kept input_;
  bool has_input_ = false;
  PadArgs args_;
};

}  // namespace fxpass
