"""bench/zoo.py: its figures are right on networks small enough to count by hand."""

import json
import math

import pytest
import torch
from _threads import torch_threads
from torch import nn

import fxpass
from bench import _cases, _rows, zoo
from bench._cases import Case, Subject, case_of
from bench._conv_peak import conv_peaks
from bench._figures import Figure, compile_figure, conv_figure, hooked_figure

SIDE, CHANNELS, IMAGES = 8, 4, 2
VALUE = IMAGES * CHANNELS * SIDE * SIDE * 4  # bytes of an activation
WEIGHT = CHANNELS * CHANNELS * 4  # of a weight and of its gradient
SCALARS = 2 * 4  # the loss and its gradient


def conv():
    """Input, output and all gradients of an activation have one size."""
    return nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)


CASE = Case(
    "small",
    lambda: nn.Sequential(conv(), nn.BatchNorm2d(CHANNELS), nn.ReLU(), conv()),
    batch=IMAGES,
    image=SIDE,
    channels=CHANNELS,
    classifies=False,
    limits={"saved": 1.0, "time": 100.0, "conv": 1.1, "hooked": 1.05, "compile": 60.0},
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The zoo knows the small case."""
    monkeypatch.setitem(_cases.OWN_CASES, "small", CASE)


def run(tmp_path, *arguments):
    """The exit code and the JSON of the zoo with the small case."""
    path = tmp_path / "rows.json"
    code = zoo.main(["--models", "small", "--json", str(path), "--pairs", "1", *arguments])
    return code, json.loads(path.read_text())


def peaks_of_two(*, trained=True):
    model = nn.Sequential(conv(), conv())
    model[1].weight.requires_grad_(trained)
    x, w = torch.randn(2, IMAGES, CHANNELS, SIDE, SIDE)
    return conv_peaks(model, lambda: (model(x) * w).sum())


def test_the_peak_of_a_convolutions_node_to_the_byte():
    with torch_threads(1):  # on more of them oneDNN takes scratch memory
        peaks = peaks_of_two()
    # Its input, the gradient it is given, and the one it makes.
    assert peaks["1"] == 3 * VALUE + WEIGHT + SCALARS
    # The gradient it is given; it makes none for the images.
    assert peaks["0"] == VALUE + 2 * WEIGHT + SCALARS


def test_only_convolutions_whose_weight_is_trained_have_a_peak():
    assert peaks_of_two(trained=False).keys() == {"0"}


def test_convolutions_of_both_graphs_are_matched_and_the_worst_is_named():
    figure = conv_figure(Subject.of(CASE, IMAGES, SIDE, "contiguous"))
    assert figure.details["ratios"].keys() == {"0", "3"}
    assert figure.value == max(figure.details["ratios"].values())
    assert figure.details["ratios"][figure.details["worst"]] == figure.value
    # Ours holds neither the ReLU's result nor the batch norm's at the last convolution.
    assert figure.details["ratios"]["3"] < 1


def test_a_hook_that_costs_memory_is_seen(monkeypatch):
    subject = Subject.of(CASE, IMAGES, SIDE, "contiguous")
    assert hooked_figure(subject).value == 1
    compile_ = fxpass.compile
    monkeypatch.setattr(
        fxpass, "compile", lambda m, **k: m if m[0]._forward_hooks else compile_(m, **k)
    )
    figure = hooked_figure(subject)  # gives up on a hooked model
    assert figure.details["hooked_before_bytes"] > figure.details["hooked_after_bytes"]
    assert figure.value > 1
    assert not subject.eager[0]._forward_hooks


def test_compile_is_timed_on_models_of_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(fxpass, "compile", lambda model, **k: seen.append(model))
    subject = Subject(CASE, CASE.make(), CASE.make(), torch.empty(0), torch.sum)
    assert len(compile_figure(subject).details["seconds"]) == len(set(seen)) == 5
    assert subject.eager not in seen


def test_a_model_without_convolutions_has_neither_figure(tmp_path, monkeypatch):
    relu = Case("small", nn.ReLU, 2, 8, input_grad=True, classifies=False)
    monkeypatch.setitem(_cases.OWN_CASES, "small", relu)
    code, found = run(tmp_path, "--what", "conv,hooked")
    assert (code, found["rows"][0]["figures"]) == (0, {})


# ---- settings, limits, the exit code ------------------------------------------------------------


def settings(*arguments, name="small"):
    rows = _rows.rows_for(case_of(name), zoo.parse(list(arguments)))
    return {(row.memory_format, row.threads): row.what for row in rows}


def test_by_default_all_is_measured_in_nchw_and_time_in_channels_last_too():
    assert settings() == {("contiguous", 2): _rows.WHAT, ("channels_last", 2): ("time",)}
    assert settings("--what", "saved").keys() == {("contiguous", 2)}
    assert settings(name="relu_pool").keys() == {("contiguous", 2)}  # defined in one format
    named = settings("--memory-format", "channels_last", "--what", "saved,time", "--threads", "1,2")
    assert named == {("channels_last", n): ("saved", "time") for n in (1, 2)}


def test_every_promised_figure_has_its_limit():
    for name in _cases.ZOO_NAMES:
        rows = _rows.rows_for(case_of(name), zoo.parse([]))
        assert rows[0].limits["conv"] == 1.0
        assert rows[0].limits["hooked"] == 1.05
        assert {row.limits["time"] for row in rows} <= {1.0, 1.03}
        assert len(rows) == 2
    assert case_of("resnet50").limits["compile"] == 2.0


def test_all_is_well(tmp_path):
    code, found = run(tmp_path, "--steps", "1")
    assert code == 0
    nchw, channels_last = found["rows"]
    assert nchw["figures"].keys() == {*_rows.WHAT} - {"exact"}
    assert nchw["difference"] == ""
    assert nchw["limits"] == {"left": 1.0} | CASE.limits
    assert channels_last["figures"].keys() == {"time"}
    assert nchw["missed"] == channels_last["missed"] == []


@pytest.mark.parametrize("name", ["saved", "conv", "hooked", "compile", "time"])
def test_a_missed_figure_fails(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(CASE.limits, name, 0.001)
    code, found = run(tmp_path, "--what", name, "--memory-format", "contiguous")
    assert code == 1
    assert found["rows"][0]["missed"] == [name]
    assert f"missed: {name}" in capsys.readouterr().out


def test_bytes_of_ours_alone_are_infinitely_worse():
    assert Figure.of_bytes(1, 0).value == math.inf
    assert Figure.of_bytes(0, 0).value == 0
