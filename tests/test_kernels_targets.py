"""The choice of the kernels' target, by the environment and by name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fxpass import _kernels


def default_target(**env: str) -> subprocess.CompletedProcess[str]:
    code = "from fxpass import _kernels; print(_kernels.default_target())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", _kernels.targets())
def test_the_environment_forces_a_target(name):
    assert default_target(FXPASS_TARGET=name).stdout.strip() == name


def test_an_unknown_target_is_an_error_that_lists_the_known():
    result = default_target(FXPASS_TARGET="sse9")
    assert result.returncode != 0
    for word in ("FXPASS_TARGET", "sse9", *_kernels.targets()):
        assert word in result.stderr


def test_get_names_the_targets_there_are():
    with pytest.raises(ValueError, match=r"sse9.*scalar"):
        _kernels.get("sse9")
