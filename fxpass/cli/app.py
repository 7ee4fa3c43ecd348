"""The command line `fxpass`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import fxpass
from fxpass.budget import PLANNERS
from fxpass.cli import sweep
from fxpass.cli.errors import in_one_line
from fxpass.cli.options import (
    Batch,
    Budget,
    ChannelsLast,
    Debug,
    DType,
    Image,
    Json,
    Model,
    Planner,
    Threads,
    Train,
)
from fxpass.cli.target import Target, UsageError, budget_of, image_sizes, target_of
from fxpass.inspect.document import as_document

app = typer.Typer(
    help="Train the same PyTorch model, to the same bits, in a fraction of the activation memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="Examples: fxpass profile torchvision.models:resnet18 --batch 8  ·  "
    "fxpass profile nets.py:make --image 1x28x28 --html report.html"
)
def profile(
    model: Model,
    batch: Batch = 8,
    image: Image = "224",
    dtype: DType = "float32",
    channels_last: ChannelsLast = False,
    threads: Threads = None,
    train: Train = True,
    rows: Annotated[int, typer.Option(min=0, help="Rows of the table of tensors.")] = 20,
    html: Annotated[Path | None, typer.Option(help="Also write a page to this file.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also write the charts to this .png or .svg file.")
    ] = None,
    memory_budget: Budget = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show where the memory of a training step goes, in eager and compiled."""
    with in_one_line(debug):
        if not as_json:  # before the model is made, which takes its time
            shape = "x".join(map(str, (batch, *image_sizes(image))))
            print(f"profiling {model} with images of {shape} {dtype} ...", flush=True)
        target = _target(model, batch, image, dtype, channels_last, threads, train)
        found = fxpass.profile(_compiled(target, memory_budget), target.images)
        print(json.dumps(as_document(found)) if as_json else found.table(rows))
        if html is not None:
            found.to_html(html)
        if picture is not None:
            found.to_picture(picture)


@app.command(
    epilog="Examples: fxpass plan torchvision.models:resnet18 --rewrites  ·  "
    "fxpass plan torchvision.models:resnet18 --memory-budget 300MB"
)
def plan(
    model: Model,
    batch: Batch = 8,
    image: Image = "224",
    dtype: DType = "float32",
    channels_last: ChannelsLast = False,
    threads: Threads = None,
    train: Train = True,
    rewrites: Annotated[
        bool, typer.Option("--rewrites", help="Also each op before and after its rewrite.")
    ] = False,
    memory_budget: Budget = None,
    planner: Planner = "op",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is kept of each value, and why."""
    with in_one_line(debug):
        if planner not in PLANNERS:
            known = ", ".join(PLANNERS)
            raise UsageError(f"expected --planner to be one of {known}, got {planner!r}")
        if memory_budget is None and planner != "op":
            raise UsageError(f"--planner {planner} needs --memory-budget, which its plan must meet")
        target = _target(model, batch, image, dtype, channels_last, threads, train)
        compiled = _compiled(target, memory_budget, planner)
        print(compiled.plan.to_json() if as_json else compiled.explain(rewrites=rewrites))


@app.command(
    epilog="Example: fxpass verify torchvision.models:resnet18 --batch 2  ·  "
    "Exits with 1 if anything differs."
)
def verify(
    model: Model,
    batch: Batch = 8,
    image: Image = "224",
    dtype: DType = "float32",
    channels_last: ChannelsLast = False,
    threads: Threads = None,
    train: Train = True,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps that are compared.")] = 3,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare the compiled model with eager, to the last bit."""
    with in_one_line(debug):
        target = _target(model, batch, image, dtype, channels_last, threads, train)
        report = fxpass.verify(target.model, target.images, steps=steps)
        print(json.dumps(asdict(report)) if as_json else report)


@app.command(
    epilog="Example: fxpass export torchvision.models:resnet18 --batch 2 --image 64 -o resnet18.pt"
)
def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    batch: Batch = 8,
    image: Image = "224",
    dtype: DType = "float32",
    channels_last: ChannelsLast = False,
    threads: Threads = None,
    train: Train = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the model as TorchScript that trains without Python."""
    with in_one_line(debug):
        target = _target(model, batch, image, dtype, channels_last, threads, train)
        fxpass.export_torchscript(fxpass.compile(target.model, (target.images,)), output)
        found = {"path": str(output), "bytes": output.stat().st_size}
        print(json.dumps(found) if as_json else "{path}: {bytes:,} bytes".format(**found))


app.command(
    "sweep",
    epilog="Example: fxpass sweep torchvision.models:resnet18 --batches 1,2,4 --images 64,128 "
    "--picture trade-off.png",
)(sweep.command)


def main() -> None:
    """Runs the command line."""
    app(prog_name="fxpass")


def _compiled(target: Target, memory_budget: str | None, planner: str = "op") -> Any:
    budget, inputs = budget_of(memory_budget), (target.images,)
    if budget is not None and planner != "op":
        plan = fxpass.plan(target.model, inputs, budget, planner)
        return fxpass.compile(target.model, inputs, plan=plan)
    return fxpass.compile(target.model, (target.images,), memory_budget=budget)


def _target(
    model: str,
    batch: int,
    image: str,
    dtype: str,
    channels_last: bool,
    threads: int | None,
    train: bool,
) -> Target:
    options: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last, "threads": threads}
    return target_of(model, batch=batch, image=image, train=train, **options)
