#include "trainer/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "trainer/error.h"
#include "trainer/safetensors.h"

namespace fxpass::trainer {

using nlohmann::json;

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Progress, epochs, steps, batches, sampler_seed, loss_sum, rows,
                                   right)

namespace {

constexpr const char* kFormat = "fxpass-train checkpoint 1";
const std::string kModel = "model.", kOptimizer = "optimizer.", kRng = "rng";

std::map<std::string, at::Tensor> model_tensors(const Model& model) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : model.parameters()) tensors[kModel + name] = tensor.detach();
  for (const auto& [name, tensor] : model.buffers()) tensors[kModel + name] = tensor.detach();
  return tensors;
}

void check_settings(const std::string& path, const json& saved, const json& present) {
  for (const auto& [key, value] : present.items()) {
    const json before = saved.value(key, json());
    if (before != value) {
      throw Error(path + ": made with " + key + " " + before.dump() + ", not " + value.dump() +
                  "; go on with the same, or begin anew with another --checkpoint");
    }
  }
}

void check_model(const SafeTensors& file, const std::map<std::string, at::Tensor>& tensors) {
  const std::string of_another = file.file().path() + ": of another model: ";
  for (const auto& [name, tensor] : tensors) {
    if (!file.entries().contains(name)) throw Error(of_another + "it has no " + name);
    const Entry& entry = file.entry(name);
    if (entry.dtype != tensor.scalar_type() || tensor.sizes() != entry.sizes) {
      throw Error(of_another + name + " is " + describe(entry.dtype, entry.sizes) +
                  ", the model's is " + describe(tensor.scalar_type(), tensor.sizes()));
    }
  }
}

// A state's tensor with the strides it had: which of its elements ATen takes together, and so the
// last bit of an update, may depend on them.
at::Tensor read_state(const SafeTensors& file, const std::string& name, const json& strides) {
  const at::Tensor values = file.read(name);
  if (!strides.contains(name)) return values;
  const auto steps = strides[name].get<std::vector<std::int64_t>>();
  return at::empty_strided(values.sizes(), steps, values.options()).copy_(values);
}

std::map<std::string, State> read_states(const SafeTensors& file, const Optimizer& optimizer,
                                         const json& strides) {
  std::map<std::string, State> states = optimizer.states();
  for (auto& [name, state] : states) state.clear();
  for (const auto& [name, entry] : file.entries()) {
    if (name.starts_with(kModel) || name == kRng) continue;
    const auto dot = name.find('.', kOptimizer.size());
    const auto found = dot == std::string::npos ? states.end() : states.find(name.substr(dot + 1));
    if (!name.starts_with(kOptimizer) || found == states.end()) {
      throw Error(file.file().path() + ": of another model: the model has nothing for " + name);
    }
    found->second[name.substr(kOptimizer.size(), dot - kOptimizer.size())] =
        read_state(file, name, strides);
  }
  return states;
}

}  // namespace

void save_checkpoint(const std::string& path, const Model& model, const Optimizer& optimizer,
                     const Progress& progress, const json& settings) {
  NamedTensors tensors;
  for (auto& [name, tensor] : model_tensors(model)) tensors.emplace_back(name, tensor);
  json strides = json::object();
  for (const auto& [parameter, state] : optimizer.states()) {
    for (const auto& [key, tensor] : state) {
      const std::string name = kOptimizer + key + "." + parameter;
      tensors.emplace_back(name, tensor);
      if (!tensor.is_contiguous()) strides[name] = tensor.strides().vec();
    }
  }
  tensors.emplace_back(kRng, at::detail::getDefaultCPUGenerator().get_state());
  write_safetensors(path, tensors,
                    {{"format", kFormat},
                     {"settings", settings.dump()},
                     {"progress", json(progress).dump()},
                     {"strides", strides.dump()}});
}

Progress load_checkpoint(const std::string& path, Model& model, Optimizer& optimizer,
                         const json& settings) {
  const SafeTensors file(path);
  const Metadata& metadata = file.metadata();
  if (const auto format = metadata.find("format");
      format == metadata.end() || format->second != kFormat) {
    throw Error(path + ": not a checkpoint of this fxpass-train");
  }
  file.check_crc32();
  check_settings(path, json::parse(metadata.at("settings")), settings);
  auto tensors = model_tensors(model);
  check_model(file, tensors);
  auto states = read_states(file, optimizer, json::parse(metadata.at("strides")));
  auto generator = at::detail::getDefaultCPUGenerator();
  generator.set_state(file.read(kRng));
  for (auto& [name, tensor] : tensors) tensor.copy_(file.read(name));
  optimizer.set_states(std::move(states));
  return json::parse(metadata.at("progress")).get<Progress>();
}

}  // namespace fxpass::trainer
