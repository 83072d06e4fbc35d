"""The workflow files of docs/ci.md: what their hosts require, and their steps, run by bash as a host would run them."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import parts
import pytest
import typer

from uadctl.cli.app import app

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; extras bring it")

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
HOSTS = ("GitHub Actions", "GitLab CI", "Azure Pipelines")
EVERY = (*HOSTS, "Any other system")
OURS = {"GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "TF_BUILD", "GITLAB_CI", "UADCTL_DATA"}
SPEC = """\
[dataset]
name = "mvtec"
root = "${UADCTL_DATA}"
[preprocess]
size = 64
[model]
name = "patchcore"
[metrics]
bootstrap = 100
[gate]
image_auroc = { min = LEAST }
"""


@dataclass(frozen=True)
class Step:
    """A script of a job. always: it runs after a failure too."""

    script: str
    always: bool = False


@dataclass(frozen=True)
class Job:
    steps: tuple[Step, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()


def block(host: str, language: str = "yaml") -> str:
    """The one code block of a host's section."""
    section = PAGE.partition(f"\n## {host}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)
    return found


def workflow(host: str) -> dict[Any, Any]:
    found = yaml.safe_load(block(host))
    assert isinstance(found, dict)
    return found


def job(host: str) -> Job:
    """What a host would run, and keep."""
    if host == "GitHub Actions":
        made = workflow(host)["jobs"]["bench"]
        steps = [Step(s["run"], s.get("if") == "always()") for s in made["steps"] if "run" in s]
        (kept,) = [s["with"]["path"] for s in made["steps"] if "upload-artifact" in s.get("uses", "")]
        return Job(tuple(steps), made["env"], tuple(kept.split()))
    if host == "GitLab CI":
        made = workflow(host)["bench"]
        # One shell for both; another one for what comes after, whatever happened.
        steps = [
            Step("\n".join([*made["before_script"], *made["script"]])),
            Step("\n".join(made["after_script"]), True),
        ]
        return Job(tuple(steps), made["variables"], tuple(made["artifacts"]["paths"]))
    if host == "Azure Pipelines":
        made = workflow(host)
        steps = [Step(s["script"], s.get("condition") == "always()") for s in made["steps"] if "script" in s]
        inputs = [s["inputs"] for s in made["steps"] if s.get("condition") == "always()" and "inputs" in s]
        kept = [i.get("testResultsFiles") or i["targetPath"] for i in inputs]
        return Job(tuple(steps), made["variables"], tuple(kept))
    return Job((Step(block(host, "bash")),), kept=("out/report", "out/junit.xml", "out/summary.md"))


# ---- what the hosts require


def test_there_is_a_workflow_for_each_host():
    assert len(re.findall(r"^```yaml$", PAGE, re.M)) == len(HOSTS)
    for host in EVERY:
        assert any("uadctl bench" in step.script for step in job(host).steps), host
        assert any("uadctl report" in step.script for step in job(host).steps), host


def test_github_finds_its_keys():
    found = workflow("GitHub Actions")
    assert set(found) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads "on" as true
    assert set(found[True]) == {"push", "pull_request"}
    assert found["permissions"] == {"contents": "read"}
    for made in found["jobs"].values():
        assert set(made) == {"runs-on", "env", "steps"}
        assert len(made["steps"]) == 7
        for step in made["steps"]:
            assert set(step) <= {"name", "uses", "run", "if", "with", "env"}
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/checkout@v4"))
    uses = [step["uses"] for step in found["jobs"]["bench"]["steps"] if "uses" in step]
    assert uses[0].startswith("actions/checkout@")
    assert {"path", "key"} <= set(found["jobs"]["bench"]["steps"][2]["with"])
    assert [s.get("if") for s in found["jobs"]["bench"]["steps"]][-2:] == ["always()"] * 2


def test_gitlab_finds_its_keys():
    found = workflow("GitLab CI")
    assert set(found) == {"bench"}
    assert set(found["bench"]) == {
        *("image", "tags", "variables", "cache", "before_script", "script", "after_script", "artifacts")
    }
    for name in ("before_script", "script", "after_script"):
        assert all(isinstance(line, str) for line in found["bench"][name])
    artifacts = found["bench"]["artifacts"]
    assert artifacts["when"] == "always"
    assert artifacts["reports"] == {"junit": "out/junit.xml"}


def test_azure_finds_its_keys():
    found = workflow("Azure Pipelines")
    assert set(found) == {"trigger", "pool", "variables", "steps"}
    assert len(found["steps"]) == 8
    for step in found["steps"]:
        assert len({"script", "task", "checkout"} & set(step)) == 1
        assert set(step) <= {"script", "task", "checkout", "clean", "inputs", "displayName", "condition"}
        assert re.fullmatch(r"[A-Z][A-Za-z]+@\d", step.get("task", "Cache@2"))
    publish = [s for s in found["steps"] if str(s.get("task")).startswith("Publish")]
    assert [s["condition"] for s in publish] == ["always()"] * 2


@pytest.mark.parametrize("host", EVERY)
def test_no_host_name_no_secret_and_every_cache_is_kept(host):
    text = block(host, "bash" if host == EVERY[-1] else "yaml")
    assert "://" not in text
    assert not re.search("secret|token|password", text, re.I)
    for name in ("UADCTL_CACHE", "TORCH_HOME", "HF_HOME"):
        assert re.search(rf"{name}[:=].*?/\.cache/", text), name


def bench_options(text: str) -> set[str]:
    """The options of every `uadctl bench` in a shell script."""
    return {word for line in commands(text) if line[1] == "bench" for word in line if word.startswith("--")}


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.sub(r" \|\| .*", "", line.strip()) for line in lines if line.strip().startswith("uadctl ")]
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("host", EVERY)
def test_every_command_is_one_of_this_program(host):
    lines = [line for step in job(host).steps for line in commands(step.script)]
    assert len(lines) == 2
    for line in lines:
        group = typer.main.get_command(app)
        group.commands[line[1]].make_context("uadctl", line[2:])
    assert bench_options("\n".join(s.script for s in job(host).steps)) == {
        *("--gate", "--run-dir", "--junit", "--markdown")
    }


