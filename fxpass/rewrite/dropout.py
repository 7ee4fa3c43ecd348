"""Dropout that keeps its mask as bits.

    y = dropout(x)                ->     y = dropout(x)
                                         z = fxpass.pack_noise(y)

    y = stochastic_depth(x, p)    ->     n = fxpass.stochastic_depth_noise(x, p, True)
                                         y = mul(x, n)

The random numbers are eager's own, drawn at the same place. pack_noise returns what it is given.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context
from fxpass.rewrite.rerun import end_rerun


def rewrite_dropout(context: Context, call: Call) -> Node:
    """Packs the noise of dropout, dropout1d ... and alpha_dropout."""
    context.insert(call.node.next, "pack_noise", [call.node])
    return call.node


def rewrite_stochastic_depth(context: Context, call: Call) -> Node:
    """Spells out torchvision.ops.stochastic_depth, so that its product can be run again."""
    if not context.restores(call.node):
        return call.node
    a = call.arguments
    x = a["input"]
    noise = context.insert(call.node, "stochastic_depth_noise", [x, a["p"], a["mode"] == "row"])
    args = [x, context.handle(x), context.keeps(x), noise, None, True]
    rerun = context.insert(call.node, "rerun_mul", args)
    product = context.insert(call.node, "mul", [x, None, noise, None])
    new = context.replace(call.node, product)
    end_rerun(context, rerun, new)
    return new
