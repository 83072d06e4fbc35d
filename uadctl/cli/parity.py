"""The answers of `uadctl bench --parity` and `--protocol anomalib`, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from uadctl.cli.console import print_table, print_told

if TYPE_CHECKING:
    from uadctl.parity import Question

# By category, label and seed, as `uadctl.bench.BenchResult.answers` has it.
_Answers = Mapping[str, Mapping[str, Mapping[str, Any]]]

# Rows of a table; the files of the run have them all.
_MOST_ROWS = 20

_APART = {
    "images": "images",
    "score_difference_max": "score\nmax",
    "score_difference_mean": "score\nmean",
    "score_difference_max_share": "max\n/ IQR",
    "map_difference_max": "map\nmax",
    "map_difference_mean": "map\nmean",
    "flipped": "flipped\nours",
    "anomalib_flipped": "flipped\nanomalib",
}
_AUROCS = {
    "image_auroc_training": "image\ntraining",
    "image_auroc_exported": "image\nexported",
    "image_auroc_difference": "differ-\nence",
    "pixel_auroc_training": "pixel\ntraining",
    "pixel_auroc_exported": "pixel\nexported",
    "pixel_auroc_difference": "differ-\nence",
}


def print_answers(answers: Mapping[Question, _Answers], *, several: bool) -> None:
    """Tables of each question that was asked, and why there is no answer. several: whether there are several labels."""
    for question, found in answers.items():
        units = list(_units(found, several=several))
        told = [(name, answer["result"]) for name, answer in units if answer["result"] is not None]
        if question == "parity":
            _print_parity(told)
        else:
            _print_protocol(told)
        for name, answer in units[:_MOST_ROWS]:
            if answer["result"] is None:
                print_told(f"{question}: {name}: {answer['reason']}")


def _units(answers: _Answers, *, several: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for category, labels in answers.items():
        for label, seeds in labels.items():
            for seed, answer in seeds.items():
                name = f"{category} · {label}" if several else category
                yield f"{name} · seed {seed}" if len(seeds) > 1 else name, answer


def _print_parity(units: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    if not units:
        return
    rows = [
        [name, *(_number(({**found["counts"], **found["metrics"]}).get(key)) for key in _APART)]
        for name, found in units
    ]
    _print_rows("ways apart", list(_APART.values()), rows)
    aurocs = [[name, *(_number(found["metrics"][key], 4) for key in _AUROCS)] for name, found in units]
    _print_rows("AUROC by way", list(_AUROCS.values()), aurocs)
    most = [
        [name, image["path"], *map(_number, (image["training"], image["exported"]))]
        for name, found in units
        for image in found["most_different"]
    ]
    if most:
        print_table(("differ most", "image", "training", "exported"), most[:_MOST_ROWS], text_columns=2, wrap=False)
        _print_left_out(len(most))
    _print_reasons("parity", [(name, found["reasons"]) for name, found in units])


def _print_protocol(units: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    if not units:
        return
    rows = [
        [
            name if i == 0 else "",
            metric,
            *(
                _number(value, 4)
                for value in (theirs, found["uadctl"]["metrics"][metric], found["differences"][metric])
            ),
        ]
        for name, found in units
        for i, (metric, theirs) in enumerate(found["anomalib"]["metrics"].items())
    ]
    headings = ("protocol anomalib", "metric", "anomalib", "uadctl", "differ-\nence")
    print_table(headings, rows[:_MOST_ROWS], text_columns=2, wrap=False)
    _print_left_out(len(rows))
    causes: dict[str, dict[str, None]] = {}
    for name, found in units:
        for metric, told in found["causes"].items():
            for cause in told:
                causes.setdefault(f"{name}: {cause}", {})[metric] = None
    for cause, metrics in list(causes.items())[:_MOST_ROWS]:
        print_told(f"{cause} ({', '.join(metrics)})")
    for whose in ("anomalib", "uadctl"):
        _print_reasons(f"protocol anomalib, {whose}", [(name, found[whose]["reasons"]) for name, found in units])


def _print_rows(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print_table((title, *headings), rows[:_MOST_ROWS], text_columns=1, wrap=False)
    _print_left_out(len(rows))


def _print_reasons(title: str, units: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    """What is a dash above, and why: each reason once."""
    reasons: dict[str, dict[str, None]] = {}
    for name, told in units:
        for metric, reason in told.items():
            reasons.setdefault(f"{title}: {name}: {reason}", {})[metric] = None
    for reason, metrics in list(reasons.items())[:_MOST_ROWS]:
        print_told(f"{reason} ({', '.join(metrics)})")


def _print_left_out(rows: int) -> None:
    if rows > _MOST_ROWS:
        print_told(f"and {rows - _MOST_ROWS} more; the units' files in the run have them all")


def _number(value: float | None, digits: int | None = None) -> str:
    """Counts as they are, shares with so many digits after the point, anything else with four significant ones."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"
