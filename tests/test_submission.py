"""Submissions to MVTec AD 2's evaluation server: the files of every private image, and the check of all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import parts
import pytest
import tifffile
import trees_mvtec

from uadctl import load_run
from uadctl import submission as module
from uadctl.errors import DataError, Problem, RunError, SpecError
from uadctl.imaging.files import write_map
from uadctl.imaging.geometry import Geometry
from uadctl.models.patchcore import PatchCore
from uadctl.progress import Silent
from uadctl.records import Prediction
from uadctl.runs.fitted import Calibration, Fitted, PixelScale
from uadctl.submission import (
    OBJECTS,
    SPLITS,
    ObjectReport,
    PrivateImage,
    SplitReport,
    SubmissionPart,
    check_submission,
    private_categories,
    private_images,
    write_submission,
)
from uadctl.thresholds import Threshold

LIGHT = {"test_private": "regular", "test_private_mixed": "mixed"}
MAP = "anomaly_images/can/test_private/001_regular.tiff"
PNG = "anomaly_images_thresholded/can/test_private/001_regular.png"
AGAIN = "Write it again: uadctl bench SPEC --submission DIR"
REFUSED = "Remove it: MVTec's check before the upload refuses whatever is not part of a submission."


@dataclass
class Reds:
    """A detector whose map is the red channel, times something and plus something."""

    times: float = 1.0
    plus: float = 0.0
    maps: bool = True
    images_per_batch: int = 2

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        fields = [image[..., 0].astype(np.float32) * np.float32(self.times) + np.float32(self.plus) for image in images]
        return [Prediction(float(field.max()), field if self.maps else None) for field in fields]


def fitted(detector: object = None, *, mean: float = 8.0, std: float = 2.0, threshold: float = 150.0, crop=None):
    pixel = PixelScale(mean, std, mean + 3 * std, threshold, 100)
    calibration = Calibration(Threshold(value=None, reason="not needed here"), pixel, ())
    return Fitted("reds", {}, detector or Reds(), Geometry(size=None, crop=crop), calibration)


def private(root: Path, *categories: str, images: int = 2, size=(12, 20)) -> str:
    """Private splits with images whose red channel is of 0 to 100 at the left, and 200 at the right of the last."""
    for category in categories or ("can",):
        for split, light in LIGHT.items():
            for i in range(images):
                pixels = np.zeros((*size, 3), np.uint8)
                pixels[:, :8, 0] = np.random.default_rng([i, len(light)]).integers(0, 100, (size[0], 8))
                if i == images - 1:
                    pixels[2:5, 10:, 0] = 200
                parts.write(root / category / split / f"{i:03}_{light}.png", pixels)
    return str(root)


@pytest.fixture
def root(tmp_path) -> str:
    return private(tmp_path / "ad2", "can", "rice")


@pytest.fixture
def made(tmp_path, root) -> Path:
    """A faultless submission of the two objects of `root`."""
    for category in ("can", "rice"):
        write_submission(str(tmp_path / "sub"), root=root, category=category, fitted=fitted())
    return tmp_path / "sub"


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def said(problems, *folders: object) -> list[str]:
    messages = [problem.message for problem in problems]
    for folder in folders:
        messages = [message.replace(f"{folder}/", "") for message in messages]
    return messages


# --- writing


def test_every_private_image_gets_its_two_files_and_nothing_else_is_written(tmp_path, root):
    part = write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=fitted())
    assert part == SubmissionPart("can", images=4, called=2, threshold=150.0, exponent=0)
    assert list(files(tmp_path / "sub")) == [
        "anomaly_images/can/test_private/000_regular.tiff",
        "anomaly_images/can/test_private/001_regular.tiff",
        "anomaly_images/can/test_private_mixed/000_mixed.tiff",
        "anomaly_images/can/test_private_mixed/001_mixed.tiff",
        "anomaly_images_thresholded/can/test_private/000_regular.png",
        "anomaly_images_thresholded/can/test_private/001_regular.png",
        "anomaly_images_thresholded/can/test_private_mixed/000_mixed.png",
        "anomaly_images_thresholded/can/test_private_mixed/001_mixed.png",
    ]
    for image in private_images(root, "can"):
        red = cv2.imread(image.path)[..., 2]
        file = tmp_path / "sub/anomaly_images/can" / image.split / f"{image.stem}.tiff"
        with tifffile.TiffFile(file) as tiff:
            assert (len(tiff.pages), tiff.pages[0].compression, tiff.pages[0].description) == (1, 1, "")
        scores = tifffile.imread(file)
        assert (scores.dtype, scores.shape) == (np.float16, (12, 20))
        assert np.array_equal(scores, red)
        thresholded = cv2.imread(
            str(tmp_path / "sub/anomaly_images_thresholded/can" / image.split / f"{image.stem}.png"),
            cv2.IMREAD_UNCHANGED,
        )
        assert (thresholded.dtype, thresholded.shape) == (np.uint8, (12, 20))
        assert np.array_equal(thresholded, np.where(red >= 150, 255, 0))


@pytest.mark.parametrize(
    ("score", "threshold", "rounded", "verdict"),
    [(200.03, 200.02, 200.0, 255), (200.07, 200.1, 200.125, 0), (200.0, 200.0, 200.0, 255)],
)
def test_the_threshold_is_met_before_the_map_is_rounded(tmp_path, score, threshold, rounded, verdict):
    """At 200 float16 has steps of 1/8: rounding would move a pixel to the other side. One at the threshold is over it."""
    root = private(tmp_path / "ad2")
    given = fitted(Reds(plus=score - 200), threshold=threshold)
    write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=given)
    assert float(tifffile.imread(tmp_path / "sub" / MAP)[3, 12]) == rounded
    assert cv2.imread(str(tmp_path / "sub" / PNG), cv2.IMREAD_UNCHANGED)[3, 12] == verdict


def test_writing_again_replaces_the_same_names_and_leaves_the_rest(tmp_path, root, made):
    before = files(made)
    (made / "notes.txt").write_text("mine")
    victim = made / "anomaly_images/can/test_private/000_regular.tiff"
    victim.write_bytes(b"old")
    write_submission(str(made), root=root, category="can", fitted=fitted())
    assert files(made) == before | {"notes.txt": b"mine"}


def test_a_map_at_another_size_is_brought_to_the_image(tmp_path, root):
    shrunk = Fitted("reds", {}, Reds(), Geometry(size=None, resize=(6, 10)), fitted().calibration)
    write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=shrunk)
    assert tifffile.imread(tmp_path / "sub/anomaly_images/can/test_private/000_regular.tiff").shape == (12, 20)


def test_images_that_cannot_be_read_are_all_named_and_the_others_written(tmp_path, root):
    broken = [
        Path(root) / "can" / name for name in ("test_private/000_regular.png", "test_private_mixed/001_mixed.png")
    ]
    broken[0].write_bytes(b"no picture")
    broken[1].write_bytes(b"")
    folder = str(tmp_path / "sub")
    with pytest.raises(DataError) as caught:
        write_submission(folder, root=root, category="can", fitted=fitted())
    assert [(p.message, p.help) for p in caught.value.problems] == [
        (f"{broken[0]}: not a PNG, JPEG, BMP, TIFF or WebP file", None),
        (
            f"{broken[1]}: the file is empty (0 bytes)",
            f"Replace them and write it again: {folder} is not complete without their maps.",
        ),
    ]
    assert sorted(p.stem for p in Path(folder).rglob("*.tiff")) == ["000_mixed", "001_regular"]


def test_a_model_that_leaves_out_pixels_is_refused_with_its_reason(tmp_path, root):
    first = f"{root}/can/test_private/000_regular.png"
    with pytest.raises(DataError) as caught:
        write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=fitted(crop=(10, 20)))
    assert caught.value.message == (
        f"{first}: 40 of 240 pixels have no finite score, and a submission covers every pixel"
    )
    assert caught.value.help == "Leave out [preprocess] crop."
    with pytest.raises(DataError) as caught:
        write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=fitted(Reds(plus=np.inf)))
    assert caught.value.problems[0] == Problem(f"{first}: the model gave the score inf")
    assert len(caught.value.problems) == 4
    assert not (tmp_path / "sub").exists()


def test_a_crop_that_cuts_nothing_is_no_obstacle(tmp_path, root):
    part = write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=fitted(crop=(12, 20)))
    assert part.images == 4


def test_a_model_without_maps_or_threshold_is_refused(tmp_path, root):
    with pytest.raises(RunError) as caught:
        write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=fitted(Reds(maps=False)))
    assert caught.value.message == (
        f"{root}/can/test_private/000_regular.png: reds makes no map, and a submission needs one of each image"
    )
    bare = Fitted("reds", {}, Reds(), Geometry(size=None), Calibration(fitted().calibration.image, None, ()))
    with pytest.raises(RunError) as caught:
        write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=bare)
    assert caught.value.message == "can: the model has no pixel threshold, and a submission needs one"
    assert caught.value.help == "It comes from the maps of normal images; thresholds.json says why there is none."


def test_private_images_are_those_of_both_splits_and_must_be_there(tmp_path, root):
    assert private_images(root, "rice")[1:3] == [
        PrivateImage(f"{root}/rice/test_private/001_regular.png", "test_private", "001_regular"),
        PrivateImage(f"{root}/rice/test_private_mixed/000_mixed.png", "test_private_mixed", "000_mixed"),
    ]
    assert private_categories(root) == ["can", "rice"]
    (Path(root) / "can/test_private/readme.txt").write_text("no image")
    assert len(private_images(root, "can")) == 4
    assert [image.stem for image in private_images(f"{root}/can", "can")] == [
        image.stem for image in private_images(root, "can")
    ]
    shutil.copy(f"{root}/can/test_private/000_regular.png", f"{root}/can/test_private/000_regular.PNG")
    with pytest.raises(DataError) as caught:
        private_images(root, "can")
    assert caught.value.message == (
        f"{root}/can/test_private/000_regular.PNG and {root}/can/test_private/000_regular.png: "
        "both would be 000_regular.tiff"
    )
    shutil.rmtree(f"{root}/rice/test_private_mixed")
    with pytest.raises(DataError) as caught:
        private_images(root, "rice")
    assert caught.value.message == f"{root}/rice/test_private_mixed: no such folder"
    Path(f"{root}/rice/test_private_mixed").mkdir()
    with pytest.raises(DataError) as caught:
        private_images(root, "rice")
    assert caught.value.message == f"{root}/rice/test_private_mixed holds no image"
    assert private_categories(f"{root}/rice") == ["rice"]  # an object's own folder
    with pytest.raises(DataError) as caught:
        private_categories(f"{root}/rice/test_private")
    assert caught.value.message == (
        f"{root}/rice/test_private holds no private images: expected {root}/rice/test_private/<object>/test_private"
    )


# --- float16


@pytest.mark.parametrize(
    ("times", "exponent"),
    [(1.0, 0), (9.1, 0), (9.2, -7), (0.00112, 0), (0.0011, 7), (0.0005, 8), (1e6, -23), (1e-6, 17)],
)
def test_scores_that_float16_would_not_hold_are_moved_by_a_power_of_two(tmp_path, times, exponent):
    """Normal pixels, mean + 3 std = 14 times `times`, are written as they are from 1/64 up to 128."""
    root = private(tmp_path / "ad2")
    given = fitted(Reds(times=times), mean=8 * times, std=2 * times, threshold=150 * times)
    progress = Silent()
    part = write_submission(str(tmp_path / "sub"), root=root, category="can", fitted=given, progress=progress)
    assert (part.exponent, part.called, progress.warnings) == (exponent, 2, [])
    for image in private_images(root, "can"):
        file = tmp_path / "sub/anomaly_images/can" / image.split / f"{image.stem}.tiff"
        scores = cv2.imread(image.path)[..., 2].astype(np.float32) * np.float32(times)
        stored = tifffile.imread(file)
        assert stored.dtype == np.float16
        assert np.array_equal(stored, np.ldexp(scores, exponent).astype(np.float16))
        with tifffile.TiffFile(file) as tiff:
            assert tiff.pages[0].description == ("" if exponent == 0 else f"scores times 2**{exponent}")
        # Only as many ties as 11 bits make: the 256 values of the image stay apart.
        assert len(np.unique(stored)) == len(np.unique(scores))
    assert check_submission(str(tmp_path / "sub"), root=root).ok


def test_a_score_beyond_what_normal_pixels_let_expect_is_kept_by_scoring_again(tmp_path):
    root = private(tmp_path / "ad2")
    progress = Silent()
    part = write_submission(
        str(tmp_path / "sub"), root=root, category="can", fitted=fitted(Reds(times=1000.0)), progress=progress
    )
    assert progress.warnings == [
        "can: a score of 200000 is far above those of normal images; all are scored again, to be written times 2**-3"
    ]
    assert part.exponent == -3
    for file in (tmp_path / "sub/anomaly_images").rglob("*.tiff"):
        assert tifffile.imread(file).max() <= 200_000 / 8
    assert tifffile.imread(tmp_path / "sub/anomaly_images/can/test_private/001_regular.tiff").max() == 25_000
    assert check_submission(str(tmp_path / "sub"), root=root).ok


def test_an_interruption_never_leaves_maps_of_two_scales(tmp_path):
    @dataclass
    class Interrupted(Reds):
        batches: int = 0

        def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
            self.batches += 1
            if self.batches == 4:  # the second half of the second time
                raise KeyboardInterrupt
            return super().predict_batch(images)

    root, folder = private(tmp_path / "ad2"), tmp_path / "sub"
    with pytest.raises(KeyboardInterrupt):
        write_submission(str(folder), root=root, category="can", fitted=fitted(Interrupted(times=500.0)))
    assert sorted(p.stem for p in folder.rglob("*.tiff")) == ["000_regular", "001_regular"]
    missing = (
        "anomaly_images/can/test_private_mixed/00{i}_mixed.tiff: missing, for can/test_private_mixed/00{i}_mixed.png"
    )
    found = said(check_submission(str(folder), root=root).errors, folder, root)
    assert found == [missing.format(i=0), missing.format(i=1)]


def test_normal_pixels_that_would_tie_are_warned_about(tmp_path):
    root = private(tmp_path / "ad2")
    progress = Silent()
    write_submission(
        str(tmp_path / "sub"), root=root, category="can", fitted=fitted(mean=100.0, std=0.5), progress=progress
    )
    assert progress.warnings == [
        "can: the scores of normal pixels, 100 ± 0.5, have 8 float16 values to a standard deviation: "
        "many will tie in the submission that do not tie in the run"
    ]
    still = Silent()
    for mean, std in ((100.0, 1.0), (0.0, 0.0), (3.0, 0.0)):
        write_submission(
            str(tmp_path / "sub"), root=root, category="can", fitted=fitted(mean=mean, std=std), progress=still
        )
    assert still.warnings == []


def test_a_float16_map_is_rounded_and_never_made_infinite(tmp_path):
    path = tmp_path / "map.tiff"
    field = np.array([[0.1, -65504.0, np.nan], [1 / 3, 65504.0, 2e-8]], np.float32)
    write_map(path, field, precision="float16", note="a note")
    stored = tifffile.imread(path)
    assert stored.tobytes() == field.astype(np.float16).tobytes()
    before = path.read_bytes()
    for beyond in (65505.0, -65505.0, np.inf):
        with pytest.raises(
            ValueError, match=r"^a map of float16 holds scores from -65504\.0 to 65504\.0; found beyond$"
        ):
            write_map(path, np.array([[beyond]], np.float32), precision="float16")
    assert path.read_bytes() == before


# --- the check


def test_what_was_written_is_faultless(root, made):
    report = check_submission(str(made), root=root)
    assert (report.errors, report.ok, report.images) == ((), True, 8)
    splits = (SplitReport("test_private", 2, 1), SplitReport("test_private_mixed", 2, 1))
    assert report.objects == (ObjectReport("can", splits), ObjectReport("rice", splits))
    assert check_submission(str(made)).objects == report.objects
    assert check_submission(str(made)).ok
    assert check_submission(str(made), root=root, threads=1) == check_submission(str(made), root=root, threads=4)


def test_everything_wrong_is_said_at_once(root, made):
    maps, thresholded = made / "anomaly_images", made / "anomaly_images_thresholded"
    (maps / "can/test_private/000_regular.tiff").unlink()
    (thresholded / "can/test_private_mixed/001_mixed.png").unlink()
    shutil.copy(maps / "can/test_private/001_regular.tiff", maps / "can/test_private/002_regular.tiff")
    shutil.copy(maps / "can/test_private/001_regular.tiff", maps / "can/test_private/003_regular.tif")
    (made / "uadctl.json").write_text("{}")
    (maps / ".DS_Store").write_text("")
    (maps / "can/.001.tiff.x").write_text("")
    (thresholded / "can/test_private/.001_regular.png").write_text("")
    (maps / "bottle").mkdir()
    shutil.rmtree(maps / "rice/test_private")
    shutil.rmtree(thresholded / "rice")
    report = check_submission(str(made), root=root)
    assert not report.ok
    assert [(p.message.replace(f"{made}/", "").replace(f"{root}/", ""), p.help) for p in report.errors] == [
        ("anomaly_images/.DS_Store: not part of a submission", REFUSED),
        ("anomaly_images/bottle: not part of a submission", REFUSED),
        ("uadctl.json: not part of a submission", REFUSED),
        ("anomaly_images/can/.001.tiff.x: not part of a submission", REFUSED),
        ("anomaly_images/can/test_private/003_regular.tif: not part of a submission", REFUSED),
        ("anomaly_images_thresholded/can/test_private/.001_regular.png: not part of a submission", REFUSED),
        (
            "anomaly_images/can/test_private/000_regular.tiff: missing, for can/test_private/000_regular.png",
            AGAIN,
        ),
        (f"anomaly_images/can/test_private/002_regular.tiff: {root} has no such image", REFUSED),
        (
            "anomaly_images_thresholded/can/test_private_mixed/001_mixed.png: missing, "
            "for can/test_private_mixed/001_mixed.png",
            AGAIN,
        ),
        ("anomaly_images_thresholded/rice: no such folder", AGAIN),
        ("anomaly_images/rice/test_private: no such folder", AGAIN),
    ]


def test_without_the_data_set_the_two_files_of_an_image_must_agree(made):
    maps, thresholded = made / "anomaly_images", made / "anomaly_images_thresholded"
    (maps / "can/test_private/000_regular.tiff").unlink()
    (thresholded / "rice/test_private/001_regular.png").unlink()
    parts.write(thresholded / "rice/test_private/000_regular.png", np.zeros((20, 12), np.uint8))
    assert said(check_submission(str(made)).errors, made) == [
        "anomaly_images/can/test_private/000_regular.tiff: missing, "
        f"for {made}/anomaly_images_thresholded/can/test_private/000_regular.png".replace(f"{made}/", ""),
        "anomaly_images_thresholded/rice/test_private/001_regular.png: missing, "
        "for anomaly_images/rice/test_private/001_regular.tiff",
        "anomaly_images_thresholded/rice/test_private/000_regular.png is 20x12, its map is 12x20 (height x width)",
    ]


def png(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(path), pixels)


def palette(path: Path) -> None:
    """A PNG of 8 bits whose values are places in a palette; OpenCV cannot write one."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(20) for _ in range(12))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 12, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", b"\0\0\0\xff\xff\xff")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def nan_map(path: Path) -> None:
    field = np.zeros((12, 20), np.float16)
    field[0, :3], field[1, 1] = np.nan, np.inf
    tifffile.imwrite(path, field, photometric="minisblack")


