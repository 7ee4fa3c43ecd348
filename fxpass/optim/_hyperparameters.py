"""The hyperparameters of a group, to see whether they change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def copy_of(group: dict[str, Any]) -> dict[str, Any]:
    """All of a group but its parameters, tensors by value."""
    return {
        option: pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, value)
        for option, value in group.items()
        if option not in ("params", "param_names")
    }


def changed(group: dict[str, Any], copy: dict[str, Any]) -> str | None:
    """The first option that is no longer as copied; one that came is none."""
    return next((option for option in copy if not _same(copy[option], group.get(option))), None)


def _same(a: Any, b: Any) -> bool:
    if pytree.tree_structure(a) != pytree.tree_structure(b):
        return False
    pairs = zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True)
    return all(x is y or _equal(x, y) for x, y in pairs)


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return torch.equal(x, y)
    return bool(x == y)
