"""Progress is shown on a terminal, and nowhere else."""

import os
import pty
import subprocess
import sys

import pytest

CODE = """
import torch, fxpass.inspect.sweep
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
images = torch.randn(2, 3, 8, 8)
{call}
"""
CALLS = {
    "verify": "fxpass.verify(model, images)",
    "profile": "fxpass.profile(fxpass.compile(model), images)",
    "sweep": "fxpass.inspect.sweep.sweep(model, [1], [(3, 8, 8)], ['eager', 'fxpass'])",
}
SHOWN = {
    "verify": ["the model as it is", "once more", "compiled"],
    "profile": ["eager: which op keeps what", "fxpass: a few steps"],
    "sweep": ["eager: 1x3x8x8", "fxpass: 1x3x8x8"],
}


def start(call, stderr):
    command = [sys.executable, "-c", CODE.format(call=CALLS[call])]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    return subprocess.Popen(command, stderr=stderr, stdout=subprocess.PIPE, env=environment)


def read_all(terminal):
    """What is written to a terminal until nobody has it open any more."""
    text = b""
    with os.fdopen(terminal, "rb", buffering=0) as reader:
        try:
            while chunk := reader.read(4096):
                text += chunk
        except OSError:  # the end
            return text.decode()
    return text.decode()


@pytest.mark.parametrize("call", CALLS)
def test_on_a_terminal(call):
    reader, terminal = pty.openpty()
    with start(call, terminal) as process:
        os.close(terminal)
        text = read_all(reader)
        assert process.stdout.read() == b""
    assert process.returncode == 0, text
    # A short step may begin and end between two pictures of the bar.
    assert any(words in text for words in SHOWN[call])


@pytest.mark.parametrize("call", CALLS)
def test_elsewhere(call):
    with start(call, subprocess.PIPE) as process:
        assert process.communicate() == (b"", b"")
    assert process.returncode == 0
