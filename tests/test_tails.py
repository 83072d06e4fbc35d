"""Peaks over threshold: where the tail begins, the fit against SciPy's, how well it fits, the level beyond the scores."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import numpy as np
import pytest
from scipy import stats

from uadctl.thresholds import TooFew, evt_threshold, fit_tail, tails


def float32_above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def log_likelihood(excesses: np.ndarray, shape: float, scale: float) -> float:
    return float(stats.genpareto.logpdf(excesses, shape, 0, scale).sum())


def above(scores: np.ndarray, start: float) -> np.ndarray:
    return np.asarray(scores[scores > start] - start, dtype=np.float64)


def pareto(shape: float, m: int, seed: int) -> np.ndarray:
    """m scores below 0 or at it, and m of a generalised Pareto tail of scale 2 above."""
    rng = np.random.default_rng(seed)
    tail = stats.genpareto.rvs(shape, scale=2, size=m, random_state=rng)
    return rng.permutation(np.concatenate([tail, -rng.random(m)]))


@pytest.mark.parametrize(("n", "m"), [(60, 30), (61, 30), (300, 30), (309, 30), (310, 31), (1000, 100), (1009, 100)])
def test_the_tail_is_the_largest_thirty_or_tenth(n: int, m: int) -> None:
    scores = np.random.default_rng(n).permutation(np.arange(n, dtype=np.float32) ** 2)
    tail = fit_tail(scores)
    assert (tail.n, tail.start) == (m, (n - m - 1) ** 2)


def test_ties_at_the_start_are_in_the_tail() -> None:
    low, high = np.linspace(0, 1, 60), np.linspace(3, 6, 20) ** 2
    scores = np.concatenate([low, [2.0] * 15, high])  # the 30th largest is a 2
    tail = fit_tail(scores)
    assert (tail.n, tail.start) == (35, 1.0)
    # Ties of the highest score below change nothing: all of them lie outside.
    tail = fit_tail(np.concatenate([low, [1.0] * 15, np.linspace(3, 6, 30) ** 2]))
    assert (tail.n, tail.start) == (30, 1.0)


@pytest.mark.parametrize("m", [30, 100, 700])
@pytest.mark.parametrize("shape", [-0.4, -0.2, 0.0, 0.1, 0.5, 1.0, 2.0])
def test_the_fit_equals_scipys(shape: float, m: int) -> None:
    scores = pareto(shape, m, seed=m)
    excesses = scores[scores > 0]
    shapes, scales = tails._fit(excesses[None])
    theirs, _, scale = stats.genpareto.fit(excesses, floc=0)
    ours = log_likelihood(excesses, shapes[0], scales[0])
    if theirs < -0.5:
        assert shapes[0] == -0.5
        return
    assert shapes[0] == pytest.approx(theirs, abs=2e-4)  # SciPy's simplex ends there
    assert scales[0] == pytest.approx(scale, rel=5e-4)
    assert ours >= log_likelihood(excesses, theirs, scale) - 1e-9
    # The gradient is nothing, much nearer than SciPy comes.
    step = 1e-4
    for a, b in ((step, 0.0), (0.0, step)):
        up = log_likelihood(excesses, shapes[0] + a, scales[0] * (1 + b))
        down = log_likelihood(excesses, shapes[0] - a, scales[0] * (1 - b))
        assert abs(up - down) / (2 * step * m) < 1e-4
        assert max(up, down) < ours


def test_a_tail_with_an_end_keeps_a_shape_of_minus_a_half() -> None:
    # With a free shape the likelihood of uniform scores grows without limit; with -1/2 one scale is best.
    excesses = np.random.default_rng(3).random(200)
    shapes, scales = tails._fit(excesses[None])
    assert shapes[0] == -0.5
    every = np.linspace(0.5 * excesses.max() + 1e-6, 2, 20_000)
    best = every[np.argmax(stats.genpareto.logpdf(excesses[:, None], -0.5, 0, every).sum(axis=0))]
    assert scales[0] == pytest.approx(best, abs=1e-4)
    assert -scales[0] / shapes[0] > excesses.max()  # no score lies beyond the end of the tail


def test_an_exponential_tail_has_its_mean_as_scale() -> None:
    # Of u = 0, which a search hardly meets exactly, and near it: the limit of the formulas.
    parts = np.random.default_rng(0).exponential(size=(1, 50))
    limit = -math.log(parts.mean()) - 1
    for u in (0.0, 1e-300, -1e-300, 1e-12, -1e-12):
        assert tails._profile(parts, np.array([u]))[0] == pytest.approx(limit, abs=1e-9)
        _, shape, scale = tails._best(parts, np.array([u]))
        assert (shape[0], scale[0]) == pytest.approx((0, parts.mean()), abs=1e-9)
    exact = tails._anderson_darling(parts, np.zeros(1), np.ones(1))
    near = tails._anderson_darling(parts, np.full(1, 1e-12), np.ones(1))
    assert exact == pytest.approx(near, abs=1e-9)
    assert tails._draw(0.0, (1, 5), np.random.default_rng(1)) == pytest.approx(
        tails._draw(1e-12, (1, 5), np.random.default_rng(1)), rel=1e-9
    )


def test_no_other_parameters_fit_better() -> None:
    rng = np.random.default_rng(1)
    rows = np.concatenate([np.exp(rng.normal(size=(60, 30)) * spread) for spread in (0.05, 0.5, 3, 12)])
    rows = np.concatenate(
        [rows, rng.random((60, 30)) ** 8, np.where(rng.random((60, 30)) < 0.8, rows[:60], rows[120:180])]
    )
    assert rows.shape == (360, 30)
    highest = rows.max(axis=1)
    shapes, scales = tails._fit(rows)
    found = [log_likelihood(*one) for one in zip(rows, shapes, scales, strict=True)]
    every = np.linspace(-8, 150, 4000)  # of ln(1 + theta max x)
    for row, top, ours in zip(rows, highest, found, strict=True):
        theta = np.expm1(every) / top
        mean_log = np.log1p(theta[:, None] * row).mean(axis=1)
        shape = np.maximum(mean_log, -0.5)
        best = 30 * np.max(-np.log(shape / theta) - (1 + 1 / shape) * mean_log)
        assert ours >= best - 1e-9


def test_rows_are_fitted_as_if_alone() -> None:
    rng = np.random.default_rng(5)
    rows = np.exp(rng.normal(size=(20, 40)) * np.linspace(0.1, 3, 20)[:, None])
    shapes, scales = tails._fit(rows)
    for row, shape, scale in zip(rows, shapes, scales, strict=True):
        one, other = tails._fit(row[None])
        assert (one[0], other[0]) == (shape, scale)
    assert len(set(shapes)) > 10


def test_scores_in_other_units_have_the_same_tail() -> None:
    scores = np.random.default_rng(2).lognormal(size=400)
    tail, other = fit_tail(scores), fit_tail(1e-6 * scores - 3e-6)
    assert other.shape == pytest.approx(tail.shape, abs=1e-6)
    assert other.scale == pytest.approx(1e-6 * tail.scale, rel=1e-6)
    assert other.statistic == pytest.approx(tail.statistic, rel=1e-6)
    assert other.p_value == pytest.approx(tail.p_value, abs=0.005)


def test_anderson_darling_by_hand() -> None:
    # F of an exponential tail is 1/2 at ln 2 and 3/4 at ln 4: A² = -2 - (1 (ln 1/2 + ln 1/4) + 3 (ln 3/4 + ln 1/2)) / 2.
    expected = -2 - (math.log(1 / 8) + 3 * math.log(3 / 8)) / 2
    found = tails._anderson_darling(np.array([[math.log(4), math.log(2)]]), np.zeros(1), np.ones(1))
    assert found[0] == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("shape", [-0.5, -0.1, 0.3, 1.5])
def test_anderson_darling_equals_scipys_distribution_function(shape: float) -> None:
    excesses = stats.genpareto.rvs(shape, scale=3, size=80, random_state=np.random.default_rng(9))
    cumulative = np.sort(stats.genpareto.cdf(excesses, shape, 0, 3))
    i = np.arange(1, 81)
    expected = -80 - np.mean((2 * i - 1) * (np.log(cumulative) + np.log1p(-cumulative[::-1])))
    found = tails._anderson_darling(excesses[None], np.full(1, shape), np.full(1, 3.0))
    assert found[0] == pytest.approx(expected, rel=1e-9)


# Upper 50, 10, 5 and 1 % points of A² for m without limit, by shape: Choulakian and Stephens 2001, table 2.
POINTS = {
    0.9: (0.339, 0.641, 0.771, 1.086),
    0.5: (0.356, 0.685, 0.830, 1.180),
    0.1: (0.386, 0.766, 0.935, 1.348),
    0.0: (0.397, 0.796, 0.974, 1.409),
    -0.1: (0.410, 0.831, 1.020, 1.481),
    -0.2: (0.426, 0.873, 1.074, 1.567),
}


@pytest.mark.parametrize("shape", POINTS)
def test_the_spread_of_the_statistic_is_that_of_the_published_table(shape: float) -> None:
    assert len(POINTS) == 6
    drawn = tails._draw(shape, (2000, 300), np.random.default_rng(0))
    found = np.quantile(tails._anderson_darling(drawn, *tails._fit(drawn)), (0.5, 0.9, 0.95, 0.99))
    # Of 2,000 draws the points have standard errors of about 1.2, 1.7, 2.2 and 4 %; of 300 scores they are 2 % low.
    assert (np.abs(found / POINTS[shape] - 1) < (0.05, 0.07, 0.09, 0.14)).all()


def test_scores_of_such_a_tail_fit_as_often_as_promised() -> None:
    p_values = np.array([fit_tail(pareto(0.2, 40, seed=seed), seed=seed).p_value for seed in range(100)])
    # As often in any part of 0 to 1 as in another, within four standard errors: 0.029 of the mean, 3 of the tenth.
    # Were the samples not fitted anew, the mean would be 0.8.
    assert 0.38 <= p_values.mean() <= 0.62
    assert 1 <= (p_values <= 0.1).sum() <= 22


def test_scores_of_no_such_tail_are_found_out() -> None:
    rng = np.random.default_rng(4)
    two_kinds = np.concatenate([rng.normal(0, 1, 300), rng.normal(40, 0.5, 25)])
    assert fit_tail(two_kinds).p_value == 1 / 500
    assert fit_tail(np.round(rng.exponential(size=400))).p_value < 0.05
    assert fit_tail(np.arange(1000.0)).p_value < 0.05  # evenly spaced up to a hard end
    assert fit_tail(rng.exponential(size=400)).p_value > 0.05


def test_the_same_scores_give_the_same_tail() -> None:
    scores = np.random.default_rng(6).gamma(2, size=500)
    assert fit_tail(scores) == fit_tail(scores) == fit_tail(np.sort(scores))
    other = fit_tail(scores, seed=1)
    assert (other.shape, other.scale, other.statistic) == (
        fit_tail(scores).shape,
        fit_tail(scores).scale,
        fit_tail(scores).statistic,
    )
    assert other.p_value != fit_tail(scores).p_value


def test_many_scores_are_fitted_fast() -> None:
    scores = np.random.default_rng(7).lognormal(size=100_000)
    before = time.perf_counter()
    assert fit_tail(scores).n == 10_000
    assert time.perf_counter() - before < 30  # 0.1 s alone on a machine


@pytest.mark.parametrize("draw", ["normal", "lognormal", "standard_exponential"])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 1e-4, 1e-6])
def test_the_level_is_scipys_quantile_rounded_up(draw: str, alpha: float) -> None:
    scores = getattr(np.random.default_rng(8), draw)(size=500).astype(np.float32)
    threshold, tail = evt_threshold(scores, alpha=alpha)
    assert tail == fit_tail(scores)
    level = tail.start + stats.genpareto.isf(alpha * 500 / 50, tail.shape, 0, tail.scale)
    assert threshold == float(np.float32(threshold))
    assert level - 1e-12 < threshold <= float32_above(level + 1e-12)
    if alpha < 1 / 500:
        assert threshold > np.quantile(scores, 0.998)


def test_the_level_of_an_exponential_tail_by_hand() -> None:
    tail = tails.Tail(start=3.0, n=50, shape=0.0, scale=2.0, statistic=0.1, p_value=0.9)
    assert tails._level(tail, 0.5) == pytest.approx(3 + 2 * math.log(2), abs=1e-15)
    # 1 / sqrt(left) - 1 over shape 1/2, and the end of the tail at start - scale / shape.
    tail = tails.Tail(start=3.0, n=50, shape=0.5, scale=2.0, statistic=0.1, p_value=0.9)
    assert tails._level(tail, 0.25) == pytest.approx(3 + 2 * (2 - 1) / 0.5, abs=1e-15)
    tail = tails.Tail(start=3.0, n=50, shape=-0.5, scale=2.0, statistic=0.1, p_value=0.9)
    assert tails._level(tail, 1e-300) == pytest.approx(3 + 4, abs=1e-15)


RNG = np.random.default_rng(11)
NORMAL = RNG.normal(size=200)
REFUSED: list[tuple[Any, float, str]] = [
    (NORMAL, 0.15, 'alpha is 0.15, but the tail holds 30 of 200 scores; method "evt" needs an alpha below 0.15: use method "quantile" or "conformal"'),
    (NORMAL, 0.5, 'alpha is 0.5, but the tail holds 30 of 200 scores; method "evt" needs an alpha below 0.15: use method "quantile" or "conformal"'),
    (NORMAL[:59], 0.01, 'method "evt" needs at least 60 normal images, there are 59'),
    ([0.5] * 60, 0.01, '60 of 60 scores are 0.5 or higher, too many of them equal for a tail: use method "quantile" or "conformal"'),
    ([0.5] * 29 + [1.0] * 31, 0.01, '31 of 60 scores are 1.0 or higher, too many of them equal for a tail: use method "quantile" or "conformal"'),
    (NORMAL, 0.0, "alpha is 0.0; expected a share of normal images above 0 and below 1"),
    ([*NORMAL, math.nan], 0.01, "scores[200] is nan; expected finite numbers"),
    ([], 0.01, "there is no score; a threshold needs at least one normal image outside the model's training"),
]  # fmt: skip


@pytest.mark.parametrize(("scores", "alpha", "message"), REFUSED)
def test_what_gives_no_threshold_is_refused(scores: Any, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evt_threshold(scores, alpha=alpha)


def test_too_few_scores_say_how_many_are_needed() -> None:
    with pytest.raises(TooFew) as refused:
        fit_tail(NORMAL[:30])
    assert refused.value.needed == 60
    assert fit_tail(NORMAL[:60]).n == 30


def test_scores_of_every_magnitude_have_no_tail() -> None:
    scores = np.concatenate([np.zeros(60), 10.0 ** np.linspace(-30, 30, 40)])
    with pytest.raises(
        ValueError,
        match=r"^the scores of the tail lie orders of magnitude apart \(shape [0-9.]+\); no level beyond them can be "
        r'told: use method "quantile" or "conformal"$',
    ):
        fit_tail(scores)


def test_equal_excesses_are_fitted_and_found_out() -> None:
    tail = fit_tail([0.0] * 40 + [1.0] * 35)
    assert (tail.n, tail.start, tail.p_value) == (35, 0.0, 1 / 500)
    assert all(map(math.isfinite, (tail.shape, tail.scale, tail.statistic)))