DAMAGES = {
    "float32": (MAP, lambda p: write_map(p, np.zeros((12, 20), np.float32)), "float32 values, expected float16"),
    "uint8": (MAP, lambda p: tifffile.imwrite(p, np.zeros((12, 20), np.uint8)), "uint8 values, expected float16"),
    "colours": (
        MAP,
        lambda p: tifffile.imwrite(p, np.zeros((12, 20, 3), np.float16), photometric="rgb"),
        "the shape is (12, 20, 3), expected (height, width)",
    ),
    "pages": (
        MAP,
        lambda p: tifffile.imwrite(p, np.zeros((3, 12, 20), np.float16), photometric="minisblack"),
        "3 pages, expected one",
    ),
    "nan": (MAP, nan_map, "4 of 240 values are NaN or infinite"),
    "no tiff": (
        MAP,
        lambda p: png(p.with_suffix(".png"), np.zeros((12, 20), np.uint8)) or p.with_suffix(".png").rename(p),
        "not a TIFF file, so no anomaly map",
    ),
    "empty": (MAP, lambda p: p.write_bytes(b""), "the file is empty (0 bytes)"),
    "cut off": (
        MAP,
        lambda p: p.write_bytes(p.read_bytes()[:-8]),
        "truncated: strip or tile 1 of 1 of the TIFF lies outside the file's {size} bytes",
    ),
    "grey": (PNG, lambda p: png(p, np.full((12, 20), 7, np.uint8)), "240 of 240 pixels are neither 0 nor 255"),
    "16 bits": (
        PNG,
        lambda p: png(p, np.zeros((12, 20), np.uint16)),
        "a PNG with one channel and 16 bits; expected one channel and 8 bits",
    ),
    "1 bit": (
        PNG,
        lambda p: cv2.imwrite(str(p), np.zeros((12, 20), np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1]),
        "a PNG with one channel and 1 bits; expected one channel and 8 bits",
    ),
    "rgb": (
        PNG,
        lambda p: png(p, np.zeros((12, 20, 3), np.uint8)),
        "a PNG with RGB and 8 bits; expected one channel and 8 bits",
    ),
    "palette": (PNG, palette, "a PNG with a palette and 8 bits; expected one channel and 8 bits"),
    "tiff as png": (PNG, lambda p: tifffile.imwrite(p, np.zeros((12, 20), np.uint8)), "not a PNG file"),
    "png cut off": (
        PNG,
        lambda p: p.write_bytes(p.read_bytes()[:-6]),
        "truncated: a PNG chunk is missing at byte {iend}, the file ends at {size}",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("held", [True, False], ids=["with root", "without root"])
def test_a_file_that_the_server_would_refuse_is_named_with_its_reason(root, made, damage, held):
    name, do, reason = DAMAGES[damage]
    whole = (made / name).stat().st_size
    do(made / name)
    size = (made / name).stat().st_size
    (problem,) = check_submission(str(made), root=root if held else None).errors
    assert problem.message == f"{made}/{name}: " + reason.format(size=size, iend=whole - 12)


def test_several_things_wrong_with_a_map_are_all_said(root, made):
    field = np.full((2, 12, 20), np.nan, np.float32)
    tifffile.imwrite(made / MAP, field, photometric="minisblack")
    assert said(check_submission(str(made), root=root).errors, made) == [
        f"{MAP}: 2 pages, expected one",
        f"{MAP}: float32 values, expected float16",
        f"{MAP}: 240 of 240 values are NaN or infinite",
    ]


def test_sizes_are_those_of_the_image(root, made):
    parts.write(made / PNG, np.zeros((6, 20), np.uint8))
    write_map(made / MAP, np.zeros((12, 10), np.float32), precision="float16")
    assert said(check_submission(str(made), root=root).errors, made) == [
        f"{MAP} is 12x10, its image is 12x20 (height x width)",
        f"{PNG} is 6x20, its image is 12x20 (height x width)",
    ]
    Path(f"{root}/can/test_private/001_regular.png").write_bytes(b"no picture")
    assert said(check_submission(str(made), root=root).errors, made, root) == [
        "can/test_private/001_regular.png: not a PNG, JPEG, BMP, TIFF or WebP file",
        f"{PNG} is 6x20, its map is 12x10 (height x width)",
    ]


def test_a_missing_object_or_folder_is_one_error(root, made):
    shutil.rmtree(made / "anomaly_images/can")
    assert said(check_submission(str(made), root=root).errors, made) == ["anomaly_images/can: no such folder"]
    shutil.rmtree(made / "anomaly_images_thresholded")
    assert said(check_submission(str(made), root=root).errors, made) == [
        "anomaly_images_thresholded: no such folder",
        "anomaly_images/can: no such folder",
    ]
    shutil.rmtree(made / "anomaly_images")
    assert said(check_submission(str(made)).errors, made) == [
        "anomaly_images: no such folder",
        "anomaly_images_thresholded: no such folder",
    ]
    with pytest.raises(DataError) as caught:
        check_submission(str(made / "gone"))
    assert caught.value.message == f"{made}/gone: no such folder"
    assert caught.value.help == "Make one with: uadctl bench SPEC --submission DIR"


def test_a_file_in_place_of_a_folder_is_no_folder(root, made):
    shutil.rmtree(made / "anomaly_images/can")
    shutil.rmtree(made / "anomaly_images/rice/test_private")
    (made / "anomaly_images/can").write_text("")
    (made / "anomaly_images/rice/test_private").write_text("")
    assert said(check_submission(str(made), root=root).errors, made) == [
        "anomaly_images/can: no such folder",
        "anomaly_images/rice/test_private: no such folder",
    ]


def test_a_data_set_that_is_not_whole_itself_is_said_too(root, made):
    shutil.rmtree(Path(root) / "can/test_private_mixed")
    assert said(check_submission(str(made), root=root).errors) == [f"{root}/can/test_private_mixed: no such folder"]


def test_objects_are_those_of_the_root_or_the_official_ones(root, made, tmp_path):
    shutil.rmtree(Path(root) / "rice")
    private(Path(root), "thing")
    write_submission(str(made), root=root, category="thing", fitted=fitted())
    report = check_submission(str(made), root=root)
    assert [(p.message.replace(f"{made}/", ""), p.help) for p in report.errors] == [
        (f"anomaly_images/rice: {root} has no such object", "Give the root it was made from."),
        (f"anomaly_images_thresholded/rice: {root} has no such object", "Give the root it was made from."),
    ]
    assert [found.category for found in report.objects] == ["can", "thing"]
    report = check_submission(str(made))
    assert said(report.errors, made) == [
        "anomaly_images/thing: not part of a submission",
        "anomaly_images_thresholded/thing: not part of a submission",
    ]
    assert [found.category for found in report.objects] == ["can", "rice"]


def test_categories_are_names_and_globs(root, made):
    (made / MAP).write_bytes(b"")
    assert check_submission(str(made), root=root, categories=["r*"]).ok
    assert [found.category for found in check_submission(str(made), categories=["rice"]).objects] == ["rice"]
    assert not check_submission(str(made), root=root, categories=["?an", "can"]).ok
    with pytest.raises(SpecError) as caught:
        check_submission(str(made), root=root, categories=["rise", "can"])
    assert caught.value.message == f'{root} has no object "rise"; did you mean rice?'
    assert caught.value.help == "Found: can, rice"
    with pytest.raises(SpecError) as caught:
        check_submission(str(made), categories=["bottle"])
    assert caught.value.message == 'MVTec AD 2 has no object "bottle"'
    assert (
        check_submission(str(made), categories=["vial"]).errors[0].message
        == f"{made}/anomaly_images/vial: no such folder"
    )


def test_the_official_objects_and_numbers_of_images_are_asked_for(root, made, monkeypatch):
    assert (len(OBJECTS), sum(OBJECTS.values()), SPLITS) == (8, 2045, ("test_private", "test_private_mixed"))
    help_ = "A part of the data set can be checked here; the server takes only the whole."
    for held in (root, None):
        report = check_submission(str(made), root=held)
        assert report.ok
        assert [(p.message.replace(f"{made}/", ""), p.help) for p in report.warnings] == [
            (f"anomaly_images/{name}/{split}: maps of 2 images; the server expects {n}, 000_{light} to {last}", help_)
            for name, n, last_number in (("can", 321, "320"), ("rice", 277, "276"))
            for split, light, last in (
                ("test_private", "regular", f"{last_number}_regular"),
                ("test_private_mixed", "mixed", f"{last_number}_mixed"),
            )
        ] + [
            (
                f"{made}: 6 of 8 objects are missing: fabric, fruit_jelly, sheet_metal, vial, wallplugs, walnuts",
                "MVTec's check before the upload takes only all of them.",
            )
        ]
    monkeypatch.setattr(module, "OBJECTS", {"can": 2, "rice": 2})
    assert check_submission(str(made), root=root).warnings == ()
    assert check_submission(str(made)).warnings == ()
    monkeypatch.setattr(module, "OBJECTS", {"can": 2, "rice": 2, "vial": 1})
    assert said(check_submission(str(made), root=root).warnings) == [f"{made}: 1 of 3 objects are missing: vial"]
    assert check_submission(str(made), categories=["can"]).warnings == ()


def one_value(made: Path, first: int, second: int) -> None:
    folder = made / "anomaly_images_thresholded/can"
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        png(file, np.full((12, 20), first if i == 0 else second, np.uint8))


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (0, 0, "0 everywhere"),
        (255, 255, "255 everywhere"),
        (0, 255, "0 everywhere or 255 everywhere"),
    ],
)
def test_thresholded_maps_of_one_value_are_warned_about(root, made, monkeypatch, first, second, what):
    monkeypatch.setattr(module, "OBJECTS", {"can": 2, "rice": 2})
    one_value(made, first, second)
    report = check_submission(str(made), root=root)
    assert [(p.message, p.help) for p in report.warnings] == [
        (
            f"can: each of 4 thresholded maps is {what}",
            "Is that the threshold that was meant? It is the run's pixel threshold.",
        )
    ]
    assert report.ok
    assert report.objects[0].splits[0].called == (2 if first else 1 if second else 0)


