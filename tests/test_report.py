"""`uadctl report`: one page of a run folder, for somebody who did not make the run."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import cv2
import numpy as np
import parts
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_by_hand import IMAGES, METRICS, SCALE, add_layers, add_unit, begin_run, fail_unit, write_json
from sklearn.metrics import precision_recall_curve, roc_curve

from uadctl.errors import RunError
from uadctl.metrics import compute_image_ap, compute_image_auroc
from uadctl.metrics.curves import image_curve
from uadctl.report import charts, report
from uadctl.report.html import MAX_OVERLAYS, as_data
from uadctl.report.thumbnails import MOST_WIDTH, thumbnail
from uadctl.report.wording import percent
from uadctl.report.wording import score as score_text
from uadctl.runs.folder import SCORE_COLUMNS
from uadctl.runs.gate import Compared


@pytest.fixture
def make_run(tmp_path):
    return functools.partial(begin_run, tmp_path)


class Page(HTMLParser):
    """Elements with their attributes, and the text, of a page that must be well formed."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self._open: list[str] = []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def names_of_pictures(self) -> list[str]:
        return [a["alt"].partition(" ")[0] for a in self.all("img") if a["class"] == "image"]

    @property
    def drawings(self) -> list[dict[str, str | None]]:
        """Charts, not the contours over pictures."""
        return [a for a in self.all("svg") if a.get("role") == "img"]

    @property
    def links_to_overlays(self) -> list[str]:
        return [unquote(urlsplit(a["href"]).path) for a in self.all("a") if "overlays" in a["href"]]

    @property
    def galleries(self) -> list[dict[str, Any]]:
        """What the script is told."""
        (found,) = re.findall(r'<script type="application/json" id="galleries">(.*?)</script>', self.source, re.S)
        return json.loads(found)


def test_the_page_of_a_real_run(finished, uadctl, tmp_path):
    out = tmp_path / "page"
    assert uadctl("report", finished, "--out", out).out == f"{out / 'index.html'}\n"
    page = Page(out / "index.html")
    metrics = json.loads((finished / "metrics.json").read_text())["results"]["tile"]["vision_patchcore"]["0"]["metrics"]
    facts = json.loads((finished / "run.json").read_text())
    for text in (
        "mvtec",
        facts["hash"],
        facts["data"]["tile"]["sha256"],
        facts["models"]["vision_patchcore"]["tile"]["backbone"],
        f"torch {facts['versions']['torch']}",
        f"{metrics['image_auroc']:.4f}",
        f"{metrics['aupro_30']:.4f}",
        "an image is called anomalous if and only if its score ≥ the threshold",
        f"{metrics['fn']} of 3 defect images missed",
        "comes from 6 normal images of the training split, each scored as if the model had not seen it.",
    ):
        assert text in page.text
    assert len(page.drawings) == 3
    assert [a for a in page.drawings if not a["aria-label"]] == []
    # Five images, all of them in layers: the data set is there. Three have ground truth.
    assert len([a for a in page.all("img") if a["class"] == "image"]) == 5
    assert len([a for a in page.all("img") if a["class"] == "heat"]) == 5
    assert len([a for a in page.all("path") if a.get("class") == "outer"]) == 3 + 1  # and one in the legend
    assert "what the run drew" not in page.text
    assert "[dataset]" in page.text
    links = page.links_to_overlays
    assert len(links) == 5
    assert all((out / link).is_file() for link in links)


def test_by_default_it_stands_in_the_run_folder_and_nothing_else_is_touched(make_run, uadctl):
    run = make_run()
    add_unit(run, "tile")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    uadctl("report", run)
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert set(after) - set(before) == {run / "report" / "index.html"}
    assert {p: after[p] for p in before} == before


def test_the_same_run_gives_the_same_bytes_and_may_be_written_again(make_run):
    run = make_run()
    add_unit(run, "tile")
    first = report(run).read_bytes()
    assert report(run).read_bytes() == first
    add_unit(run, "tile", IMAGES[:-1])
    assert report(run).read_bytes() != first


def test_a_page_that_is_not_ours_stays(make_run, uadctl):
    run = make_run()
    add_unit(run, "tile")
    mine = run / "report" / "index.html"
    mine.parent.mkdir()
    mine.write_text("<h1>mine</h1>")
    ended = uadctl("report", run, code=2)
    assert ended.err == (
        f"error: {mine}: exists and is not a report of uadctl; it was left as it is\n  Give another folder with --out.\n"
    )
    assert ended.out == ""
    assert mine.read_text() == "<h1>mine</h1>"


def test_nothing_is_loaded_from_outside_and_no_other_script_runs(make_run):
    run = make_run()
    add_unit(run, "tile")
    page = Page(report(run))
    assert {name for name, _ in page.elements} & {"link", "iframe", "object", "embed", "base"} == set()
    assert page.all("script") == [{"type": "application/json", "id": "galleries"}, {}]
    assert [k for _, a in page.elements for k in a if k.startswith("on")] == []
    assert [a for a in page.all("img") if not re.match("data:image/(jpeg|webp);base64,", a["src"])] == []
    outside = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href", "xlink:href") and "://" in v]
    assert outside == []
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    # The policy allows the script that is in the page, byte for byte, and no other.
    script = re.findall(r"<script>(.*?)</script>", page.source, re.S)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    for forbidden in ("eval(", "Function(", "innerHTML", "fetch(", "XMLHttpRequest", "http:", "https:", "localStorage"):
        assert forbidden not in script[0].replace("http://www.w3.org/2000/svg", ""), forbidden
    assert re.findall(r"url\((?!#)", page.source) == []


