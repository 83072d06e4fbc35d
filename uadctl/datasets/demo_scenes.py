"""The pictures of the demo data set: three procedural surfaces, their defects, and where those defects are.

A scene is drawn twice from the same random numbers, once sound and once with its defect; the mask is where the two
differ, so that it is neither guessed nor drawn by hand. Only `uadctl.datasets.demo` imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from uadctl.records import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    U8 = NDArray[np.uint8]

VISIBLE = 5.0
"""Grey levels (of 255, before sensor noise) by which a pixel must differ from its sound twin to be in the mask."""

SMALLEST_DEFECT = 30
"""Pixels of the smallest mask; a defect that fell outside the part, or came out fainter, is drawn again elsewhere."""

BORDER = 4
"""Pixels round the mask within which an image may still differ, invisibly, from its sound twin."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """One picture of the data set.

    image: (H, W, 3) uint8 RGB.
    sound: the same part, light and sensor noise without the defect; equal to `image` where nothing is wrong.
    mask:  (H, W) uint8, 255 on the defect and 0 elsewhere.
    """

    image: U8
    sound: U8
    mask: U8


@dataclass(frozen=True, slots=True)
class Scene:
    """A category: its picture size, its kinds of defect, and `draw(rng, size, kind, flaw)`.

    `draw` returns a (3, H, W) float32 picture in grey levels (planes, which numpy fills several times faster than
    interleaved colours). All that makes the part comes from `rng`, all that makes the defect `kind` (None: sound) from
    `flaw`: with an equal `rng` two pictures differ by the defect alone.
    """

    size: Size
    kinds: tuple[str, ...]
    draw: Callable[[np.random.Generator, Size, str | None, np.random.Generator], F32]


def draw_specimen(category: str, split: str, kind: str, index: int, *, seed: int) -> Specimen:
    """Draw one picture; `kind` is "good" or one of `SCENES[category].kinds`.

    Its random numbers depend on the five arguments only, not on what was drawn before.
    """
    scene = SCENES[category]
    key = crc32(f"{category}/{split}/{kind}/{index}".encode())
    part, noise, flaws = np.random.SeedSequence(seed, spawn_key=(key,)).spawn(3)
    grain = _white(np.random.default_rng(noise), (*scene.size, 3)) * np.float32(1.5)
    clean = _seen(scene.draw(np.random.default_rng(part), scene.size, None, np.random.default_rng(flaws)))
    sound = _expose(clean + grain)
    if kind == "good":
        return Specimen(image=sound, sound=sound, mask=np.zeros(scene.size, np.uint8))
    while True:
        (flaws,) = flaws.spawn(1)
        spoilt = _seen(scene.draw(np.random.default_rng(part), scene.size, kind, np.random.default_rng(flaws)))
        mask = _difference_mask(clean, spoilt, hull=kind == "dent")
        if np.count_nonzero(mask) >= SMALLEST_DEFECT:
            break
    near = _grown(mask, BORDER) > 0
    image = _expose(np.where(near[..., None], spoilt, clean) + grain)
    return Specimen(image=image, sound=sound, mask=mask)


def _difference_mask(clean: F32, spoilt: F32, *, hull: bool) -> U8:
    """255 where two pictures differ to the eye, small gaps and enclosed areas filled.

    hull: fill the convex hull. A dent's middle is level and looks sound, yet anybody would call it dented.
    """
    import cv2

    seen = (np.abs(spoilt - clean).max(axis=2) > VISIBLE).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    # With a margin, or the closing would weld a mask near the picture's border to it.
    closed = cv2.morphologyEx(cv2.copyMakeBorder(seen, 8, 8, 8, 8, cv2.BORDER_CONSTANT), cv2.MORPH_CLOSE, disc)
    closed = closed[8:-8, 8:-8]
    outlines, _ = cv2.findContours(np.ascontiguousarray(closed), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = [outline for outline in outlines if cv2.contourArea(outline) >= 4]
    if hull and outlines:
        outlines = [cv2.convexHull(np.concatenate(outlines))]
    mask = np.zeros(closed.shape, np.uint8)
    cv2.drawContours(mask, outlines, -1, 255, cv2.FILLED)
    return mask


# Pixels and noise ------------------------------------------------------------------------------------------------


def _rgb(red: float, green: float, blue: float) -> F32:
    """A colour that (H, W) and (3, H, W) arrays can be multiplied with."""
    return np.array([[[red]], [[green]], [[blue]]], np.float32)


def _soften(a: F32, sigma: float) -> F32:
    import cv2

    return np.asarray(cv2.GaussianBlur(a, (0, 0), sigma), dtype=np.float32)


def _grown(mask: U8, radius: int) -> U8:
    import cv2

    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask, disc), dtype=np.uint8)


def _seen(planes: F32) -> F32:
    """A (3, H, W) scene as the lens draws it, (H, W, 3)."""
    return _soften(np.ascontiguousarray(planes.transpose(1, 2, 0)), 0.5)


def _expose(picture: F32) -> U8:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _white(rng: np.random.Generator, shape: tuple[int, ...]) -> F32:
    """Unit-variance noise without neighbours: the sum of two random bytes, ten times as fast as normal numbers."""
    first, second = rng.integers(0, 256, size=(2, *shape), dtype=np.uint8)
    centred: F32 = first.astype(np.float32) + second - np.float32(255)
    return centred * np.float32(1 / 104.5)


def _streaks(rng: np.random.Generator, size: Size, length: int) -> F32:
    """Unit-variance noise drawn out along the rows over about `length` pixels."""
    import cv2

    wide = _white(rng, Size(size.height, size.width + 2 * length))
    for _ in range(2):
        wide = np.asarray(cv2.blur(wide, (length, 1)), dtype=np.float32)
    return _unit(wide[:, length : length + size.width])


def _clouds(rng: np.random.Generator, size: Size, grain: float) -> F32:
    """Smooth noise of about zero mean and unit variance whose features are `grain` pixels wide."""
    import cv2

    rows, columns = (math.ceil(side / grain) + 4 for side in size)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    y0, x0 = rng.uniform(1, 2, size=2)
    step = np.float32(1 / grain)
    xs = np.arange(size.width, dtype=np.float32) * step + np.float32(x0)
    ys = np.arange(size.height, dtype=np.float32) * step + np.float32(y0)
    grid_x, grid_y = np.meshgrid(xs, ys)
    return np.asarray(cv2.remap(coarse, grid_x, grid_y, cv2.INTER_CUBIC), dtype=np.float32) * np.float32(1.4)


def _unit(a: F32) -> F32:
    scaled: F32 = (a - a.mean()) / (a.std() + np.float32(1e-6))
    return scaled


def _step(a: F32, low: float, high: float) -> F32:
    """0 below `low`, 1 above `high`, smooth between."""
    t: F32 = np.clip((a - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


@cache
def _grid(size: Size) -> tuple[F32, F32]:
    """Row and column of every pixel, to be read only."""
    ys, xs = np.mgrid[0 : size.height, 0 : size.width].astype(np.float32)
    ys.setflags(write=False)
    xs.setflags(write=False)
    return ys, xs


def _light(rng: np.random.Generator, size: Size, *, exposure: float, slope: float) -> F32:
    """(3, H, W) factor: lamps age (exposure), stand askew (slope) and differ in colour."""
    ys, xs = _grid(size)
    direction = rng.uniform(0, 2 * math.pi)
    across = math.cos(direction) * (xs / size.width - 0.5) + math.sin(direction) * (ys / size.height - 0.5)
    level = math.exp(rng.normal(0, exposure)) * (1 + rng.normal(0, slope) * across)
    return np.asarray(level * _rgb(*(1 + rng.normal(0, 0.009, size=3))), dtype=np.float32)


def _place(rng: np.random.Generator, size: Size, margin: float) -> tuple[float, float]:
    """A point (y, x) at least `margin` pixels from the border."""
    return float(rng.uniform(margin, size.height - margin)), float(rng.uniform(margin, size.width - margin))


def _blob(rng: np.random.Generator, size: Size, centre: tuple[float, float], radius: float, *, rough: float) -> F32:
    """A blot: about 1 inside, 0 on its irregular rim, negative outside; `rough` is how far the rim strays."""
    ys, xs = _grid(size)
    turn, squeeze = rng.uniform(0, math.pi), rng.uniform(0.75, 1.35)
    dy, dx = ys - centre[0], xs - centre[1]
    along = (math.cos(turn) * dx + math.sin(turn) * dy) * squeeze
    over = (math.cos(turn) * dy - math.sin(turn) * dx) / squeeze
    distance = np.hypot(along, over) / np.float32(radius)
    wander = _clouds(rng, size, radius * 0.7) * 0.7 + _clouds(rng, size, max(3.0, radius * 0.25)) * 0.3
    return (1 - distance + np.float32(rough) * wander).astype(np.float32)


def _hair(
    rng: np.random.Generator, size: Size, start: tuple[float, float], *, angle: float, length: float, bend: float
) -> F32:
    """Coverage (0..1) of a fine curved stroke from `start` (y, x), faint at both ends, uneven between."""
    import cv2

    n = 40
    t = np.linspace(0, 1, n + 1)
    turn = angle + bend * (t - 0.5)
    stride = length / n
    ys = start[0] + np.concatenate(([0.0], np.cumsum(np.sin(turn[:-1]) * stride)))
    xs = start[1] + np.concatenate(([0.0], np.cumsum(np.cos(turn[:-1]) * stride)))
    pressure = np.clip(np.sin(math.pi * np.linspace(0.08, 0.92, n)) * 1.5, 0, 1)
    pressure *= np.clip(0.85 + 0.25 * np.interp(np.arange(n), np.arange(0, n, 5), rng.normal(size=8)), 0.35, 1)
    canvas = np.zeros(size, np.uint8)
    points = np.rint(np.stack([xs, ys], axis=1) * 16).astype(np.int32)
    for k in range(n):
        stroke = round(255 * float(pressure[k]))
        cv2.line(canvas, points[k].tolist(), points[k + 1].tolist(), stroke, 1, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255)


def _shifted(a: F32, dy: float, dx: float) -> F32:
    import cv2

    move = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    moved = cv2.warpAffine(a, move, (a.shape[1], a.shape[0]), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.float32)


# Brushed metal ---------------------------------------------------------------------------------------------------


def _brushed_metal(rng: np.random.Generator, size: Size, kind: str | None, flaw: np.random.Generator) -> F32:
    """A sheet ground along its rows: hairlines of several lengths, and the lamp's reflection drawn out across them."""
    import cv2

    rim = 16
    sheet = Size(size.height + 2 * rim, size.width + 2 * rim)
    lines = 0.8 * _streaks(rng, sheet, 90) + 0.7 * _streaks(rng, sheet, 31) + 0.35 * _streaks(rng, sheet, 9)
    hairlines = _streaks(rng, sheet, 45)
    lines += 0.9 * np.where(np.abs(hairlines) > 1.6, hairlines, 0)
    lines = _unit(0.75 * lines + 0.25 * _soften(lines, 1.2))
    angle = math.radians(rng.normal(0, 1.0))
    turn = cv2.getRotationMatrix2D((sheet.width / 2, sheet.height / 2), math.degrees(angle), 1.0)
    lines = np.asarray(cv2.warpAffine(lines, turn, (sheet.width, sheet.height), borderMode=cv2.BORDER_REFLECT))
    lines = lines[rim:-rim, rim:-rim]

    ys, xs = _grid(size)
    middle = size.width * rng.uniform(0.25, 0.75)
    width = size.width * rng.uniform(0.32, 0.46)
    wave = 6 * _clouds(rng, size, 90)
    tilt = math.tan(angle) * (ys - size.height / 2) + rng.normal(0, 0.12) * (ys - size.height / 2)
    away = (xs - middle + wave + tilt + 3 * lines) / width
    body = 118 + 4 * _clouds(rng, size, 70)
    gleam = rng.uniform(42, 66)
    roughness = 0.050 * rng.uniform(0.85, 1.15)
    light = _light(rng, size, exposure=0.07, slope=0.14)

    tilt_x: F32 | float = 0.0
    gloss: F32 | float = 1.0
    stain: F32 | None = None
    groove: F32 | None = None
    burr: F32 | None = None
    if kind == "dent":
        cy, cx = _place(flaw, size, 26)
        radius = flaw.uniform(9, 17)
        squeeze = flaw.uniform(0.75, 1.3)
        dy, dx = (ys - cy) * squeeze, (xs - cx) / squeeze
        pit = np.exp(-(dx * dx + dy * dy) / (radius * radius))
        depth = flaw.uniform(0.22, 0.38) * float(flaw.choice([-1.0, 1.0]))
        tilt_x = np.asarray(depth * 2 * (0.8 * dx + 0.6 * dy) / radius * pit, dtype=np.float32)
        lines = lines * (1 - 0.45 * pit)
    elif kind == "scratch":
        start = _place(flaw, size, 30)
        heading = math.radians(flaw.uniform(22, 158)) * float(flaw.choice([-1.0, 1.0]))
        length = flaw.uniform(34, 100)
        stroke = _hair(flaw, size, start, angle=heading, length=length, bend=flaw.uniform(-0.6, 0.6))
        groove = _soften(stroke, 0.6) * np.float32(flaw.uniform(0.5, 1.2))
        burr = _shifted(groove, 1.2 * math.cos(heading), -1.2 * math.sin(heading))
    elif kind == "stain":
        blot = _blob(flaw, size, _place(flaw, size, 28), flaw.uniform(15, 30), rough=0.30)
        strength = flaw.uniform(0.35, 1.0)
        dried = _step(blot, 0.0, 0.16) * (0.55 + 0.45 * np.exp(-((blot - 0.12) ** 2) / 0.02))
        stain = dried * np.float32(strength)
        gloss = 1 - 0.35 * stain
    elif kind == "pitting":
        cy, cx = _place(flaw, size, 30)
        spread = flaw.uniform(8, 16)
        canvas = np.zeros(size, np.uint8)
        for _ in range(int(flaw.integers(9, 22))):
            y, x = flaw.normal(cy, spread), flaw.normal(cx, spread)
            spot = (round(float(x) * 16), round(float(y) * 16))
            cv2.circle(canvas, spot, round(float(flaw.uniform(0.7, 1.9)) * 16), 255, cv2.FILLED, cv2.LINE_AA, 4)
        groove = _soften(canvas.astype(np.float32) / np.float32(255), 0.55) * np.float32(-flaw.uniform(0.8, 1.2))
        burr = _shifted(groove, 0.9, 0.9) * np.float32(0.5)

    spec = np.exp(-((away + tilt_x * 1.1) ** 2)) * gloss
    shine = body + gleam * spec - 55 * np.asarray(tilt_x, np.float32)
    shine = shine * (1 + roughness * lines * (0.6 + 0.8 * spec))
    if groove is not None and burr is not None:
        shine = shine + 34 * groove - 26 * burr
    picture = shine * _rgb(1.0, 0.995, 0.975) * light
    if stain is not None:
        picture = picture * (1 - stain * _rgb(0.13, 0.19, 0.28))
    return np.asarray(picture, dtype=np.float32)


