"""Models by name: saved bytes, peak bytes and step time of fxpass against eager, and exactness.

    python -m bench.zoo                          the figures this project promises
    python -m bench.zoo --models resnet50,densenet121 --what saved,peak,conv
    python -m bench.zoo --models resnet50 --what hooked,compile
    python -m bench.zoo --models vgg16 --what exact --threads 1,2 \
        --memory-format contiguous,channels_last

fp32, training mode, cross-entropy on random labels. What is measured: see _figures.py. Exits with 1
if a promised figure is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench._cases import DEFAULT_NAMES, FORMATS, LINEAR_GRADIENTS, ZOO_NAMES, case_of
from bench._rows import WHAT, Row, measure, rows_for
from fxpass._console import table_console


@dataclass(frozen=True)
class Mean:
    """A geometric mean over the rows of a measure, and what it must reach."""

    measure: str
    what: str
    without: tuple[str, ...]
    limit: float

    def value(self, rows: list[Row]) -> float | None:
        """The mean, or None unless every model that it is about is among the rows."""
        names = [name for name in ZOO_NAMES if name not in self.without]
        measured = [r for r in rows if r.name in names and self.measure in r.figures]
        found = [row.figures[self.measure].value for row in measured]
        return geometric_mean(found) if len(found) == len(names) else None


MEANS = (
    Mean("saved", "all models", (), 0.37),
    Mean("peak", "all models", (), 0.62),
    Mean("peak", "without alexnet and vgg, whose peak is linear gradients", LINEAR_GRADIENTS, 0.55),
    Mean("time", "all models", (), 0.98),
)


def means_of(rows: list[Row]) -> list[dict[str, Any]]:
    """The geometric means of each setting whose models are all there."""
    found = []
    for setting in dict.fromkeys((r.memory_format, r.threads) for r in rows):
        of_setting = [r for r in rows if (r.memory_format, r.threads) == setting]
        for mean in MEANS:
            value = mean.value(of_setting)
            if value is not None:
                found.append(
                    {"measure": mean.measure, "over": mean.what, "memory_format": setting[0]}
                    | {"threads": setting[1], "value": value, "limit": mean.limit}
                )
    return found


def table_of(rows: list[Row], what: tuple[str, ...]) -> Table:
    """Every ratio with the figure it must reach."""
    table = Table(title="fxpass / eager")
    table.add_column("model")
    for name in what:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in rows:
        setting = f"{row.batch}x{row.image}² {row.memory_format}, {row.threads} threads"
        cells = [_cell(row, name) for name in what]
        verdict = f"[red]missed: {', '.join(row.missed)}" if row.missed else "[green]ok"
        table.add_row(f"{row.name}\n{setting}", *cells, verdict)
    return table


def _cell(row: Row, name: str) -> str:
    if name == "exact":
        return {None: "", "": "yes"}.get(row.difference, "NO")
    if name not in row.figures:
        return ""
    figure = row.figures[name]
    limit = f" ≤ {row.limits[name]:.2f}" if name in row.limits and name != "left" else ""
    return f"{figure.value:.3f}{limit}\n{figure.text}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; lists are separated by commas."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.zoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=_list_of(str), default=DEFAULT_NAMES)
    parser.add_argument("--batch", type=int, help="default 8; the small cases keep their own")
    parser.add_argument("--image", type=int, help="default 224; the small cases keep their own")
    parser.add_argument("--threads", type=_list_of(int), default=(2,))
    parser.add_argument(
        "--memory-format",
        type=_list_of(str, FORMATS),
        help="default: contiguous, and the models' time in channels_last too",
    )
    parser.add_argument("--what", type=_list_of(str, WHAT), default=WHAT)
    parser.add_argument("--pairs", type=int, help="of timed runs; default by the step's length")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps compared (exact)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args(arguments)


def _list_of(kind: type, known: Any = None) -> Any:
    def parse_list(text: str) -> tuple[Any, ...]:
        items = tuple(kind(item) for item in text.split(","))
        if known is not None and (unknown := [item for item in items if item not in known]):
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(known)}, got {unknown[0]}"
            )
        return items

    return parse_list


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the table, and says by the exit code whether all figures were reached."""
    options = parse(arguments)
    try:
        cases = [case_of(name) for name in options.models]
    except ValueError as error:
        sys.exit(f"zoo: {error}")
    rows: list[Row] = []
    console = table_console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for case in cases:
            for row in rows_for(case, options):
                measure(row, case, options, progress)
                rows.append(row)
    console.print(table_of(rows, options.what))
    means = means_of(rows)
    for mean in means:
        verdict = "missed" if mean["value"] > mean["limit"] else "ok"
        console.print(
            f"{mean['measure']}, geometric mean, {mean['memory_format']}, {mean['over']}: "
            f"{mean['value']:.3f} ≤ {mean['limit']:.2f} {verdict}",
            highlight=False,
        )
    for row in rows:
        if row.difference:
            console.print(f"{row.name}, {row.memory_format}: {row.difference}", markup=False)
    if options.json:
        options.json.write_text(json.dumps(_as_json(rows), indent=1) + "\n")
    missed = any(row.missed for row in rows) or any(m["value"] > m["limit"] for m in means)
    return 1 if missed else 0


def _as_json(rows: list[Row]) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "means": means_of(rows),
        "rows": [asdict(row) | {"missed": row.missed} for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
