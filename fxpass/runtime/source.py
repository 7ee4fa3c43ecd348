"""A graph as a Python function, with a source that tracebacks and inspect can show."""

from __future__ import annotations

import itertools
import linecache
import weakref
from collections.abc import Callable
from typing import Any

from torch.fx import Graph

_COUNTER = itertools.count()


def as_function(graph: Graph, title: str, name: str = "forward") -> tuple[str, Callable[..., Any]]:
    """The source of a function of this name that runs `graph` on its first argument; the function.

    `title` stands in tracebacks. The source is forgotten with the function.
    """
    code = graph.python_code("self")
    source = code.src.replace("def forward(", f"def {name}(", 1)
    filename = f"<fxpass {title} {next(_COUNTER)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(source, filename, "exec"), namespace)
    function = namespace.pop(name)  # in its own globals it would be a cycle
    weakref.finalize(function, linecache.cache.pop, filename, None)
    return source, function
