"""The two halves of a convolution's backward: {weight, bias} reads the input, {input} does not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fxpass.budget.probe import Cost, Phase, Probe, gradient_like


def conv_phases(
    node: Node,
    args: tuple[Any, ...],
    cost: Cost,
    needs: list[bool],
    upstream: tuple[int, ...] | None,
    probe: Probe,
) -> Cost:
    """`cost` with the phases of fxpass::conv*, told apart by `probe`; of any other op as it is.

    Source: cpp_ops/ops/conv.cpp, ConvNode::backward.
    """
    name = getattr(node.target, "__name__", "")
    if not name.startswith("conv") or not cost.phases or isinstance(args[5], str):
        return cost
    x, _, weight, bias, stride, padding, *rest = args
    if x.dim() != weight.dim():
        return cost
    transposed = name.startswith("conv_transpose")
    output_padding, groups, dilation = rest if transposed else ([0] * len(stride), rest[1], rest[0])
    with torch.no_grad():
        y = node.target(*args)  # type: ignore[operator]
        grad = gradient_like(y, upstream)
    needs_x, needs_weight = needs[0], needs[1]
    has_bias = bias is not None and needs[2]

    def half(mask: list[bool]) -> Any:
        sizes = None if bias is None else list(bias.shape)
        with torch.no_grad():
            out = torch.ops.aten.convolution_backward(
                *(grad, x, weight, sizes, stride, padding, dilation, transposed),
                *(output_padding, groups, mask),
            )
        return [t for t in out if isinstance(t, Tensor)]

    phases = []
    for mask, reads in (
        ([False, needs_weight, has_bias], needs_weight),
        ([needs_x, False, False], False),
    ):
        if any(mask):
            measured = probe.restore(partial(half, mask))
            phases.append(Phase(measured.seconds, measured.peak_bytes, reads))
    return replace(cost, phases=tuple(phases))
