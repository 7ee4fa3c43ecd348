"""What can go wrong with files: a clear error, never a wrong gradient, and nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _bits import values
from _paged import drained, file_of

from fxpass import paging

ops = torch.ops.fxpass

PROGRAM = """
import os, resource, signal, sys, time
import torch, fxpass
from fxpass import paging

torch.set_num_threads(1)  # OpenMP's own do not survive a fork
directory = sys.argv[1]
X, W = torch.randn(1024, 1024), torch.randn(4, 1024, requires_grad=True)

def forward(rows=1024):
    x = X[:rows].clone()
    return torch.ops.fxpass.linear(x, torch.ops.fxpass.page(x, directory), W, None).sum()

def gradient(loss):
    return torch.autograd.grad(loss, W, retain_graph=True)[0]

def expected(rows=1024):
    return gradient(torch.nn.functional.linear(X[:rows].clone(), W).sum())

def drain():
    while paging.counters(directory).buffer_bytes_now:
        time.sleep(0.001)

def raised(function):
    try:
        function()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("nothing was raised")

"""


def in_a_new_process(code, directory, around=(), status=0):
    done = subprocess.run(
        [*around, sys.executable, "-P", "-c", PROGRAM + code, str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def linear(x, w, directory):
    return ops.linear(x, ops.page(x, str(directory)), w, None).sum()


@pytest.fixture
def tensors():
    return values((700, 1024)), values((4, 1024)).requires_grad_()


@pytest.mark.parametrize(
    ("directory", "message"),
    [
        ("missing", r'page_dir ".*missing": expected a directory \(No such file'),
        ("file", r'page_dir ".*file": expected a directory \(something else'),
        # Where not even root can make a file.
        ("/proc", r'page_dir "/proc": cannot make a file there .*: give a directory that'),
    ],
)
def test_a_directory_of_no_use(tmp_path, tensors, directory, message):
    (tmp_path / "file").touch()
    for use in (paging.bandwidth, paging.counters, lambda path: linear(*tensors, path)):
        with pytest.raises(RuntimeError, match=message):
            use(tmp_path / directory)
    with pytest.raises(ValueError, match=r"expected buffer_bytes of .* at least, got 1000"):
        ops.page(tensors[0], str(tmp_path), 1000)


@pytest.mark.parametrize("at", [0, 4096 * 100 + 5, 700 * 4096 - 1])
def test_a_damaged_page(tmp_path, tensors, at):
    loss = linear(*tensors, tmp_path)
    drained(tmp_path)
    with file_of(tmp_path) as file:
        byte = os.pread(file, 1, at)
        os.pwrite(file, bytes([byte[0] ^ 0x10]), at)
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"damaged.*checksum \(crc32\) is .*, expected"):
                loss.backward(retain_graph=True)
        assert tensors[1].grad is None
    del loss
    linear(*tensors, tmp_path).backward()  # the next page of the same room
    assert drained(tmp_path).pages_now == 0


def test_a_file_that_was_cut(tmp_path, tensors):
    loss = linear(*tensors, tmp_path)
    drained(tmp_path)
    with file_of(tmp_path) as file:
        os.ftruncate(file, 1 << 20)
    with pytest.raises(RuntimeError, match=r"the file ends at byte 1048576, .* something has cut"):
        loss.backward()
    assert tensors[1].grad is None


FULL = """
# Noticed in forward, or in backward; what is still in memory when backward asks for it is right.
def steps():
    for _ in range(100):
        assert torch.equal(gradient(forward()), expected())

problem = raised(steps)
drain()
assert "no room for what backward needs" in problem and directory in problem, problem
assert "larger memory budget" in problem, problem
# What fits still works: the error was said once, and the room of the lost page is free again.
for _ in range(3):
    assert torch.equal(gradient(forward(200)), expected(200))
    drain()
# Noticed by the disk alone, when forward has long returned.
loss = forward(500)
drain()
assert "no room" in raised(lambda: forward(10))
small = forward(10)  # has room where the other had not
drain()
assert torch.equal(gradient(small), expected(10))
assert "no room" in raised(lambda: gradient(loss))
del loss, small
loss = forward(500)
drain()
assert "no room" in raised(lambda: gradient(loss))
assert torch.equal(gradient(forward(10)), expected(10))
del loss
"""


def test_a_file_that_may_grow_no_further(tmp_path):
    # By a limit whose signal would end the process, where nobody expects it.
    in_a_new_process(
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 19, resource.RLIM_INFINITY))\n"
        + FULL
        + "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "assert torch.equal(gradient(forward()), expected())\n",
        tmp_path,
    )


def test_a_full_disk(tmp_path):
    mount = f'mount -t tmpfs -o size=1536k none "{tmp_path}"'
    around = ("unshare", "--map-root-user", "--mount", "sh", "-c")
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([*around, mount], capture_output=True).returncode:
        pytest.skip("this process may not mount a file system, not even for itself")
    in_a_new_process(FULL, tmp_path, around=(*around, mount + ' && exec "$@"', "sh"))


def test_files_vanish_with_the_process(tmp_path):
    code = """
loss = forward()
drain()
assert paging.counters(directory).file_bytes >= 4 << 20
assert os.listdir(directory) == []
loss = [forward() for _ in range(20)]
os.kill(os.getpid(), signal.SIGKILL)
"""
    in_a_new_process(code, tmp_path, status=-signal.SIGKILL)
    assert not list(tmp_path.iterdir())


def test_a_process_that_ends_while_the_disk_is_busy(tmp_path):
    in_a_new_process("sys.kept = [forward() for _ in range(20)]", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_forked_child(tmp_path):
    code = """
loss = forward()
busy = [forward() for _ in range(20)]  # so that the thread is at work
for end in (os._exit, sys.exit):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        del busy[::2]
        end(0)
    assert os.waitpid(child, 0)[1] == 0
child = os.fork()
if child == 0:
    signal.alarm(60)  # instead of waiting for ever for a thread that is not here
    problem = raised(lambda: gradient(loss))
    assert "before this process was forked off" in problem, problem
    assert paging.counters(directory).pages == 0
    for _ in range(3):
        assert torch.equal(gradient(forward()), expected())
    drain()
    del busy, loss
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
for kept in (loss, *busy):
    assert torch.equal(gradient(kept), expected())
"""
    in_a_new_process(code, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_started_by_the_import(tmp_path):
    code = """
def names():
    return [open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")]

assert "fxpass-paging" not in names()
for _ in range(2):
    forward()
    drain()
    assert names().count("fxpass-paging") == 1
"""
    in_a_new_process(code, tmp_path)


def test_a_directory_has_one_file_by_any_name(tmp_path, monkeypatch, tensors):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    for path in ("a", "b", "./a/../b", tmp_path / "a"):
        linear(*tensors, path).backward()
    assert paging.counters("a").pages == 4
    assert paging.counters(Path("b")).pages == 4
