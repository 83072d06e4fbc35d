"""What C libraries print while they decode a picture, kept off the terminal and told to whoever asked for the picture.

libjpeg hands out a picture with a hole in its data and says so only on the C library's `stderr`: without listening
there, a smeared picture would be scored, and a line without the file's name be left on the terminal. The stream is an
ordinary variable in glibc (The GNU C Library, "Standard Streams"): for the time of a decoding it points to one in
memory. Python's own stderr is another and stays as it is. On other systems nothing is heard.

The stream in memory is one for the whole life of the process, and is never closed: other threads' C code may have read
the variable just before it was put back, and write to the stream at any time after.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

Decoded = TypeVar("Decoded")

# What is printed beyond it while somebody listens is lost; that something was is known all the same.
_HEARD_BYTES = 1 << 16

_OF_DECODERS = re.compile(
    rb"(?:Corrupt JPEG|Premature end|Inconsistent progression|Invalid SOS|Unknown Adobe|Warning: unknown JFIF|"
    rb"Unsupported JPEG|Bogus |Invalid |Not a JPEG|libpng |iCCP|TIFF|JPEG|LZW|.*Decode).*\n?"
)


def listening(decode: Callable[[], Decoded]) -> tuple[Decoded, str]:
    """What `decode` returns, and what was printed on the C library's stderr meanwhile by decoders.

    Several threads may listen at once. One that hears something decodes again while no other does, so that what is
    said is said of its own picture. What is not said by a decoder goes on to stderr.
    """
    if _libc() is None:
        return decode(), ""
    decoded, heard = _EAR.together(decode)
    return (decoded, "") if not heard else _EAR.alone(decode)


@cache
def _libc() -> Any:
    """The C library, where its stderr is a variable; None elsewhere."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.fmemopen.restype = ctypes.c_void_p
    libc.fmemopen.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    for function in (libc.ftell, libc.rewind):
        function.argtypes = [ctypes.c_void_p]
    libc.setbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    libc.ftell.restype = ctypes.c_long
    libc.rewind.restype = libc.setbuf.restype = None
    return libc


class _Stream:
    """A C stream in memory that can be put in the place of stderr, again and again. There is one."""

    def __init__(self, libc: Any) -> None:
        self._libc = libc
        self._memory = ctypes.create_string_buffer(_HEARD_BYTES)
        self._stream = libc.fmemopen(self._memory, _HEARD_BYTES, b"w")
        if self._stream:
            libc.setbuf(self._stream, None)  # what does not fit would wait in its buffer
        self._stderr = ctypes.c_void_p.in_dll(libc, "stderr")
        self._before = self._stderr.value

    def put(self) -> None:
        """From now on it is stderr, and empty."""
        if self._stream:
            self._libc.rewind(self._stream)
            self._before = self._stderr.value
            self._stderr.value = self._stream

    def length(self) -> int:
        """How many bytes were printed so far."""
        return int(self._libc.ftell(self._stream)) if self._stream else 0

    def full(self) -> bool:
        """Whether there is no room for more, so that its length says nothing of what comes."""
        return self.length() >= _HEARD_BYTES - 1

    def taken(self) -> bytes:
        """Put stderr back. Returns what was printed."""
        if not self._stream:
            return b""
        self._stderr.value = self._before
        return self._memory.raw[: self.length()]


@cache
def _stream() -> _Stream:
    return _Stream(_libc())


class _Ear:
    def __init__(self) -> None:
        self._free = threading.Condition()
        self._listeners = 0
        self._waiting = 0

    def together(self, decode: Callable[[], Decoded]) -> tuple[Decoded, bool]:
        """What `decode` returns, and whether anything was printed meanwhile, by this thread or another."""
        with self._free:
            # Those that want to be alone come first, or they would wait as long as others keep coming.
            self._free.wait_for(lambda: not self._waiting)
            stream = _stream()
            if not self._listeners:
                stream.put()
            before = stream.length()
            self._listeners += 1
        heard = True
        try:
            decoded = decode()
            heard = stream.length() > before or stream.full()
        finally:
            self._leave()
        return decoded, heard

    def _leave(self) -> None:
        with self._free:
            self._listeners -= 1
            if self._listeners:
                return
            text = _stream().taken()
            self._free.notify_all()
        _pass_on(text)

    def alone(self, decode: Callable[[], Decoded]) -> tuple[Decoded, str]:
        """What `decode` returns, and what decoders printed meanwhile."""
        with self._free:
            self._waiting += 1
            try:
                self._free.wait_for(lambda: not self._listeners)
                stream = _stream()
                stream.put()
                try:
                    decoded = decode()
                finally:
                    text = stream.taken()
            finally:
                self._waiting -= 1
                self._free.notify_all()
        said = b"".join(line for line in text.splitlines(keepends=True) if _OF_DECODERS.fullmatch(line))
        _pass_on(text)
        return decoded, said.decode("utf-8", "replace")


def _pass_on(text: bytes) -> None:
    """To the real stderr, what no decoder has said."""
    other = b"".join(line for line in text.splitlines(keepends=True) if not _OF_DECODERS.fullmatch(line))
    if other:
        os.write(2, other)


_EAR = _Ear()
