"""Thresholds in words: where they come from, what they promise, and what they let through."""

from __future__ import annotations

from uadctl.metrics import RATE_COUNTS, threshold_counts
from uadctl.report import wording
from uadctl.report.reading import Calibrated, LabelledFacts, Limit, Measured, Row, Unit, same_pixels, same_verdicts
from uadctl.report.results import PARTS
from uadctl.thresholds.record import Shares

# A tail that fits worse than this in one sample of 20 is not to be trusted.
_FITS = 0.05


def limit_of(unit: Unit) -> float | None:
    """The threshold that the unit's verdicts were made with; of a unit that was not scored, its threshold now."""
    if unit.measured is not None:
        return next((row.threshold for row in unit.rows if row.threshold is not None), None)
    return None if unit.calibrated is None else unit.calibrated.image.value


def origin(limit: Limit, *, name: str = "threshold") -> str:
    """Where a threshold comes from, for somebody who did not choose it. name: what it is called."""
    if limit.value is None:
        return f"There is no {name}, and therefore no verdict: {_sentence(limit.reason)}"
    images = f"{limit.n} normal images" if limit.n != 1 else "1 normal image"
    source = {
        "validation": f"{images} of the data set's validation split",
        "leave-one-out": f"{images} of the training split, each scored as if the model had not seen it",
        "holdout": f"{images} of the training split, held out from the model",
        "training": f"{images} of the training split, which the checkpoint may have learned; if so, it is too low",
        "given": f"{images} given to uadctl calibrate",
    }.get(limit.source or "", f"{images} (source: {limit.source})")
    if limit.labelled is not None:
        source += f" and {_number(limit.labelled.defects, 'labelled defect image')}"
    return f"The {name} {wording.exact(limit.value)} comes from {source}. {_how(limit)}"


def _how(limit: Limit) -> str:
    """How it was chosen, what that promises, and how well what it assumes fits."""
    if limit.method == "quantile" and limit.alpha is not None:
        said = [f"It leaves at most {100 * limit.alpha:g}\N{NO-BREAK SPACE}% of them at or above it."]
    else:
        named = (("alpha", limit.alpha), ("delta", limit.delta))
        said = [
            ", ".join([f"Method: {limit.method}", *(f"{name} {value:g}" for name, value in named if value is not None)])
            + "."
        ]
    if limit.guarantee:
        said.append(f"Promised: {_sentence(limit.guarantee)}")
    if limit.tail is not None:
        tail = limit.tail
        fits = (
            "the tail fits them" if tail.p_value >= _FITS else "the tail hardly fits them: do not trust this threshold"
        )
        said.append(
            f"A generalised Pareto tail of the {_number(tail.n, 'score')} above {wording.exact(tail.start)} (shape "
            f"{tail.shape:.3g}, scale {tail.scale:.3g}); goodness of fit: Anderson-Darling {tail.statistic:.3g}, "
            f"p = {tail.p_value:.3g}: {fits}."
        )
    if limit.labelled is not None:
        said.append(_labelled(limit.labelled))
    return " ".join(said)


def _labelled(found: LabelledFacts) -> str:
    costs = ""
    if found.cost_miss is not None and found.cost_false_alarm is not None:
        costs = f" (a miss costs {found.cost_miss:g}, a false alarm {found.cost_false_alarm:g})"
    said = [f"It makes {found.objective} best{costs}."]
    if found.separable:
        said.append(
            "It is the middle of the gap between the two: every labelled defect scored above every normal image."
        )
    if found.folds and found.miss_rate is not None and found.false_alarm_rate is not None:
        said.append(
            f"In {found.folds}-fold cross-validation {wording.percent(found.miss_rate)} of the defects were missed and "
            f"{wording.percent(found.false_alarm_rate)} of the normal images called anomalous."
        )
    elif not found.folds:
        said.append("There were too few images for a cross-validation.")
    return " ".join(said)


def review_of(calibrated: Calibrated) -> str:
    """Where the second, lower threshold comes from; "" where there is none."""
    if calibrated.review is None:
        return ""
    said = origin(calibrated.review, name="review threshold")
    if calibrated.review.value is None:
        return said.replace(", and therefore no verdict", "", 1)
    return f"{said} From it up to the threshold the verdict is review: worth a look. A defect there counts as missed."