# Woven fabric ----------------------------------------------------------------------------------------------------


def _woven_fabric(rng: np.random.Generator, size: Size, kind: str | None, flaw: np.random.Generator) -> F32:
    """A 2/1 twill: each yarn has its own shade and an uneven thickness, and dives under one neighbour in three."""
    ys, xs = _grid(size)
    angle = rng.normal(0, 0.02)
    pitch_u, pitch_v = 9.0 * rng.uniform(0.985, 1.015), 8.4 * rng.uniform(0.985, 1.015)
    y, x = ys - size.height / 2, xs - size.width / 2
    skew = rng.normal(0, 0.012)
    u = math.cos(angle) * x + math.sin(angle) * y + skew * y + 1.6 * _clouds(rng, size, 80)
    v = math.cos(angle) * y - math.sin(angle) * x + 1.6 * _clouds(rng, size, 80) + 0.5 * _clouds(rng, size, 22)
    count = 2 * int(max(size) / 8)
    u = u / np.float32(pitch_u) + np.float32(count / 2 + 3 * rng.uniform())
    v = v / np.float32(pitch_v) + np.float32(count / 2 + 3 * rng.uniform())
    shade_u, shade_v = rng.normal(0, 0.045, size=(2, count)).astype(np.float32)
    width_u, width_v = rng.normal(0.458, 0.018, size=(2, count)).astype(np.float32)
    slubs_u, slubs_v = 0.022 * _clouds(rng, size, 16), 0.022 * _clouds(rng, size, 16)
    fibre_u, fibre_v = _streaks(rng, Size(size.width, size.height), 5).T, _streaks(rng, size, 5)
    fluff = _soften(_white(rng, size), 0.7)
    light = _light(rng, size, exposure=0.08, slope=0.16)
    hue_u = _rgb(96, 116, 128) * np.float32(rng.uniform(0.96, 1.04))
    hue_v = _rgb(176, 172, 158) * np.float32(rng.uniform(0.97, 1.03))
    blotch = 0.03 * _clouds(rng, size, 60)

    torn: F32 | float = 0.0
    stain: F32 | None = None
    loop: F32 | None = None
    if kind == "thread_pull":
        cy, cx = _place(flaw, size, 44)
        row = float(v[int(cy), int(cx)])
        row = math.floor(row) + 0.5
        half = flaw.uniform(26, 60)
        window = np.exp(-(((xs - cx) / half) ** 4))
        off = v - row
        gather = flaw.uniform(0.25, 1.1)
        v = v + gather * off * np.exp(-((off / 1.4) ** 2)) * window
        u = u + 0.5 * float(flaw.choice([-1.0, 1.0])) * np.exp(-((off / 1.2) ** 2)) * window
        slubs_v = slubs_v - 0.11 * np.exp(-((off / 0.6) ** 2)) * window
        heading = flaw.uniform(-0.5, 0.5)
        loop = _hair(flaw, size, (cy, cx - 8), angle=heading, length=flaw.uniform(20, 44), bend=flaw.uniform(-4, 4))
        loop = _soften(loop, 1.0) * np.float32(2.6)
    elif kind == "missing_yarn":
        cy, cx = _place(flaw, size, 30)
        row = math.floor(float(v[int(cy), int(cx)])) + 0.5
        half = flaw.uniform(12, 50)
        gone = _step(1.4 - np.abs(xs - cx) / np.float32(half), 0.3, 0.6) * _step(0.62 - np.abs(v - row), 0.0, 0.2)
        slubs_v = slubs_v - 0.5 * gone
    elif kind == "hole":
        blot = _blob(flaw, size, _place(flaw, size, 24), flaw.uniform(5.5, 11), rough=0.25)
        torn = _step(blot + 0.08 * fluff, 0.05, 0.45)
    elif kind == "stain":
        blot = _blob(flaw, size, _place(flaw, size, 30), flaw.uniform(15, 32), rough=0.32)
        soaked = 0.06 * fluff + blot
        stain = _step(soaked, 0.0, 0.2) * np.float32(flaw.uniform(0.42, 0.95))

    i, j = np.floor(u).astype(np.intp) % count, np.floor(v).astype(np.intp) % count
    across_u, across_v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    thick_u = np.maximum(width_u[i] + slubs_u - 0.5 * torn, 0.02)
    thick_v = np.maximum(width_v[j] + slubs_v - 0.5 * torn, 0.02)
    round_u = np.sqrt(np.maximum(1 - (across_u / thick_u) ** 2, 0))
    round_v = np.sqrt(np.maximum(1 - (across_v / thick_v) ** 2, 0))
    lift_u = _twill_lift(i, v)
    lift_v = -_twill_lift_other(u, j)
    height_u = np.where(round_u > 0, round_u * 0.55 + 0.62 * lift_u, -2.0)
    height_v = np.where(round_v > 0, round_v * 0.55 + 0.62 * lift_v, -2.0)
    top_u = _step((height_u - height_v).astype(np.float32), -0.06, 0.06)
    strand_u = 0.07 * np.sin(2 * math.pi * (2.2 * across_u + 1.3 * v)) + 0.03 * fibre_u
    strand_v = 0.07 * np.sin(2 * math.pi * (2.2 * across_v - 1.3 * u)) + 0.03 * fibre_v
    lit_u = (0.58 + 0.42 * round_u + 0.10 * lift_u - 0.14 * across_u) * (1 + shade_u[i] + strand_u)
    lit_v = (0.58 + 0.42 * round_v + 0.10 * lift_v - 0.14 * across_v) * (1 + shade_v[j] + strand_v)
    cover = _step(np.maximum(height_u, height_v).astype(np.float32), -1.2, -0.5)
    yarn_u, yarn_v = lit_u * hue_u, lit_v * hue_v
    picture = yarn_v + (yarn_u - yarn_v) * top_u
    under = _rgb(34, 36, 40)
    picture = under + (picture - under) * cover
    if loop is not None:
        picture = picture * (1 - 0.45 * np.clip(_shifted(loop, 2, 1.5), 0, 1))
        picture = picture + (hue_v * 1.12 - picture) * np.clip(loop, 0, 1)
    if stain is not None:
        picture = picture * (1 - stain * _rgb(0.30, 0.38, 0.50))
    picture = picture * (1 + blotch + 0.03 * fluff) * light
    return np.asarray(picture, dtype=np.float32)


