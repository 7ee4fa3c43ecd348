"""Numbers that reach a captured graph as tensors, to be constants of its programs.

    p = placeholder()         (a tensor of no dimensions)
    q = p.item()                                              y = dropout(x, 0.5)
    y = dropout(x, q)                                ->

With `dynamic=True`, and once one has changed, Dynamo takes the floats that a model's modules hold
(a batch norm's eps, the bounds of a ReLU6) for inputs. An op of which such a number is not known is
none that the passes know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg


def numbers_of(graph: Graph) -> list[int]:
    """The places, among the graph's inputs, of those that are read as numbers alone."""
    inputs = graph.find_nodes(op="placeholder")
    return [place for place, node in enumerate(inputs) if _is_number(node)]


def insert_numbers(graph: Graph, numbers: Mapping[int, float]) -> None:
    """Makes constants of the inputs at these places."""
    inputs = graph.find_nodes(op="placeholder")
    for place, number in numbers.items():
        for item in list(inputs[place].users):
            for user in list(item.users):
                _replace(user, item, number)
            graph.erase_node(item)


def _is_number(node: Node) -> bool:
    example = node.meta.get("example_value")
    if not isinstance(example, Tensor) or example.dim() or example.dtype != torch.float64:
        return False
    reads = [user for user in node.users if user.op == "call_method" and user.target == "item"]
    return bool(reads) and len(reads) == len(node.users)


def _replace(user: Node, old: Node, new: float) -> None:
    def now(node: Node) -> Any:
        return new if node is old else node

    user.args, user.kwargs = map_arg(user.args, now), map_arg(user.kwargs, now)
