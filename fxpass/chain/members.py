"""What steps change beside their states: buffers and plain attributes of modules.

A batch norm's statistics, a counter. A step that is run again must find them as it did the first
time, and afterwards they must be as if it had not run.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fxpass._oracle import integers
from fxpass._preserved import plain_attributes

_DEPTH = 4  # of containers and objects around a module


class Members:
    """Buffers and plain attributes of some modules, as they were at one moment."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._plain = [(module, plain_attributes(module)) for module in modules]
        self._buffers = [
            (module, name, buffer, None if buffer is None else buffer.detach().clone())
            for module, _ in self._plain
            for name, buffer in module._buffers.items()
        ]

    def forget_unchanged(self) -> None:
        """Lets go of the copies of buffers that are now as they were."""
        self._buffers = [entry for entry in self._buffers if _is_changed(*entry)]

    def restore(self) -> None:
        """Makes them what they were; a buffer that did not change is not written to."""
        for module, plain in self._plain:
            module.__dict__.update(plain)
        for module, name, buffer, value in self._buffers:
            if _is_changed(module, name, buffer, value):
                module._buffers[name] = buffer
                if buffer is not None and value is not None:
                    # Through .data: statistics are written to without a new version by eager too.
                    buffer.data.copy_(value)


def _is_changed(module: nn.Module, name: str, buffer: Tensor | None, value: Tensor | None) -> bool:
    now = module._buffers.get(name)
    if now is not buffer:
        return True
    if now is None or value is None:
        return False
    return not torch.equal(integers(now), integers(value))


def modules_of(step: Callable[..., Any]) -> list[nn.Module]:
    """The modules that a step is, is bound to, closes over, or names as a global."""
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    todo: list[tuple[Any, int]] = [(step, 0)]
    while todo:
        item, depth = todo.pop()
        if id(item) in seen or depth > _DEPTH:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            found |= {id(module): module for module in item.modules()}
        else:
            todo += [(part, depth + 1) for part in _parts(item)]
    return list(found.values())


def _parts(item: Any) -> Iterator[Any]:
    if isinstance(item, types.FunctionType):
        for cell in item.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # it is empty yet
                continue
        yield from item.__defaults__ or ()
        yield from (item.__kwdefaults__ or {}).values()
        named = (item.__globals__.get(name) for name in item.__code__.co_names)
        yield from (value for value in named if isinstance(value, nn.Module))
    elif isinstance(item, types.MethodType):
        yield from (item.__self__, item.__func__)
    elif isinstance(item, functools.partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, (list, tuple)):
        yield from item
    elif isinstance(item, dict):
        yield from item.values()
    elif not isinstance(item, (type, types.ModuleType, Tensor)):
        yield from getattr(item, "__dict__", {}).values()
