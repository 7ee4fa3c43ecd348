"""Torchvision's models, trained by fxpass and by eager, compared to the last bit.

    python -m bench.coverage                       all 80 classifiers
    python -m bench.coverage --kind all            and segmentation, detection backbones, video
    python -m bench.coverage --models resnet18,vit_b_32 --image 64 --json coverage.json

fp32, training mode, batch 2, three steps of SGD on the smallest legal image of at least 33x33
pixels: of that a stride of 32 leaves 2x2. Most networks take smaller ones (`--image 1`), but there
batch norm over two values makes gradients that overflow. The unmodified model runs twice, the
compiled one once, each from the same state. Compared by digest (see fxpass/_oracle.py): outputs,
loss, every gradient, parameter and buffer, and the RNG state, after each step. Each model has a
process of its own. Exits with 1 unless all are identical.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxpass
from bench import _models
from fxpass._console import table_console
from fxpass._oracle import Difference, Loop, Recording, Value, compare, record

KINDS = ("classification", "segmentation", "detection", "video")
BATCH = 2  # In training, batch norm needs more than one value a channel.
LEAST = 33
GIB = 2**30
_SHOWN = 5


@dataclass(frozen=True)
class Smallest:
    """The smallest legal images of a family of models, in training; `why` not smaller."""

    image: int
    why: str
    only: bool = False  # Larger images are not legal either, at least not all.
    frames: int = 4


_ANY = Smallest(1, "padded convolutions take anything")
_SMALLEST = {  # By the beginning of the name, the longest first.
    "alexnet": Smallest(63, "leaves 3x3 for the last max pool"),
    "convnext": Smallest(32, "strided by 4, 2, 2 and 2, without padding"),
    "densenet": Smallest(29, "leaves 2x2 for the last average pool"),
    "googlenet": Smallest(15, "leaves 2x2 for the last max pool"),
    "inception_v3": Smallest(299, "leaves 5x5 for the last convolution of the second classifier"),
    "maxvit": Smallest(221, "patches that windows of 7x7 divide, four times halved", only=True),
    "mvit": Smallest(221, "its position embedding has 8x56x56 entries", only=True, frames=15),
    "s3d": Smallest(209, "leaves 2x7x7 for the last average pool", frames=13),
    "squeezenet1_0": Smallest(21, "leaves 3x3 for the last max pool"),
    "squeezenet1_1": Smallest(17, "leaves 3x3 for the last max pool"),
    "ssd300_vgg16": Smallest(268, "leaves 3x3 for the last convolution, which has no padding"),
    "swin": Smallest(4, "one patch of 4x4"),
    "swin3d": _ANY,
    "vgg": Smallest(32, "five max pools of 2x2"),
    "vit": Smallest(224, "its position embedding is for this size", only=True),
}


@dataclass(frozen=True)
class Subject:
    """One model of torchvision, by kind and name, and the image it is trained on."""

    kind: str
    name: str
    image: int
    frames: int = 1

    @staticmethod
    def of(kind: str, name: str, at_least: int = LEAST) -> Subject:
        """The model with the smallest legal image that is no smaller than `at_least`."""
        prefixes = sorted(filter(name.startswith, _SMALLEST), key=len)
        size = _SMALLEST[prefixes[-1]] if prefixes else _ANY
        return Subject(
            kind, name, size.image if size.only else max(size.image, at_least), size.frames
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the batch."""
        frames = (self.frames,) if self.kind == "video" else ()
        return (BATCH, 3, *frames, self.image, self.image)

    def make(self, seed: int = 0) -> nn.Module:
        """The model in training mode; of a detector the backbone, which takes plain images."""
        if self.kind == "classification":
            return _models.make(self.name, seed=seed)
        torch.manual_seed(seed)
        none = {} if self.kind == "video" else {"weights_backbone": None}
        model = _models.torchvision_models().get_model(self.name, weights=None, **none)
        return (model.backbone if self.kind == "detection" else model).train()

    def batch(self, seed: int = 0) -> tuple[Tensor, Callable[[Any], Tensor]]:
        """Random images and a loss."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(self.shape, generator=generator)
        labels = torch.randint(10, (BATCH,), generator=generator)
        classifies = self.kind in ("classification", "video")
        return images, partial(_models.cross_entropy, labels) if classifies else mean_of_squares


def mean_of_squares(output: Any) -> Tensor:
    """A loss for feature maps, one or several."""
    maps = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    return torch.stack([leaf.float().square().mean() for leaf in maps]).sum()


def subjects(kinds: tuple[str, ...], at_least: int = LEAST) -> list[Subject]:
    """Every model of torchvision of these kinds."""
    models = _models.torchvision_models()
    modules = {kind: getattr(models, kind, models) for kind in kinds}
    return [
        Subject.of(kind, name, at_least)
        for kind, module in modules.items()
        for name in models.list_models(module=module)
    ]


@dataclass
class Result:
    """What came of one model. `verdict` is "identical", or says what else."""

    kind: str
    name: str
    shape: tuple[int, ...]
    verdict: str = "identical"
    details: list[str] = field(default_factory=list)
    compared: int = 0  # values, in all steps
    losses: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # which parts are not traced, and the share
    seconds: float = 0.0
    peak_bytes: int = 0  # the most the process had resident

    @property
    def finite(self) -> bool:
        """Whether all losses are."""
        return all(map(math.isfinite, self.losses))

    @property
    def ok(self) -> bool:
        """Whether the compiled model is proven to be the model."""
        return self.verdict == "identical"


def check(subject: Subject, steps: int = 3, input_grads: bool = False) -> Result:
    """Trains the model twice and the compiled one once, from one state, and compares."""
    start = time.perf_counter()
    result = Result(subject.kind, subject.name, subject.shape)
    model = subject.make()
    images, loss = subject.batch()
    loop = Loop(steps, loss, input_grads)
    first = record(model, (images,), loop)
    result.compared, result.losses = len(first.values), _losses(first)
    if first.error is not None:
        result.verdict, result.details = "eager raises", [repr(first.error)]
    elif differences := compare(first, record(model, (images,), loop)):
        result.verdict, result.details = "eager is not itself", _listed(differences)
    else:
        _check_compiled(result, model, images, loop, first)
    result.seconds = time.perf_counter() - start
    result.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result


def _check_compiled(
    result: Result, model: nn.Module, images: Tensor, loop: Loop, first: Recording
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            compiled: Any = fxpass.compile(model, example_inputs=(images,))
        except Exception as error:
            result.verdict, result.details = "refused", [repr(error)]
            return
        found = record(compiled, (images,), loop)
    result.warnings = [str(w.message) for w in caught if str(w.message).startswith("fxpass")]
    if differences := compare(first, found):
        result.verdict, result.details = "DIFFERS", _listed(differences)
    elif not result.finite:
        result.details = [f"NaN equals NaN: of losses {result.losses} the later prove little"]


def _losses(recording: Recording) -> list[float]:
    values = [value for key, value in recording.values.items() if key.kind == "loss"]
    bits = [value.bits for value in values if isinstance(value, Value) and value.bits is not None]
    return [float(b.view(torch.float32)) for b in bits]


def _listed(differences: list[Difference]) -> list[str]:
    more = [f"and {len(differences) - _SHOWN} more"] if len(differences) > _SHOWN else []
    return [str(difference) for difference in differences[:_SHOWN]] + more


def check_apart(subject: Subject, options: argparse.Namespace) -> Result:
    """The same in a process of its own: its memory is measured, and freed, by itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fxpass", "bench._models"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_apart, subject, options).result()
        except BrokenProcessPool:
            why = "its process was killed; out of memory?"
            return Result(subject.kind, subject.name, subject.shape, "died", [why])


