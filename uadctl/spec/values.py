"""Which values of a TOML or JSON file fit a type, and how names and values are said in a message.

Types are those of `msgspec.inspect`, so that a table of a spec and the constructor of a model are checked by
the same code, and ranges are stated once: in the type.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from datetime import date, time
from typing import Any, Final

from msgspec import inspect as types

Key = tuple[str | int, ...]
"""Where a value is: names of tables and keys, and numbers of list elements."""

Report = Callable[[Key, str], None]
"""Takes where a value is and what is wrong with it."""

BAD: Final = object()
"""Stands for a value that was already reported: nothing more is said of it."""

_SHOWN = 72


def printable(text: str) -> str:
    """`text` with everything that would move a cursor, change a colour or not be encoded written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def key_text(key: str) -> str:
    """A key as one would write it in TOML: bare if it can be, else quoted."""
    bare = key.isascii() and key.replace("_", "a").replace("-", "a").isalnum()
    return _cut(key if bare else shown(key))


def shown(value: object) -> str:
    """A value as TOML shows it, on one line and cut if it is long."""
    return _cut(_shown(value))


def _shown(value: object) -> str:
    match value:
        case str():
            # Cut before escaping: a megabyte of text is not escaped to show a line of it.
            head = value[: _SHOWN + 1].replace("\\", "\\\\").replace('"', '\\"')
            return f'"{printable(head)}"'
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case int() if value.bit_length() > 256:
            return "an integer of more than 77 digits"
        case list() | tuple():
            return "[" + ", ".join(_shown(item) for item in value[:_SHOWN]) + "]"
        case dict():
            head_items = list(value.items())[:_SHOWN]
            return "{" + ", ".join(f"{key_text(str(k))} = {_shown(v)}" for k, v in head_items) + "}"
        case _:
            return printable(str(value))


