"""Values that are restored anew for each reader.

    s = ...                            s = ...
    c = conv2d(y, s, w)        ->      t = fxpass.hold(s, [1, 1, ...])
                                       c = conv2d(y, t, w)

Between two of its readers in backward such a value takes no memory, and more time.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.rewrite.context import Context

_MOST_READERS = 16
"""How often a value is restored alone; after that once for all readers that are left."""


def let_go(context: Context, value: Node) -> None:
    """Has the handle of `value`, if it has one, restore it for one reader at a time."""
    handle = context.handle(value)
    if handle is not None:
        after = max(value, handle)
        context.set_handle(value, context.insert(after.next, "hold", [handle, [1] * _MOST_READERS]))
