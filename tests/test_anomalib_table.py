"""The models of anomalib as data: true to the installed package, and all that is known of them without it.

With UADCTL_UPDATE_TABLES=1 the table is written anew: names, defaults and types from anomalib, our words as they are.
"""

from __future__ import annotations

import ast
import enum
import inspect
import json
import os
import subprocess
import sys
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from uadctl.errors import SpecError
from uadctl.models.anomalib import offered_name
from uadctl.spec import MODELS, create_model, list_models, list_params, model_info, resolve_model
from uadctl.spec.signature import AUTO_PARAMS, OF_CATEGORY, build_model_kwargs, constructor_of, fill_params, type_of
from uadctl.spec.wrapped import ANOMALIB_FILE, anomalib_models

# The nineteen names that the wrapper is documented with, beside one for each folder of anomalib.
NAMES = (
    "patchcore",
    "padim",
    "stfpm",
    "draem",
    "fastflow",
    "reverse_distillation",
    "dfm",
    "cflow",
    "efficientad",
    "dinomaly",
    "cfa",
    "csflow",
    "dfkde",
    "dsr",
    "fre",
    "ganomaly",
    "uflow",
    "winclip",
    "supersimplenet",
)
OFFERED = [model for model in anomalib_models() if model.offered]


@pytest.fixture(scope="module")
def anomalib():
    pytest.importorskip("anomalib", reason="anomalib is not installed: pip install 'uadctl[anomalib]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the libraries that it imports
        import anomalib.models

        return anomalib.models


# --- the table is the package's


def classes_of(package) -> dict[str, type]:
    """anomalib's model classes by the target in our table, in the order of their folders."""
    found = [getattr(package, name) for name in package.__all__]
    found = [c for c in found if inspect.isclass(c) and issubclass(c, package.AnomalibModule)]
    return {f"anomalib.models:{c.__name__}": c for c in sorted(found, key=folder_of) if c is not package.AnomalibModule}


def folder_of(cls: type) -> str:
    return cls.__module__.split(".")[3]


def as_toml(hint: object) -> list[str]:
    """What of an annotation a spec can give, as alternatives; nothing for Python objects."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (bool, int, float, str):
        return [hint.__name__]
    if hint is type(None):
        return ["None"]
    if hint is Path:
        return ["str"]
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return [f"Literal[{', '.join(json.dumps(member.value) for member in hint)}]"]
    if origin is typing.Literal:
        return [f"Literal[{', '.join(map(json.dumps, arguments))}]"]
    if origin in (list, Sequence):
        return [f"tuple[{' | '.join(as_toml(arguments[0]))}, ...]"]
    if origin is tuple:
        return [f"tuple[{', '.join(' | '.join(as_toml(a)) for a in arguments)}]"]
    each = [part for argument in arguments for part in as_toml(argument)]
    # An enum's values are all the strings there are.
    literal = any(part.startswith("Literal[") for part in each)
    return list(dict.fromkeys(part for part in each if not (literal and part == "str")))


def hints_of(cls: type) -> dict[str, object]:
    """The annotations of a constructor; some modules import the names in them for type checkers only."""
    known = {"Sequence": Sequence, "Path": Path, **vars(sys.modules[cls.__module__])}
    hints = {}
    for name, annotation in cls.__init__.__annotations__.items():
        try:
            hints[name] = eval(annotation, known) if isinstance(annotation, str) else annotation
        except NameError:  # of the parts of anomalib that are objects to us
            hints[name] = object
    return hints


def default_of(parameter: inspect.Parameter) -> object:
    """As JSON has it; None for what it cannot say."""
    value = parameter.default
    value = value.value if isinstance(value, enum.Enum) else list(value) if isinstance(value, tuple) else value
    return value if isinstance(value, bool | int | float | str | list) else None


PARTS = ("pre_processor", "post_processor", "evaluator", "visualizer")


def row_of(name: str, default: object, hint: object, known: dict) -> dict:
    """One parameter: its name, default and type from anomalib, the rest ours; ours may know more than that it's a word."""
    if name in PARTS or "kept" in known:
        return {"name": name, "default": None if name in PARTS else default, "kept": known.get("kept", "object")}
    found = " | ".join(as_toml(hint))
    known_type = str(known.get("type"))
    narrower = found == "str" and known_type.startswith("Literal[")
    row = {"name": name, "default": default, "type": known_type if narrower else found}
    return row | {key: value for key, value in known.items() if key not in row}


def regenerated(package, version: str) -> str:
    """The table's file as it would be, had it been made of the installed anomalib today."""
    document = json.loads(ANOMALIB_FILE.read_text(encoding="utf-8"))
    known = {row["target"]: row for row in document["models"]}
    models = []
    for target, cls in classes_of(package).items():
        row = known.get(target) or {
            "name": folder_of(cls),
            "target": target,
            "reason": f"new in anomalib {version}: nobody has looked at it yet",
        }
        row["name"] = folder_of(cls)
        if "reason" not in row:
            old = {param["name"]: param for param in row.get("parameters", ())}
            hints = hints_of(cls)
            row["parameters"] = [
                row_of(p.name, default_of(p), hints[p.name], old.get(p.name, {}))
                for p in inspect.signature(cls).parameters.values()
            ]
        models.append(row)
    return written({**document, "version": version, "models": models})


def written(document: dict) -> str:
    """JSON with a line for each parameter."""
    rows = []
    for row in document["models"]:
        lines = [f"   {line(key, value)}" for key, value in row.items() if key != "parameters"]
        if "parameters" in row:
            params = ",\n".join(f"    {json.dumps(param, ensure_ascii=False)}" for param in row["parameters"])
            lines.append(f'   "parameters": [\n{params}\n   ]')
        rows.append("  {\n" + ",\n".join(lines) + "\n  }")
    head = [f" {line(key, value)}" for key, value in document.items() if key != "models"]
    return "{\n" + ",\n".join([*head, ' "models": [\n' + ",\n".join(rows) + "\n ]"]) + "\n}\n"


def line(key: str, value: object) -> str:
    return f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"


def test_the_table_is_that_of_the_installed_anomalib(anomalib):
    from anomalib import __version__ as version

    text = regenerated(anomalib, version)
    if os.environ.get("UADCTL_UPDATE_TABLES"):
        ANOMALIB_FILE.write_text(text, encoding="utf-8")
    document = json.loads(ANOMALIB_FILE.read_text(encoding="utf-8"))
    if version != document["version"]:
        text = text.replace(f'"version": "{version}"', f'"version": "{document["version"]}"')
    assert ANOMALIB_FILE.read_text(encoding="utf-8") == text
    assert len(document["models"]) >= 35


def sources_of(cls: type) -> list[ast.Module]:
    folder = Path(inspect.getfile(cls)).parent
    return [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.py"))]


def nodes(cls: type, kind: type) -> list:
    return [node for tree in sources_of(cls) for node in ast.walk(tree) if isinstance(node, kind)]


def test_what_the_table_says_of_a_model_is_what_its_code_does(anomalib):
    classes = classes_of(anomalib)
    for model in anomalib_models():
        cls = classes[model.target]
        if not model.offered:
            continue
        made = [n for n in nodes(cls, ast.Call) if isinstance(n.func, ast.Name) and n.func.id == "InferenceBatch"]
        assert made, model.name
        assert model.pixel_map == any(k.arg == "anomaly_map" for call in made for k in call.keywords), model.name
        names = {n.attr for n in nodes(cls, ast.Attribute)}
        assert (model.untrained is not None) == ("ZERO_SHOT" in names), model.name
        assert model.one_pass == ("MemoryBankMixin" in {base.__name__ for base in cls.__mro__}), model.name
        asked = [
            comparison.comparators[0].value
            for comparison in nodes(cls, ast.Compare)
            if isinstance(comparison.left, ast.Attribute) and comparison.left.attr == "train_batch_size"
        ]
        assert asked == ([] if model.batch_size is None else [model.batch_size]), model.name
    of_videos = {m.name for m in anomalib_models() if ".video." in classes[m.target].__module__}
    assert of_videos == {m.name for m in anomalib_models() if "videos" in (m.reason or "")} == {"ai_vad", "fuvas"}


# --- the table without the package


def test_every_model_says_what_it_is_or_why_it_is_not_offered():
    models = anomalib_models()
    assert [m.name for m in models] == sorted(m.name for m in models)
    assert {m.name for m in models if not m.offered} == {"ai_vad", "cfm", "fuvas", "vlm_ad"}
    assert {m.name for m in models if m.native} == {"padim", "patchcore"}
    assert {m.name for m in models if m.offered and not m.trainable} == {"anomalyvfm", "winclip"}
    assert {m.name for m in models if not m.pixel_map} == {"dfkde", "ganomaly"}
    assert {m.name: m.batch_size for m in models if m.batch_size is not None} == {"efficient_ad": 1}
    for model in models:
        assert model.summary.endswith(".")
        assert model.kind
        assert len(model.summary) <= 110
        assert model.paper is None or model.paper.count('"') == 2, model.name
        if not model.offered:
            assert model.reason
            assert not model.parameters
    assert {m.name for m in models if m.paper is None} == {"dfkde", "vlm_ad"}  # nobody has published them


def test_a_paper_that_two_entries_have_is_written_alike():
    ours = {entry.paper for entry in MODELS.values() if entry.backend != "anomalib" and entry.paper}
    titles = {paper.split('"')[1].casefold(): paper for paper in ours}
    alike = [m for m in OFFERED if m.paper and m.paper.split('"')[1].casefold() in titles]
    assert {m.name for m in alike} == {"anomaly_dino", "padim", "patchcore", "winclip"}
    for model in alike:
        assert model.paper == titles[model.paper.split('"')[1].casefold()]


def test_each_parameter_is_offered_with_its_meaning_or_kept():
    offered = 0
    for model in OFFERED:
        for param in model.parameters:
            assert (param.type is None) != (param.kept is None), (model.name, param.name)
            assert bool(param.doc) == (param.kept is None), (model.name, param.name)
            assert not (param.doc or "").endswith("."), (model.name, param.name)
            offered += param.kept is None
    assert offered >= 150
    assert {(m.name, p.name) for m in OFFERED for p in m.parameters if p.path} == {
        ("draem", "dtd_dir"),
        ("efficient_ad", "imagenet_dir"),
        ("glass", "anomaly_source_path"),
    }


def test_a_constructor_has_the_tables_parameters_with_their_types_and_meanings():
    seen = 0
    for model in OFFERED:
        entry = MODELS[f"vision_{model.name}_anomalib"]
        constructor = constructor_of(entry)
        infos = {info.name: info for info in list_params(entry.name)}
        assert {"checkpoint_path", "device", "contamination", "inferencer"} <= set(infos)
        for param in model.parameters:
            name = offered_name(param.name)
            if param.kept is not None:
                assert not {name, param.name} & set(infos), (model.name, name)
                continue
            assert infos[name].type == param.type
            # Where a meaning is broken into lines, none of them may begin as a parameter's own would.
            assert infos[name].doc == f"{param.doc}.", (model.name, name)
            assert infos[name].default == (tuple(param.default) if isinstance(param.default, list) else param.default)
            type_of(constructor, name)
            seen += 1
    assert seen >= 150


def test_what_uadctl_means_something_else_by_has_another_name():
    params = [(m.name, p.name) for m in OFFERED for p in m.parameters if p.kept is None]
    renamed = {(model, name) for model, name in params if offered_name(name) != name}
    assert {name for _, name in renamed} == {"batch_size", "image_size", "precision"}
    assert {pair for pair in renamed if pair[1] != "precision"} == {
        ("foundad", "image_size"),
        ("ganomaly", "batch_size"),
    }
    for name in (*AUTO_PARAMS, *OF_CATEGORY):
        assert offered_name(name) == f"model_{name}"
    infos = {info.name: info for info in list_params("vision_patchcore_anomalib")}
    assert set(infos["model_precision"].choices) == {"float32", "float16"}
    assert infos["model_precision"].default == "float32"
    assert "precision" not in infos
    assert list_params("vision_ganomaly_anomalib")[0].name == "model_batch_size"


# --- the registry


def test_there_is_an_entry_for_each_class_and_each_documented_name(anomalib):
    folders = {folder_of(cls) for cls in classes_of(anomalib).values()}
    assert len(folders) >= 35
    for name in [*folders, *NAMES, "anomalydino"]:
        assert model_info(f"vision_{name}_anomalib").backend == "anomalib"
    assert list_models("anomalib") == sorted(
        ["vision_anomalib_checkpoint", *(f"vision_{folder}_anomalib" for folder in folders)]
    )


def test_the_two_spellings_are_one_model():
    assert len(NAMES) == 19
    assert resolve_model("vision_efficientad_anomalib") is resolve_model("vision_efficient_ad_anomalib")
    assert resolve_model("vision_anomalydino_anomalib") is resolve_model("vision_anomaly_dino_anomalib")
    for name in NAMES:
        assert resolve_model(f"vision_{name}_anomalib").anomalib_model == name.replace("efficientad", "efficient_ad")


def test_metadata_say_what_a_checkpoint_holds_and_who_trains():
    for model in anomalib_models():
        facts = model_info(f"vision_{model.name}_anomalib").metadata
        assert facts["backend"] == "anomalib"
        assert facts["requires_checkpoint"] is True
        assert facts["anomalib_model"] == model.name
        assert facts["extra"] == "anomalib"
        assert facts["offered"] == model.offered == ("reason" not in facts)
        assert facts["trainable"] == model.trainable == ("untrained" not in facts)
        assert facts["pixel_map"] == model.pixel_map
    generic = model_info("vision_anomalib_checkpoint").metadata
    assert "anomalib_model" not in generic
    assert (generic["backend"], generic["requires_checkpoint"], generic["trainable"]) == ("anomalib", True, False)


def test_tags_are_anded_and_names_are_tags():
    assert len(list_models(tags=["anomalib"])) == len(anomalib_models()) + 1
    assert list_models(tags=["anomalib", "gaussian", "pixel_map"]) == [
        "vision_dfm_anomalib",
        "vision_fuvas_anomalib",
        "vision_padim_anomalib",
    ]
    assert list_models(tags=["anomalib", "padim"]) == ["vision_padim_anomalib"]
    assert list_models(tags=["anomalib", "vision_efficientad_anomalib"]) == ["vision_efficient_ad_anomalib"]
    assert list_models(tags=["padim"]) == ["vision_padim", "vision_padim_anomalib"]
    assert "vision_ganomaly_anomalib" not in list_models(tags=["anomalib", "pixel_map"])


def test_without_anomalib_all_are_listed_and_specs_are_checked():
    code = (
        "import sys; sys.modules['anomalib'] = None\n"
        "import uadctl, uadctl.spec as s; from uadctl.spec.signature import check_params\n"
        "print(len(uadctl.list_models('anomalib')), uadctl.model_info('vision_stfpm_anomalib').anomalib_model)\n"
        "params = {'coreset_sampling_rate': 0.1, 'num_neighbors': 'many'}\n"
        "print([p.fact for p in check_params('vision_patchcore_anomalib', params)[1]])\n"
        "print([m for m in ('torch', 'numpy', 'cv2', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"{len(anomalib_models()) + 1} stfpm\n"
        "['; did you mean coreset_sampling_ratio?', 'expected an integer, found a string']\n"
        "[]\n"
    )


# --- what is not offered

NOT_OFFERED = "vision_ai_vad_anomalib is not offered: it takes videos, and uadctl takes single images"


def test_a_model_that_is_not_offered_is_listed_and_shown_but_not_made():
    entry = model_info("vision_ai_vad_anomalib")
    assert (entry.offered, entry.reason) == (False, "it takes videos, and uadctl takes single images")
    for use in (create_model, resolve_model, list_params):
        with pytest.raises(SpecError) as error:
            use("vision_ai_vad_anomalib")
        assert str(error.value) == NOT_OFFERED


def test_a_misspelt_name_is_not_answered_with_one_that_is_not_offered():
    with pytest.raises(SpecError) as error:
        resolve_model("vision_fuvass_anomalib")
    assert "vision_fuvas_anomalib" not in str(error.value)


# --- in a spec


def test_a_default_path_is_not_written_out_and_a_given_one_is():
    assert "dtd_dir" not in fill_params("vision_draem_anomalib", {})
    assert fill_params("vision_draem_anomalib", {"dtd_dir": "/textures"})["dtd_dir"] == "/textures"
    filled = fill_params("vision_draem_anomalib", {})
    assert (filled["sspcab_lambda"], filled["beta"]) == (0.1, (0.1, 1.0))


def test_neither_the_run_nor_the_category_gives_anomalibs_parameters():
    for model in OFFERED:
        given = {"class_name": "screw", "precision": "fp32", "batch_size": 4, "seed": 1, "device": "cpu"}
        if not model.trainable:
            given["checkpoint_path"] = "m.ckpt"
        name = f"vision_{model.name}_anomalib"
        taken = build_model_kwargs(name, user_kwargs={}, auto_kwargs=given)
        assert {param.name for param in model.parameters} & set(taken) <= {"batch_size"}, name
        assert not any(key.startswith("model_") for key in taken), name
        assert (taken["batch_size"], taken["seed"], taken["device"]) == (4, 1, "cpu")
