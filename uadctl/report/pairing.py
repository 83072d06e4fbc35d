"""Several runs matched with each other: what differs in their specs, their metrics, and their verdicts on an image.

The first run is the reference. All numbers are read from run folders; nothing is scored again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uadctl.errors import RunError
from uadctl.metrics import COUNTED, LOWER_IS_BETTER, mean_metrics, mean_replicates, paired_interval
from uadctl.report.reading import Row, Run, Unit, read_run
from uadctl.report.wording import MINUS, heading
from uadctl.runs.baseline import mean_of_seeds, read_replicates
from uadctl.runs.folder import RunFolder
from uadctl.spec import PROTOCOLS, to_dict
from uadctl.spec.values import shown

Kind = Literal["newly missed", "newly found", "new false alarm", "false alarm no longer", "other"]
KINDS: tuple[Kind, ...] = ("newly missed", "newly found", "new false alarm", "false alarm no longer", "other")

# Where a run is kept, where its data lie, and what did the work: two machines differ in them, and no number does.
_PLACES = ("run.dir", "dataset.root", "run.engine", "run.workers", "run.address", "run.cpus", "run.gpus")


@dataclass(frozen=True, slots=True)
class Member:
    """One of the runs that are compared.

    letter: its name in tables, "A" for the reference. labels: of its models, in the order of its spec.
    """

    letter: str
    run: Run
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the specs that is not alike in all runs. values: as TOML text, one a run; None where a run lacks it."""

    key: str
    values: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Against:
    """A metric held against the reference.

    difference: this minus the reference; None where either is undefined. interval: the 95 % paired bootstrap interval
        of it; None where the two runs have no resamples of the same images.
    clear: "better" or "worse" where the whole interval lies on one side of 0; None otherwise.
    unpaired: why a difference has no interval; "" where it has one.
    drawn: how many resamples the reference and this have; the interval rests on those that both drew.
    """

    difference: float | None
    interval: tuple[float, float] | None = None
    clear: Literal["better", "worse"] | None = None
    unpaired: str = ""
    drawn: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One metric. values: one a run, the mean over its seeds. against: one for each run but the first."""

    metric: str
    values: tuple[float | None, ...]
    against: tuple[Against, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """The metrics of one category, or their means, for one label of the reference.

    category: None for the means; then `over` names the categories that all runs have measured.
    label: that of the first run that has the model; of_each: each run's own label, None where it has none to compare.
    states: for each run why it has no figures here; "" where it has.
    reasons: for each run why single figures are undefined: the reason, and the metrics that it is for.
    """

    category: str | None
    label: str
    of_each: tuple[str | None, ...]
    lines: tuple[Line, ...]
    states: tuple[str, ...]
    reasons: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]
    over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One image whose verdict differs between the reference and another run.

    other: which run, 1 for the second. label: of the reference. units: those of the reference and of the other run that
    judged it. before, after: its rows in them.
    """

    kind: Kind
    other: int
    category: str
    label: str
    units: tuple[Unit, Unit]
    before: Row
    after: Row


