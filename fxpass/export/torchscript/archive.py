"""From the graphs to the file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from fxpass import _C
from fxpass.export.atomic import replacing
from fxpass.export.collect import Trainable
from fxpass.export.torchscript.opaque import make_opaque
from fxpass.export.torchscript.script import scripted

_METADATA = "fxpass.json"


def write(trainable: Trainable, path: str) -> None:
    """Writes a TorchScript archive to `path`, whole or not at all.

    Raises:
        ExportError: TorchScript cannot hold or compile something.
        OSError: the file cannot be written.

    """
    modes = {
        "forward_train": trainable.train,
        "forward_eval": trainable.eval,
        "infer_graph": trainable.infer,
    }
    with _without_deprecation():
        module = scripted(trainable.model, {name: mode.graph for name, mode in modes.items()})
        for name, mode in modes.items():
            make_opaque(getattr(module, name).graph, mode.training)
        module.define(_methods(module, [tensor.name for tensor in trainable.inputs]))
        module.train(trainable.model.training)
        with replacing(path) as beside:
            extra = {_METADATA: json.dumps(_metadata(trainable), indent=1)}
            torch.jit.save(module, beside, _extra_files=extra)


def _methods(module: Any, names: list[str]) -> str:
    """The methods that the user calls, which choose among the graphs'."""
    kinds = {
        str(getattr(module, name).schema.returns[0].type)
        for name in ("forward_train", "forward_eval")
    }
    returns = "" if len(kinds) == 1 else " -> Any"
    given, parameters = ", ".join(names), ", ".join(f"{name}: Tensor" for name in names)
    return f"""
def forward(self, {parameters}){returns}:
    if self.training:
        return self.forward_train({given})
    else:
        return self.forward_eval({given})

def infer(self, {parameters}):
    with torch.no_grad():
        return self.infer_graph({given})
"""


def _metadata(trainable: Trainable) -> dict[str, Any]:
    inputs = [
        {
            "name": tensor.name,
            "shape": tensor.shape,
            "dtype": None if tensor.dtype is None else str(tensor.dtype).removeprefix("torch."),
        }
        for tensor in trainable.inputs
    ]
    return {
        "fxpass": version("fxpass"),
        "torch": torch.__version__,
        "op_version": _C.OP_VERSION,
        "model": type(trainable.model).__name__,
        "inputs": inputs,
        "plan": json.loads(trainable.plan.to_json()),
    }


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """TorchScript says at each call that it is deprecated: what the user asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*is deprecated")
        yield
