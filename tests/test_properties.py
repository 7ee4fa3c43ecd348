"""The promise, on random networks: what fxpass compiles equals eager to the last bit.

Two profiles: quick (in `make test`, the same examples every time) and deep
(FXPASS_HYPOTHESIS=deep, new ones every time).
"""

import contextlib
import copy
import functools
import itertools
import os
import warnings
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, event, given, seed, settings
from hypothesis.errors import UnsatisfiedAssumption
from strategies import networks
from strategies_network import Autocast, around_step, build, loss_of
from torch import nn

import fxpass
from fxpass._oracle import Loop, compare, record

COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "print_blob": True,
}
settings.register_profile("quick", max_examples=800, derandomize=True, **COMMON)
settings.register_profile("deep", max_examples=20_000, **COMMON)
PROFILE = settings.get_profile(os.environ.get("FXPASS_HYPOTHESIS", "quick"))
STEPS = 3


def run_all(network, twin_of):
    """Records eager twice, then its twin, all from one state; discards what proves nothing."""
    torch.set_num_threads(network.threads)
    model, inputs = build(network)
    loop = Loop(STEPS, loss_of(network), around=around_step(network))
    eager = Autocast(model, network.autocast)
    first = record(eager, inputs, loop)
    if compare(first, record(eager, inputs, loop)):
        event("eager does not equal itself")
        assume(False)
    twin = Autocast(twin_of(model, inputs), network.autocast)
    return first, record(twin, inputs, loop)


def explained(network, first, found):
    lines = "\n".join(str(difference) for difference in compare(first, found))
    return f"{network}\n{lines}"


@settings(PROFILE)
@given(networks())
@pytest.mark.filterwarnings("ignore")
def test_compiled_networks_equal_eager(network):
    def compiled(model, inputs):
        return fxpass.compile(model, example_inputs=inputs if network.seed % 2 else None)

    first, found = run_all(network, compiled)
    event("raises" if first.error else "trains")
    assert not compare(first, found), explained(network, first, found)


# ---- the generator and the oracle themselves --------------------------------------------------

WEIGHTY = ("conv", "linear", "max_pool", "block")


def features(network):
    """What a network has, by name."""
    made_by = {i + len(network.inputs): layer for i, layer in enumerate(network.layers)}
    yield from {f"op {layer.op}" for layer in network.layers}
    yield from {f"op {layer.op} as {layer.how}" for layer in network.layers}
    edges = {
        (made_by[i].op, layer.op) for layer in network.layers for i in layer.of if i in made_by
    }
    yield from {f"{a} -> {b}" for a, b in edges}
    if any(b == "block" or (a == "relu" and b in WEIGHTY) for a, b in edges):
        yield "ReLU -> conv, linear or max pool"
    yield f"dtype {network.dtype}"
    yield f"{network.dims}d"
    yield f"batch {network.inputs[0].shape[0]}"
    yield from {f"layout {spec.layout}" for spec in network.inputs}
    yield from {f"values {spec.fill}" for spec in network.inputs}
    yield from {f"hook {kind}" for _, kind in network.hooks}
    consumers = Counter(i for layer in network.layers for i in layer.of)
    yield from {f"{n} consumers" for n in consumers.values()}
    for flag in ("training", "autocast", "weights_channels_last"):
        yield f"{flag} {getattr(network, flag)}"
    for layer in network.layers:
        if layer.op in ("activation", "residual"):
            yield f"activation {layer.args.get('name') or layer.args['activation']}"
        if layer.op == "norm":
            yield f"norm of a {layer.args['kind']}"
        if layer.op == "dropout":
            yield f"dropout of each {layer.args['kind']}"
        if layer.op == "conv":
            yield f"groups {layer.args['groups'] > 1}"
            yield f"padding {layer.args['padding']}"
            yield f"padding_mode {layer.args.get('padding_mode', 'zeros')}"


