"""The bytes that the parts of a chain need, as the planners read them.

Planners look at sub-chains first .. last whose input is held, and paid for, by somebody else. What
is held within one beside the part in question is the gradient of what its last stage returned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fxpass.schedule.chain import Chain

Sizes = NDArray[np.int64]


class Costs:
    """The costs of a chain as arrays."""

    def __init__(self, chain: Chain) -> None:
        stages = chain.stages
        self.state = np.array(chain.state_bytes(), dtype=np.int64)
        self.tape = np.array([stage.tape_bytes for stage in stages], dtype=np.int64)
        self.seconds = np.array([s.forward_seconds + s.backward_seconds for s in stages])
        self.forward_until = np.cumsum([0.0, *(stage.forward_seconds for stage in stages)])
        self._forward_extra = np.array([stage.forward_extra for stage in stages], dtype=np.int64)
        self._tape_extra = np.array([stage.tape_extra for stage in stages], dtype=np.int64)
        backward_extra = np.array([stage.backward_extra for stage in stages], dtype=np.int64)
        self._backward = self.state[:-1] + self.state[1:] + backward_extra
        # What each stage returned has a gradient while it is the last one of a sub-chain; that of
        # the chain's own output comes into being at the first backward.
        self.gradient = np.append(self.state[1:-1], 0)

        self._forward = self._forward_needs()

    def forward(self, first: int, last: int) -> Sizes:
        """Running first .. i without their tapes, for each i in first .. last - 1."""
        return self._forward[first, first:last] + self.gradient[last]

    def forwards(self, last: int) -> Sizes:
        """`forward(first, last)` for every `first`: [first, i]; only i >= first is meant."""
        return self._forward + self.gradient[last]

    def own(self, last: int) -> Sizes:
        """A stage with its tape, and its backward, as the first of first .. last; for each."""
        return self.tape + np.maximum(self._tape_extra + self.gradient[last], self._backward)

    def _forward_needs(self) -> Sizes:
        """[first, i]: the most bytes while first .. i run, beyond the input of first."""
        alone = self.state[1:] + self._forward_extra
        needs = np.triu(np.broadcast_to(self.state[:-1] + alone, (len(alone), len(alone))))
        np.fill_diagonal(needs, alone)
        return np.maximum.accumulate(needs, axis=1)
