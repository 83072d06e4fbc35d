"""A long service, condensed: thousands of images through `uadctl score --watch`, some broken, at the machine's pace."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from benchmarks.measure import Section, Table, Target, measure_command
from benchmarks.startup import UADCTL
from uadctl.service import resident

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_IMAGES, _QUICK = 20_000, 300
_SIDE = 64
_LEARNED = 40
_BROKEN_EVERY = 50  # images: 2 % are broken
_IN_PLACE_EVERY = 20  # images: 5 % are written under their final name, in two halves
_PAUSE_S = 0.05  # between the halves
_AHEAD = 256  # images that may wait
_PATIENCE_S = 300.0  # without a row
_GROWTH = 0.05


@dataclass(frozen=True)
class Sample:
    """The service's memory, bytes, when it had given so many rows."""

    rows: int
    resident: int


@dataclass(frozen=True)
class Served:
    """What came of it.

    broken: of the images. rows: in the journal. doubled: files with several rows. missing: without one. wrong: with
    another status than they should have. seconds: from the first file to the last row. code: how the service ended.
    """

    images: int
    broken: int
    rows: int
    doubled: int
    missing: int
    wrong: int
    printed: int
    seconds: float
    code: int
    samples: tuple[Sample, ...] = field(repr=False)

    def memory(self, rows: int) -> float:
        """Bytes held after so many rows: the median of the five samples from there on, or of the last five."""
        after = [s.resident for s in self.samples if s.rows >= rows][:5]
        return statistics.median(after if len(after) == 5 else [s.resident for s in self.samples[-5:]])


def serve(images: int) -> Served:
    """Feed so many images to a service in a process of its own and look at what it says of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = _fitted(folder)
        incoming, journal = folder / "incoming", folder / "journal.jsonl"
        incoming.mkdir()
        command = [*UADCTL, "score", str(run), "--watch", str(incoming), "--journal", str(journal)]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen([*command, "--json", "--settle", "0.5"], stdout=out, stderr=err)
            try:
                start = time.monotonic()
                rows, samples = _feed(process, incoming, journal, images)
                seconds = time.monotonic() - start
            finally:
                process.send_signal(signal.SIGTERM)
                code = process.wait(60)
        if rows != images:
            raise RuntimeError(f"{rows} rows of {images} images: {(folder / 'stderr').read_text('utf-8')[-2000:]}")
        printed = (folder / "stdout").read_bytes().count(b"\n")
        return _counted(journal, images, printed=printed, seconds=seconds, code=code, samples=samples)


def _fitted(folder: Path) -> Path:
    for i in range(_LEARNED):
        _put(folder / "good", f"{i:03}.png", _png(_picture(i)))
    options = ["--good", str(folder / "good"), "--run-dir", str(folder / "runs"), "--device", "cpu"]
    # What is looked at is the service; the memory of networks is looked at by `growth`.
    model = ["--model", "vision_ecod", "--set", 'model.params.features="histogram"']
    measure_command([*UADCTL, "fit", *options, *model, "--set", f"preprocess.size={_SIDE}"])
    return next((folder / "runs").iterdir())


def _feed(
    process: subprocess.Popen[bytes], incoming: Path, journal: Path, images: int
) -> tuple[int, tuple[Sample, ...]]:
    """Write the images, never many more than have their row, and wait for the last row. Returns rows and samples."""
    samples: list[Sample] = []
    written, rows = 0, -1  # the journal's first line is none
    moved = time.monotonic()
    tail: BinaryIO | None = None
    try:
        while rows < images and process.poll() is None and time.monotonic() - moved < _PATIENCE_S:
            while written < images and written - max(rows, 0) < _AHEAD:
                _write(incoming, written)
                written += 1
            if tail is None and journal.exists():
                tail = journal.open("rb")
            more = 0 if tail is None else tail.read().count(b"\n")
            if more:
                rows, moved = rows + more, time.monotonic()
                samples += [Sample(rows, held) for held in [resident(process.pid)] if held is not None]
            else:
                time.sleep(0.02)
        for _ in range(5 if rows == images else 0):  # at rest
            time.sleep(0.3)
            samples += [Sample(rows, held) for held in [resident(process.pid)] if held is not None]
    finally:
        if tail is not None:
            tail.close()
    return rows, tuple(samples)


def _write(incoming: Path, i: int) -> None:
    data = _data(i)
    if i % _IN_PLACE_EVERY:
        _put(incoming, _name(i), data)
        return
    with (incoming / _name(i)).open("wb") as stream:
        stream.write(data[: len(data) // 2])
        stream.flush()
        time.sleep(_PAUSE_S)
        stream.write(data[len(data) // 2 :])


def _put(folder: Path, name: str, data: bytes) -> None:
    """Written beside its name and renamed, as a camera's program should do it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f".{name}.part").write_bytes(data)
    (folder / f".{name}.part").rename(folder / name)


