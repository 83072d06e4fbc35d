"""A baseline: what an earlier run measured, kept so that a later one can be held against it.

It is one JSON file, made to be kept under version control beside the spec: nothing in it depends on the clock or on
where the run lay, and a run that is repeated writes the same bytes. The replicates, the metrics in each resample of the
test images, are what lets a later run be compared with it in pairs: both draw the same images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from uadctl import __version__
from uadctl.atomic import write_named
from uadctl.errors import DataError, Problem, RunError, SpecError
from uadctl.metrics import mean_metrics, pixel_metric_names
from uadctl.runs.folder import SCHEMA, Document, UnitFolder
from uadctl.spec import PROTOCOLS, RunSpec, spec_hash
from uadctl.spec.values import shown
from uadctl.untrusted import Hostile, parse_json, read_bounded

#: Resamples that `--gate` asks for where the spec asks for none.
RESAMPLES = 1000

#: Of fewer the quantiles 0.025 and 0.975 are mere ends.
LEAST_RESAMPLES = 100

# Differences between models are many orders above the tenth digit, and the file is kept in repositories.
_DIGITS = 9

# Stands for a line of numbers while the rest is written. No name of a spec can hold it.
_MARK = "\x7f"

# So many of one kind are told one by one.
_SAID = 5

_ANEW = "Remove it and make it anew with --update-baseline."


class ReplicatesDocument(Document, kw_only=True):
    """replicates.json of a unit: its metrics in each bootstrap resample of the test images.

    images: SHA-256 over the images that are drawn from, by name, label and group; where two files agree, resample r of
        both is of the same images, so that their metrics can be compared in pairs.
    resamples: how many.
    metrics: by name, that of each resample in nine digits; null where a resample leaves it undefined.
    """

    images: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    resamples: Annotated[int, Meta(ge=1)]
    metrics: dict[str, list[float | None]]


class Kept(Struct, kw_only=True):
    """What one model measured in one category, as a baseline keeps it.

    images: as in replicates.json.
    data: SHA-256 over names, labels and bytes of the test images and their masks.
    seeds: of the runs that all figures are means of.
    metrics: by name, the mean over the seeds; null unless every seed defines it.
    replicates: by metric its mean over the seeds in each resample; null where undefined.
    """

    images: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    data: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    seeds: list[Annotated[int, Meta(ge=0)]]
    metrics: dict[str, float | None]
    replicates: dict[str, list[float | None]]


class BaselineDocument(Document, kw_only=True):
    """The file that `bench --update-baseline` writes and `bench --gate` reads.

    uadctl: the version that measured it.
    hash: of the run's spec, as in run.json.
    run: the name of the run.
    resamples: how many there are of each metric.
    protocol, fpr_limits: from [metrics].
    results: by category and label.
    """

    uadctl: str
    hash: Annotated[str, Meta(pattern="^[0-9a-f]{8}$")]
    run: str
    resamples: Annotated[int, Meta(ge=1)]
    protocol: str
    fpr_limits: list[float]
    results: dict[str, dict[str, Kept]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model measured in one category.

    images: SHA-256 over the images that the resamples were drawn from; equal ones were drawn alike.
    data: SHA-256 over names, labels and bytes of the test images and their masks.
    seeds: of the runs that the figures are means of.
    metrics: the mean of each metric over the seeds; None unless every seed defines it.
    replicates: by metric the mean over the seeds in each resample, (R,) float64, NaN where undefined.
    """

    images: str
    data: str
    seeds: tuple[int, ...]
    metrics: dict[str, float | None]
    replicates: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a run measured, by category and label.

    uadctl: the version that measured it. hash, run: of its spec, the name without any time.
    resamples: R. protocol, fpr_limits: what was computed, from [metrics].
    left_out: by category and label why a model whose units are all done is not among the results. Of a run only: no
        file holds it.
    """

    uadctl: str
    hash: str
    run: str
    resamples: int
    protocol: str
    fpr_limits: tuple[float, ...]
    results: dict[str, dict[str, Measured]]
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics that something is known of, sorted."""
        return sorted({name for labels in self.results.values() for one in labels.values() for name in one.replicates})


def short(values: NDArray[np.float64]) -> list[float | None]:
    """Replicates as documents hold them: nine significant digits, None for NaN."""
    return [None if value != value else float(f"{value:.{_DIGITS}g}") for value in values.tolist()]


