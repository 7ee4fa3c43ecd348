"""Batch norm whose result is restored from the input that it keeps.

    b = batch_norm(x)     ->     b, s = fxpass.batch_norm(x, t, weight, bias, ...)

    b = batch_norm(x)     ->     y, s = fxpass.batch_norm(x, t, weight, bias, ..., "silu")
    y = silu(b)                  (where nothing else reads b)

The operator counts the batch and checks the shape as the module does.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context, dims_of
from fxpass.rewrite.rerun import activation_args


def rewrite_batch_norm(context: Context, call: Call) -> Node:
    """Rewrites batch_norm and the modules BatchNorm1d, BatchNorm2d and BatchNorm3d."""
    a, module = call.arguments, call.module
    value = a["input"]
    if a["eps"] <= 0:
        return call.node  # torch.nn.functional has an opinion on that
    affine = [context.parameter(call, name) for name in ("weight", "bias")]
    stats: list[Any] = [context.parameter(call, n) for n in ("running_mean", "running_var")]
    if module is None:
        training, momentum, count, dims = a["training"], a["momentum"], None, 0
    else:
        training = module.training or _has_no_statistics(module)
        tracks = module.training and module.track_running_stats
        momentum = context.attribute(call, "momentum")
        count = context.parameter(call, "num_batches_tracked") if tracks else None
        if module.training and not tracks:
            stats = [None, None]
        dims = dims_of(call)
    after = context.activation_after(call)
    activation: tuple[Any, ...] = ()
    if after is not None:
        context.rewriting(call.node, after.node)
        activation = (*activation_args(after), after.arguments.get("inplace", False))
    args = [value, context.handle(value), *affine, *stats, count, training, momentum, a["eps"]]
    new = context.op_with_handle(call, "batch_norm", [*args, dims, *activation])
    if after is not None:
        context.replace(after.node, new)
    return context.replace(call.node, new)


def _has_no_statistics(module: Any) -> bool:
    return module.running_mean is None and module.running_var is None
