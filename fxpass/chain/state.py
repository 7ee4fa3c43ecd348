"""The states of a chain: kept, handed to a step once more, and compared with the first time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxpass._oracle import integers

Facts = tuple[Any, ...]


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors among the leaves of a state, in order."""
    return [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]


def version(tensor: Tensor) -> int:
    """How often it was written to; inference tensors do not know."""
    return 0 if tensor.is_inference() else tensor._version


def without_graph(state: Any) -> Any:
    """The same values on the same memory, as leaves that need gradients where they did."""

    def leaf(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        return item.detach().requires_grad_(item.requires_grad)

    return pytree.tree_map(leaf, state)


class Kept:
    """A state from which steps can be run again, and the random numbers' state at that point."""

    def __init__(self, state: Any, rng: Tensor) -> None:
        self._state = without_graph(state)
        self._versions = list(map(version, tensors_of(self._state)))
        self.rng = rng

    def state(self, stage: int) -> Any:
        """The state; `stage` is for the message if somebody wrote to it in between."""
        if list(map(version, tensors_of(self._state))) != self._versions:
            raise RuntimeError(
                f"checkpoint_chain: the state before step {stage}, kept to run steps again, has "
                "been modified by an inplace operation; give the chain a clone of what is "
                "written to between forward and backward"
            )
        return without_graph(self._state)


def fingerprint(state: Any) -> tuple[Facts, ...]:
    """What tells two states apart: of every tensor its form and the sum of its bits as integers.

    One pass over memory; another value of an element changes the sum.
    """
    return tuple((*form(t), t.requires_grad, _sum_of_bits(t)) for t in tensors_of(state))


def form(tensor: Tensor) -> Facts:
    """Dtype, layout, sizes, and strides if it has some."""
    strides = tensor.stride() if tensor.layout == torch.strided else None
    return tensor.dtype, tensor.layout, tuple(tensor.shape), strides


def _sum_of_bits(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    bits = integers(tensor)
    size = bits.element_size()
    words = bits.is_contiguous() and bits.nbytes % 8 == 0 and bits.storage_offset() * size % 8 == 0
    if words:
        bits = bits.view(-1).view(torch.int64)  # four times as quick
    return int(bits.sum())
