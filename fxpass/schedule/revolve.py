"""Revolve: the fewest runs of equal stages with a given number of kept states.

Griewank and Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000). With c slots, of which the
chain's first input takes one, and every stage advanced over at most r times, at most
b(c, r) = (c + r)! / (c! r!) stages can be reversed. The tape of one stage at a time is held.
"""

from __future__ import annotations

from math import comb

from fxpass.schedule.actions import Action, Backward, Drop, Forward, Keep, Schedule, Tape
from fxpass.schedule.chain import Chain


def revolve(chain: Chain, slots: int) -> Schedule:
    """The schedule with the fewest forward runs that keeps at most `slots` states at once.

    Args:
        chain: of which only the length counts.
        slots: states kept at once, the chain's first input among them; at least 1. The state at
            work, the tape of the stage that is being reversed, is not among them.

    Raises:
        ValueError: `slots` is less than 1.

    """
    _require_slots(slots)
    actions: list[Action] = [Keep(0)]
    todo = [(0, len(chain), slots)]  # stages first .. end - 1; the input of first is in a slot
    while todo:
        first, end, free = todo.pop()
        if end - first == 1:
            actions += [Tape(first), Backward(first), Drop(first)]
        elif free == 1:
            actions += [Forward(first, end - 1), Tape(end - 1), Backward(end - 1)]
            todo.append((first, end - 1, 1))
        else:
            middle = first + _advance(end - first, free)
            actions += [Forward(first, middle), Keep(middle)]
            todo += [(first, middle, free), (middle, end, free - 1)]
    return tuple(actions)


def advances(length: int, slots: int) -> int:
    """How many stages Revolve runs without their tapes, each run counted: the closed form.

    r * length - b(slots + 1, r - 1), where r is the least with b(slots, r) >= length.
    """
    _require_slots(slots)
    r = _repetitions(length, slots)
    return r * length - comb(slots + r, slots + 1)


def default_slots(length: int) -> int:
    """The fewest slots with which no stage is advanced over more than twice: about sqrt(2 length).

    Each is then run at most three times, the run with its tape included.
    """
    slots = 1
    while comb(slots + 2, 2) < length:
        slots += 1
    return slots


def _repetitions(length: int, slots: int) -> int:
    r = 0
    while comb(slots + r, slots) < length:
        r += 1
    return r


def _advance(length: int, slots: int) -> int:
    """How far to go, from a kept state, before the next one is kept; the farthest that is optimal.

    The part on the left may be advanced over one time less often than the whole, that on the right
    has one slot less; both counts are exact (in the paper: figure 4).
    """
    r = _repetitions(length, slots)
    return min(comb(slots + r - 1, slots), length - comb(slots + r - 2, slots - 1))


def _require_slots(slots: int) -> None:
    if slots < 1:
        raise ValueError(f"expected slots to be at least 1, for the chain's input, got {slots}")
