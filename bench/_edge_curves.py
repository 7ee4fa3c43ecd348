"""Memory against recomputation, as pictures: of the published model, and of the blocks here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench._edge_predict import MIB, cell_of
from bench._edge_published import (
    depth,
    linear_mb,
    models,
    published,
    revolve_rho,
    sequential_held,
    sequential_rho,
)
from fxpass.schedule import revolve, uniform

Points = list[tuple[float, float]]


def abstract_curves(name: str, batch: int, image: int) -> dict[str, Points]:
    """(rho, MB) of the published model's homogeneous chain, by series."""
    length = depth(name)
    by_revolve = [
        (revolve_rho(length, slots), linear_mb(name, batch, image, slots))
        for slots in range(1, length + 1)
    ]
    dots = [
        (sequential_rho(length, s), linear_mb(name, batch, image, sequential_held(length, s)))
        for s in range(1, int(2 * length**0.5))
    ]
    return {"Revolve": by_revolve, "checkpoint_sequential": dots}


def block_curves(name: str, batch: int, image: int) -> dict[str, Points]:
    """(rho, MiB) of the whole step here, by series; the chain is that of the blocks."""
    cell = cell_of(name, batch, image)
    numbers = range(1, len(cell.chain.chain) + 1)
    schedulers: dict[str, Any] = {"Revolve": revolve, "checkpoint_sequential": uniform}
    found = {
        label: [_point(cell.scheduled(scheduler, number, "")) for number in numbers]
        for label, scheduler in schedulers.items()
    }
    return found | {"eager": [_point(cell.eager)], "fxpass": [_point(cell.free)]}


def _point(step: Any) -> tuple[float, float]:
    return step.rho, step.peak_bytes / MIB


def draw(path: Path, title: str, panels: dict[str, dict[str, Points]]) -> None:
    """One panel a network: memory against rho, and the 2 GB of the device."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.2), squeeze=False)
    for (name, series), axes in zip(panels.items(), rows[0], strict=True):
        for label, style in _styles(series):
            shown = sorted((rho, size) for rho, size in series[label] if rho <= 3)
            axes.plot(*zip(*shown, strict=True), style, label=label, markersize=4)
        axes.axhline(published()["device_limit_MB"], color="tab:red", linewidth=0.8)
        axes.set(title=name, xlabel="rho", xlim=(0.95, 3.0))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    rows[0][0].set_ylabel("MB")
    rows[0][0].legend(fontsize="x-small")
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _styles(series: dict[str, Points]) -> Iterator[tuple[str, str]]:
    styles = {"Revolve": "-", "checkpoint_sequential": "o", "eager": "s", "fxpass": "*"}
    yield from ((label, styles[label]) for label in series)


def draw_published(folder: Path, batch: int = 8, image: int = 224) -> Path:
    """The published figure, on one scale."""
    path = folder / "edge-published.png"
    panels = {name: abstract_curves(name, batch, image) for name in models()}
    draw(path, f"published model, batch {batch}, {image} x {image}", panels)
    return path


def draw_blocks(folder: Path, names: list[str], batch: int = 8, image: int = 224) -> Path:
    """The same for the networks' blocks, by the bytes that torch allocates."""
    path = folder / "edge-blocks.png"
    panels = {name: block_curves(name, batch, image) for name in names}
    draw(path, f"whole step of SGD with momentum, batch {batch}, {image} x {image}", panels)
    return path
