"""Functions of other packages that are one node in a graph, as torch's own are.

fx finds such a function wherever it is a global variable of a module's forward. Called from a
helper in another file, or as `package.function`, it is found where its own name leads to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

LEAF_FUNCTIONS = ("torchvision.ops.stochastic_depth.stochastic_depth",)
"""Their qualified names. Traced through, they would be ops of which little is known."""


def leaf_functions() -> list[Callable[..., Any]]:
    """Those whose packages have been imported."""
    names = (name.rpartition(".") for name in LEAF_FUNCTIONS)
    found = (getattr(sys.modules.get(home), name, None) for home, _, name in names)
    return [function for function in found if function is not None]


def modules_with(functions: Iterable[Callable[..., Any]]) -> list[ModuleType]:
    """The imported modules in which one of the functions is known by its own name."""
    named = {function.__name__: function for function in functions}
    if not named:
        return []
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    return [m for m in modules if any(vars(m).get(name) is f for name, f in named.items())]
