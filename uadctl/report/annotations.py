"""What a CI system shows beside a job: its own lines for what is wrong, and the page of the job.

GitHub Actions, and Gitea and Forgejo, which speak its language, understand workflow commands (`::error …`); Azure
Pipelines understands logging commands (`##vso[…]`). Both are documented by their makers, read the whole output of a
step, stderr as well as stdout, and take a line only for one of these if its characters are escaped as below. Other
systems read JUnit XML.

The only module that knows the environment variables of CI systems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uadctl.errors import RunError
from uadctl.runs.gate import Checked, Compared, Verdict
from uadctl.spec.values import printable

MOST_ERRORS = 10
"""GitHub shows so many errors of a step."""

MOST_SUMMARY = 1024 * 1024
"""Bytes of a step's page at GitHub; of a longer one nothing is shown."""

# An annotation is a sentence or two; the run folder has the rest.
_MOST_TEXT = 2000

Host = Literal["github", "azure"]


@dataclass(frozen=True, slots=True)
class FailedUnit:
    """A unit of work that failed: "bottle / vision_patchcore", and why."""

    where: str
    error: str


def failed_units(metrics: Mapping[str, Any]) -> tuple[FailedUnit, ...]:
    """Those of a run's metrics.json."""
    return tuple(
        FailedUnit(f"{category} / {label}" + (f" / seed {seed}" if len(seeds) > 1 else ""), cell["error"])
        for category, labels in metrics["results"].items()
        for label, seeds in labels.items()
        for seed, cell in seeds.items()
        if not cell["success"]
    )


def host(environ: Mapping[str, str]) -> Host | None:
    """Whose job this process is part of; None where annotations would be noise."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return "github"
    return "azure" if environ.get("TF_BUILD", "").lower() == "true" else None


def annotate(
    verdict: Verdict | None,
    failed: Sequence[FailedUnit],
    *,
    environ: Mapping[str, str],
    write: Callable[[str], None],
    markdown: str | Path | None = None,
) -> None:
    """Write a line for each unit that failed, broken limit and regression, if this is the job of a known CI system.

    The worst comes first: units that failed, what is undefined, then what is furthest beyond its limit as a share of
    the figure itself. Of more than `MOST_ERRORS` the last line tells how many there are. Where a gate was passed,
    GitHub gets a notice, which Azure Pipelines does not have; also that the run was made the baseline.

    environ: of the process. write: takes a line.
    markdown: the file with the summary, which Azure Pipelines is told to show.
    """
    system = host(environ)
    if system is None:
        return
    broken = sorted(verdict.broken if verdict is not None else (), key=_shortfall, reverse=True)
    errors = [(f"{unit.where} failed", unit.error) for unit in failed]
    errors += [(f"gate: {one.where}", one.reason or "") for one in broken]
    if len(errors) > MOST_ERRORS:
        title, message = errors[MOST_ERRORS - 1]
        errors[MOST_ERRORS - 1 :] = [(f"{title} (and {len(errors) - MOST_ERRORS} more)", message)]
    for title, message in errors:
        write(_github("error", title, message) if system == "github" else _azure(f"{title}: {message}"))
    if system == "github" and verdict is not None and not errors:
        n, m = len(verdict.limits), len(verdict.regressions)
        held = [f"{n} of {n} limits hold"] if n else []
        held += [f"{m - len(verdict.worse)} of {m} metrics no worse than the baseline"] if m else []
        held += ["this run was made the baseline"] if verdict.accepted else []
        if held:
            write(_github("notice", "gate passed", "; ".join(held)))
    if system == "azure" and markdown is not None:
        write(f"##vso[task.uploadsummary]{_azure_text(str(Path(markdown).resolve()))}")


def append_summary(
    summary: Callable[[], str], *, environ: Mapping[str, str], warn: Callable[[str], None]
) -> Path | None:
    """Append a summary in Markdown to the page of this GitHub job; elsewhere nothing is done.

    summary: makes the text, where it is wanted. warn: takes why it could not be written, or has no room; nothing is
    raised, as the results stand in the run folder. Returns the file that was written.
    """
    name = environ.get("GITHUB_STEP_SUMMARY")
    if host(environ) != "github" or not name:
        return None
    file = Path(name)
    try:
        text = f"{summary()}\n".encode()
        size = file.stat().st_size if file.exists() else 0
        if size + len(text) > MOST_SUMMARY:
            warn(
                f"{name}: the summary of this step was not added: the file has {size} bytes already, and of more than "
                f"{MOST_SUMMARY} nothing is shown"
            )
            return None
        with file.open("ab") as stream:
            stream.write(text)
    except OSError as error:
        warn(f"{name}: the summary of this step cannot be written: {error.strerror}")
        return None
    except RunError as error:
        warn(f"the summary of this step cannot be made: {error}")
        return None
    return file


def _shortfall(one: Checked | Compared) -> float:
    """How far beyond its limit, as a share of the larger of the two figures; infinite where it is undefined."""
    if isinstance(one, Compared):
        bound = one.baseline
    else:
        bound = one.min if one.min is not None and one.value is not None and one.value < one.min else one.max
    if one.value is None or bound is None:
        return float("inf")
    return abs(one.value - bound) / max(abs(one.value), abs(bound), 1e-12)


def _github(kind: Literal["error", "notice"], title: str, message: str) -> str:
    """https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands"""
    named = _github_text(f"uadctl: {title}").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={named}::{_github_text(message)}"


def _github_text(text: str) -> str:
    return _lines(text).replace("%", "%25").replace("\n", "%0A")


def _azure(message: str) -> str:
    """https://learn.microsoft.com/azure/devops/pipelines/scripts/logging-commands"""
    return f"##vso[task.logissue type=error]uadctl: {_azure_text(message)}"


def _azure_text(text: str) -> str:
    return _lines(text).replace("%", "%AZP25").replace(";", "%3B").replace("\n", "%0A").replace("]", "%5D")


def _lines(text: str) -> str:
    """The text as it may stand in a log: its line ends are \\n, all other control characters escaped; cut if long."""
    short = text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
    return "\n".join(printable(line) for line in short.replace("\r\n", "\n").split("\n"))
