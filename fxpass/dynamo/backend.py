"""The backend, as TorchDynamo calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import GraphModule

from fxpass.dynamo.compiled import CompiledGraph


def backend(captured: GraphModule, example_inputs: Sequence[Any], **settings: Any) -> CompiledGraph:
    """What runs in place of a captured graph: the same bits, far fewer of them kept for backward.

    Raises:
        TypeError: `mode=` or `options=` was given to torch.compile; there is none to choose.

    """
    if settings:
        name, value = next(iter(settings.items()))
        raise TypeError(
            f'torch.compile(backend="fxpass"): expected neither mode nor options, got {name}='
            f"{value!r}; this backend has none, leave {name} out"
        )
    return CompiledGraph(captured)