def test_maps_of_one_value_are_warned_about(root, made, monkeypatch):
    monkeypatch.setattr(module, "OBJECTS", {"can": 2, "rice": 2})
    for file in (made / "anomaly_images/can").rglob("*.tiff"):
        write_map(file, np.full((12, 20), 0.25, np.float32), precision="float16")
    assert said(check_submission(str(made), root=root).warnings) == ["can: every pixel of 4 maps is 0.25"]
    write_map(made / MAP, np.full((12, 20), 0.5, np.float32), precision="float16")
    assert check_submission(str(made), root=root).warnings == ()


# --- with a real model, and from the command line


def test_a_fitted_model_writes_a_submission_that_passes(tmp_path, finished):
    for split, light in LIGHT.items():
        parts.write(tmp_path / f"ad2/can/{split}/000_{light}.png", parts.surface(900, 64, 96))
        parts.write(tmp_path / f"ad2/can/{split}/001_{light}.png", parts.scratched(901, 64, 96)[0])
    model = load_run(finished, device="cpu")
    root, folder = str(tmp_path / "ad2"), str(tmp_path / "sub")
    part = write_submission(folder, root=root, category="can", fitted=model, threads=1)
    assert (part.images, part.exponent, part.threshold) == (4, 0, model.calibration.pixel.threshold)
    report = check_submission(folder, root=root)
    assert (said(report.errors), report.images) == ([], 4)
    thresholded = cv2.imread(f"{folder}/anomaly_images_thresholded/can/test_private/001_regular.png", -1)
    assert thresholded[22:30, 28:44].all()
    assert (thresholded == 0).mean() > 0.5


