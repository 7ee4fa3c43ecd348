"""A plan that was made for a memory budget, on another graph of the same model."""

from __future__ import annotations

from dataclasses import replace

from fxpass.edges import Edges
from fxpass.plan.plan import Plan, Recipe
from fxpass.plan.recipes import Kept, recipes
from fxpass.plan.values import Values


def plan_followed(edges: Edges, given: Plan) -> Plan | None:
    """The plan in which is kept what `given` keeps, and run again what it runs again.

    None if that is not enough for this graph: one of another mode, or for another form of call; and
    if values were asked to be dense.
    """
    if any(choice.fixed for choice in given):
        return None
    values = Values(edges, {c.value for c in given if c.recipe is Recipe.RERUN})
    kept = {node for node in values.nodes if given.keeps(node.name)}
    masks = {node for node in values.masks.values() if given.recipe(node.name) is Recipe.MASK}
    there = kept | {node for node in values.nodes if node.op == "placeholder"}
    for node in values.nodes:
        sources = values.sources.get(node)
        if sources is not None and there.issuperset(sources):
            there.add(node)
    if not there.issuperset(values.needed):
        return None
    if not there.union(masks).issuperset(values.masks.values()):
        return None
    serves = {node: given.serves(node.name) for node in values.nodes if given.serves(node.name)}
    plan = recipes(values, Kept(kept, masks, serves))
    reasons = {(c.value, c.recipe): c.reason for c in given}
    return Plan(tuple(replace(c, reason=reasons.get((c.value, c.recipe), c.reason)) for c in plan))
