"""Images and maps read region by region: any region is what the whole would show, at the memory of the region."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uadctl.errors import DataError
from uadctl.imaging import files as image_files
from uadctl.imaging import raster as rasters
from uadctl.imaging import rows as image_rows
from uadctl.imaging import tiff as image_tiff
from uadctl.imaging.files import (
    image_size,
    list_images,
    read_image,
    read_map,
    read_mask,
    read_mask_values,
    read_stored_map,
    read_stored_png,
    write_map,
    write_png_rows,
)
from uadctl.imaging.raster import (
    ArrayRaster,
    FileRaster,
    RawLayout,
    StoredMap,
    Window,
    bands,
    defect_count,
    open_image,
    open_mask,
    open_stored,
    row_bands,
    write_tiled,
)
from uadctl.records import Box, Size, row_boxes

cv2 = pytest.importorskip("cv2", reason="reading images needs OpenCV")
tifffile = pytest.importorskip("tifffile", reason="reading TIFF needs tifffile")

HEIGHT, WIDTH = 75, 101  # no multiple of any tile or strip
SHAPE = (HEIGHT, WIDTH)


def noise(*shape: int, dtype: str = "u1") -> np.ndarray:
    rng = np.random.default_rng(11)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.random(shape).astype(kind)
    if kind.kind == "b":
        return rng.random(shape) < 0.4
    # Runs of equal values as well, so that there is something to pack.
    values = rng.integers(0, np.iinfo(kind).max + 1, shape).astype(kind)
    values[:, : shape[1] // 3] = values[:, :1]
    return values


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    target = io.BytesIO()
    tifffile.imwrite(target, pixels, metadata=None, **options)
    return target.getvalue()


def with_preview(pixels: np.ndarray, **options: Any) -> bytes:
    target = io.BytesIO()
    with tifffile.TiffWriter(target) as writer:
        writer.write(pixels, metadata=None, **options)
        writer.write(255 - pixels[::4, ::4], metadata=None, **options)
    return target.getvalue()


def by_opencv(pixels: np.ndarray, *options: int, suffix: str = ".tiff") -> bytes:
    done, data = cv2.imencode(suffix, pixels, list(options))
    assert done
    return data.tobytes()


def npy(pixels: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array(target, pixels, version=version)
    return target.getvalue()


GREY, RGB, RGBA = noise(*SHAPE), noise(*SHAPE, 3), noise(*SHAPE, 4)
RGB16 = noise(*SHAPE, 3, dtype="u2")
PALETTE = np.random.default_rng(5).integers(0, 65536, (3, 256)).astype(np.uint16)
PLANAR: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
DEFLATE: dict[str, Any] = {"compression": "zlib"}
DELTA: dict[str, Any] = {"compression": "zlib", "predictor": 2}

# Name: (bytes, region by region).
FORMATS: dict[str, tuple[bytes, bool]] = {
    "grey, one strip": (tiff(GREY), True),
    "grey, strips of one row": (tiff(GREY, rowsperstrip=1), True),
    "grey, strips of 7 rows": (tiff(GREY, rowsperstrip=7), True),
    "grey, tiles": (tiff(GREY, tile=(16, 48)), True),
    "grey, tiles larger than the image": (tiff(GREY, tile=(112, 128)), True),
    "grey, Deflate, strips of one row": (tiff(GREY, rowsperstrip=1, **DEFLATE), True),
    "grey, Deflate, tiles": (tiff(GREY, tile=(32, 16), **DEFLATE), True),
    "grey and alpha": (tiff(RGB[..., :2], photometric="minisblack", planarconfig="contig", extrasamples=[2]), True),
    "white is zero": (tiff(GREY, photometric="miniswhite", rowsperstrip=9), True),
    "white is zero, 16 bits": (tiff(RGB16[..., 0], photometric="miniswhite", tile=(16, 16), **DEFLATE), True),
    "one bit": (tiff(noise(*SHAPE, dtype="?"), rowsperstrip=5), True),
    "one bit, white is zero": (tiff(noise(*SHAPE, dtype="?"), photometric="miniswhite", software="x"), True),
    "one bit, tiles": (tiff(noise(*SHAPE, dtype="?"), tile=(16, 32)), True),
    "one bit, Deflate": (tiff(noise(*SHAPE, dtype="?"), rowsperstrip=5, **DEFLATE), True),
    "palette": (tiff(GREY, photometric="palette", colormap=PALETTE, rowsperstrip=4), True),
    "palette, tiles, Deflate": (tiff(GREY, photometric="palette", colormap=PALETTE, tile=(16, 16), **DEFLATE), True),
    "RGB, one strip": (tiff(RGB, photometric="rgb"), True),
    "RGB, strips": (tiff(RGB, photometric="rgb", rowsperstrip=6), True),
    "RGB, tiles": (tiff(RGB, photometric="rgb", tile=(16, 32)), True),
    "RGB, planar strips": (tiff(np.moveaxis(RGB, 2, 0), rowsperstrip=6, **PLANAR), True),
    "RGB, planar tiles": (tiff(np.moveaxis(RGB, 2, 0), tile=(32, 16), **PLANAR), True),
    "RGB, planar, differences": (tiff(np.moveaxis(RGB, 2, 0), tile=(32, 16), **PLANAR, **DELTA), True),
    "RGB, differences": (tiff(RGB, photometric="rgb", rowsperstrip=6, **DELTA), True),
    "RGB, differences, tiles": (tiff(RGB, photometric="rgb", tile=(16, 32), **DELTA), True),
    "RGBA": (tiff(RGBA, photometric="rgb", extrasamples=[2], tile=(16, 32)), True),
    "RGBA, planar": (tiff(np.moveaxis(RGBA, 2, 0), extrasamples=[2], rowsperstrip=8, **PLANAR), True),
    "BigTIFF, big-endian": (tiff(RGB, photometric="rgb", rowsperstrip=6, bigtiff=True, byteorder=">"), True),
    "16 bits": (tiff(RGB16, photometric="rgb", tile=(16, 32)), True),
    "16 bits, big-endian": (tiff(RGB16, photometric="rgb", rowsperstrip=3, byteorder=">"), True),
    "16 bits, big-endian, differences": (tiff(RGB16, photometric="rgb", tile=(16, 16), byteorder=">", **DELTA), True),
    "float": (tiff(noise(*SHAPE, dtype="f4"), tile=(16, 32)), True),
    "float, Deflate, big-endian": (tiff(noise(*SHAPE, dtype="f4"), byteorder=">", rowsperstrip=11, **DEFLATE), True),
    "half floats": (tiff(noise(*SHAPE, dtype="f2"), rowsperstrip=11), True),
    "double floats": (tiff(noise(*SHAPE, dtype="f8"), rowsperstrip=11, **DEFLATE), True),
    "PackBits": (by_opencv(GREY, cv2.IMWRITE_TIFF_COMPRESSION, 32773, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 9), True),
    "PackBits RGB": (by_opencv(RGB, cv2.IMWRITE_TIFF_COMPRESSION, 32773, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 9), True),
    "a preview as second page": (with_preview(RGB, photometric="rgb", rowsperstrip=6), True),
    "npy": (npy(GREY), True),
    "npy, one channel": (npy(GREY[..., np.newaxis]), True),
    "npy, RGB": (npy(RGB), True),
    "npy, version 2": (npy(RGB, (2, 0)), True),
    "npy, version 3": (npy(RGB, (3, 0)), True),
    "npy, 16 bits, big-endian": (npy(RGB16.astype(">u2")), True),
    "npy, float": (npy(noise(*SHAPE, dtype="f4")), True),
    "npy, half floats": (npy(noise(*SHAPE, 3, dtype="f2")), True),
    "npy, double floats": (npy(noise(*SHAPE, dtype=">f8")), True),
    "npy, bool": (npy(noise(*SHAPE, dtype="?")), True),
    "LZW": (by_opencv(RGB, cv2.IMWRITE_TIFF_COMPRESSION, 5), False),
    "PNG": (by_opencv(RGB, suffix=".png"), False),
    "PNG, 16 bits": (by_opencv(RGB16, suffix=".png"), False),
    "JPEG": (by_opencv(RGB, suffix=".jpg"), False),
}


def saved(folder: Path, data: bytes, name: str = "image.tiff") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def boxes(size: Size, count: int = 12) -> list[Box]:
    rng = np.random.default_rng(2)
    height, width = size
    found = [Box.whole(size), Box(0, 0, 1, 1), Box(height - 1, width - 1, 1, 1), Box(height // 2, 0, 1, width)]
    for _ in range(count):
        y0, x0 = int(rng.integers(height)), int(rng.integers(width))
        found.append(Box(y0, x0, int(rng.integers(1, height - y0 + 1)), int(rng.integers(1, width - x0 + 1))))
    return found


def assert_regions(raster: Any, whole: np.ndarray) -> None:
    assert raster.size == whole.shape[:2]
    checked = 0
    for box in boxes(raster.size):
        part = raster.read(box)
        assert part.dtype == whole.dtype
        assert part.shape == (*box.size, *whole.shape[2:])
        assert np.array_equal(part, whole[box.rows, box.columns]), box
        checked += 1
    assert checked == 16


def refusal(path: str, **options: Any) -> str:
    """What both ways of reading say of a file, after its name; the same."""
    with pytest.raises(DataError) as regions:
        open_image(path, **options).read(Box(0, 0, 1, 1))
    with pytest.raises(DataError) as whole:
        read_image(path, **options)
    assert str(regions.value) == str(whole.value)
    assert str(whole.value).startswith(f"{path}: ")
    return str(whole.value).removeprefix(f"{path}: ")


def refused_whole(path: str) -> str | None:
    """What is said where all of a file is asked for as a region (of a very large one the first pixel), if anything."""
    try:
        raster = open_image(path)
        size = raster.size
        raster.read(Box.whole(size) if size.height * size.width < 1 << 22 else Box(0, 0, 1, 1))
        raster.close()
    except DataError as error:
        return str(error)
    return None


# --- any region is what the whole shows


@pytest.mark.parametrize("name", FORMATS)
def test_any_region_equals_the_same_region_of_the_whole(tmp_path: Path, name: str) -> None:
    data, by_region = FORMATS[name]
    path = saved(tmp_path, data)
    whole = read_image(path)
    raster = open_image(path)
    try:
        assert isinstance(raster, FileRaster) == by_region
        assert_regions(raster, whole)
    finally:
        raster.close()
    assert image_size(path) == Size(HEIGHT, WIDTH)


def test_there_are_as_many_formats_as_the_promise_names() -> None:
    assert len(FORMATS) == 51
    assert sum(by_region for _, by_region in FORMATS.values()) == 47


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{"rowsperstrip": 7}, {"tile": (16, 32), **DEFLATE}], ids=["strips", "tiles"])
def test_a_region_of_a_turned_file_lies_where_it_is_displayed(
    tmp_path: Path, orientation: int, layout: dict[str, Any]
) -> None:
    path = saved(tmp_path, tiff(RGB, photometric="rgb", extratags=[(274, "H", 1, orientation, True)], **layout))
    whole = read_image(path)
    assert whole.shape == ((WIDTH, HEIGHT, 3) if orientation >= 5 else (HEIGHT, WIDTH, 3))
    raster = open_image(path)
    assert isinstance(raster, FileRaster)
    assert_regions(raster, whole)
    raster.close()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (17, 16)])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 1, **DEFLATE}], ids=str)
def test_the_thinnest_images_are_read(tmp_path: Path, shape: tuple[int, int], options: dict[str, Any]) -> None:
    pixels = noise(*shape, 3)
    for data in (tiff(pixels, photometric="rgb", **options), npy(pixels)):
        raster = open_image(saved(tmp_path, data))
        assert isinstance(raster, FileRaster)
        assert_regions(raster, pixels)
        raster.close()


def test_tiles_at_the_edge_may_be_stored_without_what_lies_outside(tmp_path: Path) -> None:
    # As some GeoTIFF writers do: the two right tiles of 20x40 pixels, cut into tiles of 16x32, are 8 wide, the lower
    # ones 4 high.
    pixels = noise(20, 40)
    cut = [pixels[:16, :32], pixels[:16, 32:], pixels[16:, :32], pixels[16:, 32:]]
    whole = tiff(pixels, tile=(16, 32), byteorder="<")
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        page = file.pages[0]
        counts_at = page.tags[325].valueoffset
        data = bytearray(whole)
        for number, (part, offset) in enumerate(zip(cut, page.dataoffsets, strict=True)):
            data[offset : offset + part.size] = part.tobytes()
            width = page.tags[325].dtype.name
            size, code = {"SHORT": (2, "<H"), "LONG": (4, "<I")}[width]
            struct.pack_into(code, data, counts_at + number * size, part.size)
    path = saved(tmp_path, bytes(data))
    assert np.array_equal(read_image(path)[..., 0], pixels)
    raster = open_image(path)
    assert_regions(raster, read_image(path))
    raster.close()


@pytest.mark.parametrize("layout", ["75x101:uint8", "*x101:uint8", "75x101x3:uint8", "*x101x3:uint16", "*x101:float32"])
def test_a_file_without_header_is_read_by_its_layout(tmp_path: Path, layout: str) -> None:
    raw = RawLayout.parse(layout)
    pixels = noise(*SHAPE, *([3] if raw.channels == 3 else []), dtype=raw.dtype)
    path = saved(tmp_path, pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), "Scan.RAW")
    assert str(raw) == layout
    stored = open_stored(path, raw=raw)
    assert_regions(stored, pixels)
    stored.close()
    raster = open_image(path, raw=raw)
    whole = read_image(path, raw=raw)
    assert np.array_equal(whole, read_image(saved(tmp_path, npy(pixels), "same.npy")))
    assert_regions(raster, whole)
    raster.close()
    assert image_size(path, raw=raw) == Size(*SHAPE)


def test_stored_pixels_are_what_the_file_holds(tmp_path: Path) -> None:
    floats = noise(*SHAPE, dtype="f4") * 1000 - 3
    cases = {
        "16 bits": (tiff(RGB16, photometric="rgb", byteorder=">"), RGB16),
        "float": (tiff(floats, tile=(16, 16)), floats),
        "npy": (npy(floats), floats),
        "turned": (tiff(GREY, extratags=[(274, "H", 1, 6, True)]), np.rot90(GREY, -1)),
        "PNG": (by_opencv(GREY, suffix=".png"), np.dstack([GREY] * 3)),
        "PNG, 16 bits": (by_opencv(RGB16[..., ::-1], suffix=".png"), RGB16),
        "palette": (
            tiff(GREY, photometric="palette", colormap=PALETTE),
            (PALETTE >> 8).astype(np.uint8).T[GREY],
        ),
    }
    for name, (data, expected) in cases.items():
        raster = open_stored(saved(tmp_path, data))
        assert np.array_equal(raster.read(Box.whole(raster.size)), expected), name
        assert np.array_equal(raster.read(Box(3, 5, 20, 30)), expected[3:23, 5:35]), name
        assert raster.read(Box(3, 5, 20, 30)).dtype == expected.dtype, name
        raster.close()


# --- windows


def test_a_window_makes_its_ends_black_and_white(tmp_path: Path) -> None:
    values = np.array([[0, 999, 1000, 1001, 1500, 2000, 2001, 65535]], np.uint16)
    expected = np.array([[0, 0, 0, 0, 128, 255, 255, 255]], np.uint8)  # 127.5 goes to the even number
    window = Window(1000, 2000)
    for data in (
        tiff(values),
        npy(values),
        by_opencv(values, suffix=".png"),
        tiff(values.astype(np.float32)),
        npy(values.astype(np.float64)),
    ):
        path = saved(tmp_path, data)
        assert np.array_equal(read_image(path, window=window), np.dstack([expected] * 3))
    floats = np.array([[-7.5, -2.5, 0.0, 2.5, 1e30]], np.float32)
    read = read_image(saved(tmp_path, tiff(floats)), window=Window(-2.5, 2.5))
    assert read[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    bytes_ = np.arange(256, dtype=np.uint8).reshape(16, 16)
    read = read_image(saved(tmp_path, tiff(bytes_)), window=Window(10, 20))
    assert read[..., 1].ravel()[9:22].tolist() == [0, 0, 26, 51, 76, 102, 128, 153, 178, 204, 230, 255, 255]


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4", "f8"])
def test_regions_of_a_window_equal_the_whole_of_it(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_CONVERTED", 1000)
    window = Window(40, 190) if dtype == "u1" else Window(9000.5, 50000) if dtype == "u2" else Window(0.25, 0.625)
    path = saved(tmp_path, tiff(noise(*SHAPE, 3, dtype=dtype), photometric="rgb", rowsperstrip=6))
    raster = open_image(path, window=window)
    whole = read_image(path, window=window)
    assert len(np.unique(whole)) > 100
    assert_regions(raster, whole)
    raster.close()


def test_the_full_range_as_a_window_is_the_default(tmp_path: Path) -> None:
    path = saved(tmp_path, tiff(np.arange(65536, dtype=np.uint16).reshape(256, 256)))
    assert np.array_equal(read_image(path, window=Window(0, 65535)), read_image(path))


def test_an_array_counts_as_stored(tmp_path: Path) -> None:
    assert read_image(RGB) is RGB
    window = Window(20, 120)
    path = saved(tmp_path, tiff(RGB, photometric="rgb"))
    assert np.array_equal(read_image(RGB, window=window), read_image(path, window=window))
    assert_regions(open_image(RGB), RGB)
    assert_regions(open_image(RGB, window=window), read_image(path, window=window))
    with pytest.raises(TypeError, match=r"^an image array must be uint8 RGB, found float32 of shape \(75, 101, 3\)$"):
        open_image(RGB.astype(np.float32))


def test_windows_that_are_none_are_refused() -> None:
    for low, high in ((5, 5), (7, 3), (float("nan"), 1), (0, float("inf")), (-1.7e308, 1.7e308)):
        with pytest.raises(ValueError, match=r"^a window goes from a lower to a higher number, found "):
            Window(low, high)


def test_numbers_that_are_no_intensity_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf, -np.inf):
        pixels = np.full((4, 5), 0.5, np.float32)
        pixels[0, 0] = value
        for data in (tiff(pixels), npy(pixels)):
            for window in (None, Window(0, 1)):
                assert refusal(saved(tmp_path, data), window=window) == "float pixels that are NaN or infinite"
    wide = np.linspace(7, 0, 20, dtype=np.float32).reshape(4, 5)
    with pytest.raises(DataError, match=r": float pixels from 0 to 7, expected 0 to 1$"):
        read_image(saved(tmp_path, npy(wide)))
    assert read_image(saved(tmp_path, npy(wide)), window=Window(0, 7))[0, 0, 0] == 255
    for kind in (np.int16, np.uint32, np.int8):
        for data in (tiff(GREY.astype(kind)), npy(GREY.astype(kind))):
            path = saved(tmp_path, data)
            reason = f"{np.dtype(kind)} pixels; uint8, uint16 and float in 0 to 1 are read"
            assert refusal(path) == reason
            with pytest.raises(DataError) as caught:
                open_stored(path)
            assert str(caught.value) == f"{path}: {reason}"


# --- what is wrong with a file


@pytest.mark.parametrize("name", [name for name, (_, by_region) in FORMATS.items() if by_region])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole, _ = FORMATS[name]
    whole_image = read_image(saved(tmp_path, whole))
    refused = 0
    lengths = sorted({*(len(whole) * percent // 100 for percent in range(0, 100, 7)), 1, 3, 11, len(whole) - 1})
    assert len(lengths) > 15
    for length in lengths:
        path = saved(tmp_path, whole[:length])
        reason = refused_whole(path)
        if reason is None:  # what is missing is not of the first page's pixels: the other way reads it as well
            assert np.array_equal(read_image(path), whole_image), length
        else:
            assert reason.startswith(f"{path}: ")
            refused += 1
    assert refused > 10
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["RGB, tiles", "RGB, differences", "PackBits", "npy, RGB", "one bit, Deflate", "palette"]
)
def test_a_damaged_byte_crashes_nothing(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole, _ = FORMATS[name]
    rng = np.random.default_rng(8)
    refused = 0
    places = [*rng.integers(0, min(len(whole), 420), 150).tolist(), *rng.integers(0, len(whole), 60).tolist()]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        path = saved(tmp_path, bytes(data))
        reason = refused_whole(path)
        if reason is not None:
            assert reason.startswith(f"{path}: ")
            refused += 1
    assert refused > 4
    assert capfd.readouterr() == ("", "")


def test_a_damaged_deflate_stream_is_noticed_where_it_is_read(tmp_path: Path) -> None:
    whole = tiff(GREY, rowsperstrip=25, **DEFLATE)
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        offsets, counts = file.pages[0].dataoffsets, file.pages[0].databytecounts
    assert len(offsets) == 3
    checksum = bytearray(whole)
    checksum[offsets[1] + counts[1] - 1] ^= 1
    cut = bytearray(whole)
    short = zlib.compress(GREY[25:50].tobytes())[:-9]
    assert len(short) < counts[1]
    cut[offsets[1] : offsets[1] + counts[1]] = short + bytes(counts[1] - len(short))
    few = bytearray(whole)
    packed = zlib.compress(GREY[25:49].tobytes())
    few[offsets[1] : offsets[1] + counts[1]] = packed.ljust(counts[1], b"\0")
    for data, reason in (
        (checksum, "truncated or damaged TIFF (Error -3 while decompressing data: incorrect data check)"),
        (cut, "damaged: a Deflate stream of the TIFF does not end after 2525 bytes, or is cut off"),
        (few, f"truncated: strip or tile 2 of 3 of the TIFF has {24 * WIDTH} bytes, expected {25 * WIDTH}"),
    ):
        path = saved(tmp_path, bytes(data))
        raster = open_image(path)
        assert np.array_equal(raster.read(Box(0, 0, 25, 9))[..., 0], GREY[:25, :9])
        assert np.array_equal(raster.read(Box(60, 0, 9, 9))[..., 0], GREY[60:69, :9])
        with pytest.raises(DataError) as caught:
            raster.read(Box(40, 0, 20, 9))
        assert str(caught.value).startswith(f"{path}: {reason}")
        raster.close()


def test_a_deflate_stream_that_grows_without_end_costs_no_memory(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)
    path = saved(tmp_path, packed_tile(bomb))
    raster = open_image(path)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            raster.read(Box(0, 0, 16, 16))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    raster.close()
    reason = "damaged: a Deflate stream of the TIFF does not end after 256 bytes, or is cut off"
    assert str(caught.value) == f"{path}: {reason}"


def packed_tile(data: bytes) -> bytes:
    """A grey TIFF of one tile of 16x16 pixels whose Deflate stream this is."""
    target = io.BytesIO()
    with tifffile.TiffWriter(target) as writer:
        writer.write(iter([data]), shape=(16, 16), dtype="u1", tile=(16, 16), compression="zlib", metadata=None)
    return target.getvalue()


def test_a_stream_that_is_padded_at_its_end_is_read(tmp_path: Path) -> None:
    pixels = noise(16, 16)
    path = saved(tmp_path, packed_tile(zlib.compress(pixels.tobytes() + bytes(256))))
    raster = open_image(path)
    assert np.array_equal(raster.read(Box(0, 0, 16, 16))[..., 0], pixels)
    raster.close()


def test_sizes_that_a_small_file_only_states_are_not_believed(tmp_path: Path) -> None:
    huge = 2**31 - 1
    for tag in (256, 257):
        data = bytearray(tiff(GREY, rowsperstrip=7))
        with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
            struct.pack_into("<I", data, file.pages[0].tags[tag].valueoffset, huge)
            struct.pack_into("<H", data, file.pages[0].tags[tag].offset + 2, 4)
        path = saved(tmp_path, bytes(data))
        with pytest.raises(DataError, match=r"(damaged|truncated): "):
            open_image(path)
    for text in ("(2147483647, 2147483647)", "(99999999999999999999999, 3)", "(2, 2147483647, 3)"):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {text}}}".ljust(117).encode() + b"\n"
        path = saved(tmp_path, b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(64))
        assert refusal(path).startswith("truncated: ")


def test_a_tile_without_rows_is_refused_and_nothing_is_divided_by_it(tmp_path: Path) -> None:
    data = bytearray(tiff(GREY, tile=(16, 16)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        struct.pack_into("<I", data, file.pages[0].tags[323].valueoffset, 0)
    reason = "damaged: the TIFF states strips or tiles of 0x16 (height x width)"
    assert refusal(saved(tmp_path, bytes(data))) == reason


def test_a_table_that_states_to_be_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_tiff, "_TABLE_BYTES", 290)
    path = saved(tmp_path, tiff(GREY, rowsperstrip=1))
    with pytest.raises(DataError) as caught:
        open_image(path)
    assert str(caught.value) == f"{path}: damaged: the TIFF states a table of 300 bytes"


NPY_FAULTS = {
    "truncated: the file has only 9 bytes": b"\x93NUMPY\1\0\0",
    "damaged: a .npy file of version 7, expected 1 to 3": b"\x93NUMPY\7\0" + bytes(90),
    "damaged: the .npy file states a header of 4294967295 bytes": b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(90),
    "damaged: the header of the .npy file cannot be read": b"\x93NUMPY\1\0\5\0{1: 2" + bytes(90),
    "truncated: bytes 10 to 128 are missing, the file has 100": npy(GREY)[:100],
    "truncated: 75x101 pixels (height x width) need 7703 bytes, the file has 7702": npy(GREY)[:-1],
    "the array is stored column by column; save it in C order (numpy.ascontiguousarray)": npy(np.asfortranarray(GREY)),
    "an array of shape (75,); expected (height, width), or with 1 or 3 channels last": npy(GREY[:, 0].copy()),
    "an array of shape (75, 101, 4); expected (height, width), or with 1 or 3 channels last": npy(RGBA),
    "the image has no pixels (0x101, height x width)": npy(GREY[:0]),
    "int64 pixels; uint8, uint16 and float in 0 to 1 are read": npy(GREY.astype(np.int64)),
}


@pytest.mark.parametrize("reason", NPY_FAULTS)
def test_what_is_wrong_with_a_npy_file(tmp_path: Path, reason: str) -> None:
    assert len(NPY_FAULTS) == 11
    assert refusal(saved(tmp_path, NPY_FAULTS[reason], "image.npy")) == reason


def test_a_npy_header_that_is_no_dictionary_of_that_kind_is_refused(tmp_path: Path) -> None:
    for text in (
        "[]",
        "{'descr': '|u1', 'shape': (1, 1)}",
        "{'descr': 'banana', 'fortran_order': False, 'shape': (1, 1)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1, -1)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1.5, 1)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 7}",
        "{'descr': 'a5', 'fortran_order': False, 'shape': (1, 1)}",  # of which NumPy would warn
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1) is 1}",  # of which Python would
        "__import__('os').getcwd()",
        "(" * 5000,
    ):
        header = text.encode() + b"\n"
        path = saved(tmp_path, b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(64))
        assert refusal(path) == "damaged: the header of the .npy file cannot be read"


def test_a_raw_file_must_fit_its_layout(tmp_path: Path) -> None:
    path = saved(tmp_path, bytes(600), "scan.raw")
    assert refusal(path) == "a .raw file has no header, and its layout is not given: [preprocess] raw"
    with pytest.raises(DataError) as caught:
        image_size(path)
    assert caught.value.help == (
        'Give height, width and type of its pixels: raw = "20000x25000:uint8", "*x25000:uint16" (as many rows as there '
        'are), "20000x25000x3:float32" (RGB)'
    )
    for layout, reason in {
        "20x20:uint8": 'the file has 600 bytes, its layout needs 400 ([preprocess] raw = "20x20:uint8")',
        "20x20:uint16": 'the file has 600 bytes, its layout needs 800 ([preprocess] raw = "20x20:uint16")',
        "*x11x3:uint8": (
            'the file has 600 bytes, no whole number of rows of 33 bytes ([preprocess] raw = "*x11x3:uint8")'
        ),
    }.items():
        assert refusal(path, raw=RawLayout.parse(layout)) == reason
    assert open_image(path, raw=RawLayout.parse("*x10x3:uint16")).size == Size(10, 10)
    empty = saved(tmp_path, b"", "empty.raw")
    assert refusal(empty, raw=RawLayout.parse("*x10:uint8")) == "the file is empty (0 bytes)"
    # A layout is for files without header only.
    assert np.array_equal(read_image(saved(tmp_path, npy(RGB), "a.npy"), raw=RawLayout.parse("*x10:uint8")), RGB)


def test_texts_that_are_no_layout_are_refused() -> None:
    expected = 'expected "HEIGHTxWIDTH:TYPE" or "HEIGHTxWIDTHxCHANNELS:TYPE", as "*x25000x3:uint16"'
    for text in ("", "20x20", "20x*:uint8", "x20:uint8", "20 x 20:uint8", "20x20x3x3:uint8", "-1x20:uint8"):
        with pytest.raises(ValueError) as caught:
            RawLayout.parse(text)
        assert str(caught.value) == expected
    for text, reason in {
        "0x20:uint8": "height and width must be positive",
        "*x0:uint8": "height and width must be positive",
        "20x20x4:uint8": "expected 1 channel (grey) or 3 (RGB), found 4",
        "20x20:int8": "expected one of the types uint8, uint16, float32, found int8",
    }.items():
        with pytest.raises(ValueError) as caught:
            RawLayout.parse(text)
        assert str(caught.value) == reason


def test_what_is_no_file_is_named_with_its_reason(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "missing.tiff")) == "no such file"
    assert refusal(str(tmp_path)) == "is a folder, not an image file"
    assert refusal(saved(tmp_path, b"hello\n")) == "not a PNG, JPEG, BMP, TIFF or WebP file"
    assert refusal(saved(tmp_path, b"")) == "the file is empty (0 bytes)"
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    assert refusal(str(pipe)) == "is not a regular file"


def test_a_box_that_is_empty_or_outside_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    raster = open_image(saved(tmp_path, FORMATS["RGB, tiles"][0]))
    for source in (raster, ArrayRaster(RGB)):
        for box in (Box(-1, 0, 5, 5), Box(0, 0, 0, 5), Box(71, 0, 5, 5), Box(0, 97, 5, 5)):
            with pytest.raises(ValueError, match=r"is empty or lies outside of the image of 75x101$"):
                source.read(box)
    raster.close()
    with pytest.raises(ValueError, match=r"^the file is closed$"):
        raster.read(Box(0, 0, 1, 1))


def test_only_what_is_decoded_whole_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    for name, (data, by_region) in FORMATS.items():
        path = saved(tmp_path, data)
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert str(caught.value) == f"{path}: 75x101 (height x width) is 7575 pixels, more than 7574", name
        assert caught.value.help == (
            "A larger image is read region by region where it is cut into tiles ([tiling] size, or --tile-size) and its "
            "file is a TIFF of tiles or strips (uncompressed, Deflate or PackBits), .npy or .raw."
        )
        if by_region:
            raster = open_image(path)
            assert raster.read(Box(70, 90, 5, 11)).shape == (5, 11, 3)
            raster.close()
        else:
            with pytest.raises(DataError, match=r"more than 7574$"):
                open_image(path)


def test_bytes_whose_bits_run_backwards_are_decoded_whole(tmp_path: Path) -> None:
    bits = noise(*SHAPE, dtype="?")
    data = bytearray(tiff(bits, extratags=[(265, "H", 1, 2, True)]))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        struct.pack_into("<H", data, file.pages[0].tags[265].offset, 266)  # FillOrder, which tifffile does not write
    raster = open_image(saved(tmp_path, bytes(data)))
    assert isinstance(raster, ArrayRaster)
    packed = np.packbits(bits, axis=1)
    turned = np.unpackbits(packed, axis=1, bitorder="little")[:, :WIDTH] * np.uint8(255)
    assert np.array_equal(raster.pixels[..., 0], turned)


def test_strips_too_large_to_decode_for_a_region_are_decoded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_tiff, "_SEGMENT_BYTES", HEIGHT * WIDTH - 1)
    packed = open_image(saved(tmp_path, tiff(GREY, rowsperstrip=HEIGHT, **DEFLATE)))
    assert isinstance(packed, ArrayRaster)
    assert np.array_equal(packed.pixels[..., 2], GREY)
    plain = open_image(saved(tmp_path, tiff(GREY, rowsperstrip=HEIGHT)))
    assert isinstance(plain, FileRaster)
    plain.close()


# --- what is decoded, and kept


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The strips and tiles that were decoded, in this order."""
    found: list[int] = []
    decode = image_tiff.TiffRegions._decode

    def counted(self: Any, index: int) -> Any:
        found.append(index)
        return decode(self, index)

    monkeypatch.setattr(image_tiff.TiffRegions, "_decode", counted)
    return found


