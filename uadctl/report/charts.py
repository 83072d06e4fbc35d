"""Charts as SVG that takes its colours from the page around it, so that one drawing serves light, dark and paper.

The same numbers give the same bytes. No text of a user's is ever in a chart.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from uadctl.metrics.curves import ImageCurve

# matplotlib knows no CSS variable: it draws in these colours, which nothing else uses, and the SVG gets the variables.
_STAND_INS = {
    "ink": "#010203",
    "muted": "#010204",
    "grid": "#010205",
    "normal": "#010206",
    "defect": "#010207",
    "calibration": "#010208",
    "limit": "#010209",
    "paper": "#01020a",
}
_WIDTH, _HEIGHT = 4.0, 3.1  # inches of 72 points
_BINS = 36


_MOST_PANELS = 2  # beside each other


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its words. svg: "" where there is none, and `absent` says why."""

    title: str
    svg: str
    absent: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Course:
    """How figures move with the severity of one corruption.

    title: a word of ours. severities: ascending. values: a line each, in the order of the chart's legend: a number for
    each severity, None where it is undefined, which leaves a gap.
    """

    title: str
    severities: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """Where a unit's own threshold stands on its curves; precision None where nothing is called anomalous."""

    recall: float
    false_alarm_rate: float
    precision: float | None


def roc_chart(curve: ImageCurve, at: AtThreshold | None, *, key: str, alt: str) -> str:
    """Defects found against false alarms, as inline SVG.

    key: unique in the page, so that no two charts share an id. alt: what a reader who does not see it is told.
    """
    with _drawing(key) as figure:
        axes = _unit_axes(figure, "normal images called anomalous", "defect images found")
        axes.plot([0, 1], [0, 1], color=_STAND_INS["grid"], linewidth=1, linestyle=(0, (4, 3)))
        axes.plot([0, *curve.false_alarm_rate], [0, *curve.recall], color=_STAND_INS["ink"], linewidth=1.8)
        if at is not None:
            _mark(axes, at.false_alarm_rate, at.recall)
        return _svg(figure, alt)


def precision_recall_chart(curve: ImageCurve, at: AtThreshold | None, *, key: str, alt: str) -> str:
    """Precision against defects found, as the stair whose area is the average precision; inline SVG."""
    with _drawing(key) as figure:
        axes = _unit_axes(figure, "defect images found (recall)", "true alarms (precision)")
        axes.step(
            [0, *curve.recall],
            [curve.precision[0], *curve.precision],
            where="pre",
            color=_STAND_INS["ink"],
            linewidth=1.8,
        )
        if at is not None and at.precision is not None:
            _mark(axes, at.recall, at.precision)
        return _svg(figure, alt)


