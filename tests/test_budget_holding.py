"""Handles made of handles, as deep as a network of a thousand layers."""

import pytest

from fxpass.budget.holding import Buffer, Handle, Kept, Memory

DEPTH = 5000


def chain(memory, depth, serves=()):
    """The last of so many handles, each made of the one before; and all of them."""
    image = Buffer(memory, 100)
    below = Kept(image, None, memory)
    image.drop()
    handles = []
    for _ in range(depth):
        value = Buffer(memory, 10)
        handle = Handle(value, [below], seconds=1.0, peak_bytes=15, fetches=list(serves))
        below = Kept(value, handle, memory)
        value.drop()
        handles.append(handle)
    return below, handles


def test_a_value_is_restored_from_the_first_on():
    memory = Memory()
    last, handles = chain(memory, DEPTH)
    assert memory.live == 100
    memory.peak = 0
    value = last.fetch(memory)
    # One value and the room in which the next is made.
    assert memory.peak == 100 + 10 + 15
    assert memory.live == 100 + 10
    assert memory.seconds == DEPTH
    assert all(handle.restorations == 1 for handle in handles)
    value.drop()
    last.release()
    assert memory.live == 0


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_what_serves_two_is_restored_once_for_both(depth):
    memory = Memory()
    last, _ = chain(memory, depth, serves=[2])
    for fetched in (1, 2):
        last.fetch(memory).drop()
        assert memory.seconds == depth, fetched
    last.fetch(memory).drop()
    # The one below has served one of its two only.
    assert memory.seconds == depth + 1


def test_names_and_claims_hold_a_chain():
    memory = Memory()
    last, handles = chain(memory, 3)
    handles[1].names += 1
    last.release()
    assert memory.live == 100
    handles[1].forget()
    assert memory.live == 0
