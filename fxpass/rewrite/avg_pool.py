"""Average pools that keep nothing: backward reads only the shape of the input.

p = avg_pool2d(x, 2)               ->     p = fxpass.avg_pool2d(x, 2)
p = adaptive_avg_pool2d(x, 7)      ->     p = fxpass.adaptive_avg_pool2d(x, 7)
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context, dims_of, ints
from fxpass.rewrite.rerun import begin_rerun, end_rerun


def rewrite_avg_pool(context: Context, call: Call) -> Node:
    """Rewrites avg_pool1d, avg_pool2d and avg_pool3d."""
    a, n, at = call.arguments, dims_of(call), call.node
    args = [a["input"], *(ints(a[name], n) for name in ("kernel_size", "stride", "padding"))]
    args += [a["ceil_mode"], a["count_include_pad"]]
    if n > 1:
        args.append(a["divisor_override"])
    rerun = begin_rerun(context, call)
    new = context.replace(at, context.op(call, call.op.name, args))
    end_rerun(context, rerun, new)
    return new


def rewrite_adaptive_avg_pool(context: Context, call: Call) -> Node:
    """Rewrites adaptive_avg_pool1d, adaptive_avg_pool2d and adaptive_avg_pool3d."""
    n, at = dims_of(call), call.node
    size = ints(call.arguments["output_size"], n)
    if None in size:
        return at  # a size taken from the input: torch.nn.functional resolves it
    return context.replace(at, context.op(call, call.op.name, [call.arguments["input"], size]))
