"""fxpass::pad against torch.nn.functional.pad, and what is restored through it."""

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, MOSTLY_FP32, check, check_errors_too, examples, values
from _exact import assert_exact
from _twins import Twins, operators, saved_bytes
from hypothesis import given
from hypothesis import strategies as st
from strategies_upstream import upstreams
from strategies_values import FILLS
from torch import nn

import fxpass

ops = torch.ops.fxpass


@st.composite
def cases(draw):
    mode = draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    dims = draw(st.sampled_from([2, 2, 1, 3]))
    low = -1 if mode in ("constant", "circular") else 0
    amounts = [draw(st.integers(low, 2)) for _ in range(2 * dims)]
    batch = draw(st.sampled_from([[2], [1], [0], []]))
    shape = [
        *batch,
        draw(st.integers(1, 3)),
        *(draw(st.sampled_from([3, 5, 8])) for _ in range(dims)),
    ]
    value = (
        draw(st.sampled_from([None, 0.0, -0.0, 1.5, float("nan")])) if mode == "constant" else None
    )
    drawn = [draw(st.sampled_from(v)) for v in (MOSTLY_FP32, FILLS, LAYOUTS)]
    return values(shape, *drawn, draw(st.integers(0, 9))), (amounts, mode, value)


@examples(200)
@given(cases(), upstreams)
def test_pad(case, upstream):
    x, args = case
    check(lambda x: F.pad(x, *args), lambda x: ops.pad(x, None, *args)[0], [x], upstream=upstream)


@examples(150)
@given(cases(), upstreams, st.booleans())
def test_a_convolution_gets_the_padded_value_back(case, upstream, frozen):
    x, args = case
    dims = len(args[0]) // 2
    weight = values([4, x.shape[-dims - 1], *[2] * dims], x.dtype, seed=7)
    conv = f"conv{dims}d"

    def eager(x, w):
        return getattr(F, conv)(F.pad(torch.relu(x), *args), w)

    def ours(x, w):
        y, handle = ops.relu(x)
        padded, handle = ops.pad(y, handle, *args)
        return getattr(ops, conv)(padded, handle, w)

    check_errors_too(eager, ours, [x, weight], needs=[True, not frozen], upstream=upstream)


def test_padded_twice_and_read_twice():
    weights = [values((3, 2, 3, 3), seed=s) for s in (1, 2)]

    def eager(x, v, w):
        y = torch.relu(x)
        p = F.pad(y, [1, 1, 1, 1], "reflect")
        q = F.pad(p, [2, 0, 0, 2], "circular")
        return F.conv2d(p, v), F.conv2d(q, w), F.conv2d(y, v)

    def ours(x, v, w):
        y, a = ops.relu(x)
        p, b = ops.pad(y, a, [1, 1, 1, 1], "reflect")
        q, c = ops.pad(p, b, [2, 0, 0, 2], "circular")
        return ops.conv2d(p, b, v), ops.conv2d(q, c, w), ops.conv2d(y, a, v)

    check(eager, ours, [values((2, 2, 6, 6), kind="mostly_zero"), *weights])


@pytest.mark.parametrize(
    "args",
    [
        ([1], "constant"),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], "constant"),
        ([-9, 0], "constant"),
        ([9, 0], "reflect"),
        ([9, 0], "circular"),
        ([1, 1], "other"),
        ([1, 1], "reflect", 2.0),
        ([1, 1, 1], "replicate"),
        ([], "constant"),
        ([0, 0, 0, 0], "circular"),
        ([0, 0, 0, 0], "replicate"),
        ([0, 0, 0, 0], "constant"),
    ],
)
def test_arguments_that_eager_refuses_or_hardly_takes(args):
    x = values((2, 3, 5, 6), kind="mostly_zero")
    check_errors_too(lambda x: F.pad(x, *args), lambda x: ops.pad(x, None, *args)[0], [x])

    def through_conv(x):
        y, handle = ops.relu(x)
        padded, handle = ops.pad(y, handle, *args)
        return ops.conv2d(padded, handle, x.new_ones(2, 3, 1, 1).requires_grad_())

    check_errors_too(
        lambda x: F.conv2d(F.pad(x.relu(), *args), x.new_ones(2, 3, 1, 1).requires_grad_()),
        through_conv,
        [x],
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_other_dtypes(dtype):
    x = torch.arange(24).view(1, 2, 3, 4).to(dtype)
    for mode in ("constant", "circular", "reflect", "replicate"):
        check_errors_too(
            lambda x, mode=mode: F.pad(x, [1, 1, 1, 1], mode),
            lambda x, mode=mode: ops.pad(x, None, [1, 1, 1, 1], mode)[0],
            [x],
            needs=[dtype.is_complex],
        )


# ---- as modules --------------------------------------------------------------------------------

KINDS = ("Zero", "Constant", "Reflection", "Replication", "Circular")


def pad_module(kind, dims, amounts):
    value = (2.5,) if kind == "Constant" else ()
    return getattr(nn, f"{kind}Pad{dims}d")(amounts, *value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("before", [nn.ReLU, nn.SiLU])
def test_a_module_that_pads(kind, dims, before):
    conv = getattr(nn, f"Conv{dims}d")
    for amounts in (1, (1, 0, 2, 1, 0, 1)[: 2 * dims]):
        pad = pad_module(kind, dims, amounts)
        model = nn.Sequential(conv(3, 4, 1), before(), pad, conv(4, 2, 2))
        compiled = assert_exact(model, values((2, 3, *[5] * dims)).requires_grad_())
        assert operators(compiled).count("pad") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_copy_is_not_kept(kind):
    x = values((8, 16, 32, 32)).requires_grad_()
    model = nn.Sequential(nn.BatchNorm2d(16), nn.SiLU(), pad_module(kind, 2, 1))
    model = nn.Sequential(nn.AvgPool2d(1), *model, nn.Conv2d(16, 1, 3))
    eager, ours = (saved_bytes(m, x) / x.nbytes for m in (model, fxpass.compile(model)))
    # The batch norm's input; eager: its output and the padded copy too, often the activation.
    assert eager > 3
    assert ours == pytest.approx(1 + 1 / 16, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 5), (2, 3, 5, 5), (2, 3, 5, 5, 5), (5,)])
def test_modules_refuse_what_eager_refuses(kind, shape):
    model = nn.Sequential(nn.ReLU(), pad_module(kind, 2, (1, 1, 2, 0)))
    assert_exact(model, values(shape).requires_grad_(), may_raise=True)


@pytest.mark.parametrize("kind", KINDS)
def test_amounts_changed_after_compile(kind):
    twins = Twins(lambda: nn.Sequential(nn.ReLU(), pad_module(kind, 2, 1), nn.Conv2d(3, 2, 1)))
    twins.step(values((2, 3, 5, 5)))
    twins.each(lambda m: setattr(m[1], "padding", (2, 0, 1, 1)))
    twins.step(values((2, 3, 5, 5)))
    if kind in ("Zero", "Constant"):
        twins.each(lambda m: setattr(m[1], "value", -1.0))
        twins.step(values((2, 3, 5, 5)))
