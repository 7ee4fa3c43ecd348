"""A plan as a tree of splits, written out as a schedule.

Every sub-chain first .. last whose input is held begins in one of two ways. Its first stage runs
with its tape, and first + 1 .. last is the sub-chain within. Or it runs forward to the input of a
stage `middle`, which is kept; then middle .. last is reversed, then first .. middle - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fxpass.schedule.actions import Action, Backward, Drop, Forward, Keep, Schedule, Tape

Budget = TypeVar("Budget")
Choose = Callable[[int, int, Budget], tuple[int | None, Budget]]


def written_out(length: int, budget: Budget, choose: Choose[Budget]) -> Schedule:
    """The schedule of a chain of `length` stages.

    Args:
        length: of the chain.
        budget: what `choose` is given for the whole chain.
        choose: of (first, last, budget) the stage whose input is kept, or None if the first stage
            keeps its tape, and the budget of the sub-chain on the right or within; the one on the
            left has the whole.

    """
    actions: list[Action] = []
    todo: list[Action | tuple[int, int, Budget]] = [Drop(0), (0, length - 1, budget), Keep(0)]
    while todo:
        item = todo.pop()
        if not isinstance(item, tuple):
            actions.append(item)
            continue
        first, last, free = item
        if first == last:
            todo += [Backward(first), Tape(first)]
            continue
        middle, left_over = choose(first, last, free)
        if middle is None:
            todo += [Backward(first), (first + 1, last, left_over), Tape(first)]
        else:
            todo += [(first, middle - 1, free), Drop(middle), (middle, last, left_over)]
            todo += [Keep(middle), Forward(first, middle)]
    return tuple(actions)
