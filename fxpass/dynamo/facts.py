"""What Dynamo knows of the values of its graph: it ran every op on a tensor without elements."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxpass.edges import Facts

_WITHOUT_EFFECT = (operator.__name__, operator.add.__module__, math.__name__, builtins.__name__)
"""The homes of functions that change nothing but their arguments."""


def facts_of(graph: Graph) -> Facts:
    """The facts, read from the nodes' notes."""
    examples = {node: _example(node) for node in graph.nodes}
    return Facts(
        tensors={node: isinstance(value, Tensor) for node, value in examples.items()},
        weights=frozenset(filter(is_weight, graph.nodes)),
        elements={node: _elements(value) for node, value in examples.items()},
        regions=_regions(graph, examples),
    )


def _example(node: Node) -> Any:
    return node.meta.get("example_value")


def is_weight(node: Node) -> bool:
    """Whether an input belongs to a module: Dynamo says of those that they stay where they are."""
    if node.op != "placeholder":
        return False
    notes = node.meta.get("tensor_dict") or {}
    is_parameter = isinstance(_example(node), torch.nn.Parameter)
    return is_parameter or "_dynamo_static_input_type" in notes


def _elements(value: Any) -> float:
    return float(sum(math.prod(map(_length, t.shape)) for t in _tensors(value)))


def _length(size: Any) -> int:
    """A length; of one that changes from call to call, that of the first. It sets no guard."""
    return size if isinstance(size, int) else int(getattr(size.node, "hint", None) or 1)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _regions(graph: Graph, examples: Mapping[Node, Any]) -> dict[Node, int]:
    """A new region begins with each call that is made for something else than its value.

    Of such calls (`torch._C._set_grad_enabled`, `_enter_autocast`, `_exit_autocast` and more to
    come) no list would be complete.
    """
    regions, region = {}, 0
    for node in graph.nodes:
        if node.op == "call_function" and not _tensors(examples[node]):
            region += _home(node) not in _WITHOUT_EFFECT
        regions[node] = region
    return regions


def transformed(graph: Graph) -> list[str]:
    """The names of the nodes inside of `torch.func` transforms, where C++ autograd cannot go.

    These begin and end by calls of functions of torch's functorch.
    """
    nodes = list(graph.nodes)
    marks = [i for i, node in enumerate(nodes) if "functorch" in _home(node)]
    return [node.name for node in nodes[marks[0] : marks[-1]]] if marks else []


def _home(node: Node) -> str:
    return getattr(node.target, "__module__", None) or "" if node.op == "call_function" else ""
