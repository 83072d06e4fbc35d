"""COCO files of regions: read back by rasterising their polygons, and by pycocotools where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import parts
import pytest

from uadctl import __version__
from uadctl.errors import RunError
from uadctl.imaging.maps import regions
from uadctl.records import Region, Size
from uadctl.report.coco import outline, writing_coco
from uadctl.runs.fitted import load
from uadctl.runs.folder import RunFolder
from uadctl.score import score


def strict(path: Path) -> dict[str, Any]:
    def no_constant(text: str) -> None:
        raise AssertionError(f"{text} is no strict JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=no_constant)


def filled(polygon: list[int], size: Size) -> np.ndarray:
    """(H, W) bool, the pixels whose centres lie in a polygon: sampled on a grid 4 times as fine, off all of its lines.

    A pixel's centre is 2 of these steps from its corners.
    """
    fine = np.zeros((4 * size.height + 1, 4 * size.width + 1), np.uint8)
    cv2.fillPoly(fine, [np.array(polygon, np.int32).reshape(-1, 2) * 4], 1)
    return fine[2::4, 2::4] > 0


def shoelace(polygon: list[int]) -> float:
    x, y = np.array(polygon, float).reshape(-1, 2).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def filled_region(field: np.ndarray, region: Region, threshold: float) -> np.ndarray:
    """(H, W) bool: the pixels of a region and of its holes, by OpenCV's filling."""
    _, labels = cv2.connectedComponents((field >= threshold).astype(np.uint8), connectivity=8)
    around = np.pad((labels == labels[region.peak]).astype(np.uint8), 1)
    outside = around.copy()
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return outside[1:-1, 1:-1] != 2


# ---- outlines


def test_outlines_by_hand():
    assert outline([(3, 5)]) == [5, 3, 6, 3, 6, 4, 5, 4]
    assert outline([(0, 0), (0, 3)]) == [0, 0, 4, 0, 4, 1, 0, 1]
    assert outline([(1, 1), (1, 2), (3, 2), (3, 1)]) == [1, 1, 3, 1, 3, 4, 1, 4]
    # Two pixels that touch by a corner, which is gone through twice.
    assert outline([(0, 0), (1, 1)]) == [0, 0, 1, 0, 1, 1, 2, 1, 2, 2, 1, 2, 1, 1, 0, 1]


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.9])
def test_outlines_hold_the_pixels_of_their_regions_and_no_other(share):
    seen = 0
    for seed in range(6):
        field = (np.random.default_rng(seed).random((19, 23)) < share).astype(np.float32)
        for region in regions(field, threshold=1):
            assert region.contour is not None
            polygon = outline(region.contour)
            expected = filled_region(field, region, 1)
            np.testing.assert_array_equal(filled(polygon, Size(19, 23)), expected)
            assert shoelace(polygon) == np.count_nonzero(expected)  # clockwise, so it is positive
            corners = np.array(polygon).reshape(-1, 2)
            onward = np.roll(corners, -1, axis=0) - corners
            assert ((onward == 0).sum(axis=1) == 1).all()  # along rows and columns
            assert ((onward == 0) != np.roll(onward == 0, 1, axis=0)).all()  # and turning at each corner
            seen += 1
    assert seen >= 6


# ---- files


def written(path: Path, maps: list[np.ndarray], *, threshold: float = 1) -> dict[str, Any]:
    with writing_coco(path, threshold=threshold) as file:
        for i, field in enumerate(maps):
            file.add(f"new/{i}.png", Size(*field.shape), regions(field, threshold=threshold))
    return strict(path)


def maps_of(share: float) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [np.where(rng.random(s) < share, 1 + rng.random(s), 0).astype(np.float32) for s in ((30, 40), (21, 9))]


