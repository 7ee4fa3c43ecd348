"""How this project measures time: ratios of paired runs, beside a control.

One pair runs both sides, one right after the other, in alternating order (AB, BA, AB ...), so that
drift and order cancel. Beside every pair of the candidate and the reference runs a pair of the
reference and itself, the control. A figure is the median of the candidate's ratios divided by the
median of the control's. At least 22 pairs are run below one second a step (102 below a tenth of
it, where single runs scatter most), and 12 above. Their number is even: where it matters which of
the two comes first, an odd one would leave the median with the order that has a run more.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Step = Callable[[], object]

# (a step below this many seconds, is run in at least this many pairs)
PAIRS = ((0.1, 102), (1.0, 22), (float("inf"), 12))


@dataclass(frozen=True)
class Ratio:
    """The candidate's time over the reference's."""

    pairs: tuple[float, ...]
    control_pairs: tuple[float, ...]
    seconds: float  # the candidate's median
    reference_seconds: float

    @property
    def raw(self) -> float:
        """The median of the paired ratios."""
        return median(self.pairs)

    @property
    def control(self) -> float:
        """The same for the reference against itself; far from 1, the machine was not quiet."""
        return median(self.control_pairs)

    @property
    def value(self) -> float:
        """The figure."""
        return self.raw / self.control

    def __str__(self) -> str:
        return f"{self.value:.3f} (control {self.control:.3f}, {len(self.pairs)} pairs)"


def paired_ratio(
    candidate: Step,
    reference: Step,
    *,
    control: Step | None = None,
    pairs: int | None = None,
    warm_up: int = 2,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Ratio:
    """Times the candidate against the reference.

    Args:
        candidate: what is judged; called without arguments.
        reference: what it is compared with.
        control: a second instance of the reference; by default the reference itself.
        pairs: how many pairs; by default as many as the rule above asks for.
        warm_up: calls of each before the first pair, at least 1; the last tells a step's length.
        progress: called after each pair with the pairs done and their number.

    """
    control = control or reference
    longest = 0.0
    for step in (candidate, reference, control):
        # The last warm-up call, because the first one may compile.
        longest = max(longest, [_seconds(step) for _ in range(warm_up)][-1])
    if pairs is None:
        pairs = next(number for seconds, number in PAIRS if longest < seconds)
    ratios: list[float] = []
    control_ratios: list[float] = []
    times: list[tuple[float, float]] = []
    for i in range(pairs):
        a, b = _pair(candidate, reference, reverse=i % 2 == 1)
        ratios.append(a / b)
        times.append((a, b))
        a, b = _pair(control, reference, reverse=i % 2 == 1)
        control_ratios.append(a / b)
        progress(i + 1, pairs)
    return Ratio(
        tuple(ratios),
        tuple(control_ratios),
        median(a for a, _ in times),
        median(b for _, b in times),
    )


def _pair(a: Step, b: Step, reverse: bool) -> tuple[float, float]:
    if reverse:
        of_b = _seconds(b)
        return _seconds(a), of_b
    return _seconds(a), _seconds(b)


def _seconds(step: Step) -> float:
    """One call, with the garbage collector held back until after it."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    finally:
        gc.enable()
