"""What is known of the values of a graph from elsewhere: from whoever captured it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch.fx import Node


@dataclass(frozen=True)
class Facts:
    """Nothing, unless said otherwise.

    Attributes:
        tensors: whether a value is a tensor, and one only.
        weights: the inputs of the graph that are parameters and buffers of a module.
        elements: how many elements a value has.
        regions: in which region of the graph a node runs; the grad mode, autocast and the like may
            be different in another one.

    """

    tensors: Mapping[Node, bool] = field(default_factory=dict)
    weights: frozenset[Node] = frozenset()
    elements: Mapping[Node, float] = field(default_factory=dict)
    regions: Mapping[Node, int] = field(default_factory=dict)

    def is_weight(self, value: Node) -> bool:
        """Whether `value` belongs to a module, and so is there anyway."""
        return value.op == "get_attr" or value in self.weights

    def are_together(self, first: Node, second: Node) -> bool:
        """Whether two nodes run in the same region, so that one op may do for both."""
        return self.regions.get(first) == self.regions.get(second)
