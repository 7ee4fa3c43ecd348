"""Data parallel training: equal to eager's under the same wrapper on each rank, every bit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _distributed import CASES, run_in_two
from _twins import Twins, operators
from torch import nn

import fxpass

PAGE = Path(__file__).parent.parent / "docs" / "distributed.md"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What went wrong in each case: one start of two processes for all of them."""
    return run_in_two(list(CASES), tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", CASES)
def test_it_equals_eager(name, found):
    for rank, wrong in enumerate(found[name]):
        assert not wrong, f"rank {rank}: {wrong}"


def test_data_parallel_without_a_gpu_calls_the_module():
    twins = Twins.__new__(Twins)
    inner = Twins()
    twins.eager = nn.DataParallel(inner.eager)
    twins.compiled = fxpass.compile(nn.DataParallel(inner.compiled.original), strict=True)
    twins.step()
    child = next(iter(twins.compiled._fxpass_unit._children.values()))
    assert "conv2d" in str(child.latest().program.source)
    twins.compiled = nn.DataParallel(inner.compiled)
    twins.step()
    assert "conv2d" in operators(inner.compiled)


SCRIPTS = re.findall("```py\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("script", SCRIPTS, ids=["train", "shard"])
def test_the_scripts_of_the_docs_run(script, tmp_path):
    path = tmp_path / "script.py"
    # Without a pause, torch's own threads abort every fifth process at its end, eager's too.
    end = "distributed.destroy_process_group()"
    assert end in script
    path.write_text(script.replace(end, f"__import__('time').sleep(0.3)\n{end}"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(path)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"last loss \d+\.\d{4}\n", done.stdout)
