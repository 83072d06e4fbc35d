"""Runs with [tiling], [augment], [preprocess] steps and roi, [postprocess]: from the spec to verdicts, and again later."""

from __future__ import annotations

import json
from pathlib import Path

import in_bands
import numpy as np
import parts
import pytest
import tifffile

from uadctl import cells as cells_module
from uadctl import create_model, intake, load_run
from uadctl.imaging import raster
from uadctl.imaging.files import read_mask
from uadctl.imaging.geometry import Geometry
from uadctl.inference import stream
from uadctl.intake import Intake
from uadctl.records import Tiling
from uadctl.thresholds import quantile_threshold

TILED = ("--set", "tiling.size=48", "--set", "tiling.stride=32")
DEMAND = ("--dataset", "mvtec", "--model", "vision_patchcore", "--device", "cpu")
UNIT = "units/tile/vision_patchcore/0"
PARAMS = ("--set", 'model.params.coreset="none"', "--set", "model.params.sigma=0.0")


@pytest.fixture
def tiles(tmp_path) -> Path:
    """A data set in MVTec AD's layout with the category tile, 96x80."""
    parts.write_category(tmp_path / "data", "tile", train=5, size=(96, 80))
    return tmp_path / "data"


def fitted_run(uadctl, root: Path, *words: str) -> Path:
    ended = uadctl("fit", *DEMAND, "--root", root, *words, "--json")
    return Path(ended.json["run"])


def thresholds(run: Path) -> dict:
    return json.loads((run / UNIT / "thresholds.json").read_text())


def train_paths(root: Path) -> list[str]:
    return [str(path) for path in sorted((root / "tile/train/good").iterdir())]


def test_tiled_thresholds_are_of_tiled_scores_by_models_without_the_image(uadctl, tiles):
    """P07: leave-one-image-out, tile by tile, against five models that were fitted without one image each."""
    run = fitted_run(uadctl, tiles, *TILED, *PARAMS)
    found = thresholds(run)
    assert found["tiling"] == {"size": 48, "stride": 32, "reduce": "mean", "score": "max"}
    intake = Intake(geometry=Geometry(size=48, stride=16), tiling=Tiling(48, 32))
    assert load_run(run).intake == intake
    wanted, paths = [], train_paths(tiles)
    from uadctl.intake import training_images

    for i, path in enumerate(paths):
        detector = create_model("vision_patchcore", device="cpu", coreset="none", sigma=0.0)
        detector.fit(training_images(paths[:i] + paths[i + 1 :], intake=intake), threshold=False)
        wanted += [item.prediction.score for item in stream(detector, [path], intake=intake)]
    assert len(wanted) == 5
    assert found["scores"] == pytest.approx(sorted(wanted), rel=1e-5)
    assert found["image"]["source"] == "leave-one-out"
    assert found["image"]["value"] == quantile_threshold(found["scores"], alpha=0.01)


def test_good_images_pass_and_a_scratch_is_found_in_its_place(uadctl, tiles, tmp_path):
    run = fitted_run(uadctl, tiles, *TILED)
    parts.write(tmp_path / "new/good.png", parts.surface(900, 96, 80))
    parts.write(tmp_path / "new/bad.png", parts.scratched(901, 96, 80)[0])
    bad, good = uadctl("score", run, tmp_path / "new", "--json", "--maps", tmp_path / "maps").lines
    assert (good["verdict"], bad["verdict"]) == ("good", "anomaly")
    field = tifffile.imread(tmp_path / "maps/bad.tiff")
    assert field.shape == (96, 80)
    y, x = np.unravel_index(field.argmax(), field.shape)
    assert 16 <= y < 36
    assert 20 <= x < 52
    assert bad["regions"][0]["peak"] == [y, x]


def test_another_tiling_than_the_calibrated_one_is_refused(uadctl, tiles, tmp_path):
    """P11."""
    run = fitted_run(uadctl, tiles, *TILED)
    image = train_paths(tiles)[0]
    same = ("--tile-size", 48, "--tile-stride", 32)
    assert uadctl("score", run, image, *same).out == uadctl("score", run, image).out
    ended = uadctl("score", run, image, "--tile-size", 64, "--tile-stride", 40, "--tile-reduce", "hann", code=2)
    assert ended.err == (
        "error: tiles of 64, stride 40, hann: the run was calibrated on tiles of 48, stride 32, mean, and its threshold "
        "says nothing of other scores\n"
        "  Calibrate it on good images that it has not learned: uadctl calibrate RUN --good DIR --tile-size 64 "
        "--tile-stride 40 --tile-reduce hann\n"
    )


