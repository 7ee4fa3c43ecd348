"""Plans of one model for one budget after another: what was predicted, and what was measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

import fxpass
from bench._budget_steps import Scene
from bench._promise import Figure
from fxpass.budget import Planner
from fxpass.plan import Plan, Prediction

BUDGETS = 5
SHARES = ((0.25, 1.10), (0.10, 1.40))
"""(saved bytes of eager's, the most that the step may take of eager's time)."""

MOST_PLANNING_SECONDS = 30.0
_MIB = 2.0**20


@dataclass(frozen=True)
class Point:
    """One plan.

    Attributes:
        asked: what it was made for, in words.
        saved_share: bytes after the forward over eager's.
        planning_seconds: of the search, without measuring the ops.

    """

    asked: str
    prediction: Prediction
    peak_bytes: int
    saved_share: float
    time_ratio: float
    planning_seconds: float


def budget_points(scene: Scene, planner: Planner) -> Iterator[Point]:
    """Budgets from eager's peak down to the smallest peak found, the largest first."""
    largest = planner.eager.peak_bytes
    smallest = planner.smallest_peak_bytes
    _, eager_saved = scene.bytes_of(scene.model)
    for i in range(BUDGETS):
        budget = smallest + (largest - smallest) * (BUDGETS - 1 - i) // (BUDGETS - 1)
        start = time.perf_counter()
        plan = planner.plan(budget)
        planning = time.perf_counter() - start
        yield _measured(scene, f"{budget / _MIB:.1f} MiB", plan, eager_saved, planning)


def share_points(scene: Scene, planner: Planner) -> Iterator[Point]:
    """The fastest plans that save at most each share of eager's bytes."""
    _, eager_saved = scene.bytes_of(scene.model)
    for share, _ in SHARES:
        start = time.perf_counter()
        plan = planner.plan_saving(int(share * eager_saved))
        planning = time.perf_counter() - start
        yield _measured(scene, f"saves {share:.0%}", plan, eager_saved, planning)


def _measured(scene: Scene, asked: str, plan: Plan, eager_saved: int, planning: float) -> Point:
    assert plan.prediction is not None
    compiled = fxpass.compile(scene.model, (scene.images,), plan=plan)
    peak, saved = scene.bytes_of(compiled)
    ratio = scene.time_ratio(compiled, scene.model)
    return Point(asked, plan.prediction, peak, saved / eager_saved, ratio, planning)


def figures_of_budgets(name: str, points: list[Point]) -> Iterator[Figure]:
    """What is promised of the budgets of one model."""
    off = max(abs(p.prediction.peak_bytes / p.peak_bytes - 1) for p in points)
    yield Figure(f"{name}: predicted peak is off by", 100 * off, 2.0, "%")
    over = max(p.peak_bytes / p.prediction.memory_budget for p in points)
    yield Figure(f"{name}: measured peak / budget", over, 1.0)
    wrong = max(abs(predicted_ratio(p) / p.time_ratio - 1) for p in points)
    yield Figure(f"{name}: predicted time ratio is off by", 100 * wrong, 10.0, "%")
    planning = max(p.planning_seconds for p in points)
    yield Figure(f"{name}: planning", planning, MOST_PLANNING_SECONDS, "s")


def figures_of_shares(name: str, points: list[Point]) -> Iterator[Figure]:
    """What is promised of the shares of one model."""
    for (share, limit), point in zip(SHARES, points, strict=True):
        yield Figure(f"{name}: saved / eager's, asked for {share}", point.saved_share, share)
        yield Figure(f"{name}: time / eager's, saving {share}", point.time_ratio, limit)


def predicted_ratio(point: Point) -> float:
    """The step's seconds over eager's, as the plan has them."""
    return point.prediction.seconds / point.prediction.eager_seconds


def table(name: str, points: list[Point]) -> Table:
    """A row for each plan."""
    rows = Table(title=name)
    for column in ("asked for", "peak MiB", "predicted", "saved / eager's", "time", "predicted"):
        rows.add_column(column, justify="right")
    for p in points:
        peaks = (f"{n / _MIB:.2f}" for n in (p.peak_bytes, p.prediction.peak_bytes))
        shares = (f"{x:.3f}" for x in (p.saved_share, p.time_ratio, predicted_ratio(p)))
        rows.add_row(p.asked, *peaks, *shares)
    return rows
