"""`fxpass sweep`: the trade-off between memory and time, as a table and a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fxpass._console import table_console
from fxpass.cli.errors import in_one_line
from fxpass.cli.options import ChannelsLast, Debug, DType, Json, Model, Threads, Train
from fxpass.cli.target import UsageError, image_sizes, target_of
from fxpass.inspect.charts import save
from fxpass.inspect.sweep import DEFAULT_METHODS, METHODS, Point, sweep
from fxpass.inspect.table import in_words
from fxpass.inspect.trade_off import chart_of


def command(
    model: Model,
    batches: Annotated[str, typer.Option(help="Numbers of images, as in 1,2,4,8.")] = "1,2,4,8",
    images: Annotated[
        str, typer.Option(help="Sizes of images, as in 64,128x96; see --image elsewhere.")
    ] = "224",
    methods: Annotated[
        str, typer.Option(help=f"Which to compare, among {', '.join(METHODS)}.")
    ] = ",".join(DEFAULT_METHODS),
    picture: Annotated[
        Path | None, typer.Option(help="Also draw memory against time to this .png or .svg file.")
    ] = None,
    dtype: DType = "float32",
    channels_last: ChannelsLast = False,
    threads: Threads = None,
    train: Train = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure memory and time over batch sizes, image sizes and methods."""
    with in_one_line(debug):
        names = methods.split(",")
        unknown = [name for name in names if name not in METHODS]
        if unknown:
            known = ", ".join(METHODS)
            raise UsageError(f"expected --methods among {known}, got {unknown[0]!r}")
        sizes = [image_sizes(image) for image in images.split(",")]
        target = target_of(
            model,
            batch=1,
            image=images.split(",")[0],
            dtype=dtype,
            channels_last=channels_last,
            threads=threads,
            train=train,
        )
        points = sweep(target.model, _numbers(batches), sizes, names)
        if as_json:
            print(json.dumps([asdict(point) for point in points]))
        else:
            table_console().print(_table(target.name, points))
        if picture is not None:
            save(chart_of(points, target.name), picture)


def _numbers(batches: str) -> list[int]:
    parts = batches.split(",")
    if not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(f"expected --batches to be numbers, as in 1,2,4,8, got {batches!r}")
    return [int(part) for part in parts]


def _table(name: str, points: list[Point]) -> Table:
    table = Table(title=f"{name}: a training step")
    for column in ("image", "batch", "method", "saved", "peak", "step time"):
        table.add_column(column, justify="left" if column in ("image", "method") else "right")
    for point in sorted(points, key=lambda p: (p.image, p.batch)):
        image = "x".join(map(str, point.image))
        sizes = in_words(point.saved_bytes), in_words(point.peak_bytes)
        time = f"{point.seconds * 1e3:.1f} ms"
        table.add_row(image, str(point.batch), point.method, *sizes, time)
    return table
