"""fxpass::linear against torch.nn.functional.linear, bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, MOSTLY_FP32, Upstream, check, check_errors_too, examples, values
from hypothesis import given
from hypothesis import strategies as st
from strategies_upstream import upstreams_of_layers
from strategies_values import FILLS

ops = torch.ops.fxpass


def ours(x, weight, bias=None):
    y, handle = ops.relu(x)
    return ops.linear(y, handle, weight, bias)


def eager(x, weight, bias=None):
    return F.linear(torch.relu(x), weight, bias)


@st.composite
def cases(draw):
    leading = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5]), max_size=3))
    inputs, outputs = draw(st.sampled_from([1, 2, 7, 16, 33])), draw(st.sampled_from([1, 3, 8, 17]))
    dtype = draw(st.sampled_from(MOSTLY_FP32))
    layouts = st.sampled_from(["contiguous", *LAYOUTS])
    x = values([*leading, inputs], dtype, draw(st.sampled_from(FILLS)), draw(layouts))
    kinds = st.sampled_from(["normal", "normal", "edges", "specials"])
    weight_layout = draw(st.sampled_from(["contiguous", "sliced", "transposed", "expanded"]))
    weight = values([outputs, inputs], dtype, draw(kinds), weight_layout, 3)
    bias = values([outputs], dtype, draw(kinds), seed=4) if draw(st.booleans()) else None
    return x, weight, bias


three = st.tuples(st.booleans(), st.booleans(), st.booleans())


@examples(250)
@given(cases(), upstreams_of_layers, three, st.booleans())
def test_linear(case, upstream, needs, with_relu):
    needs = [n and t is not None for n, t in zip(needs, case, strict=True)]
    if with_relu:
        check(eager, ours, list(case), needs=needs, upstream=upstream)
    else:
        check(
            F.linear,
            lambda x, w, b: ops.linear(x, ops.bitmap(x), w, b),
            list(case),
            needs=needs,
            upstream=upstream,
        )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(64, 700), (4, 33, 129)])
@pytest.mark.usefixtures("threads")
def test_larger_inputs_on_all_threads(shape, bias):
    tensors = [values(shape, kind="edges"), values((90, shape[-1]), seed=1)]
    check(eager, ours, [*tensors, values((90,)) if bias else None], upstream=Upstream("specials"))


VIEWS = {
    "flatten": lambda y: y.flatten(1),
    "view": lambda y: y.view(6, -1),
    "part": lambda y: y[1:, 2:].flatten(1),
    "part not in one piece": lambda y: y[:, :, :, 1:].flatten(0, 2),
    "transpose": lambda y: y.transpose(1, 3),
    "expand": lambda y: y[:1].expand(5, -1, -1, -1),
    "one row": lambda y: y[1, 1, 1],
    "reversed by a copy": lambda y: y.flip(3),
    "detached": lambda y: y.detach(),
}


@pytest.mark.parametrize(
    ("layout", "view"),
    # Of channels_last memory there is no such view.
    [("contiguous", v) for v in VIEWS] + [("channels_last", v) for v in VIEWS if v != "view"],
)
def test_views_between_relu_and_linear(view, layout):
    x = values((3, 4, 5, 6), kind="edges", layout=layout)
    weight = values((7, VIEWS[view](x).shape[-1]))

    def in_between(x, w):
        y, handle = ops.relu(x)
        return ops.linear(VIEWS[view](y), handle, w)

    check(lambda x, w: F.linear(VIEWS[view](torch.relu(x)), w), in_between, [x, weight])


def test_linear_behind_linear_keeps_each_input_apart():
    def twice(linear):
        return lambda x, w, v: linear(linear(x, w), v)

    def ours_twice(x, w, v):
        y, first = ops.relu(ops.linear(x, ops.bitmap(x), w))
        return ops.linear(y, first, v)

    def eager_twice(x, w, v):
        return F.linear(torch.relu(F.linear(x, w)), v)

    for shape in ((5, 8), (2, 3, 8), (8,)):
        x = values(shape, kind="mostly_zero")
        check(eager_twice, ours_twice, [x, values((6, 8)), values((4, 6))])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    def cast(linear):
        def run(*tensors):
            with torch.autocast("cpu", dtype):
                return linear(*tensors)

        return run

    check(cast(eager), cast(ours), [values((4, 8)), values((3, 8)), values((3,))])


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        ((4, 8), (3, 7), None),
        ((4, 8), (3, 8), (4,)),
        ((4, 8), (3, 8, 1), None),
        ((4, 8), (8,), None),
        ((), (3, 1), None),
        ((0,), (3, 0), None),
        ((4, 8), (0, 8), None),
    ],
)
def test_arguments_that_eager_refuses_or_hardly_takes(x, weight, bias):
    given = [values(x), values(weight), None if bias is None else values(bias)]
    check_errors_too(eager, ours, given)


@pytest.mark.parametrize("other", [torch.float64, torch.complex64, torch.int64])
def test_mixed_and_unsupported_dtypes(other):
    x, weight = values((4, 8)), values((3, 8))
    plain = [lambda x, w: F.linear(x, w), lambda x, w: ops.linear(x, ops.bitmap(x), w)]
    check_errors_too(*plain, [x, weight.to(other)])
    check_errors_too(*plain, [x.to(other), weight.to(other)])


def test_inference_mode_and_no_grad():
    tensors = [values((4, 8)), values((3, 8)), values((3,))]
    for mode in (torch.no_grad, torch.inference_mode):
        check(mode()(eager), mode()(ours), tensors)
