"""fxpass::conv_transpose1d, 2d and 3d against torch.nn.functional, bit for bit, and as modules."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, MOSTLY_FP32, Upstream, check, check_errors_too, examples, values
from _exact import assert_exact
from _twins import Twins, operators, saved_bytes
from hypothesis import given
from hypothesis import strategies as st
from strategies_upstream import upstreams_of_layers
from strategies_values import FILLS
from torch import nn

import fxpass

ops = torch.ops.fxpass
HANDLES = ("none", "bitmap", "relu")
CONVS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@dataclass
class Case:
    dims: int
    tensors: list
    args: tuple  # stride, padding, output_padding, groups, dilation
    handle: str


@st.composite
def cases(draw):
    dims = draw(st.sampled_from([2, 2, 1, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def each(low, high):
        drawn = [draw(st.integers(low, high)) for _ in range(dims)]
        return drawn[:1] if draw(st.booleans()) and len(set(drawn)) == 1 else drawn

    args = (each(1, 3), each(0, 2), each(0, 1), groups, each(1, 2))
    batch = draw(st.sampled_from([[2], [3], [1], [0], []]))
    sizes = [draw(st.sampled_from([1, 3, 4, 7])) for _ in range(dims)]
    dtype = draw(st.sampled_from(MOSTLY_FP32))
    kind, layout = draw(st.sampled_from(FILLS)), draw(st.sampled_from(LAYOUTS))
    of_weight = draw(st.sampled_from(["normal", "normal", "edges", "specials"]))
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    x = values([*batch, inputs, *sizes], dtype, kind, layout, draw(st.integers(0, 9)))
    weight = values([inputs, outputs, *kernel], dtype, of_weight, seed=3)
    bias = values([outputs * groups], dtype, seed=5) if draw(st.booleans()) else None
    return Case(dims, [x, weight, bias], args, draw(st.sampled_from(HANDLES)))


def eager(case):
    conv = getattr(F, f"conv_transpose{case.dims}d")
    before = torch.relu if case.handle == "relu" else lambda x: x
    return lambda x, weight, bias: conv(before(x), weight, bias, *case.args)


def ours(case):
    conv = getattr(ops, f"conv_transpose{case.dims}d")

    def run(x, weight, bias):
        saved = ops.bitmap(x) if case.handle == "bitmap" else None
        if case.handle == "relu":
            x, saved = ops.relu(x)
        return conv(x, saved, weight, bias, *case.args)

    return run


@examples(150)
@given(cases(), upstreams_of_layers, st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_conv_transpose(case, upstream, needs):
    needs = [n and t is not None for n, t in zip(needs, case.tensors, strict=True)]
    check_errors_too(eager(case), ours(case), case.tensors, needs=needs, upstream=upstream)


@pytest.mark.parametrize("handle", HANDLES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.usefixtures("threads")
def test_larger_images_on_all_threads(layout, handle):
    tensors = [values((4, 16, 20, 21), layout=layout), values((16, 12, 3, 4)), values((12,))]
    case = Case(2, tensors, ([2], [1], [1], 1, [1]), handle)
    check(eager(case), ours(case), tensors, upstream=Upstream("specials", layout))


@pytest.mark.parametrize(
    ("shape", "weight", "args"),
    [
        ((2, 3, 4, 5), (4, 2, 3, 3), ()),
        ((2, 3, 4), (3, 2, 3, 3), ()),
        ((2, 2, 3, 4, 5), (3, 2, 3, 3), ()),
        ((2, 3, 4, 5), (3, 2, 3, 3), ([1, 1, 1],)),
        ((2, 3, 4, 5), (3, 2, 3, 3), ([1], [0], [1])),
        ((2, 3, 4, 5), (3, 2, 3, 3), ([1], [-1])),
        ((2, 3, 4, 5), (3, 2, 3, 3), ([1], [0], [0], 2)),
        ((2, 3, 4, 5), (3, 2, 3), ()),
    ],
)
def test_what_eager_refuses(shape, weight, args):
    x, w = values(shape, kind="mostly_zero"), values(weight)
    check_errors_too(
        lambda x, w: F.conv_transpose2d(x, w, None, *args),
        lambda x, w: ops.conv_transpose2d(x, ops.bitmap(x), w, None, *args),
        [x, w],
    )


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.int64, torch.int64)])
def test_other_and_mixed_dtypes(dtypes):
    x, w = torch.ones(1, 2, 4, 4, dtype=dtypes[0]), torch.ones(2, 2, 3, 3, dtype=dtypes[1])
    check_errors_too(
        F.conv_transpose2d, lambda x, w: ops.conv_transpose2d(x, ops.bitmap(x), w), [x, w]
    )


# ---- as modules --------------------------------------------------------------------------------


class Decoder(nn.Module):
    """A ReLU, a transposed convolution, and another one that reads its activation."""

    def __init__(self, dims=2, functional=False, **arguments):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm1d(6) if dims == 1 else nn.Identity(), nn.ReLU())
        self.up = CONVS[dims](6, 4, 3, **arguments)
        self.last = CONVS[dims](4, 2, 1)
        self.functional = functional
        self.function = getattr(F, f"conv_transpose{dims}d")

    def forward(self, x):
        x = self.first(x)
        if self.functional:
            u = self.up
            args = (u.stride, u.padding, u.output_padding, u.groups, u.dilation)
            x = self.function(x, u.weight, u.bias, *args)
        else:
            x = self.up(x)
        return self.last(F.silu(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("functional", [False, True])
def test_a_decoder(dims, functional):
    x = values((3, 6, *[7] * dims), kind="edges").requires_grad_()
    for arguments in ({}, {"stride": 2, "output_padding": 1, "padding": 1}, {"groups": 2}):
        model = Decoder(dims, functional, **arguments)
        compiled = assert_exact(model, x, note=arguments)
        assert operators(compiled).count(f"conv_transpose{dims}d") == 2


def test_what_is_kept():
    x = values((8, 16, 32, 32)).requires_grad_()
    up = nn.ConvTranspose2d(16, 16, 2, 2)
    model = nn.Sequential(nn.AvgPool2d(1), nn.BatchNorm2d(16), nn.SiLU(), up, nn.AvgPool2d(64))
    # Eager: the batch norm's input and output, the activation, and the pool's input.
    kept = [saved_bytes(m, x) / x.nbytes for m in (model, fxpass.compile(model))]
    assert kept == pytest.approx([3 + 4, 1], abs=0.01)


def test_an_output_size_is_left_to_the_module():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(6, 4, 3, 2)

        def forward(self, x):
            return self.up(torch.relu(x), output_size=(12, 11))

    compiled = assert_exact(Sized(), values((2, 6, 5, 5)).requires_grad_())
    assert "conv_transpose2d" not in operators(compiled)


def test_arguments_changed_after_compile():
    twins = Twins(lambda: Decoder(stride=2))
    for change in ("padding", "output_padding", "dilation"):
        twins.step(values((3, 6, 7, 7)))
        twins.each(lambda m, name=change: setattr(m.up, name, (1, 1)))
    twins.step(values((3, 6, 7, 7)))
    twins.each(lambda m: m.up.requires_grad_(False))
    twins.step(values((3, 6, 7, 7)))
