"""Image files: what is read, as what, and that nothing broken is ever read."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bad_files
import numpy as np
import pytest
from bad_files import FLAT_RESTARTS, PICTURE, RESTARTS

from uadctl.errors import DataError
from uadctl.imaging import files as image_files
from uadctl.imaging.files import image_size, read_image, read_map, read_mask, write_map, write_png
from uadctl.imaging.formats import IMAGE_SUFFIXES, exif_orientation, read_header
from uadctl.records import Size

cv2 = pytest.importorskip("cv2", reason="reading images needs OpenCV")
tifffile = pytest.importorskip("tifffile", reason="reading TIFF needs tifffile")


def picture(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth RGB picture with all channels different and no symmetry."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    stored = pixels if pixels.ndim == 2 else pixels[..., ::-1] if pixels.shape[2] == 3 else pixels[..., [2, 1, 0, 3]]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(stored), list(options))
    assert done
    return data.tobytes()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    target = io.BytesIO()
    tifffile.imwrite(target, pixels, metadata=None, **options)
    return target.getvalue()


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif_block(orientation: int, order: str = "<") -> bytes:
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_exif(kind: str, data: bytes, orientation: int) -> bytes:
    exif = exif_block(orientation)
    if kind == "jpeg":
        body = b"Exif\0\0" + exif
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if kind == "png":
        first, *rest = png_chunks(data)
        return png_of([first, (b"eXIf", exif), *rest])
    chunks = data[12:]
    height, width = 40, 56
    extended = (
        b"VP8X"
        + struct.pack("<IB3x", 10, 0x08)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    body = b"WEBP" + extended + chunks + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(body)) + body


def saved(folder: Path, data: bytes, name: str = "image.png") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


FORMATS = {
    "png": encoded(".png", picture()),
    "png grey": encoded(".png", picture()[..., 0]),
    "png rgba": encoded(".png", np.dstack([picture(), picture()[..., 0]])),
    "png 16-bit": encoded(".png", picture().astype(np.uint16) * 257),
    "jpeg": encoded(".jpg", picture(), cv2.IMWRITE_JPEG_QUALITY, 95),
    "jpeg progressive": encoded(".jpg", picture(), cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "jpeg restarts": encoded(".jpg", picture(), cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "jpeg grey": encoded(".jpg", picture()[..., 0]),
    "bmp": encoded(".bmp", picture()),
    "webp": encoded(".webp", picture(), cv2.IMWRITE_WEBP_QUALITY, 80),
    "webp lossless": encoded(".webp", picture(), cv2.IMWRITE_WEBP_QUALITY, 101),
    "tiff": tiff(picture(), photometric="rgb"),
    "tiff tiles": tiff(picture(), photometric="rgb", tile=(16, 16)),
    "tiff zlib": tiff(picture(), photometric="rgb", compression="zlib", rowsperstrip=8),
    "tiff lzw": encoded(".tiff", picture(), cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "bigtiff": tiff(picture(), photometric="rgb", bigtiff=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_as_rgb(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, FORMATS[name])
    image = read_image(path)
    expected = picture() if "grey" not in name else picture()[..., :1].repeat(3, axis=2)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.shape == (40, 56, 3)
    lossy = name.startswith("jpeg") or name == "webp"
    assert np.abs(image.astype(int) - expected).mean() <= (6 if lossy else 0)
    assert image_size(path) == Size(40, 56)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_off_anywhere_is_refused_and_nothing_is_printed(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = FORMATS[name]
    lengths = sorted({*(len(whole) * percent // 100 for percent in range(0, 100, 5)), 1, 3, 11, len(whole) - 1})
    assert len(lengths) > 15
    for length in lengths:
        path = saved(tmp_path, whole[:length])
        reason = refusal(path)
        assert reason.startswith(("truncated", "the file is empty", "not a PNG", "damaged", "a TIFF with")), reason
        with pytest.raises(DataError):
            read_mask([path])
    assert capfd.readouterr() == ("", "")


def test_the_reasons_say_what_is_wrong(tmp_path: Path) -> None:
    def reason(data: bytes) -> str:
        return refusal(saved(tmp_path, data))

    png = FORMATS["png"]
    assert reason(b"") == "the file is empty (0 bytes)"
    assert reason(b"not an image at all\n") == "not a PNG, JPEG, BMP, TIFF or WebP file"
    assert reason(b"GIF89a" + bytes(50)) == "the file is GIF; PNG, JPEG, BMP, TIFF and WebP are read"
    assert reason(png[:5]) == "truncated: the file has only 5 bytes"
    assert (
        reason(png[:100]) == f"truncated: the PNG chunk at byte 33 ends at byte {len(png) - 12}, the file ends at 100"
    )
    assert (
        reason(png[:-12])
        == f"truncated: a PNG chunk is missing at byte {len(png) - 12}, the file ends at {len(png) - 12}"
    )
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 1
    assert reason(bytes(damaged)) == "damaged: the checksum of the PNG chunk at byte 33 is wrong"
    jpeg = FORMATS["jpeg"]
    assert reason(jpeg[:-2]) == f"truncated: the JPEG's pixel data do not end, the file ends at byte {len(jpeg) - 2}"
    assert reason(jpeg[:10]) == "truncated: the JPEG segment at byte 2 ends at byte 20, the file ends at 10"
    bmp = FORMATS["bmp"]
    assert reason(bmp[:-1]) == f"truncated: the BMP needs {len(bmp)} bytes, the file has {len(bmp) - 1}"
    webp = FORMATS["webp"]
    assert reason(webp[:-1]) == f"truncated: the WebP states {len(webp)} bytes, the file has {len(webp) - 1}"


def test_a_png_whose_rows_are_missing_is_refused(tmp_path: Path) -> None:
    first, *rest = png_chunks(FORMATS["png"])
    rows = zlib.decompress(b"".join(body for name, body in rest if name == b"IDAT"))
    short = png_of([first, (b"IDAT", zlib.compress(rows[: len(rows) // 2])), (b"IEND", b"")])
    assert refusal(saved(tmp_path, short)) == "damaged, or a kind of PNG that OpenCV cannot decode"
    assert refusal(saved(tmp_path, png_of([first, (b"IEND", b"")]))) == "the PNG has no pixel data (no IDAT chunk)"


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.97])
def test_a_jpeg_cut_off_and_closed_with_an_end_marker_is_refused(tmp_path: Path, share: float) -> None:
    jpeg = encoded(".jpg", picture(240, 320), cv2.IMWRITE_JPEG_QUALITY, 95)
    path = saved(tmp_path, jpeg[: int(len(jpeg) * share)] + b"\xff\xd9")
    assert refusal(path) == "truncated: the JPEG's pixel data end before its last row"
    with pytest.raises(DataError, match="end before its last row"):
        read_mask([path])


def test_a_jpeg_that_is_mid_grey_is_not_taken_for_one_cut_off(tmp_path: Path) -> None:
    grey = np.full((40, 56, 3), 128, np.uint8)
    assert (read_image(saved(tmp_path, encoded(".jpg", grey))) == 128).all()


def test_pictures_after_the_first_of_a_jpeg_are_left_alone(tmp_path: Path) -> None:
    one = read_image(saved(tmp_path, FORMATS["jpeg"]))
    followed = saved(tmp_path, FORMATS["jpeg"] + FORMATS["jpeg grey"][:50])
    assert np.array_equal(read_image(followed), one)


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    assert np.array_equal(read_image(saved(tmp_path, FORMATS["bmp"], "really.jpg")), picture())
    assert refusal(saved(tmp_path, b"hello\n", "text.png")) == "not a PNG, JPEG, BMP, TIFF or WebP file"


def test_ancillary_chunks_of_a_png_neither_change_the_picture_nor_print(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, *rest = png_chunks(FORMATS["png"])
    noise = [
        (b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
        (b"gAMA", struct.pack(">I", 10000)),
        (b"tRNS", b"\0\0"),
        (b"tEXt", b"broken"),
    ]
    assert np.array_equal(read_image(saved(tmp_path, png_of([first, *noise, *rest]))), picture())
    assert capfd.readouterr() == ("", "")


def test_alpha_is_dropped_and_the_colours_under_it_kept(tmp_path: Path) -> None:
    see_through = np.dstack([picture(), np.zeros((40, 56), np.uint8)])
    for name, data in {
        "png": encoded(".png", see_through),
        "tiff": tiff(see_through, photometric="rgb", extrasamples=["unassalpha"]),
        "tiff zlib": tiff(see_through, photometric="rgb", extrasamples=["unassalpha"], compression="zlib"),
    }.items():
        assert np.array_equal(read_image(saved(tmp_path, data)), picture()), name


def test_a_half_transparent_tiff_that_only_opencv_can_decode_is_refused(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="writing an LZW TIFF with alpha needs Pillow")
    for alpha, readable in ((255, True), (100, False)):
        target = io.BytesIO()
        rgba = np.dstack([picture(), np.full((40, 56), alpha, np.uint8)])
        Image.fromarray(rgba).save(target, "TIFF", compression="tiff_lzw")
        path = saved(tmp_path, target.getvalue())
        if readable:
            assert np.array_equal(read_image(path), picture())
        else:
            assert refusal(path) == (
                "a TIFF with LZW compression and 8 bits that is partly transparent is not read; "
                "save it uncompressed or as PNG"
            )


def test_sixteen_bits_become_eight_by_the_full_range(tmp_path: Path) -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(every / 257).astype(np.uint8)
    for data in (
        encoded(".png", every),
        tiff(every),
        tiff(every.astype(">u2"), byteorder=">"),
        tiff(every, compression="zlib"),
    ):
        image = read_image(saved(tmp_path, data))
        for channel in range(3):
            assert np.array_equal(image[..., channel], expected)
    colour = np.dstack([every, every[::-1], every.T])
    for data in (
        encoded(".png", colour),
        tiff(colour, photometric="rgb"),
        tiff(np.moveaxis(colour, 2, 0), photometric="rgb", planarconfig="separate"),
    ):
        assert np.array_equal(read_image(saved(tmp_path, data)), np.rint(colour / 257).astype(np.uint8))


def test_white_is_zero_is_turned_round(tmp_path: Path) -> None:
    grey = picture()[..., 0]
    expected = (255 - grey)[..., None].repeat(3, axis=2)
    assert np.array_equal(read_image(saved(tmp_path, tiff(grey, photometric="miniswhite"))), expected)
    fax = cv2.imdecode(np.frombuffer(tiff(grey > 128, photometric="miniswhite", software="x"), np.uint8), 0)
    assert np.array_equal(
        read_image(saved(tmp_path, tiff(grey > 128, photometric="miniswhite", software="x")))[..., 0], fax
    )
    assert np.array_equal(read_image(saved(tmp_path, tiff(grey > 128)))[..., 0], (grey > 128) * np.uint8(255))
    wide = grey.astype(np.uint16) * 257
    assert np.array_equal(read_image(saved(tmp_path, tiff(wide, photometric="miniswhite"))), expected)


def test_palettes_and_one_bit_files_give_their_colours(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="writing palette files needs Pillow")
    rgb = Image.fromarray(picture())
    checked = 0
    for mode in ("P", "1"):
        converted = rgb.convert(mode)
        expected = np.array(converted.convert("RGB"))
        for kind in ("PNG", "BMP", "TIFF"):
            target = io.BytesIO()
            converted.save(target, kind)
            assert np.array_equal(read_image(saved(tmp_path, target.getvalue())), expected), (mode, kind)
            checked += 1
    assert checked == 6


def test_a_cmyk_jpeg_is_read_if_it_says_which_way_its_inks_run(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="writing a CMYK JPEG needs Pillow")
    target = io.BytesIO()
    Image.fromarray(picture()).convert("CMYK").save(target, "JPEG", quality=95)
    data = target.getvalue()
    assert np.abs(read_image(saved(tmp_path, data)).astype(int) - picture()).mean() < 6
    start = data.index(b"\xff\xee")
    (length,) = struct.unpack_from(">H", data, start + 2)
    unmarked = data[:start] + data[start + 2 + length :]
    assert refusal(saved(tmp_path, unmarked)) == "a CMYK JPEG that does not say which way its inks run; save it as RGB"


def test_tiffs_of_kinds_that_would_be_guessed_at_are_refused(tmp_path: Path) -> None:
    grey = picture()[..., 0]
    cases = {
        "a TIFF with SEPARATED colours is not read; save it as RGB or grey": tiff(
            np.dstack([picture(), grey]), photometric="separated"
        ),
        "a TIFF with 5 samples a pixel is not read; save it as RGB or grey": tiff(
            np.dstack([picture(), grey, grey]), photometric="minisblack", planarconfig="contig"
        ),
        "uint32 pixels; uint8, uint16 and float in 0 to 1 are read": tiff(grey.astype(np.uint32)),
        "int16 pixels; uint8, uint16 and float in 0 to 1 are read": tiff(grey.astype(np.int16)),
        "float pixels from 0 to 7, expected 0 to 1": tiff(np.linspace(0, 7, 20, dtype=np.float32).reshape(4, 5)),
        "float pixels from -1 to 0, expected 0 to 1": tiff(np.linspace(-1, 0, 20, dtype=np.float32).reshape(4, 5)),
        "float pixels that are NaN or infinite": tiff(np.full((4, 5), np.nan, np.float32)),
    }
    for expected, data in cases.items():
        assert refusal(saved(tmp_path, data)) == expected


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_float_tiffs_between_0_and_1_are_read(tmp_path: Path, kind: type) -> None:
    values = np.linspace(0, 1, 256, dtype=kind).reshape(16, 16)
    expected = np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    assert np.abs(read_image(saved(tmp_path, tiff(values)))[..., 1].astype(int) - expected).max() <= (
        kind is np.float16
    )


def test_a_tiff_that_states_several_numbers_where_one_belongs_is_refused(tmp_path: Path) -> None:
    data = bytearray(tiff(picture()))
    with tifffile.TiffFile(io.BytesIO(data)) as found:
        place = found.pages[0].tags[256].offset
    struct.pack_into("<I", data, place + 4, 2)
    assert refusal(saved(tmp_path, bytes(data))) == "damaged: the TIFF states several numbers as its imagewidth"


@pytest.mark.parametrize("compression", [None, "zlib", "packbits"])
def test_pages_of_one_size_are_refused_and_a_preview_is_passed_over(tmp_path: Path, compression: str | None) -> None:
    options: dict[str, object] = {"photometric": "rgb", "metadata": None, "compression": compression}
    path = tmp_path / "pages.tiff"
    for second, refused in ((255 - picture(), True), (picture()[::2, ::2], False)):
        with tifffile.TiffWriter(path) as writer:
            writer.write(picture(), **options)
            writer.write(second, **options)
        if not refused:
            assert np.array_equal(read_image(path), picture())
            continue
        for read in (read_image, lambda file: read_mask([file])):
            with pytest.raises(DataError) as caught:
                read(path)
            assert str(caught.value) == (
                f"{path}: a TIFF of 2 frames: one picture is looked at, and the others would not be"
            )
            assert caught.value.help == "Save each frame to a file of its own."


@pytest.mark.parametrize("subfiletype", [1, 4, 5])
def test_pages_that_say_they_are_no_picture_are_none(tmp_path: Path, subfiletype: int) -> None:
    """A preview and a mask of the picture's own size; and a second picture behind one is seen."""
    assert np.array_equal(read_image(saved(tmp_path, bad_files.tiff_with(PICTURE, subfiletype))), PICTURE)
    assert refusal(saved(tmp_path, bad_files.tiff_with(PICTURE, 2))).startswith("a TIFF of 2 frames")
    assert refusal(saved(tmp_path, bad_files.tiff_with(PICTURE, subfiletype, PICTURE))).startswith("a TIFF of 3 frames")


