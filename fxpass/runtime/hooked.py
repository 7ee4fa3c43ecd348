"""An fxpass operator in place of a hooked module's forward, its hooks called around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxpass.runtime.hooks import call_with_hooks


def call_hooked(module: nn.Module, op: str, late: dict[int, str], *args: Any) -> Any:
    """Calls torch.ops.fxpass.<op>(*args) as `module` would be called with args[0].

    Arguments at the positions in `late` are attributes of the module, read after its pre-hooks have
    run: pruning and weight normalisation compute the weight there. Hooks see the value alone; a
    handle that the operator returns beside it goes on as it is, and no longer fits if a hook
    replaces the value.
    """
    operator = getattr(torch.ops.fxpass, op)
    handle = None

    def forward(value: Any) -> Any:
        nonlocal handle
        given = [getattr(module, late[i]) if i in late else a for i, a in enumerate(args)]
        result = operator(value, *given[1:])
        if isinstance(result, tuple) and isinstance(result[-1], torch.ScriptObject):
            result, handle = result
        return result

    result = call_with_hooks(module, forward, args[:1], {})
    return result if handle is None else (result, handle)
