"""Figures that each must not exceed a limit: their table, their file, and the exit code."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from fxpass._console import table_console


@dataclass(frozen=True)
class Figure:
    """A measured figure and the most that it may be."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the promise is kept."""
        return self.value <= self.limit


def parser_of(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that these scripts have in common."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def show(title: str, figures: list[Figure], file: Path | None) -> int:
    """Prints the figures, writes them to `file` if given, and returns 1 if one is missed."""
    table = Table(title=title)
    for column in ("figure", "is", "must", ""):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for figure in figures:
        verdict = "ok" if figure.is_met else "MISSED"
        cells = (f"{figure.value:.3g} {figure.unit}", f"<= {figure.limit:g} {figure.unit}")
        table.add_row(figure.what, *(cell.strip() for cell in cells), verdict)
    table_console().print(table)
    if file:
        file.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    return 0 if all(figure.is_met for figure in figures) else 1
