"""Where the benchmarks print their tables."""

from __future__ import annotations

import sys

from rich.console import Console

_WIDTH_OF_A_FILE = 170


def table_console() -> Console:
    """A console as wide as the terminal; in a file or a pipe, wide enough for every column."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)
