"""What masks say of their images, whatever their format; and that a file is read once, until it changes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import parts
import pytest
import tifffile

from uadctl.datasets import LayoutError, base, by_mask
from uadctl.datasets.by_mask import Labelled, MaskFacts, labelled_images, labelled_sample, read_masks, unreadable
from uadctl.errors import DataError, Problem
from uadctl.records import Size

SPOTTED = Size(9, 7)


def shows(defect: bool, classes: tuple[int, ...] = (), size: Size = SPOTTED) -> MaskFacts:
    return MaskFacts(defect, classes, size)


GOOD = shows(False)
SETTLED = -(1 << 62)  # so that files that were just written count as written long ago


@pytest.fixture(autouse=True)
def _forget():
    by_mask._read_once.cache_clear()
    by_mask._of_short_png.cache_clear()


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The files that were decoded, in their order; files count as settled at once."""
    seen: list[str] = []
    real = by_mask._decoded

    def noted(path: str) -> MaskFacts:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(by_mask, "_decoded", noted)
    monkeypatch.setattr(base, "SETTLED_NS", SETTLED)
    return seen


def one(path: Path) -> MaskFacts | DataError:
    (facts,) = read_masks([str(path)])
    return facts


def spots(*values: int, dtype=np.uint8) -> np.ndarray:
    """A black picture in which each value has a pixel."""
    pixels = np.zeros((9, 7), dtype)
    pixels[3, : len(values)] = values
    return pixels


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_values_above_0_are_classes_and_black_is_good(tmp_path, suffix):
    assert one(parts.write(tmp_path / f"a.{suffix}", spots())) == GOOD
    assert one(parts.write(tmp_path / f"b.{suffix}", spots(255))) == shows(True, (255,))
    assert one(parts.write(tmp_path / f"c.{suffix}", spots(4, 1, 200, 1))) == shows(True, (1, 4, 200))


def test_grey_in_three_channels_is_grey_and_a_colour_is_no_class(tmp_path):
    assert one(parts.write(tmp_path / "black.png", np.dstack([spots()] * 3))) == GOOD
    assert one(parts.write(tmp_path / "grey.png", np.dstack([spots(7, 9)] * 3))) == shows(True, (7, 9))
    for channel in range(3):
        red = np.zeros((9, 7, 3), np.uint8)
        red[0, 0, channel] = 255
        assert one(parts.write(tmp_path / f"{channel}.png", red)) == shows(True)


def test_16_bits_count_as_they_are(tmp_path):
    for suffix in ("png", "tiff"):
        path = parts.write(tmp_path / f"a.{suffix}", spots(1, 256, 65535, dtype=np.uint16))
        assert one(path) == shows(True, (1, 256, 65535))


def test_alpha_never_counts(tmp_path):
    opaque = np.dstack([*[spots()] * 3, np.full((9, 7), 255, np.uint8)])
    assert cv2.imwrite(str(tmp_path / "good.png"), opaque)
    assert one(tmp_path / "good.png") == GOOD
    clear = np.dstack([*[spots(5)] * 3, np.zeros((9, 7), np.uint8)])
    assert cv2.imwrite(str(tmp_path / "bad.png"), clear)
    assert one(tmp_path / "bad.png") == shows(True, (5,))


def test_a_palette_counts_by_its_colours(tmp_path):
    from PIL import Image

    for colours, expected in (
        ([0, 0, 0, 0, 0, 0, 0, 0, 0], GOOD),
        ([0, 0, 0, 9, 9, 9, 3, 3, 3], shows(True, (3, 9))),
        ([0, 0, 0, 9, 0, 0, 0, 0, 0], shows(True)),
        ([8, 8, 8, 0, 0, 0, 0, 0, 0], shows(True, (8,))),
    ):
        image = Image.fromarray(spots(1, 2))
        image.putpalette(colours)
        image.save(tmp_path / "p.png")
        assert (tmp_path / "p.png").read_bytes()[25] == 3  # the colour type of a palette
        assert one(tmp_path / "p.png") == expected, colours


