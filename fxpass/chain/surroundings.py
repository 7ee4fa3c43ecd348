"""The surroundings in which steps ran the first time, set up once more."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fxpass.chain.members import Members

# Torch's default generator is one for all threads: two that replay take turns.
_REPLAYING = threading.RLock()


class Surroundings:
    """The autocast mode when this is made; gradient mode is on, or there would be no chain."""

    def __init__(self) -> None:
        self._dtype = torch.get_autocast_dtype("cpu")
        self._enabled = torch.is_autocast_enabled("cpu")
        self._cached = torch.is_autocast_cache_enabled()

    @contextmanager
    def again(self, modules: Iterable[nn.Module], rng: Tensor) -> Iterator[None]:
        """A block in which steps compute what they did, and after which nothing has changed.

        Args:
            modules: whose buffers and plain attributes are as before after the block.
            rng: the state of the random numbers in the block at first.

        """
        autocast = torch.autocast(
            "cpu", dtype=self._dtype, enabled=self._enabled, cache_enabled=self._cached
        )
        with _REPLAYING:
            outer_rng, members = torch.get_rng_state(), Members(modules)
            torch.set_rng_state(rng)
            try:
                with torch.enable_grad(), autocast:
                    yield
            finally:
                torch.set_rng_state(outer_rng)
                members.restore()
