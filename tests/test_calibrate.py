"""`uadctl calibrate`: a new threshold for a fitted model, from scores at hand or from images given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import parts
import pytest
from recalibrated import UNIT, files, good_images, thresholds

from uadctl.calibrate import calibrate
from uadctl.errors import RunError, SpecError
from uadctl.progress import Silent
from uadctl.runs.folder import RunFolder
from uadctl.thresholds import quantile_threshold


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def new(tmp_path) -> Path:
    """A folder of good images that no run has seen."""
    return good_images(tmp_path / "new", 5)


FEW = (
    "warning: tile / vision_patchcore / seed 0: {n} normal images are too few to tell an alpha of {alpha}: a further "
    "good image exceeds this threshold about once in {times}; {needed} would be enough\n"
)


def test_the_stored_scores_give_the_threshold_of_another_alpha(uadctl, run):
    before, old = files(run), thresholds(run)
    ended = uadctl("calibrate", run, "--alpha", "0.5", "--json")
    value = quantile_threshold(old["scores"], alpha=0.5)
    assert sum(score >= value for score in old["scores"]) == 3
    new = {**old["image"], "value": value, "alpha": 0.5}
    assert ended.json == {
        "schema": 1,
        "run": str(run),
        "units": [
            {
                "category": "tile",
                "label": "vision_patchcore",
                "seed": 0,
                "old": old["image"],
                "new": new,
                "review": None,
                "pixel": old["pixel"],
                # Three of six reach the threshold, and a seventh image like them does in (3 + 1) of 7 cases.
                "expected": {"normal": {"good": 1 - 4 / 7, "review": 0.0, "anomaly": 4 / 7}, "defect": None},
                "tuned": None,
                "kept": f"{UNIT}/thresholds.1.json",
            }
        ],
    }
    assert ended.err == ""
    found = thresholds(run)
    assert found.pop("checksum") != old.pop("checksum")
    assert found == {**old, "image": new, "expected": ended.json["units"][0]["expected"]}
    after = files(run)
    assert after.pop(f"{UNIT}/thresholds.1.json") == before.pop(f"{UNIT}/thresholds.json")
    del after[f"{UNIT}/thresholds.json"]
    assert after == before


def test_old_thresholds_are_kept_and_numbers_count_up(uadctl, run):
    values = [thresholds(run)["image"]["value"]]
    for alpha in ("0.5", "0.4", "0.2"):
        uadctl("calibrate", run, "--alpha", alpha)
        values.append(thresholds(run)["image"]["value"])
    assert [thresholds(run, f"thresholds.{i}.json")["image"]["value"] for i in (1, 2, 3)] == values[:3]
    assert len(set(values)) == 4
    (run / UNIT / "thresholds.2.json").unlink()
    uadctl("calibrate", run, "--alpha", "0.5")
    assert thresholds(run, "thresholds.4.json")["image"]["value"] == values[3]
    assert not (run / UNIT / "thresholds.2.json").exists()


def test_what_changes_nothing_touches_no_file(uadctl, run):
    before = files(run)
    ended = uadctl("calibrate", run)
    assert files(run) == before
    assert "unchanged" in ended.out
    assert ended.err == FEW.format(n=6, alpha=0.01, times=7, needed=99)
    assert uadctl("calibrate", run, "--alpha", "0.01", "--quiet", "--json").json["units"][0]["kept"] is None
    assert files(run) == before


def test_for_people(uadctl, run):
    ended = uadctl("calibrate", run, "--alpha", "0.5")
    lines = ended.out.splitlines()
    value = thresholds(run)["image"]["value"]
    (row,) = [line.split() for line in lines if line.strip().startswith("tile")]
    assert row[:5] == ["tile", "vision_patchcore", "thresholds.1.json", "quantile", "0"]
    assert row[6:] == [f"{value:.6g}", "0.5", "-", "6", "leave-one-out"]
    assert lines[-1] == f"run: {run}"


def test_score_uses_the_new_threshold(uadctl, run, new):
    (run / "first").mkdir()
    before = uadctl("score", run, new, "--json").lines
    uadctl("calibrate", run, "--alpha", "0.9")
    after = uadctl("score", run, new, "--json").lines
    assert [x["score"] for x in after] == [x["score"] for x in before]
    assert {x["threshold"] for x in after} == {thresholds(run)["image"]["value"]}
    assert {x["threshold"] for x in before} == {thresholds(run, "thresholds.1.json")["image"]["value"]}


@pytest.mark.parametrize("alpha", ["0.15", "0.14"])
def test_too_few_scores_for_an_alpha_are_warned_about(uadctl, run, alpha):
    ended = uadctl("calibrate", run, "--alpha", alpha)
    # 1 / 7 lies between the two.
    assert ended.err == ("" if alpha == "0.15" else FEW.format(n=6, alpha=0.14, times=7, needed=7))


# ---- images given


def test_new_good_images_set_threshold_and_pixel_scale(uadctl, run, new):
    scores = [x["score"] for x in uadctl("score", run, new, "--json").lines]
    old = thresholds(run)
    ended = uadctl("calibrate", run, "--alpha", "0.2", "--good", new, "--json")
    assert ended.err == ""
    found = thresholds(run)
    assert found["image"] == {
        "value": quantile_threshold(scores, alpha=0.2),
        "method": "quantile",
        "alpha": 0.2,
        "delta": None,
        "n": 5,
        "source": "given",
        "reason": None,
        "guarantee": None,
        "tail": None,
        "labelled": None,
    }
    assert found["scores"] == sorted(scores)
    assert found["pixel"]["n"] == 5 * 64 * 64
    assert found["pixel"]["mean"] != old["pixel"]["mean"]
    assert found["pixel"]["threshold"] == pytest.approx(found["pixel"]["mean"] + 3 * found["pixel"]["std"])
    assert thresholds(run, "thresholds.1.json") == old
    again = uadctl("calibrate", run, "--alpha", "0.4", "--json").json["units"][0]["new"]
    assert (again["source"], again["n"]) == ("given", 5)


def test_files_and_folders_count_once(uadctl, run, new):
    (new / "deep").mkdir()
    shutil.copy(new / "0.png", new / "deep" / "copy.png")
    ended = uadctl("calibrate", run, "--alpha", "0.2", "--good", new, "--good", new / "1.png", "--json")
    assert ended.json["units"][0]["new"]["n"] == 5
    assert ended.err == "warning: 2 of 7 images given are copies of others among them and count once\n"


def test_images_that_cannot_be_read_are_all_named_and_nothing_changes(uadctl, run, new):
    before = files(run)
    (new / "1.png").write_bytes(b"")
    (new / "3.png").write_bytes((new / "3.png").read_bytes()[:-300])
    ended = uadctl("calibrate", run, "--good", new, code=2)
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in errors] == [str(new / "1.png"), str(new / "3.png")]
    assert ended.err.endswith("\n  Remove them; nothing was changed.\n")
    assert ended.out == ""
    assert files(run) == before
    (new / "empty").mkdir()
    ended = uadctl("calibrate", run, "--good", new / "empty", code=2)
    assert ended.err == f"error: {new}/empty: no images in this folder\n"
    assert uadctl("calibrate", run, "--good", "nowhere", code=2).err.startswith("error: nowhere: ")


@pytest.fixture
def own(uadctl, small) -> Path:
    """A run of the data set below tmp_path/data."""
    return Path(uadctl("bench", *small, "--no-pixel", "--json").json["run"])


def test_a_training_image_is_refused_whatever_its_name(uadctl, own, one_category, new):
    before = files(own)
    learned = one_category / "tile/train/good/003.png"
    shutil.copy(learned, new / "hidden.png")
    ended = uadctl("calibrate", own, "--good", new, code=2)
    assert ended.err == (
        f"error: {new}/hidden.png: is a training image of this run: {learned}\n"
        "  A threshold comes from images that were neither learned nor tested on. "
        "Remove them; nothing was changed.\n"
    )
    assert files(own) == before


@pytest.mark.parametrize("name", ["good/000.png", "scratch/000.png"])
def test_a_test_image_is_refused(uadctl, own, one_category, new, name):
    before = files(own)
    tested = one_category / "tile/test" / name
    ended = uadctl("calibrate", own, "--alpha", "0.5", "--good", tested, "--good", new, code=2)
    assert ended.err.startswith(f"error: {tested}: is a test image of this run: {tested}\n")
    assert files(own) == before


def test_images_that_a_limit_left_out_are_new_to_the_model(uadctl, small, one_category):
    run = uadctl("fit", *small, "--limit-train", "3", "--json").json["run"]
    images = one_category / "tile/train/good"
    ended = uadctl("calibrate", run, "--good", images / "000.png", "--good", images / "001.png", code=2)
    assert ended.err.count("is a training image of this run") == 1  # 000, 002 and 004 were learned
    uadctl("calibrate", run, "--alpha", "0.5", "--good", images / "001.png", "--good", images / "003.png")


def test_a_data_set_that_has_gone_is_no_obstacle_but_said(uadctl, own, one_category, new):
    told = (
        f"warning: tile: the run's data set is no longer at {one_category}: whether the images given are among those "
        "that were learned or tested on cannot be told, and a threshold from such images would be wrong\n"
    )
    shutil.rmtree(one_category / "tile")
    assert uadctl("calibrate", own, "--alpha", "0.5", "--good", new).err == told
    shutil.rmtree(one_category)
    assert uadctl("calibrate", own, "--alpha", "0.4", "--good", new).err == told


def test_images_of_the_demo_set_are_known_without_a_root(uadctl, tmp_path, monkeypatch):
    monkeypatch.setenv("UADCTL_CACHE", str(tmp_path / "cache"))
    run = uadctl(
        "bench", "--dataset", "demo", "--category", "printed_part", "--model", "patchcore", "--json", "--no-pixel",
        "--set", "preprocess.size=64", "--limit-train", "4", "--limit-test", "4",
    ).json["run"]  # fmt: skip
    (scores,) = Path(run).glob("units/*/*/*/scores.csv")
    tested = next((tmp_path / "cache").rglob("printed_part")) / scores.read_text().splitlines()[1].partition(",")[0]
    ended = uadctl("calibrate", run, "--good", tested, code=2)
    assert ended.err.startswith(f"error: {tested}: is a test image of this run: {tested}\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_image_and_is_not_waited_for(uadctl, run, new):
    os.mkfifo(new / "pipe.png")
    ended = uadctl("calibrate", run, "--good", new / "pipe.png", code=2)
    assert ended.err.startswith(f"error: {new}/pipe.png: ")


def test_scores_near_zero_are_warned_about(run, new, monkeypatch):
    from uadctl.models.patchcore import PatchCore
    from uadctl.records import Prediction

    monkeypatch.setattr(
        PatchCore,
        "predict_batch",
        lambda self, images: [Prediction(0.01 * i, np.ones(im.shape[:2], np.float32)) for i, im in enumerate(images)],
    )
    progress = Silent()
    calibrate(RunFolder.open(run), alpha=0.5, good=[str(new)], progress=progress)
    assert progress.warnings == [
        f"tile / vision_patchcore / seed 0: {new}/0.png and 4 more: the score is near zero, as if the model had learned "
        "this image; a threshold from such images is too low"
    ]


# ---- which units


@pytest.fixture
def two(uadctl, small, one_category) -> Path:
    """A run with the categories tile and zinc; zinc has one training image and so no scores."""
    parts.write_category(one_category, "zinc", train=1)
    return Path(uadctl("fit", *small, "--json", "--quiet").json["run"])


def test_all_finished_units_or_those_chosen(uadctl, two, new):
    zinc = "units/zinc/vision_patchcore/0"
    before = thresholds(two, unit=zinc)
    ended = uadctl("calibrate", two, "--alpha", "0.5", "--json")
    assert [(u["category"], u["kept"]) for u in ended.json["units"]] == [
        ("tile", f"{UNIT}/thresholds.1.json"),
        ("zinc", None),
    ]
    assert ended.err == (
        "warning: zinc / vision_patchcore / seed 0: still without a threshold: 1 training image leaves no other to "
        "compare it with\n"
    )
    assert thresholds(two, unit=zinc) == before

    ended = uadctl("calibrate", two, "--alpha", "0.5", "--category", "zinc", code=2)
    assert ended.err == (
        "error: zinc / vision_patchcore / seed 0: there are no normal scores: 1 training image leaves no other to "
        "compare it with\n  Give good images that the model has not learned: --good DIR\n"
    )
    ended = uadctl("calibrate", two, "--good", new, code=2)
    assert ended.err == (
        f"error: {two}: good images belong to one category, and 2 are chosen\n"
        "  Choose one: --category tile, --category zinc\n"
    )
    ended = uadctl("calibrate", two, "--alpha", "0.5", "--category", "zinc", "--good", new)
    assert ended.err == ""
    assert thresholds(two, unit=zinc)["image"]["source"] == "given"
    assert uadctl("score", two, new / "0.png", "--category", "zinc", "--json").lines[0]["verdict"] is not None
    ended = uadctl("calibrate", two, "--category", "brass", code=2)
    assert ended.err == (
        f"error: {two}: this run has 2 finished units; none of them is the one asked for\n"
        "  --category tile --label vision_patchcore --seed 0\n"
        "  --category zinc --label vision_patchcore --seed 0\n"
    )


def test_an_interruption_leaves_the_old_file_whole(run, monkeypatch):
    before = files(run)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("uadctl.runs.folder.UnitFolder.write", stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate(RunFolder.open(run), alpha=0.5)
    after = files(run)
    assert after[f"{UNIT}/thresholds.json"] == before[f"{UNIT}/thresholds.json"]
    assert after.pop(f"{UNIT}/thresholds.1.json") == before[f"{UNIT}/thresholds.json"]
    assert after == before


# ---- use


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--alpha", "0"], "error: --alpha 0: expected a number > 0 and < 1\n"),
        (["--alpha", "1"], "error: --alpha 1: expected a number > 0 and < 1\n"),
        (["--alpha", "-0.5"], "error: --alpha -0.5: expected a number > 0 and < 1\n"),
        (["--alpha", "nan"], "error: --alpha nan: expected a number > 0 and < 1\n"),
        (["--delta", "1"], "error: --delta 1: expected a number > 0 and < 1\n"),
        (["--review-alpha", "2"], "error: --review-alpha 2: expected a number > 0 and < 1\n"),
        (["--pixel-alpha", "0"], "error: --pixel-alpha 0: expected a number > 0 and < 1\n"),
        (["--pixel-review-alpha", "0"], "error: --pixel-review-alpha 0: expected a number > 0 and < 1\n"),
        (["--cost-miss", "-1"], "error: --cost-miss -1: expected a number >= 0\n"),
        (["--cost-false-alarm", "inf"], "error: --cost-false-alarm inf: expected a number >= 0\n"),
        (
            ["--device", "cpu"],
            "error: --device has no effect without --good or --anomalies: the scores are there already\n",
        ),
    ],
)
def test_errors_of_use(uadctl, run, args, message):
    before = files(run)
    ended = uadctl("calibrate", run, *args, code=2)
    assert (ended.err, ended.out) == (message, "")
    assert files(run) == before


def test_the_python_way(run, tmp_path):
    (result,) = calibrate(RunFolder.open(run), alpha=0.5)
    assert (result.old.alpha, result.new.alpha, result.new.n) == (0.01, 0.5, 6)
    assert result.kept == run / UNIT / "thresholds.1.json"
    with pytest.raises(SpecError, match=r"^alpha is 2; expected a share of good images above 0 and below 1$"):
        calibrate(RunFolder.open(run), alpha=2)
    (run / UNIT / "thresholds.json").write_text("{")
    with pytest.raises(RunError, match=r"thresholds\.json: damaged: not JSON: "):
        calibrate(RunFolder.open(run), alpha=0.5)


def test_a_spec_stands_for_its_newest_finished_run(uadctl, small, tmp_path):
    run = Path(uadctl("fit", *small, "--json").json["run"])
    shutil.copy(run / "spec.toml", tmp_path / "s.toml")
    found = uadctl("calibrate", "s.toml", "--alpha", "0.5", "--json").json
    assert Path(found["run"]).resolve() == run.resolve()
    assert (run / UNIT / "thresholds.1.json").is_file()


def test_stored_scores_need_nothing_heavy(run):
    code = (
        "import sys\nfrom uadctl.cli.app import app\n"
        f"try: app(['calibrate', {str(run)!r}, '--alpha', '0.5', '--json'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'torchvision', 'cv2', 'tifffile', 'safetensors', 'rich', 'numpy'} & {*sys.modules}), "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "['numpy']\n"
    assert json.loads(done.stdout)["units"][0]["new"]["alpha"] == 0.5


def test_damaged_thresholds_are_named(uadctl, run):
    file = next(Path(run).glob("units/*/*/*/thresholds.json"))
    file.write_text('{"schema": 1}')
    ended = uadctl("calibrate", run, "--alpha", "0.1", code=2)
    assert ended.err == f"error: {file}: damaged: 'image' is missing\n"
