"""The page of several runs in a browser: both runs' pictures large, and nothing asked for but the page.

Needs playwright and a chromium on the PATH; skipped without them.
"""

from __future__ import annotations

from pathlib import Path

import chromium
import pytest
from run_by_hand import IMAGES, add_layers, add_unit, begin_run

from uadctl.report.comparison import compare_runs

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
pytestmark = pytest.mark.skipif(not chromium.PATH, reason="there is no chromium on the PATH")

HOSTILE = "test/good/<img src=x onerror=document.title='owned'>.png"


@pytest.fixture(scope="module")
def browser():
    with chromium.launched(playwright) as found:
        yield found


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """Two runs: of tile in layers, of wood with a hostile name and as the runs drew them."""
    folder = tmp_path_factory.mktemp("comparison")
    runs = []
    for name, threshold in (("a", 10.0), ("b", 11.5)):
        run = begin_run(folder / name, root=str(folder / "data"))
        unit = add_unit(run, "tile", threshold=threshold)
        add_layers(unit, folder / "data" / "tile")
        add_unit(run, "wood", [*IMAGES[:2], (HOSTILE, 0, "good", 11.0)], threshold=threshold)
        runs.append(run)
    return compare_runs(runs)


@pytest.fixture
def open_page(browser, page_file):
    """Open the page; at the end nothing may have been logged, and nothing asked for but the file."""
    watched = chromium.Watched(browser)
    yield lambda **options: watched.open(page_file, **options)
    watched.close()
    assert watched.others == []
    assert watched.files == {page_file.as_uri()}


def test_the_viewer_goes_from_one_run_to_the_other(open_page):
    page = open_page()
    viewer = page.locator("#viewer")
    page.locator(".shot a.frame").first.click()
    assert viewer.is_visible()
    seen = []
    for _ in range(3):
        shown = viewer.locator(".sheet .stack")
        seen.append((viewer.locator("h2").text_content(), viewer.locator(".told").text_content()))
        assert shown.locator(".image").evaluate("image => image.complete && image.naturalWidth > 0")
        assert shown.bounding_box()["width"] > 600
        page.keyboard.press("ArrowRight")
    assert seen == [
        ("A: test/dent/001.png", "tile, defect: dent, score 11, threshold 10: anomaly"),
        ("B: test/dent/001.png", "tile, defect: dent, score 11, threshold 11.5: good (missed)"),
        (f"A: {HOSTILE}", "wood, normal, score 11, threshold 10: anomaly (false alarm)"),
    ]
    assert viewer.locator(".place").text_content() == "4 of 4"
    assert viewer.locator("a.full").get_attribute("href").endswith(".png")
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert page.title() == "parts · uadctl report"
    assert page.locator("img[src=x]").count() == 0


def test_layers_and_colours_are_switched(open_page):
    page = open_page(color_scheme="dark")
    heat = page.locator(".shot .heat").first
    assert heat.evaluate("one => getComputedStyle(one).visibility") == "visible"
    page.locator('#tools [data-layer="heat"]').uncheck()
    assert heat.evaluate("one => getComputedStyle(one).visibility") == "hidden"
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(21, 24, 28)"
    page.locator("#theme").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_never_wider_than_the_window(open_page, width):
    page = open_page(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for frame in page.locator(".shot a.frame").all():
        box = frame.bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
    assert page.locator(".shot a.frame").count() == 4


def test_without_script_both_pictures_are_there(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator(".shot .stack:visible").count() == 4
    assert page.locator(".scripted").count() == 2
    assert page.locator(".scripted:visible").count() == 0
