"""The bitmap codec: a sparse tensor as one bit an element and its non-zero values.

    packed = fxpass.bitmap.pack(x)
    assert fxpass.bitmap.nbytes(packed) < x.nbytes
    y = fxpass.bitmap.unpack(packed)        # the same bits and strides as x

"Non-zero" means a bit pattern other than all zeros: -0.0 and every NaN come back as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A packed tensor.

    Attributes:
        bits: int64, ceil(numel / 64) words; element i of the tensor's memory is bit i % 64 of word
            i // 64, least significant bit first.
        values: the marked elements in memory order, of the tensor's dtype.
        shape: sizes of the tensor.
        stride: its strides.

    """

    bits: Tensor
    values: Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def pack(tensor: Tensor) -> Packed:
    """Packs a dense CPU tensor of float32, float64, bfloat16 or float16, in any dense layout.

    Raises:
        TypeError: `tensor` is no tensor.
        RuntimeError: another dtype, device or layout, or elements that overlap or leave gaps.

    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"fxpass.bitmap.pack: expected a tensor, got {type(tensor).__name__}")
    bits, values = torch.ops.fxpass.bitmap_pack(tensor)
    return Packed(bits, values, tuple(tensor.shape), tensor.stride())


def unpack(packed: Packed) -> Tensor:
    """The tensor that was packed: same bits, sizes, strides and dtype.

    Raises:
        TypeError: `packed` is no Packed.
        RuntimeError: bits, values and sizes do not fit together (a damaged payload).

    """
    _check(packed, "unpack")
    return torch.ops.fxpass.bitmap_unpack(packed.bits, packed.values, packed.shape, packed.stride)


def nbytes(packed: Packed) -> int:
    """Bytes of the payload: bits and values."""
    _check(packed, "nbytes")
    return packed.bits.nbytes + packed.values.nbytes


def _check(packed: Packed, name: str) -> None:
    if not isinstance(packed, Packed):
        raise TypeError(
            f"fxpass.bitmap.{name}: expected what pack() returned, got {type(packed).__name__}"
        )
