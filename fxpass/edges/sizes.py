"""Sizes of the values of a graph relative to one another, told from the graph alone.

No tensor has been seen when a model is compiled without example inputs. But a convolution knows
its channels and its stride: that is enough to say which of two cuts through a graph is the smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch.fx import Node

from fxpass.edges.calls import Call
from fxpass.edges.find import Edges

_POOLED = 1e-4
"""The area left by a pool to a fixed size, relative to that of the input."""


@dataclass(frozen=True)
class Extent:
    """Elements of a value for each image of a batch: channels times area."""

    channels: float
    area: float

    @property
    def size(self) -> float:
        """Both together."""
        return self.channels * self.area


def relative_sizes(edges: Edges) -> dict[Node, float]:
    """The size of each value of the graph; only their ratios mean something."""
    if edges.facts.elements:
        return {node: edges.facts.elements.get(node, 0.0) for node in edges.graph.nodes}
    extents: dict[Node, Extent] = {}
    for node in edges.graph.nodes:
        extents[node] = _extent(node, edges.known.get(node), extents)
    return {node: extent.size for node, extent in extents.items()}


def _extent(node: Node, call: Call | None, known: dict[Node, Extent]) -> Extent:
    inputs = [known[n] for n in (call.inputs if call is not None else node.all_input_nodes)]
    largest = max(inputs, key=lambda e: e.size, default=Extent(3, 1.0))
    if call is None:
        return largest
    name, a = call.op.name, call.arguments
    if name == "cat":
        return Extent(sum(e.channels for e in inputs), max((e.area for e in inputs), default=1.0))
    if name.startswith("conv_transpose"):
        channels = getattr(call.module, "out_channels", largest.channels)
        return Extent(channels, largest.area * _steps(a["stride"], name))
    if name.startswith("conv"):
        channels = getattr(call.module, "out_channels", largest.channels)
        return Extent(channels, largest.area / _steps(a["stride"], name))
    if name == "linear":
        return Extent(getattr(call.module, "out_features", largest.channels), largest.area)
    if name.startswith(("max_pool", "avg_pool")):
        stride = a["stride"] if a["stride"] not in (None, (), []) else a["kernel_size"]
        return Extent(largest.channels, largest.area / _steps(stride, name))
    if name.startswith("adaptive") or name == "sum":
        return Extent(largest.channels, _POOLED)
    if name == "embedding":
        return Extent(getattr(call.module, "embedding_dim", largest.channels), largest.area)
    if name == "glu":
        return Extent(largest.channels / 2, largest.area)
    if name == "shape":
        return Extent(0, 0)
    if name == "view" and _target(node) in ("chunk", "split"):
        return Extent(largest.channels / 2, largest.area)
    return largest


def _target(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _steps(stride: Any, name: str) -> float:
    dims = int(name[-2])
    return float(prod(stride) if isinstance(stride, Sequence) else stride**dims)
