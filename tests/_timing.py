"""How long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def timed(run: Callable[[], object], count: int) -> float:
    """Seconds a call, the mean of `count` calls."""
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count