def test_the_exit_codes_are_those_of_the_program():
    rows = re.findall(r"^\| (\d+) \|", PAGE, re.M)
    assert rows == ["0", "1", "2", "3"]


# ---- run


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    parts.write_category(root, "tile", train=4, good=2, bad=2)
    return root


class Place:
    """A checkout with the spec, the programs that steps call, and a host that runs them."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder = folder
        self.images = images
        (folder / "specs").mkdir()
        self.spec(least=0.0)
        bin_ = folder / "bin"
        bin_.mkdir()
        self._script(bin_ / "uadctl", f'exec {shlex.quote(sys.executable)} -m uadctl "$@"')
        for name in ("python", "python3"):  # nothing is installed: what would be is written down
            self._script(bin_ / name, f'echo "$@" >> {shlex.quote(str(folder / "installed"))}')

    def spec(self, *, least: float) -> None:
        (self.folder / "specs" / "line.toml").write_text(SPEC.replace("LEAST", str(least)), encoding="utf-8")

    def _script(self, file: Path, line: str) -> None:
        file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def environ(self, of_job: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in OURS}
        folder = re.compile(r"\$\{\{ github\.workspace \}\}|\$CI_PROJECT_DIR|\$\(Pipeline\.Workspace\)")
        theirs = {k: folder.sub(str(self.folder), v) for k, v in of_job.items()}
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # The machine's own folder of images is not here.
        ours = {"UADCTL_DATA": str(self.images), "PYTHONPATH": paths, "XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**kept, **theirs, **ours, "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"}

    def bash(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """One step, in a shell that stops at the first error, as all of these hosts have it."""
        file = self.folder / "step.sh"
        file.write_text(script, encoding="utf-8")
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=variables,
        )

    def run(self, made: Job, **of_host: str) -> tuple[int, str]:
        """All steps. The exit code of the first that fails, and what stood on stderr."""
        environ = {**self.environ(made.environ), **of_host}
        code, err = 0, ""
        for step in made.steps:
            if code == 0 or step.always:
                ended = self.bash(step.script, **environ)
                code = code or ended.returncode
                err += ended.stderr
        return code, err


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, images) -> Path:
    """baseline.json, made by the command that the page has for it."""
    place = Place(folder := tmp_path_factory.mktemp("made"), images)
    (command,) = re.findall(r"^uadctl bench .* --update-baseline$", PAGE, re.M)
    ended = place.bash(command, **place.environ({}))
    assert ended.returncode == 0, ended.stderr
    return folder / "baseline.json"


@pytest.fixture
def place(tmp_path, images, baseline) -> Place:
    made = Place(tmp_path, images)
    (tmp_path / "baseline.json").write_bytes(baseline.read_bytes())
    return made


VARIABLES = {
    "GitHub Actions": {"GITHUB_ACTIONS": "true", "CI": "true", "GITHUB_STEP_SUMMARY": "page.md"},
    "GitLab CI": {"GITLAB_CI": "true", "CI": "true"},
    "Azure Pipelines": {"TF_BUILD": "True"},
    "Any other system": {},
}
TOLD = {
    "GitHub Actions": r"^::error title=uadctl%3A gate%3A mean / vision_patchcore::image_auroc is ",
    "GitLab CI": r"^error: gate: mean / vision_patchcore: image_auroc is ",
    "Azure Pipelines": r"^##vso\[task\.logissue type=error\]uadctl: gate: mean / vision_patchcore: image_auroc is ",
    "Any other system": r"^error: gate: mean / vision_patchcore: image_auroc is ",
}


@pytest.mark.slow
@pytest.mark.parametrize("host", EVERY)
def test_a_broken_limit_fails_the_job_and_its_results_are_kept(place, host):
    place.spec(least=1.01)
    made = job(host)
    code, err = place.run(made, **VARIABLES[host])
    assert code == 3, err
    assert re.search(TOLD[host], err, re.M), err
    assert ("::error" in err) == (host == "GitHub Actions")
    assert ("##vso" in err) == (host == "Azure Pipelines")
    assert len(made.kept) >= 2
    assert [name for name in made.kept if not (place.folder / name).exists()] == []
    assert (place.folder / "out" / "report" / "index.html").is_file()
    root = ElementTree.parse(place.folder / "out" / "junit.xml").getroot()
    assert (root.get("errors"), root.get("failures")) == ("0", "1")
    assert any(str(case.get("name")).startswith("regression: ") for case in root.iter("testcase"))
    summary = (place.folder / "out" / "summary.md").read_text(encoding="utf-8")
    assert "### What is wrong" in summary
    assert "### Against the baseline" in summary
    page = place.folder / "page.md"
    assert page.exists() == (host == "GitHub Actions")
    assert not page.exists() or page.read_text(encoding="utf-8") == summary + "\n"
    assert "-m pip install uadctl" in (place.folder / "installed").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_job_passes_where_nothing_has_changed(place):
    before = (place.folder / "baseline.json").read_bytes()
    code, err = place.run(job("GitHub Actions"), **VARIABLES["GitHub Actions"])
    assert code == 0, err
    assert re.search(r"^::notice title=uadctl%3A gate passed::1 of 1 limits hold; (\d+) of \1 metrics ", err, re.M)
    assert "::error" not in err
    assert (place.folder / "baseline.json").read_bytes() == before
    (run,) = (place.folder / "out" / "runs").iterdir()
    assert json.loads((run / "gate.json").read_text(encoding="utf-8"))["passed"] is True


@pytest.mark.slow
def test_what_cannot_be_run_ends_with_2(place):
    (place.folder / "specs" / "line.toml").write_text("[model]\n", encoding="utf-8")
    code, err = place.run(job("Any other system"))
    assert code == 2
    assert err.startswith("error: specs/line.toml:")
    assert not (place.folder / "out" / "report").exists()
