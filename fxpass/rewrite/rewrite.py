"""The pass: each call of a known op is handed, in order, to the rewrite of that op."""

from __future__ import annotations

from collections.abc import Collection

from fxpass.edges import ACTIVATIONS, Call, Edges
from fxpass.plan import Plan, Recipe
from fxpass.rewrite.activation import rewrite_activation
from fxpass.rewrite.avg_pool import rewrite_adaptive_avg_pool, rewrite_avg_pool
from fxpass.rewrite.batch_norm import rewrite_batch_norm
from fxpass.rewrite.bitmap import add_bitmap
from fxpass.rewrite.context import Context, Rewrite
from fxpass.rewrite.conv import rewrite_conv
from fxpass.rewrite.conv_transpose import rewrite_conv_transpose
from fxpass.rewrite.dropout import rewrite_dropout, rewrite_stochastic_depth
from fxpass.rewrite.keep import rewrite_saved_input, rewrite_saved_result
from fxpass.rewrite.linear import rewrite_linear
from fxpass.rewrite.max_pool import rewrite_adaptive_max_pool, rewrite_max_pool
from fxpass.rewrite.mul import rewrite_mul
from fxpass.rewrite.pad import rewrite_pad
from fxpass.rewrite.relu import rewrite_relu
from fxpass.rewrite.rerun import rewrite_rerun

_REWRITES: dict[str, Rewrite] = {
    "relu": rewrite_relu,
    **{f"conv{n}d": rewrite_conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": rewrite_conv_transpose for n in (1, 2, 3)},
    "linear": rewrite_linear,
    **{f"max_pool{n}d": rewrite_max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": rewrite_avg_pool for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": rewrite_adaptive_avg_pool for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": rewrite_adaptive_max_pool for n in (1, 2, 3)},
    "pad": rewrite_pad,
    **dict.fromkeys(
        ("constant_pad", "zero_pad", "reflection_pad", "replication_pad", "circular_pad"),
        rewrite_pad,
    ),
    "batch_norm": rewrite_batch_norm,
    **{f"batch_norm{n}d": rewrite_batch_norm for n in (1, 2, 3)},
    **dict.fromkeys(ACTIVATIONS, rewrite_activation),
    **dict.fromkeys(
        ("layer_norm", "group_norm", "instance_norm", "prelu", "glu"), rewrite_saved_input
    ),
    **dict.fromkeys(
        ("sigmoid", "tanh", "softmax", "log_softmax", "softmax2d"), rewrite_saved_result
    ),
    "mul": rewrite_mul,
    "dropout": rewrite_dropout,
    "alpha_dropout": rewrite_dropout,
    "stochastic_depth": rewrite_stochastic_depth,
    **dict.fromkeys(("add", "add_", "cat", "contiguous"), rewrite_rerun),
}


def rewrite(edges: Edges, plan: Plan, only: Collection[str] | None = None) -> None:
    """Rewrites the graph of `edges` in place, as `plan` says. Unknown ops stay, in order.

    `only`: the names of the nodes to rewrite, the others staying as they are; None: all. A handle
    whose inputs have none holds nothing, and whoever it is given to keeps its tensor dense.
    """
    context = Context(edges, plan)
    for node in list(edges.graph.nodes):
        if context.is_done(node):
            continue
        context.rewriting(node)
        call = context.call(node)
        recipe = plan.recipe(node.name)
        value = node
        wanted = only is None or node.name in only
        if wanted and call is not None and call.op.name in _REWRITES:
            value = _REWRITES[call.op.name](context, call)
        if wanted and recipe is Recipe.BITMAP and context.handle(value) is None:
            add_bitmap(context, value)
        elif call is not None and _may_alias(call) and context.handle(value) is None:
            context.share_handle(call.inputs[0], value)
    edges.graph.lint()


def _may_alias(call: Call) -> bool:
    return call.op.shares_storage and not call.writes and bool(call.inputs)
