"""Handles that run an op again.

    y = add(a, b)      ->      s = fxpass.rerun_add(a, sa, b, sb)
                               y = add(a, b)
                               t = fxpass.bind(s, y)

The handle takes its hold on the inputs before the op runs, which may write to them. That of a
layer, which writes to nothing, is made behind it:

    c = fxpass.conv2d(y, s, w, b)   ->   c = fxpass.conv2d(y, s, w, b)
                                         t = fxpass.rerun_conv2d(c, y, s, ..., w, b)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Node

from fxpass.edges import Call
from fxpass.rewrite.context import Context, dims_of, ints


def begin_rerun(context: Context, call: Call, before: Node | None = None) -> Node | None:
    """Inserts the handle of the call's value, if the plan restores that value.

    It stands in front of the call, or where `before` says.
    """
    if not context.restores(call.node):
        return None
    name, args = _HANDLES.get(call.op.name, _activation)(context, call)
    return context.insert(before or call.node, name, args)


def end_rerun(context: Context, handle: Node | None, value: Node) -> None:
    """Tells the handle its value, once that is there."""
    if handle is None:
        return
    otherwise = context.handle(value)
    after = max(node for node in (handle, value, otherwise) if node is not None)
    bound = context.insert(after.next, "bind", [handle, value, otherwise])
    context.set_handle(value, bound)


def rewrite_rerun(context: Context, call: Call) -> Node:
    """Leaves the call as it is, with a handle beside it where the plan wants one."""
    end_rerun(context, begin_rerun(context, call), call.node)
    return call.node


def rerun_layer(context: Context, call: Call, new: Node) -> None:
    """Inserts the handle that runs a layer again, if the plan wants one.

    `new` is the operator in the place of the call, on (input, handle, weight, bias, ...).
    """
    if not context.restores(call.node):
        return
    value, handle, *rest = new.args
    args = [new, value, handle, context.keeps(value), *rest]
    context.set_handle(new, context.insert(new.next, f"rerun_{call.op.name}", args))


def activation_args(call: Call) -> tuple[str, list[float]]:
    """The name and arguments of an activation as the operator takes them."""
    name, a = call.op.name, call.arguments
    if name == "relu6":
        return "hardtanh", [0.0, 6.0]
    if name == "gelu":
        return f"gelu_{a['approximate']}", []
    if call.writes and call.op.inplace_saves_result:
        name = f"{name}_"  # it has another backward
    return name, [float(v) for k, v in a.items() if k not in ("input", "inplace")]


def _dense(context: Context, call: Call, value: Any) -> bool:
    """Whether a handle may hold on to the first input itself: not if the op writes over it."""
    return context.keeps(value) and not call.writes


def _activation(context: Context, call: Call) -> tuple[str, list[Any]]:
    value = call.arguments["input"]
    args = [value, context.handle(value), *activation_args(call), _dense(context, call, value)]
    return "rerun_activation", args


def _add(context: Context, call: Call) -> tuple[str, list[Any]]:
    minus = str(getattr(call.node.target, "__name__", call.node.target)).strip("_") in _MINUS
    return "rerun_add", [*_pair(context, call), -1 if minus else 1]


def _mul(context: Context, call: Call) -> tuple[str, list[Any]]:
    return "rerun_mul", _pair(context, call)


def _pair(context: Context, call: Call) -> list[Any]:
    a, b = call.arguments["input"]
    return [
        *(a, context.handle(a), _dense(context, call, a)),
        *(b, context.handle(b), context.keeps(b)),
    ]


def _cat(context: Context, call: Call) -> tuple[str, list[Any]]:
    tensors = list(call.arguments["input"])
    return "rerun_cat", [tensors, [context.handle(t) for t in tensors], call.arguments["dim"]]


def _contiguous(context: Context, call: Call) -> tuple[str, list[Any]]:
    value = call.arguments["input"]
    return "rerun_contiguous", [value, context.handle(value), _dense(context, call, value)]


def _affine(context: Context, call: Call) -> list[Any]:
    """Weight, bias and eps of a norm, and whether its input may be held dense."""
    weight, bias = context.parameter(call, "weight"), context.parameter(call, "bias")
    return [weight, bias, call.arguments["eps"], _dense(context, call, call.arguments["input"])]


def _layer_norm(context: Context, call: Call) -> tuple[str, list[Any]]:
    value, shape = call.arguments["input"], ints(call.arguments["normalized_shape"], 1)
    return "rerun_layer_norm", [value, context.handle(value), shape, *_affine(context, call)]


def _group_norm(context: Context, call: Call) -> tuple[str, list[Any]]:
    value, groups = call.arguments["input"], call.arguments["num_groups"]
    return "rerun_group_norm", [value, context.handle(value), groups, *_affine(context, call)]


def _instance_norm(context: Context, call: Call) -> tuple[str, list[Any]]:
    value, module = call.arguments["input"], call.module
    of_input = call.arguments["use_input_stats"]
    if module is not None:
        of_input = bool(module.training or not module.track_running_stats)
    weight, bias, eps, dense = _affine(context, call)
    running = [context.parameter(call, name) for name in ("running_mean", "running_var")]
    args = [weight, bias, *running, of_input, eps, dense]
    return "rerun_instance_norm", [value, context.handle(value), *args]


def _prelu(context: Context, call: Call) -> tuple[str, list[Any]]:
    value, weight = call.arguments["input"], context.parameter(call, "weight")
    return "rerun_prelu", [value, context.handle(value), weight, _dense(context, call, value)]


def _softmax(context: Context, call: Call) -> tuple[str, list[Any]]:
    value, dim = call.arguments["input"], call.arguments.get("dim", -3)  # softmax2d: the channels
    is_log = call.op.name == "log_softmax"
    dense = _dense(context, call, value)
    return "rerun_softmax", [value, context.handle(value), dim, is_log, dense]


def _glu(context: Context, call: Call) -> tuple[str, list[Any]]:
    value, dim = call.arguments["input"], call.arguments["dim"]
    return "rerun_glu", [value, context.handle(value), dim, _dense(context, call, value)]


def _max_pool(context: Context, call: Call) -> tuple[str, list[Any]]:
    a, n = call.arguments, dims_of(call)
    relu = context.fused_relu(call)
    value = a["input"] if relu is None else relu.arguments["input"]
    args = [ints(a[name], n) for name in ("kernel_size", "stride", "padding", "dilation")]
    args.append(a["ceil_mode"])
    handle = context.handle(value)
    return f"rerun_{call.op.name}", [
        value,
        handle,
        *args,
        relu is not None,
        _dense(context, call, value),
    ]


def _avg_pool(context: Context, call: Call) -> tuple[str, list[Any]]:
    a, n, value = call.arguments, dims_of(call), call.arguments["input"]
    args = [ints(a[name], n) for name in ("kernel_size", "stride", "padding")]
    args += [a["ceil_mode"], a["count_include_pad"], a["divisor_override"]]
    return f"rerun_{call.op.name}", [
        value,
        context.handle(value),
        *args,
        _dense(context, call, value),
    ]


_MINUS = ("sub", "isub")
_HANDLES: dict[str, Callable[[Context, Call], tuple[str, list[Any]]]] = {
    "add": _add,
    "add_": _add,
    "mul": _mul,
    "cat": _cat,
    "contiguous": _contiguous,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "prelu": _prelu,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "softmax2d": _softmax,
    "glu": _glu,
    **{f"avg_pool{n}d": _avg_pool for n in (1, 2, 3)},
    **{f"max_pool{n}d": _max_pool for n in (1, 2, 3)},
}
