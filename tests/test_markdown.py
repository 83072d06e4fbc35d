"""A run in Markdown for job pages, and as JUnit XML from its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from uadctl.errors import RunError
from uadctl.report.annotations import MOST_SUMMARY
from uadctl.report.junit import junit_of, write_junit_of_run
from uadctl.report.markdown import MOST_BYTES, markdown, write_markdown
from uadctl.report.reading import Run, read_run
from uadctl.report.wording import MINUS
from uadctl.runs.folder import SCORE_COLUMNS, RunFolder

LABEL = "vision_patchcore"
METRICS = {"image_auroc": 0.9375, "image_ap": 0.95, "image_f1max": 0.9, "pixel_auroc": 0.98, "pixel_ap": 0.5}
METRICS |= {"pixel_f1max": 0.6, "aupro_30": 0.93, "tp": 3, "fp": 1, "fn": 1, "tn": 7}
METRICS |= {"miss_rate": 0.25, "false_alarm_rate": 0.125, "precision": 0.75}
COUNTS = {"images": 12, "normal_images": 8, "defect_images": 4, "alarms": 4, "pixel_images": 12, "regions": 5}
THRESHOLD = {"value": 10.5, "method": "quantile", "alpha": 0.01, "n": 20, "source": "leave-one-out"}


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, **value}), encoding="utf-8", errors="backslashreplace")


class Made:
    """A run folder as bench writes it, made by hand."""

    def __init__(self, folder: Path, *, spec: str = "", **facts: Any) -> None:
        self.path = folder / "20260101T120000Z-parts-0123abcd"
        self.path.mkdir()
        self.results: dict[str, Any] = {}
        (self.path / "spec.toml").write_text(
            f'[run]\nname = "parts"\n[dataset]\nname = "mvtec"\nroot = "/data"\n[model]\nname = "{LABEL}"\n{spec}'
        )
        record = {"status": "done", "verb": "bench", "name": "parts", "hash": "0123abcd", "seed": 0}
        record |= {"started": "2026-01-01T12:00:00+00:00", "finished": "2026-01-01T12:01:00+00:00"}
        write_json(self.path / "run.json", record | facts)

    def add(self, category: str, *, label: str = LABEL, seed: int = 0, threshold: Any = None, **cell: Any) -> Path:
        """A finished unit, or one that failed, where `error` is given."""
        unit = self.path / "units" / category / label / str(seed)
        found = {"success": "error" not in cell, **cell}
        if found["success"]:
            found = {"metrics": METRICS, "reasons": {}, "counts": COUNTS, **found}
            limit = threshold or {"image": THRESHOLD, "pixel": None, "scores": [1.0]}
            value = limit["image"]["value"]
            verdict = [repr(value), "good"] if value is not None else ["", ""]
            row = ["test/good/0.png", "test", "0", "good", "3.0", *verdict, "ok", "", ""]
            write_json(unit / "thresholds.json", limit)
            (unit / "scores.csv").write_text(f"{','.join(SCORE_COLUMNS)}\n{','.join(row)}\n")
        write_json(unit / "metrics.json", found)
        (unit / "status").write_text("done\n" if found["success"] else "failed\n")
        self.results.setdefault(category, {}).setdefault(label, {})[str(seed)] = found
        return unit

    def finish(self, *, means: dict[str, Any] | None = None, gate: dict[str, Any] | None = None, **more: Any) -> Run:
        write_json(self.path / "metrics.json", {"results": self.results, "means": means or {LABEL: {}}, **more})
        if gate is not None:
            write_json(self.path / "gate.json", gate)
        return self.read()

    def read(self, **choice: Any) -> Run:
        return read_run(RunFolder.open(self.path), **choice)


@pytest.fixture
def make(tmp_path):
    return lambda **facts: Made(tmp_path, **facts)


def compared(category: str | None = "bottle", **changes: Any) -> dict[str, Any]:
    found = {"category": category, "label": LABEL, "metric": "aupro_30", "baseline": 0.935, "value": 0.923}
    found |= {"difference": -0.012, "interval": [-0.016, -0.008], "tolerance": 0.002, "p_value": None}
    return found | {"reason": "aupro_30 fell by 0.012 (from 0.935 to 0.923)"} | changes


BROKEN = {"category": None, "label": LABEL, "seed": None, "metric": "image_auroc", "value": 0.9375, "min": 0.95}
BROKEN |= {"max": None, "reason": "image_auroc is 0.9375, the least allowed is 0.95 (mean of 2 categories)"}


class Page(HTMLParser):
    """What a reader of the Markdown sees, by an independent parser of it: tables by their cells, and all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.items: list[str] = []
        self.headings: list[str] = []
        self.inside = ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag if tag in ("td", "th", "li", "h2", "h3") else self.inside
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "li":
            self.items.append("")
        elif tag in ("h2", "h3"):
            self.headings.append("")

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data):
        if self.inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self.inside == "li":
            self.items[-1] += data.rstrip("\n")
        elif self.inside in ("h2", "h3"):
            self.headings[-1] += data


