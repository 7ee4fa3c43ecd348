"""Ops that stay eager's own, what they save being kept by a handle.

    n = layer_norm(x)     ->     n = layer_norm(x)
                                 s = fxpass.rerun_layer_norm(x, t, ...)   (if the plan restores n)
                                 u = fxpass.bind(s, n)
                                 fxpass.keep_input(n, x, t)

    p = sigmoid(x)        ->     s = fxpass.rerun_activation(x, t, "sigmoid")
                                 p = sigmoid(x)
                                 u = fxpass.bind(s, p)
                                 fxpass.keep_result(p, x, u)

Without a handle there is nothing to gain, and the call is alone.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context
from fxpass.rewrite.rerun import begin_rerun, end_rerun


def rewrite_saved_input(context: Context, call: Call) -> Node:
    """Rewrites layer_norm, group_norm, instance_norm, prelu and glu."""
    value, new = call.arguments["input"], call.node
    after = new.next
    # Behind the call, which raises eager's error if the value is no tensor.
    end_rerun(context, begin_rerun(context, call, after), new)
    handle = context.handle(value)
    if handle is not None:
        context.insert(after, "keep_input", [new, value, handle])
    return new


def rewrite_saved_result(context: Context, call: Call) -> Node:
    """Rewrites sigmoid, tanh, softmax, log_softmax and Softmax2d."""
    new = call.node
    end_rerun(context, begin_rerun(context, call), new)
    handle = context.handle(new)
    if handle is not None:
        context.insert(handle.next, "keep_result", [new, call.arguments["input"], handle])
    return new