def test_the_command_prints_what_it_has_found(uadctl, root, made):
    ended = uadctl("datasets", "check", "ad2", "--root", root, "--submission", made, "--quiet")
    assert ended.err == ""
    assert [line.split() for line in ended.out.splitlines() if line.strip().startswith(("can", "rice"))] == [
        [name, split, "2", "1"] for name in ("can", "rice") for split in SPLITS
    ]
    assert ended.out.splitlines()[-1] == "2 objects, 8 maps: 0 errors, 5 warnings"
    (made / PNG).unlink()
    ended = uadctl("datasets", "check", "mvtec_ad2", "--submission", made, "--category", "can", code=2)
    assert ended.err.splitlines()[:2] == [f"error: {made}/{PNG}: missing, for {made}/{MAP}", f"  {AGAIN}"]
    assert ended.out.splitlines()[-1] == "1 object, 4 maps: 1 error, 1 warning"


def test_the_command_prints_one_json_document(uadctl, root, made):
    (made / MAP).unlink()
    document = uadctl("datasets", "check", "mvtec_ad2", "--root", root, "--submission", made, "--json", code=2).json
    assert len(document.pop("warnings")) == 4
    assert document == {
        "schema": 1,
        "submission": str(made),
        "root": root,
        "ok": False,
        "categories": [
            {
                "category": name,
                "maps": maps,
                "splits": [
                    {"split": "test_private", "maps": maps - 2, "called_anomalous": 1},
                    {"split": "test_private_mixed", "maps": 2, "called_anomalous": 1},
                ],
            }
            for name, maps in (("can", 3), ("rice", 4))
        ],
        "errors": [{"message": f"{made}/{MAP}: missing, for {root}/can/test_private/001_regular.png", "help": AGAIN}],
    }