def kind(value: object) -> str:
    """What sort of value it is, with its article."""
    match value:
        case bool():
            return "true or false"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
        case None:
            return "null"
        case date() | time():
            return "a date or time"
        case _:
            return f"a {type(value).__name__}"


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that `word` was probably meant to be, or None. Upper and lower case count as equal."""
    folded: dict[str, str] = {}
    for option in options:
        folded.setdefault(option.casefold(), option)
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """ "; did you mean X?", or nothing."""
    close = nearest(word, options)
    return f"; did you mean {close}?" if close else ""


def take(value: object, wanted: types.Type, key: Key, report: Report) -> Any:
    """The value as the type wants it: integers become floats and lists tuples where the type says so.

    What does not fit is reported, each element of a list at its own key, and BAD is returned; a table with
    values that do not fit comes back with BAD in their place, so that the others can be looked at. nan and inf
    are refused, and true and false are no numbers.
    """
    return _take(value, wanted, key, report, expected=None, single=False)


def _take(value: object, wanted: types.Type, key: Key, report: Report, *, expected: str | None, single: bool) -> Any:
    if value is BAD:
        return BAD
    if isinstance(wanted, types.Metadata):
        extra = wanted.extra or {}
        return _take(
            value,
            wanted.type,
            key,
            report,
            expected=extra.get("expected", expected),
            single=extra.get("single", single),
        )

    def refuse(reason: str | None = None) -> object:
        report(key, f"expected {expected or describe(wanted)}" + ("" if reason is None else f", {reason}"))
        return BAD

    def found() -> object:
        return refuse(f"found {kind(value)}")

    match wanted:
        case types.AnyType():
            return _plain(value, key, report)
        case types.NoneType():
            return None if value is None else found()
        case types.BoolType():
            return value if isinstance(value, bool) else found()
        case types.IntType():
            if not isinstance(value, int) or isinstance(value, bool):
                return found()
            return value if _in_range(value, wanted) else refuse()
        case types.FloatType():
            if not isinstance(value, int | float) or isinstance(value, bool):
                return found()
            number = _float(value)
            if number is None:
                return refuse("nan, inf and numbers beyond 1e308 are none" if isinstance(value, float) else "too large")
            return number if _in_range(number, wanted) else refuse()
        case types.StrType():
            if not isinstance(value, str):
                return found()
            return value if _fits_text(value, wanted) else refuse()
        case types.LiteralType():
            # type() keeps true from being taken for 1
            if any(type(value) is type(v) and value == v for v in wanted.values):
                return value
            close = nearest(value, (v for v in wanted.values if isinstance(v, str))) if isinstance(value, str) else None
            report(key, f"expected {describe(wanted)}" + (f'; did you mean "{close}"?' if close else ""))
            return BAD
        case types.VarTupleType() | types.ListType() | types.CollectionType():
            if single and isinstance(value, str):
                only = _take(value, wanted.item_type, key, report, expected=None, single=False)
                return BAD if only is BAD else (only,)
            if not isinstance(value, list | tuple):
                return found()
            if not _fits_length(len(value), wanted):
                return refuse()
            items = [
                _take(v, wanted.item_type, (*key, i), report, expected=None, single=False) for i, v in enumerate(value)
            ]
            if any(item is BAD for item in items):
                return BAD
            return items if isinstance(wanted, types.ListType) else tuple(items)
        case types.TupleType():
            if not isinstance(value, list | tuple):
                return found()
            if len(value) != len(wanted.item_types):
                return refuse(f"found {len(value)}")
            parts = [
                _take(v, t, (*key, i), report, expected=None, single=False)
                for i, (v, t) in enumerate(zip(value, wanted.item_types, strict=True))
            ]
            return BAD if any(part is BAD for part in parts) else tuple(parts)
        case types.DictType():
            if not isinstance(value, dict):
                return found()
            # A null at the top of a table of anything is for the caller to judge: JSON has it, TOML has not.
            anything = isinstance(wanted.value_type, types.AnyType)
            return {
                k: None
                if v is None and anything
                else _take(v, wanted.value_type, (*key, k), report, expected=None, single=False)
                for k, v in value.items()
            }
        case types.StructType():
            return found()
        case types.UnionType():
            return _take_any(value, wanted, key, report, expected=expected, single=single)
        case _:
            return refuse("which only Python code can give")


def _take_any(
    value: object, wanted: types.UnionType, key: Key, report: Report, *, expected: str | None, single: bool
) -> Any:
    complaints: list[list[tuple[Key, str]]] = []
    for option in wanted.types:
        taken, heard = _try(value, option, key, expected=expected, single=single)
        if taken is not BAD:
            for k, fact in heard:  # a table is taken with what is wrong in it marked as BAD
                report(k, fact)
            return taken
        complaints.append(heard)
    # A complaint about the inside of the value, or about its range, tells more than a list of the types.
    for option, heard in zip(wanted.types, complaints, strict=True):
        if any(k != key for k, _ in heard) or _same_kind(value, option, single=single):
            for k, fact in heard:
                report(k, fact)
            return BAD
    report(key, f"expected {expected or describe(wanted)}, found {kind(value)}")
    return BAD


def _try(
    value: object, wanted: types.Type, key: Key, *, expected: str | None, single: bool
) -> tuple[Any, list[tuple[Key, str]]]:
    heard: list[tuple[Key, str]] = []
    taken = _take(value, wanted, key, lambda where, fact: heard.append((where, fact)), expected=expected, single=single)
    return taken, heard


def _same_kind(value: object, wanted: types.Type, *, single: bool) -> bool:
    if isinstance(wanted, types.Metadata):
        return _same_kind(value, wanted.type, single=single)
    if single and isinstance(value, str):
        return isinstance(wanted, types.CollectionType)
    match value:
        case bool():
            return isinstance(wanted, types.BoolType)
        case int():
            return isinstance(wanted, types.IntType | types.FloatType)
        case float():
            return isinstance(wanted, types.FloatType)
        case str():
            return isinstance(wanted, types.StrType | types.LiteralType)
        case list() | tuple():
            return isinstance(wanted, types.CollectionType | types.TupleType)
        case dict():
            return isinstance(wanted, types.DictType)
        case _:
            return False


def _plain(value: object, key: Key, report: Report) -> Any:
    """Whatever a JSON and a TOML file can both hold."""
    match value:
        case bool() | int() | str():
            return value
        case float():
            if math.isfinite(value):
                return value
            report(key, "expected a finite number")
            return BAD
        case list() | tuple():
            items = [_plain(item, (*key, i), report) for i, item in enumerate(value)]
            return BAD if any(item is BAD for item in items) else items
        case dict():
            entries = {k: _plain(v, (*key, k), report) for k, v in value.items()}
            return BAD if any(v is BAD for v in entries.values()) else entries
        case _:
            if value is not BAD:
                report(key, f"expected true or false, a number, a string, a list or a table, found {kind(value)}")
            return BAD


def _float(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _in_range(value: float, wanted: types.IntType | types.FloatType) -> bool:
    return (
        (wanted.ge is None or value >= wanted.ge)
        and (wanted.gt is None or value > wanted.gt)
        and (wanted.le is None or value <= wanted.le)
        and (wanted.lt is None or value < wanted.lt)
    )


def _fits_text(value: str, wanted: types.StrType) -> bool:
    return _fits_length(len(value), wanted) and (
        wanted.pattern is None or re.fullmatch(wanted.pattern, value) is not None
    )


def _fits_length(length: int, wanted: types.StrType | types.CollectionType) -> bool:
    return (wanted.min_length is None or length >= wanted.min_length) and (
        wanted.max_length is None or length <= wanted.max_length
    )


def describe(wanted: types.Type) -> str:
    """What a type takes, in words: "an integer >= 0", "a list of 2 numbers"."""
    if isinstance(wanted, types.Metadata):
        extra = wanted.extra or {}
        return str(extra["expected"]) if "expected" in extra else describe(wanted.type)
    match wanted:
        case types.BoolType():
            return "true or false"
        case types.IntType():
            return "an integer" + _range(wanted)
        case types.FloatType():
            return "a number" + _range(wanted)
        case types.StrType():
            return "a string" + (" that is not empty" if wanted.min_length else "")
        case types.LiteralType():
            values = [shown(v) for v in wanted.values]
            return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
        case types.CollectionType():
            return f"a list of {_plural(wanted.item_type)}" + (" that is not empty" if wanted.min_length else "")
        case types.TupleType():
            kinds = list(dict.fromkeys(_plural(t) for t in wanted.item_types))
            return f"a list of {len(wanted.item_types)} {' and '.join(kinds)}"
        case types.UnionType():
            return " or ".join(describe(t) for t in wanted.types if not isinstance(t, types.NoneType))
        case types.DictType() | types.StructType():
            return "a table"
        case types.NoneType():
            return "null"
        case types.AnyType():
            return "a value"
        case _:
            return "a Python object"


def _range(wanted: types.IntType | types.FloatType) -> str:
    bounds = [(">=", wanted.ge), (">", wanted.gt), ("<=", wanted.le), ("<", wanted.lt)]
    said = [f"{sign} {bound:.12g}" for sign, bound in bounds if bound is not None]
    return " " + " and ".join(said) if said else ""


def _plural(wanted: types.Type) -> str:
    inner = wanted.type if isinstance(wanted, types.Metadata) else wanted
    match inner:
        case types.StrType():
            return "strings"
        case types.IntType():
            return "integers" + _range(inner)
        case types.FloatType():
            return "numbers" + _range(inner)
        case types.BoolType():
            return "true or false"
        case _:
            return f"values, each {describe(wanted)}"


#: What a number of bytes looks like in a spec.
SIZE: Final = r"^[0-9]{1,12}(\.[0-9]{1,12})? ?(kB|MB|GB)$"


def bytes_in(text: str) -> int | None:
    """ "500MB", "1.5 GB" as a number of bytes; None if `text` is no such size."""
    if not re.fullmatch(SIZE, text):
        return None
    number, unit = text[:-2].strip(), text[-2:]
    return int(float(number) * {"kB": 10**3, "MB": 10**6, "GB": 10**9}[unit])
