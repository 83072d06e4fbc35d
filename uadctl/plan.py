"""From a spec to the work that it means, with everything checked that can be checked without opening an image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from uadctl.errors import BackendMissing, DataError, Problem, SpecError
from uadctl.models.base import knows_places
from uadctl.progress import Progress, Silent
from uadctl.records import Sample
from uadctl.spec import RunSpec, create_model
from uadctl.spec.grammar import is_name
from uadctl.spec.registry import find_dataset
from uadctl.spec.signature import CHECKPOINT, TRUST, constructor_kwargs, get_model_signature_info
from uadctl.spec.sweep import MOST_CELLS, count_variants, variants
from uadctl.spec.values import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from uadctl.datasets import Dataset
    from uadctl.features.cache import FeatureCache
    from uadctl.models.base import Detector
    from uadctl.spec.grammar import DatasetTable, ModelTable, RunTable


@dataclass(frozen=True, slots=True)
class Cell:
    """One unit of work: a category's data, a variant of a model, a seed.

    model: without a grid; its label is the variant's.
    pool: the training images after `limit_train`, the same for all cells of a category. train: those to learn from,
        all of them or `[dataset] shots`.
    test: the test images after `limit_test`.
    several_seeds: the run has other seeds too.
    trust_checkpoint: whoever runs it lets the model's file run code while it is loaded.
    """

    dataset: Dataset
    model: ModelTable
    seed: int
    pool: tuple[Sample, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    several_seeds: bool = False
    trust_checkpoint: bool = False

    @property
    def category(self) -> str:
        return self.dataset.category

    @property
    def class_name(self) -> str | None:
        """What is on the images, in words, where the data set's categories say so: "metal nut"; else None."""
        entry = find_dataset(self.dataset.name)
        return self.category.replace("_", " ") if entry is not None and entry.names_objects else None

    @property
    def title(self) -> str:
        """What tells this cell from the others, in words: "bottle · vision_patchcore", and the seed if need be."""
        seed = f" · seed {self.seed}" if self.several_seeds else ""
        return f"{self.category} · {self.model.label}{seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells of a spec, category by category, in each the variants in the order of `uadctl.spec.variants`, each
    variant with every seed: what cells of a category have in common they can share."""

    spec: RunSpec
    cells: tuple[Cell, ...]


def make_plan(spec: RunSpec, *, trust_checkpoint: bool = False, progress: Progress | None = None) -> Plan:
    """Find the data of a spec and check it against what is to be done.

    trust_checkpoint: checkpoints may run code while they are loaded. progress: shows the demo set being drawn.
    Raises SpecError or DataError, which list every problem found; nothing heavy is imported.
    """
    _check_models(spec)
    _check_files(spec)
    from uadctl.datasets import prepare_dataset

    prepare_dataset(spec.dataset.name, spec.dataset.root, progress=progress or Silent())
    categories = choose_categories(spec.dataset)
    _check_size(spec, categories)
    datasets = _datasets(spec.dataset, categories)
    return Plan(spec, tuple(cell for dataset in datasets for cell in _cells(spec, dataset, trust_checkpoint)))


def _check_models(spec: RunSpec) -> None:
    """Build every model once. SpecError, or BackendMissing where extras are all that lacks, with every problem."""
    problems: list[Problem] = []
    missing: list[Problem] = []
    for model in distinct_models(spec):
        try:
            detector = build_detector(spec, model)
            if spec.tiling is not None and spec.tiling.fit == "resized" and knows_places(detector):
                problems.append(
                    Problem(
                        f'[model] {model.label}: [tiling] fit = "resized" cannot be: it learns what each place of the '
                        "whole image looks like, and a tile is another place",
                        'Take fit = "tiles", or another model.',
                    )
                )
        except SpecError as error:
            problems += [Problem(f"[model] {model.label}: {p.message}", p.help) for p in error.problems]
        except BackendMissing as error:
            missing += error.problems
    missing = list(dict.fromkeys(missing))
    if problems:
        raise SpecError(problems + missing)
    if missing:
        raise BackendMissing(missing)


def _check_files(spec: RunSpec) -> None:
    """That the files that `[preprocess]` names are there; what is in them is seen when they are read."""
    problems = [
        Problem(f"[preprocess] {key}: {path}: no such file")
        for key, path in spec.preprocess.files
        if not Path(path).exists()
    ]
    if problems:
        raise SpecError(problems)


def distinct_models(spec: RunSpec) -> Iterator[ModelTable]:
    """The models of a spec with every combination of their grids: the variants without those that differ in their
    number of training images only."""
    first = spec.dataset.shot_counts[0]
    return (variant.model for variant in variants(spec) if variant.shots == first)


def _cells(spec: RunSpec, dataset: Dataset, trust_checkpoint: bool) -> Iterator[Cell]:
    seeds = spec.run.all_seeds
    pool = limited(dataset.train, spec.dataset.limit_train)
    test = limited(dataset.test, spec.dataset.limit_test)
    for variant in variants(spec):
        for seed in seeds:
            train = draw_shots(pool, variant.shots, category=dataset.category, seed=seed)
            yield Cell(
                dataset,
                variant.model,
                seed,
                pool,
                train,
                test,
                several_seeds=len(seeds) > 1,
                trust_checkpoint=trust_checkpoint,
            )


def _check_size(spec: RunSpec, categories: Sequence[str]) -> None:
    c, v, s = len(categories), count_variants(spec), len(spec.run.all_seeds)
    if c * v * s > MOST_CELLS and v * s > 1:
        raise SpecError(
            f"this sweep has {c * v * s} cells ({c} {'category' if c == 1 else 'categories'}, {v} variants, {s} seeds)"
            f"; at most {MOST_CELLS} are run",
            help="Leave out categories, values of [model.grid], [dataset] shots or [run] seeds.",
        )


def build_detector(
    spec: RunSpec,
    model: ModelTable,
    *,
    seed: int | None = None,
    class_name: str | None = None,
    feature_cache: FeatureCache | None = None,
    trust_checkpoint: bool = False,
) -> Detector:
    """An unfitted detector with the model's parameters; what the user left open comes from `[run]`.

    model: of a cell, or of `distinct_models`: one without a grid.
    seed, class_name: of the cell; None: the first seed of the run, and the model's own word.
    feature_cache, trust_checkpoint: handed to the models that take them.
    """
    kwargs = constructor_kwargs(spec.run, model, seed=seed, class_name=class_name)
    accepted, _ = get_model_signature_info(model.name)
    if feature_cache is not None and "feature_cache" in accepted:
        kwargs["feature_cache"] = feature_cache
    if trust_checkpoint and TRUST in accepted:
        kwargs[TRUST] = True
    detector: Detector = create_model(model.name, **kwargs)
    return detector


def prepare_detector(spec: RunSpec, model: ModelTable, *, trust_checkpoint: bool = False) -> Detector:
    """`build_detector`, with everything ready that the work needs beside images.

    Where a cluster does it on a device that this machine has not, its nodes find out whether they are ready. Raises
    WeightsError, BackendMissing, SpecError.
    """
    detector = build_detector(spec, model, trust_checkpoint=trust_checkpoint)
    if elsewhere(spec.run):
        from uadctl.features.backbone import resolve_device

        try:
            resolve_device(constructor_kwargs(spec.run, model).get("device", "cpu"))
        except SpecError:
            return detector
    detector.prepare()
    return detector


def elsewhere(table: RunTable) -> bool:
    """Whether the work may be done by other machines than this one."""
    return table.engine == "ray" and table.address != "local"


def needed_files(plan: Plan) -> Iterator[str]:
    """Files that must be there wherever cells are done: an image of each category, and those that the spec names."""
    told = set()
    for cell in plan.cells:
        if cell.category not in told:
            told.add(cell.category)
            yield from islice((s.path for s in (*cell.pool, *cell.test) if Path(s.path).is_file()), 1)
    yield from (path for _, path in plan.spec.preprocess.files)
    for model in distinct_models(plan.spec):
        checkpoint = model.params.get(CHECKPOINT)
        if isinstance(checkpoint, str):
            yield checkpoint


def limited(samples: Sequence[Sample], limit: int | None) -> tuple[Sample, ...]:
    """`limit` of the samples, evenly spaced over their order, so that every kind of defect keeps its share."""
    n = len(samples)
    if limit is None or limit >= n:
        return tuple(samples)
    return tuple(samples[i * n // limit] for i in range(limit))


def draw_shots(samples: Sequence[Sample], shots: int | None, *, category: str, seed: int) -> tuple[Sample, ...]:
    """So many of a category's training images, drawn by the seed, in their order; all of them for None.

    With the same seed the images of fewer shots are among those of more, so that a curve over shots shows what further
    images add, not another draw. Another category and another seed draw others. A shot is an image, also where several
    images show one part. With fewer images than shots all are drawn; `make_plan` refuses that.
    """
    if shots is None:
        return tuple(samples)
    import numpy as np

    name = int.from_bytes(hashlib.sha256(category.encode()).digest()[:8], "big")
    drawn = np.random.default_rng([seed, name]).permutation(len(samples))[:shots]
    return tuple(samples[i] for i in sorted(drawn.tolist()))


def too_few_for_shots(table: DatasetTable, category: str, images: int) -> Problem | None:
    """That a category has fewer training images after `limit_train` than the most of `[dataset] shots`; else None."""
    most = max((shots for shots in table.shot_counts if shots is not None), default=0)
    if images >= most:
        return None
    limit = "" if table.limit_train is None else f" with limit_train = {table.limit_train}"
    return Problem(
        f"{category}: [dataset] shots asks for {most} training images, there are {images}{limit}",
        f"{category} can have at most {images} shots." if images else None,
    )


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


def _datasets(table: DatasetTable, categories: Sequence[str]) -> list[Dataset]:
    from uadctl.datasets import LayoutError

    loaded: list[Dataset] = []
    problems: list[Problem] = []
    for category in categories:
        try:
            loaded.append(load_category(table, category))
        except LayoutError as error:
            problems += error.problems
        except DataError as error:
            problems.append(Problem(error.message, error.help))
    for dataset in loaded:
        images = len(limited(dataset.train, table.limit_train))
        if (few := too_few_for_shots(table, dataset.category, images)) is not None:
            problems.append(few)
    if problems:
        raise LayoutError(problems)
    return loaded
