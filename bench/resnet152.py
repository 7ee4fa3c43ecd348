"""ResNet-152 with eight images of 3x500x500 in 2048 MiB: the whole training step, to the last bit.

    python -m bench.resnet152
    python -m bench.resnet152 --model resnet18 --batch 2 --image 64 --limit-mib 120 --steps 3

Counted is all that torch's CPU allocator has live at any moment of a step: parameters, buffers,
gradients, the momentum of SGD, the images and whatever the step needs meanwhile. Eager and fxpass
(a memory budget, and fxpass.optim.in_backward) train in a process of their own each, one step
in turns; after each step the digests of the loss, all weights, buffers and momenta are compared.
Eager takes about 13 GiB. Published for this cell: 20.8 GB (bench/data/edge_training_tables.json).
Exits with 1 if a promised figure is missed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench._promise import Figure, parser_of, show
from fxpass._progress import progress

MIB = 2**20
MOST_TIME = 1.35
SIDES = ("eager", "fxpass")


class Side:
    """A process that trains."""

    def __init__(self, side: str, model: str, batch: int, image: int, limit: int) -> None:
        arguments = (side, model, *map(str, (batch, image, limit)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench._whole_step", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.predicted_bytes = 0

    def __enter__(self) -> Side:
        self.predicted_bytes = int(self._answer()["predicted"])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def step(self) -> dict[str, Any]:
        """What one step took."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError(f"{self._process.args!r}: ended with {self._process.returncode}")
        found: dict[str, Any] = json.loads(line)
        return found


def figures(model: str, batch: int, image: int, limit: int, steps: int) -> list[Figure]:
    """Trains both sides for so many steps, in turns."""
    with progress(2 * steps + 2) as begin, ExitStack() as running:
        sides = {}
        for side in SIDES:
            begin(f"{side}: made, and planned for")
            sides[side] = running.enter_context(Side(side, model, batch, image, limit))
        taken: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for i in range(steps):
            for side in SIDES if i % 2 else reversed(SIDES):
                begin(f"{side}: step {i + 1} of {steps}")
                taken[side].append(sides[side].step())
    peaks = {side: max(step["peak_bytes"] for step in taken[side]) for side in SIDES}
    print(f"eager's peak: {peaks['eager'] / MIB:.0f} MiB")
    differ = sum(
        eager["bits"][name] != ours["bits"][name]
        for eager, ours in zip(taken["eager"], taken["fxpass"], strict=True)
        for name in eager["bits"]
    )
    pairs = zip(taken["fxpass"][1:], taken["eager"][1:], strict=True)  # the first makes what stays
    ratio = median(ours["seconds"] / eager["seconds"] for ours, eager in pairs)
    predicted = sides["fxpass"].predicted_bytes
    return [
        Figure("peak of the whole step", peaks["fxpass"] / MIB, limit / MIB, "MiB"),
        Figure("predicted peak is off by", 100 * abs(predicted / peaks["fxpass"] - 1), 2.0, "%"),
        Figure("tensors that differ from eager's", differ, 0),
        Figure("step time / eager's", ratio, MOST_TIME),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and says with the exit code whether all is as promised."""
    parser = parser_of("resnet152", __doc__)
    parser.add_argument("--model", default="resnet152", help="torchvision's name")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, default=500)
    parser.add_argument("--limit-mib", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=4, help="of each side, at least 2")
    options = parser.parse_args(arguments)
    limit = options.limit_mib * MIB
    found = figures(options.model, options.batch, options.image, limit, options.steps)
    return show(f"{options.model}: a training step in {options.limit_mib} MiB", found, options.json)


if __name__ == "__main__":
    sys.exit(main())
