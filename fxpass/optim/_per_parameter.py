"""Which optimizers update each parameter from its own gradient and its own state alone.

Only for these is the update of one parameter, made before the gradients of the others exist, the
same to the last bit. Decided by reading `step` of each class of torch.optim 2.13, and tested.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.parameter import is_lazy

KNOWN = (
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.Adagrad,
    optim.Adadelta,
    optim.RMSprop,
    optim.Rprop,
    optim.ASGD,
    optim.SparseAdam,
    optim.Adafactor,
    optim.Muon,
)
_PLAIN_LOOP = "train with the plain loop"


def require_known(optimizer: optim.Optimizer, vouched: bool) -> None:
    """Raises unless the class is one of `KNOWN` (a subclass may couple), or the user vouches.

    Raises:
        TypeError: names the class and the way out.

    """
    kind = type(optimizer)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(optimizer, optim.LBFGS):
        raise TypeError(
            f"fxpass.optim.in_backward: {name} computes one direction from the gradients of all"
            f" parameters and cannot update them one by one; use another optimizer or {_PLAIN_LOOP}"
        )
    if kind not in KNOWN and not vouched:
        raise TypeError(
            f"fxpass.optim.in_backward: {name} is not known to update each parameter from its own"
            " gradient and state alone; if you know that it does, say so by per_parameter=True,"
            f" else {_PLAIN_LOOP}. Known are {', '.join(k.__name__ for k in KNOWN)} of torch.optim"
        )


def require_exact(optimizer: optim.Optimizer) -> None:
    """Raises for options and parameters with which updates one by one are not the same.

    Raises:
        TypeError: names the group, the option or parameter, and the way out.

    """
    for i, group in enumerate(optimizer.param_groups):
        where = f"fxpass.optim.in_backward: param_groups[{i}] of {type(optimizer).__name__}"
        for option in ("differentiable", "capturable"):
            if group.get(option):
                raise TypeError(f"{where} has {option}=True: set it to False, or {_PLAIN_LOOP}")
        for j, parameter in enumerate(group["params"]):
            if type(parameter) not in (nn.Parameter, Tensor) or not parameter.is_leaf:
                raise TypeError(
                    f"{where}: expected leaves of type Tensor or Parameter, got"
                    f" {_name(group, i, j)} of {type(parameter).__name__}, leaf:"
                    f" {parameter.is_leaf} (sharded or lazy?); {_PLAIN_LOOP}"
                )
            if parameter.device.type != "cpu":
                raise TypeError(
                    f"{where}: expected parameters on the CPU, where this was compared with the"
                    f" plain loop, got {_name(group, i, j)} on {parameter.device}; {_PLAIN_LOOP}"
                )
        # With eps[0]=None, step() takes it from the dtype of the group's first parameter for all.
        no_eps = isinstance(optimizer, optim.Adafactor) and group["eps"][0] is None
        if no_eps and len({parameter.dtype for parameter in group["params"]}) > 1:
            raise TypeError(
                f"{where} mixes dtypes, and with eps[0]=None the first one's decides for all:"
                f" give eps[0], make a group for each dtype, or {_PLAIN_LOOP}"
            )


def require_apart(optimizer: optim.Optimizer) -> None:
    """Raises if two parameters are views of one buffer, or one parameter is listed twice.

    The update of a view would change what backward still reads of the other, or at least count as
    a write to it: views have one version counter. What is listed twice is updated twice.

    Raises:
        ValueError: names both.

    """
    first: dict[int, str] = {}
    for i, group in enumerate(optimizer.param_groups):
        for j, parameter in enumerate(group["params"]):
            memory, name = parameter.untyped_storage().data_ptr(), _name(group, i, j)
            if memory and memory in first:
                raise ValueError(
                    f"fxpass.optim.in_backward: {first[memory]} and {name} share memory: list one"
                    " parameter once, give each its own (p.data = p.data.clone()), or"
                    f" {_PLAIN_LOOP}"
                )
            first[memory] = name


def require_exact_gradient(group: dict[str, Any], gradient: Tensor, name: str) -> None:
    """Raises where the layout of one gradient chooses the code for all the others.

    Raises:
        TypeError: `foreach=True` and a sparse gradient.

    """
    if group.get("foreach") and gradient.layout != torch.strided:
        raise TypeError(
            f"fxpass.optim.in_backward: {name} has a sparse gradient, which with foreach=True"
            f" decides how the rest of its group is updated: set foreach=False, or {_PLAIN_LOOP}"
        )


def names_of(optimizer: optim.Optimizer) -> dict[Tensor, tuple[dict[str, Any], str]]:
    """The group of each parameter, and what to call it in a message."""
    return {
        parameter: (group, _name(group, i, j))
        for i, group in enumerate(optimizer.param_groups)
        for j, parameter in enumerate(group["params"])
    }


def _name(group: dict[str, Any], i: int, j: int) -> str:
    if "param_names" in group:
        return f"{group['param_names'][j]!r}"
    parameter = group["params"][j]
    shape = "not known yet" if is_lazy(parameter) else tuple(parameter.shape)
    return f"param_groups[{i}]['params'][{j}] of shape {shape}"
