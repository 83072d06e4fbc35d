"""A RunSpec back to TOML, and the short name of what it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from uadctl.spec.grammar import RunSpec, Table


def to_dict(spec: RunSpec) -> dict[str, Any]:
    """The spec as its TOML would be read: tables by name, `model` a list, lists for tuples; absent keys left out."""
    tables: dict[str, Any] = _plain(spec)
    return tables


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        table = _OneLine() if isinstance(value, Table) and value.on_one_line else {}
        for f in msgspec.structs.fields(value):
            held = getattr(value, f.name)
            if isinstance(value, Table) and f.name == value.rest:
                table.update(_plain(held))
            elif held is not None:
                table[f.encode_name] = _plain(held)
        return table
    if isinstance(value, Mapping):
        # What is not a record of the grammar, such as a table in [model.params], belongs to one key.
        return {k: _OneLine(_plain(v)) if isinstance(v, Mapping) else _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class _OneLine(dict[str, Any]):
    """A table that is written as key = {...}."""


def to_toml(spec: RunSpec) -> str:
    """The spec as TOML text with every default written out; read again, it gives an equal spec.

    Tables and keys stand in the order of the grammar. `${` in a value is escaped, since it is meant literally.
    """
    blocks: list[str] = []
    for name, table in to_dict(spec).items():
        if isinstance(table, list):
            header = f"[{name}]" if len(table) == 1 else f"[[{name}]]"
            for one in table:
                blocks.extend(_blocks(header, name, one))
        else:
            blocks.extend(_blocks(f"[{name}]", name, table))
    return "\n".join(blocks)


def _blocks(header: str, name: str, table: Mapping[str, Any]) -> list[str]:
    """One text for the table and one for each table in it: a key after [a.b] would belong to a.b."""
    lines: list[str] = []
    inner: list[str] = []
    for key, value in table.items():
        if isinstance(value, dict) and not isinstance(value, _OneLine):
            path = f"{name}.{_key(key)}"
            inner.extend(_blocks(f"[{path}]", path, value))
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    return ["\n".join([header, *lines]) + "\n", *inner] if lines or not inner else inner


def _key(key: str) -> str:
    import tomli_w

    return tomli_w.dumps({key: 0}).removesuffix(" = 0\n")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    import tomli_w

    literal = value.replace("${", "$${") if isinstance(value, str) else value
    return tomli_w.dumps({"v": literal}).removeprefix("v = ").removesuffix("\n")


def spec_hash(spec: RunSpec) -> str:
    """8 hex digits of the SHA-256 of what the spec says, wherever it is run.

    `run.dir` and `dataset.root` are left out, so that the same run on another machine has the same hash, and so is what
    `[run]` says of the engine, whatever it is. `[gate]` is not: it changes no number, but what the run concludes from
    them, and gate.json is part of the run.
    """
    content = to_dict(spec)
    for key in ("dir", "workers", "address", "cpus", "gpus"):
        content["run"].pop(key, None)
    content["run"]["engine"] = "local"  # the only one that there was when hashes were first made
    content["dataset"].pop("root", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:8]
