"""The blocks of known networks, small: what is summed, concatenated, multiplied and shuffled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _bits import values
from torch import Tensor, nn

from bench._models import torchvision_models

torchvision_models()  # torchvision cannot be imported without it
from torchvision.ops import StochasticDepth  # noqa: E402

CHANNELS = 8
SHAPE = (4, CHANNELS, 8, 8)


def conv(inputs: int = CHANNELS, outputs: int = CHANNELS, **more) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **more)


def norm(channels: int = CHANNELS) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


class Residual(nn.Module):
    """ResNet's block: the sum, then the activation."""

    def __init__(self, inplace=False, stride=1, shortcut="conv", act=nn.ReLU):
        super().__init__()
        self.conv1, self.bn1 = conv(stride=stride), norm()
        self.conv2, self.bn2 = conv(), norm()
        self.act = act(inplace=inplace)
        self.inplace = inplace
        self.down = nn.Identity()
        if stride > 1:
            pool = [nn.AvgPool2d(2)] if shortcut == "pool" else []
            first = nn.Conv2d(CHANNELS, CHANNELS, 1, stride=1 if pool else stride, bias=False)
            self.down = nn.Sequential(*pool, first, norm())

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.inplace:
            y += self.down(x)
        else:
            y = y + self.down(x)
        return self.act(y)


class PreActivation(nn.Module):
    """Batch norm and activation first, the sum last."""

    def __init__(self, inplace=False, act=nn.ReLU):
        super().__init__()
        self.bn1, self.conv1 = norm(), conv()
        self.bn2, self.conv2 = norm(), conv()
        self.act = act(inplace=inplace)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.act(self.bn1(x)))
        y = self.conv2(self.act(self.bn2(y)))
        if self.inplace:
            y += x
            return y
        return x + y


class Dense(nn.Module):
    """DenseNet's layers: each reads all that came before, concatenated."""

    def __init__(self, layers=3, growth=4, drop=0.0):
        super().__init__()
        widths = [CHANNELS + i * growth for i in range(layers)]
        self.norms = nn.ModuleList(norm(w) for w in widths)
        self.convs = nn.ModuleList(conv(w, growth) for w in widths)
        self.last = nn.Sequential(norm(widths[-1] + growth), nn.ReLU())
        self.transition, self.pool = conv(widths[-1] + growth), nn.AvgPool2d(2)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for bn, layer in zip(self.norms, self.convs, strict=True):
            new = layer(F.relu(bn(torch.cat(features, 1))))
            features.append(F.dropout(new, self.drop, self.training) if self.drop else new)
        return self.pool(self.transition(self.last(torch.cat(features, 1))))


class SqueezeExcite(nn.Module):
    """MobileNet's block: features scaled by what a small network thinks of their means."""

    def __init__(self, act=nn.SiLU, gate=nn.Sigmoid, scale_first=True, skip=True, drop=None):
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(CHANNELS, 16, 1, bias=False), norm(16)
        self.depth, self.bn2 = conv(16, 16, groups=16), norm(16)
        self.act, self.gate, self.small = act(), gate(), nn.ReLU()
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project, self.bn3 = nn.Conv2d(16, CHANNELS, 1, bias=False), norm()
        self.scale_first, self.skip = scale_first, skip
        self.drop = nn.Identity() if drop is None else StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.expand(x)))
        y = self.act(self.bn2(self.depth(y)))
        scale = self.excite(self.small(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        scale = self.gate(scale)
        y = scale * y if self.scale_first else y * scale
        y = self.drop(self.bn3(self.project(y)))
        return x + y if self.skip else y


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    n, channels, height, width = x.size()
    x = x.view(n, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(n, -1, height, width)


class Shuffle(nn.Module):
    """ShuffleNet's unit: one half passes by, then the channels are shuffled."""

    def __init__(self, inplace=False):
        super().__init__()
        half = CHANNELS // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False), norm(half), nn.ReLU(inplace),
            conv(half, half, groups=half), norm(half),
            nn.Conv2d(half, half, 1, bias=False), norm(half), nn.ReLU(inplace),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return shuffled(torch.cat((a, self.branch(b)), dim=1))


class Dropped(nn.Module):
    """A residual branch that is left out at random."""

    def __init__(self, p=0.4, mode="row"):
        super().__init__()
        self.conv, self.bn, self.drop = conv(), norm(), StochasticDepth(p, mode)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(F.relu(self.bn(self.conv(x))))


class Inception(nn.Module):
    """Branches, one of them through a pool, concatenated."""

    def __init__(self):
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(CHANNELS, 4, 1), norm(4)
        self.b, self.bn_b = conv(CHANNELS, 2), norm(2)
        self.pool, self.c = nn.MaxPool2d(3, 1, 1), nn.Conv2d(CHANNELS, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn_a(self.a(x)), inplace=True)
        b = F.relu(self.bn_b(self.b(x)), inplace=True)
        return torch.cat([a, b, F.relu(self.c(self.pool(x)))], 1)


def network(*blocks: nn.Module) -> nn.Module:
    """A stem, the blocks, and a head."""
    stem = [nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), norm(), nn.ReLU(inplace=True)]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * CHANNELS, 3)]
    return nn.Sequential(*stem, *blocks, *head)


# Name -> how to make it.
NETWORKS = {
    "residual": lambda: network(Residual(), Residual()),
    "residual in place": lambda: network(Residual(True), Residual(True)),
    "residual with downsampling": lambda: network(Residual(stride=2), Residual()),
    "in place with downsampling": lambda: network(Residual(True, stride=2), Residual(True)),
    "residual with a pooled shortcut": lambda: network(Residual(stride=2, shortcut="pool")),
    "residual hardswish": lambda: network(Residual(act=nn.Hardswish), Residual(act=nn.Hardswish)),
    "pre-activation": lambda: network(PreActivation(), PreActivation()),
    "pre-activation in place": lambda: network(PreActivation(True), PreActivation(True)),
    "pre-activation silu": lambda: network(PreActivation(act=nn.SiLU), PreActivation(act=nn.SiLU)),
    "dense": lambda: network(Dense(), Dense()),
    "dense with dropout": lambda: network(Dense(drop=0.3)),
    "squeeze-excite": lambda: network(SqueezeExcite(), SqueezeExcite()),
    "squeeze-excite hard": lambda: network(SqueezeExcite(nn.Hardswish, nn.Hardsigmoid)),
    "squeeze-excite, scale last": lambda: network(SqueezeExcite(scale_first=False, skip=False)),
    "squeeze-excite, dropped": lambda: network(SqueezeExcite(drop=0.3), SqueezeExcite(drop=0.3)),
    "shuffle": lambda: network(Shuffle(), Shuffle()),
    "shuffle in place": lambda: network(Shuffle(True), Shuffle(True)),
    "stochastic depth": lambda: network(Dropped(), Dropped()),
    "stochastic depth of a batch": lambda: network(Dropped(mode="batch"), Dropped(mode="batch")),
    "inception": lambda: network(Inception(), Inception()),
}


def made(name: str) -> nn.Module:
    """One of NETWORKS, from a fixed seed."""
    torch.manual_seed(0)
    return NETWORKS[name]()


def image(dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> Tensor:
    """What the networks read."""
    return values((4, 3, 8, 8), dtype, layout=layout).requires_grad_()
