"""Elementwise activations between any other ops: eager's bits."""

import copy
from functools import partial

import pytest
import torch
from _activations import ACTIVATIONS, BEFORE, NAMES, OTHERS, READS_RESULT, Plain
from _bits import DTYPES, values
from _exact import assert_exact
from _norms import fate
from _twins import operators
from torch import nn

import fxpass


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
@pytest.mark.parametrize("before", BEFORE)
def test_what_else_it_may_read(name, before):
    function, has_handle = BEFORE[before]
    x = values((2, 4, 6, 7), kind="edges").requires_grad_()
    # Where it writes over a ReLU's result, or a view of it, eager raises in backward.
    compiled = assert_exact(Plain(name, function), x, steps=2, may_raise=name.endswith("_"))
    found = operators(compiled)
    if has_handle and name not in OTHERS and not name.startswith("relu"):
        ours = "activation_" if name.endswith("_") else "activation"
        assert (ours in found) is (name not in READS_RESULT)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_by_a_handle(name, dtype):
    for layout in ("contiguous", "channels_last"):
        x = values((2, 4, 7, 9), dtype, "specials", layout).requires_grad_()
        assert_exact(Plain(name, BEFORE["max pool of relu"][0]).to(dtype), x, steps=2, note=layout)


@pytest.mark.parametrize("name", ["silu", "gelu", "hardswish_", "leaky_relu"])
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_values_kept_by_a_handle(name, on_threads):
    x = values((3, 4, 67, 91), kind="edges").requires_grad_()
    assert_exact(Plain(name, BEFORE["max pool of relu"][0]), x, steps=1, on_threads=on_threads)


@pytest.mark.parametrize("name", NAMES)
def test_a_write_before_backward_raises_as_in_eager(name):
    seen = []
    writes = {
        "nothing": lambda m, x, out: None,
        "input": lambda m, x, out: x.mul_(2),
        "what it read": lambda m, x, out: seen[-1].mul_(2),
        "weight": lambda m, x, out: m.second.weight.mul_(2),
    }

    def see(module, args):
        seen.append(args[0])

    for write, function in writes.items():
        torch.manual_seed(0)
        model = Plain(name, BEFORE["max pool of relu"][0])
        model.act.register_forward_pre_hook(see)
        both = (copy.deepcopy(model), fxpass.compile(model))
        fates = [fate(m, values((2, 4, 6, 7)), function) for m in both]
        assert fates[0] == fates[1], write
        if write == "weight" or (write == "what it read" and name != "relu"):
            assert fates[0] == "raises"  # a ReLU reads its result


@pytest.mark.parametrize("reader", [nn.Identity, partial(nn.MaxPool2d, 2)])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name.endswith("_")])
def test_what_is_computed_in_place_and_written_over(name, reader):
    # Some keep their result (leaky_relu_): eager's backward then raises, and so must ours.
    model = nn.Sequential(
        nn.Conv2d(2, 3, 1), ACTIVATIONS[name](), nn.ReLU(inplace=True), reader(), nn.Conv2d(3, 2, 1)
    )
    assert_exact(model, values((2, 2, 6, 6)).requires_grad_(), steps=1, may_raise=True)
