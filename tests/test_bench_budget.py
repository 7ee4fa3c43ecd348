"""bench/budget.py on a small model: its tables, its figures, and what it makes of missed ones."""

import json

import pytest

from bench import _budget_peers, _budget_points, budget
from fxpass.plan import Prediction

SMALL = ("--batch", "2", "--image", "64", "--pairs", "2")


def run(tmp_path, *arguments):
    """The exit code and the figures by name."""
    file = tmp_path / "figures.json"
    code = budget.main(["resnet18", *SMALL, "--json", str(file), *arguments])
    return code, {figure["what"]: figure for figure in json.loads(file.read_text())}


def test_peaks_are_as_predicted_and_shares_are_kept(tmp_path):
    _, figures = run(tmp_path, "--what", "budgets,shares")
    assert figures["resnet18: predicted peak is off by"]["value"] <= 2
    assert figures["resnet18: measured peak / budget"]["value"] <= 1
    for share in (0.25, 0.1):
        assert figures[f"resnet18: saved / eager's, asked for {share}"]["value"] <= share


def point(peak=100, predicted=100, seconds=1.05, ratio=1.0, share=0.2):
    known = Prediction(
        memory_budget=100,
        peak_bytes=predicted,
        saved_bytes=50,
        seconds=seconds,
        eager_peak_bytes=200,
        eager_saved_bytes=100,
        eager_seconds=1.0,
    )
    return _budget_points.Point("", known, peak, share, ratio, 1.0)


@pytest.mark.parametrize(
    ("points", "missed"),
    [
        ([point(), point(peak=97)], ["predicted peak is off by"]),
        ([point(peak=101)], ["measured peak / budget"]),
        ([point(), point(ratio=0.9)], ["predicted time ratio is off by"]),
        ([point()], []),
    ],
)
def test_one_point_that_is_off_is_enough(points, missed):
    figures = _budget_points.figures_of_budgets("x", points)
    assert [f.what for f in figures if not f.is_met] == [f"x: {what}" for what in missed]


def test_a_share_that_is_not_met_or_takes_too_long():
    points = [point(share=0.26), point(share=0.1, ratio=1.5)]
    figures = _budget_points.figures_of_shares("x", points)
    missed = [f.what for f in figures if not f.is_met]
    assert missed == ["x: saved / eager's, asked for 0.25", "x: time / eager's, saving 0.1"]


def test_checkpoint_sequential_is_a_peer(monkeypatch):
    monkeypatch.setattr(_budget_peers, "COMPILE_BUDGETS", ())
    found = list(_budget_peers.duels("resnet18", 2, 96, pairs=2))
    assert [duel.peer for duel in found] == [f"checkpoint_sequential {n}" for n in (2, 4, 8)]
    for duel in found:
        assert duel.our_bytes is None or duel.our_bytes < duel.peer_bytes
        assert duel.is_won == (duel.our_bytes is not None and duel.time_ratio < 1)


@pytest.mark.parametrize(("won", "is_met"), [(4, True), (3, False)])
def test_four_of_five_points_must_be_won(won, is_met):
    duels = [_budget_peers.Duel("", 2, 1, 0.9, "" if i < won else "time") for i in range(5)]
    assert _budget_peers.figure_of(duels).is_met == is_met
