"""`demo`: a procedural data set in the MVTec layout, so that a first run needs neither data nor network.

Three categories: a brushed metal sheet, a printed plastic part (not square) and a woven fabric. Light, position, grain
and colour vary among the good images, so that comparing pixels with their mean does not find the defects; those are
drawn from obvious to faint. Results on it say that an installation works, not how well a model does on real parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from uadctl.errors import DataError, SpecError
from uadctl.progress import Progress, Silent
from uadctl.untrusted import parse_json, read_bounded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.datasets.base import Dataset, Where

VERSION = 1
"""Of the pictures: raised whenever the same seed would give others."""

CATEGORIES: tuple[str, ...] = ("brushed_metal", "printed_part", "woven_fabric")

TRAIN_GOOD = 48
TEST_GOOD = 16
TEST_PER_DEFECT = 6

MARKER = "demo.json"
_MARKER_BYTES = 10_000
"""The file in the data set's folder that says which one it is, and that it is complete."""


def write_demo(out: str | Path, *, seed: int = 0, progress: Progress | None = None) -> Path:
    """Write the data set below `out` and return `out`.

    Each category holds train/good, test/good, test/<defect> (RGB, 8 bit, PNG) and ground_truth/<defect>/NNN_mask.png
    (0 or 255). The same seed gives the same bytes, as long as the versions of OpenCV and NumPy are the same.

    The folder appears complete or not at all: it is built beside `out` and renamed. Where the same data set is there
    already, nothing is done; of two processes that write it at once, the second keeps the first one's.

    seed: 0 or more. Raises SpecError if it is negative, DataError if `out` is anything but absent, an empty folder or
    this data set, or cannot be written.
    """
    if seed < 0:
        raise SpecError(f"seed (={seed}) must be at least 0")
    target = Path(out).resolve()
    if _is_complete(target, seed):
        return Path(out)
    building = target.parent / f".{target.name[:40]}-{uuid.uuid4().hex[:12]}"
    try:
        _check_room(Path(out), target, seed)
        building.mkdir(parents=True)
        _write_files(building, seed, progress or Silent())
        _rename(building, target, seed)
    except OSError as error:
        raise DataError(
            f"{out}: the demo data set cannot be written: {error.strerror or error}",
            help="Name a new folder in one that can be written; UADCTL_CACHE names another place for the cache folder.",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Path(out)


def demo_root(*, seed: int = 0) -> Path:
    """Where the data set of this version and seed is kept: below $UADCTL_CACHE if set, else the user's cache folder."""
    chosen = os.environ.get("UADCTL_CACHE")
    if chosen:
        cache = Path(chosen).expanduser()
    else:
        import platformdirs

        cache = Path(platformdirs.user_cache_dir("uadctl"))
    return cache / "demo" / f"v{VERSION}-seed{seed}"


def recognises(root: str) -> bool:
    """Whether `write_demo` wrote this folder."""
    return _read_marker(Path(root)) is not None


def list_categories(where: Where | None) -> list[str]:
    """The categories below the root, sorted; without a root those that `load` offers, and nothing is written yet.

    Raises DataError where the root holds no category.
    """
    if where is None:
        return list(CATEGORIES)
    from uadctl.datasets import mvtec

    return mvtec.list_categories(where)


def load(where: Where | None, category: str) -> Dataset:
    """List one category. Nothing is decoded.

    where: a folder that `write_demo` wrote; None stands for the cache folder, written at the first use.

    Raises DataError where a choice does not exist (before anything is written) or the folder is not as it should be.
    """
    from uadctl.datasets import base, mvtec

    if where is None:
        base.check_category("demo", category, CATEGORIES)
        where = base.Where(str(write_demo(demo_root())))
    return replace(mvtec.load(where, category), name="demo")


def prepare(root: str | None, *, progress: Progress) -> None:
    """Write the cache folder if it is needed and not there yet, showing a bar."""
    if root is None:
        write_demo(demo_root(), progress=progress)


# The folder ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Planned:
    """One specimen to draw and, below the data set's folder, its files; `mask` is None for a good one."""

    category: str
    split: str
    kind: str
    index: int
    image: str
    mask: str | None


def _plan() -> list[_Planned]:
    from uadctl.datasets.demo_scenes import SCENES

    plan = []
    for category in CATEGORIES:
        groups = [("train", "good", TRAIN_GOOD), ("test", "good", TEST_GOOD)]
        groups += [("test", kind, TEST_PER_DEFECT) for kind in SCENES[category].kinds]
        for split, kind, count in groups:
            for index in range(count):
                image = f"{category}/{split}/{kind}/{index:03d}.png"
                mask = None if kind == "good" else f"{category}/ground_truth/{kind}/{index:03d}_mask.png"
                plan.append(_Planned(category, split, kind, index, image, mask))
    return plan


def _write_files(folder: Path, seed: int, progress: Progress) -> None:
    plan = _plan()
    for parent in sorted({Path(name).parent for name in _names(plan)}):
        (folder / parent).mkdir(parents=True)
    # NumPy and OpenCV let go of the interpreter while they draw and compress.
    pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
    try:
        with progress.task("demo data set", len(plan)) as task:
            for _ in pool.map(lambda planned: _write_specimen(folder, planned, seed), plan):
                task.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    marker = json.dumps(_marker(folder, seed), indent=2) + "\n"
    (folder / MARKER).write_text(marker, encoding="utf-8")


def _write_specimen(folder: Path, planned: _Planned, seed: int) -> None:
    from uadctl.datasets.demo_scenes import draw_specimen

    specimen = draw_specimen(planned.category, planned.split, planned.kind, planned.index, seed=seed)
    # OpenCV keeps colours as blue, green, red.
    _write_png(folder / planned.image, specimen.image[..., ::-1])
    if planned.mask is not None:
        _write_png(folder / planned.mask, specimen.mask)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    import cv2

    # On noise, more effort than 2 costs twice the time and saves one per cent.
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 2])
    if not done:
        raise DataError(f"{path}: OpenCV could not encode the picture")
    path.write_bytes(encoded.tobytes())


