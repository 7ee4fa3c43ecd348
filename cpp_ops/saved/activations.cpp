#include "saved/activations.h"

#include <ATen/ATen.h>

#include <limits>

namespace fxpass {
namespace {

using at::Tensor;
using Args = ActivationArgs;

// SELU's two constants, as ATen and its backward write them.
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;
constexpr double kSeluScale = 1.0507009873554804934193349852946;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

const Activation kActivations[] = {
    {"relu", 0, [](const Tensor& x, const Args&) { return at::relu(x); },
     [](Tensor& x, const Args&) { at::relu_(x); },
     [](const Tensor& g, const Tensor& x, const Args&) { return at::threshold_backward(g, x, 0); },
     nullptr, true},
    {"hardtanh", 2, [](const Tensor& x, const Args& a) { return at::hardtanh(x, a[0], a[1]); },
     [](Tensor& x, const Args& a) { at::hardtanh_(x, a[0], a[1]); },
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::hardtanh_backward(g, x, a[0], a[1]);
     },
     [](Tensor& g, const Tensor& x, const Args& a) {
       at::hardtanh_backward_out(g, g, x, a[0], a[1]);
     },
     true, [](const Args& a) { return Interval{a[0], a[1], false}; }, /*selects=*/true},
    {"leaky_relu", 1, [](const Tensor& x, const Args& a) { return at::leaky_relu(x, a[0]); },
     nullptr,
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::leaky_relu_backward(g, x, a[0], /*self_is_result=*/false);
     },
     [](Tensor& g, const Tensor& x, const Args& a) {
       at::leaky_relu_backward_out(g, g, x, a[0], /*self_is_result=*/false);
     },
     true, [](const Args&) { return Interval{-kInfinity, 0, true}; }},
    {"elu", 1, [](const Tensor& x, const Args& a) { return at::elu(x, a[0]); }, nullptr,
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::elu_backward(g, a[0], 1, 1, /*is_result=*/false, x);
     },
     [](Tensor& g, const Tensor& x, const Args& a) {
       at::elu_backward_out(g, g, a[0], 1, 1, /*is_result=*/false, x);
     },
     true},
    {"hardswish", 0, [](const Tensor& x, const Args&) { return at::hardswish(x); },
     [](Tensor& x, const Args&) { at::hardswish_(x); },
     [](const Tensor& g, const Tensor& x, const Args&) { return at::hardswish_backward(g, x); },
     nullptr, true},
    {"hardsigmoid", 0, [](const Tensor& x, const Args&) { return at::hardsigmoid(x); },
     [](Tensor& x, const Args&) { at::hardsigmoid_(x); },
     [](const Tensor& g, const Tensor& x, const Args&) { return at::hardsigmoid_backward(g, x); },
     [](Tensor& g, const Tensor& x, const Args&) { at::hardsigmoid_backward_out(g, g, x); }, true,
     [](const Args&) { return Interval{-3, 3, false}; }},
    {"silu", 0, [](const Tensor& x, const Args&) { return at::silu(x); },
     [](Tensor& x, const Args&) { at::silu_(x); },
     [](const Tensor& g, const Tensor& x, const Args&) { return at::silu_backward(g, x); },
     [](Tensor& g, const Tensor& x, const Args&) { at::silu_backward_out(g, g, x); }, true},
    {"mish", 0, [](const Tensor& x, const Args&) { return at::mish(x); },
     [](Tensor& x, const Args&) { at::mish_(x); },
     [](const Tensor& g, const Tensor& x, const Args&) { return at::mish_backward(g, x); }, nullptr,
     true},
    {"gelu_none", 0, [](const Tensor& x, const Args&) { return at::gelu(x, "none"); }, nullptr,
     [](const Tensor& g, const Tensor& x, const Args&) { return at::gelu_backward(g, x, "none"); },
     nullptr, false},
    {"gelu_tanh", 0, [](const Tensor& x, const Args&) { return at::gelu(x, "tanh"); }, nullptr,
     [](const Tensor& g, const Tensor& x, const Args&) { return at::gelu_backward(g, x, "tanh"); },
     nullptr, false},
    {"softplus", 2, [](const Tensor& x, const Args& a) { return at::softplus(x, a[0], a[1]); },
     nullptr,
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::softplus_backward(g, x, a[0], a[1]);
     },
     [](Tensor& g, const Tensor& x, const Args& a) {
       at::softplus_backward_out(g, g, x, a[0], a[1]);
     },
     true},
    // ATen's backward formula rounds alpha to float.
    {"celu", 1, [](const Tensor& x, const Args& a) { return at::celu(x, a[0]); }, nullptr,
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::elu_backward(g, a[0], 1, 1.0 / static_cast<float>(a[0]), /*is_result=*/false, x);
     },
     [](Tensor& g, const Tensor& x, const Args& a) {
       at::elu_backward_out(g, g, a[0], 1, 1.0 / static_cast<float>(a[0]), /*is_result=*/false, x);
     },
     true},
    {"selu", 0, [](const Tensor& x, const Args&) { return at::selu(x); }, nullptr,
     [](const Tensor& g, const Tensor& x, const Args&) {
       return at::elu_backward(g, kSeluAlpha, kSeluScale, 1, /*is_result=*/false, x);
     },
     [](Tensor& g, const Tensor& x, const Args&) {
       at::elu_backward_out(g, g, kSeluAlpha, kSeluScale, 1, /*is_result=*/false, x);
     },
     true},
    {"threshold", 2, [](const Tensor& x, const Args& a) { return at::threshold(x, a[0], a[1]); },
     [](Tensor& x, const Args& a) { at::threshold_(x, a[0], a[1]); },
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::threshold_backward(g, x, a[0]);
     },
     nullptr, true, [](const Args& a) { return Interval{-kInfinity, a[0], true}; },
     /*selects=*/true},
    {"hardshrink", 1, [](const Tensor& x, const Args& a) { return at::hardshrink(x, a[0]); },
     nullptr,
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::hardshrink_backward(g, x, a[0]);
     },
     nullptr, true, [](const Args& a) { return Interval{-a[0], a[0], true, /*rounded=*/true}; },
     /*selects=*/true},
    {"softshrink", 1, [](const Tensor& x, const Args& a) { return at::softshrink(x, a[0]); },
     nullptr,
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::softshrink_backward(g, x, a[0]);
     },
     nullptr, true, [](const Args& a) { return Interval{-a[0], a[0], true, /*rounded=*/true}; },
     /*selects=*/true},
    // Where the input is positive the result is, for the slopes that this backward does not refuse.
    {"leaky_relu_", 1, [](const Tensor& x, const Args& a) { return at::leaky_relu(x, a[0]); },
     [](Tensor& x, const Args& a) { at::leaky_relu_(x, a[0]); },
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::leaky_relu_backward(g, x, a[0], /*self_is_result=*/true);
     },
     [](Tensor& g, const Tensor& x, const Args& a) {
       at::leaky_relu_backward_out(g, g, x, a[0], /*self_is_result=*/true);
     },
     true, nullptr, false, /*keeps_result=*/true},
    {"elu_", 1, [](const Tensor& x, const Args& a) { return at::elu(x, a[0]); },
     [](Tensor& x, const Args& a) { at::elu_(x, a[0]); },
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::elu_backward(g, a[0], 1, 1, /*is_result=*/true, at::elu(x, a[0]));
     },
     [](Tensor& g, const Tensor& x, const Args& a) {
       at::elu_backward_out(g, g, a[0], 1, 1, /*is_result=*/true, at::elu(x, a[0]));
     },
     true, nullptr, false, /*keeps_result=*/true},
    {"celu_", 1, [](const Tensor& x, const Args& a) { return at::celu(x, a[0]); },
     [](Tensor& x, const Args& a) { at::celu_(x, a[0]); },
     [](const Tensor& g, const Tensor& x, const Args& a) {
       return at::elu_backward(g, a[0], 1, 1.0 / static_cast<float>(a[0]), /*is_result=*/true,
                               at::celu(x, a[0]));
     },
     [](Tensor& g, const Tensor& x, const Args& a) {
       at::elu_backward_out(g, g, a[0], 1, 1.0 / static_cast<float>(a[0]), /*is_result=*/true,
                            at::celu(x, a[0]));
     },
     true, nullptr, false, /*keeps_result=*/true},
    {"selu_", 0, [](const Tensor& x, const Args&) { return at::selu(x); },
     [](Tensor& x, const Args&) { at::selu_(x); },
     [](const Tensor& g, const Tensor& x, const Args&) {
       return at::elu_backward(g, kSeluAlpha, kSeluScale, 1, /*is_result=*/true, at::selu(x));
     },
     [](Tensor& g, const Tensor& x, const Args&) {
       at::elu_backward_out(g, g, kSeluAlpha, kSeluScale, 1, /*is_result=*/true, at::selu(x));
     },
     true, nullptr, false, /*keeps_result=*/true},
    {"logsigmoid", 0, [](const Tensor& x, const Args&) { return at::log_sigmoid(x); }, nullptr,
     [](const Tensor& g, const Tensor& x, const Args&) {
       return at::log_sigmoid_backward(g, x, std::get<1>(at::log_sigmoid_forward(x)));
     },
     nullptr, false},
    {"sigmoid", 0, [](const Tensor& x, const Args&) { return at::sigmoid(x); },
     [](Tensor& x, const Args&) { at::sigmoid_(x); },
     [](const Tensor& g, const Tensor& x, const Args&) {
       return at::sigmoid_backward(g, at::sigmoid(x));
     },
     nullptr, true},
    {"tanh", 0, [](const Tensor& x, const Args&) { return at::tanh(x); },
     [](Tensor& x, const Args&) { at::tanh_(x); },
     [](const Tensor& g, const Tensor& x, const Args&) {
       return at::tanh_backward(g, at::tanh(x));
     },
     nullptr, true},
};

}  // namespace

const Activation& activation_named(c10::string_view name, std::size_t args) {
  for (const auto& activation : kActivations) {
    if (name != activation.name) continue;
    TORCH_CHECK_VALUE(args == activation.args, "fxpass: activation '", name, "' takes ",
                      activation.args, " arguments besides its input, got ", args);
    return activation;
  }
  TORCH_CHECK_VALUE(false, "fxpass: unknown activation '", name, "'");
}

}  // namespace fxpass
