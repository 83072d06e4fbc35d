"""The verb `score`: say of images never seen before whether they are good."""

from __future__ import annotations

import base64
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import msgspec
import numpy as np

from uadctl.abrupt import at_abrupt_end
from uadctl.atomic import PART, of_disk
from uadctl.engines import Here, Outcome, Unit, UnitLost, Work
from uadctl.errors import DataError, RunError, SpecError
from uadctl.imaging.files import write_png, write_png_rows
from uadctl.imaging.listing import is_folder, list_images
from uadctl.imaging.maps import regions
from uadctl.imaging.raster import StoredMap, bands
from uadctl.inference import stream, use_threads
from uadctl.progress import Progress, Relayed, Silent
from uadctl.records import Region, Size, Tiling
from uadctl.runs.fitted import Carried
from uadctl.runs.folder import output_stems
from uadctl.runs.sharing import DATA, OUTPUTS, Needed, Place
from uadctl.thresholds import Source, Verdict, p_value, verdict

if TYPE_CHECKING:
    from uadctl.engines import Engine
    from uadctl.imaging.raster import Field
    from uadctl.report.coco import CocoFile
    from uadctl.runs.fitted import Calibration, Fitted, PixelScale

_SOURCES: dict[Source, str] = {
    "validation": "validation images",
    "leave-one-out": "training images, each scored without itself",
    "holdout": "training images that were held out",
    "training": "training images",
    "given": "images given",
}


# So many images make a block at least, see `block_of`, and of those cut into tiles exactly so many.
_BLOCK = 64
_TILED_BLOCK = 8
# The last lines of what a lost worker has printed: enough to hold the traceback of a crash.
_LOG_LINES = 20


