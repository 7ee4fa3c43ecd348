"""One step of a chain: what it saves for backward, the first time and when it runs again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fxpass.chain.members import Members
from fxpass.chain.state import Facts, fingerprint, form, tensors_of, version


class Maker(Protocol):
    """Whoever can make the tape of a step again."""

    def provide(self, handle: Handle) -> Tensor:
        """The value of a handle, made again if it is not held."""


class Handle:
    """Stands in autograd's graph for one tensor that a step has saved.

    The graph owns it, so the tensor is freed when autograd frees it.
    """

    __slots__ = ("__weakref__", "maker", "stage", "value", "version")

    def __init__(self, maker: Maker, stage: int, value: Tensor) -> None:
        self.maker = maker
        self.stage = stage
        self.value: Tensor | None = value
        self.version = version(value)


def _unpack(handle: Handle) -> Tensor:
    value = handle.maker.provide(handle)
    if version(value) != handle.version:
        raise _modified(handle.stage, form(value), version(value), handle.version)
    return value


class Tape:
    """What one step has saved: a handle a tensor, in the order in which they were saved."""

    def __init__(
        self,
        maker: Maker,
        stage: int,
        step: Callable[[Any], Any],
        modules: Sequence[nn.Module],
    ) -> None:
        self.modules = modules
        self._maker = weakref.ref(maker)
        self._stage = stage
        self._step = step
        self._handles: list[weakref.ref[Handle]] = []
        self._saved: list[tuple[Facts, int]] = []  # form and version
        self._members: Members | None = None
        self._result: tuple[Facts, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every tensor that backward can still ask for is held."""
        return all(handle.value is not None for handle in self._alive())

    def first_run(self, state: Any, hold: bool) -> Any:
        """Runs the step for eager's graph; `hold`: what it saves stays."""
        maker = self._maker()
        assert maker is not None
        made: list[Handle] = []

        def pack(tensor: Tensor) -> Handle:
            # Detached: an output saved by its own node would keep itself alive.
            handle = Handle(maker, self._stage, tensor.detach())
            made.append(handle)
            return handle

        self._members = Members(self.modules)
        given = [(tensor, version(tensor)) for tensor in tensors_of(state)]
        with saved_tensors_hooks(pack, _unpack):
            result = self._step(state)
        if any(version(tensor) != before for tensor, before in given):
            raise RuntimeError(
                f"checkpoint_chain: step {self._stage} writes in place to the state it is given, "
                "from which it may have to run again; expected steps that return new tensors "
                "(begin the step with a clone of what it writes to)"
            )
        self._members.forget_unchanged()
        self._result = fingerprint(result)
        self._handles = [weakref.ref(handle) for handle in made]
        self._saved = [(form(h.value), h.version) for h in made if h.value is not None]
        if not hold:
            self.drop()
        return result

    def run_again(self, state: Any, hold: bool) -> Any:
        """Runs the step on the state it had; `hold`: the handles in the graph get their values.

        Its own graph is for what the step itself may differentiate; nobody else uses it.
        """
        saved: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor.detach())
            return saved[-1]

        assert self._members is not None
        self._members.restore()
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = self._step(state)
        self._compare(saved, result)
        if hold:
            for reference, tensor in zip(self._handles, saved, strict=True):
                handle = reference()
                if handle is not None:
                    handle.value = tensor
        return result

    def drop(self) -> None:
        """Lets go of what is held."""
        for handle in self._alive():
            handle.value = None

    def _alive(self) -> list[Handle]:
        return [handle for reference in self._handles if (handle := reference()) is not None]

    def _compare(self, saved: list[Tensor], result: Any) -> None:
        """Raises unless the step has done what it did the first time."""
        if len(saved) != len(self._saved):
            raise _differs(
                self._stage, f"saved {len(self._saved)} tensors, then {len(saved)} for backward"
            )
        for tensor, (facts, _) in zip(saved, self._saved, strict=True):
            if form(tensor) != facts:
                raise _differs(self._stage, f"saved {facts}, then {form(tensor)} for backward")
        if fingerprint(result) == self._result:
            return
        for tensor, (facts, written) in zip(saved, self._saved, strict=True):
            if version(tensor) > written:
                raise _modified(self._stage, facts, version(tensor), written)
        raise _differs(self._stage, "returned other values")


def _differs(stage: int, how: str) -> RuntimeError:
    return RuntimeError(
        f"checkpoint_chain: step {stage} differed when it ran again: it {how}. A step must compute "
        "the same again from the same state: nothing that it reads may change between forward and "
        "backward, and random numbers must be those of torch's default generator"
    )


def _modified(stage: int, facts: Facts, now: int, expected: int) -> RuntimeError:
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace "
        f"operation: a {facts[0]} tensor {list(facts[2])} saved by step {stage} of "
        f"checkpoint_chain is at version {now}; expected version {expected} instead"
    )
