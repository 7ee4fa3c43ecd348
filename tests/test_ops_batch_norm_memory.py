"""Batch norm, alone and as one op with an activation: what is kept, and the peak of backward."""

import pytest
import torch
from _activations import ACTIVATIONS
from _bits import values
from _exact import assert_exact, assert_saves_no_more, kept
from _norms import Normed, fill_parameters
from torch import nn

import fxpass


def test_what_is_kept_in_training():
    x = values((8, 16, 32, 32))
    one_layer = dict.fromkeys(("none", "relu", "relu_", "silu", "hardswish_", "gelu"))
    for name in one_layer:
        model = Normed(x.shape, name)
        model.reader = nn.Conv2d(16, 1, 1)  # the output is small
        one_layer[name] = kept(model, x)
    mask = 1 / 32
    # The user's input is not counted; the batch norm's output and the activation's are.
    assert one_layer["none"] == pytest.approx((1.06, 0.06), abs=0.005)
    for name in ("relu", "relu_"):
        assert one_layer[name] == pytest.approx((1.06, 0.06 + mask), abs=0.011), name
    for name in ("silu", "hardswish_", "gelu"):
        assert one_layer[name] == pytest.approx((2.06, 0.06), abs=0.005), name


def test_what_is_kept_with_frozen_statistics():
    x = values((8, 16, 32, 32))

    def model(activation, frozen):
        made = Normed(x.shape, activation).eval()
        made.reader = nn.Conv2d(16, 1, 1)
        made.bn.requires_grad_(not frozen)
        # In front of it something whose result nobody else keeps.
        return nn.Sequential(nn.AvgPool2d(1), made)

    mask, out = 1 / 32, 1 / 16
    # Only the gradient of the weight reads the batch norm's input.
    assert kept(model("none", True), x) == pytest.approx((2 + out, 1 + out), abs=0.011)
    eager, ours = kept(model("relu", True), x)
    assert eager == pytest.approx(2 + out, abs=0.011)
    assert ours == pytest.approx(0.5 + mask + out, abs=0.05)  # a bitmap of the activation
    assert kept(model("relu", False), x) == pytest.approx((2 + out, 1 + mask + out), abs=0.011)
    assert kept(model("silu", True), x) == pytest.approx((3 + out, 1 + out), abs=0.011)
    bare = model("none", True)
    bare[1].reader = nn.AvgPool2d(32)
    assert kept(bare, x) == pytest.approx((2, 0), abs=0.011)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(mode):
    model = fxpass.compile(Normed((8, 16, 32, 32), "silu", reader=False))
    x = values((8, 16, 32, 32))
    with mode():
        model(x)  # traced
        with fxpass.memory.track() as memory:
            out = model(x)
            assert memory.live_bytes == out.nbytes


@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",), ("weight", "bias")])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_never_more_than_eager(frozen, training, activation):
    model = fill_parameters(Normed((4, 8, 16, 16), activation)).train(training)
    for name in frozen:
        model.bn.get_parameter(name).requires_grad_(False)
    for needs_gradient in (True, False):
        x = values((4, 8, 16, 16)).requires_grad_(needs_gradient)
        compiled = assert_exact(model, x, steps=1)
        # Copies of a few vectors of one element a channel.
        assert_saves_no_more(model, compiled, x, slack=6 * 8 * 4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu_", "relu", "hardswish_", "relu6_", "silu_", "silu"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 1, 5), (2, 1, 4, 5), (1, 3, 4, 1)])
def test_empty_and_one_element_wide_inputs_have_eagers_strides(shape, activation, training):
    # Where a size is 1 a tensor is of both memory formats, and ATen's ops differ in their choice.
    x = values(shape).requires_grad_()
    of_conv = nn.Conv2d(shape[1], shape[1], 1).to(memory_format=torch.channels_last)
    for image in (x, x.detach().to(memory_format=torch.channels_last).requires_grad_()):
        for reader in (False, True):
            norm = fill_parameters(Normed(shape, activation, reader)).train(training)
            for model in (norm, nn.Sequential(of_conv, norm)):
                assert_exact(model, image, steps=1, may_raise=True)


# ---- memory of backward ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_the_gradient_is_written_over_the_one_given(layout, training, activation):
    x = values((8, 16, 64, 64), layout=layout).requires_grad_()
    model = nn.Sequential(nn.BatchNorm2d(16), ACTIVATIONS[activation]()).train(training)
    compiled = fxpass.compile(model)
    for _ in range(2):  # the first time trials run
        x.grad, gradient = None, values(x.shape, layout=layout)
        out = compiled(x) * 2  # whose backward makes the gradient, and lets go of it
        with fxpass.memory.track() as memory:
            out.backward(gradient)
    assert memory.peak_bytes < 1.6 * x.nbytes