def test_a_passed_run_in_full(make):
    made = make(
        versions={"uadctl": "0.8.0", "faiss": None},
        git={"commit": "abc123", "changed": True},
        warnings=["3 < 4 images"],
    )
    made.add("bottle", intervals={"image_auroc": [0.9, 1.0], "image_ap": [0.95, 0.95], "aupro_30": None})
    made.add("cable")
    run = made.finish(means={LABEL: {"image_auroc": 0.9375}}, gate={"passed": True, "limits": 2, "broken": []})
    assert markdown(run) == (
        """\
## uadctl bench: <code>parts</code>: done, gate passed

Gate: 2 of 2 limits hold.

An image is called anomalous if and only if its score ≥ the threshold.

### Metrics

In brackets: 95 % bootstrap intervals over the test images.

| unit | image_auroc | aupro_30 | image_ap | image_f1max | pixel_auroc | pixel_ap | pixel_f1max | missed | false alarms |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| <code>bottle</code> | 0.9375 [0.900,~1.000] | 0.9300 | 0.9500 | 0.9000 | 0.9800 | 0.5000 | 0.6000 | 1 of 4 | 1 of 8 |
| <code>cable</code> | 0.9375 | 0.9300 | 0.9500 | 0.9000 | 0.9800 | 0.5000 | 0.6000 | 1 of 4 | 1 of 8 |
| mean | 0.9375 | – | – | – | – | – | – |  |  |

### Thresholds

| unit | threshold | review from | method | normal images | promise |
| --- | --- | --- | --- | --- | --- |
| <code>bottle</code> | 10.5 | – | quantile, alpha 0.01 | 20 (leave-one-out) | – |
| <code>cable</code> | 10.5 | – | quantile, alpha 0.01 | 20 (leave-one-out) | – |

### The run

- run folder: <code>20260101T120000Z-parts-0123abcd</code>
- spec hash: <code>0123abcd</code>
- seed: 0
- data set: <code>mvtec</code>
- model: <code>vision_patchcore</code>
- started: 2026-01-01T12:00:00+00:00, finished: 2026-01-01T12:01:00+00:00
- versions: uadctl 0.8.0
- git commit: <code>abc123</code>, with changes that are not committed
- warning: 3 &#60; 4 images
""".replace("~", "\N{NO-BREAK SPACE}")
    )


