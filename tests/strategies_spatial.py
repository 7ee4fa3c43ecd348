"""Strategies for the layers with a window or channels: spelling, arguments and resulting shape."""

from __future__ import annotations

from math import prod
from typing import Any

from hypothesis import strategies as st

Shape = tuple[int, ...]
Drawn = tuple[str, dict[str, Any], Shape]


def _spelling(draw: Any) -> str:
    return draw(st.sampled_from(("module", "module", "F")))


def chance(draw: Any, n: int) -> bool:
    """True once in n times; shrinks to False. (Hypothesis draws the ends of a range too often.)"""
    return draw(st.integers(0, n - 1)) == n // 2


def frozen(draw: Any) -> dict[str, bool]:
    """Now and then a layer whose parameters need no gradient."""
    return {"frozen": True} if chance(draw, 10) else {}


def _window(
    draw: Any, sizes: Shape, max_kernel: int, padding: str, dilate: bool = True
) -> dict[str, tuple[int, ...]]:
    """Kernel, stride, padding and dilation an axis, that leave at least one position."""
    arguments: dict[str, list[int]] = {
        n: [] for n in ("kernel_size", "stride", "padding", "dilation")
    }
    same = chance(draw, 3)  # no change of size: residual sums need equal shapes
    for n in sizes:
        kernel = draw(st.integers(1 if padding == "conv" else min(n, 2), max_kernel))
        dilation = draw(st.sampled_from((1, 1, 1, 2))) if dilate else 1
        if same and padding == "conv" and kernel % 2 == 1:
            stride, pad = 1, dilation * (kernel // 2)
        else:
            stride = draw(st.integers(1, 3))
            pad = draw(st.integers(0, kernel // 2 if padding == "pool" else 2))
        if dilation * (kernel - 1) + 1 > n + 2 * pad:
            kernel, dilation, pad = 1, 1, 0
        if padding == "pool" and _reads_nothing(n, kernel, stride, pad, dilation):
            dilation = 1
        drawn = {"kernel_size": kernel, "stride": stride, "padding": pad, "dilation": dilation}
        for name, value in drawn.items():
            arguments[name].append(value)
    return {name: tuple(values) for name, values in arguments.items()}


def _reads_nothing(n: int, kernel: int, stride: int, pad: int, dilation: int) -> bool:
    """Whether a pool's window steps over the whole input, from the padding before to the one after.

    Eager's max pool then keeps an index outside of the input, and its backward writes there: torch
    corrupts its heap.
    """
    for start in range(-pad, 0, stride):
        taps = range(start, start + kernel * dilation, dilation)
        if not any(0 <= tap < n for tap in taps):
            return True
    return False


def _positions(sizes: Shape, window: dict[str, Any], ceil_mode: bool = False) -> Shape:
    out = []
    for i, n in enumerate(sizes):
        kernel, stride = window["kernel_size"][i], window["stride"][i]
        pad, dilation = window["padding"][i], window["dilation"][i]
        room = n + 2 * pad - dilation * (kernel - 1) - 1
        count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
        if ceil_mode and (count - 1) * stride >= n + pad:  # the last window must begin inside
            count -= 1
        out.append(count)
    return tuple(out)


def conv(draw: Any, shape: Shape) -> Drawn:
    """Convolution with every argument: stride, padding (a word too), dilation, groups, mode."""
    channels, sizes = shape[1], shape[2:]
    args: dict[str, Any] = dict(_window(draw, sizes, 3, "conv"))
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    if not chance(draw, 3):
        groups = 1
    equal = chance(draw, 3)
    out = channels if equal else groups * draw(st.integers(1, max(1, 6 // groups)))
    word = draw(st.sampled_from((None,) * 6 + ("same", "valid")))
    new = _positions(sizes, args)
    if word == "same":
        args |= {"padding": "same", "stride": 1}
        new = sizes
    elif word == "valid" and min(bare := _positions(sizes, args | {"padding": (0,) * 3})) > 0:
        args["padding"] = "valid"
        new = bare
    args |= {"in_channels": channels, "out_channels": out, "groups": groups}
    args |= {"bias": draw(st.booleans())} | frozen(draw)
    mode = draw(st.sampled_from(("zeros",) * 9 + ("circular", "reflect", "replicate")))
    how = _spelling(draw)
    if mode != "zeros":
        args["padding_mode"] = mode
        how = "module"
    return how, args, (shape[0], out, *new)


def conv_transpose(draw: Any, shape: Shape) -> Drawn:
    """Transposed convolution with every argument; small images grow."""
    channels, sizes = shape[1], shape[2:]
    groups = 2 if channels % 2 == 0 and chance(draw, 3) else 1
    out = groups * draw(st.integers(1, 3))
    args: dict[str, Any] = {"in_channels": channels, "out_channels": out, "groups": groups}
    window: dict[str, list[int]] = {}
    new = []
    for n in sizes:
        kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2)) if n <= 12 else 1
        dilation = draw(st.sampled_from((1, 1, 2)))
        extra = draw(st.integers(0, max(stride, dilation) - 1))
        size = (n - 1) * stride + dilation * (kernel - 1) + extra + 1
        padding = draw(st.integers(0, 1)) if size > 2 else 0
        new.append(size - 2 * padding)
        drawn = {"kernel_size": kernel, "stride": stride, "padding": padding,
                 "output_padding": extra, "dilation": dilation}  # fmt: skip
        for name, value in drawn.items():
            window.setdefault(name, []).append(value)
    args |= {name: tuple(values) for name, values in window.items()}
    args |= {"bias": draw(st.booleans())} | frozen(draw)
    return _spelling(draw), args, (shape[0], out, *new)


def norm(draw: Any, shape: Shape) -> Drawn:
    """Layer, group or instance norm.

    Where the input of a group norm needs no gradient and its weight does, eager may crash
    (crashes_without_gradient in _norms.py): of images it has no weight here.
    """
    kinds = ["layer", "group"]
    if len(shape) > 2 and prod(shape[2:]) > 1:
        kinds.append("instance")
    kind = draw(st.sampled_from(kinds))
    if kind == "layer":
        over = shape[-1:] if len(shape) == 2 or draw(st.booleans()) else shape[-2:]
        args: dict[str, Any] = {"normalized_shape": over, "bias": draw(st.booleans())}
    elif kind == "group":
        groups = [g for g in range(1, shape[1] + 1) if shape[1] % g == 0]
        args = {"num_channels": shape[1], "num_groups": draw(st.sampled_from(groups))}
        args["affine"] = len(shape) < 4
    else:
        args = {"num_features": shape[1], "affine": draw(st.booleans())}
        args["track_running_stats"] = chance(draw, 3)
    return _spelling(draw), args | {"kind": kind} | frozen(draw), shape


def pad(draw: Any, shape: Shape) -> Drawn:
    """The modules that pad, and the function."""
    modes = ["constant", "replicate"]
    if min(shape[2:]) > 1:
        modes += ["reflect", "circular"]
    amounts = tuple(draw(st.integers(0, 1)) for _ in range(2 * len(shape[2:])))
    args = {"mode": draw(st.sampled_from(modes)), "padding": amounts}
    before, after = amounts[::2][::-1], amounts[1::2][::-1]  # given from the last axis on
    sizes = (n + a + b for n, a, b in zip(shape[2:], before, after, strict=True))
    return _spelling(draw), args, (*shape[:2], *sizes)


def max_pool(draw: Any, shape: Shape) -> Drawn:
    """Max pooling, overlapping, dilated, padded and with indices."""
    sizes = shape[2:]
    if chance(draw, 3) and min(sizes) >= 2:  # the pool that everyone uses
        return _spelling(draw), {"kernel_size": 2}, (*shape[:2], *(n // 2 for n in sizes))
    window = _window(draw, sizes, 3, "pool")
    ceil_mode = draw(st.booleans())
    args = window | {"ceil_mode": ceil_mode}
    if chance(draw, 10):
        args["return_indices"] = True
    return _spelling(draw), args, (*shape[:2], *_positions(sizes, window, ceil_mode))


def avg_pool(draw: Any, shape: Shape) -> Drawn:
    """Average pooling with every argument."""
    sizes = shape[2:]
    window = _window(draw, sizes, 3, "pool", dilate=False)
    ceil_mode = draw(st.booleans())
    new = _positions(sizes, window, ceil_mode)
    args = {name: window[name] for name in ("kernel_size", "stride", "padding")}
    args |= {"ceil_mode": ceil_mode, "count_include_pad": draw(st.booleans())}
    if len(sizes) > 1 and chance(draw, 5):
        args["divisor_override"] = 3
    return _spelling(draw), args, (*shape[:2], *new)


def _adaptive(draw: Any, shape: Shape) -> Drawn:
    new = tuple(draw(st.integers(1, 3)) for _ in shape[2:])
    return _spelling(draw), {"output_size": new}, (*shape[:2], *new)


def _adaptive_max(draw: Any, shape: Shape) -> Drawn:
    how, args, new = _adaptive(draw, shape)
    return how, args | ({"return_indices": True} if chance(draw, 10) else {}), new


_RARE_NORMS: tuple[dict[str, Any], ...] = (
    {"affine": False},
    {"momentum": None},
    {"track_running_stats": False},
    {"eval": True},
    {"eval": True},
    {"momentum": 1.0},
    {"eps": 0.1},
    {"no_weight": True},
)


def batch_norm(draw: Any, shape: Shape) -> Drawn:
    """Batch norm, in the modes its arguments and flags give."""
    args: dict[str, Any] = {"num_features": shape[1]}
    choice = draw(st.integers(0, 15))
    args |= _RARE_NORMS[choice - 8] if choice >= 8 else {}
    if len(shape) == 2:
        args["flat"] = True
    return _spelling(draw), args | frozen(draw), shape


def block(draw: Any, shape: Shape) -> Drawn:
    """A container: [batch norm,] ReLU, 1x1 convolution."""
    args = {"channels": shape[1], "norm": draw(st.booleans()), "inplace": draw(st.booleans())}
    args["inplace"] &= args["norm"]
    return "module", args, shape


def residual(draw: Any, shape: Shape) -> Drawn:
    """A stage of a known network: what is summed, scaled, dropped and activated."""
    args = {"channels": shape[1], "pre": draw(st.booleans()), "gate": chance(draw, 3)}
    args["activation"] = draw(st.sampled_from(("relu",) * 4 + ACTIVATIONS))
    # In place of a block's input, somebody else's value would be written to.
    args["inplace"] = draw(st.booleans()) and not args["pre"]
    args["depth"] = draw(st.sampled_from((0.0, 0.0, 0.4)))
    return "module", args, shape


def dropout(draw: Any, shape: Shape) -> Drawn:
    """Dropout of all kinds."""
    kinds = ("element", "alpha", *(("channel",) if len(shape) > 2 else ()))
    args = {"p": draw(st.sampled_from((0.4, 0.4, 0.0, 1.0))), "kind": draw(st.sampled_from(kinds))}
    args["inplace"] = chance(draw, 6)
    return draw(st.sampled_from(("module", "F"))), args, shape


def stochastic_depth(draw: Any, shape: Shape) -> Drawn:
    """Torchvision's stochastic depth."""
    return "module", {"p": draw(st.sampled_from((0.3, 0.9))), "mode": draw(_MODES)}, shape


ACTIVATIONS = (
    "relu6", "hardtanh", "leaky_relu", "elu", "hardswish", "hardsigmoid", "silu", "mish", "gelu",
    "gelu tanh", "softplus", "celu", "selu", "threshold", "hardshrink", "softshrink", "logsigmoid",
    "sigmoid", "tanh", "softmax", "log_softmax", "prelu",
)  # fmt: skip
_MODES = st.sampled_from(("row", "batch"))

SPATIAL = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "pad": pad,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "adaptive_avg_pool": _adaptive,
    "adaptive_max_pool": _adaptive_max,
    "batch_norm": batch_norm,
    "block": block,
    "residual": residual,
}
