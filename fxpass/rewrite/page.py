"""A value that is kept in a file.

    c = conv2d(x, w)               c = conv2d(x, w)
    d = conv2d(c, v)        ->     s = fxpass.page(c, page_dir)
                                   d = fxpass.conv2d(c, s, v)

Nothing is written before a consumer claims the value.
"""

from __future__ import annotations

from torch.fx import Node

from fxpass.rewrite.context import Context


def add_page(context: Context, value: Node, page_dir: str | None) -> None:
    """Gives `value` a handle that keeps it in a file in `page_dir`."""
    if page_dir is None:
        raise ValueError(f"the plan pages {value}: expected page_dir, a directory, got None")
    context.set_handle(value, context.insert(value.next, "page", [value, page_dir]))
