"""Two functions, the same tensors, every bit: outputs, strides, gradients and errors.

`check(eager, ours, ...)` runs both on twins of the tensors given, and fails unless whatever comes
out is the same as integers, with the same dtype, sizes and strides, or both raise the same type.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import pytest
import torch
from hypothesis import currently_in_test_context, reject, settings
from strategies_values import INTEGERS, fill, laid_out
from torch import Tensor

import fxpass._library  # noqa: F401 (loads the operators)

_DEEP = os.environ.get("FXPASS_HYPOTHESIS") == "deep"

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MOSTLY_FP32 = (torch.float32, *DTYPES)  # to draw from
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded")


def examples(quick: int) -> settings:
    """`quick` examples in the quick profile, 25 times as many in deep."""
    return settings(max_examples=25 * quick if _DEEP else quick)


def bits(tensor: Tensor) -> Tensor:
    """The elements as integers, contiguous (complex: as pairs)."""
    plain = tensor.detach().resolve_neg().resolve_conj()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    return plain.contiguous().view(INTEGERS[plain.element_size()])


def difference(a: Tensor | None, b: Tensor | None) -> str | None:
    """How two tensors differ; None if they do not."""
    if a is None or b is None:
        return None if a is b else f"{describe(a)} against {describe(b)}"
    if (a.dtype, a.shape, a.stride()) != (b.dtype, b.shape, b.stride()):
        return f"{describe(a)} against {describe(b)}"
    if a.requires_grad != b.requires_grad:
        return f"requires_grad {a.requires_grad} against {b.requires_grad}"
    wrong = (bits(a) != bits(b)).nonzero()
    if len(wrong) == 0:
        return None
    at = tuple(wrong[0].tolist())
    left, right = bits(a)[at].item(), bits(b)[at].item()
    return f"{len(wrong)} of {a.numel()} elements, the first at {at}: {left:#x} against {right:#x}"


def describe(tensor: Tensor | None) -> str:
    """Dtype, sizes and strides in one word or three."""
    if tensor is None:
        return "nothing"
    return f"{tensor.dtype} {tuple(tensor.shape)} strides {tensor.stride()}"


def twin(tensor: Tensor, requires_grad: bool = False) -> Tensor:
    """A leaf of the same bits, strides and offset, in a storage of its own."""
    storage = tensor.untyped_storage().clone()
    copy = torch.empty(0, dtype=tensor.dtype)
    copy.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
    return copy.requires_grad_(requires_grad)


def values(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    kind: str = "normal",
    layout: str = "contiguous",
    seed: int = 0,
) -> Tensor:
    """A tensor with the values and the layout named (see strategies_values)."""
    made = fill(tuple(shape), dtype, kind, torch.Generator().manual_seed(seed))
    if made.dim() < (2 if layout == "transposed" else 1):
        return made
    return laid_out(made, layout)


@dataclass
class Upstream:
    """The gradients that arrive: their values and their layout."""

    kind: str = "normal"
    layout: str = "contiguous"
    seed: int = 1

    def gradient(self, output: Tensor) -> Tensor:
        """The gradient of one output."""
        return values(output.shape, output.dtype, self.kind, self.layout, self.seed)


@dataclass
class Outcome:
    """What came of a run: outputs and gradients by name, or an error."""

    tensors: dict[str, Tensor | None] = field(default_factory=dict)
    error: Exception | None = None


def run(
    op: Callable[..., Tensor | tuple[Tensor, ...]],
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    upstream: Upstream,
) -> Outcome:
    """Calls `op` on twins of `tensors`, and backward on its floating outputs."""
    twins = [t if t is None else twin(t, n) for t, n in zip(tensors, needs, strict=True)]
    done = Outcome()
    try:
        result = op(*twins)
        outputs = result if isinstance(result, tuple) else (result,)
        for i, output in enumerate(outputs):
            done.tensors[f"output {i}"] = twin(output.detach(), output.requires_grad)
        roots = [output for output in outputs if output.requires_grad]
        if roots:
            torch.autograd.backward(roots, [upstream.gradient(root) for root in roots])
    except Exception as error:
        done.error = error
        return done
    for i, leaf in enumerate(twins):
        if leaf is not None:
            done.tensors[f"gradient {i}"] = leaf.grad
            done.tensors[f"input {i}"] = leaf.detach()  # nobody wrote to it, or both did
    return done


def check(
    eager: Callable[..., Tensor | tuple[Tensor, ...]],
    ours: Callable[..., Tensor | tuple[Tensor, ...]],
    tensors: Sequence[Tensor | None],
    *,
    needs: Sequence[bool] | None = None,
    upstream: Upstream | None = None,
    may_raise: bool = False,
) -> Outcome:
    """Fails unless both do the same to the last bit. Returns what eager did.

    By default every floating tensor needs a gradient, and eager is not expected to raise. Where
    eager does not equal itself, `proves_nothing`.
    """
    if needs is None:
        needs = [t is not None and t.is_floating_point() for t in tensors]
    upstream = upstream or Upstream()
    expected = run(eager, tensors, needs, upstream)
    if expected.error is not None and not may_raise:
        raise AssertionError(f"eager raises {expected.error!r}") from expected.error
    found = run(ours, tensors, needs, upstream)
    wrong = disagreements(expected, found)
    if wrong and not disagreements(expected, run(eager, tensors, needs, upstream)):
        given = ", ".join(describe(t) for t in tensors)
        raise AssertionError("\n".join([f"given {given}, needs {list(needs)}", *wrong]))
    if wrong:
        proves_nothing()
    return expected


# For arguments of which eager refuses some.
check_errors_too = partial(check, may_raise=True)


def disagreements(expected: Outcome, found: Outcome) -> list[str]:
    """Every way in which two outcomes differ, one a line."""
    if expected.error is not None or found.error is not None:
        if type(expected.error) is type(found.error):
            return []
        return [f"eager raises {expected.error!r}", f"ours raises {found.error!r}"]
    pairs = {name: (t, found.tensors.get(name)) for name, t in expected.tensors.items()}
    lines = [(name, difference(a, b)) for name, (a, b) in pairs.items()]
    return [f"{name}: {line} (eager against ours)" for name, line in lines if line]


def proves_nothing() -> NoReturn:
    """Ends a comparison in which eager does not equal itself.

    Of what Hypothesis draws, another example takes its place. A setting chosen by hand fails, or
    nobody would notice that its test no longer looks at anything.
    """
    if currently_in_test_context():
        reject()
    pytest.fail("eager does not equal itself here, so this proves nothing: choose another setting")
