"""checkpoint_chain on two time loops: memory and time of each schedule, and Revolve's step counts.

    python -m bench.chain
    python -m bench.chain --steps 200 --slots 8 --pictures out

A wave equation in two dimensions, of finite differences, with a velocity to be learned at each
point; and an unrolled GRU cell. Each by the plain loop, and by checkpoint_chain with each schedule:
forward runs of steps, bytes saved and peak and time of forward and backward over those of the plain
loop, and the judge's peak. Draws, for each, the bytes live over one forward and backward as torch's
allocator had them, beside those of the judge: out/chain-wave.png and out/chain-rnn.png.

Exits with 1 if a count differs from the closed form, a bit from the plain loop, or if a peak is
above the judge's (and the parameters' gradients, which it does not count) by more than a hundredth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxpass
from bench._promise import Figure, parser_of, show
from bench._timing import paired_ratio
from fxpass._console import table_console
from fxpass._oracle import integers
from fxpass.chain import measure
from fxpass.memory import Event
from fxpass.schedule import (
    Chain,
    Schedule,
    Stage,
    Verdict,
    advances,
    default_slots,
    judge,
    optimal,
    plain,
    revolve,
    uniform,
)

MIB = 2**20
Step = Callable[[Any], Any]


@dataclass(frozen=True)
class Problem:
    """A chain, its first state, and what is learned."""

    name: str
    steps: Sequence[Step]
    state: Any
    parameters: list[nn.Parameter]


class Wave(nn.Module):
    """One time step of u'' = v^2 (u_xx + u_yy), from (u before, u) to (u, u after)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.speed = nn.Parameter(torch.full((size, size), 0.5))
        kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        self.register_buffer("kernel", kernel[None, None])

    def forward(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Leapfrog, with zeros outside."""
        before, now = state
        bend = F.conv2d(now[None, None], self.get_buffer("kernel"), padding=1)[0, 0]
        return now, 2 * now - before + self.speed**2 * bend


def wave(length: int, size: int = 256) -> Problem:
    """A drop in the middle of a square."""
    step = Wave(size)
    drop = torch.zeros(size, size)
    drop[size // 2, size // 2] = 1.0
    return Problem("wave", [step] * length, (drop, drop.clone()), list(step.parameters()))


def rnn(length: int, width: int = 256, batch: int = 64) -> Problem:
    """A GRU cell that reads one input a step."""
    cell = nn.GRUCell(width, width)
    inputs = torch.randn(length, batch, width)
    steps = [lambda hidden, x=x: cell(x, hidden) for x in inputs.unbind()]
    return Problem("rnn", steps, torch.zeros(batch, width), list(cell.parameters()))


def with_schedule(problem: Problem, schedule: Schedule | None) -> Tensor:
    """Forward, and a loss; None: the plain loop."""
    state = problem.state
    if schedule is None:
        for step in problem.steps:
            state = step(state)
    else:
        state = fxpass.checkpoint_chain(problem.steps, state, schedule=schedule)
    return sum(t.square().mean() for t in pytree.tree_leaves(state))


def forget_gradients(problem: Problem) -> None:
    for parameter in problem.parameters:
        parameter.grad = None


def train(problem: Problem, schedule: Schedule | None) -> None:
    """What is timed."""
    forget_gradients(problem)
    with_schedule(problem, schedule).backward()


@dataclass(frozen=True)
class Measured:
    """One forward and backward: bytes above the start, every change, and the gradients."""

    saved_bytes: int
    peak_bytes: int
    timeline: list[Event]
    gradients: list[Tensor]


def measured(problem: Problem, schedule: Schedule | None) -> Measured:
    """Runs it twice and measures the second time."""
    for _ in range(2):
        forget_gradients(problem)
        with fxpass.memory.track(timeline=True) as memory:
            loss = with_schedule(problem, schedule)
            saved = memory.live_bytes
            loss.backward()
            del loss
    gradients = [p.grad for p in problem.parameters if p.grad is not None]
    return Measured(saved, memory.peak_bytes, memory.timeline(), gradients)


def schedules(problem: Problem, chain: Chain, slots: int | None) -> dict[str, Schedule]:
    """Each by the name in the table; "optimal" has Revolve's memory, and more."""
    length = len(problem.steps)
    slots = slots or default_slots(length)
    by_revolve = revolve(chain, slots)
    least, most = (judge(chain, s).peak_bytes for s in (by_revolve, plain(chain)))
    budgets = [least, (least + most) // 2]
    segments = round(length**0.5)
    found = {f"uniform, {segments} segments": uniform(chain, segments)}
    found[f"revolve, {slots} slots"] = by_revolve
    return found | {f"optimal, {b / MIB:.0f} MiB": optimal(chain, b) for b in budgets}


def compare(problem: Problem, slots: int | None, pictures: Path, pairs: int) -> list[Figure]:
    """Prints the table of a problem, draws its picture, and returns its figures."""
    chain = measure(problem.steps, problem.state)
    expected, at_least = measured(problem, None), judge(chain, plain(chain)).seconds
    table = Table(title=f"{problem.name}, {len(problem.steps)} steps")
    for name in ("", "forward runs", "saved", "peak", "judge's peak", "time", "judge's time"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("plain loop", str(len(chain)), *_bytes_of(expected), "", "1.00", "")
    drawn = {"plain loop": (expected.timeline, judge(chain, plain(chain)))}
    figures = []
    gradients = sum(p.nbytes for p in problem.parameters)
    for name, schedule in schedules(problem, chain, slots).items():
        found, verdict = measured(problem, schedule), judge(chain, schedule)
        ratio = paired_ratio(
            partial(train, problem, schedule),
            partial(train, problem, None),
            pairs=pairs,
        )
        table.add_row(
            name,
            str(verdict.forward_steps),
            *_bytes_of(found, expected),
            f"{verdict.peak_bytes / MIB:.1f} MiB",
            f"{ratio.value:.2f}",
            f"{verdict.seconds / at_least:.2f}",
        )
        drawn[name] = found.timeline, verdict
        differing = sum(map(_differ, found.gradients, expected.gradients))
        above = found.peak_bytes / (verdict.peak_bytes + gradients)
        figures += [
            Figure(f"{problem.name}, {name}: gradients that differ", differing, 0),
            Figure(f"{problem.name}, {name}: peak / the judge's", above, 1.01),
        ]
    table_console().print(table)
    draw(drawn, pictures / f"chain-{problem.name}.png")
    return figures


def _bytes_of(found: Measured, reference: Measured | None = None) -> list[str]:
    cells = []
    for name in ("saved_bytes", "peak_bytes"):
        size = getattr(found, name)
        share = f" ({size / getattr(reference, name):.2f})" if reference else ""
        cells.append(f"{size / MIB:.1f} MiB{share}")
    return cells


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.stride() != b.stride() or not torch.equal(integers(a), integers(b))


def draw(drawn: dict[str, tuple[list[Event], Verdict]], path: Path) -> None:
    """Live bytes over one forward and backward: a row a schedule, allocator and judge."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(len(drawn), 2, figsize=(11, 1.9 * len(drawn)), sharey="row")
    for (name, (events, verdict)), (left, right) in zip(drawn.items(), rows, strict=True):
        milliseconds = [event.seconds * 1e3 for event in events]
        live = [event.live_bytes / MIB for event in events]
        left.fill_between(milliseconds, live, step="post", color="tab:blue", alpha=0.6)
        left.set(ylabel="MiB", title=f"{name}: measured, in ms")
        seconds, held = zip(*verdict.timeline, strict=True)
        judged = [size / MIB for size in held]
        right.fill_between(
            [s * 1e3 for s in seconds], judged, step="post", color="tab:gray", alpha=0.6
        )
        right.set(title="by the judge")
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.set_ylim(bottom=0)
            axes.margins(x=0)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def revolve_counts(longest: int = 200, most_slots: int = 20) -> Figure:
    """How many of Revolve's schedules run another number of steps than the closed form says."""
    differing = 0
    for length in range(1, longest + 1):
        chain = Chain.equal(length)
        for slots in range(1, most_slots + 1):
            steps = judge(chain, revolve(chain, slots)).forward_steps
            differing += steps != length + advances(length, slots)
    what = f"Revolve counts off the closed form, l <= {longest}, c <= {most_slots}"
    return Figure(what, differing, 0)


def planning(length: int = 150) -> Figure:
    """How long the optimal schedule of stages that differ takes to find."""
    stages = tuple(
        Stage(1.0 + i % 3, 2.0, (1 + i % 5) * MIB, (3 + i % 7) * MIB) for i in range(length)
    )
    chain = Chain(stages, MIB)
    start = time.perf_counter()
    optimal(chain, judge(chain, plain(chain)).peak_bytes // 4)
    seconds = time.perf_counter() - start
    return Figure(f"planning {length} stages that differ", seconds, 1.0, "s")


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, draws; 1 if a figure is missed."""
    parser = parser_of("chain", __doc__)
    parser.add_argument("--steps", type=int, default=100, help="of each time loop")
    parser.add_argument("--slots", type=int, help="of revolve; by default its own")
    parser.add_argument("--pairs", type=int, default=6, help="of timed runs")
    parser.add_argument("--pictures", type=Path, default=Path("out"), help="a folder")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    figures = [revolve_counts(), planning()]
    for make in (wave, rnn):
        figures += compare(make(options.steps), options.slots, options.pictures, options.pairs)
    return show("checkpoint_chain", figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
