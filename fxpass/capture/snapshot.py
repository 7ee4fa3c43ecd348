"""`Snapshot`: the state that tracing could change, to find out whether it did, and to undo it.

What is recorded: the RNG of torch, Python and numpy; the grad, inference and autocast modes; the
version of every tensor; and the contents of every dict, list, set, deque and plain object that the
modules hold.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_SHARED = (nn.Module, type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)
_TRACING = (fx.Proxy, fx.Node, fx.Graph, fx.Tracer)  # the trace's own, met in closures
_DEPTH_LIMIT = 50
_TOTAL_LIMIT = 50_000  # A module may hold on to a whole data set; that is not searched.


class Snapshot:
    """The state at the time of its making."""

    def __init__(self, root: nn.Module) -> None:
        self._rng = _Rng()
        self._grad = torch.is_grad_enabled()
        self._seen: set[int] = set()
        self._containers: list[tuple[nn.Module, str, Any, Any]] = []
        self._tensors: list[tuple[nn.Module, str, Tensor, int]] = []
        classes: dict[type, nn.Module] = {}
        for module in root.modules():
            self._walk(module, "", module.__dict__, 0)
            classes.update(dict.fromkeys(type(module).__mro__, module))
        self._classes = [
            (module, cls, dict(cls.__dict__))
            for cls, module in classes.items()
            if not cls.__module__.startswith(("torch.", "builtins", "typing", "abc"))
        ]
        for module, _, members in self._classes:
            for name, value in members.items():
                self._walk(module, name, value, 1)

    def add_global(self, owner: nn.Module, name: str, value: Any) -> None:
        """Also watches what a global or closed-over variable holds that `owner` uses."""
        self._walk(owner, name, value, 1)

    def difference(self) -> tuple[nn.Module | None, str] | None:
        """The first thing that changed: the module that holds it, and a sentence fragment."""
        if self._rng.moved():
            return None, "draws random numbers that the trace would freeze"
        if torch.is_grad_enabled() is not self._grad:
            return None, "changes the grad mode"
        for owner, name, tensor, version in self._tensors:
            if _version(tensor) != version:
                return owner, f"changes the tensor '{name}' in place while it is traced"
        for owner, name, container, before in self._containers:
            changed = _changed(container, before)
            if changed is not None:
                return owner, f"changes '{changed or name}'"
        for owner, cls, members in self._classes:
            if not _same(list(cls.__dict__.items()), list(members.items())):
                return owner, f"changes an attribute of the class {cls.__name__}"
        return None

    def restore(self) -> None:
        """Puts everything back, except for the bytes of tensors."""
        self._rng.restore()
        torch.set_grad_enabled(self._grad)
        for _, _, container, before in self._containers:
            if _changed(container, before) is not None:
                _put_back(container, before)
        for _, cls, members in self._classes:
            for name in [n for n in cls.__dict__ if n not in members]:
                delattr(cls, name)
            for name, value in members.items():
                if cls.__dict__.get(name) is not value:
                    setattr(cls, name, value)

    def _walk(self, owner: nn.Module, name: str, value: Any, depth: int) -> None:
        kind = type(value)
        if kind in _PLAIN or isinstance(value, (*_SHARED, *_TRACING)) or id(value) in self._seen:
            return
        if depth > _DEPTH_LIMIT or len(self._seen) > _TOTAL_LIMIT:
            return
        if isinstance(value, Tensor):
            self._seen.add(id(value))
            self._tensors.append((owner, name, value, _version(value)))
            return
        children: list[tuple[str, Any]] = []
        if isinstance(value, dict):
            children = [(k if isinstance(k, str) else name, v) for k, v in value.items()]
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            children = [(name, v) for v in value]
        elif isinstance(getattr(value, "__dict__", None), dict):
            if not kind.__module__.startswith("torch."):
                self._walk(owner, name, value.__dict__, depth + 1)
            return
        else:
            return
        self._seen.add(id(value))
        if not isinstance(value, (tuple, frozenset)):
            before = list(value.items()) if isinstance(value, dict) else list(value)
            self._containers.append((owner, name, value, before))
        for child_name, child in children:
            self._walk(owner, child_name, child, depth + 1)


class _Rng:
    """The states of the random number generators that a forward could draw from."""

    def __init__(self) -> None:
        self._states = dict(self._read())

    def moved(self) -> bool:
        return any(
            not _same_state(state, self._states[name])
            for name, state in self._read()
            if name in self._states
        )

    def restore(self) -> None:
        torch.set_rng_state(self._states["torch"])
        random.setstate(self._states["random"])
        if "numpy" in self._states:
            sys.modules["numpy"].random.set_state(self._states["numpy"])
        if "cuda" in self._states:
            torch.cuda.set_rng_state_all(list(self._states["cuda"]))

    @staticmethod
    def _read() -> Iterator[tuple[str, Any]]:
        yield "torch", torch.get_rng_state()
        yield "random", random.getstate()
        if "numpy" in sys.modules:
            yield "numpy", sys.modules["numpy"].random.get_state()
        if torch.cuda.is_initialized():
            yield "cuda", torch.stack(torch.cuda.get_rng_state_all())


def _same_state(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else repr(a) == repr(b)


def _version(tensor: Tensor) -> int:
    # A global is met in the middle of a trace, whose modes would take these reads for the model's.
    with torch._C.DisableTorchFunction():
        return 0 if is_lazy(tensor) or tensor.is_inference() else tensor._version


def _changed(container: Any, before: list[Any]) -> str | None:
    """A name for what differs from `before`, '' where there is none, None if nothing does."""
    now = list(container.items()) if isinstance(container, dict) else list(container)
    if isinstance(container, set):
        return None if len(now) == len(before) and set(map(id, now)) == set(map(id, before)) else ""
    if _same(now, before):
        return None
    if not isinstance(container, dict):
        return ""
    was = dict(before)
    names = [k for k, v in now if k not in was or not _same([v], [was[k]])]
    return str(next(iter(names or [k for k in was if k not in container]), ""))


def _same(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(_equal, now, before))


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) in _PLAIN:
        return bool(a == b)
    return type(a) is tuple and _same(list(a), list(b))


def _put_back(container: Any, before: list[Any]) -> None:
    if not isinstance(container, dict):
        container.clear()
        (container.update if isinstance(container, set) else container.extend)(before)
        return
    was = dict(before)
    for name in [n for n in container if n not in was]:
        del container[name]
    for name, value in before:
        if name not in container or container[name] is not value:
            container[name] = value
