"""A scratch on an image of 500 megapixels, and on one four times as large: found or not, how fast, in what memory."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Contender, Measured, Section, Target, compare, number, table
from uadctl.records import Size

if TYPE_CHECKING:
    from uadctl.imaging.raster import Field
    from uadctl.intake import Intake

CLEAN = Size(2_048, 2_048)  # what is learned from, in tiles
SHOWN = 256  # side at which the network sees a tile

_LIMIT = 1_500_000_000  # bytes above the loaded model
_NEAR = 32  # pixels: a patch of the backbone, at a quarter of the image's resolution
_STORED_TILE = 256  # side of the file's own tiles
_PERIOD = 1024  # of the texture, beside noise that never repeats
_WIDTH = 12  # of the scratch


@dataclass(frozen=True, slots=True)
class Job:
    """An image of this size in tiles of so many pixels, each shown to the network at `SHOWN`."""

    size: Size
    tile: int

    @property
    def stride(self) -> int:
        return self.tile * 15 // 16

    @property
    def title(self) -> str:
        return f"{self.size.height:,} × {self.size.width:,} in tiles of {self.tile}"


# Four times the image takes 10 GB of temporary files, its map included.
FULL = (Job(Size(20_000, 25_000), 1024), Job(Size(40_000, 50_000), 1024), Job(Size(5_800, 5_800), 256))
# The second is of the size that is never whole in memory.
QUICK = (Job(Size(2_900, 2_900), 1024), Job(Size(5_800, 5_800), 1024))


@dataclass(frozen=True, slots=True)
class Scratch:
    """A bright line of `_WIDTH` pixels across and `length` rows from (y0, x0) downwards, a column right every four."""

    y0: int
    x0: int
    length: int

    @classmethod
    def on(cls, size: Size) -> Scratch:
        """The one that an image of this size has."""
        return cls(int(0.61 * size.height), int(0.37 * size.width), 400)

    def pixels(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pixels at these rows, (n, 1), and columns, (1, m), belong to it."""
        left = self.x0 + (rows - self.y0) // 4
        inside = (rows >= self.y0) & (rows < self.y0 + self.length)
        return np.asarray(inside & (columns >= left) & (columns < left + _WIDTH))

    def distance(self, y: int, x: int) -> int:
        """How many pixels a pixel lies beside it, down or across, whichever is more; 0 on it."""
        row = min(max(y, self.y0), self.y0 + self.length - 1)
        left = self.x0 + (row - self.y0) // 4
        return max(abs(y - row), left - x, x - (left + _WIDTH - 1), 0)


def sections(*, quick: bool) -> list[Section]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = [scored(folder, job) for job in (QUICK if quick else FULL)]
        return [_section(measured)]


_TITLE = "Images larger than memory"


def scored(folder: Path, job: Job) -> Measured:
    """Learn from a clean image in tiles, then score one with a scratch, each in a process of its own."""
    write_surface(folder / "clean.tif", CLEAN, seed=0)
    learning = Contender("fit", "benchmarks.large_image:fit", {"folder": str(folder), "tile": job.tile})
    (fitted,) = compare([learning], repeats=1)
    if not fitted.runs:
        return fitted
    file = folder / "image.tif"
    write_surface(file, job.size, seed=1, scratch=Scratch.on(job.size))
    args = {"folder": str(folder), "file": str(file), "tile": job.tile}
    (measured,) = compare([Contender(job.title, "benchmarks.large_image:score", args)], repeats=1)
    file.unlink()
    return measured


def _section(measured: list[Measured]) -> Section:
    return Section(
        title=_TITLE,
        text=(
            f"A grey surface in a tiled BigTIFF file, textured, with a scratch {_WIDTH} pixels wide, in tiles that "
            f"overlap by a sixteenth, each shown at {SHOWN}×{SHOWN} to PatchCore on efficientnet_lite0, learned from "
            f"the tiles of a clean image of {CLEAN.height:,}×{CLEAN.width:,}. The map is written to a file as it "
            "grows. Memory is the most that is held above the loaded model."
        ),
        tables=(
            table(
                measured,
                ours=measured[0],
                times="CPU, times that of the first row",
                columns={
                    "megapixels a second": lambda m: number(m.value["megapixels"] / m.wall.median),
                    "growth of ru_maxrss, MB": lambda m: number(m.value["maxrss_growth"] / 1e6),
                    "highest score, pixels beside the scratch": lambda m: str(m.value["beside"]),
                },
            ),
        ),
        targets=tuple(target for m in measured for target in (memory(m), place(m))),
        measured=tuple(measured),
    )


def memory(measured: Measured) -> Target:
    what, wanted = f"memory above the loaded model, {measured.title}", f"≤ {number(_LIMIT / 1e6)} MB"
    if not measured.runs:
        return Target(what, wanted, measured.reason, None)
    held = max(measured.extra.high, measured.value["maxrss_growth"])
    return Target(what, wanted, f"{number(held / 1e6)} MB", held <= _LIMIT)


