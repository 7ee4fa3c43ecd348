"""Which autograd nodes keep which storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Saver:
    """A node that keeps a tensor: its name and sequence number, and the tensor's place and form."""

    node: str
    sequence: int
    address: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def savers_of(output: Any) -> list[Saver]:
    """Every tensor that the graph behind `output` keeps, in the order of the forward."""
    found = [saver for node in _nodes(output) for saver in _of(node)]
    return sorted(found, key=lambda saver: saver.sequence)


def _nodes(output: Any) -> Iterator[Node]:
    roots = (leaf.grad_fn for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
    todo = [root for root in roots if root is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        yield node
        new = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= new
        todo += new


def _of(node: Node) -> Iterator[Saver]:
    # Autograd's own nodes have an attribute for each; those of Python functions a tuple.
    names = [name for name in dir(node) if name.startswith("_saved_")]
    kept: Any = [getattr(node, name) for name in names]
    kept.append(getattr(node, "saved_tensors", ()))
    for tensor in pytree.tree_leaves(kept):
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
            address = tensor.untyped_storage().data_ptr()
            form = tuple(tensor.shape), tensor.dtype
            yield Saver(node.name(), node._sequence_nr(), address, *form)
