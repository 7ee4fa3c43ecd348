"""What runs in place of a graph that Dynamo has captured."""

from __future__ import annotations

import copy
import threading
from typing import Any

from torch.fx import GraphModule

from fxpass.dynamo.checkpoint import replace_checkpoints
from fxpass.dynamo.facts import facts_of, transformed
from fxpass.dynamo.numbers import insert_numbers, numbers_of
from fxpass.dynamo.writes import share_storage, written_inputs
from fxpass.edges import find_edges
from fxpass.plan import free_plan
from fxpass.rewrite import rewrite
from fxpass.runtime.eager import runs_eagerly
from fxpass.runtime.program import Program


class CompiledGraph:
    """A captured graph: called with its inputs, it runs rewritten, or as it was captured.

    As it was captured where nothing would be gained, where C++ autograd nodes cannot go, and where
    it writes to an input in whose storage another one lies, so that no op can tell what it changes.
    """

    def __init__(self, captured: GraphModule) -> None:
        """Prepares the graph; it is rewritten when it first runs."""
        replace_checkpoints(captured, CompiledGraph)
        self._captured = captured
        self._written = written_inputs(captured.graph)
        self._numbers = dict.fromkeys(numbers_of(captured.graph), "")
        self._program: Program | None = None
        self._lock = threading.Lock()

    def __call__(self, *values: Any) -> Any:
        """Runs it."""
        if runs_eagerly() or share_storage(values, self._written):
            return self._captured.forward(*values)
        return self._fitting(values)(values)

    def _fitting(self, values: tuple[Any, ...]) -> Program:
        """The program for these inputs.

        A number is a constant of it as long as it does not change. Once it has, it is an input for
        ever: one that changes from step to step would make a program in each.
        """
        with self._lock:
            now = {place: values[place].item() for place in self._numbers}
            same = {place for place, number in now.items() if repr(number) == self._numbers[place]}
            if self._program is None or len(same) < len(now):
                kept = now if self._program is None else {p: now[p] for p in now if p in same}
                self._numbers = {place: repr(number) for place, number in kept.items()}
                self._program = _rewritten(self._captured, kept)
            return self._program


def _rewritten(captured: GraphModule, numbers: dict[int, float]) -> Program:
    graph = copy.deepcopy(captured.graph)
    insert_numbers(graph, numbers)
    modules = frozenset(str(node.target) for node in graph.find_nodes(op="call_module"))
    edges = find_edges(graph, captured, opaque=modules, facts=facts_of(graph))
    edges = edges.without(transformed(graph))
    rewrite(edges, free_plan(edges))
    return Program(captured, graph, {})
