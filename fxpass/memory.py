"""Exact live and peak bytes of torch's CPU allocator.

    with fxpass.memory.track() as memory:
        loss = model(x).sum()
        saved = memory.live_bytes
        loss.backward()
    print(saved, memory.peak_bytes)

Counted are the bytes asked for (not what malloc makes of them) of every buffer that torch's CPU
allocator hands out, on any thread, after counting began, which is at the first `track()` of the
process. It goes on from there: no tensor made later is missed. Two things are not seen: tensors
older than that first `track()`, which are neither counted nor missed when they are freed, and
memory that never passes through the allocator (NumPy's, oneDNN's scratch, memory-mapped files).

Counting takes some tens of nanoseconds an allocation and changes no result.
"""

from __future__ import annotations

from enum import IntEnum
from types import TracebackType
from typing import NamedTuple

from fxpass import _C


class Use(IntEnum):
    """What a buffer is for."""

    TENSOR = 0
    PAYLOAD = 1
    """Bits and the like that an op keeps for its backward."""
    VALUE = 2
    """What the handle of a value keeps to restore it."""


class Event(NamedTuple):
    """A buffer came or went.

    Attributes:
        seconds: since the start.
        live_bytes: above the start, right after it.
        delta_bytes: allocated, or minus those released.
        address: of the buffer.
        part: which part of a model the thread computed, as `fxpass.profile` numbers them; 0: none.
        use: what it is for.

    """

    seconds: float
    live_bytes: int
    delta_bytes: int
    address: int
    part: int
    use: Use


class track:
    """Counts bytes from where the block begins; readable inside the block and after it.

    Blocks may be nested, and be open on several threads: each sees every thread's buffers, relative
    to its own start. A tracker can be entered again, and then starts anew.

    Args:
        timeline: also records every change, for `timeline()`: 40 bytes an event.

    """

    def __init__(self, *, timeline: bool = False) -> None:
        self._record = timeline
        self._id: int | None = None
        self._final: tuple[int, int, list[tuple[int, int, int, int, int, int]]] | None = None

    def __enter__(self) -> track:
        if self._id is not None:
            raise RuntimeError("this tracker is open already: use a new fxpass.memory.track()")
        self._final = None
        self._id = _C.memory.begin(self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._id is not None
        self._final = _C.memory.end(self._id)
        self._id = None

    @property
    def live_bytes(self) -> int:
        """Bytes live now, less those live at the start; negative if more was freed than made."""
        return self._final[0] if self._final else _C.memory.live(self._open_id())

    @property
    def peak_bytes(self) -> int:
        """The most bytes live at one moment, less those live at the start; never negative.

        Looked at are the moments since the start, or since `reset_peak()`.
        """
        return self._final[1] if self._final else _C.memory.peak(self._open_id())

    def reset_peak(self) -> None:
        """Forgets the peak so far: it becomes what is live now."""
        _C.memory.reset_peak(self._open_id())

    def timeline(self) -> list[Event]:
        """Every change since the start, in order; needs `track(timeline=True)`."""
        if not self._record:
            raise RuntimeError("nothing was recorded: use fxpass.memory.track(timeline=True)")
        events = self._final[2] if self._final else _C.memory.timeline(self._open_id())
        return [
            Event(nanoseconds * 1e-9, live, delta, address, part, Use(use))
            for nanoseconds, live, delta, address, part, use in events
        ]

    def count_events(self) -> int:
        """How many events `timeline()` has now."""
        return _C.memory.events(self._open_id())

    def _open_id(self) -> int:
        if self._id is None:
            state = "has ended" if self._final else "has not begun"
            raise RuntimeError(f"the tracker's block {state}: use `with fxpass.memory.track()`")
        return self._id

    def __repr__(self) -> str:
        if self._id is None and self._final is None:
            return "<fxpass.memory.track, not begun>"
        return f"<fxpass.memory.track, live {self.live_bytes:,} B, peak {self.peak_bytes:,} B>"
