"""`uadctl report RUN RUN`: what differs between runs, in settings, figures and verdicts."""

from __future__ import annotations

import hashlib
import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import parts
import pytest
import run_by_hand
from made_runs import IMAGES, METRICS, add_unit, fail_unit, make_run, write_json
from markdown_it import MarkdownIt

from uadctl.errors import RunError
from uadctl.imaging.files import write_map
from uadctl.report import comparison, pairing
from uadctl.report.comparison import compare_runs, markdown_of
from uadctl.report.pairing import KINDS, compare, read_runs
from uadctl.report.pictures import originals
from uadctl.report.wording import MINUS, change, interval


class Page(HTMLParser):
    """Elements with their attributes, and the text, of a page that must be well formed."""

    VOID = ("meta", "img", "br", "path", "input")

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """Two runs of one category each, the second with the same scores at a threshold of 20."""
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    add_unit(first)
    add_unit(second, threshold=20.0)
    return first, second


def quantiles(before, after):
    """What `paired_interval` promises, in plain words."""
    differences = np.asarray(after) - np.asarray(before)
    if np.isnan(differences).all():
        return None
    low, high = np.nanquantile(differences, (0.025, 0.975)).tolist()
    return low, high


@pytest.fixture
def paired(monkeypatch):
    monkeypatch.setattr(pairing, "paired_interval", quantiles)


def replicates(*values: float | None, images: str = "a", metric: str = "image_auroc") -> dict[str, object]:
    """images: any name of what was drawn from."""
    drawn = hashlib.sha256(images.encode()).hexdigest()
    return {"images": drawn, "resamples": len(values), "metrics": {metric: list(values)}}


def block(runs, category="tile"):
    return next(b for b in compare(read_runs(runs)).blocks if b.category == category)


# ---- what is matched


def test_the_verdicts_of_one_image_by_kind(tmp_path):
    before, after = make_run(tmp_path / "before"), make_run(tmp_path / "after")
    path = "test/x/{:03}.png".format
    truth = {1: "dent", 0: "good", -1: "?"}
    # (label, score before, score after, kind); anomalous from 10, review from 5
    cases = [
        (1, 12.0, 9.0, "newly missed"),
        (1, 12.0, 1.0, "newly missed"),
        (1, 9.0, 10.0, "newly found"),
        (0, 4.0, 11.0, "new false alarm"),
        (0, 11.0, 6.0, "false alarm no longer"),
        (0, 4.0, 6.0, "other"),
        (1, 6.0, 4.0, "other"),
        (-1, 4.0, 11.0, "other"),
        (1, 12.0, 11.0, None),
        (0, 4.0, 3.0, None),
    ]
    images = [[(path(i), c[0], truth[c[0]], c[side]) for i, c in enumerate(cases)] for side in (1, 2)]
    add_unit(before, images=images[0], review=5.0)
    add_unit(after, images=images[1], review=5.0)
    found = compare(read_runs([before, after]))
    expected = [(path(i), c[3]) for i, c in enumerate(cases) if c[3] is not None]
    assert [(c.before.path, c.kind) for c in found.changes] == sorted(expected, key=lambda e: KINDS.index(e[1]))
    assert {(c.before.path, c.before.score, c.after.score) for c in found.changes} == {
        (path(i), c[1], c[2]) for i, c in enumerate(cases) if c[3] is not None
    }
    (matched,) = found.matched
    assert (matched.both, matched.changed, matched.only_before, matched.only_after) == (10, 8, 0, 0)


def test_images_of_one_run_only_are_counted_and_never_matched(tmp_path):
    before, after = make_run(tmp_path / "before"), make_run(tmp_path / "after")
    extra = ("test/dent/009.png", 1, "dent", 2.0)
    unread = ("test/dent/001.png", 1, "dent", None)
    add_unit(before, images=IMAGES)
    add_unit(after, images=[IMAGES[0], IMAGES[1], unread, extra])
    found = compare(read_runs([before, after]))
    (matched,) = found.matched
    assert (matched.both, matched.changed, matched.only_before, matched.only_after) == (2, 0, 2, 1)
    assert "0 2 in A, 1 in B" in Page(compare_runs([before, after])).text


