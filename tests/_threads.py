"""Threads: how many torch uses, and several of Python's that do the same at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch computes with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_once(count: int, work: Callable[[int], object]) -> None:
    """Calls `work(0)` to `work(count - 1)` in threads that start together; raises what one did."""
    gate = threading.Barrier(count)

    def run(i: int) -> None:
        gate.wait()
        work(i)

    with ThreadPoolExecutor(count) as pool:
        for call in [pool.submit(run, i) for i in range(count)]:
            call.result()