class ScoreLine(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one file: a line of JSON.

    path:      the file as it was named; bytes that are not UTF-8 stand as \\xNN, and path_b64 then has the exact bytes.
    status:    "ok", or "error": then there is no score, and reason says why.
    score:     higher is more anomalous. threshold: what it is compared with, None if the run has none.
    review_threshold: a lower one, None if the run has none.
    verdict:   "anomaly" iff score >= threshold, else "review" iff score >= review_threshold, else "good"; None
               without a score or a threshold.
    p_value:   the rank of the score among those of the n normal images that the run was calibrated on: the share
               (1 + those at or above it) / (n + 1). Of new images that are like them at most a share p has a p_value
               of p or below. None without such scores.
    map:       the float map written, if maps were asked for. regions: all parts of it at or above the run's pixel
               threshold, the highest score first, then those that reach only its review threshold; None where the
               run has none or the model makes no maps.
    """

    path: str
    status: Literal["ok", "error"]
    score: float | None = None
    threshold: float | None = None
    review_threshold: float | None = None
    verdict: Verdict | None = None
    p_value: float | None = None
    map: str | None = None
    regions: list[Region] | None = None
    reason: str | None = None
    path_b64: str | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A file to score. stem: where its map goes below the maps folder, without suffix."""

    path: str
    stem: str


Said: TypeAlias = tuple[ScoreLine, Size | None]
"""Of one image: its line, and the size of its map; None where it has none."""


def describe(calibration: Calibration) -> list[str]:
    """Which thresholds a run has, how they were chosen and what they promise: a line each."""
    found = []
    for name, chosen in (("threshold", calibration.image), ("review threshold", calibration.review)):
        if chosen is None or chosen.value is None:
            continue
        facts: list[str] = [chosen.method]
        facts += [f"{key} {value:g}" for key, value in (("alpha", chosen.alpha), ("delta", chosen.delta)) if value]
        images = f"{chosen.n} {_SOURCES[chosen.source]}" if chosen.source is not None else f"{chosen.n} images"
        if chosen.labelled is not None:
            images += f" and {chosen.labelled.defects} labelled defects"
        promise = f": {chosen.guarantee}" if chosen.guarantee is not None else ""
        found.append(f"{name} {chosen.value:.9g} ({', '.join(facts)}; from {images}){promise}")
    return found


def find_sources(images: Sequence[str]) -> list[ImageSource]:
    """Files as named, folders as all the images in them: recursive, sorted, known suffixes only.

    A path that does not exist stays in the list and becomes an error line. Raises DataError for a folder without
    images.
    """
    paths: list[str] = []
    names: list[str] = []
    for image in images:
        if is_folder(image):
            inside = list_images(image)
            if not inside:
                raise DataError(
                    f"{image}: no images in this folder", help="Known suffixes are listed in docs/quickstart.md."
                )
            paths += inside
            names += [os.path.relpath(path, image) for path in inside]
        else:
            paths.append(image)
            names.append(Path(image).name)
    # Files of the same name from several folders are told apart by their paths.
    times = Counter(names)
    unique = [
        name if times[name] == 1 else "/".join(p for p in Path(path).parts if p not in ("/", "\\", "..", "."))
        for path, name in zip(paths, names, strict=True)
    ]
    return [ImageSource(path, stem) for path, stem in zip(paths, output_stems(unique), strict=True)]


def score(
    fitted: Fitted,
    images: Sequence[str],
    *,
    threshold: float | None = None,
    maps: str | None = None,
    masks: str | None = None,
    tiling: Tiling | None = None,
    coco: str | None = None,
    threads: int = 2,
    progress: Progress | None = None,
    engine: Engine | None = None,
    device: str = "auto",
) -> Iterator[ScoreLine]:
    """One line for each image, in order, as soon as it is known; through an engine, as soon as its block is.

    fitted: from `uadctl.load_run(RUN)`.
    images: files and folders, see `find_sources`.
    threshold: in place of the run's own; then no image is to be reviewed.
    maps: folder for float32 TIFF maps of each file's size. masks: folder for PNG masks, 255 where the map reaches the
        run's pixel threshold. coco: file for the regions of all images in COCO's format, see `uadctl.report.coco`;
        it appears once the last image is scored. Files that could not be scored stand in its info, as errors.
    tiling: how images are cut, if that is to be made sure of: it must be the one that the run was calibrated with.
    engine: where images are judged; None: in this process. The lines, maps and masks are the same, bit by bit, wherever
        processors compute alike. Its workers find images, maps and masks by the same paths as this process does. Those
        of a block whose worker was lost, again and again, are errors.
    device: of an engine's workers; "auto" is what each of them has.
    Raises what the engine raises; DataError for a folder without images, RunError if masks or coco are asked of a run
    without a pixel threshold, and if an engine's workers do not find these paths; SpecError for another tiling, whose
    scores the threshold says nothing of, and if maps or masks would be written over the images, or into a folder that
    is scored.
    """
    progress = progress or Silent()
    sources = find_sources(images)
    pixel = fitted.calibration.pixel
    check_options(fitted, masks=masks, coco=coco, tiling=tiling)
    _keep_inputs(images, sources, {"maps": (maps, ".tiff"), "masks": (masks, ".png")})
    with progress.task("score", len(sources)) as task, _annotating(coco, pixel) as annotations:
        found: Iterator[Said]
        if engine is None or isinstance(engine, Here):
            found = judged(
                fitted, sources, threshold=threshold, maps=maps, masks=masks, threads=threads, progress=progress
            )
        else:
            job = _Judging(Carried.of(fitted), device, threads, threshold, maps, masks, Place.of(()))
            found = _through(engine, fitted, job, sources, images, progress)
        for line, size in found:
            if annotations is not None:
                _annotate(annotations, line, size)
            yield line
            task.advance()


def check_options(
    fitted: Fitted, *, masks: str | None = None, coco: str | None = None, tiling: Tiling | None = None
) -> None:
    """What `score` makes sure of before the first image: RunError or SpecError for what it says of these arguments."""
    if tiling is not None and tiling != fitted.calibration.tiling:
        raise SpecError(_calibrated_otherwise(tiling, fitted.calibration.tiling), help=_how_to_calibrate(tiling))
    if fitted.calibration.pixel is None and (masks is not None or coco is not None):
        option = "--masks" if masks is not None else "--coco"
        raise RunError(f"{option} needs a pixel threshold, and this run has none", help="Its thresholds.json says why.")


def block_of(fitted: Fitted) -> int:
    """So many images are judged by themselves: no batch goes across a multiple of them, whatever judges them.

    The last bits of a score depend on what else is in its batch, and with blocks that does not depend on which worker
    judges what. Of whole batches, so that blocks cost no half-filled ones. 64 images are a second's work of a
    processor, beside which the milliseconds of handing out a block are nothing; larger blocks would gain no more, make
    lines wait longer, leave workers idle at the end, and lose more with a worker. An image in tiles has batches of its
    own, and is as much work as many.
    """
    if fitted.calibration.tiling is not None:
        return _TILED_BLOCK
    batch = max(1, fitted.detector.images_per_batch)
    return batch * math.ceil(_BLOCK / batch)


def judged(
    fitted: Fitted,
    sources: Sequence[ImageSource],
    *,
    threshold: float | None = None,
    maps: str | None = None,
    masks: str | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> Iterator[Said]:
    """The line of each source, in order, and the size of its map; None where it has none.

    The arguments are those of `score`, which says what they mean and checks them. An image whose map or mask cannot be
    written is an error, but for an OSError of the disk, which is raised: it would be that of the next image as well.
    """
    use_threads(threads)
    calibration = fitted.calibration
    pixel = calibration.pixel
    limit, review = _limits(calibration, threshold)
    normal = np.asarray(calibration.scores, dtype=np.float64)
    postprocess = fitted.intake.postprocess
    min_area = 0 if postprocess is None else postprocess.min_area
    found = stream(
        fitted.detector,
        [s.path for s in sources],
        intake=fitted.intake,
        threads=threads,
        progress=progress,
        block=block_of(fitted),
    )
    for source, item in zip(sources, found, strict=True):
        if item.prediction is None:
            yield error_line(fitted, source.path, str(item.error), threshold=threshold), None
            continue
        path, exact = _printable(source.path)
        field = item.prediction.map
        map_file = None if maps is None or field is None else Path(maps) / f"{source.stem}.tiff"
        mask_file = None if masks is None or field is None else Path(masks) / f"{source.stem}.png"
        file = map_file
        try:
            if map_file is not None and field is not None:
                fitted.intake.keep_map(map_file, field)
            file = mask_file
            if mask_file is not None and field is not None and pixel is not None:
                _write_mask(mask_file, field, pixel.threshold)
        except OSError as error:
            if of_disk(error):
                raise
            if file is mask_file and map_file is not None:
                _remove_outputs(source, maps=maps)
            reason = f"{file}: cannot be written: {error.strerror or error}"
            yield error_line(fitted, source.path, reason, threshold=threshold), None
            continue
        yield (
            ScoreLine(
                status="ok",
                score=item.prediction.score,
                threshold=limit,
                review_threshold=review,
                verdict=verdict(item.prediction.score, limit, review),
                p_value=p_value(item.prediction.score, normal) if normal.size else None,
                map=None if map_file is None else _printable(str(map_file))[0],
                regions=None if pixel is None or field is None else _regions(field, pixel, min_area=min_area),
                path=path,
                path_b64=exact,
            ),
            None if field is None else Size(*field.shape),
        )


@dataclass(frozen=True, slots=True)
class _Judging:
    """What workers do with blocks of images: `judged`."""

    model: Carried
    device: str
    threads: int
    threshold: float | None
    maps: str | None
    masks: str | None
    place: Place

    def open(self) -> Work[tuple[ImageSource, ...], list[Said]]:
        self.place.enter()
        fitted = self.model.rebuild(device=self.device)
        threads, threshold, maps, masks = self.threads, self.threshold, self.maps, self.masks

        # It must not hold on to `self`, whose copy of the model is needed no more.
        def judge(block: tuple[ImageSource, ...], progress: Progress) -> list[Said]:
            return list(
                judged(fitted, block, threshold=threshold, maps=maps, masks=masks, threads=threads, progress=progress)
            )

        return judge


def _through(
    engine: Engine,
    fitted: Fitted,
    job: _Judging,
    sources: Sequence[ImageSource],
    images: Sequence[str],
    progress: Progress,
) -> Iterator[Said]:
    """What `judged` says, by an engine's workers, a block at a time."""
    size = block_of(fitted)
    blocks = [tuple(sources[start : start + size]) for start in range(0, len(sources), size)]
    places = dict.fromkeys(image if is_folder(image) else os.path.dirname(image) or "." for image in images)  # noqa: PTH120 - as typed
    outputs = [folder for folder in (job.maps, job.masks) if folder is not None]
    said: set[str] = set()

    def once(message: str) -> None:
        """Each worker finds out for itself what concerns them all."""
        if message not in said:
            said.add(message)
            progress.warn(message)

    with ExitStack() as stack:
        logs = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="uadctl-score-", ignore_cleanup_errors=True))
        )
        stack.enter_context(at_abrupt_end(lambda: shutil.rmtree(logs, ignore_errors=True)))
        needed = [Needed(place, DATA) for place in places if is_folder(place)]
        needed += [
            Needed(folder, OUTPUTS, sign=mark)
            for folder in outputs
            if (mark := stack.enter_context(_marked(folder))) is not None
        ]
        job = replace(job, place=Place.of(needed))
        units = [
            Unit(block, f"images {i * size + 1} to {i * size + len(block)}", logs / f"{i}.log")
            for i, block in enumerate(blocks)
        ]
        found = engine.map(job, units, progress=Relayed(progress, warn=once), ordered=True)
        # Engines give generators, and an end of theirs is that of the workers.
        stack.enter_context(closing(cast("Generator[Outcome[list[Said]], None, None]", found)))
        for block, unit, outcome in zip(blocks, units, found, strict=True):
            if isinstance(outcome.error, UnitLost):
                lost = outcome.error
                printed = "\n".join(["", *lost.log.splitlines()[-_LOG_LINES:]]) if lost.log else ""
                progress.warn(f"{unit.title}: {lost}{printed}")
                for source in block:
                    _remove_outputs(source, maps=job.maps, masks=job.masks)
                    yield error_line(fitted, source.path, f"was not judged: {lost}", threshold=job.threshold), None
            elif outcome.error is not None:
                raise outcome.error
            else:
                yield from outcome.result or ()


