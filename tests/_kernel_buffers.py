"""What kernels read and write: tensors whose surroundings are watched, with values of any bits."""

from __future__ import annotations

import torch
from _bits import bits
from hypothesis import strategies as st
from strategies_values import INTEGERS

from fxpass import _kernels

DTYPES = {
    torch.float16: _kernels.DType.F16,
    torch.bfloat16: _kernels.DType.BF16,
    torch.float32: _kernels.DType.F32,
    torch.float64: _kernels.DType.F64,
}
GUARD = 64  # bytes behind every output that no kernel may touch
BYTE = 0xA5

targets = st.sampled_from(_kernels.targets()).map(_kernels.get)


class Buffer:
    """A tensor at a chosen offset inside bytes that are watched."""

    def __init__(self, numel: int, dtype: torch.dtype, shift: int = 0) -> None:
        size = numel * dtype.itemsize
        self.start = shift * dtype.itemsize
        self.end = self.start + size
        self.memory = torch.full((self.end + GUARD,), BYTE, dtype=torch.uint8)
        self.tensor = self.memory[self.start : self.end].view(dtype)

    def fill(self, values: torch.Tensor) -> Buffer:
        """Takes over the bits, those of NaNs too."""
        integers = INTEGERS[values.element_size()]
        self.tensor.view(integers).copy_(values.view(integers))
        return self

    def address(self) -> int:
        return self.memory.data_ptr() + self.start

    def assert_intact(self) -> None:
        assert (self.memory[: self.start] == BYTE).all(), "bytes before the buffer were written"
        assert (self.memory[self.end :] == BYTE).all(), "bytes behind the buffer were written"


def words_for(n: int) -> int:
    return (n + 63) // 64


def truth(words: torch.Tensor, n: int) -> torch.Tensor:
    """The first n bits of 64-bit words, as booleans."""
    shifts = torch.arange(64, dtype=torch.int64)
    return ((words[:, None] >> shifts) & 1).flatten()[:n].bool()


def tensor_of(seed: int, n: int, dtype: torch.dtype, density: float) -> torch.Tensor:
    """Zeros, numbers, infinities, NaNs of any payload, -0.0 and subnormals."""
    g = torch.Generator().manual_seed(seed)
    ints = INTEGERS[dtype.itemsize]
    info = torch.iinfo(ints)
    raw = torch.randint(info.min, info.max, (n,), dtype=ints, generator=g).view(dtype)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0], dtype=dtype)
    subnormal = torch.ones(1, dtype=ints).view(dtype)
    # The patterns next to the infinities: the first signalling NaNs and the greatest numbers.
    edges = torch.cat([bits(special[2:4]) + 1, bits(special[2:4]) - 1]).view(dtype)
    special = torch.cat([special, subnormal, edges])
    kind = torch.randint(0, 4, (n,), generator=g)
    values = torch.randn(n, generator=g).to(dtype)
    values = torch.where(kind == 0, raw, values)
    values = torch.where(
        kind == 1, special[torch.randint(0, len(special), (n,), generator=g)], values
    )
    keep = torch.rand(n, generator=g) < density
    out = bits(values) * 0
    out[keep] = bits(values)[keep]
    return out.view(dtype)


sizes = st.one_of(st.integers(0, 200), st.integers(201, 5000))
shifts = st.integers(0, 9)
seeds = st.integers(0, 2**32 - 1)
densities = st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0])
dtypes = st.sampled_from(list(DTYPES))