def _twill_lift(i: NDArray[np.intp], v: F32) -> F32:
    """Height (-1..1) of warp yarn `i` at `v`: over two weft yarns, under the third, shifted by one a yarn."""
    place = v - 0.5
    j = np.floor(place).astype(np.intp)
    t = _step((place - j).astype(np.float32), 0.0, 1.0)
    here, there = _over(i, j), _over(i, j + 1)
    return here + (there - here) * t


def _twill_lift_other(u: F32, j: NDArray[np.intp]) -> F32:
    """The same weave read along weft yarn `j`: the warp's height at `u`."""
    place = u - 0.5
    i = np.floor(place).astype(np.intp)
    t = _step((place - i).astype(np.float32), 0.0, 1.0)
    here, there = _over(i, j), _over(i + 1, j)
    return here + (there - here) * t


def _over(i: NDArray[np.intp], j: NDArray[np.intp]) -> F32:
    return np.where((i + j) % 3 == 0, np.float32(-1), np.float32(1))


# Printed part ----------------------------------------------------------------------------------------------------

_ART = Size(480, 600)
"""The drawing of the printed part, in its own pixels: twice those of the picture."""

_HOLES = ((74, 84), (74, 516), (406, 84), (406, 516))
_BOX = (36, 44, 408, 512)
"""The plate in the drawing: top, left, height, width."""

