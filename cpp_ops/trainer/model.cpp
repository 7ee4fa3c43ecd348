#include "trainer/model.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/serialization/export.h>
#include <torch/csrc/jit/serialization/import.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "op_version.h"
#include "trainer/error.h"
#include "trainer/file.h"

namespace fxpass::trainer {
namespace {

using nlohmann::json;

constexpr const char* kDescription = "fxpass.json";
constexpr const char* kWayOut =
    "; write it with fxpass.export_torchscript(compiled, path) in Python";

torch::jit::Module load(const std::string& path, torch::jit::ExtraFilesMap& files) {
  const File readable(path);  // a missing file gets our message
  try {
    return torch::jit::load(path, c10::kCPU, files, /*load_debug_files=*/false);
  } catch (const std::exception& error) {
    const std::string text = one_line(error);
    if (text.find("Unknown builtin op") != std::string::npos) {
      throw Error(path + ": calls an operator that no library here has: " + text +
                  " Load its library with --library; fxpass' own need the fxpass that exported it");
    }
    throw Error(path + ": not a whole TorchScript archive" + kWayOut + " (" + text + ")");
  }
}

}  // namespace

Model::Model(std::string path) : path_(std::move(path)) {
  files_[kDescription] = "";
  module_ = load(path_, files_);
  json description;
  try {
    description = json::parse(files_[kDescription]);
    const auto version = description.at("op_version").get<std::int64_t>();
    if (version != kOpVersion) {
      throw Error(path_ + ": exported with version " + std::to_string(version) +
                  " of fxpass' operators, this fxpass-train has version " +
                  std::to_string(kOpVersion) + ": export it with the same fxpass again");
    }
    const json& input = description.at("inputs").at(0);
    if (!input.at("dtype").is_null()) dtype_ = input["dtype"].get<std::string>();
    if (!input.at("shape").is_null()) {
      row_sizes_ = input["shape"].get<std::vector<std::int64_t>>();
      if (!row_sizes_->empty()) row_sizes_->erase(row_sizes_->begin());
    }
    if (description["inputs"].size() != 1) {
      throw Error(path_ + ": takes " + std::to_string(description["inputs"].size()) +
                  " inputs; fxpass-train has one for it, the images");
    }
  } catch (const json::exception&) {
    throw Error(path_ + ": not an archive of fxpass" + kWayOut);
  }
  was_training_ = module_.is_training();
  if (!was_training_) module_.train();
  const auto method = module_.get_method("forward_train");
  training_.emplace(torch::jit::toGraphFunction(method.function()).graph(), method.name());
}

at::Tensor Model::forward(const at::Tensor& images) {
  torch::jit::Stack stack{module_._ivalue(), images};
  torch::jit::InterpreterState(*training_).run(stack);
  return tensor_of(stack.back());
}

at::Tensor Model::infer(const at::Tensor& images) {
  return tensor_of(module_.get_method("infer")({images}));
}

at::Tensor Model::tensor_of(const c10::IValue& output) const {
  if (!output.isTensor()) {
    throw Error(path_ + ": returns " + output.tagKind() + "; fxpass-train needs one tensor");
  }
  return output.toTensor();
}

NamedTensors Model::parameters() const {
  NamedTensors all;
  for (const auto& parameter : module_.named_parameters()) {
    all.emplace_back(parameter.name, parameter.value);
  }
  return all;
}

NamedTensors Model::buffers() const {
  NamedTensors all;
  for (const auto& buffer : module_.named_buffers()) all.emplace_back(buffer.name, buffer.value);
  return all;
}

void Model::check_input(const Dataset& data) const {
  const Entry& images = data.images();
  const std::vector<std::int64_t> row(images.sizes.begin() + 1, images.sizes.end());
  const std::string found = describe(images.dtype, row);
  const std::string type = found.substr(0, found.find(' '));
  if ((dtype_ && *dtype_ != type) || (row_sizes_ && *row_sizes_ != row)) {
    throw Error(data.path() + ": its images are " + found + " a row, the model was exported for " +
                dtype_.value_or("any type") + " " + (row_sizes_ ? [&] {
                  const std::string wanted = describe(images.dtype, *row_sizes_);
                  return wanted.substr(wanted.find(' ') + 1);
                }()
                                                                : "of any sizes"));
  }
}

void Model::save(const std::string& path) {
  if (!was_training_) module_.eval();
  AtomicFile file(path);
  std::optional<Error> failure;
  // torch's writer must not be left by an exception: it is told of a failure, and says so itself.
  const auto write = [&](const void* from, std::size_t bytes) -> std::size_t {
    try {
      if (!failure) file.write(from, bytes);
    } catch (const Error& error) {
      failure = error;
    }
    return bytes;
  };
  torch::jit::ExportModule(module_, write, files_);
  if (failure) throw *failure;
  file.commit();
  if (!was_training_) module_.train();
}

}  // namespace fxpass::trainer
