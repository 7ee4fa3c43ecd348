"""bench/chain.py: its figures are met, and each could be missed."""

import pytest
import torch

from bench import chain

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_schedule_is_judged_and_drawn(tmp_path, capsys):
    torch.manual_seed(0)
    problem = chain.wave(9, 128)
    figures = chain.compare(problem, 3, tmp_path, pairs=1)
    assert len(figures) >= 6
    assert all(figure.is_met for figure in figures), figures
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("plain loop", "uniform, 3 seg", "revolve, 3 slots"))
    assert (tmp_path / f"chain-{problem.name}.png").stat().st_size > 10_000


def test_the_table_exits_with_1_for_a_missed_figure(monkeypatch):
    assert chain.revolve_counts(12, 4).is_met
    monkeypatch.setattr(chain, "advances", lambda length, slots: length)
    assert not chain.revolve_counts(12, 4).is_met


def test_one_other_bit_is_seen():
    problem = chain.rnn(5, 8, 2)
    gradient = chain.measured(problem, None).gradients[0]
    changed = gradient.clone()
    assert not chain._differ(gradient, changed)
    changed.view(torch.int32)[0, 0] ^= 1
    assert chain._differ(gradient, changed)
