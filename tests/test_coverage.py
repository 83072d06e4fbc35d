"""What thresholds promise of new normal images, held against simulations: 2,000 seeded repetitions each.

`python tests/test_coverage.py` prints the tables of docs/calibration.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from uadctl.metrics import is_anomalous
from uadctl.thresholds import Asked, choose, evt_threshold, images_needed, p_value, tails

REPETITIONS = 2000

# Distributions of scores, none of which the methods know: symmetric, skewed, and with tails so heavy that the variance
# is infinite. Pareto scores lie above 1, with P(score > x) = x^-1.5.
DISTRIBUTIONS: dict[str, Any] = {
    "normal": stats.norm(),
    "lognormal": stats.lognorm(1.0),
    "Student t, 2 degrees": stats.t(2),
    "Pareto 1.5": stats.pareto(1.5),
}


def cases(table: list[tuple[Any, ...]]) -> list[Any]:
    """Every entry with every distribution; only the first entry is fast."""
    return [
        pytest.param(name, *entry, marks=[] if at == 0 else pytest.mark.slow)
        for at, entry in enumerate(table)
        for name in DISTRIBUTIONS
    ]


def draws(name: str, n: int) -> Iterator[np.ndarray]:
    """2,000 sets of n scores, in the precision in which detectors give them."""
    rng = np.random.default_rng([n, *name.encode()])
    yield from DISTRIBUTIONS[name].rvs(size=(REPETITIONS, n), random_state=rng).astype(np.float32)


def true_rates(name: str, n: int, asked: Asked) -> np.ndarray:
    """(2000,) how probable a false alarm on a new normal image is, of each threshold."""
    values = [choose(scores, asked, source="holdout").value for scores in draws(name, n)]
    assert len(values) == REPETITIONS
    return rate_above(name, np.array(values, dtype=np.float64))


def rate_above(name: str, thresholds: np.ndarray) -> np.ndarray:
    """The probability that a new score, stored as a float32, is at or above each threshold: no need to draw it."""
    lower = np.nextafter(thresholds.astype(np.float32), np.float32(-np.inf)).astype(np.float64)
    return np.asarray(DISTRIBUTIONS[name].sf((thresholds + lower) / 2))  # what is rounded up to it counts


def four_errors(rates: np.ndarray) -> float:
    return 4 * float(rates.std(ddof=1)) / REPETITIONS**0.5


# n: the fewest images of the alpha, and more.
SIZES = [(19, 0.05), (50, 0.05), (9, 0.1), (10, 0.1), (25, 0.1), (99, 0.01), (150, 0.01), (1, 0.5), (3, 0.3), (7, 0.3)]


@pytest.mark.parametrize(("name", "n", "alpha"), cases(SIZES))
def test_false_alarms_keep_the_conformal_promise(name: str, n: int, alpha: float) -> None:
    rates = true_rates(name, n, Asked("conformal", alpha))
    error = four_errors(rates)
    assert rates.mean() <= alpha + error
    assert rates.mean() >= alpha - 1 / (n + 1) - error
    assert error < alpha / 4 + 0.01  # so that the bounds say something


def test_the_smallest_sizes_are_among_them() -> None:
    assert {(images_needed(Asked("conformal", alpha)), alpha) for _, alpha in SIZES} <= set(SIZES)
    assert (len(SIZES), len(DISTRIBUTIONS), len(cases(SIZES))) == (10, 4, 40)


@pytest.mark.parametrize(
    ("name", "n", "alpha"), cases([(20, 0.05), (50, 0.05), (10, 0.1), (25, 0.1), (100, 0.01), (20, 0.01)])
)
def test_the_plain_quantile_breaks_that_promise_on_small_samples(name: str, n: int, alpha: float) -> None:
    rates = true_rates(name, n, Asked("quantile", alpha))
    assert rates.mean() > alpha + four_errors(rates)


@pytest.mark.parametrize(
    ("name", "n", "alpha", "delta"),
    cases([(59, 0.05, 0.05), (22, 0.1, 0.1), (100, 0.05, 0.1), (300, 0.05, 0.05), (299, 0.01, 0.05)]),
)
def test_the_stricter_mode_is_rarely_above_alpha(name: str, n: int, alpha: float, delta: float) -> None:
    rates = true_rates(name, n, Asked("conformal", alpha, delta))
    error = 4 * (delta * (1 - delta) / REPETITIONS) ** 0.5
    assert (rates > alpha).mean() <= delta + error
    # It is the lowest order statistic that does: the one below would break the promise.
    lower = np.sort(np.array(list(draws(name, n))), axis=1)[:, rank(n, alpha, delta) - 2].astype(np.float64)
    assert (DISTRIBUTIONS[name].sf(lower) > alpha).mean() > delta


def rank(n: int, alpha: float, delta: float) -> int:
    """k of the threshold."""
    return int(choose(np.arange(1, n + 1), Asked("conformal", alpha, delta), source="holdout").value or 0)


def test_without_delta_one_calibration_in_two_is_above_alpha() -> None:
    rates = true_rates("lognormal", 100, Asked("conformal", 0.05))
    assert 0.3 < (rates > 0.05).mean() < 0.6
    assert rates.mean() <= 0.05 + four_errors(rates)


def test_tied_scores_keep_the_promise() -> None:
    # Scores of five values, as of a detector that counts: false alarms are rarer than asked for, never more frequent.
    rng = np.random.default_rng(3)
    new = rng.binomial(4, 0.3, size=200_000).astype(np.float32)
    found = []
    for scores in rng.binomial(4, 0.3, size=(REPETITIONS, 19)).astype(np.float32):
        threshold = choose(scores, Asked("conformal", 0.1), source="holdout").value
        found.append(threshold)
    rates = np.array([(new >= t).mean() for t in np.unique(found)])[np.unique(found, return_inverse=True)[1]]
    assert rates.mean() < 0.1


def learned_and_scored(rng: np.random.Generator, *, calibrating: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A nearest-neighbour detector on 40 normal images: scores of these, of images to calibrate on, and of 50 new ones.

    An image is 8 features of heavy tails with a scale of its own; its score is the distance to the nearest learned one.
    """
    every = rng.standard_t(3, size=(40 + calibrating + 50, 8)) * rng.lognormal(sigma=0.5, size=(90 + calibrating, 1))
    bank, others = every[:40], every[40:]
    scores = np.sqrt(np.square(others[:, None] - bank).sum(axis=2)).min(axis=1).astype(np.float32)
    return np.zeros(40, np.float32), scores[:calibrating], scores[calibrating:]


