"""Batch norm as any other module: changed, hooked and written to as in eager."""

import copy

import pytest
import torch
from _bits import values
from _norms import Normed, fate, fill_parameters
from _twins import Twins, operators
from torch import nn

import fxpass


def swap_weight(m):
    m.bn.weight = nn.Parameter(torch.linspace(-1, 2, 3))


CHANGES = {
    "eval": lambda m: m.bn.eval(),
    "model eval": lambda m: m.eval(),
    "momentum": lambda m: setattr(m.bn, "momentum", 0.7),
    "momentum None": lambda m: setattr(m.bn, "momentum", None),
    "eps": lambda m: setattr(m.bn, "eps", 0.3),
    "no tracking": lambda m: setattr(m.bn, "track_running_stats", False),
    "frozen": lambda m: m.bn.requires_grad_(False),
    "weight frozen": lambda m: m.bn.weight.requires_grad_(False),
    "bias frozen": lambda m: m.bn.bias.requires_grad_(False),
    "weight replaced": swap_weight,
    "no bias": lambda m: setattr(m.bn, "bias", None),
    "no statistics": lambda m: [setattr(m.bn, n, None) for n in ("running_mean", "running_var")],
    "reset": lambda m: m.bn.reset_running_stats(),
    "double": lambda m: m.double(),
    "other norm": lambda m: setattr(m, "bn", nn.BatchNorm2d(3, affine=False)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_what_is_changed_after_compile(change, activation):
    twins = Twins(lambda: Normed((2, 3, 4, 4), activation))
    dtype = torch.float64 if change == "double" else torch.float32
    twins.step(values((2, 3, 4, 4)))
    twins.each(CHANGES[change])
    for seed in range(2):
        twins.step(values((2, 3, 4, 4), dtype, seed=seed))
    assert "batch_norm" in operators(twins.compiled)
    twins.each(lambda m: m.train())
    twins.step(values((2, 3, 4, 4), dtype))


HOOKS = {
    "forward": lambda m: m.register_forward_hook(lambda m, args, out: out * 1.5),
    "forward pre": lambda m: m.register_forward_pre_hook(lambda m, args: (args[0] + 1,)),
    "backward": lambda m: m.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,)),
    "momentum": lambda m: m.register_forward_pre_hook(
        lambda m, args: setattr(m, "momentum", 0.5) if isinstance(m, nn.BatchNorm2d) else None
    ),
}


@pytest.mark.parametrize("path", ["bn", "act"])
@pytest.mark.parametrize(
    ("kind", "activation"),
    # A backward hook and an activation in place: eager raises.
    [(k, a) for k in HOOKS for a in ("relu", "relu_", "silu") if (k, a) != ("backward", "relu_")],
)
def test_hooks(kind, path, activation):
    twins = Twins(lambda: Normed((2, 3, 4, 4), activation))
    twins.step(values((2, 3, 4, 4)))
    twins.each(lambda m: HOOKS[kind](m.get_submodule(path)))
    for seed in range(2):
        twins.step(values((2, 3, 4, 4), seed=seed))
    assert "batch_norm" in operators(twins.compiled)


# ---- what may be written to before backward ----------------------------------------------------

WRITES = {
    "input": lambda m, x, out: x.mul_(2),
    "weight": lambda m, x, out: m.bn.weight.mul_(2),
    "bias": lambda m, x, out: m.bn.bias.mul_(2),
    "running mean": lambda m, x, out: m.bn.running_mean.mul_(2),
    "running variance": lambda m, x, out: m.bn.running_var.mul_(2),
    "output": lambda m, x, out: out.mul_(2),
    "nothing": lambda m, x, out: None,
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "relu_", "silu"])
@pytest.mark.parametrize("reader", [True, False])
def test_a_write_before_backward_raises_as_in_eager(training, activation, reader):
    fates = {}
    for write, function in WRITES.items():
        model = fill_parameters(Normed((2, 3, 4, 4), activation, reader)).train(training)
        both = (copy.deepcopy(model), fxpass.compile(model))
        expected, found = (fate(m, values((2, 3, 4, 4)), function) for m in both)
        assert expected == found, write
        fates[write] = expected
    assert fates["weight"] == fates["input"] == "raises"
    assert fates["bias"] == fates["nothing"] != "raises"
