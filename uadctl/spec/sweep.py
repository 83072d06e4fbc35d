"""What a spec sweeps over: the variants that its models stand for, and what they are called.

A model with `[model.grid]` stands for every combination of the grid's values, and with several `[dataset] shots` for
each of these once more. This is the only place where they are expanded; a variant is then a model like any other, under
a label of its own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from uadctl.spec.grammar import ModelTable, name_from
from uadctl.spec.registry import resolve_model
from uadctl.spec.signature import constructor_of

if TYPE_CHECKING:
    from uadctl.spec.grammar import RunSpec

MOST_CELLS: Final = 10_000
"""A sweep of more cells is refused: it is a slip of the pen more often than a plan."""

# Of the SHA-256 that ends a label which cannot say everything.
_DIGITS: Final = 8
_LONGEST: Final = 64


@dataclass(frozen=True, slots=True)
class Variant:
    """One model with one value for each key of its grid, and one number of training images.

    model: the model's table with these values among its parameters, without a grid, and with the variant's own label.
    of:    the label of the [model] table that it comes from.
    shots: how many training images of a category it learns from; None: all.
    """

    model: ModelTable
    of: str
    shots: int | None


def variants(spec: RunSpec) -> tuple[Variant, ...]:
    """Every variant of every model, in the order of the spec: of the grid's keys the last changes fastest, and the
    number of training images faster than that.

    A label is the model's own, and behind it what the grid's keys are, and shots where there are several:
    "patchcore coreset_ratio=0.1,shots=4". One that would be longer than 64 characters, hold what no name may hold, or
    be that of another variant of the model, ends with "~" and 8 hex digits of the SHA-256 of what it would say. Of a
    path it says the end only, as many names as tell the grid's paths apart: the same in whatever folder the spec is.
    Variants of different models can still have one label; `read_spec` refuses that.
    """
    return tuple(variant for model in spec.models for variant in _variants_of(model, spec.dataset.shot_counts))


def combinations(grid: Mapping[str, Sequence[Any]] | None) -> Iterator[dict[str, int]]:
    """Every choice of one value a key, as the values' places in their lists; without a grid a single, empty one."""
    keys = list(grid or {})
    for places in itertools.product(*(range(len(values)) for values in (grid or {}).values())):
        yield dict(zip(keys, places, strict=True))


def count_combinations(grid: Mapping[str, Sequence[Any]] | None) -> int:
    """How many `combinations` there are, without making them."""
    return math.prod(len(values) for values in (grid or {}).values())


def count_variants(spec: RunSpec) -> int:
    """How many `variants` there are, without making them."""
    return len(spec.dataset.shot_counts) * sum(count_combinations(model.grid) for model in spec.models)


def _variants_of(model: ModelTable, shot_counts: Sequence[int | None]) -> Iterator[Variant]:
    grid = model.grid or {}
    entry = resolve_model(model.name)
    order = list(constructor_of(entry).params)
    said = {key: _ends(values) if key in entry.path_params else values for key, values in grid.items()}
    several = len(shot_counts) > 1
    chosen: list[tuple[dict[str, Any], int | None]] = []
    settings: list[dict[str, Any]] = []
    for places in combinations(grid):
        for shots in shot_counts:
            chosen.append(({key: grid[key][place] for key, place in places.items()}, shots))
            words = {key: said[key][place] for key, place in places.items()}
            settings.append(words | ({"shots": shots} if several else {}))
    for (values, shots), label in zip(chosen, _labels(model.label, settings), strict=True):
        params = model.params | values
        ordered = {key: params[key] for key in order if key in params}
        table = replace(model, label=label, params=ordered | params, grid=None)
        yield Variant(table, model.label, shots)


def _ends(paths: Sequence[str]) -> list[str]:
    """Of each path its last names with "/" between them: as few, for all of them alike, as keep them apart."""
    parts = [PurePath(path).parts for path in paths]
    ends: list[str] = []
    for names in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(part[-names:]) for part in parts]
        if len({end.casefold() for end in ends}) == len(ends):
            break
    return ends


def _labels(label: str, settings: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = [_in_words(label, each) for each in settings]
    # Results of "A" and "a" would share a folder where the file system ignores case.
    times = Counter(text.casefold() for text in texts)
    return [
        text
        if name_from(text) == text and times[text.casefold()] == 1
        else f"{name_from(text)[: _LONGEST - _DIGITS - 1]}~{_digest(label, each)}"
        for text, each in zip(texts, settings, strict=True)
    ]


def _in_words(label: str, settings: Mapping[str, Any]) -> str:
    said = ",".join(f"{key}={_value(value)}" for key, value in settings.items())
    return f"{label} {said}" if said else label


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return "+".join(map(_value, value))
        case dict():
            return json.dumps(value, sort_keys=True)
        case _:
            return str(value)


def _digest(label: str, settings: Mapping[str, Any]) -> str:
    exact = json.dumps([label, settings], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(exact.encode("ascii")).hexdigest()[:_DIGITS]
