"""Memory to train ResNets on a device of 2 GB: published, predicted from shapes, measured.

    python -m bench.edge_tables
    python -m bench.edge_tables resnet152 --plans
    python -m bench.edge_tables --measure 2 --seconds 60
    python -m bench.edge_tables --markdown docs/edge_tables.md --pictures docs

Counted is a whole step of SGD with momentum: parameters, gradients, momentum, buffers, images, and
what forward and backward keep and need meanwhile (bench/_edge_predict.py). Predicted are eager,
checkpoint_sequential and Revolve on the chain of blocks, each with the least memory it can, and
fxpass' plan without a budget. Nothing is run for that: a prediction needs no more memory for
1500 x 1500 pixels than for 224 x 224. With --plans also the smallest peak that fxpass finds, with
all gradients kept and with each freed inside backward; that takes minutes for the deep networks.

Exits with 1 if a measured step is off the prediction by more than a twentieth.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.table import Table

from bench._edge_curves import draw_blocks, draw_published
from bench._edge_measure import measured_peak
from bench._edge_predict import METHODS, MIB, Cell, Method, Step, cell_of, largest_sizes
from bench._edge_published import largest as published_largest
from bench._edge_published import models, published
from bench._promise import Figure, parser_of, show
from fxpass._console import table_console
from fxpass.plan import Plan

Row = dict[str, str]
_MOST_OFF = 5.0
"""Per cent."""


@dataclass(frozen=True)
class Grid:
    """One published table: its cells in order, and what each says in MB."""

    title: str
    cells: dict[tuple[int, int], dict[str, float]]


def grids() -> list[Grid]:
    """The three published tables."""
    tables = published()
    by_batch, by_image = tables["MB_by_batch_at_224"], tables["MB_by_image_at_batch_1"]
    in_gb = tables["GB_by_image_at_batch_8"].items()
    of_8 = {(8, int(i)): {name: 1024 * v for name, v in row.items()} for i, row in in_gb}
    return [
        Grid("by batch, 224 x 224", {(int(b), 224): row for b, row in by_batch.items()}),
        Grid("by image, batch 1", {(1, int(i)): row for i, row in by_image.items()}),
        Grid("by image, batch 8", of_8),
    ]


def with_plans(methods: dict[str, Method], name: str) -> dict[str, Method]:
    """Also the smallest peaks that fxpass finds, by plans made for batch 8 at 224 x 224."""
    made = cell_of(name, 8, 224)
    found = dict(methods)
    for freed, label in ((False, "fxpass, budget"), (True, "fxpass, in_backward")):
        planner = made.planner_in_backward if freed else made.planner
        found[label] = partial(_by_plan, plan=planner.smallest.plan, freed=freed)
    return found


def _by_plan(cell: Cell, plan: Plan, freed: bool) -> Step:
    return cell.smallest(plan, freed)


def rows_of(grid: Grid, name: str, methods: dict[str, Method]) -> Iterator[Row]:
    """A row a cell: published and by each method, in MiB; times over eager's where not 1."""
    for (batch, image), said in grid.cells.items():
        row = {"batch": str(batch), "image": str(image), "published": f"{said[name]:.0f}"}
        for label, method in methods.items():
            step = method(cell_of(name, batch, image))
            row[label] = f"{step.peak_bytes / MIB:.0f}{_times(step)}"
        yield row


def _times(step: Step) -> str:
    return f" (x{step.rho:.2f})" if step.rho > 1.005 else ""


def largest_rows(name: str, methods: dict[str, Method]) -> Iterator[Row]:
    """The largest batch and image in the device's memory, a row a method."""
    limit = published()["device_limit_MB"]
    batch, image = published_largest(name, limit)
    yield {"model": name, "method": "published model", "batch": str(batch), "image": str(image)}
    for label, method in methods.items():
        batch, image = largest_sizes(name, method, limit * MIB)
        yield {"model": name, "method": label, "batch": str(batch), "image": str(image)}


def measured(names: list[str], gib: float, seconds: float) -> Iterator[Figure]:
    """The cells that fit, smallest first, until one step of a network takes longer."""
    for name in names:
        cells = {cell for grid in grids() for cell in grid.cells}
        known = sorted((cell_of(name, *cell) for cell in cells), key=lambda c: c.eager.peak_bytes)
        for cell in known:
            predicted = cell.eager.peak_bytes
            if predicted > gib * 2**30:
                break
            peak, took = measured_peak(name, cell.batch, cell.image)
            what = f"{name}, batch {cell.batch}, {cell.image}: {predicted / MIB:.1f} MiB predicted,"
            off = 100 * abs(predicted / peak - 1)
            yield Figure(f"{what} {peak / MIB:.1f} measured", off, _MOST_OFF, "%")
            if took > seconds:
                break


def rich_table(title: str, rows: list[Row]) -> Table:
    """For the terminal."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row.values())
    return table


def markdown_table(title: str, rows: list[Row]) -> str:
    """For a page."""
    lines = [list(rows[0]), ["---:"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tables(names: list[str], plans: bool) -> Iterator[tuple[str, list[Row]]]:
    """Each table with its title."""
    for name in names:
        methods = with_plans(METHODS, name) if plans else METHODS
        for grid in grids():
            yield f"{name}, {grid.title}", list(rows_of(grid, name, methods))
        yield f"{name}, largest in 2 GB", list(largest_rows(name, methods))


_MARK = "<!-- what follows is written by python -m bench.edge_tables --markdown -->"


def write_page(path: Path, parts: list[str]) -> None:
    """Keeps what stands above the mark in the page, if there is one."""
    above = path.read_text().split(_MARK)[0] if path.exists() else ""
    path.write_text(f"{above}{_MARK}\n\n" + "\n".join(parts))


def main(arguments: list[str] | None = None) -> int:
    """Predicts, measures, prints, draws; 1 if a prediction is off."""
    parser = parser_of("edge_tables", __doc__)
    parser.add_argument("models", nargs="*", default=models(), help="of the published ones")
    parser.add_argument("--plans", action="store_true", help="search fxpass' smallest peaks too")
    parser.add_argument("--measure", type=float, default=0.0, metavar="GIB", help="up to so much")
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after a step this long")
    parser.add_argument("--markdown", type=Path, help="also write the tables into this page")
    parser.add_argument("--pictures", type=Path, default=Path("out"), help="a folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    found: dict[str, list[Row]] = {}
    for title, rows in tables(options.models, options.plans):
        found[title] = rows
        table_console().print(rich_table(title, rows))
        if options.markdown:
            write_page(options.markdown, [markdown_table(*item) for item in found.items()])
    draw_published(options.pictures)
    draw_blocks(options.pictures, options.models)
    figures = list(measured(options.models, options.measure, options.seconds))
    code = show("predicted against measured", figures, None) if figures else 0
    if options.json:
        off = {figure.what: figure.value for figure in figures}
        options.json.write_text(json.dumps({"tables": found, "off": off}, indent=1))
    return code


if __name__ == "__main__":
    sys.exit(main())
