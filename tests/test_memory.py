"""fxpass.memory: exact counting of torch's CPU allocator."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from _threads import at_once
from hypothesis import given
from hypothesis import strategies as st

from fxpass import _C, memory


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_live_and_peak():
    with memory.track() as tracked:
        a = torch.empty(1000)
        b = torch.empty(500, dtype=torch.float64)
        assert tracked.live_bytes == 8000
        del a
        assert tracked.live_bytes == 4000
        c = torch.empty(3, dtype=torch.uint8)
        assert tracked.live_bytes == 4003
        assert tracked.peak_bytes == 8000
    del b, c
    assert (tracked.live_bytes, tracked.peak_bytes) == (4003, 8000)


def test_what_the_graph_of_a_relu_keeps():
    x = torch.randn(100, 10, requires_grad=True)
    with memory.track() as tracked:
        loss = x.relu().sum()
        assert tracked.live_bytes == 4000 + 4
        loss.backward()
        assert tracked.live_bytes == 4000 + 4  # x.grad and the loss
    assert tracked.peak_bytes >= 8000


def test_nested_and_overlapping_trackers_have_their_own_start():
    outer, inner, late = memory.track(), memory.track(), memory.track()
    outer.__enter__()
    a = torch.empty(100)
    inner.__enter__()
    b = torch.empty(10)
    outer.__exit__(None, None, None)
    late.__enter__()
    del a, b
    inner.__exit__(None, None, None)
    late.__exit__(None, None, None)
    assert (outer.live_bytes, outer.peak_bytes) == (440, 440)
    assert (inner.live_bytes, inner.peak_bytes) == (-400, 40)
    assert (late.live_bytes, late.peak_bytes) == (-440, 0)


def test_reset_peak():
    older = torch.empty(100)
    with memory.track() as tracked:
        torch.empty(1000)
        a = torch.empty(10)
        tracked.reset_peak()
        assert tracked.peak_bytes == 40
        del a, older
        tracked.reset_peak()
        assert (tracked.live_bytes, tracked.peak_bytes) == (-400, 0)


def test_a_tracker_starts_anew():
    tracked = memory.track()
    with tracked:
        a = torch.empty(100)
    with tracked:
        b = torch.empty(10)
    assert (tracked.live_bytes, tracked.peak_bytes) == (40, 40)
    del a, b


def test_the_tracker_ends_with_an_error_too():
    with pytest.raises(KeyError), memory.track() as tracked:
        raise KeyError
    assert tracked.live_bytes == 0


def test_timeline():
    with memory.track(timeline=True) as tracked:
        a = torch.empty(100)
        b = torch.empty(50)
        del a
        assert [event.live_bytes for event in tracked.timeline()] == [400, 600, 200]
    assert [event.live_bytes for event in tracked.timeline()] == [400, 600, 200]
    seconds = [event.seconds for event in tracked.timeline()]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0
    del b


def test_resized_and_empty_and_foreign_buffers():
    with memory.track() as tracked:
        empty = torch.empty(0, 7)
        assert tracked.live_bytes == 0
        empty.resize_(10)
        assert tracked.live_bytes == 40
        foreign = torch.frombuffer(bytearray(400), dtype=torch.uint8)
        view = empty[2:]
        assert tracked.live_bytes == 40
        del empty
        assert tracked.live_bytes == 40
        del view, foreign
        assert tracked.live_bytes == 0


def test_storage_moved_to_shared_memory_leaves_the_allocator():
    with memory.track() as tracked:
        a = torch.empty(100)
        a.share_memory_()
        assert tracked.live_bytes == 0


def test_all_threads():
    kept = []

    def work(n):
        for i in range(2000):
            torch.empty(i % 50 + 1)
        kept.append(torch.empty(100 * (n + 1)))

    with memory.track() as tracked:
        at_once(4, work)
        assert tracked.live_bytes == 4 * 1000
    assert 4000 <= tracked.peak_bytes <= 4000 + 4 * 200


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300)), max_size=40))
def test_any_sequence_against_a_plain_count(actions):
    slots = [None] * 6
    live = peak = 0
    sizes = [0] * 6
    with memory.track(timeline=True) as tracked:
        for slot, size in actions:
            slots[slot] = None
            live -= sizes[slot]
            slots[slot] = torch.empty(size, dtype=torch.int16)
            sizes[slot] = 2 * size
            live += sizes[slot]
            peak = max(peak, live)
        assert (tracked.live_bytes, tracked.peak_bytes) == (live, peak)
        assert max((event.live_bytes for event in tracked.timeline()), default=0) == peak


def test_nothing_is_installed_by_the_import():
    in_a_new_process(
        "import torch, fxpass; from fxpass import _C, memory; a = torch.empty(100);"
        "assert _C.memory.live_bytes() == 0; memory.track().__enter__(); b = torch.empty(100);"
        "assert _C.memory.live_bytes() == 400"
    )


def test_buffers_older_than_the_counter_are_not_its_business():
    in_a_new_process(
        "import torch; from fxpass import memory; a = torch.empty(100); t = memory.track();"
        "t.__enter__(); del a; assert t.live_bytes == 0; t.__exit__(None, None, None)"
    )


def test_tensors_freed_at_exit():
    in_a_new_process(
        "import torch, sys; from fxpass import memory\n"
        "with memory.track(): sys.kept = torch.empty(100)"
    )


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_allocate():
    stop = threading.Event()

    def allocate():
        while not stop.is_set():
            y = torch.ones(10, requires_grad=True)
            for _ in range(500):
                y = y * 2
            y.sum().backward()  # for most of its time without the interpreter's lock

    with memory.track():
        thread = threading.Thread(target=allocate)
        thread.start()
        try:
            for _ in range(100):
                child = os.fork()
                if child == 0:
                    signal.alarm(10)  # instead of waiting for ever for a lock
                    _kept = [torch.empty(10) for _ in range(300)]  # of every shard
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            thread.join()


def test_misuse():
    tracked = memory.track()
    with pytest.raises(RuntimeError, match="has not begun"):
        _ = tracked.live_bytes
    assert "not begun" in repr(tracked)
    with tracked:
        with pytest.raises(RuntimeError, match="open already"):
            tracked.__enter__()
        with pytest.raises(RuntimeError, match="timeline=True"):
            tracked.timeline()
    with pytest.raises(RuntimeError, match="has ended"):
        tracked.reset_peak()
    with pytest.raises(IndexError, match="id 123456789"):
        _C.memory.live(123456789)
