"""The JSON Schema of a spec, for editors: made of the grammar's records, the registry and the models' constructors.

It holds of a spec file what a schema can say: every table, key, type and range, the names there are, the parameters of
each model. What only `read_spec` can say (a crop larger than the image, two models with one label) is not in it. So a
file that the schema refuses is one that `read_spec` refuses; the converse does not hold.

It keeps to what JSON Schema draft 7 and 2020-12 have in common, since editors of TOML know the former.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from msgspec import inspect as types

from uadctl.spec.data_sets import DATASETS, DatasetEntry
from uadctl.spec.grammar import DatasetTable, ModelTable, RunSpec, RunTable, Table
from uadctl.spec.reading import fields_of
from uadctl.spec.registry import ModelEntry, all_models
from uadctl.spec.signature import (
    AUTO_PARAMS,
    CHECKPOINT,
    ONE_PASS_LACKS,
    TRAINER,
    constructor_of,
    list_params,
    of_anomalib,
    type_of,
)

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

_Schema = dict[str, Any]

# Keys without a default in the record that `read_spec` fills in by itself.
_FILLED: Final[dict[type[Table], tuple[str, ...]]] = {RunTable: ("name",), ModelTable: ("label",)}

# Any string may hold an environment variable; what it will say is not known here.
_VARIABLE: Final[_Schema] = {"type": "string", "pattern": r"\$\{"}

# As `false`, which some validators report at the table around the key.
_NEVER: Final[_Schema] = {"not": {}}


def spec_schema() -> dict[str, Any]:
    """The schema as JSON values, the same on machines with the same plug-ins. Imports the modules of all models."""
    properties: _Schema = {}
    required = []
    for f in fields_of(RunSpec):
        properties[f.encode_name] = _one_or_several() if f.encode_name == "model" else _schema(f.type)
        if f.required and f.encode_name != "run":
            required.append(f.encode_name)
    return {
        "$schema": DRAFT,
        "$comment": "Written by: uadctl schema --write specs",
        "title": "A spec of uadctl",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "$defs": {
            "model": _table(ModelTable),
            **{entry.name: _params(entry) for entry in _offered()},
            **{f"{entry.name}.grid": _grid(entry) for entry in _offered()},
        },
    }


def _offered() -> list[ModelEntry]:
    """The models that a spec can name."""
    return [entry for _, entry in sorted(all_models().items()) if entry.offered]


def _one_or_several() -> _Schema:
    """[model] or [[model]]. What is said of items holds of an array only, and the rest of a table only, so that a
    mistake is reported where it is and not as one that fits neither."""
    return {
        "description": _meaning(ModelTable),
        "type": ["object", "array"],
        "allOf": [{"$ref": "#/$defs/model"}],
        "items": {"type": "object", "allOf": [{"$ref": "#/$defs/model"}]},
        "minItems": 1,
    }


def _table(record: type[Table]) -> _Schema:
    """One table of the grammar. ModelTable's own `type` is left to `_one_or_several`."""
    found: _Schema = {} if record is ModelTable else {"type": "object"}
    found |= {"description": _meaning(record), "properties": {}, "additionalProperties": False}
    required = []
    for f in fields_of(record):
        if f.name == record.rest:
            keys, values = _by_name(f.type)
            found["patternProperties"] = {keys: values | _described(f.type)}
            continue
        entry = _schema(f.type)
        if isinstance(f.default, str | int | float | tuple):
            entry["default"] = _plain(f.default)
        found["properties"][f.encode_name] = entry
        if f.required and f.encode_name not in _FILLED.get(record, ()):
            required.append(f.encode_name)
    if required:
        found["required"] = required
    conditions: list[_Schema] = [
        {"not": {"required": [key, other]}} for key, others in record.instead.items() for other in others if key < other
    ]
    if record is DatasetTable:
        _choose_dataset(found, conditions)
    if record is ModelTable:
        _choose_model(found, conditions)
    if conditions:
        found["allOf"] = conditions
    return found


def _meaning(record: type) -> str:
    """ "[run]: how the run is done." without the name of the table."""
    first = (record.__doc__ or "").partition("\n\n")[0]
    text = " ".join(first.rpartition("]: ")[2].rpartition("}: ")[2].split())
    return text[:1].upper() + text[1:]


