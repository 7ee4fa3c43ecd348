"""Inputs that a captured graph writes to, of which others may be views.

Within a graph the edges tell which values lie in one storage. Of its inputs nobody knows before it
runs: where the code was broken in two, a value and a view of it may be two inputs of the second
part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph


def written_inputs(graph: Graph) -> frozenset[int]:
    """The places of the inputs to which, or to a view of which, the graph writes.

    Dynamo ran every op on a tensor without elements, whose version tells.
    """
    examples = [node.meta.get("example_value") for node in graph.find_nodes(op="placeholder")]
    return frozenset(
        place
        for place, example in enumerate(examples)
        if isinstance(example, Tensor) and not example.is_inference() and example._version > 0
    )


def share_storage(values: Sequence[Any], some: Collection[int]) -> bool:
    """Whether any of the tensors at `some` places lies in the storage of another of the values."""
    if not some:
        return False
    storages = [_storage_of(value) for value in values]
    count = Counter(storages)
    return any(storages[place] and count[storages[place]] > 1 for place in some)


def _storage_of(value: Any) -> int:
    """Which storage a tensor lies in; 0 if in none."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return 0
    return value.untyped_storage()._cdata
