"""One image of a run in layers that a page lays over each other: the image, its heat map, contours.

The image and the ground truth come from the data set, where it still is where the spec says; the map from the run
folder. Where either is gone, the picture that the run drew is all there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from uadctl.errors import DataError, RunError, SpecError
from uadctl.imaging.raster import LARGE, Raster, StoredMap, Window, open_image, open_mask
from uadctl.imaging.rows import RawLayout
from uadctl.records import Box, Sample, Size
from uadctl.report import wording
from uadctl.report.thumbnails import bytes_of, jpeg, thumbnail, webp
from uadctl.runs.fitted import COLOUR_SIGMAS
from uadctl.runs.folder import read_document
from uadctl.runs.sealed import MODEL_KEYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from uadctl.report.reading import Row, Scale, Unit
    from uadctl.spec import RunSpec

_MOST_SIDE = 1024  # of the grid that contours are drawn on, and of the image before it is encoded, times two
_LEAST_SIDE = 256  # smaller images get a finer grid, so that a contour runs around pixels, not through them
_HEAT_SIDE = 320  # maps are smooth: a browser enlarges them as well as we do
_MOST_POINTS = 400  # of all contours of a kind in an image
_FADED = 0.45  # share of the colours below which they fade into the image
_UNSEEN = (128, 128, 128, 150)  # where the model did not look


@dataclass(frozen=True, slots=True)
class Layers:
    """What a page shows of one image.

    image: `data:` address of the image; of the picture that the run drew, with everything in it, where `whole` is
        false; "" where there is neither, and `absent` says why.
    heat:  of its map in colours, transparent where nothing is odd, of the same extent; "" where there is none.
    width, height: of the grid that the paths are on; any extent has their ratio.
    truth: SVG path data around the ground truth. found: around what reaches the pixel threshold. "" where nothing is.
    href:  link to the picture that the run drew, in full size. original: link to the image's own file. "" if not there.
    """

    image: str = ""
    heat: str = ""
    width: int = 1
    height: int = 1
    truth: str = ""
    found: str = ""
    href: str = ""
    original: str = ""
    whole: bool = True
    absent: str = ""


def originals(spec: RunSpec, category: str) -> dict[str, Sample]:
    """The test images of a category by the path that results name them by; empty where the data set is not there.

    A data set that uadctl makes itself is not made again for a report.
    """
    from uadctl.datasets import load_dataset
    from uadctl.datasets.demo import demo_root

    table = spec.dataset
    if table.root is None and not demo_root().is_dir():
        return {}
    try:
        found = load_dataset(
            table.name, table.root, category=category, split=table.split, layout=table.layout, files=table.files
        )
    except (DataError, SpecError):  # moved, renamed, or of a plug-in that is not installed
        return {}
    return {sample.relative: sample for sample in found.test}


def layers(unit: Unit, row: Row, sample: Sample | None, *, base: Path, most_bytes: int) -> Layers:
    """The picture of a row of a unit.

    sample: the image in its data set (`originals`), None where it is not there. base: the folder of the page, for
    links. most_bytes: what the image and its heat map may take before base64.

    An image whose file cannot be read any more, or has another size than its map, is not shown: it is another one.
    """
    href = "" if row.overlay is None else wording.href(row.overlay, base)
    scale = scale_of(unit)
    if sample is not None and Path(sample.path).is_file():
        original = Path(sample.path).resolve().as_uri()
        try:
            with closing(open_image(sample.path, **_as_stored(unit))) as image:
                return _of_files(row, sample, image, scale, href, original, most_bytes)
        except DataError:
            pass
    if row.overlay is None:
        return Layers(absent="no overlay was drawn")
    try:
        picture = thumbnail(row.overlay, most_bytes=most_bytes)
    except DataError as error:
        why = str(error).removeprefix(f"{row.overlay}: ")
        return Layers(href=href, absent=f"the overlay is damaged: {why}")
    return Layers(image=picture, href=href, whole=False)


def scale_of(unit: Unit) -> Scale | None:
    """What a unit's maps were measured against, which their colours mean; None where it is not known.

    Where the thresholds that it was measured with were not kept: the spread of normal pixels now, and the threshold of
    then.
    """
    made_with = unit.measured_with or unit.calibrated
    scale = None if made_with is None else made_with.pixel
    then = None if unit.measured is None else unit.measured.pixel_threshold
    if scale is None or then is None or then == scale.threshold:
        return scale
    return replace(scale, threshold=then, sigmas=None, chosen=None, review=None)


def colour_range(scale: Scale) -> tuple[float, float]:
    """The scores of the first and the last colour: the same for every image of a unit."""
    return scale.mean, scale.mean + COLOUR_SIGMAS * scale.std


def palette() -> list[str]:
    """Colours from the lowest to the highest score, as CSS has them: Inferno (Smith and van der Walt, 2015), which is
    perceptually uniform: its lightness rises evenly, also for those who do not see colours."""
    steps = _inferno()[np.linspace(0, 255, 9).round().astype(int)]
    return [f"rgb({r} {g} {b})" for r, g, b in steps.tolist()]


def _of_files(
    row: Row, sample: Sample, image: Raster, scale: Scale | None, href: str, original: str, most_bytes: int
) -> Layers:
    """All layers; DataError where the image, its map or its mask are not what they were."""
    size = image.size
    grid = _grid(size)
    heat = found = ""
    if row.map is not None and scale is not None:
        with StoredMap(row.map) as stored:
            if stored.size != size:
                raise DataError(f"{sample.path} is {size}, its map is {stored.size} (height x width)")
            small = size if max(size) <= _MOST_SIDE else grid
            values = _highest(stored, small)
        heat = _heat(values, scale, most_bytes // 5)
        found = _path(values >= scale.threshold, grid)
    truth = ""
    if sample.masks:
        with closing(open_mask(sample.masks, size=size)) as mask:
            small = size if max(size) <= _MOST_SIDE else grid
            truth = _path(_highest(mask, small) > 0, grid)
    if row.map is None and row.overlay is not None and not truth:
        raise DataError(f"{row.path}: its map was not kept, its overlay was")  # which shows more
    picture = jpeg(_averaged(image), most_bytes=max(most_bytes - bytes_of(heat), most_bytes // 2))
    return Layers(picture, heat, grid.width, grid.height, truth, found, href, original)


def _as_stored(unit: Unit) -> dict[str, Any]:
    """How the unit's files become pixels of 8 bits: the window and the raw layout that its model was fitted with."""
    file = unit.folder.model / "model.json"
    if not file.is_file():
        return {}
    try:
        facts = (read_document(file, keys=MODEL_KEYS).get("camera") or {}).get("facts") or {}
        window, raw = facts.get("window"), facts.get("raw")
        return {"window": window and Window(*window), "raw": raw and RawLayout(**raw)}
    except (RunError, TypeError, ValueError, AttributeError):  # the page is not about the model: it shows what it can
        return {}


