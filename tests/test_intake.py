"""The way of an image to a detector and back: geometry, camera, tiles, postprocessing, in memory and out of it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import parts
import pytest
import tifffile

from uadctl import inference, intake
from uadctl.errors import DataError
from uadctl.imaging.camera import Camera
from uadctl.imaging.geometry import Geometry
from uadctl.imaging.maps import AnomalyMapPostprocess
from uadctl.imaging.raster import StoredMap
from uadctl.inference import stream
from uadctl.intake import Augmentation, Intake, Learned, training_images
from uadctl.records import Box, Prediction, Size, Step, Tiling

WHOLE = Geometry(size=None)


class Brightness:
    """Each pixel's map value is its red channel over 255, the score the highest of them."""

    images_per_batch = 3

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        self.shown += images
        maps = [image[..., 0].astype(np.float32) / 255 for image in images]
        return [Prediction(float(field.max()), field) for field in maps]


def scored(detector, sources, **options):
    return [(item.prediction, item.image, item.error) for item in stream(detector, sources, **options)]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (*shape, 3)).astype(np.uint8)


# --- where a pixel is


@pytest.mark.parametrize("tiling", [None, Tiling(32, 20), Tiling(48, 48, "hann"), Tiling(40, 13, "max")])
@pytest.mark.parametrize(
    "geometry", [WHOLE, Geometry(size=64), Geometry(size=None, resize=Size(50, 70)), Geometry(size=96, stride=8)]
)
def test_a_defect_peaks_where_it_is_in_the_file(tiling, geometry):
    """Sizes, resizes, tiles and regions of interest; the defect is as large as a pixel that is looked at."""
    tried = 0
    for size, roi in itertools.product(
        [Size(64, 64), Size(61, 127), Size(130, 47)], [None, "box:5,3,60,44", "polygon:0,0 0,46 60,40 60,2"]
    ):
        camera = Camera.of(roi=roi)
        for y, x in [(12, 9), (33, 21), (41, 38)]:
            image = np.zeros((*size, 3), np.uint8)
            image[y - 2 : y + 3, x - 2 : x + 3] = 255
            ((said, _, _),) = scored(
                Brightness(), [image], intake=Intake(camera=camera, geometry=geometry, tiling=tiling)
            )
            assert said.map.shape == size
            peak = np.nanmax(said.map)
            centre = np.argwhere(said.map >= 0.9 * peak).mean(axis=0)
            assert peak > 0.5
            assert np.abs(centre - (y, x)).max() <= 1.5, (size, roi, (y, x), centre)
            tried += 1
    assert tried == 27


def test_a_crop_leaves_out_what_lies_outside():
    image = noise(60, 80)
    ((said, _, _),) = scored(Brightness(), [image], intake=Intake(geometry=Geometry(size=None, crop=Size(20, 30))))
    wanted = image[..., 0].astype(np.float32) / 255
    assert np.array_equal(said.map[20:40, 25:55], wanted[20:40, 25:55])
    assert np.isnan(said.map).sum() == 60 * 80 - 20 * 30


# --- tiles


@pytest.mark.parametrize("reduce", ["mean", "max", "hann"])
@pytest.mark.parametrize("size", [(64, 64), (65, 130), (20, 90), (7, 5)])
def test_tiles_of_a_pixelwise_detector_are_the_whole_image(reduce, size):
    image = noise(*size)
    (whole,) = scored(Brightness(), [image], intake=Intake(geometry=WHOLE))
    (tiled,) = scored(Brightness(), [image], intake=Intake(geometry=WHOLE, tiling=Tiling(32, 24, reduce)))
    assert np.allclose(tiled[0].map, whole[0].map, atol=1e-6, rtol=0)
    assert tiled[0].score == whole[0].score
    assert np.array_equal(tiled[1], image)


def test_the_score_is_the_highest_of_the_tiles_or_their_mean():
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = 255
    for name, wanted in (("max", 1.0), ("mean", 0.5)):
        tiling = Tiling(32, 32, score=name)
        ((said, _, _),) = scored(Brightness(), [image], intake=Intake(geometry=WHOLE, tiling=tiling))
        assert said.score == wanted


def test_tiles_go_to_the_detector_in_its_batches_and_as_large_as_they_are():
    detector = Brightness()
    sizes = []
    asked = detector.predict_batch
    detector.predict_batch = lambda images: (sizes.append(len(images)), asked(images))[1]
    scored(detector, [noise(64, 64), noise(10, 40)], intake=Intake(geometry=WHOLE, tiling=Tiling(32, 32)))
    assert sizes == [3, 1, 2]
    assert {image.shape for image in detector.shown} == {(32, 32, 3)}


