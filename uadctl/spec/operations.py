"""Operations on pixels as data: what a spec may name in [preprocess] steps, [augment] steps and [robustness]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from uadctl.records import Step
from uadctl.spec.values import did_you_mean, nearest, shown


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation: its kind, its default (None: it must be given), and what it may be.

    low, high: bounds, inclusive; None: none. meaning: what it does, with its unit.
    A path whose default is "" may be left out; "" stands for none.
    """

    name: str
    kind: Literal["float", "int", "path"]
    default: float | int | str | None
    low: float | None = None
    high: float | None = None
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation on pixels. target: "module:function" of `uadctl.imaging`. summary: a sentence."""

    name: str
    target: str
    summary: str
    parameters: tuple[Parameter, ...] = field(default=())


def read_step(text: str, known: Mapping[str, Operation]) -> Step:
    """A step from "name" or "name:key=value,key=value", with the defaults of what is not given.

    A path may hold anything but a comma, and is taken as it stands; there may be blanks around everything else.
    `str` of a step reads back as that step.

    known: by name. Raises ValueError that says what is wrong: an unknown name (with the nearest) or parameter, a value
    of the wrong kind or out of bounds, one given twice, one that must be given and is not.
    """
    name, colon, rest = text.partition(":")
    name = name.strip()
    if name not in known:
        raise ValueError(unknown_step(name, known))
    operation = known[name]
    given = dict(_given(operation, rest)) if colon else {}
    return Step(name, tuple((wanted.name, _value(operation, wanted, given)) for wanted in operation.parameters))


def unknown_step(name: str, known: Mapping[str, object]) -> str:
    """That no step has this name, with the nearest one, or all of them."""
    if nearest(name, known):
        return f"no step is called {shown(name)}{did_you_mean(name, known)}"
    return f"no step is called {shown(name)}; there are: {', '.join(sorted(known)) or 'none'}"


def _given(operation: Operation, text: str) -> Iterator[tuple[str, str]]:
    names = [parameter.name for parameter in operation.parameters]
    seen: set[str] = set()
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals:
            hint = "; a path cannot hold a comma" if "path" in {p.kind for p in operation.parameters} else ""
            raise ValueError(f"expected {operation.name}:key=value,key=value, found {shown(part)}{hint}")
        if key not in names:
            takes = f"it takes: {', '.join(names)}" if names else "it takes none"
            raise ValueError(
                f"{shown(key)} is not a parameter of {operation.name}{did_you_mean(key, names) or f'; {takes}'}"
            )
        if key in seen:
            raise ValueError(f"{key} of {operation.name} is given twice")
        seen.add(key)
        yield key, value


def _value(operation: Operation, wanted: Parameter, given: Mapping[str, str]) -> float | int | str:
    text = given.get(wanted.name)
    if text is None:
        if wanted.default is None:
            raise ValueError(f"{operation.name} needs {operation.name}:{wanted.name}=…: {wanted.meaning}")
        return float(wanted.default) if wanted.kind == "float" else wanted.default
    if wanted.kind == "path":
        if "\0" in text or (not text.strip() and wanted.default != ""):
            raise ValueError(f"{wanted.name} of {operation.name} must be a path, found {shown(text)}")
        return text if text.strip() else ""
    number = _number(text, wanted.kind)
    if number is None or not _within(number, wanted):
        raise ValueError(f"{wanted.name} of {operation.name} must be {expected(wanted)}, found {shown(text.strip())}")
    return number


def _number(text: str, kind: str) -> float | int | None:
    try:
        if kind == "int":
            return int(text)
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _within(number: float, wanted: Parameter) -> bool:
    return (wanted.low is None or number >= wanted.low) and (wanted.high is None or number <= wanted.high)


def expected(parameter: Parameter) -> str:
    """What a value must be, in words: "a number from 0 to 1", "a whole number, at least 1", "a path"."""
    if parameter.kind == "path":
        return "a path"
    noun = "a whole number" if parameter.kind == "int" else "a number"
    low, high = parameter.low, parameter.high
    if low is not None and high is not None:
        return f"{noun} from {low:g} to {high:g}"
    if low is not None:
        return f"{noun}, at least {low:g}"
    return noun if high is None else f"{noun}, at most {high:g}"
