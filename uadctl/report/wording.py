"""How figures are said, alike on every page: names of metrics, shares, scores, links."""

from __future__ import annotations

import math
import os
from pathlib import Path
from urllib.parse import quote

_HEADINGS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "image_auroc_logical": "image AUROC, logical",
    "image_auroc_structural": "image AUROC, structural",
    "image_auroc_pooled": "image AUROC, all at once",
    "segf1": "SegF1",
    "classf1": "ClassF1",
    "group_auroc": "part AUROC",
    "group_ap": "part AP",
    "group_f1max": "part F1-max",
    "group_miss_rate": "parts missed",
    "group_false_alarm_rate": "parts, false alarms",
    "miss_rate": "missed",
    "false_alarm_rate": "false alarms",
    "flip_rate": "verdicts flipped",
    "good_shift": "shift of good scores",
}
MINUS = "\N{MINUS SIGN}"


def heading(name: str) -> str:
    """A metric's name for people: "aupro_30" is "AUPRO to FPR 0.30". One that is not known stands as it is."""
    kind, _, limit = name.partition("_")
    digits, _, of = limit.partition("_")
    if kind in ("aupro", "spro") and digits.isdecimal():
        rate = "1" if digits == "100" else f"0.{digits}"
        return f"{'AUPRO' if kind == 'aupro' else 'sPRO'} to FPR {rate}" + (f", {of}" if of else "")
    return _HEADINGS.get(name, name)


def is_share(name: str) -> bool:
    """Whether a metric is a share of images that is said in per cent."""
    return name == "precision" or name.endswith("_rate")


def figure(name: str, value: float | None, *, digits: int = 4) -> str:
    """A metric's value; a dash where it is undefined."""
    if value is None:
        return "–"
    return percent(value) if is_share(name) else f"{value:.{digits}f}"


def change(name: str, value: float, *, digits: int = 4) -> str:
    """A difference with its sign, never rounded to none; "0" where there is none. Shares: in points of per cent."""
    if abs(value) < 1e-12:  # what is left of rounding where means are equal
        return "0"
    size, unit = (100 * abs(value), " points") if is_share(name) else (abs(value), "")
    text = f"{size:.{1 if unit else digits}f}"
    if float(text) == 0:
        text = f"{size:.1g}"
    return f"{'+' if value > 0 else MINUS}{text}{unit}"


def interval(name: str, ends: tuple[float, float]) -> str:
    """The two ends of a difference's interval."""
    low, high = (change(name, end) for end in ends)
    return f"{low.removesuffix(' points') if high.endswith(' points') else low} to {high}"


def percent(share: float) -> str:
    """Never rounded to 0 or to everything: one in 3000 missed is not none."""
    text = f"{100 * share:.1f}"
    if (text == "0.0" and share > 0) or (text == "100.0" and share < 1):
        digits = -math.floor(math.log10(100 * min(share, 1 - share)))
        text = f"{100 * share:.{digits}f}"
    return f"{text}\N{NO-BREAK SPACE}%"


def score(value: float, threshold: float | None) -> str:
    """A score with as many digits as it takes to lie on its side of the threshold; 9 tell any two float32 apart."""
    texts = [f"{value:.{digits}g}" for digits in range(5, 10)]
    if threshold is None:
        return texts[0]
    return next((text for text in texts if (float(text) >= threshold) == (value >= threshold)), texts[-1])


def exact(threshold: float) -> str:
    """A threshold with all the digits of a float32."""
    return f"{threshold:.9g}"


def moment(text: str) -> str:
    """A time of a run's record, to the minute."""
    return text[:16].replace("T", " ") + (" UTC" if len(text) >= 16 else "")


def href(file: Path, base: Path) -> str:
    """A link from a page in `base`: relative, so that the two can be moved together; absolute between drives."""
    target, start = file.resolve(), base.resolve()
    if target.anchor != start.anchor:
        return target.as_uri()
    # As bytes: a name that is not UTF-8 has no other form that a link can carry.
    return quote(os.fsencode(Path(os.path.relpath(target, start)).as_posix()))
