"""Hypothesis strategies for random networks: `networks()`.

A network is drawn layer by layer. What is drawn next depends on what the last value is, so that
most networks are chains of convolution, batch norm, ReLU and pool with gradients flowing, and most
layers read the last value; the rest makes them graphs. Shapes are followed along, so nearly all
networks are valid; a few are not, on purpose (eager raises, and so must the compiled module).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from hypothesis import strategies as st
from strategies_network import Input, Layer, Network
from strategies_spatial import (
    ACTIVATIONS,
    SPATIAL,
    batch_norm,
    chance,
    dropout,
    frozen,
    norm,
    stochastic_depth,
)
from strategies_values import FILLS

Shape = tuple[int, ...]

RELU_SPELLINGS = ("module", "F", "torch", "method", "shared")
RELU_IN_PLACE = ("module_inplace", "F_inplace", "torch_inplace", "method_inplace")
HOOKS = ("forward", "forward_pre", "backward", "doubles")

# What follows what, as weights. A value is named by the op that made it.
_AFTER_INPUT = {"conv": 6, "batch_norm": 2, "relu": 8, "linear": 1, "max_pool": 1, "block": 1,
                "residual": 2, "norm": 1}  # fmt: skip
_AFTER_RELU = {"conv": 14, "max_pool": 14, "linear": 4, "add": 2, "flatten": 2, "view": 5,
               "other": 2, "avg_pool": 2, "adaptive_avg_pool": 2, "adaptive_max_pool": 2,
               "relu": 1, "dropout": 2, "cat": 1, "batch_norm": 1, "mul": 1, "residual": 1,
               "activation": 1, "stochastic_depth": 1, "norm": 2, "conv_transpose": 1,
               "pad": 1}  # fmt: skip
_AFTER_CONV = {"relu": 16, "batch_norm": 9, "add": 2, "conv": 1, "cat": 1, "block": 1, "mul": 1,
               "other": 1, "view": 3, "again": 1, "max_pool": 1, "avg_pool": 1, "activation": 4,
               "conv_transpose": 2, "residual": 1, "norm": 3, "pad": 1}  # fmt: skip
_AFTER_NORM = {"relu": 8, "activation": 8, "add": 3, "conv": 1, "other": 1, "block": 1, "again": 1,
               "stochastic_depth": 1, "mul": 1}  # fmt: skip
_AFTER_ACTIVATION = {"conv": 9, "max_pool": 2, "avg_pool": 2, "add": 2, "mul": 3, "dropout": 2,
                     "cat": 2, "linear": 2, "view": 3, "batch_norm": 1, "other": 1, "flatten": 1,
                     "activation": 1, "stochastic_depth": 1, "norm": 1,
                     "conv_transpose": 1}  # fmt: skip
_FLAT = {"relu": 4, "linear": 4, "add": 1, "cat": 1, "dropout": 2, "other": 1, "mul": 1, "again": 1,
         "batch_norm": 2, "activation": 2, "norm": 1}  # fmt: skip
_OTHERS = ("sigmoid", "tanh", "erf", "square", "plus_one", "half_inplace", "detach")
# The views by name, and of which shapes they can be taken.
_VIEWS: dict[str, Callable[[Shape], bool]] = {
    "unsqueeze_squeeze": lambda shape: True,
    "transpose": lambda shape: True,
    "transpose_contiguous": lambda shape: True,
    "every_second": lambda shape: True,
    "all_but_first": lambda shape: shape[-1] > 1,
    "chunk_first": lambda shape: True,
    "chunk_swapped": lambda shape: shape[1] > 1,
    "split_cat": lambda shape: shape[1] > 1,
    "shuffled": lambda shape: shape[1] % 2 == 0 and len(shape) > 2,
    "narrow": lambda shape: True,
}

_ADDS = ("operator", "operator", "torch", "method", "alpha", "sub", "inplace", "inplace_sub")
_REGIONS = ("bf16", "bf16", "whole step", "fp16", "uncached")
_MULS = ("operator", "torch", "method", "number", "gate", "gate", "gate first")
_SHAPELESS = {
    "dropout": dropout,
    "stochastic_depth": stochastic_depth,
    "batch_norm": batch_norm,
    "norm": norm,
}


@st.composite
def networks(draw: Any, max_layers: int = 8) -> Network:
    """Random networks, small enough that one runs in a few milliseconds."""
    shape = draw(_shapes())
    inputs = [_input(draw, shape)]
    if chance(draw, 6):
        inputs.append(_input(draw, shape))
    state = _State(draw, [spec.shape for spec in inputs])
    for _ in range(draw(st.integers(min(3, max_layers), max_layers))):
        state.add_layer()
        if state.broken:
            break
    outputs = [i for i in range(len(inputs), len(state.shapes)) if not state.consumers[i]]
    if chance(draw, 6):  # a value in the middle, that other layers read as well
        outputs.append(draw(st.integers(0, len(state.shapes) - 1)))
    with_module = [-1, *(i for i, layer in enumerate(state.layers) if layer.how == "module")]
    return Network(
        inputs=tuple(inputs),
        layers=tuple(state.layers),
        outputs=tuple(outputs),
        structure=draw(st.sampled_from(("tuple", "single", "dict"))),
        dtype=draw(st.sampled_from(("fp32",) * 5 + ("fp64", "bf16", "fp16"))),
        weights=draw(st.sampled_from(("normal",) * 5 + ("ties", "edges", "specials"))),
        weights_channels_last=chance(draw, 4),
        training=not chance(draw, 5),
        autocast=draw(st.sampled_from(_REGIONS)) if chance(draw, 6) else "off",
        hooks=_hooks(draw, [i for i in with_module if i == -1 or _is_module(state.layers[i])]),
        loss=draw(st.sampled_from(("weighted", "weighted", "weighted", "sum", "first"))),
        seed=draw(st.integers(0, 999)),
    )


@st.composite
def _shapes(draw: Any) -> Shape:
    dims = draw(st.sampled_from((2, 2, 2, 1, 3)))
    batch = draw(st.sampled_from((2, 2, 2, 2, 3, 3, 3, 1, 1, 0)))
    channels = draw(st.integers(1, 6))
    # Once in a while large enough for several vectors, and for several threads.
    large = {1: 700, 2: 60, 3: 13}[dims]
    size = draw(st.sampled_from((12, 12, 12, 12, 12, 12, 12, large)))
    return (batch, channels, *(draw(st.integers(2, size)) for _ in range(dims)))


def _input(draw: Any, shape: Shape) -> Input:
    layouts = ("contiguous",) * 3 + ("channels_last",) * 2 + ("sliced", "transposed", "expanded")
    return Input(
        shape=shape,
        fill=draw(st.sampled_from(("normal",) * 5 + ("ties",) * 2 + FILLS)),
        layout=draw(st.sampled_from(layouts)),
        requires_grad=draw(st.sampled_from((True, True, False))),
    )


def _hooks(draw: Any, places: list[int]) -> tuple[tuple[int, str], ...]:
    if not chance(draw, 7):
        return ()
    hook = st.tuples(st.sampled_from(places), st.sampled_from(HOOKS))
    return tuple(draw(st.lists(hook, min_size=1, max_size=3)))


def _is_module(layer: Layer) -> bool:
    return layer.op not in ("add", "mul", "cat", "other", "view", "again")


class _State:
    """The network so far: its layers, and the shape and number of consumers of every value."""

    def __init__(self, draw: Any, inputs: list[Shape]) -> None:
        self.draw = draw
        self.layers: list[Layer] = []
        self.shapes = list(inputs)
        self.consumers = [0] * len(inputs)
        self.offset = len(inputs)
        # Now and then one of the first values is read again and again.
        self.hub = draw(st.integers(1, 3)) if chance(draw, 5) else -1
        self.broken = False

    def add_layer(self) -> None:
        source = len(self.shapes) - 1
        # Every fifth layer reads some older value: this is what makes values with many consumers.
        if chance(self.draw, 5):
            source = self.draw(st.integers(0, source))
        if 0 <= self.hub < len(self.shapes) and self.draw(st.booleans()):
            source = self.hub
        weights = self._what_follows(source)
        op = self.draw(
            st.sampled_from([op for op, weight in weights.items() for _ in range(weight)])
        )
        if chance(self.draw, 300):
            op = "wrong"
        layer, shape = self._layer(op, source)
        self.layers.append(layer)
        self.shapes.append(shape)
        self.consumers.append(0)
        for i in layer.of:
            self.consumers[i] += 1

    def _what_follows(self, source: int) -> dict[str, int]:
        if len(self.shapes[source]) == 2:
            return _FLAT
        if source < self.offset:
            return _AFTER_INPUT
        made_by = self.layers[source - self.offset]
        if made_by.op == "relu":
            return _AFTER_RELU
        if made_by.op == "activation":
            return _AFTER_ACTIVATION
        return _AFTER_NORM if made_by.op in ("batch_norm", "norm") else _AFTER_CONV

    def _layer(self, op: str, source: int) -> tuple[Layer, Shape]:
        draw, shape = self.draw, self.shapes[source]
        if op == "wrong":
            self.broken = True
            return Layer("linear", (source,), args={"in_features": 97, "out_features": 2}), shape
        if op == "again" and (earlier := self._callable_again(shape)):
            i = draw(st.sampled_from(earlier))
            return Layer("again", (source,), args={"layer": i}), self.shapes[i + self.offset]
        if op in ("add", "mul"):
            same = [i for i, other in enumerate(self.shapes) if other == shape]
            pair = (source, draw(st.sampled_from(same)))
            spellings = _ADDS if op == "add" else _MULS if len(shape) > 2 else _MULS[:4]
            return Layer(op, pair, draw(st.sampled_from(spellings))), shape
        if op == "cat":
            return self._cat(source)
        if op in SPATIAL and len(shape) > 2:
            how, args, new_shape = SPATIAL[op](draw, shape)
            return Layer(op, (source,), how, args), new_shape
        if op == "linear":
            args = {"in_features": shape[-1], "out_features": draw(st.integers(1, 6))}
            args |= {"bias": draw(st.booleans())} | frozen(draw)
            how = draw(st.sampled_from(("module", "F")))
            return Layer("linear", (source,), how, args), (*shape[:-1], args["out_features"])
        if op == "flatten":
            how = draw(st.sampled_from(("module", "module", "torch", "method", "reshape", "view")))
            return Layer("flatten", (source,), how), (shape[0], prod(shape[1:]))
        if op in _SHAPELESS:
            how, args, _ = _SHAPELESS[op](draw, shape)
            return Layer(op, (source,), how, args), shape
        if op == "activation":
            how = draw(st.sampled_from(("module", "module", "F")))
            if how == "module" and self._may_write(source):
                how = "module_inplace"
            args = {"name": draw(st.sampled_from(ACTIVATIONS))}
            return Layer("activation", (source,), how, args), shape
        if op == "view":
            return self._view(source)
        if op == "other":
            return Layer("other", (source,), draw(st.sampled_from(_OTHERS))), shape
        return Layer("relu", (source,), self._relu_spelling(source)), shape

    def _may_write(self, source: int) -> bool:
        # In place on a leaf, or on what another op has saved, eager mostly raises: rarely drawn.
        free = source >= self.offset and not self.consumers[source]
        return chance(self.draw, 3 if free else 40)

    def _relu_spelling(self, source: int) -> str:
        in_place = self._may_write(source)
        return self.draw(st.sampled_from(RELU_IN_PLACE if in_place else RELU_SPELLINGS))

    def _callable_again(self, shape: Shape) -> list[int]:
        """The layers whose module has been called on a value of this shape."""
        return [
            i
            for i, layer in enumerate(self.layers)
            if layer.op
            in ("conv", "batch_norm", "norm", "relu", "block", "linear", "residual", "activation")
            and layer.how == "module"
            and self.shapes[layer.of[0]] == shape
        ]

    def _cat(self, source: int) -> tuple[Layer, Shape]:
        shape = self.shapes[source]
        fitting = [
            i
            for i, other in enumerate(self.shapes)
            if len(other) == len(shape) and other[0] == shape[0] and other[2:] == shape[2:]
        ]
        more = self.draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2))
        channels = shape[1] + sum(self.shapes[i][1] for i in more)
        return Layer("cat", (source, *more), ""), (shape[0], channels, *shape[2:])

    def _view(self, source: int) -> tuple[Layer, Shape]:
        shape = self.shapes[source]
        how = self.draw(st.sampled_from([name for name, fits in _VIEWS.items() if fits(shape)]))
        if how.startswith("transpose"):
            shape = (*shape[:-2], shape[-1], shape[-2])
        elif how in ("every_second", "chunk_first"):
            shape = (shape[0], (shape[1] + 1) // 2, *shape[2:])
        elif how == "narrow":
            shape = (shape[0], 1, *shape[2:])
        elif how == "all_but_first":
            shape = (*shape[:-1], shape[-1] - 1)
        args = {"channels": shape[1], "dims": len(shape) - 2}
        return Layer("view", (source,), how, args), shape
