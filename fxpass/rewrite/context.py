"""What all rewrites share: the graph, the plan, and the handle of each value."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from fxpass.edges import ACTIVATIONS, Call, Edges, Origin, origins_of, set_origins
from fxpass.plan import Plan, Recipe
from fxpass.runtime.hooked import call_hooked


@dataclass(frozen=True)
class _Late:
    """An attribute of a hooked module, to be read after its pre-hooks have run."""

    name: str


_ONE_OP = ("relu", *ACTIVATIONS)


class Context:
    """The state of one pass over a graph.

    A value's handle is the node that yields its `Saved` object. A view has the handle of the value
    it lies in: which part of it is meant is seen when the op runs.
    """

    def __init__(self, edges: Edges, plan: Plan) -> None:
        self.graph: Graph = edges.graph
        self.edges = edges
        self.plan = plan
        self._handles: dict[Node, Node] = {}
        self._replaced: dict[Node, Node] = {}
        self._originals: dict[Node, Node] = {}
        self._tensors = {node for node in self.graph.nodes if edges.is_tensor(node)}
        self._origins: tuple[Origin, ...] = ()

    def call(self, node: Node) -> Call | None:
        """The call that a node of the original graph makes, its arguments as they are now."""
        call = self.edges.calls.get(node)
        if call is None:
            return None
        return replace(call, arguments=map_arg(call.arguments, self._now))

    def _now(self, node: Node) -> Node:
        return self._replaced.get(node, node)

    def rewriting(self, *nodes: Node) -> None:
        """Says which nodes of the original graph those inserted from now on stand for."""
        self._origins = tuple(origin for node in nodes for origin in origins_of(node))

    def recipe(self, value: Node) -> Recipe:
        """What the plan says of a value."""
        return self.plan.recipe(value.name)

    def recipe_of_input(self, call: Call) -> Recipe:
        """What the plan says of the value that a call reads first."""
        return self.recipe(self.edges.calls[call.node].inputs[0])

    def restores(self, value: Node) -> bool:
        """Whether the plan makes a value of the original graph again from others."""
        return self.plan.restores(value.name)

    def keeps(self, value: Any) -> bool:
        """Whether the plan keeps a value, so that a handle may hold on to it dense.

        A view has no recipe of its own: whoever keeps the value it lies in keeps the view.
        """
        if not isinstance(value, Node):
            return False
        original = self._originals.get(value, value)
        call = self.edges.calls.get(original)
        while call is not None and call.op.name == "view" and call.inputs:
            original = call.inputs[0]
            call = self.edges.calls.get(original)
        return self.plan.keeps(original.name)

    def is_tensor(self, value: Node) -> bool:
        """Whether a value is known to be a tensor."""
        return self._originals.get(value, value) in self._tensors

    def activation_after(self, batch_norm: Call) -> Call | None:
        """The activation that is one op with this batch norm, by the plan, if any."""
        for user in batch_norm.node.users:
            call = self.call(user)
            # A second batch norm is restored by that recipe too.
            if call is not None and self.recipe(user) is Recipe.AFFINE and call.op.name in _ONE_OP:
                return call
        return None

    def is_done(self, node: Node) -> bool:
        """Whether a node of the original graph became part of another's operator."""
        return node in self._replaced

    def fused_relu(self, pool: Call) -> Call | None:
        """The ReLU that the plan leaves to this max pool, if any."""
        value = pool.arguments["input"]
        relu = self.call(value) if isinstance(value, Node) else None
        return relu if relu is not None and self.recipe(relu.node) is Recipe.CODE else None

    def handle(self, value: Any) -> Node | None:
        """The handle of a value, or None if it has none."""
        return self._handles.get(value) if isinstance(value, Node) else None

    def set_handle(self, value: Node, handle: Node) -> None:
        """Declares `handle` to restore `value`."""
        self._handles[value] = handle

    def share_handle(self, value: Node, view: Node) -> None:
        """Gives a view the handle of the value it may lie in."""
        handle = self.handle(value)
        if handle is not None:
            self._handles[view] = handle

    def insert(self, before: Node, name: str, args: Sequence[Any]) -> Node:
        """Inserts a call of the operator torch.ops.fxpass.<name>."""
        return self._insert(before, getattr(torch.ops.fxpass, name), tuple(args))

    def _insert(self, before: Node, function: Callable[..., Any], args: tuple[Any, ...]) -> Node:
        with self.graph.inserting_before(before):
            node = self.graph.call_function(function, args)
        set_origins(node, self._origins)
        return node

    def op(self, call: Call, name: str, args: Sequence[Any]) -> Node:
        """Inserts an operator in the place of `call`, with the hooks of its module around it."""
        if not call.hooked:
            return self.insert(call.node, name, args)
        late: Any = {i: a.name for i, a in enumerate(args) if isinstance(a, _Late)}
        given = [None if isinstance(a, _Late) else a for a in args]
        with self.graph.inserting_before(call.node):
            module = self.graph.get_attr(str(call.node.target))
        return self._insert(call.node, call_hooked, (module, name, late, *given))

    def python(self, call: Call, function: Callable[..., Any], args: Sequence[Any]) -> Node:
        """Inserts a call of a Python function: what only hooks, themselves Python, make needed."""
        return self._insert(call.node, function, tuple(args))

    def first(self, before: Node, pair: Node) -> Node:
        """Inserts `pair[0]`."""
        return self._insert(before, operator.getitem, (pair, 0))

    def op_with_handle(self, call: Call, name: str, args: Sequence[Any]) -> Node:
        """Inserts an operator that returns (value, handle); returns the value."""
        pair = self.op(call, name, args)
        value = self.first(call.node, pair)
        self.set_handle(value, self._insert(call.node, operator.getitem, (pair, 1)))
        return value

    def parameter(self, call: Call, name: str) -> Any:
        """A weight or bias of a call: an argument, or read from the module when the op runs."""
        if call.module is None:
            return call.arguments.get(name)
        if call.hooked:
            return _Late(name)
        if _is_none(call.module, name):
            return None
        with self.graph.inserting_before(call.node):
            return self.graph.get_attr(f"{call.node.target}.{name}")

    def attribute(self, call: Call, name: str) -> Any:
        """A plain attribute of the module called, read when the op runs."""
        if call.hooked:
            return _Late(name)
        with self.graph.inserting_before(call.node):
            return self.graph.get_attr(f"{call.node.target}.{name}")

    def replace(self, old: Node, new: Node) -> Node:
        """Puts `new` in the place of `old` everywhere, and returns it."""
        old.replace_all_uses_with(new)
        self.graph.erase_node(old)
        self._replaced[old] = new
        self._originals[new] = old
        return new


Rewrite = Callable[[Context, Call], Node]
"""Rewrites one call; returns the node that now yields its value (the call's own if unchanged)."""


def _is_none(module: nn.Module, name: str) -> bool:
    # Not getattr: a parametrised weight is a property, and computing it may change buffers.
    members = (module._parameters, module._buffers, module.__dict__)
    return any(m.get(name, name) is None for m in members)


def dims_of(call: Call) -> int:
    """Spatial dimensions of an op whose name ends in "1d", "2d" or "3d"."""
    return int(call.op.name[-2])


def ints(value: Any, dims: int) -> list[Any]:
    """An argument given as one int for all dimensions, a tuple, or None, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) else [value] * dims
