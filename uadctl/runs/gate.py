"""The gate: the limits of a spec held against what a bench measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uadctl.errors import GateFailed, Problem, SpecError
from uadctl.spec.values import did_you_mean, key_text

if TYPE_CHECKING:
    from uadctl.spec import GateTable, LimitTable

# What each metric rests on: the names of its counts, and how they are said.
_IMAGES = (("normal_images", "normal"), ("defect_images", "defect images"))
_PIXELS = (("pixel_images", "images"), ("regions", "defect regions"))
_GROUPS = (("normal_groups", "normal"), ("defect_groups", "defect parts"))
_OF_PIXELS = ("pixel_", "aupro_", "segf1")
_LOGICAL = (("normal_images", "normal"), ("logical_images", "logical images"))
_STRUCTURAL = (("normal_images", "normal"), ("structural_images", "structural images"))
_LOGICAL_DEFECTS = (("logical_defects", "logical defects"),)
_STRUCTURAL_DEFECTS = (("structural_defects", "structural defects"),)
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every limit of a gate, in the order of the spec, for every model."""

    limits: tuple[Checked, ...]

    @property
    def broken(self) -> tuple[Checked, ...]:
        """The limits that do not hold."""
        return tuple(limit for limit in self.limits if limit.reason is not None)

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
        """What gate.json says: whether all limits hold, how many there are, and those that are broken."""
        return {
            "passed": self.passed,
            "limits": len(self.limits),
            "broken": [{name: getattr(limit, name) for name in Checked.__slots__} for limit in self.broken],
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


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else "without a message"


def _counted(metric: str, counts: Mapping[str, int]) -> str:
    general = _PIXELS if metric.startswith(_OF_PIXELS) else _GROUPS if metric.startswith("group_") else _IMAGES
    names = _RESTS_ON.get(metric, general)
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