def test_the_command_refuses_what_makes_no_sense(uadctl, made):
    ended = uadctl("datasets", "check", "mvtec", "--submission", made, code=2)
    assert ended.err == "error: --submission is for mvtec_ad2, which has an evaluation server; mvtec has none\n"
    ended = uadctl("datasets", "check", "ad2", "--split", "test_private", "--submission", made, code=2)
    assert ended.err == ("error: --split test_private: has no effect on --submission, which is checked by itself\n")


def test_the_command_takes_the_root_from_a_spec(uadctl, tmp_path, root, made):
    (tmp_path / "ad2.toml").write_text(
        f'[dataset]\nname = "mvtec_ad2"\nroot = "{root}"\ncategories = ["rice"]\n[model]\nname = "patchcore"\n'
    )
    document = uadctl("datasets", "check", "ad2.toml", "--submission", made, "--json").json
    assert (document["root"], [c["category"] for c in document["categories"]]) == (root, ["rice"])


# --- bench --submission


@pytest.fixture
def two_objects(tmp_path):
    """MVTec AD 2 with the objects can and vial, their pictures noise."""
    root = trees_mvtec.mvtec_ad2(tmp_path / "ad2", ("can", "vial"))
    for i, path in enumerate(sorted(root.rglob("*.png"))):
        if "ground_truth" not in path.parts:
            parts.write(path, parts.surface(i, *trees_mvtec.SIZE))
    return root


