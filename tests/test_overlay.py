"""Overlays: what the colours, lines and legend show."""

from __future__ import annotations

import numpy as np
import pytest

from uadctl.imaging.overlay import MAX_SIDE, overlay

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
