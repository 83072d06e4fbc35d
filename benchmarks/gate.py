"""Does the gate see a wrong normalisation and a coreset that is far too small, and does it let other seeds pass?

Needs $MVTEC_ROOT, the folder that holds `bottle`; with --quick, or without it, a category of the demo set made hard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Section, Table, Target

_BACKBONE = "efficientnet_lite0"  # takes (x - 127) / 128
_SHOWN = ("image_auroc", "pixel_ap", "aupro_30")
_JUDGED = ("pixel_ap", "aupro_30")


@dataclass(frozen=True)
class Change:
    """What is done differently from the baseline.

    title: its name on the page. set: keys of the spec, as --set takes them. input: mean and std that pixels are
    normalised by; None for those of the backbone. harmful: whether the gate is to see it.
    """

    title: str
    set: tuple[str, ...] = ()
    input: tuple[float, float] | None = None
    harmful: bool = True


CHANGES = (
    Change("x / 255 instead of (x - 127) / 128", input=(0.0, 255.0)),
    Change("pixels as they are, 0 to 255", input=(0.0, 1.0)),
    Change("coreset_ratio 0.1 → 0.0005", ("model.params.coreset_ratio=0.0005",)),
    *(Change(f"seed {seed}", (f"run.seed={seed}",), harmful=False) for seed in (1, 2, 3)),
)


@dataclass(frozen=True)
class Outcome:
    """What the gate said of a change. metrics: of the run. worse: metric -> the reason, for each regression."""

    change: Change
    metrics: Mapping[str, float | None]
    worse: Mapping[str, str]

    @property
    def as_wished(self) -> bool:
        """A harmful change fails by a metric of the maps, another by none at all."""
        return any(name in self.worse for name in _JUDGED) if self.change.harmful else not self.worse


def measure(*, set_: tuple[str, ...], folder: Path, changes: tuple[Change, ...] = CHANGES) -> list[Outcome]:
    """Make a baseline of one category, and hold each change against it. The first outcome is the baseline's own.

    set_: keys of a spec that make it one category and one model.
    """
    found: list[Outcome] = []
    for change in (Change("baseline", harmful=False), *changes):
        with _input(change.input):
            result = _bench((*set_, *change.set), folder, update=not found)
        (labels,) = result.metrics["results"].values()
        (cell,) = next(iter(labels.values())).values()
        worse = {one.metric: str(one.reason) for one in result.gate.worse}
        found.append(Outcome(change, cell["metrics"], worse))
    return found


def _bench(set_: tuple[str, ...], folder: Path, *, update: bool) -> Any:
    from uadctl.bench import bench
    from uadctl.spec import Overrides, read_spec

    spec = read_spec(None, Overrides(set=set_, run_dir=str(folder / "runs"))).spec
    return bench(spec, gate=str(folder / "baseline.json"), update_baseline=update)


@contextlib.contextmanager
def _input(normalisation: tuple[float, float] | None) -> Iterator[None]:
    """Have the backbone take its pixels with another mean and standard deviation."""
    from uadctl.spec.registry import BACKBONES

    right = BACKBONES[_BACKBONE]
    if normalisation is not None:
        mean, std = normalisation
        BACKBONES[_BACKBONE] = dataclasses.replace(right, mean=(mean,) * 3, std=(std,) * 3)
    try:
        yield
    finally:
        BACKBONES[_BACKBONE] = right


def sections(*, quick: bool) -> list[Section]:
    root = None if quick else os.environ.get("MVTEC_ROOT")
    model = ("model.name='vision_patchcore'",)
    if root is None:
        set_ = ("dataset.name='demo'", "dataset.categories=['brushed_metal']", "preprocess.size=96", *model)
        what = "the demo's `brushed_metal` at 96 pixels, where it is hard: 16 good and 24 defect test images"
    else:
        set_ = ("dataset.name='mvtec'", f"dataset.root='{root}'", "dataset.categories=['bottle']", *model)
        what = "`bottle` of MVTec AD: 20 good and 63 defect test images"
    with tempfile.TemporaryDirectory() as folder:
        found = measure(set_=set_, folder=Path(folder))
    return [
        Section(
            title="What the gate sees",
            text=f"`vision_patchcore` with its defaults on {what}; seed 0 is the baseline, with 1,000 resamples.",
            tables=(Table(("run", *_SHOWN, "regressions"), tuple(_row(outcome) for outcome in found)),),
            targets=tuple(
                Target(
                    outcome.change.title,
                    "a regression of AUPRO or pixel AP" if outcome.change.harmful else "no regression",
                    ", ".join(outcome.worse) or "none",
                    outcome.as_wished,
                )
                for outcome in found[1:]
            ),
        )
    ]


def _row(outcome: Outcome) -> tuple[str, ...]:
    figures = (outcome.metrics.get(name) for name in _SHOWN)
    told = ", ".join(outcome.worse) or "none"
    return (outcome.change.title, *("-" if value is None else f"{value:.4f}" for value in figures), told)
