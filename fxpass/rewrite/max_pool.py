"""Max pools that keep a code per output instead of their input and int64 indices.

p = max_pool2d(y, 2)           ->     p = fxpass.max_pool2d(y, 2)

y = relu(x)                    ->     p = fxpass.relu_max_pool2d(x, 2)
p = max_pool2d(y, 2)                  (where nothing else reads x or y)
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context, dims_of, ints
from fxpass.rewrite.rerun import begin_rerun, end_rerun
from fxpass.runtime.hooked import relu_max_pool_after_hooks


def rewrite_max_pool(context: Context, call: Call) -> Node:
    """Rewrites max_pool1d, max_pool2d and max_pool3d, with or without indices."""
    a, n, at = call.arguments, dims_of(call), call.node
    args = [ints(a[name], n) for name in ("kernel_size", "stride", "padding", "dilation")]
    args.append(a["ceil_mode"])
    if a["return_indices"]:
        pair = context.op(call, f"{call.op.name}_with_indices", [a["input"], *args])
        return context.replace(at, pair)
    relu = context.fused_relu(call)
    if relu is not None:
        context.rewriting(relu.node, at)
    rerun = begin_rerun(context, call)
    if relu is None:
        value = context.replace(at, context.op(call, call.op.name, [a["input"], *args]))
    else:
        args = [relu.arguments["input"], *args]
        if context.edges.writes_what_hooks_saw(context.edges.calls[relu.node]):
            value = context.python(
                call, relu_max_pool_after_hooks, [args[0], call.op.name, *args[1:]]
            )
        else:
            args.append(relu.arguments["inplace"])
            value = context.op(call, f"relu_{call.op.name}", args)
        context.replace(at, value)
        context.graph.erase_node(relu.node)
    end_rerun(context, rerun, value)
    return value


def rewrite_adaptive_max_pool(context: Context, call: Call) -> Node:
    """Rewrites adaptive_max_pool1d, adaptive_max_pool2d and adaptive_max_pool3d."""
    n, at = dims_of(call), call.node
    size = call.arguments["output_size"]
    if None in ints(size, n):
        return at  # a size taken from the input: torch.nn.functional resolves it
    args = [call.arguments["input"], ints(size, n)]
    if call.arguments["return_indices"]:
        return context.replace(at, context.op(call, call.op.name, args))
    if call.hooked:
        return at  # the hooks see one value, the operator gives two
    pair = context.op(call, call.op.name, args)
    return context.replace(at, context.first(at, pair))