def test_a_run_of_whole_images_is_calibrated_for_tiles(uadctl, tiles, tmp_path):
    """The trap of P07: the threshold of whole images flags tiles that are good."""
    run = fitted_run(uadctl, tiles)
    words = ("--tile-size", 48, "--tile-stride", 32)
    image = train_paths(tiles)[0]
    assert "calibrated on whole images" in uadctl("score", run, image, *words, code=2).err
    for i in range(6):
        parts.write(tmp_path / "new" / f"{i}.png", parts.surface(700 + i, 96, 80))
    before = thresholds(run)
    uadctl("calibrate", run, "--good", tmp_path / "new", *words)
    after = thresholds(run)
    assert before["tiling"] is None
    assert after["tiling"] == {"size": 48, "stride": 32, "reduce": "mean", "score": "max"}
    assert after["image"]["n"] == 6
    fitted = load_run(run)
    paths = sorted(str(p) for p in (tmp_path / "new").iterdir())
    scores = [i.prediction.score for i in stream(fitted.detector, paths, intake=fitted.intake)]
    assert after["scores"] == sorted(scores)
    lines = uadctl("score", run, tmp_path / "new", *words, "--json").lines
    assert [line["verdict"] for line in lines] == ["good"] * 6
    assert uadctl("calibrate", run, *words, code=2).err.startswith("error: ")


def test_learning_resized_images_holds_out_some_for_tiled_scores(uadctl, tmp_path):
    parts.write_category(tmp_path / "data", "tile", train=20, size=(64, 64))
    run = fitted_run(uadctl, tmp_path / "data", *TILED, "--set", 'tiling.fit="resized"')
    found = thresholds(run)
    assert (found["image"]["source"], found["image"]["n"]) == ("holdout", 4)
    model = json.loads((run / UNIT / "model/model.json").read_text())
    assert (model["learned_tiles"], model["preprocess"]["size"]) == (None, 256)
    assert load_run(run).intake.geometry == Geometry(size=48, stride=16)


def test_few_images_and_no_way_to_leave_one_out_is_no_threshold(uadctl, tiles):
    ended = uadctl("fit", *DEMAND, "--root", tiles, *TILED, "--set", 'tiling.fit="resized"', "--json")
    assert ended.json["units"][0]["threshold"]["value"] is None
    assert "5 training images are too few to hold some out (at least 20)" in ended.err


CAMERA = """
[dataset]
name = "mvtec"
root = "data"
[preprocess]
steps = ["gray_world", "clahe:clip_limit=1.5"]
roi = "polygon:0,0 0,79 95,79 95,0"
ignore = ["mask.png", "box:0,0,8,8"]
[augment]
steps = ["noise:sigma=4"]
copies = 2
[postprocess]
normalize = true
gaussian_sigma = 1.5
min_area = 12
hysteresis = 4.0
[model]
name = "vision_patchcore"
[run]
device = "cpu"
name = "camera"
"""


def test_a_run_keeps_its_camera_and_what_it_does_to_maps(uadctl, tiles, tmp_path):
    mask = np.zeros((96, 80), np.uint8)
    mask[80:90, 60:70] = 255
    parts.write(tmp_path / "mask.png", mask)
    (tmp_path / "camera.toml").write_text(CAMERA)
    ended = uadctl("bench", "camera.toml", "--json")
    run = Path(ended.json["run"])
    found = thresholds(run)
    assert found["image"]["source"] == "leave-one-out"
    assert found["image"]["n"] == 5
    pixel = found["pixel"]
    assert (pixel["mean"], pixel["std"]) == pytest.approx((0, 1), abs=1e-9)
    assert pixel["threshold"] == pytest.approx(3, abs=1e-6)
    assert pixel["normalize"][1] > 0
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["metrics"]["image_auroc"] == 1
    outside = (mask > 0) | (np.add.outer(np.arange(96) >= 8, np.arange(80) >= 8) == 0)
    assert cell["counts"]["pixels_left_out"] == 5 * outside.sum()
    (tmp_path / "mask.png").unlink()  # the run needs it no more
    fitted = load_run(run)
    image = tiles / "tile/test/scratch/000.png"
    (item,) = stream(fitted.detector, [str(image)], intake=fitted.intake)
    assert np.array_equal(np.isnan(item.prediction.map), outside)
    kept = tifffile.imread(run / UNIT / "maps/test/scratch/000.tiff")
    assert np.array_equal(kept, np.nan_to_num(item.prediction.map))
    (line,) = uadctl("score", run, image, "--json").lines
    assert line["score"] == item.prediction.score
    assert min(region["area"] for region in line["regions"]) >= 12


