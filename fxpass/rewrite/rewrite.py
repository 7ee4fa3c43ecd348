"""The pass: each call of a known op is handed, in order, to the rewrite of that op."""

from __future__ import annotations

from fxpass.edges import Edges
from fxpass.plan import Plan, Recipe
from fxpass.rewrite.avg_pool import rewrite_adaptive_avg_pool, rewrite_avg_pool
from fxpass.rewrite.bitmap import add_bitmap
from fxpass.rewrite.context import Context, Rewrite
from fxpass.rewrite.conv import rewrite_conv
from fxpass.rewrite.linear import rewrite_linear
from fxpass.rewrite.max_pool import rewrite_adaptive_max_pool, rewrite_max_pool
from fxpass.rewrite.pad import rewrite_pad
from fxpass.rewrite.relu import rewrite_relu

_REWRITES: dict[str, Rewrite] = {
    "relu": rewrite_relu,
    **{f"conv{n}d": rewrite_conv for n in (1, 2, 3)},
    "linear": rewrite_linear,
    **{f"max_pool{n}d": rewrite_max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": rewrite_avg_pool for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": rewrite_adaptive_avg_pool for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": rewrite_adaptive_max_pool for n in (1, 2, 3)},
    "pad": rewrite_pad,
}


def rewrite(edges: Edges, plan: Plan) -> None:
    """Rewrites the graph of `edges` in place, as `plan` says. Unknown ops stay, in order."""
    context = Context(edges, plan)
    for node in list(edges.graph.nodes):
        call = context.call(node)
        recipe = plan.recipe(node.name)
        value = node
        if call is not None and call.op.name in _REWRITES:
            value = _REWRITES[call.op.name](context, call)
        elif call is not None and call.op.shares_storage and call.inputs:
            context.share_handle(call.inputs[0], value)
        if recipe is Recipe.BITMAP and context.handle(value) is None:
            add_bitmap(context, value)
    edges.graph.lint()
