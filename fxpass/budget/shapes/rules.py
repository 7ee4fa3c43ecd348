"""What a call allocates, by the name of its op: one row an op.

Sizes in the rows: a mask takes one bit an element, a code of a max pool the bits that count its
window and the case of no maximum above zero, eager's indices eight bytes each.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2, prod
from typing import Any

from torch import Tensor

from fxpass.budget.probe import Cost, Phase, RestoreCost
from fxpass.budget.shapes.called import Called, moving
from fxpass.budget.shapes.layers import convolution, linear
from fxpass.errors import FxpassError

_PIECE_BYTES = 2**17
"""Of a batch norm's result, made again piece by piece in backward."""

Rule = Callable[[Called], Cost]


def cost_of(call: Called, ours: bool) -> Cost:
    """What the call takes; raises FxpassError if its op has no row."""
    rule = (_OURS if ours else _EAGER).get(call.name)
    if rule is None:
        known = ", ".join(sorted(_EAGER))
        raise FxpassError(
            f"fxpass: what {call.name} allocates is not known from shapes (known: {known}); "
            "give a memory budget with real inputs, for which each op is measured"
        )
    return rule(call)


def restore_of(call: Called) -> RestoreCost | None:
    """Of making a batch norm's result again from its input, by fxpass' operator."""
    if call.name != "batch_norm":
        return None
    n_bytes = call.result.nbytes
    return RestoreCost(moving(2 * n_bytes), n_bytes + 2 * _vector(call))


def _elementwise(call: Called, **known: Any) -> Cost:
    """An op that reads its inputs once and writes its result, and the same backward.

    `known`: what of its Cost is not that of an op that hands its gradient on. `peak`: of backward.
    """
    moved = moving(call.result.nbytes, *(t.nbytes for t in call.tensors))
    seconds = known.get("seconds", moved)
    out = 0 if call.alias is not None else call.result.nbytes
    own, peak = known.get("own", 0), known.get("peak", 0)
    # Where others hold the gradient too, one that is written over is a new tensor.
    shared = peak + (_input_bytes(call) if known.get("writes") else 0)
    return Cost(
        seconds,
        known.get("forward", out + own),
        own_bytes=own if call.trains else 0,
        saves=frozenset(known.get("saves", ())),
        phases=(Phase(seconds, peak, shared_peak_bytes=shared),) if call.trains else (),
        gradients=call.gradients(handed_on=known.get("handed_on", False)),
        out_bytes=out,
        alias=call.alias,
    )


def _mask(value: Tensor) -> int:
    return value.numel() // 8


def _input_bytes(call: Called) -> int:
    return call.gradient_bytes("input")


def _vector(call: Called) -> int:
    return call.tensor("input").shape[1] * call.result.element_size()


def _relu(call: Called) -> Cost:
    return _elementwise(call, saves={-1 if call.alias is None else 0}, peak=_input_bytes(call))


def _our_relu(call: Called) -> Cost:
    return _elementwise(call, own=_mask(call.result), handed_on=True, writes=True)


def _clamp(call: Called) -> Cost:
    """ReLU6 and hardtanh: in place a copy of the input is kept."""
    copied = call.result.nbytes if call.alias is not None else 0
    saves = () if copied else (0,)
    return _elementwise(call, saves=saves, own=copied, peak=_input_bytes(call))


def _batch_norm(call: Called) -> Cost:
    """Backward makes the gradient of its input by way of another tensor as large."""
    _require_training(call)
    vector, place = _vector(call), call.roles.index("input")
    parameters = call.gradient_bytes("weight", "bias")
    return _elementwise(
        call,
        own=2 * vector,
        forward=call.result.nbytes + 4 * vector,
        saves={place},
        peak=2 * _input_bytes(call) + parameters,
    )


def _our_batch_norm(call: Called) -> Cost:
    """With the activation behind it: relu leaves a mask, hardtanh's input is made in pieces."""
    _require_training(call)
    activation, vector = call.options["activation"], _vector(call)
    if activation not in (None, "relu", "hardtanh"):
        raise FxpassError(
            f"fxpass: what a batch norm with {activation} allocates is not known from shapes"
        )
    own = 4 * vector + (_mask(call.result) if activation == "relu" else 0)
    piece = min(_PIECE_BYTES, call.result.nbytes) if activation == "hardtanh" else 0
    return _elementwise(
        call,
        own=own,
        forward=call.result.nbytes + own + 4 * vector,
        peak=call.gradient_bytes("weight", "bias") + piece,
        handed_on=True,
        writes=True,
    )


def _require_training(call: Called) -> None:
    if not call.options["training"]:
        raise FxpassError(
            f"fxpass: what {call.name} allocates in eval mode is not known from shapes; "
            "call model.train()"
        )


def _max_pool(call: Called) -> Cost:
    indices = 8 * call.result.numel()
    return _elementwise(call, own=indices, saves={0}, peak=_input_bytes(call))


def _our_max_pool(call: Called) -> Cost:
    bits = ceil(log2(prod(call.options["kernel_size"]) + 1))
    codes = ceil(call.result.numel() * bits / 8)
    return _elementwise(call, own=codes, peak=_input_bytes(call))


def _avg_pool(call: Called) -> Cost:
    """To one value a channel it is a mean, which keeps nothing."""
    saves = () if prod(call.result.shape[2:]) == 1 else (0,)
    return _elementwise(call, saves=saves, peak=_input_bytes(call))


def _our_avg_pool(call: Called) -> Cost:
    return _elementwise(call, peak=_input_bytes(call))


def _add(call: Called) -> Cost:
    return _elementwise(call, handed_on=True)


def _view(call: Called) -> Cost:
    seconds = 0.0 if call.alias is not None else moving(2 * call.result.nbytes)
    return _elementwise(call, handed_on=True, seconds=seconds)


def _dropout(call: Called) -> Cost:
    _require_training(call)
    noise = call.result.nbytes
    return _elementwise(call, own=noise, peak=_input_bytes(call))


_EAGER: dict[str, Rule] = {
    "conv2d": lambda call: convolution(call, ours=False),
    "linear": lambda call: linear(call, ours=False),
    "batch_norm2d": _batch_norm,
    "relu": _relu,
    "relu6": _clamp,
    "hardtanh": _clamp,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "adaptive_avg_pool2d": _avg_pool,
    "add": _add,
    "add_": _add,
    "view": _view,
    "dropout": _dropout,
}

_OURS: dict[str, Rule] = {
    "conv2d": lambda call: convolution(call, ours=True),
    "linear": lambda call: linear(call, ours=True),
    "batch_norm": _our_batch_norm,
    "relu": _our_relu,
    "relu_": _our_relu,
    "max_pool2d": _our_max_pool,
    "relu_max_pool2d": _our_max_pool,
    "avg_pool2d": _our_avg_pool,
    "adaptive_avg_pool2d": _our_avg_pool,
}
