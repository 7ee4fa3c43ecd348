"""bench/dynamo.py: torchvision's models and some with control flow, exact and as small as ours."""

import json

import pytest
import torch
from _dynamo import OF_DYNAMO
from rich.progress import Progress
from torch import nn

from bench import dynamo

pytestmark = [pytest.mark.usefixtures("fresh_dynamo", "one_thread"), *OF_DYNAMO]


@pytest.mark.parametrize("name", [*dynamo.MODELS, *dynamo.CONTROL_FLOW])
def test_it_equals_eager_and_keeps_no_more_than_our_own_capture(name):
    options = dynamo.parse(["--what", "exact,own"])
    row = dynamo.measure(name, options, Progress(disable=True))
    assert row.difference == ""
    assert row.figures["own"].value <= 1.001
    assert row.figures["saved"].value < 0.6


def run(tmp_path, *arguments):
    path = tmp_path / "rows.json"
    code = dynamo.main(["--models", "frames", "--json", str(path), "--pairs", "1", *arguments])
    return code, json.loads(path.read_text())["rows"][0]


def test_all_is_measured(tmp_path):
    code, row = run(tmp_path)
    assert (code, row["difference"], row["missed"]) == (0, "", [])
    assert {"exact", *row["figures"]} == set(dynamo.WHAT)


def test_a_wrong_bit_and_a_missed_figure_are_seen(tmp_path, monkeypatch, capsys):
    class Wrong(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)[:, :3]) * (1 + torch.compiler.is_compiling())

    monkeypatch.setitem(dynamo.CONTROL_FLOW, "frames", lambda: Wrong(3, 10))
    monkeypatch.setitem(dynamo._LIMITS, "own", 0.001)
    code, row = run(tmp_path, "--what", "exact,own")
    assert (code, row["missed"]) == (1, ["own", "exact"])
    assert "output" in row["difference"]
    assert "missed: own, exact" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "given"), [("--models", "resnet17"), ("--what", "speed")])
def test_what_is_not_known(option, given, capsys):
    with pytest.raises(SystemExit):
        dynamo.parse([option, given])
    assert f"got {given}" in capsys.readouterr().err
