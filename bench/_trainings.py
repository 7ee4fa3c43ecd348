"""One training, four ways: eager, fxpass, TorchScript in Python, and `fxpass-train`.

Same weights to begin with, same data, same seed, same optimizer. `python_way` and `program` return
what is to be compared: the losses of all steps, the weights after them, and the peak bytes of
torch's CPU allocator, weights included.
"""

from __future__ import annotations

import copy
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxpass
from bench import _models

PROGRAM = Path(sys.executable).with_name("fxpass-train")
SEED = 0
OPTIMIZERS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], list[str]]] = {
    "SGD": (
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4),
        ["--lr", "0.05", "--momentum", "0.9", "--weight-decay", "0.0001"],
    ),
    "Adam": (
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        ["--optimizer", "adam", "--lr", "0.001"],
    ),
}


def vgg_style() -> nn.Module:
    """Four stages of convolutions, ReLU and max pool, then linear layers with dropout."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((32, 1), (64, 1), (128, 2), (128, 2)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(128 * 16, 256), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def make(name: str) -> nn.Module:
    """`vgg_style`, or a model of torchvision with ten classes."""
    if name == "vgg_style":
        return vgg_style()
    torch.manual_seed(0)
    return _models.torchvision_models().get_model(name, weights=None, num_classes=10)


@dataclass
class Training:
    """What came of it."""

    losses: list[float]
    weights: dict[str, Tensor]
    peak_bytes: int

    def differences(self, other: Training) -> int:
        """How many losses and tensors differ in a bit."""
        wrong = sum(a != b for a, b in zip(self.losses, other.losses, strict=True))
        assert self.weights.keys() == other.weights.keys()
        return wrong + sum(
            not torch.equal(a.detach().view(torch.uint8), b.detach().view(torch.uint8))
            for a, b in ((w[None], other.weights[name][None]) for name, w in self.weights.items())
        )


@dataclass(frozen=True)
class Setting:
    """The files of one model, and how it is trained."""

    model: nn.Module
    archive: Path
    data: Path
    images: Tensor
    labels: Tensor
    batch: int
    steps: int
    optimizer: str

    @staticmethod
    def of(name: str, folder: Path, *, batch: int, steps: int, optimizer: str) -> Setting:
        """Writes the files: 64x64 images, as many as two batches have."""
        model = make(name)
        images, labels = _models.batch(2 * batch, 64)
        archive, data = folder / "model.pt", folder / "data.safetensors"
        compiled: Any = fxpass.compile(model, (images[:batch],))
        fxpass.export_torchscript(compiled, archive)
        fxpass.save_dataset(data, images, labels)
        return Setting(model, archive, data, images, labels, batch, steps, optimizer)

    def way(self, name: str) -> Callable[[], nn.Module]:
        """What makes the model to train in Python, by the way's name."""
        return {
            "eager": lambda: copy.deepcopy(self.model),
            "fxpass": lambda: fxpass.compile(copy.deepcopy(self.model)),
            "TorchScript": lambda: torch.jit.load(self.archive),
        }[name]


def python_way(setting: Setting, name: str) -> Training:
    """Trains in this process."""
    gc.collect()
    with fxpass.memory.track() as memory:
        model = setting.way(name)()
        optimizer = OPTIMIZERS[setting.optimizer][0](model.parameters())
        torch.manual_seed(SEED)
        dataset = TensorDataset(setting.images, setting.labels)
        loader = DataLoader(dataset, batch_size=setting.batch, shuffle=True)
        losses: list[float] = []
        while len(losses) < setting.steps:
            for images, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    return Training(losses, model.state_dict(), memory.peak_bytes)


def command(setting: Setting, *options: object) -> list[str]:
    """The program's command line."""
    words: list[object] = [PROGRAM, "--model", setting.archive, "--data", setting.data, "--json"]
    words += ["--log-steps", "--seed", SEED, "--threads", torch.get_num_threads()]
    words += ["--batch-size", setting.batch, "--epochs", setting.steps]
    words += ["--max-steps", setting.steps, *OPTIMIZERS[setting.optimizer][1], *options]
    return [str(word) for word in words]


def program(setting: Setting, *options: object) -> tuple[Training, list[dict[str, Any]]]:
    """Trains in `fxpass-train`; returns its lines for the epochs, too."""
    output = setting.archive.with_name("trained.pt")
    done = subprocess.run(
        command(setting, *options, "--output", output), stdout=subprocess.PIPE, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    epochs = [line for line in lines if "epoch" in line]
    losses = [line["loss"] for line in lines if "step" in line]
    peak = max(epoch["peak_bytes"] for epoch in epochs)
    return Training(losses, torch.jit.load(output).state_dict(), peak), epochs