def _remove_outputs(source: ImageSource, *, maps: str | None = None, masks: str | None = None) -> None:
    """An image with an error has no map, and no mask: not even one that was written before the error came."""
    for folder, suffix in ((maps, ".tiff"), (masks, ".png")):
        if folder is not None:
            with suppress(OSError):
                Path(folder, f"{source.stem}{suffix}").unlink(missing_ok=True)


@contextmanager
def _marked(folder: str) -> Iterator[str | None]:
    """A hidden file in a folder of outputs, which is made; None where that cannot be: each image will say so."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".score.", suffix=PART, dir=folder)
    except OSError:
        yield None
        return
    os.close(handle)

    def remove() -> None:
        with suppress(OSError):
            Path(name).unlink()

    try:
        with at_abrupt_end(remove):
            yield name
    finally:
        remove()


def error_line(fitted: Fitted, path: str, reason: str, *, threshold: float | None = None) -> ScoreLine:
    """The line of a file without a score. reason: may begin with the path, which the line says already."""
    limit, review = _limits(fitted.calibration, threshold)
    shown, exact = _printable(path)
    reason = reason.removeprefix(f"{path}: ").encode("utf-8", "backslashreplace").decode()
    return ScoreLine(
        status="error", threshold=limit, review_threshold=review, reason=reason, path=shown, path_b64=exact
    )


def _limits(calibration: Calibration, threshold: float | None) -> tuple[float | None, float | None]:
    """What scores are compared with: the threshold, and the lower one of a review. threshold: see `score`."""
    if threshold is not None:
        return threshold, None
    return calibration.image.value, None if calibration.review is None else calibration.review.value


def _regions(field: Field, pixel: PixelScale, *, min_area: int) -> list[Region]:
    """What reaches the threshold of maps, and then what reaches only that of a review.

    min_area: of [postprocess]: regions to be reviewed that are smaller are left out, as the map leaves out the others.
    """
    found = regions(field, threshold=pixel.threshold)
    if pixel.review is None or pixel.review.value is None:
        return found
    wider = regions(field, threshold=pixel.review.value)
    return found + [replace(r, verdict="review") for r in wider if r.score < pixel.threshold and r.area >= min_area]


def _write_mask(path: Path, field: Field, threshold: float) -> None:
    """255 where the map reaches the threshold."""
    if isinstance(field, StoredMap):
        rows = ((band >= threshold).astype("uint8") * 255 for _, band in bands(field))
        write_png_rows(path, Size(*field.shape), rows)
    else:
        write_png(path, (field >= threshold).astype("uint8") * 255)


def _calibrated_otherwise(wanted: Tiling, calibrated: Tiling | None) -> str:
    found = "whole images" if calibrated is None else str(calibrated)
    return f"{wanted}: the run was calibrated on {found}, and its threshold says nothing of other scores"


def _how_to_calibrate(wanted: Tiling) -> str:
    options = f"--tile-size {wanted.size} --tile-stride {wanted.stride} --tile-reduce {wanted.reduce}"
    return f"Calibrate it on good images that it has not learned: uadctl calibrate RUN --good DIR {options}"


def _annotating(coco: str | None, pixel: PixelScale | None) -> AbstractContextManager[CocoFile | None]:
    if coco is None or pixel is None:
        return nullcontext()
    from uadctl.report.coco import writing_coco

    return writing_coco(coco, threshold=pixel.threshold)


def _annotate(annotations: CocoFile, line: ScoreLine, size: Size | None) -> None:
    """size: of the image; None where it could not be scored, or has no map."""
    exact = line.path_b64 if isinstance(line.path_b64, str) else None
    if size is None or line.regions is None:
        annotations.add_error(line.path, line.reason or "the model made no map of it", exact=exact)
    else:
        annotations.add(line.path, size, line.regions, exact=exact)


def _keep_inputs(
    images: Sequence[str], sources: Sequence[ImageSource], outputs: dict[str, tuple[str | None, str]]
) -> None:
    """Refuse outputs that would replace an image, or be taken for one the next time its folder is scored."""
    if all(folder is None for folder, _ in outputs.values()):
        return
    folders = [Path(image).resolve() for image in images if is_folder(image)]
    files = {Path(source.path).resolve() for source in sources}
    for option, (folder, suffix) in outputs.items():
        if folder is None:
            continue
        target = Path(folder).resolve()
        inside = next((f for f in folders if target.is_relative_to(f)), None)
        if inside is not None:
            raise SpecError(f"--{option} {folder}: lies inside {inside}, which is scored", help="Name another folder.")
        for source in sources:
            if target / f"{source.stem}{suffix}" in files:
                raise SpecError(
                    f"--{option} {folder}: would write over {source.path}, which is scored", help="Name another folder."
                )


def _printable(path: str) -> tuple[str, str | msgspec.UnsetType]:
    """The path as UTF-8, and its exact bytes in base64 where that is not the same."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raw = os.fsencode(path)
        return raw.decode("utf-8", "backslashreplace"), base64.b64encode(raw).decode("ascii")
    return path, msgspec.UNSET