def _name(i: int) -> str:
    return f"{i:06}.png"


def _is_broken(i: int) -> bool:
    return i % _BROKEN_EVERY == 7


def _data(i: int) -> bytes:
    """The bytes of image i: cut short, no image at all, or empty, if it is a broken one."""
    whole = _png(_picture(1_000_000 + i))
    if not _is_broken(i):
        return whole
    return (whole[:-400], b"no image, but a text\n" * 9, b"")[i // _BROKEN_EVERY % 3]


def _picture(seed: int) -> NDArray[np.uint8]:
    import numpy as np

    rng = np.random.default_rng(seed)
    stripes = 128 + 60 * np.sin(np.arange(_SIDE) / 5 + rng.uniform(0, 6))
    picture = np.clip(stripes[None, :, None] + rng.normal(0, 8, (_SIDE, _SIDE, 3)), 0, 255).astype(np.uint8)
    if seed % 11 == 0:
        picture[20:32, 24:48] = (200, 30, 30)
    return picture


def _png(picture: NDArray[np.uint8]) -> bytes:
    import cv2

    return cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()


def _counted(
    journal: Path, images: int, *, printed: int, seconds: float, code: int, samples: tuple[Sample, ...]
) -> Served:
    _, *lines = journal.read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    times = Counter(Path(row["path"]).name for row in found)
    status = {Path(row["path"]).name: row["status"] for row in found}
    names = {_name(i): "error" if _is_broken(i) else "ok" for i in range(images)}
    return Served(
        images=images,
        broken=sum(right == "error" for right in names.values()),
        rows=len(found),
        doubled=sum(n > 1 for n in times.values()),
        missing=len(names.keys() - times.keys()),
        wrong=sum(status.get(name) != right for name, right in names.items()),
        printed=printed,
        seconds=seconds,
        code=code,
        samples=samples,
    )


def sections(*, quick: bool) -> list[Section]:
    images = _QUICK if quick else _IMAGES
    first = images // 20
    found = serve(images)
    early, end = found.memory(first), found.memory(images)
    growth = end / early - 1
    columns = ("", "images", "broken", "rows", "images/s", f"memory after {first:,}, MB", "at the end, MB", "growth")
    row = (
        "`uadctl score RUN --watch`",
        f"{found.images:,}",
        f"{found.broken:,}",
        f"{found.rows:,}",
        f"{found.images / found.seconds:.0f}",
        f"{early / 1e6:.1f}",
        f"{end / 1e6:.1f}",
        f"{growth:+.1%}",
    )
    losses = found.doubled + found.missing + found.wrong + abs(found.printed - found.images)
    return [
        Section(
            title="A long service",
            text=(
                "A process `uadctl score RUN --watch DIR --journal FILE` with vision_ecod on histograms of images of "
                f"{_SIDE}x{_SIDE}, written into the folder as fast as it judges them, at most {_AHEAD} ahead. One in "
                f"{_BROKEN_EVERY} is cut short, a text, or empty; one in {_IN_PLACE_EVERY} is written under its final "
                f"name in two halves, {_PAUSE_S:g} s apart. Memory is what the process holds (RSS)."
            ),
            tables=(Table(columns=columns, rows=(row,)),),
            targets=(
                Target("Files without exactly one right row", "0", f"{losses}", losses == 0),
                Target(
                    f"Memory at the end / after {first:,} images", "≤ 1.05×", f"{end / early:.3f}×", growth <= _GROWTH
                ),
            ),
        )
    ]
