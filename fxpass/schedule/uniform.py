"""Segments of equal length, as `torch.utils.checkpoint.checkpoint_sequential` has them."""

from __future__ import annotations

from fxpass.schedule.actions import Action, Backward, Drop, Forward, Keep, Schedule, Tape
from fxpass.schedule.chain import Chain


def plain(chain: Chain) -> Schedule:
    """What autograd does by itself: every tape is kept, and nothing is run twice."""
    return uniform(chain, 1)


def uniform(chain: Chain, segments: int) -> Schedule:
    """Keeps the input of every segment and the tape of the last one.

    The first `segments - 1` segments have `len(chain) // segments` stages, the last one the rest.

    Args:
        chain: of which only the length counts.
        segments: how many, from 1 (every tape is kept) to the number of stages.

    Raises:
        ValueError: `segments` is outside of that.

    """
    length = len(chain)
    if not 1 <= segments <= length:
        raise ValueError(
            f"expected segments from 1 to the number of stages, {length}, got {segments}"
        )
    size = length // segments
    firsts = [i * size for i in range(segments)]
    ends = [*firsts[1:], length]
    actions: list[Action] = []
    for first, end in zip(firsts[:-1], ends[:-1], strict=True):
        actions += [Keep(first), Forward(first, end)]
    actions.append(Keep(firsts[-1]))
    for first, end in reversed(list(zip(firsts, ends, strict=True))):
        actions += [Tape(stage) for stage in range(first, end)]
        actions += [Backward(stage) for stage in reversed(range(first, end))]
        actions.append(Drop(first))
    return tuple(actions)
