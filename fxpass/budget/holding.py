"""What is held in memory on paper: buffers, and the handles that restore them.

After cpp_ops/saved/saved.cpp and kept.cpp: what a handle keeps, when it packs, how long what it
restored is shared, and when it ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field


class Memory:
    """What is live, the most that was, and the time that has passed.

    Attributes:
        at: the op that runs, by the name of its node.
        peaks: the most that was live in each op's forward or backward.

    """

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self.seconds = 0.0
        self.at = ""
        self.peak_at = ""
        self.peaks: dict[str, int] = {}

    def add(self, n_bytes: int) -> None:
        """So much more is live from now on, or less."""
        self.live += n_bytes
        self.touch(0)

    def touch(self, above: int) -> None:
        """For a moment so much more is live."""
        self.peaks[self.at] = max(self.peaks.get(self.at, 0), self.live + above)
        if self.live + above > self.peak:
            self.peak, self.peak_at = self.live + above, self.at


class Buffer:
    """A storage, and how many hold it."""

    def __init__(self, memory: Memory, n_bytes: int, counted: bool = True) -> None:
        self._memory = memory
        self.n_bytes = n_bytes
        self._counted = counted
        self.holders = 1
        if counted:
            memory.add(n_bytes)

    def hold(self) -> Buffer:
        """One more holds it."""
        self.holders += 1
        return self

    def drop(self) -> None:
        """One less holds it; without any it is freed."""
        self.holders -= 1
        if self.holders == 0 and self._counted:
            self._memory.add(-self.n_bytes)


class Kept:
    """One consumer's hold on a value: by a handle, or dense."""

    def __init__(self, value: Buffer, handle: Handle | None, memory: Memory) -> None:
        # A copy of the value, which a reshape may make, is not what the handle restores.
        fits = handle is not None and handle.value is value and handle.claim(memory)
        self.handle = handle if fits else None
        self.buffer = None if self.handle is not None else value.hold()

    def fetch(self, memory: Memory) -> Buffer:
        """The value, held once more for the caller."""
        if self.handle is not None:
            return self.handle.fetch(memory)
        assert self.buffer is not None
        return self.buffer.hold()

    def release(self) -> None:
        """Lets go of it."""
        if self.handle is not None:
            self.handle.release()
        elif self.buffer is not None:
            self.buffer.drop()
        self.handle = self.buffer = None


@dataclass
class Handle:
    """A recipe: what it keeps, and how the value is made of it."""

    value: Buffer | None
    inputs: list[Kept] | None
    seconds: float = 0.0
    peak_bytes: int = 0
    packed_bytes: int | None = None  # of a bitmap
    in_place: bool = False
    fetches: list[int] = field(default_factory=list)
    n_bytes: int = 0
    own: Buffer | None = None  # beside the inputs: a layer's handle has a copy of its bias
    claims: int = 0
    names: int = 0  # by which the program knows it
    packed: Buffer | None = None
    cache: Buffer | None = None
    left: int = 0
    restorations: int = 0

    @property
    def fits(self) -> bool:
        """Whether it restores anything."""
        return self.inputs is not None or self.packed_bytes is not None

    def claim(self, memory: Memory) -> bool:
        """One more will need the value; False: the dense value has to be kept."""
        if not self.fits:
            return False
        if self.packed_bytes is not None and self.packed is None:
            assert self.value is not None
            if self.packed_bytes >= self.value.n_bytes:
                return False
            self.packed = Buffer(memory, self.packed_bytes)
        if self.n_bytes == 0 and self.value is not None:
            self.n_bytes = self.value.n_bytes
        self.claims += 1
        return True

    def release(self) -> None:
        """One of those needs it no more."""
        self.claims -= 1
        self._end()

    def forget(self) -> None:
        """The program has one name less for it."""
        self.names -= 1
        self._end()

    def _end(self) -> None:
        # Chains of handles are as deep as a network: no recursion.
        todo = [self]
        while todo:
            handle = todo.pop()
            if handle.claims or handle.names:
                continue
            for kept in handle.inputs or ():
                if kept.handle is not None:
                    kept.handle.claims -= 1
                    todo.append(kept.handle)
                elif kept.buffer is not None:
                    kept.buffer.drop()
                kept.handle = kept.buffer = None
            for held in (handle.packed, handle.own, handle.cache):
                if held is not None:
                    held.drop()
            handle.inputs = handle.packed = handle.own = handle.cache = None

    def fetch(self, memory: Memory) -> Buffer:
        """The value, from who had it restored before or restored now."""
        begun: list[tuple[Handle, list[Buffer]]] = []
        handle, value = self, self._shared()
        while True:
            if value is None:
                begun.append((handle, []))
            elif not begun:
                return value
            else:
                begun[-1][1].append(value)
            handle, sources = begun[-1]
            inputs = handle.inputs or []
            if len(sources) == len(inputs):
                begun.pop()
                value = handle._restored(sources, memory)
                continue
            kept = inputs[len(sources)]
            if kept.handle is None:
                assert kept.buffer is not None
                value = kept.buffer.hold()
            else:
                handle, value = kept.handle, kept.handle._shared()

    def _shared(self) -> Buffer | None:
        """The value, if somebody had it restored for others too."""
        found = self.cache
        if found is None:
            return None
        self.left -= 1
        if self.left == 0:
            self.cache = None
            return found
        return found.hold()

    def _restored(self, sources: list[Buffer], memory: Memory) -> Buffer:
        memory.seconds += self.seconds
        if self.in_place and sources and sources[0].holders == 1:
            value = sources.pop(0)
        else:
            memory.touch(self.peak_bytes)
            value = Buffer(memory, self.n_bytes)
        for source in sources:
            source.drop()
        planned = self.restorations < len(self.fetches)
        serves = self.fetches[self.restorations] if planned else self.claims
        self.restorations += 1
        if serves > 1:
            self.cache, self.left = value.hold(), serves - 1
        return value