def _schema(wanted: types.Type, *, single: bool = False) -> _Schema:
    """What TOML may hold for a type: the counterpart of `uadctl.spec.values.take`. TOML has no null."""
    match wanted:
        case types.Metadata():
            extra = wanted.extra or {}
            found = _schema(wanted.type, single=extra.get("single", single))
            if "names" in extra:
                found = _choice(sorted(extra["names"]))
            if "examples" in extra:
                # Beside them there are those with parameters: an editor offers the names, and takes everything.
                found = {"anyOf": [{"enum": sorted(name for table in extra["examples"] for name in table)}, found]}
            return found | _described(wanted)
        case types.AnyType():
            return {}
        case types.BoolType():
            return {"type": "boolean"}
        case types.IntType():
            return {"type": "integer"} | _range(wanted)
        case types.FloatType():
            return {"type": "number"} | _range(wanted)
        case types.StrType():
            text = _text(wanted)
            blind = wanted.pattern is None or re.fullmatch(wanted.pattern, "${NAME}")
            return text if blind else {"anyOf": [text, _VARIABLE]}
        case types.LiteralType():
            return _choice(wanted.values)
        case types.VarTupleType() | types.ListType() | types.CollectionType():
            item = _schema(wanted.item_type)
            found = {"type": "array", "items": item} | _length(wanted, "Items")
            if single and "type" not in item:
                return found | {"type": ["array", "string"], "if": {"type": "string"}, "then": item}
            return item | found | {"type": ["array", item["type"]]} if single else found
        case types.TupleType():
            items = [_schema(item) for item in wanted.item_types]
            if any(item != items[0] for item in items):
                return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
            return {"type": "array", "items": items[0], "minItems": len(items), "maxItems": len(items)}
        case types.UnionType():
            options = [_schema(o, single=single) for o in wanted.types if not isinstance(o, types.NoneType)]
            return options[0] if len(options) == 1 else {"anyOf": options}
        case types.DictType():
            return {"type": "object"} | _entries(wanted)
        case types.StructType() if issubclass(wanted.cls, Table):
            return _table(wanted.cls)
        case _:
            raise TypeError(f"{wanted} cannot stand in TOML")


def _entries(wanted: types.DictType) -> _Schema:
    value = _schema(wanted.value_type)
    return {"additionalProperties": value, "propertyNames": _key(wanted.key_type)} if value else {}


def _by_name(wanted: types.Type) -> tuple[str, _Schema]:
    """The pattern of the keys that no field of a table names, and what they hold."""
    if isinstance(wanted, types.Metadata):
        return _by_name(wanted.type)
    if not isinstance(wanted, types.DictType):
        raise TypeError(f"{wanted}: expected a dict")
    return _key(wanted.key_type)["pattern"], _schema(wanted.value_type)


def _key(wanted: types.Type) -> _Schema:
    """A name in a table: a text in which no variable is expanded."""
    if isinstance(wanted, types.Metadata):
        return _key(wanted.type)
    if not isinstance(wanted, types.StrType):
        raise TypeError(f"{wanted}: expected a string")
    return _text(wanted)


def _described(wanted: types.Type) -> _Schema:
    return dict(wanted.extra_json_schema or {}) if isinstance(wanted, types.Metadata) else {}


def _range(wanted: types.IntType | types.FloatType) -> _Schema:
    bounds = {
        "minimum": wanted.ge,
        "exclusiveMinimum": wanted.gt,
        "maximum": wanted.le,
        "exclusiveMaximum": wanted.lt,
    }
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _text(wanted: types.StrType) -> _Schema:
    found: _Schema = {"type": "string"} | _length(wanted, "Length")
    if wanted.pattern is not None:
        # No TOML file holds lone surrogates, and the regular expressions of some editors cannot name them.
        found["pattern"] = wanted.pattern.replace(r"\ud800-\udfff", "")
    return found


def _length(wanted: types.StrType | types.CollectionType, unit: str) -> _Schema:
    bounds = {f"min{unit}": wanted.min_length, f"max{unit}": wanted.max_length}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _choice(values: Sequence[object]) -> _Schema:
    choices: _Schema = {"enum": list(values)}
    return {"anyOf": [choices, _VARIABLE]} if any(isinstance(v, str) for v in values) else choices


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _names(entries: Sequence[ModelEntry | DatasetEntry]) -> list[str]:
    return [name for entry in entries for name in (entry.name, *entry.aliases)]


def _if_name(entry: ModelEntry | DatasetEntry, then: _Schema) -> _Schema:
    # Without the type an array, whose items are asked for themselves, would pass the condition.
    named = {"type": "object", "properties": {"name": {"enum": _names([entry])}}, "required": ["name"]}
    return {"if": named, "then": then}


