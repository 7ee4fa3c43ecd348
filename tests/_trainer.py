"""`fxpass-train` as a subprocess, and the same training in Python, to compare it with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _bits import difference
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxpass

PROGRAM = Path(sys.executable).with_name("fxpass-train")
SEED, BATCH = 7, 8


def network() -> nn.Module:
    """A bitmap, codes, an affine recipe, running statistics and random numbers."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Dropout(0.3), nn.Linear(32, 10)),
    )


def rows(count: int = 50) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


@dataclass(frozen=True)
class Files:
    """A model that was exported, and a data file, in a folder."""

    folder: Path
    model: nn.Module
    images: Tensor
    labels: Tensor

    @property
    def archive(self) -> Path:
        return self.folder / "model.pt"

    @property
    def data(self) -> Path:
        return self.folder / "data.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "last.checkpoint"

    @property
    def output(self) -> Path:
        return self.folder / "trained.pt"


def files(
    folder: Path,
    model: nn.Module | None = None,
    images: Tensor | None = None,
    labels: Tensor | None = None,
) -> Files:
    """Writes both files; `model` is in the mode in which it is to be exported."""
    given = rows()
    made = Files(
        folder,
        network() if model is None else model,
        given[0] if images is None else images,
        given[1] if labels is None else labels,
    )
    compiled: Any = fxpass.compile(made.model, (made.images[:2],))
    fxpass.export_torchscript(compiled, made.archive)
    fxpass.save_dataset(made.data, made.images, made.labels)
    return made


@dataclass
class Run:
    """What the program did: its exit code, and what it printed."""

    code: int
    error: str = ""
    losses: list[float] = field(default_factory=list)  # of the steps
    steps: list[int] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def command(given: Files, *options: object) -> list[str]:
    """The command line, with JSON and one thread."""
    fixed = ["--seed", SEED, "--batch-size", BATCH, "--threads", 1, "--json", "--log-steps"]
    required = ["--model", given.archive, "--data", given.data]
    return [str(word) for word in (PROGRAM, *required, *fixed, *options)]


def parsed(code: int, out: str, error: str) -> Run:
    """What it printed."""
    run = Run(code, error)
    for line in map(json.loads, out.splitlines()):
        if "note" in line:
            run.notes.append(line["note"])
        elif "epoch" in line:
            run.epochs.append(line)
        else:
            run.steps.append(line["step"])
            run.losses.append(line["loss"])
    return run


def train(given: Files, *options: object, expect: int = 0, **popen: Any) -> Run:
    """Runs it to its end, which must be the exit code expected; an error is one line."""
    done = subprocess.run(
        command(given, *options), capture_output=True, text=True, timeout=300, **popen
    )
    assert done.returncode == expect, (done.returncode, done.stdout[-500:], done.stderr)
    if expect == 1:
        assert done.stderr.startswith("fxpass-train: "), done.stderr
        assert done.stderr.find("\n") == len(done.stderr) - 1, done.stderr
    return parsed(done.returncode, done.stdout, done.stderr)


def train_until(given: Files, step: int, number: signal.Signals, *options: object) -> Run:
    """Runs it and sends it the signal once it has printed this step."""
    with subprocess.Popen(
        command(given, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if json.loads(line).get("step") == step:
                process.send_signal(number)
                break
        # Not communicate(), which knows nothing of lines that the loop has read ahead.
        printed += process.stdout.read()
        error = process.stderr.read()
    return parsed(process.returncode, printed, error)


MakeOptimizer = Callable[[Any], torch.optim.Optimizer]
SGD: MakeOptimizer = lambda parameters: torch.optim.SGD(  # noqa: E731
    parameters, lr=0.1, momentum=0.9, weight_decay=1e-3
)
SGD_OPTIONS = ("--lr", 0.1, "--momentum", 0.9, "--weight-decay", 1e-3)


def in_python(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    make: MakeOptimizer = SGD,
    *,
    epochs: int = 1,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    **loader: Any,
) -> list[float]:
    """Trains the model as anybody would; returns the losses of the steps."""
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    losses = []
    torch.manual_seed(SEED)
    batches = DataLoader(
        TensorDataset(images, labels), **{"batch_size": BATCH, "shuffle": True} | loader
    )
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def assert_same_state(expected: nn.Module, found: Path | dict[str, Tensor]) -> None:
    """Fails unless the archive has the model's parameters and buffers, each once, to the bit."""
    tensors = torch.jit.load(found).state_dict() if isinstance(found, Path) else found
    wanted = {n: p.detach() for n, p in expected.named_parameters()}
    wanted |= dict(expected.named_buffers())
    assert wanted.keys() == tensors.keys()
    wrong = {name: difference(wanted[name], tensors[name].detach()) for name in wanted}
    assert not any(wrong.values()), wrong


def compare(
    given: Files, options: Sequence[object], make: MakeOptimizer = SGD, **training: Any
) -> Run:
    """Trains in Python (the model itself) and with the program; fails if a bit differs."""
    epochs = training.setdefault("epochs", 1)
    expected = in_python(given.model, given.images, given.labels, make, **training)
    run = train(given, *options, "--epochs", epochs, "--output", given.output)
    assert run.losses == expected
    assert_same_state(given.model, given.output)
    return run
