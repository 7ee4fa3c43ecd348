"""torch.compile(backend="fxpass"): exactness and saved bytes, of models fx can trace and cannot.

    python -m bench.dynamo
    python -m bench.dynamo --models resnet18,early_exit --what exact,saved
    python -m bench.dynamo --image 224 --batch 8 --json figures.json

saved      saved bytes / those of eager
own        saved bytes / those of fxpass.compile, which estimates the sizes that Dynamo knows (of
           models with control flow, fxpass.compile compiles only the parts)
first      seconds of the first step, in which Dynamo captures and the passes run
time       the step's time / eager's
exact      every bit over 3 steps, with each of the model's inputs (several lengths, or both ways)

Exits with 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import fxpass
from bench import _models
from bench._cases import Case, Subject
from bench._control_flow import EarlyExit, Experts, Frames
from bench._figures import Figure, time_figure
from fxpass._console import table_console
from fxpass._oracle import Loop, compare, record

MODELS = (
    *("mnasnet0_5", "resnet18", "densenet121", "googlenet", "squeezenet1_1", "mobilenet_v2"),
    *("mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "shufflenet_v2_x0_5"),
)
"""Models of torchvision."""

CONTROL_FLOW: dict[str, Callable[[], nn.Module]] = {
    "early_exit": EarlyExit,
    "early_exit_at_once": partial(EarlyExit, sure=0.0),
    "frames": Frames,
    "experts": Experts,
}
WHAT = ("exact", "saved", "own", "first", "time")
_LIMITS = {"own": 1.001}
_FRAMES = (3, 5, 2)


class InEager(nn.Module):
    """A model whose parameters have the names that torch.compile gives them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, *args: Any) -> Any:
        """The model's."""
        return self._orig_mod(*args)


@dataclass
class Row:
    """What was found of one model; `difference`: "" if exact, None if not looked at."""

    name: str
    difference: str | None = None
    figures: dict[str, Figure] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        """The measures that are worse than promised."""
        missed = [m for m, limit in _LIMITS.items() if m in self.figures]
        missed = [m for m in missed if self.figures[m].value > _LIMITS[m]]
        return missed + (["exact"] if self.difference else [])


def make(name: str) -> nn.Module:
    """The named model, from a fixed seed."""
    if name not in CONTROL_FLOW:
        return _models.make(name)
    torch.manual_seed(0)
    return CONTROL_FLOW[name]()


def inputs_of(name: str, batch: int, image: int) -> tuple[list[Tensor], Tensor]:
    """What the model is called with, one after the other, and the labels."""
    images, labels = _models.batch(batch, image)
    if name == "frames":
        return [torch.stack([images * i for i in range(1, n + 1)], 1) for n in _FRAMES], labels
    return [images, images.flip(3) * 3] if name in CONTROL_FLOW else [images], labels


def difference(model: nn.Module, compiled: Any, inputs: list[Tensor], loop: Loop) -> str:
    """What differs from eager, in the order of recording; empty if nothing does."""
    for x in inputs:
        torch.manual_seed(1)
        eager = record(InEager(model), (x,), loop)
        torch.manual_seed(1)
        wrong = compare(eager, record(compiled, (x,), loop))
        if eager.error is not None or wrong:
            return "; ".join(map(str, [*filter(None, [eager.error]), *wrong[:3]]))
    return ""


def measure(name: str, options: argparse.Namespace, progress: Progress) -> Row:
    """Fills in a row."""
    task = progress.add_task(name, total=None)
    torch.compiler.reset()
    row, model = Row(name), make(name)
    inputs, labels = inputs_of(name, options.batch, options.image)
    loss = partial(_models.cross_entropy, labels)
    compiled: Any = torch.compile(model, backend="fxpass")
    case = Case(name, partial(make, name))
    subject = Subject(case, model, compiled, inputs[0], loss)
    start = time.perf_counter()
    subject.step(compiled)()
    if "first" in options.what:
        row.figures["first"] = Figure(time.perf_counter() - start, "seconds")
    if {"saved", "own"} & set(options.what):
        ours, eagers = subject.memory(compiled).saved, subject.memory(model).saved
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fxpass: these parts run their own forward")
            own: Any = fxpass.compile(model, example_inputs=(inputs[0],))
            owns = subject.memory(own).saved
        row.figures["saved"] = Figure.of_bytes(ours, eagers)
        row.figures["own"] = Figure.of_bytes(ours, owns)
    if "time" in options.what:
        row.figures["time"] = time_figure(
            subject, options.pairs, lambda done, of: progress.update(task, completed=done, total=of)
        )
    if "exact" in options.what:
        subject.forget_gradients()
        row.difference = difference(model, compiled, inputs, Loop(3, loss))
    progress.remove_task(task)
    return row


def table_of(rows: list[Row], what: tuple[str, ...]) -> Table:
    """A row a model, each figure with what it must reach."""
    table = Table(title='torch.compile(backend="fxpass")')
    table.add_column("model")
    for name in what:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in rows:
        verdict = f"[red]missed: {', '.join(row.missed)}" if row.missed else "[green]ok"
        table.add_row(row.name, *(_cell(row, name) for name in what), verdict)
    return table


def _cell(row: Row, name: str) -> str:
    if name == "exact":
        return {None: "", "": "yes"}.get(row.difference, "NO")
    figure = row.figures.get(name)
    limit = f" ≤ {_LIMITS[name]}" if name in _LIMITS else ""
    return "" if figure is None else f"{figure.value:.3f}{limit}\n{figure.text}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; lists are separated by commas."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.dynamo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default=",".join([*MODELS, *CONTROL_FLOW]))
    parser.add_argument("--what", default=",".join(WHAT))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--image", type=int, default=64)
    parser.add_argument("--pairs", type=int, help="of timed runs; default by the step's length")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args(arguments)
    options.models, options.what = options.models.split(","), tuple(options.what.split(","))
    known = {"--models": [*_models.names(), *CONTROL_FLOW], "--what": WHAT}
    for option, given in (("--models", options.models), ("--what", options.what)):
        unknown = [item for item in given if item not in known[option]]
        if unknown:
            expected = ", ".join(known[option])
            parser.error(f"{option}: expected some of {expected}, got {unknown[0]}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the table, and says by the exit code whether all figures were reached."""
    options = parse(arguments)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        rows = [measure(name, options, progress) for name in options.models]
    console = table_console()
    console.print(table_of(rows, options.what))
    for row in rows:
        if row.difference:
            console.print(f"{row.name}: {row.difference}", markup=False)
    if options.json:
        found = [asdict(row) | {"missed": row.missed} for row in rows]
        options.json.write_text(json.dumps({"torch": torch.__version__, "rows": found}) + "\n")
    return 1 if any(row.missed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
