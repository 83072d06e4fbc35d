"""`uadctl calibrate` by method: what is promised, what is refused, and what stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import parts
import pytest
from recalibrated import UNIT, files, good_images, thresholds

from uadctl.calibrate import calibrate
from uadctl.errors import SpecError
from uadctl.runs.folder import RunFolder
from uadctl.runs.provenance import content_hash
from uadctl.thresholds import Asked, choose, conformal_threshold, quantile_threshold

NAME = "tile / vision_patchcore / seed 0"
MORE = "  Give more good images that the model has not learned (--good DIR), or allow more of them.\n"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def new(tmp_path) -> Path:
    """A folder of nine good images that no run has seen."""
    return good_images(tmp_path / "new", 9)


def rewrite(run: Path, unit: str = UNIT, **facts: object) -> None:
    """Change thresholds.json by hand: as another model or an older version would have written it."""
    document = thresholds(run, unit=unit)
    del document["checksum"]  # as of before 0.9
    image = {**document["image"], **facts.pop("image", {})}  # type: ignore[dict-item]
    (run / unit / "thresholds.json").write_text(json.dumps({**document, "image": image, **facts}))


def tailed(n: int = 400, seed: int = 0) -> list[float]:
    return sorted(float(np.float32(x)) for x in 10 + np.random.default_rng(seed).exponential(2, n))


# ---- conformal


def test_conformal_promises_a_rate_of_false_alarms(uadctl, run, new):
    ended = uadctl("calibrate", run, "--method", "conformal", "--alpha", "0.1", "--good", new)
    found = thresholds(run)
    image = found["image"]
    assert image["value"] == conformal_threshold(found["scores"], alpha=0.1)
    assert image["value"] == np.nextafter(np.float32(max(found["scores"])), np.float32(np.inf))
    assert (image["method"], image["alpha"], image["delta"], image["n"], image["source"]) == (
        *("conformal", 0.1, None, 9, "given"),
    )
    assert "at most 10 % of new normal images reach this threshold" in image["guarantee"]
    assert ended.out.splitlines()[-2:] == [image["guarantee"], f"run: {run}"]
    assert ended.err == ""
    assert found["expected"] == {"normal": {"good": 0.9, "review": 0.0, "anomaly": 0.1}, "defect": None}
    assert found["data"] == content_hash([str(path) for path in new.iterdir()])
    assert found["data"] != thresholds(run, "thresholds.1.json")["data"]


def test_conformal_refuses_too_few_images_and_names_the_number(uadctl, run, new):
    before = files(run)
    ended = uadctl("calibrate", run, "--method", "conformal", "--alpha", "0.05", "--good", new, code=2)
    assert ended.err == (
        f'error: {NAME}: method "conformal" needs at least 19 normal images for alpha 0.05, there are 9\n{MORE}'
    )
    assert ended.out == ""
    assert files(run) == before


def test_conformal_refuses_scores_of_other_models(uadctl, run):
    before = files(run)
    ended = uadctl("calibrate", run, "--method", "conformal", "--alpha", "0.5", code=2)
    assert ended.err.startswith(f'error: {NAME}: method "conformal" promises nothing of leave-one-out scores: ')
    assert ended.err.endswith(
        "\n  Give good images that the model has not learned: --good DIR; or fit anew with [calibration] holdout, which "
        "keeps some out of the model.\n"
    )
    assert files(run) == before


def test_conformal_takes_the_scores_of_images_held_out(uadctl, small):
    run = Path(uadctl("fit", *small, "--set", "calibration.holdout=0.5", "--json").json["run"])
    before = thresholds(run)
    assert (before["image"]["method"], before["image"]["n"]) == ("quantile", 3)
    (unit,) = uadctl("calibrate", run, "--method", "conformal", "--alpha", "0.3", "--json").json["units"]
    # ceil((3 + 1) 0.7) = 3
    assert unit["new"]["value"] == np.nextafter(np.float32(max(before["scores"])), np.float32(np.inf))
    assert unit["new"]["source"] == "holdout"
    assert thresholds(run)["data"] == before["data"]


def test_delta_stays_until_a_method_is_named(uadctl, run, new):
    def image(*args: object):
        uadctl("calibrate", run, *args, "--quiet")
        return thresholds(run)["image"]

    strict = image("--method", "conformal", "--alpha", "0.3", "--delta", "0.4", "--good", new)
    assert (strict["alpha"], strict["delta"]) == (0.3, 0.4)
    assert "With a probability of at least 60 %" in strict["guarantee"]
    other = image("--alpha", "0.4")
    assert (other["method"], other["alpha"], other["delta"]) == ("conformal", 0.4, 0.4)
    assert image("--delta", "0.2")["delta"] == 0.2
    plain = image("--method", "conformal")
    assert (plain["method"], plain["alpha"], plain["delta"]) == ("conformal", 0.4, None)
    quantile = image("--method", "quantile")
    assert (quantile["method"], quantile["alpha"], quantile["guarantee"]) == ("quantile", 0.4, None)
    ended = uadctl("calibrate", run, "--delta", "0.2", code=2)
    assert ended.err == ("error: delta has no effect on a threshold by quantile\n  Give --method conformal as well.\n")
    ended = uadctl("calibrate", run, "--method", "evt", "--delta", "0.2", code=2)
    assert ended.err.startswith("error: delta has no effect on a threshold by evt\n")


# ---- evt


def test_evt_says_how_well_its_tail_fits(uadctl, run):
    scores = tailed()
    rewrite(run, scores=scores)
    ended = uadctl("calibrate", run, "--method", "evt", "--alpha", "0.001")
    image, tail = thresholds(run)["image"], thresholds(run)["image"]["tail"]
    assert image["value"] > max(scores) or image["value"] > np.quantile(scores, 0.99)
    assert (image["method"], image["n"], image["guarantee"]) == ("evt", 400, None)
    assert ended.out.splitlines()[-2] == (
        f"tail: {tail['n']} scores above {tail['start']:.6g}, shape {tail['shape']:.3g}, scale {tail['scale']:.3g}; "
        f"Anderson-Darling A^2 = {tail['statistic']:.3g}, p = {tail['p_value']:.3f}"
    )
    assert tail["p_value"] >= 0.05
    assert ended.err == ""
    assert thresholds(run)["expected"]["normal"]["anomaly"] == 0.001


def test_a_tail_that_does_not_fit_is_warned_about(uadctl, run):
    # Two heaps far apart in the tail: no generalised Pareto distribution.
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(10, 0.1, 360), rng.normal(20, 0.01, 20), rng.normal(40, 0.01, 20)])
    rewrite(run, scores=sorted(float(np.float32(x)) for x in scores))
    ended = uadctl("calibrate", run, "--method", "evt", "--alpha", "0.01")
    assert thresholds(run)["image"]["tail"]["p_value"] < 0.05
    assert ended.err.startswith(f"warning: {NAME}: the ")
    assert "hardly of a generalised Pareto distribution" in ended.err


def test_evt_refuses_what_it_cannot_give(uadctl, run):
    before = files(run)
    ended = uadctl("calibrate", run, "--method", "evt", code=2)
    assert ended.err.startswith(f"error: {NAME}: ")
    assert ended.err.endswith(MORE)
    assert files(run) == before


# ---- a second threshold


def test_a_review_threshold_lies_below_the_other(uadctl, run):
    scores = thresholds(run)["scores"]
    ended = uadctl("calibrate", run, "--alpha", "0.2", "--review-alpha", "0.5")
    found = thresholds(run)
    assert found["review"]["value"] == quantile_threshold(scores, alpha=0.5) < found["image"]["value"]
    assert (found["review"]["method"], found["review"]["alpha"], found["review"]["n"]) == ("quantile", 0.5, 6)
    normal = found["expected"]["normal"]
    assert [normal[name] for name in ("good", "review", "anomaly")] == pytest.approx([3 / 7, 2 / 7, 2 / 7])
    assert "expected of good images: 42.9% good, 28.6% review, 28.6% anomaly" in ended.out.splitlines()
    # It stays with another alpha, as long as it lies below.
    uadctl("calibrate", run, "--alpha", "0.4")
    assert thresholds(run)["review"] == found["review"]
    before = files(run)
    ended = uadctl("calibrate", run, "--alpha", "0.6", code=2)
    image = quantile_threshold(scores, alpha=0.6)
    assert ended.err == (
        f"error: {NAME}: the review threshold, {found['review']['value']:.9g}, is not below the threshold, {image:.9g}\n"
        "  Let more good images reach it: --review-alpha, or give more good images.\n"
    )
    assert files(run) == before


def test_equal_thresholds_leave_nothing_to_review(uadctl, run):
    before = files(run)
    ended = uadctl("calibrate", run, "--alpha", "0.01", "--review-alpha", "0.1", code=2)
    assert ended.err.startswith(f"error: {NAME}: the review threshold, ")  # six scores do not tell 1 % from 10 %
    assert files(run) == before


def test_new_scores_give_a_new_review_threshold_of_the_same_alpha(uadctl, run, new):
    uadctl("calibrate", run, "--alpha", "0.2", "--review-alpha", "0.5")
    old = thresholds(run)["review"]
    uadctl("calibrate", run, "--method", "conformal", "--good", new)
    found = thresholds(run)
    assert found["image"]["alpha"] == 0.2
    assert found["review"]["value"] == conformal_threshold(found["scores"], alpha=0.5) != old["value"]
    assert (found["review"]["method"], found["review"]["source"]) == ("conformal", "given")


# ---- thresholds of maps


def test_a_threshold_of_maps_is_chosen_from_their_highest_pixels(uadctl, run):
    old = thresholds(run)
    assert len(old["maxima"]) == 6
    ended = uadctl("calibrate", run, "--pixel-alpha", "0.2", "--pixel-review-alpha", "0.5", "--json")
    found = thresholds(run)
    pixel = found["pixel"]
    assert pixel["threshold"] == pixel["chosen"]["value"] == quantile_threshold(old["maxima"], alpha=0.2)
    assert pixel["review"]["value"] == quantile_threshold(old["maxima"], alpha=0.5) < pixel["threshold"]
    assert (pixel["chosen"]["alpha"], pixel["chosen"]["source"], pixel["sigmas"]) == (0.2, "leave-one-out", None)
    assert {**pixel, "threshold": 0, "chosen": 0, "review": 0, "sigmas": 0} == {
        **old["pixel"],
        **{"threshold": 0, "chosen": 0, "review": 0, "sigmas": 0},
    }
    assert {**found, "pixel": 0, "checksum": 0} == {**old, "pixel": 0, "checksum": 0}
    assert ended.json["units"][0]["pixel"] == pixel
    # The threshold of scores takes nothing of this away.
    uadctl("calibrate", run, "--alpha", "0.4")
    assert thresholds(run)["pixel"] == pixel
    said = uadctl("calibrate", run, "--alpha", "0.5").out.splitlines()
    assert f"threshold of maps: {pixel['threshold']:.6g}, review from {pixel['review']['value']:.6g}" in said


def test_new_maps_are_judged_as_those_before(uadctl, run, new):
    uadctl("calibrate", run, "--pixel-alpha", "0.3")
    old = thresholds(run)["pixel"]
    uadctl("calibrate", run, "--alpha", "0.2", "--good", new)
    found = thresholds(run)
    assert len(found["maxima"]) == 9
    assert found["pixel"]["threshold"] == quantile_threshold(found["maxima"], alpha=0.3) != old["threshold"]
    assert found["pixel"]["max"] == max(found["maxima"])
    assert (found["pixel"]["sigmas"], found["pixel"]["chosen"]["source"]) == (None, "given")


def test_normalised_maps_have_thresholds_in_their_own_unit(uadctl, small, new):
    run = Path(uadctl("fit", *small, "--set", "postprocess.normalize=true", "--json").json["run"])
    args = ("--method", "conformal", "--alpha", "0.5", "--pixel-alpha", "0.2", "--pixel-review-alpha", "0.9")
    uadctl("calibrate", run, *args, "--good", new)
    found = thresholds(run)
    assert found["maxima"] == sorted(found["maxima"])
    assert max(found["maxima"]) == pytest.approx(found["pixel"]["max"], rel=1e-6)
    assert abs(found["pixel"]["mean"]) < 1e-6
    assert found["pixel"]["threshold"] == conformal_threshold(found["maxima"], alpha=0.2) > found["maxima"][0]
    lines = uadctl("score", run, new, "--json").lines
    assert sum(bool([r for r in x["regions"] if r["verdict"] == "anomaly"]) for x in lines) == sum(
        value >= found["pixel"]["threshold"] for value in found["maxima"]
    )


def test_a_review_threshold_of_maps_lies_below_the_other(uadctl, run):
    before, old = files(run), thresholds(run)
    ended = uadctl("calibrate", run, "--pixel-alpha", "0.5", "--pixel-review-alpha", "0.2", code=2)
    low, high = (quantile_threshold(old["maxima"], alpha=alpha) for alpha in (0.5, 0.2))
    assert ended.err == (
        f"error: {NAME}: the review threshold of maps, {high:.9g}, is not below the threshold of maps, {low:.9g}\n"
        "  Let more good images reach it: --pixel-review-alpha, or give more good images.\n"
    )
    assert files(run) == before


def test_a_run_of_an_older_version(uadctl, run):
    document = thresholds(run)
    for name in ("maxima", "data", "expected", "review", "postprocess", "checksum"):
        del document[name]
    (run / UNIT / "thresholds.json").write_text(json.dumps(document))
    before = files(run)
    assert "unchanged" in uadctl("calibrate", run).out
    assert "unchanged" in uadctl("calibrate", run, "--alpha", "0.01").out
    ended = uadctl("calibrate", run, "--pixel-alpha", "0.1", code=2)
    assert ended.err == (
        f"error: {NAME}: the highest pixels of normal maps were not kept by the version that made this run\n"
        "  Give good images that the model has not learned: --good DIR\n"
    )
    assert files(run) == before


def test_scores_of_unknown_images_choose_nothing(uadctl, run):
    rewrite(run, image={"value": None, "source": None, "reason": "too few"})
    before = files(run)
    ended = uadctl("calibrate", run, "--alpha", "0.5", code=2)
    assert ended.err == (
        f"error: {NAME}: which images its normal scores are of is not known\n"
        "  Give good images that the model has not learned: --good DIR\n"
    )
    assert files(run) == before


# ---- several units


def test_what_one_unit_cannot_have_changes_none(uadctl, small, one_category):
    parts.write_category(one_category, "zinc", train=4)
    run = Path(uadctl("fit", *small, "--set", "calibration.holdout=0.5", "--json", "--quiet").json["run"])
    before = files(run)
    ended = uadctl("calibrate", run, "--method", "conformal", "--alpha", "0.3", code=2)
    assert ended.err == (
        'error: zinc / vision_patchcore / seed 0: method "conformal" needs at least 3 normal images for alpha 0.3, there '
        f"are 2\n{MORE}"
    )
    assert files(run) == before
    uadctl("calibrate", run, "--method", "conformal", "--alpha", "0.3", "--category", "tile", "--quiet")
    assert thresholds(run)["image"]["method"] == "conformal"
    ended = uadctl("calibrate", run, "--method", "quantile", "--review-alpha", "0.9")
    assert ended.out.count("expected of good images: ") == 2
    assert "zinc / vision_patchcore / seed 0: expected of good images: " in ended.out


def test_a_spec_that_wants_more_than_a_unit_had_gets_it_later(uadctl, small, one_category, new):
    """A unit with one training image has no scores; its spec still says what is wanted."""
    shutil.rmtree(one_category / "tile/train/good")
    parts.write(one_category / "tile/train/good/000.png", parts.surface(0))
    args = ("alpha=0.2", "review_alpha=0.5", "pixel_alpha=0.3", "pixel_review_alpha=0.8", 'method="conformal"')
    sets = [word for arg in args for word in ("--set", f"calibration.{arg}")]
    run = Path(uadctl("fit", *small, *sets, "--json", "--quiet").json["run"])
    assert thresholds(run)["image"]["value"] is None
    uadctl("calibrate", run, "--good", new)
    found = thresholds(run)
    for chosen, scores, alpha in (
        (found["image"], found["scores"], 0.2),
        (found["review"], found["scores"], 0.5),
        (found["pixel"]["chosen"], found["maxima"], 0.3),
        (found["pixel"]["review"], found["maxima"], 0.8),
    ):
        assert chosen["value"] == choose(scores, Asked("conformal", alpha), source="given").value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, "delta is 0.0; expected a probability above 0 and below 1"),
        ({"review_alpha": 1}, "review_alpha is 1; expected a share of good images above 0 and below 1"),
        ({"pixel_alpha": -1}, "pixel_alpha is -1; expected a share of good images above 0 and below 1"),
        ({"method": "best"}, "method is 'best'; expected quantile, conformal, evt or few-shot"),
        ({"method": "few-shot"}, "few-shot needs labelled defects"),
        ({"cost_miss": float("nan")}, "cost_miss is nan; expected a number of 0 or more"),
        ({"cost_miss": 0}, "cost_miss has no effect without labelled defects: --anomalies DIR"),
        ({"objective": "f1"}, "objective has no effect without labelled defects: --anomalies DIR"),
        ({"tune": True}, "tune has no effect without labelled defects: --anomalies DIR"),
    ],
)
def test_the_python_way_refuses(run, options, message):
    before = files(run)
    with pytest.raises(SpecError) as error:
        calibrate(RunFolder.open(run), **options)
    assert error.value.message == message
    assert files(run) == before
