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


class Edges:
    """The saved-tensor edges of one graph.

    Attributes:
        calls: the nodes that call an op of the table.
    """

    def __init__(self, graph: Graph, calls: dict[Node, Call]) -> None:
        self.graph = graph
        self.calls = calls

    def storage(self, value: Node) -> list[Node]:
        """`value` and every later value that may lie in its storage."""
        found, queue = [value], [value]
        while queue:
            for user in queue.pop().users:
                call = self.calls.get(user)
                if call is not None and call.op.shares_storage and user not in found:
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
        return [user for user in self._readers(value) if user not in self.calls]

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
    return Edges(graph, calls)
