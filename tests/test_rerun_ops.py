"""Each op that is run again: sums, products, concatenations, copies, pools, activations."""

import pytest
import torch
import torch.nn.functional as F
from _activations import EAGER, LISTS
from _bits import DTYPES, examples, values
from _rerun import check_again, ops
from hypothesis import given
from hypothesis import strategies as st
from strategies_values import FILLS


@st.composite
def pairs(draw):
    """Two tensors that broadcast, in any layouts and dtypes, with any values."""
    shape = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    other = [draw(st.sampled_from([n, n, n, 1])) for n in shape][draw(st.integers(0, 1)) :]
    dtypes = draw(st.sampled_from([(d, d) for d in DTYPES] * 2 + [(torch.bfloat16, torch.float32)]))
    layouts = st.sampled_from(["contiguous", "channels_last", "sliced", "transposed", "expanded"])
    return [
        values(s, d, draw(st.sampled_from(FILLS)), draw(layouts), seed=i)
        for i, (s, d) in enumerate(zip((shape, other), dtypes, strict=True))
    ]


@examples(150)
@given(pairs(), st.sampled_from([1, -1, 2, 0.5]), st.booleans())
def test_sums(tensors, alpha, swap):
    a, b = reversed(tensors) if swap else tensors
    check_again(
        lambda a, b: torch.add(a, b, alpha=alpha),
        lambda a, b: ops.rerun_add(a, None, True, b, None, True, alpha),
        a, b,
    )  # fmt: skip


@examples(100)
@given(pairs(), st.booleans())
def test_products(tensors, swap):
    a, b = reversed(tensors) if swap else tensors
    check_again(
        torch.mul, lambda a, b: ops.rerun_mul(a, None, True, b, None, True), a, b
    )  # fmt: skip


@examples(60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4), st.sampled_from(DTYPES), st.integers(0, 3)
)
def test_concatenations(widths, dtype, dim):
    layouts = ("contiguous", "channels_last", "sliced", "transposed")
    tensors = []
    for i, width in enumerate(widths):
        shape = [3, 2, 4, 5]
        shape[dim] = width
        tensors.append(values(shape, dtype, "specials", layouts[(i + width) % 4], seed=i))
    for d in (dim, dim - 4):
        check_again(
            lambda *ts, d=d: torch.cat(ts, d),
            lambda *ts, d=d: ops.rerun_cat(list(ts), [None] * len(ts), d),
            *tensors,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded"])
def test_copies(dtype, layout):
    x = values((3, 4, 5, 6), dtype, "specials", layout)
    check_again(
        lambda x: x.transpose(1, 2).contiguous(),
        lambda x: ops.rerun_contiguous(x.transpose(1, 2), None, True),
        x,
    )


NO_AVG_POOL3D = (torch.bfloat16, torch.float16)  # in eager
POOLS = [
    ([3], [2], [1], [1], True), ([2], [2], [0], [1], False), ([3], [1], [1], [2], False),
    ([2], [3], [1], [1], True), ([1], [1], [0], [1], False),
]  # fmt: skip


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fused", [False, True])
def test_max_pools(dims, dtype, fused):
    pool, rerun = getattr(F, f"max_pool{dims}d"), getattr(ops, f"rerun_max_pool{dims}d")
    for layout in ("contiguous", "channels_last", "sliced"):
        x = values((2, 3, *[9] * dims), dtype, "specials", layout)
        for window, stride, padding, dilation, ceil_mode in POOLS:
            args = [window * dims, stride * dims, padding * dims, dilation * dims, ceil_mode]
            check_again(
                lambda x, a=args: pool(torch.relu(x) if fused else x, *a),
                lambda x, a=args: rerun(x, None, *a, fused, True),
                x,
            )


@pytest.mark.parametrize(
    ("dims", "dtype"),
    [(n, d) for n in (1, 2, 3) for d in DTYPES if n < 3 or d not in NO_AVG_POOL3D],
)
def test_avg_pools(dims, dtype):
    pool, rerun = getattr(F, f"avg_pool{dims}d"), getattr(ops, f"rerun_avg_pool{dims}d")
    for layout in ("contiguous", "channels_last", "sliced"):
        x = values((2, 3, *[9] * dims), dtype, "specials", layout)
        for window, stride, padding, _, ceil_mode in POOLS:
            for include, divisor in ((True, None), (False, None), (True, 5)):
                args = [window * dims, stride * dims, padding * dims, ceil_mode, include]
                more = [] if dims == 1 else [divisor]
                check_again(
                    lambda x, a=args, m=more: pool(x, *a, *m),
                    lambda x, a=args, m=more: rerun(x, None, *a, *(m or [None]), True),
                    x,
                )


@pytest.mark.parametrize("dtype", NO_AVG_POOL3D)
def test_avg_pools_that_eager_does_not_have(dtype):
    x = values((2, 3, 9, 9, 9), dtype)
    for pool in (F.avg_pool3d, ops.avg_pool3d):
        with pytest.raises(NotImplementedError, match=r"avg_pool3d_out_frame.* not implemented"):
            pool(x, [3, 3, 3])


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(name, dtype):
    arguments = LISTS.get(name, [])
    for layout in ("contiguous", "channels_last", "sliced", "transposed"):
        x = values((2, 3, 5, 7), dtype, "specials", layout)
        check_again(
            lambda x: ops.activation(x, None, name, arguments),
            lambda x: ops.rerun_activation(x, None, name, arguments, True),
            x,
        )