def detector_rates(choice: Callable[[np.ndarray, np.ndarray], float], *, calibrating: int) -> np.ndarray:
    rng = np.random.default_rng(17)
    rates = []
    for _ in range(500):
        learned, held_out, new = learned_and_scored(rng, calibrating=calibrating)
        rates.append(is_anomalous(new, choice(learned, held_out)).mean())
    return np.array(rates)


def test_scores_of_a_detector_keep_the_promise_on_images_outside_the_model() -> None:
    def conformal(learned: np.ndarray, held_out: np.ndarray) -> float:
        return choose(held_out, Asked("conformal", 0.05), source="holdout").value or 0.0

    for calibrating in (19, 45):
        rates = detector_rates(conformal, calibrating=calibrating)
        error = 4 * rates.std(ddof=1) / 500**0.5
        assert 0.05 - 1 / (calibrating + 1) - error <= rates.mean() <= 0.05 + error
        assert error < 0.015


def test_scores_of_learned_images_do_not() -> None:
    rates = detector_rates(
        lambda learned, held_out: choose(learned, Asked("quantile", 0.05), source="training").value or 0.0,
        calibrating=19,
    )
    assert rates.mean() > 0.9


def test_p_values_of_a_detector_are_at_most_alpha_no_more_often_than_that() -> None:
    rng = np.random.default_rng(23)
    p_values = []
    for _ in range(300):
        _, held_out, new = learned_and_scored(rng, calibrating=39)
        p_values.append([p_value(float(score), held_out) for score in new[:10]])
    for alpha in (0.025, 0.05, 0.1, 0.5):
        rates = (np.array(p_values) <= alpha).mean(axis=1)
        assert abs(rates.mean() - alpha) <= 4 * rates.std(ddof=1) / 300**0.5