@dataclass(frozen=True, slots=True)
class Matched:
    """How the images of one unit were matched with those of the reference.

    seeds: of the two units; not the same where the runs have none in common.
    both: judged in both. changed: those with another verdict. only_before, only_after: judged in one run only, because
    the other did not read it, failed on it, or had no threshold.
    """

    other: int
    category: str
    label: str
    seeds: tuple[int, int]
    both: int
    changed: int
    only_before: int
    only_after: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs side by side, the first being the reference.

    notices: what a reader must know before any number. settings: what differs in the specs.
    blocks: means first, then by category. changes: by kind, in the order of KINDS. matched: a row for each unit.
    intervals: for each pair of runs which differences have no interval, and why; and which rest on fewer resamples than
        a run has.
    """

    members: tuple[Member, ...]
    notices: tuple[str, ...]
    settings: tuple[Setting, ...]
    blocks: tuple[Block, ...]
    changes: tuple[Change, ...]
    matched: tuple[Matched, ...]
    intervals: tuple[str, ...] = ()


def read_runs(runs: Sequence[str | Path], *, categories: Sequence[str] | None = None) -> tuple[Run, ...]:
    """Two runs or more, none of them twice.

    categories: names or globs; each must be in one run at least. Raises RunError.
    """
    if len(runs) < 2:
        raise RunError("a comparison takes two runs or more", help="uadctl report RUN RUN")
    folders = [RunFolder.open(Path(run)) for run in runs]
    seen: dict[Path, str] = {}
    for folder in folders:
        place = folder.path.resolve()
        if place in seen:
            raise RunError(f"{folder.path}: is the same run as {seen[place]}", help="Name each run once.")
        seen[place] = str(folder.path)
    if categories is None:
        return tuple(read_run(folder) for folder in folders)
    names = [list(dict.fromkeys(unit.category for unit in folder.units())) for folder in folders]
    for pattern in categories:
        if not any(fnmatchcase(name, pattern) for of in names for name in of):
            known = ", ".join(dict.fromkeys(name for of in names for name in of)) or "none yet"
            raise RunError(f"none of these runs has a category {pattern}", help=f"They have: {known}")
    return tuple(
        read_run(folder, categories=[p for p in categories if any(fnmatchcase(name, p) for name in of)])
        for folder, of in zip(folders, names, strict=True)
    )


def compare(runs: Sequence[Run]) -> Comparison:
    """Match runs with the first of them. Raises RunError where a document is damaged."""
    members = tuple(Member(_letter(i), run, _labels(run)) for i, run in enumerate(runs))
    groups, said = _match_labels(members)
    changes, matched, of_units = _verdicts(members, groups)
    blocks = _blocks(members, groups)
    return Comparison(
        members,
        (*_states(members), *_data(members), *said, *of_units),
        tuple(_settings(members)),
        tuple(blocks),
        tuple(sorted(changes, key=lambda c: (KINDS.index(c.kind), c.other, c.category, c.label, c.before.path))),
        tuple(matched),
        tuple(_told_intervals(members, blocks)),
    )


def _letter(i: int) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i] if i < 26 else f"R{i + 1}"


def _labels(run: Run) -> tuple[str, ...]:
    found = dict.fromkeys(unit.folder.label for unit in run.units)
    of_spec = [label for labels in run.families.values() for label in labels if label in found]
    return tuple(dict.fromkeys([*of_spec, *found]))


def _match_labels(members: Sequence[Member]) -> tuple[list[tuple[str | None, ...]], list[str]]:
    """Which label of each run belongs to which: a tuple a model, one label a run; and what has to be said of it."""
    first = members[0].labels
    groups: dict[str, list[str | None]] = {}
    notices = []
    for i, member in enumerate(members):
        own = {label: label for label in member.labels}
        if i and len(first) == len(member.labels) == 1 and first != member.labels:
            own = {first[0]: member.labels[0]}
            notices.append(f"{member.labels[0]} of {member.letter} is held against {first[0]} of {members[0].letter}.")
        elif i and first and member.labels and not set(first) & set(member.labels):
            notices.append(
                f"{members[0].letter} and {member.letter} have no label in common, so nothing says which of their "
                "models belong together: they are not held against each other."
            )
        for label, of_run in own.items():
            groups.setdefault(label, [None] * len(members))[i] = of_run
    return [tuple(group) for group in groups.values()], notices


# What differs


def _settings(members: Sequence[Member]) -> list[Setting]:
    """Keys of the filled specs that are not alike everywhere, in the order of the specs."""
    flat = [_flat_spec(member.run) for member in members]
    keys = dict.fromkeys(key for of in flat for key in of if key not in _PLACES)
    return [
        Setting(key, tuple(shown(of[key]) if key in of else None for of in flat))
        for key in keys
        if any(of.get(key) != flat[0].get(key) for of in flat)
    ]


def _flat_spec(run: Run) -> dict[str, object]:
    """A filled spec as dotted keys and their values; several models are told apart by their labels, as in --set."""
    tables = to_dict(run.spec)
    models = tables.pop("model")
    flat = dict(_flat(tables))
    for model in models:
        flat |= _flat(model, "model." if len(models) == 1 else f"model.{model['label']}.")
    return flat


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _states(members: Sequence[Member]) -> list[str]:
    """Runs that are not finished, failed in parts, or measured nothing."""
    said = []
    for member in members:
        run, letter = member.run, member.letter
        failed = sum(unit.status == "failed" for unit in run.units)
        if run.facts.status in ("started", "interrupted"):
            done = sum(unit.status == "done" for unit in run.units)
            how = "was interrupted" if run.facts.status == "interrupted" else "is not finished"
            said.append(f"{letter} {how}: {done} of {len(run.units)} units begun are finished.")
        if failed:
            said.append(f"{failed} of {len(run.units)} units of {letter} failed; they have no figures.")
        if run.units and all(unit.measured is None for unit in run.units):
            said.append(f"{letter} has measured nothing: its columns are empty. uadctl bench measures.")
        elif not run.units:
            said.append(f"{letter} has no unit to compare: its columns are empty.")
    return said


def _data(members: Sequence[Member]) -> list[str]:
    """Categories whose files are not the same as those of the reference."""
    first, *others = members
    said = []
    for other in others:
        theirs = other.run.facts.data
        shown_here = {unit.folder.category for unit in (*first.run.units, *other.run.units)}
        common = [name for name in sorted(first.run.facts.data) if name in theirs and name in shown_here]
        differing = [n for n in common if first.run.facts.data[n].get("sha256") != theirs[n].get("sha256")]
        if differing:
            said.append(
                f"The data are not the same in {first.letter} and {other.letter}: {', '.join(differing)} (SHA-256 of "
                "images, masks and labels, for training and test). A difference may come from them, not from the model."
            )
        ours, others_own = _categories(first.run), _categories(other.run)
        if ours and others_own:
            pairs = ((other, ours - others_own), (first, others_own - ours))
            said += [f"{of.letter} has no {', '.join(sorted(absent))}." for of, absent in pairs if absent]
    return said


def _categories(run: Run) -> set[str]:
    return {unit.folder.category for unit in run.units}


# Metrics


def _blocks(members: Sequence[Member], groups: Sequence[tuple[str | None, ...]]) -> list[Block]:
    """For each label the means over what all runs have measured, if that is several categories; then each category."""
    categories = sorted({name for member in members for name in _categories(member.run)})
    blocks = []
    for group in groups:
        cells = {name: [_cell(m.run, name, of) for m, of in zip(members, group, strict=True)] for name in categories}
        having = [i for i in range(len(members)) if any(cells[name][i].metrics for name in categories)]
        label = next(of for of in group if of is not None)
        shared = [name for name in categories if all(cells[name][i].metrics for i in having)]
        if having and len(shared) > 1:
            drawn = [len(v) for name in shared for cell in cells[name] for v in cell.replicates.values()]
            means = [
                _mean({name: cells[name][i] for name in shared}, resamples=min(drawn, default=0))
                for i in range(len(members))
            ]
            blocks.append(_block(members, None, label, group, means, over=tuple(shared)))
        for name in categories:
            if any(cell.state != "no such unit" for cell in cells[name]):
                blocks.append(_block(members, name, label, group, cells[name]))
    return blocks


@dataclass(frozen=True, slots=True)
class _Cell:
    """Metrics of a category and label, the mean over the seeds; replicates likewise, by what was drawn from.

    lacks: why there are no replicates, as what is said of the run; "" where there are some.
    """

    metrics: dict[str, float | None]
    state: str
    reasons: dict[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    replicates: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    lacks: str = ""


def _cell(run: Run, category: str, label: str | None) -> _Cell:
    units = [u for u in run.units if (u.folder.category, u.folder.label) == (category, label)]
    if not units:
        return _Cell({}, "no such unit")
    states = [_state(unit) for unit in units]
    if any(states):
        return _Cell({}, next(state for state in states if state))
    metrics = mean_metrics([unit.measured.metrics for unit in units if unit.measured is not None])
    reasons = {name: why for unit in reversed(units) if unit.measured for name, why in unit.measured.reasons.items()}
    return _Cell(metrics, "", reasons, *_replicates(run, units))


def _state(unit: Unit) -> str:
    if unit.status == "failed":
        return "failed"
    if unit.status != "done":
        return "not finished"
    return "" if unit.measured is not None and unit.measured.success else "not measured"


def _replicates(run: Run, units: Sequence[Unit]) -> tuple[tuple[str, ...], dict[str, NDArray[np.float64]], str]:
    """What all seeds drew from and their mean in each resample; or, unless all drew the same, why there is none."""
    if not all(unit.folder.has("replicates") for unit in units):
        asked = run.spec.metrics.bootstrap > 0
        why = (
            "kept no resamples (before uadctl 0.8 none were)"
            if asked
            else "drew no resamples ([metrics] bootstrap is 0)"
        )
        return (), {}, why
    found = [read_replicates(unit.folder) for unit in units]
    if len({one.images for one in found}) > 1:
        return (), {}, "measured different images with different seeds"
    return (found[0].images,), mean_of_seeds(found), ""


def _mean(of_category: Mapping[str, _Cell], *, resamples: int) -> _Cell:
    """The mean over categories, each resampled by itself. resamples: that all runs have, so that they stay in pairs."""
    cells = list(of_category.values())
    if not all(cell.metrics for cell in cells):
        return _Cell({}, next(cell.state for cell in cells if not cell.metrics))
    metrics = mean_metrics([cell.metrics for cell in cells])
    reasons = {
        metric: f"as in {', '.join(name for name, cell in of_category.items() if cell.metrics.get(metric) is None)}"
        for metric, value in metrics.items()
        if value is None
    }
    lacks = next((cell.lacks for cell in cells if cell.lacks), "")
    if lacks:
        return _Cell(metrics, "", reasons, lacks=lacks)
    known = [cell.replicates for cell in cells]
    names = [name for name in known[0] if all(name in one for one in known)]
    arrays = {name: mean_replicates([one[name][:resamples] for one in known]) for name in names}
    return _Cell(metrics, "", reasons, tuple(image for cell in cells for image in cell.images), arrays)


def _block(
    members: Sequence[Member],
    category: str | None,
    label: str,
    group: tuple[str | None, ...],
    cells: Sequence[_Cell],
    *,
    over: tuple[str, ...] = (),
) -> Block:
    lines = []
    for name in _columns(members, cells):
        values = tuple(cell.metrics.get(name) for cell in cells)
        against = tuple(
            _against(name, cells[0], cell, (members[0].letter, member.letter))
            for member, cell in zip(members[1:], cells[1:], strict=True)
        )
        lines.append(Line(name, values, against))
    states, reasons = tuple(cell.state for cell in cells), tuple(map(_by_reason, cells))
    return Block(category, label, group, tuple(lines), states, reasons, over)


def _by_reason(cell: _Cell) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each reason for an undefined figure once, with the metrics it is for."""
    found: dict[str, list[str]] = {}
    for name, value in cell.metrics.items():
        if value is None and name not in COUNTED:
            found.setdefault(cell.reasons.get(name, "no reason given"), []).append(name)
    return tuple((why, tuple(names)) for why, names in found.items())


