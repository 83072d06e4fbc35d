"""`uadctl report --list DIR`: the runs there are, whatever state they are in."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import METRICS, add_unit, fail_unit, make_run, write_json

from uadctl.errors import RunError
from uadctl.runs.listing import DEEPEST, list_runs


def finish(run: Path, means: dict[str, dict[str, float | None]], *, gate: bool | None = None) -> None:
    """The documents that stand in a run once it is over."""
    results: dict[str, dict[str, dict[str, object]]] = {}
    for file in run.glob("units/*/*/*/metrics.json"):
        category, label, seed = file.parts[-4:-1]
        results.setdefault(category, {}).setdefault(label, {})[seed] = json.loads(file.read_text())
    write_json(run / "metrics.json", {"results": results, "means": means})
    if gate is not None:
        write_json(run / "gate.json", {"passed": gate, "limits": 1, "broken": []})


@pytest.fixture
def runs(tmp_path) -> Path:
    folder = tmp_path / "runs"
    old = make_run(folder / "20260101T120000Z-parts-0123abcd")
    add_unit(old, "tile")
    add_unit(old, "wood")
    finish(old, {"vision_patchcore": {"image_auroc": 0.75, "aupro_30": 0.5, "pixel_ap": None}}, gate=True)
    new = make_run(folder / "20260102T120000Z-parts-89abcdef", started="2026-01-02T12:00:00+00:00", status="failed")
    add_unit(new, "tile")
    fail_unit(new, "wood", "boom")
    finish(new, {"vision_patchcore": {"image_auroc": None, "aupro_05": 0.25}}, gate=False)
    return folder


def lines(text: str) -> list[list[str]]:
    """The cells of a table, its heading and rule left out."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[2:]]


def test_the_newest_comes_first_with_its_headline_figures(runs, uadctl):
    ended = uadctl("report", "--list", "runs")
    assert re.split(r"\s{2,}", ended.out.splitlines()[0].strip()) == [
        *("run", "status", "data", "model", "categories", "seeds", "image AUROC", "AUPRO", "pixel AP"),
        *("missed", "false alarms", "gate", "started"),
    ]
    assert lines(ended.out) == [
        [
            *("runs/20260102T120000Z-parts-89abcdef", "bench failed, 1 of 2 units failed", "mvtec", "vision_patchcore"),
            *("2", "1", "–", "0.2500 (aupro_05)", "–", "–", "–", "broken", "2026-01-02 12:00"),
        ],
        [
            *("runs/20260101T120000Z-parts-0123abcd", "bench done", "mvtec", "vision_patchcore"),
            *("2", "1", "0.7500", "0.5000", "–", "2/4", "2/4", "held", "2026-01-01 12:00"),
        ],
    ]
    assert ended.err == ""


def test_json_says_all_of_it(runs, uadctl):
    document = uadctl("report", "--list", "runs", "--json").json
    assert document["schema"] == 1
    new, old = document["runs"]
    assert old == {
        "path": "runs/20260101T120000Z-parts-0123abcd",
        "status": "done",
        "in_use": False,
        "verb": "bench",
        "name": "parts",
        "hash": "0123abcd",
        "dataset": "mvtec",
        "models": ["vision_patchcore"],
        "labels": ["vision_patchcore"],
        "categories": ["tile", "wood"],
        "seeds": [0],
        "units": 2,
        "failed_units": 0,
        "means": {"vision_patchcore": {"image_auroc": 0.75, "aupro_30": 0.5, "pixel_ap": None}},
        "errors": {"vision_patchcore": {"missed": 2, "defect_images": 4, "false_alarms": 2, "normal_images": 4}},
        "gate": True,
        "started": "2026-01-01T12:00:00+00:00",
        "finished": "2026-01-01T12:01:00+00:00",
        "reason": None,
    }
    assert (new["status"], new["gate"], new["failed_units"]) == ("failed", False, 1)
    assert new["errors"]["vision_patchcore"]["missed"] is None


