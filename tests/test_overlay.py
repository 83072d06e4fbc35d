"""Overlays: what the colours, lines and legend show."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from in_bands import Pixels, Stored, use_bands

from uadctl.imaging import overlay as drawing
from uadctl.imaging.overlay import MAX_SIDE, overlay
from uadctl.records import Box, Size

cv2 = pytest.importorskip("cv2", reason="drawing needs OpenCV")

WHITE, MAGENTA = (255, 255, 255), (255, 0, 255)


def surface(height: int = 300, width: int = 400) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 120, (height, width, 3), dtype=np.uint8)


def spot(height: int = 300, width: int = 400, peak: float = 10.0) -> np.ndarray:
    rows, columns = np.indices((height, width))
    bump = np.exp(-((rows - height * 0.4) ** 2 + (columns - width * 0.6) ** 2) / (2 * (height / 12) ** 2))
    return (peak * bump).astype(np.float32)


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=-1)


def test_a_normal_surface_stays_as_it_is() -> None:
    image = surface()
    drawn = overlay(image, np.full((300, 400), 0.5, np.float32), low=1.0, high=5.0, threshold=3.0)
    assert np.array_equal(drawn[:300], image)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1:] == (400, 3)
    assert drawn.shape[0] > 300


def test_the_scale_does_not_come_from_the_image() -> None:
    image, field = surface(), spot(peak=2.0)
    near = overlay(image, field, low=0.0, high=2.0)[:300].astype(int) - image
    far = overlay(image, field, low=0.0, high=200.0)[:300].astype(int) - image
    assert np.abs(near).max() > 60
    assert np.abs(far).max() <= 3


def test_the_colour_covers_more_the_higher_the_score_and_the_surface_shows_through() -> None:
    image = surface()
    field = np.broadcast_to(np.linspace(0, 10, 400, dtype=np.float32), (300, 400))
    drawn = overlay(image, field, low=0.0, high=10.0)[:300]
    change = np.abs(drawn.astype(int) - image).mean(axis=(0, 2))
    assert change[:8].mean() < change[150:170].mean() < change[-20:].mean()
    assert np.corrcoef(drawn[:, -1, 0], image[:, -1, 0])[0, 1] > 0.9


def test_lines_run_around_what_reaches_the_threshold_and_around_the_truth() -> None:
    field = spot()
    mask = np.zeros((300, 400), np.uint8)
    mask[200:260, 20:90] = 1
    drawn = overlay(surface(), field, low=0.0, high=50.0, threshold=5.0, mask=mask)[:300]
    rows, columns = np.nonzero(has(drawn, WHITE))
    over = np.argwhere(field >= 5.0)
    assert abs(rows.min() - over[:, 0].min()) <= 1
    assert abs(rows.max() - over[:, 0].max()) <= 1
    assert abs(columns.min() - over[:, 1].min()) <= 1
    truth = np.argwhere(has(drawn, MAGENTA))
    assert truth.min(axis=0).tolist() == [200, 20]
    assert truth.max(axis=0).tolist() == [259, 89]
    assert not has(drawn, MAGENTA)[210:250, 30:80].any()


def test_a_pixel_at_the_threshold_counts_as_above() -> None:
    field = np.zeros((300, 400), np.float32)
    field[100:140, 100:140] = 5.0
    assert has(overlay(surface(), field, low=0, high=9, threshold=5.0)[:300], WHITE).any()
    assert not has(overlay(surface(), field, low=0, high=9, threshold=5.001)[:300], WHITE).any()


def test_pixels_without_score_are_grey_and_hatched_and_never_above() -> None:
    field = np.full((300, 400), 0.0, np.float32)
    field[:50] = np.nan
    drawn = overlay(surface(), field, low=0.0, high=1.0, threshold=-1.0)[:300]
    unseen = drawn[:40]
    assert (unseen[..., 0] == unseen[..., 1]).all()
    assert (unseen[..., 1] == unseen[..., 2]).all()
    hatched = (unseen == 150).all(axis=-1).mean()
    assert 0.05 < hatched < 0.5
    assert not has(drawn, WHITE)[:45].any()
    assert has(drawn, WHITE)[45:55].any()


def legend_of(**options: object) -> np.ndarray:
    field = spot()
    settings = {"low": 0.0, "high": 8.0, "threshold": 4.0, **options}
    return overlay(surface(), field, **settings)[300:]  # type: ignore[arg-type]  # a table of options


def test_the_legend_changes_with_every_thing_it_states() -> None:
    base = legend_of()
    variants = {
        "low": legend_of(low=1.0),
        "high": legend_of(high=9.0),
        "threshold": legend_of(threshold=4.5),
        "no threshold": legend_of(threshold=None),
        "caption": legend_of(caption="score 3.2: good"),
        "truth": legend_of(mask=np.ones((300, 400), np.uint8)),
    }
    assert len(variants) == 6
    for name, legend in variants.items():
        assert legend.shape != base.shape or not np.array_equal(legend, base), name
    assert np.array_equal(base, legend_of(mask=np.zeros((300, 400), np.uint8)))
    assert np.array_equal(base, legend_of())


def test_the_tick_stands_where_the_threshold_lies() -> None:
    def tick(threshold: float) -> float:
        strip = legend_of(threshold=threshold)
        bar = np.flatnonzero((strip.max(axis=-1).astype(int) - strip.min(axis=-1) > 60).mean(axis=1) > 0.5)
        row = strip[(bar[0] + bar[-1]) // 2]
        return float(np.flatnonzero(has(row, WHITE)).mean()) / 399

    assert abs(tick(4.0) - 0.5) < 0.01
    assert tick(2.0) < 0.3
    assert tick(100.0) > 0.95
    assert tick(-5.0) < 0.05


def test_a_long_caption_is_broken_into_lines_that_fit() -> None:
    one = overlay(surface(256, 256), spot(256, 256), low=0, high=8, caption="good")
    long = overlay(surface(256, 256), spot(256, 256), low=0, high=8, caption="word " * 20 + "x" * 300 + "\nä\x1b\udce9")
    assert long.shape[1] == 256
    assert long.shape[0] > one.shape[0] + 40
    assert (long[:, -1] == long[-1, -1]).all(axis=-1)[256:].all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (20, 31), (256, 256), (2000, 1400), (3, 5000)])
def test_any_size_is_drawn(size: tuple[int, int]) -> None:
    image = surface(*size)
    field = np.zeros(size, np.float32)
    field[-1, -1] = 9.0
    drawn = overlay(image, field, low=0.0, high=8.0, threshold=4.0, mask=(field > 1).astype(np.uint8), caption="a")
    assert drawn.shape[1] >= 256
    assert drawn.shape[1] <= max(256, min(max(size), MAX_SIDE))
    picture = drawn[: drawn.shape[0] - 60]
    assert has(picture, WHITE).any()


def test_a_reduced_picture_keeps_a_defect_of_one_pixel() -> None:
    field = np.zeros((MAX_SIDE * 2 + 9, 300), np.float32)
    field[777, 123] = 9.0
    image = np.zeros((*field.shape, 3), np.uint8)
    drawn = overlay(image, field, low=0.0, high=8.0, threshold=4.0)[:MAX_SIDE]
    rows, _ = np.nonzero(has(drawn, WHITE))
    assert rows.size
    assert abs(rows.mean() - 777 * MAX_SIDE / field.shape[0]) < 3


def test_what_does_not_fit_together_is_refused() -> None:
    image, field = surface(), spot()
    with pytest.raises(ValueError, match=r"^the map is \(400, 300\), its image is \(300, 400\) \(height, width\)$"):
        overlay(image, field.T, low=0, high=1)
    with pytest.raises(ValueError, match=r"^the mask is \(400, 300\), its image is \(300, 400\) \(height, width\)$"):
        overlay(image, field, low=0, high=1, mask=np.zeros((400, 300), np.uint8))
    with pytest.raises(ValueError, match=r"^low \(2\) and high \(1\) must be finite and in this order$"):
        overlay(image, field, low=2, high=1)
    with pytest.raises(ValueError, match=r"^low \(nan\) and high \(1\) must be finite and in this order$"):
        overlay(image, field, low=float("nan"), high=1)
    with pytest.raises(ValueError, match=r"^an overlay needs an \(H, W, 3\) uint8 image, found \(300, 400\) uint8$"):
        overlay(image[..., 0], field, low=0, high=1)


def test_equal_limits_show_only_what_is_above() -> None:
    image = surface()
    field = np.ones((300, 400), np.float32)
    field[10:50, 10:50] = 2.0
    drawn = overlay(image, field, low=1.0, high=1.0)[:300]
    assert np.array_equal(drawn[60:], image[60:])
    assert not np.array_equal(drawn[20:40, 20:40], image[20:40, 20:40])


# -- images and maps in files

LARGE = [(MAX_SIDE * 2 + 9, 300), (300, MAX_SIDE * 2 + 9), (MAX_SIDE + 1, 500), (1, 5000), (5000, 1), (3, 70000)]


@pytest.mark.parametrize("size", [(1, 1), (20, 31), (300, 400), *LARGE])
@pytest.mark.parametrize("rows", [1, 97, 4000])
def test_files_are_drawn_as_arrays_are(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], rows: int) -> None:
    use_bands(monkeypatch, rows)
    monkeypatch.setattr(drawing, "_BAND", 50_000)
    monkeypatch.setattr(drawing, "_BAND_ROWS", 16)
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (*size, 3), dtype=np.uint8), np.zeros(size, np.uint16)
    mask[size[0] // 2, size[1] // 2] = 256  # a defect of one pixel, at any depth
    field = rng.normal(0, 1, size).astype(np.float32)
    field[rng.random(size) < 1e-3] = 9.0
    field[: size[0] // 2][rng.random((size[0] // 2, size[1])) < 0.3] = np.nan
    whole = drawing._to_display(image, field, 8.0, mask)
    files = drawing._to_display(Pixels(image), Stored(field), 8.0, Pixels(mask))
    picture, values, over, truth, covered = range(5)
    assert [part.shape for part in files] == [part.shape for part in whole]
    assert np.abs(files[picture].astype(int) - whole[picture]).max() <= 1
    assert (files[picture] != whole[picture]).mean() < 2e-3
    assert np.array_equal(files[over], whole[over])
    assert np.array_equal(files[truth], whole[truth])
    assert whole[truth].any()
    assert (files[values] >= whole[values]).all()
    assert (files[covered] >= whole[covered]).all()
    if max(size) <= MAX_SIDE:
        assert np.array_equal(files[values], whole[values])
        assert np.array_equal(files[covered], whole[covered])
    # A mixture is drawn like files.
    for mixed in (
        drawing._to_display(image, Stored(field), 8.0, mask),
        drawing._to_display(Pixels(image), field, 8.0, Pixels(mask)),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(mixed, files, strict=True))


def test_a_whole_overlay_of_files_is_that_of_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 100)
    for size in ((300, 400), (MAX_SIDE * 2, 300)):
        image, field = surface(*size), np.zeros(size, np.float32)
        field[40:80, 40:80] = 9.0
        field[-40:] = np.nan
        mask = (field > 0).astype(np.uint8)
        options = {"low": 0.0, "high": 8.0, "threshold": 4.0, "caption": "a"}
        whole = overlay(image, field, mask=mask, **options)  # type: ignore[arg-type]  # a table of options
        files = overlay(Pixels(image), Stored(field), mask=Pixels(mask), **options)  # type: ignore[arg-type]
        assert whole.shape == files.shape
        assert (np.abs(whole.astype(int) - files).max(axis=-1) > 2).mean() < 1e-3


def test_the_highest_score_of_a_block_is_shown_without_a_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 64)
    size = (MAX_SIDE * 5, 200)
    image = np.full((*size, 3), 90, np.uint8)
    for place in ((5003, 101), (5004, 102), (0, 0), (size[0] - 1, 199)):
        field = np.zeros(size, np.float32)
        field[place] = 9.0
        drawn = overlay(Pixels(image), Stored(field), low=0.0, high=9.0)[:MAX_SIDE]
        changed = np.argwhere((drawn != 90).any(axis=-1))
        left = (drawn.shape[1] - 40) // 2
        changed = changed[(changed[:, 1] >= left) & (changed[:, 1] < left + 40)]
        assert 1 <= len(changed) <= 4
        assert np.abs(changed - [place[0] / 5, left + place[1] / 5]).max() <= 1.5


# Longer by twice the picture's side exactly, while the other side is reduced by a little more than 2.
UNEVEN = [(29, MAX_SIDE * 2), (MAX_SIDE * 2, 29), (301, MAX_SIDE * 2), (55, MAX_SIDE * 3)]


@pytest.mark.parametrize("size", UNEVEN)
def test_a_line_at_an_edge_is_shown(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    use_bands(monkeypatch, 256)
    image, field = np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32)
    edges = (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:])
    for edge in edges:
        field[edge] = 9.0
    mask = (field > 0).astype(np.uint8)
    for drawn in (
        drawing._to_display(image, field, 8.0, mask),
        drawing._to_display(Pixels(image), Stored(field), 8.0, Pixels(mask)),
    ):
        assert max(drawn[0].shape) == MAX_SIDE
        for plane in drawn[2:4]:
            assert all(plane[edge].all() for edge in edges)
            assert not plane[2:-2, 2:-2].any()


@pytest.mark.parametrize("wanted", [1, 2, 683, 1500, 2047, 2048])
def test_blocks_leave_out_no_pixel(wanted: int) -> None:
    for length in [*range(wanted, wanted + 300), 3 * wanted + 1, 5 * wanted - 1, 70_000]:
        block = drawing._block(length, wanted)
        first = drawing._middles(length, wanted).astype(int) - block // 2
        assert first[0] <= 0
        assert first[-1] + block >= length
        assert (np.diff(first) <= block).all()


def test_what_was_not_looked_at_is_so_up_to_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 64)
    size = (MAX_SIDE * 3 // 2, 150)  # the first blocks begin before the edge
    field = np.full(size, -1e38, np.float32)
    field[:, :30] = field[:, -30:] = field[:150] = field[-150:] = np.nan
    values, covered = drawing._to_display(Pixels(np.zeros((*size, 3), np.uint8)), Stored(field), None, None)[1::3]
    assert not covered[:, :19].any()
    assert not covered[:, -19:].any()
    assert not covered[:99].any()
    assert not covered[-99:].any()
    assert covered[101:-101, 21:-21].all()
    assert np.array_equal(np.unique(values), np.array([-np.inf, -1e38], np.float32))


def test_sizes_in_files_are_compared_and_their_pixels_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 100)
    image, field = Pixels(surface()), Stored(spot())
    with pytest.raises(ValueError, match=r"^the map is \(400, 300\), its image is \(300, 400\) \(height, width\)$"):
        overlay(image, Stored(spot().T), low=0, high=1)
    with pytest.raises(ValueError, match=r"^the mask is \(400, 300\), its image is \(300, 400\) \(height, width\)$"):
        overlay(image, field, low=0, high=1, mask=Pixels(np.zeros((400, 300), np.uint8)))
    with pytest.raises(ValueError, match=r"^an overlay needs an \(H, W, 3\) uint8 image, found \(300, 400\) uint8$"):
        overlay(Pixels(surface()[..., 0]), field, low=0, high=1)
    long = np.zeros((5000, 10), np.uint8)
    with pytest.raises(ValueError, match=r"^an overlay needs an \(H, W, 3\) uint8 image, found \(5000, 10\) uint8$"):
        overlay(Pixels(long), Stored(long), low=0, high=1)


class Made:
    """Of any size, made as it is read. most: pixels that were read at once."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self.most = 0

    @property
    def size(self) -> Size:
        return self._size


