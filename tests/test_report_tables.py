"""The files that `uadctl report` writes beside the page, and what it refuses to write over."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from made_runs import METRICS, add_unit, fail_unit, make_run

from uadctl.report.reading import read_run
from uadctl.report.tables import COLUMNS, write_table
from uadctl.runs.folder import RunFolder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


@pytest.fixture
def run(tmp_path) -> Path:
    run = make_run(tmp_path / "20260101T120000Z-parts-0123abcd")
    metrics = {"image_auroc": 0.1 + 0.2, "aupro_30": None}
    add_unit(
        run,
        metrics=metrics,
        reasons={"aupro_30": 'no mask, "none" at all'},
        intervals={"image_auroc": [0.25, 0.5], "aupro_30": None},
    )
    return run


def test_a_line_for_each_metric_with_all_its_digits(run, uadctl):
    assert uadctl("report", run, "--csv", "new/f.csv").out == f"{run / 'report' / 'index.html'}\n"
    place = {"run": run.name, "category": "tile", "label": "vision_patchcore", "seed": "0"}
    assert rows(Path("new/f.csv")) == [
        {**place, "metric": "image_auroc", "value": "0.30000000000000004", "low": "0.25", "high": "0.5", "reason": ""},
        {**place, "metric": "aupro_30", "value": "", "low": "", "high": "", "reason": 'no mask, "none" at all'},
    ]
    raw = Path("new/f.csv").read_bytes()
    assert raw.startswith(",".join(COLUMNS).encode() + b"\r\n")
    assert raw.count(b"\r\n") == raw.count(b"\n") == 3
    assert b'"no mask, ""none"" at all"' in raw


def test_units_without_figures_have_a_line_that_says_why(tmp_path):
    run = make_run(tmp_path / "run", status="failed")
    fail_unit(run, "a", "boom,\nwith a line break")
    (run / "units" / "b" / "vision_patchcore" / "0").mkdir(parents=True)
    unit = add_unit(run, "c")
    (unit / "metrics.json").unlink()
    (unit / "scores.csv").unlink()
    found = rows(write_table(tmp_path / "f.csv", [read_run(RunFolder(run))]))
    assert [(row["category"], row["metric"], row["value"], row["reason"]) for row in found] == [
        ("a", "", "", "failed: boom,\nwith a line break"),
        ("b", "", "", "not finished"),
        ("c", "", "", "not measured"),
    ]


def test_several_runs_and_seeds_stand_below_each_other(tmp_path, uadctl):
    first, second = make_run(tmp_path / "x" / "run", seeds=[0, 1]), make_run(tmp_path / "y" / "run")
    for seed in (0, 1):
        add_unit(first, seed=seed)
    add_unit(second, "Straße")
    uadctl("report", first, second, "--csv", "f.csv", "--no-page")
    found = rows(Path("f.csv"))
    assert len(found) == 3 * len(METRICS)
    places = [(row["run"], row["category"], row["seed"]) for row in found[:: len(METRICS)]]
    assert places == [(str(first), "tile", "0"), (str(first), "tile", "1"), (str(second), "Straße", "0")]
    assert not (second / "report").exists()


def test_only_the_categories_asked_for(tmp_path, uadctl):
    run = make_run(tmp_path / "run")
    for category in ("tile", "wood"):
        add_unit(run, category)
    uadctl("report", run, "--csv", "f.csv", "--no-page", "--category", "w*")
    assert {row["category"] for row in rows(Path("f.csv"))} == {"wood"}


def test_markdown_and_junit_of_one_run(run, uadctl, monkeypatch):
    said = []

    def write(path, read):
        said.append((path, read.folder.path))
        return Path(path)

    stand_in = ModuleType("uadctl.report.markdown")
    stand_in.write_markdown = write
    monkeypatch.setitem(sys.modules, "uadctl.report.markdown", stand_in)
    junit = importlib.import_module("uadctl.report.junit")
    monkeypatch.setattr(junit, "write_junit_of_run", write, raising=False)
    uadctl("report", run, "--markdown", "m.md", "--junit", "j.xml", "--no-page")
    assert said == [("m.md", run), ("j.xml", run)]
    assert not (run / "report").exists()


def test_junit_takes_one_run(run, tmp_path, uadctl):
    other = make_run(tmp_path / "other")
    ended = uadctl("report", run, other, "--junit", "j.xml", code=2)
    assert ended.err == (
        "error: --junit j.xml: takes one run, 2 are named\n"
        "  A difference between runs is no test that passes or fails; a gate is: uadctl bench --gate FILE\n"
    )


REFUSED = [
    ("run/metrics.json", "--csv run/metrics.json: lies in the run folder run, which holds only what the run wrote"),
    ("run/units/x.csv", "--csv run/units/x.csv: lies in the run folder run, which holds only what the run wrote"),
    ("run/report/index.html", "--csv run/report/index.html: is the same file as the page"),
    ("run", "--csv run: is the same file as RUN"),
    ("folder", "--csv folder: is a folder, expected a file to write"),
]


@pytest.mark.parametrize(("name", "message"), REFUSED, ids=[name for name, _ in REFUSED])
def test_no_file_is_written_over_those_of_a_run(tmp_path, uadctl, name, message):
    add_unit(make_run(tmp_path / "run"))
    (tmp_path / "folder").mkdir()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    ended = uadctl("report", "run", "--csv", name, code=2)
    assert ended.err.startswith(f"error: {message}\n")
    assert ended.out == ""
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_no_file_is_written_over_the_other_run_or_another_file(tmp_path, uadctl):
    for name in ("a", "b"):
        add_unit(make_run(tmp_path / name))
    ended = uadctl("report", "a", "b", "--csv", "a/spec.toml", code=2)
    assert ended.err.startswith("error: --csv a/spec.toml: lies in the run folder a, ")
    ended = uadctl("report", "a", "b", "--csv", "f", "--markdown", "./f", code=2)
    assert ended.err == "error: --markdown ./f: is the same file as --csv\n  Name another file.\n"
    ended = uadctl("report", "a", "b", "--out", "o", "--csv", "o/comparison.html", code=2)
    assert ended.err == "error: --csv o/comparison.html: is the same file as the page\n  Name another file.\n"


@pytest.mark.parametrize("name", ["a/run.json", "a/units/tile/x.md", "a/report/../run.json", "link/run.json"])
def test_no_file_is_written_over_those_of_a_run_that_is_not_named(tmp_path, uadctl, name):
    for run in ("a", "b"):
        add_unit(make_run(tmp_path / run))
    (tmp_path / "link").symlink_to("a")
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    ended = uadctl("report", "b", "--markdown", name, "--no-page", code=2)
    folder = name.partition("/")[0]
    assert ended.err == (
        f"error: --markdown {name}: lies in the run folder {folder}, which holds only what the run wrote\n"
        "  Name a file elsewhere, or in its report/\n"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before


def test_a_folder_above_that_is_no_run_and_the_report_of_another_run_are_welcome(tmp_path, uadctl):
    for run in ("a", "b"):
        add_unit(make_run(tmp_path / "runs" / run))
    (tmp_path / "runs" / "spec.toml").write_text("")
    for name in ("runs/f.csv", "runs/a/report/f.csv"):
        uadctl("report", "runs/b", "--csv", name, "--no-page")
        assert len(rows(Path(name))) == len(METRICS)


@pytest.mark.parametrize(("runs", "page"), [(("a",), "index.html"), (("a", "b"), "comparison.html")])
def test_nothing_is_written_where_the_page_is_refused(tmp_path, uadctl, runs, page):
    for run in ("a", "b"):
        add_unit(make_run(tmp_path / run))
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / page).write_text("mine")
    ended = uadctl("report", *runs, "--out", "o", "--csv", "new/f.csv", "--markdown", "m.md", code=2)
    assert ended.err == (
        f"error: o/{page}: exists and is not a report of uadctl; it was left as it is\n  Give another folder with --out.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "o"]
    uadctl("report", *runs, "--csv", "f.csv", "--no-page")  # which is not refused for a page that is not made


def test_a_file_in_the_report_folder_is_welcome(run, uadctl):
    file = run / "report" / "figures.csv"
    uadctl("report", run, "--csv", file)
    assert len(rows(file)) == 2
    assert (run / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--no-page",), "error: --no-page: nothing is left to write\n  Add --csv, --markdown or --junit FILE.\n"),
        (("--no-page", "--out", "o", "--csv", "f"), "error: --out: has no effect with --no-page\n  Leave it out.\n"),
        (
            ("--no-page", "--max-overlays", "3", "--csv", "f"),
            "error: --max-overlays: has no effect with --no-page\n  Leave it out.\n",
        ),
        (("--json",), "error: --json: has no effect without --list\n  Leave it out.\n"),
    ],
    ids=["nothing", "out", "overlays", "json"],
)
def test_options_that_would_do_nothing_are_refused(run, uadctl, options, message):
    assert uadctl("report", run, *options, code=2).err == message
