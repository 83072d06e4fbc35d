"""What the cells of a run add up to: means over categories and seeds, and how far seeds differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from uadctl.metrics import mean_metrics

_Numbers = Mapping[str, float | None]

ONE_SEED = "one seed has no spread"


def summarise(results: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> dict[str, Any]:
    """What stands beside `results` in a run's metrics.json: "means", "sds", "sd_reasons" and, of several seeds,
    "by_category".

    results: by category, label and seed the metrics.json of each unit.

    means: by label, over all categories and seeds, each cell weighing the same; None unless every cell defines the
    metric. A cell that failed defines none. sds: by label, the standard deviation over the seeds of the mean over the
    categories; `spread` says how. sd_reasons: why, for exactly the names whose sd is None.
    by_category: by category and label the same three of that category alone. Absent for one seed, whose units say it.
    """
    of_label: dict[str, dict[str, list[_Numbers]]] = {}
    for labels in results.values():
        for label, seeds in labels.items():
            for seed, cell in seeds.items():
                of_label.setdefault(label, {}).setdefault(seed, []).append(cell.get("metrics", {}))
    means, sds, reasons = _columns(of_label)
    found: dict[str, Any] = {"means": means, "sds": sds, "sd_reasons": reasons}
    if any(len(seeds) > 1 for seeds in of_label.values()):
        found["by_category"] = {category: _by_label(labels) for category, labels in results.items()}
    return found


def spread(cells: Sequence[Sequence[_Numbers]]) -> tuple[dict[str, float | None], dict[str, str]]:
    """How far seeds differ: the sample standard deviation (n - 1) of each metric's mean over the categories.

    cells: for each seed the metrics of its categories. A sample, since other seeds could have been drawn; of the means,
    since that is the number that is reported: seeds that do well in one category and badly in another cancel out in it.

    Returns name -> sd, None for a single seed and for a metric whose mean is None, and name -> why it is None.
    """
    # Exact inside and rounded once: seeds that agree to the last bit differ by 0.
    from statistics import stdev

    means = mean_metrics([numbers for seed in cells for numbers in seed])
    of_seeds = [mean_metrics(seed) for seed in cells]
    sds: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, mean in means.items():
        values = [value for seed in of_seeds if (value := seed.get(name)) is not None]
        if mean is not None and len(values) > 1:
            sds[name] = stdev(values)
        else:
            sds[name] = None
            reasons[name] = "the mean is undefined" if mean is None else ONE_SEED
    return sds, reasons


def _by_label(labels: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    of_label = {
        label: {seed: [cell.get("metrics", {})] for seed, cell in seeds.items()} for label, seeds in labels.items()
    }
    means, sds, reasons = _columns(of_label)
    return {label: {"means": means[label], "sds": sds[label], "sd_reasons": reasons[label]} for label in labels}


def _columns(
    of_label: Mapping[str, Mapping[str, Sequence[_Numbers]]],
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, float | None]], dict[str, dict[str, str]]]:
    means, sds, reasons = {}, {}, {}
    for label, seeds in of_label.items():
        means[label] = mean_metrics([numbers for cells in seeds.values() for numbers in cells])
        sds[label], reasons[label] = spread(list(seeds.values()))
    return means, sds, reasons
