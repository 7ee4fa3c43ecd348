"""The layers of random networks: how each is made, and how each is called, in every spelling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_F_CONV = (F.conv1d, F.conv2d, F.conv3d)
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
_NOT_THE_MODULES = {"frozen", "eval", "layer"}


def _own(layer: Any) -> dict[str, Any]:
    return {name: v for name, v in layer.args.items() if name not in _NOT_THE_MODULES}


def _block(layer: Any, dims: int) -> nn.Module:
    """What most code bases have: a container whose children are the ops."""
    channels = layer.args["channels"]
    parts = [nn.ReLU(inplace=layer.args["inplace"]), _CONV[dims - 1](channels, channels, 1)]
    if layer.args["norm"]:
        parts.insert(0, _BATCH_NORM[dims - 1](channels))
    return nn.Sequential(*parts)


def _pool(layer: Any, dims: int) -> nn.Module:
    return _POOLS[layer.op][dims - 1](**_own(layer))


MODULES = {
    "conv": lambda layer, dims: _CONV[dims - 1](**_own(layer)),
    "conv_transpose": lambda layer, dims: _CONV_TRANSPOSE[dims - 1](**_own(layer)),
    "batch_norm": lambda layer, dims: _BATCH_NORM[dims - 1](**_own(layer)),
    "linear": lambda layer, dims: nn.Linear(**_own(layer)),
    "dropout": lambda layer, dims: nn.Dropout(**_own(layer)),
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


_ADDS = {
    "operator": lambda a, b: a + b,
    "torch": torch.add,
    "method": lambda a, b: a.add(b),
    "alpha": lambda a, b: torch.add(a, b, alpha=2),
    "inplace": _iadd,
}
_FLATTENS = {
    "torch": lambda x: torch.flatten(x, 1),
    "method": lambda x: x.flatten(1),
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
}
# Ops that no table of ours has a row for, and that save what they read or give.
_OTHERS = {
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "square": lambda x: x * x,
    "plus_one": lambda x: x + 1,
    "half_inplace": lambda x: x.mul_(0.5),
    "detach": lambda x: x.detach(),
}
_VIEWS = {
    "transpose": lambda x: x.transpose(-1, -2),
    "transpose_contiguous": lambda x: x.transpose(-1, -2).contiguous(),
    "every_second": lambda x: x[:, ::2],
    "all_but_first": lambda x: x[..., 1:],
    "unsqueeze_squeeze": lambda x: x.unsqueeze(0).squeeze(0),
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
        return of[0] * of[1]
    if layer.op == "cat":
        return torch.cat(of, dim=1)
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
    if layer.op == "linear":
        return F.linear(x, module.weight, module.bias)
    if layer.op == "dropout":
        return F.dropout(x, own["p"], training=model.training)
    if layer.op == "batch_norm":
        batch_statistics = module.training or module.running_mean is None
        return F.batch_norm(
            x,
            module.running_mean,
            module.running_var,
            module.weight,
            module.bias,
            batch_statistics,
            0.1,
            module.eps,
        )
    return _F_POOLS[layer.op][model.network.dims - 1](x, **own)