def test_ids_are_unique_and_every_reference_has_its_target(make_run):
    run = make_run()
    for category in ("a", "b"):
        add_unit(run, category)
    page = Page(report(run))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) > 10
    used = set(re.findall(r'(?:href="#|url\(#|labelledby=")([\w.-]+)', page.source))
    assert len(used) > 10
    assert used <= set(ids)


def test_missed_defects_come_first_then_false_alarms_then_the_closest(make_run):
    run = make_run()
    add_unit(run, "tile")
    page = Page(report(run))
    assert page.names_of_pictures == [
        "test/dent/000.png",  # missed, 3
        "test/scratch/000.png",  # missed, 9
        "test/good/003.png",  # false alarm, 30
        "test/good/001.png",  # false alarm, 12
        "test/good/002.png",  # 0.5 below the threshold
        "test/dent/001.png",  # 1 above
        "test/good/000.png",
        "test/scratch/001.png",
    ]
    assert (
        "Missed defects, the lowest score first (2); false alarms, the highest score first (2); all others, the closest "
        "to the threshold first (4)." in page.text
    )
    assert "left out" not in page.text


def test_overlays_left_out_are_counted(make_run, uadctl):
    run = make_run()
    add_unit(run, "tile")
    uadctl("report", run, "--max-overlays", 3)
    page = Page(run / "report" / "index.html")
    assert page.names_of_pictures == ["test/dent/000.png", "test/scratch/000.png", "test/good/003.png"]
    assert "5 more images are left out of this page (--max-overlays), among them 1 false alarm." in page.text
    assert len(page.galleries[0]["scores"]) == 8  # the script counts all of them
    uadctl("report", run, "--max-overlays", 0)
    assert Page(run / "report" / "index.html").all("img") == []
    with pytest.raises(ValueError, match=r"^max_overlays is -1; expected 0 or more$"):
        report(run, max_overlays=-1)


def test_the_default_of_the_command_is_that_of_the_function(uadctl):
    import inspect

    from uadctl.cli.report import report as command

    assert inspect.signature(command).parameters["max_overlays"].default == MAX_OVERLAYS
    assert "missed defects first" in uadctl("report", "--help").out


def test_counts_at_the_threshold_and_kinds_of_defect(make_run):
    run = make_run()
    add_unit(run, "tile")
    text = Page(report(run)).text
    assert "2 of 4 defect images missed (50.0 %). 2 of 4 normal images called anomalous (50.0 %)." in text
    assert "2 of 4 alarms true (50.0 %)." in text
    assert text.count("(ring: the threshold)") == 2
    assert (
        "The threshold 10 comes from 20 normal images of the training split, each scored as if the model had not seen "
        "it. It leaves at most 1 % of them at or above it." in text
    )
    assert "kind images found missed lowest score dent 2 1 1 3 scratch 2 1 1 9" in text


def kinds_of_defect(unit: Path, *, pixel_threshold: float | None = 2.5, **by_defect: dict[str, object]) -> None:
    """Put these figures into a unit's metrics.json."""
    found = json.loads((unit / "metrics.json").read_text())
    write_json(unit / "metrics.json", {**found, "by_defect": by_defect, "pixel_threshold": pixel_threshold})


def test_a_figure_that_a_kind_of_defect_lacks_says_why(make_run):
    run = make_run()
    unit = add_unit(run, "tile")
    no_mask = {"aupro_30": "its image has no mask"}
    kinds_of_defect(
        unit,
        dent={"images": 2, "missed": 1, "miss_rate": 0.5, "image_auroc": 0.25, "aupro_30": None, "reasons": no_mask},
        scratch={"images": 2, "missed": 1, "miss_rate": 0.5, "image_auroc": 0.75, "aupro_30": 0.5},
    )
    text = Page(report(run)).text
    assert (
        "kind images found missed lowest score image AUROC AUPRO to FPR 0.30 dent 2 1 1 3 0.2500 – scratch 2 1 1 9 "
        "0.7500 0.5000 Undefined (–): dent: its image has no mask (AUPRO to FPR 0.30)." in text
    )
    why = {"missed": "none", "miss_rate": "none", "image_auroc": "no good one", "aupro_30": "no good one"}
    none: dict[str, object] = {"images": 2, **dict.fromkeys(why), "reasons": why}
    kinds_of_defect(unit, dent=none, scratch=none)
    text = Page(report(run)).text
    # The columns are gone and the reason is not; what the threshold says of a kind, its rows say.
    assert (
        "lowest score dent 2 1 1 3 scratch 2 1 1 9 Undefined (–): dent, scratch: no good one (image AUROC, AUPRO to FPR "
        "0.30)." in text
    )


def test_a_run_of_before_has_no_kinds_no_intervals_and_no_pixel_threshold(make_run):
    run = make_run()
    unit = add_unit(run, "tile")
    assert not {"by_defect", "intervals", "pixel_threshold"} & set(json.loads((unit / "metrics.json").read_text()))
    text = Page(report(run)).text
    assert "pixel threshold" not in text
    assert "Undefined" not in text
    for threshold, said in ((2.5, "pixel threshold 2.5"), (0.0, "pixel threshold 0")):
        kinds_of_defect(unit, pixel_threshold=threshold)
        assert said in Page(report(run)).text
    kinds_of_defect(unit, pixel_threshold=None)
    assert "pixel threshold" not in Page(report(run)).text