def _columns(members: Sequence[Member], cells: Sequence[_Cell]) -> list[str]:
    """What the reference's protocol reports, then what the threshold lets through, then all the rest."""
    names = dict.fromkeys(name for cell in cells for name in cell.metrics if name not in COUNTED)
    of_protocol = PROTOCOLS[members[0].run.spec.metrics.protocol].metrics
    first = [name for name in (*of_protocol, "miss_rate", "false_alarm_rate", "precision") if name in names]
    return [*first, *(name for name in names if name not in first)]


def _against(name: str, before: _Cell, after: _Cell, letters: tuple[str, str]) -> Against:
    old, new = before.metrics.get(name), after.metrics.get(name)
    if old is None or new is None:
        return Against(None)
    difference = new - old
    why = _unpaired(name, before, after, letters)
    if why:
        return Against(difference, unpaired=why)
    a, b = before.replicates[name], after.replicates[name]
    shared = min(len(a), len(b))  # resample r is the same draw, however many follow
    interval = paired_interval(a[:shared], b[:shared])
    if interval is None:
        return Against(difference, unpaired="fewer than half of the resamples define it in both")
    drawn = (len(a), len(b))
    if interval[0] <= 0 <= interval[1]:
        return Against(difference, interval, drawn=drawn)
    up = interval[0] > 0
    return Against(difference, interval, "worse" if up == (name in LOWER_IS_BETTER) else "better", drawn=drawn)


