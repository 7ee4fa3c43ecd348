"""Values that backward needs, in a file: how fast a directory's disk is, and what was written.

    write, read = fxpass.paging.bandwidth("/mnt/flash")
    ...
    print(fxpass.paging.counters("/mnt/flash").written_bytes)

See docs/paging.md.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple, cast

import torch

from fxpass import _C

BUFFER_BYTES = cast("int", torch.ops.fxpass.page.default._schema.arguments[-1].default_value)
"""The most memory that is in use between the tensors and one directory's disk, unless the graph's
own call of the operator says otherwise."""


class Bandwidth(NamedTuple):
    """How fast pages go to a disk and come back, in bytes a second, checksums included."""

    write: float
    read: float


class Counters(NamedTuple):
    """What happened to the pages of one directory, in this process.

    Attributes:
        pages: how many values were paged.
        pages_now: of those, how many backward may still ask for.
        pages_read: how many were read back, each as often as it was.
        pages_read_ahead: of those, how many were being read before backward asked for them.
        written_bytes: what the disk has taken: what a flash card wears by.
        read_bytes: what it has given back.
        buffer_bytes_now: memory that is in use between the tensors and the disk.
        file_bytes: the most that the file has had room for.

    """

    pages: int
    pages_now: int
    pages_read: int
    pages_read_ahead: int
    written_bytes: int
    read_bytes: int
    buffer_bytes_now: int
    file_bytes: int


def bandwidth(directory: str | os.PathLike[str]) -> Bandwidth:
    """How fast the disk of `directory` takes pages and gives them back.

    Measured once a process: a file without a name is written, 64 MiB of it or what a second has
    time for, and read. Past the page cache where the file system allows that.

    Raises:
        RuntimeError: `directory` is none, cannot be written to, or is full.

    """
    return _measured(os.path.realpath(directory))


@functools.cache
def _measured(directory: str) -> Bandwidth:
    return Bandwidth(*_C.paging.measure(directory))


def counters(directory: str | os.PathLike[str]) -> Counters:
    """What happened to the pages of `directory` since the process began, or was forked off.

    Raises:
        RuntimeError: `directory` is none, or cannot be written to.

    """
    return Counters(*_C.paging.counters(os.fspath(directory)))