def test_what_is_wrong_comes_first(make):
    made = make(status="failed")
    made.add("bottle", metrics=METRICS | {"pixel_ap": None}, reasons={"pixel_ap": "no mask"})
    made.add("cable", error="DataError: 7.png: cut off\nsecond line")
    gate = {"passed": False, "limits": 3, "broken": [BROKEN], "baseline": "base.json"}
    gate["regressions"] = [compared("cable", reason=None, interval=None, p_value=0.25), compared()]
    text = markdown(made.finish(gate=gate))
    assert text.startswith("## uadctl bench: <code>parts</code>: failed, 1 of 2 units failed, gate failed\n")
    page = Page(text)
    assert page.headings[1:4] == ["What is wrong", "Metrics", "Undefined"]
    assert "\nGate: 2 of 3 limits hold; 1 of 2 metrics no worse than <code>base.json</code>.\n" in text
    assert page.items[:4] == [
        "cable failed: DataError: 7.png: cut off",
        f"mean / {LABEL}: image_auroc is 0.9375, the least allowed is 0.95 (mean of 2 categories)",
        f"bottle / {LABEL}: aupro_30 fell by 0.012 (from 0.935 to 0.923)",
        f"bottle / {LABEL}: no mask (pixel_ap)",
    ]
    assert page.tables[0][2] == ["cable", "failed", *[""] * 8]
    assert page.tables[0][1][6] == "–"
    assert page.tables[1] == [
        ["", "metric", "baseline", "now", "difference", "95 % of resamples", "tolerance", "p", "verdict"],
        [
            f"bottle / {LABEL}",
            "aupro_30",
            "0.9350",
            "0.9230",
            f"{MINUS}0.0120",
            f"{MINUS}0.0160 to {MINUS}0.0080",
            "0.002",
            "–",
            "worse",
        ],
        [f"cable / {LABEL}", "aupro_30", "0.9350", "0.9230", f"{MINUS}0.0120", "–", "0.002", "0.25", "no worse"],
    ]


def test_an_accepted_regression_is_told_and_is_not_wrong(make):
    made = make()
    made.add("bottle")
    gate = {"passed": True, "limits": 0, "broken": [], "regressions": [compared()], "accepted": True}
    run = made.finish(gate=gate)
    text = markdown(run)
    assert "Gate: 0 of 1 metrics no worse than the baseline; this run was made the baseline.\n" in text
    assert "What is wrong" not in text
    assert Page(text).tables[1][1][-1] == "worse"
    root = junit_of(run)
    assert (root.get("tests"), root.get("failures")) == ("2", "0")


def test_models_are_compared(make):
    made = make()
    made.add("bottle")
    pair = {"metric": "image_auroc", "label": "a", "other": "b", "difference": 0.25, "categories": 6, "better": 4}
    pair |= {"worse": 1, "equal": 1, "p_value": 0.0625, "adjusted": 0.125, "reason": None}
    few = pair | {"p_value": None, "adjusted": None, "reason": "5 categories are too few"}
    page = Page(markdown(made.finish(gate={"passed": True, "limits": 0, "broken": [], "models": [pair, few]})))
    assert page.tables[1][1:] == [
        ["a", "b", "image_auroc", "+0.2500", "4 / 1 / 1", "0.062", "0.12"],
        ["a", "b", "image_auroc", "+0.2500", "4 / 1 / 1", "5 categories are too few", "–"],
    ]


def test_thresholds_tell_method_promise_review_and_what_was_replaced(make):
    made = make()
    image = {"value": 12.25, "method": "conformal", "alpha": 0.05, "delta": 0.1, "n": 60, "source": "validation"}
    image["guarantee"] = "at most 5 % false alarms"
    made.add("bottle", threshold={"image": image, "review": THRESHOLD, "pixel": None, "scores": []})
    none = {"value": None, "method": "quantile", "reason": "1 training image leaves no other"}
    made.add("cable", threshold={"image": none, "pixel": None, "scores": []})
    unit = made.add("tile", threshold={"image": THRESHOLD, "pixel": None, "scores": []})
    write_json(unit / "thresholds.1.json", {"image": THRESHOLD, "pixel": None, "scores": []})
    write_json(unit / "thresholds.json", {"image": image, "pixel": None, "scores": []})
    unit = made.add("zinc", threshold={"image": THRESHOLD, "pixel": None, "scores": []})
    write_json(unit / "thresholds.json", {"image": image, "pixel": None, "scores": []})
    table = Page(markdown(made.finish())).tables[1]
    assert table[1:] == [
        ["bottle", "12.25", "10.5", "conformal, alpha 0.05, delta 0.1", "60 (validation)", "at most 5 % false alarms"],
        ["cable", "none: 1 training image leaves no other", "", "", "", ""],
        ["tile", "10.5 (replaced since)", "–", "quantile, alpha 0.01", "20 (leave-one-out)", "–"],
        ["zinc", "replaced since, and not among those kept", "", "", "", ""],
    ]


