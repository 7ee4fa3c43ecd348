"""A file appears at its path whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """The path of an empty file beside `path`, which takes its place after the block.

    If the block raises, what was at `path` stays as it was.
    """
    place, name = os.path.split(path)
    handle, beside = tempfile.mkstemp(prefix=f".{name}.", dir=place or ".")
    os.close(handle)
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
