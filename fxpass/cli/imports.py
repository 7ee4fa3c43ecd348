"""Importing what the user names."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_ALIVE: list[torch.library.Library] = []  # a Library takes its operators with it when it goes


def imported(name: str) -> ModuleType:
    """The module of that name; torchvision's also without their compiled part.

    There is no such part for every torch and every machine, and the models do without: of two
    operators that it looks for, only the names have to exist.
    """
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _ALIVE.append(library)
    for loaded in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        del sys.modules[loaded]
    return importlib.import_module(name)
