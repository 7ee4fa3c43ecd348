"""Progress of work that may take seconds, on the terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """In the block, a bar on standard error, if that is a terminal.

    The block gets a function that says what begins now: the first of `total` steps, the next, ...
    If there turn out to be more, nobody knows how many.
    """
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("", total=total)
        begun = 0

        def begin(what: str) -> None:
            nonlocal begun
            known = total if begun < total else None
            bar.update(task, description=what, completed=begun, total=known)
            begun += 1

        yield begin