class Picture(Made, Pixels):
    """A grey surface."""

    def read(self, box: Box) -> np.ndarray:
        self.most = max(self.most, box.height * box.width)
        return np.full((*box.size, 3), 90, np.uint8)


class Map(Made, Stored):
    """One pixel stands out."""

    def read(self, box: Box) -> np.ndarray:
        self.most = max(self.most, box.height * box.width)
        field = np.zeros(box.size, np.float32)
        if box.y0 <= 5555 < box.y0 + box.height:
            field[5555 - box.y0, 1234] = 9.0
        return field


def test_memory_is_that_of_the_picture_and_not_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bands(monkeypatch, 256)
    monkeypatch.setattr(drawing, "_BAND", 256 * 4096)
    size = Size(8192, 4096)  # 100 MB of colours, 134 MB of scores
    image, field = Picture(size), Map(size)
    tracemalloc.start()
    try:
        drawn = overlay(image, field, low=0.0, high=9.0, threshold=8.0)[:MAX_SIDE]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert image.most == field.most == 256 * 4096
    assert most < 120_000_000  # to draw on the picture of 2048 x 1024 takes most of it
    rows, columns = np.nonzero(has(drawn, WHITE))
    assert abs(rows.mean() - 5555 / 4) < 3
    assert abs(columns.mean() - 1234 / 4) < 3