def test_the_page_says_what_each_metric_is_measured_at(make_run):
    run = make_run()
    add_unit(run, "tile")
    plain = (
        "Precision: the share of alarms that are true. All other metrics need no threshold; F1-max is chosen with the "
        "labels, an upper bound."
    )
    assert plain in Page(report(run)).text
    add_unit(run, "tile", metrics=METRICS | {"segf1": 0.5, "classf1": 0.25})
    assert (
        "the share of alarms that are true. SegF1 and ClassF1: at the threshold of maps, which each unit names among its "
        "facts. All other metrics need no threshold; F1-max" in Page(report(run)).text
    )
    add_unit(run, "tile", metrics=METRICS | {"group_auroc": 0.5, "group_miss_rate": 0.25})
    assert (
        "the share of alarms that are true. Parts missed and false alarms among parts: the same, at the same "
        "threshold, of parts seen in several images. All other metrics need no threshold; F1-max"
        in Page(report(run)).text
    )


def test_in_print_the_widest_table_is_laid_across_the_page(make_run):
    run = make_run()
    kinds_of_defect(add_unit(run, "tile"), dent={"images": 2, "image_auroc": 0.5})
    page = Page(report(run))
    regions = [a for a in page.all("div") if a.get("role") == "region"]
    assert [(a["aria-labelledby"], "wide" in a["class"].split()) for a in regions] == [
        ("results", True),
        ("unit-1-defects", False),
    ]
    assert "@page { size: landscape; margin: 10mm; }" in page.source
    # Intervals in two lines: a column is then as wide as its figure.
    assert ".wide td small { white-space: normal; }" in page.source.partition("@media print")[2]


def test_names_stay_text(make_run):
    run = make_run()
    category = "<script>alert(1)<"  # a slash cannot be in a category
    add_unit(run, category, (("test/<b>/a&b #1%.png", 1, "<b>", 11.0), ("test/good/'\"><i>.png", 0, "good", 1.0)))
    fail_unit(run, "zz", "<img src=x onerror=alert(1)>")
    record = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", {**record, "name": "<h1>", "notes": ["<script>n</script>"]})
    file = report(run)
    page = Page(file)
    assert {name for name, _ in page.elements} & {"b", "i"} == set()
    assert len(page.all("script")) == 2
    assert page.galleries[0]["names"] == ["test/<b>/a&b #1%.png", "test/good/'\"><i>.png"]
    assert [a for _, a in page.elements if "onerror" in a] == []
    for text in (category, "test/<b>/a&b #1%.png", "<img src=x onerror=alert(1)>", "<script>n</script>"):
        assert text in page.text
    links = page.links_to_overlays
    assert len(links) == 2
    assert all((file.parent / link).is_file() for link in links)


def test_a_failed_unit_says_why(make_run):
    run = make_run(status="failed")
    add_unit(run, "tile")
    fail_unit(run, "wood", "wood/train/good/001.png: cut off")
    write_json(run / "metrics.json", {"results": {}, "means": {"vision_patchcore": {"image_auroc": None}}})
    page = Page(report(run))
    assert "1 of 2 units failed (wood); each says why below." in page.text
    assert "Failed: wood/train/good/001.png: cut off" in page.text
    assert "../units/wood/vision_patchcore/0/error.txt" in [a["href"] for a in page.all("a")]
    assert re.search(r"wood failed mean – –", page.text)


def test_an_unfinished_run_says_so_and_shows_no_means_of_before(make_run):
    run = make_run(status="interrupted")
    add_unit(run, "tile")
    begun = run / "units" / "wood" / "vision_patchcore" / "0"
    begun.mkdir(parents=True)
    (begun / "status").write_text("started\n")
    write_json(run / "metrics.json", {"results": {}, "means": {"vision_patchcore": {"image_auroc": 0.123}}})
    text = Page(report(run)).text
    assert (
        "This run was interrupted. Shown is what there is so far: 1 finished of 2 units begun. Go on with: uadctl bench "
        "--resume 20260101T120000Z-parts-0123abcd" in text
    )
    assert "wood not finished" in text
    assert "This unit was begun and is not finished; it has no results." in text
    assert "0.1230" not in text


def test_a_run_that_has_just_begun(make_run):
    text = Page(report(make_run(status="started"))).text
    assert (
        "This run is not finished: it is still at work, or it was ended. Shown is what there is so far: 0 finished of "
        "0 units begun." in text
    )
    assert "No unit of this run has been begun." in text


def test_a_run_that_only_fitted_shows_its_thresholds(uadctl, small):
    run = Path(uadctl("fit", *small, "--json").json["run"])
    uadctl("report", run)
    page = Page(run / "report" / "index.html")
    assert "Nothing has been measured yet: this run learned the good images and set thresholds." in page.text
    assert "comes from 6 normal images of the training split" in page.text
    assert "tile not measured" in page.text
    assert len(page.drawings) == 1
    assert "6 calibration images from" in page.drawings[0]["aria-label"]


def test_a_single_class_has_no_curves_and_says_why(make_run):
    run = make_run()
    reason = "there is no defect image (4 normal)"
    metrics = {"image_auroc": None, "fp": 2, "fn": 0, "tp": 0, "tn": 2, "miss_rate": None, "false_alarm_rate": 0.5}
    add_unit(run, "tile", IMAGES[:4], metrics=metrics, reasons={"image_auroc": reason, "miss_rate": reason})
    page = Page(report(run))
    assert page.text.count(f"Undefined: {reason}.") == 2
    assert f"tile · vision_patchcore: {reason} (image AUROC, missed)" in page.text
    assert f"Missed: undefined, {reason}." in page.text
    assert "ring" not in page.text
    assert len(page.drawings) == 1


def test_without_a_threshold_there_is_no_verdict(make_run):
    run = make_run()
    why = "the run has no threshold"
    metrics = {"image_auroc": 0.5625, **dict.fromkeys(("tp", "fp", "fn", "tn", "miss_rate"))}
    reasons = dict.fromkeys(("tp", "fp", "fn", "tn", "miss_rate"), why)
    add_unit(run, "tile", metrics=metrics, reasons=reasons, threshold=None)
    page = Page(report(run))
    assert (
        "There is no threshold, and therefore no verdict: 1 training image leaves no other to compare it with."
        in page.text
    )
    assert "All images, the highest score first (8)." in page.text
    assert page.names_of_pictures[:2] == ["test/scratch/001.png", "test/good/003.png"]
    assert "dent 2 – – 3" in page.text


