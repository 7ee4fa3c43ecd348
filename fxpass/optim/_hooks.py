"""The hook of a parameter that is updated inside backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakMethod, ref

from torch import Tensor, optim


class Hook:
    """Hands a parameter with its gradient to `update`, as long as that and the optimizer live."""

    def __init__(
        self, update: WeakMethod[Callable[[Tensor], None]], optimizer: ref[optim.Optimizer]
    ) -> None:
        self._update, self._optimizer = update, optimizer

    def __call__(self, parameter: Tensor) -> None:
        if self.is_live() and (update := self._update()):
            update(parameter)

    @property
    def optimizer(self) -> optim.Optimizer | None:
        """Whose update it makes; None if there is none any more."""
        return self._optimizer() if self.is_live() else None

    def is_live(self) -> bool:
        """Whether it still does anything."""
        return self._update() is not None and self._optimizer() is not None


def is_hooked(parameter: Tensor) -> bool:
    """Whether something updates the parameter inside backward."""
    return optimizer_of(parameter) is not None


def optimizer_of(parameter: Tensor) -> optim.Optimizer | None:
    """The optimizer that updates the parameter inside backward, if any."""
    hooks = parameter._post_accumulate_grad_hooks or {}
    found = (h.optimizer for h in hooks.values() if isinstance(h, Hook))
    return next((optimizer for optimizer in found if optimizer is not None), None)


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
