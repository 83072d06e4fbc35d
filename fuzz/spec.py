"""Specs and options that nobody meant, through `read_spec`: accepted, or refused with a SpecError.

What is accepted is written and read again: it must be the same spec, with the same hash, and the same text.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from msgspec import inspect as types

from fuzz.figures import ACCEPTED, MOST_MESSAGES, Broken, Case, Figures, drive
from fuzz.mutate import NUMBERS, as_json, as_toml, mutated_bytes, mutated_tree, text, value
from uadctl.errors import SpecError, UadctlError
from uadctl.spec import (
    BACKBONES,
    DATASETS,
    MODELS,
    Overrides,
    RunSpec,
    list_params,
    optional_import,
    read_spec,
    spec_hash,
    to_toml,
    variants,
)
from uadctl.spec.camera_steps import CAMERA_STEPS, PRESETS
from uadctl.spec.corruptions import AUGMENTATIONS
from uadctl.spec.reading import fields_of
from uadctl.spec.sweep import count_variants

SPECS: Final = Path(__file__).parents[1] / "specs"

_VARIABLES: Final = ("MVTEC_ROOT", "BTAD_ROOT", "PARTS_ROOT", "PARTS_LIST", "VISA_ROOT", "MVTEC_LOCO_ROOT")
_ENV: Final = {name: f"/data/{name.lower()}" for name in (*_VARIABLES, "MVTEC_AD2_ROOT", "CHECKPOINT")} | {
    "HOME": "/home/${HOME}",
    "EMPTY": "",
}
# What the texts with a grammar of their own may say.
_USUAL: Final = (
    "a",
    "bottle",
    "cpu",
    "512MB",
    "rect(0, 0, 0.5, 0.5)",
    "0..65535",
    "percentile(1, 99)",
    "gray_world",
    "gamma(gamma=2)",
    "flip",
    "jpeg",
    "test/*.png",
    "{stem}_mask.png",
)
# The labels of larger sweeps are not all made, which costs a second a thousand.
_MOST_VARIANTS: Final = 100
_TEXT_OPTIONS: Final = ("dataset", "root", "split", "model", "checkpoint_path", "device", "run_dir")
_NUMBER_OPTIONS: Final = ("seed", "limit_train", "limit_test")
_YES_OR_NO: Final = ("pretrained", "pixel", "trust_checkpoint")
_MODELS: Final = (
    "vision_patchcore",
    "patchcore",
    "vision_padim",
    "vision_anomalydino",
    "vision_ecod",
    "vision_knn",
    "vision_hbos",
    "vision_winclip",
    "vision_openclip_patchknn",
    "vision_anomalib_checkpoint",
    "vision_fastflow_anomalib",
)


def run(inputs: int, seed: int) -> Figures:
    """Give `read_spec` so many files and options."""
    # What is imported at first use, to know the names of its networks, is no cost of an input.
    for package in ("torch", "torchvision", "timm", "open_clip"):
        optional_import(package)
    with tempfile.TemporaryDirectory() as folder:
        return drive(prepared(Path(folder)), inputs, seed)


def prepared(folder: Path) -> SpecTarget:
    """The target, which writes its files in this folder."""
    (folder / "again").mkdir()
    texts = tuple(file.read_bytes() for file in sorted(SPECS.glob("*.toml")))
    trees = tuple(tomllib.loads(text.decode()) for text in texts)
    return SpecTarget(folder, texts, trees, tuple(sorted({word for tree in trees for word in _texts(tree)} | _NAMES)))


_NAMES: Final = {
    *MODELS,
    *DATASETS,
    *BACKBONES,
    *PRESETS,
    *_MODELS,
    "${MVTEC_ROOT}",
    "${EMPTY}",
    "image_auroc",
    "*",
} | {f"{name}()" for name in (*CAMERA_STEPS, *AUGMENTATIONS)}


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, child in node.items():
            yield key
            yield from _texts(child)
    elif isinstance(node, list):
        for child in node:
            yield from _texts(child)


@dataclass(slots=True)
class SpecTarget:
    """texts: the specs that inputs are made of. words: what has a meaning in specs."""

    folder: Path
    texts: tuple[bytes, ...]
    trees: tuple[dict[str, Any], ...]
    words: tuple[str, ...]
    name: str = field(default="spec", init=False)

    def make(self, rng: Random) -> Case:
        roll = rng.randrange(10)
        if roll < 3:
            data = mutated_bytes(rng, rng.choice(self.texts), self.texts)
        else:
            if roll < 6:
                tree = mutated_tree(rng, rng.choice(self.trees), self.words, most=2)
            else:
                tree = self._from_grammar(rng)
            data = as_toml(tree).encode("utf-8", "surrogatepass")
            if rng.randrange(8) == 0:
                data = mutated_bytes(rng, data, self.texts, most=1)
        case = {"spec.toml": data}
        if rng.randrange(3) == 0:
            case["options.json"] = json.dumps(self._options(rng)).encode()
        return case

    def judge(self, case: Case) -> str:
        file, again = self.folder / "spec.toml", self.folder / "again" / "spec.toml"
        file.write_bytes(case["spec.toml"])
        options: dict[str, Any] = {
            name: tuple(option) if isinstance(option, list) else option
            for name, option in json.loads(case.get("options.json", b"{}")).items()
        }
        try:
            spec = read_spec(str(file), Overrides(**options), env=_ENV).spec
        except SpecError as error:
            check_messages(error)
            if any(letter in problem.message for problem in error.problems for letter in "\x00\x1b\r\n"):
                raise Broken("a message with control characters") from error
            return type(error).__name__
        text = to_toml(spec)
        again.write_text(text, encoding="utf-8")
        try:
            second = read_spec(str(again), env=_ENV).spec
        except SpecError as error:
            raise Broken(f"an accepted spec is refused once it is written: {error.message.splitlines()[0]}") from error
        if second != spec:
            raise Broken("an accepted spec is another once it is written and read")
        if spec_hash(second) != spec_hash(spec) or to_toml(second) != text:
            raise Broken("an accepted spec has another hash, or text, once it is written and read")
        if count_variants(spec) <= _MOST_VARIANTS and variants(second) != variants(spec):
            raise Broken("an accepted spec has other variants once it is written and read")
        return ACCEPTED

    def _options(self, rng: Random) -> dict[str, Any]:
        """Options of the command line, by the names of `Overrides`."""
        options: dict[str, Any] = {}
        for _ in range(rng.randint(1, 3)):
            roll = rng.randrange(8)
            if roll < 3:
                options["set"] = [*options.get("set", ()), self._assignment(rng)]
            elif roll < 4:
                options["model_kwargs"] = self._kwargs(rng)
            elif roll < 5:
                options["categories"] = [text(rng, ("bottle", "*", "screw")) for _ in range(rng.randrange(3))]
            elif roll < 6:
                options[rng.choice(_TEXT_OPTIONS)] = text(rng, self.words)
            elif roll < 7:
                options[rng.choice(_NUMBER_OPTIONS)] = int(rng.choice((0, 1, -1, 42, 2**32, 2**70)))
            else:
                options[rng.choice(_YES_OR_NO)] = rng.random() < 0.5
        return options

    def _assignment(self, rng: Random) -> str:
        tables = _tables(RunSpec)
        name = rng.choice(sorted(tables))
        key = f"{name}.{rng.choice(sorted(tables[name]) or ['x'])}"
        assignment = f"{key}={_inline_toml(value(rng, self.words))}"
        if rng.randrange(4) == 0:
            assignment = mutated_bytes(rng, assignment.encode("utf-8", "replace"), most=2).decode("utf-8", "replace")
        return assignment

    def _kwargs(self, rng: Random) -> str:
        given = as_json(_params(rng, rng.choice(_MODELS), self.words))
        if rng.randrange(3) == 0:
            given = mutated_bytes(rng, given.encode("utf-8", "replace"), most=2).decode("utf-8", "replace")
        return given

    def _from_grammar(self, rng: Random) -> dict[str, Any]:
        """A spec whose keys are those of the grammar, and whose values mostly fit their types."""
        tree: dict[str, Any] = {"dataset": {"name": "mvtec", "root": "/data"}, "model": _model(rng, self.words)}
        for one in fields_of(RunSpec):
            if one.encode_name != "model" and rng.random() < 0.2:
                filled = fitting(rng, one.type, self.words)
                if one.encode_name == "dataset" and isinstance(filled, dict):
                    filled = {**tree["dataset"], **filled}
                tree[one.encode_name] = filled
        if rng.randrange(6) == 0:
            models = [_model(rng, self.words) for _ in range(rng.randint(2, 3))]
            tree["model"] = [{**model, "label": f"m{i}"} for i, model in enumerate(models)]
        return mutated_tree(rng, tree, self.words, most=1) if rng.randrange(3) == 0 else tree


def check_messages(error: UadctlError) -> None:
    """Broken where an error says nothing, or too much."""
    said = [part for problem in error.problems for part in (problem.message, problem.help) if part is not None]
    if not said or not all(problem.message.strip() for problem in error.problems):
        raise Broken("an error that says nothing")
    if sum(map(len, said)) > MOST_MESSAGES:
        raise Broken(f"an error of more than {MOST_MESSAGES:,} characters")


def _inline_toml(item: Any) -> str:
    return as_toml({"x": [item]}).partition("= ")[2].strip()[1:-1] if not isinstance(item, dict) else "{}"


@cache
def _tables(record: type) -> dict[str, tuple[str, ...]]:
    """The names of the keys of each table of the grammar."""
    found: dict[str, tuple[str, ...]] = {}
    for one in fields_of(record):
        for inner in _structs(one.type):
            found[one.encode_name] = tuple(deeper.encode_name for deeper in inner.fields)
    return found


def _structs(kind: types.Type) -> Iterator[types.StructType]:
    match kind:
        case types.StructType():
            yield kind
        case types.Metadata(type=inner) | types.VarTupleType(item_type=inner):
            yield from _structs(inner)
        case types.UnionType(types=options):
            for option in options:
                yield from _structs(option)


def _model(rng: Random, words: tuple[str, ...]) -> dict[str, Any]:
    name = rng.choice(_MODELS)
    model: dict[str, Any] = {"name": name, "params": _params(rng, name, words)}
    if rng.randrange(6) == 0:
        model["grid"] = {key: [each, value(rng, words)] for key, each in _params(rng, name, words).items()}
    if rng.randrange(10) == 0:
        model["trainer"] = {"max_epochs": rng.choice(NUMBERS)}
    return model


@cache
def _of_model(name: str) -> tuple[tuple[str, object, tuple[str | int, ...]], ...]:
    return tuple((param.name, param.default, param.choices) for param in list_params(name))


def _params(rng: Random, name: str, words: tuple[str, ...]) -> dict[str, Any]:
    """Some parameters of a model; most of the values are those that it has anyway, or near them."""
    found: dict[str, Any] = {}
    for param, default, choices in _of_model(name):
        if rng.randrange(4):
            continue
        roll = rng.randrange(4)
        if roll == 0:
            found[param] = value(rng, words)
        elif choices:
            found[param] = rng.choice(choices)
        elif isinstance(default, int | float | str | bool) and roll < 3:
            found[param] = default
        elif isinstance(default, int | float):
            found[param] = rng.choice(NUMBERS)
        else:
            found[param] = text(rng, words)
    return found


def fitting(rng: Random, kind: types.Type, words: tuple[str, ...]) -> Any:
    """A value that mostly fits a type of the grammar."""
    if rng.randrange(40) == 0:
        return value(rng, words)
    match kind:
        case types.Metadata(type=inner):
            return fitting(rng, inner, words)
        case types.UnionType(types=options):
            return fitting(rng, rng.choice([one for one in options if not isinstance(one, types.NoneType)]), words)
        case types.StructType(fields=fields):
            return {one.encode_name: fitting(rng, one.type, words) for one in fields if rng.random() < 0.3}
        case types.VarTupleType(item_type=inner):
            return [fitting(rng, inner, words) for _ in range(rng.randrange(4))]
        case types.TupleType(item_types=each):
            return [fitting(rng, one, words) for one in each]
        case types.DictType(value_type=inner):
            return {text(rng, words): fitting(rng, inner, words) for _ in range(rng.randrange(3))}
        case types.LiteralType(values=values):
            return rng.choice(values)
        case types.BoolType():
            return rng.random() < 0.5
        case types.IntType(ge=low, le=high) | types.FloatType(ge=low, le=high):
            ends = [end for end in (low, high) if end is not None]
            usual = (1, 2, 3, 8, 64) if isinstance(kind, types.IntType) else (0.01, 0.1, 0.5, 1.0, 2.5)
            return rng.choice(NUMBERS) if rng.randrange(10) == 0 else rng.choice((*ends, *usual))
        case types.StrType():
            return rng.choice(_USUAL) if rng.randrange(2) else text(rng, words)
    return value(rng, words)