def test_floats_show_a_defect_but_no_class(tmp_path):
    for name, pixels, defect in (
        ("zero", np.zeros((9, 7), np.float32), False),
        ("below", np.full((9, 7), -1, np.float32), False),
        ("part", np.full((9, 7), 0.25, np.float32), True),
        ("whole", np.full((9, 7), 2, np.float32), True),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tiff", pixels)
        np.save(tmp_path / f"{name}.npy", pixels)
        assert one(tmp_path / f"{name}.tiff") == shows(defect), name
        assert one(tmp_path / f"{name}.npy") == shows(defect), name
    tifffile.imwrite(tmp_path / "nan.tiff", np.full((9, 7), np.nan, np.float32))
    error = one(tmp_path / "nan.tiff")
    assert isinstance(error, DataError)
    assert error.message == f"{tmp_path}/nan.tiff: the mask has pixels that are NaN or infinite"


def test_what_cannot_be_read_says_why_and_the_others_are_read(tmp_path):
    files = [parts.write(tmp_path / f"{n}.png", spots(n)) for n in range(4)]
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-20])
    files[2].write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    paths = [*map(str, files), *(f"{tmp_path}/{name}" for name in ("no.png", "folder.png", "pipe.png", "a\0.png"))]
    found = read_masks(paths)
    assert (found[0], found[3]) == (GOOD, shows(True, (3,)))
    assert [error.message for error in found if isinstance(error, DataError)] == [
        f"{tmp_path}/1.png: truncated: the PNG chunk at byte 33 ends at byte {len(whole) - 12}, the file ends at "
        f"{len(whole) - 20}",
        f"{tmp_path}/2.png: the file is empty (0 bytes)",
        f"{tmp_path}/no.png: no such file",
        f"{tmp_path}/folder.png: is a folder, not an image file",
        f"{tmp_path}/pipe.png: is not a regular file",
        f"{tmp_path}/a\0.png: cannot be read (embedded null byte)",
    ]


def test_none_are_none():
    assert read_masks([]) == []


def test_a_file_is_read_once_and_anew_when_it_has_changed(tmp_path, decoded):
    path = parts.write(tmp_path / "m.bmp", spots())
    assert [one(path), one(path)] == [GOOD, GOOD]
    assert decoded == [str(path)]
    parts.write(path, spots(6))  # as many bytes as before
    assert one(path) == shows(True, (6,))
    os.utime(path, ns=(1, 1))
    assert one(path) == shows(True, (6,))
    assert len(decoded) == 3
    other = parts.write(tmp_path / "other.bmp", spots())
    other.replace(path)
    assert one(path) == GOOD
    path.write_bytes(b"BM")
    broken = one(path)
    assert isinstance(broken, DataError)
    parts.write(path, spots(8))
    assert one(path) == shows(True, (8,))


def test_a_file_written_a_moment_ago_is_read_again(tmp_path, monkeypatch):
    """Its time need not change with the next writing, within a tick of the file system's clock."""
    path = parts.write(tmp_path / "m.bmp", spots())
    stamp = path.stat()
    monkeypatch.setattr(base, "os", SimpleNamespace(stat=lambda found: stamp))
    assert one(path) == GOOD
    parts.write(path, spots(6))
    assert one(path) == shows(True, (6,))
    monkeypatch.setattr(base, "SETTLED_NS", SETTLED)
    assert one(path) == shows(True, (6,))
    parts.write(path, spots())
    assert one(path) == shows(True, (6,))  # which shows that the time is what tells


def test_equal_short_masks_are_decoded_once_and_other_formats_by_their_names(tmp_path, monkeypatch):
    from uadctl.imaging import files

    seen = []
    real = files.decoded_mask
    monkeypatch.setattr(files, "decoded_mask", lambda data: seen.append(data) or real(data))
    paths = [parts.write(tmp_path / f"{n}.png", spots()) for n in range(20)]
    paths += [parts.write(tmp_path / f"b{n}.PNG", spots(n % 2)) for n in range(20)]
    found = read_masks([str(path) for path in paths])
    assert found == [GOOD] * 20 + [GOOD, shows(True, (1,))] * 10
    assert len(set(seen)) == 2
    assert len(seen) <= 2 * by_mask._THREADS < len(paths)  # at most once a thread
    # No headerless pixels, though these bytes are a PNG.
    raw = tmp_path / "m.raw"
    raw.write_bytes(paths[0].read_bytes())
    assert isinstance(one(raw), DataError)