def _unpaired(name: str, before: _Cell, after: _Cell, letters: tuple[str, str]) -> str:
    """Why two figures cannot be compared resample by resample; "" where they can."""
    if before.lacks and before.lacks == after.lacks:
        return f"{letters[0]} and {letters[1]} {before.lacks}"
    lacking = [f"{of} {cell.lacks}" for of, cell in zip(letters, (before, after), strict=True) if cell.lacks]
    if lacking:
        return "; ".join(lacking)
    if before.images != after.images:
        return f"{letters[0]} and {letters[1]} were not measured on the same images"
    without = [of for of, cell in zip(letters, (before, after), strict=True) if name not in cell.replicates]
    return f"the resamples of {' and '.join(without)} do not have it" if without else ""


def _told_intervals(members: Sequence[Member], blocks: Sequence[Block]) -> list[str]:
    """For each run against the reference: what its intervals rest on, if not on all resamples, or why there is none.

    Where that is so of some differences only, they are named.
    """
    several = len({block.label for block in blocks}) > 1
    told = []
    for i, other in enumerate(members[1:]):
        every: list[tuple[str, str]] = []
        found: dict[str, list[tuple[str, str]]] = {}
        for block in blocks:
            place = f"{block.category or 'the mean'} · {block.label}" if several else block.category or "the mean"
            for line in block.lines:
                against = line.against[i]
                if against.difference is None:
                    continue
                every.append((place, line.metric))
                text = _of_interval(against, members[0].letter, other.letter)
                if text:
                    found.setdefault(text, []).append((place, line.metric))
        pair = f"{other.letter} {MINUS} {members[0].letter}"
        told += [f"{pair}{_where(of, every)}: {text}." for text, of in found.items()]
    return told


