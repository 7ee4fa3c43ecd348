"""A profile as charts: live bytes over a step, and what is kept of each tensor.

The same charts are in the HTML report and in the pictures. They are drawn by Vega-Lite, through the
packages altair and vl-convert-python (`pip install 'fxpass[report]'`).
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxpass.inspect.table import in_words
from fxpass.inspect.timeline import CATEGORIES, Timeline

if TYPE_CHECKING:
    from fxpass.inspect.profile import Profile

_MIB = 2**20
_MOST_MOMENTS = 400
_WIDTH = 760
_COLOURS = {
    "parameters": "#9aa0a6",
    "optimizer state": "#b07aa1",
    "gradients": "#f28e2b",
    "saved": "#4e79a7",
    "transient": "#bab0ac",
}


def drawing() -> Any:
    """The package altair.

    Raises:
        ImportError: it or vl-convert-python is missing; the message says how to install them.

    """
    try:
        import altair
        import vl_convert  # noqa: F401 (altair needs it, and says so late)
    except ImportError as error:
        raise ImportError(
            f"fxpass: charts need the package {error.name!r}, which is not installed: "
            "pip install 'fxpass[report]'"
        ) from error
    return altair


def save(chart: Any, path: str | PathLike[str]) -> None:
    """Writes a chart as PNG or SVG, by the suffix of `path`; ValueError if it is another."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"expected a path that ends in .png or .svg, got {str(path)!r}")
    options = {"scale_factor": 2} if kind == "png" else {}
    chart.save(str(path), format=kind, **options)


def charts_of(profile: Profile) -> Any:
    """An altair chart; raises ImportError as `drawing` does."""
    altair = drawing()
    sides = _sides(profile)
    steps = altair.vconcat(*(_step(altair, name, side.timeline) for name, side in sides))
    steps = steps.resolve_scale(x="shared", y="shared")
    steps = steps.properties(title="Live bytes over one training step")
    kept = (
        altair.Chart(altair.Data(values=list(_kept(profile))), width=_WIDTH, height=28 * len(sides))
        .mark_bar(stroke="white", strokeWidth=0.5)
        .encode(
            x=altair.X("mib:Q", title="MiB kept between forward and backward", stack="zero"),
            y=altair.Y("side:N", sort=[name for name, _ in sides], title=None),
            color=altair.Color("recipe:N", title="recipe"),
            order="order:Q",
            tooltip=["tensor:N", "op:N", "shape:N", "savers:N", "recipe:N", "kept:N", "eager:N"],
        )
        .properties(title="What is kept, in the order of the model")
    )
    both = altair.vconcat(steps, kept).resolve_scale(color="independent")
    return both.configure_view(stroke=None)


def _sides(profile: Profile) -> list[tuple[str, Profile]]:
    if profile.eager is None:
        return [("eager", profile)]
    return [("eager", profile.eager), ("fxpass", profile)]


def _step(altair: Any, name: str, timeline: Timeline) -> Any:
    """Areas one on the other, and over them what says the bytes of each moment."""
    areas, moments = _areas(timeline), _moments(timeline)
    shown = [category for category in CATEGORIES if any(timeline.bytes[category])]
    colours = altair.Scale(domain=shown, range=[_COLOURS[category] for category in shown])
    chart = altair.Chart(altair.Data(values=areas), width=_WIDTH, height=170)
    drawn = chart.mark_area(interpolate="step-after").encode(
        x=altair.X("milliseconds:Q", title="milliseconds"),
        y=altair.Y("low:Q", title=f"{name}: live MiB"),
        y2="high:Q",
        color=altair.Color("what:N", scale=colours, sort=shown, title=None),
    )
    pointed = altair.Chart(altair.Data(values=moments)).mark_rect(opacity=0)
    pointed = pointed.encode(
        x="milliseconds:Q", x2="until:Q", tooltip=[f"{key}:N" for key in ("at", *shown, "all")]
    )
    return drawn + pointed


def _areas(timeline: Timeline) -> list[dict[str, Any]]:
    # Stacked here: Vega would add up the moments that fall into one pixel.
    rows = []
    for at in _highest(timeline):
        low = 0
        for category in CATEGORIES:
            high = low + timeline.bytes[category][at]
            if any(timeline.bytes[category]):
                time = round(timeline.seconds[at] * 1e3, 3)
                ends = {"low": round(low / _MIB, 4), "high": round(high / _MIB, 4)}
                rows.append({"milliseconds": time, "what": category, **ends})
            low = high
    return rows


def _moments(timeline: Timeline) -> list[dict[str, Any]]:
    rows = []
    indices = _highest(timeline)
    for at, after in zip(indices, [*indices[1:], indices[-1]], strict=True):
        sizes = {category: timeline.bytes[category][at] for category in CATEGORIES}
        words = {category: in_words(size) for category, size in sizes.items()}
        time, until = (round(timeline.seconds[i] * 1e3, 3) for i in (at, after))
        times = {"milliseconds": time, "until": until, "at": f"{time:.1f} ms"}
        rows.append({**times, **words, "all": in_words(sum(sizes.values()))})
    return rows


def _highest(timeline: Timeline) -> list[int]:
    """The moments that are drawn: of every few the one at which most is live."""
    total = [sum(sizes) for sizes in zip(*timeline.bytes.values(), strict=True)]
    step = max(1, -(-len(total) // _MOST_MOMENTS))
    ranges = (range(i, min(i + step, len(total))) for i in range(0, len(total), step))
    return [max(indices, key=total.__getitem__) for indices in ranges]


def _kept(profile: Profile) -> Iterator[dict[str, Any]]:
    for side, of_side in _sides(profile):
        for order, edge in enumerate(of_side.edges):
            if edge.kept_bytes:
                yield {
                    "side": side,
                    "tensor": edge.module or of_side.model,
                    "op": edge.op,
                    "shape": "x".join(map(str, edge.shape)),
                    "savers": ", ".join(edge.savers),
                    "recipe": edge.recipe,
                    "mib": round(edge.kept_bytes / _MIB, 6),
                    "kept": in_words(edge.kept_bytes),
                    "eager": in_words(edge.dense_bytes),
                    "order": order,
                }
