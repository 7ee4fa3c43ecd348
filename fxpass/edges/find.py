"""graph -> saved-tensor edges.

y = relu(x)            y is saved by relu itself (its result) and by conv (its input);
z = flatten(y)         z lies in y's storage, so whoever saves z saves y
c = conv(y, w)
f = linear(z, v)       savers of y: relu, conv, linear
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.fx import Graph, Node

from fxpass.edges.calls import Call, as_call

_KEEP_NO_RESULT = frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d})
"""Classes without a row in the table whose result is a new tensor that backward does not read."""


class Edges:
    """The saved-tensor edges of one graph.

    Attributes:
        graph: the graph.
        calls: the nodes that call an op of the table.
        root: the module whose submodules the graph calls.
        hooked: the paths of those that have hooks.

    """

    def __init__(
        self, graph: Graph, calls: dict[Node, Call], root: nn.Module, hooked: frozenset[str]
    ) -> None:
        self.graph = graph
        self.calls = calls
        self.root = root
        self.hooked = hooked

    def storage(self, value: Node) -> list[Node]:
        """`value` and every later value that may lie in its storage."""
        found, queue = [value], [value]
        while queue:
            member = queue.pop()
            for user in member.users:
                call = self.calls.get(user)
                if call is None or not call.op.shares_storage or user in found:
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
            self.calls[user] for user in self._readers(value) if self._saves_input(user)
        ]

    def strangers(self, value: Node) -> list[Node]:
        """The readers of `value` of which nothing is known: they may save it, or write to it."""
        members = self.storage(value)
        return [
            user
            for user in self._readers(value)
            if user not in self.calls or self._writes(user, members)
        ]

    def is_new(self, value: Node) -> bool:
        """Whether `value` begins a storage that nobody but its readers in the graph can see.

        It is neither an input nor a view, no hook got hold of it, and the op that computed it does
        not keep it: then one reader may as well leave it unwritten where eager writes to it.
        """
        if value.op == "call_module" and str(value.target) in self.hooked:
            return False
        call = self.calls.get(value)
        if call is not None:
            return not (call.op.saves_result or call.op.shares_storage or call.op.name == "shape")
        module = self.root.get_submodule(str(value.target)) if value.op == "call_module" else None
        return type(module) in _KEEP_NO_RESULT

    def _writes(self, user: Node, members: list[Node]) -> bool:
        call = self.calls.get(user)
        return call is not None and call.op.writes_input and call.inputs[0] in members

    def _saves_input(self, user: Node) -> bool:
        call = self.calls.get(user)
        return call is not None and call.op.saves_input

    def _readers(self, value: Node) -> Iterator[Node]:
        """Each reader of `value` or of a view of it, once."""
        yield from dict.fromkeys(u for member in self.storage(value) for u in member.users)


def find_edges(
    graph: Graph,
    root: nn.Module,
    opaque: frozenset[str] = frozenset(),
    hooked: frozenset[str] = frozenset(),
) -> Edges:
    """The edges of `graph`, whose modules are those of `root`.

    Calls of the modules named in `opaque` are taken as unknown; those in `hooked` have hooks.
    """
    calls = {}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in opaque:
            continue
        call = as_call(node, root, hooked)
        if call is not None:
            calls[node] = call
    return Edges(graph, calls, root, hooked)