def test_an_image_is_its_category_and_path(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    add_unit(first, "tile")
    add_unit(second, "wood", threshold=20.0)
    found = compare(read_runs([first, second]))
    assert found.matched == ()
    assert found.notices == ("B has no tile.", "A has no wood.")


def test_a_truth_that_changed_is_no_error_that_changed(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    add_unit(first, images=[("test/x/0.png", 1, "dent", 4.0)])
    add_unit(second, images=[("test/x/0.png", 0, "good", 11.0)])
    assert [c.kind for c in compare(read_runs([first, second])).changes] == ["other"]
    assert "defect: dent in A, normal in B" in Page(compare_runs([first, second])).text


PADIM = '[model]\nname = "vision_padim"\n'
BOTH = '[[model]]\nname = "vision_patchcore"\n[[model]]\nname = "vision_padim"\n'


def test_the_only_models_of_two_runs_are_matched_whatever_they_are_called(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", models=PADIM)
    add_unit(first)
    add_unit(second, label="vision_padim", threshold=20.0)
    found = compare(read_runs([first, second]))
    assert [b.of_each for b in found.blocks] == [("vision_patchcore", "vision_padim")]
    assert found.notices == ("vision_padim of B is held against vision_patchcore of A.",)
    assert [c.kind for c in found.changes] == ["false alarm no longer"]


def test_models_are_matched_by_label_where_one_is_common(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", models=BOTH)
    add_unit(first)
    for label in ("vision_patchcore", "vision_padim"):
        add_unit(second, label=label)
    found = compare(read_runs([first, second]))
    assert [(b.label, b.of_each) for b in found.blocks] == [
        ("vision_patchcore", ("vision_patchcore", "vision_patchcore")),
        ("vision_padim", (None, "vision_padim")),
    ]
    assert found.blocks[1].lines[0].values == (None, 0.75)
    assert [m.label for m in found.matched] == ["vision_patchcore"]


def test_a_single_model_is_matched_with_its_own_label_among_several(tmp_path):
    first, second = make_run(tmp_path / "first", models=BOTH), make_run(tmp_path / "second", models=PADIM)
    for label in ("vision_patchcore", "vision_padim"):
        add_unit(first, label=label)
    add_unit(second, label="vision_padim")
    found = compare(read_runs([first, second]))
    assert [b.of_each for b in found.blocks] == [("vision_patchcore", None), ("vision_padim", "vision_padim")]
    assert found.notices == ()


def test_models_without_a_common_label_are_not_guessed(tmp_path):
    other = '[[model]]\nname = "vision_ecod"\n[[model]]\nname = "vision_copod"\n'
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", models=other)
    add_unit(first)
    for label in ("vision_ecod", "vision_copod"):
        add_unit(second, label=label)
    found = compare(read_runs([first, second]))
    assert found.notices == (
        "A and B have no label in common, so nothing says which of their models belong together: they are not held "
        "against each other.",
    )
    assert [b.of_each for b in found.blocks] == [
        ("vision_patchcore", None),
        (None, "vision_ecod"),
        (None, "vision_copod"),
    ]
    assert found.matched == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ((0, 1), (1, 2), (1, 1)),
        ((0, 1), (7,), (0, 7)),
        ((0,), (7,), (0, 7)),
        ((3,), (2, 3), (3, 3)),
        ((4, 5), (9, 8), (4, 8)),
        ((3,), (3,), None),
    ],
    ids=str,
)
def test_the_seeds_whose_verdicts_are_compared_are_said(tmp_path, ours, theirs, said):
    runs = []
    for name, seeds, threshold in (("first", ours, 10.0), ("second", theirs, 20.0)):
        runs.append(make_run(tmp_path / name, seeds=list(seeds)))
        for seed in seeds:
            add_unit(runs[-1], seed=seed, threshold=threshold)
    found = compare(read_runs(runs))
    used = said or (3, 3)
    assert [matched.seeds for matched in found.matched] == [used]
    assert [tuple(unit.folder.seed for unit in one.units) for one in found.changes] == [used]
    expected = "The verdicts compared are those of one seed of each run: A seed {} against B seed {}."
    assert found.notices == (() if said is None else (expected.format(*said),))


def test_seeds_that_are_not_the_same_in_every_category_are_said_with_it(tmp_path):
    first, second = make_run(tmp_path / "first", seeds=[0, 1]), make_run(tmp_path / "second", seeds=[0, 1])
    for category, seed in (("tile", 0), ("tile", 1), ("wood", 1)):
        add_unit(first, category, seed=seed)
        add_unit(second, category, seed=seed)
    assert compare(read_runs([first, second])).notices == (
        "The verdicts compared are those of one seed of each run: A seed 0 against B seed 0 (tile).",
    )


def test_of_several_seeds_the_first_in_both_is_compared(tmp_path):
    first, second = make_run(tmp_path / "first", seeds=[0, 1]), make_run(tmp_path / "second", seeds=[1, 2])
    for seed, auroc in ((0, 0.5), (1, 0.7)):
        add_unit(first, seed=seed, metrics={**METRICS, "image_auroc": auroc})
    add_unit(second, seed=1, threshold=20.0)
    add_unit(second, seed=2, threshold=5.0)
    found = compare(read_runs([first, second]))
    assert [(c.units[1].folder.seed, c.after.threshold) for c in found.changes] == [(1, 20.0)]
    (line,) = [line for line in found.blocks[0].lines if line.metric == "image_auroc"]
    assert line.values == (pytest.approx(0.6), 0.75)
    assert "With several seeds, a figure is the mean over them." in Page(compare_runs([first, second])).text


# ---- settings


def test_only_keys_that_differ_are_shown(tmp_path):
    params = "[model.params]\ncoreset_ratio = {}\n".format
    first = make_run(tmp_path / "first", more=params(0.1) + "[preprocess]\nsize = 128\n")
    second = make_run(tmp_path / "second", more=params(0.01) + "[tiling]\nsize = 64\n[preprocess]\nsize = 128\n")
    for run in (first, second):
        add_unit(run)
    settings = {s.key: s.values for s in compare(read_runs([first, second])).settings}
    assert settings["model.params.coreset_ratio"] == ("0.1", "0.01")
    assert settings["tiling.size"] == (None, "64")
    assert {key.split(".")[0] for key in settings} == {"model", "tiling"}
    assert "model.params.coreset_ratio 0.1 0.01" in Page(compare_runs([first, second])).text
    assert "tiling.size absent 64" in Page(compare_runs([first, second])).text


def test_equal_specs_in_other_places_do_not_differ(two):
    assert compare(read_runs(two)).settings == ()
    assert "Nothing: the filled specs are the same." in Page(compare_runs(two)).text


# ---- figures


def test_differences_and_the_mean_over_what_all_have_measured(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b", "c")]
    for run, (tile, wood) in zip(runs, ((0.5, 0.7), (0.6, 0.9), (0.5, None)), strict=True):
        add_unit(run, "tile", metrics={"image_auroc": tile})
        add_unit(run, "wood", metrics={"image_auroc": wood}, reasons={} if wood else {"image_auroc": "no defect"})
    found = compare(read_runs(runs))
    mean, tile, wood = found.blocks
    assert (mean.category, mean.over) == (None, ("tile", "wood"))
    assert mean.lines[0].values == (pytest.approx(0.6), pytest.approx(0.75), None)
    assert [a.difference for a in mean.lines[0].against] == [pytest.approx(0.15), None]
    assert mean.reasons == ((), (), (("as in wood", ("image_auroc",)),))
    assert [a.difference for a in tile.lines[0].against] == [pytest.approx(0.1), 0.0]
    assert [a.difference for a in wood.lines[0].against] == [pytest.approx(0.2), None]
    text = Page(compare_runs(runs)).text
    assert "tile image AUROC 0.5000 0.6000 +0.1000 0.5000 0" in text
    assert "C: image AUROC undefined, no defect" in text
    assert "B − A: no interval, as A and B drew no resamples ([metrics] bootstrap is 0)." in text
    assert "C − A: no interval, as A and C drew no resamples ([metrics] bootstrap is 0)." in text
    assert "Without an interval nothing says whether a difference is more than chance." in text


def test_a_category_that_one_lacks_is_in_no_mean(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    for category in ("tile", "wood", "zinc"):
        add_unit(first, category)
    for category in ("tile", "wood"):
        add_unit(second, category)
    found = compare(read_runs([first, second]))
    assert found.blocks[0].over == ("tile", "wood")
    assert found.blocks[-1].states == ("", "no such unit")


@pytest.mark.parametrize(
    ("before", "after", "metric", "clear"),
    [
        ((0.5, 0.6, 0.7), (0.6, 0.7, 0.8), "image_auroc", "better"),
        ((0.6, 0.7, 0.8), (0.5, 0.6, 0.7), "image_auroc", "worse"),
        ((0.5, 0.6, 0.7), (0.6, 0.5, 0.7), "image_auroc", None),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "image_auroc", None),
        ((0.5, 0.6, 0.7), (0.6, 0.7, 0.8), "miss_rate", "worse"),
        ((0.6, 0.7, 0.8), (0.5, 0.6, 0.7), "false_alarm_rate", "better"),
        ((0.6, 0.7, 0.8), (0.5, 0.6, 0.7), "precision", "worse"),
    ],
)
@pytest.mark.usefixtures("paired")
def test_a_mark_where_the_interval_lies_on_one_side_of_0(tmp_path, before, after, metric, clear):
    runs = []
    for name, values in (("first", before), ("second", after)):
        run = make_run(tmp_path / name)
        add_unit(run, metrics={metric: values[1]}, replicates=replicates(*values, metric=metric))
        runs.append(run)
    (against,) = block(runs).lines[0].against
    assert against.interval == pytest.approx(quantiles(before, after))
    assert against.clear == clear
    page = Page(compare_runs(runs))
    marks = {"better": "▲ better", "worse": "▼ worse"}
    legend = page.text.index("Below a difference:")
    assert [word for word in marks.values() if word in page.text[:legend]] == [marks[clear] for _ in (0,) if clear]


@pytest.mark.usefixtures("paired")
def test_the_interval_of_a_mean_resamples_each_category_by_itself_and_keeps_the_runs_in_pairs(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    for category, before, after in (("tile", (0.2, 0.4), (0.6, 0.6)), ("wood", (0.5, 0.1), (0.5, 0.9))):
        add_unit(first, category, replicates=replicates(*before, images=category))
        add_unit(second, category, replicates=replicates(*after, images=category))
    (against,) = block([first, second], None).lines[0].against
    # The second category's resamples are moved on by one: draws of the same number are the same in every category.
    assert against.interval == pytest.approx(quantiles([0.15, 0.45], [0.75, 0.55]))


@pytest.mark.usefixtures("paired")
def test_seeds_are_averaged_resample_by_resample(tmp_path):
    first, second = make_run(tmp_path / "first", seeds=[0, 1]), make_run(tmp_path / "second")
    for seed, values in ((0, (0.2, 0.4)), (1, (0.4, 0.8))):
        add_unit(first, seed=seed, replicates=replicates(*values))
    add_unit(second, replicates=replicates(0.5, None))
    (against,) = block([first, second]).lines[0].against
    assert against.interval == pytest.approx(quantiles([0.3, 0.6], [0.5, np.nan]))


BOOTSTRAP = "[metrics]\nbootstrap = 200\n"
NONE = "no resamples ([metrics] bootstrap is 0)"


@pytest.mark.parametrize(
    ("theirs", "more", "why"),
    [
        (None, "", f"B drew {NONE}"),
        (None, BOOTSTRAP, "B kept no resamples (before uadctl 0.8 none were)"),
        (replicates(0.5, 0.6, images="b"), "", "A and B were not measured on the same images"),
        (replicates(0.5, 0.6, metric="image_ap"), "", "the resamples of B do not have it"),
        (replicates(None, None), "", "fewer than half of the resamples define it in both"),
    ],
    ids=["none", "before 0.8", "other images", "other metric", "undefined"],
)
def test_no_interval_without_the_same_resamples_and_why(tmp_path, theirs, more, why):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", more=more)
    of = {"metrics": {"image_auroc": 0.5}}
    add_unit(first, replicates=replicates(0.5, 0.6), **of)
    add_unit(second, replicates=theirs, **of)
    (against,) = block([first, second]).lines[0].against
    assert (against.difference, against.interval, against.clear, against.unpaired) == (0.0, None, None, why)
    said = f"B {MINUS} A: no interval, as {why}."
    assert compare(read_runs([first, second])).intervals == (said,)
    page = Page(compare_runs([first, second])).text
    assert said in page
    assert "Without an interval nothing says whether a difference is more than chance." in page


def test_a_run_of_fewer_resamples_is_compared_by_those_of_both(tmp_path, paired):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    of = {"metrics": {"image_auroc": 0.5}}
    for category in ("tile", "wood"):
        add_unit(first, category, replicates=replicates(0.1, 0.2, 0.9), **of)
        add_unit(second, category, replicates=replicates(0.5, 0.7), **of)
    found = compare(read_runs([first, second]))
    assert [b.category for b in found.blocks] == [None, "tile", "wood"]
    of_mean, *of_categories = found.blocks
    for one in of_categories:
        assert one.lines[0].against[0].interval == pytest.approx(quantiles([0.1, 0.2], [0.5, 0.7]))
    # Cut to what both drew before a category is moved on, else the two runs would no longer be in pairs.
    assert of_mean.lines[0].against[0].interval == pytest.approx(quantiles([0.15, 0.15], [0.6, 0.6]))
    said = f"B {MINUS} A in tile, wood: A drew 3 resamples and B 2; the intervals rest on the 2 of both."
    assert found.intervals == (said,)
    assert f"- {said}\n" in markdown_of(found)


def test_why_there_is_no_interval_is_told_for_each_pair_of_runs(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b", "c", "d")]
    of = {"metrics": {"image_auroc": 0.5, "image_ap": 0.5}}
    both = {**replicates(0.5, 0.6), "metrics": {"image_auroc": [0.5, 0.6], "image_ap": [0.5, 0.6]}}
    for run, wood in zip(runs, ({}, {"images": hashlib.sha256(b"b").hexdigest()}, None, {}), strict=True):
        add_unit(run, "tile", replicates=replicates(0.5, 0.6) if run == runs[3] else both, **of)
        add_unit(run, "wood", replicates=None if wood is None else {**both, **wood}, **of)
    assert compare(read_runs(runs)).intervals == (
        f"B {MINUS} A in the mean, wood: no interval, as A and B were not measured on the same images.",
        f"C {MINUS} A in the mean, wood: no interval, as C drew {NONE}.",
        f"D {MINUS} A in the mean (image AP), tile (image AP): no interval, as the resamples of D do not have it.",
    )


def test_metrics_that_have_no_interval_anywhere_are_told_without_their_categories(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        for category in ("tile", "wood"):
            add_unit(run, category, metrics={"image_auroc": 0.5, "image_ap": 0.5}, replicates=replicates(0.5, 0.6))
    assert compare(read_runs(runs)).intervals == (
        f"B {MINUS} A for image AP: no interval, as the resamples of A and B do not have it.",
    )


def test_seeds_of_different_images_have_no_resamples(tmp_path):
    first, second = make_run(tmp_path / "first", seeds=[0, 1]), make_run(tmp_path / "second")
    for seed in (0, 1):
        add_unit(first, seed=seed, replicates=replicates(0.5, 0.6, images=str(seed)))
    add_unit(second, replicates=replicates(0.5, 0.6, images="0"))
    (against,) = block([first, second]).lines[0].against
    assert against.unpaired == "A measured different images with different seeds"


def test_damaged_replicates_are_named(two):
    file = two[1] / "units" / "tile" / "vision_patchcore" / "0" / "replicates.json"
    write_json(file, {**replicates(0.5), "resamples": 3})
    with pytest.raises(RunError, match=f"^{re.escape(str(file))}: damaged: image_auroc has 1 values of 3 resamples$"):
        compare(read_runs(two))
    write_json(file, {"images": "a" * 64, "metrics": {}})
    with pytest.raises(RunError, match=f"^{re.escape(str(file))}: damaged: Object missing required field `resamples`$"):
        compare(read_runs(two))


def test_differences_in_words():
    assert change("image_auroc", -0.01234) == "\N{MINUS SIGN}0.0123"
    assert change("image_auroc", 0.00001) == "+1e-05"
    assert change("miss_rate", 0.125) == "+12.5 points"
    assert change("image_auroc", 1e-17) == "0"
    assert interval("miss_rate", (-0.1, 0.05)) == "\N{MINUS SIGN}10.0 to +5.0 points"
    assert interval("image_auroc", (0.0, 0.5)) == "0 to +0.5000"


# ---- notices


def test_other_data_are_said_before_any_number(tmp_path):
    first = make_run(tmp_path / "first", data={"tile": {"sha256": "aa"}, "wood": {"sha256": "cc"}})
    second = make_run(tmp_path / "second", data={"tile": {"sha256": "bb"}, "wood": {"sha256": "cc"}})
    for run in (first, second):
        add_unit(run, "tile")
        add_unit(run, "wood")
    text = Page(compare_runs([first, second])).text
    notice = (
        "The data are not the same in A and B: tile (SHA-256 of images, masks and labels, for training and test). "
        "A difference may come from them, not from the model."
    )
    assert text.index(notice) < text.index("The rule:")


def test_runs_that_did_not_come_to_their_end_have_empty_columns(tmp_path):
    first = make_run(tmp_path / "first")
    add_unit(first, "tile")
    add_unit(first, "wood")
    broken = make_run(tmp_path / "broken", status="failed")
    add_unit(broken, "tile")
    fail_unit(broken, "wood", "boom")
    begun = make_run(tmp_path / "begun", status="interrupted")
    (begun / "units" / "tile" / "vision_patchcore" / "0").mkdir(parents=True)
    fitted = make_run(tmp_path / "fitted", verb="fit")
    unit = add_unit(fitted)
    (unit / "metrics.json").unlink()
    (unit / "scores.csv").unlink()
    empty = make_run(tmp_path / "empty", status="started")
    found = compare(read_runs([first, broken, begun, fitted, empty]))
    assert found.notices == (
        "1 of 2 units of B failed; they have no figures.",
        "C was interrupted: 0 of 1 units begun are finished.",
        "C has measured nothing: its columns are empty. uadctl bench measures.",
        "D has measured nothing: its columns are empty. uadctl bench measures.",
        "E is not finished: 0 of 0 units begun are finished.",
        "E has no unit to compare: its columns are empty.",
        "C has no wood.",
        "D has no wood.",
    )
    tile, wood = found.blocks
    assert tile.states == ("", "", "not finished", "not measured", "no such unit")
    assert wood.states == ("", "failed", "no such unit", "no such unit", "no such unit")
    assert tile.lines[0].values == (0.75, 0.75, None, None, None)
    text = Page(compare_runs([first, broken, begun, fitted, empty])).text
    assert "image AUROC 0.7500 0.7500 0 – – – – – –" in text
    assert "C: not finished" in text


def test_a_threshold_that_was_replaced_since_is_said(two):
    unit = two[1] / "units" / "tile" / "vision_patchcore" / "0"
    (unit / "thresholds.1.json").write_bytes((unit / "thresholds.json").read_bytes())
    write_json(unit / "thresholds.json", {"image": {"value": 1.0, "method": "quantile"}, "scores": []})
    assert compare(read_runs(two)).notices == (
        "Thresholds of B have been replaced since it was measured; verdicts and figures are those of before.",
    )


# ---- the page


def test_the_page_shows_both_pictures_scores_and_thresholds(two, tmp_path):
    file = compare_runs(two)
    assert file == two[1] / "report" / "comparison.html"
    page = Page(file)
    assert "False alarms no longer (1)" in page.text
    said = "test/good/001.png tile , normal A : test/good/001.png anomaly (false alarm) tile , normal , score 12, threshold 10"
    assert said in page.text
    pictures = page.all("img")
    assert len(pictures) == 2
    assert pictures[0]["alt"] == (
        "test/good/001.png with the anomaly map of A; normal; score 12; anomaly (false alarm)"
    )
    assert [a["data-outcome"] for _, a in page.elements if "data-outcome" in a] == ["false alarm", "good"]
    links = [a["href"] for a in page.all("a") if "overlays" in (a["href"] or "")]
    assert len(links) == 2
    assert all((file.parent / link).is_file() for link in links if link)
    assert "tile B 4 0 0 0 1 0 0" in page.text


def test_the_page_is_closed_and_the_same_twice(two):
    file = compare_runs(two)
    before = file.read_bytes()
    assert compare_runs(two).read_bytes() == before
    page = Page(file)
    assert {name for name, _ in page.elements} & {"link", "iframe", "object", "embed", "base"} == set()
    assert [a.get("type") for a in page.all("script")] == ["application/json", None]
    assert [a for a in page.all("img") if not a["src"].startswith("data:image/jpeg;base64,")] == []
    outside = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href") and v and "://" in v]
    assert outside == []
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    only = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-[A-Za-z0-9+/]{43}='"
    assert re.fullmatch(only, policy)
    assert "prefers-color-scheme: dark" in page.source
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) >= 4
    assert set(re.findall(r'labelledby="([\w.-]+)', page.source)) <= set(ids)


def test_hostile_names_show_as_text(tmp_path):
    first, second = make_run(tmp_path / "<b>first"), make_run(tmp_path / "<b>second")
    path = "test/dent/<script>alert(1)</script>.png"
    for run, score in ((first, 12.0), (second, 1.0)):
        add_unit(run, "<i>tile", images=[(path, 1, "<u>", score)])
    page = Page(compare_runs([first, second]))
    assert {name for name, _ in page.elements} & {"i", "b", "u"} == set()
    assert len(page.all("script")) == 2
    assert f"{path} <i>tile , defect: <u>" in page.text
    text = markdown_of(compare(read_runs([first, second])))
    assert "&#60;script&#62;" in text
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    tags = set(re.findall(r"<(\w+)", rendered))
    assert tags <= {"h1", "h2", "h3", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "blockquote"}
    assert "table" in tags


def test_names_that_are_links_mentions_or_emphasis_stay_text(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    path = "test/dent/@org www.example.com https://a.example :smile: _x_ $y$.png"
    for run, score in ((first, 12.0), (second, 1.0)):
        add_unit(run, images=[(path, 1, "dent", score)])
    text = markdown_of(compare(read_runs([first, second])))
    assert [sign for sign in ("@org", "www.example", "https://", ":smile:", "_x_", "$y$") if sign in text] == []
    assert path in html.unescape(text)


def test_pictures_left_out_are_counted_and_newly_missed_come_first(tmp_path, uadctl):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    before = [(f"test/x/{i}.png", i % 2, "dent" if i % 2 else "good", 12.0 if i % 2 else 4.0) for i in range(8)]
    after = [(path, label, kind, 16.0 - score) for path, label, kind, score in before]
    add_unit(first, images=before)
    add_unit(second, images=after)
    uadctl("report", first, second, "--max-overlays", 5)
    text = Page(second / "report" / "comparison.html").text
    assert "Newly missed defects (4)" in text
    assert "New false alarms (1 of 4)" in text
    assert "3 more images are left out of this page (--max-overlays)." in text
    with pytest.raises(ValueError, match=r"^max_images is -1; expected 0 or more$"):
        compare_runs([first, second], max_images=-1)


def test_an_overlay_that_is_damaged_or_absent_is_said(two):
    place = "units/tile/vision_patchcore/0/overlays/test/good/001.png"
    (two[0] / place).write_bytes(b"junk")
    (two[1] / place).unlink()
    text = Page(compare_runs(two)).text
    assert "the overlay is damaged: " in text
    assert "no overlay was drawn" in text


def layered(folder: Path, name: str, *, threshold: float = 10.0, data: str = "data", size=(64, 96)) -> Path:
    """A run of one unit whose images, masks and maps are all there."""
    run = run_by_hand.begin_run(folder / name, root=str(folder / data))
    unit = run_by_hand.add_unit(run, "tile", threshold=threshold)
    run_by_hand.add_layers(unit, folder / data / "tile", size=size)
    return run


def test_pictures_come_in_layers_from_the_data_set(tmp_path):
    first, second = layered(tmp_path, "a"), layered(tmp_path, "b", threshold=11.5)
    page = Page(compare_runs([first, second], out=tmp_path / "page"))
    # Only test/dent/001.png, of score 11, is not what it was.
    sides = [a for name, a in page.elements if name == "figure" and a.get("class") == "shot"]
    assert len(sides) == 2
    for side, run in zip(sides, (first, second), strict=True):
        assert (tmp_path / "page" / str(side["data-full"])).resolve() == (
            run / "units/tile/vision_patchcore/0/overlays/test/dent/001.png"
        )
        assert side["data-original"] == (tmp_path / "data/tile/test/dent/001.png").as_uri()
    assert [a["class"] for a in page.all("img")] == ["image", "heat"] * 2
    assert len([a for a in page.all("path") if a.get("class") in ("outer", "line")]) == 2 * 2 + 2  # and the two keys
    assert "what the run drew" not in page.text
    assert "six standard deviations above them or more, each run by its own normal images." in page.text


def test_pictures_as_the_run_drew_them_where_the_data_set_is_gone(tmp_path):
    first, second = layered(tmp_path, "a"), layered(tmp_path, "b", threshold=11.5, data="moved")
    shutil.rmtree(tmp_path / "moved")
    page = Page(compare_runs([first, second]))
    assert [a["class"] for a in page.all("span") if "stack" in (a.get("class") or "")] == ["stack", "stack drawn"]
    assert "Of 2 of the 2 pictures shown" not in page.text
    assert "Of 1 of the 2 pictures shown is only what the run drew" in page.text


def test_a_data_set_that_runs_share_is_listed_once(tmp_path, monkeypatch):
    listed = []

    def listing(spec, category):
        listed.append((spec.dataset.root, category))
        return originals(spec, category)

    monkeypatch.setattr("uadctl.report.comparison.originals", listing)
    runs = [layered(tmp_path, "a"), layered(tmp_path, "b", threshold=11.5)]
    runs.append(layered(tmp_path, "c", threshold=20.0, data="other"))
    compare_runs(runs)
    assert listed == [(str(tmp_path / "data"), "tile"), (str(tmp_path / "other"), "tile")]
    listed.clear()
    compare_runs(runs, max_images=0)
    assert listed == []


def test_pictures_keep_within_10_mb_a_page_of_200_images(tmp_path, monkeypatch):
    # A tenth of both, with defects all over.
    monkeypatch.setattr("uadctl.report.comparison._PICTURE_BYTES", comparison._PICTURE_BYTES // 10)
    images = [(f"test/dent/{i:03}.png", 1, "dent", 11.0) for i in range(20)]
    runs = [run_by_hand.begin_run(tmp_path / name, root=str(tmp_path / "data")) for name in ("a", "b")]
    surface = parts.surface(0, 400, 400)
    holes = (np.random.default_rng(1).random((25, 25)) > 0.7).repeat(16, axis=0).repeat(16, axis=1)
    for run, threshold in zip(runs, (10.0, 20.0), strict=True):
        unit = run_by_hand.add_unit(run, "tile", images, threshold=threshold, overlays=False)
        run_by_hand.add_layers(unit, tmp_path / "data" / "tile", images[:1], size=(400, 400))
        (file,) = unit.glob("maps/test/dent/*.tiff")
        write_map(file, np.where(holes, 9, 1).astype(np.float32))
        for path, *_ in images[1:]:
            (unit / "maps" / path).with_suffix(".tiff").write_bytes(file.read_bytes())
    mask = np.where(holes, 255, 0).astype(np.uint8)
    for path, *_ in images:
        parts.write(tmp_path / "data" / "tile" / path, surface)
        parts.write(tmp_path / "data" / "tile" / "ground_truth" / "dent" / f"{Path(path).stem}_mask.png", mask)
    bare = compare_runs(runs, max_images=0).stat().st_size
    page = compare_runs(runs)
    assert Page(page).source.count('class="heat"') == 40
    assert page.stat().st_size - bare < 1_000_000


def test_several_runs_are_held_against_the_first(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b", "c")]
    for run, threshold in zip(runs, (10.0, 20.0, 5.0), strict=True):
        add_unit(run, threshold=threshold)
    found = compare(read_runs(runs))
    assert [(c.kind, c.other) for c in found.changes] == [("newly found", 2), ("false alarm no longer", 1)]
    text = Page(compare_runs(runs)).text
    assert "metric A B B − A C C − A" in text
    assert (
        "good (missed) tile , defect: dent , score 9, threshold 10 C : test/dent/000.png anomaly tile , defect" in text
    )


# ---- the command


def test_the_command_prints_where_the_page_is(two, uadctl, tmp_path):
    ended = uadctl("report", *two)
    assert ended.out == f"{two[1] / 'report' / 'comparison.html'}\n"
    assert uadctl("report", *two, "--out", "there").out == "there/comparison.html\n"
    assert (tmp_path / "there" / "comparison.html").is_file()


def test_the_same_run_twice_is_refused(two, uadctl):
    ended = uadctl("report", two[0], f"{two[0]}/../first", code=2)
    assert ended.err == f"error: {two[0]}/../first: is the same run as {two[0]}\n  Name each run once.\n"
    assert not (two[0] / "report").exists()


def test_categories_may_be_in_one_run_only(tmp_path, uadctl):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    add_unit(first, "tile")
    add_unit(first, "wood")
    add_unit(second, "tile")
    uadctl("report", first, second, "--category", "wood")
    assert "wood image AUROC 0.7500 – –" in Page(second / "report" / "comparison.html").text
    ended = uadctl("report", first, second, "--category", "zinc", code=2)
    assert ended.err == "error: none of these runs has a category zinc\n  They have: tile, wood\n"


def test_a_file_that_is_no_report_is_left_alone(two, uadctl):
    file = two[1] / "report" / "comparison.html"
    file.parent.mkdir()
    file.write_text("mine")
    ended = uadctl("report", *two, code=2)
    assert ended.err == (
        f"error: {file}: exists and is not a report of uadctl; it was left as it is\n  Give another folder with --out.\n"
    )
    assert file.read_text() == "mine"


def test_markdown_says_the_same(two, uadctl):
    uadctl("report", *two, "--markdown", "c.md", "--no-page")
    text = Path("c.md").read_text(encoding="utf-8")
    assert "| tile | image AUROC | 0.7500 | 0.7500 | 0 |\n" in text
    assert (
        "### False alarms no longer (1)\n\n- tile: test/good/001.png: A anomaly (false alarm), score 12 at threshold 10; "
        "B good, score 12 at threshold 20\n" in text
    )
    assert "Nothing: the filled specs are the same." in text
    assert not (two[1] / "report").exists()


def test_no_torch_is_loaded(two):
    code = (
        "import sys\nfrom uadctl.cli.app import app\n"
        f"try: app(['report', {str(two[0])!r}, {str(two[1])!r}])\nexcept SystemExit as end: print('CODE', end.code)\n"
        "print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "CODE 0" in done.stdout
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert {"jinja2", "cv2"} <= loaded  # the check can see what is loaded
    assert loaded & {"torch", "torchvision", "safetensors", "tifffile", "sklearn"} == set()