def _choose_dataset(table: _Schema, conditions: list[_Schema]) -> None:
    """The names there are, and what each kind of data set takes and needs."""
    entries = [DATASETS[name] for name in sorted(DATASETS)]
    table["properties"]["name"] |= _choice(_names(entries))
    del table["properties"]["name"]["type"]
    for entry in entries:
        takes: _Schema = {"split": _choice(entry.splits), "layout": _choice(entry.layouts) if entry.layouts else _NEVER}
        if not entry.takes_files:
            takes["files"] = _NEVER
        then: _Schema = {"properties": takes}
        if entry.needs_root:
            then["required"] = ["root"]
        conditions.append(_if_name(entry, then))


def _choose_model(table: _Schema, conditions: list[_Schema]) -> None:
    """The names there are, and what each model takes and needs."""
    entries = _offered()
    table["properties"]["name"] |= _choice(_names(entries))
    del table["properties"]["name"]["type"]
    # Of any use to completion only, which does not look behind an "if": {} lets everything pass.
    table["properties"]["params"]["anyOf"] = [*({"$ref": f"#/$defs/{entry.name}"} for entry in entries), {}]
    table["properties"]["grid"]["minProperties"] = 1
    for entry in entries:
        takes: _Schema = {
            "params": {"$ref": f"#/$defs/{entry.name}"},
            "grid": {"$ref": f"#/$defs/{entry.name}.grid"},
        }
        then: _Schema = {"properties": takes}
        trained = _given(CHECKPOINT)
        if not entry.trainable:
            takes[TRAINER] = _NEVER
        elif entry.requires_checkpoint:
            then["oneOf"] = [trained, {"required": [TRAINER]}]
        else:
            then["not"] = {"allOf": [trained, {"required": [TRAINER]}]}
        if entry.trainable and (trainer := _trainer(entry)):
            takes[TRAINER] = trainer
        if needed := _needed(entry):
            then["if"] = {"required": ["grid"]}
            then["then"] = {"allOf": [_given(name) for name in needed]}
            then["else"] = {"required": ["params"], "properties": {"params": {"required": needed}}}
        conditions.append(_if_name(entry, then))


def _trainer(entry: ModelEntry) -> _Schema:
    """What one model's [model.trainer] must hold beyond its form."""
    model = of_anomalib(entry)
    if model is None:
        return {}
    keys: _Schema = {} if model.batch_size is None else {"batch_size": {"enum": [model.batch_size]}}
    if model.one_pass:
        keys |= dict.fromkeys(ONE_PASS_LACKS, _NEVER)
    found: _Schema = {"properties": keys} if keys else {}
    return found if model.one_pass else found | {"anyOf": [{"required": ["max_epochs"]}, {"required": ["max_steps"]}]}


def _given(name: str) -> _Schema:
    """That a model's parameter is given, as one of [model.params] or of [model.grid]."""
    return {
        "anyOf": [{"required": [table], "properties": {table: {"required": [name]}}} for table in ("params", "grid")]
    }


def _needed(entry: ModelEntry) -> list[str]:
    """The parameters that a file must give."""
    without = (*AUTO_PARAMS, CHECKPOINT)
    needed = [p.name for p in list_params(entry.name) if p.required and p.settable and p.name not in without]
    return [*needed, CHECKPOINT] if entry.requires_checkpoint and not entry.trainable else needed


def _params(entry: ModelEntry) -> _Schema:
    """[model.params] of one model."""
    constructor = constructor_of(entry)
    properties: _Schema = {}
    for param in list_params(entry.name):
        if not param.settable:
            continue
        found = _schema(type_of(constructor, param.name))
        if param.name in entry.path_params:
            found["minLength"] = 1
        if param.doc:
            found["description"] = param.doc
        if isinstance(param.default, str | int | float | tuple):
            found["default"] = _plain(param.default)
        properties[param.name] = found
    return {
        "type": "object",
        "description": f"Parameters of {entry.name}. {entry.summary}",
        "properties": properties,
        "additionalProperties": constructor.takes_any,
    }


def _grid(entry: ModelEntry) -> _Schema:
    """[model.grid] of one model: a list of values for each parameter that [run] does not give."""
    params = _params(entry)
    found = params["properties"]
    values: _Schema = {"type": "array", "minItems": 1}
    return {
        "type": "object",
        "description": f"Values of {entry.name}'s parameters, all combinations of which are run.",
        "properties": {
            name: values
            | {"items": {key: value for key, value in each.items() if key not in ("description", "default")}}
            for name, each in found.items()
            if name not in AUTO_PARAMS
        }
        | dict.fromkeys((name for name in AUTO_PARAMS if name in found), _NEVER),
        "additionalProperties": values if params["additionalProperties"] else False,
    }
