"""What a function that runs a user's model asks of it first."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy


def require_values(model: Any, function: str) -> None:
    """Raises unless `model` is a module whose parameters and buffers have values.

    Args:
        model: what the user gave.
        function: the name under which the user called, for the message.

    Raises:
        TypeError: it is no nn.Module.
        ValueError: a lazy module was not called yet.

    """
    if not isinstance(model, nn.Module):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"{function}: expected model to be an nn.Module, got {kind}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{function}: expected a model with values to start from, got {name!r}"
                " uninitialized: call the model (a lazy module) once with these inputs first"
            )