def _of_interval(against: Against, first: str, other: str) -> str:
    if against.unpaired:
        return f"no interval, as {against.unpaired}"
    if against.drawn is None or against.drawn[0] == against.drawn[1]:
        return ""
    ours, theirs = against.drawn
    return f"{first} drew {ours} resamples and {other} {theirs}; the intervals rest on the {min(ours, theirs)} of both"


def _where(some: Sequence[tuple[str, str]], every: Sequence[tuple[str, str]]) -> str:
    """Which (place, metric) of all that there are, in words.

    "" for all, " for image AUROC" for that wherever it is, " in tile, wood", " in tile (image AUROC)".
    """
    if len(some) == len(every):
        return ""
    metrics = dict.fromkeys(metric for _, metric in some)
    if len(some) == sum(metric in metrics for _, metric in every):
        return f" for {', '.join(map(heading, metrics))}"
    said = []
    for place in dict.fromkeys(place for place, _ in some):
        names = [metric for of, metric in some if of == place]
        whole = len(names) == sum(of == place for of, _ in every)
        said.append(place if whole else f"{place} ({', '.join(map(heading, names))})")
    return f" in {', '.join(said)}"


# Verdicts


def _verdicts(
    members: Sequence[Member], groups: Sequence[tuple[str | None, ...]]
) -> tuple[list[Change], list[Matched], list[str]]:
    """Images that both the reference and another run judged, by category and path, and differently."""
    changes: list[Change] = []
    matched: list[Matched] = []
    since: dict[str, None] = {}
    chosen: dict[tuple[str, str], dict[str, None]] = {}
    for group in groups:
        for i, member in enumerate(members[1:], start=1):
            for before, after, more in _unit_pairs(members[0].run, member.run, group[0], group[i]):
                found, counted = _unit_changes(before, after, i)
                changes += found
                matched.append(counted)
                if more or counted.seeds[0] != counted.seeds[1]:
                    ours, theirs = (
                        f"{of.letter} seed {n}" for of, n in zip((members[0], member), counted.seeds, strict=True)
                    )
                    chosen.setdefault((ours, theirs), {})[counted.category] = None
                for of, unit in ((members[0], before), (member, after)):
                    if _replaced(unit):
                        since[of.letter] = None
    said = []
    if chosen:
        pairs = [f"{' against '.join(seeds)}{_of(names, matched)}" for seeds, names in chosen.items()]
        said.append(f"The verdicts compared are those of one seed of each run: {'; '.join(pairs)}.")
    said += [
        f"Thresholds of {letter} have been replaced since it was measured; verdicts and figures are those of before."
        for letter in since
    ]
    return changes, matched, said