def _rename(building: Path, target: Path, seed: int) -> None:
    try:
        if target.exists():
            target.rmdir()
        building.rename(target)
    except OSError:
        if not _is_complete(target, seed):
            raise


def _names(plan: list[_Planned]) -> list[str]:
    return [planned.image for planned in plan] + [planned.mask for planned in plan if planned.mask is not None]


def _marker(folder: Path, seed: int) -> dict[str, str | int]:
    """What the marker of a complete folder says; OSError if a file is missing."""
    names = sorted(_names(_plan()))
    listing = "".join(f"{name}\t{(folder / name).stat().st_size}\n" for name in names)
    digest = hashlib.sha256(listing.encode()).hexdigest()
    return {"dataset": "uadctl demo", "version": VERSION, "seed": seed, "files": len(names), "digest": digest}


def _read_marker(folder: Path) -> dict[str, object] | None:
    try:
        content = parse_json(read_bounded(folder / MARKER, most=_MARKER_BYTES))
    except (OSError, ValueError):
        return None
    ours = isinstance(content, dict) and content.get("dataset") == "uadctl demo"
    return content if ours else None


def _is_complete(folder: Path, seed: int) -> bool:
    found = _read_marker(folder)
    if found is None or (found.get("version"), found.get("seed")) != (VERSION, seed):
        return False
    try:
        return found == _marker(folder, seed)
    except OSError:
        return False


def _check_room(given: Path, target: Path, seed: int) -> None:
    """DataError unless `target` is absent or an empty folder that can be replaced. `given` is how the user named it."""
    if not target.exists():
        return
    if not target.is_dir():
        raise DataError(f"{given}: is a file, not a folder", help="Name a folder that does not exist yet.")
    if any(target.iterdir()):
        found = _read_marker(target)
        if found is None:
            what = "is not empty"
        elif (found.get("version"), found.get("seed")) == (VERSION, seed):
            what = "holds this demo data set, but files of it were changed or removed"
        else:
            what = (
                f"holds another demo data set (version {found.get('version')}, seed {found.get('seed')}; "
                f"wanted version {VERSION}, seed {seed})"
            )
        raise DataError(f"{given}: {what}", help="Delete it, or name a folder that does not exist yet.")
    if target == Path.cwd():
        raise DataError(
            f"{given}: is the working directory, which cannot be replaced",
            help="Name a folder that does not exist yet, such as ./demo",
        )
