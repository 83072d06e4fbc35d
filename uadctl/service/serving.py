"""The service itself: files are judged as they arrive, and each has its row before it is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from uadctl.atomic import of_disk
from uadctl.score import ImageSource, ScoreLine, error_line, judged
from uadctl.service.arrivals import Arrived, Say
from uadctl.service.journal import fitting, row_of

if TYPE_CHECKING:
    from uadctl.progress import Progress
    from uadctl.runs.fitted import Fitted
    from uadctl.service.feeds import Feed
    from uadctl.service.journal import Journal


class Judge(Protocol):
    """Says of images whether they are good. together: how many it likes to get."""

    @property
    def together(self) -> int: ...

    def lines(self, sources: Sequence[ImageSource]) -> list[ScoreLine]:
        """One line for each."""
        ...

    def failed(self, source: ImageSource, error: Exception) -> ScoreLine:
        """The line of an image that `lines` raises for."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted model as a judge; the fields are the arguments of `uadctl.score.score`."""

    fitted: Fitted
    threshold: float | None = None
    maps: str | None = None
    masks: str | None = None
    threads: int = 2
    progress: Progress | None = None

    @property
    def together(self) -> int:
        return self.fitted.detector.images_per_batch

    def lines(self, sources: Sequence[ImageSource]) -> list[ScoreLine]:
        found = judged(
            self.fitted,
            sources,
            threshold=self.threshold,
            maps=self.maps,
            masks=self.masks,
            threads=self.threads,
            progress=self.progress,
        )
        return [line for line, _ in found]

    def failed(self, source: ImageSource, error: Exception) -> ScoreLine:
        return error_line(self.fitted, source.path, f"{type(error).__name__}: {error}", threshold=self.threshold)


@dataclass(slots=True)
class Tally:
    """What a service has done so far, and says every so many seconds."""

    every: float = 60.0
    clock: Callable[[], float] = time.monotonic
    scored: int = 0
    anomalies: int = 0
    reviews: int = 0
    errors: int = 0
    _since: float = field(init=False)
    _before: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def count(self, line: ScoreLine) -> None:
        self.errors += line.status == "error"
        self.scored += line.status == "ok"
        self.anomalies += line.verdict == "anomaly"
        self.reviews += line.verdict == "review"

    @property
    def left(self) -> float:
        """Seconds until there is something to say."""
        return max(0.0, self._since + self.every - self.clock())

    def text(self, *, waiting: int, vanished: int) -> str:
        """How it goes: totals, and images a second since this was last asked."""
        now, files = self.clock(), self.scored + self.errors
        rate = (files - self._before) / max(now - self._since, 1e-9)
        self._since, self._before = now, files
        parts = [
            f"scored {self.scored}",
            f"anomalies {self.anomalies}",
            f"to review {self.reviews}",
            f"errors {self.errors}",
            f"{rate:.1f} images/s",
            f"waiting {waiting}",
        ]
        parts += [f"vanished {vanished}"] if vanished else []
        memory = resident()
        parts += [] if memory is None else [f"memory {memory / 1e6:.0f} MB"]
        return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {', '.join(parts)}"


def resident(process: int | None = None) -> int | None:
    """Bytes of memory that this process, or another one, holds now; None where the system, unlike Linux, is silent."""
    status = Path(f"/proc/{process or 'self'}/statm")
    try:
        return int(status.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def serve(
    feed: Feed,
    judge: Judge,
    *,
    journal: Journal | None = None,
    max_errors: int | None = None,
    tally: Tally | None = None,
    say: Say | None = None,
) -> Iterator[ScoreLine]:
    """One line for each file that the feed gives, as soon as it is known, for as long as the feed goes on.

    journal: has each row before it is given; the feed must know it as well. max_errors: the end after so many lines
    with an error. tally: is kept, and said every minute.
    A detector that raises something unforeseen makes an error of the image that it raises it for. Raises OSError where
    the disk is full, read-only or broken, or the journal cannot be written: files without a row are judged by the next
    service. An image whose row would be longer than a journal takes is an error.
    """
    tally = tally or Tally()
    while True:
        arrived = feed.take(judge.together, tally.left)
        if tally.left <= 0:
            text = tally.text(waiting=feed.waiting, vanished=feed.vanished)
            if say is not None:
                say("note", text)
        if arrived is None:
            return
        lines = _lines(judge, [item.source for item in arrived])
        settled = [(item, feed.settle(item, line)) for item, line in zip(arrived, lines, strict=True)]
        told = [(item, line) for item, line in settled if line is not None]
        if journal is not None:
            told = [(item, fitting(item, line)) for item, line in told]
        said = _up_to(told, max_errors, tally.errors)
        if journal is not None and said:
            journal.append([row_of(item, line) for item, line in said])
        for item, _ in said:
            feed.done(item)
        for _, line in said:
            tally.count(line)
            yield line
        if max_errors is not None and tally.errors >= max_errors:
            return


def _lines(judge: Judge, sources: Sequence[ImageSource]) -> list[ScoreLine]:
    if not sources:
        return []
    try:
        return judge.lines(sources)
    except Exception as error:  # whatever a detector raises of one image must not end the service
        if isinstance(error, OSError) and of_disk(error):
            raise
        if len(sources) == 1:
            return [judge.failed(sources[0], error)]
    return [line for source in sources for line in _lines(judge, [source])]


def _up_to(
    said: list[tuple[Arrived, ScoreLine]], max_errors: int | None, errors: int
) -> list[tuple[Arrived, ScoreLine]]:
    """As far as the last error that is allowed."""
    if max_errors is None:
        return said
    for i, (_, line) in enumerate(said):
        errors += line.status == "error"
        if errors >= max_errors:
            return said[: i + 1]
    return said
