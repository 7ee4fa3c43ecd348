"""`find_package(fxpass)` against the installed package: the program of docs/deploy.md."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch import nn

import fxpass

PAGE = (Path(__file__).parent.parent / "docs" / "deploy.md").read_text()


def block(language):
    """The page's one block of this language."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return code


def run(*words, **more):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_program_of_ones_own(tmp_path, one_thread):
    bare = "add_executable(bare bare.cpp)\ntarget_link_libraries(bare PRIVATE fxpass::ops)\n"
    (tmp_path / "CMakeLists.txt").write_text(block("cmake") + bare)
    (tmp_path / "bare.cpp").write_text("int main() {}\n")  # names no symbol of the library
    (tmp_path / "main.cpp").write_text(block("cpp"))
    build = tmp_path / "build"
    cmake = shutil.which("cmake") or pytest.fail("no cmake")
    # Some distributions link this way unless told not to: the library must stay all the same.
    flags = "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed"
    run(
        cmake, "-S", tmp_path, "-B", build, flags, f"-DCMAKE_PREFIX_PATH={fxpass.cmake_prefix_path}"
    )
    run(cmake, "--build", build)
    assert "libfxpass_ops.so => " in run("ldd", build / "bare")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    fxpass.export_torchscript(fxpass.compile(model), tmp_path / "model.pt")
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    said = run(build / "mine", tmp_path / "model.pt", env=environment)
    assert re.search(r"^peak bytes of the step: \d+$", said, re.MULTILINE)
    norms = dict(re.findall(r"^(\d\.\w+) (\S+)$", said, re.MULTILINE))
    assert norms.keys() == dict(model.named_parameters()).keys()
    assert all(float(norm) > 0 for norm in norms.values())
    assert "classes:" in said
