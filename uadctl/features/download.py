"""One file from the network: resumed where it was cut off, checked, and renamed to its name only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from uadctl.errors import WeightsError
from uadctl.progress import Silent

if TYPE_CHECKING:
    from uadctl.progress import Progress

_TIMEOUT_S = 20
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")
_NOT_SATISFIABLE = 416
_PARTIAL = 206


class DownloadFailed(WeightsError):
    """The network or the server did not give the file; what came is kept, and the next try goes on from there."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """sha256: of the whole file. known: the SHA-256 that the server itself says it has, or None if it says none."""

    sha256: str
    known: str | None


def download(
    url: str, target: Path, *, check: Callable[[Path], str], resumable: bool, progress: Progress | None = None
) -> Downloaded:
    """Fetch `url` into `target`.

    What has come lies in TARGET.part. A later call asks the server for the rest of it; a server that sends the whole
    file again is taken at its word.

    check: returns the SHA-256 of a whole file, or raises WeightsError if it is not the right one.
    resumable: `check` would notice parts of two different files. Where it would not, a part is only continued if the
        server can say (If-Range, RFC 9110) that its file is still the same.

    Nobody else may fetch to the same target meanwhile, see `alone`.

    Raises DownloadFailed, and WeightsError if the file that came is a wrong one; then nothing of it is kept.
    """
    part = target.with_name(f"{target.name}.part")
    tag = target.with_name(f"{target.name}.part.etag")
    target.parent.mkdir(parents=True, exist_ok=True)
    if part.exists() and not (resumable or tag.exists()):
        part.unlink()
    try:
        known = _receive(url, part, tag, progress or Silent())
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DownloadFailed(f"{url}: the download failed: {error}") from error
    try:
        digest = check(part)
        if known is not None and digest != known:
            raise WeightsError(f"{url}: came with the SHA-256 {digest}, the server names {known}")
    except WeightsError:
        part.unlink()
        raise
    finally:
        tag.unlink(missing_ok=True)
    part.replace(target)
    return Downloaded(digest, known)


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Wait until no other process or thread holds `file`, and hold it.

    That is a lock on FILE.lock, which is removed afterwards; the folder is made. A file system without locks lets
    everybody pass. Raises OSError if the folder cannot be written to.
    """
    lock = file.with_name(f"{file.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait_for(handle)
            # Who held it has removed it: what this one waited for is no longer the lock that others will find.
            if _is_at(handle, lock):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no file that somebody has open
            lock.unlink()
        os.close(handle)


def _wait_for(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(0.2)
            else:
                return
    else:
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows, and remembers what the first server said of the file: the Hugging Face hub names its SHA-256 there."""

    def __init__(self) -> None:
        self.tags: list[str] = []

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.tags += [headers[key] for key in ("X-Linked-Etag",) if headers[key]]
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(url: str, part: Path, tag: Path, progress: Progress) -> str | None:
    """Bring `part` to the whole file; returns the SHA-256 that the server names, if it does."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and tag.exists():
        headers["If-Range"] = tag.read_text(encoding="latin-1")
    redirects = _Redirects()
    try:
        answer = urllib.request.build_opener(redirects).open(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
        total = _RANGE.fullmatch(error.headers.get("Content-Range") or "")
        if error.code != _NOT_SATISFIABLE or not have:
            raise
        if total is not None and int(total[2]) == have:
            return _sha256_named(error.headers, redirects.tags)  # it had come whole
        part.unlink()
        return _receive(url, part, tag, progress)
    with answer:
        start, size = _extent(answer, have)
        etag = answer.headers.get("ETag") or ""
        if etag.startswith('"'):  # a weak one ("W/…") does not promise the same bytes
            tag.write_text(etag, encoding="latin-1")
        else:
            tag.unlink(missing_ok=True)
        with part.open("r+b" if start else "wb") as out:
            out.seek(start)
            got = start + _copy(answer, out, progress, title=part.stem, size=size, start=start)
        if size is not None and got != size:
            raise OSError(f"the connection ended after {got} of {size} bytes; run it again to go on")
        return _sha256_named(answer.headers, redirects.tags)


def _extent(answer: Any, have: int) -> tuple[int, int | None]:
    """Where in the file the answer begins, and how long the file is."""
    length = answer.headers.get("Content-Length")
    if getattr(answer, "status", None) == _PARTIAL:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range") or "")
        if found is None or found[1] is None or int(found[1]) != have:
            raise OSError(f"the server sent another part of the file than bytes {have} and on")
        return have, int(found[2])
    return 0, None if length is None else int(length)


def _copy(answer: Any, out: IO[bytes], progress: Progress, *, title: str, size: int | None, start: int) -> int:
    """The number of bytes copied. The bar counts MiB."""
    copied = 0
    with progress.task(title, None if size is None else -(-size // _CHUNK), unit="MiB") as task:
        task.advance(start // _CHUNK)
        while chunk := answer.read(_CHUNK):
            out.write(chunk)
            copied += len(chunk)
            task.advance(len(chunk) // _CHUNK)
    return copied


def _sha256_named(headers: Any, linked: list[str]) -> str | None:
    """The SHA-256 among what the server says of its file: X-Linked-Etag of the hub, or an ETag of 64 hex digits."""
    named = [*linked, headers.get("X-Linked-Etag"), headers.get("ETag")]
    return next((m[0] for text in named if text and (m := _SHA256.fullmatch(text.strip().strip('"')))), None)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
