"""The rows of `bench/zoo.py`: which settings a case is measured in, and the measuring."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, field

import torch
from rich.progress import Progress

from bench._cases import Case, Subject
from bench._figures import (
    BYTES,
    MEASURES,
    Figure,
    byte_figures,
    compile_figure,
    conv_figure,
    hooked_figure,
    time_figure,
)

WHAT = (*MEASURES, "exact")


@dataclass
class Row:
    """One case in one setting, what was asked of it and what was found."""

    name: str
    batch: int
    image: int
    memory_format: str
    threads: int
    what: tuple[str, ...]
    limits: dict[str, float]
    figures: dict[str, Figure] = field(default_factory=dict)
    difference: str | None = None  # "" if exact, None if not looked at

    @property
    def missed(self) -> list[str]:
        """The measures that are worse than promised."""
        found = self.figures.items()
        missed = [m for m, f in found if m in self.limits and f.value > self.limits[m]]
        return missed + (["exact"] if self.difference else [])


def rows_for(case: Case, options: argparse.Namespace) -> list[Row]:
    """The rows of a case, a row a setting.

    Unless memory formats are named, all is measured in contiguous memory, and in channels_last the
    step time of the models: it is there that a step is a different computation.
    """
    batch = options.batch if options.batch and not case.fixed_size else case.batch
    image = options.image if options.image and not case.fixed_size else case.image
    whats = dict.fromkeys(options.memory_format or ("contiguous",), options.what)
    timed = "time" in options.what and "time" in case.limits and not case.fixed_size
    if options.memory_format is None and timed:
        whats["channels_last"] = ("time",)
    return [
        Row(
            case.name,
            batch,
            image,
            memory_format,
            threads,
            what,
            limits_for(case, batch, image, memory_format, threads),
        )
        for (memory_format, what), threads in itertools.product(whats.items(), options.threads)
    ]


def limits_for(
    case: Case, batch: int, image: int, memory_format: str, threads: int
) -> dict[str, float]:
    """The promised figures that hold in this setting; no setting may leave more behind."""
    standard = (case.batch, case.image, "contiguous", 2) == (batch, image, memory_format, threads)
    # Eager is in the same memory format, whichever it is.
    limit = case.limits.get(f"time {memory_format}", case.limits.get("time"))
    timed = {"time": limit} if limit is not None and threads == 2 else {}
    return {"left": 1.0} | (case.limits if standard else {}) | timed


def measure(row: Row, case: Case, options: argparse.Namespace, progress: Progress) -> None:
    """Fills in the row."""
    task = progress.add_task(f"{row.name}: compile", total=None)
    torch.set_num_threads(row.threads)
    subject = Subject.of(case, row.batch, row.image, row.memory_format)
    found: dict[str, Figure | None] = {}

    def begin(what: str) -> None:
        progress.update(task, description=f"{row.name}: {what}", completed=0, total=None)

    if case.trains and set(BYTES) & set(row.what):
        begin("bytes")
        found |= byte_figures(subject)
    if case.trains and "conv" in row.what:
        begin("bytes of each convolution")
        found["conv"] = conv_figure(subject)
    if case.trains and "hooked" in row.what:
        begin("bytes with hooks")
        found["hooked"] = hooked_figure(subject)
    if "compile" in row.what:
        begin("compile")
        found["compile"] = compile_figure(subject)
    if "time" in row.what:
        begin("time")
        found["time"] = time_figure(
            subject, options.pairs, lambda done, of: progress.update(task, completed=done, total=of)
        )
    row.figures = {m: f for m, f in found.items() if m in row.what and f is not None}
    if "exact" in row.what and case.trains:
        begin("every bit")
        row.difference = subject.verify(options.steps)
    progress.remove_task(task)
