"""Values, text and bytes that nobody meant: what the fuzzers put in the place of good ones."""

from __future__ import annotations

import copy
import datetime
import json
import math
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

TEXTS: Final = (
    "",
    " ",
    " a ",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "~/x",
    "a/b",
    "a\\b",
    "\x00",
    "a\x00b",
    "\x1b[2J\x1b[31m",
    "a\nb",
    "\r",
    "\u202e gnp.exe",
    "\u2028",
    "\ufeff",
    "\ud800",
    "é",
    "e\u0301",
    "💥",
    "a" * 65,
    "a" * 5000,
    "${HOME}",
    "${NOT_SET}",
    "${",
    "$${HOME}",
    "nan",
    "1e999",
    "-0",
    "0x10",
    "1_000",
    "true",
    "null",
    "[1]",
    "{}",
    "{0.__class__}",
    "{stem}{",
    "%s%n",
    "*",
    "**/*",
    "[a",
    "=1+1",
    "-x",
    "<script>",
    "]]>",
    "auto",
    "all",
    "1GB",
    "99999999999999999999TB",
    "cuda:99999999999999999999",
    "jpeg(quality=0)",
    "crop(1,",
    "a=1,b=",
    "١٢",
)
"""Texts that break what takes text for harmless."""

NUMBERS: Final[tuple[int | float, ...]] = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63),
    2**64,
    10**30,
    10**400,
    0.0,
    -0.0,
    5e-324,
    0.1,
    0.5,
    0.9999999999999999,
    1.0,
    1.0000000000000002,
    1e16,
    3.5e38,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    math.nan,
)
"""Numbers at the edges of what programs think of."""

_DATES: Final = (
    datetime.date(1, 1, 1),
    datetime.time(23, 59, 59),
    datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
)
_PIECES: Final = (
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\x1b",
    b"\r",
    b"\n",
    b"\r\n",
    b'"',
    b'"""',
    b"'''",
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"[",
    b"[[",
    b"]",
    b"{",
    b"}",
    b",",
    b";",
    b"=",
    b".",
    b"#",
    b":",
    b"-",
    b"nan",
    b"-inf",
    b"NaN",
    b"Infinity",
    b"1e400",
    b"9" * 5000,
    b"null",
    b"true",
)
_DEPTHS: Final = (2, 10, 99, 100, 500, 2000, 20_000)
_NUMBER: Final = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def text(rng: Random, words: Sequence[str]) -> str:
    """A text: mostly one of the words that mean something, else one of TEXTS, or two of them together."""
    roll = rng.random()
    if roll < 0.6 and words:
        return rng.choice(words)
    if roll < 0.9:
        return rng.choice(TEXTS)
    return rng.choice(TEXTS) + (rng.choice(words) if words else "")


def value(rng: Random, words: Sequence[str], *, depth: int = 0) -> Any:
    """Any value that TOML or JSON can say."""
    roll = rng.randrange(20 if depth < 3 else 14)
    if roll < 5:
        return text(rng, words)
    if roll < 10:
        return rng.choice(NUMBERS)
    if roll < 13:
        return rng.random() < 0.5
    if roll < 14:
        return rng.choice(_DATES)
    if roll < 18:
        return [value(rng, words, depth=depth + 1) for _ in range(rng.randrange(4))]
    return {text(rng, words): value(rng, words, depth=depth + 1) for _ in range(rng.randrange(4))}


def mutated_tree(rng: Random, tree: Any, words: Sequence[str], *, most: int = 3) -> Any:
    """A copy with some of its values changed, left out, doubled, moved, or new ones beside them."""
    changed = copy.deepcopy(tree)
    for _ in range(rng.randint(1, most)):
        places = list(_places(changed))
        if not places:
            return changed
        holder, key = rng.choice(places)
        _change(rng, holder, key, words, places)
    return changed


