"""A model's constructor is the schema of its parameters.

What `[model.params]` and `--model-kwargs` may hold is read from the signature, without building the model:
names, TOML types and defaults. Values that a user gives win; automatic ones (device, seed, ...) are passed
only where the constructor takes them and the user gave none.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec.inspect

from uadctl.errors import ParamError, Problem, SpecError
from uadctl.spec.grammar import TrainerTable
from uadctl.spec.registry import ModelEntry, load_target, resolve_model
from uadctl.spec.values import BAD, Key, did_you_mean, key_text, kind, printable, shown, take
from uadctl.spec.wrapped import AnomalibModel, anomalib_models
from uadctl.untrusted import parse_json

if TYPE_CHECKING:
    from uadctl.spec.grammar import ModelTable, RunTable

AUTO_PARAMS: Final = ("batch_size", "device", "precision", "seed")
"""Parameters that the run gives to every model that takes them. A filled spec holds them in [run] only, so
that --device and --seed still mean something when it is run again."""

OF_CATEGORY: Final = ("class_name",)
"""Parameters that the category gives to models that take them, unless the spec does. Not in a filled spec either."""

CHECKPOINT: Final = "checkpoint_path"
TRAINER: Final = "trainer"
TRUST: Final = "trust_checkpoint"
"""A spec must not say that files may run code: who runs it does, by --trust-checkpoint or in Python."""

ONE_PASS_LACKS: Final = ("max_epochs", "max_steps", "patience")
"""Keys of [model.trainer] that mean nothing to a model which learns in one pass over the images."""

# Where those are given that are no parameters for a spec, and no Python objects either.
_ELSEWHERE: Final = {
    TRAINER: "it is a table of its own, [model.trainer]",
    TRUST: "no spec can say that a file may run code; whoever runs it can, with --trust-checkpoint",
}

# Images a training step, where neither the spec nor the model says.
_TRAINING_BATCH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamInfo:
    """One parameter of a model.

    type:     its annotation as written: "float", "tuple[str, ...] | None".
    default:  its default; None also where it has none (`required` tells the two apart).
    choices:  the values a Literal allows, else empty.
    doc:      what the docstring of the class says of it, or "".
    settable: a spec can give it; False for Python objects that are handed in.
    """

    name: str
    type: str
    default: object
    required: bool
    choices: tuple[str | int, ...]
    doc: str
    settable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamProblem:
    """What is wrong with one parameter: `unknown` names are not taken, others have a wrong value."""

    key: Key
    fact: str
    unknown: bool


@dataclass(frozen=True, slots=True)
class Constructor:
    target: Any
    params: Mapping[str, inspect.Parameter]
    takes_any: bool


def constructor_of(entry: ModelEntry) -> Constructor:
    target = load_target(entry.target)
    every = inspect.signature(target).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return Constructor(
        target,
        {name: p for name, p in every.items() if p.kind in named},
        any(p.kind is inspect.Parameter.VAR_KEYWORD for p in every.values()),
    )


def type_of(constructor: Constructor, name: str) -> msgspec.inspect.Type:
    """The type of one parameter. Each is evaluated alone: those of injected objects may not be importable here."""
    annotation = constructor.params[name].annotation
    if annotation is inspect.Parameter.empty:
        return msgspec.inspect.AnyType()
    target = constructor.target
    function = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target
    return _evaluated(function, name, annotation)


# Evaluating takes as long as all the rest of checking a parameter, and a grid has thousands of them.
@lru_cache(maxsize=2048)
def _evaluated(function: Any, name: str, annotation: Any) -> msgspec.inspect.Type:
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    hints = typing.get_type_hints(holder, getattr(function, "__globals__", {}), include_extras=True)
    return msgspec.inspect.type_info(hints[name])


def _without_none(wanted: msgspec.inspect.Type) -> Sequence[msgspec.inspect.Type]:
    options = wanted.types if isinstance(wanted, msgspec.inspect.UnionType) else (wanted,)
    return [o for o in options if not isinstance(o, msgspec.inspect.NoneType)]


def _documented(target: object) -> dict[str, str]:
    """The "name: meaning" lines of a docstring, with their continuation lines joined."""
    texts: dict[str, str] = {}
    current: str | None = None
    for line in (inspect.getdoc(target) or "").splitlines():
        start = re.match(r"\s{0,4}(\w+(?:, \w+)*):\s+(\S.*)", line)
        if start:
            current = start[1]
            texts[current] = start[2].strip()
        elif current and line.startswith("  ") and line.strip():
            texts[current] += f" {line.strip()}"
        else:
            current = None
    return {name: text for names, text in texts.items() for name in names.split(", ")}


def list_params(name: str) -> list[ParamInfo]:
    """The parameters of a model, in the order of its constructor. Raises SpecError if there is no such model."""
    entry = resolve_model(name)
    constructor = constructor_of(entry)
    docs = _documented(constructor.target)
    infos = []
    for param in constructor.params.values():
        settable = param.name not in entry.not_settable
        choices: tuple[str | int, ...] = ()
        if settable:
            for option in _without_none(type_of(constructor, param.name)):
                if isinstance(option, msgspec.inspect.LiteralType):
                    choices = tuple(v for v in option.values if isinstance(v, str | int))
        required = param.default is inspect.Parameter.empty
        infos.append(
            ParamInfo(
                name=param.name,
                type="" if param.annotation is inspect.Parameter.empty else _annotation_text(param.annotation),
                default=None if required else param.default,
                required=required,
                choices=choices,
                doc=docs.get(param.name, ""),
                settable=settable,
            )
        )
    return infos


def _annotation_text(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def get_model_signature_info(name: str) -> tuple[frozenset[str], bool]:
    """(the names of the constructor's parameters, whether it takes any others by **kwargs).

    Reads the signature: builds no model and imports no backend. Raises SpecError if there is no such model.
    """
    constructor = constructor_of(resolve_model(name))
    return frozenset(constructor.params), constructor.takes_any


def settable_params(name: str) -> list[str]:
    """The names of the parameters that a spec can give, sorted."""
    entry = resolve_model(name)
    return sorted(set(constructor_of(entry).params) - set(entry.not_settable))


def parse_model_kwargs(text: str | None) -> dict[str, Any]:
    """The parameters given by --model-kwargs: a JSON object, read strictly. None gives none.

    Raises SpecError if it is no JSON (nan, infinite numbers and a name given twice are none), and, with
    another message, if it is JSON but no object.
    """
    if text is None:
        return {}
    example = """Example: --model-kwargs '{"coreset_ratio": 0.1}' (the single quotes keep the shell from reading it)"""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise SpecError(f"--model-kwargs is not valid JSON: {error}", help=example) from error
    if not isinstance(value, dict):
        raise SpecError(f"--model-kwargs: expected a JSON object, found {kind(value)}: {shown(value)}", help=example)
    return value


def merge_checkpoint_path(kwargs: Mapping[str, Any], *, checkpoint_path: str | None) -> dict[str, Any]:
    """The parameters with --checkpoint-path among them, as `checkpoint_path`; `kwargs` itself is left as it is.

    Raises SpecError if the parameters already name another file.
    """
    merged = dict(kwargs)
    if checkpoint_path is None:
        return merged
    given = merged.get(CHECKPOINT)
    if given is not None and given != checkpoint_path:
        named = printable(checkpoint_path)
        raise SpecError(
            f"--checkpoint-path {named} and the model parameter {CHECKPOINT} = {shown(given)} conflict",
            help="Give the checkpoint once.",
        )
    merged[CHECKPOINT] = checkpoint_path
    return merged


def check_checkpoint(name: str, kwargs: Mapping[str, Any], *, has_trainer: bool) -> None:
    """Hold the parameters against what the model needs: a trained file, a trainer, or neither.

    kwargs: the parameters after `merge_checkpoint_path`.
    has_trainer: the spec has [model.trainer].

    Raises SpecError if a needed checkpoint is missing, if one is given to a model that takes none, if both a
    checkpoint and a trainer are given, or a trainer to a model that uadctl does not train.
    """
    entry = resolve_model(name)
    given = kwargs.get(CHECKPOINT) not in (None, "")
    if has_trainer and not entry.trainable:
        why = f" ({entry.untrained})" if entry.untrained else ""
        raise SpecError(f"[model.trainer] has no effect: {entry.name} is not trained by uadctl{why}", help="Remove it.")
    if given and has_trainer:
        raise SpecError(
            f"{entry.name} is given both a checkpoint ({shown(kwargs[CHECKPOINT])}) and [model.trainer]",
            help="Give the checkpoint to use a trained model, or [model.trainer] to train one.",
        )
    if given:
        accepted, takes_any = get_model_signature_info(name)
        if CHECKPOINT not in accepted and not takes_any:
            raise SpecError(f"{entry.name} takes no checkpoint: {CHECKPOINT} would have no effect")
        return
    if entry.requires_checkpoint and not (entry.trainable and has_trainer):
        ways = ["--checkpoint-path FILE", f"model.params.{CHECKPOINT} (in --model-kwargs: {CHECKPOINT})"]
        if entry.trainable:
            ways.append("[model.trainer] to train it")
        raise SpecError(
            f"{entry.name} needs a checkpoint and none is given. Give {', or '.join(ways)}",
            help=f"uadctl does not train it: {entry.untrained}" if entry.untrained else None,
        )


def trainer_problems(name: str, trainer: TrainerTable) -> list[tuple[str | None, str, str | None]]:
    """What a model has against its [model.trainer]: (key or None for the whole table, fact, help)."""
    model = of_anomalib(resolve_model(name))
    if model is None:
        return []
    found: list[tuple[str | None, str, str | None]] = []
    if model.one_pass:
        for key in ONE_PASS_LACKS:
            if getattr(trainer, key) is not None:
                found.append((key, f"has no effect: {model.name} learns in one pass over the images", "Remove it."))
    elif trainer.max_epochs is None and trainer.max_steps is None:
        found.append(
            (
                None,
                "max_epochs is missing: anomalib would train 1000 epochs",
                "Give max_epochs = N, or max_steps = N.",
            )
        )
    if model.batch_size is not None and trainer.batch_size not in (None, model.batch_size):
        found.append(("batch_size", f"{model.name} can only be trained with {model.batch_size}", "Leave it out."))
    return found


def fill_trainer(name: str, trainer: TrainerTable) -> TrainerTable:
    """The table with every default written out that depends on the model."""
    model = of_anomalib(resolve_model(name))
    batch = trainer.batch_size or (model and model.batch_size) or _TRAINING_BATCH
    return msgspec.structs.replace(trainer, batch_size=batch)


def trainer_keys(name: str) -> tuple[tuple[str, ...], tuple[str, ...], int | None]:
    """Of a model that is trained: keys of [model.trainer] of which one is needed, all keys, and the only batch size.

    None in place of the last where any will do.
    """
    model = of_anomalib(resolve_model(name))
    lacks = ONE_PASS_LACKS if model is not None and model.one_pass else ()
    needed = () if lacks else ("max_epochs", "max_steps")
    keys = tuple(key for key in TrainerTable.__struct_fields__ if key not in lacks)
    return needed, keys, None if model is None else model.batch_size


def training_params(name: str) -> frozenset[str]:
    """The parameters that only training uses: a checkpoint has its own, and a spec that names one says none of them."""
    entry = resolve_model(name)
    model = of_anomalib(entry)
    if model is None:
        return frozenset()
    taken = constructor_of(entry).params
    # Where a detector of uadctl means something else by the name, anomalib's has "model_" before it.
    return frozenset(
        f"model_{p.name}" if f"model_{p.name}" in taken else p.name for p in model.parameters if p.kept is None
    )


def of_anomalib(entry: ModelEntry) -> AnomalibModel | None:
    """The class of anomalib that an entry stands for; None for other models."""
    return next((model for model in anomalib_models() if model.name == entry.anomalib_model), None)


def checked_trainer(name: str, given: object) -> dict[str, Any]:
    """A trainer that Python code gives, checked as [model.trainer] is and filled. Raises ParamError.

    Keys that are None count as not given. A table that is filled stays as it is.
    """
    entry = resolve_model(name)
    if not isinstance(given, Mapping):
        raise ParamError(f"{entry.name}: {TRAINER}: expected a table, found {kind(given)}")
    info = msgspec.inspect.type_info(TrainerTable)
    fields = {f.name: f.type for f in info.fields} if isinstance(info, msgspec.inspect.StructType) else {}
    problems: list[Problem] = []
    values: dict[str, Any] = {}

    def report(key: Key, fact: str) -> None:
        problems.append(Problem(f"{entry.name}: {TRAINER}.{key[0]} = {shown(given[key[0]])}: {fact}"))

    for key, value in given.items():
        if value is None and key in fields:
            continue
        if key in fields:
            values[key] = take(value, fields[key], (key,), report)
        else:
            takes = f"It takes: {', '.join(sorted(fields))}"
            problems.append(
                Problem(
                    f"{entry.name}: {TRAINER} does not accept {key_text(str(key))}{did_you_mean(str(key), fields)}",
                    takes,
                )
            )
    if not problems:
        table = TrainerTable(**values)
        for wrong, fact, help_ in trainer_problems(entry.name, table):
            where = TRAINER if wrong is None else f"{TRAINER}.{wrong} = {shown(given[wrong])}"
            problems.append(Problem(f"{entry.name}: {where}: {fact}", help_))
        if not problems:
            return fill_trainer(entry.name, table).given()
    raise ParamError(problems)


def check_params(name: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[ParamProblem]]:
    """What a spec gives a model, held against its constructor.

    Returns the parameters that fit, converted to the constructor's types (lists to tuples, integers to floats
    where it takes those), and everything that is wrong with the others. Ranges are the constructor's own matter.
    """
    return _check(resolve_model(name), params, objects=False)


def _check(entry: ModelEntry, params: Mapping[str, Any], *, objects: bool) -> tuple[dict[str, Any], list[ParamProblem]]:
    constructor = constructor_of(entry)
    fitting: dict[str, Any] = {}
    problems: list[ParamProblem] = []

    def report(key: Key, fact: str) -> None:
        problems.append(ParamProblem(key=key, fact=fact, unknown=False))

    settable = [p for p in constructor.params if p not in entry.not_settable]
    for key, value in params.items():
        if key in entry.not_settable:
            if objects:
                fitting[key] = value
            else:
                report((key,), _ELSEWHERE.get(key, f"{key} is a Python object, which only create_model can be given"))
            continue
        if key in constructor.params:
            taken = take(value, type_of(constructor, key), (key,), report)
        elif constructor.takes_any:
            taken = value if objects else take(value, msgspec.inspect.AnyType(), (key,), report)
        else:
            problems.append(ParamProblem(key=(key,), fact=did_you_mean(key, settable), unknown=True))
            continue
        if taken is not BAD:
            fitting[key] = taken
    return fitting, problems


def range_problems(name: str, params: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """What the constructor itself has against values of the right type: (parameter or None, fact), all at once.

    Builds the model, which our constructors make cheap; one that needs more than `params` is left alone.
    """
    entry = resolve_model(name)
    try:
        load_target(entry.target)(**params)
    except ParamError as error:
        found: list[tuple[str | None, str]] = []
        for problem in error.problems:
            # Constructors say "name (=value) what must hold".
            match = re.match(r"(\w+) \(=.*?\):? (?=\S)", problem.message)
            named = match is not None and match[1] in params
            found.append((match[1], problem.message[match.end() :]) if match and named else (None, problem.message))
        return found
    except (TypeError, ValueError, ImportError):
        return []
    return []


def missing_params(name: str, params: Mapping[str, Any]) -> list[str]:
    """The parameters without a default that are not given; a checkpoint is `check_checkpoint`'s matter."""
    entry = resolve_model(name)
    return [
        p.name
        for p in constructor_of(entry).params.values()
        if p.default is inspect.Parameter.empty and p.name not in params and p.name != CHECKPOINT
    ]