def benching(root, *more):
    return ["bench", "--dataset", "ad2", "--root", root, "--model", "patchcore", "--set", "preprocess.size=64", *more]


def test_a_bench_writes_a_submission_that_the_check_takes(uadctl, two_objects):
    ended = uadctl(*benching(two_objects), "--submission", "sub", "--json")
    assert [(p["category"], p["images"], p["exponent"]) for p in ended.json["submission"]] == [
        ("can", 6, 0),
        ("vial", 6, 0),
    ]
    for part in ended.json["submission"]:
        unit = Path(ended.json["run"], "units", part["category"], "vision_patchcore/0")
        assert part["threshold"] == json.loads((unit / "thresholds.json").read_text())["pixel"]["threshold"]
    checked = uadctl("datasets", "check", "mvtec_ad2", "--root", two_objects, "--submission", "sub", "--json")
    assert checked.json["ok"]
    people = uadctl(*benching(two_objects), "--submission", "sub", "--category", "can")
    assert people.out.splitlines()[-1] == "submission: sub: 1 object, 6 images"
    without = uadctl(*benching(two_objects), "--json")
    assert without.json["submission"] is None


def test_an_object_whose_unit_failed_is_left_out_and_said(uadctl, two_objects):
    (two_objects / "can/train/good/000_regular.png").write_bytes(b"")
    ended = uadctl(*benching(two_objects), "--submission", "sub", code=1)
    assert "warning: can: left out of the submission, since its unit failed\n" in ended.err
    assert ended.out.splitlines()[-1] == "submission: sub: 1 object, 6 images"