@pytest.mark.parametrize("data", [RESTARTS, FLAT_RESTARTS], ids=["noise", "flat"])
@pytest.mark.parametrize("padding", [bytes(1), bytes(4), bytes(300), b"\xff" * 5, b"\0\xff\xff"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_padding_before_restart_markers_is_no_damage(tmp_path: Path, data: bytes, padding: bytes, every: int) -> None:
    padded = bad_files.jpeg_padded(data, padding, every=every)
    assert np.array_equal(read_image(saved(tmp_path, padded)), read_image(saved(tmp_path, data)))


def test_padding_hides_no_damage_further_on(tmp_path: Path) -> None:
    """libjpeg says its first doubt only: of the padding."""
    padded = bad_files.jpeg_padded(RESTARTS, bytes(40))
    markers = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", padded)]
    at = markers[3] + 20
    for damage in (b"\0" * 60, b"\xff\0" * 30):
        assert refusal(saved(tmp_path, padded[:at] + damage + padded[at + 60 :])).startswith(("damaged", "truncated"))
    without = padded[: markers[3]] + padded[markers[4] :]
    assert refusal(saved(tmp_path, without)).startswith("damaged: the decoder says: ")


def test_padding_in_a_preview_is_left_alone(tmp_path: Path) -> None:
    inner = bad_files.jpeg_padded(RESTARTS, bytes(3))
    preview = b"\xff\xe1" + struct.pack(">H", len(inner) + 8) + b"Exif\0\0" + inner
    outer = bad_files.jpeg_padded(RESTARTS, bytes(40))
    found = read_image(saved(tmp_path, outer[:2] + preview + outer[2:]))
    assert np.array_equal(found, read_image(saved(tmp_path, RESTARTS)))


@pytest.mark.parametrize("colours", [0, 2])
def test_a_blank_scan_is_read(tmp_path: Path, colours: int) -> None:
    image = read_image(saved(tmp_path, bad_files.png_of_zeros(10_000, 8, colours)))
    assert image.shape == (10_000, 10_000, 3)
    assert not image.any()


@pytest.mark.parametrize(("bits", "colours", "pixel_bytes"), [(16, 2, 6), (8, 6, 4), (16, 6, 8), (16, 0, 2)])
def test_a_small_file_may_decode_to_what_the_largest_8_bit_image_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, colours: int, pixel_bytes: int
) -> None:
    """In little. An image is decoded to three channels, a mask to those that it has."""
    path = Path(saved(tmp_path, bad_files.png_of_zeros(512, bits, colours)))
    monkeypatch.setattr(image_files, "_GRANTED_PER_BYTE", 0)
    for read, taken in (
        (read_image, max(pixel_bytes, 3 * bits // 8)),
        (lambda path: read_mask([path]), pixel_bytes),
    ):
        monkeypatch.setattr(image_files, "_ALWAYS_GRANTED", 512 * 512 * taken)
        read(path)
        monkeypatch.setattr(image_files, "_ALWAYS_GRANTED", 512 * 512 * taken - 1)
        with pytest.raises(DataError) as caught:
            read(path)
        assert caught.value.message == (
            f"{path}: 512x512 pixels (height x width) of {taken} bytes decode to {512 * 512 * taken} bytes, more than "
            f"{512 * 512 * taken - 1}, and the file has only {path.stat().st_size}"
        )
        assert caught.value.help == (
            "Save it with 8 bits and without alpha; or, where it is what it seems, uncompressed."
        )


@pytest.mark.parametrize(("suffix", "channels"), [(".png", 4), (".webp", 4), (".webp", 3), (".bmp", 3), (".jpg", 1)])
def test_the_header_says_how_many_channels_are_decoded(suffix: str, channels: int) -> None:
    rgb = picture()
    stored = {1: rgb[..., 0], 3: rgb, 4: np.dstack([rgb, rgb[..., 0]])}[channels]
    data = encoded(suffix, stored, *((cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert read_header(data).channels == (1 if decoded.ndim == 2 else decoded.shape[2]) == channels


TURNED = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp lossless", "tiff"])
def test_exif_orientation_is_applied_in_every_format(tmp_path: Path, kind: str, orientation: int) -> None:
    if kind == "tiff":
        data = tiff(picture(), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    else:
        data = with_exif(kind, FORMATS[kind], orientation)
    path = saved(tmp_path, data)
    upright = TURNED[orientation](read_image(saved(tmp_path, FORMATS[kind], "plain")))
    assert np.array_equal(read_image(path), upright)
    assert image_size(path) == upright.shape[:2]
    assert np.array_equal(read_mask([path]) > 0, (upright > 0).any(axis=2))


def test_an_exif_block_that_makes_no_sense_says_upright() -> None:
    whole = exif_block(6)
    assert exif_orientation(whole) == 6
    assert exif_orientation(b"Exif\0\0" + exif_block(8, ">")) == 8
    assert exif_orientation(exif_block(9)) == 1
    assert {exif_orientation(whole[:length]) for length in range(len(whole) - 4)} == {1}
    assert exif_orientation(b"II" + b"\xff" * 60) == 1


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, body), *rest = png_chunks(FORMATS["png"])
    bomb = png_of([(b"IHDR", struct.pack(">II", 60000, 50000) + body[8:]), *rest])
    expected = "50000x60000 (height x width) is 3000000000 pixels, more than 268435456"
    assert refusal(saved(tmp_path, bomb)) == expected
    monkeypatch.setattr(image_files, "MAX_PIXELS", 2239)
    for name, data in FORMATS.items():
        assert "40x56 (height x width) is 2240 pixels, more than 2239" in refusal(saved(tmp_path, data)), name


def test_images_without_pixels_are_refused(tmp_path: Path) -> None:
    (_, body), *rest = png_chunks(FORMATS["png"])
    empty = png_of([(b"IHDR", struct.pack(">II", 0, 5) + body[8:]), *rest])
    assert refusal(saved(tmp_path, empty)) == "the image has no pixels (5x0, height x width)"


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_the_thinnest_images_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for suffix in (".png", ".bmp", ".tiff"):
        assert np.array_equal(read_image(saved(tmp_path, encoded(suffix, pixels))), pixels)


def test_what_is_no_file_is_named_with_its_reason(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.png")
    assert refusal(missing) == "no such file"
    assert refusal(str(tmp_path)) == "is a folder, not an image file"
    dangling = tmp_path / "link.png"
    dangling.symlink_to("nowhere.png")
    assert refusal(str(dangling)) == "no such file"
    assert refusal(saved(tmp_path, b"x") + "/below.png").startswith("cannot be read (")
    with pytest.raises(DataError, match=r"a file name cannot hold a null byte$"):
        read_image("a\0b.png")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert refusal(str(pipe)) == "is not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, FORMATS["png"])
    Path(path).chmod(0)
    assert refusal(path) == "permission denied"


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
def test_any_file_name_is_read(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"two\nlines.png", "größe 大.png".encode()):
        path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))  # noqa: PTH118 - bytes
        Path(path).write_bytes(FORMATS["png"])
        assert np.array_equal(read_image(path), picture())
        Path(path).write_bytes(b"")
        assert refusal(path) == "the file is empty (0 bytes)"


def test_an_array_is_taken_as_it_is_or_refused() -> None:
    image = picture()
    assert read_image(image) is image
    with pytest.raises(TypeError, match=r"^an image array must be uint8 RGB, found float32 of shape \(40, 56, 3\)$"):
        read_image(image.astype(np.float32))
    for wrong in (image[..., 0], np.dstack([image, image[..., :1]]), image[:0]):
        with pytest.raises(ValueError, match=r"^an image array must be \(H, W, 3\) RGB and not empty, found \("):
            read_image(wrong)


def test_decoding_in_threads_leaves_opencv_as_loud_as_it_was(tmp_path: Path) -> None:
    from cv2.utils import logging as opencv_log

    before = opencv_log.getLogLevel()
    paths = [saved(tmp_path, FORMATS["png"], f"{n}.png") for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(read_image, paths * 4))
    assert len(images) == 32
    assert all(np.array_equal(image, picture()) for image in images)
    assert opencv_log.getLogLevel() == before


# --- masks

SHAPE = np.zeros((6, 8), dtype=bool)
SHAPE[1:3, 2:5] = True
SHAPE[4, 7] = True


def mask_files() -> dict[str, bytes]:
    coloured = np.zeros((6, 8, 3), np.uint8)
    coloured[SHAPE] = (0, 0, 1)
    hidden = np.dstack([coloured, np.where(SHAPE, 0, 255).astype(np.uint8)])
    ids = SHAPE.astype(np.uint16)
    ids[4, 7] = 2
    return {
        "0/255": encoded(".png", SHAPE.astype(np.uint8) * 255),
        "0/1": encoded(".png", SHAPE.astype(np.uint8)),
        "class numbers": encoded(".png", ids.astype(np.uint8)),
        "16-bit class numbers": encoded(".png", ids),
        "16-bit class numbers, TIFF": tiff(ids),
        "32-bit class numbers, TIFF": tiff(ids.astype(np.uint32)),
        "32-bit signed, TIFF": tiff(ids.astype(np.int32)),
        "bool, TIFF": tiff(SHAPE),
        "float, TIFF": tiff(SHAPE.astype(np.float32) * 0.001),
        "one channel of RGB": encoded(".png", coloured),
        "RGBA, alpha opposite": encoded(".png", hidden),
        "BMP": encoded(".bmp", SHAPE.astype(np.uint8) * 255),
    }


def test_a_mask_pixel_is_a_defect_iff_it_is_above_zero(tmp_path: Path) -> None:
    masks = mask_files()
    for name, data in masks.items():
        mask = read_mask([saved(tmp_path, data)], size=Size(6, 8))
        assert mask.dtype == np.uint8, name
        assert np.array_equal(mask, SHAPE.astype(np.uint8)), name


def test_one_bit_and_palette_masks_mean_the_same(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="writing palette files needs Pillow")
    one_bit = Image.fromarray(SHAPE)
    palette = Image.fromarray(SHAPE.astype(np.uint8) * 3)
    palette = Image.frombytes("P", palette.size, palette.tobytes())
    palette.putpalette([0, 0, 0, 9, 9, 9, 9, 9, 9, 128, 0, 0])
    for image in (one_bit, palette):
        for kind in ("PNG", "TIFF", "BMP"):
            target = io.BytesIO()
            image.save(target, kind)
            assert np.array_equal(read_mask([saved(tmp_path, target.getvalue())]), SHAPE), kind


def test_several_masks_are_united(tmp_path: Path) -> None:
    one = saved(tmp_path, encoded(".png", np.eye(5, dtype=np.uint8)), "one.png")
    two = saved(tmp_path, encoded(".png", np.eye(5, dtype=np.uint8)[::-1] * 255), "two.png")
    assert np.array_equal(read_mask([one, two]), np.eye(5, dtype=np.uint8) | np.eye(5, dtype=np.uint8)[::-1])
    with pytest.raises(ValueError, match=r"^read_mask needs at least one mask file$"):
        read_mask([])


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    mask = saved(tmp_path, encoded(".png", np.zeros((5, 7), np.uint8)), "mask.png")
    other = saved(tmp_path, encoded(".png", np.zeros((7, 5), np.uint8)), "other.png")
    with pytest.raises(DataError) as caught:
        read_mask([mask], size=(9, 7))
    assert str(caught.value) == f"{mask} is 5x7, its image is 9x7 (height x width)"
    with pytest.raises(DataError) as caught:
        read_mask([mask, other])
    assert str(caught.value) == f"{other} is 7x5, {mask}, a mask of the same image, is 5x7 (height x width)"


def test_a_mask_with_nan_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, tiff(np.full((3, 4), np.nan, np.float32)))
    with pytest.raises(DataError) as caught:
        read_mask([path])
    assert str(caught.value) == f"{path}: the mask has pixels that are NaN or infinite"


# --- writing


def test_a_map_comes_back_bit_by_bit_and_the_file_is_always_the_same(tmp_path: Path) -> None:
    field = np.random.default_rng(3).normal(size=(33, 47)).astype(np.float32)
    field[2, 3], field[4, 5] = np.nan, 3.0e38
    first, second = tmp_path / "deep" / "er" / "map.tiff", tmp_path / "again.tiff"
    write_map(first, field)
    write_map(second, field.astype(np.float64))
    assert first.read_bytes() == second.read_bytes()
    back = read_map(first)
    assert back.dtype == np.float32
    assert back.tobytes() == field.tobytes()
    assert tifffile.imread(first).tobytes() == field.tobytes()
    assert cv2.imdecode(np.fromfile(first, np.uint8), cv2.IMREAD_UNCHANGED).tobytes() == field.tobytes()
    assert [path.name for path in tmp_path.iterdir()] in (["deep", "again.tiff"], ["again.tiff", "deep"])
    assert stat.S_IMODE(first.stat().st_mode) == stat.S_IMODE(_ordinary(tmp_path).stat().st_mode)


def _ordinary(folder: Path) -> Path:
    path = folder / "ordinary"
    path.touch()
    return path


def test_what_is_no_map_is_refused_on_writing_and_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "map.tiff"
    for wrong in (np.zeros((2, 3, 1), np.float32), np.zeros((0, 3), np.float32), np.zeros((2, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"^a map must be a non-empty \(H, W\) float array, found \("):
            write_map(path, wrong)
    assert not path.exists()
    for data, reason in (
        (FORMATS["png"], "not a TIFF file, so no anomaly map"),
        (FORMATS["tiff"], "not an anomaly map: (40, 56, 3) uint8, expected (H, W) float32"),
    ):
        with pytest.raises(DataError) as caught:
            read_map(saved(tmp_path, data, "map.tiff"))
        assert str(caught.value) == f"{path}: {reason}"


def test_a_png_comes_back_and_wrong_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    write_png(path, picture())
    assert np.array_equal(read_image(path), picture())
    write_png(path, picture()[..., 0])
    assert np.array_equal(read_image(path)[..., 2], picture()[..., 0])
    with pytest.raises(TypeError, match=r"^a PNG is written from uint8 pixels, found bool$"):
        write_png(path, picture() > 3)
    with pytest.raises(
        ValueError, match=r"^a PNG is written from an \(H, W, 3\) or \(H, W\) array, found \(40, 56, 2\)$"
    ):
        write_png(path, picture()[..., :2])


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.tiff"
    write_map(path, np.zeros((2, 2), np.float32))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_map(path, np.ones((2, 2), np.float32))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["map.tiff"]


def test_the_suffixes_are_lower_case_and_sorted() -> None:
    assert IMAGE_SUFFIXES == (".bmp", ".jpeg", ".jpg", ".npy", ".png", ".raw", ".tif", ".tiff", ".webp")


def test_many_threads_read_headers_of_arrays_at_once(tmp_path):
    # Python 3.11's parser of literals fails there: its depth is one for all threads.
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", np.full((2, 3 + i), i, np.uint8))
    names = [str(tmp_path / f"{i % 8}.npy") for i in range(4000)]
    with ThreadPoolExecutor(8) as pool:
        widths = list(pool.map(lambda name: read_image(name).shape[1], names))
    assert widths == [3 + i % 8 for i in range(4000)]
