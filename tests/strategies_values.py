"""Tensors full of what breaks exactness: ties, zeros of both signs, NaN payloads, subnormals."""

from __future__ import annotations

import torch

FILLS = ("normal", "ties", "edges", "specials", "negative", "mostly_zero", "zeros")

# Bit patterns by element size and dtype: what no arithmetic on ordinary numbers gives.
_NANS = {
    torch.float64: (0x7FF8000000001234, -0x0008000000000000, 0x7FF0000000000001),
    torch.float32: (0x7FC01234, -0x00400000, 0x7F800001),
    torch.bfloat16: (0x7FC3, -0x0040, 0x7F81),
    torch.float16: (0x7E12, -0x0200, 0x7C01),
}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fill(shape: tuple[int, ...], dtype: torch.dtype, kind: str, rng: torch.Generator):
    """A contiguous tensor of the shape whose values are of the kind named, drawn from `rng`.

    normal       a bell curve
    ties         small integers: equal maxima in a pool's window, exact zeros
    edges        normal, a fifth of it +0.0, -0.0 or subnormal
    specials     normal, a fifth of it NaN (payloads, signs, signalling), inf, extremes or edges
    negative     below zero everywhere: a ReLU leaves nothing
    mostly_zero  nine tenths +0.0 or -0.0
    zeros        +0.0 or -0.0 everywhere
    """
    normal = torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)
    if kind == "ties":
        return torch.randint(-2, 3, shape, generator=rng).to(dtype)
    if kind == "negative":
        return -normal.abs() - 0.5
    share = {"edges": 0.2, "specials": 0.2, "mostly_zero": 0.9, "zeros": 1.0}.get(kind, 0.0)
    rare = torch.tensor(_rare(kind, dtype), dtype=dtype)
    if kind == "specials":
        nans = torch.tensor(_NANS[dtype], dtype=INTEGERS[dtype.itemsize]).view(dtype)
        rare = torch.cat([rare, nans])
    chosen = rare[torch.randint(len(rare), shape, generator=rng)]
    # torch.where may not keep a signalling NaN; a masked copy of integers does.
    mask = torch.rand(shape, generator=rng) < share
    bits = normal.view(INTEGERS[dtype.itemsize]).clone()
    bits[mask] = chosen.view(bits.dtype)[mask]
    return bits.view(dtype)


def _rare(kind: str, dtype: torch.dtype) -> list[float]:
    info = torch.finfo(dtype)
    if kind in ("mostly_zero", "zeros"):
        return [0.0, -0.0]
    edges = [0.0, -0.0, info.smallest_normal / 4, -info.smallest_normal / 4]
    if kind == "specials":
        return [*edges, float("inf"), -float("inf"), info.max, info.min, info.tiny]
    return edges


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another layout of memory.

    contiguous | channels_last | sliced (every second element of a larger tensor, off its start)
    | transposed (the first two axes swapped in memory) | expanded (one sample, stride 0)
    """
    if layout == "channels_last" and values.dim() in (4, 5):
        form = torch.channels_last if values.dim() == 4 else torch.channels_last_3d
        return values.to(memory_format=form)
    if layout == "sliced":
        wide = values.new_zeros(*values.shape[:-1], 2 * values.shape[-1] + 1)
        wide[..., 1::2] = values
        return wide[..., 1::2]
    if layout == "transposed":
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "expanded" and values.shape[0] > 0:
        return values[:1].expand(values.shape)
    return values
