"""The layers of a picture: the image, its heat map in colours that mean the same everywhere, contours."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path

import cv2
import numpy as np
import parts
import pytest
import tifffile
from run_by_hand import SCALE, add_layers, add_unit, begin_run

from uadctl.imaging.files import write_map
from uadctl.imaging.raster import StoredMap
from uadctl.records import Sample, Size
from uadctl.report import report
from uadctl.report.pictures import layers, originals, palette
from uadctl.report.reading import read_run
from uadctl.report.thumbnails import PAGE_BYTES, share_of
from uadctl.runs.folder import RunFolder

DEFECT = ("test/dent/000.png", 1, "dent", 11.0)


def decoded(address: str) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) BGR(A) of a data: address."""
    data = base64.b64decode(address.partition(",")[2])
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def points(path: str) -> list[np.ndarray]:
    """The corners of each line of SVG path data."""
    lines = []
    for text in filter(None, path.split("z")):
        numbers = np.array([float(n) for n in re.findall(r"-?\d+", text)]).reshape(-1, 2)
        lines.append(numbers.cumsum(axis=0))
    return lines


def extent(path: str) -> tuple[float, ...]:
    """top, left, bottom, right of path data."""
    every = np.concatenate(points(path))
    return (*every.min(axis=0)[::-1].tolist(), *every.max(axis=0)[::-1].tolist())


@pytest.fixture
def one(tmp_path):
    """A run of one defect image of 64 x 96 pixels, with all that its layers need."""
    run = begin_run(tmp_path, root=str(tmp_path / "data"))
    unit = add_unit(run, "tile", [DEFECT])
    add_layers(unit, tmp_path / "data" / "tile", [DEFECT])

    def look(*, most_bytes: int = 100_000):
        found = read_run(RunFolder.open(run))
        samples = originals(found.spec, "tile")
        row = found.units[0].rows[0]
        return layers(found.units[0], row, samples.get(row.path), base=run / "report", most_bytes=most_bytes)

    look.run, look.unit, look.data = run, unit, tmp_path / "data" / "tile"
    return look


def test_all_layers_of_an_image(one):
    found = one()
    assert found.whole
    assert (found.height, found.width) == (128, 192)  # a finer grid than the image's pixels
    assert decoded(found.image).shape == (64, 96, 3)
    assert np.abs(decoded(found.image).astype(int) - cv2.imread(str(one.data / DEFECT[0]))).mean() < 8
    # Rows 20 to 31 and columns 24 to 47 are marked; the map has two pixels more around. Two points of the grid a pixel.
    assert extent(found.truth) == (40, 48, 63, 95)
    assert extent(found.found) == (36, 44, 67, 99)
    assert len(points(found.truth)) == len(points(found.found)) == 1
    assert len(points(found.truth)[0]) == 4
    assert found.href == "../units/tile/vision_patchcore/0/overlays/test/dent/000.png"
    assert found.original == (one.data / DEFECT[0]).resolve().as_uri()


def test_a_colour_means_the_same_score_in_every_image(one):
    file = one.unit / "maps/test/dent/000.tiff"
    low, high = SCALE["mean"], SCALE["mean"] + 6 * SCALE["std"]
    field = np.full((64, 96), low, np.float32)
    write_map(file, field)
    assert decoded(one().heat)[..., 3].max() == 0  # of a normal image nothing is seen, whatever its own highest pixel
    field[:, 48:] = high + 50
    field[:20] = (low + high) / 2
    write_map(file, field)
    heat = decoded(one().heat)
    assert heat.shape == (64, 96, 4)
    assert heat[40, 10, 3] == 0
    assert heat[40, 80, 3] == 255
    top = [int(n) for n in re.findall(r"\d+", palette()[-1])]
    middle = [int(n) for n in re.findall(r"\d+", palette()[4])]
    assert np.abs(heat[40, 80, 2::-1].astype(int) - top).max() < 12
    assert np.abs(heat[5, 40, 2::-1].astype(int) - middle).max() < 12
    field[:] = low + (high - low) * 0.1
    write_map(file, field)
    assert 0 < decoded(one().heat)[..., 3].max() < 60  # low scores fade into the image


def test_the_colours_are_perceptually_uniform():
    """Their lightness (CIE L*) rises evenly: readable without colour."""
    rgb = np.array([[int(n) for n in re.findall(r"\d+", text)] for text in palette()], np.uint8)[None]
    light = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0, :, 0]
    assert len(light) == 9
    assert np.diff(light).min() > 8
    assert np.diff(light).max() < 16


def test_what_was_not_looked_at_is_grey_and_no_threshold_is_reached_there(one):
    field = np.full((64, 96), np.nan, np.float32)
    field[30:34, 50:54] = 9
    write_map(one.unit / "maps/test/dent/000.tiff", field)
    found = one()
    heat = decoded(found.heat)
    assert heat[5, 5, 3] == pytest.approx(150, abs=2)
    assert np.ptp(heat[5, 5, :3].astype(int)) <= 4
    assert extent(found.found) == (60, 100, 67, 107)


def test_masks_of_several_files_are_joined(one):
    run = read_run(RunFolder.open(one.run))
    sample = originals(run.spec, "tile")[DEFECT[0]]
    other = np.zeros((64, 96), np.uint8)
    other[50:60, 5:10] = 1
    second = parts.write(one.data / "second.png", other)
    both = Sample(**{n: getattr(sample, n) for n in Sample.__slots__} | {"masks": (*sample.masks, str(second))})
    unit = run.units[0]
    found = layers(unit, unit.rows[0], both, base=one.run, most_bytes=10**5)
    assert len(points(found.truth)) == 2
    assert extent(found.truth) == (40, 10, 119, 95)