def test_only_the_strips_and_tiles_of_a_region_are_decoded(tmp_path: Path, decoded: list[int]) -> None:
    raster = open_image(saved(tmp_path, tiff(RGB, photometric="rgb", tile=(16, 32), **DEFLATE)))
    raster.read(Box(15, 31, 2, 2))
    assert decoded == [0, 1, 4, 5]
    raster.close()
    decoded.clear()
    raster = open_image(saved(tmp_path, tiff(RGB, photometric="rgb", rowsperstrip=10, **DEFLATE)))
    raster.read(Box(10, 3, 10, 20))
    assert decoded == [1]
    raster.close()


def test_regions_side_by_side_decode_their_strips_once(
    tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_tiff, "_KEPT_BYTES", 1)
    path = saved(tmp_path, tiff(RGB, photometric="rgb", rowsperstrip=4, **DEFLATE))
    raster = open_image(path)
    for y0 in (0, 20, 40):
        for x0 in range(0, WIDTH - 20, 20):
            raster.read(Box(y0, x0, 20, 20))
    assert decoded == list(range(15))
    raster.close()
    # Unless they are too large to keep.
    monkeypatch.setattr(image_tiff, "_MOST_KEPT_BYTES", 4 * 4 * WIDTH * 3)
    decoded.clear()
    raster = open_image(path)
    raster.read(Box(0, 0, 20, 20))
    raster.read(Box(0, 20, 20, 20))
    assert decoded == [*range(5)] * 2
    raster.close()


