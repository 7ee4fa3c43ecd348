"""Plans of a chain of blocks for a memory budget: by one of three schedules, judged like any other.

A scheduler counts states and tapes, and not the rest of a step (gradients of weights, say). So it
makes schedules for memories of all sizes, and of those that no other one beats in both time and
memory the judge finds the fastest that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from fxpass.budget.chain.blocks import blocks_of
from fxpass.budget.chain.costs import chain_of
from fxpass.budget.chain.kept import kept_by
from fxpass.budget.search import Found, Search
from fxpass.plan import Values, cheapest
from fxpass.schedule import (
    Chain,
    Schedule,
    judge,
    optimal,
    plain,
    revolve,
    smallest,
    smallest_bytes,
    uniform,
)

_MOST_SCHEDULES = 32
"""Of one kind, for memories from the least to all."""


class ChainSearch:
    """The schedules of one graph's blocks."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._values = search.values()
        self._blocks = blocks_of(self._values)
        # Of a block with its tape is kept what makes the rest of it without a layer run again.
        self._free = cheapest(Values(self._values.edges))

    def __len__(self) -> int:
        """How many blocks there are; with fewer than two there is nothing to choose."""
        return len(self._blocks)

    def within(self, kind: str, budget: int) -> Found:
        """The fastest plan of a kind whose peak is within the budget, or the smallest one found.

        `kind`: a key of SCHEDULES.
        """
        kept_bytes = self._search.kept_bytes(self._values)
        chain = chain_of(self._blocks, self._search.survey, self._free, kept_bytes)
        front = _unbeaten(chain, SCHEDULES[kind](chain))
        least = best = self._found(front[-1])
        low, high = 0, len(front) - 1
        while low < high:
            middle = (low + high) // 2
            found = self._found(front[middle])
            least = min(least, found, key=lambda f: f.verdict.peak_bytes)
            if found.verdict.peak_bytes <= budget:
                best, high = found, middle
            else:
                low = middle + 1
        return best if best.verdict.peak_bytes <= budget else least

    def _found(self, schedule: Schedule) -> Found:
        return self._search.found(kept_by(self._values, self._blocks, schedule, self._free))


def _unbeaten(chain: Chain, schedules: Iterable[Schedule]) -> list[Schedule]:
    """Those of which none is both faster and smaller, the fastest and largest first."""
    verdicts = ((judge(chain, schedule), schedule) for schedule in schedules)
    ordered = sorted(verdicts, key=lambda pair: (pair[0].seconds, pair[0].peak_bytes))
    front: list[Schedule] = []
    least = None
    for verdict, schedule in ordered:
        if least is None or verdict.peak_bytes < least:
            least = verdict.peak_bytes
            front.append(schedule)
    return front


def _uniform(chain: Chain) -> Iterator[Schedule]:
    yield from (uniform(chain, segments) for segments in _numbers(len(chain)))


def _revolve(chain: Chain) -> Iterator[Schedule]:
    yield plain(chain)
    yield from (revolve(chain, slots) for slots in _numbers(len(chain)))


def _optimal(chain: Chain) -> Iterator[Schedule]:
    least, most = smallest_bytes(chain), judge(chain, plain(chain)).peak_bytes
    yield smallest(chain)
    yield plain(chain)
    for budget in np.geomspace(least, most, _MOST_SCHEDULES)[1:-1]:
        yield optimal(chain, int(budget))


def _numbers(most: int) -> list[int]:
    """1 .. most, or so many of them with gaps that grow."""
    if most <= _MOST_SCHEDULES:
        return list(range(1, most + 1))
    return sorted({round(number) for number in np.geomspace(1, most, _MOST_SCHEDULES)})


SCHEDULES: dict[str, Callable[[Chain], Iterator[Schedule]]] = {
    "uniform": _uniform,
    "revolve": _revolve,
    "optimal": _optimal,
}
"""The kinds of schedules, and what makes those of each: source in fxpass/schedule."""
