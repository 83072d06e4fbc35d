"""TOML and command line options to a RunSpec, with every problem at its line.

The file and the options become one tree of values, and beside it a table that says of each value where it
came from. All tables are then read from the tree by the same code, which follows the records of the grammar.
Problems are collected and raised together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import PurePath
from typing import Any, Final

from msgspec import NODEFAULT
from msgspec import inspect as types

from uadctl.errors import Problem, SpecError
from uadctl.spec.data_sets import PROTOCOLS
from uadctl.spec.grammar import (
    LEAST_TILE,
    CalibrationTable,
    LimitsTable,
    MetricsTable,
    ModelTable,
    PostprocessTable,
    PreprocessTable,
    Reads,
    RunSpec,
    Table,
    TrainerTable,
    default_stride,
    name_from,
)
from uadctl.spec.lines import find_lines, split_assignment
from uadctl.spec.registry import ModelEntry, find_dataset, find_model
from uadctl.spec.signature import (
    AUTO_PARAMS,
    CHECKPOINT,
    TRAINER,
    TRUST,
    check_checkpoint,
    check_params,
    default_of,
    fill_params,
    fill_trainer,
    get_model_signature_info,
    merge_checkpoint_path,
    missing_params,
    parse_model_kwargs,
    range_problems,
    settable_params,
    trainer_problems,
    training_params,
)
from uadctl.spec.sweep import MOST_CELLS, combinations, count_combinations, count_variants, variants
from uadctl.spec.values import BAD, Key, did_you_mean, key_text, kind, printable, shown, take
from uadctl.untrusted import MAX_SPEC_BYTES, TOO_DEEP, Hostile, parse_toml, read_stream

MAX_BYTES: Final = MAX_SPEC_BYTES
"""A longer file is not read: it is no spec."""

_LAST: Final = 1 << 60
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says on top of a spec. None means: not given.

    set:        "KEY=VALUE" texts; VALUE is TOML, or else a bare string.
    categories: names and globs that take the place of the spec's.
    model:      takes the place of all models of the spec; their parameters are dropped.
    model_kwargs: JSON object of parameters, merged over those of the only model.
    checkpoint_path, pretrained: parameters of that name; pretrained reaches each model that takes it.
    seed:       takes the place of the spec's seed or seeds.
    run_dir:    parent of the run folders. Paths here are relative to the working directory.
    engine, address, workers: of `[run]`.
    trust_checkpoint: no part of the spec, only of the notes: said where no model takes a checkpoint.
    """

    set: tuple[str, ...] = ()
    dataset: str | None = None
    root: str | None = None
    categories: tuple[str, ...] | None = None
    split: str | None = None
    model: str | None = None
    model_kwargs: str | None = None
    checkpoint_path: str | None = None
    pretrained: bool | None = None
    pixel: bool | None = None
    device: str | None = None
    seed: int | None = None
    limit_train: int | None = None
    limit_test: int | None = None
    run_dir: str | None = None
    engine: str | None = None
    address: str | None = None
    workers: int | None = None
    trust_checkpoint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A spec that was read, and what the user should be told about it (an option that had no effect)."""

    spec: RunSpec
    notes: tuple[str, ...] = ()


_NO_OVERRIDES: Final = Overrides()


def read_spec(
    path: str | os.PathLike[str] | None,
    overrides: Overrides = _NO_OVERRIDES,
    *,
    env: Mapping[str, str] | None = None,
) -> Reading:
    """Read a spec file, lay the command line over it, fill in every default and check all of it.

    path: a TOML file in UTF-8, or None for a spec that consists of the overrides.
    env:  what `${VAR}` refers to; the environment of the process unless given.

    Paths come out absolute, aliases as full names. Raises SpecError with every problem found, each starting
    with "file:line:" or with the option that it comes from.
    """
    variables = os.environ if env is None else env
    if path is None:
        draft = _Draft(source=None, base=os.getcwd())  # noqa: PTH109
    else:
        draft = _draft_from_file(os.fspath(path))
    _override(draft, overrides)
    draft.tree = draft.expand(draft.tree, (), variables)
    _checkpoint(draft, overrides.checkpoint_path)
    _pretrained(draft, overrides.pretrained)
    _grid_or_params(draft)
    _fill_names(draft)
    spec = _read_tables(draft, overrides)
    if draft.problems or spec is None:
        ordered = [problem for _, problem in sorted(draft.problems, key=lambda p: p[0])]
        raise SpecError(list(dict.fromkeys(ordered)), source=draft.source)
    if overrides.trust_checkpoint and not any(_takes_trust(model) for model in spec.models):
        draft.notes.append("--trust-checkpoint has no effect: no model of the spec is given a checkpoint")
    return Reading(spec=spec, notes=tuple(draft.notes))


def _takes_trust(model: ModelTable) -> bool:
    accepted, _ = get_model_signature_info(model.name)
    return TRUST in accepted and model.trainer is None


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a value came from.

    where:   what a message about it starts with: "file:line", or the option.
    line:    the line in the file; _LAST for options, whose problems come last.
    base:    the folder that relative paths refer to.
    covers:  for an option, the key that its text names: a message need not name it again. None for the file.
    option:  the kind of option: "--set"; "" for the file.
    expands: ${VAR} is expanded in it.
    """

    where: str
    line: int
    base: str
    covers: Key | None = None
    option: str = ""
    expands: bool = True


