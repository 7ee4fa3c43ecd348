// The re-run recipe: a cheap op again, on inputs that are kept for others anyway or are restored
// themselves.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "saved/kept.h"

namespace fxpass {

// What an op read, each value kept by its handle. Held before the op runs, which may write to it.
class RerunInputs {
 public:
  // Keeps `value` by its handle; `dense`: or, where none fits, as the tensor itself. An input that
  // could not be kept makes the recipe one that restores nothing.
  void hold(const at::Tensor& value, const std::optional<SavedPtr>& handle, bool dense = false);
  bool complete() const { return complete_; }
  std::vector<at::Tensor> unpack() const;
  std::int64_t nbytes() const;

 private:
  std::vector<std::unique_ptr<Kept>> kept_;
  bool complete_ = true;
};

class RerunSaved final : public Saved {
 public:
  // Computes the value from the inputs, in the order held. It may write to an input that is_spare.
  using Function = std::function<at::Tensor(std::vector<at::Tensor>& inputs)>;

  // `op` names the op in reports. The value is told later, by bind().
  RerunSaved(std::string op, RerunInputs inputs, Function function);

  std::int64_t nbytes() const override { return inputs_.nbytes(); }
  std::string recipe() const override { return "re-run(" + op_ + ")"; }

 protected:
  bool pack(const at::Tensor& base) override;
  at::Tensor restore() override;

 private:
  std::string op_;
  RerunInputs inputs_;
  Function function_;
};

// Whether a restored input is nobody else's, so that the op may be done in place.
bool is_spare(const at::Tensor& restored);

// A handle that restores nothing where an input could not be kept.
SavedPtr rerun(std::string op, RerunInputs inputs, RerunSaved::Function function);

}  // namespace fxpass
