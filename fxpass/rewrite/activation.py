"""Activations that keep their input by its handle, or one bit an element of it.

    z = silu(y)     ->     z = fxpass.activation(y, s, "silu")

    z = relu6(y)    ->     z = fxpass.activation(y, None, "hardtanh", [0, 6], mask=True)

Without a handle, and where the plan keeps no mask, there is nothing to gain, and the call stays.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.plan import Recipe
from fxpass.rewrite.context import Context
from fxpass.rewrite.rerun import activation_args, begin_rerun, end_rerun


def rewrite_activation(context: Context, call: Call) -> Node:
    """Rewrites the elementwise activations whose backward reads their input."""
    value = call.arguments["input"]
    rerun = begin_rerun(context, call)
    new, inplace = call.node, call.writes
    mask = call.reads_bits and context.recipe_of_input(call) is Recipe.MASK
    handle = None if mask else context.handle(value)
    if mask or (handle is not None and not (inplace and call.op.inplace_saves_result)):
        name, args = activation_args(call)
        op = "activation_" if inplace else "activation"
        args_of_op = [value, handle, name, args, *([True] if mask else [])]
        new = context.replace(new, context.op(call, op, args_of_op))
    end_rerun(context, rerun, new)
    return new
