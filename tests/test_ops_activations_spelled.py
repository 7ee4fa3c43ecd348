"""Elementwise activations in every spelling, and with arguments changed after compile."""

import pytest
import torch.nn.functional as F
from _activations import Plain, operators_behind_a_batch_norm
from _bits import values
from _exact import assert_exact
from _norms import Normed
from _twins import Twins, operators
from torch import nn

SPELLINGS = {
    "hardtanh": [
        lambda y: F.hardtanh(y, -0.5, 0.5),
        lambda y: F.hardtanh(y, max_val=2.0),
        lambda y: F.hardtanh(y, inplace=True),
        F.relu6,
        lambda y: F.relu6(y, True),
    ],
    "leaky_relu": [F.leaky_relu, lambda y: F.leaky_relu(y, negative_slope=0.3)],
    "elu": [F.elu, lambda y: F.elu(y, alpha=2.0)],
    "hardswish": [F.hardswish, lambda y: F.hardswish(y, inplace=True)],
    "hardsigmoid": [F.hardsigmoid, lambda y: F.hardsigmoid(y, True)],
    "silu": [F.silu, lambda y: F.silu(y, inplace=True)],
    "mish": [F.mish, lambda y: F.mish(y, True)],
    "gelu_none": [F.gelu, lambda y: F.gelu(y, approximate="none")],
    "gelu_tanh": [lambda y: F.gelu(y, approximate="tanh")],
    "softplus": [F.softplus, lambda y: F.softplus(y, 3.0), lambda y: F.softplus(y, threshold=1)],
    "celu": [F.celu, lambda y: F.celu(y, alpha=2.5)],
    "selu": [F.selu],
    "threshold": [lambda y: F.threshold(y, 1, 2), lambda y: F.threshold(y, 0.1, value=-0.5)],
    "hardshrink": [F.hardshrink, lambda y: F.hardshrink(y, lambd=0.2)],
    "softshrink": [F.softshrink, lambda y: F.softshrink(y, 0.2)],
    "logsigmoid": [F.logsigmoid],
}


class Function(Normed):
    def __init__(self, function):
        super().__init__((2, 4, 6, 6))
        self.function = function

    def forward(self, x):
        return self.reader(self.function(self.bn(x)))


@pytest.mark.parametrize(
    ("name", "function"), [(name, f) for name, spelled in SPELLINGS.items() for f in spelled]
)
def test_however_it_is_spelled(name, function):
    x = values((2, 4, 6, 6)).requires_grad_()
    compiled = assert_exact(Function(function), x, steps=2)
    assert operators(compiled) == operators_behind_a_batch_norm(name)
    assert f"'{name}'" in compiled._fxpass_unit.latest().program.source


CHANGES = {
    "hardtanh": lambda m: setattr(m.act, "max_val", 0.25),
    "leaky_relu": lambda m: setattr(m.act, "negative_slope", 0.7),
    "elu": lambda m: setattr(m.act, "alpha", 3.0),
    "gelu": lambda m: setattr(m.act, "approximate", "tanh"),
    "softplus": lambda m: setattr(m.act, "beta", 0.5),
    "celu": lambda m: setattr(m.act, "alpha", 3.0),
    "threshold": lambda m: setattr(m.act, "value", 3.0),
    "hardshrink": lambda m: setattr(m.act, "lambd", 0.8),
    "softshrink": lambda m: setattr(m.act, "lambd", 0.8),
    "silu": lambda m: setattr(m.act, "inplace", True),
    "hardswish": lambda m: setattr(m, "act", nn.Hardsigmoid()),
    "mish": lambda m: setattr(m.act, "forward", lambda x: x * 2),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("model", [lambda name: Normed((2, 4, 6, 6), name), Plain])
def test_arguments_changed_after_compile(name, model):
    twins = Twins(lambda: model(name))
    twins.step(values((2, 4, 6, 6)))
    twins.each(CHANGES[name])
    for _ in range(2):
        twins.step(values((2, 4, 6, 6)))
