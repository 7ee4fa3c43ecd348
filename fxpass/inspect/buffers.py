"""The buffers of the allocator, from the events of its counter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fxpass.memory import Event, Use


@dataclass(frozen=True)
class Buffer:
    """One buffer's life.

    Attributes:
        address: where it lies; another buffer may have lain there before.
        bytes: its size.
        part: the number of the part of the model that allocated it; 0: none.
        use: what it is for.
        born: the index of its allocation among the events.
        freed: the same of its release; the number of events if it was still there in the end.

    """

    address: int
    bytes: int
    part: int
    use: Use
    born: int
    freed: int


def buffers_of(events: Sequence[Event]) -> list[Buffer]:
    """Every buffer that was allocated, in that order.

    Those allocated before the first event are not among them.
    """
    found: list[Buffer] = []
    open_: dict[int, tuple[int, Event]] = {}

    def close(address: int, at: int) -> None:
        born, event = open_.pop(address)
        found.append(Buffer(address, event.delta_bytes, event.part, event.use, born, at))

    for index, event in enumerate(events):
        if event.delta_bytes > 0:
            open_[event.address] = (index, event)
        elif event.address in open_:
            close(event.address, index)
    for address in list(open_):
        close(address, len(events))
    return sorted(found, key=lambda buffer: buffer.born)


def live_at(buffers: Iterable[Buffer], index: int) -> list[Buffer]:
    """Those that were there when `index` events had happened."""
    return [buffer for buffer in buffers if buffer.born < index <= buffer.freed]