_GLYPHS = {
    "-": "13 33",
    "0": "10 30 41 45 36 16 05 01 10",
    "1": "11 20 26",
    "2": "01 10 30 41 42 06 46",
    "4": "36 30 04 44",
    "6": "40 20 02 05 16 36 45 44 33 13 04",
    "7": "00 40 16",
    "A": "06 20 46|14 34",
    "B": "00 06 36 45 44 33 03|33 42 41 30 00",
    "C": "41 30 10 01 05 16 36 45",
    "D": "00 06 26 44 42 20 00",
    "E": "40 00 06 46|03 33",
    "I": "20 26",
    "L": "00 06 46",
    "M": "06 00 23 40 46",
    "N": "06 00 46 40",
    "O": "10 30 41 45 36 16 05 01 10",
    "P": "06 00 30 41 42 33 03",
    "T": "00 40|20 26",
    "U": "00 05 16 36 45 40",
    "V": "00 26 40",
    "Y": "00 23 40|23 26",
}
"""Strokes of each sign as column and row on a 4 x 6 grid. OpenCV's own fonts differ between its major versions."""

_MARKS = (
    ("UADCTL", 88, 118, 5.0, 6),
    ("IN 24V DC", 142, 118, 2.7, 3),
    ("OUT 4-20 MA", 172, 118, 2.7, 3),
    ("TYPE B7-410", 352, 118, 3.0, 3),
    ("IP67", 348, 404, 4.0, 5),
)
"""Lines of print: text, top row, left column, pixels of the drawing a grid step, thickness of the strokes."""