def evt_rates(name: str, n: int, alpha: float) -> np.ndarray:
    """As `true_rates` for "evt", all fits at once and without their goodness: for the tables, nothing is promised."""
    peaks = [tails._peaks(scores.astype(np.float64)) for scores in draws(name, n)]
    starts, excesses = np.array([start for start, _ in peaks]), np.array([values for _, values in peaks])
    shapes, scales = tails._fit(excesses)
    left = alpha * n / excesses.shape[1]
    levels = starts + stats.genpareto.isf(left, shapes, 0, scales)
    rates: np.ndarray = DISTRIBUTIONS[name].sf(levels)
    return rates


def test_the_tables_tail_is_the_methods() -> None:
    first = next(draws("lognormal", 200))
    threshold, _ = evt_threshold(first, alpha=0.001)
    assert evt_rates("lognormal", 200, 0.001)[0] == pytest.approx(
        rate_above("lognormal", np.array([threshold]))[0], rel=1e-4
    )


ROWS = [
    (20, Asked("quantile", 0.05)),
    (20, Asked("conformal", 0.05)),
    (50, Asked("quantile", 0.05)),
    (50, Asked("conformal", 0.05)),
    (99, Asked("conformal", 0.05, 0.05)),
    (99, Asked("conformal", 0.01)),
    (299, Asked("conformal", 0.01)),
    (299, Asked("conformal", 0.01, 0.05)),
    (99, Asked("evt", 0.001)),
    (299, Asked("evt", 0.001)),
    (999, Asked("evt", 0.0001)),
]


def table() -> Iterator[str]:
    """One row for each n and method: for each distribution the mean rate, and how often the rate is above alpha."""
    yield f"| method | n | {' | '.join(DISTRIBUTIONS)} |"
    yield f"|---|---|{'---|' * len(DISTRIBUTIONS)}"
    for n, asked in ROWS:
        cells = []
        for name in DISTRIBUTIONS:
            evt = asked.method == "evt"
            rates = evt_rates(name, n, asked.alpha) if evt else true_rates(name, n, asked)
            cells.append(f"{100 * rates.mean():.2g} %, {100 * (rates > asked.alpha).mean():.0f} %")
        wished = f"{asked.alpha}" if asked.delta is None else f"{asked.alpha}, delta {asked.delta}"
        yield f"| {asked.method} {wished} | {n} | {' | '.join(cells)} |"


def figures(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<=[ |])[0-9.]+(?= %)", text)]


@pytest.mark.slow
def test_the_page_shows_these_figures() -> None:
    page = (Path(__file__).parents[1] / "docs/calibration.md").read_text(encoding="utf-8").splitlines()
    rows = list(table())
    start = page.index(rows[0])
    shown = page[start : start + len(rows)]
    assert [row.split("|")[:3] for row in shown] == [row.split("|")[:3] for row in rows]
    for line, row in zip(shown[2:], rows[2:], strict=True):
        assert len(figures(row)) == 8
        # Whatever SciPy's draws are: the mean rate, and how many thresholds of 100 are above alpha.
        assert figures(line)[::2] == pytest.approx(figures(row)[::2], rel=0.15)
        assert figures(line)[1::2] == pytest.approx(figures(row)[1::2], abs=1)


if __name__ == "__main__":
    print("\n".join(table()))
