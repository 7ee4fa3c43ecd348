"""Where tables are printed."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_WIDTH_OF_A_FILE = 170


def table_width() -> int:
    """That of the terminal; in a file or a pipe, wide enough for every column."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return Console().width
    return _WIDTH_OF_A_FILE


def table_console() -> Console:
    """A console of that width."""
    return Console(width=table_width())
