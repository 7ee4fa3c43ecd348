"""Memory against time over batch sizes, image sizes and methods."""

import json
import sys

import pytest
import torch
from _bits import bits
from torch import nn
from typer.testing import CliRunner

import fxpass
from fxpass.cli.app import app
from fxpass.inspect.sweep import METHODS, sweep


def chain():
    def block():
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    return nn.Sequential(nn.Conv2d(3, 4, 1), *(block() for _ in range(8)))


class NoChain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x).relu()


@pytest.fixture(autouse=True)
def nets():
    """A module of that name, for the command line."""
    made = sys.modules["nets_to_sweep"] = type(sys)("nets_to_sweep")
    made.chain, made.NoChain = chain, NoChain
    yield
    del sys.modules["nets_to_sweep"]


def test_each_point_is_there_once_and_less_is_kept():
    model = chain()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    points = sweep(model, [1, 2], [(3, 32, 32), (3, 64, 32)])
    assert [(p.method, p.image, p.batch) for p in points] == [
        (method, image, batch)
        for method in ("eager", "checkpoint", "fxpass")
        for image in ((3, 32, 32), (3, 64, 32))
        for batch in (1, 2)
    ]
    for name, value in model.state_dict().items():
        assert torch.equal(bits(value), bits(before[name])), name
    assert torch.equal(torch.get_rng_state(), rng)
    saved = {(p.method, p.image, p.batch): p.saved_bytes for p in points}
    for image in ((3, 32, 32), (3, 64, 32)):
        for batch in (1, 2):
            eager = saved["eager", image, batch]
            # Its last segment is kept whole, and each one the state of the random numbers.
            assert saved["checkpoint", image, batch] < 0.6 * eager
            assert saved["fxpass", image, batch] < 0.7 * eager
        # Twice the batch keeps twice the bytes, statistics aside.
        ratio = saved["eager", image, 2] / saved["eager", image, 1]
        assert ratio == pytest.approx(2, rel=0.02)
    for point in points:
        assert point.peak_bytes > point.saved_bytes
        assert point.seconds > 0


def test_what_eager_keeps_is_what_a_profile_says():
    model = chain()
    (point,) = sweep(model, [2], [(3, 8, 8)], ["eager"])
    profile = fxpass.profile(model, torch.randn(2, 3, 8, 8))
    assert (point.saved_bytes, point.peak_bytes) == (profile.saved_bytes, profile.peak_bytes)


def test_bad_input():
    with pytest.raises(ValueError, match=r"methods among eager, .*, got 'magic'"):
        sweep(chain(), [1], [(3, 8, 8)], ["eager", "magic"])
    with pytest.raises(ValueError, match="got NoChain without one; leave out the method"):
        sweep(NoChain(), [1], [(3, 8, 8)], ["checkpoint"])
    assert "torch.compile" in METHODS


# ---- the command --------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, ["sweep", *arguments])


def test_the_command(tmp_path):
    picture = tmp_path / "a.svg"
    options = ["--batches", "1,2", "--images", "8,16x8", "--picture", str(picture)]
    done = run("nets_to_sweep:chain", *options)
    assert done.exit_code == 0, done.output
    for word in ("3x8x8", "3x16x8", "checkpoint", "fxpass", "step time"):
        assert word in done.stdout
    assert "peak MiB" in picture.read_text()


def test_the_command_as_json():
    options = ["--batches", "2", "--images", "8", "--methods", "fxpass,eager", "--json"]
    read = json.loads(run("nets_to_sweep:chain", *options).stdout)
    assert [(p["method"], p["batch"], p["image"]) for p in read] == [
        ("fxpass", 2, [3, 8, 8]),
        ("eager", 2, [3, 8, 8]),
    ]
    assert read[0]["saved_bytes"] < read[1]["saved_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batches", "1,,2"], "expected --batches to be numbers, as in 1,2,4,8, got '1,,2'"),
        (["--batches", "0"], "expected --batches"),
        (["--images", "8,"], "expected --image to be"),
        (["--methods", "eager,lazy"], "expected --methods among eager, checkpoint, torch.compile"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    done = run("nets_to_sweep:chain", *options)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert message in line


def test_a_model_without_a_chain():
    done = run("nets_to_sweep:NoChain", "--batches", "1", "--images", "8")
    assert done.exit_code == 1
    assert "leave out the method 'checkpoint'" in done.stderr