def test_tiles_without_anything_that_counts_are_not_looked_at():
    detector = Brightness()
    camera = Camera.of(ignore=["box:0,0,32,64"])
    ((said, _, _),) = scored(
        detector, [noise(96, 64)], intake=Intake(camera=camera, geometry=WHOLE, tiling=Tiling(32, 32))
    )
    assert len(detector.shown) == 4
    assert np.isnan(said.map[:32]).all()
    assert np.isfinite(said.map[32:]).all()


def test_a_detector_without_maps_has_a_score_of_all_tiles():
    class Scores(Brightness):
        def predict_batch(self, images):
            return [Prediction(p.score) for p in super().predict_batch(images)]

    detector = Scores()
    ((said, _, _),) = scored(detector, [noise(64, 64)], intake=Intake(geometry=WHOLE, tiling=Tiling(32, 32)))
    assert said.map is None
    assert said.score == max(image[..., 0].max() for image in detector.shown) / np.float32(255)
    assert len(detector.shown) == 4


@pytest.mark.parametrize("tiling", [None, Tiling(32, 32)])
def test_a_broken_source_is_an_error_in_its_place(tiling, tmp_path):
    good = parts.write(tmp_path / "a.png", noise(40, 40))
    broken = tmp_path / "b.png"
    broken.write_bytes(good.read_bytes()[:-200])
    found = scored(Brightness(), [str(good), str(broken), str(good)], intake=Intake(geometry=WHOLE, tiling=tiling))
    assert [said is None for said, _, _ in found] == [False, True, False]
    assert str(found[1][2]).startswith(f"{broken}: ")
    assert found[1][1] is None


# --- beyond memory