def test_what_was_read_long_ago_is_not_kept(
    tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_tiff, "_KEPT_BYTES", 3 * 16 * 32 * 3)
    raster = open_image(saved(tmp_path, tiff(RGB, photometric="rgb", tile=(16, 32), **DEFLATE)))
    for x0 in (0, 32, 64, 64, 32, 0, 96, 32, 64):
        raster.read(Box(0, x0, 1, 1))
    assert decoded == [0, 1, 2, 3, 2]
    raster.close()


def test_several_threads_decode_each_strip_once(tmp_path: Path, decoded: list[int]) -> None:
    path = saved(tmp_path, tiff(RGB, photometric="rgb", rowsperstrip=4, **DEFLATE))
    raster = open_image(path)
    places = [Box(y0, x0, 5, 7) for y0 in range(70) for x0 in range(0, 94, 13)]
    barrier = threading.Barrier(4)

    def read(share: int) -> int:
        barrier.wait()
        right = [np.array_equal(raster.read(box), RGB[box.rows, box.columns]) for box in places[share::4]]
        return sum(right)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(read, range(4))) == len(places) == 560
    assert sorted(decoded) == list(range(19))
    raster.close()


@pytest.mark.parametrize("missing", [(), ("preadv",), ("preadv", "pread")], ids=str)
def test_threads_do_not_disturb_each_other_where_the_system_reads_in_turns(
    tmp_path: Path, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in missing:
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(image_rows, "_MOST", 50)
    raster = open_image(saved(tmp_path, npy(RGB)))
    places = boxes(Size(*SHAPE), 200)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(raster.read, places))
    assert len(parts) == 204
    assert all(np.array_equal(part, RGB[box.rows, box.columns]) for part, box in zip(parts, places, strict=True))
    raster.close()


