// ATen's operators under names of ours: fxpass::aten_add is aten::add.
//
// TorchScript's executor differentiates, merges and rewrites the ATen operators it knows, with
// other bits and other use of the RNG than eager's. Of an operator under another name it knows
// nothing but the schema, so it runs what stands there: ATen's kernel, with ATen's own autograd. An
// exported graph calls these wherever it does not call an operator of fxpass' own.
//
// They are TorchScript operators only, unknown to the dispatcher, whose tables would take some
// kilobytes for each.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <string>
#include <vector>

namespace {

bool holds_tensors(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::TensorType) return true;
  const auto inner = type->containedTypes();
  return std::any_of(inner.begin(), inner.end(), holds_tensors);
}

// Only what computes or writes to tensors; what is called with `out=` no graph of a module calls.
bool wants_twin(const c10::FunctionSchema& schema) {
  const auto computes = [](const c10::Argument& a) { return holds_tensors(a.type()); };
  const auto is_out = [](const c10::Argument& a) { return a.is_out(); };
  const auto& arguments = schema.arguments();
  const auto& returns = schema.returns();
  if (std::any_of(arguments.begin(), arguments.end(), is_out)) return false;
  return schema.is_mutable() || std::any_of(returns.begin(), returns.end(), computes);
}

// A conservative operator must not have aliases in its schema: anything may alias there.
std::vector<c10::Argument> without_aliases(const std::vector<c10::Argument>& arguments) {
  std::vector<c10::Argument> plain;
  for (const auto& a : arguments)
    plain.emplace_back(a.name(), a.type(), a.real_type(), a.N(), a.default_value(), a.kwarg_only());
  return plain;
}

void register_twins() {
  const std::string aten = "aten::";
  // The order of TorchScript's own list: that in which overloads are tried.
  for (const auto& op : torch::jit::getAllOperators()) {
    if (!op->isC10Op() || !op->schema().name().starts_with(aten)) continue;
    const auto& schema = op->schema();
    if (!wants_twin(schema)) continue;
    const auto original = c10::Dispatcher::singleton().findSchemaOrThrow(
        schema.name().c_str(), schema.overload_name().c_str());
    // Conservative: never merged with a like call, dropped, moved, or run at compile time.
    torch::jit::registerOperator(torch::jit::Operator(
        "fxpass::aten_" + schema.name().substr(aten.size()), schema.overload_name(),
        without_aliases(schema.arguments()), without_aliases(schema.returns()),
        [original](torch::jit::Stack& stack) { original.callBoxed(stack); },
        c10::AliasAnalysisKind::CONSERVATIVE));
  }
}

const bool registered = (register_twins(), true);

}  // namespace
