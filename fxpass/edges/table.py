"""What each op saves for backward: one row an op.

A row names an op in its three spellings (module call, function, method), the parameters of its
functional form, and what its autograd node keeps. An op without a row is unknown: it may keep any
tensor that it is given, so those tensors stay dense.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
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
        cheap: the op may be run again in backward: an elementwise op, a norm, a pool or a copy.

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
    cheap: bool = False


def _spatial(name: str, prefix: str) -> tuple[tuple[int, type[nn.Module], Callable[..., Any]], ...]:
    """(dimensions, module class, function) of an op that exists in one to three dimensions."""
    return tuple((n, getattr(nn, f"{prefix}{n}d"), getattr(F, f"{name}{n}d")) for n in (1, 2, 3))


_CONV = {
    "input": None,
    "weight": None,
    "bias": None,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
}
_MAX_POOL = {
    "input": None,
    "kernel_size": None,
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "return_indices": False,
}
_AVG_POOL = {
    "input": None,
    "kernel_size": None,
    "stride": None,
    "padding": 0,
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
}
_ADAPTIVE = {"input": None, "output_size": None}

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
        (F.threshold,),
        (),
    ),
    ("hardshrink", {"input": None, "lambd": 0.5}, (nn.Hardshrink,), (F.hardshrink,), ()),
    ("softshrink", {"input": None, "lambd": 0.5}, (nn.Softshrink,), (F.softshrink,), ()),
    ("logsigmoid", {"input": None}, (nn.LogSigmoid,), (F.logsigmoid,), ()),
)

TABLE: tuple[Op, ...] = (
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
        Op(name, parameters, modules, functions, methods, saves_input=True, cheap=True)
        for name, parameters, modules, functions, methods in _ACTIVATIONS
    ),
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
    *(
        Op(f"conv{n}d", _CONV, (module,), (function,), saves_input=True)
        for n, module, function in _spatial("conv", "Conv")
    ),
    *(
        Op(f"conv_transpose{n}d", _CONV_TRANSPOSE, (module,), (function,), saves_input=True)
        for n, module, function in _spatial("conv_transpose", "ConvTranspose")
    ),
    Op(
        "linear",
        {"input": None, "weight": None, "bias": None},
        (nn.Linear,),
        (F.linear,),
        saves_input=True,
    ),
    *(
        Op(
            f"max_pool{n}d",
            _MAX_POOL,
            (module,),
            (function, getattr(F, f"max_pool{n}d_with_indices"), getattr(torch, f"max_pool{n}d")),
            saves_input=True,
            keeps_zeros=True,
            reads_saved=False,
            cheap=True,
        )
        for n, module, function in _spatial("max_pool", "MaxPool")
    ),
    *(
        Op(
            f"avg_pool{n}d",
            _AVG_POOL,
            (module,),
            (function,),
            saves_input=True,
            reads_saved=False,
            cheap=True,
        )
        for n, module, function in _spatial("avg_pool", "AvgPool")
    ),
    *(
        Op(
            f"adaptive_avg_pool{n}d",
            _ADAPTIVE,
            (module,),
            (function,),
            saves_input=True,
            reads_saved=False,
        )
        for n, module, function in _spatial("adaptive_avg_pool", "AdaptiveAvgPool")
    ),
    *(
        Op(
            f"adaptive_max_pool{n}d",
            {**_ADAPTIVE, "return_indices": False},
            (module,),
            (function, getattr(F, f"adaptive_max_pool{n}d_with_indices")),
            saves_input=True,
            keeps_zeros=True,
            reads_saved=False,
        )
        for n, module, function in _spatial("adaptive_max_pool", "AdaptiveMaxPool")
    ),
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
    # It keeps the indices it is given, of which no recipe makes less.
    Op("embedding", modules=(nn.Embedding,), functions=(F.embedding,), saves_input=True),
    Op(
        "stochastic_depth",
        {"input": None, "p": None, "mode": None, "training": True},
        names=("torchvision.ops.stochastic_depth.stochastic_depth",),
        cheap=True,
    ),
    Op(
        "pad",
        {"input": None, "pad": None, "mode": "constant", "value": None},
        functions=(F.pad,),
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

NO_ELEMENTS = frozenset(
    ("shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "requires_grad", "is_leaf")
)
"""The attributes of a tensor that getattr may read without reaching its elements."""


def _by(spelling: str) -> dict[Any, Op]:
    return {key: op for op in TABLE for key in getattr(op, spelling)}


ACTIVATIONS = tuple(name for name, *_ in _ACTIVATIONS)
"""The elementwise ops whose backward reads their input."""

OF_MODULE: dict[type[nn.Module], Op] = _by("modules")
OF_FUNCTION: dict[Callable[..., Any], Op] = _by("functions")
OF_METHOD: dict[str, Op] = _by("methods")
OF_NAME: dict[str, Op] = _by("names")