def test_a_raster_that_nobody_closed_closes_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path, npy(RGB))
    for _ in range(3):
        open_image(path).read(Box(0, 0, 1, 1))
    if Path("/proc/self/fd").is_dir():
        opened = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
        assert os.path.realpath(path) not in opened


def test_every_file_that_is_refused_is_closed(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("what is open shows only in /proc")
    path = saved(tmp_path, npy(GREY.astype(np.int64)))
    errors = []  # they keep the frames, and what is in them, alive
    for data in (npy(GREY.astype(np.int64)), tiff(GREY.astype(np.int16)), tiff(GREY)[:-1], b"", FORMATS["PNG"][0]):
        Path(path).write_bytes(data)
        try:
            kept = open_image(path)
        except DataError as error:
            errors.append(error)
    assert isinstance(kept, ArrayRaster)
    assert len(errors) == 4
    opened = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
    assert os.path.realpath(path) not in opened


# --- listing and masks


def test_npy_and_raw_files_are_listed_and_masks_are_read_from_them(tmp_path: Path) -> None:
    mask = noise(*SHAPE, dtype="?")
    for name, data in {"a.npy": npy(mask), "b.NPY": npy(mask.astype(np.uint16) * 7), "c.raw": b"x"}.items():
        saved(tmp_path, data, name)
    listed = list_images(tmp_path)
    assert [Path(path).name for path in listed] == ["a.npy", "b.NPY", "c.raw"]
    for path in listed[:2]:
        assert np.array_equal(read_mask([path], size=SHAPE), mask)


DEFECT = noise(*SHAPE, dtype="?") & (np.arange(WIDTH) % 5 > 1)
IDS = (DEFECT * 300).astype(np.uint16)  # no class number fits into 8 bits
ONE_CHANNEL = np.stack([DEFECT * 0, DEFECT * 1, DEFECT * 0], axis=2).astype(np.uint8)
ALPHA = np.concatenate([ONE_CHANNEL, ~DEFECT[..., np.newaxis] * np.uint8(255)], axis=2)
# Half of the numbers are black, and nearly black in one channel is not.
BLACKS = np.where(np.arange(256) % 2, [[0], [0], [256]], 0).astype(np.uint16)
PALETTED = (DEFECT + 2 * np.arange(WIDTH)).astype(np.uint8)

# Name: (bytes, region by region); all of them are DEFECT.
MASKS: dict[str, tuple[bytes, bool]] = {
    "0 and 255, tiles": (tiff(DEFECT * np.uint8(255), tile=(16, 32)), True),
    "0 and 1, tiles, Deflate": (tiff(DEFECT * np.uint8(1), tile=(16, 48), **DEFLATE), True),
    "strips": (tiff(DEFECT * np.uint8(1), rowsperstrip=7), True),
    "class numbers of 16 bits": (tiff(IDS, tile=(16, 16)), True),
    "class numbers of 16 bits, big-endian": (tiff(IDS, rowsperstrip=4, byteorder=">"), True),
    "class numbers of 32 bits": (tiff(IDS.astype(np.uint32) << 12, tile=(16, 16), **DEFLATE), True),
    "signed, -1 beside": (tiff(np.where(DEFECT, 2, -1).astype(np.int32), tile=(16, 32)), True),
    "signed, 8 bits": (tiff(np.where(DEFECT, 2, -1).astype(np.int8), rowsperstrip=9), True),
    "float": (tiff(DEFECT.astype(np.float32) * 0.001, tile=(16, 32)), True),
    "one bit": (tiff(DEFECT, rowsperstrip=5), True),
    "one bit, white is zero": (tiff(~DEFECT, photometric="miniswhite", software="x", tile=(16, 32)), True),
    "white is zero": (tiff(np.where(DEFECT, 254, 255).astype(np.uint8), photometric="miniswhite"), True),
    "palette": (tiff(PALETTED, photometric="palette", colormap=BLACKS, tile=(16, 16)), True),
    "one channel of RGB": (tiff(ONE_CHANNEL, photometric="rgb", tile=(16, 16), **DEFLATE), True),
    "one channel of RGB, planar": (tiff(np.moveaxis(ONE_CHANNEL, 2, 0), rowsperstrip=6, **PLANAR), True),
    "RGBA": (tiff(ALPHA, photometric="rgb", extrasamples=[2], tile=(16, 32)), True),
    "grey and alpha": (
        tiff(ALPHA[..., [1, 3]], photometric="minisblack", planarconfig="contig", extrasamples=[2]),
        True,
    ),
    "PackBits": (
        by_opencv(DEFECT * np.uint8(9), cv2.IMWRITE_TIFF_COMPRESSION, 32773, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 9),
        True,
    ),
    "npy": (npy(DEFECT), True),
    "npy, RGB": (npy(ONE_CHANNEL), True),
    "LZW": (by_opencv(DEFECT * np.uint8(9), cv2.IMWRITE_TIFF_COMPRESSION, 5), False),
    "PNG": (by_opencv(DEFECT * np.uint8(255), suffix=".png"), False),
    "PNG, class numbers of 16 bits": (by_opencv(IDS, suffix=".png"), False),
    "PNG, RGBA": (by_opencv(ALPHA, suffix=".png"), False),
    "BMP": (by_opencv(DEFECT * np.uint8(1), suffix=".bmp"), False),
}


@pytest.mark.parametrize("name", MASKS)
def test_any_region_of_a_mask_is_where_it_is_above_zero(tmp_path: Path, name: str) -> None:
    data, by_region = MASKS[name]
    path = saved(tmp_path, data)
    raster = open_mask([path], size=SHAPE)
    assert isinstance(raster, FileRaster) == by_region
    assert_regions(raster, DEFECT.astype(np.uint8))
    assert np.array_equal(read_mask([path], size=SHAPE), DEFECT)
    raster.close()


def test_there_are_as_many_kinds_of_masks() -> None:
    assert len(MASKS) == 25
    assert sum(by_region for _, by_region in MASKS.values()) == 20
    assert 1000 < np.count_nonzero(DEFECT) < 3000


@pytest.mark.parametrize("name", FORMATS)
def test_any_region_of_a_file_as_a_mask_equals_the_same_region_of_the_whole(tmp_path: Path, name: str) -> None:
    data, by_region = FORMATS[name]
    path = saved(tmp_path, data)
    raster = open_mask([path])
    assert isinstance(raster, FileRaster) == by_region
    assert_regions(raster, read_mask([path]))
    raster.close()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_lies_where_it_is_displayed(tmp_path: Path, orientation: int) -> None:
    tags = [(274, "H", 1, orientation, True)]
    path = saved(tmp_path, tiff(DEFECT * np.uint8(255), tile=(16, 32), extratags=tags))
    raster = open_mask([path])
    assert raster.size == ((WIDTH, HEIGHT) if orientation >= 5 else SHAPE)
    assert_regions(raster, read_mask([path]))
    raster.close()


def test_masks_of_one_image_are_united_whatever_their_formats(tmp_path: Path) -> None:
    marks = [np.arange(HEIGHT * WIDTH).reshape(SHAPE) % (k + 2) == 0 for k in range(3)]
    files = {"a.tiff": tiff(marks[0], tile=(16, 16)), "b.png": by_opencv(marks[1] * np.uint8(255), suffix=".png")}
    paths = [saved(tmp_path, data, name) for name, data in (files | {"c.npy": npy(marks[2])}).items()]
    raster = open_mask(paths, size=SHAPE)
    assert_regions(raster, read_mask(paths, size=SHAPE))
    assert np.array_equal(raster.read(Box.whole(raster.size)), marks[0] | marks[1] | marks[2])
    assert defect_count(raster) == np.count_nonzero(marks[0] | marks[1] | marks[2])
    raster.close()
    with pytest.raises(ValueError, match=r"^the file is closed$"):
        raster.read(Box(0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"^open_mask needs at least one mask file$"):
        open_mask([])


def test_masks_of_another_size_are_refused_as_by_read_mask(tmp_path: Path) -> None:
    one = saved(tmp_path, tiff(DEFECT, tile=(16, 16)), "one.tiff")
    other = saved(tmp_path, tiff(DEFECT.T, rowsperstrip=4), "other.tiff")
    png = saved(tmp_path, by_opencv(DEFECT.T * np.uint8(1), suffix=".png"), "other.png")
    way_out = "A mask must have the size of its image, as displayed."
    for paths, size, said in [
        ([one], (9, 7), f"{one} is 75x101, its image is 9x7 (height x width)"),
        ([one, other], None, f"{other} is 101x75, {one}, a mask of the same image, is 75x101 (height x width)"),
        ([one, png], None, f"{png} is 101x75, {one}, a mask of the same image, is 75x101 (height x width)"),
        ([one, one, other], SHAPE, f"{other} is 101x75, its image is 75x101 (height x width)"),
    ]:
        for read in (open_mask, read_mask):
            with pytest.raises(DataError) as caught:
                read(paths, size=size)
            assert (caught.value.message, caught.value.help) == (said, way_out)


def test_what_is_wrong_with_a_mask_is_told_as_by_read_mask(tmp_path: Path) -> None:
    holed = np.where(DEFECT, 1, 0).astype(np.float32)
    holed[60, 90] = np.nan
    cases = {
        "nan.tiff": tiff(holed, tile=(16, 16)),
        "nan.npy": npy(holed),
        "cut.npy": npy(DEFECT)[:-1],
        "cut.tiff": tiff(DEFECT, rowsperstrip=5)[:-20],
        "no.raw": b"123",
        "text.png": b"text",
    }
    for name, data in cases.items():
        path = saved(tmp_path, data, name)
        with pytest.raises(DataError) as whole:
            read_mask([path])
        with pytest.raises(DataError) as regions:
            defect_count(open_mask([path]))
        assert str(regions.value) == str(whole.value), name
        assert regions.value.help == whole.value.help, name
    # Not a number is noticed where it is read.
    raster = open_mask([str(tmp_path / "nan.tiff")])
    assert raster.read(Box(0, 0, 60, WIDTH)).sum() == np.count_nonzero(DEFECT[:60])
    with pytest.raises(DataError, match=r"nan\.tiff: the mask has pixels that are NaN or infinite$"):
        raster.read(Box(60, 0, 1, WIDTH))
    raster.close()


def test_only_masks_that_are_decoded_whole_have_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    for name, (data, by_region) in MASKS.items():
        path = saved(tmp_path, data)
        reads = (read_mask,) if by_region else (read_mask, open_mask)
        for read in reads:
            with pytest.raises(DataError) as caught:
                read([path])
            assert str(caught.value) == f"{path}: 75x101 (height x width) is 7575 pixels, more than 7574", name
            assert caught.value.help == (
                "Save a larger mask as a TIFF of tiles (uncompressed or Deflate): it is read region by region."
            )
        if by_region:
            raster = open_mask([path])
            assert defect_count(raster) == np.count_nonzero(DEFECT), name
            raster.close()
    # That would be no way out for masks whose values have a meaning.
    with pytest.raises(DataError) as caught:
        read_mask_values(saved(tmp_path, MASKS["strips"][0]))
    assert caught.value.help is None
    monkeypatch.undo()
    monkeypatch.setattr(image_files, "MAX_FILE_BYTES", 100)
    with pytest.raises(DataError) as caught:
        open_mask([saved(tmp_path, MASKS["PNG"][0])])
    assert caught.value.help is not None
    assert caught.value.help.startswith("Save a larger mask as a TIFF of tiles")


def test_defect_pixels_are_counted_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Box] = []

    class Noted(ArrayRaster):
        def read(self, box: Box) -> np.ndarray:
            read.append(box)
            return super().read(box)

    monkeypatch.setattr(rasters, "row_bands", functools.partial(row_bands, pixels=1))
    tall = np.zeros((600, 9), np.uint8)
    tall[[0, 255, 256, 599], 3:7] = 7
    assert defect_count(Noted(tall)) == 16
    assert [box.height for box in read] == [256, 256, 88]


def test_a_mask_that_is_refused_closes_all_its_files(tmp_path: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("open files are counted in /proc")
    one = saved(tmp_path, tiff(DEFECT, tile=(16, 16)), "one.tiff")
    other = saved(tmp_path, tiff(DEFECT.T, rowsperstrip=4), "other.tiff")
    gone = str(tmp_path / "gone.tiff")
    before = len(list(folder.iterdir()))
    errors = []
    for paths in ([one, other], [one, gone], [one, saved(tmp_path, b"text", "text.png")]):
        with pytest.raises(DataError) as caught:
            open_mask(paths)
        errors.append(caught)  # whose tracebacks keep what was opened
    assert len(errors) == 3
    assert len(list(folder.iterdir())) == before


def test_row_bands_cover_an_image_in_whole_tiles() -> None:
    for height, width, pixels, heights in [
        (1000, 10, 5120, [512, 488]),
        (1000, 10, 5121, [512, 488]),
        (300, 1 << 23, 1 << 22, [256, 44]),
        (5, 7, 1 << 22, [5]),
    ]:
        found = list(row_bands(Size(height, width), pixels=pixels))
        assert [box.height for box in found] == heights
        assert [box.y0 for box in found] == [sum(heights[:k]) for k in range(len(heights))]
        assert {(box.x0, box.width) for box in found} == {(0, width)}


# --- maps in files


def field_of(height: int, width: int) -> np.ndarray:
    values = np.random.default_rng(4).normal(size=(height, width)).astype(np.float32)
    values[::7, ::5] = np.nan
    return values


def cut(field: np.ndarray, *heights: int) -> list[np.ndarray]:
    return np.split(field, np.cumsum(heights))


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (255, 257), (256, 256), (600, 300)])
def test_a_map_written_as_it_grows_comes_back(tmp_path: Path, shape: tuple[int, int]) -> None:
    field = field_of(*shape)
    path = tmp_path / "deep" / "er" / "map.tiff"
    with StoredMap.write(path, Size(*shape), [field]) as stored:
        assert stored.path == path
        assert stored.size == stored.shape == shape
        for box in boxes(stored.size):
            assert stored.read(box).tobytes() == field[box.rows, box.columns].tobytes()
        assert stored.read(Box(0, 0, 1, 1)).dtype == np.float32
    assert read_map(path).tobytes() == field.tobytes()
    assert tifffile.imread(path).tobytes() == field.tobytes()
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes() == field.tobytes()
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert file.is_bigtiff
        assert (page.tilelength, page.tilewidth, page.compression, len(file.pages)) == (256, 256, 1, 1)
    assert [entry.name for entry in path.parent.iterdir()] == ["map.tiff"]


