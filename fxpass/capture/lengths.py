"""The one function of ours that a captured graph can call."""

from collections.abc import Sized

from torch.fx.node import has_side_effect


@has_side_effect
def expect_length(value: Sized, count: int) -> None:
    """Raises what `a, b = value` raises in Python; a trace reads the items one by one."""
    if len(value) < count:
        raise ValueError(f"not enough values to unpack (expected {count}, got {len(value)})")
    if len(value) > count:
        raise ValueError(f"too many values to unpack (expected {count})")
