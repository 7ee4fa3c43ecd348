"""The layers of random networks: how each is made, and how each is called, in every spelling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _activations import ACTIVATIONS
from _blocks import StochasticDepth
from _functional import INSTANCE_NORMS, call_norm
from torch import Tensor, nn

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_F_CONV = (F.conv1d, F.conv2d, F.conv3d)
_F_CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_PADS = {
    "constant": (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POOLS = {
    "max_pool": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "avg_pool": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "adaptive_avg_pool": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    "adaptive_max_pool": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
}
_F_POOLS = {
    "max_pool": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "avg_pool": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    "adaptive_avg_pool": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    "adaptive_max_pool": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
}
# Arguments that describe the layer in the network and not the module.
_NOT_THE_MODULES = {"frozen", "eval", "layer", "flat", "no_weight", "kind"}


def _own(layer: Any) -> dict[str, Any]:
    return {name: v for name, v in layer.args.items() if name not in _NOT_THE_MODULES}


def _block(layer: Any, dims: int) -> nn.Module:
    """What most code bases have: a container whose children are the ops."""
    channels = layer.args["channels"]
    parts = [nn.ReLU(inplace=layer.args["inplace"]), _CONV[dims - 1](channels, channels, 1)]
    if layer.args["norm"]:
        parts.insert(0, _BATCH_NORM[dims - 1](channels))
    return nn.Sequential(*parts)


def _batch_norm(layer: Any, dims: int) -> nn.Module:
    made = _BATCH_NORM[0 if layer.args.get("flat") else dims - 1](**_own(layer))
    if layer.args.get("no_weight"):
        made.weight = None
    return made


def _norm(layer: Any, dims: int) -> nn.Module:
    kinds = {"layer": nn.LayerNorm, "group": nn.GroupNorm, "instance": INSTANCE_NORMS[dims - 1]}
    return kinds[layer.args["kind"]](**_own(layer))


def _pad(layer: Any, dims: int) -> nn.Module:
    value = (1.5,) if layer.args["mode"] == "constant" else ()
    return _PADS[layer.args["mode"]][dims - 1](layer.args["padding"], *value)


_ACTIVATIONS: dict[str, Any] = ACTIVATIONS | {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softmax": lambda: nn.Softmax(1),
    "log_softmax": lambda: nn.LogSoftmax(-1),
    "prelu": nn.PReLU,
}
# Those of torch.nn.functional that are called with arguments.
_F_ACTIVATIONS: dict[str, Any] = {
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 1.5),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "threshold": lambda x: F.threshold(x, 0.3, -1.0),
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: x.log_softmax(-1),
}


def _activation(name: str, inplace: bool) -> nn.Module:
    """The module; `inplace`: in place, if there is such a one."""
    in_place = f"{name}_"
    return _ACTIVATIONS[in_place if inplace and in_place in _ACTIVATIONS else name]()


def _call_activation(name: str, x: Tensor) -> Tensor:
    return (_F_ACTIVATIONS[name] if name in _F_ACTIVATIONS else getattr(F, name))(x)


class Residual(nn.Module):
    """Batch norms, convolutions and activations around which the input goes."""

    def __init__(self, args: dict[str, Any], dims: int) -> None:
        super().__init__()
        channels, self.args, self.dims = args["channels"], args, dims
        self.norm1, self.norm2 = (_BATCH_NORM[dims - 1](channels) for _ in range(2))
        self.conv1, self.conv2 = (
            _CONV[dims - 1](channels, channels, 3, padding=1) for _ in range(2)
        )
        self.act = _activation(args["activation"], args["inplace"])
        self.drop = StochasticDepth(args["depth"], "row") if args["depth"] else nn.Identity()
        self.gate = _CONV[dims - 1](channels, channels, 1) if args["gate"] else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.args["pre"]:
            y = self.conv1(self.act(self.norm1(x)))
            y = self.conv2(self.act(self.norm2(y)))
        else:
            y = self.act(self.norm1(self.conv1(x)))
            y = self.norm2(self.conv2(y))
        if self.args["gate"]:
            pool = _F_POOLS["adaptive_avg_pool"][self.dims - 1]
            y = y * F.hardsigmoid(self.gate(pool(y, 1)))
        y = self.drop(y)
        if self.args["pre"]:
            return y + x
        if self.args["inplace"]:
            y += x
        else:
            y = y + x
        return self.act(y)


_DROPOUTS = {
    "element": (nn.Dropout,) * 3,
    "alpha": (nn.AlphaDropout,) * 3,
    "channel": (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
}
_F_DROPOUTS = {
    "element": (F.dropout,) * 3,
    "alpha": (F.alpha_dropout,) * 3,
    "channel": (F.dropout1d, F.dropout2d, F.dropout3d),
}


def _dropout(layer: Any, dims: int) -> nn.Module:
    return _DROPOUTS[layer.args["kind"]][dims - 1](**_own(layer))


def _pool(layer: Any, dims: int) -> nn.Module:
    return _POOLS[layer.op][dims - 1](**_own(layer))


MODULES = {
    "conv": lambda layer, dims: _CONV[dims - 1](**_own(layer)),
    "conv_transpose": lambda layer, dims: _CONV_TRANSPOSE[dims - 1](**_own(layer)),
    "batch_norm": _batch_norm,
    "norm": _norm,
    "pad": _pad,
    "activation": lambda layer, dims: _activation(layer.args["name"], "inplace" in layer.how),
    "residual": lambda layer, dims: Residual(layer.args, dims),
    "stochastic_depth": lambda layer, dims: StochasticDepth(**_own(layer)),
    "linear": lambda layer, dims: nn.Linear(**_own(layer)),
    "dropout": _dropout,
    "relu": lambda layer, dims: nn.ReLU(inplace=layer.how == "module_inplace"),
    "flatten": lambda layer, dims: nn.Flatten(),
    "block": _block,
} | dict.fromkeys(_POOLS, _pool)

_RELUS = {
    "F": F.relu,
    "F_inplace": lambda x: F.relu(x, inplace=True),
    "torch": torch.relu,
    "torch_inplace": torch.relu_,
    "method": lambda x: x.relu(),
    "method_inplace": lambda x: x.relu_(),
}


def _iadd(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


def _isub(a: Tensor, b: Tensor) -> Tensor:
    a -= b
    return a


_ADDS = {
    "operator": lambda a, b: a + b,
    "torch": torch.add,
    "method": lambda a, b: a.add(b),
    "alpha": lambda a, b: torch.add(a, b, alpha=2),
    "sub": lambda a, b: a - b,
    "inplace": _iadd,
    "inplace_sub": _isub,
}
_MULS = {
    "operator": lambda a, b: a * b,
    "torch": torch.mul,
    "method": lambda a, b: a.mul(b),
    "number": lambda a, b: a * 0.7 + b,
    # What a squeeze-excite does, without its convolutions.
    "gate": lambda a, b: a * b.mean(-1, keepdim=True).sigmoid(),
    "gate first": lambda a, b: F.hardsigmoid(b[:, :1]) * a,
}
_FLATTENS = {
    "torch": lambda x: torch.flatten(x, 1),
    "method": lambda x: x.flatten(1),
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
}
# Ops of which some save what they read or give, and some are unknown to the table.
_OTHERS = {
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: x.tanh(),
    "erf": torch.erf,
    "square": lambda x: x * x,
    "plus_one": lambda x: x + 1,
    "half_inplace": lambda x: x.mul_(0.5),
    "detach": lambda x: x.detach(),
}


def _swapped(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


def _two_ways(x: Tensor, channels: int) -> Tensor:
    a, b = torch.split(x, [1, channels - 1], dim=1)
    return torch.cat([F.relu(b), a], 1)


def _shuffled(x: Tensor, dims: int) -> Tensor:
    n, channels, *sizes = map(x.size, range(dims + 2))
    x = x.view(n, 2, channels // 2, *sizes).transpose(1, 2).contiguous()
    return x.view(n, channels, *sizes)


_VIEWS = {
    "transpose": lambda x: x.transpose(-1, -2),
    "transpose_contiguous": lambda x: x.transpose(-1, -2).contiguous(),
    "every_second": lambda x: x[:, ::2],
    "all_but_first": lambda x: x[..., 1:],
    "unsqueeze_squeeze": lambda x: x.unsqueeze(0).squeeze(0),
    "chunk_first": lambda x: x.chunk(2, 1)[0],
    "chunk_swapped": _swapped,
    "narrow": lambda x: x.narrow(1, 0, 1),
}


def run_layer(model: nn.Module, i: int, layer: Any, of: list[Any]) -> Any:
    """Calls layer `i` on the values it reads; a tuple is a value and its pool's indices."""
    if layer.op == "again":
        return getattr(model, f"l{layer.args['layer']}")(of[0])
    module = getattr(model, f"l{i}", None)
    if layer.op == "relu" and layer.how == "shared":
        return model.shared_relu(of[0])
    if layer.op == "relu" and layer.how in _RELUS:
        return _RELUS[layer.how](of[0])
    if layer.op == "flatten" and layer.how in _FLATTENS:
        return _FLATTENS[layer.how](of[0])
    if layer.op == "add":
        return _ADDS[layer.how](*of)
    if layer.op == "mul":
        return _MULS[layer.how](*of)
    if layer.op == "activation" and layer.how == "F" and layer.args["name"] != "prelu":
        return _call_activation(layer.args["name"], of[0])
    if layer.op == "cat":
        return torch.cat(of, dim=1)
    if layer.op == "view" and layer.how == "split_cat":
        return _two_ways(of[0], layer.args["channels"])
    if layer.op == "view" and layer.how == "shuffled":
        return _shuffled(of[0], layer.args["dims"])
    if layer.op in ("other", "view"):
        return (_OTHERS if layer.op == "other" else _VIEWS)[layer.how](of[0])
    if layer.how == "F":
        return _call_function(model, module, layer, of[0])
    return module(of[0])


def _call_function(model: nn.Module, module: Any, layer: Any, x: Any) -> Any:
    own = _own(layer)
    if layer.op == "conv":
        names = ("stride", "padding", "dilation", "groups")
        function = _F_CONV[len(module.kernel_size) - 1]
        return function(x, module.weight, module.bias, **{n: own[n] for n in names if n in own})
    if layer.op == "conv_transpose":
        names = ("stride", "padding", "output_padding", "groups", "dilation")
        function = _F_CONV_TRANSPOSE[len(module.kernel_size) - 1]
        return function(x, module.weight, module.bias, **{n: own[n] for n in names})
    if layer.op in ("norm", "batch_norm"):
        return call_norm(module, x)
    if layer.op == "pad":
        return F.pad(x, own["padding"], own["mode"])
    if layer.op == "linear":
        return F.linear(x, module.weight, module.bias)
    if layer.op == "dropout":
        function = _F_DROPOUTS[layer.args["kind"]][model.network.dims - 1]
        return function(x, own["p"], training=model.training, inplace=own["inplace"])
    return _F_POOLS[layer.op][model.network.dims - 1](x, **own)