def test_the_bands_of_a_map_may_have_any_height_and_give_the_same_bytes(tmp_path: Path) -> None:
    field = field_of(600, 300)
    written = []
    for number, parts in enumerate(
        (cut(field), cut(field, 1, 254, 1, 1), cut(field, *[1] * 599), cut(field, 512), cut(field, 0, 300, 0))
    ):
        path = tmp_path / f"{number}.tiff"
        StoredMap.write(path, Size(600, 300), iter(parts))
        written.append(path.read_bytes())
    assert len(written) == 5
    assert set(written) == {written[0]}
    # What lies outside of the map in its last tile: nothing of the rows before.
    last = np.frombuffer(written[0][-256 * 256 * 4 :], np.float32).reshape(256, 256)
    assert np.array_equal(last[:88, :44], field[512:, 256:], equal_nan=True)
    assert not last[88:].any()
    assert not last[:, 44:].any()
    assert np.array_equal(tifffile.imread(tmp_path / "0.tiff"), field, equal_nan=True)


def test_bands_that_do_not_add_up_leave_the_old_map(tmp_path: Path) -> None:
    path = tmp_path / "map.tiff"
    StoredMap.write(path, Size(2, 3), [np.zeros((2, 3), np.float32)])
    before = path.read_bytes()

    def fails() -> Any:
        yield np.zeros((300, 3), np.float32)
        raise RuntimeError("no more")

    one = np.zeros((300, 3), np.float32)
    for wrong, reason in (
        ([one, one[:1]], "301 rows of 400 were given"),
        ([one, one], r"a band of shape \(300, 3\) after 300 rows does not fit an image of 400x3 \(height x width\)"),
        ([one.T], r"a band of shape \(3, 300\) after 0 rows does not fit an image of 400x3 \(height x width\)"),
        ([one[0]], r"a band of shape \(3,\) after 0 rows does not fit an image of 400x3 \(height x width\)"),
    ):
        with pytest.raises(ValueError, match=f"^{reason}$"):
            StoredMap.write(path, Size(400, 3), wrong)
    with pytest.raises(RuntimeError, match=r"^no more$"):
        StoredMap.write(path, Size(400, 3), fails())
    with pytest.raises(ValueError, match=r"^a map must have pixels, found 0x3 \(height x width\)$"):
        StoredMap.write(path, Size(0, 3), [])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.tiff"]


