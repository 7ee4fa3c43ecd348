"""The figures of a row of `bench/zoo.py`, a function each.

saved, peak, left   bytes of a training step, fxpass / eager
conv                bytes live during a convolution's backward node, fxpass / eager, the worst one
hooked              saved bytes of the compiled model, with a hook on every convolution / without
compile             seconds that compile() takes
time                the step, fxpass / eager
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor, nn

import fxpass
from bench._cases import Subject
from bench._conv_peak import conv_peaks, convs_of

MEASURES = ("saved", "peak", "left", "conv", "hooked", "compile", "time")
BYTES = ("saved", "peak", "left")
MIB = 2**20
_COMPILES = 5


@dataclass(frozen=True)
class Figure:
    """A value, what the table says beside it, and what it comes from."""

    value: float
    text: str
    details: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of_bytes(fxpass_bytes: int, eager_bytes: int, note: str = "", **more: Any) -> Figure:
        """A ratio of bytes; where eager has none, 0 or infinite."""
        nothing = math.inf if fxpass_bytes else 0.0
        value = fxpass_bytes / eager_bytes if eager_bytes else nothing
        text = f"{fxpass_bytes / MIB:.1f} of\n{eager_bytes / MIB:.1f} MiB{note}"
        sides = {"fxpass_bytes": fxpass_bytes, "eager_bytes": eager_bytes}
        return Figure(value, text, sides | more)


def byte_figures(subject: Subject) -> dict[str, Figure]:
    """Bytes of a step: saved by the forward, at most, and left over."""
    ours, eagers = subject.memory(subject.compiled), subject.memory(subject.eager)
    return {m: Figure.of_bytes(getattr(ours, m), getattr(eagers, m)) for m in BYTES}


def conv_figure(subject: Subject) -> Figure | None:
    """The convolution whose backward node has the worst peak; None if none is trained."""
    ours, eagers = _conv_peaks(subject, subject.compiled), _conv_peaks(subject, subject.eager)
    if ours.keys() != eagers.keys():
        raise AssertionError(f"one graph only has {sorted(ours.keys() ^ eagers.keys())}")
    if not ours:
        return None
    ratios = {path: ours[path] / eagers[path] for path in eagers}
    worst = max(ratios, key=lambda path: ratios[path])
    return Figure.of_bytes(ours[worst], eagers[worst], f"\n{worst}", worst=worst, ratios=ratios)


def _conv_peaks(subject: Subject, model: nn.Module) -> dict[str, int]:
    subject.step(model)()  # what is made once
    subject.forget_gradients()

    def forward() -> Tensor:
        return subject.loss(model(subject.images))

    return conv_peaks(model, forward)


def hooked_figure(subject: Subject) -> Figure | None:
    """Hooks registered before and after compile(), the worse of both; None without convolutions."""
    convs = convs_of(subject.eager).values()
    if not convs:
        return None
    without = _saved_bytes(subject, subject.compiled)
    hooks = [conv.register_forward_hook(lambda module, args, output: None) for conv in convs]
    after = _saved_bytes(subject, subject.compiled)
    compiled: Any = fxpass.compile(subject.eager, example_inputs=(subject.images,))
    before = _saved_bytes(subject, compiled)
    for hook in hooks:
        hook.remove()
    worse = max(before, after)
    return Figure(
        worse / without,
        f"{worse / MIB:.1f} of\n{without / MIB:.1f} MiB",
        {"bytes": without, "hooked_before_bytes": before, "hooked_after_bytes": after},
    )


def _saved_bytes(subject: Subject, model: nn.Module) -> int:
    model(subject.images)  # traces, if it has to
    gc.collect()
    with fxpass.memory.track() as memory:
        output = model(subject.images)
        saved = memory.live_bytes
    del output
    return saved


def compile_figure(subject: Subject) -> Figure:
    """The median of several compile() calls, each of a model of its own."""
    seconds = []
    for _ in range(_COMPILES):
        model = subject.case.make()
        gc.collect()
        start = time.perf_counter()
        fxpass.compile(model, example_inputs=(subject.images,))
        seconds.append(time.perf_counter() - start)
    return Figure(median(seconds), "seconds", {"seconds": seconds})


def time_figure(
    subject: Subject, pairs: int | None, progress: Callable[[int, int], None]
) -> Figure:
    """The step's time; the ratio of paired runs, by that of a control."""
    ratio = subject.time(pairs, progress)
    return Figure(
        ratio.value,
        f"{ratio.reference_seconds * 1e3:.0f} ms\ncontrol {ratio.control:.3f}",
        {
            "fxpass_seconds": ratio.seconds,
            "eager_seconds": ratio.reference_seconds,
            "ratio": ratio.raw,
            "control": ratio.control,
            "pairs": len(ratio.pairs),
        },
    )
