"""What a row of the table says of an op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Op:
    """One row of the table.

    Attributes:
        name: what the plan and the rewrites call the op.
        parameters: name and default of each parameter of the functional form; the first takes the
            tensor. A module's attributes of the same names give their values.
        names: functions of other packages, by their qualified names.
        saves_input: the autograd node keeps the input.
        saves_result: the autograd node keeps the result.
        shares_storage: the result may lie in the input's storage (a view, or the input itself).
        writes_input: the result is the first argument, written to.
        keeps_zeros: a zero of the input is a zero of the result, and little else is lost: a sparse
            input gives a sparse result.
        reads_saved: backward reads the elements of the input that is kept, not only its shape or a
            code made of it.
        reads_bits: of each element of the input that is kept, backward reads one truth value.
        inplace_saves_result: in place, the autograd node keeps the result instead of the input.
        cheap: the op may be run again in backward: an elementwise op, a norm, a pool or a copy.
        heavy: the op may be run again in backward if memory is worth the time.

    """

    name: str
    parameters: dict[str, Any] = field(default_factory=lambda: {"input": None})
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    saves_input: bool = False
    saves_result: bool = False
    shares_storage: bool = False
    writes_input: bool = False
    keeps_zeros: bool = False
    reads_saved: bool = True
    reads_bits: bool = False
    inplace_saves_result: bool = False
    cheap: bool = False
    heavy: bool = False


def spatial(name: str, prefix: str) -> tuple[tuple[int, type[nn.Module], Callable[..., Any]], ...]:
    """(dimensions, module class, function) of an op that exists in one to three dimensions."""
    return tuple((n, getattr(nn, f"{prefix}{n}d"), getattr(F, f"{name}{n}d")) for n in (1, 2, 3))