def replicates_document(images: str, resamples: int, replicates: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """The content of a unit's replicates.json, which `measured_by` reads."""
    return {
        "images": images,
        "resamples": resamples,
        "metrics": {name: short(values) for name, values in replicates.items()},
    }


def measured_by(spec: RunSpec, units: Sequence[UnitFolder], data: Mapping[str, str]) -> Baseline:
    """What the finished units of a run have measured, in the form of a baseline.

    data: by category the SHA-256 of `Measured.data`. Categories and labels of which a unit failed are left out, and so
    are, with a reason, those whose seeds were not measured on the same images, as with `on_error = "skip"`.
    Raises RunError where a unit has no replicates.
    """
    cells: dict[tuple[str, str], list[UnitFolder]] = {}
    for unit in units:
        cells.setdefault((unit.category, unit.label), []).append(unit)
    results: dict[str, dict[str, Measured]] = {}
    left_out: dict[tuple[str, str], str] = {}
    for (category, label), seeds in cells.items():
        if not all(unit.status == "done" for unit in seeds):
            continue
        measured = _of_seeds(seeds, data[category])
        if measured is None:
            left_out[category, label] = "its seeds were measured on different images"
        else:
            results.setdefault(category, {})[label] = measured
    metrics = spec.metrics
    return Baseline(
        uadctl=__version__,
        hash=spec_hash(spec),
        run=spec.run.name,
        resamples=metrics.bootstrap,
        protocol=metrics.protocol,
        fpr_limits=metrics.fpr_limits,
        results=results,
        left_out=left_out,
    )


def _of_seeds(units: Sequence[UnitFolder], data: str) -> Measured | None:
    """The means over the seeds of one model; None where they have no resamples in common."""
    check_replicates(units)
    found = [read_replicates(unit) for unit in units]
    if len({one.images for one in found}) > 1:
        return None
    return Measured(
        images=found[0].images,
        data=data,
        seeds=tuple(unit.seed for unit in units),
        metrics=mean_metrics([unit.read("metrics")["metrics"] for unit in units]),
        replicates=mean_of_seeds(found),
    )


def read_replicates(unit: UnitFolder) -> ReplicatesDocument:
    """A unit's replicates.json. Raises RunError, which names the file, where it is absent or damaged."""
    file = unit.path / "replicates.json"
    try:
        found = msgspec.convert(unit.read("replicates"), ReplicatesDocument)
    except ValueError as error:  # ValidationError, or for a lone surrogate UnicodeEncodeError
        raise RunError(f"{file}: damaged: {error}") from error
    for name, values in found.metrics.items():
        if len(values) != found.resamples:
            raise RunError(f"{file}: damaged: {name} has {len(values)} values of {found.resamples} resamples")
    return found


def mean_of_seeds(found: Sequence[ReplicatesDocument]) -> dict[str, NDArray[np.float64]]:
    """By metric that all of several seeds have: its mean over them in each resample, (R,), NaN where any has none.

    found: of the same images. R is the least number of resamples: resample r is the same draw, however many follow.
    """
    resamples = min(one.resamples for one in found)
    names = [name for name in found[0].metrics if all(name in one.metrics for one in found)]
    return {
        # Rounded as the file of a baseline is, so that a run that is held against itself differs by nothing.
        name: _numbers(short(np.mean([_numbers(one.metrics[name][:resamples]) for one in found], axis=0)))
        for name in names
    }


def check_replicates(units: Sequence[UnitFolder]) -> None:
    """RunError for a finished unit that kept no replicates, since it was measured before uadctl 0.8 or without."""
    for unit in units:
        if unit.status == "done" and not unit.has("replicates"):
            raise RunError(
                f"{unit.path}: has no replicates.json, with which a baseline is compared",
                help="Units measured before uadctl 0.8 have none. Start a new run.",
            )


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


# ---- the file


def is_there(file: str) -> bool:
    """Whether there is a file of this name. DataError where that cannot be told, of a name that is too long for one."""
    try:
        return Path(file).exists()
    except OSError as error:
        raise DataError(f"--gate {file}: cannot be read: {error.strerror}") from error


def read_baseline(file: str) -> Baseline:
    """The baseline in a file. DataError, with the file's name as it was given, if it is none."""
    try:
        content = read_bounded(file)
    except FileNotFoundError:
        raise DataError(
            f"--gate {file}: no such file",
            help="Make it from a run that is good enough: the same command with --update-baseline",
        ) from None
    except OSError as error:
        raise DataError(f"--gate {file}: cannot be read: {error.strerror}") from error
    except Hostile as error:
        raise DataError(f"--gate {file}: not a baseline: {error}") from error
    mend = "Name a file that --update-baseline has written, or one that is not there yet."
    try:
        value = parse_json(content)
    except Hostile as error:
        raise DataError(f"--gate {file}: not a baseline: {error}", help=mend) from error
    except ValueError:  # UnicodeDecodeError is one
        raise DataError(f"--gate {file}: not a baseline: not JSON", help=mend) from None
    if not isinstance(value, dict) or not {"schema", "resamples", "results"} <= set(value):
        raise DataError(f"--gate {file}: not a baseline", help=mend)
    if value["schema"] != SCHEMA:
        raise DataError(
            f"--gate {file}: written by another version of uadctl: schema {SCHEMA} is expected",
            help=_ANEW,
        )
    try:
        form = msgspec.convert(value, BaselineDocument)
        results = {
            category: {label: _kept(one, form.resamples) for label, one in labels.items()}
            for category, labels in form.results.items()
        }
    except ValueError as error:  # msgspec's ValidationError is one
        raise DataError(f"--gate {file}: damaged: {error}", help=_ANEW) from error
    return Baseline(
        uadctl=form.uadctl,
        hash=form.hash,
        run=form.run,
        resamples=form.resamples,
        protocol=form.protocol,
        fpr_limits=tuple(form.fpr_limits),
        results=results,
    )


def _kept(form: Kept, resamples: int) -> Measured:
    """What one model measured, out of a file. ValueError where a metric has another number of replicates."""
    for name, values in form.replicates.items():
        if len(values) != resamples or form.metrics.get(name) is None:
            raise ValueError(f"{name} has {len(values)} replicates and the value {form.metrics.get(name)}")
    replicates = {name: _numbers(values) for name, values in form.replicates.items()}
    return Measured(form.images, form.data, tuple(form.seeds), form.metrics, replicates)


def baseline_document(baseline: Baseline) -> dict[str, Any]:
    """What the file of a baseline holds: nothing that depends on the clock or on where the run lies."""
    return {
        "schema": SCHEMA,
        "uadctl": baseline.uadctl,
        "hash": baseline.hash,
        "run": baseline.run,
        "resamples": baseline.resamples,
        "protocol": baseline.protocol,
        "fpr_limits": list(baseline.fpr_limits),
        "results": {
            category: {
                label: {
                    "images": one.images,
                    "data": one.data,
                    "seeds": list(one.seeds),
                    "metrics": one.metrics,
                    "replicates": {name: short(values) for name, values in one.replicates.items()},
                }
                for label, one in labels.items()
            }
            for category, labels in baseline.results.items()
        },
    }


def carry_over(
    old: Baseline, new: Baseline, data: Mapping[str, str], labels: Sequence[str]
) -> tuple[Baseline, tuple[str, ...]]:
    """What to write over a baseline: what a run measured, and what the run did not look at as it was.

    old: the baseline that was there. new: what the run measured.
    data: by category of the run the SHA-256 of `Measured.data`. labels: of the run.

    Other categories and models are kept, in the order of old, if both were measured with the same protocol, limits of
    AU-PRO and number of resamples; but no other model of a category whose test images have changed.
    Returns it, and what was carried over, by name ("bottle / vision_patchcore").
    """
    alike = (old.protocol, old.fpr_limits, old.resamples) == (new.protocol, new.fpr_limits, new.resamples)
    if not alike:
        return new, ()
    carried: list[str] = []
    results: dict[str, dict[str, Measured]] = {}
    for category, models in old.results.items():
        for label, one in models.items():
            measured = new.results.get(category, {}).get(label)
            if measured is not None:
                results.setdefault(category, {})[label] = measured
            elif (category not in data or label not in labels) and data.get(category, one.data) == one.data:
                results.setdefault(category, {})[label] = one
                carried.append(f"{category} / {label}")
    for category, models in new.results.items():
        results[category] = results.get(category, {}) | models
    return replace(new, results=results), tuple(carried)


def write_baseline(file: str, baseline: Baseline) -> None:
    """Write it as the whole of a file. RunError if it cannot be written.

    Indented but for the replicates, of which each metric is a line: a change of one metric is a changed line.
    """
    lines: list[str] = []
    document = baseline_document(baseline)
    for labels in document["results"].values():
        for one in labels.values():
            for name, values in one["replicates"].items():
                one["replicates"][name] = f"{_MARK}{len(lines)}{_MARK}"
                lines.append(json.dumps(values, allow_nan=False, separators=(",", ":")))
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    text = re.sub(rf'"{_MARK}([0-9]+){_MARK}"', lambda found: lines[int(found[1])], text)
    write_named(file, f"{text}\n".encode("utf-8", "backslashreplace"))


# ---- may it be compared


def check_spec(spec: RunSpec) -> None:
    """SpecError where the resamples of a spec are too few to be compared."""
    if spec.metrics.bootstrap < LEAST_RESAMPLES:
        raise SpecError(
            f"--gate: [metrics] bootstrap = {spec.metrics.bootstrap}: at least {LEAST_RESAMPLES} resamples are needed",
            help=f"Leave it out for {RESAMPLES}.",
        )


def differences(baseline: Baseline, spec: RunSpec, data: Mapping[str, str], labels: Sequence[str]) -> list[Problem]:
    """Why a run of this spec cannot be held against the baseline; empty where it can.

    data: by category of the run the SHA-256 of `Measured.data`. labels: of the run.
    """
    problems: list[Problem] = []
    metrics, table = spec.metrics, None if spec.gate is None else spec.gate.regression
    for key, old, new in (
        ("protocol", baseline.protocol, metrics.protocol),
        ("fpr_limits", list(baseline.fpr_limits), list(metrics.fpr_limits)),
    ):
        if old != new:
            problems.append(Problem(f"it was measured with [metrics] {key} = {shown(old)}, this run has {shown(new)}"))
    for category in [name for name in data if name in baseline.results]:
        known = [baseline.results[category][label] for label in labels if label in baseline.results[category]]
        if any(one.data != data[category] for one in known):
            problems.append(Problem(f"the test images of {category} or their masks are not those it was measured on"))
    if not any(label in baseline.results.get(category, {}) for category in data for label in labels):
        theirs = [f"{category} / {label}" for category, of in baseline.results.items() for label in of]
        ours = [f"{category} / {label}" for category in data for label in labels]
        problems.append(Problem(f"it holds {_some(theirs)}, this run has {_some(ours)}"))
    asked = None if table is None else table.metrics
    unknown = [name for name in asked or () if name not in baseline.metrics]
    if unknown and not problems:
        mend = "Name others, or make it anew from a run that has a number for them: add --update-baseline"
        problems.append(Problem(f"it has no {_some(unknown)}, which [gate.regression] metrics names", mend))
    if asked is None and not metrics.pixel:
        of_pixels = {*pixel_metric_names(fpr_limits=metrics.fpr_limits), *PROTOCOLS[metrics.protocol].of_pixels}
        common = [of.get(label) for c, of in baseline.results.items() if c in data for label in labels]
        names = dict.fromkeys(name for one in common if one is not None for name in one.replicates)
        if lost := [name for name in names if name in of_pixels]:
            mend = "Measure them, or name those to compare, [gate.regression] metrics, or add --update-baseline"
            problems.append(Problem(f"it has {_some(lost)}, which [metrics] pixel = false leaves out", mend))
    return problems


def check_comparable(
    baseline: Baseline, file: str, spec: RunSpec, data: Mapping[str, str], labels: Sequence[str]
) -> None:
    """Raise DataError, with every problem, where a run of this spec cannot be held against the baseline of a file.

    Other arguments as of `differences`.
    """
    problems = differences(baseline, spec, data, labels)
    if problems:
        said = f"--gate {file}: cannot be compared: "
        told = [Problem(f"{said}{problem.message}", problem.help) for problem in problems[:_SAID]]
        if len(problems) > _SAID:
            told.append(Problem(f"--gate {file}: and {len(problems) - _SAID} more differences"))
        last = told.pop()
        meant = "If that is meant, make it anew: add --update-baseline"
        raise DataError([*told, Problem(last.message, last.help or meant)])


def not_in_both(baseline: Baseline, file: str, data: Mapping[str, str], labels: Sequence[str]) -> list[str]:
    """What of a run and a baseline has no counterpart in the other, as warnings; arguments as of `check_comparable`."""
    ours = {f"{category} / {label}" for category in data for label in labels}
    theirs = {f"{category} / {label}" for category, of in baseline.results.items() for label in of}
    found = []
    for only, where in ((ours - theirs, f"not in {file}"), (theirs - ours, f"in {file}, but not in this run")):
        if only:
            found.append(f"not compared, since {where}: {_some(sorted(only))}")
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SAID} more" if len(names) > _SAID else ""
    return ", ".join(names[:_SAID]) + more if names else "nothing"
