"""fxpass::conv1d, conv2d and conv3d against torch.nn.functional, bit for bit."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, MOSTLY_FP32, Upstream, check, check_errors_too, examples, values
from hypothesis import given
from hypothesis import strategies as st
from strategies_upstream import upstreams_of_layers
from strategies_values import FILLS

ops = torch.ops.fxpass
# Eager's advice on even kernels, which is an error here, would hide them.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
HANDLES = ("none", "bitmap", "relu")


def eager_conv(dims):
    return getattr(F, f"conv{dims}d")


def our_conv(dims, handle="none"):
    """A convolution that gets its input's handle from nobody, a bitmap, or a ReLU before it."""
    conv = getattr(ops, f"conv{dims}d")

    def run(x, weight, bias, *args):
        if handle == "relu":
            y, saved = ops.relu(x)
            return conv(y, saved, weight, bias, *args)
        saved = ops.bitmap(x) if handle == "bitmap" else None
        return conv(x, saved, weight, bias, *args)

    return run


def reference(dims, handle="none"):
    conv = eager_conv(dims)
    return lambda x, *rest: conv(torch.relu(x) if handle == "relu" else x, *rest)


@dataclass
class Case:
    dims: int
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    args: tuple
    handle: str


@st.composite
def cases(draw):
    dims = draw(st.sampled_from([2, 2, 1, 3]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    kernel = [draw(st.integers(1, 3 if dims == 3 else 4)) for _ in range(dims)]
    dilation = [draw(st.sampled_from([1, 1, 2])) for _ in range(dims)]
    padding = draw(st.sampled_from(["numbers", "numbers", "same", "valid"]))
    stride = [1 if padding == "same" else draw(st.integers(1, 3)) for _ in range(dims)]
    if padding == "numbers":
        padding = [draw(st.integers(0, 2)) for _ in range(dims)]
    sizes = [
        draw(st.sampled_from([1, 4, 5, 6, 7] if dims == 3 else [1, 5, 7, 8, 11])) for _ in kernel
    ]
    batch = draw(st.sampled_from([[2], [3], [1], [0], []]))
    dtype = draw(st.sampled_from(MOSTLY_FP32))
    kinds, layouts, seeds = st.sampled_from(FILLS), st.sampled_from(LAYOUTS), st.integers(0, 99)
    if draw(st.booleans()) and len(set(stride + dilation)) == 1:
        stride, dilation = stride[:1], dilation[:1]  # one number for all dimensions
    return Case(
        dims,
        values([*batch, inputs, *sizes], dtype, draw(kinds), draw(layouts), draw(seeds)),
        values(
            [outputs, inputs // groups, *kernel], dtype,
            draw(st.sampled_from(["normal", "normal", "edges", "specials"])),
            draw(st.sampled_from(["contiguous", "contiguous", "channels_last", "sliced"])),
        ),
        values([outputs], dtype, draw(kinds), seed=5) if draw(st.booleans()) else None,
        (stride, padding, dilation, groups),
        draw(st.sampled_from(HANDLES)),
    )  # fmt: skip


@examples(250)
@given(cases(), upstreams_of_layers, st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_conv(case, upstream, needs):
    needs = [
        n and t is not None for n, t in zip(needs, (case.x, case.weight, case.bias), strict=True)
    ]
    check_errors_too(
        lambda *t: reference(case.dims, case.handle)(*t, *case.args),
        lambda *t: our_conv(case.dims, case.handle)(*t, *case.args),
        [case.x, case.weight, case.bias],
        needs=needs,
        upstream=upstream,
    )


@pytest.mark.parametrize("handle", HANDLES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("padding", [1, "same", "valid"])
@pytest.mark.usefixtures("threads")
def test_larger_images_on_all_threads(layout, padding, handle):
    x = values((4, 16, 40, 41), layout=layout)
    weight, bias = values((24, 16, 3, 4)), values((24,))
    args = (weight, bias, 1, padding)
    tensors = [x, weight, bias]
    check(
        lambda x, w, b: reference(2, handle)(x, w, b, *args[2:]),
        lambda x, w, b: our_conv(2, handle)(x, w, b, *args[2:]),
        tensors,
        upstream=Upstream("specials", layout),
    )


@pytest.mark.parametrize(
    "view", ["flatten", "slice", "transpose", "expand", "unsqueeze", "strided"]
)
def test_a_view_of_the_value_is_restored(view):
    views = {
        "flatten": lambda y: y.flatten(2),
        "slice": lambda y: y[1:, 2:5, 1:].flatten(2),
        "transpose": lambda y: y.transpose(2, 3).flatten(2),
        "expand": lambda y: y[:1].expand(3, -1, -1, -1).flatten(2),
        "unsqueeze": lambda y: y[0].unsqueeze(0).flatten(2),
        "strided": lambda y: y.as_strided((2, 6, 8), (200, 24, 3), 7),
    }
    x = values((3, 8, 9, 11), kind="edges", layout="channels_last")
    channels = views[view](x).shape[1]
    weight = values((4, channels, 3))

    def ours(x, w):
        y, handle = ops.relu(x)
        return ops.conv1d(views[view](y), handle, w)

    check(lambda x, w: F.conv1d(views[view](torch.relu(x)), w), ours, [x, weight])


def test_many_consumers_of_one_value():
    weights = [values((3, 4, 3, 3), seed=i) for i in range(3)]

    def eager(x, *ws):
        y = torch.relu(x)
        return (*(F.conv2d(y, w) for w in ws), y * y)

    def ours(x, *ws):
        y, handle = ops.relu(x)
        return (*(ops.conv2d(y, handle, w) for w in ws), y * y)

    check(eager, ours, [values((2, 4, 8, 8)), *weights])


@pytest.mark.parametrize(
    ("x", "weight", "bias", "args"),
    [
        ((2, 4, 8, 8), (3, 5, 3, 3), None, ()),  # channels do not fit
        ((2, 4, 8, 8), (3, 4, 9, 9), None, ()),  # the kernel is larger than the image
        ((2, 4, 8, 8), (3, 4, 3, 3), (5,), ()),  # wrong bias
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (0,)),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, -1)),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, 0, 0)),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, 0, 1, 3)),  # groups do not divide
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, 0, 1, 0)),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, 0, 1, -1)),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, ([1, 1, 1],)),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, [0, 0, 0])),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, ([], 0)),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (2, "same")),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, "other")),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, ([], "same")),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, ([1, 1, 1], "same")),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, "same", [1, 1, 1])),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (1, "same", 0)),
        ((2, 4, 8, 8), (3, 4, 3, 3), None, (0, "valid")),
        ((2, 4, 8, 8), (3, 5, 3, 3), None, (1, "same")),
        ((2, 4, 8, 8), (3, 4, 3), None, ()),
        ((8, 8), (3, 4, 3, 3), None, ()),
        ((1, 2, 4, 8, 8), (3, 4, 3, 3), None, ()),
        ((4, 8, 8), (3, 5, 3, 3), None, ()),
        ((2, 0, 8, 8), (3, 0, 3, 3), None, ()),  # no channels
        ((2, 4, 0, 8), (3, 4, 3, 3), None, (1, 1)),
        ((2, 4, 8, 8), (0, 4, 3, 3), None, ()),  # no outputs
        ((2, 4, 8, 8), (3, 4, 0, 3), None, ()),  # an empty kernel
    ],
)  # fmt: skip
@pytest.mark.parametrize("handle", ["none", "relu"])
def test_arguments_that_eager_refuses_or_hardly_takes(x, weight, bias, args, handle):
    done = check_errors_too(
        lambda *t: reference(2, handle)(*t, *args),
        lambda *t: our_conv(2, handle)(*t, *args),
        [values(x), values(weight), None if bias is None else values(bias)],
    )
    if done.error is not None:
        given = [values(x).requires_grad_(), values(weight), None if bias is None else values(bias)]
        with pytest.raises(type(done.error)) as ours:
            our_conv(2, handle)(*given, *args)
        shared = set(str(done.error).split()) & set(str(ours.value).split())
        assert len(shared) >= 4, f"{done.error} against {ours.value}"


