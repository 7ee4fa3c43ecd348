"""A profile as one HTML page that needs nothing else: no network, no other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from fxpass.inspect.charts import charts_of
from fxpass.inspect.rows import SavedTensor
from fxpass.inspect.table import in_words, shape_in_words, totals

if TYPE_CHECKING:
    from fxpass.inspect.profile import Profile

_LIBRARY = "window.vegaEmbed = vegaEmbed;"
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def page_of(profile: Profile) -> str:
    """The page: totals, the charts of `charts_of`, and a table that can be sorted.

    Raises:
        ImportError: as `charts_of`.

    """
    charts = charts_of(profile)
    import vl_convert

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    columns, lines = totals(profile)
    compiled = profile.eager is not None
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{profile.model}: one training step",
        library=Markup(vl_convert.javascript_bundle(_LIBRARY)),
        columns=columns,
        totals=lines,
        headings=[*_HEADINGS, *(_OF_COMPILED if compiled else ())],
        rows=[list(_row(edge, compiled)) for edge in profile.edges],
        charts=_in_script(charts.to_dict(format="vega-lite")),
    )


_HEADINGS = (
    ("module", False),
    ("op", False),
    ("shape", False),
    ("saved by", False),
    ("eager", True),
)
_OF_COMPILED = (("recipe", False), ("kept", True), ("restore", True))


def _row(edge: SavedTensor, compiled: bool) -> list[tuple[str, float | None]]:
    """Cells: what is shown, and by which number it is sorted if not by that."""
    cells: list[tuple[str, float | None]] = [
        (edge.module, None),
        (edge.op, None),
        (shape_in_words(edge), None),
        (", ".join(edge.savers), None),
        (in_words(edge.dense_bytes), edge.dense_bytes),
    ]
    if compiled:
        time = f"{edge.restore_seconds * 1e3:.2f} ms" if edge.restore_seconds else ""
        cells += [
            (edge.recipe, None),
            (in_words(edge.kept_bytes), edge.kept_bytes),
            (time, edge.restore_seconds),
        ]
    return cells


def _in_script(data: Any) -> Markup:
    """JSON that cannot end the script it stands in, whatever a module is called."""
    return Markup(json.dumps(data).replace("<", "\\u003c"))