def test_seeds_and_labels_have_rows_of_their_own(make):
    made = make(seeds=[0, 1], models={"m1": {}, LABEL: {}})
    for seed in (0, 1):
        made.add("bottle", seed=seed)
    of = {"means": {"image_auroc": 0.9375}, "sds": {"image_auroc": 0.25}}
    gate = {"passed": False, "limits": 1, "broken": [BROKEN | {"category": "bottle", "seed": 1}]}
    page = Page(markdown(made.finish(by_category={"bottle": {LABEL: of}}, gate=gate)))
    assert [row[0] for row in page.tables[0][1:]] == [
        f"bottle · {LABEL} · seed 0",
        f"bottle · {LABEL} · seed 1",
        f"bottle · {LABEL}, all seeds",
    ]
    assert page.tables[0][3][1] == "0.9375 ± 0.2500"
    assert page.items[0].startswith(f"bottle / {LABEL} / seed 1: image_auroc is")


HOSTILE = (
    "a|b",
    r"a\|b",
    "`a` ``b",
    "<script>alert(1)</script>",
    "&amp; &#60;",
    "**a** _b_ ~~c~~ a_b",
    "[x](y) ![z](y)",
    "# 1",
    "@all #12 $x$",
    "www.example :smile: x://y",
    "--",
    "|",
    "\\",
    "'\"",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is(make, name):
    made = make(name=name, notes=[name])
    made.add("bottle", metrics=METRICS | {"image_ap": None}, reasons={"image_ap": name})
    made.add("cable", error=name)
    gate = {"passed": False, "limits": 1, "broken": [BROKEN | {"category": name, "reason": name}], "baseline": name}
    gate["regressions"] = [compared(name)]
    page = Page(markdown(made.finish(gate=gate)))
    assert page.headings[0] == f"uadctl bench: {name}: done, 1 of 2 units failed, gate failed"
    assert page.items[0] == f"cable failed: {name}"
    assert page.items[1] == f"{name} / {LABEL}: {name}"
    assert page.items[3] == f"bottle / {LABEL}: {name} (image_ap)"
    assert page.items[-1] == f"note: {name}"
    assert {len(row) for row in page.tables[0]} == {10}
    assert page.tables[1][1][0] == f"{name} / {LABEL}"
    assert set(page.tags) == {
        *("h2", "h3", "p", "code", "ul", "li"),
        *("table", "thead", "tbody", "tr", "th", "td", "strong"),
    }


def test_no_host_finds_a_mention_a_link_or_a_formula(make):
    made = make(notes=["@all www.example x://y $a$ :smile: #12 12:30 a_b a: b"])
    text = markdown(made.finish())
    assert text.splitlines()[-1] == (
        "- note: &#64;all www&#46;example x&#58;//y &#36;a&#36; &#58;smile: &#35;12 12:30 a_b a: b"
    )


def test_control_characters_and_lone_surrogates_are_escaped(make, tmp_path):
    made = make(notes=["a\x1b[31m\nb\u202e\x00"])
    made.add("bottle", error="\r\n")
    text = write_markdown(tmp_path / "deep" / "m.md", made.finish()).read_text(encoding="utf-8")
    assert text.splitlines()[-1] == "- note: a&#92;x1b&#91;31m&#92;nb&#92;u202e&#92;x00"
    assert "- <code>bottle</code> failed: &#92;r\n" in text


def test_a_long_message_is_cut(make):
    text = markdown(make(notes=["é" * 400, "é" * 300]).finish())
    assert text.splitlines()[-2:] == [f"- note: {'é' * 299}…", f"- note: {'é' * 300}"]


def test_a_summary_of_very_many_units_is_cut_and_says_so(make):
    made = make(notes=["x" * 200] * 300)
    made.add("bottle")
    run = made.finish()
    run = replace(run, units=run.units * 400)
    assert len(markdown(run).encode()) > 120_000
    text = markdown(run, most_bytes=60_000)
    assert 50_000 < len(text.encode()) <= 60_000
    shown = len(Page(text).tables[0]) - 1
    assert f"\n\nand {400 - shown} more; `metrics.json` has them all\n" in text
    assert "more; `the unit's thresholds.json` has them all\n" in text
    assert "more; `run.json` has them all\n" in text
    small = markdown(run, most_bytes=3000)
    assert len(small.encode()) <= 3000
    assert small.count(" has them all\n") == 3
    assert MOST_BYTES < MOST_SUMMARY


def test_the_same_run_gives_the_same_bytes(make, tmp_path):
    made = make()
    made.add("bottle")
    run = made.finish()
    first = write_markdown(tmp_path / "a.md", run).read_bytes()
    assert write_markdown(tmp_path / "b.md", made.read()).read_bytes() == first
    assert first == markdown(run).encode()


def test_where_it_cannot_be_written(make, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/b\.md: cannot be written: (Not a directory|File exists)$"):
        write_markdown(tmp_path / "file" / "b.md", make().finish())


def test_a_run_that_is_not_finished_says_so(make):
    made = make(status="interrupted")
    made.add("bottle")
    (made.add("cable") / "status").write_text("started\n")
    text = markdown(made.read())
    assert "\nThis run is not finished: 1 of the 2 units begun are.\n" in text
    assert Page(text).tables[0][2][:2] == ["cable", "not finished"]
    part = markdown(made.read(categories=["bottle"]))
    assert "\nShown are 1 of the run's 2 categories, no means.\n" in part


# ---- JUnit from a run folder

GATE = "[gate]\nimage_auroc.min = 0.95\n[gate.category.bottle]\nfn.max = 3\n"


def cases(root) -> list[tuple[str, str | None]]:
    """Name of each case, and the message of its failure or error."""
    found = []
    for case in root.iter("testcase"):
        wrong = [child.get("message") for child in case if child.tag in ("failure", "error")]
        found.append((case.get("name"), *(wrong or [None])))
    return found


def test_junit_of_a_run_folder(make, tmp_path):
    made = make(spec=GATE)
    made.add("bottle")
    made.add("cable", error="no room")
    mean = compared(None, reason=None)
    gate = {"passed": False, "limits": 2, "broken": [BROKEN], "regressions": [compared(), mean], "baseline": "b.json"}
    run = made.finish(means={LABEL: {"image_auroc": 0.9375}}, gate=gate)
    root = junit_of(run)
    assert root.get("name") == run.folder.path.name
    assert cases(root) == [
        ("bottle, seed 0", None),
        ("cable, seed 0", "no room"),
        ("gate: mean: image_auroc >= 0.95", "image_auroc is 0.9375, the least allowed is 0.95 (mean of 2 categories)"),
        ("gate: bottle, seed 0: fn <= 3", None),
        (
            "regression: bottle: aupro_30 no worse than the baseline (tolerance 0.002)",
            "aupro_30 fell by 0.012 (from 0.935 to 0.923)",
        ),
        ("regression: mean: aupro_30 no worse than the baseline (tolerance 0.002)", None),
    ]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("6", "2", "1")
    assert write_junit_of_run(tmp_path / "j.xml", run).read_bytes().startswith(b"<?xml version='1.0'")

    part = junit_of(made.read(categories=["bottle"]))
    assert [name for name, _ in cases(part)] == [
        "bottle, seed 0",
        "gate: bottle, seed 0: fn <= 3",
        "regression: bottle: aupro_30 no worse than the baseline (tolerance 0.002)",
    ]


def test_junit_of_a_run_without_a_gate(make):
    made = make()
    made.add("bottle")
    assert cases(junit_of(made.finish())) == [("bottle, seed 0", None)]


@pytest.mark.parametrize("status", ["started", "interrupted", "done"])
def test_junit_wants_a_run_that_was_measured(make, status):
    made = make(status=status)
    made.add("bottle")
    if status != "done":
        made.finish()  # measured before it was resumed
    with pytest.raises(RunError) as error:
        junit_of(made.read())
    assert str(error.value) == (f"{made.path}: is not measured to its end, so there is nothing to tell as JUnit XML")


def test_junit_of_a_damaged_run(make):
    made = make(spec=GATE)
    made.add("bottle")
    made.results["bottle"] = {LABEL: {"0": {"success": True}}}
    run = made.finish()
    with pytest.raises(RunError, match=r"metrics\.json: damaged: KeyError: "):
        junit_of(run)
