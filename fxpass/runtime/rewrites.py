"""What the rewrites made of a graph, in words: each op before and after."""

from __future__ import annotations

from itertools import groupby

from torch.fx import Graph, Node

from fxpass.edges import origins_of, rewritten_from


def rewrites_of(graph: Graph) -> str:
    """The calls that were rewritten, in order, each with what stands in its place.

    Calls that became one operator are shown together; what is not shown is as it was.
    """
    calls = [node for node in graph.nodes if rewritten_from(node)]
    blocks = []
    for origins, nodes in groupby(calls, key=origins_of):
        before = [f"  - {origin.text}" for origin in origins]
        blocks.append("\n".join([*before, *(f"  + {_text(node)}" for node in nodes)]))
    return "\n\n".join(blocks) or "  nothing was rewritten"


def _text(node: Node) -> str:
    return str(node.format_node())
