"""Linear that keeps its input by its handle.

    f = linear(y, w, b)     ->     f = fxpass.linear(y, s, w, b)

Without a handle there is nothing to gain, and the call stays.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context
from fxpass.rewrite.rerun import rerun_layer


def rewrite_linear(context: Context, call: Call) -> Node:
    """Rewrites linear."""
    value = call.arguments["input"]
    handle = context.handle(value)
    if handle is None and not context.restores(call.node):
        return call.node
    args = [value, handle, context.parameter(call, "weight"), context.parameter(call, "bias")]
    new = context.replace(call.node, context.op(call, "linear", args))
    rerun_layer(context, call, new)
    return new
