"""A profile as tables for a terminal."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fxpass._console import table_width
from fxpass.inspect.rows import SavedTensor

if TYPE_CHECKING:
    from fxpass.inspect.profile import Profile

_WIDE = 120  # columns of a terminal, below which there is no room for who saves a tensor
_UNITS = ("B", "KiB", "MiB", "GiB")


def in_words(size: float) -> str:
    """A number of bytes with three digits and its unit, in powers of 1024."""
    unit = 0
    while abs(size) >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    digits = 0 if unit == 0 or abs(size) >= 100 else 1 if abs(size) >= 10 else 2
    return f"{size:,.{digits}f} {_UNITS[unit]}"


def table_of(profile: Profile, rows: int) -> str:
    """The totals, then the rows on which eager, or else the model itself, spends most.

    Raises:
        ValueError: `rows` is negative.

    """
    if rows < 0:
        raise ValueError(f"expected rows to be at least 0, got {rows}")
    text = io.StringIO()
    console = Console(file=text, width=table_width(), force_terminal=False)
    console.print(_totals(profile))
    if rows and profile.edges:
        console.print(_edges(profile, rows))
    return text.getvalue()


def totals(profile: Profile) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The names of the columns, and each line's name and cells."""
    sides = {"eager": profile.eager or profile}
    if profile.eager is not None:
        sides["fxpass"] = profile
    lines = []
    for name in ("saved_bytes", "peak_bytes", "seconds"):
        numbers = [getattr(side, name) for side in sides.values()]
        cells = [f"{n * 1e3:.1f} ms" if name == "seconds" else in_words(n) for n in numbers]
        if len(numbers) == 2:
            cells.append(f"{numbers[1] / numbers[0]:.2f}" if numbers[0] else "")
        lines.append(("step time" if name == "seconds" else name.replace("_", " "), cells))
    return [*sides, *(["fxpass / eager"] if len(sides) == 2 else [])], lines


def _totals(profile: Profile) -> Table:
    table = Table(title=f"{profile.model}: one training step")
    columns, lines = totals(profile)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for name, cells in lines:
        table.add_row(name, *cells)
    return table


def _edges(profile: Profile, rows: int) -> Table:
    edges = sorted(profile.edges, key=lambda e: (e.dense_bytes, e.kept_bytes), reverse=True)
    shown, rest = edges[:rows], edges[rows:]
    compiled, wide = profile.eager is not None, table_width() >= _WIDE
    table = Table(title="saved tensors" + (", the largest first" if rest else ""))
    words = ("module", "op", "shape", *(["saved by"] if wide else []))
    for name in words:
        table.add_column(name, overflow="fold")
    for name in ("eager", *(("recipe", "kept", "restore") if compiled else ())):
        table.add_column(name, justify="left" if name == "recipe" else "right", no_wrap=True)
    for edge in shown:
        cells = (edge.module, edge.op, shape_in_words(edge), _savers(edge))
        table.add_row(*cells[: len(words)], *_sizes(edge, compiled))
    empty = [""] * (len(words) - 1)
    if rest:
        table.add_section()
        table.add_row(f"{len(rest)} more", *empty, *_sizes(_sum(rest), compiled))
    table.add_section()
    table.add_row("all", *empty, *_sizes(_sum(edges), compiled))
    unknown = (profile.eager or profile).not_attributed_bytes
    ours = ["", in_words(profile.not_attributed_bytes), ""] if compiled else []
    table.add_row("not attributed", *empty, in_words(unknown), *ours)
    return table


def shape_in_words(edge: SavedTensor) -> str:
    """Sizes and dtype, as in 2x64x56x56 float32."""
    sizes = "x".join(map(str, edge.shape)) or "scalar"
    return f"{sizes} {str(edge.dtype).removeprefix('torch.')}"


def _savers(edge: SavedTensor) -> str:
    return "\n".join(re.sub(r"Backward\d*\b", "", saver) for saver in edge.savers)


def _sizes(edge: SavedTensor, compiled: bool) -> list[str]:
    if not compiled:
        return [in_words(edge.dense_bytes)]
    time = f"{edge.restore_seconds * 1e3:.2f} ms" if edge.restore_seconds else ""
    return [in_words(edge.dense_bytes), edge.recipe, in_words(edge.kept_bytes), time]


def _sum(edges: list[SavedTensor]) -> SavedTensor:
    first = edges[0]
    return SavedTensor(
        "",
        "",
        (),
        (),
        first.dtype,
        sum(edge.dense_bytes for edge in edges),
        "",
        sum(edge.kept_bytes for edge in edges),
        sum(edge.restore_seconds for edge in edges),
    )
