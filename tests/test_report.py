"""The files that a profile writes: HTML in a real browser, pictures, JSON."""

import json
import shutil
import sys
import xml.etree.ElementTree as ET

import pytest
import torch
from playwright.sync_api import sync_playwright
from torch import nn

import fxpass
from bench import _models
from fxpass.inspect.charts import charts_of
from fxpass.inspect.table import in_words

LIMIT = 2_000_000  # bytes of the report of a resnet50


class Named(nn.Module):
    """A module whose path would end a script, if anybody let it."""

    def __init__(self):
        super().__init__()
        self.add_module("</script><b>", nn.ReLU())

    def forward(self, x):
        return getattr(self, "</script><b>")(x)


def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), Named(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def profile():
    return fxpass.profile(fxpass.compile(small()), torch.randn(4, 3, 16, 16))


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    assert chromium, "the report is tested in Debian's chromium: make system"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a profile's report; fails if the page complains or asks for anything else."""
    page = browser.new_page(viewport={"width": 1100, "height": 1600})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))

    def open_(profile):
        path = tmp_path / "report.html"
        profile.to_html(path)
        page.goto(path.as_uri())
        page.wait_for_selector("#charts svg, #charts canvas")
        return page

    yield open_
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def column(page, heading):
    """The cells below a heading of the table, from top to bottom."""
    names = [name.strip() for name in page.locator("#tensors th").all_text_contents()]
    at = names.index(heading) + 1
    return page.locator(f"#tensors tbody td:nth-child({at})").all_text_contents()


def test_the_totals(opened, profile):
    page = opened(profile)
    line = page.locator("#totals tbody tr").first.locator("td").all_text_contents()
    ratio = profile.saved_bytes / profile.eager.saved_bytes
    sizes = in_words(profile.eager.saved_bytes), in_words(profile.saved_bytes)
    assert line == ["saved bytes", *sizes, f"{ratio:.2f}"]


def test_the_table_can_be_sorted(opened, profile):
    page = opened(profile)
    assert column(page, "module") == [edge.module for edge in profile.edges]
    heading = page.locator("#tensors th", has_text="kept")
    heading.click()
    sizes = sorted((edge.kept_bytes for edge in profile.edges), reverse=True)
    assert column(page, "kept") == [in_words(size) for size in sizes]
    assert heading.get_attribute("aria-sort") == "descending"
    heading.click()
    assert column(page, "kept") == [in_words(size) for size in reversed(sizes)]
    page.locator("#tensors th", has_text="module").click()
    assert column(page, "module")[0] == "0"
    assert heading.get_attribute("aria-sort") is None


def tooltips(page):
    """What the charts show under the mouse, at points all over them."""
    box = page.locator("#charts canvas, #charts svg").bounding_box()
    for across in (0.2, 0.5, 0.35, 0.65):
        for down in range(0, int(box["height"]), 10):
            page.mouse.move(box["x"] + across * box["width"], box["y"] + down)
            page.wait_for_timeout(30)
            tip = page.locator("#vg-tooltip-element.visible")
            if tip.count():
                yield tip.inner_text()


def test_hovering_names_the_tensor(opened, profile):
    page = opened(profile)
    first = profile.edges[0]
    left = {first.op, in_words(first.kept_bytes), first.recipe, "parameters", "transient"}
    for text in tooltips(page):
        left = {word for word in left if word not in text}
        if not left:
            return
    pytest.fail(f"nothing shows {left}")


def test_a_path_that_looks_like_markup_is_text(opened):
    x = torch.randn(4, 3, 16, 16)
    page = opened(fxpass.profile(small(), x))
    assert page.locator("b").count() == 0
    assert "4.</script><b>" in column(page, "module")


def test_the_size_of_a_real_networks_report(opened, tmp_path):
    model = fxpass.compile(_models.make("resnet50"))
    opened(fxpass.profile(model, torch.randn(1, 3, 64, 64)))
    assert (tmp_path / "report.html").stat().st_size < LIMIT


# ---- pictures, JSON ----------------------------------------------------------------------------


def test_pictures(profile, tmp_path):
    profile.to_picture(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    profile.to_picture(str(tmp_path / "a.svg"))
    text = " ".join(ET.parse(tmp_path / "a.svg").getroot().itertext())
    for word in ("eager", "fxpass", "gradients", "live MiB", "dense"):
        assert word in text
    with pytest.raises(ValueError, match=r"ends in \.png or \.svg, got '.*a\.jpg'"):
        profile.to_picture(tmp_path / "a.jpg")
    assert not (tmp_path / "a.jpg").exists()


def test_json(profile, tmp_path):
    profile.to_json(tmp_path / "a.json")
    read = json.loads((tmp_path / "a.json").read_text())
    assert read["saved_bytes"] == profile.saved_bytes
    assert read["eager"]["peak_bytes"] == profile.eager.peak_bytes
    assert sum(edge["kept_bytes"] for edge in read["edges"]) == profile.saved_bytes
    assert read["edges"][0]["dtype"] == "float32"
    assert len(read["timeline"]["bytes"]["saved"]) == len(read["timeline"]["seconds"])


def test_charts_keep_the_highest_moment(profile):
    steps = charts_of(profile).to_dict()["vconcat"][0]["vconcat"]
    for shown, side in zip(steps, (profile.eager, profile), strict=True):
        parameters = side.timeline.bytes["parameters"][0]
        high = max(row["high"] for row in shown["layer"][0]["data"]["values"])
        assert high == pytest.approx((parameters + side.peak_bytes) / 2**20, abs=1e-3)


@pytest.mark.parametrize("missing", ["altair", "vl_convert"])
def test_without_the_packages_the_error_says_how_to_install_them(
    profile, tmp_path, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    for write in (profile.to_html, profile.to_picture):
        with pytest.raises(ImportError, match=r"pip install 'fxpass\[report\]'"):
            write(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
