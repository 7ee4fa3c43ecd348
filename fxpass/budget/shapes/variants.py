"""The same ops in other circumstances."""

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


def gradients_freed(cost: Cost, parameters: frozenset[int]) -> Cost:
    """With the gradients of the parameters, at these places, freed once the op is through.

    As `fxpass.optim.in_backward` does. An op hands its gradients on when its last phase has ended:
    until then they are there.
    """
    there = sum(g.n_bytes for place, g in cost.gradients.items() if place in parameters)
    first, later = cost.phases[:1], cost.phases[1:]
    held = tuple(replace(phase, peak_bytes=phase.peak_bytes + there) for phase in later)
    gradients = {
        place: Gradient(0, False) if place in parameters else gradient
        for place, gradient in cost.gradients.items()
    }
    return replace(cost, phases=first + held, gradients=gradients)
