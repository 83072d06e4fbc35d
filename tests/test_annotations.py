"""What CI systems are told: lines for what is wrong, and the summary on the page of the job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import parts
import pytest

from uadctl.errors import RunError
from uadctl.report.annotations import MOST_SUMMARY, FailedUnit, annotate, append_summary, failed_units, host
from uadctl.runs.gate import Checked, Compared, Verdict

ROOT = Path(__file__).parents[1]
GITHUB = {"GITHUB_ACTIONS": "true"}
AZURE = {"TF_BUILD": "True"}


def limit(value: float | None = 0.5, *, metric="image_ap", min_=None, max_=None, reason="r", category="a") -> Checked:
    return Checked(category=category, label="m", seed=0, metric=metric, value=value, min=min_, max=max_, reason=reason)


def regression(value: float | None = 0.5, *, baseline=0.6, reason="r") -> Compared:
    return Compared(
        category="b",
        label="m",
        metric="aupro_30",
        baseline=baseline,
        value=value,
        difference=None,
        interval=None,
        tolerance=0.002,
        p_value=None,
        reason=reason,
    )


def lines(verdict: Verdict | None = None, *failed: FailedUnit, environ=GITHUB, markdown=None) -> list[str]:
    written: list[str] = []
    annotate(verdict, failed, environ=environ, write=written.append, markdown=markdown)
    return written


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"GITHUB_ACTIONS": "false"}, None),
        ({"GITHUB_ACTIONS": ""}, None),
        ({"GITLAB_CI": "true", "CI": "true"}, None),
        (GITHUB, "github"),
        (AZURE, "azure"),
        ({"TF_BUILD": "true"}, "azure"),
        ({"TF_BUILD": "False"}, None),
    ],
)
def test_only_a_host_that_reads_lines_gets_some(environ, name):
    assert host(environ) == name
    assert bool(lines(Verdict((limit(),)), environ=environ)) == (name is not None)


def test_one_line_for_each_thing_that_is_wrong():
    verdict = Verdict((limit(reason=None), limit(max_=0.4, reason="too large")), (regression(reason="fell"),), "b.json")
    failed = FailedUnit("c / m", "no room")
    assert lines(verdict, failed) == [
        "::error title=uadctl%3A c / m failed::no room",
        "::error title=uadctl%3A gate%3A a / m::too large",
        "::error title=uadctl%3A gate%3A b / m::fell",
    ]
    assert lines(verdict, failed, environ=AZURE) == [
        "##vso[task.logissue type=error]uadctl: c / m failed: no room",
        "##vso[task.logissue type=error]uadctl: gate: a / m: too large",
        "##vso[task.logissue type=error]uadctl: gate: b / m: fell",
    ]


HOSTILE = "100%, a: [b]; ::error::x\r\n##vso[task.setvariable variable=a]b\x1b[0m %0A \u202e\udcff ü\rz"


def test_what_could_be_a_command_is_escaped():
    (line,) = lines(None, FailedUnit(HOSTILE, HOSTILE))
    assert line == (
        "::error title=uadctl%3A 100%25%2C a%3A [b]; %3A%3Aerror%3A%3Ax%0A##vso[task.setvariable variable=a]b"
        r"\x1b[0m %250A \u202e\udcff ü\rz failed"
        "::100%25, a: [b]; ::error::x%0A##vso[task.setvariable variable=a]b"
        r"\x1b[0m %250A \u202e\udcff ü\rz"
    )
    (line,) = lines(None, FailedUnit("w", HOSTILE), environ=AZURE)
    assert line == (
        "##vso[task.logissue type=error]uadctl: w failed: "
        "100%AZP25, a: [b%5D%3B ::error::x%0A##vso[task.setvariable variable=a%5Db"
        r"\x1b[0m %AZP250A \u202e\udcff ü\rz"
    )


def test_the_worst_comes_first_and_the_tenth_says_how_many_more():
    limits = tuple(limit(1 - i / 100, min_=1, reason=f"{i} points") for i in range(1, 9))
    others = (limit(None, min_=1, reason="null"), limit(0.3, max_=0.1, reason="two thirds"))
    verdict = Verdict((*limits, *others), (regression(0.5, baseline=1, reason="half"),))
    found = [line.rpartition("::")[2] for line in lines(verdict, FailedUnit("c / m", "no room"))]
    assert found == ["no room", "null", "two thirds", "half", *(f"{i} points" for i in range(8, 2, -1))]
    *others, last = lines(verdict, FailedUnit("c / m", "no room"))
    assert last == "::error title=uadctl%3A gate%3A a / m (and 2 more)::3 points"
    assert [line for line in others if "more)" in line] == []
    ten = lines(Verdict(verdict.limits))
    assert len(ten) == 10
    assert not any("more)" in line for line in ten)


def test_a_regression_that_is_undefined_now_is_as_bad_as_can_be():
    verdict = Verdict((limit(0.1, min_=1, reason="most"),), (regression(None, reason="null"),))
    assert [line.rpartition("::")[2] for line in lines(verdict)] == ["null", "most"]


def test_a_passed_gate_is_a_notice():
    passed = Verdict((limit(reason=None), limit(reason=None)), (regression(reason=None),))
    assert lines(passed) == [
        "::notice title=uadctl%3A gate passed::2 of 2 limits hold; 1 of 1 metrics no worse than the baseline"
    ]
    assert lines(Verdict((), (regression(reason=None),))) == [
        "::notice title=uadctl%3A gate passed::1 of 1 metrics no worse than the baseline"
    ]
    accepted = Verdict((), (regression(), regression(reason=None)), baseline="b.json", accepted=True)
    assert lines(accepted) == [
        "::notice title=uadctl%3A gate passed::1 of 2 metrics no worse than the baseline; this run was made the baseline"
    ]
    assert lines(Verdict((), accepted=True)) == ["::notice title=uadctl%3A gate passed::this run was made the baseline"]
    assert lines(passed, environ=AZURE) == []
    assert lines(Verdict(())) == []
    assert lines(None) == []
    assert lines(passed, FailedUnit("c / m", "x")) == ["::error title=uadctl%3A c / m failed::x"]


def test_azure_is_told_where_the_summary_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lines(None, environ=AZURE, markdown="a;b]%.md") == [f"##vso[task.uploadsummary]{tmp_path}/a%3Bb%5D%AZP25.md"]
    assert lines(None, environ=GITHUB, markdown="a.md") == []


def test_a_long_error_is_cut():
    (line,) = lines(None, FailedUnit("w", "x" * 3000))
    assert line == f"::error title=uadctl%3A w failed::{'x' * 1999}…"


def test_the_failed_units_of_a_run():
    good, bad = {"success": True}, {"success": False, "error": "e"}
    metrics = {"results": {"a": {"x": {"0": good, "1": bad}, "y": {"0": bad}}, "b": {"x": {"0": good}}}}
    assert failed_units(metrics) == (FailedUnit("a / x / seed 1", "e"), FailedUnit("a / y", "e"))


# ---- the page of a GitHub job


def appended(file: Path | None, text: str = "## é\n", environ=GITHUB) -> tuple[Path | None, list[str]]:
    said: list[str] = []
    variables = environ if file is None else {**environ, "GITHUB_STEP_SUMMARY": str(file)}
    return append_summary(lambda: text, environ=variables, warn=said.append), said


def test_the_summary_is_appended(tmp_path):
    file = tmp_path / "summary.md"
    assert appended(file) == (file, [])
    file.write_text("before\n", encoding="utf-8")
    assert appended(file) == (file, [])
    assert file.read_text(encoding="utf-8") == "before\n## é\n\n"


def test_no_summary_elsewhere_and_none_is_made_there(tmp_path):
    for environ in ({}, AZURE):
        assert appended(tmp_path / "s.md", environ=environ) == (None, [])
    assert appended(None) == (None, [])
    assert appended(Path(), environ=GITHUB)[0] is None
    assert list(tmp_path.iterdir()) == []

    def never() -> str:
        raise AssertionError

    assert append_summary(never, environ={}, warn=print) is None


def test_a_summary_that_cannot_be_written_is_a_warning(tmp_path):
    file = tmp_path / "absent" / "s.md"
    assert appended(file) == (
        None,
        [f"{file}: the summary of this step cannot be written: No such file or directory"],
    )

    def damaged() -> str:
        raise RunError("run.json: damaged")

    said: list[str] = []
    environ = {**GITHUB, "GITHUB_STEP_SUMMARY": str(tmp_path / "s.md")}
    assert append_summary(damaged, environ=environ, warn=said.append) is None
    assert said == ["the summary of this step cannot be made: run.json: damaged"]


def test_a_page_that_is_full_stays_as_it_is(tmp_path):
    file = tmp_path / "s.md"
    file.write_bytes(b"x" * (MOST_SUMMARY - 7))
    assert appended(file)[0] == file  # "## é\n" and a line end have 7 bytes
    assert file.stat().st_size == MOST_SUMMARY
    assert appended(file) == (
        None,
        [
            f"{file}: the summary of this step was not added: the file has 1048576 bytes already, and of more than "
            "1048576 nothing is shown"
        ],
    )
    assert file.stat().st_size == MOST_SUMMARY


# ---- the program


def test_only_one_module_knows_the_environment_variables_of_ci_systems():
    names = re.compile(r"GITHUB_|TF_BUILD|GITLAB_CI|BUILDKITE|TEAMCITY|JENKINS_")
    files = sorted((ROOT / "uadctl").rglob("*.py"))
    assert len(files) > 50
    users = [f.relative_to(ROOT).as_posix() for f in files if names.search(f.read_text(encoding="utf-8"))]
    assert users == ["uadctl/report/annotations.py"]


def program(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`uadctl` in a process of its own, as a CI system starts it."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "TF_BUILD")}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "uadctl", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, "PYTHONPATH": paths, **variables},
    )


def test_bench_in_a_job_of_github(tmp_path):
    parts.write_category(tmp_path / "data", "tile", train=3, good=1, bad=1)
    small = ["--dataset", "mvtec", "--root", "data", "--model", "patchcore", "--set", "preprocess.size=64", "--quiet"]
    gate = ["--set", "gate.image_auroc.min=1.01"]
    ended = program(
        tmp_path,
        *("bench", *small, "--no-pixel", *gate, "--markdown", "deep/m.md"),
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY="page.md",
    )
    broken = "image_auroc is 1, the least allowed is 1.01 (mean of 1 category)"
    assert ended.returncode == 3
    assert ended.stderr.splitlines() == [
        f"::error title=uadctl%3A gate%3A mean / vision_patchcore::{broken}",
        f"error: gate: mean / vision_patchcore: {broken}",
    ]
    assert "::error" not in ended.stdout
    text = (tmp_path / "deep" / "m.md").read_text(encoding="utf-8")
    assert text.startswith("## uadctl bench: <code>mvtec</code>: done, gate failed\n")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == text + "\n"


def test_bench_in_a_job_of_azure(uadctl, small, tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setenv("TF_BUILD", "True")
    ended = uadctl("bench", *small, "--no-pixel", "--markdown", "m.md", "--set", "gate.image_auroc.max=1")
    assert ended.err == f"##vso[task.uploadsummary]{tmp_path}/m.md\n"
    assert (tmp_path / "m.md").read_text(encoding="utf-8").startswith("## uadctl bench")


def test_the_file_is_checked_before_any_work(uadctl, small, tmp_path):
    (tmp_path / "folder").mkdir()
    ended = uadctl("bench", *small, "--markdown", "folder", code=2)
    assert ended.err == "error: --markdown folder: is a folder, expected a file to write\n"
    ended = uadctl("bench", *small, "--junit", "a", "--markdown", "./a", code=2)
    assert ended.err == "error: --markdown ./a: is the same file as --junit\n  Name another file.\n"
    assert not (tmp_path / "runs").exists()
