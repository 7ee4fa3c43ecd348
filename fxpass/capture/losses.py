"""What a capture can fail with: `Lossy`, and its record `Loss`, which reports can keep."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import nn

_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_FXPASS = str(Path(__file__).parent.parent) + os.sep


@dataclass(frozen=True)
class Loss:
    """Something that a trace of `module` would have lost.

    `path` is the module's qualified name below the captured root ('' for the root itself),
    `reason` a sentence fragment that has the module as its subject ("enters torch.no_grad"),
    `location` the line of user code as 'file:line', or '' where there is none.
    """

    module_type: str
    path: str
    reason: str
    location: str

    def __str__(self) -> str:
        name = f"{self.path} ({self.module_type})" if self.path else self.module_type
        where = f" [{self.location}]" if self.location else ""
        return f"{name} {self.reason}{where}"


class Lossy(Exception):
    """A trace is not believed. `module` is the innermost one whose forward was executing."""

    def __init__(self, module: nn.Module, path: str, reason: str, location: str = "") -> None:
        self.module = module
        self.loss = Loss(type(module).__name__, path, reason, location)
        super().__init__(str(self.loss))

    @property
    def path(self) -> str:
        """The module's qualified name below the captured root, '' for the root."""
        return self.loss.path

    @property
    def reason(self) -> str:
        """What was lost, as a sentence fragment."""
        return self.loss.reason

    @property
    def location(self) -> str:
        """Where, as 'file:line' in user code."""
        return self.loss.location


class Stop(BaseException):
    """Ends a trace at once: no `except Exception` of user code can swallow it."""


def is_fxpass_or_torch(filename: str) -> bool:
    """Whether a source file belongs to torch or to this package."""
    return filename.startswith((_TORCH, _FXPASS))


def is_user_code(filename: str) -> bool:
    """Whether a source file is neither torch's, nor ours, nor the standard library's."""
    if "site-packages" in filename:
        return not is_fxpass_or_torch(filename) and not filename.endswith("typing_extensions.py")
    return not (is_fxpass_or_torch(filename) or filename.startswith((_STDLIB, "<frozen")))


def is_importing(frame: FrameType | None) -> bool:
    """Whether `frame` runs because a module is imported for the first time."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def location_of_frame(frame: FrameType | None) -> str:
    """The innermost line of user code at or above `frame`, as 'file:line'."""
    while frame is not None:
        if is_user_code(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def location_of_error(traceback: TracebackType | None) -> str:
    """The innermost line of user code in a traceback, as 'file:line'."""
    found = ""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if is_user_code(filename):
            found = f"{filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def caller(depth: int = 2) -> FrameType:
    """The frame that called the caller of this function."""
    return sys._getframe(depth)
