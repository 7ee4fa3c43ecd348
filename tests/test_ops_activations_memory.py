"""Elementwise activations: what is kept of them."""

import pytest
import torch
from _activations import BEFORE, NAMES, OTHERS, READS_RESULT, Plain
from _bits import values
from _exact import assert_exact, assert_saves_no_more, kept
from _norms import normed
from _twins import all_operators
from torch import nn

import fxpass

MASK = 1 / 32
# What eager keeps besides the input; without a handle it is eager's own node.
BUFFER = {"logsigmoid": 1}


def small_output(model):
    model.reader = nn.Conv2d(16, 1, 1)  # 1/16 of its input
    return model


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_what_is_kept_behind_a_batch_norm(name):
    x = values((8, 16, 32, 32))
    eager, ours = kept(small_output(normed(x.shape, name)), x)
    if name in OTHERS:
        assert ours <= eager + 2 * 16 * 4 / x.nbytes  # two vectors of the channels
    elif name in ("relu", "relu_"):
        assert (eager, ours) == pytest.approx((1.06, 0.06 + MASK), abs=0.011)
    elif name in READS_RESULT:
        assert (eager, ours) == pytest.approx((1.06, 0.06), abs=0.005)
    else:
        expected = (2.06 + BUFFER.get(name, 0), 0.06)
        assert (eager, ours) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_what_is_kept_without_one(name):
    x = values((8, 16, 32, 32))
    model = Plain(name, channels=16)
    eager, ours = kept(model, x)
    output = 1 / 8
    if name in OTHERS or name in READS_RESULT:
        assert ours == eager
    elif name in ("relu", "relu_"):
        assert ours < 0.7 < 1 < eager
    elif name in ("relu6", "relu6_"):
        assert ours < 0.85 < 2 < eager
    else:
        # The first convolution's result, of which the other is made again if it is still there.
        expected = 2 if name.endswith("_") else 1
        if name in ("hardtanh_", "hardsigmoid_", "threshold_"):
            expected = 1 + MASK
        more = output + BUFFER.get(name, 0)
        assert (eager, ours) == pytest.approx((2 + more, expected + more), abs=0.011)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_reader_keeps_no_input(name):
    x = values((8, 16, 16, 16)).requires_grad_()
    for model in (Plain(name, channels=16), normed(x.shape, name)):
        (model.second if isinstance(model, Plain) else model.reader).requires_grad_(False)
        compiled = assert_exact(model, x, steps=2)
        assert_saves_no_more(model, compiled, x, slack=6 * 16 * 4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(mode):
    x = values((2, 4, 16, 16))
    for name in NAMES:
        compiled = fxpass.compile(Plain(name, BEFORE["relu"][0]))
        with mode():
            compiled(x)
            with fxpass.memory.track() as memory:
                out = compiled(x)
                assert memory.live_bytes == out.nbytes, all_operators(compiled)
            del out
