"""`Program`: a rewritten graph as a Python function that runs on the original module.

The generated function takes the module as `self` and reads its parameters, buffers and submodules
when it runs. Nothing is copied into a GraphModule, so what the user assigns later is seen.
"""

from __future__ import annotations

import itertools
import linecache
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.fx import Graph

_COUNTER = itertools.count()


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
                node.replace_all_uses_with(called)
                graph.erase_node(node)
        code = graph.python_code("self")
        self.source: str = code.src
        filename = f"<fxpass {type(module).__name__} {next(_COUNTER)}>"
        lines = self.source.splitlines(keepends=True)
        linecache.cache[filename] = (len(self.source), None, lines, filename)
        weakref.finalize(self, linecache.cache.pop, filename, None)
        namespace: dict[str, Any] = dict(code.globals)
        exec(compile(self.source, filename, "exec"), namespace)
        self._function = namespace["forward"]

    def __call__(self, values: Sequence[Any]) -> Any:
        """Runs the graph on the values of its placeholders."""
        return self._function(self._module, *values)


class _Named:
    """A callable with the names that fx's code generator wants of a function."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self.__name__ = self.__qualname__ = "call_" + path.replace(".", "_")
        self.__module__ = __name__
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)
