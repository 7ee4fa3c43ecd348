"""What backward needs of the values of a graph, what may be kept, and what can be made again.

A value is there in backward if it is kept, or if its op may be run again and all its inputs are
there: that is the graph in which every planner chooses. Where backward reads one bit an element of
a value (ReLU6, leaky ReLU), those bits are a value of their own, made of the other one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch.fx import Node

from fxpass.edges import Call, Edges, relative_sizes
from fxpass.plan.fused import batch_norm_fused_with, pool_fused_with

_WITH_PARAMETERS = ("layer_norm", "group_norm", "instance_norm", "prelu")
"""The ops whose handle copies parameters, beside the module that reads them too."""

_LAST_RESORT = 1e15
"""The cost of a value that is saved and then written over: eager's backward raises."""

_BITMAP_SHARE = 0.55
"""What a bitmap takes of the dense value, about half of whose elements a ReLU has zeroed."""


_MASK_SHARE = 1 / 32
"""What a mask takes of the dense value."""


@dataclass(frozen=True)
class Mask:
    """One bit an element of the input of `activation`, which is all that its backward reads."""

    activation: Node


class Values:
    """The values of a graph, and what can be made of what.

    Attributes:
        edges: the graph.
        sizes: of each value: its bytes, or any measure of them.
        strangers: the readers of each value that the table does not know.
        sparse: the values with the zeros of a ReLU.
        fused: the batch norms' results that are never there, being part of an activation's op.
        with_norm: those activations.
        masks: the masks that may be kept, and the value that each may be made of.
        needed: the values whose elements backward reads, those aside of which a mask may do.
        sources: of each value that may be made again, the values it is made of.

    """

    def __init__(self, edges: Edges, heavy: Collection[str] = ()) -> None:
        """`heavy`: the nodes that may be run again although they are heavy."""
        self.edges = edges
        self._heavy = heavy
        self.nodes: list[Node] = list(edges.graph.nodes)
        self.strangers = {node: edges.strangers(node) for node in self.nodes}
        self.sizes = {n: max(size, 1e-9) for n, size in relative_sizes(edges).items()}
        self.sparse: set[Node] = set()
        for node in self.nodes:
            call = edges.calls.get(node)
            if call is not None and _is_sparse(call, self.sparse):
                self.sparse.add(node)
        pairs = {c.node: batch_norm_fused_with(c, edges) for c in edges.calls.values()}
        self.fused = {norm.node for norm in pairs.values() if norm is not None}
        self.with_norm = {node for node, norm in pairs.items() if norm is not None}
        self.masks = self._masks()
        self.needed = self._needed()
        self.sources: dict[Node, list[Node]] = {}
        for node in self.nodes:
            sources = self._sources(node)
            if sources is not None:
                self.sources[node] = sources

    def _masks(self) -> dict[Mask, Node]:
        """The masks that may be kept instead of a value of which backward reads bits.

        What nobody of the table has made, or somebody outside of it sees, is most likely there in
        backward anyway.
        """
        found = {}
        for call in self.edges.calls.values():
            if call.reads_bits and call.node not in self.with_norm:
                value = call.inputs[0]
                if self._is_made_here(value) and not self.strangers[value]:
                    found[Mask(call.node)] = value
        return found

    def _is_made_here(self, value: Node) -> bool:
        """Whether an op of the table has made what `value` is, and not only lies in."""
        call = self.edges.calls.get(value)
        while call is not None and call.op.shares_storage and call.inputs and not is_view(call):
            call = self.edges.calls.get(call.inputs[0])
        return call is not None and not is_view(call)

    def _needed(self) -> set[Node]:
        """The values whose elements backward reads, those aside of which a mask may do."""
        found: set[Node] = set()
        for call in self.edges.calls.values():
            if Mask(call.node) in self.masks:
                continue
            if call.op.saves_input and call.op.reads_saved and self.edges.saves_input(call):
                found.update(call.inputs)
            if call.op.saves_result and call.op.name != "relu":
                found.add(call.node)
        # Whoever keeps a view keeps what it is a view of.
        found = {self._base(node) for node in found - self.fused}
        return {node for node in found - self.fused if not self.edges.facts.is_weight(node)}

    def _base(self, node: Node) -> Node:
        call = self.edges.calls.get(node)
        while is_view(call) and call is not None and call.inputs:
            node = call.inputs[0]
            call = self.edges.calls.get(node)
        return node

    def _sources(self, node: Node) -> list[Node] | None:
        """What `node` can be made of in backward, or None if it cannot."""
        call = self.edges.calls.get(node)
        if call is None or not call.inputs:
            return None
        if is_view(call):
            return call.inputs
        heavy = call.op.heavy and node.name in self._heavy
        if not (call.op.cheap or heavy) or not self._can_rerun(call):
            return None
        inputs = [n for n in call.inputs if not self.edges.facts.is_weight(n)]
        if not inputs:
            return None  # of weights alone: the optimizer may write to them before backward
        relu = self.edges.calls.get(inputs[0])
        if relu is not None and relu.op.name == "relu" and pool_fused_with(relu, self.edges):
            inputs = relu.inputs
        batch_norm = batch_norm_fused_with(call, self.edges)
        if batch_norm is not None:
            inputs = batch_norm.inputs
        # What is written over can only be made again itself.
        if any(self.edges.writers(n) and n not in self.sources for n in inputs):
            return None
        return inputs

    def _can_rerun(self, call: Call) -> bool:
        name, arguments = call.op.name, call.arguments
        if name.startswith("batch_norm"):
            return True
        if call.hooked or arguments.get("return_indices"):
            return False
        if name == "relu":
            return pool_fused_with(call, self.edges) is None
        if name.startswith("max_pool"):
            # Whether it is one op with a ReLU that writes to what hooks saw turns out when it runs.
            relu = self.edges.calls.get(call.inputs[0])
            return relu is None or not self.edges.writes_what_hooks_saw(relu)
        if name in _WITH_PARAMETERS:
            return call.reads_parameters_anew
        if call.op.heavy:
            zeros = getattr(call.module, "padding_mode", "zeros") == "zeros"
            return call.reads_parameters_anew and zeros
        if name == "glu":
            return True
        if not all(map(self.edges.is_tensor, call.inputs)):
            return False
        if name in ("add", "add_", "mul"):
            return len(call.inputs) == len(arguments["input"]) == 2
        if name in ("softmax", "log_softmax"):
            return isinstance(arguments["dim"], int) and arguments["dtype"] is None
        if name == "stochastic_depth":
            known = arguments["mode"] in ("row", "batch")
            return bool(arguments["training"]) and known and 0 < arguments["p"] <= 1
        return True

    def costs(self) -> dict[Node, float]:
        """What keeping a value takes. One without a cost cannot be kept for others."""
        costs = {}
        for node in self.nodes:
            call = self.edges.calls.get(node)
            if is_view(call):
                continue
            if self.edges.writers(node) and node in self.sources:
                if node in self.needed:
                    costs[node] = _LAST_RESORT
                continue
            share = _BITMAP_SHARE if node in self.sparse and not self.strangers[node] else 1.0
            if node in self.needed or not self.strangers[node]:
                costs[node] = self.sizes[node] * share
        return costs


def is_view(call: Call | None) -> bool:
    """Whether the call's result only lies in its input's storage."""
    return call is not None and call.op.name == "view"


def _is_sparse(call: Call, sparse: set[Node]) -> bool:
    """Whether the result's zeros come from a ReLU, through ops that keep zeros."""
    if call.op.name in ("relu", "relu6"):
        return True
    if call.op.name == "hardtanh" and call.arguments["min_val"] == 0:
        return True
    return call.op.keeps_zeros and bool(call.inputs) and sparse.issuperset(call.inputs)
