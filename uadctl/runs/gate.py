"""The gate: what a bench measured, held against the limits of a spec and against a baseline.

A limit is broken or holds. Against a baseline a metric is a regression only if it is worse by more than a tolerance
whatever of the test images had been drawn: `compare` says how.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from uadctl.errors import GateFailed, Problem, SpecError
from uadctl.metrics import (
    LOWER_IS_BETTER,
    aupro_name,
    holm,
    mean_replicates,
    paired_interval,
    wilcoxon_signed_rank,
)
from uadctl.metrics.paired import ROUNDING
from uadctl.spec.grammar import COMPARABLE, RegressionTable
from uadctl.spec.values import did_you_mean, key_text

if TYPE_CHECKING:
    from uadctl.runs.baseline import Baseline, Measured
    from uadctl.spec import GateTable, LimitTable

#: Of fewer categories no signed-rank test reaches LEVEL: the smallest two-sided p-value of five is 0.0625.
LEAST_CATEGORIES = 6
LEVEL = 0.05

# Pairs of more models than these are a table that nobody reads; a sweep can have hundreds.
_MOST_MODELS = 20

# What each metric rests on: the names of its counts, and how they are said.
_IMAGES = (("normal_images", "normal"), ("defect_images", "defect images"))
_PIXELS = (("pixel_images", "images"), ("regions", "defect regions"))
_GROUPS = (("normal_groups", "normal"), ("defect_groups", "defect parts"))
_OF_PIXELS = ("pixel_", "aupro_", "segf1")
_LOGICAL = (("normal_images", "normal"), ("logical_images", "logical images"))
_STRUCTURAL = (("normal_images", "normal"), ("structural_images", "structural images"))
_LOGICAL_DEFECTS = (("logical_defects", "logical defects"),)
_STRUCTURAL_DEFECTS = (("structural_defects", "structural defects"),)
_ALL_DEFECTS = ("spro_defects", "defects")  # where sPRO does not tell sorts apart
_DEFECTS = (("defect_images", "defect images"),)
_NORMAL = (("normal_images", "normal images"),)
_RESTS_ON = {
    "miss_rate": _DEFECTS,
    "tp": _DEFECTS,
    "fn": _DEFECTS,
    "false_alarm_rate": _NORMAL,
    "fp": _NORMAL,
    "tn": _NORMAL,
    "precision": (("alarms", "alarms"),),
    "image_auroc_logical": _LOGICAL,
    "image_auroc_structural": _STRUCTURAL,
    "spro_05": (*_LOGICAL, _STRUCTURAL[1], *_LOGICAL_DEFECTS, *_STRUCTURAL_DEFECTS),
    "spro_05_logical": (*_LOGICAL, *_LOGICAL_DEFECTS),
    "spro_05_structural": (*_STRUCTURAL, *_STRUCTURAL_DEFECTS),
    "group_miss_rate": (("defect_groups", "defect parts"),),
    "group_false_alarm_rate": (("normal_groups", "normal parts"),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One limit, and whether it holds.

    category: None for a limit on the mean over the categories and seeds; then seed is None as well.
    metric:   its name. value: what was measured, None where it is undefined or the unit failed.
    min, max: the least and the most allowed, None where there is no such limit.
    reason:   why the limit is broken; None if it holds.
    """

    category: str | None
    label: str
    seed: int | None
    metric: str
    value: float | None
    min: float | None
    max: float | None
    reason: str | None

    @property
    def where(self) -> str:
        """What is measured, in words: "bottle / vision_patchcore", or "mean / vision_patchcore"."""
        return f"{self.category or 'mean'} / {self.label}"

    @property
    def limit(self) -> str:
        """The limit in words: "image_auroc >= 0.95"."""
        bounds = [(">=", self.min), ("<=", self.max)]
        return f"{self.metric} " + " and ".join(f"{sign} {_short(b)}" for sign, b in bounds if b is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One metric held against a baseline.

    category: None for the mean over the categories. metric: its name.
    baseline, value: the mean over the seeds of each run; None where it is undefined.
    difference: value minus baseline. interval: the 95 % paired bootstrap interval of it; None where too few resamples
        define it, or value is None: then nothing but a metric that is undefined now is a regression.
    tolerance: so much worse it may be, besides what the draw of the test images explains.
    p_value: of the signed-rank test over the categories, Holm-adjusted over the models; None where it was not made.
    reason: why it is a regression; None if it is none.
    """

    category: str | None
    label: str
    metric: str
    baseline: float | None
    value: float | None
    difference: float | None
    interval: tuple[float, float] | None
    tolerance: float
    p_value: float | None
    reason: str | None

    @property
    def seed(self) -> None:
        """Seeds are not told apart: it is their mean that is compared."""
        return None

    @property
    def where(self) -> str:
        """As `Checked.where`."""
        return f"{self.category or 'mean'} / {self.label}"

    @property
    def limit(self) -> str:
        """The limit in words: "image_auroc no worse than the baseline (tolerance 0.002)"."""
        return f"{self.metric} no worse than the baseline (tolerance {_short(self.tolerance)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two models of one run over its categories.

    label, other: the models. metric: its name.
    categories: that both define it in. difference: the mean over these of label minus other; None without any.
    better, worse, equal: in how many of them label is so.
    p_value: of Wilcoxon's signed-rank test over the categories; None for fewer than six.
    adjusted: the p-value, Holm-adjusted over all pairs of models; None where p_value is.
    reason: why there is no p-value; None if there is one.
    """

    metric: str
    label: str
    other: str
    categories: int
    difference: float | None
    better: int
    worse: int
    equal: int
    p_value: float | None
    adjusted: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every limit of a gate, in the order of the spec, for every model, and every comparison with a baseline.

    baseline: the file that the run was held against; None without one.
    models: pairs of the run's models; empty for one model.
    accepted: the run becomes the baseline, so that regressions against the old one are told and break nothing.
    """

    limits: tuple[Checked, ...]
    regressions: tuple[Compared, ...] = ()
    baseline: str | None = None
    models: tuple[Pair, ...] = ()
    accepted: bool = False

    @property
    def broken_limits(self) -> tuple[Checked, ...]:
        """The limits that do not hold."""
        return tuple(limit for limit in self.limits if limit.reason is not None)

    @property
    def worse(self) -> tuple[Compared, ...]:
        """The regressions, accepted or not."""
        return tuple(one for one in self.regressions if one.reason is not None)

    @property
    def broken(self) -> tuple[Checked | Compared, ...]:
        """The limits that do not hold, and the regressions that are not accepted."""
        return (*self.broken_limits, *(() if self.accepted else self.worse))

    @property
    def passed(self) -> bool:
        return not self.broken

    def error(self) -> GateFailed:
        """The broken limits as an error, a line each."""
        several = len({limit.seed for limit in self.limits if limit.seed is not None}) > 1
        return GateFailed(
            [
                Problem(
                    f"gate: {limit.where}{f' / seed {limit.seed}' if several and limit.seed is not None else ''}: "
                    f"{limit.reason}"
                )
                for limit in self.broken
            ]
        )

    def document(self) -> dict[str, Any]:
        """What gate.json says: whether all holds, how many limits there are, which are broken, and each comparison."""
        return {
            "passed": self.passed,
            "limits": len(self.limits),
            "broken": [asdict(limit) for limit in self.broken_limits],
            "baseline": self.baseline,
            "accepted": self.accepted,
            "regressions": [asdict(one) for one in self.regressions],
            "models": [asdict(pair) for pair in self.models],
        }


def check_categories(gate: GateTable | None, categories: Sequence[str]) -> None:
    """Raise SpecError, which names each, if the gate has limits on categories that are not among those of the run."""
    limited = gate.category if gate is not None and gate.category is not None else {}
    absent = [name for name in limited if name not in categories]
    if absent:
        raise SpecError(
            [
                Problem(
                    f"[gate.category] {key_text(name)} is no category of this run{did_you_mean(name, categories)}",
                    f"Its categories: {', '.join(categories)}",
                )
                for name in absent
            ]
        )


def evaluate(gate: GateTable, metrics: Mapping[str, Any]) -> Verdict:
    """Hold the limits of a gate against a run's measurements.

    metrics: the content of the run's metrics.json.

    Limits of [gate] are for the mean over the categories and seeds, and hold for each label by itself. Limits of
    [gate.category.NAME] are for each label and seed of that category: a seed is a model that might be put to use, and a
    mean over seeds would hide one that misses defects. A value equal to a limit holds it. What is null,
    of a unit that failed, or not there at all breaks its limit.
    """
    return Verdict((*_on_means(gate, metrics), *_on_categories(gate, metrics)))


def _on_means(gate: GateTable, metrics: Mapping[str, Any]) -> Iterator[Checked]:
    for label, means in metrics["means"].items():
        units = {name: labels.get(label, {}) for name, labels in metrics["results"].items()}
        cells = {
            name if len(seeds) == 1 else f"{name}, seed {seed}": cell
            for name, seeds in units.items()
            for seed, cell in seeds.items()
        }
        rests_on = f"mean of {len(units)} {'category' if len(units) == 1 else 'categories'}"
        seeds_each = max((len(seeds) for seeds in units.values()), default=0)
        if seeds_each > 1:
            rests_on += f" and {seeds_each} seeds"
        for metric, limit in gate.limits().items():
            value = means.get(metric)
            why = _why_no_mean(metric, cells) if value is None else ""
            yield _check(None, label, None, metric, limit, value, why=why, rests_on=rests_on)


def _on_categories(gate: GateTable, metrics: Mapping[str, Any]) -> Iterator[Checked]:
    for category, table in (gate.category or {}).items():
        labels = metrics["results"].get(category, {})
        for label in metrics["means"]:
            seeds: Mapping[str, Mapping[str, Any]] = labels.get(label) or {"": {}}
            for seed, cell in seeds.items():
                for metric, limit in table.limits().items():
                    yield _check(
                        category,
                        label,
                        int(seed) if seed else None,
                        metric,
                        limit,
                        cell.get("metrics", {}).get(metric),
                        why=_why_null(metric, cell),
                        rests_on=_counted(metric, cell.get("counts", {})),
                    )


def _check(
    category: str | None,
    label: str,
    seed: int | None,
    metric: str,
    limit: LimitTable,
    value: float | None,
    *,
    why: str,
    rests_on: str,
) -> Checked:
    reason = None
    n = f" ({rests_on})" if rests_on else ""
    if value is None:
        reason = f"{metric} is null, which no limit allows: {why}"
    elif limit.min is not None and value < limit.min:
        reason = f"{metric} is {_apart(value, limit.min)}, the least allowed is {_short(limit.min)}{n}"
    elif limit.max is not None and value > limit.max:
        reason = f"{metric} is {_apart(value, limit.max)}, the most allowed is {_short(limit.max)}{n}"
    return Checked(
        category=category,
        label=label,
        seed=seed,
        metric=metric,
        value=value,
        min=limit.min,
        max=limit.max,
        reason=reason,
    )


def _why_null(metric: str, cell: Mapping[str, Any]) -> str:
    if not cell:
        return "there is no such unit"
    if not cell["success"]:
        return f"the unit failed: {_first_line(cell['error'])}"
    in_groups = not metric.startswith("group_") or "groups" in cell["counts"]
    return str(cell["reasons"].get(metric, "it was not measured" if in_groups else "no image has a group"))


def _why_no_mean(metric: str, cells: Mapping[str, Mapping[str, Any]]) -> str:
    """The first reason, and how many more units have one."""
    without = [name for name, cell in cells.items() if cell.get("metrics", {}).get(metric) is None]
    if not without:
        return "nothing was measured"
    more = f" (and {len(without) - 1} more of {len(cells)} units)" if len(without) > 1 else ""
    return f"{without[0]}: {_why_null(metric, cells[without[0]])}{more}"


# ---- against a baseline


def compare(
    table: RegressionTable | None, baseline: Baseline, run: Baseline, metrics: Mapping[str, Any]
) -> tuple[Compared, ...]:
    """Hold what a run measured against a baseline that was measured on the same test images.

    table: [gate.regression]; None for its defaults. run: what the run measured, in the form of a baseline; of units
        that failed there is nothing. metrics: the content of the run's metrics.json, which says why something is null.

    What is compared is the mean over the seeds of each, in every category and, with several, their mean, each category
    weighing the same. A regression is a metric of which the whole 95 % paired bootstrap interval of the difference lies
    beyond the tolerance on the worse side, or one that was a number and is null now, or not measured any more. The
    interval alone would call differences that nobody minds: of two runs that get one and the same pixel wrong in every
    image it has no width.

    In a mean the categories are resampled independently, see `uadctl.metrics.mean_replicates`. With several labels and
    six categories or more, a mean is a regression only if Wilcoxon's signed-rank test over the categories,
    Holm-adjusted over the labels, is below 0.05 as well: with many models one is unlucky somewhere.

    Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Demšar, Statistical Comparisons of
    Classifiers over Multiple Data Sets, JMLR 7, 2006.
    """
    table = table or RegressionTable()
    several = len(metrics["means"]) > 1
    by_label = {
        label: [_in_category(table, baseline, run, metrics, c, label) for c in metrics["results"]]
        for label in metrics["means"]
    }
    found: list[Compared] = []
    for parts in by_label.values():
        categories = [part for part in parts if part]
        if table.on != "means":
            found += [held.compared for part in categories for held in part.values()]
    means: list[_Held] = []
    for label, parts in by_label.items():
        categories = [part for part in parts if part]
        if table.on != "categories" and (len(categories) > 1 or (categories and table.on == "means")):
            names = dict.fromkeys(name for part in categories for name in part)
            means += [_mean_of(table, label, [part[name] for part in categories if name in part]) for name in names]
    return (*found, *(_ranked(means) if several else (held.compared for held in means)))


@dataclass(frozen=True, slots=True)
class _Held:
    """One comparison, and what it came of.

    before, after: (R,) the metric in each resample; None where the run has none.
    why: why it cannot be made; None where it can.
    parts: of a mean the differences of its categories; empty otherwise, and where one is undefined.
    """

    compared: Compared
    before: NDArray[np.float64]
    after: NDArray[np.float64] | None
    why: str | None
    parts: tuple[float, ...] = ()


def _in_category(
    table: RegressionTable, baseline: Baseline, run: Baseline, metrics: Mapping[str, Any], category: str, label: str
) -> dict[str, _Held]:
    """The comparisons of one model in one category, by metric; nothing where the baseline does not know it."""
    old = baseline.results.get(category, {}).get(label)
    if old is None:
        return {}
    new = run.results.get(category, {}).get(label)
    seeds: Mapping[str, Mapping[str, Any]] = metrics["results"].get(category, {}).get(label, {})
    left_out = run.left_out.get((category, label))
    found = {}
    for name in _names(table, old):
        before = old.metrics[name]
        after = _over_seeds(seeds, name) if new is None else new.metrics.get(name)
        why = None
        if before is not None:
            why = left_out if left_out is not None and after is not None else _why_not(name, old, new, seeds)
        replicates = new.replicates.get(name) if new is not None and why is None else None
        found[name] = _held(table, category, label, name, before, after, old.replicates[name], replicates, why=why)
    return found


def _names(table: RegressionTable, old: Measured) -> list[str]:
    """The metrics to compare: those asked for, or all of the baseline, in its order."""
    known = [name for name in old.replicates if name in COMPARABLE or name.startswith("aupro_")]
    return known if table.metrics is None else [name for name in table.metrics if name in known]


def _why_not(name: str, old: Measured, new: Measured | None, seeds: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why a metric of a run cannot be compared; None where it can."""
    if new is None or new.metrics.get(name) is None:
        cells = {seed: cell for seed, cell in seeds.items() if cell.get("metrics", {}).get(name) is None}
        return next((_why_null(name, cell) for cell in cells.values()), "there is no such unit")
    if new.images != old.images:
        return "other images were left out of the results than in the baseline"
    if name not in new.replicates:
        return "it has no resamples"
    return None


def _held(
    table: RegressionTable,
    category: str | None,
    label: str,
    metric: str,
    baseline: float | None,
    value: float | None,
    before: NDArray[np.float64],
    after: NDArray[np.float64] | None,
    *,
    why: str | None,
    parts: tuple[float, ...] = (),
) -> _Held:
    """One comparison. why: why it cannot be made; None where it can."""
    interval = None
    if after is not None:
        resamples = min(len(before), len(after))  # resample r is the same draw, however many follow
        interval = paired_interval(before[:resamples], after[:resamples])
    tolerance = table.tolerance_of(metric)
    difference = None if baseline is None or value is None else value - baseline
    reason = None
    if baseline is not None and why is not None:
        now = "null" if value is None else f"{value:.4f}"
        reason = f"{metric} is {now} and cannot be compared with {baseline:.4f} in the baseline: {why}"
    elif interval is not None and baseline is not None and value is not None and difference is not None:
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        if max(sign * end for end in interval) < -tolerance:
            reason = (
                f"{metric} {'rose' if sign < 0 else 'fell'} by {abs(difference):.4f} (from {baseline:.4f} to "
                f"{value:.4f}; 95 % of resamples {interval[0]:.4f} to {interval[1]:.4f}, tolerance {_short(tolerance)})"
            )
    compared = Compared(
        category=category,
        label=label,
        metric=metric,
        baseline=baseline,
        value=value,
        difference=difference,
        interval=interval,
        tolerance=tolerance,
        p_value=None,
        reason=reason,
    )
    return _Held(compared, before, after, why, parts)


def _mean_of(table: RegressionTable, label: str, parts: Sequence[_Held]) -> _Held:
    """The mean over categories of one metric, from its comparisons in them."""
    told = [part.compared for part in parts]
    why = next((f"{part.compared.category}: {part.why}" for part in parts if part.why is not None), None)
    baseline = _mean([one.baseline for one in told])
    value = _mean([one.value for one in told])
    before = [part.before for part in parts]
    after = [part.after for part in parts if part.after is not None]
    resamples = min(len(one) for one in (*before, *after))  # as in one category; before any is moved against another
    return _held(
        table,
        None,
        label,
        told[0].metric,
        baseline,
        value,
        mean_replicates([one[:resamples] for one in before]),
        mean_replicates([one[:resamples] for one in after]) if len(after) == len(before) else None,
        why=why if baseline is not None else None,
        parts=tuple(d for one in told if (d := one.difference) is not None) if why is None else (),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _ranked(means: Sequence[_Held]) -> Iterator[Compared]:
    """The comparisons of means of several models, each with the p-value of a signed-rank test over its categories.

    A regression that the test does not call one is none, but for a metric that cannot be compared any more.
    """
    tested: dict[str, list[int]] = {}
    for i, held in enumerate(means):
        if len(held.parts) >= LEAST_CATEGORIES:
            tested.setdefault(held.compared.metric, []).append(i)
    adjusted: dict[int, float] = {}
    for numbers in tested.values():
        p_values = holm([wilcoxon_signed_rank(means[i].parts) for i in numbers]).tolist()
        adjusted |= dict(zip(numbers, p_values, strict=True))
    for i, held in enumerate(means):
        compared, p_value = held.compared, adjusted.get(i)
        if p_value is None:
            yield compared
            continue
        reason = compared.reason
        if reason is not None:
            reason = f"{reason}; signed-rank test over {len(held.parts)} categories p = {p_value:.4f}"
        yield replace(compared, p_value=p_value, reason=reason if p_value < LEVEL else None)


# ---- model against model


def compare_models(run: Mapping[str, Any], *, fpr_limits: Sequence[float]) -> tuple[Pair, ...]:
    """Every pair of a run's models by image AUROC, AU-PRO to the first limit and pixel AP, over its categories.

    run: the content of its metrics.json. Seeds are averaged first. Nothing for one model, and for more than 20, as a
    sweep may have.

    Sources: Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006; Wilcoxon 1945; Holm
    1979.
    """
    labels = list(run["means"])
    if not 1 < len(labels) <= _MOST_MODELS:
        return ()
    found: list[Pair] = []
    for metric in ("image_auroc", aupro_name(fpr_limits[0]), "pixel_ap"):
        pairs = [_pair(run, metric, label, other) for label, other in combinations(labels, 2)]
        tested = [i for i, pair in enumerate(pairs) if pair.p_value is not None]
        adjusted = holm([p for pair in pairs if (p := pair.p_value) is not None]).tolist()
        for i, p_value in zip(tested, adjusted, strict=True):
            pairs[i] = replace(pairs[i], adjusted=p_value)
        found += [pair for pair in pairs if pair.categories]
    return tuple(found)


def _pair(run: Mapping[str, Any], metric: str, label: str, other: str) -> Pair:
    differences = []
    for labels in run["results"].values():
        ours, theirs = (_over_seeds(labels.get(name, {}), metric) for name in (label, other))
        if ours is not None and theirs is not None:
            differences.append(ours - theirs)
    n = len(differences)
    enough = n >= LEAST_CATEGORIES
    return Pair(
        metric=metric,
        label=label,
        other=other,
        categories=n,
        difference=sum(differences) / n if n else None,
        better=sum(d > ROUNDING for d in differences),
        worse=sum(d < -ROUNDING for d in differences),
        equal=sum(abs(d) <= ROUNDING for d in differences),
        p_value=wilcoxon_signed_rank(differences) if enough else None,
        adjusted=None,
        reason=None if enough else f"a signed-rank test needs {LEAST_CATEGORIES} categories, there are {n}",
    )


def _over_seeds(seeds: Mapping[str, Mapping[str, Any]], metric: str) -> float | None:
    return _mean([cell.get("metrics", {}).get(metric) for cell in seeds.values()])


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else "without a message"


def _counted(metric: str, counts: Mapping[str, int]) -> str:
    general = _PIXELS if metric.startswith(_OF_PIXELS) else _GROUPS if metric.startswith("group_") else _IMAGES
    names = _RESTS_ON.get(metric, general)
    if metric == "spro_05" and _ALL_DEFECTS[0] in counts:
        names = (*_IMAGES, _ALL_DEFECTS)
    *most, last = [f"{counts[name]} {said}" for name, said in names if name in counts] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _short(value: float) -> str:
    """The number as it was written, without ".0"."""
    return f"{value:.15g}" if float(f"{value:.15g}") == value else repr(value)


def _apart(value: float, limit: float) -> str:
    """The value with four digits, or with as many as it takes to see on which side of the limit it lies."""
    text = f"{value:.4g}"
    told = (float(text) < limit) == (value < limit) and float(text) != limit
    return text if told and isinstance(value, float) else _short(value)
