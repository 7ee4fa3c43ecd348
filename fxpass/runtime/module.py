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
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

from fxpass.plan import Plan
from fxpass.runtime.unit import Unit

_EAGER: ContextVar[tuple[int, ...]] = ContextVar("_EAGER", default=())
"""The compiled modules (by id) that run eagerly in this context."""


class CompiledModule:
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
        plans = self._unit.plans()
        if not plans:
            return "not compiled yet: no call has been traced"
        return "\n\n".join(f"{name}\n{plan}" for name, plan in plans.items())

    @contextmanager
    def eager(self) -> Iterator[None]:
        """In this context calls run the unmodified model: for double backward and the like."""
        token = _EAGER.set((*_EAGER.get(), id(self)))
        try:
            yield
        finally:
            _EAGER.reset(token)

    @property
    def forward(self) -> Any:
        """The forward to run now. A property: it outranks one assigned to the model's instance."""
        if _runs_eagerly() or id(self) in _EAGER.get():
            return self._original.forward
        return self._unit.run

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        from fxpass.compile import recompile

        return recompile(copy.deepcopy(self._original, memo), self._strict)

    def __reduce_ex__(self, protocol: Any) -> Any:
        from fxpass.compile import recompile

        return recompile, (self._original, self._strict)


def compiled_module(model: nn.Module, unit: Unit, strict: bool) -> Any:
    """A CompiledModule of `model` that runs `unit`."""
    cls = _class_of(type(model))
    module = cls.__new__(cls)
    members = {"_original": model, "_unit": unit, "_strict": strict, "__dict__": model.__dict__}
    for name, value in members.items():
        object.__setattr__(module, name, value)  # past nn.Module, which would register submodules
    return module


@functools.cache
def _class_of(base: type[nn.Module]) -> Any:
    members = {"__slots__": (), "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base)(f"Compiled{base.__name__}", (CompiledModule, base), members)


def _runs_eagerly() -> bool:
    """Whether nothing would be gained, or the C++ autograd nodes could not follow."""
    return (
        not torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )
