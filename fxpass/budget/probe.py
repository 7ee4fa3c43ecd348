"""What one call of an operator takes: measured alone, on the values it is called with.

The call is run on inputs of its own that need gradients where the real ones do, forward and then
backward from a fresh gradient that nobody else holds, as the engine hands it on. So no more is ever
alive than one op's inputs, results and gradients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxpass import memory
from fxpass.inspect.savers import savers_of


@dataclass(frozen=True)
class Phase:
    """A part of an op's backward.

    Attributes:
        seconds: it takes.
        peak_bytes: the most that is live in it, above what is live when it begins; the gradients it
            returns are among them.
        reads: whether it reads what was kept; once no later phase does, that is let go.
        shared_peak_bytes: `peak_bytes` where others hold the output's gradient too, so that nothing
            can be written over it; None: the same.

    """

    seconds: float
    peak_bytes: int
    reads: bool = True
    shared_peak_bytes: int | None = None


@dataclass(frozen=True)
class Gradient:
    """The gradient of an input: its bytes, whether it lies in that of the output, its strides."""

    n_bytes: int
    is_output: bool
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        seconds: of the forward.
        peak_bytes: of the forward, above its start; the results are among them.
        own_bytes: what stays for backward beside inputs and results.
        saves: the inputs, by their place among the tensors of the arguments, that are kept dense;
            -1: the result.
        phases: of the backward; none if nothing needs a gradient.
        gradients: of each input that needs one, by the same places.
        out_bytes: of the results that are new.
        alias: the input in whose storage the first result lies, if any.

    """

    seconds: float
    peak_bytes: int
    own_bytes: int = 0
    saves: frozenset[int] = frozenset()
    phases: tuple[Phase, ...] = ()
    gradients: dict[int, Gradient] = field(default_factory=dict)
    out_bytes: int = 0
    alias: int | None = None


@dataclass(frozen=True)
class RestoreCost:
    """Of restoring a value, beside restoring what it is made of: the value's bytes in the peak."""

    seconds: float
    peak_bytes: int


Measured = TypeVar("Measured")


class _Source(torch.autograd.Function):
    """Copies a tensor; takes note of the gradient that comes back, and lets go of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, note: Callable[[Tensor], None]) -> Tensor:
        ctx.note = note
        return _copy(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if grads[0] is not None:
            ctx.note(grads[0])
        return None, None


class _Seed(torch.autograd.Function):
    """Begins a backward with a gradient that is the engine's alone."""

    @staticmethod
    def forward(ctx: Any, make: Callable[[], list[Tensor]], *results: Tensor) -> Tensor:
        ctx.make = make
        return results[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *ctx.make()


def _copy(value: Tensor) -> Tensor:
    """A copy with the same strides, gaps included."""
    if 0 in value.stride():
        return value.clone()  # expanded: the elements cannot be written one by one
    return torch.empty_strided(
        value.shape, value.stride(), dtype=value.dtype, device=value.device
    ).copy_(value)


def gradient_like(value: Tensor, strides: tuple[int, ...] | None) -> Tensor:
    """Ones of the shape of `value`, with these strides; None: with its own."""
    if strides is None or len(strides) != value.dim():
        return torch.ones_like(value)
    last = sum((n - 1) * step for n, step in zip(value.shape, strides, strict=True))
    return value.new_ones(last + 1).as_strided(value.shape, strides)


def _fills_storage(value: Tensor) -> bool:
    return value.untyped_storage().nbytes() == value.nbytes


def fastest(costs: Sequence[Cost]) -> Cost:
    """Of measurements of one call the last one's bytes, and the least times of all.

    What else the machine does makes a run slower, never faster; and a first run, which also makes
    what is made once, takes more bytes.
    """
    last = costs[-1]
    phases = (
        replace(phase, seconds=min(cost.phases[i].seconds for cost in costs))
        for i, phase in enumerate(last.phases)
    )
    return replace(last, seconds=min(cost.seconds for cost in costs), phases=tuple(phases))


_MOST_RUNS = 4
_ENOUGH_SECONDS = 0.2
"""Two runs will do of a call that takes half of this."""


class Probe:
    """Measures calls, each a few times; `runs`: at most how often."""

    def __init__(self, runs: int = _MOST_RUNS) -> None:
        self._runs = runs

    def call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        needs_gradient: list[bool],
        upstream: tuple[int, ...] | None = None,
    ) -> Cost:
        """The cost of function(*args, **kwargs).

        `needs_gradient`: of each tensor in them; `upstream`: the strides of the gradient that its
        backward gets, if they are not those of the result.
        """

        def run(shared: bool = False) -> Cost:
            one = _Run(function, args, kwargs, needs_gradient)
            try:
                return one.measure(upstream, shared)
            finally:
                one.end()

        found = fastest(list(self._repeated(run)))
        in_place = any(gradient.is_output for gradient in found.gradients.values())
        shared = run(shared=True).phases if in_place else found.phases
        phases = (
            replace(phase, shared_peak_bytes=other.peak_bytes)
            for phase, other in zip(found.phases, shared, strict=True)
        )
        return replace(found, phases=tuple(phases))

    def restore(self, restore: Callable[[], Tensor]) -> RestoreCost:
        """The cost of a restoration, whose inputs are there."""

        def run() -> RestoreCost:
            with memory.track() as tracked:
                start = time.perf_counter()
                value = restore()
                seconds = time.perf_counter() - start
            del value
            return RestoreCost(seconds, tracked.peak_bytes)

        runs = list(self._repeated(run))
        return RestoreCost(min(run.seconds for run in runs), runs[-1].peak_bytes)

    def _repeated(self, run: Callable[[], Measured]) -> Iterator[Measured]:
        start = time.perf_counter()
        for i in range(self._runs):
            if i > 1 and time.perf_counter() - start > _ENOUGH_SECONDS:
                return
            yield run()


class _Run:
    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        needs_gradient: list[bool],
    ) -> None:
        self.function = function
        self.gradients: dict[int, Gradient] = {}
        self._noted: dict[int, tuple[Gradient, int]] = {}
        leaves, spec = pytree.tree_flatten((args, kwargs))
        self.addresses: dict[int, int] = {}
        place = 0
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[i] = self._own(leaf, place, needs_gradient[place])
                place += 1
        self.args, self.kwargs = pytree.tree_unflatten(leaves, spec)

    def _own(self, value: Tensor, place: int, needs_gradient: bool) -> Tensor:
        """A tensor like `value` for this call alone, which may write to it."""
        if isinstance(value, nn.Parameter):
            own: Tensor = nn.Parameter(value.detach(), requires_grad=needs_gradient)
        elif not needs_gradient:
            own = _copy(value.detach())
        else:
            leaf = value.detach().requires_grad_()
            with torch.enable_grad():
                own = _Source.apply(leaf, lambda grad: self._note(place, grad))
        self.addresses[own.untyped_storage().data_ptr()] = place
        return own

    def _note(self, place: int, grad: Tensor) -> None:
        address = grad.untyped_storage().data_ptr()
        self._noted[place] = Gradient(grad.nbytes, False, grad.stride()), address

    def measure(self, upstream: tuple[int, ...] | None, shared: bool) -> Cost:
        with torch.enable_grad(), memory.track(timeline=True) as tracked:
            start = time.perf_counter()
            result = self.function(*self.args, **self.kwargs)
            seconds = time.perf_counter() - start
            live, peak = tracked.live_bytes, tracked.peak_bytes
            results = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
            new = {
                t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in results
                if t.untyped_storage().data_ptr() not in self.addresses
            }
            grown = [t for t in results if t.requires_grad]
            own = live - sum(new.values())
            out = sum(new.values())
            alias = self.addresses.get(results[0].untyped_storage().data_ptr()) if results else None
            if not grown:
                return Cost(seconds, peak, 0, out_bytes=out, alias=alias)
            saves = self._saves(results)
            backward, backward_peak = self._backward(grown, tracked, start, upstream, shared)
        for place, leaf in enumerate(self._tensors()):
            if isinstance(leaf, nn.Parameter) and leaf.grad is not None:
                self.gradients[place] = Gradient(leaf.grad.nbytes, is_output=False)
        phases = (Phase(backward, backward_peak),)
        return Cost(seconds, peak, own, saves, phases, dict(self.gradients), out, alias)

    def end(self) -> None:
        """Lets go of the inputs, whose autograd nodes hold this run: no collector sees that."""
        del self.args, self.kwargs

    def _tensors(self) -> list[Tensor]:
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def _saves(self, results: list[Tensor]) -> frozenset[int]:
        places = dict(self.addresses)
        for tensor in results:
            places.setdefault(tensor.untyped_storage().data_ptr(), -1)
        kept = {saver.address for saver in savers_of(results)}
        return frozenset(places[address] for address in kept if address in places)

    def _backward(
        self,
        results: list[Tensor],
        tracked: memory.track,
        start: float,
        upstream: tuple[int, ...] | None,
        shared: bool,
    ) -> tuple[float, int]:
        begun, live = 0, 0
        seen_by_python: dict[int, int] = {}
        held: list[Tensor] = []

        def make() -> list[Tensor]:
            nonlocal begun, live
            seeds = [gradient_like(t, upstream) for t in results]
            held.extend(seeds if shared else ())
            storages = [seed.untyped_storage() for seed in seeds]
            seen_by_python.update((storage.data_ptr(), storage.nbytes()) for storage in storages)
            begun, live = tracked.count_events(), tracked.live_bytes
            return seeds

        # A gradient that Python has seen is not the engine's alone: that of the product is. One
        # with gaps is a part of a larger one, and never alone.
        alone = not shared and all(_fills_storage(gradient_like(t, upstream)) for t in results)
        loss = _Seed.apply(make, *(result * 1 if alone else result for result in results))
        loss.backward()
        ended = time.perf_counter() - start
        events = tracked.timeline()[begun:]
        seeds, begin = set(seen_by_python), events[0].seconds if events else ended
        ends = [i for i, e in enumerate(events) if -e.delta_bytes == seen_by_python.get(e.address)]
        if alone and len(ends) >= len(results):
            end = ends[len(results) - 1]
            sizes = seen_by_python.values()
            seeds = {event.address for event in events[:end] if event.delta_bytes in sizes}
            first, *events = events[end:]
            begin, live = first.seconds, first.live_bytes
        for place, (gradient, address) in self._noted.items():
            self.gradients[place] = replace(gradient, is_output=address in seeds)
        peak = max((event.live_bytes for event in events), default=live)
        return ended - begin, max(peak - live, 0)