def place(measured: Measured) -> Target:
    what, wanted = f"the scratch is found, {measured.title}", f"within {_NEAR} pixels"
    if not measured.runs:
        return Target(what, wanted, measured.reason, None)
    beside = measured.value["beside"]
    return Target(what, wanted, f"{beside} pixels", beside <= _NEAR)


# -- the data


def write_surface(file: Path, size: Size, *, seed: int, scratch: Scratch | None = None) -> None:
    """A grey 8-bit surface in a tiled, uncompressed BigTIFF, made and written tile by tile; the same for a seed."""
    import tifffile

    with tifffile.TiffWriter(file, bigtiff=True) as writer:
        writer.write(
            _tiles(size, seed, scratch),
            shape=tuple(size),
            dtype=np.uint8,
            tile=(_STORED_TILE, _STORED_TILE),
            photometric="minisblack",
        )


def _tiles(size: Size, seed: int, scratch: Scratch | None) -> Iterator[NDArray[np.uint8]]:
    """Row by row; those at the right and at the bottom reach beyond the image, and the file leaves that out."""
    texture = _texture()
    side = _STORED_TILE
    for top in range(0, size.height, side):
        for left in range(0, size.width, side):
            y, x = top % _PERIOD, left % _PERIOD
            noise = np.random.default_rng((seed, top, left)).integers(-6, 7, (side, side), dtype=np.int16)
            tile = texture[y : y + side, x : x + side] + noise
            if scratch is not None:
                on_it = scratch.pixels(np.arange(top, top + side)[:, None], np.arange(left, left + side)[None])
                tile[on_it] += 70
            yield np.clip(tile, 0, 255).astype(np.uint8)


def _texture() -> NDArray[np.int16]:
    """(_PERIOD, _PERIOD) brushed metal that goes on without a seam where it is repeated."""
    import cv2

    noise = np.random.default_rng(0).normal(size=(_PERIOD, _PERIOD))
    blurred = cv2.GaussianBlur(np.pad(noise, 64, mode="wrap"), (0, 0), sigmaX=9, sigmaY=1.5)[64:-64, 64:-64]
    return np.asarray(np.rint(110 + 12 * blurred / blurred.std()), dtype=np.int16)


# -- the contenders


def intake(tile: int) -> Intake:
    """How the images reach the network, to be learned and to be scored."""
    from uadctl.imaging.geometry import Geometry
    from uadctl.intake import Intake
    from uadctl.records import Tiling

    return Intake(geometry=Geometry(size=SHOWN), tiling=Tiling(tile, Job(Size(0, 0), tile).stride))


def fit(*, folder: str, tile: int) -> Callable[[], list[int]]:
    """Learns the tiles of the clean image and writes the model; the shape of its memory bank."""
    from safetensors.torch import save_file

    from uadctl.intake import training_images
    from uadctl.models.patchcore import PatchCore

    def work() -> list[int]:
        images = training_images([str(Path(folder) / "clean.tif")], intake=intake(tile))
        model = PatchCore(coreset_ratio=0.1, device="cpu").fit(images, threshold=False)
        tensors, facts = model.state()
        save_file(tensors, Path(folder) / "model.safetensors")
        (Path(folder) / "model.json").write_text(json.dumps(facts), encoding="utf-8")
        return list(tensors["memory_bank"].shape)

    return work


def score(*, folder: str, file: str, tile: int) -> Callable[[], dict[str, Any]]:
    """Scores one image in tiles: its score, and how far beside the scratch its highest pixel lies."""
    from safetensors.torch import load_file

    from uadctl.inference import stream
    from uadctl.models.patchcore import PatchCore

    facts = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
    model = PatchCore(device="cpu").restore(load_file(Path(folder) / "model.safetensors"), facts)
    model.predict_batch([np.zeros((SHOWN, SHOWN, 3), dtype=np.uint8)])
    before = _maxrss()

    def work() -> dict[str, Any]:
        said = {}
        for found in stream(model, [file], intake=intake(tile), threads=2):
            if found.prediction is None or found.prediction.map is None or found.size is None:
                raise found.error or ValueError(f"{file} has no map")
            said = {
                "megapixels": found.size.height * found.size.width / 1e6,
                "score": found.prediction.score,
                "beside": Scratch.on(found.size).distance(*peak(found.prediction.map)),
                "in_a_file": not isinstance(found.prediction.map, np.ndarray),
                "maxrss_growth": _maxrss() - before,
            }
        return said

    return work


def peak(field: Field) -> tuple[int, int]:
    """Row and column of the highest score, the first of several, read band by band."""
    from uadctl.imaging.raster import bands

    best, found = -np.inf, (0, 0)
    for top, band in bands(field):
        row, column = np.unravel_index(int(np.nanargmax(band)), band.shape)
        if band[row, column] > best:
            best, found = float(band[row, column]), (top + int(row), int(column))
    return found


def _maxrss() -> int:
    """The most bytes that this process has held so far."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
