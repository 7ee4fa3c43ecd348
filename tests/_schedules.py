"""Chains to plan for, and the best schedule by trying all of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import strategies as st

from fxpass.schedule import Chain, Stage

_SIZES = st.integers(0, 6)
_STAGES = st.builds(
    Stage,
    forward_seconds=st.integers(1, 5).map(float),
    backward_seconds=st.integers(1, 5).map(float),
    input_bytes=_SIZES,
    tape_bytes=st.integers(0, 12),
    forward_extra=_SIZES,
    tape_extra=_SIZES,
    backward_extra=_SIZES,
)


def chains(most: int) -> st.SearchStrategy[Chain]:
    """Of 1 to `most` stages, each with costs of its own: small whole numbers."""
    return st.builds(Chain, st.lists(_STAGES, min_size=1, max_size=most).map(tuple), _SIZES)


class Position(NamedTuple):
    """Where an execution stands: what is held, and how many stages are not reversed yet."""

    to_reverse: int
    state: int | None
    kept: frozenset[int]
    tapes: frozenset[int]


def fewest_seconds(chain: Chain, budget: int, *, persistent: bool) -> float | None:
    """The least seconds of all schedules within the budget, by Dijkstra's search; None: none fits.

    `persistent`: what is kept stays until its backward.
    """
    start = Position(len(chain), 0, frozenset(), frozenset())
    queue = [(0.0, 0, start)]
    done, number = set(), 0
    while queue:
        seconds, _, here = heapq.heappop(queue)
        if here.to_reverse == 0:
            return seconds
        if here in done:
            continue
        done.add(here)
        for cost, peak, there in _moves(chain, here, persistent):
            if peak <= budget and there not in done:
                number += 1
                heapq.heappush(queue, (seconds + cost, number, there))
    return None


def _moves(chain: Chain, p: Position, persistent: bool) -> Iterator[tuple[float, int, Position]]:
    held = p.kept | p.tapes | {t + 1 for t in p.tapes} | ({p.state} - {None})
    for i in held:
        if i not in p.kept and i < p.to_reverse:
            yield 0.0, 0, p._replace(kept=p.kept | {i})
        if i >= len(chain):
            continue
        stage = chain.stages[i]
        if i < p.to_reverse:
            at = p._replace(state=i)
            both = _bytes(chain, p._replace(state=None), also={i, i + 1})
            yield stage.forward_seconds, both + stage.forward_extra, p._replace(state=i + 1)
            if i not in p.tapes:
                during = _bytes(chain, at) + stage.tape_bytes + stage.tape_extra
                there = p._replace(state=i + 1, tapes=p.tapes | {i})
                yield stage.forward_seconds, during, there
    for i in p.kept:
        if not persistent or i >= p.to_reverse:
            yield 0.0, 0, p._replace(kept=p.kept - {i})
    last = p.to_reverse - 1
    if last in p.tapes:
        stage = chain.stages[last]
        gradients = chain.state_bytes()[last] + stage.backward_extra
        if p.to_reverse == len(chain):
            gradients += chain.output_bytes
        during = _bytes(chain, p._replace(state=None)) + gradients
        there = Position(last, None, p.kept, p.tapes - {last})
        yield stage.backward_seconds, during, there


def _bytes(chain: Chain, p: Position, also: frozenset[int] | set[int] = frozenset()) -> int:
    sizes = chain.state_bytes()
    inputs = p.kept | p.tapes | set(also) | ({p.state} - {None})
    alone = [i for i in inputs if i - 1 not in p.tapes]
    gradient = sizes[p.to_reverse] if p.to_reverse < len(chain) else 0
    tapes = sum(chain.stages[i].tape_bytes for i in p.tapes)
    return sum(sizes[i] for i in alone) + tapes + gradient
