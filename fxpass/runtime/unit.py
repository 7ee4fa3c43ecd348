"""`Unit`: a module that is compiled as one graph, or runs its own forward with compiled children.

A unit makes a program for each pattern of arguments and each state of what the trace took for
granted (train and eval, flags, hooks, submodules), when it first meets it. Modules that cannot be
part of their parent's graph (hooks on a container, a forward that no trace can be believed of) are
units of their own, called by their parent's program.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.fx import Graph
from torch.utils._python_dispatch import _disable_current_modes

from fxpass.capture import ArgPattern, Capture, Loss, OwnForward, UnsupportedArgument, capture_unit
from fxpass.plan import Plan
from fxpass.runtime.eager import runs_eagerly
from fxpass.runtime.hooks import call_with_hooks
from fxpass.runtime.program import Program
from fxpass.runtime.view import own_forward_view, run_own_forward

_MOST_PROGRAMS = 16  # of one pattern; the oldest is dropped beyond
_MOST_PATTERNS = 64  # likewise


class Lower(Protocol):
    """Rewrites a captured graph in place and returns the plan it followed."""

    def __call__(self, capture: Capture) -> Plan:
        """Does it."""


TensorForm = tuple[tuple[int, ...], torch.dtype]
"""The shape and dtype of a tensor."""


class IsCompiled:
    """Marks a module that compiles its own calls, and so is never traced as part of another."""

    __slots__ = ()


Report = Callable[[nn.Module, list[Loss]], None]
"""Told of what traces of a module would have lost."""


class Unit:
    """One module's programs. Calling a unit is calling its module, hooks included."""

    def __init__(self, module: nn.Module, lower: Lower, report: Report) -> None:
        self.module = module
        self._lower = lower
        self._report = report
        self._made: dict[ArgPattern, list[_Compiled | _Own]] = {}
        self._children: dict[nn.Module, Unit] = {}
        self._latest: _Compiled | None = None
        self._lock = threading.RLock()
        self.example: tuple[ArgPattern, list[TensorForm]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module as nn.Module.__call__ does, its forward replaced by `run`."""
        forward = self.module.forward if runs_eagerly() else self.run
        return call_with_hooks(self.module, forward, args, kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward, compiled."""
        try:
            pattern, values = ArgPattern.split(args, kwargs)
        except UnsupportedArgument:
            return run_own_forward(self._own_view(), args, kwargs)
        found = self._fitting(pattern)
        if found is None:
            if not _takes(self.module.forward, args, kwargs):
                return self.module.forward(*args, **kwargs)  # raises Python's own error
            found = self.find(pattern)
            self.note(pattern, values)
        elif self.example is None:
            self.note(pattern, values)
        if isinstance(found, _Compiled):
            self._latest = found
            return found.program(values)
        return run_own_forward(found.view, args, kwargs)

    def find(self, pattern: ArgPattern) -> _Compiled | _Own:
        """The form that fits the module as it is now, made if there is none."""
        found = self._fitting(pattern)
        if found is None:
            with self._lock:  # Another thread may have made it by now.
                found = self._fitting(pattern) or self._make(pattern)
        return found

    def note(self, pattern: ArgPattern, values: Sequence[Tensor]) -> None:
        """Takes a call for the example of those to come: what an exported model says it takes."""
        self.example = pattern, [(tuple(value.shape), value.dtype) for value in values]

    def child(self, module: nn.Module) -> Callable[..., Any]:
        """What to call instead of a submodule: its unit, the same one at every call."""
        if isinstance(module, IsCompiled):
            return module
        with self._lock:
            unit = self._children.get(module)
            if unit is None:
                unit = self._children[module] = Unit(module, self._lower, self._report)
            return unit

    def plans(self) -> Iterator[tuple[nn.Module, Plan, Graph]]:
        """Of this module and each unit below it: the latest plan, and what became of the graph."""
        latest = self.latest()
        if latest is not None:
            yield self.module, latest.plan, latest.program.graph
        for child in list(self._children.values()):
            yield from child.plans()

    def own_forwards(self) -> Iterator[nn.Module]:
        """The modules, of this one and those below, that run their own forward."""
        if any(isinstance(m, _Own) for forms in self._made.values() for m in forms):
            yield self.module
        for child in list(self._children.values()):
            yield from child.own_forwards()

    def latest(self) -> _Compiled | None:
        """The program that ran last, or if none has the one made last."""
        made = [m for forms in self._made.values() for m in forms if isinstance(m, _Compiled)]
        return self._latest or (made[-1] if made else None)

    def _fitting(self, pattern: ArgPattern) -> _Compiled | _Own | None:
        return next((made for made in self._made.get(pattern, ()) if made.holds()), None)

    def _make(self, pattern: ArgPattern) -> _Compiled | _Own:
        compiled = [m for m in self.module.modules() if isinstance(m, IsCompiled)]
        with _disable_current_modes():  # A mode would see what tracing does, not what is traced.
            captured = capture_unit(self.module, pattern, compiled)
        if captured.losses:
            self._report(self.module, captured.losses)
        made: _Compiled | _Own
        if isinstance(captured, OwnForward):
            made = _Own(self.module, self._own_view())
        else:
            plan = self._lower(captured)
            units = {path: self.child(m) for path, m in captured.boundaries.items()}
            made = _Compiled(Program(self.module, captured.graph, units), plan, captured)
        self._drop_dead()
        forms = self._made.pop(pattern, [])
        # A number that changes from call to call makes a pattern each time.
        kept = list(self._made.items())[-_MOST_PATTERNS + 1 :]
        self._made = {**dict(kept), pattern: [*forms[-_MOST_PROGRAMS + 1 :], made]}
        return made

    def _drop_dead(self) -> None:
        """Lets go of programs and units whose submodules were replaced, and so of their weights."""
        alive = set(self.module.modules())
        self._made = {
            pattern: [made for made in forms if alive.issuperset(made.modules)]
            for pattern, forms in self._made.items()
        }
        if self._latest is not None and not alive.issuperset(self._latest.modules):
            self._latest = None
        self._children = {m: unit for m, unit in self._children.items() if m in alive}

    def _own_view(self) -> Any:
        return own_forward_view(self.module, self.child)


def _takes(function: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


class _Compiled:
    """A program and the state it was made for."""

    def __init__(self, program: Program, plan: Plan, capture: Capture) -> None:
        self.program = program
        self.plan = plan
        self.holds = capture.guards.holds
        self.modules = {*capture.leaves.values(), *capture.boundaries.values()}


class _Own:
    """The module's own forward on a view with compiled children."""

    def __init__(self, module: nn.Module, view: Any) -> None:
        self.view = view
        self.modules: set[nn.Module] = set()
        self._module = module
        self._training = module.training

    def holds(self) -> bool:
        return self._module.training == self._training