def test_a_whole_file_by_hand(tmp_path):
    field = np.zeros((6, 8), np.float32)
    field[1:3, 2:7] = 2
    field[2, 3] = 3.5
    field[5, 0] = 1.5
    with writing_coco(tmp_path / "out" / "a.json", threshold=1.25) as file:
        file.add("new/bad.png", Size(6, 8), regions(field, threshold=1.25))
        file.add_error("new/broken.png", "cut off")
        file.add("new/göod.png", Size(4, 4), [])
        file.add("new/\\xff.png", Size(3, 3), [], exact="bmV3L/8ucG5n")
    assert strict(tmp_path / "out" / "a.json") == {
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [2, 1, 5, 2],
                "area": 10,
                "segmentation": [[2, 1, 7, 1, 7, 3, 2, 3]],
                "iscrowd": 0,
                "score": 3.5,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 5, 1, 1],
                "area": 1,
                "segmentation": [[0, 5, 1, 5, 1, 6, 0, 6]],
                "iscrowd": 0,
                "score": 1.5,
            },
        ],
        "images": [
            {"id": 1, "file_name": "new/bad.png", "height": 6, "width": 8},
            {"id": 2, "file_name": "new/göod.png", "height": 4, "width": 4},
            {"id": 3, "file_name": "new/\\xff.png", "path_b64": "bmV3L/8ucG5n", "height": 3, "width": 3},
        ],
        "categories": [{"id": 1, "name": "anomaly", "supercategory": ""}],
        "licenses": [],
        "info": {
            "description": "Regions of anomaly maps at or above the pixel threshold, by uadctl",
            "version": __version__,
            "pixel_threshold": 1.25,
            "errors": [{"file_name": "new/broken.png", "reason": "cut off"}],
        },
    }


def test_a_file_of_nothing_is_whole_and_strict(tmp_path):
    found = written(tmp_path / "a.json", [])
    assert (found["annotations"], found["images"], found["info"]["errors"]) == ([], [], [])


def test_polygons_read_back_are_the_mask(tmp_path):
    maps = maps_of(0.25)
    found = written(tmp_path / "a.json", maps)
    assert [a["id"] for a in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
    for image, field in zip(found["images"], maps, strict=True):
        size = Size(image["height"], image["width"])
        assert size == field.shape
        own = [a for a in found["annotations"] if a["image_id"] == image["id"]]
        mask = np.zeros(size, bool)
        for annotation in own:
            (polygon,) = annotation["segmentation"]
            part = filled(polygon, size)
            mask |= part
            y, x = np.nonzero(part)
            box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            assert annotation["bbox"] == box
        missing = (field >= 1) & ~mask
        assert not missing.any()
        # What is too much are holes.
        holes = cv2.connectedComponents((mask & (field < 1)).astype(np.uint8), connectivity=4)[0] - 1
        assert holes > 0
        assert sum(a["area"] for a in own) == np.count_nonzero(field >= 1)


def test_a_region_without_contour_has_its_box_only(tmp_path):
    region = Region((0, 0, 3, 4), 7, 1.5, (0, 0), (1.0, 1.0), None)
    with writing_coco(tmp_path / "a.json", threshold=1) as file:
        file.add("a.png", Size(9, 9), [region])
    (annotation,) = strict(tmp_path / "a.json")["annotations"]
    assert (annotation["bbox"], annotation["area"], annotation["segmentation"]) == ([0, 0, 4, 3], 7, [])


def test_a_file_that_is_not_completed_is_not_there(tmp_path):
    (tmp_path / "a.json").write_text("old")
    document = writing_coco(tmp_path / "a.json", threshold=1)
    document.__enter__().add("a.png", Size(3, 3), [])
    assert len(list(tmp_path.iterdir())) == 2
    assert not document.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_no_number_is_written_that_json_has_not(tmp_path):
    region = Region((0, 0, 1, 1), 1, float("inf"), (0, 0), (0.0, 0.0), ((0, 0),))
    with pytest.raises(ValueError, match="JSON"), writing_coco(tmp_path / "a.json", threshold=1) as file:
        file.add("a.png", Size(3, 3), [region])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("pycocotools") is None, reason="pycocotools is not installed")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2
def test_pycocotools_reads_the_same_masks(tmp_path):
    from pycocotools.coco import COCO

    maps = maps_of(0.25)
    written(tmp_path / "a.json", maps)
    read = COCO(str(tmp_path / "a.json"))
    assert read.getCatIds(catNms=["anomaly"]) == [1]
    assert len(read.getImgIds()) == len(maps)
    seen = 0
    for image, field in zip(read.loadImgs(read.getImgIds()), maps, strict=True):
        found = regions(field, threshold=1)
        annotations = read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))
        for annotation, region in zip(annotations, found, strict=True):
            expected = filled_region(field, region, 1)
            np.testing.assert_array_equal(read.annToMask(annotation).astype(bool), expected)
            seen += 1
    assert seen > 50


# ---- score


