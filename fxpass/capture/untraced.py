"""What is watched while a forward is traced, besides calls: untraced tensors and assignments."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn, overrides
from torch.overrides import TorchFunctionMode

from fxpass.capture.losses import is_importing
from fxpass.capture.values import IN_PLACE, Value

if TYPE_CHECKING:
    from fxpass.capture.tracer import Tracer

_HARMLESS = frozenset({torch._assert})


class NoUntracedTensors(TorchFunctionMode):
    """Stops operations on real tensors only: what they give would be frozen into the trace."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _has_value(args) or _has_value(kwargs) or func in _HARMLESS:
            return func(*args, **kwargs)
        if is_importing(inspect.currentframe()):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        self._tracer.lose(
            f"calls torch's {name} on nothing traced: the trace would freeze the result",
            inspect.currentframe(),
        )


@contextmanager
def without_modes() -> Iterator[None]:
    """Takes the caller's function modes (a default device) off: they see the ops at run time."""
    with ExitStack() as stack:
        while overrides._len_torch_function_stack():
            stack.enter_context(overrides._pop_mode_temporarily())
        yield


def _has_value(arg: Any) -> bool:
    if isinstance(arg, (tuple, list)):
        return any(map(_has_value, arg))
    if isinstance(arg, dict):
        return any(map(_has_value, arg.values()))
    return isinstance(arg, fx.Proxy)


@contextmanager
def recording_assignments(tracer: Tracer) -> Iterator[None]:
    """Stops assignments to the attributes of modules, except for `self.buffer += x`.

    There Python assigns the tensor that was changed in place to the attribute that holds it.
    """
    original = nn.Module.__setattr__

    def assign(module: nn.Module, name: str, value: Any) -> None:
        frame = inspect.currentframe()
        if threading.get_ident() != tracer.thread or is_importing(frame):
            original(module, name, value)
        elif not _is_in_place(module, name, value, tracer):
            tracer.lose(f"assigns its attribute '{name}'", frame)

    nn.Module.__setattr__ = assign  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]


def _is_in_place(module: nn.Module, name: str, value: Any, tracer: Tracer) -> bool:
    if type(value) is not Value or getattr(value.node.target, "__name__", "") not in IN_PLACE:
        return False
    changed = value.node.args[0]
    held = module._parameters.get(name, module._buffers.get(name))
    return (
        isinstance(changed, fx.Node)
        and changed.op == "get_attr"
        and held is not None
        and tracer.tensor_names.get(id(held)) == changed.target
    )
