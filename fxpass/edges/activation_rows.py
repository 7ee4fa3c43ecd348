"""The elementwise activations and the softmaxes: what each keeps for backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxpass.edges.op import Op

_SOFTMAX = {"input": None, "dim": None, "dtype": None, "_stacklevel": 3}
_UNARY = {"input": None, "inplace": False}
_ACTIVATIONS: tuple[tuple[str, dict[str, Any], tuple[Any, ...], tuple[Any, ...], Any], ...] = (
    (
        "hardtanh",
        {"input": None, "min_val": -1.0, "max_val": 1.0, "inplace": False},
        (nn.Hardtanh,),
        (F.hardtanh,),
        (),
    ),
    ("relu6", _UNARY, (), (F.relu6,), ()),
    (
        "leaky_relu",
        {"input": None, "negative_slope": 0.01, "inplace": False},
        (nn.LeakyReLU,),
        (F.leaky_relu,),
        (),
    ),
    ("elu", {"input": None, "alpha": 1.0, "inplace": False}, (nn.ELU,), (F.elu,), ()),
    ("hardswish", _UNARY, (nn.Hardswish,), (F.hardswish,), ()),
    ("hardsigmoid", _UNARY, (nn.Hardsigmoid,), (F.hardsigmoid,), ()),
    ("silu", _UNARY, (nn.SiLU,), (F.silu,), ()),
    ("mish", _UNARY, (nn.Mish,), (F.mish,), ()),
    ("gelu", {"input": None, "approximate": "none"}, (nn.GELU,), (F.gelu,), ()),
    (
        "softplus",
        {"input": None, "beta": 1.0, "threshold": 20.0},
        (nn.Softplus,),
        (F.softplus,),
        (),
    ),
    ("celu", {"input": None, "alpha": 1.0, "inplace": False}, (nn.CELU,), (F.celu,), ()),
    ("selu", _UNARY, (nn.SELU,), (F.selu,), ()),
    (
        "threshold",
        {"input": None, "threshold": None, "value": None, "inplace": False},
        (nn.Threshold,),
        (F.threshold, torch.threshold),
        (),
    ),
    ("hardshrink", {"input": None, "lambd": 0.5}, (nn.Hardshrink,), (F.hardshrink,), ()),
    ("softshrink", {"input": None, "lambd": 0.5}, (nn.Softshrink,), (F.softshrink,), ()),
    ("logsigmoid", {"input": None}, (nn.LogSigmoid,), (F.logsigmoid,), ()),
)

_IN_PIECES = frozenset(
    ("hardtanh", "relu6", "leaky_relu", "hardsigmoid", "threshold", "hardshrink", "softshrink")
)
"""Linear between bounds: the gradient of an element depends on the piece it lies on."""

ROWS: tuple[Op, ...] = (
    Op(
        "relu",
        {"input": None, "inplace": False},
        modules=(nn.ReLU,),
        functions=(F.relu, F.relu_, torch.relu, torch.relu_),
        methods=("relu", "relu_"),
        saves_result=True,
        cheap=True,
    ),
    *(
        Op(
            name,
            parameters,
            modules,
            functions,
            methods,
            saves_input=True,
            reads_bits=name in _IN_PIECES,
            inplace_saves_result=name in ("celu", "elu", "leaky_relu", "selu"),
            cheap=True,
        )
        for name, parameters, modules, functions, methods in _ACTIVATIONS
    ),
    Op(
        "prelu",
        {"input": None, "weight": None},
        (nn.PReLU,),
        (F.prelu,),
        ("prelu",),
        saves_input=True,
        cheap=True,
    ),
    Op("glu", {"input": None, "dim": -1}, (nn.GLU,), (F.glu,), saves_input=True, cheap=True),
    Op(
        "sigmoid",
        modules=(nn.Sigmoid,),
        functions=(torch.sigmoid, F.sigmoid),
        methods=("sigmoid",),
        saves_result=True,
        cheap=True,
    ),
    Op(
        "tanh",
        modules=(nn.Tanh,),
        functions=(torch.tanh, F.tanh),
        methods=("tanh",),
        saves_result=True,
        cheap=True,
    ),
    *(
        Op(
            name,
            _SOFTMAX,
            (module,),
            (getattr(F, name), getattr(torch, name)),
            (name,),
            saves_result=True,
            cheap=True,
        )
        for name, module in (("softmax", nn.Softmax), ("log_softmax", nn.LogSoftmax))
    ),
    Op("softmax2d", modules=(nn.Softmax2d,), saves_result=True, cheap=True),
    Op("softmin", modules=(nn.Softmin,), functions=(F.softmin,), saves_result=True),
    # It keeps the tanh inside, which nobody else sees.
    Op("tanhshrink", modules=(nn.Tanhshrink,), functions=(F.tanhshrink,)),
)

ACTIVATIONS = tuple(name for name, *_ in _ACTIVATIONS)
"""The elementwise ops whose backward reads their input."""
