"""Transposed convolution that keeps its input by its handle.

c = conv_transpose2d(y, w, b)     ->     c = fxpass.conv_transpose2d(y, s, w, b)
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context, dims_of, ints
from fxpass.rewrite.rerun import rerun_layer


def rewrite_conv_transpose(context: Context, call: Call) -> Node:
    """Rewrites conv_transpose1d, conv_transpose2d and conv_transpose3d."""
    a, n = call.arguments, dims_of(call)
    value = a["input"]
    stride, padding, output_padding, dilation = (
        ints(a[name], n) for name in ("stride", "padding", "output_padding", "dilation")
    )
    weight, bias = context.parameter(call, "weight"), context.parameter(call, "bias")
    args = [value, context.handle(value), weight, bias, stride, padding, output_padding]
    new = context.op(call, call.op.name, [*args, a["groups"], dilation])
    new = context.replace(call.node, new)
    rerun_layer(context, call, new)
    return new