@dataclass(frozen=True, slots=True)
class _Artwork:
    """What all printed parts have in common, at the resolution of the drawing; values 0..1.

    plate: 1 on the part, 0 beside it and in its drilled holes. relief: height of ring and ribs. ink: what is printed.
    """

    plate: F32
    relief: F32
    ink: F32


@cache
def _artwork() -> _Artwork:
    import cv2

    plate = np.zeros(_ART, np.uint8)
    top, left, high, wide = _BOX
    radius = 34
    cv2.rectangle(plate, (left + radius, top), (left + wide - radius, top + high), 255, cv2.FILLED)
    cv2.rectangle(plate, (left, top + radius), (left + wide, top + high - radius), 255, cv2.FILLED)
    for y in (top + radius, top + high - radius):
        for x in (left + radius, left + wide - radius):
            cv2.circle(plate, (x, y), radius, 255, cv2.FILLED, cv2.LINE_AA)
    relief = np.zeros(_ART, np.uint8)
    cv2.circle(relief, (450, 246), 74, 255, 12, cv2.LINE_AA)
    for y in (232, 256, 280, 304):
        cv2.line(relief, (124, y), (262, y), 255, 9, cv2.LINE_AA)
    for y, x in _HOLES:
        cv2.circle(relief, (x, y), 24, 190, 6, cv2.LINE_AA)
        cv2.circle(plate, (x, y), 15, 0, cv2.FILLED, cv2.LINE_AA)
    cv2.circle(plate, (450, 246), 26, 0, cv2.FILLED, cv2.LINE_AA)

    ink = np.zeros(_ART, np.uint8)
    for text, row, column, step, thickness in _MARKS:
        for place, sign in enumerate(text):
            for stroke in _GLYPHS[sign].split("|") if sign != " " else ():
                corners = [(column + step * (5.7 * place + int(p[0])), row + step * int(p[1])) for p in stroke.split()]
                points = np.rint(np.array(corners) * 16).astype(np.int32).reshape(-1, 1, 2)
                cv2.polylines(ink, [points], False, 255, thickness, cv2.LINE_AA, 4)
    for tick in range(0, 360, 30):
        c, s = math.cos(math.radians(tick)), math.sin(math.radians(tick))
        ends = [(round(450 + r * c), round(246 + r * s)) for r in (40, 56)]
        cv2.line(ink, ends[0], ends[1], 255, 4 if tick % 90 == 0 else 2, cv2.LINE_AA)
    warning = np.array([[312, 232], [286, 278], [338, 278]], np.int32)
    cv2.polylines(ink, [warning.reshape(-1, 1, 2)], True, 255, 4, cv2.LINE_AA)
    cv2.line(ink, (312, 246), (312, 260), 255, 4, cv2.LINE_AA)
    cv2.circle(ink, (312, 269), 3, 255, cv2.FILLED, cv2.LINE_AA)
    x = 352
    for bar, gap in ((3, 4), (6, 3), (3, 3), (3, 6), (6, 4), (3, 3), (9, 3), (3, 4), (6, 3), (3, 6), (3, 3), (6, 4)):
        cv2.rectangle(ink, (x, 92), (x + bar - 1, 128), 255, cv2.FILLED)
        x += bar + gap
    as_share = [np.asarray(a, np.float32) / np.float32(255) for a in (plate, relief, ink)]
    return _Artwork(*as_share)


