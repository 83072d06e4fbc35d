"""`uadctl fit` and `uadctl score`: from a folder of good parts to a verdict on each new image."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import parts
import pytest
import tifffile

from uadctl import load_run
from uadctl.score import find_sources, score


@pytest.fixture
def new(tmp_path) -> Path:
    """A folder of images never seen before: one good, one scratched, one broken, one text file."""
    folder = tmp_path / "new"
    parts.write(folder / "a_good.png", parts.surface(900))
    parts.write(folder / "deeper" / "b_bad.png", parts.scratched(901)[0])
    (folder / "c_broken.png").write_bytes((folder / "a_good.png").read_bytes()[:-300])
    (folder / "notes.txt").write_text("no image")
    return folder


def test_fit_on_a_folder_of_good_images_then_score(uadctl, tmp_path, new):
    for i in range(6):
        parts.write(tmp_path / "good" / f"{i}.png", parts.surface(i))
    ended = uadctl("fit", "--good", "good")
    run = ended.out.splitlines()[1].removeprefix("run: ")
    threshold = load_run(run, device="cpu").calibration.image.value
    assert ended.out.splitlines() == [
        f"done: good · vision_patchcore · seed 0: threshold {threshold:.4f}, for 0.01 false alarms, from 6 leave-one-out "
        "scores (so few that it lies above all of them)",
        f"run: {run}",
        f"next: uadctl score {run} IMAGE…",
    ]
    lines = uadctl("score", run, new, "--json", code=1).lines
    assert [(Path(x["path"]).name, x["status"], x["verdict"]) for x in lines] == [
        ("a_good.png", "ok", "good"),
        ("c_broken.png", "error", None),
        ("b_bad.png", "ok", "anomaly"),
    ]
    spec = (Path(run) / "spec.toml").read_text()
    assert 'name = "folder"' in spec
    assert uadctl("fit", Path(run) / "spec.toml").code == 0


def test_fit_keeps_models_and_thresholds_and_no_metrics(uadctl, small):
    found = uadctl("fit", *small, "--json").json
    run = Path(found["run"])
    (unit,) = found["units"]
    assert (unit["category"], unit["label"], unit["seed"], unit["status"]) == ("tile", "vision_patchcore", 0, "done")
    assert unit["threshold"]["n"] == 6
    files = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    unit = "units/tile/vision_patchcore/0"
    assert files == {"spec.toml", "run.json", "timing.json"} | {
        f"{unit}/{f}" for f in ("status", "thresholds.json", "model/model.json", "model/model.safetensors")
    }
    assert json.loads((run / "run.json").read_text())["status"] == "done"


def test_a_line_has_exactly_its_keys(uadctl, finished, new):
    good, broken, bad = uadctl("score", finished, new, "--json", code=1).lines
    keys = [
        "path",
        "status",
        "score",
        "threshold",
        "review_threshold",
        "verdict",
        "p_value",
        "map",
        "regions",
        "reason",
    ]
    assert list(good) == list(broken) == list(bad) == keys
    assert good["threshold"] == bad["threshold"] == broken["threshold"] > 0
    assert good["score"] < good["threshold"] <= bad["score"]
    assert (broken["score"], broken["verdict"], broken["regions"], broken["p_value"]) == (None, None, None, None)
    assert broken["reason"]
    assert str(new) not in broken["reason"]
    top, left, bottom, right = bad["regions"][0]["box"]
    assert top <= 22
    assert bottom >= 30
    assert left <= 26
    assert right >= 46
    assert bad["regions"][0]["area"] >= 12 * 24
    assert bad["regions"][0]["score"] > 0


def test_a_printed_score_given_back_as_threshold_is_anomalous(uadctl, finished, new):
    image = new / "a_good.png"
    value = uadctl("score", finished, image, "--json").lines[0]["score"]
    assert uadctl("score", finished, image, "--json", "--threshold", repr(value)).lines[0]["verdict"] == "anomaly"
    above = np.nextafter(np.float32(value), np.float32(np.inf))
    assert uadctl("score", finished, image, "--json", "--threshold", float(above)).lines[0]["verdict"] == "good"


def test_scoring_again_what_a_bench_scored_gives_the_same(uadctl, finished, one_category):
    lines = uadctl("score", finished, one_category / "tile" / "test", "--json").lines
    with (finished / "units/tile/vision_patchcore/0/scores.csv").open() as stream:
        known = [float(r["score"]) for r in csv.DictReader(stream)]
    assert [x["score"] for x in lines] == pytest.approx(known, rel=1e-5)


def test_exit_codes(uadctl, finished, new):
    good, bad, broken = new / "a_good.png", new / "deeper", new / "c_broken.png"
    uadctl("score", finished, good, "--fail-on-anomaly", code=0)
    uadctl("score", finished, bad, code=0)
    uadctl("score", finished, bad, "--fail-on-anomaly", code=4)
    uadctl("score", finished, broken, code=1)
    uadctl("score", finished, bad, broken, "--fail-on-anomaly", code=1)
    empty = new / "empty"
    empty.mkdir()
    ended = uadctl("score", finished, empty, code=2)
    assert ended.err.startswith(f"error: {empty}: no images in this folder")
    assert ended.out == ""


def test_a_path_that_does_not_exist_is_an_error_row_and_the_rest_is_scored(uadctl, finished, new):
    lines = uadctl("score", finished, new / "gone.png", new / "a_good.png", "--json", code=1).lines
    assert [x["status"] for x in lines] == ["error", "ok"]
    assert "no such file" in lines[0]["reason"].lower()


def test_only_anomalies_hides_good_images_and_never_errors(uadctl, finished, new):
    lines = uadctl("score", finished, new, "--json", "--only-anomalies", code=1).lines
    assert [x["verdict"] for x in lines] == [None, "anomaly"]


def test_for_people(uadctl, finished, new):
    lines = uadctl("score", finished, new, code=1).out.splitlines()
    assert lines[0].startswith("good ")
    assert lines[0].endswith("a_good.png")
    assert lines[1].startswith("error              -         -  ")
    assert lines[2].startswith("anomaly ")
    assert lines[2].split()[2] == "p=0.14"  # above all of 6 normal scores: 1 / 7


def test_maps_and_masks_lie_as_the_images_lie(uadctl, finished, new, tmp_path):
    lines = uadctl("score", finished, new, "--json", "--maps", "m", "--masks", "k", code=1).lines
    files = {p.relative_to(tmp_path).as_posix() for d in ("m", "k") for p in (tmp_path / d).rglob("*") if p.is_file()}
    assert files == {"m/a_good.tiff", "m/deeper/b_bad.tiff", "k/a_good.png", "k/deeper/b_bad.png"}
    assert [x["map"] for x in lines] == ["m/a_good.tiff", None, "m/deeper/b_bad.tiff"]
    field = tifffile.imread(tmp_path / "m/deeper/b_bad.tiff")
    mask = cv2.imread(str(tmp_path / "k/deeper/b_bad.png"), cv2.IMREAD_UNCHANGED)
    threshold = json.loads((finished / "units/tile/vision_patchcore/0/thresholds.json").read_text())["pixel"][
        "threshold"
    ]
    assert field.dtype == np.float32
    np.testing.assert_array_equal(mask, np.where(field >= threshold, 255, 0))
    assert mask[24:30, 30:44].min() == 255
    assert sum(r["area"] for r in lines[2]["regions"]) == np.count_nonzero(mask)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_output_files(uadctl, finished, new, suffix):
    lines = uadctl("score", finished, new, "--json", "--output", f"out/lines{suffix}", code=1).lines
    text = Path(f"out/lines{suffix}").read_text()
    if suffix == ".jsonl":
        assert [json.loads(t) for t in text.splitlines()] == lines
    else:
        table = list(csv.DictReader(text.splitlines()))
        assert [r["path"] for r in table] == [x["path"] for x in lines]
        assert [r["verdict"] for r in table] == ["good", "", "anomaly"]
        assert float(table[0]["score"]) == lines[0]["score"]


def test_an_output_of_unknown_kind_is_refused_before_any_work(uadctl, finished, new):
    ended = uadctl("score", finished, new, "--output", "lines.xlsx", code=2)
    assert ended.err == "error: --output lines.xlsx: expected a name that ends with .csv or .jsonl\n"


def test_a_spec_stands_for_its_newest_finished_run(uadctl, small, new, tmp_path):
    run = Path(uadctl("bench", *small, "--json").json["run"])
    spec = tmp_path / "again.toml"
    spec.write_bytes((run / "spec.toml").read_bytes())
    by_spec = uadctl("score", spec, new / "a_good.png", "--json").out
    assert by_spec == uadctl("score", run, new / "a_good.png", "--json").out
    told, used = uadctl("score", spec, new / "a_good.png").err.splitlines()
    assert told == f"note: {spec} stands for its newest finished run, {run}"
    assert used.startswith("note: threshold ")
    other = spec.with_name("other.toml")
    other.write_text(spec.read_text().replace("seed = 0", "seed = 7"))
    ended = uadctl("score", other, new, code=2)
    assert ended.err.startswith("error: no finished run of this spec (hash ")


def test_with_several_units_one_must_be_chosen(uadctl, small, one_category, new):
    parts.write_category(one_category, "zinc")
    run = uadctl("fit", *small, "--json").json["run"]
    ended = uadctl("score", run, new, code=2)
    assert ended.err == (
        f"error: {run}: this run has 2 finished units; choose one\n"
        "  --category tile --label vision_patchcore --seed 0\n"
        "  --category zinc --label vision_patchcore --seed 0\n"
    )
    assert uadctl("score", run, new / "a_good.png", "--category", "zinc", "--json").lines[0]["status"] == "ok"
    assert "none of them is the one asked for" in uadctl("score", run, new, "--category", "brass", code=2).err


def test_a_run_without_a_threshold_gives_null_verdicts(uadctl, tmp_path, new):
    parts.write(tmp_path / "good" / "only.png", parts.surface(0))
    run = uadctl("fit", "--good", "good", "--json").json["run"]
    ended = uadctl("score", run, new / "a_good.png", "--json")
    (line,) = ended.lines
    assert line["score"] is not None
    assert (line["threshold"], line["verdict"], line["regions"]) == (None, None, None)
    assert ended.err == (
        "warning: this run has no threshold, verdicts are null: 1 training image leaves no other to compare it with\n"
    )
    assert "--fail-on-anomaly needs a threshold" in uadctl("score", run, new, "--fail-on-anomaly", code=2).err
    assert "--masks needs a pixel threshold" in uadctl("score", run, new, "--masks", "m", code=2).err
    assert uadctl("score", run, new / "a_good.png", "--threshold", "0.001", "--json").lines[0]["verdict"] == "anomaly"


def test_a_folder_that_is_no_run_and_a_damaged_model(uadctl, finished, new, tmp_path):
    ended = uadctl("score", new, new, code=2)
    assert ended.err.startswith(f"error: {new}: not a run folder: spec.toml and run.json are expected in it\n")
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    file = copy / "units/tile/vision_patchcore/0/model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    damaged = f"error: {file}: damaged: not the file that was written with model.json: its SHA-256 is another\n"
    assert uadctl("score", copy, new, code=2).err == damaged
    turned = bytearray((finished / file.relative_to(copy)).read_bytes())
    turned[-1000] ^= 1
    file.write_bytes(turned)
    assert uadctl("score", copy, new, code=2).err == damaged
    file.unlink()
    assert uadctl("score", copy, new, code=2).err.startswith(f"error: {file}: damaged or absent: ")
    file.write_bytes(bytes(turned))
    model = file.with_name("model.json")
    model.write_text('{"schema": 2}')
    assert "written by another version of uadctl: schema 1 is expected" in uadctl("score", copy, new, code=2).err


@pytest.mark.parametrize("name", ["model/model.json", "thresholds.json"])
def test_a_damaged_document_is_named(uadctl, finished, new, tmp_path, name):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "units/tile/vision_patchcore/0" / name).write_text('{"schema": 1}')
    ended = uadctl("score", copy, new, code=2)
    assert re.match(rf"error: {copy}/units/tile/vision_patchcore/0/{name}: damaged: .*(is missing|'params')", ended.err)


def test_many_broken_files_come_out_one_by_one(finished, tmp_path):
    lines = score(load_run(finished, device="cpu"), [str(tmp_path / f"absent{i}.png") for i in range(200)])
    assert next(lines).status == "error"
    assert sum(1 for line in lines if line.status == "error") == 199


def test_broken_files_keep_their_place_among_good_ones(finished, new):
    images = []
    for i in range(40):
        images += [str(new / "a_good.png")] if i % 5 == 0 else [str(new / f"absent{i}.png")]
    lines = list(score(load_run(finished, device="cpu"), images))
    assert [x.path for x in lines] == images
    assert [x.status for x in lines] == ["ok" if i % 5 == 0 else "error" for i in range(40)]


def test_images_are_never_written_over(uadctl, finished, new):
    before = {p: p.read_bytes() for p in new.rglob("*") if p.is_file()}
    for option in ("--maps", "--masks"):
        ended = uadctl("score", finished, new, option, new, code=2)
        assert ended.err.startswith(f"error: {option} {new}: lies inside {new}, which is scored\n")
        assert "lies inside" in uadctl("score", finished, new, option, new / "deeper" / "out", code=2).err
    ended = uadctl("score", finished, new / "a_good.png", "--masks", new, code=2)
    assert ended.err.startswith(f"error: --masks {new}: would write over {new}/a_good.png, which is scored\n")
    assert {p: p.read_bytes() for p in new.rglob("*") if p.is_file()} == before
    uadctl("score", finished, new / "a_good.png", "--maps", new)
    assert (new / "a_good.tiff").is_file()


def test_a_score_printed_for_people_given_back_is_anomalous_too(uadctl, finished, new):
    image = new / "a_good.png"
    printed = uadctl("score", finished, image).out.split()[1]
    assert uadctl("score", finished, image, "--threshold", printed).out.startswith("anomaly ")


def test_odd_images_are_scored_or_have_a_reason(uadctl, finished, tmp_path):
    folder = tmp_path / "odd"
    parts.write(folder / "1x1.png", np.zeros((1, 1, 3), np.uint8))
    parts.write(folder / "grey16.png", (parts.surface(1)[:, :, 0].astype(np.uint16) * 257))
    parts.write(folder / "long.png", np.zeros((1, 3000, 3), np.uint8))
    parts.write(folder / "rgba.png", np.dstack([parts.surface(2), np.full((64, 64), 9, np.uint8)]))
    (folder / "empty.png").write_bytes(b"")
    tifffile.imwrite(folder / "nan.tiff", np.full((8, 8), np.nan, np.float32))
    lines = {Path(x["path"]).name: x for x in uadctl("score", finished, folder, "--json", code=1).lines}
    assert len(lines) == 6
    for name in ("1x1.png", "grey16.png", "long.png", "rgba.png"):
        assert lines[name]["status"] == "ok", lines[name]
        assert np.isfinite(lines[name]["score"])
    for name in ("empty.png", "nan.tiff"):
        assert lines[name]["status"] == "error"
        assert lines[name]["score"] is None
        assert lines[name]["reason"]


def test_maps_have_the_size_of_the_file(uadctl, finished, tmp_path):
    parts.write(tmp_path / "odd" / "wide.png", parts.surface(3, 50, 125))
    uadctl("score", finished, "odd/wide.png", "--maps", "m")
    assert tifffile.imread("m/wide.tiff").shape == (50, 125)


def test_names_that_are_not_utf8_keep_their_bytes(uadctl, finished, tmp_path):
    raw = os.fsencode(str(tmp_path / "odd")) + b"/caf\xe9 \n.png"
    parts.write(tmp_path / "odd" / "plain.png", parts.surface(3))
    (tmp_path / "odd" / "plain.png").rename(os.fsdecode(raw))
    (line,) = uadctl("score", finished, "odd", "--json").lines
    assert line["path"] == "odd/caf\\xe9 \n.png"
    assert base64.b64decode(line["path_b64"]) == b"odd/caf\xe9 \n.png"
    assert len(uadctl("score", finished, "odd").out.splitlines()) == 1


def test_files_of_one_name_from_two_folders_keep_their_own_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.png", "b/x.png", "b/y.png"):
        parts.write(tmp_path / name, parts.surface(0))
    assert [s.stem for s in find_sources(["a/x.png", "b"])] == ["a/x", "b/x", "y"]
    same_twice = find_sources(["../" + tmp_path.name + "/a/x.png", "a/x.png"])
    assert [s.stem for s in same_twice] == [f"{tmp_path.name}/a/x", "a/x"]
    assert [s.stem for s in find_sources(["../a/x.png", "a/x.png"])] == ["a/x.png", "a/x.png-2"]


def test_without_any_score_the_reason_is_true(uadctl, small, monkeypatch):
    from uadctl.models.patchcore import PatchCore

    monkeypatch.setattr(PatchCore, "_score_left_out", lambda *_: [])
    ended = uadctl("fit", *small, "--json")
    (unit,) = ended.json["units"]
    assert unit["threshold"]["value"] is None
    assert unit["threshold"]["reason"] == "no training image could be compared with another"
    (unit,) = uadctl("fit", *small, "--limit-train", "1", "--json").json["units"]
    assert unit["threshold"]["reason"] == "1 training image leaves no other to compare it with"


def test_the_python_way(finished, new):
    fitted = load_run(finished, device="cpu")
    lines = list(score(fitted, [str(new / "a_good.png")]))
    assert lines[0].verdict == "good"
    assert fitted.calibration.image.source == "leave-one-out"


def test_good_goes_without_a_spec(uadctl, small, tmp_path):
    (tmp_path / "good").mkdir()
    ended = uadctl("fit", "--good", "good", "--root", "x", code=2)
    assert ended.err == "error: --good names the images; it goes without a spec, --dataset and --root\n"
    assert uadctl("fit", "--good", "nowhere", code=2).err == "error: --good nowhere: no such folder\n"
    assert uadctl("fit", "--good", "good", code=2).err == "error: --good good: no images in this folder\n"
    image = parts.write(tmp_path / "good" / "0.png", parts.surface(0))
    assert uadctl("fit", "--good", image, code=2).err == f"error: --good {image}: is a file, expected a folder\n"
    assert uadctl("fit", "--good", "good", "--good", "good", code=2).err.startswith("error: --good is given twice\n")


def test_a_holdout_of_few_groups_that_takes_far_more_than_meant_is_said(uadctl, tmp_path):
    rows = ["path,split,defect,group"]
    for i in range(22):
        parts.write(tmp_path / f"{i:02}.png", parts.surface(i))
        rows.append(f"{i:02}.png,train,good,part {i % 2}")
    (tmp_path / "two.csv").write_text("\n".join(rows) + "\n")
    words = ["--dataset", "manifest", "--root", "two.csv", "--model", "patchcore", "--set", "preprocess.size=64"]
    ended = uadctl("fit", *words)
    assert ended.err.startswith(
        "warning: two · vision_patchcore: 11 of 22 training images are held out for the threshold, though a share of "
        "0.2 was meant: images of one group stay together, and the groups are few or of many sizes\n"
    )