def _of(categories: Iterable[str], matched: Sequence[Matched]) -> str:
    """Which categories, unless it is all."""
    names = list(categories)
    return "" if {row.category for row in matched} <= set(names) else f" ({', '.join(names)})"


def _unit_pairs(first: Run, other: Run, label: str | None, other_label: str | None) -> list[tuple[Unit, Unit, bool]]:
    """Units with rows of the same category, of the first seed that both have; whether there are more seeds.

    Without a common seed it is the first of each.
    """
    pairs = []
    for category in sorted(_categories(first) & _categories(other)):
        ours, theirs = (
            {u.folder.seed: u for u in run.units if (u.folder.category, u.folder.label) == (category, of) and u.rows}
            for run, of in ((first, label), (other, other_label))
        )
        if not ours or not theirs:
            continue
        common = [seed for seed in ours if seed in theirs]
        seeds = (common[0], common[0]) if common else (min(ours), min(theirs))
        pairs.append((ours[seeds[0]], theirs[seeds[1]], len(ours) > 1 or len(theirs) > 1))
    return pairs


def _unit_changes(before: Unit, after: Unit, other: int) -> tuple[list[Change], Matched]:
    ours = {row.path: row for row in before.rows if row.verdict is not None}
    theirs = {row.path: row for row in after.rows if row.verdict is not None}
    place = before.folder
    changes = [
        Change(_kind(row, theirs[path]), other, place.category, place.label, (before, after), row, theirs[path])
        for path, row in ours.items()
        if path in theirs and row.verdict != theirs[path].verdict
    ]
    both = sum(path in theirs for path in ours)
    seeds = (place.seed, after.folder.seed)
    counted = Matched(
        other, place.category, place.label, seeds, both, len(changes), len(ours) - both, len(theirs) - both
    )
    return changes, counted


def _kind(before: Row, after: Row) -> Kind:
    """What the change means. By the anomaly threshold alone: from "good" to "review" a defect stays missed."""
    was, now = before.verdict == "anomaly", after.verdict == "anomaly"
    if was == now or before.label != after.label or before.label not in (0, 1):
        return "other"
    if before.label == 1:
        return "newly found" if now else "newly missed"
    return "new false alarm" if now else "false alarm no longer"


def _replaced(unit: Unit) -> bool:
    return unit.calibrated is not None and unit.calibrated != unit.measured_with