@pytest.fixture
def new(tmp_path) -> Path:
    """A folder with a good image, a broken file and, deeper, a defect."""
    folder = tmp_path / "new"
    parts.write(folder / "a_good.png", parts.surface(500))
    parts.write(folder / "deeper" / "b_bad.png", parts.scratched(501)[0])
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return folder


def test_score_writes_what_its_lines_say(uadctl, finished, new, tmp_path):
    lines = uadctl("score", finished, new, "--json", "--coco", "out/all.json", "--masks", "k", code=1).lines
    found = strict(tmp_path / "out/all.json")
    of_path = {line["path"]: line for line in lines}
    assert [image["file_name"] for image in found["images"]] == [
        line["path"] for line in lines if line["status"] == "ok"
    ]
    (error,) = found["info"]["errors"]
    assert error == {"file_name": f"{new}/broken.png", "reason": of_path[f"{new}/broken.png"]["reason"]}
    for image in found["images"]:
        own = [a for a in found["annotations"] if a["image_id"] == image["id"]]
        told = of_path[image["file_name"]]["regions"]
        assert [(a["area"], a["score"]) for a in own] == [(r["area"], r["score"]) for r in told]
        assert [a["bbox"] for a in own] == [[x0, y0, x1 - x0, y1 - y0] for y0, x0, y1, x1 in (r["box"] for r in told)]
        assert (image["height"], image["width"]) == (64, 64)
    bad = next(image for image in found["images"] if image["file_name"].endswith("b_bad.png"))
    mask = cv2.imread(str(tmp_path / "k/deeper/b_bad.png"), cv2.IMREAD_UNCHANGED) > 0
    polygons = [a["segmentation"][0] for a in found["annotations"] if a["image_id"] == bad["id"]]
    assert len(polygons) >= 1
    drawn = np.any([filled(p, Size(64, 64)) for p in polygons], axis=0)
    assert drawn[mask].all()
    first = (tmp_path / "out/all.json").read_bytes()
    uadctl("score", finished, new, "--coco", "out/all.json", "--only-anomalies", code=1)
    assert (tmp_path / "out/all.json").read_bytes() == first


def test_the_regions_of_a_line_have_peak_centroid_and_contour(uadctl, finished, new):
    (line,) = uadctl("score", finished, new / "deeper", "--json").lines
    region = line["regions"][0]
    assert sorted(region) == ["area", "box", "centroid", "contour", "peak", "score", "verdict"]
    top, left, bottom, right = region["box"]
    for y, x in (region["peak"], region["centroid"], *region["contour"]):
        assert top <= y < bottom
        assert left <= x < right
    # The bar of the image: rows 20 to 31, columns 24 to 47.
    assert 20 <= region["centroid"][0] < 32
    assert 24 <= region["centroid"][1] < 48


def test_a_score_that_is_not_finished_leaves_no_file(finished, new, tmp_path):
    unit = RunFolder.open(finished).choose(category=None, label=None, seed=None)
    fitted = load(unit, device="cpu")
    lines = score(fitted, [str(new)], coco=str(tmp_path / "all.json"))
    next(lines)
    lines.close()
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert len(list(score(fitted, [str(new)], coco=str(tmp_path / "all.json")))) == 3
    assert len(strict(tmp_path / "all.json")["images"]) == 2


def test_what_cannot_be_is_said_before_any_work(uadctl, finished, new, tmp_path):
    ended = uadctl("score", finished, new, "--coco", "all.txt", code=2)
    assert ended.err == "error: --coco all.txt: expected a name that ends with .json\n"
    (tmp_path / "folder.json").mkdir()
    ended = uadctl("score", finished, new, "--coco", "folder.json", code=2)
    assert ended.err == "error: --coco folder.json: is a folder, expected a file to write\n"
    parts.write(tmp_path / "good" / "only.png", parts.surface(0))
    run = uadctl("fit", "--good", "good", "--json").json["run"]
    ended = uadctl("score", run, new, "--coco", "all.json", code=2)
    assert ended.err.endswith(
        "error: --coco needs a pixel threshold, and this run has none\n  Its thresholds.json says why.\n"
    )
    fitted = load(RunFolder.open(Path(run)).choose(category=None, label=None, seed=None), device="cpu")
    with pytest.raises(RunError, match="^--coco needs a pixel threshold, and this run has none$"):
        next(score(fitted, [str(new)], coco="all.json"))
    assert not (tmp_path / "all.json").exists()
