"""fxpass::relu and relu_ against torch.relu and relu_, bit for bit."""

import pytest
import torch
from _bits import DTYPES, LAYOUTS, Upstream, bits, check, check_errors_too, examples, twin, values
from _threads import torch_threads
from hypothesis import example, given
from hypothesis import strategies as st
from strategies_upstream import upstreams
from strategies_values import FILLS

from fxpass import memory

ops = torch.ops.fxpass

shapes = st.lists(st.sampled_from([0, 1, 1, 2, 3, 5, 8, 17]), min_size=0, max_size=5)


@st.composite
def tensors(draw):
    return values(
        draw(shapes),
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from(FILLS)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.integers(0, 99)),
    )


def ours(x):
    return ops.relu(x)[0]


@examples(250)
@given(tensors(), upstreams)
def test_relu(x, upstream):
    check(torch.relu, ours, [x], upstream=upstream)


@examples(150)
@given(tensors(), upstreams)
def test_relu_in_place(x, upstream):
    def eager(x):
        return torch.relu_(x * 1)

    def in_place(x):
        y = x * 1
        result, _ = ops.relu_(y)
        assert result.data_ptr() == y.data_ptr()
        return result

    check(eager, in_place, [x], upstream=upstream)


@examples(80)
@given(tensors(), upstreams, st.integers(0, 4), st.booleans())
def test_relu_in_place_on_a_view(x, upstream, where, multi):
    # The base, every other view and the result see what was written.
    def on_view(relu_):
        def run(x):
            base = x * 1
            if base.dim() == 0:
                view = base.view(())
            elif multi and base.size(0) > 1:
                view = base.narrow(0, where % base.size(0), 1)
            else:
                view = base.transpose(0, -1)
            result = relu_(view)
            return result, base, base.reshape(-1)

        return run

    check(on_view(torch.relu_), on_view(lambda v: ops.relu_(v)[0]), [x], upstream=upstream)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("threads")
def test_large_tensors_on_all_threads(dtype, layout):
    x = values((5, 7, 67, 91), dtype, "specials", layout)
    for kind in ("contiguous", "channels_last"):
        check(torch.relu, ours, [x], upstream=Upstream("specials", kind))


