"""`fxpass.profile`: where the memory of a training step goes, tensor by tensor.

    profile = fxpass.profile(compiled, images)
    print(profile.table())

The bytes and the timeline are those of the model as it is. The rows come from a second run, in
which every buffer is told by the op that allocated it: for eager too from the graph that fxpass
captures. What the rows do not explain of the bytes is said, not hidden.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxpass._checks import require_values
from fxpass._oracle import LossFn, sum_of_outputs
from fxpass._preserved import preserved
from fxpass._progress import progress
from fxpass.capture import Capture
from fxpass.inspect.beside import lay_beside
from fxpass.inspect.rows import Rows, SavedTensor, eager_rows
from fxpass.inspect.run import MakeOptimizer, Run, measure, seconds_of, watch
from fxpass.inspect.timeline import Timeline, timeline_of
from fxpass.inspect.watcher import Key
from fxpass.plan import Plan, Recipe
from fxpass.runtime.module import CompiledModule
from fxpass.runtime.unit import Unit


@dataclass(frozen=True)
class Profile:
    """What one training step of a model takes.

    Attributes:
        model: the name of the model's class.
        saved_bytes: live in torch's CPU allocator when the forward has returned, above the start.
        peak_bytes: the most that was live during forward and backward, above the start.
        seconds: of forward and backward, the median of a few steps.
        edges: a row for each tensor that eager keeps between the two.
        timeline: live bytes by category, over one step.
        eager: the same of the unmodified model, if this is of a compiled one.

    """

    model: str
    saved_bytes: int
    peak_bytes: int
    seconds: float
    edges: tuple[SavedTensor, ...] = field(repr=False)
    timeline: Timeline = field(repr=False)
    eager: Profile | None = field(default=None, repr=False)

    @property
    def not_attributed_bytes(self) -> int:
        """Saved bytes that no row explains."""
        return self.saved_bytes - sum(edge.kept_bytes for edge in self.edges)

    def table(self, rows: int = 20) -> str:
        """The totals, and the `rows` tensors that eager spends most on, for a terminal."""
        from fxpass.inspect.table import table_of

        return table_of(self, rows)

    def __str__(self) -> str:
        return self.table()

    def to_json(self, path: str | PathLike[str]) -> None:
        """Writes everything as JSON."""
        from fxpass.inspect.document import as_document

        Path(path).write_text(json.dumps(as_document(self), indent=1), encoding="utf-8")

    def to_html(self, path: str | PathLike[str]) -> None:
        """Writes a page that opens offline: totals, charts, and a table that can be sorted.

        Raises:
            ImportError: the packages of `fxpass[report]` are not installed.

        """
        from fxpass.inspect.html import page_of

        Path(path).write_text(page_of(self), encoding="utf-8")

    def to_picture(self, path: str | PathLike[str]) -> None:
        """Writes the charts of that page as PNG or SVG, by the suffix of `path`.

        Raises:
            ImportError: the packages of `fxpass[report]` are not installed.
            ValueError: the suffix is another.

        """
        from fxpass.inspect.charts import charts_of, save

        save(charts_of(self), path)


def profile(
    model: nn.Module,
    *inputs: Any,
    loss_fn: LossFn | None = None,
    optimizer: MakeOptimizer | None = None,
) -> Profile:
    """Measures a training step of `model`, eager or compiled.

    Parameters, `.grad`, buffers, RNG and training flags are left as they were found. Memory is
    counted exactly; that of a model's own buffers and of its inputs was there before.

    Args:
        model: the model, or what `fxpass.compile` made of it: then the profile has both.
        inputs: what the model is called with.
        loss_fn: from the model's output to a scalar; by default the sum of all floating outputs.
        optimizer: makes an optimizer of a list of parameters, e.g. `torch.optim.Adam`: its step is
            then part of the timeline, and not of the figures.

    Raises:
        TypeError: `model` is no nn.Module.
        ValueError: a lazy module was not called yet.

    """
    require_values(model, "fxpass.profile")
    original = model.original if isinstance(model, CompiledModule) else model
    step = _Step(original, inputs, loss_fn or sum_of_outputs, optimizer)
    with progress(4 if isinstance(model, CompiledModule) else 2) as begin:
        begin("eager: which op keeps what")
        rows = step.eager_rows()
        begin("eager: a few steps")
        eager = step.profile(original, tuple(rows.tensors))
        if not isinstance(model, CompiledModule):
            return eager
        begin("fxpass: which op keeps what")
        beside = step.compiled_rows(model, rows)
        begin("fxpass: a few steps")
        return step.profile(model, beside, eager)


@dataclass(frozen=True)
class _Step:
    """What is measured: each time from the same state."""

    original: nn.Module
    inputs: tuple[Any, ...]
    loss_fn: LossFn
    optimizer: MakeOptimizer | None

    def profile(
        self, model: nn.Module, rows: tuple[SavedTensor, ...], eager: Profile | None = None
    ) -> Profile:
        seconds = self._from_here(lambda: seconds_of(model, self.inputs, self.loss_fn))
        run: Run = self._from_here(lambda: measure(model, self.inputs, self.loss_fn))
        longer = run
        if self.optimizer is not None:
            longer = self._from_here(
                lambda: measure(model, self.inputs, self.loss_fn, self.optimizer)
            )
        parameters = {p.untyped_storage().data_ptr(): p for p in model.parameters()}
        size = sum(p.untyped_storage().nbytes() for p in parameters.values())
        name = type(self.original).__name__
        timeline = timeline_of(longer, size)
        return Profile(name, run.saved_bytes, run.peak_bytes, seconds, rows, timeline, eager)

    def eager_rows(self) -> Rows:
        unit = Unit(self.original, _as_captured, lambda module, losses: None)
        self._from_here(lambda: unit(*self.inputs))  # traces
        return eager_rows(self._from_here(lambda: watch(self.original, unit, self.inputs)))

    def compiled_rows(self, model: CompiledModule, rows: Rows) -> tuple[SavedTensor, ...]:
        self._from_here(lambda: model(*self.inputs))
        found = self._from_here(
            lambda: watch(self.original, model, self.inputs, loss_fn=self.loss_fn)
        )
        recipes: dict[Key, Recipe] = {
            Key(path, choice.value): choice.recipe
            for path, _, plan, _ in model._fxpass_plans()
            for choice in plan
        }
        return lay_beside(rows, found, recipes)

    def _from_here(self, run: Callable[[], Any]) -> Any:
        with preserved(self.original, self.inputs), torch.enable_grad():
            return run()


def _as_captured(capture: Capture) -> Plan:
    """Leaves the graph as it is."""
    return Plan()
