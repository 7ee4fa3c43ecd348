"""What kind of node a module becomes in a graph: leaf, boundary or inlined."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as nn_module

HOOK_DICTS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The attributes of a module that hold the hooks which run when it is called."""


_WRAPPERS = frozenset(
    (
        "torch.nn.parallel.data_parallel.DataParallel",
        "torch.nn.parallel.distributed.DistributedDataParallel",
        "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
    )
)
"""By name: not all of them can be imported everywhere, and who uses one has imported it."""


def has_hooks(module: nn.Module) -> bool:
    """Whether calling `module` runs a hook that was registered on it."""
    return any(getattr(module, name) for name in HOOK_DICTS)


def has_global_hooks() -> bool:
    """Whether calling any module runs a hook that was registered for all of them."""
    return bool(
        nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )


def is_overridden(module: nn.Module) -> bool:
    """Whether calling `module` does not run its class's forward, or only a compiled form of it."""
    return "forward" in module.__dict__ or module._compiled_call_impl is not None


def is_wrapper(module: nn.Module) -> bool:
    """Whether `module` only does something around the call of another, and computes nothing.

    What it does (buffers are sent around, gradients prepared to be) is its own, at each call: there
    is nothing to trace, and nothing is lost when it runs as it is and the other one is compiled.
    """
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__}
    return not names.isdisjoint(_WRAPPERS)


def is_leaf(module: nn.Module) -> bool:
    """Whether a call of `module` is one node: torch's own modules and TorchScript."""
    if isinstance(module, torch.jit.ScriptModule):
        return True
    if is_wrapper(module):
        return False
    home = type(module).__module__
    is_torchs = home.startswith(("torch.nn.", "torch.ao.nn."))
    return is_torchs and not isinstance(module, nn.Sequential)
