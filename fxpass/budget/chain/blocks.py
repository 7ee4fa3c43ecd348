"""The chain of blocks that a graph is: values through which everything goes, and what is between.

A block begins with the value that a layer reads and of which alone all later values are made
(weights aside), and ends with the next such value. A residual network has one for each of its
blocks, a plain chain of layers one for each layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import Node

from fxpass.plan import Values, is_view


@dataclass(frozen=True)
class Block:
    """The nodes behind `entry`, the last of which is the entry of the next block."""

    entry: Node
    nodes: tuple[Node, ...]


def blocks_of(values: Values) -> list[Block]:
    """The blocks of a graph in order, the first one behind the model's input.

    Empty if there is no value through which everything goes before the last layer.
    """
    entries = list(_entries(values))
    place = {node: i for i, node in enumerate(values.nodes)}
    starts = [place[entry] + 1 for entry in entries]
    ends = [*starts[1:], len(values.nodes)]
    return [
        Block(entry, tuple(values.nodes[start:end]))
        for entry, start, end in zip(entries, starts, ends, strict=True)
    ]


def _entries(values: Values) -> Iterator[Node]:
    """The values that a layer reads and of which alone all that follows is made."""
    place = {node: i for i, node in enumerate(values.nodes)}
    last = {node: max(map(place.__getitem__, node.users), default=-1) for node in values.nodes}
    is_weight = values.edges.facts.is_weight
    live: set[Node] = set()
    for i, node in enumerate(values.nodes):
        live = {other for other in live if last[other] > i}
        if last[node] > i and not is_weight(node) and node.op != "get_attr":
            live.add(node)
        if live == {node} and _is_read_by_layer(values, node):
            yield node


def _is_read_by_layer(values: Values, node: Node) -> bool:
    """Whether a layer reads the value itself, or a view of it; a view is no value of its own."""
    calls = values.edges.calls
    if is_view(calls.get(node)):
        return False
    todo = [node]
    while todo:
        member = todo.pop()
        for call in filter(None, map(calls.get, member.users)):
            if call.op.heavy and member in call.inputs[:1]:
                return True
            todo += [call.node] if is_view(call) else []
    return False
