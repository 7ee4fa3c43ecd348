"""The models the benchmarks know by name: torchvision's classifiers, and a small one of our own."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxpass.cli.imports import imported

SMALL_RESNET = "resnet18_cifar"  # for 32x32 images: a 3x3 first convolution, no pool after it


def torchvision_models() -> ModuleType:
    """`torchvision.models`, with torchvision's compiled operators or without."""
    return imported("torchvision.models")


def names() -> list[str]:
    """Every name that `make` knows."""
    models = torchvision_models()
    return [*models.list_models(module=models), SMALL_RESNET]


def make(name: str, *, seed: int = 0) -> nn.Module:
    """The named model in training mode, with random weights that depend on the seed only."""
    known = names()
    if name not in known:
        raise ValueError(f"expected the name of a model, got {name!r}; known: {', '.join(known)}")
    torch.manual_seed(seed)
    models = torchvision_models()
    if name == SMALL_RESNET:
        model = models.resnet18(num_classes=10)
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
        return model.train()
    # Two builders weigh their layers a second time, slowly, unless told not to.
    own = name in ("googlenet", "inception_v3")
    return models.get_model(name, weights=None, **({"init_weights": False} if own else {})).train()


def in_format(model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """The model, its weights in the memory format."""
    move: Callable[..., nn.Module] = model.to  # its overloads do not know the keyword
    return move(memory_format=memory_format)


def batch(size: int, image: int, *, channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, channels, image, image, generator=generator)
    return images, torch.randint(10, (size,), generator=generator)


def cross_entropy(labels: Tensor, output: Any) -> Tensor:
    """The loss; some models (googlenet, inception) have several classifiers in training."""
    logits = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    losses = [F.cross_entropy(leaf, labels) for leaf in logits]
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]