@pytest.mark.parametrize("other", [torch.float64, torch.complex64, torch.int64, torch.bfloat16])
def test_mixed_and_unsupported_dtypes(other):
    x, weight = values((1, 2, 5, 5)), values((3, 2, 3, 3))
    check_errors_too(reference(2), our_conv(2), [x, weight.to(other), None])
    check_errors_too(reference(2), our_conv(2), [x.to(other), weight.to(other), None])
    check_errors_too(reference(2), our_conv(2), [x, weight, values((3,)).to(other)])


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padding", [1, "same"])
def test_autocast(dims, dtype, padding):
    def cast(conv):
        def run(*tensors):
            with torch.autocast("cpu", dtype):
                return conv(*tensors, 1, padding)

        return run

    x, weight, bias = values((2, 4, *[6] * dims)), values((3, 4, *[2] * dims)), values((3,))
    for handle in HANDLES:
        check(cast(reference(dims, handle)), cast(our_conv(dims, handle)), [x, weight, bias])


def test_inference_mode_and_no_grad():
    tensors = [values((2, 4, 6, 6)), values((3, 4, 3, 3)), values((3,))]
    for mode in (torch.no_grad, torch.inference_mode):
        for handle in HANDLES:
            check(mode()(reference(2, handle)), mode()(our_conv(2, handle)), tensors)
