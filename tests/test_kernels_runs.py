"""The mask of the elements between two bounds, on every target, against torch's comparison."""

from __future__ import annotations

import pytest
import torch
from _bits import bits, examples, values
from hypothesis import given
from hypothesis import strategies as st

from fxpass import _kernels

DTYPES = {
    torch.float16: _kernels.DType.F16,
    torch.bfloat16: _kernels.DType.BF16,
    torch.float32: _kernels.DType.F32,
    torch.float64: _kernels.DType.F64,
}


def pattern(value: float, dtype: torch.dtype) -> int:
    """The bit pattern of a number without a sign."""
    return int(bits(torch.tensor([value], dtype=dtype)))


def truth(words: torch.Tensor, n: int) -> torch.Tensor:
    """The first n bits of 64-bit words."""
    return ((words[:, None] >> torch.arange(64)) & 1).flatten()[:n].bool()


@pytest.mark.parametrize("target", _kernels.targets())
@examples(40)
@given(
    dtype=st.sampled_from(list(DTYPES)),
    n=st.integers(0, 700),
    kind=st.sampled_from(["normal", "specials", "edges"]),
    bounds=st.tuples(*[st.sampled_from([0.0, 1e-7, 0.5, 1.0, 6.0, float("inf")])] * 2),
    seed=st.integers(0, 99),
)
def test_what_lies_between_bounds_on_either_side_of_zero(target, dtype, n, kind, bounds, seed):
    x = values((n,), dtype, kind, seed=seed)
    above, below = (torch.tensor(b, dtype=dtype) for b in bounds)
    infinity, sign = pattern(float("inf"), dtype), 1 << (8 * dtype.itemsize - 1)
    # x >= above or x <= -below, zeros of the other sign aside.
    runs = [
        [pattern(bounds[0], dtype), infinity + 1 - pattern(bounds[0], dtype)],
        [sign + pattern(bounds[1], dtype), infinity + 1 - pattern(bounds[1], dtype)],
    ]
    positive = ~torch.signbit(x)
    expected = (positive & (x >= above)) | (~positive & (x <= -below))
    words = torch.full(((n + 63) // 64 + 1,), -1)
    kernels = _kernels.get(target)
    nan = kernels.runs_mask(DTYPES[dtype], runs, x.data_ptr(), n, words.data_ptr())
    assert nan == bool(x.isnan().any())
    assert torch.equal(truth(words[:-1], n), expected)
    assert not truth(words[:-1], 64 * len(words))[n:].any(), "bits past the end are set"
    assert words[-1] == -1
