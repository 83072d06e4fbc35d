"""Text that others wrote: bounded before it is parsed, so that none takes more than a second or 200 MB to refuse.

What a document would cost is estimated from the number of its brackets, commas and colons, which is counted in a few
milliseconds. The parsers themselves know no such limit: 60 MB of "[]," are 1.4 GB of Python lists.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

MAX_DOCUMENT_BYTES: Final = 48 << 20
"""The largest JSON document that is read: metrics.json of a sweep of 10,000 cells has 20 to 35 MB."""

MAX_SPEC_BYTES: Final = 1_000_000
"""The largest TOML document that is read."""

MAX_TABLE_BYTES: Final = 256 << 20
"""The largest table of rows that is read, as CSV or JSON lines: 2,000,000 images with paths of a hundred bytes."""

MAX_LINE_BYTES: Final = 1 << 20
"""The longest line of JSON lines that is read."""

MAX_HEADER_BYTES: Final = 4 << 20
"""The longest header of a safetensors file that is read: 30,000 tensors."""

MAX_DEPTH: Final = 64
"""Lists and tables within one another; our own documents have at most 8."""

TOO_DEEP: Final = "nested too deeply"

MAX_KEY_PARTS: Final = 12
"""Names that one TOML key parts by dots: tomllib's time grows with their square."""

# What a document may cost in memory besides its bytes, as far as that can be told beforehand.
_MOST_MEMORY: Final = 190_000_000
# What CPython 3.11 takes at most, in bytes (64-bit): an empty list, a table with its first eight places, a number
# with its place in a list, a pair in a table that grows, and a name that was not there before, twice: the parser keeps
# every name in a table of its own.
_LIST, _TABLE, _VALUE, _PAIR, _NAME = 64, 240, 40, 70, 115
# Below so many pairs all names are taken for different ones; above, they are counted.
_FEW_PAIRS: Final = 300_000
_NAMES: Final = re.compile(rb'"([^"]*)"[ \t\r\n]*:')

# tomllib is Python: so many tables or so many elements of lists take it about half a second.
_MOST_ASSIGNMENTS: Final = 10_000
_MOST_ELEMENTS: Final = 100_000
_HEADING: Final = re.compile(r"^[ \t]*\[", re.MULTILINE)
_BARE: Final = r"[A-Za-z0-9_-]"
_LONG_KEY: Final = re.compile(
    rf"""(?:(?<!{_BARE}){_BARE}++[ \t]*+\.[ \t]*+|"[^"\n]*+"[ \t]*+\.[ \t]*+|'[^'\n]*+'[ \t]*+\.[ \t]*+)"""
    rf"""(?:(?:{_BARE}++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MAX_KEY_PARTS - 1}}}"""
)


class Hostile(ValueError):
    """Text that is too large, too deep or has too many values to be what it should be; the message says which."""


def read_bounded(path: str | Path, *, most: int = MAX_DOCUMENT_BYTES) -> bytes:
    """The bytes of a regular file. Hostile if it has more than `most`, or is no regular file; OSError as `open`.

    A pipe that nobody writes to, and a device without an end, are never waited for: they are not opened.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 - a path as the user typed it
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder is refused by `open` itself
        raise Hostile("no regular file")
    with open(path, "rb", opener=_at_once) as stream:
        facts = os.fstat(stream.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise Hostile("no regular file")
        data = stream.read(most + 1) if facts.st_size <= most else b""
    if max(len(data), facts.st_size) > most:
        raise Hostile(f"longer than {most} bytes")
    return data


def read_stream(path: str | Path, *, most: int, patience: float = 10.0) -> bytes:
    """The bytes of a file, a pipe or a device, at most one more than `most`.

    patience: seconds; a pipe from which so long nothing has come is given up. Hostile then; OSError as `open`.
    """
    import select

    if os.name != "posix" or stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a path as the user typed it
        with open(path, "rb") as stream:  # noqa: PTH123
            return stream.read(most + 1)
    data = b""
    with open(path, "rb", buffering=0, opener=_at_once) as stream:
        while len(data) <= most:
            if not select.select([stream], [], [], patience)[0]:
                raise Hostile(f"nothing has come from it for {patience:g} s")
            got = stream.read(most + 1 - len(data))
            if not got:
                break
            data += got
    return data


def _at_once(name: str, flags: int) -> int:
    """Open a file that may be a pipe without waiting for whoever writes to it."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def parse_json(data: bytes | str, *, most: int = MAX_DOCUMENT_BYTES) -> Any:
    """Strict JSON (no NaN, no infinity, no name twice in an object) of untrusted text; a BOM is passed over.

    Raises Hostile for text of more than `most` bytes, with too many values or too deep, ValueError for what is no JSON
    and for what is no UTF-8. Lone surrogates are taken as they are: names of files that are not UTF-8 have them.
    """
    text: str | bytes = data
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    del data
    if len(text) > most:
        raise Hostile(f"longer than {most} bytes")
    check_json(text)
    large = len(text) > _SMALL
    colons = len(_outside(text, b":")) if large else 0
    text = text.decode("utf-8-sig", "surrogatepass")
    pairs = 0

    def count(found: dict[str, Any]) -> dict[str, Any]:
        nonlocal pairs
        pairs += len(found)
        return found

    try:
        # Small documents by pairs, so that a name that is there twice can be said.
        if not large:
            return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)
        value = json.loads(text, parse_constant=_no_constant, object_hook=count)
    except RecursionError as error:
        raise Hostile(TOO_DEEP) from error
    except ValueError as error:
        _check_digits(error)
        raise
    if pairs != colons:
        raise ValueError("a name is given twice in an object")
    return value


