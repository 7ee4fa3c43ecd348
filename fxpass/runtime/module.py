"""`CompiledModule`: the model, with another forward.

Its class is made from the model's own class and its `__dict__` *is* the model's: parameters,
buffers, submodules, hooks, flags, methods and plain attributes are not mirrored but the same.
Only `forward` differs, and what the public API adds.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from torch import nn

from fxpass.plan import Plan
from fxpass.runtime.eager import runs_eagerly
from fxpass.runtime.unit import IsCompiled, Unit

_EAGER: ContextVar[tuple[int, ...]] = ContextVar("_EAGER", default=())
"""The compiled modules (by id) that run eagerly in this context."""


if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object  # the model's own class stands beside it


class CompiledModule(IsCompiled, _Base):
    """What `fxpass.compile` returns: an nn.Module of the model's own class."""

    __slots__ = ("_original", "_strict", "_unit")

    _original: nn.Module
    _unit: Unit
    _strict: bool

    @property
    def original(self) -> nn.Module:
        """The model given to `fxpass.compile`, unchanged."""
        return self._original

    @property
    def plan(self) -> Plan:
        """The recipes of the program made last; empty before the model was traced."""
        newest = self._unit.newest()
        return newest.plan if newest is not None else Plan()

    def explain(self) -> str:
        """The recipe of each saved value, for the model and each part compiled on its own."""
        paths = {module: path for path, module in self._original.named_modules()}
        parts = [
            f"{paths.get(module) or 'the model'} ({type(module).__name__})\n{plan}"
            for module, plan in self._unit.plans()
        ]
        return "\n\n".join(parts) or "not compiled yet: no call has been traced"

    @contextmanager
    def eager(self) -> Iterator[None]:
        """In this context calls run the unmodified model: for double backward and the like."""
        token = _EAGER.set((*_EAGER.get(), id(self)))
        try:
            yield
        finally:
            _EAGER.reset(token)

    @property  # type: ignore[override]
    def forward(self) -> Any:
        """The forward to run now. A property: it outranks one assigned to the model's instance."""
        if runs_eagerly() or id(self) in _EAGER.get():
            return self._original.forward
        return self._unit.run

    @forward.setter
    def forward(self, forward: Any) -> None:
        self.__dict__["forward"] = forward

    @forward.deleter
    def forward(self) -> None:
        del self.__dict__["forward"]

    def __copy__(self) -> CompiledModule:
        from fxpass.compile import recompile

        return recompile(copy.copy(self._original), self._strict)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        from fxpass.compile import recompile

        return recompile(copy.deepcopy(self._original, memo), self._strict)

    def __reduce_ex__(self, protocol: Any) -> Any:
        from fxpass.compile import recompile

        return recompile, (self._original, self._strict)


def compiled_module(model: nn.Module, unit: Unit, strict: bool) -> Any:
    """A CompiledModule of `model` that runs `unit`."""
    cls: Any = _class_of(type(model))
    module: Any = object.__new__(cls)
    members = {"_original": model, "_unit": unit, "_strict": strict, "__dict__": model.__dict__}
    for name, value in members.items():
        object.__setattr__(module, name, value)  # past nn.Module, which would register submodules
    return module


@functools.cache
def _class_of(base: Any) -> Any:
    members = {"__slots__": (), "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base)(f"Compiled{base.__name__}", (CompiledModule, base), members)
