"""Errors on the command line: one line, and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import typer

from fxpass.cli.target import UsageError
from fxpass.errors import MismatchError

FAILED, USAGE = 1, 2


@contextmanager
def in_one_line(debug: bool) -> Iterator[None]:
    """Turns an error in the block into a line on standard error and exit code 1, or 2 for usage.

    With `debug` the traceback comes first. What `verify` found is told whole. A warning is a line
    too.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = str(error) if isinstance(error, MismatchError) else _first_line(error)
        print(f"fxpass: {text}", file=sys.stderr)
        raise typer.Exit(USAGE if isinstance(error, UsageError) else FAILED) from error


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = str(message).removeprefix("fxpass: ")
    print(f"fxpass: warning: {text}", file=sys.stderr)


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, UsageError):
        return line
    hint = " (--debug shows where)"
    return f"{type(error).__name__}: {line}{hint}" if line else f"{type(error).__name__}{hint}"
