"""What each op saves for backward: one row an op.

An op without a row is unknown: it may keep any tensor that it is given, so those tensors stay
dense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fxpass.edges import activation_rows, layer_rows, move_rows, pool_rows
from fxpass.edges.op import Op

TABLE: tuple[Op, ...] = (
    *activation_rows.ROWS,
    *layer_rows.ROWS,
    *pool_rows.ROWS,
    *move_rows.ROWS,
)

NO_ELEMENTS = frozenset(
    ("shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "requires_grad", "is_leaf")
)
"""The attributes of a tensor that getattr may read without reaching its elements."""


def _by(spelling: str) -> dict[Any, Op]:
    return {key: op for op in TABLE for key in getattr(op, spelling)}


OF_MODULE: dict[type[nn.Module], Op] = _by("modules")
OF_FUNCTION: dict[Callable[..., Any], Op] = _by("functions")
OF_METHOD: dict[str, Op] = _by("methods")
OF_NAME: dict[str, Op] = _by("names")
