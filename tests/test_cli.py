"""The command line: its output, errors in one line, and exit codes."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import fxpass
from fxpass.cli.app import app

SMALL = ["--batch", "2", "--image", "3x16x16"]
FILE = """
import torch
from torch import nn

class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("the first line\\nthe second")

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())

def hooked():
    model = make()
    model[1].register_forward_hook(lambda module, args, result: None)
    return model

class Nets:
    deep = make

class Lossy(nn.Module):
    def forward(self, x):
        return torch.relu(x) * torch.rand(())

broken = Broken
number = 3
def nothing(): return 3
instance = make()
"""


@pytest.fixture
def model(tmp_path):
    """A file of models, to be followed by a callable's name."""
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    yield f"{path}:"
    sys.modules.pop("nets", None)


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which the commands add


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def succeed(*arguments):
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def error_of(*arguments, code):
    """The one line that is all there is on standard error."""
    done = run(*arguments)
    assert done.exit_code == code, done.output
    (line,) = done.stderr.splitlines()
    return line


def test_profile(model):
    text = succeed("profile", model + "make", *SMALL)
    first = text.splitlines()[0]
    assert first.startswith("profiling ")
    assert first.endswith(" with images of 2x3x16x16 float32 ...")
    for word in ("saved bytes", "fxpass / eager", "bitmap", "not attributed"):
        assert word in text
    assert "saved tensors" not in succeed("profile", model + "make", *SMALL, "--rows", 0)


def test_profile_as_json(model):
    read = json.loads(succeed("profile", model + "make", *SMALL, "--json", "--dtype", "float64"))
    assert read["saved_bytes"] < read["eager"]["saved_bytes"]
    assert {edge["dtype"] for edge in read["edges"]} == {"float64"}


def test_profile_writes_files(model, tmp_path):
    html, picture = tmp_path / "a.html", tmp_path / "a.svg"
    succeed("profile", model + "make", *SMALL, "--html", html, "--picture", picture)
    assert "<!DOCTYPE html>" in html.read_text()[:100]
    assert "<svg" in picture.read_text()[:100]


def test_a_memory_budget(model):
    text = succeed("plan", model + "make", *SMALL, "--memory-budget", "1.0")
    assert text.startswith("budget ")
    read = json.loads(succeed("plan", model + "make", *SMALL, "--memory-budget", "10MB", "--json"))
    assert read["prediction"]["memory_budget"] == 10_000_000
    profile = succeed("profile", model + "make", *SMALL, "--memory-budget", 10**7)
    assert "fxpass / eager" in profile
    for budget, word in (("10", "smallest peak"), ("ten", "--memory-budget"), ("-1", "at least")):
        code = 1 if budget == "10" else 2
        assert word in error_of("plan", model + "make", "--memory-budget", budget, code=code)


def test_a_planner(model):
    arguments = ("plan", model + "make", *SMALL, "--planner")
    read = json.loads(succeed(*arguments, "free", "--memory-budget", "10MB", "--json"))
    assert read["prediction"]["memory_budget"] == 10_000_000
    assert "by the planner 'uniform'" in error_of(
        *arguments, "uniform", "--memory-budget", "10", code=1
    )
    assert "one of op, free" in error_of(*arguments, "best", "--memory-budget", "1.0", code=2)
    assert "needs --memory-budget" in error_of(*arguments, "revolve", code=2)


def test_plan(model):
    text = succeed("plan", model + "make", *SMALL)
    assert "Sequential" in text
    assert "bitmap" in text
    read = fxpass.Plan.from_json(succeed("plan", model + "make", *SMALL, "--json"))
    assert "bitmap" in [choice.recipe for choice in read]


def test_verify(model):
    assert succeed("verify", model + "make", *SMALL).startswith("gradients identical: 5 of 5")
    read = json.loads(succeed("verify", model + "make", *SMALL, "--steps", 2, "--json"))
    assert read["steps"] == 2
    assert read["counts"]["gradient"] == 4


def test_a_mismatch_is_exit_code_1(model, monkeypatch):
    def differs(*args, **kwargs):
        raise fxpass.MismatchError("it differs in\n  gradient 0")

    monkeypatch.setattr(fxpass, "verify", differs)
    done = run("verify", model + "make", *SMALL)
    assert (done.exit_code, done.stderr) == (1, "fxpass: it differs in\n  gradient 0\n")


