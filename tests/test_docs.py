"""Every block of Python in README and docs runs, as it stands."""

from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from torch import nn

import fxpass

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def names():
    """What the blocks take for granted."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 4)
    )
    images, labels = torch.randn(2, 3, 8, 8), torch.randint(4, (2,))
    return {
        "torch": torch,
        "fxpass": fxpass,
        "model": model,
        "compiled": fxpass.compile(model),
        "images": images,
        "labels": labels,
        "batches": [(images, labels)] * 2,
        "tensor": torch.relu(torch.randn(1000)),
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_code_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    document = Sybil([PythonCodeBlockParser()]).parse(page)
    document.namespace.update(names())
    for example in document.examples():
        example.evaluate()


def test_there_is_code_and_links_lead_somewhere():
    pages = {page: page.read_text() for page in PAGES}
    assert sum(text.count("```python") for text in pages.values()) >= 8
    for page, text in pages.items():
        for part in text.split("](")[1:]:
            target = part.split(")")[0]
            if not target.startswith("http"):
                assert (page.parent / target).is_file(), (page.name, target)