def test_a_map_in_a_file_is_opened_when_it_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "map.tiff"
    stored = StoredMap(path)
    with pytest.raises(DataError) as caught:
        stored.read(Box(0, 0, 1, 1))
    assert str(caught.value) == f"{path}: no such file"
    field = field_of(20, 30)
    write_map(path, field)
    assert stored.read(Box(3, 4, 5, 6)).tobytes() == field[3:8, 4:10].tobytes()
    stored.close()
    assert stored.shape == (20, 30)
    stored.close()
    for data in (tiff(GREY), tiff(field.astype(np.float64)), tiff(RGB.astype(np.float32), photometric="rgb")):
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            _ = stored.size
        assert str(caught.value) == f"{path}: not an anomaly map that is read region by region: float32, one channel"


def test_a_map_can_be_deleted_twice(tmp_path: Path) -> None:
    stored = StoredMap.write(tmp_path / "here.tiff", Size(3, 2), [np.ones((3, 2), np.float32)])
    assert stored.shape == (3, 2)
    stored.delete()
    stored.delete()
    assert not stored.path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of files")
def test_a_disk_that_is_full_is_said_with_the_file(tmp_path: Path) -> None:
    # A limit for the size of files stands in for it: the system says so at the same place.
    code = (
        "import errno, resource\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from uadctl.imaging.raster import StoredMap\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: StoredMap.write(Path('maps/full.tiff'), (600, 600), [np.zeros((600, 600), np.float32)])\n"
        "except OSError as error: assert error.errno == errno.EFBIG, error; print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "maps/full.tiff: cannot be written: File too large\n"
    assert list((tmp_path / "maps").iterdir()) == []


def test_an_error_that_names_its_file_is_left_as_it_is(tmp_path: Path) -> None:
    def rows() -> Iterator[np.ndarray]:
        yield np.zeros((1, 2), np.float32)
        raise FileNotFoundError(errno.ENOENT, "gone", "elsewhere")

    with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\] gone: 'elsewhere'$"):
        StoredMap.write(tmp_path / "map.tiff", Size(2, 2), rows())


