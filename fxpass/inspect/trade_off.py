"""The picture of a sweep: memory against time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxpass.inspect.charts import drawing
from fxpass.inspect.sweep import Point
from fxpass.inspect.table import in_words

_MIB = 2**20


def chart_of(points: Sequence[Point], title: str) -> Any:
    """An altair chart: a line for each method and image size, a dot for each batch size.

    Raises:
        ImportError: altair or vl-convert-python is missing; the message says how to install them.

    """
    altair = drawing()
    rows = [
        {
            "method": point.method,
            "image": "x".join(map(str, point.image)),
            "batch": point.batch,
            "milliseconds": round(point.seconds * 1e3, 3),
            "mib": round(point.peak_bytes / _MIB, 4),
            "peak": in_words(point.peak_bytes),
            "saved": in_words(point.saved_bytes),
        }
        for point in points
    ]
    base = altair.Chart(altair.Data(values=rows), width=640, height=360).encode(
        x=altair.X("milliseconds:Q", title="milliseconds a step"),
        y=altair.Y("mib:Q", title="peak MiB", scale=altair.Scale(zero=False)),
        color=altair.Color("method:N", sort=list(dict.fromkeys(p.method for p in points))),
        strokeDash=altair.StrokeDash("image:N", legend=None),
        detail="image:N",
    )
    fields = ("method", "image", "batch", "peak", "saved", "milliseconds")
    dots = base.mark_point(filled=True, size=60).encode(
        shape="image:N", tooltip=[f"{field}:N" for field in fields]
    )
    labels = base.mark_text(align="left", dx=8, dy=4, fontSize=10).encode(text="batch:N")
    lines = base.mark_line().encode(order="batch:Q")
    return (lines + dots + labels).properties(title=f"{title}: memory against time, by batch size")