def test_a_threshold_changed_after_measuring_is_said_and_what_it_would_give(make_run):
    run = make_run()
    unit = add_unit(run, "tile")
    image = {"value": 3.0, "method": "conformal", "alpha": 0.2, "n": 20, "source": "good photos"}
    write_json(unit / "thresholds.json", {"image": image, "pixel": None, "scores": [2.0]})
    text = Page(report(run)).text
    assert "The threshold was 10 when this unit was measured." in text
    assert (
        "The threshold has been replaced since, and the verdicts here are those of before. The threshold 3 comes from 20 normal images (source: good photos). "
        "Method: conformal, alpha 0.2. With it: 0 of 4 defect images missed (0.0 %). "
        "4 of 4 normal images called anomalous (100.0 %)." in text
    )


def test_calibrate_leaves_the_origin_of_the_threshold_that_was_measured_with(uadctl, small):
    run = Path(uadctl("bench", *small, "--json").json["run"])
    unit = run / "units/tile/vision_patchcore/0"
    old = json.loads((unit / "thresholds.json").read_text())
    uadctl("calibrate", run, "--alpha", 0.5)
    new = json.loads((unit / "thresholds.json").read_text())
    assert new["image"]["value"] < old["image"]["value"]
    page = Page(report(run))
    source = "comes from 6 normal images of the training split, each scored as if the model had not seen it."
    assert f"The threshold {old['image']['value']:.9g} {source} It leaves at most 1 % of them" in page.text
    assert (
        "The threshold has been replaced since, and the verdicts here are those of before. "
        f"The threshold {new['image']['value']:.9g} {source} It leaves at most 50 % of them" in page.text
    )


def test_a_pixel_threshold_replaced_since_is_said_and_the_contours_stay(make_run, tmp_path):
    run = make_run(root=str(tmp_path / "data"))
    unit = add_unit(run, "tile")
    add_layers(unit, tmp_path / "data" / "tile")
    kinds_of_defect(unit, pixel_threshold=5.0)
    lines = re.findall(r'class="line" d="[^"]+"', report(run).read_text())
    assert len(lines) == 4 + 1  # and one in the legend
    assert "replaced since" not in Page(report(run)).text
    (unit / "thresholds.1.json").write_bytes((unit / "thresholds.json").read_bytes())
    chosen = {"value": 1.5, "method": "conformal", "alpha": 0.2, "n": 20, "source": "validation"}
    limits(unit, pixel={**SCALE, "threshold": 1.5, "sigmas": None, "chosen": chosen})
    said = (
        "The pixel threshold has been replaced since, and the contours and figures of pixels here are those of before. The "
        "pixel threshold 1.5 comes from 20 normal images of the data set's validation split. Method: conformal, alpha "
        "0.2."
    )
    for kept in (True, False):
        if not kept:
            (unit / "thresholds.1.json").unlink()
        page = Page(report(run))
        assert said in page.text
        assert "The threshold has been replaced since" not in page.text
        assert "the tick is the pixel threshold 5." in page.text
        assert re.findall(r'class="line" d="[^"]+"', page.source) == lines
        lies = "The pixel threshold 5 lies 4 standard deviations above" in page.text
        assert lies == kept
    # Both at once.
    limits(unit, image={"value": 3.5})
    text = Page(report(run)).text
    assert "The threshold has been replaced since, and the verdicts here are those of before. The threshold 3.5" in text
    assert said in text
    # A run of before tells no pixel threshold: nothing can be said of it.
    kinds_of_defect(unit, pixel_threshold=None)
    assert "pixel threshold has been replaced" not in Page(report(run)).text


def test_verdicts_of_a_review_threshold_that_is_gone_stay(make_run):
    run = make_run()
    unit = add_unit(run, "tile", review=9.25)
    limits(unit, review={"value": 3.5, "method": "quantile", "alpha": 0.5, "n": 20, "source": "given"})
    page = Page(report(run))
    assert (
        "No other threshold can be tried here: the review threshold that these verdicts were made with was replaced, and "
        "is not among those kept." in page.text
    )
    (data,) = page.galleries
    assert (data["threshold"], data["review"], data["fixed"]) == (10.0, None, True)
    stored = dict(zip(data["names"], data["verdicts"], strict=True))
    assert [name for name, verdict in stored.items() if verdict == "review"] == ["test/good/002.png"]
    assert "test/good/002.png normal, score 9.5 review" in page.text
    # Without any review threshold another can be tried, whether its origin is known or not.
    unit = add_unit(run, "tile")
    limits(unit, image={"value": 3.5})
    page = Page(report(run))
    assert "can be tried here" not in page.text
    assert page.galleries[0]["fixed"] is False