@pytest.fixture
def all_are_large(monkeypatch, tmp_path):
    """Images of more than 1,000 pixels count as too large for memory; temporary maps lie in a folder of their own."""
    from uadctl.imaging import raster

    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(intake, "LARGE", 1000)
    monkeypatch.setattr(raster, "LARGE", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("roi", [None, "box:10,20,80,110"])
@pytest.mark.parametrize("postprocess", [None, AnomalyMapPostprocess(gaussian_sigma=2.0, normalize=(0.4, 0.2))])
def test_a_map_in_a_file_is_the_map_in_memory(all_are_large, tmp_path, roi, postprocess):
    image = noise(90, 130)
    file = tmp_path / "image.tiff"
    tifffile.imwrite(file, image, photometric="rgb", tile=(16, 32))
    intake = Intake(Camera.of(roi=roi), WHOLE, Tiling(32, 24, "hann"), postprocess)
    ((wanted, _, _),) = scored(Brightness(), [image], intake=intake, in_memory=True)
    seen = 0
    for item in stream(Brightness(), [str(file)], intake=intake):
        stored, picture = item.prediction.map, item.image
        assert isinstance(stored, StoredMap)
        assert item.size == Size(90, 130)
        assert np.array_equal(picture.read(Box(3, 4, 50, 60)), image[3:53, 4:64])
        assert np.array_equal(stored.read(Box.whole(item.size)), wanted.map, equal_nan=True)
        assert item.prediction.score == wanted.score
        intake.keep_map(tmp_path / "kept.tiff", stored)
        assert np.array_equal(tifffile.imread(tmp_path / "kept.tiff"), np.nan_to_num(wanted.map))
        seen += 1
    assert seen == 1
    assert list(all_are_large.iterdir()) == []


def test_nothing_is_left_behind_when_nobody_wants_the_rest(all_are_large, tmp_path):
    found = stream(Brightness(), [noise(90, 130), noise(90, 130)], intake=Intake(geometry=WHOLE, tiling=Tiling(32, 32)))
    next(found)
    assert len(list(all_are_large.iterdir())) == 1
    found.close()
    assert list(all_are_large.iterdir()) == []


def test_files_of_maps_are_zero_outside_of_the_roi_and_metrics_see_nan(tmp_path):
    image = np.full((40, 50, 3), 128, np.uint8)
    intake = Intake(Camera.of(roi="box:10,5,30,45", ignore=["box:12,7,14,9"]), WHOLE)
    ((said, _, _),) = scored(Brightness(), [image], intake=intake)
    inside = np.zeros((40, 50), bool)
    inside[10:30, 5:45] = True
    inside[12:14, 7:9] = False
    assert np.array_equal(np.isnan(said.map), ~inside)
    intake.keep_map(tmp_path / "map.tiff", said.map)
    kept = tifffile.imread(tmp_path / "map.tiff")
    assert np.array_equal(kept[inside], said.map[inside])
    assert not kept[~inside].any()


# --- what counts


@pytest.mark.parametrize("tiling", [None, Tiling(24, 16)])
@pytest.mark.parametrize("geometry", [WHOLE, Geometry(size=40)])
@pytest.mark.parametrize("steps", [(), ("gray_world",), ("clahe", "max_rgb")])
def test_pixels_that_do_not_count_change_nothing(tiling, geometry, steps):
    camera = Camera.of(roi="polygon:5,5 5,60 50,40", ignore=["box:20,20,30,30"], steps=steps)
    image = noise(64, 72)
    counts = camera.counts(Size(64, 72), Box(0, 0, 64, 72))
    other = np.where(counts[..., None], image, noise(64, 72, seed=1))
    assert (other != image).any()
    intake = Intake(camera, geometry, tiling)
    (one,), (two,) = (scored(Brightness(), [picture], intake=intake) for picture in (image, other))
    assert one[0].score == two[0].score
    assert np.array_equal(one[0].map, two[0].map, equal_nan=True)


# --- what is learned


def learned(sources, **options) -> tuple[list[np.ndarray], list[Learned]]:
    told: list[Learned] = []
    images = list(training_images(sources, learned=told.append, **options))
    return images, told


def test_an_image_is_learned_in_tiles_and_each_says_where_it_is_from():
    pictures = [noise(64, 64), noise(40, 64, seed=1)]
    images, told = learned(pictures, intake=Intake(geometry=WHOLE, tiling=Tiling(32, 32)))
    assert [item.source for item in told] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert not any(item.augmented for item in told)
    for image, item in zip(images, told, strict=True):
        y0, x0, height, width = item.tile
        assert np.array_equal(image[:height, :width], pictures[item.source][y0 : y0 + height, x0 : x0 + width])


def test_augmented_versions_follow_their_image_and_the_seed_makes_them():
    pictures = [noise(40, 40), noise(40, 40, seed=1)]
    steps = (Step("noise", (("sigma", 9.0),)),)

    def versions(seed: int):
        return learned(pictures, intake=Intake(geometry=WHOLE), augmentation=Augmentation(steps, 2, seed))

    images, told = versions(3)
    assert [(item.source, item.augmented) for item in told] == [
        (0, False),
        (0, True),
        (0, True),
        (1, False),
        (1, True),
        (1, True),
    ]
    assert np.array_equal(images[0], pictures[0])
    assert np.array_equal(images[3], pictures[1])
    assert len({image.tobytes() for image in images}) == 6
    assert [i.tobytes() for i in versions(3)[0]] == [i.tobytes() for i in images]
    assert [i.tobytes() for i in versions(4)[0]] != [i.tobytes() for i in images]


def test_a_broken_image_is_left_out_and_the_others_are_learned(tmp_path):
    good = parts.write(tmp_path / "a.png", noise(40, 40))
    broken = tmp_path / "b.png"
    broken.write_bytes(good.read_bytes()[:-200])
    paths = [str(good), str(broken), str(good)]
    intake = Intake(geometry=WHOLE, tiling=Tiling(32, 32))
    with pytest.raises(DataError, match="b.png"):
        list(training_images(paths, intake=intake))
    failed, done = [], []
    images = list(
        training_images(
            paths, intake=intake, on_error=lambda i, _: failed.append(i), on_source=lambda: done.append(None)
        )
    )
    assert (failed, len(done), len(images)) == ([1], 2, 8)


# --- a camera that has changed


@pytest.mark.parametrize("tiling", [None, Tiling(32, 32)])
def test_a_corruption_comes_before_the_steps_of_the_camera(tiling):
    told = []

    def darker(index: int, pixels: np.ndarray) -> np.ndarray:
        told.append(index)
        return pixels // 2

    images = [noise(40, 40), noise(40, 40, seed=1)]
    intake = Intake(geometry=WHOLE, tiling=tiling)
    found = scored(Brightness(), images, intake=intake, corrupt=darker)
    assert sorted(told) == [0, 1]
    for (said, shown, _), image in zip(found, images, strict=True):
        assert np.array_equal(shown, image // 2)
        assert np.allclose(said.map, (image[..., 0] // 2) / np.float32(255), atol=1e-6)


# --- files of maps


def test_a_scratch_file_is_named_so_that_people_know_it_and_gone_after_an_error():
    held: list[Path] = []

    def interrupted() -> None:
        with inference._scratch_file() as path:
            held.append(path)
            assert path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (path,) = held
    assert path.name.startswith("uadctl-map-")
    assert path.parent == Path(tempfile.gettempdir())
    assert not path.exists()
