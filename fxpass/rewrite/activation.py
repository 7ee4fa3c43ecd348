"""Activations that keep their input by its handle.

    z = silu(y)     ->     z = fxpass.activation(y, s, "silu")

Without a handle there is nothing to gain, and the call stays.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context
from fxpass.rewrite.rerun import activation_args, begin_rerun, end_rerun


def rewrite_activation(context: Context, call: Call) -> Node:
    """Rewrites the elementwise activations whose backward reads their input."""
    value = call.arguments["input"]
    rerun = begin_rerun(context, call)
    new, handle = call.node, context.handle(value)
    inplace = bool(call.arguments.get("inplace"))
    name, args = activation_args(call)
    if handle is not None and not (inplace and name in _NOT_IN_PLACE):
        op = "activation_" if inplace else "activation"
        new = context.replace(new, context.op(call, op, [value, handle, name, args]))
    end_rerun(context, rerun, new)
    return new


_NOT_IN_PLACE = ("celu", "elu", "leaky_relu", "selu", "threshold")
"""In place, eager's backward of these reads the result."""
