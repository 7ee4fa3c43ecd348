"""Padding that is done again from the restored input.

p = pad(y, ...)                p, t = fxpass.pad(y, s, ...)
c = conv2d(p, w)        ->     c = fxpass.conv2d(p, t, w)
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context


def rewrite_pad(context: Context, call: Call) -> Node:
    """Rewrites torch.nn.functional.pad, and ConstantPad2d, ReflectionPad2d and so on."""
    a = call.arguments
    amounts = list(a["pad"] if call.module is None else a["padding"])
    args = [a["input"], context.handle(a["input"]), amounts, a["mode"], a["value"]]
    if call.op.name == "circular_pad":
        args.append(len(amounts) // 2)  # these modules look at the dimensions of their input
    return context.replace(call.node, context.op_with_handle(call, "pad", args))
