"""What `uadctl bench --robustness` found, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uadctl.cli.console import print_table, print_told

# Rows of one unit; the files of the run have them all.
_MOST_ROWS = 40

# Shown with its change against the unchanged images, of the figures that are there.
_COMPARED = {"image_auroc": "image\nAUROC"}
_AT_THRESHOLD = {"false_alarm_rate": "false\nalarms", "miss_rate": "missed", "flip_rate": "flipped"}


def print_robustness(found: Mapping[str, Mapping[str, Mapping[str, Any]]], *, several: bool) -> None:
    """A table for each unit: its images as they are, and after each corruption at each severity.

    found: by category, label and seed, as `uadctl.bench.BenchResult.robustness` has it. several: whether there are
        several labels.
    """
    for name, unit in _units(found, several=several):
        region = _region_metric(unit["clean"]["metrics"])
        compared = _COMPARED | ({} if region is None else {region: _heading(region)})
        headings = [name, "severity"]
        for heading in compared.values():
            headings += [heading, "change"]
        headings += [*_AT_THRESHOLD.values(), "good\nshift"]
        rows = [["as it is", "", *_cells(unit["clean"], compared)]]
        rows += [[one["corruption"], str(one["severity"]), *_cells(one, compared)] for one in unit["corruptions"]]
        print_table(headings, rows[:_MOST_ROWS], text_columns=1, wrap=False)
        if len(rows) > _MOST_ROWS:
            print_told(f"and {len(rows) - _MOST_ROWS} more; robustness.json has them all")
        _print_reasons(name, [unit["clean"], *unit["corruptions"]], [*compared, *_AT_THRESHOLD, "good_shift"])


def _units(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]], *, several: bool
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for category, labels in found.items():
        for label, seeds in labels.items():
            for seed, unit in seeds.items():
                name = f"{category} · {label}" if several else category
                yield f"{name} · seed {seed}" if len(seeds) > 1 else name, unit


def _region_metric(metrics: Mapping[str, float | None]) -> str | None:
    """The first AUPRO, the figure of maps that is compared; None where pixels are not measured."""
    return next((name for name in metrics if name.startswith("aupro_")), None)


def _heading(name: str) -> str:
    digits = name.removeprefix("aupro_")
    return f"AUPRO\n@{1.0 if digits == '100' else float(f'0.{digits}'):g}"


def _cells(one: Mapping[str, Any], compared: Mapping[str, str]) -> Iterator[str]:
    metrics, changes = one["metrics"], one.get("changes", {})
    for name in compared:
        yield _number(metrics[name])
        yield _number(changes.get(name), signed=True) if changes else ""
    for name in _AT_THRESHOLD:
        yield _percent(metrics[name]) if name in metrics else ""
    yield _number(metrics["good_shift"], signed=True, digits=1) if "good_shift" in metrics else ""


def _print_reasons(name: str, told: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> None:
    """What is a dash above, and why: each reason once."""
    reasons: dict[str, dict[str, None]] = {}
    for one in told:
        for metric, reason in one["reasons"].items():
            if metric in shown:
                reasons.setdefault(reason, {})[metric] = None
    for reason, metrics in reasons.items():
        print_told(f"robustness: {name}: {reason} ({', '.join(metrics)})")


def _number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    if value is None:
        return "-"
    near = round(value, digits)
    return f"{near:+.{digits}f}" if signed and near else f"{abs(near) if signed else near:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
