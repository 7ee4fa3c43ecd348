"""Trains a model of torchvision in eager Python and prints the memory of its process, as JSON.

    python -m bench._eager_training NAME DATA BATCH STEPS THREADS

A process of its own, which does not import fxpass: what it holds is what such a training holds.
"""

import json
import runpy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

_IMPORTS = Path(__file__).parent.parent / "fxpass" / "cli" / "imports.py"


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main(name: str, data: str, batch: int, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    models = runpy.run_path(str(_IMPORTS))["imported"]("torchvision.models")
    tensors = load_file(data)
    before = _status("VmRSS")
    model = models.get_model(name, weights=None, num_classes=10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    torch.manual_seed(0)
    dataset = TensorDataset(tensors["images"], tensors["labels"])
    loader = DataLoader(dataset, batch_size=batch, shuffle=True)
    done = 0
    while done < steps:
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            done += 1
    found = {"resident_bytes_before_model": before, "peak_resident_bytes": _status("VmHWM")}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