def test_a_model_has_a_row_of_its_own(tmp_path, uadctl):
    models = '[[model]]\nname = "vision_patchcore"\n[[model]]\nname = "vision_padim"\n'
    run = make_run(tmp_path / "runs" / "r", models=models, seeds=[0, 1])
    for label in ("vision_patchcore", "vision_padim"):
        for seed in (0, 1):
            add_unit(run, label=label, seed=seed)
    finish(run, {"vision_patchcore": {"image_auroc": 0.5}, "vision_padim": {"image_auroc": 0.6}})
    first, second = lines(uadctl("report", "--list", "runs").out)
    assert first[:7] == ["runs/r", "bench done", "mvtec", "vision_padim", "1", "2", "0.6000"]
    assert second == ["vision_patchcore", "1", "2", "0.5000", "–", "–", "2/4", "2/4"]
    (listed,) = list_runs("runs")
    assert listed.models == ("vision_patchcore", "vision_padim")
    assert listed.errors["vision_padim"].missed == 2 * METRICS["fn"]


DAMAGED = [
    ("run.json", b"{", "run.json: damaged: not JSON: Expecting property name enclosed in double quotes"),
    ("run.json", b"[]", "run.json: written by another version of uadctl: schema 1 is expected"),
    ("run.json", b'{"schema": 1}', "run.json: damaged: Object missing required field `status`"),
    ("spec.toml", b"[run", "spec.toml: damaged: not TOML: "),
    ("spec.toml", b"[run]", "spec.toml: damaged: Object missing required field `dataset`"),
    ("spec.toml", b"\xff", "spec.toml: damaged: not TOML: "),
    ("spec.toml", None, "spec.toml: cannot be read: No such file or directory"),
    ("metrics.json", b"null", "metrics.json: written by another version of uadctl: schema 1 is expected"),
    ("gate.json", b'{"schema": 1}', "gate.json: damaged: Object missing required field `passed`"),
]


@pytest.mark.parametrize(("name", "content", "reason"), DAMAGED, ids=[f"{n}-{c!r}" for n, c, _ in DAMAGED])
def test_a_damaged_run_is_a_row_with_its_reason(runs, uadctl, name, content, reason):
    run = "runs/20260102T120000Z-parts-89abcdef"
    Path(run, name).unlink()
    if content is not None:
        Path(run, name).write_bytes(content)
    ended = uadctl("report", "--list", "runs")
    assert ended.err.startswith(f"warning: {run}/{reason}")
    assert ended.err.count("\n") == 1
    rows = lines(ended.out)
    assert len(rows) == 2
    assert rows[0][0] == run
    assert rows[0][1].startswith("damaged" if name == "run.json" else "bench failed")
    assert rows[0][-1] == "2026-01-02 12:00"  # if need be from the folder's name
    document = uadctl("report", "--list", "runs", "--json").json
    assert document["runs"][0]["reason"].startswith(f"{run}/{reason}")


def test_a_run_that_was_ended_before_its_record_is_listed(tmp_path, uadctl):
    run = tmp_path / "runs" / "20260102T120000Z-parts-89abcdef"
    run.mkdir(parents=True)
    (run / "spec.toml").write_text('[dataset]\nname = "mvtec"\n[model]\nname = "vision_patchcore"\n')
    other = tmp_path / "runs" / "specs"
    other.mkdir()
    (other / "spec.toml").write_text("")  # a spec that somebody keeps there
    (row,) = lines(uadctl("report", "--list", "runs").out)
    assert row[:4] == ["runs/20260102T120000Z-parts-89abcdef", "damaged", "mvtec", "vision_patchcore"]


def test_a_run_that_is_worked_on_is_in_use(tmp_path, uadctl):
    run = make_run(tmp_path / "runs" / "r", status="started")
    handle = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        (row,) = lines(uadctl("report", "--list", "runs").out)
        assert row[1] == "bench started, in use"
        (found,) = list_runs("runs")
        assert found.in_use
    finally:
        os.close(handle)
    (row,) = lines(uadctl("report", "--list", "runs").out)
    assert row[1] == "bench started"


def test_runs_in_folders_within_and_behind_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("runs/a", "runs/month/b", "runs/1/2/3/c", f"runs/{'/'.join('12345')}/too-deep", "runs/.old/hidden"):
        make_run(tmp_path / place)
    make_run(tmp_path / "runs" / "a" / "units" / "inner")
    make_run(tmp_path / "elsewhere" / "d")
    Path("runs/link").symlink_to(tmp_path / "elsewhere")
    Path("runs/loop").symlink_to(tmp_path / "runs")
    Path("runs/month/up").symlink_to("..")
    assert DEEPEST == 4
    assert sorted(str(run.path) for run in list_runs("runs")) == [
        "runs/1/2/3/c",
        "runs/a",
        "runs/link/d",
        "runs/month/b",
    ]
    assert [str(run.path) for run in list_runs("runs/a")] == ["runs/a"]