def _places(node: Any) -> Any:
    """Every (holder, key) of a tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in items:
        yield node, key
        if isinstance(child, dict | list):
            yield from _places(child)


def _change(rng: Random, holder: Any, key: Any, words: Sequence[str], places: Sequence[tuple[Any, Any]]) -> None:
    roll = rng.randrange(10)
    old = holder[key]
    if roll < 3:
        holder[key] = value(rng, words)
    elif roll < 4:
        del holder[key]
    elif roll < 6:
        holder[key] = _near(rng, old, words)
    elif roll < 7:
        other, at = rng.choice(places)
        if _holds(other, at):
            holder[key] = copy.deepcopy(other[at])
    elif roll < 8:
        holder[key] = [copy.deepcopy(old)] * rng.randrange(4)
    elif isinstance(holder, dict):
        holder[text(rng, words)] = value(rng, words) if roll < 9 else copy.deepcopy(old)
    else:
        holder.insert(key, value(rng, words))


def _holds(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _near(rng: Random, old: Any, words: Sequence[str]) -> Any:
    """Another value of the same kind."""
    match old:
        case bool():
            return not old
        case int():
            near = float(old) if abs(old) < 2**53 else old
            return rng.choice((old + 1, old - 1, -old, old * 2, near, rng.choice(NUMBERS)))
        case float():
            return rng.choice((old * 1.0000001, -old, old / 2, rng.choice(NUMBERS)))
        case str():
            at = rng.randint(0, len(old))
            return rng.choice((old[:at] + rng.choice(TEXTS) + old[at:], old.upper(), old[:at], old + old))
        case list():
            return old[: rng.randint(0, len(old))] if rng.random() < 0.5 else old + old
        case dict():
            return dict(list(old.items())[: rng.randint(0, len(old))])
    return value(rng, words)


def as_toml(tree: dict[str, Any]) -> str:
    """A tree as TOML, tables under their headers; text that no TOML may hold is written all the same."""
    lines: list[str] = []
    _table(tree, (), lines)
    return "\n".join(lines) + "\n"


def _table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    later = []
    for key, item in table.items():
        repeated = isinstance(item, list) and item and all(isinstance(one, dict) for one in item)
        if isinstance(item, dict) or repeated:
            later.append((key, item))
        else:
            lines.append(f"{_key(key)} = {_inline(item)}")
    for key, item in later:
        name = ".".join(map(_key, (*path, key)))
        for one in item if isinstance(item, list) else [item]:
            lines.append(f"[[{name}]]" if isinstance(item, list) else f"[{name}]")
            _table(one, (*path, key), lines)


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key)


def _inline(item: Any) -> str:
    match item:
        case bool():
            return "true" if item else "false"
        case str():
            return json.dumps(item)
        case float():
            return repr(item)
        case list() | tuple():
            return f"[{', '.join(map(_inline, item))}]"
        case dict():
            return f"{{{', '.join(f'{_key(key)} = {_inline(one)}' for key, one in item.items())}}}"
        case datetime.date() | datetime.time():
            return item.isoformat()
    return str(item)


def as_json(tree: Any) -> str:
    """A tree as JSON, with NaN and infinity as Python writes them."""
    return json.dumps(tree, ensure_ascii=False, default=str)


def mutated_bytes(rng: Random, data: bytes, others: Sequence[bytes] = (), *, most: int = 3) -> bytes:
    """Bytes after a few changes: bits flipped, pieces put in, left out, doubled or taken from `others`, an end cut off,
    lines moved, numbers at the edges, lists in lists, other line ends.

    One in thousand is long: a piece of it a thousand times.
    """
    for _ in range(rng.randint(1, most)):
        data = rng.choice(_WAYS)(rng, data, others)
    if rng.randrange(1000) == 0:
        data = _piece(rng, data) * 1000 + data
    return data


def _piece(rng: Random, data: bytes) -> bytes:
    start = rng.randint(0, len(data))
    return data[start : start + rng.randint(1, 60)]


def _flip(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _put_in(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(_PIECES) + data[at:]


def _overwrite(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at, piece = rng.randint(0, len(data)), rng.choice(_PIECES)
    return data[:at] + piece + data[at + len(piece) :]


def _leave_out(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + data[at + rng.randint(1, 40) :]


def _double(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + _piece(rng, data) + data[at:]


def _cut(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: rng.randint(0, len(data))]


def _splice(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else data
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _lines(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    roll = rng.randrange(3)
    if roll == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif roll == 1:
        del lines[first]
    else:
        lines.insert(second, lines[first])
    return b"\n".join(lines)


def _number(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    one = rng.choice(found)
    return data[: one.start()] + str(rng.choice(NUMBERS)).encode() + data[one.end() :]


def _nest(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at, depth = rng.randint(0, len(data)), rng.choice(_DEPTHS)
    before, after = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"{a=", b"}"), (b"a.", b""), (b"(", b")")))
    inner = rng.choice((b"", b"1"))
    return data[:at] + before * depth + inner + after * rng.choice((0, depth)) + data[at:]


def _ends(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\x0b", "\u2028".encode())))


def _other_text(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-8-sig", "utf-32-le")), "replace")


_WAYS: Final[tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...]] = (
    _flip,
    _flip,
    _flip,
    _put_in,
    _put_in,
    _overwrite,
    _leave_out,
    _double,
    _cut,
    _splice,
    _lines,
    _lines,
    _number,
    _number,
    _nest,
    _ends,
    _other_text,
)
