"""Products that keep their factors by their handles.

p = a * b     ->     p = fxpass.mul(a, s, b, t)
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context
from fxpass.rewrite.rerun import begin_rerun, end_rerun


def rewrite_mul(context: Context, call: Call) -> Node:
    """Rewrites the product of two tensors, one of which has a handle."""
    new = call.node
    rerun = begin_rerun(context, call)
    handles = [context.handle(v) for v in call.inputs]
    if any(handles) and len(handles) == 2 and all(map(context.is_tensor, call.inputs)):
        a, b = call.inputs
        new = context.replace(new, context.op(call, "mul", [a, handles[0], b, handles[1]]))
    end_rerun(context, rerun, new)
    return new
