"""bench/resnet152.py on a small network and a small limit."""

import json

import pytest

from bench import resnet152

SMALL = ("--model", "resnet18", "--batch", "4", "--image", "96", "--steps", "2")


def test_the_whole_step_fits_and_equals_eager(tmp_path):
    file = tmp_path / "figures.json"
    resnet152.main([*SMALL, "--limit-mib", "128", "--json", str(file)])
    figures = {figure["what"]: figure for figure in json.loads(file.read_text())}
    assert figures["tensors that differ from eager's"]["value"] == 0
    assert figures["predicted peak is off by"]["value"] <= 2
    peak = figures["peak of the whole step"]
    # Parameters and momentum alone are 89 MiB; eager has as much again in gradients.
    assert 89 < peak["value"] <= peak["limit"] == 128


def test_a_limit_that_no_plan_meets_ends_with_its_error(capfd):
    with pytest.raises(RuntimeError, match="ended with 1"):
        resnet152.main([*SMALL, "--limit-mib", "100"])
    assert "BudgetError" in capfd.readouterr().err