def test_write_map_copies_a_map_from_its_file(tmp_path: Path) -> None:
    field = field_of(300, 270)
    stored = StoredMap.write(tmp_path / "here.tiff", Size(300, 270), [field])
    write_map(tmp_path / "new" / "there.tiff", stored)
    assert (tmp_path / "new" / "there.tiff").read_bytes() == stored.path.read_bytes()
    assert stored.read(Box.whole(stored.size)).tobytes() == field.tobytes()
    write_map(stored.path, stored)
    assert read_map(stored.path).tobytes() == field.tobytes()
    half = tmp_path / "half.tiff"
    write_map(half, stored, precision="float16", note="a note")
    values, pages = read_stored_map(half)
    assert pages == 1
    assert values.tobytes() == field.astype(np.float16).tobytes()
    with tifffile.TiffFile(half) as file:
        assert file.pages[0].description == "a note"
    write_tiled(stored.path, Size(1, 1), [np.full((1, 1), 65505, np.float32)])
    stored.close()
    with pytest.raises(ValueError, match=r"^a map of float16 holds scores from -65504.0 to 65504.0; found beyond$"):
        write_map(half, stored, precision="float16")
    stored.close()


def test_bands_cover_a_map_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = field_of(70, 30)
    stored = StoredMap.write(tmp_path / "map.tiff", Size(70, 30), [field])
    monkeypatch.setattr(rasters, "MAP_TILE", 1)
    (only,) = bands(field, pixels=300)
    assert only[0] == 0
    assert only[1] is not None
    assert only[1].base is field
    for source in (stored, field):
        monkeypatch.setattr(rasters, "LARGE", 70 * 30 - 1)
        for pixels, heights in ((300, [10] * 7), (959, [31, 31, 8]), (1, [1] * 70), (1 << 22, [70])):
            found = list(bands(source, pixels=pixels))
            assert [len(band) for _, band in found] == heights
            assert [y0 for y0, _ in found] == np.cumsum([0, *heights[:-1]]).tolist()
            assert np.concatenate([band for _, band in found]).tobytes() == field.tobytes()
    stored.close()


