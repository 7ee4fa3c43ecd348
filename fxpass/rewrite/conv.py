"""Convolution that keeps its input by its handle.

    c = conv2d(y, w, b)     ->     c = fxpass.conv2d(y, s, w, b)

A padding mode other than zeros is a pad of its own, as in torch.nn:

    c = Conv2d(padding_mode="circular")(y)   ->   p, t = fxpass.pad(y, s, ...)
                                                  c = fxpass.conv2d(p, t, w, b)
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context, dims_of, ints
from fxpass.rewrite.rerun import rerun_layer


def rewrite_conv(context: Context, call: Call) -> Node:
    """Rewrites conv1d, conv2d and conv3d."""
    n, at = dims_of(call), call.node
    value, padding = call.arguments["input"], call.arguments["padding"]
    handle = context.handle(value)
    mode = getattr(call.module, "padding_mode", "zeros")
    if mode != "zeros" and call.hooked:
        return at  # the hooks enclose two ops
    if mode != "zeros":
        module: Any = call.module
        pad = list(module._reversed_padding_repeated_twice)
        value = context.op_with_handle(call, "pad", [value, handle, pad, mode, None])
        handle, padding = context.handle(value), 0
    weight, bias = context.parameter(call, "weight"), context.parameter(call, "bias")
    if not isinstance(padding, str):
        padding = ints(padding, n)
    stride, dilation = ints(call.arguments["stride"], n), ints(call.arguments["dilation"], n)
    args = [value, handle, weight, bias, stride, padding, dilation, call.arguments["groups"]]
    new = context.replace(at, context.op(call, call.op.name, args))
    rerun_layer(context, call, new)
    return new
