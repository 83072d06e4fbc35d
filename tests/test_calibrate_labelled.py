"""`uadctl calibrate --anomalies`: a threshold between good images and labelled defects, and maps tuned with their masks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import parts
import pytest
from recalibrated import UNIT, files, good_images, thresholds

from uadctl.calibrate import calibrate
from uadctl.datasets.manifest import labelled_images
from uadctl.errors import DataError
from uadctl.runs.folder import RunFolder
from uadctl.runs.provenance import content_hash
from uadctl.thresholds import describe_threshold, fit_threshold
from uadctl.thresholds.postprocessing import DEFAULT_GRID

NAME = "tile / vision_patchcore / seed 0"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def new(tmp_path) -> Path:
    """A folder of five good images that no run has seen."""
    return good_images(tmp_path / "new", 5)


@pytest.fixture
def bad(tmp_path) -> Path:
    """A folder of four defects that no run has seen; their masks lie in another."""
    for i in range(4):
        image, mask = parts.scratched(800 + i)
        parts.write(tmp_path / "bad" / f"{i}.png", image)
        parts.write(tmp_path / "truth" / f"{i}.png", mask)
    return tmp_path / "bad"


@pytest.fixture
def listed(bad, new) -> Path:
    """A manifest of all of them, without splits."""
    rows = [f"bad/{i}.png,1,truth/{i}.png" for i in range(4)] + [f"new/{i}.png,0," for i in range(5)]
    file = bad.parent / "labels.csv"
    file.write_text("\n".join(["path,label,mask", *rows]) + "\n")
    return file


def scores(uadctl, run: Path, folder: Path) -> list[float]:
    return [line["score"] for line in uadctl("score", run, folder, "--json", "--quiet").lines]


# ---- the threshold


def test_a_threshold_in_the_gap_between_good_images_and_defects(uadctl, run, bad):
    old, defects = thresholds(run), scores(uadctl, run, bad)
    ended = uadctl("calibrate", run, "--anomalies", bad)
    found = thresholds(run)
    image, normal = found["image"], old["scores"]
    assert max(normal) < image["value"] < min(defects)
    assert image["value"] == pytest.approx((max(normal) + min(defects)) / 2, rel=1e-6)
    assert (image["method"], image["alpha"], image["n"], image["source"]) == ("few-shot", None, 6, "leave-one-out")
    assert image["guarantee"] is None
    assert image["labelled"] == {
        **{"objective": "f1", "cost_miss": None, "cost_false_alarm": None, "defects": 4, "separable": True},
        **{"folds": 4, "miss_rate": 0.0, "false_alarm_rate": 0.0},
        "data": content_hash([str(path) for path in bad.iterdir()]),
    }
    defect = {"good": 0.2, "review": 0.0, "anomaly": 0.8}  # none of 4 was missed: 1 of 5 may be
    assert found["expected"] == {"normal": {"good": 1 - 1 / 7, "review": 0.0, "anomaly": 1 / 7}, "defect": defect}
    changed = {"image": 0, "expected": 0, "checksum": 0}
    assert {**found, **changed} == {**old, **changed}
    assert ended.out.splitlines()[-5:] == [
        "all 4 defects score above all 6 good images: the middle of the gap",
        "cross-validated in 4 folds: 0.0% of defects missed, 0.0% of good images called anomalous",
        "expected of good images: 85.7% good, 0.0% review, 14.3% anomaly",
        "expected of such defects: 20.0% good, 0.0% review, 80.0% anomaly",
        f"run: {run}",
    ]
    assert ended.err == ""
    verdicts = [line["verdict"] for line in uadctl("score", run, bad, "--json").lines]
    assert verdicts == ["anomaly"] * 4


def test_a_manifest_gives_both_sides(uadctl, run, listed, new, bad):
    normal, defects = scores(uadctl, run, new), scores(uadctl, run, bad)
    (unit,) = uadctl("calibrate", run, "--anomalies", listed, "--json").json["units"]
    found = thresholds(run)
    assert found["scores"] == sorted(normal)
    assert unit["new"]["value"] == fit_threshold(normal, defects)
    assert (unit["new"]["n"], unit["new"]["source"], unit["new"]["labelled"]["defects"]) == (5, "given", 4)
    everything = [*bad.iterdir(), *new.iterdir(), *(bad.parent / "truth").iterdir()]
    assert unit["new"]["labelled"]["data"] == content_hash([str(path) for path in everything])
    assert found["data"] == content_hash([str(path) for path in new.iterdir()])
    assert len(found["maxima"]) == 5
    assert found["pixel"]["n"] == 5 * 64 * 64
    assert unit["tuned"] is None


def test_sides_that_overlap_are_said_to(uadctl, run, new, tmp_path):
    """Good images that were labelled as defects: what the threshold gets wrong is counted by cross-validation."""
    for i in range(3):
        parts.write(tmp_path / "odd" / f"{i}.png", parts.surface(900 + i))
    parts.write(tmp_path / "odd" / "3.png", parts.scratched(1)[0])
    normal, defects = scores(uadctl, run, new), scores(uadctl, run, tmp_path / "odd")
    assert max(normal) > min(defects)
    ended = uadctl("calibrate", run, "--anomalies", "odd", "--good", new, "--objective", "youden")
    image = thresholds(run)["image"]
    assert image["value"] == fit_threshold(normal, defects, objective="youden")
    labelled = describe_threshold(normal, defects, objective="youden")
    assert image["labelled"]["miss_rate"] == labelled.miss_rate
    assert image["labelled"]["false_alarm_rate"] == labelled.false_alarm_rate
    lines = ended.out.splitlines()
    assert "4 defects and 5 good images overlap: the best by youden" in lines
    assert any(line.startswith("cross-validated in 4 folds: ") for line in lines)


def test_costs_move_the_threshold(uadctl, run, new, tmp_path):
    for i in range(4):
        parts.write(tmp_path / "odd" / f"{i}.png", parts.surface(900 + i))
    normal, defects = scores(uadctl, run, new), scores(uadctl, run, tmp_path / "odd")
    both = ("--anomalies", "odd", "--good", new)
    (dear,) = uadctl("calibrate", run, *both, "--cost-miss", "50", "--cost-false-alarm", "1", "--json").json["units"]
    assert dear["new"]["labelled"]["objective"] == "cost"
    assert (dear["new"]["labelled"]["cost_miss"], dear["new"]["labelled"]["cost_false_alarm"]) == (50, 1)
    assert dear["new"]["value"] == fit_threshold(normal, defects, objective="cost", cost_miss=50)
    (cheap,) = uadctl("calibrate", run, *both, "--cost-false-alarm", "50", "--json").json["units"]
    assert cheap["new"]["value"] == fit_threshold(normal, defects, objective="cost", cost_false_alarm=50)
    assert cheap["new"]["value"] > dear["new"]["value"]


def test_one_defect_cannot_be_cross_validated(uadctl, run, bad):
    ended = uadctl("calibrate", run, "--anomalies", bad / "0.png")
    found = thresholds(run)
    assert (found["image"]["labelled"]["folds"], found["image"]["labelled"]["miss_rate"]) == (0, None)
    assert found["expected"] is None
    assert "how often it errs is not known: there are too few images to cross-validate" in ended.out.splitlines()


def test_a_review_threshold_beside_labelled_defects(uadctl, run, new, tmp_path):
    for i in range(4):
        parts.write(tmp_path / "odd" / f"{i}.png", parts.surface(900 + i))
    shares = ("--anomalies", "odd", "--good", new, "--cost-false-alarm", "50", "--review-alpha", "0.6")
    (unit,) = uadctl("calibrate", run, *shares, "--json").json["units"]
    assert unit["review"]["method"] == "quantile"
    assert unit["review"]["value"] < unit["new"]["value"]
    assert unit["new"]["labelled"]["miss_rate"] > 0
    missed = (1 + 4 * unit["new"]["labelled"]["miss_rate"]) / 5
    below = np.mean(np.array(scores(uadctl, run, tmp_path / "odd")) < unit["review"]["value"])
    good = min(missed, below)
    assert unit["expected"]["defect"] == {"good": good, "review": missed - good, "anomaly": 1 - missed}
    # A new review threshold: how the defects lie about it is not known any more.
    (unit,) = uadctl("calibrate", run, "--review-alpha", "0.9", "--json").json["units"]
    assert unit["new"]["method"] == "few-shot"
    assert unit["expected"]["defect"] is None


def test_what_was_labelled_is_not_kept(uadctl, run, bad, new):
    uadctl("calibrate", run, "--anomalies", bad)
    before = files(run)
    for options in (("--alpha", "0.1"), ("--good", new)):
        ended = uadctl("calibrate", run, *options, code=2)
        assert ended.err == (
            f"error: {NAME}: the threshold in force was chosen with labelled defects, whose scores are not kept\n"
            "  Give them again, --anomalies DIR, or another way: --method quantile --alpha A\n"
        )
    assert files(run) == before
    assert "unchanged" in uadctl("calibrate", run).out
    assert files(run) == before
    uadctl("calibrate", run, "--method", "quantile", "--quiet")
    assert thresholds(run)["image"] == thresholds(run, "thresholds.1.json")["image"]  # the alpha is the spec's again


# ---- which images


@pytest.fixture
def own(uadctl, small) -> Path:
    """A run of the data set below tmp_path/data."""
    return Path(uadctl("bench", *small, "--no-pixel", "--json").json["run"])


HELP = "  A threshold comes from images that were neither learned nor tested on. Remove them; nothing was changed.\n"


def test_a_test_image_never_chooses_a_threshold(uadctl, own, one_category, bad):
    """T09."""
    before = files(own)
    tested = one_category / "tile/test/scratch/001.png"
    shutil.copy(tested, bad / "hidden.png")
    ended = uadctl("calibrate", own, "--anomalies", bad, code=2)
    assert ended.err == f"error: {bad}/hidden.png: is a test image of this run: {tested}\n{HELP}"
    (bad / "hidden.png").unlink()
    listed = bad.parent / "labels.csv"
    listed.write_text("path,label\nbad/0.png,1\ndata/tile/test/good/000.png,0\n")
    ended = uadctl("calibrate", own, "--anomalies", "labels.csv", code=2)
    tested = one_category / "tile/test/good/000.png"
    assert ended.err == f"error: data/tile/test/good/000.png: is a test image of this run: {tested}\n{HELP}"
    assert files(own) == before


def test_a_training_image_is_refused_on_either_side(uadctl, own, one_category, bad):
    """T10."""
    before = files(own)
    learned = one_category / "tile/train/good/003.png"
    ended = uadctl("calibrate", own, "--anomalies", bad, "--good", learned, code=2)
    assert ended.err == f"error: {learned}: is a training image of this run: {learned}\n{HELP}"
    ended = uadctl("calibrate", own, "--anomalies", learned, code=2)
    assert ended.err == f"error: {learned}: is a training image of this run: {learned}\n{HELP}"
    assert files(own) == before


def test_an_image_is_good_or_a_defect(uadctl, run, bad, new):
    before = files(run)
    shutil.copy(new / "2.png", bad / "again.png")
    ended = uadctl("calibrate", run, "--anomalies", bad, "--good", new, code=2)
    assert ended.err == (
        f"error: {bad}/again.png: is given as a defect, and as a good image: {new}/2.png\n"
        "  Give each image once; nothing was changed.\n"
    )
    assert files(run) == before


def test_copies_of_defects_count_once(uadctl, run, bad):
    shutil.copy(bad / "0.png", bad / "9.png")
    ended = uadctl("calibrate", run, "--anomalies", bad, "--json")
    assert ended.json["units"][0]["new"]["labelled"]["defects"] == 4
    assert ended.err == "warning: 1 of 5 images given are copies of others among them and count once\n"


def test_a_defect_that_cannot_be_read_changes_nothing(uadctl, run, bad, new):
    before = files(run)
    (bad / "1.png").write_bytes(b"")
    (new / "3.png").write_bytes(b"x")
    ended = uadctl("calibrate", run, "--anomalies", bad, "--good", new, code=2)
    errors = [line.split(": ")[1] for line in ended.err.splitlines() if line.startswith("error: ")]
    assert errors == [f"{new}/3.png", f"{bad}/1.png"]
    assert ended.err.endswith("\n  Remove them; nothing was changed.\n")
    assert files(run) == before


def test_labelled_images_belong_to_one_category(uadctl, small, one_category, bad):
    parts.write_category(one_category, "zinc")
    run = Path(uadctl("fit", *small, "--json", "--quiet").json["run"])
    ended = uadctl("calibrate", run, "--anomalies", bad, code=2)
    assert ended.err == (
        f"error: {run}: labelled images belong to one category, and 2 are chosen\n"
        "  Choose one: --category tile, --category zinc\n"
    )
    two = "path,label,category\nbad/0.png,1,zinc\nbad/1.png,1,tile\nbad/2.png,1,tile\n"
    (bad.parent / "both.csv").write_text(two)
    options = ("--anomalies", "both.csv", "--quiet", "--json")
    (unit,) = uadctl("calibrate", run, *options, "--category", "tile").json["units"]
    assert unit["new"]["labelled"]["defects"] == 2
    (unit,) = uadctl("calibrate", run, *options, "--category", "zinc").json["units"]
    assert unit["new"]["labelled"]["defects"] == 1


def test_tiles_of_another_size_need_good_images(uadctl, run, bad, new):
    before = files(run)
    tiles = ("--tile-size", "48", "--tile-stride", "32")
    ended = uadctl("calibrate", run, "--anomalies", bad, *tiles, code=2)
    assert ended.err == (
        "error: tiles of 48, stride 32, mean: the scores at hand were made another way\n"
        "  Give good images: --good DIR\n"
    )
    assert files(run) == before
    uadctl("calibrate", run, "--anomalies", bad, "--good", new, *tiles)
    assert thresholds(run)["tiling"]["size"] == 48
    assert thresholds(run)["image"]["method"] == "few-shot"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "few-shot"], "few-shot needs labelled defects\n  Give images of them: --anomalies DIR"),
        (
            ["--method", "conformal", "--anomalies", "bad"],
            "conformal has no use for labelled defects\n  Give --method few-shot.",
        ),
        (["--anomalies", "bad", "--alpha", "0.1"], "alpha has no effect with few-shot"),
        (["--anomalies", "bad", "--delta", "0.1"], "delta has no effect with few-shot"),
        (["--cost-miss", "2"], "cost_miss has no effect without labelled defects: --anomalies DIR"),
        (["--objective", "f1"], "objective has no effect without labelled defects: --anomalies DIR"),
        (["--tune-postprocess"], "tune has no effect without labelled defects: --anomalies DIR"),
        (
            ["--anomalies", "bad", "--objective", "f1", "--cost-miss", "2"],
            "cost_miss has no effect with the objective f1",
        ),
        (
            ["--anomalies", "bad", "--cost-miss", "0", "--cost-false-alarm", "0"],
            "both costs are 0: every threshold is as good as any other",
        ),
        (["--anomalies", "empty"], "empty: no images in this folder"),
    ],
)
def test_options_that_mean_nothing_together(uadctl, run, bad, options, message):
    (bad.parent / "empty").mkdir()
    before = files(run)
    ended = uadctl("calibrate", run, *options, code=2)
    assert (ended.err, ended.out) == (f"error: {message}\n", "")
    assert files(run) == before


# ---- manifests of labels


def test_a_manifest_of_labels_needs_no_split_and_no_training_image(bad):
    rows = [{"path": "bad/0.png", "mask": ["truth/0.png"], "label": 1}, {"path": "bad/1.png", "defect": "scratch"}]
    file = bad.parent / "labels.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    first, second = labelled_images(str(file), "tile")
    assert (first.label, first.masks, first.split) == (1, (f"{bad.parent}/truth/0.png",), "validation")
    assert (second.label, second.defect, second.masks) == (1, "scratch", ())
    file.write_text("\n".join(json.dumps({**row, "split": "test"}) for row in rows))
    assert labelled_images(str(file), "tile") == (first, second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nbad/0.png,\n", "{file}:2: an image of unknown label"),
        ("path,label\nbad/7.png,1\n", "{file}:2: {folder}/bad/7.png: no such file"),
        ("label\n1\n", "{file}:1: the column path is missing"),
        ("path,label,category\nbad/0.png,1,a\nbad/1.png,1,b\n", "{file} has no category 'tile'; it has: a, b"),
        (
            "path,label\nbad/0.png,1\nbad/0.png,0\n",
            "{file}:3: {folder}/bad/0.png is a normal image here, and an anomalous image in line 2",
        ),
    ],
)
def test_problems_of_a_manifest_of_labels_are_named(uadctl, run, bad, text, message):
    before = files(run)
    file = bad.parent / "labels.csv"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        labelled_images(str(file), "tile")
    assert error.value.problems[0].message == message.format(file=file, folder=bad.parent)
    ended = uadctl("calibrate", run, "--anomalies", file, code=2)
    assert ended.err.startswith(f"error: {message.format(file=file, folder=bad.parent)}")
    assert files(run) == before


def test_a_manifest_without_defects_or_with_a_missing_mask(uadctl, run, bad, new):
    before = files(run)
    file = bad.parent / "labels.csv"
    file.write_text("path,label\nnew/0.png,0\n")
    ended = uadctl("calibrate", run, "--anomalies", file, code=2)
    assert ended.err == f"error: {file}: no image of a defect, label 1, in this manifest\n"
    file.write_text("path,label,mask\nbad/0.png,1,truth/none.png\n")
    ended = uadctl("calibrate", run, "--anomalies", file, code=2)
    assert ended.err == (f"error: {bad}/0.png: no mask at {bad.parent}/truth/none.png\n  Nothing was changed.\n")
    assert files(run) == before


# ---- maps that are tuned


def test_maps_are_tuned_with_masks(uadctl, run, listed, new):
    old = thresholds(run)
    ended = uadctl("calibrate", run, "--anomalies", listed, "--tune-postprocess", "--pixel-alpha", "0.3", "--json")
    (unit,), found = ended.json["units"], thresholds(run)
    tuned = unit["tuned"]
    assert (tuned["metric"], tuned["folds"]) == ("aupro_30", 4)
    assert sorted(tuned["params"]) == sorted(DEFAULT_GRID)
    assert all(tuned["params"][name] in values for name, values in DEFAULT_GRID.items())
    assert 0.5 < tuned["cross_validated"] <= 1
    assert 0.5 < tuned["value"] <= 1
    assert {name: found["postprocess"][name] for name in DEFAULT_GRID} == tuned["params"]
    assert old["postprocess"] is None
    # The scale is of maps that were processed so, as `score` makes them from now on.
    lines = uadctl("score", run, new, "--json", "--maps", "maps").lines
    import tifffile

    highest = sorted(float(tifffile.imread(line["map"]).max()) for line in lines)
    assert found["maxima"] == highest
    assert found["pixel"]["max"] == highest[-1]
    # And it stays so when other good images follow.
    uadctl("calibrate", run, "--method", "quantile", "--good", new, "--quiet")
    assert thresholds(run)["postprocess"] == found["postprocess"]
    assert thresholds(run)["maxima"] == found["maxima"]
    uadctl("calibrate", run, "--anomalies", listed, "--quiet")
    assert thresholds(run)["postprocess"] == found["postprocess"]


def test_maps_that_chose_their_processing_promise_nothing(uadctl, run, listed, new, tmp_path):
    uadctl("calibrate", run, "--anomalies", listed, "--tune-postprocess")
    before = files(run)
    again = (["--good", new], [])
    for more in again:
        ended = uadctl(
            "calibrate", run, "--method", "conformal", "--alpha", "0.3", "--pixel-alpha", "0.3", *more, code=2
        )
        assert ended.err == (
            f"error: {NAME}: threshold of maps: conformal promises nothing here: the maps of these good images chose "
            "their own post-processing\n  Give good images that the model has not learned: --good DIR\n"
        )
    assert files(run) == before
    for i in range(5):
        parts.write(tmp_path / "others" / f"{i}.png", parts.surface(750 + i))
    options = ["--method", "conformal", "--alpha", "0.3", "--pixel-alpha", "0.3"]
    uadctl("calibrate", run, *options, "--good", tmp_path / "others")
    assert thresholds(run)["pixel"]["chosen"]["guarantee"]


def test_what_is_expected_of_good_images_is_cross_validated(uadctl, run, bad, new):
    uadctl("calibrate", run, "--anomalies", bad, "--good", new)
    found = thresholds(run)
    rate = found["image"]["labelled"]["false_alarm_rate"]
    anomaly = (1 + 5 * rate) / 6
    assert found["expected"]["normal"] == {"good": 1 - anomaly, "review": 0.0, "anomaly": anomaly}
    uadctl("calibrate", run, "--anomalies", bad / "0.png", "--good", new)
    assert thresholds(run)["expected"] is None


def test_tuned_maps_for_people(uadctl, run, listed, monkeypatch):
    monkeypatch.setattr("uadctl.thresholds.postprocessing.DEFAULT_GRID", {"gaussian_sigma": (0.0, 2.0)})
    ended = uadctl("calibrate", run, "--anomalies", listed, "--tune-postprocess")
    sigma = thresholds(run)["postprocess"]["gaussian_sigma"]
    (line,) = [line for line in ended.out.splitlines() if line.startswith("tuned maps: ")]
    assert line.startswith(f"tuned maps: gaussian_sigma = {sigma:g}; aupro_30 ")
    assert re.search(r"[0-9]\.[0-9]{4} cross-validated; [0-9]\.[0-9]{4} as it was before$", line)


def test_the_settings_of_the_run_are_among_those_tried(uadctl, small, listed, monkeypatch):
    sets = ("--set", "postprocess.gaussian_sigma=1.5", "--set", "postprocess.min_area=5")
    run = Path(uadctl("fit", *small, *sets, "--json").json["run"])
    tried = {}

    def tune(grid, maps, masks, **options):
        if grid["gaussian_sigma"] == [1.5]:
            assert options == {"metric": "aupro_30"}
            return {"params": {name: values[0] for name, values in grid.items()}, "value": 0.4}
        tried.update(grid)
        shapes = [(m.shape, None if mask is None else int(mask.sum())) for m, mask in zip(maps, masks, strict=True)]
        assert shapes == [((64, 64), None)] * 5 + [((64, 64), 288)] * 4
        return {"params": {"gaussian_sigma": 4.0}, "value": 0.5}

    monkeypatch.setattr("uadctl.thresholds.postprocessing.tune_postprocess", tune)
    ended = uadctl("calibrate", run, "--anomalies", listed, "--tune-postprocess")
    assert tried["gaussian_sigma"] == sorted({1.5, *DEFAULT_GRID["gaussian_sigma"]})
    postprocess = thresholds(run)["postprocess"]
    assert (postprocess["gaussian_sigma"], postprocess["min_area"]) == (4.0, 5)
    assert (
        "tuned maps: gaussian_sigma = 4; aupro_30 0.5000 of these images, not cross-validated; 0.4000 as it was before"
        in ended.out
    )


def test_what_tuning_needs(uadctl, run, bad, listed, new):
    before = files(run)
    ended = uadctl("calibrate", run, "--anomalies", bad, "--good", new, "--tune-postprocess", code=2)
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: {bad}/{i}.png: has no mask, and maps cannot be tuned without" for i in range(4)]
    assert ended.err.endswith("\n  Name the masks of defects in a manifest: --anomalies FILE.csv\n")
    listed.write_text("path,label,mask\nbad/0.png,1,truth/0.png\n")
    ended = uadctl("calibrate", run, "--anomalies", listed, "--tune-postprocess", code=2)
    assert ended.err == (
        "error: maps cannot be tuned without those of good images\n"
        "  Give good images that the model has not learned: --good DIR\n"
    )
    parts.write(bad.parent / "truth/0.png", np.zeros((32, 32), np.uint8))
    ended = uadctl("calibrate", run, "--anomalies", listed, "--good", new, "--tune-postprocess", code=2)
    assert ended.err.startswith(f"error: {bad.parent}/truth/0.png is 32x32, its image is 64x64")
    parts.write(bad.parent / "truth/0.png", np.zeros((64, 64), np.uint8))
    ended = uadctl("calibrate", run, "--anomalies", listed, "--good", new, "--tune-postprocess", code=2)
    assert ended.err.startswith(f"error: {NAME}: ")
    assert files(run) == before


def test_maps_beyond_memory_are_not_tuned(uadctl, small, listed):
    run = Path(uadctl("fit", *small, "--set", "metrics.memory=300 kB", "--json").json["run"])
    before = files(run)
    ended = uadctl("calibrate", run, "--anomalies", listed, "--tune-postprocess", code=2)
    # 9 images of 64 x 64, of 9 bytes a pixel
    assert ended.err == (
        f"error: {NAME}: to tune maps, those of 9 images are kept in memory: 0.332 MB, more than [metrics] memory = "
        "300 kB\n  Give fewer or smaller images.\n"
    )
    assert files(run) == before


def test_the_python_way(run, bad, new):
    (result,) = calibrate(RunFolder.open(run), anomalies=[str(bad)], good=[str(new)], objective="youden")
    assert (result.old.method, result.new.method, result.new.n) == ("quantile", "few-shot", 5)
    assert result.new.labelled is not None
    assert result.new.labelled.objective == "youden"
    assert result.calibration.image == result.new
    assert result.kept == run / UNIT / "thresholds.1.json"
