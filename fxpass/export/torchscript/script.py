"""Graphs as methods of one scripted module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import Graph

from fxpass.errors import ExportError
from fxpass.export.torchscript.holder import Holder, make_holder
from fxpass.export.torchscript.source import as_source_graph
from fxpass.runtime.source import as_function

OWN_NAMES = ("forward", "infer")


def scripted(model: nn.Module, graphs: Mapping[str, Graph]) -> torch.jit.RecursiveScriptModule:
    """A scripted module with what `model` holds, and each graph as a method of the name given.

    Raises:
        ExportError: TorchScript cannot compile a node of a graph, or hold what it reads.

    """
    sources = {name: as_source_graph(graph) for name, graph in graphs.items()}
    holder = make_holder(model, sources.values(), (*graphs, *OWN_NAMES))
    try:
        return _script(holder, sources, type(model).__name__)
    except Exception as error:
        for graph in sources.values():
            _blame(holder, graph)
        raise ExportError(f"fxpass.export_torchscript: TorchScript refuses: {error}") from error


def _script(holder: Holder, graphs: Mapping[str, Graph], title: str) -> Any:
    methods = {}
    for name, graph in graphs.items():
        function = as_function(graph, f"{title}.{name}", name)[1]
        methods[name] = torch.jit.export(function)
    cls = type(title, (Holder,), {**methods, "__module__": __name__})
    root = cls()
    root.__dict__.update(holder.__dict__)
    return torch.jit.script(root)


def _blame(holder: Holder, graph: Graph) -> None:
    """Raises an ExportError that names the first node without which all before it compiles."""
    nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output")]
    low, high = 0, len(nodes)  # the first `low` compile, and the first `high` do not
    reason = _error_of(holder, graph, high)
    if reason is None:
        return
    while high - low > 1:
        middle = (low + high) // 2
        found = _error_of(holder, graph, middle)
        low, high = (middle, high) if found is None else (low, middle)
        reason = found or reason
    node = nodes[high - 1]
    raise ExportError(
        f"fxpass.export_torchscript: TorchScript cannot compile {node.format_node()}:"
        f" {str(reason).strip().splitlines()[0]}; write it another way, or export the parts around"
        " it"
    ) from reason


def _error_of(holder: Holder, graph: Graph, count: int) -> Exception | None:
    """What TorchScript says of the first `count` nodes; None: nothing."""
    part = Graph()
    copies: dict[Any, Any] = {}
    for node in graph.nodes:
        if node.op == "output":
            break
        if node.op != "placeholder":
            count -= 1
        if count < 0:
            break
        copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(None)
    try:
        _script(holder, {"part": part}, "Part")
    except Exception as error:
        return error
    return None
