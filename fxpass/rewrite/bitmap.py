"""Bitmap of a value that inherits a ReLU's zeros.

    p = max_pool2d(y)              p = max_pool2d(y)
    c = conv2d(p, w)        ->     s = fxpass.bitmap(p)
                                   c = fxpass.conv2d(p, s, w)

Nothing is packed before a consumer claims the value, nor where the bitmap would be larger.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.rewrite.context import Context


def add_bitmap(context: Context, value: Node) -> None:
    """Gives `value` a bitmap handle."""
    context.set_handle(value, context.insert(value.next, "bitmap", [value]))
