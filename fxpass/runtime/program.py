"""`Program`: a rewritten graph as a Python function that runs on the original module.

The generated function takes the module as `self` and reads its parameters, buffers and submodules
when it runs. Nothing is copied into a GraphModule, so what the user assigns later is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from torch import nn
from torch.fx import Graph, Node

from fxpass.edges import origins_of, set_origins
from fxpass.runtime.source import as_function


class Watch(Protocol):
    """Is told of every call of a graph while the graph runs."""

    part: int
    """The number of the call that runs now; 0: none."""

    def number(self, module: nn.Module, node: Node) -> int:
        """A number for this node of a graph of `module`."""

    def before(self, number: int) -> None:
        """The node is going to run."""

    def after(self, number: int, value: Any) -> None:
        """It has run and made `value`."""


WATCH: ContextVar[Watch | None] = ContextVar("WATCH", default=None)
"""Who watches the programs that run in this context."""


class Program:
    """One executable graph of `module`.

    Attributes:
        graph: the rewritten graph.
        source: the generated Python source.

    """

    def __init__(
        self, module: nn.Module, graph: Graph, units: Mapping[str, Callable[..., Any]]
    ) -> None:
        """`units`: what to call instead of the submodule, by `call_module` target."""
        self.graph = graph
        self._module = module
        for node in list(graph.nodes):
            if node.op == "call_module" and str(node.target) in units:
                with graph.inserting_before(node):
                    unit = _Named(units[str(node.target)], str(node.target))
                    called = graph.call_function(unit, node.args, node.kwargs)
                set_origins(called, origins_of(node))
                node.replace_all_uses_with(called)
                graph.erase_node(node)
        self.source, self._function = as_function(graph, type(module).__name__)

    def __call__(self, values: Sequence[Any]) -> Any:
        """Runs the graph on the values of its placeholders."""
        watch = WATCH.get()
        if watch is None:
            return self._function(self._module, *values)
        caller = watch.part
        try:
            return self._watched(watch)(self._module, *values)
        finally:
            watch.before(caller)

    def _watched(self, watch: Watch) -> Callable[..., Any]:
        """The same function with the watch told before and after each call."""
        graph = Graph()
        copies: dict[Node, Node] = {}
        graph.output(graph.graph_copy(self.graph, copies))
        before, after = _Named(watch.before, "before"), _Named(watch.after, "after")
        for original, node in copies.items():
            if node.op in ("call_function", "call_method", "call_module"):
                number = watch.number(self._module, original)
                with graph.inserting_before(node):
                    graph.call_function(before, (number,))
                with graph.inserting_after(node):
                    graph.call_function(after, (number, node))
        return as_function(graph, type(self._module).__name__)[1]


class _Named:
    """A callable with the names that fx's code generator wants of a function."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self.__name__ = self.__qualname__ = "call_" + path.replace(".", "_")
        self.__module__ = __name__
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)
