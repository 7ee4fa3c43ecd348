"""Trains exported models on 64-bit Arm, under qemu, and compares every bit with the dense plan.

Each model is exported twice: as fxpass compiles it, and with every value kept dense, where all
ops that compute and save are eager's own. Both are trained by fxpass-train with torch's own
libraries for Arm. `tools/arm.sh` has built it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxpass
from fxpass.cli.imports import imported

ARM = Path(__file__).resolve().parent.parent / "build" / "arm"
BATCH, SIZE, CLASSES, STEPS = 4, 64, 10, 2
MODELS = ("small_vgg", "resnet18", "mobilenet_v2", "efficientnet_b0")


def small_vgg(num_classes: int) -> nn.Module:
    """In the style of VGG, with and without batch norm."""
    layers: list[nn.Module] = []
    for before, width in pairwise((3, 16, 32, 64)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(64 * (SIZE // 8) ** 2, 128), nn.ReLU(True), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(128, num_classes))


def export(name: str, directory: Path) -> None:
    """Writes free.pt and dense.pt, of equal weights."""
    torch.manual_seed(0)
    make = globals().get(name) or getattr(imported("torchvision.models"), name)
    model, inputs = make(num_classes=CLASSES), (torch.randn(BATCH, 3, SIZE, SIZE),)
    compiled = fxpass.compile(model, inputs)
    fxpass.export_torchscript(compiled, directory / "free.pt")
    dense = compiled.plan.with_dense(*(choice.value for choice in compiled.plan))
    fxpass.export_torchscript(fxpass.compile(model, inputs, plan=dense), directory / "dense.pt")


def train(directory: Path, plan: str) -> list[dict[str, Any]]:
    """What fxpass-train reports; it writes `plan`.trained.pt."""
    command = [
        str(ARM / "run"),
        str(ARM / "fxpass/cpp_ops/trainer/fxpass-train"),
        *("--model", str(directory / f"{plan}.pt"), "--data", str(directory / "data.safetensors")),
        *("--output", str(directory / f"{plan}.trained.pt"), "--batch-size", str(BATCH)),
        *("--loss", "cross-entropy", "--lr", "0.05", "--momentum", "0.9", "--json"),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"this exited with {done.returncode}: {' '.join(command)}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def tensors(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of an exported model by name, as bytes."""
    model = torch.jit.load(path)
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach().reshape(-1).view(torch.uint8) for name, t in named}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """The names under which they do not hold the same bytes."""
    return [name for name in a.keys() | b.keys() if not a[name].equal(b[name])]


def compare(name: str, directory: Path) -> bool:
    """Trains both; prints a line."""
    reports = {plan: train(directory, plan) for plan in ("free", "dense")}
    before, free, dense = (
        tensors(directory / file) for file in ("free.pt", "free.trained.pt", "dense.trained.pt")
    )
    wrong = differing(free, dense)
    peak = {plan: lines[-1]["peak_bytes"] for plan, lines in reports.items()}
    print(
        f"{name}: {len(free) - len(wrong)} of {len(free)} tensors identical"
        f" ({len(differing(before, free))} of them trained), loss {reports['free'][-1]['loss']!r}"
        f" and {reports['dense'][-1]['loss']!r}, peak {peak['free'] / peak['dense']:.2f}"
        f" of {peak['dense'] / 2**20:.1f} MiB",
        flush=True,
    )
    for tensor in sorted(wrong):
        print(f"  differs: {tensor}")
    same_loss = reports["free"][-1]["loss"] == reports["dense"][-1]["loss"]
    return not wrong and same_loss and peak["free"] < peak["dense"]


def main() -> int:
    """Prints a line a model; 1 if one differs, or if nothing was saved."""
    passed = True
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            export(name, directory)
            torch.manual_seed(1)
            images = torch.randn(BATCH * STEPS, 3, SIZE, SIZE)
            labels = torch.randint(CLASSES, (BATCH * STEPS,))
            fxpass.save_dataset(directory / "data.safetensors", images, labels)
            passed &= compare(name, directory)
    return not passed


if __name__ == "__main__":
    sys.exit(main())
