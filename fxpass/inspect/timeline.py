"""Live bytes over a training step, by what they are."""

from __future__ import annotations

from dataclasses import dataclass

from fxpass.inspect.buffers import Buffer, buffers_of, live_at
from fxpass.inspect.run import Run

CATEGORIES = ("parameters", "optimizer state", "gradients", "saved", "transient")


@dataclass(frozen=True)
class Timeline:
    """What was live at each moment, above the start; the parameters were there before.

    Attributes:
        seconds: the moments, one for each allocation and release, since the start.
        bytes: for each of `CATEGORIES`, the bytes live from that moment on. "saved" is what is
            live when the forward has returned, "gradients" what ends as one.
        forward_seconds: when the forward returned.

    """

    seconds: tuple[float, ...]
    bytes: dict[str, tuple[int, ...]]
    forward_seconds: float


def timeline_of(run: Run, parameter_bytes: int) -> Timeline:
    """Tells the buffers of a run apart by what became of them."""
    buffers = buffers_of(run.events)
    saved = {buffer.born for buffer in live_at(buffers, run.forward_events)}
    changes: dict[int, tuple[str, int]] = {}
    for buffer in buffers:
        category = _category(buffer, run, buffer.born in saved)
        changes[buffer.born] = (category, buffer.bytes)
        changes[buffer.freed] = (category, -buffer.bytes)
    live = dict.fromkeys(CATEGORIES, 0) | {"parameters": parameter_bytes}
    series: dict[str, list[int]] = {category: [] for category in CATEGORIES}
    for index, event in enumerate(run.events):
        # What was allocated before the start, and is released now, is nobody's.
        category, delta = changes.get(index, ("transient", event.delta_bytes))
        live[category] += delta
        for name in CATEGORIES:
            series[name].append(live[name])
    seconds = tuple(event.seconds for event in run.events)
    forward = seconds[run.forward_events - 1] if run.forward_events else 0.0
    return Timeline(seconds, {name: tuple(v) for name, v in series.items()}, forward)


def _category(buffer: Buffer, run: Run, is_saved: bool) -> str:
    stays = buffer.freed == len(run.events)
    if stays and buffer.address in run.gradients:
        return "gradients"
    if stays and buffer.address in run.state:
        return "optimizer state"
    return "saved" if is_saved else "transient"