@dataclass(slots=True)
class _Draft:
    """The tree of values while it is put together, and what was found wrong with it."""

    source: str | None
    base: str
    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, _Origin] = field(default_factory=dict)
    problems: list[tuple[int, Problem]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def origin(self, key: Key) -> _Origin:
        """Of the value at `key`, or of the nearest table around it."""
        for length in range(len(key), -1, -1):
            found = self.origins.get(key[:length])
            if found is not None:
                return found
        return _Origin(self.source or "", 0, self.base)

    def find(self, key: Key) -> Any:
        """The value at `key`; BAD if there is none."""
        node: Any = self.tree
        for part in key:
            if isinstance(part, int):
                inside = isinstance(node, list) and part < len(node)
            else:
                inside = isinstance(node, dict) and part in node
            if not inside:
                return BAD
            node = node[part]
        return node

    def wrong(self, key: Key, fact: str, help: str | None = None) -> None:
        """Say what is wrong with the value at `key`: "file:line: [table] key = value: fact"."""
        covers = self.origin(key).covers
        value = self.find(key)
        said = "" if value is BAD or isinstance(value, dict) else f" = {shown(value)}"
        if covers is None or covers[: len(key)] != key:
            subject = _subject(key, covers)
            self.add(key, f"{subject}{said}: {fact}", help)
        else:
            self.add(key, fact, help)

    def about(self, key: Key, fact: str, help: str | None = None) -> None:
        """Say something of the table at `key`: "file:line: [table] fact"."""
        self._in_table(key, _table(key), fact, help)

    def of_entry(self, key: Key, fact: str, help: str | None = None) -> None:
        """Say something of the entry `key`, which `fact` names, at its own line: "file:line: [table] fact"."""
        self._in_table(key, _table(key[:-1]), fact, help)

    def _in_table(self, key: Key, table: str, fact: str, help: str | None) -> None:
        self.add(key, fact if self.origin(key).option or not table else f"[{table}] {fact}", help)

    def add(self, key: Key, message: str, help: str | None) -> None:
        """Keep a problem whose message starts with where the value at `key` came from."""
        origin = self.origin(key)
        where = f"{origin.where}: " if origin.where else ""
        self.problems.append((origin.line, Problem(f"{where}{message}", help)))

    def option_wrong(self, where: str, fact: str, help: str | None = None) -> None:
        """Say what is wrong with an option that reaches no value."""
        self.problems.append((_LAST, Problem(f"{where}: {fact}", help)))

    def put(self, key: Key, value: Any, origin: _Origin) -> None:
        """Lay a value from an option over the tree, making the tables around it."""
        before = self.origins.get(key)
        if before is not None and before.option not in ("", origin.option) and self.find(key) != value:
            self.option_wrong(origin.where, f"contradicts {before.where}", "Give one of the two.")
            return
        if not isinstance(self.tree.get(str(key[0]), {}), dict | list):
            return  # not a table: that is reported, and hides the rest
        node: Any = self.tree
        for i, part in enumerate(key[:-1]):
            wanted = list if isinstance(key[i + 1], int) else dict
            child = self.find(key[: i + 1])
            if not isinstance(child, wanted):
                child = wanted()
                node[part] = child
                self.forget(key[: i + 1])
                self.origins[key[: i + 1]] = origin
            node = child
        node[key[-1]] = value
        self.forget(key)
        self.origins[key] = origin

    def forget(self, key: Key) -> None:
        """Drop the origins of `key` and of everything in it."""
        for other in [k for k in self.origins if k[: len(key)] == key]:
            del self.origins[other]

    def expand(self, value: Any, key: Key, env: Mapping[str, str]) -> Any:
        """The value with `${VAR}` replaced in every string; BAD, and a report, where that cannot be done."""
        if isinstance(value, dict):
            for name in value:
                if not _is_unicode(name):
                    self.wrong((*key, name), "is not Unicode text, which a spec is")
            return {k: self.expand(v, (*key, k), env) for k, v in value.items()}
        if isinstance(value, list):
            return [self.expand(v, (*key, i), env) for i, v in enumerate(value)]
        if not isinstance(value, str):
            return value
        faults: list[tuple[str, str]] = []
        if "${" in value and self.origin(key).expands:

            def replaced(found: re.Match[str]) -> str:
                if found[0] == "$${":
                    return "${"
                name = found[1]
                if not found[2] or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                    faults.append(
                        ("expected ${NAME}, the name of an environment variable", "Write $${ for a literal ${.")
                    )
                elif name in env:
                    return env[name]
                else:
                    faults.append(
                        (
                            f"the environment variable {name} is not set",
                            f"Set it: export {name}=…, or write the value itself.",
                        )
                    )
                return ""

            expanded = _VARIABLE.sub(replaced, value)
        else:
            expanded = value
        if not _is_unicode(expanded):
            faults.append(("is not Unicode text, which a spec is", "Rename it, or use a link with such a name."))
        for fact, help_ in faults:
            self.wrong(key, fact, help_)
        return BAD if faults else expanded


@cache
def fields_of(record: type) -> tuple[types.Field, ...]:
    """The fields of a record of the grammar, with their types."""
    info = types.type_info(record)
    if not isinstance(info, types.StructType):
        raise TypeError(f"{record.__name__} is no msgspec Struct")
    return info.fields


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _table(key: Key) -> str:
    return ".".join(key_text(part) for part in key if isinstance(part, str))


def _subject(key: Key, covers: Key | None) -> str:
    """How a message names `key`: "[table] key[1]", or, for an option that covers a part, the rest of it."""
    if covers is not None and key[: len(covers)] == covers:
        rest = key[len(covers) :]
        return "".join(f"[{p}]" if isinstance(p, int) else f".{key_text(p)}" for p in rest).removeprefix(".")
    end = len(key)
    while end > 1 and isinstance(key[end - 1], int):
        end -= 1
    table = _table(key[: end - 1])
    name = key_text(str(key[end - 1])) + "".join(f"[{part}]" for part in key[end:])
    return f"[{table}] {name}" if table else name


# ---- the file


def _draft_from_file(path: str) -> _Draft:
    where = printable(path)
    text = _read_text(path, where)
    try:
        tree = parse_toml(text)
        lines = find_lines(text)
    except Hostile as error:
        fact = f"lists or tables are {error}" if str(error) == TOO_DEEP else str(error)
        raise SpecError(f"{where}: {fact}", source=where) from error
    except ValueError as error:
        raise SpecError(_syntax(where, text, str(error)), source=where) from error
    base = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120 - pathlib would drop what a link points at
    draft = _Draft(source=where, base=base, tree=tree)
    repeated = {f.encode_name for f in fields_of(RunSpec) if _repeated(f.type)}
    for name in repeated:
        if isinstance(tree.get(name), dict):
            tree[name] = [tree[name]]
            lines = {(name, 0, *key[1:]) if key[0] == name else key: line for key, line in lines.items()}
    for key, line in lines.items():
        draft.origins[key] = _Origin(f"{where}:{line}", line, base)
    return draft


def _read_text(path: str, where: str) -> str:
    try:
        data = read_stream(path, most=MAX_BYTES)  # also takes a device or a pipe
    except FileNotFoundError as error:
        raise SpecError(f"{where}: there is no such spec file", source=where) from error
    except IsADirectoryError as error:
        raise SpecError(f"{where}: is a folder, expected a spec file", source=where) from error
    except OSError as error:
        raise SpecError(f"{where}: cannot be read: {error.strerror}", source=where) from error
    except Hostile as error:
        raise SpecError(f"{where}: {error}", source=where) from error
    if len(data) > MAX_BYTES:
        raise SpecError(f"{where}: longer than {MAX_BYTES} bytes, which no spec is", source=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"{where}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x})",
            help="Save the file as UTF-8.",
            source=where,
        ) from error
    return text.replace("\r\n", "\n")


def _syntax(where: str, text: str, said: str) -> str:
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", said)
    if place is None:
        return f"{where}: not valid TOML: {printable(said[:200])}"
    fact = printable(said[: place.start()][:200])
    if place[1] is None:
        return f"{where}:{text.rstrip().count(chr(10)) + 1}: not valid TOML: {fact} (at the end of the file)"
    return f"{where}:{place[1]}: not valid TOML: {fact} (column {place[2]})"


# ---- the command line


def _override(draft: _Draft, overrides: Overrides) -> None:
    if overrides.model is not None:
        _replace_models(draft, overrides.model)
    typed: list[tuple[str, str, Key, object]] = [
        ("--dataset", f"--dataset {overrides.dataset}", ("dataset", "name"), overrides.dataset),
        ("--root", f"--root {overrides.root}", ("dataset", "root"), overrides.root),
        ("--split", f"--split {overrides.split}", ("dataset", "split"), overrides.split),
        ("--device", f"--device {overrides.device}", ("run", "device"), overrides.device),
        ("--seed", f"--seed {overrides.seed}", ("run", "seed"), overrides.seed),
        ("--run-dir", f"--run-dir {overrides.run_dir}", ("run", "dir"), overrides.run_dir),
        ("--engine", f"--engine {overrides.engine}", ("run", "engine"), overrides.engine),
        ("--address", f"--address {overrides.address}", ("run", "address"), overrides.address),
        ("--workers", f"--workers {overrides.workers}", ("run", "workers"), overrides.workers),
        ("--limit-train", f"--limit-train {overrides.limit_train}", ("dataset", "limit_train"), overrides.limit_train),
        ("--limit-test", f"--limit-test {overrides.limit_test}", ("dataset", "limit_test"), overrides.limit_test),
        ("--pixel", "--pixel" if overrides.pixel else "--no-pixel", ("metrics", "pixel"), overrides.pixel),
    ]
    for option, where, key, value in typed:
        if value is not None:
            _put(draft, key, value, _option(option, where, key))
    if overrides.categories is not None:
        _categories(draft, overrides.categories)
    for text in overrides.set:
        _set(draft, text)
    if overrides.model_kwargs is not None:
        _model_kwargs(draft, overrides.model_kwargs)


def _option(option: str, where: str, covers: Key, *, expands: bool = False) -> _Origin:
    said = printable(where)
    return _Origin(said if len(said) <= 160 else said[:159] + "…", _LAST, os.getcwd(), covers, option, expands)  # noqa: PTH109


def _categories(draft: _Draft, names: tuple[str, ...]) -> None:
    key: Key = ("dataset", "categories")
    if names == ("all",):
        draft.put(key, "all", _option("--category", "--category all", key))
        return
    draft.put(key, list(names), _option("--category", "--category", key))
    for i, name in enumerate(names):
        draft.origins[*key, i] = _option("--category", f"--category {name}", (*key, i))


def _set(draft: _Draft, text: str) -> None:
    where = f"--set {text}"
    parted = split_assignment(text)
    if parted is None:
        draft.option_wrong(
            _option("--set", where, ()).where, "expected KEY=VALUE", "Example: --set model.params.coreset_ratio=0.05"
        )
        return
    names, written = parted
    value = _toml_value(written)
    key: Key = names
    if names[0] == "model":
        meant = _model_key(draft, _option("--set", where, ()).where, names[1:])
        if meant is None:
            return
        key = meant
    elif len(names) == 1 and not isinstance(value, dict):
        fields = {f.encode_name: f for f in fields_of(RunSpec)}
        if names[0] in fields:
            draft.option_wrong(
                _option("--set", where, ()).where,
                f"{names[0]} is a table",
                f"Say which key: --set {names[0]}.KEY=VALUE",
            )
            return
    _put(draft, key, value, _option("--set", where, key, expands=True))


def _put(draft: _Draft, key: Key, value: object, origin: _Origin) -> None:
    """Lay a value from an option over the tree; in the file, another key that it stands instead of gives way."""
    draft.put(key, value, origin)
    for other in _record_instead(key):
        table = draft.find(other[:-1])
        if not draft.origin(other).option and isinstance(table, dict) and other[-1] in table:
            del table[other[-1]]
            draft.forget(other)


def _record_instead(key: Key) -> tuple[Key, ...]:
    """The keys that `key` takes the place of, if the grammar says that only one of them may be given."""
    for f in fields_of(RunSpec):
        record = _record(f.type)
        if record is not None and key[0] == f.encode_name and len(key) == 2:
            return tuple((key[0], other) for other in record.instead.get(str(key[1]), ()))
    return ()


def _toml_value(written: str) -> Any:
    """A TOML value, or else the text itself."""
    try:
        parsed = parse_toml(f"value = {written}")
    except ValueError:
        return written
    return parsed["value"] if set(parsed) == {"value"} else written


def _models(draft: _Draft) -> list[dict[str, Any]] | None:
    """The tables of the models; None if `model` is something else, which is reported when tables are read."""
    found = draft.tree.get("model", [])
    if not isinstance(found, list) or not all(isinstance(model, dict) for model in found):
        return None
    return found


def _label(model: Mapping[str, Any]) -> str:
    label = model.get("label", model.get("name"))
    entry = find_model(label) if isinstance(label, str) and "label" not in model else None
    return entry.name if entry else str(label)


def _replace_models(draft: _Draft, name: str) -> None:
    before = _models(draft) or []
    for model in before:
        tables = (model.get("params"), model.get("grid"))
        params = [param for table in tables if isinstance(table, dict) for param in table]
        if params:
            draft.notes.append(
                f"--model {printable(name)} takes the place of {printable(_label(model))}: "
                f"its parameters ({', '.join(map(key_text, params))}) are dropped"
            )
    draft.forget(("model",))
    draft.tree["model"] = []
    _put_model_name(draft, name)


def _put_model_name(draft: _Draft, name: str) -> None:
    origin = _option("--model", f"--model {name}", ("model", 0, "name"))
    draft.tree["model"] = [{"name": name}]
    draft.origins["model", 0] = draft.origins["model", 0, "name"] = origin


def _only_model(draft: _Draft, where: str) -> bool:
    """Whether there is exactly one model; says so if there are several."""
    models = _models(draft)
    if models is None:
        return False
    if len(models) > 1:
        labels = ", ".join(key_text(_label(m)) for m in models)
        draft.option_wrong(
            printable(where)[:160],
            f"the spec has {len(models)} models, expected one",
            f"Choose one with --model NAME, or use --set model.LABEL.params.KEY=VALUE; labels: {labels}",
        )
    return len(models) == 1


def _model_key(draft: _Draft, where: str, names: tuple[str, ...]) -> Key | None:
    """The key that `--set model.NAMES=...` means; None, and a report, if that is not clear."""
    models = _models(draft)
    if models is None:
        return None
    if not names:
        draft.option_wrong(where, "model is a table", "Say which key: --set model.params.KEY=VALUE")
        return None
    keys = {f.encode_name for f in fields_of(ModelTable)}
    labels = [_label(model) for model in models]
    entry = find_model(names[0])
    wanted = names[0] if names[0] in labels or entry is None else entry.name
    if len(models) <= 1 and names[0] in keys:
        draft.tree["model"] = models or [{}]
        return ("model", 0, *names)
    if labels.count(wanted) == 1:
        if len(names) == 1:
            draft.option_wrong(where, f"{wanted} is a table", f"Say which key: --set model.{wanted}.params.KEY=VALUE")
            return None
        return ("model", labels.index(wanted), *names[1:])
    if len(models) <= 1:
        draft.tree["model"] = models or [{}]
        return ("model", 0, *names)
    fact = (
        f"the spec has {len(models)} models, expected model.LABEL.{'.'.join(names)}"
        if names[0] in keys
        else f"no model has the label {key_text(names[0])}{did_you_mean(names[0], labels)}"
    )
    draft.option_wrong(where, fact, f"The labels are: {', '.join(map(key_text, labels))}")
    return None


def _model_kwargs(draft: _Draft, text: str) -> None:
    if not _only_model(draft, "--model-kwargs"):
        return
    try:
        kwargs = parse_model_kwargs(text)
    except SpecError as error:
        draft.problems.extend((_LAST, problem) for problem in error.problems)
        # Nobody knows whether a checkpoint was among them, so that none is missed.
        draft.put(("model", 0, "params", CHECKPOINT), BAD, _option("--model-kwargs", "--model-kwargs", ("model", 0)))
        return
    params: Key = ("model", 0, "params")
    for name, value in kwargs.items():
        draft.put((*params, name), value, _option("--model-kwargs", "--model-kwargs", params))


def _checkpoint(draft: _Draft, path: str | None) -> None:
    """Lay --checkpoint-path over the parameters, where another checkpoint conflicts instead of giving way."""
    if path is None or not _only_model(draft, f"--checkpoint-path {path}"):
        return
    key: Key = ("model", 0, "params", CHECKPOINT)
    origin = _option("--checkpoint-path", f"--checkpoint-path {path}", key)
    given = draft.find(key)
    if given is BAD or given is None:
        draft.put(key, path, origin)
    elif isinstance(given, str):
        own = {CHECKPOINT: _absolute(given, draft.origin(key).base)}
        try:
            merge_checkpoint_path(own, checkpoint_path=_absolute(path, origin.base))
        except SpecError as error:
            draft.problems.extend((_LAST, problem) for problem in error.problems)


def _pretrained(draft: _Draft, pretrained: bool | None) -> None:
    if pretrained is None:
        return
    where = "--pretrained" if pretrained else "--no-pretrained"
    for i, model in enumerate(_models(draft) or []):
        entry = _entry(model.get("name"))
        if entry is None:
            continue
        takes = settable_params(entry.name)
        # anomalib's name for it, which a checkpoint is not asked for.
        name = "pre_trained" if "pre_trained" in takes and "trainer" in model else "pretrained"
        key: Key = ("model", i, "params", name)
        if name in takes:
            draft.put(key, pretrained, _option("--pretrained", where, key))
        else:
            draft.notes.append(f"{where} has no effect on {entry.name}, which takes no parameter pretrained")


def _grid_or_params(draft: _Draft) -> None:
    """A parameter given by an option takes the place of the file's grid over it, and a grid that of a parameter."""
    for i, model in enumerate(_models(draft) or []):
        params, grid = model.get("params"), model.get("grid")
        if not isinstance(params, dict) or not isinstance(grid, dict):
            continue
        for name in [name for name in grid if name in params]:
            optional = [bool(draft.origin(("model", i, table, name)).option) for table in ("params", "grid")]
            if optional[0] != optional[1]:
                loser = "grid" if optional[0] else "params"
                del model[loser][name]
                draft.forget(("model", i, loser, name))
                if not grid:
                    del model["grid"]


def _entry(name: object) -> ModelEntry | None:
    return find_model(name) if isinstance(name, str) else None


# ---- the tables


def _fill_names(draft: _Draft) -> None:
    """Aliases become names, and defaults are set that depend on something else: the run's name, the labels."""
    dataset = draft.tree.get("dataset")
    name = dataset.get("name") if isinstance(dataset, dict) else None
    entry = find_dataset(name) if isinstance(name, str) else None
    if isinstance(dataset, dict) and entry is not None:
        dataset["name"] = entry.name
        dataset.setdefault("split", entry.splits[0])
    run = draft.tree.setdefault("run", {})
    if isinstance(run, dict) and "name" not in run:
        run["name"] = name_from(PurePath(draft.source).stem if draft.source else entry.name if entry else "run")
    if entry is not None:
        metrics = draft.tree.setdefault("metrics", {})
        if isinstance(metrics, dict):
            protocol = PROTOCOLS.get(str(metrics.setdefault("protocol", entry.measured_by)))
            if protocol is not None:
                metrics.setdefault("fpr_limits", list(protocol.fpr_limits))
    _fill_tiling(draft)
    for model in _models(draft) or []:
        if "label" not in model:
            entry_ = _entry(model.get("name"))
            model["label"] = entry_.name if entry_ else BAD


def _fill_tiling(draft: _Draft) -> None:
    """Tiles overlap by a quarter, and where they are learned they keep their pixels, if nothing else is said."""
    tiling = draft.tree.get("tiling")
    size = tiling.get("size") if isinstance(tiling, dict) else None
    if not isinstance(tiling, dict) or not isinstance(size, int) or isinstance(size, bool) or size < LEAST_TILE:
        return
    tiling.setdefault("stride", default_stride(size))
    preprocess = draft.tree.setdefault("preprocess", {})
    if tiling.get("fit", "tiles") == "tiles" and isinstance(preprocess, dict) and "resize" not in preprocess:
        preprocess.setdefault("size", size)


def _repeated(wanted: types.Type) -> types.StructType | None:
    """The record of a table that may be repeated, or None for another type."""
    if isinstance(wanted, types.Metadata):
        return _repeated(wanted.type)
    if isinstance(wanted, types.VarTupleType) and isinstance(wanted.item_type, types.StructType):
        return wanted.item_type
    return None


def _record(wanted: types.Type) -> type[Table] | None:
    """The record that a type is, or may be, or None."""
    if isinstance(wanted, types.Metadata):
        return _record(wanted.type)
    if isinstance(wanted, types.UnionType):
        return next((record for option in wanted.types if (record := _record(option))), None)
    if isinstance(wanted, types.StructType) and issubclass(wanted.cls, Table):
        return wanted.cls
    return None


def _is_path(wanted: types.Type) -> bool:
    if isinstance(wanted, types.Metadata):
        return bool((wanted.extra or {}).get("path")) or _is_path(wanted.type)
    return isinstance(wanted, types.UnionType) and any(_is_path(option) for option in wanted.types)


def _reads(wanted: types.Type) -> Reads | None:
    """How the texts of a type are read that have a grammar of their own, or None."""
    match wanted:
        case types.Metadata():
            found: Reads | None = (wanted.extra or {}).get("reads")
            return found or _reads(wanted.type)
        case types.UnionType():
            return next((found for option in wanted.types if (found := _reads(option))), None)
        case types.VarTupleType():
            return _reads(wanted.item_type)
        case _:
            return None


def _read_texts(draft: _Draft, value: Any, reads: Reads, key: Key) -> Any:
    """A text, or the texts of a list, as the filled spec says them; BAD where something of them was reported."""
    if isinstance(value, str):
        found = _read_text_at(draft, value, reads, key)
        return BAD if found is None else found[0]
    single = not isinstance(draft.find(key), list)
    read = [_read_text_at(draft, text, reads, key if single else (*key, i)) for i, text in enumerate(value)]
    return BAD if None in read else tuple(text for texts in read if texts for text in texts)


def _read_text_at(draft: _Draft, text: str, reads: Reads, key: Key) -> tuple[str, ...] | None:
    try:
        return reads(text, lambda path: _absolute(path, draft.origin(key).base))
    except ValueError as error:
        draft.wrong(key, str(error))
        return None


def _absolute(path: str, base: str) -> str:
    joined = os.path.join(base, os.path.expanduser(path))  # noqa: PTH111, PTH118
    if "\0" in joined:  # no system has such a path: whoever opens it says so
        return joined
    short = os.path.normpath(joined)
    # Through a link, "link/.." is not the folder the link lies in: then the path stays as written.
    return short if os.path.realpath(short) == os.path.realpath(joined) else joined


def _read_tables(draft: _Draft, overrides: Overrides) -> RunSpec | None:
    fields = {f.encode_name: f for f in fields_of(RunSpec)}
    _unknown_tables(draft, list(fields))
    parts: dict[str, Any] = {}
    for name, f in fields.items():
        repeated = _repeated(f.type)
        given = draft.tree.get(name)
        if given is None or given == []:
            if f.required:
                missing = (f.type.extra or {}).get("missing") if isinstance(f.type, types.Metadata) else None
                draft.add((), f"[{name}] is missing", missing)
            elif f.default_factory is not NODEFAULT:
                parts[f.name] = f.default_factory()
            else:
                parts[f.name] = f.default
        elif repeated is not None:
            records = _read_models(draft, given, name, overrides)
            if records is not None:
                parts[f.name] = records
        else:
            record = _record(f.type)
            if record is None or not isinstance(given, dict):
                draft.wrong((name,), f"expected a table [{name}], found {kind(given)}")
                continue
            table = _build(record, _read_table(draft, record, given, (name,)))
            if table is not None:
                parts[f.name] = table
    _check_gate(draft, parts.get("metrics"))
    _check_crop(draft, parts.get("preprocess"))
    _check_hysteresis(draft, parts.get("postprocess"), parts.get("calibration"))
    if draft.problems or len(parts) < len(fields):
        return None
    spec = RunSpec(**parts)
    _check_sweep(draft, spec)
    return spec


def _unknown_tables(draft: _Draft, tables: list[str]) -> None:
    takes = f"A spec has the tables: {', '.join(tables)}"
    for name, value in draft.tree.items():
        if name in tables:
            continue
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            draft.add((name,), f"[{key_text(name)}] is not a table of a spec{did_you_mean(name, tables)}", takes)
        else:
            homes = [table for table, key in _all_keys() if key == name]
            better = f"; did you mean [{homes[0]}] {name}?" if homes else did_you_mean(name, tables)
            draft.add((name,), f"{key_text(name)} is in no table{better}", takes)


def _all_keys() -> Iterator[tuple[str, str]]:
    """Every (table, key) of the grammar."""
    for f in fields_of(RunSpec):
        record = _repeated(f.type)
        cls = record.cls if record is not None else _record(f.type)
        if cls is not None:
            # Keys of the user's own, such as names of categories, are in no list.
            yield from ((f.encode_name, key.encode_name) for key in fields_of(cls) if _entries(key.type) is None)


def _read_table(draft: _Draft, record: type[Table], raw: dict[str, Any], key: Key) -> dict[str, Any]:
    """The values of one table, converted, with defaults; those that were reported are left out."""
    fields = {f.encode_name: f for f in fields_of(record) if f.name != record.rest}
    values: dict[str, Any] = {}
    known = sorted(fields)
    others = {name: value for name, value in raw.items() if name not in fields}
    for f in fields_of(record):
        entries = _entries(f.type) if f.name == record.rest else None
        if entries is not None:
            fitting = {n: v for n, v in others.items() if take(n, entries.key_type, key, _unheard) is not BAD}
            others = {n: v for n, v in others.items() if n not in fitting}
            values[f.name] = _read_entries(draft, entries, fitting, key)
            known = sorted([*fields, str(_extra(entries.key_type, "example"))])
    for name in others:
        _unknown_key(draft, (*key, name), raw, known, record.hints)
    for name, f in fields.items():
        here = (*key, name)
        inner = _record(f.type)
        entries = _entries(f.type)
        if name not in raw:
            if f.required:
                draft.of_entry(here, f"{name} is missing: {_meaning(f.type)}")
                continue
            value = f.default if f.default is not NODEFAULT else f.default_factory()
            if any(other in raw for other in record.instead.get(name, ())):
                value = None
            elif _is_path(f.type) and value is not None:
                value = _absolute(value, os.getcwd())  # noqa: PTH109
        elif inner is not None and isinstance(raw[name], dict):
            value = _build(inner, _read_table(draft, inner, raw[name], here))
            value = BAD if value is None else value
        elif entries is not None and isinstance(raw[name], dict):
            value = _read_entries(draft, entries, raw[name], here)
        else:
            value = take(raw[name], f.type, here, draft.wrong)
            if value is not BAD and value is not None:
                if _is_path(f.type):
                    value = _absolute(value, draft.origin(here).base)
                elif reads := _reads(f.type):
                    value = _read_texts(draft, value, reads, here)
        if value is not BAD:
            values[f.name] = value
    for name, other in ((name, other) for name, others in record.instead.items() for other in others):
        if name < other and name in raw and other in raw:
            last = max((*key, name), (*key, other), key=lambda k: draft.origin(k).line)
            draft.wrong(last, f"only one of {name} and {other} can be given", f"Remove one of {name} and {other}.")
    for rule in record.rules:
        if all(k in values for k in rule.keys):
            found = rule.check(*(values[k] for k in rule.keys))
            if found is not None:
                here = (*key, found.key)
                say = draft.wrong if found.key in raw else draft.of_entry
                text = found.fact if found.key in raw else f"{found.key} {found.fact}"
                say(here, text, found.help)
                values[found.key] = BAD
    return {k: v for k, v in values.items() if v is not BAD}


def _entries(wanted: types.Type) -> types.DictType | None:
    """The type of a table whose entries are tables themselves, by names of the user's, or None for another type."""
    if isinstance(wanted, types.Metadata):
        return _entries(wanted.type)
    if isinstance(wanted, types.UnionType):
        return next((found for option in wanted.types if (found := _entries(option))), None)
    return wanted if isinstance(wanted, types.DictType) and _record(wanted.value_type) is not None else None


def _extra(wanted: types.Type, name: str) -> Any:
    """What the grammar says of a type under `name`, or None."""
    return (wanted.extra or {}).get(name) if isinstance(wanted, types.Metadata) else None


def _read_entries(draft: _Draft, wanted: types.DictType, raw: Mapping[str, Any], key: Key) -> Any:
    """The tables in a table, by name; BAD if something of one was reported."""
    record = _record(wanted.value_type)
    entries: dict[str, Any] = {}
    for name, value in raw.items():
        here = (*key, name)
        if take(name, wanted.key_type, here, draft.wrong) is BAD:
            entries[name] = BAD
        elif record is not None and isinstance(value, dict):
            table = _build(record, _read_table(draft, record, value, here))
            entries[name] = BAD if table is None else table
        else:
            entries[name] = take(value, wanted.value_type, here, draft.wrong)
    return BAD if any(entry is BAD for entry in entries.values()) else entries


def _unheard(key: Key, fact: str) -> None:
    """Takes a report that nobody is to hear: whether a value fits is all that is asked."""


def _meaning(wanted: types.Type) -> str:
    schema = wanted.extra_json_schema if isinstance(wanted, types.Metadata) else None
    text = str((schema or {}).get("description", "a value"))
    return text[:1].lower() + text[1:]


def _build(record: type[Table], values: Mapping[str, Any]) -> Any:
    """The record, or None if some of its values were reported."""
    fields = fields_of(record)
    return record(**values) if all(f.name in values for f in fields) else None


def _unknown_key(draft: _Draft, key: Key, raw: Mapping[str, Any], known: list[str], hints: Mapping[str, str]) -> None:
    name, table = str(key[-1]), _table(key[:-1])
    better = hints.get(name) or did_you_mean(name, known)
    if not better:
        entry = _entry(raw.get("name")) if key[0] == "model" and len(key) == 3 else None
        if entry is not None and name in settable_params(entry.name):
            better = f"; did you mean [model.params] {name}?"
        else:
            homes = [home for home, other in _all_keys() if other == name and home != table]
            better = f"; did you mean [{homes[0]}] {name}?" if homes else ""
    draft.of_entry(key, f"{key_text(name)} is not a key of [{table}]{better}", f"[{table}] takes: {', '.join(known)}")


# ---- tables that contradict each other


def _check_crop(draft: _Draft, preprocess: object) -> None:
    if isinstance(preprocess, PreprocessTable) and preprocess.crop is not None and "tiling" in draft.tree:
        draft.wrong(
            ("preprocess", "crop"),
            "contradicts [tiling]: a crop of every tile would leave gaps between them",
            'Say which part of the images counts: [preprocess] roi = "box:top,left,bottom,right"',
        )


def _check_hysteresis(draft: _Draft, postprocess: object, calibration: object) -> None:
    if not isinstance(postprocess, PostprocessTable) or not isinstance(calibration, CalibrationTable):
        return
    reached, wanted = calibration.pixel_sigmas, postprocess.hysteresis
    if reached is not None and wanted is not None and wanted <= reached:
        draft.wrong(
            ("postprocess", "hysteresis"),
            f"has no effect: [calibration] pixel_sigmas = {shown(reached)}, which every region reaches",
            "Make hysteresis larger than pixel_sigmas, or leave it out.",
        )


# ---- the gate


def _check_gate(draft: _Draft, metrics: object) -> None:
    """Say which limits could never hold anything back: on metrics that are not computed, and none at all."""
    gate = draft.tree.get("gate")
    if not isinstance(gate, dict):
        return
    by_name = gate.get("category")
    categories = by_name if isinstance(by_name, dict) else {}
    tables: list[tuple[Key, object]] = [(("gate",), {} if gate == {"category": {}} else gate)]
    tables += [(("gate", "category", name), table) for name, table in categories.items()]
    for key, table in tables:
        if table == {}:
            draft.about(key, "has no limit", "Example: image_auroc = { min = 0.95 }")
        elif isinstance(table, dict) and isinstance(metrics, MetricsTable):
            _check_computed(draft, metrics, table, key)
    regression = gate.get("regression")
    if isinstance(regression, dict) and isinstance(metrics, MetricsTable):
        for where in ("metrics", "tolerances"):
            names = regression.get(where, ())
            if isinstance(names, list | dict):
                compared = [name for name in names if isinstance(name, str)]
                _check_computed(draft, metrics, compared, ("gate", "regression", where))


def _check_computed(draft: _Draft, metrics: MetricsTable, names: Iterable[str], key: Key) -> None:
    of_pixels = {f.encode_name for f in fields_of(LimitsTable) if f.encode_name.startswith("pixel_")}
    computed = [_aupro_name(limit) for limit in metrics.fpr_limits]
    ours = PROTOCOLS[metrics.protocol]
    of_others: dict[str, list[str]] = {}
    for other in PROTOCOLS.values():
        for own in other.own if other is not ours else ():
            if own not in ours.own:
                of_others.setdefault(own, []).append(other.name)
    for name in names:
        if name in of_others:
            draft.of_entry(
                (*key, name),
                f"{name} is not computed: it belongs to the protocol {' or '.join(of_others[name])}",
                f"[metrics] protocol = {shown(metrics.protocol)}",
            )
            continue
        if name.startswith("aupro_") and name not in computed:
            draft.of_entry(
                (*key, name),
                f"{key_text(name)} is not computed{did_you_mean(name, computed)}",
                f"[metrics] fpr_limits = {shown(metrics.fpr_limits)} gives: {', '.join(computed)}",
            )
        elif (name in of_pixels or name in computed or name in ours.of_pixels) and not metrics.pixel:
            draft.of_entry(
                (*key, name), f"{name} is not computed: [metrics] pixel = false", "Remove the limit, or give --pixel."
            )


def _aupro_name(limit: float) -> str:
    """What `uadctl.metrics.aupro_name` calls it; this layer does not know that one."""
    return "aupro_" + ("100" if limit == 1 else format(Decimal(repr(limit)), "f").partition(".")[2].ljust(2, "0"))


# ---- the models


def _read_models(draft: _Draft, given: object, name: str, overrides: Overrides) -> tuple[ModelTable, ...] | None:
    if not isinstance(given, list):
        draft.wrong((name,), f"expected a table [{name}], found {kind(given)}")
        return None
    models: list[ModelTable] = []
    labels: dict[str, int] = {}
    for i, raw in enumerate(given):
        key: Key = (name, i)
        if not isinstance(raw, dict):
            draft.wrong(key, f"expected a table [[{name}]], found {kind(raw)}")
            continue
        values = _read_table(draft, ModelTable, raw, key)
        label = values.get("label")
        if isinstance(label, str):
            # Results of "A" and "a" would share a folder where the file system ignores case.
            if label.casefold() in labels:
                blamed = (*key, "label" if (*key, "label") in draft.origins else "name")
                draft.wrong(
                    blamed,
                    f"a second model with the label {key_text(label)}",
                    'Give each model its own: label = "NAME".',
                )
            labels.setdefault(label.casefold(), i)
        model = _read_model(draft, values, key, overrides)
        if model is not None:
            models.append(model)
    return tuple(models)


def _check_sweep(draft: _Draft, spec: RunSpec) -> None:
    """Say that there are too many cells, and which variants of different models have the same label."""
    n, seeds = count_variants(spec), len(spec.run.all_seeds)
    if n * seeds > MOST_CELLS:
        draft.add(
            ("model", 0),
            f"this sweep has {n * seeds} cells in every category ({n} variants, {seeds} seeds); "
            f"at most {MOST_CELLS} are run",
            "Leave out values of [model.grid], [dataset] shots or [run] seeds.",
        )
        return
    places = {model.label: i for i, model in enumerate(spec.models)}
    labels: dict[str, str] = {}
    for variant in variants(spec):
        label = variant.model.label
        if labels.setdefault(label.casefold(), variant.of) != variant.of:
            draft.about(
                ("model", places[variant.of]),
                f"a second model with the label {key_text(label)}",
                'Give each model its own: label = "NAME".',
            )


def _read_model(draft: _Draft, values: dict[str, Any], key: Key, overrides: Overrides) -> ModelTable | None:
    """Hold the parameters of one model against its constructor and fill them in."""
    entry = _entry(values.get("name"))
    params = values.get("params")
    if entry is None or params is None:
        return None
    grid = _read_grid(draft, entry, values.get("grid", BAD), params, key)
    inside: Key = (*key, "params")
    _notes(draft, entry, params, overrides)
    params = {name: value for name, value in params.items() if not _drops_null(draft, entry, inside, name, value)}
    for name in entry.path_params:
        path = params.get(name)
        if isinstance(path, str) and (not path or "\0" in path):
            draft.wrong((*inside, name), "expected a path")
            params[name] = BAD
    swept = {name: BAD if each is BAD else each[0] for name, each in grid.items()}
    checkpoint = {name: value for name, value in swept.items() if name == CHECKPOINT}
    checkpoint_fault = _checkpoint_fault(draft, entry, params | checkpoint, key)
    trainer = values.get(TRAINER, BAD)
    trainer_fault = checkpoint_fault or _trainer_fault(draft, entry, trainer, (*key, TRAINER))
    fitting, problems = check_params(entry.name, params)
    takes = settable_params(entry.name)
    for problem in problems:
        there = (*inside, *problem.key)
        if not problem.unknown:
            draft.wrong(there, problem.fact)
        elif not (checkpoint_fault and problem.key == (CHECKPOINT,)):
            draft.of_entry(
                there,
                f"{key_text(str(problem.key[0]))} is not a parameter of {entry.name}{problem.fact}",
                f"{entry.name} takes: {', '.join(takes)}",
            )
    missing = [m for m in missing_params(entry.name, params | swept) if m not in AUTO_PARAMS]
    for name in missing:
        draft.about(inside, f"{name} is missing: {entry.name} has no default for it")
    if trainer_fault or problems or missing or any(value is BAD for value in fitting.values()):
        return None
    if any(each is BAD for each in grid.values()) or _out_of_range(draft, entry, fitting, grid, key):
        return None
    for name in entry.path_params:
        if isinstance(fitting.get(name), str) and name in params:
            fitting[name] = _absolute(fitting[name], draft.origin((*inside, name)).base)
    if "label" not in values or "grid" not in values:
        return None
    unused = training_params(entry.name) if trainer is None else frozenset[str]()
    left_out = (unused - set(fitting)) | set(grid)
    return ModelTable(
        name=entry.name,
        label=values["label"],
        params={name: value for name, value in fill_params(entry.name, fitting).items() if name not in left_out},
        grid=grid or None,
        trainer=None if trainer is None else fill_trainer(entry.name, trainer),
    )


def _out_of_range(
    draft: _Draft, entry: ModelEntry, params: Mapping[str, Any], grid: Mapping[str, tuple[Any, ...]], key: Key
) -> bool:
    """Whether the constructor has something against any combination of a grid's values; says what."""
    found = False
    for places in combinations(grid):
        values = {name: grid[name][place] for name, place in places.items()}
        for param, fact in range_problems(entry.name, {**params, **values}):
            found = True
            if param is None:
                draft.about((*key, "grid" if grid else "params"), fact)
            elif param in places:
                draft.wrong((*key, "grid", param, places[param]), fact)
            else:
                draft.wrong((*key, "params", param), fact)
    return found


def _read_grid(
    draft: _Draft, entry: ModelEntry, grid: object, params: Mapping[str, Any], key: Key
) -> dict[str, tuple[Any, ...] | Any]:
    """The lists of a grid with their values as the constructor takes them; BAD in place of one that was reported."""
    if not isinstance(grid, dict):
        return {}
    inside: Key = (*key, "grid")
    if not grid:
        draft.about(inside, "has no key", "Example: coreset_ratio = [0.01, 0.1]")
    read: dict[str, Any] = {}
    for name, values in grid.items():
        here: Key = (*inside, name)
        read[name] = BAD
        if name in AUTO_PARAMS:
            draft.of_entry(
                here,
                f"{name} cannot be in a grid: [run] gives it to all models alike",
                "Several seeds: [run] seeds = [0, 1, 2]"
                if name == "seed"
                else f"Models that differ in it: [[model]] twice, each with its label and params = {{ {name} = … }}",
            )
        elif name in params:
            draft.of_entry(here, f"{key_text(name)} is in [model.params] as well", "Give it in one of the two.")
        elif values is not BAD:
            read[name] = _grid_values(draft, entry, values, here)
    n = count_combinations({name: values for name, values in read.items() if values is not BAD})
    if n > MOST_CELLS:
        draft.about(inside, f"has {n} combinations; at most {MOST_CELLS} are run", "Leave out values, or keys.")
        return dict.fromkeys(read, BAD)
    return read


def _grid_values(draft: _Draft, entry: ModelEntry, values: tuple[Any, ...], key: Key) -> Any:
    """The values of one key of a grid, each held against the constructor as a parameter of its own."""
    name = str(key[-1])
    taken: list[Any] = []
    for i, value in enumerate(values):
        here: Key = (*key, i)
        if name in entry.path_params and isinstance(value, str) and (not value or "\0" in value):
            draft.wrong(here, "expected a path")
            return BAD
        fitting, problems = check_params(entry.name, {name: value})
        for problem in problems:
            if problem.unknown:
                draft.of_entry(
                    key,
                    f"{key_text(name)} is not a parameter of {entry.name}{problem.fact}",
                    f"{entry.name} takes: {', '.join(settable_params(entry.name))}",
                )
            else:
                draft.wrong((*here, *problem.key[1:]), problem.fact)
        fit = fitting.get(name, BAD)
        if name in entry.path_params and isinstance(fit, str):
            fit = _absolute(fit, draft.origin(here).base)
        # repr, since true is no second 1
        if fit is not BAD and repr(fit) in map(repr, taken):
            draft.wrong(here, "is given twice")
            fit = BAD
        taken.append(fit)
    return BAD if any(fit is BAD for fit in taken) else tuple(taken)


def _drops_null(draft: _Draft, entry: ModelEntry, inside: Key, name: str, value: object) -> bool:
    """Whether a value is a null of --model-kwargs, which goes without saying where it is the default."""
    if value is not None:
        return False
    if default_of(entry.name, name) is not None:
        draft.wrong((*inside, name), "a spec cannot say null", "Leave the parameter out, or give a value.")
    return name in settable_params(entry.name)


def _checkpoint_fault(draft: _Draft, entry: ModelEntry, params: Mapping[str, Any], key: Key) -> bool:
    if params.get(CHECKPOINT) is BAD:
        return True
    has_trainer = draft.find((*key, TRAINER)) is not BAD
    try:
        check_checkpoint(entry.name, params, has_trainer=has_trainer)
    except SpecError as error:
        for problem in error.problems:
            if has_trainer:
                draft.about((*key, TRAINER), problem.message.removeprefix("[model.trainer] "), problem.help)
            elif CHECKPOINT in params:
                draft.of_entry((*key, "params", CHECKPOINT), problem.message, problem.help)
            else:
                draft.about(key, problem.message, problem.help)
        return True
    return False


def _trainer_fault(draft: _Draft, entry: ModelEntry, trainer: object, key: Key) -> bool:
    """Whether the model cannot be trained so. trainer: None without one, BAD where it was reported already."""
    if not isinstance(trainer, TrainerTable):
        return trainer is BAD
    found = trainer_problems(entry.name, trainer)
    misspelt = not set(draft.find(key)) <= set(TrainerTable.__struct_fields__)
    for name, fact, help_ in found:
        if name is not None:
            draft.wrong((*key, name), fact, help_)
        elif not misspelt:  # what is missing may stand there under a wrong name
            draft.about(key, fact, help_)
    return bool(found)


def _notes(draft: _Draft, entry: ModelEntry, params: Mapping[str, Any], overrides: Overrides) -> None:
    """An option for the whole run that does not reach a model, or not past the spec's own parameter: say so."""
    accepted, takes_any = get_model_signature_info(entry.name)
    for name, value in (("device", overrides.device), ("seed", overrides.seed)):
        if value is not None and name not in accepted and not takes_any:
            draft.notes.append(f"--{name} {value} does not reach {entry.name}, which takes no {name}")
        if value is not None and name in params and params[name] != value:
            draft.notes.append(
                f"--{name} {value} does not change the parameter {name} = {shown(params[name])} of {entry.name}"
            )
