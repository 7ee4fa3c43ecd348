"""The fastest schedule within a memory budget, for stages that differ ("rotor").

Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova, "Optimal checkpointing for heterogeneous
chains: how to train deep neural networks with limited memory" (2019). Each stage keeps nothing, its
input, or its whole tape; what is kept stays until its backward. Among the schedules of that kind
this is the fastest. (Those that drop a kept state early and make it again can be faster.)

The dynamic program, C(s, t, m) = the least seconds for stages s .. t in m bytes beside their input:

    C(s, t, m) = min( forward(s) + C(s+1, t, m - tape(s)) + backward(s),
                      min over s < i <= t of
                          forward(s .. i-1) + C(i, t, m - input(i)) + C(s, i-1, m) )

Memory is counted in units, of which the budget has at most `slots`. Every size is rounded up to
units, so the budget is never exceeded; the price is up to one unit for every state and tape held at
once. Where all sizes have a common divisor that is large enough, as in a homogeneous chain, it is
the unit, and nothing is lost. What differs from the paper: the bytes that running forward needs are
asked for every stage i, not for the whole of s .. t, and the last gradient counts from the first
backward on.

Known to be slow: time grows with length^3 * slots / 6 (150 stages, 500 slots: half a second), so
in longer chains consecutive stages are planned for as one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fxpass.errors import BudgetError
from fxpass.schedule.actions import Schedule
from fxpass.schedule.chain import Chain
from fxpass.schedule.costs import Costs
from fxpass.schedule.group import Groups
from fxpass.schedule.judge import judge
from fxpass.schedule.smallest import smallest, smallest_bytes
from fxpass.schedule.split import written_out
from fxpass.schedule.uniform import plain

Seconds = NDArray[np.float64]


def optimal(chain: Chain, budget: int, *, slots: int = 500, most_stages: int = 150) -> Schedule:
    """The fastest schedule whose peak, as `judge` counts it, is within the budget.

    Args:
        chain: the stages.
        budget: bytes, those of the chain's first input among them.
        slots: in how many units the budget is divided at most; more is finer and slower.
        most_stages: of a longer chain, groups of stages are planned for, each as a whole.

    Raises:
        BudgetError: no schedule has so small a peak; the message names the smallest possible one.

    """
    for name, number in (("slots", slots), ("most_stages", most_stages)):
        if number < 1:
            raise ValueError(f"expected {name} to be at least 1, got {number}")
    everything = plain(chain)
    if judge(chain, everything).peak_bytes <= budget:
        return everything
    groups = Groups(chain, -(-len(chain) // most_stages))
    table = _Table(groups.chain(), budget - chain.stages[0].input_bytes, slots)
    if table.fits:
        return groups.spelled_out(written_out(table.length, table.units, table.choose))
    least = smallest_bytes(chain)
    if budget < least:
        raise BudgetError(
            f"no schedule of these {len(chain)} stages fits into {budget:,} bytes: "
            f"the smallest possible budget is {least:,} bytes",
            least,
        )
    return smallest(chain)  # nothing else fits, if only because of rounding up and groups


class _Table:
    """The dynamic program's values: seconds[first, last, units], infinite where nothing fits."""

    def __init__(self, chain: Chain, budget: int, slots: int) -> None:
        self._costs = costs = Costs(chain)
        sizes = {int(size) for size in (*costs.state, *costs.tape)}
        common = math.gcd(*sizes) or 1
        self._unit = max(common * -(-budget // (common * slots)), 1)
        self.units = budget // self._unit
        self._state_units = self._round_up(costs.state)
        self._tape_units = self._round_up(costs.tape)
        self.length = length = len(chain)
        self._seconds: Seconds = np.full((length, length, max(self.units, 0) + 1), np.inf)
        if self.units >= 0:
            self._fill()

    @property
    def fits(self) -> bool:
        """Whether there is a schedule for the whole chain."""
        return bool(np.isfinite(self._seconds[0, -1, -1]))

    def choose(self, first: int, last: int, free: int) -> tuple[int | None, int]:
        """The decision for first .. last with so many units (see `written_out`)."""
        within = free - int(self._tape_units[first])
        with_tape = math.inf
        if within >= 0 and self._round_up(self._costs.own(last)[first]) <= free:
            with_tape = self._costs.seconds[first] + self._seconds[first + 1, last, within]
        middles = np.arange(first + 1, last + 1)
        left_over = free - self._state_units[middles]
        right = self._seconds[middles, last, np.maximum(left_over, 0)]
        forward = self._costs.forward_until[middles] - self._costs.forward_until[first]
        splits = forward + right + self._seconds[first, first:last, free]
        needs = self._round_up(self._costs.forward(first, last))
        splits[(left_over < 0) | (needs > free)] = math.inf
        best = int(splits.argmin())
        if with_tape <= splits[best]:
            return None, within
        return int(middles[best]), int(left_over[best])

    def _fill(self) -> None:
        costs, length = self._costs, self.length
        until = costs.forward_until
        tapes, states = self._tape_units.tolist(), self._state_units.tolist()
        forwards = costs.forwards(length - 1)
        # Where the bytes needed to run forward from `first` rise: few places in most chains.
        rises = [np.flatnonzero(np.diff(row, prepend=-1)).tolist() for row in forwards]
        # right[i] is C(i, last, m - input(i)) and the seconds to run forward to i.
        right = np.empty(self._seconds.shape[1:])
        sums = np.empty_like(right)
        for last in range(length):
            owns = self._round_up(costs.own(last)).tolist()
            needs = self._round_up(costs.forwards(last))
            for first in reversed(range(last + 1)):
                row, count = self._seconds[first, last], last - first
                if count:
                    _shift(self._seconds[first + 1, last], tapes[first], row)
                    row += costs.seconds[first]
                else:
                    row[:] = costs.seconds[first]
                row[: owns[first]] = np.inf
                if count:
                    splits = sums[:count]
                    np.add(
                        right[first + 1 : last + 1], self._seconds[first, first:last], out=splits
                    )
                    done = 0
                    for i in rises[first]:
                        if i >= last:
                            break
                        need = int(needs[first, i])
                        splits[max(i - first, 0) :, done:need] = np.inf
                        done = need
                    np.minimum(row, splits.min(axis=0) - until[first], out=row)
                _shift(row, states[first], right[first])
                right[first] += until[first]

    def _round_up(self, size: NDArray[np.int64] | int) -> NDArray[np.int64]:
        return -(-np.asarray(size) // self._unit)


def _shift(row: Seconds, by: int, out: Seconds) -> None:
    """out[m] = row[m - by]; nothing fits below."""
    by = min(by, len(row))
    out[:by] = np.inf
    out[by:] = row[: len(row) - by]