def _raise(entry: ModelEntry, problems: Sequence[ParamProblem]) -> None:
    if not problems:
        return
    said: list[Problem] = []
    unknown = [p for p in problems if p.unknown]
    if unknown:
        names = [key_text(str(p.key[0])) + (f" ({p.fact.removeprefix('; ')})" if p.fact else "") for p in unknown]
        said.append(
            Problem(
                f"{entry.name} does not accept {', '.join(names)}. It takes: {', '.join(settable_params(entry.name))}"
            )
        )
    said.extend(Problem(f"{entry.name}: {_subject(p.key)}: {p.fact}") for p in problems if not p.unknown)
    raise ParamError(said)


def _subject(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def validate_user_model_kwargs(name: str, user_kwargs: Mapping[str, Any]) -> None:
    """Refuse parameters that the model does not take or not with that type.

    Raises ParamError (a SpecError and a TypeError) naming all of them, the nearest names and what is taken.
    A constructor with **kwargs takes every name.
    """
    entry = resolve_model(name)
    _raise(entry, _check(entry, user_kwargs, objects=False)[1])


def build_model_kwargs(name: str, *, user_kwargs: Mapping[str, Any], auto_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What the constructor is called with: the user's parameters, and the automatic ones that it takes besides.

    A user's value always wins. Automatic parameters that the constructor does not take are left out; a user's
    are never. Raises ParamError as `validate_user_model_kwargs` does, and if a parameter without default is missing.
    """
    return _build(resolve_model(name), user_kwargs, auto_kwargs, objects=False)


def _build(
    entry: ModelEntry, user_kwargs: Mapping[str, Any], auto_kwargs: Mapping[str, Any], *, objects: bool
) -> dict[str, Any]:
    kwargs, problems = _check(entry, user_kwargs, objects=objects)
    _raise(entry, problems)
    accepted, takes_any = get_model_signature_info(entry.name)
    for key, value in auto_kwargs.items():
        if key not in kwargs and (takes_any or key in accepted):
            kwargs[key] = value
    missing = missing_params(entry.name, kwargs)
    if missing:
        raise ParamError(f"{entry.name} needs {', '.join(missing)}")
    return kwargs


def auto_kwargs(run: RunTable, *, seed: int | None = None) -> dict[str, Any]:
    """The parameters that [run] gives to every model that takes them. seed: one of the run's; None: the first."""
    return {
        "batch_size": run.batch_size,
        "device": run.device,
        "precision": run.precision,
        "seed": run.all_seeds[0] if seed is None else seed,
    }


def constructor_kwargs(
    run: RunTable, model: ModelTable, *, seed: int | None = None, class_name: str | None = None
) -> dict[str, Any]:
    """What the constructor of one model of a spec is called with.

    seed: one of the run's; None: the first. class_name: what is on the category's images; None: not known.
    """
    auto = auto_kwargs(run, seed=seed)
    if class_name is not None:
        auto["class_name"] = class_name
    kwargs = build_model_kwargs(model.name, user_kwargs=model.params, auto_kwargs=auto)
    if model.trainer is not None:
        kwargs[TRAINER] = model.trainer.given()
    return kwargs


def fill_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with every default written out, in the order of the constructor.

    Left out are those that [run] or the category give (unless `params` has them), those whose value is None,
    which TOML cannot say, Python objects, and default paths: they start from the working directory, and in a file
    would start from its folder. Raises ParamError as `validate_user_model_kwargs` does.
    """
    entry = resolve_model(name)
    given, problems = _check(entry, params, objects=False)
    _raise(entry, problems)
    filled: dict[str, Any] = {}
    for param in constructor_of(entry).params.values():
        if param.name in given:
            filled[param.name] = given.pop(param.name)
        elif (
            param.name not in (*AUTO_PARAMS, *OF_CATEGORY)
            and param.name not in (*entry.not_settable, *entry.path_params)
            and _is_toml(param.default)
        ):
            filled[param.name] = param.default
    filled.update(sorted(given.items()))
    return {key: value for key, value in filled.items() if value is not None}


def default_of(name: str, param: str) -> object:
    """The default of one parameter of a model; None where it has none or is not taken."""
    found = constructor_of(resolve_model(name)).params.get(param)
    return None if found is None or found.default is inspect.Parameter.empty else found.default


def _is_toml(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_toml(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | int | str)


def create_model(name: str, **params: object) -> Any:
    """Build a detector by its name or alias, with the parameters of its constructor.

    Everything is checked before the model is built: SpecError for an unknown name, one that is not offered, a missing
    or useless checkpoint or trainer; ParamError (also a TypeError) for parameters that it does not take. What the
    constructor refuses raises as the constructor says, usually ValueError.
    """
    entry = resolve_model(name)
    if not entry.offered:
        raise SpecError(f"{entry.name} is not offered: {entry.reason}", help="See: uadctl models list")
    given = {
        key: os.fspath(value) if key in entry.path_params and isinstance(value, os.PathLike) else value
        for key, value in params.items()
    }
    kwargs = _build(entry, given, {}, objects=True)
    trainer = kwargs.get(TRAINER) if TRAINER in entry.not_settable else None
    check_checkpoint(entry.name, kwargs, has_trainer=trainer is not None)
    if trainer is not None:
        kwargs[TRAINER] = checked_trainer(entry.name, trainer)
    return load_target(entry.target)(**kwargs)


def rebuild_model(name: str, params: Mapping[str, Any], *, device: str) -> Any:
    """The detector that a run keeps, as it was built, ready to `restore` its state.

    Whatever it was learned from (weights, a checkpoint, a trainer) comes with that state and need not be on this
    machine. Raises what `create_model` raises.

    params: those of `constructor_kwargs` for the detector that was fitted.
    """
    entry = resolve_model(name)
    auto: dict[str, Any] = {"device": device, "pretrained": False}
    user = {key: value for key, value in params.items() if key not in (*auto, "weights", CHECKPOINT, TRAINER)}
    if not entry.requires_checkpoint:
        return create_model(name, **build_model_kwargs(name, user_kwargs=user, auto_kwargs=auto))
    kwargs = build_model_kwargs(name, user_kwargs=user, auto_kwargs=auto)
    return load_target(entry.target)(**{**kwargs, CHECKPOINT: ""})
