"""What `fxpass.profile`, its report and the counter promise.

    python -m bench.inspect
    python -m bench.inspect --json figures.json

Saved bytes that no row of a profile explains, of the saved bytes, eager and fxpass; the counter's
share of a resnet18 step (the cost of counting one allocation, times their number); the seconds of
the command line; the bytes of an HTML report. Exits with 1 if a promised figure is missed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from rich.progress import track
from torch import Tensor

import fxpass
from bench import _models
from bench._promise import Figure, parser_of, show

MODELS = ("alexnet", "vgg16", "resnet50", "mobilenet_v2", "densenet121")
BATCH, IMAGE = 8, 224
COMMAND = ["-c", "from fxpass.cli import main; main()", "profile", "torchvision.models:resnet18"]


def _images() -> Tensor:
    return torch.randn(BATCH, 3, IMAGE, IMAGE)


def not_attributed(name: str) -> Iterator[Figure]:
    """The share of the saved bytes that the rows of a profile miss, or have too many."""
    profile = fxpass.profile(fxpass.compile(_models.make(name)), _images())
    assert profile.eager is not None
    for side, found in (("eager", profile.eager), ("fxpass", profile)):
        share = abs(found.not_attributed_bytes) / found.saved_bytes
        yield Figure(f"{name}: not attributed, {side}", 100 * share, 1.0, "%")


_ONE_ALLOCATION = """
import time, torch, fxpass
def seconds():
    best = []
    for _ in range(40):
        start = time.perf_counter()
        for _ in range(2000):
            torch.empty(64)
        best.append((time.perf_counter() - start) / 2000)
    return min(best)
before = seconds()
with fxpass.memory.track():
    print(seconds() - before)
"""


def counting() -> Figure:
    """The cost of counting one allocation, times their number, of a resnet18 step.

    The first `track` of a process starts the counter for good, so the cost is measured in a new
    process, before and after.
    """
    done = [float(_python("-c", _ONE_ALLOCATION).stdout.split()[-1]) for _ in range(5)]
    model, images = _models.make("resnet18"), _images()
    steps = []
    with fxpass.memory.track(timeline=True) as memory:
        model(images).sum().backward()
    allocations = sum(event.delta_bytes > 0 for event in memory.timeline())
    for _ in range(3):
        start = time.perf_counter()
        model(images).sum().backward()
        steps.append(time.perf_counter() - start)
    share = median(done) * allocations / median(steps)
    return Figure(
        f"memory.track(): share of a step, {allocations} allocations", 100 * share, 1.0, "%"
    )


def command_line() -> Iterator[Figure]:
    """Seconds until the first line, and until the end, of the profile of a resnet18."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *COMMAND, "--batch", str(BATCH)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"fxpass profile ended with exit code {process.returncode}")
    yield Figure("fxpass profile resnet18: first output", first, 3.0, "s")
    yield Figure("fxpass profile resnet18: done", time.perf_counter() - start, 20.0, "s")


def report() -> Figure:
    """The size of the HTML report of a resnet50."""
    profile = fxpass.profile(fxpass.compile(_models.make("resnet50")), _images())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        profile.to_html(path)
        return Figure("HTML report of resnet50", path.stat().st_size / 1e6, 2.0, "MB")


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and says with the exit code whether all is as promised."""
    parser = parser_of("inspect", __doc__)
    options = parser.parse_args(arguments)
    figures = [*command_line(), counting(), report()]
    for name in track(MODELS, "profiles", transient=True, disable=not sys.stdout.isatty()):
        figures += not_attributed(name)
    return show("What the profile promises", figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
