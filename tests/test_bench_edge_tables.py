"""bench/edge_tables.py: the published figures, and predictions against the allocator."""

import json

import pytest
import torch

from bench import _edge_curves, _edge_published, edge_tables
from bench._edge_measure import measured_peak
from bench._edge_predict import cell_of, largest
from fxpass.schedule import plain, uniform

pytestmark = pytest.mark.usefixtures("one_thread")
PUBLISHED = _edge_published.published()


def test_the_linear_model_gives_the_published_table():
    for batch, row in PUBLISHED["MB_by_batch_at_224"].items():
        for name, said in row.items():
            # W and A are rounded to a hundredth.
            off = abs(_edge_published.linear_mb(name, int(batch), 224) - said)
            assert off <= 0.005 * (int(batch) + 2) + 1e-9
    for image, row in PUBLISHED["GB_by_image_at_batch_8"].items():
        for name, said in row.items():
            found = _edge_published.linear_mb(name, 8, int(image)) / 1024
            assert found == pytest.approx(said, abs=0.006, rel=0.0025)


def test_slots_that_revolve_needs():
    said = dict(PUBLISHED["revolve_slots_needed"])
    rhos = said.pop("rho")
    for name, slots in said.items():
        length = int(name.removeprefix("l="))
        assert [_edge_published.slots_needed(length, rho) for rho in rhos] == slots


def test_the_least_recomputation_that_fits():
    said = {k: v for k, v in PUBLISHED["smallest_rho_that_fits_2048_MB"].items() if k != "note"}
    assert len(said) == 3
    for cell, row in said.items():
        image, batch = map(int, cell.split("_b"))
        for name, rho in row.items():  # W and A are rounded: a slot more or less
            found = _edge_published.smallest_rho(name, batch, image, PUBLISHED["device_limit_MB"])
            assert found == pytest.approx(rho, abs=0.006)


def test_dots_on_one_scale():
    found = [_edge_published.sequential_rho(1000, s) for s in (2, 3, 4)]
    assert found == pytest.approx([1.25, 1.333, 1.375], abs=2e-3)
    before = [_edge_published.sequential_rho_as_published(1000, s) for s in (2, 3, 4)]
    assert before == pytest.approx([1.5, 1.666, 1.75], abs=2e-3)
    assert _edge_published.sequential_held(18, 1) == 18


@pytest.mark.parametrize(("batch", "image"), [(1, 96), (4, 96), (3, 128)])
def test_a_prediction_against_the_allocator(batch, image):
    torch.set_num_threads(1)
    predicted = cell_of("resnet18", batch, image).eager.peak_bytes
    assert predicted == pytest.approx(measured_peak("resnet18", batch, image)[0], rel=0.02)


def test_the_chain_without_a_schedule_is_eager():
    cell = cell_of("resnet18", 8, 128)
    eager = cell.planner.eager.peak_bytes
    found = cell.chain.peak_bytes(plain(cell.chain.chain)) - 8 * 3 * 128 * 128 * 4
    assert found == pytest.approx(eager, rel=0.02)
    assert cell.chain.rho(plain(cell.chain.chain)) == pytest.approx(1)


def test_schedules_and_plans_take_less():
    cell = cell_of("resnet18", 16, 224)
    assert cell.free.peak_bytes < cell.eager.peak_bytes
    assert cell.revolve().peak_bytes <= cell.sequential().peak_bytes < cell.eager.peak_bytes
    assert 1 < cell.sequential().rho < 1.5
    between = (cell.eager.peak_bytes + cell.sequential().peak_bytes) // 2
    fitting = cell.sequential(between)
    assert fitting.peak_bytes <= between
    two = cell.scheduled(uniform, 2, "")
    assert cell.eager.peak_bytes > two.peak_bytes


def test_the_largest_size():
    assert largest(lambda n: 10 + 3 * n, 100, 1) == 30
    assert largest(lambda n: 10 + n * n, 500, 1, power=2) == 22
    assert largest(lambda n: 10 + n, 5, 1) == 0


def test_tables_pictures_and_page(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    small = edge_tables.Grid("small", {(1, 96): {"resnet18": 1.0}, (2, 96): {"resnet18": 2.0}})
    monkeypatch.setattr(edge_tables, "grids", lambda: [small])
    monkeypatch.setattr(edge_tables, "largest_sizes", lambda *_: (7, 300))
    page, file = tmp_path / "page.md", tmp_path / "tables.json"
    page.write_text("Words of mine.\n\n")
    options = ["--measure", "1", "--markdown", str(page), "--json", str(file)]
    assert edge_tables.main(["resnet18", "--pictures", str(tmp_path), *options]) == 0
    assert "resnet18, small" in capsys.readouterr().out
    assert page.read_text().startswith("Words of mine.")
    assert "| 1 | 96 | 1 |" in page.read_text()
    document = json.loads(file.read_text())
    assert len(document["off"]) == 2
    assert (tmp_path / "edge-blocks.png").stat().st_size > 5_000
    assert (tmp_path / "edge-published.png").stat().st_size > 5_000


def test_curves_begin_with_everything_kept():
    for name in _edge_published.models():
        for points in _edge_curves.abstract_curves(name, 8, 224).values():
            assert min(points)[0] == 1
            assert max(size for _, size in points) == _edge_published.linear_mb(name, 8, 224)
