"""Convolutions and linear layers: what they keep, and the copies that oneDNN makes.

oneDNN computes in layouts of its own. X, W and Y are the bytes of input, weight and output, or of
their gradients. What is live above inputs and gradients, seen with torch 2.13 on x86-64:

| part | contiguous | channels_last |
|---|---|---|
| forward | max(X + W + Y, 2 Y) | W + Y |
| gradient of the input | max(X + W + Y, 2 X) | X + W |
| gradient of the weight | max(X + W + Y, 2 W) | 3 W |

That is: each operand is copied into a blocked layout, the result is computed in one, and that is
copied into torch's while it is there. An input of fewer than 4 channels is read as it is. With
channels_last only weights are copied. A convolution of one small image goes to "slow" kernels,
which unfold the input unless the window is 1 x 1; one to fewer than 3 x 3 elements takes several
copies of the weight for each thread, and is refused. Of scratch within a kernel (some rows of an
image for each thread; a strided 1 x 1 convolution takes X / stride^2) only the latter is counted.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from fxpass.budget.probe import Cost, Phase
from fxpass.budget.shapes.called import Called, computing, moving
from fxpass.errors import FxpassError


def convolution(call: Called, ours: bool) -> Cost:
    """Of conv2d, eager's (one node) or fxpass' (two phases)."""
    x, weight, y = call.tensor("input"), call.tensor("weight"), call.result
    forward, of_input, of_weight = _peaks(call, x, weight, y)
    flops = 2.0 * y.numel() * weight[0].numel()
    seconds = computing(flops) + moving(x.nbytes, weight.nbytes, y.nbytes)
    needs_weight = call.needs_of("weight")
    if needs_weight or call.needs_of("bias"):
        of_weight = of_weight * needs_weight + call.gradient_bytes("bias")
    phases = []
    if needs_weight or call.needs_of("bias"):
        phases.append(Phase(seconds, of_weight, needs_weight))
    if call.needs_of("input"):
        phases.append(Phase(seconds, of_input, False))
    if not ours and phases:
        peaks = [of_input, x.nbytes + of_weight] if call.needs_of("input") else [of_weight]
        phases = [Phase(seconds * len(phases), max(peaks), True)]
    return Cost(
        seconds,
        forward,
        saves=_saves(call, ours),
        phases=tuple(phases),
        gradients=call.gradients(),
        out_bytes=y.nbytes,
    )


def _peaks(call: Called, x: Tensor, weight: Tensor, y: Tensor) -> tuple[int, int, int]:
    """Of forward, gradient of the input, gradient of the weight."""
    backend = _backend(call, x, weight)
    n_x, n_w, n_y = x.nbytes, weight.nbytes, y.nbytes
    if "Slow2d" in backend:
        window = prod(weight.shape[2:])
        columns = 0 if window == 1 else x.element_size() * y.numel() // y.shape[1]
        columns *= weight[0].numel()
        return n_y + columns, n_x, n_w + columns
    is_tiny = max(y.shape[2:]) < 3 and prod(weight.shape[2:]) > 1
    if "Mkldnn" not in backend or is_tiny:
        what = "one to fewer than 3 x 3 elements" if is_tiny else f"one for {backend}"
        raise FxpassError(
            f"fxpass: expected a convolution for oneDNN's common kernels, got {what}:"
            " what that allocates is not known from shapes; give a memory budget with real inputs,"
            " or larger images"
        )
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return n_w + n_y, n_x + n_w, 3 * n_w
    read = 0 if x.shape[1] < 4 else n_x
    stride = prod(call.options["stride"])
    rows = n_x // stride if stride > 1 and prod(weight.shape[2:]) == 1 else 0
    together = n_w + n_y + rows
    return (
        max(read + together, 2 * n_y),
        max(n_x + together, 2 * n_x),
        max(read + together, 2 * n_w),
    )


def _backend(call: Called, x: Tensor, weight: Tensor) -> str:
    """Which of torch's kernels a convolution goes to."""
    o = call.options
    bias = call.tensor("bias") if call.place("bias") is not None else None
    nothing = [0] * len(o["stride"])
    sizes = (list(o["stride"]), list(o["padding"]), list(o["dilation"]))
    return str(torch._C._select_conv_backend(x, weight, bias, *sizes, False, nothing, o["groups"]))


def linear(call: Called, ours: bool) -> Cost:
    """Of a linear layer: nothing is copied."""
    x, weight, y = call.tensor("input"), call.tensor("weight"), call.result
    flops = 2.0 * y.numel() * weight.shape[1]
    seconds = computing(flops) + moving(x.nbytes, weight.nbytes, y.nbytes)
    parts = call.needs_of("input") + call.needs_of("weight")
    peak = call.gradient_bytes("input", "weight", "bias")
    return Cost(
        seconds,
        y.nbytes,
        saves=_saves(call, ours),
        phases=(Phase(parts * seconds, peak),) if call.trains else (),
        gradients=call.gradients(),
        out_bytes=y.nbytes,
    )


def _saves(call: Called, ours: bool) -> frozenset[int]:
    """Eager keeps the input if the weight learns; fxpass' operators say by their arguments."""
    place = call.place("input")
    keeps = not ours and call.needs_of("weight") and place is not None
    return frozenset([place]) if keeps and place is not None else frozenset()