@pytest.mark.parametrize("name", ["Nets.deep", "instance"])
def test_other_ways_to_name_a_model(model, name):
    assert "bitmap" in succeed("plan", model + name, *SMALL)


def test_modes_and_memory_formats(model, monkeypatch):
    seen = []
    monkeypatch.setattr(fxpass, "verify", lambda *args, steps: seen.append(args))
    options = ["--eval", "--channels-last", "--image", "8x6", "--dtype", "bfloat16"]
    succeed("verify", model + "make", "--batch", 3, *options)
    ((made, images),) = seen
    assert not made.training
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (tuple(images.shape), images.dtype) == ((3, 3, 8, 6), torch.bfloat16)
    assert made[0].weight.dtype == torch.bfloat16
    assert made[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_threads(model):
    before = torch.get_num_threads()
    try:
        succeed("plan", model + "make", *SMALL, "--threads", 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "expected MODEL to be package.module:callable or file.py:callable"),
        ("no_such_package.nets:make", "cannot import no_such_package.nets: No module named"),
        ("no_such_file.py:make", "there is no file no_such_file.py"),
        ("{}make2", "nets.py has no 'make2'"),
        ("{}number", "number to be callable, got int"),
        ("{}nothing", "nothing() to return an nn.Module, got int"),
    ],
)
def test_a_model_that_cannot_be_meant(model, name, message):
    assert message in error_of("plan", name.format(model), *SMALL, code=2)


@pytest.mark.parametrize("image", ["", "x", "3x", "1x2x3x4", "-3", "0", "big", "2x0"])
def test_an_image_that_cannot_be_meant(model, image):
    line = error_of("plan", model + "make", f"--image={image}", code=2)
    assert line.endswith(f"got {image!r}")


def test_a_dtype_that_cannot_be_meant(model):
    line = error_of("plan", model + "make", *SMALL, "--dtype", "int8", code=2)
    assert "one of float32, float64, bfloat16, float16, got 'int8'" in line


@pytest.mark.filterwarnings("ignore:fxpass")
def test_an_error_of_the_model_is_one_line_and_with_debug_a_traceback(model):
    line = error_of("profile", model + "broken", *SMALL, code=1)
    assert line == "fxpass: RuntimeError: the first line (--debug shows where)"
    done = run("profile", model + "broken", *SMALL, "--debug")
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert "the second" in done.stderr


@pytest.mark.filterwarnings("default:fxpass")
def test_a_warning_is_one_line(model):
    done = run("plan", model + "Lossy", *SMALL)
    assert done.exit_code == 0, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("fxpass: warning: these parts run their own forward")


def test_what_options_refuse(model):
    for options in (["--batch", "0"], ["--steps", "0"], ["--no-such-option"]):
        assert run("verify", model + "make", *options).exit_code == 2


def test_help_has_examples():
    assert run("--help").exit_code == 0
    for command in ("profile", "plan", "verify"):
        assert command in run("--help").stdout
        assert "torchvision.models:resnet18" in run(command, "--help").stdout


def test_the_command_itself():
    code = "from fxpass.cli import main; main()"
    command = [sys.executable, "-c", code, "plan", "torchvision.models:alexnet"]
    done = subprocess.run([*command, "--image", "64"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "features.1" in done.stdout


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
def test_export(model, tmp_path):
    path = tmp_path / "net.pt"
    text = succeed("export", model + "make", *SMALL, "-o", path)
    assert text == f"{path}: {path.stat().st_size:,} bytes\n"
    assert torch.jit.load(path)(torch.randn(5, 3, 16, 16)).shape == (5, 4 * 12 * 12)
    again = json.loads(succeed("export", model + "make", *SMALL, "--output", path, "--json"))
    assert again == {"path": str(path), "bytes": path.stat().st_size}


def test_what_cannot_be_exported(model, tmp_path):
    line = error_of("export", model + "hooked", *SMALL, "-o", tmp_path / "net.pt", code=1)
    assert line.startswith("fxpass: ExportError: ")
    assert "1 (ReLU) has hooks" in line
    assert not list(tmp_path.glob("*.pt"))
