"""The verb `score`: say of images never seen before whether they are good."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from uadctl.errors import DataError, RunError, SpecError
from uadctl.imaging.files import list_images, write_map, write_png
from uadctl.imaging.maps import regions
from uadctl.inference import stream, use_threads
from uadctl.progress import Progress, Silent
from uadctl.records import Region
from uadctl.runs.folder import output_stems

if TYPE_CHECKING:
    from uadctl.runs.fitted import Fitted

Verdict = Literal["good", "review", "anomaly"]


class ScoreLine(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one file: a line of JSON.

    path:      the file as it was named; bytes that are not UTF-8 stand as \\xNN, and path_b64 then has the exact bytes.
    status:    "ok", or "error": then there is no score, and reason says why.
    score:     higher is more anomalous. threshold: what it is compared with, None if the run has none.
    verdict:   "anomaly" iff score >= threshold, else "good"; None without a score or a threshold.
    map:       the float map written, if maps were asked for. regions: parts of it above the run's pixel threshold,
               None where the run has none or the model makes no maps.
    """

    path: str
    status: Literal["ok", "error"]
    score: float | None = None
    threshold: float | None = None
    verdict: Verdict | None = None
    map: str | None = None
    regions: list[Region] | None = None
    reason: str | None = None
    path_b64: str | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Source:
    """A file to score. stem: where its map goes below the maps folder, without suffix."""

    path: str
    stem: str


def verdict(score: float, threshold: float | None) -> Literal["good", "anomaly"] | None:
    """The one rule: anomalous iff score >= threshold. None without a threshold."""
    if threshold is None:
        return None
    return "anomaly" if score >= threshold else "good"


def find_sources(images: Sequence[str]) -> list[Source]:
    """Files as named, folders as all the images in them: recursive, sorted, known suffixes only.

    A path that does not exist stays in the list and becomes an error line. Raises DataError for a folder without
    images.
    """
    paths: list[str] = []
    names: list[str] = []
    for image in images:
        if Path(image).is_dir():
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
    return [Source(path, stem) for path, stem in zip(paths, output_stems(unique), strict=True)]


def score(
    fitted: Fitted,
    images: Sequence[str],
    *,
    threshold: float | None = None,
    maps: str | None = None,
    masks: str | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> Iterator[ScoreLine]:
    """One line for each image, in order, as soon as it is known.

    fitted: from `uadctl.load_run(RUN)`.
    images: files and folders, see `find_sources`.
    threshold: in place of the run's own.
    maps: folder for float32 TIFF maps of each file's size. masks: folder for PNG masks, 255 where the map reaches the
        run's pixel threshold.
    Raises DataError for a folder without images, RunError if masks are asked of a run without a pixel threshold,
    SpecError if maps or masks would be written over the images, or into a folder that is scored.
    """
    progress = progress or Silent()
    sources = find_sources(images)
    pixel = fitted.calibration.pixel
    if masks is not None and pixel is None:
        raise RunError("--masks needs a pixel threshold, and this run has none", help="Its thresholds.json says why.")
    _keep_inputs(images, sources, {"maps": (maps, ".tiff"), "masks": (masks, ".png")})
    use_threads(threads)
    limit = fitted.calibration.image.value if threshold is None else threshold
    found = stream(fitted.detector, [s.path for s in sources], geometry=fitted.geometry, threads=threads)
    with progress.task("score", len(sources)) as task:
        for source, item in zip(sources, found, strict=True):
            path, exact = _printable(source.path)
            if item.prediction is None:
                yield ScoreLine(
                    status="error", threshold=limit, reason=_reason(item.error, source.path), path=path, path_b64=exact
                )
            else:
                field = item.prediction.map
                map_path = None
                if maps is not None and field is not None:
                    file = Path(maps) / f"{source.stem}.tiff"
                    write_map(file, field)
                    map_path, _ = _printable(str(file))
                if masks is not None and pixel is not None and field is not None:
                    write_png(Path(masks) / f"{source.stem}.png", (field >= pixel.threshold).astype("uint8") * 255)
                yield ScoreLine(
                    status="ok",
                    score=item.prediction.score,
                    threshold=limit,
                    verdict=verdict(item.prediction.score, limit),
                    map=map_path,
                    regions=None if pixel is None or field is None else regions(field, threshold=pixel.threshold),
                    path=path,
                    path_b64=exact,
                )
            task.advance()


def _keep_inputs(images: Sequence[str], sources: Sequence[Source], outputs: dict[str, tuple[str | None, str]]) -> None:
    """Refuse outputs that would replace an image, or be taken for one the next time its folder is scored."""
    folders = [Path(image).resolve() for image in images if Path(image).is_dir()]
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


def _reason(error: DataError | None, path: str) -> str:
    """The error's text without the path that the line says already."""
    text = str(error).removeprefix(f"{path}: ")
    return text.encode("utf-8", "backslashreplace").decode()


def _printable(path: str) -> tuple[str, str | msgspec.UnsetType]:
    """The path as UTF-8, and its exact bytes in base64 where that is not the same."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raw = os.fsencode(path)
        return raw.decode("utf-8", "backslashreplace"), base64.b64encode(raw).decode("ascii")
    return path, msgspec.UNSET
