"""An optimizer's own code on one of its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, optim

_NONE = object()


def step_one(optimizer: optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> None:
    """The optimizer's own `step`, without its hooks, as if it had this one parameter."""
    kind: Any = type(optimizer)
    # torch.optim.Optimizer wraps each class's `step` with the calls of the hooks, marked `hooked`.
    step = kind.step.__wrapped__ if getattr(kind.step, "hooked", False) else kind.step
    alone = dict(group, params=[parameter])
    of_one = object.__new__(kind)
    vars(of_one).update(vars(optimizer), param_groups=[alone])
    # For a subclass whose `step` calls its parent's, which is wrapped too.
    vars(of_one).update(_optimizer_step_pre_hooks={}, _optimizer_step_post_hooks={})
    options, attributes = dict(alone), dict(vars(of_one))
    with torch.autocast("cpu", enabled=False):
        step(of_one)
    written = [f"param_groups[...][{k!r}]" for k in alone if alone[k] is not options.get(k, _NONE)]
    written += [k for k, v in vars(of_one).items() if v is not attributes.get(k, _NONE)]
    if unknown := set(written) - {"_need_device_dtype_check_for_fused"}:
        raise TypeError(
            f"fxpass.optim.in_backward: step() of {kind.__qualname__} writes to"
            f" {', '.join(sorted(unknown))}, which all parameters have in common: it is not"
            " per_parameter; train with the plain loop"
        )


def order_states(optimizer: optim.Optimizer, before: int) -> None:
    """Orders new states as `step()` makes them, by parameters, as they will be in a state_dict."""
    new = set(list(optimizer.state)[before:])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in new:
                optimizer.state[parameter] = optimizer.state.pop(parameter)