def _grid(size: Size) -> Size:
    """The grid that contours are drawn on: whole multiples of a small image, a large one reduced."""
    longer = max(size)
    if longer > _MOST_SIDE:
        return Size(*(max(1, round(side * _MOST_SIDE / longer)) for side in size))
    times = max(1, _LEAST_SIDE // longer)
    return Size(size.height * times, size.width * times)


def _rows_of(plane: Raster | StoredMap, wanted: Size) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Rows of the reduced plane, a few at a time: from, to, and the rows of the plane that they cover."""
    size = plane.size
    edges = np.linspace(0, size.height, wanted.height + 1)
    at_once = max(1, int((1 << 22) / size.width / (size.height / wanted.height)))
    for first in range(0, wanted.height, at_once):
        last = min(wanted.height, first + at_once)
        top, bottom = int(np.floor(edges[first])), int(np.ceil(edges[last]))
        yield first, last, plane.read(Box(top, 0, bottom - top, size.width))


def _highest(plane: Raster | StoredMap, wanted: Size) -> NDArray[np.float32]:
    """(h, w) the highest value of the block that each pixel stands for, so that no small defect is lost; NaN where all
    of it is."""
    size = plane.size
    if size == wanted and size.height * size.width <= LARGE:
        return np.asarray(plane.read(Box.whole(size)), dtype=np.float32)
    columns = np.floor(np.linspace(0, size.width, wanted.width + 1)).astype(int)[:-1]
    out = np.empty(wanted, dtype=np.float32)
    for first, last, band in _rows_of(plane, wanted):
        starts = np.floor(np.linspace(0, band.shape[0], last - first + 1)).astype(int)[:-1]
        # fmax leaves NaN out, where there is anything else.
        out[first:last] = np.fmax.reduceat(np.fmax.reduceat(band, columns, axis=1), starts, axis=0)
    return out


def _averaged(image: Raster) -> NDArray[np.uint8]:
    """The image; reduced, in bands, where it is much larger than it is ever shown."""
    import cv2

    size = image.size
    longer = max(size)
    if longer <= 2 * _MOST_SIDE:
        return np.asarray(image.read(Box.whole(size)), dtype=np.uint8)
    wanted = Size(*(max(1, round(side * 2 * _MOST_SIDE / longer)) for side in size))
    out = np.empty((*wanted, 3), dtype=np.uint8)
    for first, last, band in _rows_of(image, wanted):
        # OpenCV takes (width, height).
        some = cv2.resize(band, (wanted.width, last - first), interpolation=cv2.INTER_AREA)
        out[first:last] = np.asarray(some).reshape(last - first, wanted.width, 3)
    return out


def _heat(values: NDArray[np.float32], scale: Scale, most_bytes: int) -> str:
    """The map in colours, the lower half fading out, grey where nothing was looked at."""
    import cv2

    unseen = np.isnan(values)
    low, high = colour_range(scale)
    with np.errstate(invalid="ignore"):
        at = np.clip((values - low) / (high - low), 0, 1) if high > low else (values > high).astype(np.float32)
    at = np.where(unseen, 0, at).astype(np.float32)
    longer = max(values.shape)
    if longer > _HEAT_SIDE:
        wanted = Size(*(max(1, round(side * _HEAT_SIDE / longer)) for side in values.shape))
        # The highest of each block: one odd pixel shows, however much the picture is reduced.
        at = _block_max(at, wanted)
        # OpenCV takes (width, height).
        unseen = cv2.resize(
            unseen.astype(np.uint8), (wanted.width, wanted.height), interpolation=cv2.INTER_NEAREST_EXACT
        ).astype(bool)
    colours = _inferno()[np.rint(at * 255).astype(np.uint8)]
    alpha = np.rint(np.minimum(at / _FADED, 1) ** 1.5 * 255).astype(np.uint8)
    pixels = np.dstack([colours, alpha])
    pixels[unseen] = _UNSEEN
    return webp(np.ascontiguousarray(pixels), most_bytes=most_bytes)


def _block_max(values: NDArray[np.float32], wanted: Size) -> NDArray[np.float32]:
    rows, columns = (
        np.floor(np.linspace(0, side, n + 1)).astype(int)[:-1] for side, n in zip(values.shape, wanted, strict=True)
    )
    return np.asarray(np.maximum.reduceat(np.maximum.reduceat(values, columns, axis=1), rows, axis=0))


def _inferno() -> NDArray[np.uint8]:
    """(256, 3) RGB."""
    import cv2

    ramp = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    return np.asarray(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1], dtype=np.uint8)


def _path(region: NDArray[np.bool_], grid: Size) -> str:
    """SVG path data around a region, holes too: simplified until all of it has at most _MOST_POINTS points."""
    import cv2

    if not region.any():
        return ""
    plane = region.astype(np.uint8)
    times = grid.height // plane.shape[0]
    if times > 1:
        plane = plane.repeat(times, axis=0).repeat(times, axis=1)
    contours = list(cv2.findContours(plane, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0])
    contours.sort(key=lambda c: -len(c))  # where there are too many, the longest stay; sort() keeps ties in order
    contours = contours[:_MOST_POINTS]
    tolerance = 0.7
    lines = [cv2.approxPolyDP(c, tolerance, closed=True) for c in contours]
    while sum(map(len, lines)) > _MOST_POINTS and tolerance < 100:
        tolerance *= 1.6
        lines = [cv2.approxPolyDP(c, tolerance, closed=True) for c in contours]
    if sum(map(len, lines)) > _MOST_POINTS:
        lines = [line[:1] for line in lines]
    return "".join(_line(np.asarray(line).reshape(-1, 2)) for line in lines)


def _line(points: NDArray[Any]) -> str:
    """One closed line: the first point absolute, the others as steps, which are shorter."""
    first, *_ = points.tolist()
    steps = np.diff(points, axis=0).tolist()
    return f"M{first[0]} {first[1]}" + "".join(f"l{x} {y}" for x, y in steps) + "z"
