"""Max, average and adaptive pools, and ReLU -> max pool fused, against eager, bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from _bits import LAYOUTS, MOSTLY_FP32, Upstream, check, check_errors_too, examples, values
from _exact import assert_exact
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies_values import FILLS
from torch import nn

ops = torch.ops.fxpass
LAYOUTS_OF_INPUTS = ("contiguous", "channels_last", *LAYOUTS)

upstreams = st.builds(
    Upstream, st.sampled_from(FILLS), st.sampled_from(LAYOUTS), st.integers(0, 99)
)  # fmt: skip


@st.composite
def inputs(draw, dims):
    batch = draw(st.sampled_from([[2], [3], [1], [0], []]))
    sizes = draw(st.lists(st.sampled_from([1, 2, 4, 5, 7, 9]), min_size=dims, max_size=dims))
    shape = [*batch, draw(st.sampled_from([1, 2, 3, 17])), *sizes]
    drawn = [draw(st.sampled_from(v)) for v in (MOSTLY_FP32, FILLS, LAYOUTS_OF_INPUTS)]
    return values(shape, *drawn, draw(st.integers(0, 99)))


def lists(dims, low, high, *, short=True):
    """One number for each dimension, or one for all."""
    whole = st.lists(st.integers(low, high), min_size=dims, max_size=dims)
    return st.one_of(whole, st.integers(low, high).map(lambda n: [n])) if short else whole


def number(argument):
    """What torch.nn.functional takes for one number in a list of one."""
    return argument[0] if len(argument) == 1 else argument


dimensions = st.sampled_from([2, 2, 2, 1, 3])


@st.composite
def max_pools(draw):
    dims = draw(dimensions)
    kernel = draw(lists(dims, 1, 4))
    stride = draw(st.one_of(st.just([]), lists(dims, 1, 4)))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    dilation, ceil_mode, x = draw(lists(dims, 1, 2)), draw(st.booleans()), draw(inputs(dims))
    for d, size in enumerate(x.shape[-dims:]):
        k, p, skip = (a[d % len(a)] for a in (kernel, padding, dilation))
        # A window without one element in the image: eager's backward writes out of bounds.
        assume(all(any(0 <= o - p + i * skip < size for i in range(k)) for o in range(size)))
    return dims, x, (kernel, stride, padding, dilation, ceil_mode)


def eager_max_pool(dims, with_indices=False):
    pool = getattr(F, f"max_pool{dims}d")

    def run(x, kernel, stride, padding, dilation, ceil_mode):
        kernel, padding, dilation = number(kernel), number(padding), number(dilation)
        stride = number(stride) if stride else None
        return pool(x, kernel, stride, padding, dilation, ceil_mode, with_indices)

    return run


@examples(300)
@given(max_pools(), upstreams)
def test_max_pool(case, upstream):
    dims, x, args = case
    pool = getattr(ops, f"max_pool{dims}d")
    check_errors_too(
        lambda x: eager_max_pool(dims)(x, *args), lambda x: pool(x, *args), [x], upstream=upstream
    )


@examples(100)
@given(max_pools(), upstreams)
def test_max_pool_with_indices(case, upstream):
    dims, x, args = case
    pool = getattr(ops, f"max_pool{dims}d_with_indices")
    eager = eager_max_pool(dims, with_indices=True)
    check_errors_too(lambda x: eager(x, *args), lambda x: pool(x, *args), [x], upstream=upstream)


@examples(300)
@given(max_pools(), upstreams)
def test_relu_max_pool(case, upstream):
    dims, x, args = case
    pool = getattr(ops, f"relu_max_pool{dims}d")
    eager = eager_max_pool(dims)
    check_errors_too(
        lambda x: eager(torch.relu(x), *args), lambda x: pool(x, *args), [x], upstream=upstream
    )


def test_a_gradient_whose_strides_eager_refuses():
    x = values((1, 1, 1, 2)).requires_grad_()  # four sizes, but not a batch of images
    grad = torch.empty_strided((1, 1, 1, 2), (2, 1, 2, 1)).fill_(1.0)  # as channels_last has them
    one = ([1] * 3, [1] * 3, [0] * 3, [1] * 3, False)
    eager = eager_max_pool(3)(torch.relu(x), *one)
    for pooled in (eager, ops.relu_max_pool3d(x, *one)):
        with pytest.raises(RuntimeError, match="Unsupported memory format"):
            pooled.backward(grad)


@examples(60)
@given(max_pools(), st.sampled_from([torch.no_grad, torch.inference_mode]), st.booleans())
def test_max_pool_without_gradient(case, mode, fused):
    dims, x, args = case
    pool = getattr(ops, f"{'relu_' * fused}max_pool{dims}d")
    eager = eager_max_pool(dims)
    check_errors_too(
        mode()(lambda x: eager(torch.relu(x) if fused else x, *args)),
        mode()(lambda x: pool(x, *args)),
        [x],
        needs=[mode is torch.no_grad],
    )


@pytest.mark.parametrize("kind", ["normal", "ties", "specials", "edges"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("args", [((2, 2), (2, 2), 0), ((3, 3), (2, 2), 1), ((3, 2), (1, 3), 1)])
@pytest.mark.usefixtures("threads")
def test_larger_images_on_all_threads(layout, args, kind):
    kernel, stride, padding = args
    for dtype in (torch.float32, torch.float64):
        x = values((2, 19, 61, 67), dtype, kind, layout)
        for fused in (False, True):
            pool = getattr(ops, f"{'relu_' * fused}max_pool2d")
            check(
                lambda x, fused=fused: F.max_pool2d(x.relu() if fused else x, *args),
                lambda x, pool=pool: pool(x, kernel, stride, [padding]),
                [x],
                upstream=Upstream(kind, layout),
            )


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("window", [254, 255, 256, 400])
def test_windows_at_and_past_the_widest_code(dims, window):
    kernel = [1] * (dims - 1) + [window]
    x = values((2, 2, *[1] * (dims - 1), window + 3), kind="ties")
    for fused in (False, True):
        pool = getattr(ops, f"{'relu_' * fused}max_pool{dims}d")
        check(
            lambda x, fused=fused: eager_max_pool(dims)(
                x.relu() if fused else x, kernel, [1], [0], [1], False
            ),
            lambda x, pool=pool: pool(x, kernel, [1]),
            [x],
        )


@st.composite
def avg_pools(draw):
    dims = draw(dimensions)
    kernel = draw(lists(dims, 1, 4))
    stride = draw(st.one_of(st.just([]), lists(dims, 1, 4)))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    args = [kernel, stride, padding, draw(st.booleans()), draw(st.booleans())]
    if dims > 1:
        args.append(draw(st.sampled_from([None, None, 1, 3, -2])))
    return dims, draw(inputs(dims)), args


@examples(150)
@given(avg_pools(), upstreams)
def test_avg_pool(case, upstream):
    dims, x, args = case

    def eager(x):
        kernel, stride, padding, *rest = args
        stride = number(stride) if stride else None
        return getattr(F, f"avg_pool{dims}d")(x, number(kernel), stride, number(padding), *rest)

    check_errors_too(
        eager, lambda x: getattr(ops, f"avg_pool{dims}d")(x, *args), [x], upstream=upstream
    )


@st.composite
def adaptive_pools(draw):
    dims = draw(dimensions)
    return dims, draw(inputs(dims)), draw(lists(dims, 1, 6, short=False))


@examples(120)
@given(adaptive_pools(), upstreams)
def test_adaptive_avg_pool(case, upstream):
    dims, x, size = case
    name = f"adaptive_avg_pool{dims}d"
    check(
        lambda x: getattr(F, name)(x, size),
        lambda x: getattr(ops, name)(x, size),
        [x],
        upstream=upstream,
    )


@examples(120)
@given(adaptive_pools(), upstreams)
def test_adaptive_max_pool(case, upstream):
    dims, x, size = case
    name = f"adaptive_max_pool{dims}d"
    check(
        lambda x: getattr(F, name)(x, size, return_indices=True),
        lambda x: getattr(ops, name)(x, size),
        [x],
        upstream=upstream,
    )


def test_a_window_of_all_positions():
    x = values((2, 3, 20, 20), kind="ties")
    for size in ([1, 1], [20, 20], [1, 20], [25, 3]):
        check(
            lambda x, size=size: F.adaptive_max_pool2d(x, size, return_indices=True),
            lambda x, size=size: ops.adaptive_max_pool2d(x, size),
            [x],
        )


# An eager pool in front must keep its own indices and shapes.
BEHIND = {
    "adaptive_max_pool2d": (
        lambda y: F.adaptive_max_pool2d(y, 3),
        lambda y: ops.adaptive_max_pool2d(y, [3, 3])[0],
    ),
    "max_pool3d": (lambda y: F.max_pool3d(y, 2), lambda y: ops.max_pool3d(y, [2])),
    "max_pool1d": (
        lambda y: F.max_pool1d(y.flatten(2), 2),
        lambda y: ops.max_pool1d(y.flatten(2), [2]),
    ),
    "adaptive_max_pool3d": (
        lambda y: F.adaptive_max_pool3d(y, 2),
        lambda y: ops.adaptive_max_pool3d(y, [2, 2, 2])[0],
    ),
    "adaptive_avg_pool2d": (
        lambda y: F.adaptive_avg_pool2d(y, 1),
        lambda y: ops.adaptive_avg_pool2d(y, [1, 1]),
    ),
    "pad": (lambda y: F.pad(y, [1, 1]), lambda y: ops.pad(y, None, [1, 1])[0]),
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("front", ["max_pool2d", "adaptive_max_pool2d", "max_pool3d", "avg_pool2d"])
def test_behind_a_pool_of_eager(front, behind):
    size = (3, 3) if front == "adaptive_max_pool2d" else 2
    eager, ours = BEHIND[behind]

    def in_front(x):
        return getattr(F, front)(x, size)

    x = values((4, 8, 9, 9), kind="normal")
    check(lambda x: eager(in_front(x)), lambda x: ours(in_front(x)), [x])


def test_a_node_of_eager_in_front_keeps_its_own_tensor():
    x = values((2, 3, 8, 8)).requires_grad_()
    y = F.avg_pool2d(x, 2)
    ops.adaptive_avg_pool2d(y, [1, 1])  # a mean: it has no pool's node of its own
    assert torch.equal(y.grad_fn._saved_self, x)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "args",
    [
        ([0],),
        ([-1],),
        ([2], [0]),
        ([2], [-1]),
        ([2], [2], [2]),  # more padding than half the kernel
        ([2], [2], [-1]),
        ([2], [2], [0], [0]),
        ([2], [2], [0], [-1]),
        ([20],),  # larger than the image
        ([2], [2], []),
        ([],),
        ([2], [2], [0], []),
        ([2, 2, 2, 2],),
        ([2], [1, 1, 1, 1]),
        ([2], [2], [0, 0, 0, 0]),
        ([2], [2], [0], [1, 1, 1, 1]),
        ([3], [1], [2], [2]),  # enough padding only with the dilation counted
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_arguments_that_eager_refuses(dims, args, fused):
    eager = getattr(torch, f"max_pool{dims}d")
    ours = getattr(ops, f"{'relu_' * fused}max_pool{dims}d")
    x = values((2, 3, *[8] * dims))
    for needs in (True, False):
        check_errors_too(
            lambda x: eager(x.relu() if fused else x, *args),
            lambda x: ours(x, *args),
            [x],
            needs=[needs],
        )


@pytest.mark.parametrize(
    "shape", [(), (4,), (4, 4), (2, 3, 0, 4), (2, 0, 4, 4), (1, 1, 1, 1, 1, 4, 4)]
)
@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_shapes_that_eager_refuses(name, dims, shape):
    # aten's, because torch.nn.functional looks at the shape by itself before some of them.
    eager, ours = getattr(torch.ops.aten, f"{name}{dims}d"), getattr(ops, f"{name}{dims}d")
    check_errors_too(lambda x: eager(x, [2] * dims), lambda x: ours(x, [2] * dims), [values(shape)])


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.complex64, torch.bool]
)
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_other_dtypes(name, dtype):
    x = torch.arange(32).view(1, 2, 4, 4).to(dtype)
    pool = getattr(ops, name)
    check_errors_too(
        lambda x: getattr(F, name)(x, 2), lambda x: pool(x, [2]), [x], needs=[dtype.is_complex]
    )


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(name, dims, dtype):
    def cast(pool):
        def run(x):
            with torch.autocast("cpu", torch.bfloat16):
                return pool(x, [2] * dims)

        return run

    eager = getattr(F, f"{name}{dims}d")
    ours = getattr(ops, f"{name}{dims}d")
    if name == "adaptive_max_pool":
        ours = (lambda op: lambda *a: op(*a)[0])(ours)
    check(cast(eager), cast(ours), [values((2, 3, *[6] * dims), dtype)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_strides_behind_a_relu_of_one_channel(dims, frozen, inplace, dtype):
    # One channel is of both memory formats: in place the ReLU keeps the convolution's choice.
    conv, pool = ((nn.Conv2d, nn.MaxPool2d), (nn.Conv3d, nn.MaxPool3d))[dims - 2]
    form = (torch.channels_last, torch.channels_last_3d)[dims - 2]
    model = nn.Sequential(conv(3, 1, 1), nn.ReLU(inplace), pool(2))
    model = model.to(dtype=dtype, memory_format=form)
    model[0].requires_grad_(not frozen)
    x = values((2, 3, 6, 6, 6)[: dims + 2], dtype).contiguous(memory_format=form)
    other = values((2, 1, 3, 3, 3)[: dims + 2], dtype).requires_grad_()

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, other):
            y = self.model(x)
            return y, y * other

    assert_exact(Both(), x, other, steps=1)