def test_the_same_spec_twice_gives_the_same_bytes(uadctl, tiles, tmp_path):
    parts.write(tmp_path / "mask.png", np.zeros((96, 80), np.uint8))
    (tmp_path / "camera.toml").write_text(CAMERA + "[tiling]\nsize = 48\n")
    runs = [Path(uadctl("bench", "camera.toml", "--json").json["run"]) for _ in range(2)]
    for name in ("metrics.json", f"{UNIT}/thresholds.json", f"{UNIT}/scores.csv", f"{UNIT}/model/model.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name


def test_augmented_versions_are_learned_and_not_counted_as_images(uadctl, tiles):
    plain = fitted_run(uadctl, tiles, *PARAMS)
    words = ("--set", 'augment.steps=["noise:sigma=6"]', "--set", "augment.copies=3")
    more = fitted_run(uadctl, tiles, *PARAMS, *words)
    from safetensors.numpy import load_file

    banks = [load_file(run / UNIT / "model/model.safetensors")["memory_bank"] for run in (plain, more)]
    assert len(banks[1]) == 4 * len(banks[0])
    assert thresholds(more)["image"]["n"] == 5
    # Leaving out an image leaves out its versions: else every score would be that of a copy, next to nothing.
    assert min(thresholds(more)["scores"]) > 0.5 * min(thresholds(plain)["scores"])
    timing = json.loads((more / "timing.json").read_text())
    assert timing["units"][0]["train_images"] == 5


# --- files that [preprocess] names


def test_files_that_are_not_there_are_named_before_anything_else(uadctl, tiles):
    words = ("--set", 'preprocess.roi="nomask.png"', "--set", 'preprocess.steps=["flat_field:reference=nowhere"]')
    ended = uadctl("bench", *DEMAND, "--root", tiles, *words, "--dry-run", code=2)
    here = Path.cwd()
    assert ended.err == (
        f"error: [preprocess] roi: {here / 'nomask.png'}: no such file\n"
        f"error: [preprocess] steps[0]: {here / 'nowhere'}: no such file\n"
    )


def test_a_run_is_not_resumed_with_another_mask(uadctl, tiles, tmp_path):
    mask = np.full((96, 80), 255, np.uint8)
    parts.write(tmp_path / "roi.png", mask)
    words = (*DEMAND, "--root", tiles, "--set", 'preprocess.roi="roi.png"', "--set", "run.seeds=[0,1]")
    run = Path(uadctl("bench", *words, "--json").json["run"])
    (run / "units/tile/vision_patchcore/1/status").write_text("started")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    uadctl("bench", "--resume", run)
    (run / "units/tile/vision_patchcore/1/status").write_text("started")
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    mask[:40] = 0
    parts.write(tmp_path / "roi.png", mask)
    assert (
        "or the files that [preprocess] names, are not those that it began with"
        in uadctl("bench", "--resume", run, code=None).err
    )


# --- what goes together, and what does not


def test_padim_knows_places_and_is_not_shown_others(uadctl, tiles, tmp_path):
    padim = ("--dataset", "mvtec", "--model", "vision_padim", "--device", "cpu", "--root", tiles)
    ended = uadctl("fit", *padim, *TILED, "--set", 'tiling.fit="resized"', code=2)
    assert ended.err == (
        'error: [model] vision_padim: [tiling] fit = "resized" cannot be: it learns what each place of the whole image '
        "looks like, and a tile is another place\n"
        '  Take fit = "tiles", or another model.\n'
    )
    run = Path(uadctl("fit", *padim, "--json").json["run"])
    new = parts.write(tmp_path / "new.png", parts.surface(700, 96, 80))
    ended = uadctl("calibrate", run, "--good", new, "--tile-size", 48, code=2)
    assert ended.err == (
        "error: tile / vision_padim / seed 0: tiles of 48, stride 36, mean: vision_padim has learned what each place of "
        "the whole image looks like, and a tile is another place\n"
    )


def test_a_cropped_run_is_not_cut_into_tiles(uadctl, tiles, tmp_path):
    run = fitted_run(uadctl, tiles, "--set", "preprocess.resize=[64,64]", "--set", "preprocess.crop=[32,32]")
    new = parts.write(tmp_path / "new.png", parts.surface(700, 96, 80))
    ended = uadctl("calibrate", run, "--good", new, "--tile-size", 32, code=2)
    assert ended.err == (
        "error: tile / vision_patchcore / seed 0: tiles of 32, stride 24, mean: a crop of every tile would leave gaps "
        "between them; the run has [preprocess] crop\n"
    )


def test_what_is_left_out_of_a_tiling_is_as_in_the_run(uadctl, tiles, tmp_path):
    words = ("--set", 'tiling.reduce="hann"', "--set", 'tiling.score="mean"')
    run = fitted_run(uadctl, tiles, *TILED, *words)
    image = train_paths(tiles)[0]
    assert uadctl("score", run, image, "--tile-size", 48).out == uadctl("score", run, image).out
    parts.write(tmp_path / "new/a.png", parts.surface(700, 96, 80))
    uadctl("calibrate", run, "--good", tmp_path / "new", "--tile-size", 48)
    assert thresholds(run)["tiling"] == {"size": 48, "stride": 32, "reduce": "hann", "score": "mean"}


def test_tiles_of_another_size_keep_the_magnification_that_was_learned(uadctl, tiles):
    run = fitted_run(uadctl, tiles, "--set", "tiling.size=32", "--set", "preprocess.size=64")
    fitted = load_run(run)
    assert fitted.intake.geometry == Geometry(size=64, stride=16)
    assert fitted.tiled(Tiling(48, 48)).intake.geometry == Geometry(size=96, stride=16)
    assert fitted.tiled(Tiling(32, 8)).intake.geometry == Geometry(size=64, stride=16)
    run = fitted_run(uadctl, tiles, "--set", "tiling.size=32", "--set", "preprocess.resize=[48,64]")
    assert load_run(run).tiled(Tiling(64, 64)).intake.geometry == Geometry(resize=(96, 128), stride=16)


def test_tiles_that_cannot_keep_their_pixels_are_told_of(uadctl, tiles):
    ended = uadctl("fit", *DEMAND, "--root", tiles, "--set", "tiling.size=50", "--json")
    assert (
        "warning: vision_patchcore: tiles of 50 are shown at 48x48: the sides must be multiples of 16, the backbone's "
        "stride; with such a tile, pixels are kept as they are\n"
    ) in ended.err
    assert "are shown at" not in uadctl("fit", *DEMAND, "--root", tiles, *TILED, "--json").err


def test_a_model_without_maps_says_that_postprocessing_does_nothing(uadctl, tiles):
    words = ("--dataset", "mvtec", "--model", "vision_knn", "--device", "cpu", "--root", tiles)
    ended = uadctl("bench", *words, "--set", "postprocess.min_area=20", "--json")
    assert "tile · vision_knn: [postprocess] has no effect: the model makes no maps\n" in ended.err


def test_an_image_that_breaks_in_the_middle_has_no_part_in_the_threshold(uadctl, tiles):
    """Its first tiles can be read; the score of an image comes of all of them."""
    broken = tiles / "tile/train/good/002.tiff"
    (tiles / "tile/train/good/002.png").unlink()
    tifffile.imwrite(broken, parts.surface(2, 96, 80), photometric="rgb", tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(broken) as file:
        at, length = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    data = bytearray(broken.read_bytes())
    data[at : at + length] = bytes(length)
    broken.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uadctl.intake.LARGE", 1000)
        run = fitted_run(uadctl, tiles, *TILED, "--set", 'dataset.on_error="skip"')
    assert thresholds(run)["image"]["n"] == 4
    timing = json.loads((run / "timing.json").read_text())
    assert timing["units"][0]["train_images"] == 4


LARGE = """
[dataset]
name = "mvtec"
root = "data"
[preprocess]
{camera}
[tiling]
size = 48
stride = 32
[model]
name = "vision_patchcore"
[model.params]
coreset = "none"
[metrics]
fpr_limits = [0.3, 0.05]
protocol = "{protocol}"
bootstrap = 30
[run]
device = "cpu"
name = "large"
threads = 1
"""
LOOKED_AT = """
roi = "roi.tiff"
ignore = ["ignore.png"]
"""


@pytest.fixture
def scenes(tmp_path) -> Path:
    """The category tile, 96x80, whose masks are TIFFs of tiles, of strips, packed, and a PNG; one shows nothing."""
    home = parts.write_category(tmp_path / "data", "tile", train=4, bad=5, size=(96, 80))
    truth = home / "ground_truth/scratch"
    files = sorted(truth.iterdir())
    masks = [read_mask([file]) for file in files]
    masks[3][:] = 0
    masks[4][60:70, 5:9] = 1
    options = [{"tile": (16, 32)}, {"rowsperstrip": 7}, {"tile": (32, 16), "compression": "zlib"}, {"tile": (16, 16)}]
    for file, mask, option in zip(files, masks, options, strict=False):
        file.unlink()
        tifffile.imwrite(file.with_suffix(".tiff"), mask, photometric="minisblack", **option)
    parts.write(files[4], masks[4])
    assert sorted(path.suffix for path in truth.iterdir()) == [".png", ".tiff", ".tiff", ".tiff", ".tiff"]
    area = np.zeros((96, 80), np.uint8)
    area[3:90, 2:77] = 1
    tifffile.imwrite(tmp_path / "roi.tiff", area, photometric="minisblack", tile=(16, 32))
    column = np.zeros((96, 80), np.uint8)
    column[:, 50] = 255
    parts.write(tmp_path / "ignore.png", column)
    return tmp_path


@pytest.mark.parametrize("camera", ["", LOOKED_AT], ids=["all", "roi"])
@pytest.mark.parametrize("protocol", ["mvtec_ad", "mvtec_ad2"])
def test_masks_of_images_too_large_for_memory_are_measured_as_in_memory(uadctl, scenes, protocol, camera, monkeypatch):
    (scenes / "large.toml").write_text(LARGE.format(protocol=protocol, camera=camera))
    whole = uadctl("bench", "large.toml", "--json")
    monkeypatch.setattr(raster, "LARGE", 1000)
    monkeypatch.setattr(intake, "LARGE", 1000)
    in_bands.use_bands(monkeypatch, 40)
    opened = []

    def noted(paths, *, size):
        opened.append(raster.open_mask(paths, size=size))
        return opened[-1]

    monkeypatch.setattr(cells_module, "open_mask", noted)
    monkeypatch.setattr(cells_module, "read_mask", None)
    stored = uadctl("bench", "large.toml", "--json")
    runs = [Path(ended.json["run"]) for ended in (whole, stored)]
    for name in ("metrics.json", f"{UNIT}/thresholds.json", f"{UNIT}/scores.csv", f"{UNIT}/model/model.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name
    files = [sorted(p.relative_to(run) for p in run.rglob("*") if p.suffix in (".tiff", ".png")) for run in runs]
    assert files[0] == files[1]
    assert len(files[0]) == 14
    for name in files[0]:
        if name.suffix == ".png":
            assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name
        else:
            maps = [tifffile.imread(run / name) for run in runs]
            assert maps[0].dtype == np.float32
            assert np.array_equal(*maps), name
    assert whole.err == stored.err
    assert whole.err == (
        f"warning: {scenes}/data/tile/ground_truth/scratch/003_mask.tiff: no pixel is above 0, so the pixels of "
        f"{scenes}/data/tile/test/scratch/003.png count as good\n"
    )
    cell = stored.json["results"]["tile"]["vision_patchcore"]["0"]
    assert cell["counts"]["pixel_images"] == 7
    assert cell["counts"]["regions"] == 5
    assert cell["metrics"]["pixel_auroc"] > 0.9
    # In files too: the last mask alone is a PNG, which is decoded whole.
    assert [type(mask).__name__ for mask in opened] == ["FileRaster"] * 4 + ["ArrayRaster"]
    for mask in opened[:4]:
        with pytest.raises(ValueError, match=r"^the file is closed$"):
            mask.read(raster.Box(0, 0, 1, 1))


def test_a_broken_mask_of_an_image_too_large_for_memory_is_told_before_it_counts(uadctl, scenes, monkeypatch):
    path = scenes / "data/tile/ground_truth/scratch/002_mask.tiff"
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    data = bytearray(path.read_bytes())
    data[start : start + count] = bytes(count)
    path.write_bytes(data)
    monkeypatch.setattr(raster, "LARGE", 1000)
    monkeypatch.setattr(intake, "LARGE", 1000)
    (scenes / "large.toml").write_text(LARGE.format(protocol="mvtec_ad", camera=""))
    ended = uadctl("bench", "large.toml", "--set", "dataset.on_error=skip", "--json")
    cell = ended.json["results"]["tile"]["vision_patchcore"]["0"]
    counts = cell["counts"]
    assert (counts["images"], counts["pixel_images"], counts["defect_images_without_mask"]) == (7, 6, 1)
    told = f"{path}: truncated or damaged TIFF"
    assert f"warning: left out of the pixel metrics: {told}" in ended.err
    assert f"error: tile / vision_patchcore: {told}" in uadctl("bench", "large.toml", code=1).err
    checked = uadctl("datasets", "check", "large.toml", code=None)
    assert told in checked.err + checked.out
