"""On which line of a TOML text each table, key and list element stands.

tomllib gives values without places; this walks the same text again and finds the places without the values.
It reads only what tomllib has accepted, so it skips values instead of judging them.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Final

from uadctl.spec.values import Key
from uadctl.untrusted import MAX_KEY_PARTS

_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_BLANK: Final = re.compile(r"[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")
# The closing quotes may follow up to two quotes that belong to the text.
_STRINGS: Final = {
    '"""': re.compile(r'"""(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*"{3,5}'),
    "'''": re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}"),
    '"': re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    "'": re.compile(r"'[^'\n]*'"),
}


def find_lines(text: str) -> dict[Key, int]:
    """The line, from 1, of every table, key and list element of a TOML text with "\\n" line ends.

    A key is a tuple of names and, for elements of lists and arrays of tables, numbers: `[[model]]` with
    `[model.params]` and `layers = ["a"]` gives ("model",), ("model", 0), ("model", 0, "params"),
    ("model", 0, "params", "layers") and ("model", 0, "params", "layers", 0). A table that only other
    headers imply has the line of the first of those.
    """
    return _Walk(text).document()


def split_assignment(text: str) -> tuple[tuple[str, ...], str] | None:
    """ "a.b.'c d'=value" as (("a", "b", "c d"), "value"); None if it does not start with a TOML key and "="."""
    walk = _Walk(text)
    parts = walk.key()
    if parts is None or not text.startswith("=", walk.at):
        return None
    return parts, text[walk.at + 1 :].strip()


class _Walk:
    """One pass over a text; `at` is how far it has come."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Key, int] = {}
        self._tables_in: dict[Key, int] = {}
        self._ends = [i for i, c in enumerate(text) if c == "\n"]

    def document(self) -> dict[Key, int]:
        table: Key = ()
        self._skip(_GAP)
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._header(2)
            elif self.text.startswith("[", self.at):
                table = self._header(1)
            else:
                self._assignment(table)
            self._skip(_GAP)
        return self.lines

    def key(self) -> tuple[str, ...] | None:
        """A dotted key with the blanks around it, or None if there is none."""
        parts = []
        while True:
            self._skip(_BLANK)
            found = _KEY.match(self.text, self.at)
            if found is None:
                return None
            self.at = found.end()
            name = _key_name(found[0])
            if name is None:
                return None
            parts.append(name)
            if len(parts) > MAX_KEY_PARTS:
                return None
            self._skip(_BLANK)
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()

    def _line(self) -> int:
        return bisect_right(self._ends, self.at - 1) + 1

    def _is_before(self, bracket: str) -> bool:
        if self.at >= len(self.text):
            raise ValueError(f"line {self._line()}: {bracket} is missing")
        return not self.text.startswith(bracket, self.at)

    def _known_key(self) -> tuple[str, ...]:
        parts = self.key()
        if parts is None:
            raise ValueError(f"line {self._line()}: no TOML key")
        return parts

    def _header(self, brackets: int) -> Key:
        line = self._line()
        self.at += brackets
        *parents, last = self._known_key()
        self.at += brackets
        table: Key = ()
        for name in parents:
            table = self._into((*table, name), line)
        table = (*table, last)
        if brackets == 1:
            self.lines[table] = line
            return table
        self.lines.setdefault(table, line)
        number = self._tables_in.get(table, 0)
        self._tables_in[table] = number + 1
        self.lines[*table, number] = line
        return (*table, number)

    def _into(self, table: Key, line: int) -> Key:
        """The table itself, or, of an array of tables, its newest one."""
        self.lines.setdefault(table, line)
        return (*table, self._tables_in[table] - 1) if table in self._tables_in else table

    def _assignment(self, table: Key) -> None:
        self._skip(_BLANK)
        line = self._line()
        for name in self._known_key():
            table = (*table, name)
            self.lines.setdefault(table, line)
        self.at += 1
        self._value(table)

    def _value(self, key: Key) -> None:
        self._skip(_BLANK)
        for quotes, pattern in _STRINGS.items():
            if self.text.startswith(quotes, self.at):
                self._skip(pattern)
                return
        if self.text.startswith("[", self.at):
            self._list(key)
        elif self.text.startswith("{", self.at):
            self._inline_table(key)
        else:
            self._skip(_SCALAR)

    def _list(self, key: Key) -> None:
        number = 0
        self.at += 1
        self._skip(_GAP)
        while self._is_before("]"):
            self.lines[*key, number] = self._line()
            self._value((*key, number))
            number += 1
            self._skip(_GAP)
            if self.text.startswith(",", self.at):
                self.at += 1
                self._skip(_GAP)
        self.at += 1

    def _inline_table(self, key: Key) -> None:
        self.at += 1
        self._skip(_GAP)
        while self._is_before("}"):
            self._assignment(key)
            self._skip(_GAP)
            if self.text.startswith(",", self.at):
                self.at += 1
                self._skip(_GAP)
        self.at += 1


def _key_name(written: str) -> str | None:
    if written.startswith("'"):
        return written[1:-1]
    if not written.startswith('"'):
        return written
    if "\\" not in written:
        return written[1:-1]
    try:
        value = tomllib.loads(f"key = {written}")["key"]
    except tomllib.TOMLDecodeError:
        return None
    return value if isinstance(value, str) else None
