"""Padding that is done again from the restored input.

p = pad(y, ...)                p, t = fxpass.pad(y, s, ...)
c = conv2d(p, w)        ->     c = fxpass.conv2d(p, t, w)
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context


def rewrite_pad(context: Context, call: Call) -> Node:
    """Rewrites torch.nn.functional.pad."""
    a = call.arguments
    args = [a["input"], context.handle(a["input"]), list(a["pad"]), a["mode"], a["value"]]
    return context.replace(call.node, context.op_with_handle(call, "pad", args))
