"""`LossReport`: tells the user, once, which parts of a model no trace can be believed of."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fxpass.capture import Loss
from fxpass.capture.losses import is_user_code
from fxpass.errors import TraceError
from fxpass.runtime.share import Share

_OWN_FORWARD = (
    "these parts run their own forward, with their children compiled, because a trace of them would"
    " lose something"
)


class LossReport:
    """Warns of each lossy part of `model` when it is first met, or raises if `strict`."""

    def __init__(self, model: nn.Module, strict: bool) -> None:
        self._model = model
        self._strict = strict
        self._told: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()
        self._held: list[str] | None = None

    def __call__(self, root: nn.Module, losses: list[Loss]) -> None:
        """Told of what traces of `root`, a module of the model, would have lost."""
        new = [text for loss in losses if (text := self._text(root, loss)) is not None]
        if self._strict and losses:
            parts = "; ".join(new or map(str, losses))
            raise TraceError(f"fxpass: with strict=True every part must be traced, but {parts}")
        if self._held is not None:
            self._held += new
        elif new:
            _warn(new)

    @contextmanager
    def together(self) -> Iterator[list[str]]:
        """Holds back what is reported in the block; the block may add a line on the whole."""
        held: list[str] = []
        self._held = held
        try:
            yield held
        finally:
            self._held = None
        if held:
            _warn(held)

    def _text(self, root: nn.Module, loss: Loss) -> str | None:
        """The loss with the module's path in the model; None if the user was told before."""
        part = root.get_submodule(loss.path)
        told = self._told.setdefault(part, set())
        reason = f"{loss.reason}{loss.location}"
        if reason in told:
            return None
        told.add(reason)
        path = next((path for path, m in self._model.named_modules() if m is part), loss.path)
        return str(Loss(loss.module_type, path, loss.reason, loss.location))


def share_line(share: Share) -> str:
    """What part of the saved bytes stays as it is, in words."""
    return (
        f"left uncompiled: {share.fraction:.0%} of the saved bytes"
        f" ({share.uncompiled_bytes:,} of {share.saved_bytes:,})"
    )


def _warn(lines: list[str]) -> None:
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and not is_user_code(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"fxpass: {_OWN_FORWARD}: {'; '.join(lines)}", stacklevel=level)
