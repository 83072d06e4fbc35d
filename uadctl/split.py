"""The verb `split`: keep some of a data set's training images for the threshold, or for testing, and write which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from uadctl.datasets.manifest import check_manifest_name, write_manifest
from uadctl.errors import DataError, Problem
from uadctl.plan import choose_categories, hold_out, in_groups, load_category, parts_of
from uadctl.spec.values import shown

if TYPE_CHECKING:
    from uadctl.datasets import Dataset
    from uadctl.records import Sample
    from uadctl.spec.grammar import DatasetTable

Target = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a split has done with one category.

    dataset: as it is now. images: those that were moved, in their new split.
    parts:   how many they show: groups, and images without one.
    """

    dataset: Dataset
    images: tuple[Sample, ...]
    parts: int

    @property
    def category(self) -> str:
        return self.dataset.category


def split(
    table: DatasetTable, *, out: str, holdout: float = 0.2, seed: int = 0, to: Target = "validation"
) -> tuple[HeldOut, ...]:
    """Hold out normal training images of each category and write the result as a manifest.

    They are drawn at random, whole groups where there are groups, by the rule of `[calibration] holdout`: with the same
    seed the same images of a data set without groups. All other images keep their split.

    table: which data set and categories; its limits are not looked at, all images are written.
    out:   the manifest, a name that ends with .csv, .jsonl or .ndjson. holdout: the share of a category's parts, above
           0 and below 1. to: where the images go.

    A file that is there is replaced. Raises SpecError for another suffix, for a second manifest in a folder that is
    known by the one it holds, and for categories that are not there; DataError, with every category's problem,
    where nothing would be left to learn from or a group would be split, and for what the manifest cannot hold. Nothing
    is written then.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"holdout (={holdout}) must be above 0 and below 1")
    check_manifest_name(out)
    results: list[HeldOut] = []
    problems: list[Problem] = []
    for category in choose_categories(table):
        try:
            results.append(hold_out_of(load_category(table, category), holdout=holdout, seed=seed, to=to))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    write_manifest(out, [result.dataset for result in results])
    return tuple(results)


def hold_out_of(dataset: Dataset, *, holdout: float, seed: int = 0, to: Target = "validation") -> HeldOut:
    """One category with some of its training images moved; `split` says which. Nothing is written."""
    kept, drawn = hold_out(dataset.train, share=holdout, seed=seed)
    if not kept:
        of = in_groups(dataset.train)
        raise DataError(f"{dataset.category}: holding out {holdout:g} of {of} leaves none to learn from")
    moved = tuple(replace(sample, split=to) for sample in drawn)
    if to == "validation":
        now = replace(dataset, train=kept, validation=_merged(dataset.validation, moved))
    else:
        _check_groups(dataset, moved)
        now = replace(dataset, train=kept, test=_merged(dataset.test, moved))
    return HeldOut(now, moved, len(parts_of(moved)))


def _merged(there: Sequence[Sample], moved: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted((*there, *moved), key=lambda sample: os.fsencode(sample.relative)))


def _check_groups(dataset: Dataset, moved: Sequence[Sample]) -> None:
    """DataError if a group would be tested on that sets the threshold as well."""
    tested = {sample.group for sample in moved if sample.group is not None}
    for sample in dataset.validation:
        if sample.group in tested:
            raise DataError(
                f"{dataset.category}: the group {shown(sample.group)} is in the validation split too, "
                "and cannot go from training to test",
                help="Hold out for validation, or draw others with another seed.",
            )