def check_json(data: bytes) -> None:
    """Hostile for a text that would take the parser more than 200 MB, or is too deep, whatever it says."""
    lists, tables, commas, pairs = (data.count(sign) for sign in (b"[", b"{", b",", b":"))
    # The text, and once more the strings in it; beside a text that is wide its bytes count as well.
    width = _width(data)
    cost = (2 * width + (width > 1)) * len(data)
    cost += _LIST * lists + _TABLE * tables + _PAIR * pairs + _VALUE * max(0, commas - pairs)
    if cost <= _MOST_MEMORY:
        cost += _NAME * (pairs if pairs <= _FEW_PAIRS else _names(data, (_MOST_MEMORY - cost) // _NAME))
    if cost > _MOST_MEMORY:
        raise Hostile(f"more values than are read: {commas + pairs} commas and colons in {len(data)} bytes")
    if lists + tables > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise Hostile(TOO_DEEP)


def csv_line(cells: Iterable[object]) -> str:
    """A line of CSV with its line end; None is an empty cell, and a name may hold whatever it likes.

    csv.writer of Python 3.11 and 3.12 leaves a bare "\\r" without quotes where lines end with "\\n", and readers take
    it for the end of a line.
    """
    return ",".join(_quoted("" if cell is None else str(cell)) for cell in cells) + "\n"


def _quoted(cell: str) -> str:
    return f'"{cell.replace(chr(34), chr(34) * 2)}"' if any(sign in cell for sign in ',"\r\n') else cell


def check_safetensors(path: Path) -> None:
    """Hostile for a file of tensors whose header is none that its library should be handed; OSError as `open`.

    The library itself takes headers of 100 MB, and gigabytes to understand them; ours have some 100 bytes a tensor.
    https://github.com/huggingface/safetensors#format
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise Hostile("no regular file")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise Hostile(f"it states a header of {length} bytes")
        check_json(stream.read(length))


def parse_toml(text: str, *, most: int = MAX_SPEC_BYTES) -> dict[str, Any]:
    """TOML of untrusted text. Raises Hostile as `parse_json`, tomllib.TOMLDecodeError (a ValueError)."""
    if len(text) > most or len(text.encode("utf-8", "surrogatepass")) > most:
        raise Hostile(f"longer than {most} bytes")
    headings = text.count("=") + (0 if text.count("[") <= _MOST_ASSIGNMENTS else len(_HEADING.findall(text)))
    if headings > _MOST_ASSIGNMENTS or text.count(",") > _MOST_ELEMENTS or text.count("[") > _MOST_ELEMENTS:
        raise Hostile(f"more values than are read: {text.count('=')} assignments, {text.count(',')} commas")
    if _LONG_KEY.search(text) is not None:
        raise Hostile(f"a key of more than {MAX_KEY_PARTS} parts")
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        raise Hostile(TOO_DEEP) from error
    except ValueError as error:
        _check_digits(error)
        raise
    _check_depth(tree)
    return tree


def _check_digits(error: ValueError) -> None:
    """Python's own refusal of long integers, in words for people who do not program."""
    if str(error).startswith("Exceeds the limit"):
        raise Hostile(f"a number of more than {sys.get_int_max_str_digits()} digits") from error


def _check_depth(tree: dict[str, Any]) -> None:
    level: list[Any] = [tree]
    for _ in range(MAX_DEPTH + 1):
        inner = [v for one in level for v in (one.values() if isinstance(one, dict) else one)]
        level = [v for v in inner if isinstance(v, dict | list)]
        if not level:
            return
    raise Hostile(TOO_DEEP)


def _width(data: bytes) -> int:
    """Bytes that Python takes for each character of the text, or of a string in it, at most."""
    if data.isascii() and b"\\u" not in data:
        return 1
    if data.translate(None, bytes(range(0xF0))) or re.search(rb"\\u[dD][89abAB]", data):
        return 4
    return 2


def _names(data: bytes, most: int) -> int:
    """How many different names its objects have, or any number above `most`."""
    seen: set[bytes] = set()
    # A name with an escaped quote is seen in part: it may be any.
    escaped = data.count(b"\\")
    for found in _NAMES.finditer(data):
        seen.add(found[1])
        if len(seen) + escaped > most:
            break
    return len(seen) + escaped


def _outside(data: bytes, signs: bytes) -> bytes:
    """Those of some signs that lie outside of strings, in their order."""
    # Escapes first: pairs of backslashes, and what is left before a quote, which then ends no string.
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in data else data
    kept = bare.translate(None, bytes(set(range(256)) - set(signs) - {0x22}))
    # Two quotes side by side are a string without these signs, or part two strings with nothing between them.
    return b"".join(kept.replace(b'""', b"").split(b'"')[::2])


def _depth(data: bytes) -> int:
    steps = _outside(data, b"[]{}")
    return max(accumulate(map(_STEP.__getitem__, steps)), default=0)


_STEP: Final = {ord(sign): step for sign, step in (("[", 1), ("{", 1), ("]", -1), ("}", -1))}
_SMALL: Final = 1 << 20


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{json.dumps(twice[:80])} is given twice")
    return found