def _printed_part(rng: np.random.Generator, size: Size, kind: str | None, flaw: np.random.Generator) -> F32:
    """A moulded cover plate with a ring, ribs, drilled holes and pad-printed marks, lying on a dark mat."""
    import cv2

    art = _artwork()
    ys, xs = _grid(size)
    centre = (_ART.width / 2, _ART.height / 2)
    turn = np.array(cv2.getRotationMatrix2D(centre, rng.normal(0, 1.1), 0.5 * rng.uniform(0.992, 1.008)), np.float64)
    turn[:, 2] += np.array([size.width / 2 - centre[0], size.height / 2 - centre[1]]) + rng.normal(0, 1.8, size=2)
    printed = turn.copy()
    printed[:, 2] += rng.normal(0, 0.5, size=2)

    def laid(a: F32, where: NDArray[np.float64]) -> F32:
        return np.asarray(cv2.warpAffine(_soften(a, 0.8), where, (size.width, size.height)), dtype=np.float32)

    plate_art, ink_art = art.plate, art.ink
    azimuth = math.radians(rng.normal(-125, 9))
    grain = _soften(_white(rng, size), 0.8)
    mat_grain = _soften(_white(rng, size), 1.1)
    pinholes = _soften(_white(rng, size), 0.6)
    density = 0.9 + 0.05 * _clouds(rng, size, 24)
    sink = 3.0 * _clouds(rng, size, 60)
    base = _rgb(52, 84, 92) * np.float32(rng.uniform(0.95, 1.05))
    mat = _rgb(44, 42, 41) * np.float32(rng.uniform(0.85, 1.15))
    paint = _rgb(214, 212, 200) * np.float32(rng.uniform(0.96, 1.03))
    gleam_y, gleam_x = rng.uniform(-0.1, 0.5) * size.height, rng.uniform(-0.1, 0.6) * size.width
    gleam = rng.uniform(14, 34)
    light = _light(rng, size, exposure=0.08, slope=0.16)

    scratch: F32 | None = None
    smear: F32 | None = None
    rim: F32 | None = None
    if kind == "chipped_edge":
        top, left, high, wide = _BOX
        side = int(flaw.integers(4))
        along = flaw.uniform(0.08, 0.92)
        y = (top, top + high, top + along * high, top + along * high)[side]
        x = (left + along * wide, left + along * wide, left, left + wide)[side]
        bite = _blob(flaw, _ART, (float(y), float(x)), flaw.uniform(11, 26), rough=0.22)
        rim = plate_art * _step(bite, -0.35, -0.05)
        plate_art = plate_art * (1 - _step(bite, 0.0, 0.12))
        rim = rim * plate_art
    elif kind == "missing_print":
        blot = _blob(flaw, _ART, _inked_point(flaw), flaw.uniform(18, 46), rough=0.35)
        ink_art = ink_art * (1 - np.float32(flaw.uniform(0.5, 1.0)) * _step(blot, -0.05, 0.25))
    elif kind == "print_smear":
        where = _step(_blob(flaw, _ART, _inked_point(flaw), flaw.uniform(30, 58), rough=0.2), 0.0, 0.3)
        reach = int(flaw.integers(10, 24))
        drawn = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        drag = flaw.uniform(-0.6, 0.6) + float(flaw.choice([0.0, math.pi]))
        tip = (round(reach * (1 + math.cos(drag))), round(reach * (1 + math.sin(drag))))
        cv2.line(drawn, (reach, reach), tip, 1.0, 2, cv2.LINE_AA)
        ghost = np.asarray(cv2.filter2D(ink_art, -1, drawn / drawn.sum()), dtype=np.float32)
        smear = laid(np.clip(ghost * where * np.float32(flaw.uniform(0.9, 1.5)), 0, 0.85), printed)
        ink_art = ink_art * (1 - 0.35 * where)
    elif kind == "scratch":
        start = _place(flaw, size, 52)
        heading = flaw.uniform(0, 2 * math.pi)
        stroke = _hair(flaw, size, start, angle=heading, length=flaw.uniform(28, 80), bend=flaw.uniform(-0.9, 0.9))
        scratch = _soften(stroke, 0.6) * np.float32(flaw.uniform(0.65, 1.6))

    plate = laid(plate_art, turn)
    relief = laid(art.relief, turn) + 1.4 * _soften(plate, 1.6)
    ink = laid(ink_art, printed)
    slope_y = np.asarray(cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3)) / 8
    slope_x = np.asarray(cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3)) / 8
    facing = -(math.cos(azimuth) * slope_x + math.sin(azimuth) * slope_y)
    soft_spot = np.exp(-((ys - gleam_y) ** 2 + (xs - gleam_x) ** 2) / (0.45 * size.width) ** 2)

    shadow = _soften(_shifted(plate, -4 * math.sin(azimuth), -4 * math.cos(azimuth)), 3.0)
    ground = mat * ((1 - 0.55 * shadow) * (1 + 0.11 * mat_grain))
    body = base * (1 + 0.045 * grain) + (sink + gleam * soft_spot + 130 * facing)
    if rim is not None:
        body = body + 46 * laid(rim, turn) * (1 + 0.5 * grain)
    ink_cover = np.clip(ink * density - 0.10 * np.maximum(pinholes - 0.5, 0), 0, 1)
    if smear is not None:
        ink_cover = np.maximum(ink_cover, smear * (0.9 + 0.15 * grain))
    body = body + (paint * (1 + 0.5 * facing) - body) * ink_cover
    if scratch is not None:
        body = body + (_rgb(150, 168, 168) - body) * np.clip(scratch * 0.75, 0, 1)
        body = body * (1 - 0.25 * np.clip(_shifted(scratch, 1, 1), 0, 1))
    picture = (ground + (body - ground) * plate) * light
    return np.asarray(picture, dtype=np.float32)


def _inked_point(flaw: np.random.Generator) -> tuple[float, float]:
    """A point (y, x) of the drawing that carries ink."""
    ys, xs = np.nonzero(_artwork().ink > 0.5)
    pick = int(flaw.integers(len(ys)))
    return float(ys[pick]), float(xs[pick])


SCENES: dict[str, Scene] = {
    "brushed_metal": Scene(Size(256, 256), ("dent", "pitting", "scratch", "stain"), _brushed_metal),
    "printed_part": Scene(Size(256, 320), ("chipped_edge", "missing_print", "print_smear", "scratch"), _printed_part),
    "woven_fabric": Scene(Size(256, 256), ("hole", "missing_yarn", "stain", "thread_pull"), _woven_fabric),
}
