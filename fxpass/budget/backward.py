"""The backward of a step on paper: the autograd nodes in the engine's order.

The node made last goes first among those whose gradients are all there; two gradients of one value
are added as the engine's input buffers do it, in place where the first is nobody else's. A gradient
that is whole goes to its leaf before the next node.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from fxpass.budget.holding import Buffer, Kept, Memory
from fxpass.budget.probe import Cost


@dataclass
class Record:
    """An autograd node."""

    number: int
    name: str
    cost: Cost
    kept: list[Kept]
    own: Buffer | None
    targets: dict[int, Record | Leaf]  # by place
    pieces: int = 1  # outputs, each with a gradient of its own
    waiting: int = 0
    grad: Grad | None = None
    others: list[Grad] = field(default_factory=list)  # of the other pieces


@dataclass
class Leaf:
    """Where gradients end: a parameter, or an input that needs one.

    `update_bytes`: what its update inside backward takes for a while; None: the gradient stays.
    """

    update_bytes: int | None = None
    waiting: int = 0
    grad: Grad | None = None


@dataclass
class Grad:
    """A gradient that waits for its node: its bytes, of a storage that others may hold too."""

    buffer: Buffer
    n_bytes: int

    @property
    def mine(self) -> bool:
        """Whether it may be written to: all of a storage that nobody else holds."""
        return self.buffer.holders == 1 and self.buffer.n_bytes == self.n_bytes


class Backward:
    """Runs nodes, and has `memory` note what is live."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def run(self, roots: list[Record]) -> None:
        """Runs all nodes that lead to `roots`, from the gradients of the model's outputs."""
        ready: list[tuple[int, Record]] = []
        for root in roots:
            n_bytes = root.cost.out_bytes
            root.grad = Grad(Buffer(self.memory, n_bytes), n_bytes)
            if root.waiting == 0:
                heapq.heappush(ready, (-root.number, root))
        while ready:
            record = heapq.heappop(ready)[1]
            self.memory.at = f"{record.name} backward"
            whole = []
            for target, grad in self._run(record):
                self._deliver(target, grad)
                target.waiting -= 1
                if target.waiting:
                    continue
                if isinstance(target, Leaf):
                    whole.append(target)
                else:
                    heapq.heappush(ready, (-target.number, target))
            for leaf in whole:
                self._update(leaf)

    def _update(self, leaf: Leaf) -> None:
        """What a hook of `fxpass.optim.in_backward` does, if the parameter has one."""
        if leaf.update_bytes is not None and leaf.grad is not None:
            self.memory.touch(leaf.update_bytes)
            leaf.grad.buffer.drop()
            leaf.grad = None

    def _deliver(self, target: Record | Leaf, grad: Grad) -> None:
        """As the engine's input buffer does: added to the one there, in place if that is alone."""
        if target.grad is None:
            target.grad = grad
        elif isinstance(target, Record) and target.pieces > 1:
            target.others.append(grad)
        elif target.grad.mine:
            grad.buffer.drop()
        else:
            both = Grad(Buffer(self.memory, grad.n_bytes), grad.n_bytes)
            grad.buffer.drop()
            target.grad.buffer.drop()
            target.grad = both

    def _run(self, record: Record) -> list[tuple[Record | Leaf, Grad]]:
        memory, grad = self.memory, record.grad
        assert grad is not None
        record.grad = None
        cost = record.cost
        mine, hands_on = grad.mine, _hands_on(record)
        of_leaves: dict[int, Grad] = {}
        for i, phase in enumerate(cost.phases):
            shared_peak = None if mine else phase.shared_peak_bytes
            peak = phase.peak_bytes if shared_peak is None else shared_peak
            values = [kept.fetch(memory) for kept in record.kept] if phase.reads else []
            memory.seconds += phase.seconds
            memory.touch(peak)
            for value in values:
                value.drop()
            if not any(later.reads for later in cost.phases[i + 1 :]):
                for kept in record.kept:
                    kept.release()
            if i == 0:
                of_leaves = self._of_leaves(record)
        delivered: list[tuple[Record | Leaf, Grad]] = []
        for place, target in record.targets.items():
            if place in of_leaves:
                delivered.append((target, of_leaves[place]))
                continue
            gradient = cost.gradients[place]
            if gradient.is_output and (mine or hands_on):
                buffer = grad.buffer.hold()
            else:
                buffer = Buffer(memory, gradient.n_bytes)
            delivered.append((target, Grad(buffer, gradient.n_bytes)))
        for held in (grad, *record.others):
            held.buffer.drop()
        if record.own is not None:
            record.own.drop()
        return delivered

    def _of_leaves(self, record: Record) -> dict[int, Grad]:
        found = {}
        for place, target in record.targets.items():
            if isinstance(target, Leaf):
                n_bytes = record.cost.gradients[place].n_bytes
                found[place] = Grad(Buffer(self.memory, n_bytes), n_bytes)
        return found


def _hands_on(record: Record) -> bool:
    """Whether the node only hands on the gradient: an addition, a view."""
    return record.own is None and not record.kept
