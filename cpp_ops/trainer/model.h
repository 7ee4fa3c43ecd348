// An exported model: what fxpass.export_torchscript has written.
#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <optional>
#include <string>
#include <vector>

#include "trainer/dataset.h"
#include "trainer/safetensors.h"

namespace fxpass::trainer {

class Model {
 public:
  explicit Model(std::string path);

  // The training graph, interpreted as it stands: TorchScript's executor would keep copies of it,
  // and find nothing to improve among operators that it does not know.
  at::Tensor forward(const at::Tensor& images);
  // The inference graph.
  at::Tensor infer(const at::Tensor& images);

  NamedTensors parameters() const;
  NamedTensors buffers() const;

  // Raises unless rows of this file are what the model was exported for.
  void check_input(const Dataset& data) const;

  // Writes the archive again, with the present values and everything else as it was.
  void save(const std::string& path);

 private:
  at::Tensor tensor_of(const c10::IValue& output) const;

  std::string path_;
  torch::jit::Module module_;
  torch::jit::ExtraFilesMap files_;
  std::optional<torch::jit::Code> training_;
  bool was_training_ = true;
  // Of the input, by the archive; without the batch. Nothing where it says nothing.
  std::optional<std::vector<std::int64_t>> row_sizes_;
  std::optional<std::string> dtype_;
};

}  // namespace fxpass::trainer
