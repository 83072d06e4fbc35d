"""From a spec to the work that it means, with everything checked that can be checked without opening an image."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from uadctl.errors import DataError, Problem, SpecError
from uadctl.progress import Progress, Silent
from uadctl.records import Sample
from uadctl.spec import RunSpec, create_model
from uadctl.spec.grammar import is_name
from uadctl.spec.signature import constructor_kwargs, get_model_signature_info
from uadctl.spec.values import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uadctl.datasets import Dataset
    from uadctl.features.cache import FeatureCache
    from uadctl.models.base import Detector
    from uadctl.spec.grammar import DatasetTable, ModelTable


@dataclass(frozen=True, slots=True)
class Cell:
    """One unit of work: a category's data, a model, a seed. `train` and `test` are the samples after the limits."""

    dataset: Dataset
    model: ModelTable
    seed: int
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]

    @property
    def category(self) -> str:
        return self.dataset.category


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells of a spec, category by category, the models in the spec's order within each."""

    spec: RunSpec
    cells: tuple[Cell, ...]


def make_plan(spec: RunSpec, *, progress: Progress | None = None) -> Plan:
    """Find the data of a spec and check it against what is to be done.

    progress: shows the demo set being drawn.
    Raises SpecError or DataError, which list every problem found; nothing heavy is imported.
    """
    problems: list[Problem] = []
    for model in spec.models:
        try:
            build_detector(spec, model)
        except SpecError as error:
            problems += [Problem(f"[model] {model.label}: {p.message}", p.help) for p in error.problems]
    if problems:
        raise SpecError(problems)
    from uadctl.datasets import prepare_dataset

    prepare_dataset(spec.dataset.name, spec.dataset.root, progress=progress or Silent())
    datasets = _datasets(spec.dataset)
    cells = tuple(
        Cell(
            dataset,
            model,
            spec.run.seed,
            limited(dataset.train, spec.dataset.limit_train),
            limited(dataset.test, spec.dataset.limit_test),
        )
        for dataset in datasets
        for model in spec.models
    )
    return Plan(spec, cells)


def build_detector(spec: RunSpec, model: ModelTable, *, feature_cache: FeatureCache | None = None) -> Detector:
    """An unfitted detector with the model's parameters; what the user left open comes from `[run]`.

    feature_cache: handed to the models that can use one.
    """
    kwargs = constructor_kwargs(spec.run, model)
    if feature_cache is not None and "feature_cache" in get_model_signature_info(model.name)[0]:
        kwargs["feature_cache"] = feature_cache
    detector: Detector = create_model(model.name, **kwargs)
    return detector


def limited(samples: Sequence[Sample], limit: int | None) -> tuple[Sample, ...]:
    """`limit` of the samples, evenly spaced over their order, so that every kind of defect keeps its share."""
    n = len(samples)
    if limit is None or limit >= n:
        return tuple(samples)
    return tuple(samples[i * n // limit] for i in range(limit))


def parts_of(samples: Sequence[Sample]) -> list[list[int]]:
    """The images of each part, as indices: a group is one part, seen several times; an image without group is one."""
    from uadctl.metrics.groups import number_parts

    parts: list[list[int]] = []
    for i, number in enumerate(number_parts([sample.group for sample in samples]).tolist()):
        if number == len(parts):
            parts.append([])
        parts[number].append(i)
    return parts


def in_groups(samples: Sequence[Sample]) -> str:
    """How many training images these are, in words, and in how many groups if they have any."""
    n, parts = len(samples), len(parts_of(samples))
    grouped = "" if parts == n else f" in {parts} {'group' if parts == 1 else 'groups'}"
    return f"{n} training images{grouped}"


def parts_held_out(parts: int, share: float) -> int:
    """How many of so many parts a share is; at least one, and perhaps all of them."""
    return max(1, round(share * parts))


def hold_out(samples: Sequence[Sample], *, share: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Draw training images that are not to be learned: those that stay, and those held out, both in their order.

    The images of a part stay together. Of n parts, `parts_held_out` says how many are held out, always the same for the
    same n and seed; if that is all of them, none stays.
    """
    import numpy as np

    parts = parts_of(samples)
    n = len(parts)
    drawn = np.random.default_rng([seed, n]).permutation(n)[: parts_held_out(n, share)]
    held = {i for part in drawn.tolist() for i in parts[part]}
    return (
        tuple(s for i, s in enumerate(samples) if i not in held),
        tuple(s for i, s in enumerate(samples) if i in held),
    )


def choose_categories(table: DatasetTable) -> list[str]:
    """The categories on disk that the table asks for, each once: those named, or those a glob fits, or all.

    Raises SpecError, with the nearest names, for those that are not there.
    """
    from uadctl.datasets import list_categories

    found = list_categories(table.name, table.root, table.files, split=table.split, layout=table.layout)
    where = table.root or table.name
    for name in found:
        if not is_name(name):
            raise SpecError(f"{where}: the folder {shown(name)} cannot be a category: its name has control characters")
    if table.categories == "all":
        return found
    chosen: dict[str, None] = {}
    absent = []
    for pattern in table.categories:
        fitting = [c for c in found if c == pattern] or [c for c in found if fnmatchcase(c, pattern)]
        chosen.update(dict.fromkeys(fitting))
        if not fitting:
            close = nearest(pattern, found)
            hint = f"; did you mean {close}?" if close else ""
            absent.append(Problem(f"{where} has no category {shown(pattern)}{hint}", f"Found: {', '.join(found)}"))
    if absent:
        raise SpecError(absent)
    return list(chosen)


def load_category(table: DatasetTable, category: str) -> Dataset:
    """One category of the data set that the table means. Raises DataError."""
    from uadctl.datasets import load_dataset

    return load_dataset(
        table.name, table.root, category=category, split=table.split, layout=table.layout, files=table.files
    )


def _datasets(table: DatasetTable) -> list[Dataset]:
    from uadctl.datasets import LayoutError

    loaded: list[Dataset] = []
    problems: list[Problem] = []
    for category in choose_categories(table):
        try:
            loaded.append(load_category(table, category))
        except LayoutError as error:
            problems += error.problems
        except DataError as error:
            problems.append(Problem(error.message, error.help))
    if problems:
        raise LayoutError(problems)
    return loaded
