"""Ops that stay eager's own, what they save being kept by a handle.

    n = layer_norm(x)     ->     s = fxpass.rerun_layer_norm(x, t, ...)   (if the plan restores n)
                                 n = layer_norm(x)
                                 fxpass.keep_input(n, x, t)
                                 u = fxpass.bind(s, n)

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
    rerun = begin_rerun(context, call)
    handle = context.handle(value)
    if handle is not None:
        context.insert(new.next, "keep_input", [new, value, handle])
    end_rerun(context, rerun, new)
    return new


def rewrite_saved_result(context: Context, call: Call) -> Node:
    """Rewrites sigmoid, tanh, softmax and log_softmax."""
    new = call.node
    end_rerun(context, begin_rerun(context, call), new)
    handle = context.handle(new)
    if handle is not None:
        context.insert(handle.next, "keep_result", [new, call.arguments["input"], handle])
    return new