def test_a_folder_that_may_not_be_listed_is_a_row(tmp_path, monkeypatch, uadctl):
    make_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "closed").mkdir()
    listdir = os.listdir

    def refusing(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refusing)
    ended = uadctl("report", "--list", "runs")
    assert [row[:2] for row in lines(ended.out)] == [["runs/a", "bench done"], ["runs/closed", "damaged"]]
    assert ended.err == "warning: runs/closed: cannot be listed: Permission denied\n"


def test_the_order_does_not_depend_on_how_runs_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, started in (("z/1", "2026-01-01"), ("b/2", "2026-01-03"), ("a/3", "2026-01-02"), ("c/4", "soon")):
        make_run(tmp_path / "runs" / folder, started=f"{started}T12:00:00+00:00")
    assert [run.path.name for run in list_runs("runs")] == ["2", "3", "1", "4"]


def test_nothing_to_list_is_no_error(tmp_path, uadctl):
    (tmp_path / "runs").mkdir()
    ended = uadctl("report", "--list", "runs")
    assert (ended.out, ended.err) == ("", "note: runs: no run folder in it or below it\n")
    assert uadctl("report", "--list", "runs", "--json").json == {"schema": 1, "runs": []}


@pytest.mark.parametrize(
    ("status", "known"), [("done", True), ("failed", True), ("started", False), ("interrupted", False)]
)
def test_a_run_that_is_begun_again_has_no_figures_of_before(tmp_path, uadctl, status, known):
    run = make_run(tmp_path / "runs" / "run", status=status)
    add_unit(run)
    finish(run, {"vision_patchcore": {"image_auroc": 0.75}}, gate=True)
    (found,) = list_runs("runs")
    assert (found.status, found.units, found.labels) == (status, 1, ("vision_patchcore",))
    assert found.means == ({"vision_patchcore": {"image_auroc": 0.75}} if known else {})
    assert (list(found.errors), found.gate) == (["vision_patchcore"] if known else [], True if known else None)
    assert found.reason is None
    (row,) = lines(uadctl("report", "--list", "runs").out)
    assert ("0.7500" in row, "held" in row) == (known, known)


def test_a_folder_that_is_not_there(tmp_path, uadctl):
    (tmp_path / "file").write_text("")
    advice = "  Name the folder that run folders are made in, such as runs\n"
    assert uadctl("report", "--list", "nowhere", code=2).err == f"error: nowhere: no such folder\n{advice}"
    assert uadctl("report", "--list", "file", code=2).err == f"error: file: is no folder\n{advice}"
    with pytest.raises(RunError, match=r"^nowhere: no such folder$"):
        list_runs("nowhere")


def test_a_run_or_a_list_is_needed_and_not_both(runs, uadctl):
    ended = uadctl("report", code=2)
    assert ended.err == (
        "error: no run named\n  Name a run folder, or see what there is with: uadctl report --list runs\n"
    )
    run = "runs/20260101T120000Z-parts-0123abcd"
    assert uadctl("report", run, "--list", "runs", code=2).err == (
        "error: RUN: has no effect with --list\n  Leave it out.\n"
    )
    for option in (
        ["--out", "o"],
        ["--csv", "f"],
        ["--category", "x"],
        ["--no-page"],
        ["--junit", "j"],
        ["--max-overlays", "3"],
    ):
        ended = uadctl("report", "--list", "runs", *option, code=2)
        assert ended.err == f"error: {option[0]}: has no effect with --list\n  Leave it out.\n"


def test_listing_loads_nothing_heavy(runs):
    code = (
        "import sys\nfrom uadctl.cli.app import app\n"
        f"try: app(['report', '--list', {str(runs)!r}])\nexcept SystemExit as end: print('CODE', end.code)\n"
        "print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "CODE 0" in done.stdout
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert {"typer", "msgspec"} <= loaded  # the check can see what is loaded
    assert loaded & {"torch", "cv2", "matplotlib", "jinja2", "numpy", "sklearn", "safetensors"} == set()
