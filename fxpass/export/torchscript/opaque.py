"""Replaces ATen's operators in a scripted graph by their twins; see cpp_ops/ops/opaque.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

Node = Any
"""A node of a TorchScript graph; torch has no public type for it."""


def make_opaque(graph: Any, training: frozenset[str]) -> None:
    """Rewrites a method's graph in place: all calls inlined, twins for operators on tensors.

    `training`: the paths of the modules that are in training mode here, whatever the loaded
    module's flag is.
    """
    torch._C._jit_pass_inline(graph)
    for node in list(_nodes(graph)):
        if node.kind() == "prim::GetAttr" and node.s("name") == "training":
            with graph.insert_point_guard(node):
                constant = graph.insertConstant(_path(node) in training)
            node.output().replaceAllUsesWith(constant)
            node.destroy()
        elif node.kind().startswith("aten::") and _twin(node):
            _replace(graph, node, _twin(node))
    graph.lint()


def _nodes(block: Any) -> Iterator[Node]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _path(get_attr: Node) -> str:
    """Of which module, by its path from the method's own, an attribute is read."""
    names: list[str] = []
    value = get_attr.input()
    while value.node().kind() == "prim::GetAttr":
        names.insert(0, value.node().s("name"))
        value = value.node().input()
    return ".".join(names)


def _twin(node: Node) -> str:
    """The name of the twin, or "" for what has none: operators on numbers, lists and sizes."""
    name = "fxpass::aten_" + node.kind().removeprefix("aten::")
    overloads = {schema.overload_name for schema in torch._C._jit_get_schemas_for_operator(name)}
    return name if torch._C.parse_schema(node.schema()).overload_name in overloads else ""


def _replace(graph: Any, node: Node, name: str) -> None:
    twin = graph.create(name, list(node.inputs()), node.outputsSize())
    twin.insertBefore(node)
    for old, new in zip(node.outputs(), twin.outputs(), strict=True):
        new.setType(old.type())
        old.replaceAllUsesWith(new)
    node.destroy()
