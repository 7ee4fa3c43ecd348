"""The backend: edges, plan, rewrite, run, of a graph that Dynamo has captured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule

from fxpass.dynamo.checkpoint import replace_checkpoints
from fxpass.dynamo.facts import facts_of, transformed
from fxpass.edges import find_edges
from fxpass.plan import free_plan
from fxpass.rewrite import rewrite
from fxpass.runtime.eager import runs_eagerly
from fxpass.runtime.program import Program


def backend(
    captured: GraphModule, example_inputs: Sequence[Any], **settings: Any
) -> Callable[..., Any]:
    """What TorchDynamo calls with each graph it captures, and what it then runs in its place.

    The graph is computed to the same bits, with far fewer bytes kept for backward. Where nothing
    would be gained (no gradients wanted) or where C++ autograd nodes cannot go (`torch.func`
    transforms, forward-mode AD), the graph runs as it was captured.

    Raises:
        TypeError: `mode=` or `options=` was given to torch.compile; there is none to choose.

    """
    if settings:
        name = next(iter(settings))
        raise TypeError(
            f'torch.compile(backend="fxpass"): expected neither mode nor options, got {name}='
            f"{settings[name]!r}; this backend has none, leave {name} out"
        )
    return _compiled(captured)


def _compiled(captured: GraphModule) -> Callable[..., Any]:
    replace_checkpoints(captured, _compiled)
    graph = _to_be_rewritten(captured.graph)
    modules = frozenset(str(node.target) for node in graph.find_nodes(op="call_module"))
    edges = find_edges(graph, captured, opaque=modules, facts=facts_of(graph))
    edges = edges.without(transformed(graph))
    rewrite(edges, free_plan(edges))
    program = Program(captured, graph, {})

    def run(*values: Tensor) -> Any:
        return captured(*values) if runs_eagerly() else program(values)

    return run


def _to_be_rewritten(graph: Graph) -> Graph:
    graph = copy.deepcopy(graph)
    for node in graph.nodes:
        node.type = None  # an annotation would be evaluated by the generated code
    return graph
