"""What makes one camera disagree with itself, operation by operation."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import parts
import pytest

from uadctl.errors import DataError
from uadctl.imaging import augment
from uadctl.imaging.augment import (
    apply_steps,
    blur,
    exposure_drift,
    get_industrial_camera_robust_augmentation,
    jpeg_compress,
    motion_blur,
    move_mask,
    noise,
    random_channel_gain,
    rotate_shift,
    vignette,
)
from uadctl.records import Step
from uadctl.spec.corruptions import AUGMENTATIONS, SEVERITIES
from uadctl.spec.operations import read_step
from uadctl.spec.registry import load_target

FIXED: dict[str, Callable[..., Any]] = {"jpeg_compress": jpeg_compress, "vignette": vignette, "blur": blur}
DRAWING: dict[str, Callable[..., Any]] = {
    "exposure_drift": exposure_drift,
    "random_channel_gain": random_channel_gain,
    "motion_blur": motion_blur,
    "noise": noise,
    "rotate_shift": rotate_shift,
}
IMAGE = parts.surface(0, 40, 56)
GREY = np.ascontiguousarray(IMAGE[..., 1])


def done(name: str, image: np.ndarray, seed: int = 3) -> np.ndarray:
    return FIXED[name](image) if name in FIXED else DRAWING[name](image, rng=seed)


def flat(value: int, height: int = 9, width: int = 12) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def step(name: str, **params: float) -> Step:
    return Step(name, tuple(params.items()))


# -- of every operation


def test_the_data_say_what_the_functions_take():
    assert len(AUGMENTATIONS) == 8
    assert set(AUGMENTATIONS) == FIXED.keys() | DRAWING.keys()
    for name, operation in AUGMENTATIONS.items():
        function = load_target(operation.target)
        assert function is (FIXED | DRAWING)[name]
        parameters = list(inspect.signature(function).parameters.values())
        told = {p.name: p.default for p in operation.parameters}
        assert {p.name: p.default for p in parameters[1:] if p.kind is p.POSITIONAL_OR_KEYWORD} == told
        assert ("rng" in [p.name for p in parameters]) == (name in DRAWING)
        assert operation.name == name
        assert operation.summary.endswith(".")
        assert all(p.meaning and p.low is not None and p.high is not None for p in operation.parameters)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_bound_of_the_data_is_one_that_the_function_takes(name):
    for parameter in AUGMENTATIONS[name].parameters:
        for value in (parameter.low, parameter.high):
            assert value is not None
            given = int(value) if parameter.kind == "int" else value
            keywords = {parameter.name: given} | ({"rng": 0} if name in DRAWING else {})
            (FIXED | DRAWING)[name](IMAGE, **keywords)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(40, 56), (5, 3), (1, 7), (1, 1)], ids=str)
def test_shape_and_type_are_kept_and_the_image_given_is_left_alone(name, size):
    for image in (parts.surface(1, *size), parts.surface(1, *size)[..., 0], parts.surface(1, *size)[:, ::-1]):
        before = image.copy()
        changed = done(name, image)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        assert not np.shares_memory(changed, image)
        assert np.array_equal(image, before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_is_no_image(name):
    with pytest.raises(TypeError, match=r"^an image must be .*uint8.*, found float64$"):
        done(name, np.zeros((4, 4)))
    for shape in ((4, 4, 1), (4, 4, 4), (0, 4), (2, 4, 4, 3), (4,)):
        with pytest.raises(ValueError) as error:
            done(name, np.zeros(shape, np.uint8))
        assert str(error.value) == f"an image must be a non-empty (H, W) or (H, W, 3) array, found {shape}"


@pytest.mark.parametrize("name", DRAWING)
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(name):
    first = done(name, IMAGE, 7)
    assert np.array_equal(first, done(name, IMAGE, 7))
    assert np.array_equal(first, DRAWING[name](IMAGE, rng=np.random.default_rng(7)))
    assert any(not np.array_equal(first, done(name, IMAGE, seed)) for seed in range(3))


@pytest.mark.parametrize("name", DRAWING)
def test_a_generator_goes_on_and_the_global_ones_are_not_touched(name):
    ours, theirs = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    rng = np.random.default_rng(0)
    drawn = [DRAWING[name](IMAGE, rng=rng) for _ in range(4)]
    assert len({image.tobytes() for image in drawn}) > 1
    assert random.getstate() == ours
    assert np.array_equal(np.random.get_state()[1], theirs)  # noqa: NPY002


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("rng", [None, "0", 1.0, True])
def test_a_seed_that_is_none(name, rng):
    with pytest.raises(TypeError, match=rf"^rng must be a numpy Generator or an int, found {type(rng).__name__}$"):
        DRAWING[name](IMAGE, rng=rng)


BAD: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("jpeg_compress", {"quality": 0}, "quality must be a whole number from 1 to 95, found 0"),
    ("jpeg_compress", {"quality": 96}, "quality must be a whole number from 1 to 95, found 96"),
    ("jpeg_compress", {"quality": 50.0}, "quality must be a whole number from 1 to 95, found 50.0"),
    ("jpeg_compress", {"quality": True}, "quality must be a whole number from 1 to 95, found True"),
    ("vignette", {"strength": -0.1}, "strength must be 0 or more, found -0.1"),
    ("vignette", {"strength": float("nan")}, "strength must be 0 or more, found nan"),
    ("vignette", {"strength": float("inf")}, "strength must be 0 or more, found inf"),
    ("blur", {"sigma": -1}, "sigma must be 0 or more, found -1"),
    ("motion_blur", {"length": 0.5}, "length must be 1 or more, found 0.5"),
    ("noise", {"sigma": -1}, "sigma must be 0 or more, found -1"),
    ("rotate_shift", {"degrees": 181}, "degrees must be from 0 to 180, found 181"),
    ("rotate_shift", {"degrees": -1}, "degrees must be from 0 to 180, found -1"),
    ("rotate_shift", {"shift": 0.6}, "shift must be from 0 to 0.5, found 0.6"),
    ("exposure_drift", {"ev_range": -1}, "ev_range must be 0 or more, or a pair (lowest, highest), found -1"),
    (
        "exposure_drift",
        {"ev_range": (1, 2, 3)},
        "ev_range must be 0 or more, or a pair (lowest, highest), found (1, 2, 3)",
    ),
    (
        "exposure_drift",
        {"ev_range": (1, -1)},
        "ev_range must be a pair (lowest, highest) of finite numbers, found (1, -1)",
    ),
    ("exposure_drift", {"ev_range": 65}, "ev_range must lie within 64 stops, found 65"),
    ("exposure_drift", {"ev_range": (-65, 0)}, "ev_range must lie within 64 stops, found (-65, 0)"),
    (
        "random_channel_gain",
        {"gain_range": 1.0},
        "gain_range must be from 0 to below 1, or two numbers above 0, found 1.0",
    ),
    (
        "random_channel_gain",
        {"gain_range": (1.1, 0.9)},
        "gain_range must be a pair (lowest, highest) of finite numbers, found (1.1, 0.9)",
    ),
    (
        "random_channel_gain",
        {"gain_range": (0, 1)},
        "gain_range must be from 0 to below 1, or two numbers above 0, found (0, 1)",
    ),
)


@pytest.mark.parametrize(("name", "params", "message"), BAD, ids=lambda v: str(v)[:40])
def test_an_amount_that_is_none(name, params, message):
    with pytest.raises(ValueError) as error:
        (FIXED | DRAWING)[name](IMAGE, **params, **({"rng": 0} if name in DRAWING else {}))
    assert str(error.value) == message


def test_sides_that_jpeg_and_opencv_cannot_do():
    message = r"^65501x1 \(height x width\) is too large for jpeg_compress, which takes at most 65500 pixels a side$"
    with pytest.raises(DataError, match=message) as caught:
        jpeg_compress(np.zeros((65_501, 1), np.uint8))
    assert caught.value.help == "Leave jpeg_compress out of [augment] and [robustness], or take smaller images."
    message = r"^1x32768 \(height x width\) is too large for rotate_shift, which takes at most 32767 pixels a side$"
    with pytest.raises(DataError, match=message) as caught:
        rotate_shift(np.zeros((1, 32_768), np.uint8), rng=0)
    assert caught.value.help == "Leave rotate_shift out of [augment] and [robustness], or take smaller images."
    assert rotate_shift(np.zeros((1, 32_767), np.uint8), rng=0).shape == (1, 32_767)


# -- JPEG


def test_jpeg_keeps_colours_in_their_order():
    red, blue = flat(0, 32, 32), flat(0, 32, 32)
    red[..., 0] = blue[..., 2] = 200
    for image in (red, blue):
        assert np.abs(jpeg_compress(image, 95).astype(int) - image).max() <= 3


def test_jpeg_is_that_of_a_file(tmp_path):
    image = parts.surface(2, 33, 47)
    assert cv2.imwrite(str(tmp_path / "a.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])
    assert np.array_equal(jpeg_compress(image, 40), cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1])


# -- vignette


@pytest.mark.parametrize("size", [(9, 13), (8, 12), (9, 12), (1, 2)], ids=str)
def test_a_vignette_leaves_the_centre_and_is_symmetric(size):
    image = flat(200, *size)
    seen = vignette(image, 1.0)
    height, width = size
    assert (seen[(height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1] == 200).all()
    assert np.array_equal(seen, seen[::-1, ::-1])
    if height > 1:
        assert seen[0, 0, 0] == 50  # 1 / (1 + 1)² of the light
        assert seen[0, 0, 0] < seen[0, width // 2, 0] < 200


def test_a_vignette_of_other_types_and_in_bands(monkeypatch):
    image = np.full((9, 13), 60_000, np.uint16)
    assert vignette(image, 1.0).dtype == np.uint16
    assert vignette(image, 1.0)[0, 0] == 15_000
    light = vignette(np.ones((9, 13, 3), np.float32), 0.5)
    assert light.dtype == np.float32
    assert light[0, 0] == pytest.approx(1 / 1.5**2)
    whole = vignette(IMAGE, 0.7)
    monkeypatch.setattr(augment, "_BAND", 100)
    assert np.array_equal(vignette(IMAGE, 0.7), whole)
    assert np.array_equal(vignette(IMAGE, 0.0), IMAGE)


# -- exposure and channel gain


def test_a_stop_is_twice_the_light_and_is_cut():
    image = flat(100)
    assert (exposure_drift(image, (1, 1), rng=0) == 200).all()
    assert (exposure_drift(image, (-2, -2), rng=0) == 25).all()
    assert (exposure_drift(image, (2, 2), rng=0) == 255).all()
    drawn = {int(exposure_drift(image, 1.0, rng=seed)[0, 0, 0]) for seed in range(60)}
    assert len(drawn) > 20
    assert min(drawn) >= 50
    assert max(drawn) <= 200
    assert {int(exposure_drift(image, 1.0, rng=seed, at_ends=True)[0, 0, 0]) for seed in range(30)} == {50, 200}


def test_each_channel_has_its_own_gain_and_grey_has_none():
    image = flat(100)
    drawn = np.array([random_channel_gain(image, 0.5, rng=seed)[0, 0] for seed in range(60)])
    assert drawn.min() >= 50
    assert drawn.max() <= 150
    assert all(len(set(gains)) > 1 for gains in drawn.tolist())
    for seed in range(40):
        values = random_channel_gain(image, 0.5, rng=seed, at_ends=True)
        assert set(values[0, 0].tolist()) == {50, 150}
        assert (values == values[0, 0]).all()
    assert np.array_equal(random_channel_gain(GREY, 0.5, rng=0), GREY)
    assert (random_channel_gain(image, (2, 2), rng=0) == 200).all()


# -- blur, motion, noise


def spot(size: int = 41) -> np.ndarray:
    image = np.zeros((size, size), np.uint8)
    image[size // 2, size // 2] = 255
    return image


def test_a_blur_has_the_standard_deviation_it_says():
    for sigma in (1.0, 2.0):
        image = np.zeros((41, 41), np.uint8)
        image[:, 20:] = 200  # an edge: its derivative is the kernel
        kernel = np.diff(blur(image, sigma)[20].astype(float)) / 200
        at = np.arange(40) + 0.5
        assert kernel.sum() == pytest.approx(1)
        assert np.sqrt((kernel * (at - 20) ** 2).sum() - ((kernel * (at - 20)).sum()) ** 2) == pytest.approx(
            sigma, rel=0.1
        )
    assert np.array_equal(blur(IMAGE, 0), IMAGE)
    assert (blur(flat(77), 3.0) == 77).all()


def test_motion_is_a_line_of_that_length_in_many_directions():
    angles = []
    for seed in range(12):
        moved = motion_blur(spot(), 15.0, rng=seed).astype(float)
        y, x = np.nonzero(moved >= 5)
        assert moved.sum() == pytest.approx(255, rel=0.15)  # rounded pixel by pixel
        assert np.hypot(np.ptp(y), np.ptp(x)) == pytest.approx(14, abs=2)
        angles.append(float(np.arctan2(np.ptp(y), np.ptp(x))))
    assert np.ptp(angles) > 0.7
    assert np.array_equal(motion_blur(IMAGE, 1.0, rng=0), IMAGE)
    assert (motion_blur(flat(77), 9.0, rng=0) == 77).all()


def test_noise_has_the_standard_deviation_it_says_and_is_of_each_value(monkeypatch):
    image = flat(128, 60, 80)
    seen = noise(image, 10.0, rng=0).astype(float) - 128
    assert abs(seen.mean()) < 0.5
    assert seen.std() == pytest.approx(10, rel=0.03)
    assert abs(np.corrcoef(seen[..., 0].ravel(), seen[..., 1].ravel())[0, 1]) < 0.05
    whole = noise(IMAGE, 10.0, rng=4)
    monkeypatch.setattr(augment, "_BAND", 100)
    assert np.array_equal(noise(IMAGE, 10.0, rng=4), whole)
    assert np.array_equal(noise(IMAGE, 0.0, rng=4), IMAGE)


# -- movement


def square(size: int = 61) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[10:20, 38:52] = 1
    return mask


def centroid(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask > 0).mean(axis=0)


def test_at_its_ends_a_part_moves_exactly_that_far_and_turns_exactly_that_much():
    before = centroid(square())
    for seed in range(8):
        after = centroid(rotate_shift(square(), 0.0, 0.1, rng=seed, at_ends=True, is_mask=True))
        assert np.hypot(*(after - before)) == pytest.approx(6.1, abs=0.75)
    signs = set()
    for seed in range(8):
        after = centroid(rotate_shift(square(), 20.0, 0.0, rng=seed, at_ends=True, is_mask=True))
        turned = np.degrees(np.arctan2(*(after - 30)) - np.arctan2(*(before - 30)))
        assert abs(turned) == pytest.approx(20, abs=1)
        signs.add(turned > 0)
    assert signs == {True, False}
    assert np.array_equal(rotate_shift(IMAGE, 0.0, 0.0, rng=0), IMAGE)


def test_between_its_ends_a_part_moves_less():
    before = centroid(square())
    far = [
        np.hypot(*(centroid(rotate_shift(square(), 0.0, 0.1, rng=seed, is_mask=True)) - before)) for seed in range(40)
    ]
    assert max(far) <= 6.9
    assert min(far) < 2
    assert len({round(f, 1) for f in far}) > 5


def test_a_mask_moves_with_its_image_and_has_no_new_values():
    steps = [step("noise", sigma=0.0), step("rotate_shift", degrees=15.0, shift=0.1)]
    mask = square() * 7
    image = np.where(mask > 0, 250, 20).astype(np.uint8)
    for seed in range(6):
        moved, followed = apply_steps(image, steps, rng=seed, mask=mask)
        assert followed is not None
        assert set(np.unique(followed).tolist()) <= {0, 7}
        assert not np.array_equal(followed, mask)
        apart = (moved > 135) != (followed > 0)
        assert apart.mean() < 0.01
        assert np.array_equal(move_mask(mask, steps, rng=seed), followed)
        assert np.array_equal(move_mask(mask, steps, rng=np.random.default_rng(seed)), followed)


# -- steps


def test_steps_are_done_in_order_and_each_draws_from_a_seed_of_its_own():
    brighter, darker = step("vignette", strength=0.5), step("exposure_drift", ev_range=1.0)
    one, _ = apply_steps(IMAGE, [brighter, darker], rng=1)
    two, _ = apply_steps(IMAGE, [darker, brighter], rng=1)
    assert not np.array_equal(one, two)
    move = step("rotate_shift", degrees=9.0, shift=0.1)
    masks = [
        apply_steps(IMAGE, [step("noise", sigma=sigma), move], rng=5, mask=square(61)[:40, :56])[1]
        for sigma in (1.0, 30.0)
    ]
    others = [apply_steps(IMAGE, [first, move], rng=5, mask=square()[:40, :56])[1] for first in (brighter, darker)]
    assert len({mask.tobytes() for mask in (*masks, *others) if mask is not None}) == 1


def test_at_their_ends_steps_are_as_strong_as_they_say():
    found = {
        int(apply_steps(flat(100), [step("exposure_drift", ev_range=1.0)], rng=s, at_ends=True)[0][0, 0, 0])
        for s in range(20)
    }
    assert found == {50, 200}


def test_no_steps_change_nothing_and_hand_out_a_copy():
    image, mask = apply_steps(IMAGE, [], rng=0)
    assert mask is None
    assert np.array_equal(image, IMAGE)
    assert not np.shares_memory(image, IMAGE)


def test_steps_that_cannot_be_done():
    with pytest.raises(
        ValueError, match=r"^no such step: clahe; expected one of blur, exposure_drift, jpeg_compress, "
    ):
        apply_steps(IMAGE, [step("clahe")], rng=0)
    with pytest.raises(ValueError) as error:
        apply_steps(IMAGE, [], rng=0, mask=np.zeros((4, 4), np.uint8))
    assert str(error.value) == "the mask is (4, 4), its image is (40, 56) (height, width)"


# -- the ready-made combination


def test_the_combination_is_drawn_anew_each_time_and_again_from_the_same_seed():
    first, second = get_industrial_camera_robust_augmentation(4), get_industrial_camera_robust_augmentation(4)
    drawn = [first(IMAGE) for _ in range(20)]
    assert [image.tobytes() for image in drawn] == [second(IMAGE).tobytes() for _ in range(20)]
    assert len({image.tobytes() for image in drawn}) >= 19
    assert {(image.shape, image.dtype) for image in drawn} == {(IMAGE.shape, IMAGE.dtype)}
    assert get_industrial_camera_robust_augmentation()(GREY).shape == GREY.shape
    rng = np.random.default_rng(4)
    assert get_industrial_camera_robust_augmentation(rng)(IMAGE).tobytes() == drawn[0].tobytes()


def test_each_step_is_in_half_of_the_combinations_and_within_the_data(monkeypatch):
    steps: list[list[Step]] = []

    def noted(image, drawn, *, rng):
        steps.append(list(drawn))
        return image, None

    monkeypatch.setattr(augment, "apply_steps", noted)
    change = get_industrial_camera_robust_augmentation(0)
    for _ in range(400):
        change(IMAGE)
    names = ["rotate_shift", "vignette", "exposure_drift", "random_channel_gain", "blur", "noise", "jpeg_compress"]
    for name in names:
        assert 0.4 < sum(name in [s.name for s in drawn] for drawn in steps) / 400 < 0.6
    for drawn in steps:
        assert [s.name for s in drawn] == [name for name in names if name in [s.name for s in drawn]]
        for one in drawn:
            assert read_step(str(one), AUGMENTATIONS) == one


# -- severities


def test_every_corruption_has_five_severities_and_they_rise():
    assert list(SEVERITIES) == list(AUGMENTATIONS)
    image = parts.surface(5, 256, 256)
    for name, texts in SEVERITIES.items():
        assert len(texts) == 5
        read = [read_step(text, AUGMENTATIONS) for text in texts]
        assert {s.name for s in read} == {name}
        apart = []
        for one in read:
            changed = [apply_steps(image, [one], rng=seed, at_ends=True)[0] for seed in range(4)]
            apart.append(np.mean([np.abs(c.astype(int) - image).mean() for c in changed]))
        assert apart == sorted(apart), name
        assert apart[0] > 0.05, name
        assert len(set(apart)) == 5, name


def test_the_page_lists_every_step_of_augment_with_its_parameters():
    page = (Path(__file__).parents[1] / "docs" / "robustness.md").read_text(encoding="utf-8")
    assert len(AUGMENTATIONS) == 8
    for name, entry in AUGMENTATIONS.items():
        said = "; ".join(f"`{p.name}` = {p.default}: {p.meaning}" for p in entry.parameters)
        assert f"| `{name}` | {said} |\n" in page