def test_a_mask_too_long_to_be_kept_by_its_bytes_is_read_as_well(tmp_path):
    noise = np.random.default_rng(0).integers(0, 9, (200, 200)).astype(np.uint8)
    path = parts.write(tmp_path / "noise.png", noise)
    assert path.stat().st_size > 1 << 13
    assert one(path) == shows(True, (1, 2, 3, 4, 5, 6, 7, 8), Size(200, 200))


def test_several_threads_may_ask_for_the_same_files(tmp_path):
    paths = [str(parts.write(tmp_path / f"{n}.png", spots(n))) for n in range(60)]
    expected = [GOOD, *(shows(True, (n,)) for n in range(1, 60))]
    found: list[list[MaskFacts | DataError]] = []
    threads = [threading.Thread(target=lambda: found.append(read_masks(paths))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


# --- masks beside their images


def both(home: Path, *names: str) -> list[Labelled]:
    return labelled_images(str(home), names, ending="_label", image_suffix=".jpg", mask_suffix=".bmp")


def test_an_image_and_its_mask_are_brought_together_by_their_stem(tmp_path):
    for name, value in (("a/x_label.bmp", 0), ("a/y_LABEL.PNG", 3), ("b/x_Label.bmp", 1), ("a/x_label_label.bmp", 0)):
        parts.write(tmp_path / name, spots(value))
    # Of these images nothing but their names is looked at.
    names = ["b/x_Label.bmp", "b/x.png", "a/y_LABEL.PNG", "a/x_label.bmp", "a/y.TIF", "a/x.JPG"]
    assert both(tmp_path, *names) == [
        Labelled("a/x.JPG", "a/x_label.bmp", False),
        Labelled("a/y.TIF", "a/y_LABEL.PNG", True),
        Labelled("b/x.png", "b/x_Label.bmp", True),
    ]
    sample = labelled_sample(str(tmp_path), both(tmp_path, *names)[1], category="c", split="test", group="a")
    assert (sample.path, sample.relative, sample.label, sample.defect, sample.masks, sample.group) == (
        f"{tmp_path}/a/y.TIF",
        "a/y.TIF",
        1,
        "defect",
        (f"{tmp_path}/a/y_LABEL.PNG",),
        "a",
    )
    good = labelled_sample(str(tmp_path), both(tmp_path, *names)[0], category="c", split="train")
    assert (good.label, good.defect, good.masks, good.expected_mask, good.group) == (0, "good", (), None, None)


def test_everything_wrong_with_the_pairs_is_said_at_once(tmp_path):
    for name in ("a/two_label.bmp", "a/two_label.png", "a/left_label.bmp", "a/same_label.bmp", "_label.bmp"):
        parts.write(tmp_path / name, spots())
    (tmp_path / "a/bad_label.bmp").write_bytes(b"")
    names = ["a/two.jpg", "a/two_label.bmp", "a/two_label.png", "a/left_label.bmp", "a/alone.jpg", "b/alone.png"]
    names += ["a/same.jpg", "a/same.png", "a/same_label.bmp", "a/bad.jpg", "a/bad_label.bmp", "_label.bmp"]
    with pytest.raises(LayoutError) as error:
        labelled_images(
            str(tmp_path),
            names,
            ending="_label",
            image_suffix=".jpg",
            mask_suffix=".bmp",
            problems=[Problem("first", "help")],
        )
    at = tmp_path
    assert list(error.value.problems) == [
        Problem("first", "help"),
        Problem(f"{at}/_label.bmp: no mask at {at}/_label_label.bmp"),
        Problem(f"{at}/a/alone.jpg: no mask at {at}/a/alone_label.bmp"),
        Problem(
            f"{at}/b/alone.png: no mask at {at}/b/alone_label.bmp",
            "Its mask alone says whether an image is good: unpack the archive again.",
        ),
        Problem(
            f"{at}/a/left_label.bmp: the mask of no image; there is no {at}/a/left.jpg",
            "Unpack the archive again, or remove the mask.",
        ),
        Problem(f"two images of one name: {at}/a/same.jpg and {at}/a/same.png"),
        Problem(
            f"two masks for one image: {at}/a/two_label.bmp and {at}/a/two_label.png",
            "Remove the one that is not meant.",
        ),
        Problem(
            f"{at}/a/bad_label.bmp: the file is empty (0 bytes)",
            "Its mask alone says whether an image is good: unpack the archive again.",
        ),
    ]


def test_of_many_that_are_alike_ten_are_named_and_each_kind_keeps_its_help(tmp_path):
    home = str(tmp_path)
    names = []
    for n in range(12):
        names += [f"{n:02}_none.jpg", f"{n:02}_lost_label.bmp", f"{n:02}_bad.jpg", f"{n:02}_bad_label.bmp"]
        names += [f"{n:02}_two.jpg", f"{n:02}_two.png", f"{n:02}_two_label.bmp", f"{n:02}_small.bmp"]
        names += [f"{n:02}_small_label.bmp"]
        for kind in ("lost", "two"):
            parts.write(tmp_path / f"{n:02}_{kind}_label.bmp", spots())
        (tmp_path / f"{n:02}_bad_label.bmp").write_bytes(b"")
        parts.write(tmp_path / f"{n:02}_small.bmp", spots())
        parts.write(tmp_path / f"{n:02}_small_label.bmp", spots()[:8])
    with pytest.raises(LayoutError) as error:
        both(tmp_path, *names)
    found = list(error.value.problems)
    assert len(found) == 55
    again = "Its mask alone says whether an image is good: unpack the archive again."
    assert (
        [problem for problem in found if problem.help]
        == found[10::11]
        == [
            Problem(f"{home}: 2 more images have no mask", again),
            Problem(f"{home}: 2 more masks are those of no image", "Unpack the archive again, or remove the mask."),
            Problem(f"{home}: 2 more names are given twice", "Remove the one that is not meant."),
            Problem(f"{home}: 2 more masks cannot be read", again),
            Problem(
                f"{home}: 2 more masks have another size than their image",
                "A mask must have the size of its image, as displayed.",
            ),
        ]
    )
    assert found[53].message.startswith(f"{home}/09_small_label.bmp")


def test_masks_that_cannot_be_read_for_two_reasons_keep_both_next_steps():
    errors = [DataError("a", help="one"), DataError("b"), DataError("c", help="two"), DataError("d", help="one")]
    assert unreadable(errors, "ROOT", "other") == [
        *(Problem("a"), Problem("d", "one"), Problem("b", "other"), Problem("c", "two")),
    ]
    assert unreadable([], "ROOT", "other") == []


def test_a_mask_of_another_size_than_its_image_is_no_evidence(tmp_path):
    for name, size in (("good", (8, 7)), ("bad", (9, 6)), ("fits", (9, 7))):
        parts.write(tmp_path / f"{name}.png", np.zeros((*size, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")  # left to who reads it
    for name, value in (("good", 0), ("bad", 1), ("fits", 0), ("broken", 0), ("absent", 0)):
        parts.write(tmp_path / f"{name}_label.bmp", spots(value))
    fitting = [f"{name}{end}" for name in ("fits", "broken", "absent") for end in (".png", "_label.bmp")]
    assert len(both(tmp_path, *fitting)) == 3
    with pytest.raises(LayoutError) as error:
        both(tmp_path, *fitting, "good.png", "good_label.bmp", "bad.png", "bad_label.bmp")
    at = tmp_path
    assert list(error.value.problems) == [
        Problem(f"{at}/bad_label.bmp is 9x7, its image {at}/bad.png is 9x6 (height x width)"),
        Problem(
            f"{at}/good_label.bmp is 9x7, its image {at}/good.png is 8x7 (height x width)",
            "A mask must have the size of its image, as displayed.",
        ),
    ]


def test_the_size_of_an_image_is_looked_up_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "SETTLED_NS", SETTLED)
    image = parts.write(tmp_path / "a.png", spots())
    parts.write(tmp_path / "a_label.bmp", spots())
    misses = by_mask._image_size_once.cache_info().misses
    for _ in range(3):
        both(tmp_path, "a.png", "a_label.bmp")
    assert by_mask._image_size_once.cache_info().misses == misses + 1
    parts.write(image, spots()[:, :5])
    with pytest.raises(LayoutError):
        both(tmp_path, "a.png", "a_label.bmp")
