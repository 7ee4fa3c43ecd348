"""Views, copies, sums and the like: ops without weights that move or combine elements."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import nn

from fxpass.edges.op import Op

ROWS: tuple[Op, ...] = (
    # Views, or the input itself: nothing is kept, and the storage goes on.
    Op(
        "view",
        modules=(nn.Flatten, nn.Unflatten, nn.Identity),
        functions=(
            torch.flatten,
            torch.reshape,
            torch.squeeze,
            torch.unsqueeze,
            torch.permute,
            torch.transpose,
            torch.t,
            torch.chunk,
            torch.split,
            torch.narrow,
            torch.unbind,
            torch.unflatten,
            operator.getitem,
        ),
        methods=(
            "flatten",
            "reshape",
            "view",
            "squeeze",
            "unsqueeze",
            "permute",
            "transpose",
            "t",
            "chunk",
            "split",
            "narrow",
            "unbind",
            "unflatten",
            "expand",
        ),
        shares_storage=True,
        keeps_zeros=True,
    ),
    # A copy, or the input itself.
    Op("contiguous", methods=("contiguous",), shares_storage=True, keeps_zeros=True, cheap=True),
    # Nothing of the input's elements is kept; dropout keeps its own mask (in eval mode it returns
    # the input itself).
    Op(
        "dropout",
        modules=(
            nn.Dropout,
            nn.Dropout1d,
            nn.Dropout2d,
            nn.Dropout3d,
        ),
        functions=(
            F.dropout,
            F.dropout1d,
            F.dropout2d,
            F.dropout3d,
        ),
        shares_storage=True,
        keeps_zeros=True,
    ),
    # What these drop, and what they keep, is moved away from zero.
    Op(
        "alpha_dropout",
        modules=(nn.AlphaDropout, nn.FeatureAlphaDropout),
        functions=(F.alpha_dropout, F.feature_alpha_dropout),
        shares_storage=True,
    ),
    Op(
        "add",
        functions=(operator.add, operator.sub, torch.add, torch.sub),
        methods=("add", "sub"),
        cheap=True,
    ),
    Op(
        "add_",
        functions=(operator.iadd, operator.isub),
        methods=("add_", "sub_"),
        shares_storage=True,
        writes_input=True,
        cheap=True,
    ),
    Op(
        "mul",
        functions=(operator.mul, torch.mul),
        methods=("mul",),
        saves_input=True,
        cheap=True,
    ),
    Op(
        "cat",
        {"input": None, "dim": 0},
        functions=(torch.cat, torch.concat),
        keeps_zeros=True,
        cheap=True,
    ),
    Op("stack", functions=(torch.stack,), keeps_zeros=True),
    Op(
        "stochastic_depth",
        {"input": None, "p": None, "mode": None, "training": True},
        names=("torchvision.ops.stochastic_depth.stochastic_depth",),
        cheap=True,
    ),
    Op(
        "pad",
        {"input": None, "pad": None, "mode": "constant", "value": None},
        functions=(F.pad, torch._C._nn.pad),
        saves_input=True,
        reads_saved=False,
        cheap=True,
    ),
    *(
        Op(
            f"{name}_pad",
            {"input": None, "padding": None, "mode": mode, "value": None},
            tuple(getattr(nn, f"{prefix}Pad{n}d") for n in (1, 2, 3)),
            saves_input=mode in ("reflect", "replicate"),
            reads_saved=False,
            cheap=True,
        )
        for name, mode, prefix in (
            ("constant", "constant", "Constant"),
            ("zero", "constant", "Zero"),
            ("reflection", "reflect", "Reflection"),
            ("replication", "replicate", "Replication"),
            ("circular", "circular", "Circular"),
        )
    ),
    Op("sum", functions=(torch.sum, torch.mean), methods=("sum", "mean")),
    Op("shape", functions=(getattr, len), methods=("size", "dim", "numel", "stride")),
)
