"""The page of a run in a browser: sorting, filtering, thresholds to try, the viewer, by mouse and by keyboard.

Needs playwright and a chromium on the PATH; skipped without them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import chromium
import numpy as np
import parts
import pytest
from run_by_hand import IMAGES, METRICS, add_layers, add_unit, begin_run, write_json

from uadctl.imaging.files import write_map
from uadctl.metrics import threshold_counts
from uadctl.report import charts, report
from uadctl.report.wording import percent

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
pytestmark = pytest.mark.skipif(not chromium.PATH, reason="there is no chromium on the PATH")

REVIEW = 9.25
OF_MAPS = ("image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro_30", "aupro_05")
HOSTILE = "test/good/<img src=x onerror=document.title='owned'>\u202egnp.\n'\".png"


@pytest.fixture(scope="module")
def browser():
    with chromium.launched(playwright) as found:
        yield found


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """A run of two units: one in layers, with a review threshold; one with a hostile name, as the run drew it."""
    folder = tmp_path_factory.mktemp("page")
    run = begin_run(folder, root=str(folder / "data"))
    unit = add_unit(run, "tile", review=REVIEW)
    add_layers(unit, folder / "data" / "tile")
    add_unit(run, "wood", [*IMAGES[:2], (HOSTILE, 0, "good", 20.0)])
    return report(run)


@pytest.fixture
def open_page(browser, page_file):
    """Open the page; at the end nothing may have been logged, and nothing asked for but the file."""
    watched = chromium.Watched(browser)
    yield lambda file=page_file, **options: watched.open(file, **options)
    watched.close()
    assert watched.others == []
    assert len(watched.files) == 1


def gallery(page, unit: int = 1):
    return page.locator(f'.gallery[data-unit="unit-{unit}"]')


def names(page, unit: int = 1) -> list[str]:
    """The images shown, in order, without their folder test/."""
    found = gallery(page, unit).locator(".shot:visible .name").all_text_contents()
    return [name.removeprefix("test/") for name in found]


def outcomes(page) -> dict[str, str]:
    shots = gallery(page).locator(".shot")
    said = shots.locator(".outcome").all_text_contents()
    return dict(zip(shots.locator(".name").all_text_contents(), said, strict=True))


def recounted(page) -> dict[str, int]:
    place = gallery(page).locator(".recount")
    return {name: int(place.get_attribute(f"data-{name}")) for name in ("tp", "fp", "fn", "tn", "review")}


def what_if(page, unit: int = 1):
    """The thresholds to try, unfolded."""
    found = gallery(page, unit).locator(".whatif")
    if found.get_attribute("open") is None:
        found.locator("summary").click()
    return found


TELLING = ["dent/000.png", "scratch/000.png", "good/003.png", "good/001.png"]
TELLING += ["good/002.png", "dent/001.png", "good/000.png", "scratch/001.png"]
BY_SCORE = ["scratch/001.png", "good/003.png", "good/001.png", "dent/001.png"]
BY_SCORE += ["good/002.png", "scratch/000.png", "good/000.png", "dent/000.png"]

# By 0.5, 1, 1, 2, 6, 7, 20 and 30; of equal ones by name.
NEAR = ["good/002.png", "dent/001.png", "scratch/000.png", "good/001.png"]
NEAR += ["good/000.png", "dent/000.png", "good/003.png", "scratch/001.png"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("telling", TELLING),
        ("high", BY_SCORE),
        ("low", BY_SCORE[::-1]),
        ("near", NEAR),
        ("name", sorted(TELLING)),
    ],
)
def test_images_are_sorted(open_page, order, expected):
    page = open_page()
    assert names(page) == TELLING
    gallery(page).locator(".by-sort").select_option(order)
    assert names(page) == expected


@pytest.mark.parametrize(
    ("which", "value", "expected"),
    [
        ("verdict", "anomaly", {"good/003.png", "good/001.png", "dent/001.png", "scratch/001.png"}),
        ("verdict", "review", {"good/002.png"}),
        ("verdict", "good", {"dent/000.png", "scratch/000.png", "good/000.png"}),
        ("error", "missed", {"dent/000.png", "scratch/000.png"}),
        ("error", "alarm", {"good/003.png", "good/001.png"}),
        ("error", "wrong", {"dent/000.png", "scratch/000.png", "good/003.png", "good/001.png"}),
        ("error", "right", {"good/002.png", "dent/001.png", "good/000.png", "scratch/001.png"}),
        ("kind", "=normal", {"good/000.png", "good/001.png", "good/002.png", "good/003.png"}),
        ("kind", "=defect: dent", {"dent/000.png", "dent/001.png"}),
    ],
)
def test_images_are_filtered(open_page, which, value, expected):
    page = open_page()
    gallery(page).locator(f".by-{which}").select_option(value)
    assert set(names(page)) == expected
    assert gallery(page).locator(".count").text_content() == f"Shown: {len(expected)} of 8"
    gallery(page).locator(".clear").click()
    assert names(page) == TELLING


def test_filters_join_and_names_are_searched(open_page):
    page = open_page()
    gallery(page).locator(".by-text").fill("/001")
    assert names(page) == ["good/001.png", "dent/001.png", "scratch/001.png"]
    gallery(page).locator(".by-error").select_option("right")
    assert names(page) == ["dent/001.png", "scratch/001.png"]
    gallery(page).locator(".by-text").fill("DENT")
    assert names(page) == ["dent/001.png"]
    gallery(page).locator(".by-text").fill("nothing like it")
    assert names(page) == []
    assert gallery(page).locator(".count").text_content() == "Shown: 0 of 8"


@pytest.mark.parametrize("threshold", [10.0, 9.5, float(np.nextafter(9.5, 10)), 40.0, 3.0, 41.0, 12.000000000000002])
def test_a_recount_is_what_python_counts(open_page, threshold):
    page = open_page()
    number = what_if(page).locator("input.threshold[type=number]")
    assert number.input_value() == "10"
    number.fill(repr(threshold))
    labels, scores = [label for _, label, _, _ in IMAGES], [score for *_, score in IMAGES]
    expected = threshold_counts(labels, scores, threshold)
    review = min(REVIEW, threshold)
    counts = recounted(page)
    assert counts == {
        **{name: expected.metrics[name] for name in ("tp", "fp", "fn", "tn")},
        "review": sum(review <= score < threshold for score in scores),
    }
    said = gallery(page).locator(".recount").text_content()
    assert f"{counts['fn']} of 4 defect images missed" in said
    assert f"{counts['fp']} of 4 normal images called anomalous" in said
    assert said.startswith("At the run's own threshold:" if threshold == 10 else "With this threshold:")
    right = outcomes(page)
    for path, label, _, score in IMAGES:
        anomaly, worth = score >= threshold, score >= review
        if label:
            wanted = "anomaly" if anomaly else "missed, for review" if worth else "missed"
        else:
            wanted = "false alarm" if anomaly else "review" if worth else "good"
        assert right[path] == wanted, path
    gallery(page).locator(".by-error").select_option("missed")
    assert len(names(page)) == counts["fn"]
    alts = gallery(page).locator(".shot:visible img.image").evaluate_all("all => all.map(one => one.alt)")
    assert [alt for alt in alts if "; missed" not in alt] == []


def test_the_slider_recounts_moves_a_line_and_goes_back(open_page):
    page = open_page()
    assert not gallery(page).locator("input.threshold[type=range]").is_visible()
    slider = what_if(page).locator("input.threshold[type=range]")
    line = gallery(page).locator(".rug .at.threshold")
    before = line.get_attribute("d")
    reset = gallery(page).locator(".reset")
    assert reset.is_disabled()
    slider.focus()
    slider.press("End")
    assert recounted(page) == {"tp": 0, "fp": 0, "fn": 4, "tn": 4, "review": 5}
    assert line.get_attribute("d") != before
    slider.press("Home")
    assert recounted(page) == {"tp": 4, "fp": 4, "fn": 0, "tn": 0, "review": 0}
    slider.press("ArrowRight")
    assert float(slider.input_value()) > float(slider.get_attribute("min"))
    reset.click()
    assert recounted(page) == {"tp": 2, "fp": 2, "fn": 2, "tn": 2, "review": 1}
    assert gallery(page).locator("input.threshold[type=number]").input_value() == "10"
    assert "the figures above stay as they were measured" in gallery(page).locator(".whatif").text_content()


def test_the_review_threshold_never_lies_above_the_other(open_page):
    page = open_page()
    upper = what_if(page).locator("input.threshold[type=number]")
    lower = what_if(page).locator("input.review[type=number]")

    def put(control, value: str) -> None:
        control.fill(value)
        control.press("Enter")

    put(upper, "5")
    assert lower.input_value() == "5"
    put(lower, "20")
    assert upper.input_value() == "20"
    put(lower, "3")
    assert upper.input_value() == "20"
    assert recounted(page)["review"] == 6
    # Without a number the last one holds.
    put(lower, "")
    assert recounted(page)["review"] == 6
    assert lower.input_value() == "3"
    # The slider of one pushes the other, once it is let go.
    what_if(page).locator("input.threshold[type=range]").press("Home")
    assert float(lower.input_value()) == float(upper.input_value()) < 3
    # A unit without a review threshold has one slider.
    assert gallery(page, 2).locator("input[type=range]").count() == 1


def test_a_number_is_typed_to_its_end_before_another_moves(open_page):
    page = open_page()
    upper = what_if(page).locator("input.threshold[type=number]")
    lower = what_if(page).locator("input.review[type=number]")
    upper.press("Control+a")
    counted = []
    for key in "20.5":
        page.keyboard.press(key)
        assert lower.input_value() == str(REVIEW), key
        counted.append((recounted(page)["tp"], recounted(page)["review"]))
    # At 2 everything is anomalous; at 20 and 20.5, from 9.25 on, 9.5, 11 and 12 are to be looked at.
    assert counted == [(4, 0), (1, 3), (1, 3), (1, 3)]
    page.keyboard.press("Tab")
    assert (upper.input_value(), lower.input_value()) == ("20.5", str(REVIEW))
    # A review threshold above the other counts as if it lay on it, until it is typed to its end.
    lower.press("Control+a")
    for key in "30":
        page.keyboard.press(key)
        assert upper.input_value() == "20.5", key
    assert recounted(page) == {"tp": 1, "fp": 1, "fn": 3, "tn": 3, "review": 0}
    page.keyboard.press("Tab")
    assert (upper.input_value(), lower.input_value()) == ("30", "30")


def test_what_is_said_of_the_order_goes_when_it_is_true_no_more(open_page):
    page = open_page()
    order, sort = gallery(page).locator(".order"), gallery(page).locator(".by-sort")
    assert order.is_visible()
    sort.select_option("name")
    assert not order.is_visible()
    sort.select_option("telling")
    assert order.is_visible()
    gallery(page).locator(".by-error").select_option("missed")
    assert not order.is_visible()
    gallery(page).locator(".clear").click()
    assert order.is_visible()
    what_if(page).locator("input.threshold[type=number]").fill("11")
    assert not order.is_visible()
    what_if(page).locator(".reset").click()
    assert order.is_visible()
    assert gallery(page, 2).locator(".order").is_visible()


def test_shares_are_rounded_as_the_rest_of_the_page_does(open_page):
    page = open_page()
    script = (Path(charts.__file__).parent / "templates" / "report.js").read_text(encoding="utf-8")
    (rules,) = re.findall(r"// ---- numbers as text.*?\n(.*?)// ---- one gallery", script, re.S)
    shares = [k / n for n in range(1, 41) for k in range(n + 1)] + [1 / 3000, 2999 / 3000, 1 / 16000, 15999 / 16000]
    assert len(shares) == 864
    said = page.evaluate(f"shares => {{ {rules} return shares.map(percent); }}", shares)
    expected = [percent(share) for share in shares]
    assert "6.2\N{NO-BREAK SPACE}%" in expected  # 1 of 16, half way
    assert said == expected


def test_stored_verdicts_are_shown_where_their_thresholds_are_gone(open_page, tmp_path):
    run = begin_run(tmp_path)
    unit = add_unit(run, "tile", review=REVIEW)
    document = json.loads((unit / "thresholds.json").read_text())
    write_json(unit / "thresholds.json", {**document, "review": {**document["review"], "value": 3.5}})
    page = open_page(report(run))
    assert outcomes(page)["test/good/002.png"] == "review"
    gallery(page).locator(".by-verdict").select_option("review")
    assert names(page) == ["good/002.png"]
    assert not gallery(page).locator(".whatif").is_visible()
    assert "No other threshold can be tried here" in gallery(page).text_content()


def changed_page(file: Path, target: Path, change) -> Path:
    """A page whose script is told something else."""
    text = file.read_text(encoding="utf-8")
    head, found, tail = re.split(r'(?<=id="galleries">)(.*?)(?=</script>)', text, maxsplit=1, flags=re.S)
    galleries = json.loads(found)
    change(galleries)
    target.write_text(head + json.dumps(galleries) + tail, encoding="utf-8")
    return target


def test_any_number_of_scores_can_be_tried(open_page, page_file, tmp_path):
    def many(galleries) -> None:
        for name in ("names", "labels", "defects", "scores", "verdicts"):
            galleries[0][name] += galleries[0][name][:1] * 300_000

    page = open_page(changed_page(page_file, tmp_path / "many.html", many))
    assert recounted(page)["fn"] == 300_002


def test_a_gallery_that_fails_does_not_end_the_others(browser, page_file, tmp_path):
    def break_first(galleries) -> None:
        galleries[0]["labels"] = None

    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.type))
    page.goto(changed_page(page_file, tmp_path / "broken.html", break_first).as_uri())
    assert said == ["error"]
    assert len(names(page)) == 8
    assert not gallery(page).locator(".filters").is_visible()
    assert not gallery(page).locator(".whatif").is_visible()
    assert gallery(page, 2).locator(".filters").is_visible()
    gallery(page).locator("a.frame").first.click()
    assert page.locator("#viewer h2").text_content() == "test/dent/000.png"
    page.close()


def test_facts_are_folded_but_not_on_paper(open_page):
    page = open_page()
    facts = page.locator("details.facts")
    assert facts.count() == 2
    assert not facts.first.locator("dl").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert facts.first.locator("dl").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not facts.first.locator("dl").is_visible()


def test_the_first_pictures_come_soon(open_page):
    """Within two windows of 800 pixels of the beginning of their unit."""
    page = open_page()
    top = page.locator("#unit-1").bounding_box()["y"]
    assert gallery(page).locator(".shot").first.bounding_box()["y"] - top < 1500


@pytest.mark.parametrize("width", [360, 1200])
def test_the_layers_stay_in_reach(open_page, width):
    page = open_page(width=width)
    gallery(page, 2).scroll_into_view_if_needed()
    gallery(page, 2).locator(".shot").last.scroll_into_view_if_needed()
    box = page.locator("#tools").bounding_box()
    assert box["y"] == 0
    assert box["height"] < 48
    for control in page.locator("#tools input").all():
        place = control.bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= width
    assert page.locator("#tools input").count() == 5
    page.locator("#tools [data-layer=heat]").uncheck()
    assert not gallery(page).locator(".heat").first.is_visible()


def test_a_table_that_scrolls_is_shaded(open_page, tmp_path):
    """The results of MVTec AD with intervals fit into 1280 pixels; where they do not, that side is shaded."""
    run = begin_run(tmp_path)
    unit = add_unit(run, "transistor", metrics=METRICS | dict.fromkeys(OF_MAPS, 0.5))
    document = json.loads((unit / "metrics.json").read_text())
    intervals = {name: [0.123, 0.987] for name in document["metrics"]}
    write_json(unit / "metrics.json", {**document, "intervals": intervals})
    file = report(run)
    page = open_page(file, width=1280)
    assert page.locator(".scroll.wide thead th").count() == 12
    room = "one => one.scrollWidth - one.clientWidth"
    assert page.locator(".scroll.wide").evaluate(room) == 0
    narrow = open_page(file, width=360)
    assert narrow.locator(".scroll.wide").evaluate(room) > 0
    found = narrow.locator(".scroll.wide").evaluate("one => getComputedStyle(one).backgroundAttachment")
    assert found == "local, local, scroll, scroll"


def test_layers_are_switched_for_the_whole_page(open_page):
    page = open_page()
    tools, shot = page.locator("#tools"), gallery(page).locator(".shot").first
    for layer, css in (("image", ".image"), ("heat", ".heat"), ("truth", ".truth"), ("found", ".found")):
        assert shot.locator(css).first.is_visible(), layer
        tools.locator(f"[data-layer={layer}]").uncheck()
        assert not shot.locator(css).first.is_visible(), layer
        tools.locator(f"[data-layer={layer}]").check()
        assert shot.locator(css).first.is_visible(), layer
    opacity = "one => getComputedStyle(one).opacity"
    assert shot.locator(".heat").evaluate(opacity) == "0.65"
    tools.locator("[data-opacity]").fill("20")
    assert shot.locator(".heat").evaluate(opacity) == "0.2"
    assert page.locator("#viewer [data-opacity]").input_value() == "20"


def test_the_viewer_by_keyboard(open_page):
    page = open_page()
    gallery(page).locator(".by-error").select_option("wrong")
    viewer, stage = page.locator("#viewer"), page.locator("#viewer .stage")
    gallery(page).locator("a.frame:visible").first.focus()
    page.keyboard.press("Enter")
    assert viewer.is_visible()
    assert viewer.locator("h2").text_content() == "test/dent/000.png"
    assert viewer.locator(".place").text_content() == "1 of 4"
    assert viewer.locator(".told").text_content() == "tile: defect: dent, score 3, threshold 10: missed"
    page.keyboard.press("ArrowLeft")
    assert viewer.locator(".place").text_content() == "1 of 4"
    page.keyboard.press("ArrowRight")
    assert viewer.locator("h2").text_content() == "test/scratch/000.png"
    for key, zoom in (("+", "1.500"), ("+", "2.250"), ("-", "1.500"), ("0", "1.000")):
        page.keyboard.press(key)
        assert stage.get_attribute("data-zoom") == zoom, key
    page.keyboard.press("+")
    left = viewer.locator(".sheet").evaluate("one => one.offsetLeft")
    top = viewer.locator(".sheet").evaluate("one => one.offsetTop")
    page.keyboard.press("Shift+ArrowDown")
    assert viewer.locator(".sheet").evaluate("one => one.offsetTop") < top
    assert viewer.locator(".sheet").evaluate("one => one.offsetLeft") == left
    # A box of a layer leaves the keys to the viewer.
    viewer.locator("[data-layer=heat]").click()
    before = float(stage.get_attribute("data-zoom"))
    page.keyboard.press("+")
    assert float(stage.get_attribute("data-zoom")) == pytest.approx(before * 1.5)
    page.keyboard.press("ArrowLeft")
    assert viewer.locator("h2").text_content() == "test/dent/000.png"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert viewer.locator("[data-layer=heat]").is_checked()
    # Arrows on the slider are the slider's own.
    viewer.locator("[data-opacity]").focus()
    page.keyboard.press("ArrowLeft")
    assert viewer.locator("h2").text_content() == "test/scratch/000.png"
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    # The focus is on the image that was looked at last, and can be seen.
    # It comes there with the event of the closing, which the browser sends a moment after it.
    page.wait_for_function(
        "() => document.activeElement.closest('.shot')?.querySelector('.name').textContent === 'test/scratch/000.png'"
    )
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_viewer_keeps_its_place_from_picture_to_picture(open_page, tmp_path):
    run = begin_run(tmp_path, root=str(tmp_path / "data"))
    unit = add_unit(run, "tile")
    add_layers(unit, tmp_path / "data" / "tile")
    # The third has another size.
    file = tmp_path / "data" / "tile" / "test" / "good" / "003.png"
    parts.write(file, parts.surface(3, 64, 64))
    write_map(unit / "maps/test/good/003.tiff", np.ones((64, 64), np.float32))
    page = open_page(report(run))
    stage, sheet = page.locator("#viewer .stage"), page.locator("#viewer .sheet")
    what_if(page).locator("input.threshold[type=number]").fill("10.5")
    gallery(page).locator("a.frame").first.click()
    assert page.locator("#viewer .told").text_content() == "tile: defect: dent, score 3, threshold 10.5 (tried): missed"
    for key in ("+", "+", "Shift+ArrowDown", "Shift+ArrowRight"):
        page.keyboard.press(key)
    before = sheet.bounding_box()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer h2").text_content() == "test/scratch/000.png"
    assert sheet.bounding_box() == before
    assert stage.get_attribute("data-zoom") == "2.250"
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer h2").text_content() == "test/good/003.png"
    assert stage.get_attribute("data-zoom") == "1.000"
    page.keyboard.press("+")
    page.keyboard.press("Escape")
    gallery(page).locator("a.frame").nth(2).click()
    assert stage.get_attribute("data-zoom") == "1.000"


def test_the_viewer_by_mouse(open_page):
    page = open_page()
    gallery(page).locator("a.frame").nth(1).click()
    viewer, stage = page.locator("#viewer"), page.locator("#viewer .stage")
    box = stage.bounding_box()
    # The wheel zooms about the pointer: what is under it stays.
    at = "([x, y]) => { const b = document.querySelector('.sheet').getBoundingClientRect(); " \
        "return [(x - b.left) / b.width, (y - b.top) / b.height]; }"  # fmt: skip
    x, y = box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.45
    page.mouse.move(x, y)
    before = page.evaluate(at, [x, y])
    page.mouse.wheel(0, -600)
    page.wait_for_function("Number(document.querySelector('.stage').dataset.zoom) > 1.5")
    assert page.evaluate(at, [x, y]) == pytest.approx(before, abs=0.02)
    start = viewer.locator(".sheet").bounding_box()
    page.mouse.down()
    page.mouse.move(x - 40, y - 10, steps=4)
    page.mouse.up()
    end = viewer.locator(".sheet").bounding_box()
    assert (end["x"] - start["x"], end["y"] - start["y"]) == pytest.approx((-40, -10), abs=1)
    for act, name in (("next", "test/good/003.png"), ("previous", "test/scratch/000.png")):
        viewer.locator(f"[data-act={act}]").click()
        assert viewer.locator("h2").text_content() == name
    overlay = viewer.locator("a.full").get_attribute("href")
    assert overlay == "../units/tile/vision_patchcore/0/overlays/test/scratch/000.png"
    assert viewer.locator("a.original").get_attribute("href").startswith("file:///")
    viewer.locator("[data-act=close]").click()
    assert not viewer.is_visible()


def test_contours_lie_where_the_pixels_are(open_page):
    """In the viewer too, zoomed: the mask is rows 20 to 31, columns 24 to 47 of 64 x 96 pixels."""
    page = open_page()
    share = "one => { const l = one.getBoundingClientRect(), i = one.closest('.stack').querySelector('.image')" \
        ".getBoundingClientRect(); return [(l.left - i.left) / i.width, (l.top - i.top) / i.height, " \
        "(l.right - i.left) / i.width, (l.bottom - i.top) / i.height]; }"  # fmt: skip
    expected = (24 / 96, 20 / 64, 48 / 96, 32 / 64)
    assert gallery(page).locator(".shot .truth .inner").first.evaluate(share) == pytest.approx(expected, abs=0.012)
    gallery(page).locator("a.frame").first.click()
    page.keyboard.press("+")
    assert page.locator("#viewer .truth .inner").evaluate(share) == pytest.approx(expected, abs=0.012)


def test_a_hostile_name_is_text(open_page):
    page = open_page()
    assert page.title() == "parts · uadctl report"
    shown = gallery(page, 2).locator(".name").all_text_contents()
    assert HOSTILE in shown
    gallery(page, 2).locator(".by-text").fill("onerror")
    gallery(page, 2).locator("a.frame:visible").click()
    assert page.locator("#viewer h2").text_content() == HOSTILE
    assert page.title() == "parts · uadctl report"
    assert page.locator("img[src=x]").count() == 0


def test_no_script_but_our_own_runs(browser, page_file):
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(page_file.as_uri())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<b id=try onclick=\"document.title = 1\">x</b>')")
    page.locator("#try").dispatch_event("click")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 2'}))")
    assert page.title() == "parts · uadctl report"
    page.wait_for_timeout(100)
    assert len([text for text in said if "Content Security Policy" in text]) == 2
    page.close()


def test_light_and_dark_follow_the_system_and_the_button(open_page):
    def paper(page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = open_page(color_scheme="light"), open_page(color_scheme="dark")
    assert (paper(light), paper(dark)) == ("rgb(255, 255, 255)", "rgb(21, 24, 28)")
    light.locator("#theme").click()
    dark.locator("#theme").click()
    assert (paper(light), paper(dark)) == ("rgb(21, 24, 28)", "rgb(255, 255, 255)")
    light.reload()
    assert paper(light) == "rgb(21, 24, 28)"
    light.emulate_media(media="print")
    assert paper(light) == "rgb(255, 255, 255)"
    assert not gallery(light).locator(".filters").is_visible()


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_never_wider_than_the_window(open_page, width):
    page = open_page(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    gallery(page).locator("a.frame").first.click()
    assert page.locator("#viewer").bounding_box()["width"] == width
    assert page.locator("#viewer .stage").bounding_box()["height"] > 150
    buttons = page.locator("#viewer button, #viewer a:visible").all()
    assert len(buttons) == 8
    for button in buttons:
        box = button.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= 800


def test_without_script_it_is_a_static_page(open_page):
    page = open_page(java_script_enabled=False)
    assert len(gallery(page).locator(".shot").all()) == 8
    for css in (".image", ".heat", ".truth .inner", ".found .line"):
        assert gallery(page).locator(f".shot {css}").first.is_visible(), css
    for control in page.locator(".scripted").all():
        assert not control.is_visible()
    assert page.locator(".scripted").count() == 6
    assert gallery(page).locator("a.frame").first.get_attribute("href").endswith("overlays/test/dent/000.png")


def test_without_a_threshold_nothing_can_be_tried(open_page, tmp_path):
    run = begin_run(tmp_path)
    add_unit(run, "tile", threshold=None, metrics={"image_auroc": 0.5})
    page = open_page(report(run))
    assert not gallery(page).locator(".whatif").is_visible()
    assert gallery(page).locator(".by-verdict").count() == 0
    gallery(page).locator(".by-sort").select_option("low")
    assert names(page)[0] == "dent/000.png"
    assert set(outcomes(page).values()) == {"no verdict"}


def test_images_left_out_are_counted(open_page, tmp_path):
    run = begin_run(tmp_path)
    add_unit(run, "tile")
    page = open_page(report(run, max_overlays=2))
    assert recounted(page) == {"tp": 2, "fp": 2, "fn": 2, "tn": 2, "review": 0}
    assert gallery(page).locator(".count").text_content() == "Shown: 2 of 2"


def test_no_motion_where_none_is_wanted(open_page):
    moves = "getComputedStyle(document.querySelector('.frame .stack')).transitionDuration"
    assert open_page(reduced_motion="no-preference").evaluate(moves) != "0s"
    assert open_page(reduced_motion="reduce").evaluate(moves) == "0s"


def test_scores_are_compared_with_all_their_digits(open_page, tmp_path):
    score = float(np.float32(0.1) + np.float32(0.2))
    run = begin_run(tmp_path)
    unit = add_unit(run, "tile", (("test/good/0.png", 0, "good", score), ("test/dent/1.png", 1, "dent", 1.0)))
    document = json.loads((unit / "thresholds.json").read_text())
    write_json(unit / "thresholds.json", document)
    page = open_page(report(run))
    number = what_if(page).locator("input.threshold[type=number]")
    number.fill(repr(score))
    assert recounted(page)["fp"] == 1
    number.fill(repr(float(np.nextafter(score, 1))))
    assert recounted(page)["fp"] == 0
