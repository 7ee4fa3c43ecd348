"""Surveys of other ways to run the same ops."""

from __future__ import annotations

from dataclasses import replace

from fxpass.budget.probe import Cost, Gradient
from fxpass.budget.survey import Survey


def forward_only(found: Survey) -> Survey:
    """Under `torch.no_grad()`: nothing is kept, nothing has a backward."""
    costs = {
        key: replace(cost, own_bytes=0, saves=frozenset(), phases=(), gradients={})
        for key, cost in found.costs.items()
    }
    return replace(found, costs=costs, restores={})


def gradients_freed(found: Survey, parameters: dict[str, frozenset[int]]) -> Survey:
    """With each parameter's gradient freed as soon as the op that made it is through.

    `parameters`: of each operator's call, by the last of the values it computes, the places of the
    parameters. What is read beside it: fxpass.optim.in_backward.
    """
    costs = {
        key: _freed(cost, parameters.get(key[1][-1], frozenset()))
        for key, cost in found.costs.items()
    }
    return replace(found, costs=costs)


def _freed(cost: Cost, places: frozenset[int]) -> Cost:
    """An op hands its gradients on when its last phase has ended: until then they are there."""
    there = sum(g.n_bytes for place, g in cost.gradients.items() if place in places)
    first, later = cost.phases[:1], cost.phases[1:]
    held = tuple(replace(phase, peak_bytes=phase.peak_bytes + there) for phase in later)
    gradients = {
        place: Gradient(0, False) if place in places else gradient
        for place, gradient in cost.gradients.items()
    }
    return replace(cost, phases=first + held, gradients=gradients)
