"""From a model to fx graphs that lost nothing; see unit.py for the way through."""

from fxpass.capture.checks import expect_length, expect_true
from fxpass.capture.guards import BAKED, Guards
from fxpass.capture.losses import Loss, Lossy
from fxpass.capture.modules import has_global_hooks, has_hooks, is_leaf, is_overridden
from fxpass.capture.pattern import ArgPattern, UnsupportedArgument
from fxpass.capture.unit import Capture, OwnForward, capture, capture_unit

__all__ = [
    "BAKED",
    "ArgPattern",
    "Capture",
    "Guards",
    "Loss",
    "Lossy",
    "OwnForward",
    "UnsupportedArgument",
    "capture",
    "capture_unit",
    "expect_length",
    "expect_true",
    "has_global_hooks",
    "has_hooks",
    "is_leaf",
    "is_overridden",
]
