"""`CompiledModule`: the model, with another forward.

Its class is made from the model's own class and its `__dict__` *is* the model's: parameters,
buffers, submodules, hooks, flags, methods and plain attributes are not mirrored but the same.
Only `forward` differs, and what the public API adds.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.fx import Graph

from fxpass.plan import Plan
from fxpass.runtime.eager import runs_eagerly
from fxpass.runtime.rewrites import rewrites_of
from fxpass.runtime.unit import IsCompiled, Unit

_EAGER: ContextVar[tuple[int, ...]] = ContextVar("_EAGER", default=())
"""The compiled modules (by id) that run eagerly in this context."""


_SET_CLASS: Any = object.__dict__["__class__"].__set__

if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object  # the model's own class stands beside it


class CompiledModule(IsCompiled, _Base):
    """What `fxpass.compile` returns: an nn.Module of the model's own class.

    Its own members begin with `_fxpass`, so that they are none of the model's.
    """

    __slots__ = (
        *("_fxpass_given", "_fxpass_original", "_fxpass_outer", "_fxpass_strict", "_fxpass_unit"),
        "_fxpass_replanned",
    )

    _fxpass_original: nn.Module
    _fxpass_unit: Unit
    _fxpass_strict: bool
    _fxpass_given: Plan | None
    _fxpass_outer: Any
    _fxpass_replanned: Callable[[Any], tuple[Plan | None, Unit]] | None

    @property
    def original(self) -> nn.Module:
        """The model given to `fxpass.compile`, unchanged."""
        return self._fxpass_original

    @property
    def plan(self) -> Plan:
        """The recipes of the programs that ran last, of the model and each part on its own.

        Empty before the model was traced; a part is traced when it is first called.
        """
        plans = [plan.at(path) for path, _, plan, _ in self._fxpass_plans()]
        given = self._fxpass_given
        prediction = None if given is None else given.prediction
        return Plan(tuple(choice for plan in plans for choice in plan), prediction)

    def explain(self, *, rewrites: bool = False) -> str:
        """The recipe of each saved value, for the model and each part compiled on its own.

        With `rewrites` also each call that was rewritten, before and after, as torch.fx writes it.
        """
        given = self._fxpass_given
        parts = [str(given.prediction)] if given is not None and given.prediction else []
        for path, module, plan, graph in self._fxpass_plans():
            part = f"{path or 'the model'} ({type(module).__name__})\n{plan}"
            parts.append(f"{part}\n\n{rewrites_of(graph)}" if rewrites else part)
        return "\n\n".join(parts) or "not compiled yet: no call has been traced"

    def __str__(self) -> str:
        recipes = Counter(choice.recipe for choice in self.plan)
        counts = ", ".join(f"{count} {recipe}" for recipe, count in recipes.most_common())
        plan = f"{recipes.total()} saved values: {counts}" if counts else "no plan yet"
        return f"{self!r}\nfxpass: {plan} (see explain())"

    def replan(self, *, memory_budget: int | float | str | None) -> Plan:
        """Trains on by another plan, from the next call; returns it.

        Parameters, buffers, gradients and optimizers are not touched, and nothing is measured
        again. None: the plan without a budget.

        Raises:
            BudgetError: no plan that fits was found; the plan stays what it was.
            TypeError: the module was not compiled with a memory budget, which measures it.
            TypeError, ValueError: as in `fxpass.compile`.

        """
        if self._fxpass_replanned is None:
            raise TypeError(
                "replan: this module was compiled without a memory budget, and nothing is known of "
                "its costs; compile it with memory_budget=1.0"
            )
        plan, unit = self._fxpass_replanned(memory_budget)
        object.__setattr__(self, "_fxpass_given", plan)
        object.__setattr__(self, "_fxpass_unit", unit)
        return self.plan

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
        """What calls run. A property: it outranks a forward assigned to the model's instance.

        One that is assigned to the compiled module most often calls the one it found there: it is
        none of the model's.
        """
        return self._fxpass_forward if self._fxpass_outer is None else self._fxpass_outer

    @forward.setter
    def forward(self, forward: Any) -> None:
        object.__setattr__(self, "_fxpass_outer", forward)

    @forward.deleter
    def forward(self) -> None:
        if self._fxpass_outer is None:
            raise AttributeError("forward")  # as the class's own cannot be deleted either
        self.forward = None

    @property
    def __class__(self) -> Any:
        """Its class. If it is given another, by a lazy module or fully_shard, the model is too."""
        return type(self)

    @__class__.setter
    def __class__(self, cls: Any) -> None:
        base = _base_of(cls)
        self._fxpass_original.__class__ = base
        _SET_CLASS(self, _class_of(base))

    def _fxpass_plans(self) -> Iterator[tuple[str, nn.Module, Plan, Graph]]:
        paths = {module: path for path, module in self._fxpass_original.named_modules()}
        for module, plan, graph in self._fxpass_unit.plans():
            yield paths.get(module, ""), module, plan, graph

    def _fxpass_forward(self, *args: Any, **kwargs: Any) -> Any:
        if runs_eagerly() or id(self) in _EAGER.get():
            return self._fxpass_original.forward(*args, **kwargs)
        return self._fxpass_unit.run(*args, **kwargs)

    def __copy__(self) -> CompiledModule:
        again = self._fxpass_again(copy.copy(self._fxpass_original))
        again.forward = self._fxpass_outer
        return again

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        again = self._fxpass_again(copy.deepcopy(self._fxpass_original, memo))
        memo[id(self)] = again  # The forward may be a method of this module.
        again.forward = copy.deepcopy(self._fxpass_outer, memo)
        return again

    def __reduce_ex__(self, protocol: Any) -> Any:
        from fxpass.compile import recompile

        made_of = self._fxpass_original, self._fxpass_strict, self._fxpass_given
        return recompile, made_of, {"forward": self._fxpass_outer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.forward = state["forward"]

    def _fxpass_again(self, model: nn.Module) -> CompiledModule:
        from fxpass.compile import recompile

        return recompile(model, self._fxpass_strict, self._fxpass_given)


def compiled_module(
    model: nn.Module,
    unit: Unit,
    strict: bool = False,
    given: Plan | None = None,
    replanned: Callable[[Any], tuple[Plan | None, Unit]] | None = None,
) -> Any:
    """A CompiledModule of `model` that runs `unit`, which was made with the plan `given`.

    `replanned`: makes a plan and a unit for another memory budget.
    """
    base: Any = type(model)
    cls = _class_of(base)
    module: Any = object.__new__(cls)
    own: dict[str, Any] = {
        "_fxpass_original": model,
        "_fxpass_unit": unit,
        "__dict__": model.__dict__,
    }
    own |= {"_fxpass_strict": strict, "_fxpass_given": given, "_fxpass_outer": None}
    own["_fxpass_replanned"] = replanned
    for name, value in own.items():
        object.__setattr__(module, name, value)  # past nn.Module, which would register submodules
    return module


@functools.cache
def _class_of(base: Any) -> Any:
    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        return base(*args, **kwargs)  # `model[:3]` makes another of its class: one of the model's.

    members = {"__slots__": (), "__module__": base.__module__, "__doc__": base.__doc__}
    members |= {"__new__": new, "_fxpass_base": base}
    return type(base)(f"Compiled{base.__name__}", (CompiledModule, base), members)


@functools.cache
def _base_of(cls: Any) -> Any:
    """The model's class for a class made from that of the compiled module: without its base."""
    if not issubclass(cls, CompiledModule):
        return cls
    if "_fxpass_base" in cls.__dict__:
        return cls._fxpass_base
    members = {k: v for k, v in cls.__dict__.items() if k not in ("__dict__", "__weakref__")}
    return type(cls)(cls.__name__, tuple(map(_base_of, cls.__bases__)), members)
