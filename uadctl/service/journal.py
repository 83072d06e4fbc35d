"""The record of a service: a file with one row for each file that was judged, also across restarts."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import msgspec

from uadctl.atomic import flush_folder
from uadctl.errors import RunError, SpecError
from uadctl.locks import take_lock
from uadctl.score import ScoreLine
from uadctl.service.arrivals import Arrived, Say, instead

if TYPE_CHECKING:
    from types import TracebackType

    from uadctl.runs.fitted import Fitted

_LONGEST = 1 << 26  # bytes of a row: some hundred thousand regions
_SAY_S = 5.0  # while a long journal is read
_BUCKETS = 1 << 12


class JournalHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a journal.

    journal: the version of its form. model: SHA-256 of the model that its scores are of, see `model_digest`.
    """

    journal: Literal[1] = 1
    model: str


class JournalRow(ScoreLine, frozen=True, kw_only=True):
    """What was said of one file, and of which.

    size: bytes of the file. mtime_ns: when it was last written, nanoseconds since 1970. Both None where the system did
        not tell.
    key: stands for the file's absolute path, size and mtime_ns; no two rows of a journal have the same.
    """

    size: int | None
    mtime_ns: int | None
    key: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


_HEAD = b'{"journal":1,"model":"'  # how a journal begins; any other file is left alone
_LONGEST_HEAD = 4096  # bytes


class Keys:
    """A set of keys of 16 bytes, in hardly more memory than those, and exact.

    They are digests: each value of their first bits is as frequent as any other, and has a bucket of its own, in which
    the keys stand one after the other.
    """

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(_BUCKETS)]

    def add(self, key: bytes) -> None:
        """To be called once for each."""
        self._buckets[key[0] << 4 | key[1] >> 4] += key

    def __contains__(self, key: bytes) -> bool:
        bucket = self._buckets[key[0] << 4 | key[1] >> 4]
        at = bucket.find(key)
        while at % 16 and at != -1:  # the end of one and the beginning of the next
            at = bucket.find(key, at + 1)
        return at != -1


