"""`uadctl bench`, from a spec to a run folder."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path

import cv2
import numpy as np
import parts
import pytest
import tifffile

from uadctl import run_benchmark
from uadctl.bench import bench
from uadctl.metrics import compute_aupro, compute_image_auroc, compute_pixel_auroc
from uadctl.spec import Overrides, read_spec

UNIT = "units/tile/vision_patchcore/0"


@pytest.fixture
def interrupt_second_fit(monkeypatch):
    """A context in which the first model is fitted, and Ctrl-C comes at the second."""
    from uadctl.models.patchcore import PatchCore

    fit = PatchCore.fit

    @contextlib.contextmanager
    def context():
        done = []

        def once(self, images, **kwargs):
            if done:
                raise KeyboardInterrupt
            done.append(1)
            return fit(self, images, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(PatchCore, "fit", once)
            yield

    return context


def rows(run: Path, unit: str = UNIT) -> list[dict[str, str]]:
    with (run / unit / "scores.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def document(run: Path, name: str = "metrics.json"):
    return json.loads((run / name).read_text(encoding="utf-8"))


def test_a_run_folder_holds_everything(finished):
    files = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    images = [f"test/{kind}/{i:03}" for kind, n in (("good", 2), ("scratch", 3)) for i in range(n)]
    unit = {"status", "metrics.json", "scores.csv", "thresholds.json", "timing.json"}
    unit |= {f"maps/{i}.tiff" for i in images} | {f"overlays/{i}.png" for i in images}
    unit |= {"model/model.json", "model/model.safetensors"}
    assert files == {"spec.toml", "run.json", "metrics.json", "timing.json"} | {f"{UNIT}/{f}" for f in unit}
    assert (finished / UNIT / "status").read_text() == "done\n"
    assert document(finished, "run.json")["status"] == "done"


def test_the_folder_is_named_by_time_name_and_hash_of_the_spec(finished):
    stamp, name, digest = finished.name.split("-")
    assert len(stamp) == len("20260101T000000Z")
    assert name == "mvtec"
    assert digest == document(finished, "run.json")["hash"]
    assert len(digest) == 8


def test_metrics_are_those_of_the_scores_and_maps_on_disk(finished, one_category):
    found = document(finished)["results"]["tile"]["vision_patchcore"]["0"]
    table = rows(finished)
    labels = [int(r["label"]) for r in table]
    scores = [float(r["score"]) for r in table]
    maps = [tifffile.imread(finished / UNIT / r["map"]) for r in table]
    masks = [
        np.zeros((64, 64), np.uint8)
        if r["label"] == "0"
        else cv2.imread(
            str(one_category / "tile" / "ground_truth" / "scratch" / f"{Path(r['path']).stem}_mask.png"),
            cv2.IMREAD_GRAYSCALE,
        )
        for r in table
    ]
    metrics = found["metrics"]
    assert found["success"] is True
    assert metrics["image_auroc"] == compute_image_auroc(labels, scores)
    assert metrics["pixel_auroc"] == compute_pixel_auroc(masks, maps)
    assert metrics["aupro_30"] == compute_aupro(masks, maps)
    threshold = float(table[0]["threshold"])
    assert metrics["tp"] == sum(s >= threshold for s, y in zip(scores, labels, strict=True) if y == 1)
    assert metrics["fp"] == sum(s >= threshold for s, y in zip(scores, labels, strict=True) if y == 0)
    assert [r["verdict"] for r in table] == ["anomaly" if s >= threshold else "good" for s in scores]


def test_the_defects_light_up(finished):
    metrics = document(finished)["results"]["tile"]["vision_patchcore"]["0"]["metrics"]
    assert metrics["image_auroc"] == 1.0
    assert metrics["pixel_auroc"] > 0.95
    for row in rows(finished):
        if row["label"] == "1":
            field = tifffile.imread(finished / UNIT / row["map"])
            y, x = np.unravel_index(field.argmax(), field.shape)
            assert 14 <= y < 38
            assert 18 <= x < 54


def test_columns_of_the_scores(finished):
    table = rows(finished)
    assert list(table[0]) == [
        "path",
        "split",
        "label",
        "defect",
        "score",
        "threshold",
        "verdict",
        "status",
        "reason",
        "map",
    ]
    assert [r["path"] for r in table] == sorted(r["path"] for r in table)
    assert {r["defect"] for r in table} == {"good", "scratch"}
    assert {r["status"] for r in table} == {"ok"}
    assert all(float(np.float32(r["score"])) == float(r["score"]) for r in table)


def test_the_threshold_comes_from_left_out_training_images(finished):
    thresholds = document(finished, f"{UNIT}/thresholds.json")
    image = thresholds["image"]
    assert (image["method"], image["alpha"], image["n"], image["source"], image["reason"]) == (
        "quantile",
        0.01,
        6,
        "leave-one-out",
        None,
    )
    assert image["value"] > max(thresholds["scores"])
    assert len(thresholds["scores"]) == 6
    pixel = thresholds["pixel"]
    assert pixel["threshold"] == pytest.approx(pixel["mean"] + 3 * pixel["std"])
    assert pixel["n"] == 6 * 256 * 256


def test_the_same_spec_twice_gives_the_same_bytes(uadctl, small, tmp_path):
    for name in ("a", "b"):
        uadctl("bench", *small, "--run-dir", name)
    a, b = (next(p.iterdir()) for p in (tmp_path / "a", tmp_path / "b"))
    same = ["metrics.json", f"{UNIT}/metrics.json", f"{UNIT}/scores.csv", f"{UNIT}/thresholds.json"]
    same += [p.relative_to(a).as_posix() for p in sorted((a / UNIT).rglob("*.tiff"))]
    same += [p.relative_to(a).as_posix() for p in sorted((a / UNIT / "model").iterdir())]
    assert len(same) == 4 + 5 + 2
    for name in same:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def test_a_run_can_be_repeated_from_its_own_spec_and_from_its_folder(uadctl, small, tmp_path):
    first = uadctl("bench", *small, "--json").json
    run = Path(first["run"])
    again = uadctl("bench", run / "spec.toml", "--json").json
    third = uadctl("bench", run, "--json").json
    assert first["results"] == again["results"] == third["results"]
    assert len({first["run"], again["run"], third["run"]}) == 3
    assert (run / "spec.toml").read_bytes() == (Path(again["run"]) / "spec.toml").read_bytes()


def test_stdout_is_one_strict_json_document_that_contains_metrics_json(uadctl, small):
    ended = uadctl("bench", *small, "--json", "--output", "deep/report.json")
    found = ended.json
    metrics = document(Path(found["run"]))
    assert {k: found[k] for k in metrics} == metrics
    assert json.loads(Path("deep/report.json").read_text()) == found
    assert found["timing"]["units"][0]["train_images"] == 6
    assert ended.err == ""


def test_metrics_json_holds_no_clock(finished):
    text = (finished / "metrics.json").read_text()
    assert "second" not in text
    assert "ms_per" not in text


def test_several_categories_and_their_mean(tmp_path):
    for name, size in (("tile", (64, 64)), ("panel", (48, 96))):
        parts.write_category(tmp_path / "data", name, size=size)
    found = run_benchmark("mvtec", root=str(tmp_path / "data"), run_dir=str(tmp_path / "runs")).metrics
    assert list(found["results"]) == ["panel", "tile"]
    cells = [found["results"][c]["vision_patchcore"]["0"]["metrics"] for c in ("panel", "tile")]
    mean = found["means"]["vision_patchcore"]
    assert mean["pixel_auroc"] == pytest.approx((cells[0]["pixel_auroc"] + cells[1]["pixel_auroc"]) / 2, abs=1e-15)
    assert "tp" not in mean
    field = tifffile.imread(next((tmp_path / "runs").rglob("panel/**/test/scratch/000.tiff")))
    assert field.shape == (48, 96)


def test_several_models_and_a_cell_that_fails(uadctl, one_category, tmp_path, monkeypatch):
    from uadctl.models.patchcore import PatchCore

    spec = tmp_path / "s.toml"
    spec.write_text(
        f"""
        [dataset]
        name = "mvtec"
        root = "{one_category}"
        [preprocess]
        size = 64
        [[model]]
        name = "patchcore"
        label = "one"
        [[model]]
        name = "patchcore"
        label = "two"
        [model.params]
        n_neighbors = 3
        """
    )
    fit = PatchCore.fit

    def fails(self, images, **kwargs):
        if self.n_neighbors == 3:
            raise MemoryError("no room for the bank")
        return fit(self, images, **kwargs)

    monkeypatch.setattr(PatchCore, "fit", fails)
    ended = uadctl("bench", spec, "--json", code=1)
    found = ended.json
    assert found["results"]["tile"]["one"]["0"]["success"] is True
    assert found["results"]["tile"]["two"]["0"] == {"success": False, "error": "MemoryError: no room for the bank"}
    assert found["means"] == {"one": found["means"]["one"], "two": {}}
    assert "error: tile / two: MemoryError: no room for the bank" in ended.err
    run = Path(found["run"])
    assert document(run, "run.json")["status"] == "failed"
    assert "Traceback" in (run / "units/tile/two/0/error.txt").read_text()

    monkeypatch.setattr(PatchCore, "fit", fit)
    before = (run / "units/tile/one/0/scores.csv").stat().st_mtime_ns
    resumed = uadctl("bench", "--resume", run, "--json").json
    assert resumed["run"] == found["run"]
    assert resumed["results"]["tile"]["two"]["0"]["success"] is True
    assert (run / "units/tile/one/0/scores.csv").stat().st_mtime_ns == before
    assert document(run, "run.json")["status"] == "done"
    assert not (run / "units/tile/two/0/error.txt").exists()
    nothing = uadctl("bench", "--resume", run, code=2)
    assert nothing.err == f"error: {run}: nothing to resume: this run is done\n"


def test_an_interrupted_run_says_so_and_goes_on(uadctl, small, tmp_path, interrupt_second_fit):
    parts.write_category(tmp_path / "data", "zinc")
    with interrupt_second_fit():
        ended = uadctl("bench", *small, code=130)
    assert ended.err.startswith("error: interrupted\n")
    assert ended.out == ""
    (run,) = (tmp_path / "runs").iterdir()
    assert document(run, "run.json")["status"] == "interrupted"
    resumed = uadctl("bench", *small, "--resume", "--json").json
    assert Path(resumed["run"]).resolve() == run.resolve()
    undisturbed = uadctl("bench", *small, "--json").json
    assert resumed["results"] == undisturbed["results"]


def test_a_fit_is_not_resumed_as_a_bench(uadctl, small, tmp_path, monkeypatch):
    from uadctl.models.patchcore import PatchCore

    def interrupt(self, images, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PatchCore, "fit", interrupt)
        ended = uadctl("fit", *small, code=130)
    assert ended.err == "error: interrupted\n"
    (run,) = (tmp_path / "runs").iterdir()
    refused = uadctl("bench", "--resume", run, code=2)
    assert refused.err == (
        f"error: {run}: not a bench, only those can be resumed\n  Fit again with: uadctl fit {run}\n"
    )
    assert "nothing to resume" in uadctl("bench", *small, "--resume", code=2).err


def test_a_run_that_is_being_worked_on_is_not_resumed(uadctl, small, tmp_path, monkeypatch):
    from uadctl.models.patchcore import PatchCore
    from uadctl.runs.folder import RunFolder

    def interrupt(self, images, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PatchCore, "fit", interrupt)
        uadctl("bench", *small, code=130)
    (run,) = (tmp_path / "runs").iterdir()
    with RunFolder.open(run).locked():
        assert uadctl("bench", "--resume", run, code=2).err == (
            f"error: {run}: in use by another process\n"
            "  Wait for its end, or end it. What is finished in it can be scored with meanwhile.\n"
        )
        assert "nothing to resume" in uadctl("bench", *small, "--resume", code=2).err
    assert uadctl("bench", "--resume", run).code == 0


def test_resuming_keeps_earlier_warnings(uadctl, small, one_category, interrupt_second_fit):
    parts.write_category(one_category, "zinc")
    (one_category / "tile/train/good/001.png").write_bytes(b"junk")
    skip = ["--set", "dataset.on_error=skip"]
    with interrupt_second_fit():
        uadctl("bench", *small, *skip, code=130)
    run = Path(uadctl("bench", *small, *skip, "--resume", "--json").json["run"])
    assert len(document(run, "run.json")["warnings"]) == 1
    assert set(document(run, "run.json")["data"]) == {"tile", "zinc"}


def test_a_run_is_not_resumed_on_other_images(uadctl, small, one_category, interrupt_second_fit):
    parts.write_category(one_category, "zinc")
    with interrupt_second_fit():
        uadctl("bench", *small, code=130)
    file = one_category / "tile/train/good/000.png"
    kept = file.read_bytes()
    parts.write(file, parts.surface(77))
    ended = uadctl("bench", *small, "--resume", code=2)
    assert ended.err.endswith(
        ": cannot be resumed: the images of tile are not those that it began with\n  Start a new run.\n"
    )
    file.write_bytes(kept)
    assert uadctl("bench", *small, "--resume").code == 0


def test_a_run_begun_by_another_version_is_not_resumed(uadctl, small, one_category, interrupt_second_fit, tmp_path):
    parts.write_category(one_category, "zinc")
    with interrupt_second_fit():
        uadctl("bench", *small, code=130)
    (run,) = (tmp_path / "runs").iterdir()
    record = document(run, "run.json")
    now = record["hash"]
    (run / "run.json").write_text(json.dumps({**record, "hash": "01234567"}))
    assert uadctl("bench", "--resume", run, code=2).err == (
        f"error: {run}: cannot be resumed: it was begun by another version of uadctl, whose specs had other keys "
        f"(hash 01234567, now {now})\n"
        "  Start a new run; what this one has finished can still be scored with and reported.\n"
    )


def test_a_mask_without_defect_pixels_is_told(uadctl, small, one_category):
    mask = one_category / "tile/ground_truth/scratch/001_mask.png"
    parts.write(mask, np.zeros((64, 64), np.uint8))
    image = one_category / "tile/test/scratch/001.png"
    assert uadctl("bench", *small).err == (
        f"warning: {mask}: no pixel is above 0, so the pixels of {image} count as good\n"
    )


def test_nothing_to_resume_is_an_error_of_use(uadctl, small):
    ended = uadctl("bench", *small, "--resume", code=2)
    assert ended.err.startswith("error: nothing to resume: no unfinished run of this spec")


def test_one_training_and_one_good_test_image(uadctl, tmp_path):
    parts.write_category(tmp_path / "data", "tile", train=1, good=1, bad=0)
    ended = uadctl("bench", "--dataset", "mvtec", "--root", "data", "--model", "patchcore", "--json")
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["metrics"]["image_auroc"] is None
    assert cell["reasons"]["image_auroc"] == "there is no defect image (1 normal)"
    assert cell["metrics"]["tp"] is None
    assert cell["reasons"]["tp"] == "1 training image leaves no other to compare it with"
    assert cell["reasons"]["pixel_auroc"] == "the data set has no masks"
    assert set(cell["reasons"]) == {name for name, value in cell["metrics"].items() if value is None}
    assert "warning: tile / vision_patchcore: no threshold, verdicts will be null: 1 training image" in ended.err
    table = rows(Path(ended.json["run"]))
    assert (table[0]["verdict"], table[0]["threshold"]) == ("", "")
    people = uadctl("bench", "--dataset", "mvtec", "--root", "data", "--model", "patchcore")
    assert "tile: there is no defect image (1 normal)" in people.out


def test_a_broken_test_image_fails_its_cell_and_is_named(uadctl, small, one_category):
    file = one_category / "tile/test/good/001.png"
    file.write_bytes(file.read_bytes()[:-500])
    ended = uadctl("bench", *small, "--json", code=1)
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["success"] is False
    assert cell["error"].startswith(str(file))
    assert f"error: tile / vision_patchcore: {file}" in ended.err


def test_a_broken_image_can_be_left_out_and_is_counted(uadctl, small, one_category):
    for name in ("test/good/001.png", "train/good/002.png"):
        file = one_category / "tile" / name
        file.write_bytes(file.read_bytes()[:-500])
    ended = uadctl("bench", *small, "--set", "dataset.on_error=skip", "--json")
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["counts"]["broken_images"] == 2
    assert cell["counts"]["train_images"] == 5
    assert cell["counts"]["images"] == 4
    broken = [r for r in rows(Path(ended.json["run"])) if r["status"] == "error"]
    assert [(r["path"], r["score"], r["verdict"]) for r in broken] == [
        ("train/good/002.png", "", ""),
        ("test/good/001.png", "", ""),
    ]
    assert all(r["reason"] for r in broken)
    assert ended.err.count("warning: left out") == 2
    warnings = document(Path(ended.json["run"]), "run.json")["warnings"]
    assert len(warnings) == 2


def test_what_is_no_file_is_left_out_and_never_waited_for(uadctl, small, one_category):
    import os

    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(one_category / "tile/train/good/pipe.png")
    found = uadctl("bench", *small, "--set", "dataset.on_error=skip", "--json").json
    counts = found["results"]["tile"]["vision_patchcore"]["0"]["counts"]
    assert counts["train_images"] == 6


def test_broken_validation_images_are_counted_too(uadctl, small, one_category):
    for i in range(3):
        parts.write(one_category / "tile" / "validation" / "good" / f"{i}.png", parts.surface(300 + i))
    (one_category / "tile/validation/good/1.png").write_bytes(b"junk")
    found = uadctl("bench", *small, "--set", "dataset.on_error=skip", "--json").json
    run = Path(found["run"])
    assert found["results"]["tile"]["vision_patchcore"]["0"]["counts"]["broken_images"] == 1
    assert rows(run)[0]["path"] == "validation/good/1.png"
    assert document(run, f"{UNIT}/thresholds.json")["image"]["n"] == 2
    assert len(document(run, "run.json")["warnings"]) == 1


def test_the_reason_of_a_missing_threshold_counts_the_images_that_were_used(uadctl, small, one_category):
    for i in range(1, 6):
        (one_category / f"tile/train/good/00{i}.png").write_bytes(b"junk")
    found = uadctl("bench", *small, "--set", "dataset.on_error=skip", "--json").json
    reasons = found["results"]["tile"]["vision_patchcore"]["0"]["reasons"]
    assert reasons["tp"] == "1 training image leaves no other to compare it with"


def test_masks_are_not_opened_without_pixel_metrics_and_a_broken_one_can_be_skipped(uadctl, small, one_category):
    (one_category / "tile/ground_truth/scratch/001_mask.png").write_bytes(b"junk")
    assert uadctl("bench", *small, "--no-pixel", "--json").json["results"]["tile"]["vision_patchcore"]["0"]["success"]
    assert "001_mask.png" in uadctl("bench", *small, code=1).err
    skipped = uadctl("bench", *small, "--set", "dataset.on_error=skip", "--json")
    counts = skipped.json["results"]["tile"]["vision_patchcore"]["0"]["counts"]
    assert (counts["images"], counts["pixel_images"], counts["defect_images_without_mask"]) == (5, 4, 1)
    assert "warning: left out of the pixel metrics: " in skipped.err


def test_defect_images_without_mask_are_told_counted_and_left_out_of_the_pixel_metrics(uadctl, small, one_category):
    mask = one_category / "tile/ground_truth/scratch/001_mask.png"
    mask.unlink()
    ended = uadctl("bench", *small, "--json")
    assert ended.err == (
        f"warning: {one_category}/tile/test/scratch/001.png: no mask at {mask}; left out of the pixel metrics\n"
    )
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["counts"]["defect_images_without_mask"] == 1
    assert cell["counts"]["pixel_images"] == 4
    assert cell["counts"]["images"] == 5
    assert uadctl("bench", *small, "--no-pixel", "--json").err == ""


def test_missing_masks_beyond_five_are_told_as_a_number(uadctl, small, one_category):
    for i in range(3, 10):
        parts.write(one_category / f"tile/test/scratch/00{i}.png", parts.surface(500 + i))
    told = uadctl("bench", *small).err.splitlines()
    assert [line.endswith("; left out of the pixel metrics") for line in told] == [True] * 6
    assert told[-1] == "warning: tile: 2 more defect images have no mask; left out of the pixel metrics"


def test_an_image_that_is_learned_and_tested_on_is_told(uadctl, small, one_category):
    import shutil

    tile = one_category / "tile"
    shutil.copy(tile / "train/good/003.png", tile / "test/good/007.png")
    ended = uadctl("bench", *small, "--json")
    message = f"tile: {tile}/train/good/003.png and {tile}/test/good/007.png are equal byte for byte, in train and test"
    assert ended.err == f"warning: {message}\n"
    assert document(Path(ended.json["run"]), "run.json")["warnings"] == [message]


def test_defects_in_the_training_split_are_told_counted_and_not_learned(uadctl, small, one_category):
    image, _ = parts.scratched(3)
    parts.write(one_category / "tile/train/scratch/000.png", image)
    ended = uadctl("bench", *small, "--json")
    counts = ended.json["results"]["tile"]["vision_patchcore"]["0"]["counts"]
    assert (counts["train_images"], counts["train_defects_left_out"]) == (6, 1)
    assert ended.err == (
        "warning: tile: 1 defect image of the training and validation splits is not learned from, "
        f"the first is {one_category}/tile/train/scratch/000.png\n"
    )


def test_a_data_set_without_masks_has_image_metrics_and_says_where_masks_were_looked_for(uadctl, small, one_category):
    import shutil

    shutil.rmtree(one_category / "tile" / "ground_truth")
    ended = uadctl("bench", *small, "--json")
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["metrics"]["image_auroc"] == 1.0
    assert cell["reasons"] == dict.fromkeys(
        ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro_30"), "the data set has no masks"
    )
    assert ended.err == (
        "warning: tile: pixel metrics are null: none of 3 defect images has a mask, "
        f"the first was looked for at {one_category}/tile/ground_truth/scratch/000_mask.png\n"
    )


def test_pixel_metrics_that_do_not_fit_into_memory_have_a_bound(uadctl, small):
    exact = uadctl("bench", *small, "--json").json["results"]["tile"]["vision_patchcore"]["0"]
    assert (exact["pixel_mode"], exact["bounds"]) == ("exact", {})
    # 5 images of 64x64 hold 5 bytes a pixel
    fits = uadctl("bench", *small, "--set", "metrics.memory=102.4kB", "--json").json
    assert fits["results"]["tile"]["vision_patchcore"]["0"]["pixel_mode"] == "exact"
    found = uadctl("bench", *small, "--set", "metrics.memory=102kB", "--json").json
    cell = found["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["pixel_mode"] == "streaming"
    assert sorted(cell["bounds"]) == ["aupro_30", "pixel_ap", "pixel_auroc", "pixel_f1max"]
    for name, bound in cell["bounds"].items():
        assert 0 < bound < 0.01
        assert abs(cell["metrics"][name] - exact["metrics"][name]) <= bound
    none = uadctl("bench", *small, "--no-pixel", "--json").json["results"]["tile"]["vision_patchcore"]["0"]
    assert (none["pixel_mode"], none["bounds"]) == (None, {})
    assert (
        'expected a size such as "500MB" or "1GB"' in uadctl("bench", *small, "--set", "metrics.memory=1", code=2).err
    )


def test_a_mask_of_another_size_fails_the_cell(uadctl, small, one_category):
    mask = parts.write(one_category / "tile/ground_truth/scratch/001_mask.png", np.full((32, 64), 255, np.uint8))
    ended = uadctl("bench", *small, "--json", code=1)
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["error"] == f"{mask} is 32x64, its image is 64x64 (height x width)"


def test_without_pixel_metrics_the_image_metrics_are_the_same(uadctl, small):
    with_pixels = uadctl("bench", *small, "--json").json
    without = uadctl("bench", *small, "--no-pixel", "--json").json
    a, b = (d["results"]["tile"]["vision_patchcore"]["0"]["metrics"] for d in (with_pixels, without))
    assert b == {k: v for k, v in a.items() if not k.startswith(("pixel", "aupro"))}
    assert len(b) == len(a) - 4


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_limits_take_images_evenly_from_every_kind(uadctl, small, limit):
    found = uadctl("bench", *small, "--limit-train", limit, "--limit-test", limit, "--json").json
    table = rows(Path(found["run"]))
    counts = found["results"]["tile"]["vision_patchcore"]["0"]["counts"]
    assert counts["train_images"] == len(table) == limit
    if limit > 1:
        assert {r["defect"] for r in table} == {"good", "scratch"}


def test_a_crop_leaves_pixels_out_and_counts_them(uadctl, small):
    args = [a for a in small if not a.startswith("preprocess")]
    args = [a for a, b in zip(args, [*args[1:], ""], strict=True) if not (a == "--set" and b == "")]
    found = uadctl(
        "bench", *args, "--set", "preprocess.resize=[64,64]", "--set", "preprocess.crop=[48,48]", "--json"
    ).json
    counts = found["results"]["tile"]["vision_patchcore"]["0"]["counts"]
    assert counts["pixels_left_out"] == 5 * (64 * 64 - 48 * 48)
    assert counts["pixels"] == 5 * 48 * 48
    field = tifffile.imread(Path(found["run"]) / UNIT / "maps/test/good/000.tiff")
    assert np.isnan(field).sum() == 64 * 64 - 48 * 48
    assert np.isfinite(field[8:-8, 8:-8]).all()


def test_random_weights_warn_and_are_recorded(uadctl, small):
    ended = uadctl("bench", *small, "--no-pretrained", "--json")
    assert "warning: vision_patchcore: pretrained = false: the backbone's weights are random" in ended.err
    record = document(Path(ended.json["run"]), "run.json")
    assert record["models"]["vision_patchcore"]["tile"]["weights"] == "random"
    assert len(record["warnings"]) == 1


def test_held_out_images_are_not_in_the_model(uadctl, small):
    found = uadctl("bench", *small, "--set", "calibration.holdout=0.5", "--json").json
    run = Path(found["run"])
    image = document(run, f"{UNIT}/thresholds.json")["image"]
    assert (image["source"], image["n"]) == ("holdout", 3)
    assert found["results"]["tile"]["vision_patchcore"]["0"]["counts"]["train_images"] == 3
    again = uadctl("bench", *small, "--set", "calibration.holdout=0.5", "--json").json
    assert document(Path(again["run"]), f"{UNIT}/thresholds.json") == document(run, f"{UNIT}/thresholds.json")


def test_validation_images_of_the_data_set_set_the_threshold(uadctl, small, one_category):
    for i in range(4):
        parts.write(one_category / "tile" / "validation" / "good" / f"{i}.png", parts.surface(300 + i))
    found = uadctl("bench", *small, "--json").json
    image = document(Path(found["run"]), f"{UNIT}/thresholds.json")["image"]
    assert (image["source"], image["n"]) == ("validation", 4)


def test_images_that_differ_in_their_suffix_only_keep_their_own_maps(uadctl, small, one_category):
    parts.write(one_category / "tile/test/good/000.bmp", parts.surface(400))
    found = uadctl("bench", *small, "--json").json
    table = rows(Path(found["run"]))
    assert [r["map"] for r in table[:3]] == [
        "maps/test/good/000.bmp.tiff",
        "maps/test/good/000.png.tiff",
        "maps/test/good/001.tiff",
    ]
    assert all((Path(found["run"]) / UNIT / r["map"]).is_file() for r in table)


def test_a_run_folder_can_be_moved(uadctl, small, tmp_path):
    run = Path(uadctl("bench", *small, "--json").json["run"])
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    run.rename(moved)
    line = uadctl("score", moved, tmp_path / "data/tile/test/good/000.png", "--json").lines[0]
    table = rows(moved)
    assert line["score"] == pytest.approx(float(table[0]["score"]), rel=1e-5)
    assert line["threshold"] == float(table[0]["threshold"])
    for file in moved.rglob("*"):
        if file.suffix in (".json", ".csv") and file.name != "run.json":
            assert str(tmp_path) not in file.read_text(), file


def test_dry_run_opens_no_image_and_makes_no_folder(uadctl, small, one_category, tmp_path):
    for file in one_category.rglob("*.png"):
        file.write_bytes(b"not an image")
    ended = uadctl("bench", *small, "--dry-run", "--json")
    (unit,) = ended.json["units"]
    assert unit == {
        "category": "tile",
        "label": "vision_patchcore",
        "seed": 0,
        "train": 6,
        "validation": 0,
        "test_good": 2,
        "test_defect": 3,
    }
    assert ended.json["models"]["vision_patchcore"]["weights"] == "package"
    assert not (tmp_path / "runs").exists()
    assert "1 unit; nothing was run." in uadctl("bench", *small, "--dry-run").out


def _several(one_category, tmp_path, memory: str) -> tuple[Path, list[tuple[int, int]]]:
    """A bench of three models, two of which share a backbone, and the hits and misses of their cache."""
    from uadctl.features import cache

    made: list[cache.FeatureCache] = []

    class Watched(cache.FeatureCache):
        def __init__(self, *, max_bytes: int) -> None:
            super().__init__(max_bytes=max_bytes)
            made.append(self)

    spec = tmp_path / "several.toml"
    spec.write_text(
        f"""