@functools.cache
def drawn(n):
    """Networks as the quick profile draws them, the same ones every time.

    Of one run many are variations of a few, and which few depends on the constants in the modules
    that happen to be loaded: ten runs have more of everything.
    """
    found = []
    for number in range(10):

        @seed(number)
        @settings(max_examples=n // 10, database=None, phases=[Phase.generate], **COMMON)
        @given(networks())
        def draw(network):
            found.append(network)

        draw()
    return found


def test_the_generator_covers_what_it_should():
    count = Counter(feature for network in drawn(2000) for feature in set(features(network)))
    wanted = """
        op conv|op conv as F|op linear|op add|op add as inplace|op cat|op batch_norm|op flatten
        op view|op dropout|op max_pool|op avg_pool|op adaptive_avg_pool|op adaptive_max_pool|op mul
        op again|op block|op relu as module|op relu as module_inplace|op relu as F
        op relu as F_inplace|op relu as torch|op relu as torch_inplace|op relu as method
        op relu as method_inplace|op relu as shared|relu -> conv|relu -> max_pool|relu -> linear
        relu -> avg_pool|relu -> flatten|relu -> view|relu -> cat|dtype fp64|dtype bf16|dtype fp16
        1d|2d|3d|batch 0|batch 1|layout channels_last|layout sliced|layout transposed
        layout expanded|values specials|values edges|values ties|hook forward|hook backward
        hook doubles|hook forward_pre|1 consumers|2 consumers|3 consumers|4 consumers|5 consumers
        training False|autocast bf16|autocast fp16|autocast uncached|autocast whole step
        weights_channels_last True|groups True|padding same
        padding valid|padding_mode circular|padding_mode reflect|padding_mode replicate
        batch_norm -> relu|batch_norm -> activation|activation -> conv|activation -> mul
        op activation as F|op activation as module_inplace|op residual|op stochastic_depth
        op mul as gate|op mul as gate first|op mul as number|op add as sub|op add as inplace_sub
        op view as chunk_first|op view as chunk_swapped|op view as split_cat|op view as shuffled
        dropout of each element|dropout of each alpha|dropout of each channel
        activation relu|activation relu6|activation hardtanh|activation leaky_relu|activation elu
        activation hardswish|activation hardsigmoid|activation silu|activation mish
        activation gelu|activation gelu tanh|activation softplus|activation celu|activation selu
        activation threshold|activation hardshrink|activation softshrink|activation logsigmoid
        activation sigmoid|activation tanh|activation softmax|activation log_softmax
        activation prelu|norm of a layer|norm of a group|norm of a instance|relu -> norm
        norm -> activation|activation -> norm|op conv_transpose|op conv_transpose as F
        relu -> conv_transpose|op pad|op pad as F|op norm as F
    """
    missing = [f.strip() for line in wanted.split("\n") for f in line.split("|") if f.strip()]
    assert [feature for feature in missing if count[feature] < 3] == []
    assert count["ReLU -> conv, linear or max pool"] >= 0.4 * 2000


def test_the_networks_are_traced():
    # A network that runs its own forward, with no op rewritten, would prove nothing.
    untraced = []
    for network in drawn(2000)[:100]:
        model, inputs = build(network)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.suppress(Exception):  # some raise in eager
                fxpass.compile(model, example_inputs=inputs)
        untraced += [str(w.message) for w in caught if "own forward" in str(w.message)]
    assert untraced == []


@settings(PROFILE, max_examples=60)
@given(networks())
@pytest.mark.filterwarnings("ignore")
def test_a_copy_of_a_network_equals_it(network):
    first, found = run_all(network, lambda model, inputs: copy.deepcopy(model))
    assert not compare(first, found), explained(network, first, found)


def test_most_networks_train():
    trained = 0
    for network in drawn(2000)[:150]:
        model, inputs = build(network)
        with warnings.catch_warnings(action="ignore"):
            done = record(Autocast(model, network.autocast), inputs, Loop(1, loss_of(network)))
        gradients = [v for key, v in done.values.items() if "gradient" in key.kind]
        trained += done.error is None and any(
            not isinstance(v, str) and v.bits is not None and bool(v.bits.any()) for v in gradients
        )
    assert trained >= 0.5 * 150


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.relu()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        return grad * (ctx.saved_tensors[0] > 0)


class ProductReLU(nn.ReLU):
    """Multiplies the gradient with the mask, where eager selects with it."""

    def forward(self, x):
        return Product.apply(x)


class PositiveZeroReLU(nn.ReLU):
    """Makes +0.0 of -0.0."""

    def forward(self, x):
        return super().forward(x) + 0.0


class LastOfEqualMaxima(nn.MaxPool2d):
    """Gives the gradient to the last of equal values in a window, where eager takes the first."""

    def forward(self, x):
        height, width = (n // 2 * 2 for n in x.shape[-2:])
        return super().forward(x[..., :height, :width].flip(-1, -2)).flip(-1, -2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrong", [ProductReLU, PositiveZeroReLU, LastOfEqualMaxima])
def test_the_property_finds_what_is_wrong(wrong):
    def twin_of(model, inputs):
        twin = copy.deepcopy(model)
        for module in twin.modules():
            if type(module) is wrong.__base__ and getattr(module, "kernel_size", 2) == 2:
                module.__class__ = wrong
        return twin

    found = 0
    for network in itertools.islice(filter(uses(wrong), drawn(2000)), 150):
        with contextlib.suppress(UnsatisfiedAssumption):
            first, other = run_all(network, twin_of)
            found += bool(compare(first, other))
    assert found >= 3


def uses(wrong):
    """Whether a network has a module that the wrong one replaces."""

    def in_network(network):
        if issubclass(wrong, nn.ReLU):
            return any(layer.op == "relu" and layer.how == "module" for layer in network.layers)
        pools = [layer for layer in network.layers if layer.op == "max_pool"]
        plain = any(p.how == "module" and p.args["kernel_size"] == 2 for p in pools)
        return network.dims == 2 and plain

    return in_network