def test_without_the_data_set_the_picture_of_the_run_is_shown_and_the_page_says_so_once(one):
    whole = report(one.run).read_text(encoding="utf-8")
    assert "what the run drew" not in whole
    one.data.rename(one.data.with_name("moved"))
    found = one()
    assert not found.whole
    assert (found.heat, found.truth, found.found, found.original) == ("", "", "", "")
    assert decoded(found.image).shape == (90, 700, 3)
    text = report(one.run).read_text(encoding="utf-8")
    assert text.count("The pictures are what the run drew") == 1


def test_another_image_in_its_place_is_not_shown(one):
    parts.write(one.data / DEFECT[0], parts.surface(1, 64, 97))
    assert not one().whole
    mask = one.data / "ground_truth/dent/000_mask.png"
    kept = mask.read_bytes()
    mask.unlink()
    assert not one().whole  # its map is of another size than the image, whatever the mask says
    mask.write_bytes(kept)
    parts.write(one.data / DEFECT[0], parts.surface(1, 64, 96))
    assert one().whole
    (one.data / DEFECT[0]).write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert not one().whole


def test_without_a_map_or_its_scale_there_is_no_heat(one):
    (one.unit / "maps/test/dent/000.tiff").unlink()
    found = one()
    assert found.heat == found.found == ""
    assert extent(found.truth) == (40, 48, 63, 95)
    (one.unit / "overlays/test/dent/000.png").unlink()
    (one.data / "ground_truth/dent/000_mask.png").unlink()
    found = one()
    assert found.whole  # the image alone is better than nothing
    assert found.href == ""
    one.data.rename(one.data.with_name("moved"))
    assert one().absent == "no overlay was drawn"


def test_contours_have_a_bounded_number_of_points(one):
    rng = np.random.default_rng(0)
    for density in (0.02, 0.5):
        field = np.where(rng.random((64, 96)) < density, 9, 1).astype(np.float32)
        write_map(one.unit / "maps/test/dent/000.tiff", field)
        found = points(one().found)
        assert 20 < sum(map(len, found)) <= 400


def test_a_large_image_is_read_in_bands_and_no_pixel_that_stands_out_is_lost(one):
    height, width = 3000, 4300
    image = np.tile(parts.surface(3, 100, 100), (30, 43, 1))
    file = one.data / DEFECT[0]
    tifffile.imwrite(file, image, tile=(256, 256), photometric="rgb")
    mask = np.zeros((height, width), np.uint8)
    mask[2000, 3500] = 1
    parts.write(one.data / "ground_truth/dent/000_mask.png", mask)
    field = np.full((height, width), 1.0, np.float32)
    field[1500, 1000] = 99
    StoredMap.write(one.unit / "maps/test/dent/000.tiff", Size(height, width), [field])
    found = one(most_bytes=10**6)
    assert (found.height, found.width) == (714, 1024)
    expected = cv2.resize(image[..., ::-1], decoded(found.image).shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(decoded(found.image).astype(int) - expected).mean() < 6
    assert extent(found.truth) == pytest.approx([2000 * 714 / 3000, 3500 * 1024 / 4300] * 2, abs=1.5)
    assert extent(found.found) == pytest.approx([1500 * 714 / 3000, 1000 * 1024 / 4300] * 2, abs=1.5)
    heat = decoded(found.heat)
    assert heat.shape[:2] == (223, 320)
    y, x = np.unravel_index(heat[..., 3].argmax(), heat.shape[:2])
    assert (y / 223, x / 320) == pytest.approx((0.5, 1000 / 4300), abs=0.01)


def test_a_page_of_200_images_can_be_mailed(tmp_path):
    """Images that hardly compress, of 240x320 pixels; larger ones are reduced to the same bytes."""
    images = [
        (f"test/{'dent' if i % 2 else 'good'}/{i:03}.png", i % 2, "dent" if i % 2 else "good", float(i))
        for i in range(200)
    ]
    run = begin_run(tmp_path, root=str(tmp_path / "data"))
    unit = add_unit(run, "tile", images, overlays=False)
    add_layers(unit, tmp_path / "data" / "tile", images[:1])
    rng = np.random.default_rng(0)
    for path, *_ in images:
        parts.write(tmp_path / "data" / "tile" / path, rng.integers(0, 256, (240, 320, 3), dtype=np.uint8))
        field = rng.gamma(2, 1.5, (24, 32)).astype(np.float32).repeat(10, axis=0).repeat(10, axis=1)
        write_map(unit / "maps" / f"{path.removesuffix('.png')}.tiff", field)
        (tmp_path / "data/tile/ground_truth/dent" / f"{Path(path).stem}_mask.png").unlink(missing_ok=True)
    started = time.process_time()
    page = report(run)
    assert time.process_time() - started < 60
    text = page.read_text(encoding="utf-8")
    assert text.count('class="heat"') == 200
    assert 4_000_000 < page.stat().st_size < 15_000_000


def test_pictures_share_the_page():
    assert share_of(0) == share_of(1) == PAGE_BYTES
    assert share_of(200) == PAGE_BYTES // 200
    assert share_of(400) == share_of(200)
    assert share_of(3000) * 3000 <= 26_000_000 < share_of(3000) * 3001


def test_the_same_run_gives_the_same_bytes(one):
    assert report(one.run).read_bytes() == report(one.run).read_bytes()