def expected_of(calibrated: Calibrated) -> str:
    """What shares of new images each verdict is expected to get; "" where nobody has said."""
    if calibrated.expected is None:
        return ""
    said = f"Expected of new normal images: {_shares(calibrated.expected.normal)}."
    if calibrated.expected.defect is not None:
        said += f" Of defects like those labelled: {_shares(calibrated.expected.defect)}."
    return said


def _shares(found: Shares) -> str:
    named = [("good", found.good), *([("review", found.review)] if found.review else []), ("anomaly", found.anomaly)]
    return ", ".join(f"{wording.percent(share)} {name}" for name, share in named)


def pixel_of(calibrated: Calibrated) -> list[str]:
    """How the thresholds of maps were chosen, as sentences."""
    pixel = calibrated.pixel
    if pixel is None:
        return []
    if pixel.chosen is not None:
        said = [origin(pixel.chosen, name="pixel threshold")]
    elif pixel.sigmas is not None:
        said = [
            f"The pixel threshold {wording.exact(pixel.threshold)} lies {pixel.sigmas:g} standard deviations above the "
            "mean pixel of normal maps."
        ]
    else:
        said = [f"The pixel threshold {wording.exact(pixel.threshold)} was given."]
    if pixel.review is not None and pixel.review.value is not None:
        said.append(origin(pixel.review, name="pixel review threshold"))
    return said


def without_origin(limit: float | None) -> str:
    if limit is None:
        return "There was no threshold when this unit was measured, and therefore no verdict."
    return f"The threshold was {wording.exact(limit)} when this unit was measured."


def since(unit: Unit, now: Calibrated) -> str:
    """That thresholds were replaced after the unit was measured, and what they would make of the same scores."""
    said = []
    if not same_verdicts(now, unit.rows):
        said.append(_verdicts_since(unit, now))
    if unit.measured is not None and not same_pixels(now, unit.measured):
        said.append(
            "The pixel threshold has been replaced since, and the contours and figures of pixels here are those of "
            f"before. {' '.join(pixel_of(now))}"
        )
    return " ".join(said)


def _verdicts_since(unit: Unit, now: Calibrated) -> str:
    told = " ".join(text for text in (origin(now.image), review_of(now)) if text)
    text = f"The threshold has been replaced since, and the verdicts here are those of before. {told}"
    known = [row for row in unit.rows if row.score is not None and row.label >= 0]
    if now.image.value is None or not known:
        return text
    found = threshold_counts([row.label for row in known], [row.score or 0.0 for row in known], now.image.value)
    return f"{text} With it: {' '.join(at_threshold(Measured(True, found.metrics, found.reasons, found.counts)))}"


def at_threshold(measured: Measured) -> list[str]:
    """The counts at the threshold as sentences, each with its n, or why there are none."""
    m = measured.metrics
    sentences = []
    for rate, text in (
        ("miss_rate", "{part} of {n} defect images missed ({share})."),
        ("false_alarm_rate", "{part} of {n} normal images called anomalous ({share})."),
        ("precision", "{part} of {n} alarms true ({share})."),
    ):
        share, part = m.get(rate), m.get(PARTS[rate])
        n = measured.counts.get(RATE_COUNTS[rate])
        if share is not None and part is not None and n is not None:
            sentences.append(text.format(part=int(part), n=n, share=wording.percent(share)))
        elif rate in measured.reasons:
            sentences.append(f"{wording.heading(rate).capitalize()}: undefined, {measured.reasons[rate]}.")
    return sentences


def in_review(unit: Unit) -> str:
    """How many images are to be looked at, of each kind; "" without a review threshold."""
    made_with = unit.measured_with
    if made_with is None or made_with.review_value is None or not unit.rows:
        return ""

    def count(label: int) -> int:
        return sum(row.verdict == "review" and row.label == label for row in unit.rows)

    return f"For review: {_number(count(1), 'defect image')} (of those missed) and {_number(count(0), 'normal image')}."


def distance(row: Row) -> float:
    """How far a score lies from its threshold; without one, the higher the score, the closer."""
    score = row.score or 0.0
    return -score if row.threshold is None else abs(score - row.threshold)


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _sentence(text: str | None) -> str:
    return f"{(text or '').rstrip('.')}."
