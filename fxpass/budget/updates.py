"""What the updates of `fxpass.optim.in_backward` take for a while, beside gradient and state.

Each is measured on a parameter of its own, which has the form of the real one, a gradient of ones
and a state of its own: the real parameters and the optimizer are left alone. Of parameters alike
one is measured.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn, optim

from fxpass import memory
from fxpass.budget.survey import no_collection
from fxpass.optim._hooks import optimizer_of
from fxpass.optim._hyperparameters import copy_of
from fxpass.optim._per_parameter import names_of
from fxpass.optim._step_one import step_one

_STEPS = 7
"""The first makes the state; RAdam's sixth is its first with an adaptive rate."""


def update_bytes(model: nn.Module) -> dict[Tensor, int]:
    """Of each parameter of `model` that is updated inside backward now: the bytes above its start.

    The first update of a parameter also makes its state, which is not among them.
    """
    found: dict[Tensor, int] = {}
    known: dict[Any, int] = {}
    for parameter in model.parameters():
        optimizer = optimizer_of(parameter)
        place = names_of(optimizer).get(parameter) if optimizer is not None else None
        if optimizer is None or place is None or not parameter.requires_grad:
            continue
        options = copy_of(place[0])
        form = parameter.shape, parameter.stride(), parameter.dtype, id(optimizer), str(options)
        if form not in known:
            known[form] = _measured(optimizer, options, parameter)
        found[parameter] = known[form]
    return found


def _measured(optimizer: optim.Optimizer, options: dict[str, Any], parameter: Tensor) -> int:
    trial: Any = object.__new__(type(optimizer))
    vars(trial).update(vars(optimizer), state=defaultdict(dict))
    own = nn.Parameter(torch.ones_like(parameter))
    peaks = []
    with torch.no_grad(), no_collection():
        for _ in range(_STEPS):
            own.grad = torch.ones_like(own)
            with memory.track() as tracked:
                step_one(trial, options, own)
            peaks.append(tracked.peak_bytes)
    return max(peaks[1:])
