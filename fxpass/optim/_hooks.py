"""The hook of a parameter that is updated inside backward."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, optim


class Updates(Protocol):
    """What a hook calls."""

    def update(self, parameter: Tensor) -> None:
        """Updates the parameter, whose gradient is whole."""

    def optimizer(self) -> optim.Optimizer | None:
        """None once the user has dropped it."""


class Hook:
    """Hands a parameter with its gradient to what updates it, for as long as that is alive."""

    def __init__(self, updates: Updates) -> None:
        self._updates = weakref.ref(updates)

    def __call__(self, parameter: Tensor) -> None:
        if (updates := self._updates()) is not None:
            updates.update(parameter)

    def is_live(self) -> bool:
        """Whether the optimizer is still there."""
        updates = self._updates()
        return updates is not None and updates.optimizer() is not None


def is_hooked(parameter: Tensor) -> bool:
    """Whether something updates the parameter inside backward."""
    hooks = parameter._post_accumulate_grad_hooks or {}
    return any(isinstance(h, Hook) and h.is_live() for h in hooks.values())


@contextmanager
def paused(tensors: Iterable[Tensor]) -> Iterator[None]:
    """In the block, gradients of these tensors are accumulated and nothing is updated."""
    taken = []
    for tensor in tensors:
        hooks = tensor._post_accumulate_grad_hooks
        if hooks and any(isinstance(h, Hook) for h in hooks.values()):
            taken.append((hooks, dict(hooks)))
            for key in [key for key, h in hooks.items() if isinstance(h, Hook)]:
                del hooks[key]
    try:
        yield
    finally:
        for hooks, before in taken:
            hooks.clear()
            hooks.update(before)
