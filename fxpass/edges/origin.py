"""Where a value of a graph comes from, in words that a user knows."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

_ORIGINS = "fxpass_origins"


@dataclass(frozen=True)
class Origin:
    """A node of the graph as it was captured.

    Attributes:
        name: of the node, by which a plan names its value.
        op: the op in words; where a module makes the call, with its path.
        module: the path of the innermost module in whose forward the call was made; empty for the
            module whose graph it is.

    """

    name: str
    op: str
    module: str


def describe(node: Node) -> str:
    """A node in words: the op, and where a module makes the call its path."""
    if node.op == "call_module":
        return f"module {node.target}"
    if node.op == "placeholder":
        return f"input {node.name}"
    return str(getattr(node.target, "__name__", node.target))


def origins_of(node: Node) -> tuple[Origin, ...]:
    """What a node stands for: itself, or the nodes that a rewrite put it in the place of."""
    found = node.meta.get(_ORIGINS)
    return found or (Origin(node.name, describe(node), _module_of(node)),)


def is_rewritten(node: Node) -> bool:
    """Whether a rewrite has put the node into the graph."""
    return _ORIGINS in node.meta


def set_origins(node: Node, origins: tuple[Origin, ...]) -> None:
    """Says what a node stands for."""
    node.meta[_ORIGINS] = origins


def _module_of(node: Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(stack.values())), "")
