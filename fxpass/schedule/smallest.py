"""The least memory in which a chain can be reversed, and the schedule that does it.

The dynamic program of `optimal` with bytes in the place of seconds: the most bytes of the parts in
the place of the sum of their seconds. Sizes are exact here, not in units.
"""

from __future__ import annotations

import numpy as np

from fxpass.schedule.actions import Schedule
from fxpass.schedule.chain import Chain
from fxpass.schedule.costs import Costs, Sizes
from fxpass.schedule.split import written_out


def smallest(chain: Chain) -> Schedule:
    """The schedule with the least peak; of several the one that keeps more than it must."""
    costs = Costs(chain)
    least = _least(costs)

    def choose(first: int, last: int, _: None) -> tuple[int | None, None]:
        with_tape = _with_tape(costs, least, first, last)
        splits = _splits(costs, least, first, last)
        if with_tape <= splits.min():
            return None, None
        return first + 1 + int(splits.argmin()), None

    return written_out(len(chain), None, choose)


def smallest_bytes(chain: Chain) -> int:
    """The peak of that schedule: no budget below it is possible."""
    costs = Costs(chain)
    return int(costs.state[0] + _least(costs)[0, -1])


def _least(costs: Costs) -> Sizes:
    """The least bytes for each sub-chain [first, last], beyond its input."""
    length = len(costs.tape)
    least = np.zeros((length, length), dtype=np.int64)
    for last in range(length):
        least[last, last] = costs.own(last)[last]
        for first in reversed(range(last)):
            splits = _splits(costs, least, first, last)
            least[first, last] = min(_with_tape(costs, least, first, last), splits.min())
    return least


def _with_tape(costs: Costs, least: Sizes, first: int, last: int) -> int:
    return int(max(costs.own(last)[first], costs.tape[first] + least[first + 1, last]))


def _splits(costs: Costs, least: Sizes, first: int, last: int) -> Sizes:
    """For each middle in first + 1 .. last."""
    middles = slice(first + 1, last + 1)
    right = costs.state[middles] + least[middles, last]
    sides = np.maximum(right, least[first, first:last])
    return np.maximum(sides, costs.forward(first, last))
