"""The main job on real data: a small VGG on scikit-learn's digit images, eager and fxpass.

    python -m bench.demo                 trains both, prints a table, draws out/demo.png
    python -m bench.demo --epochs 1

Both start from one seed and take turns, batch by batch. After every step all gradients are compared
as integers: one different bit ends the demo with exit code 1.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fxpass
from fxpass.memory import Event

BATCH, IMAGE, TEST_IMAGES = 64, 64, 357
MIB = 2**20
_BITS = {4: torch.int32, 8: torch.int64}


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1797 handwritten digits, enlarged to 64x64: images in [0, 1] and labels."""
    data = load_digits()
    images = torch.from_numpy(data.images.astype(numpy.float32))[:, None] / 16
    images = F.interpolate(images, size=IMAGE, mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.from_numpy(data.target)[order]


def small_vgg() -> nn.Module:
    """Three stages of two convolutions with ReLU and a max pool, and two linear layers."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (8, 16, 32):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(32 * 8 * 8, 128), nn.ReLU(), nn.Linear(128, 10)]
    model = nn.Sequential(*layers, *head)
    for module in model:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # Without batch norm, torch's default initialisation lets the signal die out.
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.constant_(module.get_parameter("bias"), 0)
    return model


@dataclass
class Contestant:
    """One way to train the model, and what was measured of it."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)
    saved_bytes: int = 0
    peak_bytes: int = 0
    timeline: list[Event] = field(default_factory=list)
    loss: float = 0.0
    accuracy: float = 0.0

    def gradients(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """One forward and backward."""
        self.optimizer.zero_grad(set_to_none=True)
        start = time.perf_counter()
        loss = F.cross_entropy(self.model(images), labels)
        loss.backward()
        self.seconds.append(time.perf_counter() - start)
        self.loss = loss.item()
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def measure_memory(self, images: Tensor, labels: Tensor) -> None:
        """Bytes and timeline of one forward and backward; leaves no trace in the training."""
        self.optimizer.zero_grad(set_to_none=True)
        with fxpass.memory.track(timeline=True) as memory:
            loss = F.cross_entropy(self.model(images), labels)
            self.saved_bytes = memory.live_bytes
            loss.backward()
            del loss
        self.peak_bytes, self.timeline = memory.peak_bytes, memory.timeline()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def test(self, images: Tensor, labels: Tensor) -> None:
        """Accuracy on images not trained on."""
        self.accuracy = (self.model(images).argmax(1) == labels).float().mean().item()


@dataclass
class Result:
    """What the demo found. `identical` and `compared` count gradient tensors over all steps."""

    eager: Contestant
    compiled: Contestant
    tensors: int
    steps: int = 0
    identical: int = 0
    compared: int = 0

    @property
    def saved_ratio(self) -> float:
        """Saved bytes, fxpass over eager."""
        return self.compiled.saved_bytes / self.eager.saved_bytes

    @property
    def time_ratio(self) -> float:
        """Median over the pairs of steps of fxpass' time over eager's."""
        pairs = zip(self.compiled.seconds, self.eager.seconds, strict=True)
        return median(ours / eagers for ours, eagers in pairs)


def run(epochs: int = 3, progress: Progress | None = None, most_steps: int | None = None) -> Result:
    """Trains both side by side, for whole epochs or until `most_steps`."""
    torch.manual_seed(0)
    images, labels = digits()
    test, train = slice(0, TEST_IMAGES), slice(TEST_IMAGES, None)
    eager = small_vgg()
    compiled = fxpass.compile(copy.deepcopy(eager))
    sides = [
        Contestant(name, model, torch.optim.Adam(model.parameters(), lr=2e-3))
        for name, model in (("eager", eager), ("fxpass", compiled))
    ]
    result = Result(sides[0], sides[1], len(list(eager.parameters())))
    for side in sides:
        side.measure_memory(images[train][:BATCH], labels[train][:BATCH])
    batches = list(_batches(images[train], labels[train], epochs))[:most_steps]
    task = progress.add_task("training both", total=len(batches)) if progress else None
    for number, (x, y) in enumerate(batches):
        order = sides if number % 2 else sides[::-1]
        gradients = {side.name: side.gradients(x, y) for side in order}
        _compare(result, gradients["eager"], gradients["fxpass"])
        for side in sides:
            side.optimizer.step()
        if progress and task is not None:
            progress.update(task, advance=1, description=f"loss {sides[0].loss:.3f}")
    for side in sides:
        side.test(images[test], labels[test])
    return result


def _batches(images: Tensor, labels: Tensor, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for chosen in order.split(BATCH):
            yield images[chosen], labels[chosen]


def _compare(result: Result, eager: list[Tensor], ours: list[Tensor]) -> None:
    result.steps += 1
    result.compared += result.tensors
    if len(eager) == len(ours):
        result.identical += sum(map(_same_bits, eager, ours))


def _same_bits(a: Tensor, b: Tensor) -> bool:
    kind = _BITS[a.element_size()]
    return a.stride() == b.stride() and torch.equal(a.view(kind), b.view(kind))


def table(result: Result) -> Table:
    """The comparison, a row a figure."""
    view = Table(title=f"VGG on digits, {IMAGE}x{IMAGE}, batch {BATCH}, {result.steps} steps")
    for column in ("", "eager", "fxpass", "fxpass / eager"):
        view.add_column(column, justify="right" if column else "left")
    a, b = result.eager, result.compiled
    for name in ("saved", "peak"):
        of_a, of_b = (getattr(side, f"{name}_bytes") for side in (a, b))
        row = [f"{of_a / MIB:.1f} MiB", f"{of_b / MIB:.1f} MiB", f"{of_b / of_a:.2f}"]
        view.add_row(f"{name} bytes", *row)
    times = [f"{median(side.seconds) * 1e3:.1f} ms" for side in (a, b)]
    view.add_row("step time", *times, f"{result.time_ratio:.2f}")
    view.add_row("last loss", f"{a.loss:.6f}", f"{b.loss:.6f}")
    view.add_row("test accuracy", f"{a.accuracy:.1%}", f"{b.accuracy:.1%}")
    return view


def draw(result: Result, path: Path) -> None:
    """Live bytes over one step, both on one scale."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for side, colour in ((result.eager, "tab:gray"), (result.compiled, "tab:blue")):
        milliseconds = [event.seconds * 1e3 for event in side.timeline]
        live = [event.live_bytes / MIB for event in side.timeline]
        axes.step(milliseconds, live, where="post", label=side.name, color=colour)
        axes.fill_between(milliseconds, live, step="post", alpha=0.2, color=colour)
    axes.set(xlabel="milliseconds", ylabel="live MiB above the start of the step")
    axes.set_title("Memory over one training step: forward rises, backward falls")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Trains, prints, draws; 1 if any bit of any gradient differed."""
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--picture", type=Path, default=Path("out/demo.png"))
    options = parser.parse_args(arguments)
    console = Console()
    with Progress(console=console, transient=True) as progress:
        result = run(options.epochs, progress)
    console.print(table(result))
    same = result.identical == result.compared
    steps = f"in all {result.steps} steps" if same else "(each tensor of each step counted)"
    counted = (result.tensors, result.tensors) if same else (result.identical, result.compared)
    console.print(f"gradients identical: {counted[0]} of {counted[1]} tensors {steps}")
    draw(result, options.picture)
    console.print(f"picture: {options.picture}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
