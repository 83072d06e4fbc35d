"""Models of other packages: what installed distributions offer under the entry-point group "uadctl.models".

A package says in its pyproject.toml

    [project.entry-points."uadctl.models"]
    mine = "my_package.uadctl_models:MODELS"

where MODELS is a `ModelEntry`, or several in a tuple or list. The module that holds them is imported when models are
listed, so it should be light; the detector's own module, its `target`, is imported when the model is used. A plug-in
that is broken, or wants a name that is taken, is left out and said; it stops nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from uadctl.spec.grammar import name_from
from uadctl.spec.registry import MODELS, ModelEntry
from uadctl.spec.values import shown

GROUP = "uadctl.models"


@dataclass(frozen=True, slots=True)
class Plugins:
    """entries: by full name, in the order of the entry points. problems: a line for each that was left out.

    sources: by full name, the plug-in that an entry is of: "plug-in mine (my_package.uadctl_models:MODELS)".
    """

    entries: Mapping[str, ModelEntry]
    problems: tuple[str, ...]
    sources: Mapping[str, str]


@functools.cache
def find_plugins() -> Plugins:
    """What is installed, looked up once in a process: importlib.metadata takes 50 ms to read."""
    from importlib.metadata import entry_points

    entries: dict[str, ModelEntry] = {}
    problems = []
    sources: dict[str, str] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        where = f"plug-in {point.name} ({point.value})"
        try:
            offered = _several(point.load())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code, which may raise anything
            problems.append(f"{where}: cannot be loaded: {type(error).__name__}: {error}")
            continue
        for entry in offered:
            if not isinstance(entry, ModelEntry):
                problems.append(f"{where}: expected a ModelEntry, found {type(entry).__name__}")
            elif bad := [name for name in (entry.name, *entry.aliases) if not _can_be_a_label(name)]:
                problems.append(f"{where}: {shown(bad[0])} cannot be a model's name: results in folders have it")
            elif clash := _clash(entry, entries):
                problems.append(f"{where}: {entry.name}: {clash}")
            else:
                entries[entry.name] = entry
                sources[entry.name] = where
    return Plugins(entries, tuple(problems), sources)


def _can_be_a_label(name: object) -> bool:
    """Whether it is a name that `[model] label` could have: that is what a model's name becomes."""
    return isinstance(name, str) and name_from(name) == name


def _several(found: object) -> tuple[object, ...]:
    """One entry or several as a tuple."""
    if isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping):
        return tuple(found)
    return (found,)


def _clash(entry: ModelEntry, others: Mapping[str, ModelEntry]) -> str | None:
    """Which of its names is taken, by uadctl or by a plug-in found before it."""
    names = (entry.name, *entry.aliases)
    for owner, table in (("uadctl", MODELS), ("another plug-in", others)):
        taken = {name for other in table.values() for name in (other.name, *other.aliases)}
        if clash := [name for name in names if name in taken]:
            return f"{owner} has a model called {clash[0]} already"
    return None