def test_a_run_below_a_name_that_is_not_utf_8_has_links(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 #1"))
    run = begin_run(tmp_path / "plain")
    add_unit(run, "tile")
    (tmp_path / "plain").rename(odd)  # OpenCV, which writes the overlays here, does not take such a name
    run = odd / run.name
    page = Page(report(run, out=tmp_path / "out"))
    links = [a["href"] for a in page.all("a") if "overlays" in a["href"]]
    assert len(links) == len(IMAGES)
    assert links[0].startswith("../caf%E9%20%231/20260101T120000Z-parts-0123abcd/units/tile/")
    for link in links:
        assert (tmp_path / "out" / os.fsdecode(unquote_to_bytes(link))).is_file()


def test_long_facts_are_folded_and_units_lead_to_each_other(make_run):
    run = make_run()
    for category in ("bottle", "tile", "wood"):
        add_unit(run, category)
    page = Page(report(run))
    assert len([a for a in page.all("details") if a.get("class") == "facts"]) == 3
    ways = re.findall(r'<nav class="ways".*?</nav>', page.source, re.S)
    assert [re.findall(r'href="(#[\w-]+)"', one) for one in ways] == [
        ["#unit-2", "#unit-1-images", "#results", "#top"],
        ["#unit-1", "#unit-3", "#unit-2-images", "#results", "#top"],
        ["#unit-2", "#unit-3-images", "#results", "#top"],
    ]
    assert "← bottle → wood Images Results ↑ Top" in page.text


def test_broken_files_are_listed(make_run):
    run = make_run()
    add_unit(run, "tile", broken=[("test/good/009.png", "009.png: cut off")])
    text = Page(report(run)).text
    assert "Files that could not be read: 1 test/good/009.png (test): 009.png: cut off" in text


def test_a_choice_of_categories(make_run, uadctl):
    run = make_run()
    for category in ("bottle", "metal_nut", "wood"):
        add_unit(run, category)
    write_json(run / "metrics.json", {"results": {}, "means": {"vision_patchcore": {"image_auroc": 0.123}}})
    assert "mean 0.1230" in Page(report(run)).text
    uadctl("report", run, "--category", "wood", "--category", "*nut")
    text = Page(run / "report" / "index.html").text
    assert "This page shows 2 of the run's 3 categories, and therefore no means." in text
    assert "bottle" not in text
    assert "0.1230" not in text
    ended = uadctl("report", run, "--category", "wodo", code=2)
    assert ended.err == f"error: {run}: this run has no category wodo\n  It has: bottle, metal_nut, wood\n"


def test_damage_is_named(make_run, tmp_path, uadctl):
    run = make_run()
    unit = add_unit(run, "tile")
    scores = unit / "scores.csv"
    whole = scores.read_text()
    scores.write_text(whole.replace("9.5,", "banana,"))
    with pytest.raises(RunError) as caught:
        report(run)
    assert str(caught.value) == f"{scores}: damaged: line 4: could not convert string to float: 'banana'"
    for written, column, found in (
        ("9.5,", "score", "nan"),
        ("9.5,", "score", "-inf"),
        (",10.0,", "threshold", "1e999"),
    ):
        cells = f",{found}," if column == "threshold" else f"{found},"
        scores.write_text(whole.replace(written, cells))
        ended = uadctl("report", run, code=2)
        line = 2 if column == "threshold" else 4
        assert ended.err == (f"error: {scores}: damaged: line {line}: {column} is {found}; expected a finite number\n")
    scores.write_text("a,b\n")
    with pytest.raises(RunError) as caught:
        report(run)
    assert str(caught.value) == f"{scores}: damaged: expected the columns {', '.join(SCORE_COLUMNS)}"
    scores.write_text(whole)
    write_json(unit / "thresholds.json", {"image": {"value": "x", "method": "quantile"}, "scores": []})
    ended = uadctl("report", run, code=2)
    assert ended.err == (
        f"error: {unit / 'thresholds.json'}: damaged: Expected `float | null`, got `str` - at `$.image.value`\n"
    )
    ended = uadctl("report", tmp_path / "nothing", code=2)
    assert ended.err == f"error: {tmp_path / 'nothing'}: no such run folder or spec\n"


def test_a_damaged_overlay_and_a_missing_one_do_not_stop_the_page(make_run):
    run = make_run()
    unit = add_unit(run, "tile")
    (unit / "overlays/test/dent/000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (unit / "overlays/test/scratch/000.png").unlink()
    page = Page(report(run))
    assert len(page.all("img")) == 6
    assert "missed the overlay is damaged: " in page.text
    assert "missed no overlay was drawn" in page.text


def test_an_overlay_outside_of_the_unit_is_not_shown(make_run, tmp_path):
    run = make_run()
    unit = add_unit(run, "tile", IMAGES[:1])
    parts.write(tmp_path / "secret.png", parts.surface(1))
    scores = unit / "scores.csv"
    scores.write_text(scores.read_text().replace("maps/test/good/000.tiff", "maps/../../../../../../secret.tiff"))
    assert Page(report(run)).all("img") == []


def test_pictures_are_reduced_to_their_share(tmp_path):
    rng = np.random.default_rng(0)
    file = parts.write(tmp_path / "a.png", rng.integers(0, 256, (400, 1200, 3), dtype=np.uint8))

    def decoded(address: str) -> tuple[int, np.ndarray]:
        data = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
        return len(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    size, picture = decoded(thumbnail(file, most_bytes=10**7))
    assert picture.shape == (320, MOST_WIDTH, 3)
    less, picture = decoded(thumbnail(file, most_bytes=size // 2))
    assert less <= size // 2
    assert picture.shape[1] <= MOST_WIDTH
    red = parts.write(tmp_path / "red.png", np.full((20, 30, 3), (250, 10, 10), np.uint8))
    _, picture = decoded(thumbnail(red, most_bytes=10**6))
    assert picture.shape == (20, 30, 3)
    assert np.abs(picture.reshape(-1, 3).mean(axis=0) - (10, 10, 250)).max() < 6  # OpenCV: BGR


def limits(unit: Path, **changed: object) -> None:
    """Put these into a unit's thresholds.json; those of "image" beside what it says there."""
    document = json.loads((unit / "thresholds.json").read_text())
    image = {**document["image"], **changed.pop("image", {})}
    write_json(unit / "thresholds.json", {**document, **changed, "image": image})


def test_a_conformal_threshold_says_what_it_promises(make_run):
    run = make_run()
    unit = add_unit(run, "tile")
    promise = "at most 1 % of new normal images are called anomalous, if they are like these"
    limits(unit, image={"method": "conformal", "n": 120, "source": "validation", "delta": 0.05, "guarantee": promise})
    assert (
        "The threshold 10 comes from 120 normal images of the data set's validation split. Method: conformal, alpha "
        f"0.01, delta 0.05. Promised: {promise}." in Page(report(run)).text
    )


@pytest.mark.parametrize(
    ("p_value", "said"),
    [(0.4, "the tail fits them"), (0.01, "the tail hardly fits them: do not trust this threshold")],
)
def test_a_threshold_of_extreme_values_says_how_well_its_tail_fits(make_run, p_value, said):
    run = make_run()
    tail = {"start": 7.5, "n": 30, "shape": 0.125, "scale": 1.5, "statistic": 0.75, "p_value": p_value}
    limits(add_unit(run, "tile"), image={"method": "evt", "n": 200, "source": "holdout", "tail": tail})
    assert (
        "Method: evt, alpha 0.01. A generalised Pareto tail of the 30 scores above 7.5 (shape 0.125, scale 1.5); "
        f"goodness of fit: Anderson-Darling 0.75, p = {p_value}: {said}." in Page(report(run)).text
    )


def test_a_threshold_chosen_with_labelled_defects_says_what_it_rests_on(make_run):
    run = make_run()
    unit = add_unit(run, "tile")
    labelled = {"objective": "cost", "cost_miss": 50.0, "cost_false_alarm": 1.0, "defects": 12, "separable": True}
    labelled |= {"folds": 5, "miss_rate": 0.25, "false_alarm_rate": 0.05}
    few = {"method": "few-shot", "alpha": None, "source": "given", "labelled": labelled}
    limits(unit, image=few)
    assert (
        "comes from 20 normal images given to uadctl calibrate and 12 labelled defect images. Method: few-shot. It makes "
        "cost best (a miss costs 50, a false alarm 1). It is the middle of the gap between the two: every labelled "
        "defect scored above every normal image. In 5-fold cross-validation 25.0 % of the defects were missed and 5.0 % "
        "of the normal images called anomalous." in Page(report(run)).text
    )
    labelled |= {"objective": "f1", "cost_miss": None, "defects": 1, "separable": False, "folds": 0, "miss_rate": None}
    limits(unit, image=few)
    assert (
        "and 1 labelled defect image. Method: few-shot. It makes f1 best. There were too few images for a "
        "cross-validation." in Page(report(run)).text
    )


def test_a_review_threshold_and_what_is_expected(make_run):
    run = make_run()
    unit = add_unit(run, "tile", review=9.25)
    normal = {"good": 0.95, "review": 0.04, "anomaly": 0.01}
    limits(unit, expected={"normal": normal, "defect": {"good": 0.1, "review": 0.0, "anomaly": 0.9}})
    page = Page(report(run))
    for text in (
        "2 of 4 defect images missed (50.0 %).",
        "For review: 0 defect images (of those missed) and 1 normal image.",
        "The review threshold 9.25 comes from 20 normal images of the training split, each scored as if the model had "
        "not seen it. It leaves at most 5 % of them at or above it. From it up to the threshold the verdict is review: "
        "worth a look. A defect there counts as missed.",
        "Expected of new normal images: 95.0 % good, 4.0 % review, 1.0 % anomaly. Of defects like those labelled: 10.0 % "
        "good, 90.0 % anomaly.",
        "A defect whose verdict is review counts as missed.",
        "test/good/002.png normal, score 9.5 review",
    ):
        assert text in page.text
    assert "threshold 10; review threshold 9.25" in page.drawings[2]["aria-label"]
    assert (page.galleries[0]["threshold"], page.galleries[0]["review"]) == (10.0, 9.25)
    plain = Page(report(add_unit(run, "tile").parents[3])).text
    assert "review" not in plain.lower()


def test_a_review_threshold_that_was_changed_since_is_said(make_run):
    run = make_run()
    unit = add_unit(run, "tile", review=9.25)
    (unit / "thresholds.1.json").write_bytes((unit / "thresholds.json").read_bytes())
    review = {"value": 3.5, "method": "quantile", "alpha": 0.5, "n": 20, "source": "given"}
    limits(unit, review=review)
    page = Page(report(run))
    assert page.galleries[0]["review"] == 9.25
    assert "The review threshold 9.25 comes from" in page.text
    assert "The threshold has been replaced since, and the verdicts here are those of before." in page.text
    assert "The review threshold 3.5 comes from 20 normal images given to uadctl calibrate." in page.text
    (unit / "thresholds.1.json").unlink()
    page = Page(report(run))
    assert page.galleries[0]["review"] is None
    assert "The threshold was 10 when this unit was measured." in page.text


def test_the_threshold_of_maps_says_where_it_comes_from(make_run):
    run = make_run()
    unit = add_unit(run, "tile")
    limits(unit, pixel=SCALE)
    assert (
        "The pixel threshold 5 lies 4 standard deviations above the mean pixel of normal maps."
        in Page(report(run)).text
    )
    limits(unit, pixel={**SCALE, "sigmas": None})
    assert "The pixel threshold 5 was given." in Page(report(run)).text
    chosen = {"value": 5.0, "method": "quantile", "alpha": 0.05, "n": 20, "source": "holdout"}
    limits(unit, pixel={**SCALE, "sigmas": None, "chosen": chosen, "review": {**chosen, "value": 4.0, "alpha": 0.1}})
    text = Page(report(run)).text
    assert "The pixel threshold 5 comes from 20 normal images of the training split, held out from the model." in text
    assert "The pixel review threshold 4 comes from 20 normal images" in text


def test_the_gate_shows_regressions_and_models_against_each_other():
    """With stand-ins of what gate.json holds: `uadctl.runs.gate.Compared` and `Pair`."""
    from uadctl.report.html import _gate

    one = Compared(
        category="tile",
        label="a",
        metric="aupro_30",
        baseline=0.9,
        value=0.85,
        difference=-0.05,
        interval=(-0.07, -0.03),
        tolerance=0.002,
        p_value=0.04,
        reason="aupro_30 fell",
    )
    other = dataclasses.replace(one, metric="miss_rate", difference=None, interval=None, p_value=None, reason=None)
    pair = SimpleNamespace(metric="image_auroc", label="a", other="b", difference=0.01, better=5, worse=1, equal=0)
    pair.adjusted, pair.reason = 0.03125, None
    few = SimpleNamespace(**{**vars(pair), "adjusted": None, "reason": "a signed-rank test needs 6 categories"})
    limit = SimpleNamespace(category=None, label="a", reason="image_auroc is 0.5, the least allowed is 0.9")
    gate = SimpleNamespace(limits=2, broken=(limit,), baseline="old.json", regressions=(one, other), models=(pair, few))
    gate.passed, gate.accepted, gate.worse = False, False, (one,)
    found = _gate(SimpleNamespace(gate=gate))
    assert found.said == "1 of 2 comparisons with the baseline is worse; 1 of 2 limits hold:"
    assert (found.passed, found.accepted) == (False, "")
    assert found.broken == (("mean / a", "image_auroc is 0.5, the least allowed is 0.9"),)
    assert found.baseline == "old.json"
    assert [one.broken for one in found.regressions] == ["regression", ""]
    first, second = found.regressions
    assert (first.where, first.metric, first.baseline, first.value) == (
        "tile / a",
        "AUPRO to FPR 0.30",
        "0.9000",
        "0.8500",
    )
    assert (first.difference, first.interval) == ("−0.0500", "−0.0700 to −0.0300")
    assert first.verdict == "aupro_30 fell; signed-rank p = 0.04"
    assert (second.difference, second.interval, second.verdict) == ("–", "–", "no worse (tolerance 0.002)")
    assert [(p.models, p.difference, p.counts, p.p_value) for p in found.pairs] == [
        ("a against b", "+0.0100", "5 better, 1 worse, 0 equal", "p = 0.0312"),
        ("a against b", "+0.0100", "5 better, 1 worse, 0 equal", "a signed-rank test needs 6 categories"),
    ]


def test_a_gate_is_shown(make_run):
    run = make_run()
    add_unit(run, "tile")
    broken = [{"category": "tile", "label": "vision_patchcore", "reason": "miss_rate is 0.5"}]
    write_json(run / "gate.json", {"passed": False, "limits": 3, "broken": broken})
    text = Page(report(run)).text
    assert "Failed. 2 of 3 limits hold: tile / vision_patchcore : miss_rate is 0.5" in text
    # Who reads only the first lines must know.
    assert "The gate failed: 2 of 3 limits hold; see Gate below. The rule:" in text
    write_json(run / "gate.json", {"passed": True, "limits": 3, "broken": []})
    text = Page(report(run)).text
    assert "Gate Passed. 3 of 3 limits hold." in text
    assert "The gate failed" not in text


def test_a_regression_that_was_accepted_is_no_failure(make_run):
    run = make_run()
    add_unit(run, "tile")
    fell = {"category": "tile", "label": "vision_patchcore", "metric": "image_auroc", "baseline": 0.9, "value": 0.5}
    fell |= {"difference": -0.4, "interval": [-0.5, -0.3], "tolerance": 0.002, "p_value": None, "reason": "it fell"}
    gate = {"passed": True, "accepted": True, "limits": 0, "baseline": "old.json", "regressions": [fell]}
    write_json(run / "gate.json", gate)
    page = Page(report(run))
    assert (
        "Gate Passed. This run was made the new baseline. What is worse than in the old one was accepted by that, and "
        "fails nothing. 1 of 1 comparisons with the baseline is worse." in page.text
    )
    assert "Accepted: it fell" in page.text
    assert "Regression:" not in page.text
    assert "The gate failed" not in page.text
    assert [a for a in page.all("strong") if a.get("class") == "wrong"] == []
    write_json(run / "gate.json", {**gate, "passed": False, "accepted": False})
    page = Page(report(run))
    assert "The gate failed: 1 of 1 comparisons with the baseline is worse; see Gate below." in page.text
    assert "Gate Failed. 1 of 1 comparisons with the baseline is worse." in page.text
    assert "Regression: it fell" in page.text
    assert len([a for a in page.all("strong") if a.get("class") == "wrong"]) == 2
    better = {**fell, "difference": 0.1, "reason": None}
    write_json(run / "gate.json", {**gate, "regressions": [better]})
    text = Page(report(run)).text
    assert "Passed. This run was made the new baseline. 0 of 1 comparisons with the baseline are worse." in text


def test_the_whole_spec_is_there(make_run):
    run = make_run()
    text = "# <script>parts</script>"
    (run / "spec.toml").write_text((run / "spec.toml").read_text() + text)
    page = Page(report(run))
    assert "The whole spec, with every default" in page.text
    assert text in page.text
    assert len(page.all("script")) == 2


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb: WCAG 2.2."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_text_is_readable_in_light_and_dark():
    style = (Path(charts.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r"\{([^{}]*--paper: [^{}]*)\}", style)
    themes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text)) for text in blocks]
    assert len(themes) == 3  # light; dark by the system; dark by the button
    assert themes[1] == themes[2]
    assert len(themes[0]) == len(themes[1]) == 15
    texts = [(text, ground) for text in ("ink", "muted", "link", "bad", "review") for ground in ("paper", "raised")]
    texts += [("alert-ink", "alert")]
    # Lines, bars and frames that mean something: 3 to 1.
    shapes = [(shape, "paper") for shape in ("normal", "defect", "calibration", "limit", "edge")]
    for theme in themes:
        for pairs, least in ((texts, 4.5), (shapes, 3.0)):
            for one, other in pairs:
                high, low = sorted((luminance(theme[one]), luminance(theme[other])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= least, (one, other)


def test_data_cannot_break_out_of_their_element():
    assert as_data({"a": "</script><!--&"}) == '{"a":"\\u003c/script\\u003e\\u003c!--\\u0026"}'
    assert json.loads(as_data([0.1 + 0.2, 1e-300, "\u2028\u202e"])) == [0.1 + 0.2, 1e-300, "\u2028\u202e"]
    with pytest.raises(ValueError, match="Out of range float values"):
        as_data([float("nan")])


def test_no_torch_is_loaded(make_run):
    run = make_run()
    add_unit(run, "tile")
    code = (
        "import sys\nfrom uadctl.cli.app import app\n"
        f"try: app(['report', {str(run)!r}])\nexcept SystemExit as end: print('CODE', end.code)\n"
        "print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "CODE 0" in done.stdout
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert {"matplotlib", "jinja2", "cv2"} <= loaded  # the check can see what is loaded
    assert loaded & {"torch", "torchvision", "safetensors", "tifffile", "sklearn"} == set()


def test_a_moved_folder_keeps_its_links(make_run, tmp_path):
    run = make_run()
    add_unit(run, "tile")
    report(run)
    moved = tmp_path / "stick" / "run"
    shutil.copytree(run, moved)
    links = Page(moved / "report/index.html").links_to_overlays
    assert len(links) == len(IMAGES)
    assert all((moved / "report" / link).is_file() for link in links)


def test_a_bin_edge_lies_on_the_threshold():
    for values, threshold in (
        ([1.0, 2.0, 5.0], 3.0),
        ([1.0, 2.0], 40.0),
        ([7.0], None),
        ([7.0, 7.0], 7.0),
        ([0.0], -3),
    ):
        edges = charts.score_bins(np.array(values), threshold)
        assert edges[0] < min(values)
        assert edges[-1] > max(values)
        assert np.all(np.diff(edges) > 0)
        assert len(edges) < 60
        if threshold is not None:
            assert threshold in edges


def test_charts_take_their_colours_from_the_page():
    curve = image_curve([0, 1, 0, 1], [1, 2, 3, 4])
    at = charts.AtThreshold(0.5, 0.0, None)
    drawn = charts.roc_chart(curve, at, key="a", alt="<&>") + charts.precision_recall_chart(curve, at, key="b", alt="x")
    assert "var(--ink)" in drawn
    assert "var(--limit)" in drawn
    assert re.findall(r"#[0-9a-fA-F]{6}\b", drawn) == []
    assert 'aria-label="&lt;&amp;&gt;"' in drawn
    assert "font-family" not in drawn
    assert "<metadata>" not in drawn  # a date would be in it


@pytest.mark.parametrize(
    ("score", "threshold", "text"),
    [
        (21.709999084472656, 21.420875549316406, "21.71"),
        (21.420873641967773, 21.420875549316406, "21.42087"),
        (21.420877456665039, 21.420875549316406, "21.421"),
        (21.420875549316406, 21.420877456665039, "21.420876"),
        (21.420875549316406, 21.420875549316406, "21.421"),
        (3.0, None, "3"),
    ],
)
def test_a_score_shows_on_which_side_it_lies(score, threshold, text):
    assert score_text(score, threshold) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0"), (1, "100.0"), (0.5, "50.0"), (1 / 3000, "0.03"), (2999 / 3000, "99.97")]
)
def test_a_share_is_never_rounded_to_none_or_all(share, text):
    assert percent(share) == f"{text}\N{NO-BREAK SPACE}%"


def test_the_curve_of_four_images_by_hand():
    curve = image_curve([0, 1, 0, 1], [1.0, 2.0, 2.0, 3.0])
    assert curve.thresholds.tolist() == [3.0, 2.0, 1.0]
    assert curve.tp.tolist() == [1, 2, 2]
    assert curve.fp.tolist() == [0, 1, 2]
    assert curve.recall.tolist() == [0.5, 1.0, 1.0]
    assert curve.false_alarm_rate.tolist() == [0.0, 0.5, 1.0]
    assert curve.precision.tolist() == [1.0, 2 / 3, 0.5]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=2, max_size=40))
def test_the_curves_are_those_of_scikit_learn(images):
    labels = [int(defect) for defect, _ in images]
    scores = [score / 8 for _, score in images]
    if len(set(labels)) == 1:
        with pytest.raises(ValueError, match=r"^the curves are undefined: there is no (defect|normal) image "):
            image_curve(labels, scores)
        return
    curve = image_curve(labels, scores)
    alarms, found, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_alarm_rate, alarms[1:])
    np.testing.assert_allclose(curve.recall, found[1:])
    np.testing.assert_array_equal(curve.thresholds, thresholds[1:])
    precision, recall, _ = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(curve.precision[::-1], precision[:-1])
    np.testing.assert_allclose(curve.recall[::-1], recall[:-1])
    area = np.trapezoid([0, *curve.recall], [0, *curve.false_alarm_rate])
    assert area == pytest.approx(compute_image_auroc(labels, scores))
    assert np.sum(np.diff([0, *curve.recall]) * curve.precision) == pytest.approx(compute_image_ap(labels, scores))
