"""The layers with weights, and the norms: each keeps its input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fxpass.edges.op import Op, spatial

_CONV = {
    "input": None,
    "weight": None,
    "bias": None,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
}
_BATCH_NORM = {
    "input": None,
    "running_mean": None,
    "running_var": None,
    "weight": None,
    "bias": None,
    "training": False,
    "momentum": 0.1,
    "eps": 1e-5,
}
_CONV_TRANSPOSE = {
    "input": None,
    "weight": None,
    "bias": None,
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "groups": 1,
    "dilation": 1,
}
_AFFINE = {"weight": None, "bias": None, "eps": 1e-5, "cudnn_enabled": True}
_INSTANCE_NORM = {
    "input": None,
    "running_mean": None,
    "running_var": None,
    "weight": None,
    "bias": None,
    "use_input_stats": True,
    "momentum": 0.1,
    "eps": 1e-5,
}

ROWS: tuple[Op, ...] = (
    *(
        Op(f"batch_norm{n}d", _BATCH_NORM, (module,), saves_input=True, cheap=True)
        for n, module in ((1, nn.BatchNorm1d), (2, nn.BatchNorm2d), (3, nn.BatchNorm3d))
    ),
    Op("batch_norm", _BATCH_NORM, functions=(F.batch_norm,), saves_input=True, cheap=True),
    # The other norms keep their input too. Run again they give the same bits: each row, group or
    # channel has statistics of its own.
    Op(
        "layer_norm",
        {"input": None, "normalized_shape": None, **_AFFINE},
        (nn.LayerNorm,),
        (F.layer_norm, torch.layer_norm),
        saves_input=True,
        cheap=True,
    ),
    Op(
        "group_norm",
        {"input": None, "num_groups": None, **_AFFINE},
        (nn.GroupNorm,),
        (F.group_norm, torch.group_norm),
        saves_input=True,
        cheap=True,
    ),
    Op(
        "instance_norm",
        _INSTANCE_NORM,
        (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        (F.instance_norm,),
        saves_input=True,
        cheap=True,
    ),
    *(
        Op(f"conv{n}d", _CONV, (module,), (function,), saves_input=True, heavy=True)
        for n, module, function in spatial("conv", "Conv")
    ),
    *(
        Op(
            f"conv_transpose{n}d",
            _CONV_TRANSPOSE,
            (module,),
            (function,),
            saves_input=True,
            heavy=True,
        )
        for n, module, function in spatial("conv_transpose", "ConvTranspose")
    ),
    Op(
        "linear",
        {"input": None, "weight": None, "bias": None},
        (nn.Linear,),
        (F.linear,),
        saves_input=True,
        heavy=True,
    ),
    # It keeps the indices it is given, of which no recipe makes less.
    Op("embedding", modules=(nn.Embedding,), functions=(F.embedding,), saves_input=True),
)
