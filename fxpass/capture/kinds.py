"""What type the value of a node will have at run time, as far as it is certain.

A kind is that type (`torch.Tensor`, `int`, `torch.Size`, `tuple`, ...), `object` for a value of an
unknown type that is surely not None, or None where even that is not known. It decides how
`isinstance` and `+=` behave on a traced value; a wrong kind would be a wrong trace, so whatever is
not certain is `object` or None.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from fxpass.capture.checks import expect_length, expect_true

Kind = type | None

IMMUTABLE = frozenset({int, float, bool, torch.Size, tuple, torch.dtype, torch.device})
"""The kinds for which `a += b` means `a = a + b`."""

_ATTRIBUTES: dict[str, Kind] = {
    "shape": torch.Size,
    "dtype": torch.dtype,
    "device": torch.device,
    "layout": torch.layout,
    **dict.fromkeys(("ndim", "itemsize", "nbytes"), int),
    **dict.fromkeys(("T", "mT", "H", "mH", "data", "real", "imag"), Tensor),
    **dict.fromkeys(("requires_grad", "is_leaf", "is_cuda", "is_cpu", "is_sparse"), bool),
    **dict.fromkeys(("is_mkldnn", "is_meta", "is_nested", "is_quantized", "is_complex"), bool),
}
_CASTS = frozenset(("float", "double", "half", "bfloat16", "int", "long", "bool", "type_as"))
_COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)
_INTEGER_OPS = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod)
_RNN = (nn.RNNBase, nn.LSTMCell)
_MAX_POOLS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)


def kind_of_module(module: nn.Module) -> Kind:
    """The kind of what a leaf module returns."""
    if isinstance(module, _MAX_POOLS):
        return tuple if module.return_indices else Tensor
    if isinstance(module, (*_RNN, nn.MultiheadAttention)):
        return tuple
    is_known = type(module).__module__.startswith("torch.nn.modules.")
    return Tensor if is_known and not isinstance(module, nn.AdaptiveLogSoftmaxWithLoss) else None


def kind_of_function(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    kind_of: Callable[[Any], Kind],
    module_of: Callable[[Node], nn.Module | None],
) -> Kind:
    """The kind of `function(*args, **kwargs)`; `kind_of` gives an argument's, node or constant."""
    if function is getattr:
        return _ATTRIBUTES.get(args[1]) if kind_of(args[0]) is Tensor else None
    if function is operator.getitem:
        return _kind_of_item(args, kind_of, module_of)
    if function in (operator.setitem, expect_length, expect_true):
        return object
    home = getattr(function, "__module__", None) or ""
    if home == "_operator":
        return _kind_of_operator(function, [kind_of(a) for a in args])
    if home == "math":
        return int if function in (math.floor, math.ceil, math.gcd, math.isqrt) else float
    if isinstance(function, type) and issubclass(function, tuple):
        return function
    name = getattr(function, "__name__", "")
    if home == "torch.nn.functional" or getattr(torch.nn.functional, name, None) is function:
        if "max_pool" in name and (len(args) > 6 or kwargs.get("return_indices")):
            return object
        return Tensor if _returned(name) is Tensor else object
    if function is getattr(torch, name, None) or home == "torch._C._nn":
        returned = _returned(name)
        is_exact = isinstance(function, _BUILTIN) or returned is Tensor
        return returned if is_exact and name not in _VARYING else object
    return None


def kind_of_method(name: str, args: tuple[Any, ...], kind_of: Callable[[Any], Kind]) -> Kind:
    """The kind of `args[0].name(*args[1:])`."""
    if kind_of(args[0]) is not Tensor:
        return None
    if name == "size":
        return torch.Size if len(args) == 1 else int
    if name in _CASTS:
        return Tensor
    if name in ("dim", "ndimension", "numel", "nelement", "storage_offset"):
        return int
    returned = _returned(name)
    is_exact = isinstance(getattr(Tensor, name, None), _METHOD) or returned is Tensor
    return returned if is_exact and name not in _VARYING else object


# The schema of nonzero() does not tell of as_tuple.
_VARYING = frozenset({"nonzero"})
_BUILTIN = type(torch.relu)
_METHOD = type(Tensor.relu)


def _kind_of_item(
    args: tuple[Any, ...],
    kind_of: Callable[[Any], Kind],
    module_of: Callable[[Node], nn.Module | None],
) -> Kind:
    whole, index = args
    kind, is_slice = kind_of(whole), isinstance(index, slice)
    if kind is Tensor:
        return Tensor
    if kind is torch.Size:
        return torch.Size if is_slice else int
    if kind is not tuple:
        return None
    if is_slice:
        return tuple
    module = module_of(whole)
    if isinstance(module, nn.MultiheadAttention):
        return Tensor if index == 0 else None
    if isinstance(module, nn.LSTM):
        return Tensor if index == 0 else tuple
    return Tensor


def _kind_of_operator(function: Callable[..., Any], kinds: list[Kind]) -> Kind:
    if Tensor in kinds:
        return Tensor
    if set(kinds) == {int}:
        if function in _INTEGER_OPS:
            return int
        if function in _COMPARISONS:
            return bool
        if function is operator.truediv:
            return float
    return object


@functools.cache
def _returned(name: str) -> Kind:
    """What torch's own operator of this name returns, if all its overloads agree."""
    kinds = set()
    for schema in torch._C._jit_get_schemas_for_operator(f"aten::{name}"):
        if any(str(argument.type) == "str" for argument in schema.returns):
            continue  # Python's str.split shares the name, not the operator.
        types = [str(argument.type) for argument in schema.returns]
        is_tuple = len(types) > 1 or types == ["List[Tensor]"]
        one: Kind = {"Tensor": Tensor, "bool": bool}.get(types[0] if types else "")
        kinds.add(tuple if is_tuple else one)
    return kinds.pop() or object if len(kinds) == 1 else object
