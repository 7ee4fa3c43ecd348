"""fxpass operators where modules have hooks: in place of a hooked forward, and after one."""

from __future__ import annotations

import sys
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


def relu_max_pool_after_hooks(x: Any, pool: str, *args: Any) -> Any:
    """torch.ops.fxpass.<pool>(relu_(x), *args), of an x that hooks have seen.

    The one op for both does not write to x: it is called only if no hook holds on to x, in any way,
    nor eager would refuse to write to it.
    """
    references = sys.getrefcount(x)
    if references == _references_of_a_local() and _is_alone(x):
        return getattr(torch.ops.fxpass, f"relu_{pool}")(x, *args, True)
    y, _ = torch.ops.fxpass.relu_(x)
    return getattr(torch.ops.fxpass, pool)(y, *args)


def _references_of(x: Any) -> int:
    return sys.getrefcount(x)


def _references_of_a_local() -> int:
    """What sys.getrefcount says of an argument that the caller alone has, in one variable.

    Asked anew each time: one more where Dynamo watches the frames, or has left its watch behind.
    """
    x = object()
    return _references_of(x)


def _owners_of_storage(x: torch.Tensor) -> tuple[int, int]:
    """References to the object that stands for x's storage, and owners of the storage."""
    storage = x.untyped_storage()
    return _references_of(storage), torch._C._storage_Use_Count(storage._cdata)


def _is_alone(x: Any) -> bool:
    """Whether nothing but references to it can see x or its elements, and writing is allowed."""
    if type(x) is not torch.Tensor or (x.is_leaf and x.requires_grad):
        return False
    return _owners_of_storage(x) == _owners_of_storage(torch.empty(1))