def score_chart(
    groups: Mapping[str, NDArray[np.float64]],
    threshold: float | None,
    *,
    key: str,
    alt: str,
    review: float | None = None,
) -> str:
    """How the scores are spread: a row a group on one score axis, the thresholds through all of them; inline SVG.

    groups: "defect", "normal", "calibration" -> (n,) finite scores; drawn in this order, empty ones left out. At least
        one score in all.
    threshold: a bin edge lies on it, so that no bar stands on both sides. review: a second one, dotted.
    """
    shown = {name: values for name, values in groups.items() if values.size}
    edges = score_bins(np.concatenate(list(shown.values())), threshold)
    with _drawing(key) as figure:
        rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(rows, shown.items(), strict=True):
            counts, _ = np.histogram(values, bins=edges)
            axes.stairs(counts, edges, fill=True, facecolor=_STAND_INS[name], linewidth=0)
            axes.set_ylim(0, max(1, counts.max()) * 1.08)
            axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
            axes.grid(axis="y", color=_STAND_INS["grid"], linewidth=0.6)
            axes.set_title(f"{name} ({values.size})", loc="left", fontsize=9, fontweight="bold", pad=2)
            if threshold is not None:
                axes.axvline(threshold, color=_STAND_INS["limit"], linewidth=1.6, linestyle=(0, (5, 2)))
            if review is not None:
                axes.axvline(review, color=_STAND_INS["limit"], linewidth=1.6, linestyle=(0, (1, 1.6)))
        low = edges[0] if review is None else min(edges[0], review - (edges[1] - edges[0]))
        rows[-1].set_xlim(low, edges[-1])
        lines = "" if threshold is None else "; dashed: the threshold"
        lines += "" if review is None else ", dotted: that of review"
        rows[-1].set_xlabel(f"image score{lines}")
        rows[len(rows) // 2].set_ylabel("images")
        return _svg(figure, alt)


def severity_chart(courses: Sequence[Course], clean: Sequence[float | None], *, key: str, alt: str) -> str:
    """Figures against severity, a panel a corruption, all of one scale; thin lines are the unchanged images.

    courses: at least one, each with at most two lines: the first solid with dots, the second dashed with squares, so
        that they are told apart without colour. clean: what each line was without the corruption.
    """
    known = [v for course in courses for line in course.values for v in line if v is not None]
    known += [v for v in clean if v is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = max(0.05 * (high - low), 0.01)
    rows = -(-len(courses) // _MOST_PANELS)
    styles = (("ink", "-", "o"), ("calibration", (0, (4, 2)), "s"))
    with _drawing(key, height=0.6 + 1.1 * rows) as figure:
        panels = figure.subplots(rows, min(_MOST_PANELS, len(courses)), sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(courses) :]:
            axes.set_visible(False)
        for axes, course in zip(panels.flat, courses, strict=False):
            for (colour, dashes, marker), line, before in zip(styles, course.values, clean, strict=False):
                if before is not None:
                    axes.axhline(before, color=_STAND_INS[colour], linewidth=0.6)
                values = [np.nan if value is None else value for value in line]
                axes.plot(
                    course.severities,
                    values,
                    color=_STAND_INS[colour],
                    linestyle=dashes,
                    linewidth=1.6,
                    marker=marker,
                    markersize=4,
                )
            axes.grid(axis="y", color=_STAND_INS["grid"], linewidth=0.6)
            axes.set_title(course.title, loc="left", fontsize=9, fontweight="bold", pad=2)
        panels[0, 0].set_xlim(0.7, 5.3)
        panels[0, 0].set_xticks(range(1, 6))
        panels[0, 0].set_ylim(low - room, high + room)
        figure.supxlabel("severity", fontsize=9)
        return _svg(figure, alt)


def score_bins(scores: NDArray[np.float64], threshold: float | None) -> NDArray[np.float64]:
    """Edges of equal bins that hold all scores, one edge on the threshold, and the threshold within them.

    scores: (n,) finite, n >= 1.
    """
    low, high = float(scores.min()), float(scores.max())
    if threshold is None:
        threshold = low
    low, high = min(low, threshold), max(high, threshold)
    width = (high - low) / _BINS
    # A single value, or a spread that vanishes beside the values: a bin of a sensible width on either side.
    if width <= max(abs(low), abs(high)) * 1e-12:
        width = max(abs(high), 1.0) * 0.01
    before = int(np.ceil((threshold - low) / width))
    after = int(np.floor((high - threshold) / width)) + 1
    return np.asarray(threshold + width * np.arange(-before - 1, after + 2), dtype=np.float64)


@contextmanager
def _drawing(key: str, *, height: float = _HEIGHT) -> Iterator[Figure]:
    """A figure in our own style, whatever the user's matplotlibrc says."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, muted = _STAND_INS["ink"], _STAND_INS["muted"]
    style: Any = {
        **{k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(("backend", "date."))},
        "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's own font
        "svg.hashsalt": key,
        "font.size": 9,
        "axes.edgecolor": muted,
        "axes.labelcolor": ink,
        "xtick.color": muted,
        "ytick.color": muted,
        "text.color": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(style):
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def _unit_axes(figure: Figure, x: str, y: str) -> Axes:
    from matplotlib.ticker import PercentFormatter

    axes = figure.add_subplot()
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.04)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color=_STAND_INS["grid"], linewidth=0.6)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def _mark(axes: Axes, x: float, y: float) -> None:
    axes.plot(
        [x],
        [y],
        marker="o",
        markersize=8,
        markerfacecolor=_STAND_INS["paper"],
        markeredgecolor=_STAND_INS["limit"],
        markeredgewidth=2.2,
        linestyle="none",
        clip_on=False,
        zorder=5,
    )


def _svg(figure: Figure, alt: str) -> str:
    """The figure as an element to stand in HTML: no prologue, date, font or page-wide style, no id that is not used."""
    target = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(target, format="svg", transparent=True, metadata=nothing)
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r"font-family: [^;]*; ", "", text)
    used = set(re.findall(r"#([\w.-]+)[\")]", text))
    text = re.sub(r" id=\"([\w.-]+)\"", lambda m: m.group(0) if m.group(1) in used else "", text)
    for name, colour in _STAND_INS.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1).strip()
