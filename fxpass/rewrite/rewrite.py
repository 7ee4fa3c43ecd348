"""The pass: each call of a known op is handed, in order, to the rewrite of that op."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

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
from fxpass.rewrite.hold import hold
from fxpass.rewrite.keep import rewrite_saved_input, rewrite_saved_result
from fxpass.rewrite.linear import rewrite_linear
from fxpass.rewrite.max_pool import rewrite_adaptive_max_pool, rewrite_max_pool
from fxpass.rewrite.mul import rewrite_mul
from fxpass.rewrite.pad import rewrite_pad
from fxpass.rewrite.page import add_page
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


def rewrite(
    edges: Edges,
    plan: Plan,
    only: Collection[str] | None = None,
    page_dir: str | None = None,
) -> None:
    """Rewrites the graph of `edges` in place, as `plan` says. Unknown ops stay, in order.

    `only`: the names of the nodes to rewrite, None for all. The others stay as they are, and have a
    bitmap in place of what the plan would restore, so that what reads them is rewritten as ever.
    `page_dir`: the directory for the values that the plan pages.
    """
    if only is not None:
        plan = _for_some(edges, plan, only)
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
        if recipe is Recipe.BITMAP and context.handle(value) is None:
            add_bitmap(context, value)
        elif recipe is Recipe.PAGE and context.handle(value) is None:
            add_page(context, value, page_dir)
        elif call is not None and _may_alias(call) and context.handle(value) is None:
            context.share_handle(call.inputs[0], value)
        if plan.serves(node.name):
            hold(context, value, plan.serves(node.name))
    edges.graph.lint()


def _for_some(edges: Edges, plan: Plan, only: Collection[str]) -> Plan:
    """The plan with a bitmap of what is not in `only`, if something in `only` reads its handle."""
    recipes: dict[str, Recipe] = {}
    for node in edges.graph.nodes:
        handed_on = plan.restores(node.name) or plan.recipe(node.name) is Recipe.BITMAP
        if node.name in only or not handed_on:
            continue
        readers = {user.name for member in edges.storage(node) for user in member.users}
        # Nobody may hold on to what is written to later.
        safe = not edges.strangers(node) and not edges.writers(node)
        wanted = safe and not readers.isdisjoint(only)
        recipes[node.name] = Recipe.BITMAP if wanted else Recipe.NOTHING
    choices = (replace(c, recipe=recipes.get(c.value, c.recipe)) for c in plan)
    return Plan(tuple(choices))


def _may_alias(call: Call) -> bool:
    return call.op.shares_storage and not call.writes and bool(call.inputs)