def test_boxes_of_rows_cover_an_image_once() -> None:
    for size in (Size(1, 1), Size(10, 3), Size(7, 100)):
        for pixels, multiple in itertools.product((1, 6, 30, 1000), (1, 4)):
            boxes = list(row_boxes(size, pixels, y0=5, x0=6, multiple=multiple))
            assert [b.y0 for b in boxes] == list(itertools.accumulate([5, *(b.height for b in boxes[:-1])]))
            assert sum(b.height for b in boxes) == size.height
            assert all((b.x0, b.width) == (6, size.width) for b in boxes)
            assert all(b.height % multiple == 0 for b in boxes[:-1])
            assert all(b.height <= multiple or (b.height - multiple) * b.width < pixels for b in boxes)
            if multiple == 1:
                assert all(b.height == 1 or b.height * b.width <= pixels for b in boxes)
    assert [b.height for b in row_boxes(Size(100, 3), 30)] == [10] * 10
    assert [b.height for b in row_boxes(Size(100, 3), 30, multiple=4)] == [12] * 8 + [4]


# --- masks beyond memory


def test_a_png_written_by_rows_comes_back(tmp_path: Path) -> None:
    for shape in ((1, 1), (1, 300), (300, 1), (75, 101)):
        mask = (noise(*shape) > 100) * np.uint8(255)
        for number, parts in enumerate((cut(mask), cut(mask, *[1] * (shape[0] - 1)), cut(mask, 0, shape[0] // 2))):
            path = tmp_path / "deep" / f"{number}.png"
            write_png_rows(path, Size(*shape), iter(parts))
            assert np.array_equal(read_stored_png(path), mask)
            assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), mask)
    write_png_rows(tmp_path / "noise.png", SHAPE, [GREY])
    assert np.array_equal(read_stored_png(tmp_path / "noise.png"), GREY)


def test_rows_that_are_no_png_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    write_png_rows(path, (1, 1), [np.zeros((1, 1), np.uint8)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^74 rows of 75 were given$"):
        write_png_rows(path, SHAPE, [GREY[:74]])
    with pytest.raises(
        ValueError,
        match=r"^a band of shape \(75, 101\) after 1 rows does not fit an image of 75x101 \(height x width\)$",
    ):
        write_png_rows(path, SHAPE, [GREY[:1], GREY])
    with pytest.raises(TypeError, match=r"^a PNG is written from uint8 pixels, found bool$"):
        write_png_rows(path, SHAPE, [GREY > 3])
    with pytest.raises(ValueError, match=r"^a PNG of 0x5 pixels \(height x width\) cannot be written$"):
        write_png_rows(path, (0, 5), [])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask.png"]


# --- memory

# Rows and columns of a gigabyte, none of which is on the disk.
LONG, WIDE = 32768, 32768

MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np
from uadctl.imaging.raster import RawLayout, StoredMap, bands, open_image
from uadctl.records import Box, Size
path, kind = sys.argv[1:]
raw = RawLayout.parse("*x32768:uint8")
open_image(np.zeros((9, 9, 3), np.uint8)).read(Box(0, 0, 9, 9))
import cv2, tifffile
cv2.cvtColor(np.zeros((600, 600), np.uint8), cv2.COLOR_GRAY2RGB)

def peak():
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone: on Linux ru_maxrss starts with what the one had that started it.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)

start = peak()
if kind == "map":
    row = np.ones((300, 16384), np.float32)
    stored = StoredMap.write(Path(path), Size(16384, 16384),
                             (row[: min(300, 16384 - y0)] for y0 in range(0, 16384, 300)))
    total = sum(float(band.sum()) for _, band in bands(stored))
    assert total == 16384.0 * 16384
    stored.delete()
else:
    raster = open_image(path, raw=raw)
    assert raster.size == Size(32768, 32768)
    for y0 in (0, 11111, 32768 - 512):
        for x0 in range(0, 32768 - 512, 1500):
            assert raster.read(Box(y0, x0, 512, 512)).shape == (512, 512, 3)
    raster.close()
print(peak() - start)
"""


def sparse(path: Path, kind: str) -> None:
    if kind == "raw":
        with path.open("wb") as file:
            file.truncate(LONG * WIDE)
    elif kind == "npy":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (LONG, WIDE)})
            file.truncate(file.tell() + LONG * WIDE)
    elif kind == "deflate.tiff":
        strip = zlib.compress(bytes(64 * WIDE))
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            writer.write(
                iter([strip] * (LONG // 64)),
                shape=(LONG, WIDE),
                dtype="u1",
                rowsperstrip=64,
                compression="zlib",
                metadata=None,
            )
    elif kind != "map":
        options: dict[str, dict[str, Any]] = {
            "strips.tiff": {"rowsperstrip": 64},
            "strip.tiff": {"rowsperstrip": LONG},
            "tiles.tiff": {"tile": (512, 512)},
        }
        # Without data tifffile leaves the place of the pixels empty.
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            writer.write(None, shape=(LONG, WIDE), dtype="u1", metadata=None, **options[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "npy", "strips.tiff", "strip.tiff", "tiles.tiff", "deflate.tiff", "map"])
def test_the_memory_is_that_of_the_region_whatever_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / (kind if "." in kind else f"image.{kind}")
    sparse(path, kind)
    if kind not in ("map", "deflate.tiff"):
        assert path.stat().st_size >= 1 << 30
    done = subprocess.run([sys.executable, "-c", MEASURED, str(path), kind], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150  # MB


def test_bands_of_a_stored_map_read_no_tile_of_its_file_twice(tmp_path: Path) -> None:
    stored = StoredMap.write(tmp_path / "map.tiff", Size(600, 30), [field_of(600, 30)])
    assert [(y0, len(band)) for y0, band in bands(stored, pixels=300)] == [(0, 256), (256, 256), (512, 88)]
