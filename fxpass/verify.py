"""`fxpass.verify`: whether the compiled model is the original, to the last bit.

    report = fxpass.verify(model, x)
    print(report)        # gradients identical: 32 of 32 tensors ...

The comparison itself, and what it compares, is in `fxpass/_oracle.py`; how the op to blame is
found in `fxpass/culprit`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxpass._checks import require_values
from fxpass._oracle import (
    Difference,
    Key,
    Loop,
    LossFn,
    Recording,
    Value,
    compare,
    record,
    sum_of_outputs,
)
from fxpass._progress import progress
from fxpass.compile import compile
from fxpass.culprit import bisect, explained
from fxpass.errors import MismatchError
from fxpass.runtime.module import CompiledModule

_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """What `verify` compared, all of it identical.

    `counts` has, for each kind of value ("output", "gradient", "buffer", ...), how many tensors
    there are; each was compared `steps` times, with and without a gradient for the inputs.
    """

    counts: dict[str, int]
    steps: int

    @property
    def gradients(self) -> int:
        """How many gradients there are, of parameters and inputs."""
        return self.counts.get("gradient", 0) + self.counts.get("input gradient", 0)

    def __repr__(self) -> str:
        rest = [f"{kind} {n}" for kind, n in self.counts.items() if "gradient" not in kind]
        return (
            f"gradients identical: {self.gradients} of {self.gradients} tensors"
            f" (also identical: {', '.join(rest)}; {self.steps} steps)"
        )


def verify(model: nn.Module, *inputs: Any, steps: int = 3, loss_fn: LossFn | None = None) -> Report:
    """Checks that the compiled model computes exactly what the model computes.

    Runs `steps` SGD steps of each from the same state, with and without a gradient for the floating
    inputs, and compares outputs, loss, gradients, buffers, RNG state, and parameters after each
    step, as integers. The unmodified model is run twice first: where it does not equal itself,
    nothing can be proven, and this is reported. Parameters, `.grad`, buffers, RNG and training
    flags are left as they were found.

    Where they differ, parts of the model are compiled and run again, a number of times that grows
    with the logarithm of the ops, until the first op whose rewriting is to blame is known, and a
    plan that keeps its edge dense and makes the model equal. The error says both.

    Args:
        model: the model, which is compiled for these inputs, or a compiled one.
        inputs: what the model is called with.
        steps: how many optimizer steps to compare.
        loss_fn: from the model's output to a scalar; by default the sum of all floating outputs.

    Raises:
        MismatchError: naming everything that differs, what came first in front; then the op, its
            edge, and the call of `fxpass.compile` that keeps that edge dense.
        TypeError: `model` is no nn.Module.
        ValueError: `steps` is below 1, or a lazy module was not called yet.

    """
    require_values(model, "fxpass.verify")
    if steps < 1:
        raise ValueError(f"expected steps to be at least 1, got {steps}")
    original, compiled = _pair(model, inputs)
    counts: dict[str, int] = {}
    loops = [Loop(steps, loss_fn or sum_of_outputs, grads) for grads in (False, True)]
    with progress(3 * len(loops)) as begin:
        for loop, other in zip(loops, reversed(loops), strict=True):
            found = require_identical(original, compiled, inputs, loop, other, begin=begin)
            counts |= _counts(found)
    return Report(counts, steps)


def require_identical(
    original: Callable[..., Any],
    other: Callable[..., Any],
    inputs: tuple[Any, ...],
    loop: Loop,
    *more: Loop,
    begin: Callable[[str], None] = lambda what: None,
) -> Recording:
    """Runs both through the loop; raises MismatchError if they, or two runs of one, differ.

    What the error advises has been tried in this loop and in `more`. `begin` is told what begins.
    """
    begin("the model as it is")
    first = record(original, inputs, loop)
    if first.error is not None:
        raise first.error
    begin("once more")
    if differences := compare(first, record(original, inputs, loop)):
        raise MismatchError(
            "nothing is proven: the unmodified model does not equal itself when run twice from one"
            f" state\n{_listed(differences, original)}"
        )
    begin("compiled")
    second = record(other, inputs, loop)
    if differences := compare(first, second):
        differences = _in_detail(differences, original, other, inputs, loop)
        message = (
            f"the compiled model differs from the original in {len(differences)} of"
            f" {len(first.values)} values; in order:\n{_listed(differences, original)}"
        )
        if isinstance(other, CompiledModule):
            step = differences[0].key.step
            trial = functools.partial(begin, "looking for the op that differs")
            finding = bisect(other, inputs, (loop, *more), step, trial)
            message += f"\n{explained(finding, other)}"
        raise MismatchError(message) from second.error
    return first


def _pair(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, nn.Module]:
    if isinstance(model, CompiledModule):
        return model.original, model
    compiled: Any = compile(model, example_inputs=inputs)
    return model, compiled


def _in_detail(
    differences: list[Difference],
    original: Callable[..., Any],
    other: Callable[..., Any],
    inputs: tuple[Any, ...],
    loop: Loop,
) -> list[Difference]:
    """Runs both again if the first difference is known by digest only, to see its elements."""
    key = differences[0].key
    if not differences[0].how.endswith("its bytes differ"):
        return differences
    a, b = (record(function, inputs, loop, keep=(key,)) for function in (original, other))
    again = [difference for difference in compare(a, b) if difference.key == key]
    return again + differences[1:] if again else differences


def _listed(differences: list[Difference], original: Callable[..., Any]) -> str:
    lines = [f"  {d.key}{_owner(original, d.key)}: {d.how}" for d in differences[:_SHOWN]]
    if len(differences) > _SHOWN:
        lines.append(f"  and {len(differences) - _SHOWN} more")
    return "\n".join(lines)


def _owner(original: Callable[..., Any], key: Key) -> str:
    """The type of the module that a parameter, gradient or buffer belongs to."""
    if not isinstance(original, nn.Module) or key.kind not in ("gradient", "parameter", "buffer"):
        return ""
    owner = dict(original.named_modules()).get(key.name.rpartition(".")[0])
    return f" of {type(owner).__name__}" if owner is not None else ""


def _counts(recording: Recording) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key, value in recording.values.items():
        if key.step == 0 and isinstance(value, Value):
            counts[key.kind] = counts.get(key.kind, 0) + 1
    return counts
