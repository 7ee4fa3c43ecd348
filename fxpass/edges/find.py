"""graph -> saved-tensor edges.

y = relu(x)            y is saved by relu itself (its result) and by conv (its input);
z = flatten(y)         z lies in y's storage, so whoever saves z saves y
c = conv(y, w)
f = linear(z, v)       savers of y: relu, conv, linear
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, Node

from fxpass.edges.calls import Call, as_call
from fxpass.edges.facts import Facts


class Edges:
    """The saved-tensor edges of one graph.

    Attributes:
        graph: the graph.
        calls: the nodes that call an op of the table.
        root: the module whose submodules the graph calls.
        hooked: the paths of those that have hooks.
        facts: what else is known of the values.
        known: `calls`, and the calls of such an op that are taken for unknown ones.

    """

    def __init__(
        self,
        graph: Graph,
        calls: dict[Node, Call],
        root: nn.Module,
        hooked: frozenset[str],
        facts: Facts,
        unknown: Collection[str] = (),
    ) -> None:
        self.graph = graph
        self.calls = {node: call for node, call in calls.items() if node.name not in unknown}
        self.root = root
        self.hooked = hooked
        self.facts = facts
        self.known = calls

    def without(self, names: Collection[str]) -> Edges:
        """The edges if the nodes of these names called ops that the table does not know."""
        return Edges(self.graph, self.known, self.root, self.hooked, self.facts, names)

    def storage(self, value: Node) -> list[Node]:
        """`value` and every later value that may lie in its storage, up to a write to it.

        What a write leaves there is a value of its own.
        """
        found, queue = [value], [value]
        while queue:
            member = queue.pop()
            for user in member.users:
                call = self.calls.get(user)
                if call is None or not call.op.shares_storage or user in found:
                    continue
                if call.op.writes_input:
                    continue
                if member in call.inputs:
                    found.append(user)
                    queue.append(user)
        return found

    def savers(self, value: Node) -> list[Call]:
        """The calls that save elements of `value` (or of a view of it) for backward."""
        own = self.calls.get(value)
        found = [own] if own is not None and own.op.saves_result else []
        return found + [
            self.calls[user]
            for user in self._readers(value)
            if user in self.calls and self.saves_input(self.calls[user])
        ]

    def strangers(self, value: Node) -> list[Node]:
        """The readers of `value` of which nothing is known: they may save it, or write to it."""
        members = self.storage(value)
        return [
            user
            for user in self._readers(value)
            if user not in self.calls or self._writes(user, members)
        ]

    def writers(self, value: Node) -> list[Call]:
        """The calls that write to `value` or a view of it."""
        members = self.storage(value)
        readers = (self.calls.get(user) for user in self._readers(value))
        return [c for c in readers if c is not None and c.writes and c.inputs[0] in members]

    def is_new(self, value: Node) -> bool:
        """Whether `value` begins a storage that, hooks aside, only its readers in the graph see.

        It is neither an input nor a view, and the op that computed it does not keep it: then one
        reader may as well leave it unwritten where eager writes to it.
        """
        call = self.calls.get(value)
        # What is computed in place may be what the op keeps, as leaky_relu_ and elu_ do.
        if call is None or call.writes or call.op.name == "shape":
            return False
        return not (call.op.saves_result or call.op.shares_storage)

    def writes_what_hooks_saw(self, call: Call) -> bool:
        """Whether a call writes to the result of a hooked module, which a hook may hold."""
        value = call.inputs[0] if call.writes else None
        return value is not None and str(value.target) in self.hooked

    def may_write_between(self, first: Node, second: Node) -> bool:
        """Whether a call between two nodes of the graph may write to a tensor."""
        node = first.next
        while node is not second:
            call = self.calls.get(node)
            if node.op.startswith("call_") and (call is None or call.writes):
                return True
            node = node.next
        return False

    def is_tensor(self, value: Node) -> bool:
        """Whether `value` is known to be a tensor, and one only."""
        if value in self.facts.tensors:
            return self.facts.tensors[value]
        if value.op == "get_attr":
            return isinstance(_attribute(self.root, str(value.target)), Tensor)
        call = self.known.get(value)
        if call is None or call.op.name == "shape" or call.arguments.get("return_indices"):
            return False
        if call.op.name == "view":
            return value.target is not operator.getitem or self._is_piece(value)
        return call.op.name not in ("add", "add_", "mul") or any(map(self.is_tensor, call.inputs))

    def _is_piece(self, item: Node) -> bool:
        """Whether `item` is x[i] of a tensor x, or of the chunks of one."""
        value = item.args[0]
        return isinstance(value, Node) and value in self.known and self.is_tensor(value)

    def _writes(self, user: Node, members: list[Node]) -> bool:
        call = self.calls.get(user)
        return call is not None and call.op.writes_input and call.inputs[0] in members

    def saves_input(self, call: Call) -> bool:
        """Whether the call saves what it reads; a product with a number keeps nothing."""
        if call.op.name == "mul":
            return sum(self.facts.tensors.get(value, True) for value in call.inputs) > 1
        return call.op.saves_input

    def _readers(self, value: Node) -> Iterator[Node]:
        """Each reader of `value` or of a view of it, once."""
        yield from dict.fromkeys(u for member in self.storage(value) for u in member.users)


def find_edges(
    graph: Graph,
    root: nn.Module,
    opaque: frozenset[str] = frozenset(),
    hooked: frozenset[str] = frozenset(),
    facts: Facts | None = None,
) -> Edges:
    """The edges of `graph`, whose modules are those of `root`.

    Calls of the modules named in `opaque` are taken as unknown; those in `hooked` have hooks.
    `facts`: what the ops of the graph do not tell.
    """
    calls = {}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in opaque:
            continue
        call = as_call(node, root, hooked)
        if call is not None:
            calls[node] = call
    return Edges(graph, calls, root, hooked, facts or Facts())


def _attribute(root: nn.Module, path: str) -> Any:
    *parents, name = path.split(".")
    return getattr(root.get_submodule(".".join(parents)), name, None)
