"""torchvision's stochastic_depth called as a function: one node, however it is named."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from _blocks import CHANNELS, SHAPE, conv, norm
from _exact import assert_exact, assert_saves_no_more
from _twins import Twins, operators, saved_bytes
from torch import nn

import fxpass
from bench._models import torchvision_models
from fxpass.capture.functions import LEAF_FUNCTIONS, leaf_functions
from fxpass.edges.table import OF_NAME

torchvision_models()  # torchvision cannot be imported without it
from torchvision import ops  # noqa: E402
from torchvision.ops import stochastic_depth  # noqa: E402
from torchvision.ops import stochastic_depth as drop_path  # noqa: E402

torchvision = sys.modules["torchvision"]

HELPER = """
from torchvision.ops import stochastic_depth

def dropped(x, p, training):
    return stochastic_depth(x, p, "row", training)
"""


@pytest.fixture(autouse=True, scope="module")
def helper():
    """A user's module of helpers."""
    module = types.ModuleType("users_helper")
    exec(compile(HELPER, "users_helper.py", "exec"), vars(module))
    sys.modules["users_helper"] = module
    yield
    del sys.modules["users_helper"]


class Block(nn.Module):
    """A residual branch that `drop(self, y)` leaves out at random."""

    def __init__(self, drop, p=0.4):
        super().__init__()
        self.conv, self.bn, self.drop, self.p = conv(), norm(), drop, p

    def forward(self, x):
        return x + self.drop(self, F.relu(self.bn(self.conv(x))))


class Own(nn.Module):
    """The call stands in the forward itself."""

    def __init__(self, p=0.4):
        super().__init__()
        self.conv, self.bn, self.p = conv(), norm(), p

    def forward(self, x):
        return x + stochastic_depth(F.relu(self.bn(self.conv(x))), self.p, "row", self.training)


def image():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).requires_grad_()


def network(*blocks):
    return nn.Sequential(conv(), norm(), nn.ReLU(), *blocks, nn.Conv2d(CHANNELS, 3, 1))


SPELLINGS = {
    "global": lambda m, y: stochastic_depth(y, m.p, "row", m.training),
    "by keywords": lambda m, y: stochastic_depth(input=y, mode="batch", p=m.p, training=m.training),
    "always on": lambda m, y: stochastic_depth(y, m.p, "batch"),
    "renamed": lambda m, y: drop_path(y, m.p, "row", m.training),
    "ops": lambda m, y: ops.stochastic_depth(y, m.p, "row", m.training),
    "torchvision.ops": lambda m, y: torchvision.ops.stochastic_depth(y, m.p, "row", m.training),
    "helper": lambda m, y: sys.modules["users_helper"].dropped(y, m.p, m.training),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_it_is_one_node(spelling):
    model = network(Block(SPELLINGS[spelling]))
    compiled = fxpass.compile(model, strict=True)
    assert_exact(model, image(), compiled=compiled)
    assert operators(compiled).count("stochastic_depth_noise") == 1
    assert assert_saves_no_more(model, compiled, image()) < 0.5
    assert_exact(model.eval(), image(), compiled=compiled)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_in_the_forward_of_the_model(p):
    model = network(Own(p), Own(p))
    compiled = assert_exact(model, image(), compiled=fxpass.compile(model, strict=True))
    assert operators(compiled).count("stochastic_depth_noise") == (2 if p > 0 else 0)


def test_a_probability_changed_after_compile():
    twins = Twins(lambda: network(Own()))
    for p in (0.4, 0.9, 0.0):
        twins.each(lambda m, p=p: setattr(m[3], "p", p))
        twins.step(image().detach())


def test_a_probability_that_is_none_is_eagers_error():
    with pytest.raises(ValueError, match="drop probability"):
        fxpass.compile(network(Own(1.5)))(image())


def test_where_it_cannot_be_seen_it_is_traced_through():
    hidden = [stochastic_depth]
    model = network(Block(lambda m, y: hidden[0](y, m.p, "row", m.training)))
    compiled = assert_exact(model, image())
    assert "stochastic_depth_noise" not in operators(compiled)
    seen = fxpass.compile(network(Block(SPELLINGS["global"])))
    # Nobody knows whether its noise can be made again, so the sum is kept.
    assert saved_bytes(seen, image()) < 0.85 * saved_bytes(compiled, image())


def test_nothing_is_left_in_its_place():
    before = (stochastic_depth, ops.stochastic_depth, sys.modules["users_helper"].stochastic_depth)
    fxpass.compile(network(Block(SPELLINGS["helper"]), Own()))(image())
    after = (stochastic_depth, ops.stochastic_depth, sys.modules["users_helper"].stochastic_depth)
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert leaf_functions() == [stochastic_depth]


def test_every_function_that_the_table_knows_by_name_is_a_node():
    assert set(LEAF_FUNCTIONS) == OF_NAME.keys()
