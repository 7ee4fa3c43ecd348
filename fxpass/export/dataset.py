"""Data files for `fxpass-train`: images and labels in one safetensors file."""

from __future__ import annotations

import os
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fxpass.export.atomic import replacing

_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def save_dataset(path: str | os.PathLike[str], images: Tensor, labels: Tensor) -> None:
    """Writes what `fxpass-train --data` reads.

    The file has two tensors, `images` and `labels`; docs/deploy.md describes it. It appears at
    `path` whole or not at all.

    Args:
        path: of the file; what is there is replaced.
        images: [N, ...], of the model's input dtype. A row is what the model takes, without the
            batch.
        labels: [N] int64, the number of the class, for cross-entropy ([N, ...] for a model with an
            output for every pixel); or of the shape and dtype of the model's output, for mean
            squares.

    Raises:
        TypeError: `images` or `labels` is no dense tensor of a type that the file can hold.
        ValueError: there is no row, or not as many images as labels.
        OSError: the file cannot be written.

    """
    values = {name: _dense(name, value) for name, value in (("images", images), ("labels", labels))}
    if values["labels"].dtype != torch.int64 and not values["labels"].is_floating_point():
        raise TypeError(
            "save_dataset: expected labels of int64 (the number of the class) or of a floating"
            f" dtype, got {labels.dtype}: use labels.long()"
        )
    sizes = [tuple(value.shape) for value in values.values()]
    if any(len(size) == 0 for size in sizes) or sizes[0][0] != sizes[1][0] or sizes[0][0] == 0:
        raise ValueError(
            "save_dataset: expected images [N, ...] and labels [N] or [N, ...] with the same N > 0,"
            f" got shapes {sizes[0]} and {sizes[1]}"
        )
    if _storage(values["images"]) == _storage(values["labels"]):  # which the writer refuses
        values["labels"] = values["labels"].clone()
    try:
        with replacing(os.fspath(path)) as beside:
            save_file(values, beside)
    except SafetensorError as error:
        raise OSError(f"save_dataset: cannot write {path}: {error}") from error


def _dense(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"save_dataset: expected {name} to be a tensor, got {type(value).__qualname__}:"
            " torch.as_tensor makes one of an array"
        )
    if value.layout is not torch.strided or value.dtype not in _DTYPES:
        raise TypeError(
            f"save_dataset: expected {name} to be a dense tensor of a dtype that a safetensors file"
            f" can hold, got {value.dtype}, {value.layout}"
        )
    return value.detach().cpu().contiguous()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
