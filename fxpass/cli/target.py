"""MODEL on the command line: from its name to a module, and inputs for it."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fxpass.budget.amount import budget_bytes
from fxpass.cli.imports import imported
from fxpass.errors import FxpassError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class UsageError(FxpassError):
    """An argument of the command line that cannot be meant."""


@dataclass(frozen=True)
class Target:
    """A model and what it is called with."""

    name: str
    model: nn.Module
    images: Tensor


def target_of(
    name: str,
    *,
    batch: int,
    image: str,
    dtype: str,
    channels_last: bool,
    threads: int | None,
    train: bool,
) -> Target:
    """Makes the model and a batch of random images, from a fixed seed.

    Args:
        name: `package.module:callable` or `path/to/file.py:callable`; calling it without arguments
            gives the model.
        batch: how many images.
        image: their size: `224`, `224x160` (height x width) or `1x28x28` (with channels).
        dtype: one of `DTYPES`.
        channels_last: the memory format of model and images.
        threads: of torch; None: as it is.
        train: training or evaluation mode.

    Raises:
        UsageError: one of them is not understood; the message says what was expected.

    """
    sizes = image_sizes(image)
    if dtype not in DTYPES:
        raise UsageError(f"expected --dtype to be one of {', '.join(DTYPES)}, got {dtype!r}")
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model: Any = model_of(name).train(train).to(DTYPES[dtype])
    form = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(batch, *sizes, dtype=DTYPES[dtype]).to(memory_format=form)
    return Target(name, model.to(memory_format=form), images)


def image_sizes(image: str) -> tuple[int, int, int]:
    """Channels, height and width."""
    parts = image.lower().split("x")
    if not 1 <= len(parts) <= 3 or not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(
            f"expected --image to be 224, 224x160 (height x width) or 1x28x28, got {image!r}"
        )
    numbers = [int(part) for part in parts]
    if len(numbers) == 1:
        numbers *= 2
    channels, height, width = numbers if len(numbers) == 3 else (3, *numbers)
    return channels, height, width


def budget_of(text: str | None) -> int | float | str | None:
    """A memory budget as `fxpass.compile` takes it; raises UsageError if it cannot be meant."""
    if text is None:
        return None
    budget: int | float | str = text
    with contextlib.suppress(ValueError):
        budget = float(text)
        budget = int(text)
    try:
        budget_bytes(budget, eager_peak_bytes=sys.maxsize)
    except ValueError as error:
        raise UsageError(str(error).replace("memory_budget", "--memory-budget")) from error
    return budget


def model_of(name: str) -> nn.Module:
    """Imports the callable that `name` means, and calls it."""
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise UsageError(
            "expected MODEL to be package.module:callable or file.py:callable, "
            f"e.g. torchvision.models:resnet18, got {name!r}"
        )
    found: Any = _load(where)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{where} has no {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"expected {name} to be callable, got {type(found).__name__}")
    model = found if isinstance(found, nn.Module) else found()
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected {name}() to return an nn.Module, got {type(model).__name__}")
    return model


def _load(where: str) -> ModuleType:
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise UsageError(f"there is no file {where}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        sys.path.insert(0, str(path.parent))  # as `python file.py` does
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, "")  # as `python -m` does
    try:
        return imported(where)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {where}: {error}") from error
