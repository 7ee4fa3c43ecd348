"""Layer, group and instance norm with any arguments: eager's bits."""

from dataclasses import dataclass, field

import pytest
import torch
from _between import AFTER, BEFORE, KINDS, Between, norm_of
from _bits import LAYOUTS, examples, values
from _exact import LOSSES, assert_exact
from _norms import NORM_DTYPES, crashes_without_gradient, fill_parameters
from _twins import all_operators
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS
from torch import nn


@dataclass
class Case:
    kind: str
    shape: tuple
    dtype: torch.dtype
    parameters: torch.dtype
    layout: str
    fill: str
    parameter_fill: str
    before: str
    after: str
    functional: bool
    training: bool
    frozen: tuple
    needs_gradient: bool
    loss: str
    arguments: dict = field(default_factory=dict)

    def model(self):
        model = Between(
            self.kind, self.shape, self.before, self.after, self.functional, **self.arguments
        ).to(self.dtype)
        model.norm.to(self.parameters)
        fill_parameters(model, self.parameter_fill)
        for name in self.frozen:
            getattr(model, name).requires_grad_(False)
        return model.train(self.training)


ARGUMENTS = {
    "layer": [{}, {}, {"two": True}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.5}],
    "group": [{}, {}, {}, {"affine": False}, {"eps": 0.5}],
    "instance": [
        {}, {}, {"affine": True}, {"track_running_stats": True}, {"eps": 0.5},
        {"affine": True, "track_running_stats": True, "momentum": 0.4},
    ],
}  # fmt: skip


@st.composite
def cases(draw):
    kind, dims = draw(st.sampled_from(KINDS)), draw(st.sampled_from([2, 2, 1, 3]))
    batch = draw(st.sampled_from([2, 3, 5, 1, 16, 0]))
    shape = (batch, draw(st.sampled_from([1, 2, 3, 4, 6, 9])),
             *(draw(st.sampled_from([1, 2, 4, 7, 8, 17])) for _ in range(dims)))  # fmt: skip
    dtype, parameters = draw(st.sampled_from(NORM_DTYPES))
    frozen = draw(st.sampled_from([(), (), (), ("norm",), ("reader",), ("norm", "reader")]))
    return Case(
        kind, shape, dtype, parameters,
        layout=draw(st.sampled_from(["contiguous", "channels_last", *LAYOUTS])),
        fill=draw(st.sampled_from(["normal", "normal", *FILLS])),
        parameter_fill=draw(st.sampled_from(["normal"] * 4 + ["edges", "specials", "zeros"])),
        before=draw(st.sampled_from(list(BEFORE))),
        after=draw(st.sampled_from(list(AFTER))),
        functional=draw(st.sampled_from([False, False, True])),
        training=draw(st.sampled_from([True, True, False])),
        frozen=frozen,
        needs_gradient=draw(st.sampled_from([True, True, False])),
        loss=draw(st.sampled_from(list(LOSSES))),
        arguments=dict(draw(st.sampled_from(ARGUMENTS[kind]))),
    )  # fmt: skip


@examples(150)
@given(cases())
@pytest.mark.filterwarnings("ignore")
def test_a_norm_with_any_arguments(case):
    x = values(case.shape, case.dtype, case.fill, case.layout, seed=3)
    x.requires_grad_(case.needs_gradient or crashes_without_gradient(case.kind, x))
    model = case.model()
    if not any(p.requires_grad for p in [x, *model.parameters()]):
        model.reader.bias.requires_grad_()
    assert_exact(model, x, steps=2, loss_fn=LOSSES[case.loss], may_raise=True, note=case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("on_threads", [1, 2])
def test_large_values_on_all_threads(kind, layout, on_threads):
    # Group norm of a channels_last image of this size sums up with several threads.
    for shape in ((2, 6, 61, 67), (33, 12, 9, 31)):
        x = values(shape, layout=layout).requires_grad_()
        for after in ("silu", "nothing"):
            model = fill_parameters(Between(kind, shape, after=after))
            compiled = assert_exact(model, x, steps=1, on_threads=on_threads, note=shape)
            assert f"rerun_{kind}_norm" in all_operators(compiled)


@pytest.mark.parametrize("kind", ["layer", "group"])
@pytest.mark.parametrize("shape", [(24, 32), (6, 7, 32)])
def test_in_front_of_a_linear_layer(kind, shape):
    norm = norm_of(kind, shape)
    width = shape[-1]
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), norm, nn.Linear(width, 2))
    compiled = assert_exact(model, values(shape).requires_grad_())
    # The input of the norm is the bitmap of a ReLU, and the linear layer's is made of it.
    made = ["relu", f"rerun_{kind}_norm", "bind", "keep_input", "linear"]
    assert all_operators(compiled) == made