def _apart(subject: Subject, options: argparse.Namespace) -> Result:
    torch.set_num_threads(options.threads)
    return check(subject, options.steps, options.input_grads)


def table_of(results: list[Result]) -> Table:
    """A row for each model."""
    table = Table(title="fxpass against eager, every bit")
    for name in ("model", "batch", "verdict", "values", "not traced", "seconds", "GiB"):
        table.add_column(name, justify="left" if name in ("model", "verdict") else "right")
    for result in results:
        table.add_row(
            result.name,
            "x".join(map(str, result.shape)),
            _verdict(result),
            str(result.compared),
            _untraced_share(result),
            f"{result.seconds:.1f}",
            f"{result.peak_bytes / GIB:.2f}",
        )
    return table


def _verdict(result: Result) -> str:
    if result.ok and not result.finite:
        return "[yellow]identical, NaN"
    return f"[{'green' if result.ok else 'red'}]{result.verdict}"


def _untraced_share(result: Result) -> str:
    """The share of the saved bytes that is not compiled, from fxpass's own warning."""
    shares = [share for text in result.warnings for share in _SHARE.findall(text)]
    return shares[0] if shares else "?" if result.warnings else "0%"


_SHARE = re.compile(r"left uncompiled: (\d+%)")


def summary(results: list[Result]) -> list[str]:
    """The figures, a kind a line, and what there is to say about single models."""
    lines = []
    for kind in dict.fromkeys(result.kind for result in results):
        of_kind = [result for result in results if result.kind == kind]
        largest = max(of_kind, key=lambda result: result.peak_bytes)
        lines.append(
            f"{kind}: {sum(r.ok for r in of_kind)} of {len(of_kind)} bit-identical"
            f" ({sum(r.compared for r in of_kind)} values);"
            f" {sum(r.seconds for r in of_kind):.0f} s;"
            f" most memory: {largest.peak_bytes / GIB:.1f} GiB ({largest.name})"
        )
    for result in results:
        lines += [f"{result.name}: {line}" for line in (*result.details, *result.warnings)]
    return lines


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", help="names, separated by commas; default: all of the kind")
    parser.add_argument("--kind", choices=(*KINDS, "all"), help="default: classification")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps compared")
    parser.add_argument("--image", type=int, default=LEAST, help="no smaller images than this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--input-grads", action="store_true", help="also those of the images")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> list[Subject]:
    """The subjects that the options name."""
    kind = options.kind or ("all" if options.models else "classification")
    found = subjects(KINDS if kind == "all" else (kind,), options.image)
    if not options.models:
        return found
    by_name = {subject.name: subject for subject in found}
    names = options.models.split(",")
    if unknown := [name for name in names if name not in by_name]:
        sys.exit(
            f"coverage: expected names of models of kind {kind}, got {unknown[0]!r};"
            f" known: {', '.join(by_name)}"
        )
    return [by_name[name] for name in names]


def main(arguments: list[str] | None = None) -> int:
    """Checks every model, prints the table, and says by the exit code whether all are identical."""
    options = parse(arguments)
    # Threads that wait busily for each other are slow, up to 20 times, where a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    results: list[Result] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for subject in progress.track(chosen(options), description="every bit"):
            progress.console.print(f"[dim]{subject.name} {subject.shape}", highlight=False)
            results.append(check_apart(subject, options))
            if options.json:
                options.json.write_text(json.dumps(_as_json(results, options), indent=1) + "\n")
    console = table_console()
    console.print(table_of(results))
    for line in summary(results):
        console.print(line, markup=False, highlight=False)
    return 0 if all(result.ok for result in results) else 1


def _as_json(results: list[Result], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "threads": options.threads,
        "least_image": options.image,
        "steps": options.steps,
        "input_grads": options.input_grads,
        "identical": sum(result.ok for result in results),
        "models": [vars(result) for result in results],
    }


if __name__ == "__main__":
    sys.exit(main())
