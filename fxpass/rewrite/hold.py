"""Values that are restored more than once in a backward, and held for some of their readers only.

    s = ...                            s = ...
    c = conv2d(y, s, w)        ->      t = fxpass.hold(s, [1, 2])
                                       c = conv2d(y, t, w)

The first restoration is let go after one reader, the second after two, one after that serves all
that are left. In between the value takes no memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from fxpass.rewrite.context import Context


def hold(context: Context, value: Node, serves: Sequence[int]) -> None:
    """Tells the handle of `value`, if it has one, for how many readers each restoration serves."""
    handle = context.handle(value)
    if handle is not None:
        after = max(value, handle)
        context.set_handle(value, context.insert(after.next, "hold", [handle, list(serves)]))
