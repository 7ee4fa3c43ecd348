"""What a new user does first, run where only torch and the wheel are (tools/check_wheel.sh)."""

import os
import shutil
import subprocess
import sysconfig

import torch
from torch import nn

import fxpass


def network() -> nn.Module:
    """A small network, as users have them."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(8, 4)),
    )


def main() -> None:
    """One step in eager and one compiled, and a look at what is loaded."""
    packages = sysconfig.get_path("platlib")
    assert fxpass.__file__.startswith(packages), fxpass.__file__
    assert shutil.which("c++") is None
    assert os.path.exists(os.path.join(fxpass.cmake_prefix_path, "fxpass", "fxpassConfig.cmake"))

    gradients = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = network()
        if compiles:
            model = fxpass.compile(model)
        with fxpass.memory.track() as memory:
            loss = model(torch.randn(4, 3, 32, 32)).square().sum()
            saved = memory.live_bytes
            loss.backward()
        gradients.append([p.grad for p in model.parameters()])
        print(f"compiled: {compiles}, loss {loss.item()!r}, {saved} bytes saved")
    assert all(a.equal(b) for a, b in zip(*gradients, strict=True))

    fxpass.export_torchscript(model, "model.pt")
    fxpass.save_dataset("data.safetensors", torch.randn(8, 3, 32, 32), torch.randint(4, (8,)))
    data = ("--data", "data.safetensors", "--loss", "cross-entropy")
    subprocess.run(["fxpass-train", "--model", "model.pt", *data], check=True)

    # Two OpenMP runtimes in one process would have two thread pools.
    with open("/proc/self/maps") as maps:
        openmp = {line.split()[-1] for line in maps if "omp" in os.path.basename(line.split()[-1])}
    assert openmp == {os.path.join(packages, "torch", "lib", "libgomp.so.1")}, openmp


if __name__ == "__main__":
    main()
