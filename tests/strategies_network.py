"""A random network as plain data, and the nn.Module and inputs it describes.

`strategies.networks()` draws a `Network`; `build(network)` gives the module and its inputs. A
failing example prints as a `Network(...)` that can be pasted into a test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from strategies_layers import MODULES, run_layer
from strategies_values import fill, laid_out
from torch import Tensor, nn

DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Layer:
    """One op. `of` are the values it reads: the inputs come first, then the layers in order.

    `how` is the spelling (a module, a function, a method, in place ...); `args` what it is given.
    """

    op: str
    of: tuple[int, ...]
    how: str = "module"
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """One input tensor."""

    shape: tuple[int, ...]
    fill: str = "normal"
    layout: str = "contiguous"
    requires_grad: bool = True


@dataclass(frozen=True)
class Network:
    """A module and its inputs, in full."""

    inputs: tuple[Input, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[int, ...]
    structure: str = "tuple"  # single | tuple | dict
    dtype: str = "fp32"
    weights: str = "normal"
    weights_channels_last: bool = False
    training: bool = True
    autocast: str = "off"  # off | bf16 | fp16 | uncached | whole step
    hooks: tuple[tuple[int, str], ...] = ()
    loss: str = "weighted"  # weighted | sum | first
    seed: int = 0

    @property
    def dims(self) -> int:
        """How many spatial dimensions the inputs have."""
        return len(self.inputs[0].shape) - 2

    @property
    def threads(self) -> int:
        """How many threads to run it on: two where torch would give both something to do.

        On small tensors a second thread only costs time, much of it when the machine is busy.
        """
        return 2 if max(prod(spec.shape) for spec in self.inputs) > 8192 else 1


class Interpreter(nn.Module):
    """Runs the layers one after the other; what torch.fx sees is the straight line of ops."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.shared_relu = nn.ReLU()
        self.register_buffer("hook_calls", torch.zeros(3, dtype=torch.int64))
        for i, layer in enumerate(network.layers):
            if layer.op in MODULES:
                self.add_module(f"l{i}", MODULES[layer.op](layer, network.dims))

    def run(self, *inputs: Tensor) -> Any:
        values: list[Any] = list(inputs)
        extras = []  # the indices of max pools
        for i, layer in enumerate(self.network.layers):
            result = run_layer(self, i, layer, list(map(values.__getitem__, layer.of)))
            if layer.args.get("return_indices"):
                result, indices = result
                extras.append(indices)
            values.append(result)
        outputs = [*map(values.__getitem__, self.network.outputs), *extras]
        if self.network.structure == "dict":
            return {"outputs": outputs, "count": len(outputs)}
        return outputs[0] if self.network.structure == "single" else tuple(outputs)


# torch.fx wants to know the number of arguments.
class OneInput(Interpreter):
    def forward(self, x):
        return self.run(x)


class TwoInputs(Interpreter):
    def forward(self, x, y):
        return self.run(x, y)


class Hook:
    """Counts its calls in a buffer of the network; 'doubles' also changes the result."""

    def __init__(self, calls: Tensor, kind: str) -> None:
        self.calls = calls
        self.kind = kind

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        place = {"forward_pre": 0, "backward": 2}.get(self.kind, 1)
        self.calls[place] += 1
        return args[-1] * 2 if self.kind == "doubles" and isinstance(args[-1], Tensor) else None


def build(network: Network) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module in its initial state, and its inputs."""
    dtype = DTYPES[network.dtype]
    rng = torch.Generator().manual_seed(network.seed)
    model = (OneInput if len(network.inputs) == 1 else TwoInputs)(network)
    model.to(dtype).train(network.training)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(fill(tuple(parameter.shape), dtype, network.weights, rng) * 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=rng) + 0.5)
    for i, layer in enumerate(network.layers):
        module = getattr(model, f"l{i}", None)
        if module is not None and layer.args.get("frozen"):
            module.requires_grad_(False)
        if module is not None and layer.args.get("eval"):
            module.eval()
    if network.weights_channels_last and network.dims > 1:
        model.to(memory_format=torch.channels_last if network.dims == 2 else torch.channels_last_3d)
    for i, kind in network.hooks:
        _add_hook(model, model.get_submodule(f"l{i}") if i >= 0 else model, kind)
    inputs = []
    for spec in network.inputs:
        values = laid_out(fill(spec.shape, dtype, spec.fill, rng), spec.layout)
        inputs.append(values.requires_grad_(spec.requires_grad))
    return model, tuple(inputs)


def _add_hook(model: nn.Module, module: nn.Module, kind: str) -> None:
    hook = Hook(model.hook_calls, kind)
    if kind == "forward_pre":
        module.register_forward_pre_hook(hook)
    elif kind == "backward":
        module.register_full_backward_hook(hook)
    else:
        module.register_forward_hook(hook)


def loss_of(network: Network):
    """The network's loss function: the plain sum hides gradients that changed places."""

    def weighted(tensor: Tensor) -> Tensor:
        weights = torch.linspace(-1.5, 1, tensor.numel(), dtype=torch.float64).to(tensor.dtype)
        return (tensor * weights.view(tensor.shape)).sum()

    def loss(output: Any) -> Tensor:
        leaves = output["outputs"] if isinstance(output, dict) else output
        leaves = [leaves] if isinstance(leaves, Tensor) else list(leaves)
        floating = [leaf for leaf in leaves if leaf.is_floating_point()]
        if network.loss == "first":
            floating = floating[:1]
        terms = [leaf.sum() if network.loss == "sum" else weighted(leaf) for leaf in floating]
        return sum(terms[1:], terms[0])

    return loss


REGIONS = {
    "bf16": lambda: torch.autocast("cpu", torch.bfloat16),
    "fp16": lambda: torch.autocast("cpu", torch.float16),
    "uncached": lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
}


class Autocast(nn.Module):
    """The module called inside an autocast region, as a user would."""

    def __init__(self, inner: nn.Module, region: str) -> None:
        super().__init__()
        self.inner = inner
        self.region = REGIONS.get(region, contextlib.nullcontext)

    def forward(self, *inputs: Any) -> Any:
        with self.region():
            return self.inner(*inputs)


def around_step(network: Network) -> Callable[[], AbstractContextManager[Any]]:
    """What the whole of a step runs in, its loss and backward too."""
    return REGIONS["bf16"] if network.autocast == "whole step" else contextlib.nullcontext
