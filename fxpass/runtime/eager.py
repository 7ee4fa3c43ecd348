"""When the unmodified forward runs instead of the compiled one."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext


def runs_eagerly() -> bool:
    """Whether nothing would be gained now, or the C++ autograd nodes could not follow.

    Modes that see each call of torch's (to count, trace or replace it) have to see those that the
    model makes, and not ours; `torch.set_default_device` is one that does not mind.
    """
    return (
        not torch.is_grad_enabled()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch._C._len_torch_function_stack() > 0 and _calls_are_watched())
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )


def _calls_are_watched() -> bool:
    return any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())
