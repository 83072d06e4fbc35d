"""Files and folders that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

from uadctl.abrupt import at_abrupt_end
from uadctl.errors import DiskError, RunError, UadctlError

PART = ".part"
"""How the names of temporary files and folders end, which begin with a dot; what a killed process leaves behind."""

Step: TypeAlias = Literal["made", "written", "flushed", "replaced"]
"""How far a file is: its temporary file is there, holds everything, is on the disk, has the file's name."""

# What is the disk's fault, and will be that of the next file as well; EDQUOT is not known everywhere.
_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EROFS, errno.EIO)
# "I/O error: No space left on device (os error 28)" of safetensors, "[Errno 28] ..." of whoever quotes Python.
_NUMBER = re.compile(r"(?:os error |\[Errno )(\d+)")
# All that numpy says of a file that took less than it was given.
_SHORT = re.compile(r"^\d+ requested and \d+ written$")
# File systems that have no links, or cannot flush a folder.
_UNSUPPORTED = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_watch: Callable[[Step, Path], None] | None = None


def of_disk(error: OSError) -> bool:
    """Whether it is the disk that cannot be written to, and the next file will not be written either."""
    return error.errno in _DISK


@contextlib.contextmanager
def watched(watch: Callable[[Step, Path], None]) -> Iterator[None]:
    """Call `watch` at every step of every file and folder that this process writes, with the path it will have.

    For tests that count these points, and end the process or raise at each.
    """
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before


def _reached(step: Step, path: Path) -> None:
    if _watch is not None:
        _watch(step, path)


@contextlib.contextmanager
def replacing(path: Path, *, anew: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    The folder is made. The content is flushed to the disk before the rename, so that a crash leaves the old file or the
    new one, never half of one.

    anew: the file must not be there yet, not even by the end of the block; else FileExistsError.
    Raises DiskError where the disk is full, read-only or broken, also for what a library makes of that in the block;
    other errors of the system as they are, with the name of `path` in place of the temporary one.
    """
    temporary = _temporary(path)
    try:
        _reached("made", path)
        with at_abrupt_end(functools.partial(temporary.unlink, missing_ok=True)):
            yield temporary
        _reached("written", path)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        _reached("flushed", path)
        if anew:
            _link(temporary, path)
        else:
            temporary.replace(path)
        _reached("replaced", path)
    except BaseException as error:
        # On a disk that is read-only by now this fails as well, which must not hide the first error.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        number = _of_disk(error, temporary)
        if number is None:
            raise
        raise DiskError(str(path), number) from error


def write_bytes(path: Path, data: bytes | memoryview, *, anew: bool = False) -> None:
    """Write `data` as the whole of `path`. anew: as `replacing`."""
    with replacing(path, anew=anew) as temporary:
        temporary.write_bytes(data)


def write_named(file: str | Path, data: bytes | memoryview) -> None:
    """`write_bytes` of a file that the user has named: RunError where such a file cannot be; DiskError as there."""
    try:
        write_bytes(Path(file), data)
    except DiskError:
        raise
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, indented, in the order given, ending with a line end. ValueError for NaN and infinity."""
    write_bytes(
        path,
        (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"),
    )


def hidden_folder(path: Path, name: str) -> Path:
    """A new folder beside `path`, whose name `name_folder` is to give it; its own is hidden, and begins with `name` and
    the number of this process.

    The folders above are made. Raises DiskError and OSError.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".{name}.{os.getpid()}.", suffix=PART, dir=path.parent))
        try:
            hidden.chmod(0o777 & ~_umask())
            _reached("made", path)
        except BaseException:
            with contextlib.suppress(OSError):
                hidden.rmdir()
            raise
    return hidden


def maker(hidden: Path, name: str) -> int | None:
    """The number of the process that made such a folder; None if it is none of that name."""
    found = re.fullmatch(rf"\.{re.escape(name)}\.(\d+)\.[^.]+{re.escape(PART)}", hidden.name)
    return None if found is None else int(found[1])


def name_folder(hidden: Path, path: Path) -> None:
    """Give a folder its name, now that all that belongs in it is there and flushed.

    Raises FileExistsError if something has that name, DiskError, OSError.
    """
    with _naming(path):
        _reached("written", path)
        flush_folders(hidden)
        _reached("flushed", path)
        if os.path.lexists(path):  # an empty folder would be replaced
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        try:
            hidden.rename(path)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:  # made in this very moment
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
            raise
        _reached("replaced", path)
        _flush(path.parent)


def move(source: Path, target: Path) -> None:
    """Give a whole file or folder another name on the same file system, which nothing has. Its names are not flushed.

    Raises DiskError of `target`, OSError.
    """
    with _naming(target):
        source.rename(target)
        _reached("replaced", target)


def flush_folders(top: Path, *, within: Path | None = None) -> None:
    """Have the disk keep the names of all files below a folder, whose content is flushed already.

    Without that, a file whose name was given first may be the only one to have it after a power cut.

    within: a folder around it; those in between and itself are flushed as well. Raises DiskError.
    """
    for folder, _, _ in os.walk(top):
        _flush(Path(folder))
    if within is not None:
        for parent in top.parents:
            if not parent.is_relative_to(within):
                break
            _flush(parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left below a folder, in which nobody else works now."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(PART):
                (Path(place) / name).unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path):
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=PART, dir=path.parent)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(handle)
    return Path(name)


def _link(temporary: Path, path: Path) -> None:
    """Rename to a name that nothing has. FileExistsError."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.rename(path)
    else:
        temporary.unlink()


def flush_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder, where its file system can. Raises OSError as it is."""
    if sys.platform == "win32":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def _flush(folder: Path) -> None:
    with _naming(folder):
        flush_folder(folder)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the disk becomes a DiskError of this path."""
    try:
        yield
    except OSError as error:
        number = error.errno
        if isinstance(error, DiskError) or number is None or number not in _DISK:
            raise
        raise DiskError(str(path), number) from error


def _of_disk(error: BaseException, temporary: Path) -> int | None:
    """The system's number for what is wrong with the disk that a file is on; None for an error of another kind.

    An error that names other files only is theirs, as is one that uadctl itself has explained.
    """
    if isinstance(error, UadctlError) or not isinstance(error, Exception):
        return None
    if isinstance(error, OSError):
        named = {str(name) for name in (error.filename, error.filename2) if name is not None}
        if named and str(temporary) not in named:
            return None
        if error.errno is not None:
            return error.errno if error.errno in _DISK else None
        if _SHORT.match(str(error)):
            return errno.EIO
    numbers = {int(number) for number in _NUMBER.findall(str(error))}
    return next((number for number in _DISK if number in numbers), None)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
