"""The functions of ours that a captured graph can call: they raise where Python would.

What they check is known only at run time, and what follows was traced as if it were so.
"""

from collections.abc import Sized

from torch.fx.node import has_side_effect


@has_side_effect
def expect_length(value: Sized, count: int) -> None:
    """Stands for the check in `a, b = value`; a trace reads the items one by one."""
    if len(value) < count:
        raise ValueError(f"not enough values to unpack (expected {count}, got {len(value)})")
    if len(value) > count:
        raise ValueError(f"too many values to unpack (expected {count})")


@has_side_effect
def expect_true(value: object, location: str) -> None:
    """Stands for `assert value`; the statement's own message is not known to a trace."""
    if not value:
        raise AssertionError(f"the assertion at {location} failed")
