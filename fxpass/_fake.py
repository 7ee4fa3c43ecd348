"""Fake kernels: shapes without values, for FakeTensorMode, torch.export and AOTAutograd.

The operators that autograd records need none: given a fake tensor they call eager's own operator,
whose fake kernel torch has. Left are those below autograd, whose results have no eager counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.register_fake("fxpass::bitmap_pack")
def _bitmap_pack(x: Tensor) -> tuple[Tensor, Tensor]:
    words = (x.numel() + 63) // 64
    # How many elements are not zero is known to nobody yet.
    marked = torch.library.get_ctx().new_dynamic_size()
    return x.new_empty((words,), dtype=torch.int64), x.new_empty((marked,))


@torch.library.register_fake("fxpass::bitmap_unpack")
def _bitmap_unpack(
    bits: Tensor, values: Tensor, sizes: Sequence[int], strides: Sequence[int]
) -> Tensor:
    # A tensor of the meta device beside a real one also comes here.
    torch._check(
        bits.device == values.device,
        lambda: f"fxpass.bitmap.unpack: bits on {bits.device}, values on {values.device}",
    )
    return torch.empty_strided(sizes, strides, dtype=values.dtype, device=values.device)
