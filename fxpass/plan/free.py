"""The free plan: the cheapest exact recipe of each value, nothing heavier than a norm re-run.

Which values are kept is the cheapest cut between what cannot be made again (the results of
convolutions, products of matrices, unknown ops) and what backward reads (plan/cut.py). All others
are restored from those kept. What a norm keeps for itself pays for the activation behind it; the
pieces of a DenseNet's concatenations pay for the concatenations.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.edges import Edges
from fxpass.plan.cut import cheapest_to_keep
from fxpass.plan.plan import Plan
from fxpass.plan.recipes import Kept, recipes
from fxpass.plan.values import Mask, Values

_MASK_SHARE = 1 / 32
"""What a mask takes of the dense value."""


def free_plan(edges: Edges) -> Plan:
    """A recipe for every value that is saved, or from which a saved one is restored."""
    values = Values(edges)
    return recipes(values, cheapest(values))


def cheapest(values: Values) -> Kept:
    """The cheapest values to keep, and those of which a mask is kept.

    A mask can be made of the value itself, if that is there for others.
    """
    made_of: dict[Node | Mask, list[Node]] = dict(values.sources.items())
    costs: dict[Node | Mask, float] = dict(values.costs().items())
    for mask, value in values.masks.items():
        made_of[mask], costs[mask] = [value], values.sizes[value] * _MASK_SHARE
    needed: list[Node | Mask] = [*values.needed, *values.masks]
    kept = cheapest_to_keep(made_of, costs, needed)
    masked = {value for mask, value in values.masks.items() if mask in kept}
    return Kept({value for value in kept if isinstance(value, Node)}, masked)