[run]
feature_cache = "{memory}"
[dataset]
name = "mvtec"
root = "{one_category}"
[preprocess]
size = 64
[[model]]
name = "patchcore"
label = "ten"
[[model]]
name = "patchcore"
label = "random"
params = {{ coreset = "random", n_neighbors = 1 }}
[[model]]
name = "patchcore"
label = "other layers"
params = {{ layers = ["blocks.2"] }}
"""
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cache, "FeatureCache", Watched)
        result = bench(read_spec(str(spec), Overrides(run_dir=str(tmp_path / memory))).spec)
    assert not result.failed
    return result.run.path, [(c.hits, c.misses) for c in made]


def test_models_share_features_and_no_result_shows_it(one_category, tmp_path):
    shared, with_cache = _several(one_category, tmp_path, "1GB")
    alone, without = _several(one_category, tmp_path, "0MB")
    batches = 2  # one of training images, one of test images
    assert with_cache == [(batches, 2 * batches)]
    assert without == []
    files = sorted(p.relative_to(shared) for p in (shared / "units").rglob("*") if p.is_file())
    assert len(files) > 30
    for file in files:
        if file.name != "timing.json":
            assert (shared / file).read_bytes() == (alone / file).read_bytes(), file


def test_the_cache_is_emptied_between_categories(one_category, tmp_path):
    parts.write_category(one_category, "wood")
    _, found = _several(one_category, tmp_path, "400kB")  # holds one category, 11 images of 17 and of 10 kB
    assert found == [(2 * 2, 2 * 4)]
