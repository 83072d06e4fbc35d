"""Two thresholds, three verdicts: what fit, bench and score make of [calibration]'s methods and of a review threshold."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import parts
import pytest

from uadctl.imaging.files import read_map
from uadctl.runs import provenance
from uadctl.runs.fitted import Calibration, PixelScale
from uadctl.score import _regions, describe
from uadctl.thresholds import Asked, Threshold, choose, verdict

UNIT = "units/tile/vision_patchcore/0"


def unit_of(ended) -> Path:
    return Path(ended.json["run"]) / UNIT


def thresholds(unit: Path):
    return json.loads((unit / "thresholds.json").read_text(encoding="utf-8"))


def rows(unit: Path) -> list[dict[str, str]]:
    with (unit / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def many(tmp_path) -> list[str]:
    """Options of a bench of a category with enough training images to hold some out."""
    parts.write_category(tmp_path / "data", "tile", train=24, good=6, bad=3)
    return ["--dataset", "mvtec", "--root", tmp_path / "data", "--model", "patchcore", "--set", "preprocess.size=64"]


@pytest.mark.parametrize(
    ("score", "said"), [(2.0, "anomaly"), (3.0, "anomaly"), (1.0, "review"), (1.5, "review"), (0.999, "good")]
)
def test_a_threshold_belongs_to_the_verdict_above_it(score, said):
    assert verdict(score, 2.0, 1.0) == said
    assert verdict(score, 2.0) == ("anomaly" if score >= 2 else "good")
    assert verdict(score, None, 1.0) is None


def test_a_review_threshold_of_the_spec_is_that_of_its_alpha(uadctl, small):
    ended = uadctl("bench", *small, "--json", "--set", "calibration.review_alpha=0.5")
    unit = unit_of(ended)
    found = thresholds(unit)
    scores = found["scores"]
    assert len(scores) == 6
    for name, alpha in (("image", 0.01), ("review", 0.5)):
        asked = choose(scores, Asked("quantile", alpha), source="leave-one-out")
        assert found[name] == msgspec.to_builtins(asked)
    assert sum(score >= found["review"]["value"] for score in scores) == 3
    limits = found["image"]["value"], found["review"]["value"]
    told = rows(unit)
    assert len(told) == 5
    assert [row["verdict"] for row in told] == [verdict(float(row["score"]), *limits) for row in told]
    # Of 7 exchangeable images the new one is above all 6 in one case, and among the upper 4 in four.
    assert found["expected"] == {
        "normal": {"good": pytest.approx(3 / 7), "review": pytest.approx(3 / 7), "anomaly": pytest.approx(1 / 7)},
        "defect": None,
    }


def test_score_tells_three_verdicts_their_rank_and_which_threshold_it_used(uadctl, small, tmp_path):
    run = Path(uadctl("bench", *small, "--json", "--set", "calibration.review_alpha=0.5").json["run"])
    found = thresholds(run / UNIT)
    for i in range(8):
        parts.write(tmp_path / "new" / f"{i}.png", parts.surface(500 + i))
    parts.write(tmp_path / "new" / "bad.png", parts.scratched(900)[0])
    ended = uadctl("score", run, tmp_path / "new", "--json")
    lines = ended.lines
    assert len(lines) == 9
    for line in lines:
        assert (line["threshold"], line["review_threshold"]) == (found["image"]["value"], found["review"]["value"])
        assert line["verdict"] == verdict(line["score"], line["threshold"], line["review_threshold"])
        assert line["p_value"] == (1 + sum(s >= line["score"] for s in found["scores"])) / 7
    assert {line["verdict"] for line in lines} == {"good", "review", "anomaly"}
    assert ended.err == (
        f"note: threshold {found['image']['value']:.9g} (quantile, alpha 0.01; from 6 training images, each scored "
        "without itself)\n"
        f"note: review threshold {found['review']['value']:.9g} (quantile, alpha 0.5; from 6 training images, each "
        "scored without itself)\n"
    )
    assert uadctl("score", run, tmp_path / "new", "--json", "--quiet").err == ""
    shown = uadctl("score", run, tmp_path / "new", "--only-anomalies", "--json", "--quiet").lines
    assert [line["path"] for line in shown] == [line["path"] for line in lines if line["verdict"] != "good"]


def test_exit_codes_of_reviews(uadctl, small, tmp_path):
    run = uadctl("bench", *small, "--json", "--set", "calibration.review_alpha=0.5").json["run"]
    found = thresholds(Path(run) / UNIT)
    reviewed = None
    for i in range(40):
        image = parts.write(tmp_path / "new" / f"{i}.png", parts.surface(500 + i))
        (line,) = uadctl("score", run, image, "--json", "-q").lines
        if line["verdict"] == "review":
            reviewed = image
            break
    assert reviewed is not None
    bad = parts.write(tmp_path / "bad.png", parts.scratched(900)[0])
    uadctl("score", run, reviewed, "--fail-on-anomaly", code=0)
    uadctl("score", run, reviewed, "--fail-on-review", code=4)
    uadctl("score", run, bad, "--fail-on-review", code=4)
    uadctl("score", run, bad, tmp_path / "absent.png", "--fail-on-review", code=1)
    # A threshold given on the command line stands alone.
    (line,) = uadctl("score", run, reviewed, "--json", "--threshold", "1e9", code=0).lines
    assert (line["verdict"], line["review_threshold"]) == ("good", None)
    assert line["p_value"] == (1 + sum(s >= line["score"] for s in found["scores"])) / 7


def test_a_threshold_that_could_not_be_chosen_leaves_the_review_of_the_spec_to_later(uadctl, many):
    options = ["--set", 'calibration.method="conformal"', "--set", "calibration.review_alpha=0.5"]
    ended = uadctl("bench", *many, "--json", *options)
    assert thresholds(unit_of(ended))["image"]["value"] is None
    uadctl("calibrate", ended.json["run"], "--method", "quantile", "--alpha", "0.2", "-q")
    found = thresholds(unit_of(ended))
    assert found["review"]["alpha"] == 0.5
    assert found["review"]["value"] < found["image"]["value"]


def test_a_review_without_its_threshold_is_refused(uadctl, finished, tmp_path):
    image = parts.write(tmp_path / "new.png", parts.surface(9))
    help_ = "  Set one: uadctl calibrate RUN --review-alpha A; or give --fail-on-anomaly.\n"
    ended = uadctl("score", finished, image, "--fail-on-review", code=2)
    assert ended.err == f"error: --fail-on-review needs a review threshold, and this run has none\n{help_}"
    ended = uadctl("score", finished, image, "--fail-on-review", "--threshold", "3", code=2)
    assert ended.err == f"error: --fail-on-review needs a review threshold, and --threshold stands alone\n{help_}"


def test_regions_to_be_reviewed_are_not_smaller_than_others():
    field = np.zeros((20, 20), np.float32)
    field[2, 2] = 5  # a speck
    field[8:13, 8:13] = 6
    field[17, 2:12] = 9
    pixel = PixelScale(0.0, 1.0, 3.0, 8.0, 400, review=Threshold(value=4.0, source="given"))
    assert [(r.area, r.verdict) for r in _regions(field, pixel, min_area=5)] == [(10, "anomaly"), (25, "review")]
    everything = [(10, "anomaly"), (25, "review"), (1, "review")]
    assert [(r.area, r.verdict) for r in _regions(field, pixel, min_area=0)] == everything


def test_a_run_without_normal_scores_has_no_rank(uadctl, tmp_path):
    parts.write_category(tmp_path / "data", "tile", train=1)
    run = uadctl(
        "bench", "--dataset", "mvtec", "--root", tmp_path / "data", "--model", "patchcore", "--json",
        "--set", "preprocess.size=64", "--set", "calibration.review_alpha=0.5",
    ).json["run"]  # fmt: skip
    image = parts.write(tmp_path / "new.png", parts.surface(9))
    (line,) = uadctl("score", run, image, "--json").lines
    assert (line["p_value"], line["verdict"], line["review_threshold"]) == (None, None, None)
    ended = uadctl("score", run, image, "--fail-on-review", code=2)
    assert ended.err.startswith("error: --fail-on-review needs a threshold, and this run has none: ")


def test_a_conformal_threshold_holds_images_out_rather_than_leaving_one_out(uadctl, many):
    ended = uadctl(
        "bench", *many, "--json", "--set", 'calibration.method="conformal"', "--set", "calibration.alpha=0.2"
    )
    image = thresholds(unit_of(ended))["image"]
    assert (image["method"], image["source"], image["n"], image["alpha"]) == ("conformal", "holdout", 5, 0.2)
    assert image["guarantee"]
    assert ended.json["results"]["tile"]["vision_patchcore"]["0"]["counts"]["train_images"] == 19


def test_too_few_images_for_a_conformal_threshold_leave_none_and_say_how_many_it_takes(uadctl, many):
    ended = uadctl("bench", *many, "--json", "--set", 'calibration.method="conformal"')
    found = thresholds(unit_of(ended))
    assert found["image"]["value"] is None
    assert "99" in found["image"]["reason"]
    assert found["expected"] is None
    assert f"no threshold, verdicts will be null: {found['image']['reason']}" in ended.err
    assert all(row["verdict"] == "" for row in rows(unit_of(ended)))


def test_a_threshold_of_maps_by_their_highest_pixels(uadctl, many, tmp_path):
    options = ["--set", "calibration.holdout=0.25", "--set", "calibration.pixel_alpha=0.2"]
    options += ["--set", "calibration.pixel_review_alpha=0.6"]
    ended = uadctl("bench", *many, *options, "--json")
    found = thresholds(unit_of(ended))
    maxima = found["maxima"]
    assert (len(maxima), sorted(maxima)) == (6, maxima)
    assert maxima[-1] == found["pixel"]["max"]
    for name, alpha in (("chosen", 0.2), ("review", 0.6)):
        assert found["pixel"][name] == msgspec.to_builtins(choose(maxima, Asked("quantile", alpha), source="holdout"))
    assert found["pixel"]["threshold"] == found["pixel"]["chosen"]["value"]
    assert found["pixel"]["sigmas"] is None

    for i in range(12):
        parts.write(tmp_path / "new" / f"{i}.png", parts.surface(500 + i))
    parts.write(tmp_path / "new" / "bad.png", parts.scratched(900)[0])
    lines = uadctl(
        "score", ended.json["run"], tmp_path / "new", "--json", "--maps", tmp_path / "maps",
        "--coco", tmp_path / "regions.json",
    ).lines  # fmt: skip
    high, low = found["pixel"]["threshold"], found["pixel"]["review"]["value"]
    told = set()
    for line in lines:
        field = read_map(line["map"])
        verdicts = [region["verdict"] for region in line["regions"]]
        assert verdicts == sorted(verdicts)  # anomalies first
        told |= set(verdicts)
        assert ("anomaly" in verdicts) == bool((field >= high).any())
        for region in line["regions"]:
            assert (region["score"] >= high) == (region["verdict"] == "anomaly")
            assert region["score"] >= low
            assert field[tuple(region["peak"])] == np.float32(region["score"])
    assert told == {"anomaly", "review"}
    coco = json.loads((tmp_path / "regions.json").read_text(encoding="utf-8"))
    assert coco["categories"] == [
        {"id": 1, "name": "anomaly", "supercategory": ""},
        {"id": 2, "name": "review", "supercategory": ""},
    ]
    assert [a["category_id"] for a in coco["annotations"]] == [
        1 if region["verdict"] == "anomaly" else 2 for line in lines for region in line["regions"]
    ]


def test_normalised_maps_have_thresholds_of_normalised_maps(uadctl, many):
    options = ["--set", "calibration.holdout=0.25", "--set", "calibration.pixel_alpha=0.2"]
    plain = thresholds(unit_of(uadctl("bench", *many, *options, "--json")))
    scaled = thresholds(unit_of(uadctl("bench", *many, *options, "--json", "--set", "postprocess.normalize=true")))
    mean, std = scaled["pixel"]["normalize"]
    assert scaled["maxima"] == pytest.approx([(value - mean) / std for value in plain["maxima"]], rel=1e-5)
    assert scaled["pixel"]["threshold"] == pytest.approx((plain["pixel"]["threshold"] - mean) / std, rel=1e-5)
    assert scaled["pixel"]["threshold"] > scaled["maxima"][4]


def test_what_cannot_be_chosen_is_said_and_replaced_by_standard_deviations(uadctl, many):
    ended = uadctl(
        "bench", *many, "--json", "--set", 'calibration.method="conformal"', "--set", "calibration.alpha=0.2",
        "--set", "calibration.pixel_alpha=0.01", "--set", "calibration.review_alpha=0.21",
    )  # fmt: skip
    found = thresholds(unit_of(ended))
    pixel = found["pixel"]
    assert pixel["chosen"]["value"] is None
    assert pixel["sigmas"] == 3.0
    assert pixel["threshold"] == float(np.float32(pixel["mean"] + 3 * pixel["std"]))
    assert "[calibration] pixel_alpha gives no threshold of maps, 3 standard deviations take its place: " in ended.err
    assert found["review"]["value"] is None
    assert found["review"]["reason"] == "5 normal images do not tell a share of 0.21 from one of 0.2"
    assert "no review threshold: 5 normal images do not tell" in ended.err


def test_the_fingerprint_is_of_the_images_that_the_scores_are_of(uadctl, small, one_category):
    found = thresholds(unit_of(uadctl("bench", *small, "--json")))
    files = sorted((one_category / "tile" / "train" / "good").iterdir())
    digests = sorted(hashlib.sha256(hashlib.sha256(file.read_bytes()).digest()).digest() for file in files)
    assert len(digests) == 6
    assert found["data"] == hashlib.sha256(b"".join(digests)).hexdigest()


@pytest.mark.parametrize("verb", ["bench", "fit"])
def test_images_that_several_models_rest_on_are_hashed_once(uadctl, small, monkeypatch, verb):
    hashed = []
    whole = provenance.content_hash
    monkeypatch.setattr(provenance, "content_hash", lambda paths: hashed.append(len(paths)) or whole(paths))
    run = Path(uadctl(verb, *small, "--json", "--set", "run.seeds=[0, 1]").json["run"])
    assert hashed == [6]
    found = [json.loads(file.read_text(encoding="utf-8"))["data"] for file in run.glob("units/*/*/*/thresholds.json")]
    assert len(found) == 2
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["calibration.delta=0.05"], 'has no effect with method = "quantile"'),
        (["calibration.review_alpha=0.01"], "must be above alpha (=0.01)"),
        (["calibration.pixel_review_alpha=0.5"], "needs pixel_alpha"),
        (["calibration.pixel_alpha=0.1", "calibration.pixel_sigmas=2.0"], "only one of"),
        (["calibration.pixel_alpha=0.1", "calibration.pixel_threshold=2.0"], "only one of"),
        (['calibration.method="few-shot"'], 'expected one of "conformal", "evt", "quantile"'),
    ],
)
def test_keys_that_contradict_each_other(uadctl, small, settings, message):
    ended = uadctl("bench", *small, *(word for text in settings for word in ("--set", text)), code=2)
    assert message in ended.err
    assert ended.out == ""


def test_what_a_promise_sounds_like():
    scores = tuple(float(i) for i in range(1, 121))
    image = choose(scores, Asked("conformal", 0.05), source="given")
    (told,) = describe(Calibration(image, None, scores))
    assert told.startswith("threshold 115.000008 (conformal, alpha 0.05; from 120 images given): ")
    assert told.endswith(str(image.guarantee))
    none = Threshold(value=None, alpha=0.01, reason="why")
    assert describe(Calibration(none, None, ())) == []