class Journal:
    """A file of JSON lines, the head and then one row for each file that was judged. A context manager.

    It is this process's alone while it is open. A row is on the disk when `append` returns. What a crash left of a last
    row is cut off when the journal is opened; `cut` says how many bytes. Its memory is some 16 bytes for each row.
    """

    def __init__(
        self, path: str, *, model: str, say: Say | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open or begin a journal. model: `model_digest` of the model that scores now. say: is told if reading it takes
        long.

        Raises SpecError if it is no regular file; RunError if another process has it open, if it is no journal or of
        another model, or if a line of it is damaged; OSError.
        """
        self.path = path
        self.rows = 0
        self.cut = 0
        self._keys = Keys()
        self._say = say or (lambda kind, text: None)
        self._clock = clock
        self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if not stat.S_ISREG(os.fstat(self._handle).st_mode):
                raise SpecError(f"{path}: is no regular file, and cannot hold a journal", help="Name another file.")
            if not take_lock(self._handle):
                raise RunError(
                    f"{path}: in use by another process", help="Two services need a journal each, and a folder each."
                )
            self._end = self._read(model)
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def holding(self, keys: Collection[bytes]) -> set[bytes]:
        """Which of these files have their row."""
        return {key for key in keys if key in self._keys}

    def append(self, rows: Sequence[JournalRow]) -> None:
        """Add rows, all of them or, if this raises, none. Raises OSError, as of a full disk."""
        self._write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        for row in rows:
            self._keys.add(bytes.fromhex(row.key))
        self.rows += len(rows)

    def _write(self, data: bytes) -> None:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._handle, left) :]
            os.fsync(self._handle)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._end)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = self.path
            raise
        self._end += len(data)

    def _read(self, model: str) -> int:
        """Check every line, cut off what a crash left of the last one. Returns the bytes that stay."""
        end = 0
        row = msgspec.json.Decoder(JournalRow)
        next_said = self._clock() + _SAY_S
        with self._lines() as lines:
            for number, line in enumerate(lines, 1):
                if number == 1 and not (line.startswith(_HEAD) or _HEAD.startswith(line)):
                    raise RunError(
                        f"{self.path}: is no journal of uadctl", help="Name another file. This one was left alone."
                    )
                longest = _LONGEST if number > 1 else _LONGEST_HEAD
                if len(line) > longest:
                    raise self._damaged(number, f"more than {longest} bytes")
                if not line.endswith(b"\n"):
                    self.cut = len(line)
                    break
                try:
                    if number == 1:
                        self._check_head(line, model)
                    else:
                        self._keys.add(bytes.fromhex(row.decode(line).key))
                        self.rows += 1
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise self._damaged(number, str(error)) from error
                end += len(line)
                if number % 1024 == 0 and self._clock() >= next_said:
                    next_said = self._clock() + _SAY_S
                    self._say("note", f"{self.path}: reading it, {self.rows} rows so far")
        if self.cut:
            os.ftruncate(self._handle, end)
        self._end = end
        if end == 0:
            self._write(msgspec.json.encode(JournalHead(model=model)) + b"\n")
            flush_folder(Path(self.path).parent)  # its name as well
        return self._end

    def _damaged(self, number: int, why: str) -> RunError:
        return RunError(
            f"{self.path}:{number}: damaged: {why}",
            help="Mend or delete this line, or name another journal. Nothing was scored.",
        )

    def _check_head(self, line: bytes, model: str) -> None:
        head = msgspec.json.decode(line, type=JournalHead)
        if head.model != model:
            raise RunError(
                f"{self.path}: its rows are of another model ({head.model[:12]}) than this one ({model[:12]})",
                help="Name another journal: one record never mixes the scores of two models.",
            )

    @contextlib.contextmanager
    def _lines(self) -> Iterator[Iterator[bytes]]:
        """The lines; of the first only so much as a head has, and of one that is too long not all of it."""
        with open(os.dup(self._handle), "rb", buffering=1 << 20) as stream:  # noqa: PTH123 - a descriptor
            stream.seek(0)
            yield itertools.chain(
                filter(None, [stream.readline(_LONGEST_HEAD + 1)]), iter(lambda: stream.readline(_LONGEST + 1), b"")
            )


def model_digest(fitted: Fitted) -> str:
    """SHA-256 of what scores depend on: the model's name and what it has learned, its camera, geometry and tiling.

    Thresholds have no part in it: a run may be calibrated anew, and each row has the thresholds that it was judged by.
    """
    import numpy as np

    intake = fitted.intake
    tensors, _ = fitted.detector.state()
    pictures, camera = fitted.camera.state()
    digest = hashlib.sha256(repr((fitted.model, intake.geometry, intake.tiling, camera)).encode())
    for name, tensor in sorted({**tensors, **{f"camera {n}": array for n, array in pictures.items()}}.items()):
        values = tensor if isinstance(tensor, np.ndarray) else _bytes_of(tensor)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _bytes_of(tensor: object) -> object:
    """A torch tensor as uint8, since numpy has no name for some of its types."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"expected a tensor, found {type(tensor).__name__}")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def fitting(item: Arrived, line: ScoreLine) -> ScoreLine:
    """The line, or an error if its row would be longer than a journal takes."""
    size = len(msgspec.json.encode(row_of(item, line)))
    if size < _LONGEST:  # and its line end
        return line
    return instead(line, f"a row of {size >> 20} MiB, and a journal takes {_LONGEST >> 20}: too many regions")


def row_of(item: Arrived, line: ScoreLine) -> JournalRow:
    facts = item.facts
    return JournalRow(
        path=line.path,
        status=line.status,
        score=line.score,
        threshold=line.threshold,
        review_threshold=line.review_threshold,
        verdict=line.verdict,
        p_value=line.p_value,
        map=line.map,
        regions=line.regions,
        reason=line.reason,
        path_b64=line.path_b64,
        size=None if facts is None else facts.size,
        mtime_ns=None if facts is None else facts.mtime_ns,
        key=item.key.hex(),
    )
