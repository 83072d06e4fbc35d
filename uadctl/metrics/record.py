"""What a measurement is when it is handed on: numbers by name, and for each missing number the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

#: Metrics that count images. Their mean over categories of different size says nothing, so they have none.
COUNTED = ("tp", "fp", "fn", "tn")


class Metrics(msgspec.Struct, frozen=True):
    """Metrics of one unit of work, ready to be written as strict JSON.

    metrics: name -> number, or None where the metric is undefined. Never NaN, never infinite.
    reasons: name -> why, for exactly the names whose metric is None.
    counts:  name -> how many images, pixels or regions the numbers rest on.

    Raises ValueError if a metric is not finite, if a None has no reason or a number has one.
    """

    metrics: dict[str, float | int | None]
    reasons: dict[str, str] = {}
    counts: dict[str, int] = {}

    def __post_init__(self) -> None:
        missing = [name for name, value in self.metrics.items() if value is None]
        for name, value in self.metrics.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}; a metric is a finite number, or None with a reason")
        if unexplained := [name for name in missing if not self.reasons.get(name)]:
            raise ValueError(f"{', '.join(unexplained)}: None without a reason")
        if surplus := [name for name in self.reasons if name not in missing]:
            raise ValueError(f"{', '.join(surplus)}: a reason, but the metric is not None")


def undefined(names: Iterable[str], reason: str, *, counts: Mapping[str, int] | None = None) -> Metrics:
    """Every metric in `names` as None, with one reason for all: what is written where nothing could be measured."""
    names = tuple(names)
    return Metrics(dict.fromkeys(names), dict.fromkeys(names, reason), dict(counts or {}))


def merge(*parts: Metrics) -> Metrics:
    """One record of several, in their order, for example the image and the pixel metrics of a category.

    Raises ValueError if two parts hold the same metric or the same count: neither may hide the other.
    """
    metrics: dict[str, float | int | None] = {}
    reasons: dict[str, str] = {}
    counts: dict[str, int] = {}
    for part in parts:
        if twice := [name for name in (*part.metrics, *part.counts) if name in metrics or name in counts]:
            raise ValueError(f"{', '.join(twice)}: in more than one of the records to merge")
        metrics.update(part.metrics)
        reasons.update(part.reasons)
        counts.update(part.counts)
    return Metrics(metrics, reasons, counts)


def mean_metrics(cells: Sequence[Mapping[str, float | int | None]]) -> dict[str, float | None]:
    """The mean of each metric over cells (categories, seeds), each cell weighing the same.

    The mean of a metric is None unless every cell given has a number for it. A mean over those cells that
    happen to define it would compare two models on different categories without saying so. Give `{}` for a
    cell that failed if its absence is to void the means, or leave it out.

    tp, fp, fn and tn count images and are left out.

    cells: name -> number or None, as `Metrics.metrics`; a name that a cell lacks counts as None there.

    Returns name -> mean in the order of first appearance; no cells give {}.
    """
    names = [name for name in dict.fromkeys(name for cell in cells for name in cell) if name not in COUNTED]
    means: dict[str, float | None] = {}
    for name in names:
        values = [value for cell in cells if (value := cell.get(name)) is not None]
        means[name] = math.fsum(values) / len(values) if len(values) == len(cells) else None
    return means
