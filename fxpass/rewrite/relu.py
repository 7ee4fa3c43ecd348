"""ReLU that keeps bits.

    y = relu(x)                    y, s = fxpass.relu(x)
    c = conv2d(y, w)        ->     c = fxpass.conv2d(y, s, w)

The plan decides: "mask", "bitmap" and "re-run" are this op (the values are packed only when a
consumer claims them), "code" leaves the ReLU to the max pool that swallows it, "dense" leaves it as
it is.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.plan import Recipe
from fxpass.rewrite.context import Context
from fxpass.rewrite.rerun import begin_rerun, end_rerun


def rewrite_relu(context: Context, call: Call) -> Node:
    """Rewrites relu and relu_."""
    if context.recipe(call.node) not in (Recipe.MASK, Recipe.BITMAP, Recipe.RERUN):
        return call.node
    rerun = begin_rerun(context, call)
    name = "relu_" if call.arguments["inplace"] else "relu"
    value = context.op_with_handle(call, name, [call.arguments["input"]])
    context.replace(call.node, value)
    end_rerun(context, rerun, value)
    return value
