"""Models that page, exported: the same bits as in eager, in Python and in fxpass-train."""

from functools import partial

import pytest
from _exact import assert_exact
from _exported import Loaded, exported
from _paged import paging_plan
from _trainer import compare, files, train

import fxpass
from fxpass import _lowering, paging
from fxpass.rewrite import rewrite

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Until compile takes a directory, every model that is compiled pages here."""
    path = tmp_path / "pages"
    path.mkdir()
    monkeypatch.setattr(_lowering, "free_plan", paging_plan)
    monkeypatch.setattr(_lowering, "rewrite", partial(rewrite, page_dir=str(path)))
    return path


def test_torchscript(tmp_path, directory):
    given = files(tmp_path)
    compiled = fxpass.compile(given.model)
    loaded = Loaded(exported(compiled, tmp_path))
    assert_exact(given.model, given.images[:4], compiled=loaded, steps=4)
    assert paging.counters(directory).pages_read >= 4 * 3


def test_fxpass_train(tmp_path, directory):
    given = files(tmp_path)
    compare(given, ("--lr", 0.1, "--momentum", 0.9, "--weight-decay", 1e-3), epochs=2)
    assert not list(directory.iterdir())


def test_a_directory_of_the_device(tmp_path, directory):
    given = files(tmp_path)
    there = train(given)
    directory.rmdir()
    run = train(given, expect=1)
    assert f'page_dir "{directory}": expected a directory (No such file' in run.error
    here = train(given, "--page-dir", tmp_path)
    assert here.losses == there.losses
    run = train(given, "--page-dir", tmp_path / "missing", expect=1)
    assert f'page_dir "{tmp_path / "missing"}": expected a directory (No such file' in run.error
