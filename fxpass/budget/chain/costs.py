"""What the blocks of a model cost, by what was measured of their ops: a `fxpass.schedule.Chain`.

It is what the schedulers choose by. The plan that is made of a schedule is judged like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch.fx import Node

from fxpass.budget.chain.blocks import Block
from fxpass.budget.probe import Cost
from fxpass.budget.survey import Survey
from fxpass.plan import Kept
from fxpass.schedule import Chain, Stage


def chain_of(
    blocks: Sequence[Block], survey: Survey, free: Kept, kept_bytes: Callable[[Node], int]
) -> Chain:
    """The blocks as stages; a tape is what the free plan keeps of a block."""
    costs = survey.costs_by_value()
    return Chain(tuple(_stage(block, costs, survey, free, kept_bytes) for block in blocks))


def _stage(
    block: Block,
    costs: dict[str, Cost],
    survey: Survey,
    free: Kept,
    kept_bytes: Callable[[Node], int],
) -> Stage:
    known = [costs[node.name] for node in block.nodes if node.name in costs]
    phases = [phase for cost in known for phase in cost.phases]
    own = sum(cost.own_bytes for cost in known)
    return Stage(
        forward_seconds=sum(cost.seconds for cost in known),
        backward_seconds=sum(phase.seconds for phase in phases),
        input_bytes=survey.n_bytes.get(block.entry.name, 0),
        tape_bytes=own + sum(map(kept_bytes, free.values & set(block.nodes))),
        forward_extra=max((cost.peak_bytes for cost in known), default=0),
        tape_extra=max((cost.peak_bytes for cost in known), default=0),
        backward_extra=max((phase.peak_bytes for phase in phases), default=0),
    )
