"""Batch norm, alone and as one op with an activation: eager's bits for any arguments and values."""

from dataclasses import dataclass, field

import pytest
import torch
from _bits import LAYOUTS, examples, values
from _exact import LOSSES, assert_exact
from _norms import NORM_DTYPES, Normed, fill_parameters
from _twins import operators
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS
from torch import nn

SOME = ("none", "relu", "relu_", "silu", "hardswish_", "gelu")  # all: test_ops_activations*.py


# ---- every argument ----------------------------------------------------------------------------


@dataclass
class Case:
    shape: tuple
    dtype: torch.dtype = torch.float32
    parameters: torch.dtype = torch.float32
    layout: str = "contiguous"
    fill: str = "normal"
    parameter_fill: str = "normal"
    activation: str = "none"
    reader: bool = True
    functional: bool = False
    arguments: dict = field(default_factory=dict)
    without_weight: bool = False
    training: bool = True
    frozen: tuple = ()
    needs_gradient: bool = True
    loss: str = "weighted"

    def model(self):
        model = Normed(
            self.shape, self.activation, self.reader, self.functional, **self.arguments
        ).to(self.dtype)
        model.bn.to(self.parameters)
        fill_parameters(model, self.parameter_fill)
        if self.without_weight:
            model.bn.weight = None
        for name, parameter in model.bn.named_parameters():
            parameter.requires_grad_(name not in self.frozen)
        return model.train(self.training)

    def input(self):
        x = values(self.shape, self.dtype, self.fill, self.layout, seed=3)
        return x.requires_grad_(self.needs_gradient)


RARE = (
    {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.0},
    {"momentum": 1.0}, {"eps": 0.5}, {"eps": 0.0}, {"affine": False, "track_running_stats": False},
)  # fmt: skip


@st.composite
def cases(draw):
    dims = draw(st.sampled_from([2, 2, 2, 1, 3, 0]))
    batch, channels = draw(st.sampled_from([2, 2, 3, 4, 1, 0])), draw(st.integers(1, 9))
    sizes = [draw(st.sampled_from([1, 2, 3, 4, 7, 8, 17])) for _ in range(dims)]
    dtype, parameters = draw(st.sampled_from(NORM_DTYPES))
    return Case(
        (batch, channels, *sizes), dtype, parameters,
        layout=draw(st.sampled_from(["contiguous", "channels_last", *LAYOUTS])),
        fill=draw(st.sampled_from(["normal", "normal", *FILLS])),
        parameter_fill=draw(st.sampled_from(["normal"] * 5 + ["edges", "specials", "zeros"])),
        activation=draw(st.sampled_from(SOME)),
        reader=draw(st.sampled_from([True, True, False])),
        functional=draw(st.sampled_from([False, False, True])),
        arguments=draw(st.sampled_from([{}] * 5 + list(RARE))),
        without_weight=draw(st.integers(0, 7)) == 5,
        training=draw(st.sampled_from([True, True, False])),
        frozen=draw(st.sampled_from([(), (), (), ("weight",), ("bias",), ("weight", "bias")])),
        needs_gradient=draw(st.sampled_from([True, True, True, False])),
        loss=draw(st.sampled_from([*LOSSES, "weighted"])),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@examples(250)
@given(cases())
def test_every_argument(case):
    assert_exact(
        case.model(), case.input(), steps=2, loss_fn=LOSSES[case.loss], may_raise=True, note=case
    )


SHAPES = [(4, 3), (3, 5, 7), (2, 4, 6, 5), (2, 3, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_rewritten(shape, training):
    model = fill_parameters(Normed(shape, "relu")).train(training)
    found = operators(assert_exact(model, values(shape).requires_grad_()))
    assert found == ["batch_norm", "linear" if len(shape) == 2 else f"conv{len(shape) - 2}d"]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_inputs_on_all_threads(layout, dtype, activation, on_threads):
    # More than a task of torch's pool takes; the numbers of planes and of elements are odd.
    shapes = (3, 5, 67, 91), (3, 67, 19, 13)
    for shape, training in [(shapes[0], True), (shapes[1], True), (shapes[1], False)]:
        x = values(shape, dtype, "edges", layout).requires_grad_()
        model = fill_parameters(Normed(shape, activation)).to(dtype).train(training)
        assert_exact(model, x, steps=1, on_threads=on_threads, note=(shape, training))


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 15, 17, 33, 65])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_every_remainder(channels, layout):
    for plane in ((1, 3), (3, 5), (8, 8)):
        x = values((2, channels, *plane), layout=layout, seed=channels).requires_grad_()
        for activation in ("relu", "none"):
            assert_exact(fill_parameters(Normed(x.shape, activation)), x, steps=1)


# ---- special values ----------------------------------------------------------------------------


PARTS = ("input", "parameters")


@pytest.mark.parametrize("activation", SOME)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("special", ["specials", "edges"])
@pytest.mark.parametrize("where", [*PARTS, "both"])
def test_special_values(activation, training, special, where):
    for layout in ("contiguous", "channels_last"):
        kinds = [special if where in (part, "both") else "normal" for part in PARTS]
        x = values((3, 6, 5, 7), kind=kinds[0], layout=layout).requires_grad_()
        model = fill_parameters(Normed(x.shape, activation), kinds[1], seed=9).train(training)
        assert_exact(model, x, steps=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 0.0, 1e-42, 3e38])
@pytest.mark.parametrize("training", [True, False])
def test_a_constant_input(value, training):
    # No variance: invstd is what eps makes it, and the result is the bias, or NaN.
    for bias in (0.0, -0.0, 1.0):
        model = Normed((2, 3, 4, 4), "relu").train(training)
        nn.init.constant_(model.bn.bias, bias)
        assert_exact(model, torch.full((2, 3, 4, 4), value, requires_grad=True), steps=1)