def test_an_interrupted_submission_goes_on_without_fitting(uadctl, two_objects, monkeypatch):
    def stop(*_args, **_words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "stream", stop)
        uadctl(*benching(two_objects), "--submission", "sub", code=130)
    with monkeypatch.context() as patch:
        patch.setattr(PatchCore, "fit", stop)
        ended = uadctl(*benching(two_objects), "--submission", "sub", "--resume", "--json")
        assert [part["images"] for part in ended.json["submission"]] == [6, 6]
        again = uadctl("bench", "--resume", ended.json["run"], "--submission", "again", "--json")
    assert again.json["submission"] == ended.json["submission"]
    assert again.json["results"] == ended.json["results"]
    assert sorted(p.name for p in Path("again").rglob("*.*")) == sorted(p.name for p in Path("sub").rglob("*.*"))


def test_private_images_that_cannot_be_read_are_all_named_after_the_results(uadctl, two_objects):
    kept = {}
    for name in ("can/test_private/001_regular.png", "vial/test_private_mixed/000_mixed.png"):
        kept[name] = (two_objects / name).read_bytes()
        (two_objects / name).write_bytes(b"")
    ended = uadctl(*benching(two_objects), "--submission", "sub", "--json", code=1)
    assert ended.json["means"]["vision_patchcore"]["aupro_05"] is not None
    assert ended.json["submission"] == []
    run = ended.json["run"]
    told = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert told == [f"error: {two_objects / name}: the file is empty (0 bytes)" for name in kept]
    assert ended.err.splitlines()[-1] == (
        f"  sub is not complete. When that is mended: uadctl bench --resume {run} --submission sub"
    )
    assert json.loads(Path(run, "run.json").read_text())["status"] == "interrupted"
    assert len(list(Path("sub").rglob("*.tiff"))) == 10
    for name, content in kept.items():
        (two_objects / name).write_bytes(content)
    assert len(uadctl("bench", "--resume", run, "--submission", "sub", "--json").json["submission"]) == 2
    assert uadctl("datasets", "check", "ad2", "--root", two_objects, "--submission", "sub", "--json").json["ok"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--submission", "ad2/x"],
            "error: --submission ad2/x: lies in the data set's folder\n  Name another folder.\n",
        ),
        (
            ["--submission", "sub", "--set", "preprocess.crop=[32, 32]"],
            "error: --submission sub: covers every pixel, and [preprocess] crop leaves some out\n"
            "  Leave out [preprocess] crop.\n",
        ),
        (["--submission", ""], "error: --submission: expected the name of a folder\n"),
        (["--submission", "file"], "error: --submission file: file cannot be written to: File exists\n"),
        (["--submission", "sub", "--dry-run"], "error: --submission has no effect on --dry-run: nothing is scored\n"),
    ],
)
def test_what_cannot_be_submitted_is_said_before_any_work(uadctl, two_objects, more, message):
    Path("file").touch()
    assert uadctl(*benching(two_objects), *more, code=2).err == message
    assert not Path("runs").exists()


def test_another_data_set_has_no_server_and_missing_images_are_said(uadctl, two_objects, small):
    ended = uadctl("bench", *small, "--submission", "sub", code=2)
    assert ended.err == "error: --submission sub: only MVTec AD 2 has an evaluation server; the data set is mvtec\n"
    shutil.rmtree(two_objects / "vial/test_private_mixed")
    ended = uadctl(*benching(two_objects), "--submission", "sub", code=2)
    assert ended.err.startswith(f"error: {two_objects}/vial/test_private_mixed: no such folder\n")