@pytest.mark.parametrize("sizes", [(2, 1, 5, 5), (1, 3, 4, 4), (2, 3, 1, 1), (1, 1, 1, 1), (1, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_strides_of_size_one_dimensions(sizes, dtype):
    dense = values(sizes, dtype, "edges")
    for dim, size in enumerate(sizes):
        if size != 1:
            continue
        for odd in (1, 7, 1000):
            strides = list(dense.stride())
            strides[dim] = odd
            x = dense.as_strided(sizes, strides)
            check(torch.relu, ours, [x])
            check(lambda x: (x.clone() * 1).relu_(), lambda x: ops.relu_(x.clone() * 1)[0], [x])


@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_writes_over_a_gradient_that_is_its_own(dtype):
    x = values((2, 8, 256, 256), dtype).requires_grad_()
    loss = (ours(x) * 2).sum()
    with memory.track() as tracked:
        loss.backward()
    assert x.nbytes <= tracked.peak_bytes < 1.3 * x.nbytes  # and some tiles


@pytest.mark.parametrize("n", [1, 63, 64, 65, 127, 128, 129, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_remainder(n, dtype):
    for offset in range(3):  # a misaligned start
        x = values((n + 3,), dtype, "specials", seed=n)[offset : offset + n]
        check(torch.relu, ours, [x], upstream=Upstream("specials"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_a_value_with_several_consumers(dtype):
    # Contributions are summed in eager's order, before and after the selection.
    def several(relu):
        def run(x):
            y = relu(x)
            return y * 3, y + x, y.exp(), y

        return run

    x = values((4, 70), dtype, "normal")
    check(several(torch.relu), several(ours), [x], upstream=Upstream("normal"))


@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.int64, torch.uint8, torch.complex64, torch.bool]
)
def test_other_dtypes(dtype):
    x = torch.arange(-4, 5).to(dtype)
    check_errors_too(torch.relu, ours, [x], needs=[dtype.is_complex])
    check_errors_too(
        lambda x: x.clone().relu_(), lambda x: ops.relu_(x.clone())[0], [x], needs=[False]
    )


def test_a_leaf_that_needs_a_gradient_is_not_written():
    x = torch.randn(5, requires_grad=True)
    before = twin(x.detach())
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        ops.relu_(x)
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
        ops.relu_(x[1:])
    assert torch.equal(x.detach(), before)


def test_a_view_made_under_no_grad_or_of_many_outputs():
    x = torch.randn(6, requires_grad=True)
    with torch.no_grad():
        made_quietly = (x * 1)[2:]
    assert ops.relu_(made_quietly)[0] is not None
    parts = (x * 2).unbind()
    with pytest.raises(RuntimeError, match="multiple views"):
        torch.relu_(parts[0])
    with pytest.raises(RuntimeError, match="multiple views"):
        ops.relu_((x * 2).unbind()[0])


def test_overlapping_memory():
    x = torch.randn(1, 4).expand(3, 4)
    check_errors_too(torch.relu, ours, [x])
    check_errors_too(
        lambda x: (x * 1)[:1].expand(3, 4).relu_(),
        lambda x: ops.relu_((x * 1)[:1].expand(3, 4)),
        [x],
    )


def test_without_gradient_nothing_is_recorded():
    x = torch.randn(100)
    y, handle = ops.relu(x)
    assert not y.requires_grad
    assert handle.nbytes() == 0
    with torch.no_grad():
        y, handle = ops.relu(x.requires_grad_())
    assert y.grad_fn is None
    assert handle.recipe() == "dense"


@example(torch.tensor([-0.0, 0.0, 1.0, -1.0]))
@examples(60)
@given(tensors())
def test_the_handle_restores_the_result(x):
    # A linear map's saved input is the result itself: its gradient shows every bit.
    if x.dim() == 0:
        x = x.reshape(1)
    weight = values((x.shape[-1], x.shape[-1]), x.dtype)

    def through(relu, linear):
        return lambda x, w: linear(relu(x), w)

    def with_handle(x, w):
        y, handle = ops.relu(x)
        return ops.linear(y, handle, w)

    check(through(torch.relu, torch.nn.functional.linear), with_handle, [x, weight])


# ---- gradients with gaps -----------------------------------------------------------------------


@st.composite
def with_gaps(draw):
    """A shape, and the slices of a larger tensor that have it."""
    dims = draw(st.integers(2, 5))
    sizes = [draw(st.sampled_from([1, 2, 2, 3, 5, 17, 40])) for _ in range(dims)]
    gaps = [draw(st.sampled_from([0, 0, 0, 1, 3])) for _ in range(dims)]
    starts = [draw(st.integers(0, gap)) for gap in gaps]
    cut = tuple(slice(s, s + n) for s, n in zip(starts, sizes, strict=True))
    return sizes, [n + gap for n, gap in zip(sizes, gaps, strict=True)], cut


@examples(250)
@given(
    with_gaps(),
    st.sampled_from(["contiguous", "channels_last", "transposed", "swapped"]),
    st.sampled_from(["contiguous", "channels_last"]),
    st.sampled_from([*DTYPES, torch.float32]),
    st.sampled_from(FILLS),
    st.sampled_from([1, 2]),
)
# Equal strides of the ReLU's, one of a size of 1: the gradient's decide which is the outer one.
@example(
    ([2, 1, 1, 1, 17], [2, 2, 2, 1, 17], (slice(2), slice(1), slice(1), slice(1))),
    *("transposed", "contiguous", torch.float32, "normal", 1),
)
@example(
    ([2, 1], [2, 1], (slice(2), slice(1))), "swapped", "contiguous", torch.float32, "normal", 1
)
def test_a_gradient_with_gaps(shape, gradient_layout, layout, dtype, fill, threads):
    sizes, around, cut = shape
    if gradient_layout == "swapped":
        upstream = values([around[1], around[0], *around[2:]], dtype, fill, seed=5)
        upstream = upstream.transpose(0, 1)[cut]
    else:
        upstream = values(around, dtype, fill, gradient_layout, seed=5)[cut]
    x = values(sizes, dtype, "edges", layout).requires_grad_()
    with torch_threads(threads):
        (found,) = torch.autograd.grad(ours(x), x, upstream)
        (expected,) = torch.autograd.grad(torch.relu(x), x, upstream)
    assert found.stride() == expected.stride()
    assert bits(found).equal(bits(expected))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_gradient_with_gaps_takes_no_more_memory_than_eager(layout):
    x = values((3, 40, 64, 65), layout=layout).requires_grad_()
    upstream = values((3, 99, 64, 65), layout=layout)[:, 30:70]
    y = ours(x)
    with memory.track() as tracked:
        torch.autograd.grad(y, x, upstream)
    assert tracked.peak_bytes < 1.1 * x.nbytes
