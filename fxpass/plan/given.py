"""The free plan of a model of which the user wants some values kept dense.

An op that computes or saves such a value is taken for one that the table does not know. Of those
the planner expects the worst already, so that what it makes of the rest fits: nothing is restored
from a value that such an op may write to, and what it reads stays dense.
"""

from __future__ import annotations

from collections.abc import Collection

from fxpass.edges import Edges
from fxpass.plan.free import free_plan
from fxpass.plan.plan import Choice, Plan, Recipe


def plan_as_given(edges: Edges, given: Plan) -> tuple[Edges, Plan]:
    """The free plan in which all that is dense in `given` is; and the edges that it is of.

    Other recipes in `given` bind nobody. Values that the graph does not have are passed over.
    """
    asked = {choice.value for choice in given if choice.fixed}
    found = _with_dense(edges, asked)
    # In a plan of the user's own making a value may be dense without being marked. One that the
    # free plan keeps dense by itself was not asked for.
    dense = {choice.value for choice in given if choice.recipe is Recipe.DENSE}
    more = dense & _cheaper(free_plan(edges)) & _cheaper(found[1])
    return _with_dense(edges, asked | more) if more else found


def _cheaper(plan: Plan) -> set[str]:
    return {choice.value for choice in plan if choice.recipe is not Recipe.DENSE}


def _with_dense(edges: Edges, values: Collection[str]) -> tuple[Edges, Plan]:
    left: set[str] = set()
    chosen: dict[str, Choice] = {}
    while True:
        rest = edges.without(left)
        plan = free_plan(rest)
        # What was never there, being part of one op with another, is a value once that is not.
        for choice in plan:
            if choice.value in values:
                chosen.setdefault(choice.value, choice.dense())
        wanted = {op for choice in chosen.values() for op in choice.ops}
        if wanted <= left:
            break
        left |= wanted
    by_value = {choice.value: choice for choice in plan} | chosen
    order = [node.name for node in edges.graph.nodes]
    return rest, Plan(tuple(by_value[name] for name in order if name in by_value))
