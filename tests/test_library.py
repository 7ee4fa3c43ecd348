"""The native library and the torch it is imported beside."""

import subprocess
import sys

import pytest
import torch

from fxpass import _built_for
from fxpass._torch_version import check_torch


@pytest.mark.parametrize("imported", ["2.13.0", "2.13.0+cpu", "2.13.2", "2.13.1.post1"])
def test_a_torch_of_the_same_minor_version_fits(imported):
    check_torch("2.13.0", imported)


@pytest.mark.parametrize("imported", ["2.12.1", "2.15.0+cu132", "2.1.3", "3.13.0", "2.130.0"])
def test_another_does_not(imported):
    with pytest.raises(ImportError) as caught:
        check_torch("2.13.0", imported)
    message = str(caught.value)
    assert f"torch {imported} " in message
    assert "pip install torch==2.13.0" in message
    assert "pip install --no-build-isolation --no-deps ." in message


def test_the_build_wrote_down_its_torch():
    assert torch.__version__.split("+")[0] == _built_for.TORCH


def import_after(change: str) -> str:
    """What `import fxpass` prints to stderr in a new process, after `change`."""
    program = f"import sys, torch; {change}; import fxpass"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_import_beside_another_torch():
    message = import_after("torch.__version__ = '2.99.0'")
    assert message.startswith("ImportError: fxpass: built for torch 2.13.0, ")


def test_import_without_a_native_library():
    message = import_after("sys.modules['fxpass._built_for'] = None")
    assert message.startswith("ImportError: fxpass: there is no native library here. Build it: ")


def test_import_of_a_library_that_does_not_load():
    message = import_after("sys.modules['fxpass._C'] = None")
    assert message.startswith("ImportError: fxpass: the native library, built for torch 2.13.0, ")
