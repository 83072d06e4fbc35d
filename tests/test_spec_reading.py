"""Reading specs: defaults, paths, variables, options that override, and every problem at its line."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import parts
import pytest
from spec_models import ENTRIES

from uadctl.errors import SpecError
from uadctl.records import Tiling
from uadctl.spec import MODELS, Overrides, Reading, RunSpec, TilingTable, constructor_kwargs, read_spec, variants
from uadctl.spec.camera_steps import CAMERA_STEPS, PRESETS, read_steps
from uadctl.spec.corruptions import AUGMENTATIONS, SEVERITIES
from uadctl.spec.grammar import AugmentTable, PostprocessTable, RobustnessTable, TrainerTable, name_from, usable_cores
from uadctl.spec.operations import Operation, Parameter, read_step
from uadctl.spec.values import shown
from uadctl.spec.wrapped import anomalib_models

GOOD = """\
[dataset]
name = "demo"
[model]
name = "strict"
"""


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in ENTRIES:
        monkeypatch.setitem(MODELS, entry.name, entry)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str | bytes, *, env: dict[str, str] | None = None, name: str = "s.toml", **overrides) -> Reading:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_spec(name, Overrides(**overrides), env=env or {})


def problems(text: str | bytes, **options) -> list[str]:
    with pytest.raises(SpecError) as error:
        read(text, **options)
    return [problem.message for problem in error.value.problems]


def helps(text: str, **options) -> list[str | None]:
    with pytest.raises(SpecError) as error:
        read(text, **options)
    return [problem.help for problem in error.value.problems]


# ---- what a good spec becomes


def test_every_default_is_filled_in(tmp_path: Path) -> None:
    spec = read(GOOD, name="specs/screw.v2.toml").spec
    assert msgspec.to_builtins(spec) == {
        "run": {
            "name": "screw.v2",
            "seed": 0,
            "seeds": None,
            "device": "auto",
            "precision": "fp32",
            "batch_size": 16,
            "threads": usable_cores(),
            "feature_cache": "1GB",
            "dir": str(tmp_path / "runs"),
            "engine": "local",
            "workers": None,
            "address": None,
            "cpus": None,
            "gpus": None,
        },
        "dataset": {
            "name": "demo",
            "root": None,
            "categories": "all",
            "split": "test",
            "layout": None,
            "on_error": "fail",
            "limit_train": None,
            "limit_test": None,
            "shots": None,
            "files": None,
        },
        "preprocess": {
            "size": 256,
            "resize": None,
            "crop": None,
            "intensity": "full",
            "raw": None,
            "steps": (),
            "roi": None,
            "ignore": (),
        },
        "tiling": None,
        "augment": None,
        "robustness": None,
        "model": (
            {
                "name": "vision_strict",
                "label": "vision_strict",
                "params": {
                    "ratio": 0.1,
                    "count": 9,
                    "kernel": (3, 3),
                    "backend": "torch",
                    "flag": False,
                    "limit": 5,
                    "pretrained": True,
                    "contamination": 0.1,
                },
                "grid": None,
                "trainer": None,
            },
        ),
        "calibration": {
            "method": "quantile",
            "alpha": 0.01,
            "delta": None,
            "review_alpha": None,
            "holdout": None,
            "split": None,
            "pixel_sigmas": 3.0,
            "pixel_threshold": None,
            "pixel_alpha": None,
            "pixel_review_alpha": None,
        },
        "postprocess": None,
        "metrics": {"pixel": True, "protocol": "mvtec_ad", "fpr_limits": (0.3,), "memory": "1GB", "bootstrap": 0},
        "gate": None,
    }


@pytest.mark.parametrize(
    ("name", "split"), [("mvtec", "test"), ("visa", "1cls"), ("ad2", "test_public"), ("folder", "test")]
)
def test_the_split_is_filled_in_whatever_lies_on_disk(name: str, split: str) -> None:
    text = GOOD.replace('"demo"', f'"{name}"\nroot = "data"')
    spec = read(text).spec
    assert spec.dataset.split == split
    assert read(text.replace("root =", f'split = "{split}"\nroot =')).spec == spec


def test_a_split_that_is_named_stays() -> None:
    text = GOOD.replace('"demo"', '"visa"\nroot = "data"')
    assert read(text.replace("root", 'split = "2cls_fewshot"\nroot')).spec.dataset.split == "2cls_fewshot"
    assert read(text, split="2cls_highshot").spec.dataset.split == "2cls_highshot"


def test_an_alias_of_a_data_set_becomes_its_name() -> None:
    assert read(GOOD.replace("demo", "custom") + "[run]\n", root="data").spec.dataset.name == "folder"


def test_the_default_name_is_the_stem_made_a_name() -> None:
    assert read(GOOD, name="a..b.toml").spec.run.name == "a-b"
    assert name_from("a/b\\c\n") == "a-b-c-"
    assert name_from(".") == name_from("") == "run"
    assert len(name_from("x" * 300)) == 64


def test_resize_takes_the_place_of_size() -> None:
    spec = read(GOOD + "[preprocess]\nresize = [256, 300]\ncrop = [224, 224]\n").spec
    assert spec.preprocess.size is None
    assert spec.preprocess.resize == (256, 300)
    assert spec.preprocess.crop == (224, 224)


def test_one_string_stands_for_a_list_of_one() -> None:
    text = GOOD.replace('"demo"', '"folder"\nroot = "."\ncategories = "bolt*"\nfiles = {train = "good/*.png"}')
    spec = read(text).spec
    assert spec.dataset.categories == ("bolt*",)
    assert spec.dataset.files is not None
    assert spec.dataset.files.train == ("good/*.png",)


def test_bom_and_crlf_are_accepted() -> None:
    spec = read(b"\xef\xbb\xbf" + (GOOD + '[run]\nname = "x"\n').replace("\n", "\r\n").encode()).spec
    assert spec.run.name == "x"
    text = b"\xef\xbb\xbf" + (GOOD + "[run]\nsed = 1\n").replace("\n", "\r\n").encode()
    assert problems(text) == ["s.toml:6: [run] sed is not a key of [run]; did you mean seed?"]


def test_several_models_have_labels() -> None:
    text = GOOD.replace("[model]", "[[model]]") + '[[model]]\nname = "strict"\nlabel = "b"\n[model.params]\nratio = 1\n'
    models = read(text).spec.models
    assert [m.label for m in models] == ["vision_strict", "b"]
    assert [m.params["ratio"] for m in models] == [0.1, 1.0]


# ---- paths and variables


def test_paths_in_a_spec_are_relative_to_its_file(tmp_path: Path) -> None:
    text = """\
[run]
dir = "../out"
[dataset]
name = "mvtec"
root = "../data"
[model]
name = "strict"
[model.params]
weights = "w.pth"
"""
    spec = read(text, name="specs/a.toml").spec
    assert spec.run.dir == str(tmp_path / "out")
    assert spec.dataset.root == str(tmp_path / "data")
    assert spec.models[0].params["weights"] == str(tmp_path / "specs" / "w.pth")


def test_paths_of_options_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    spec = read(GOOD, name="specs/a.toml", root="data", run_dir="out", set=('model.params.weights="w.pth"',)).spec
    assert spec.dataset.root == str(tmp_path / "data")
    assert spec.run.dir == str(tmp_path / "out")
    assert spec.models[0].params["weights"] == str(tmp_path / "w.pth")
    assert read(GOOD, name="specs/a.toml", set=("run.dir=other",)).spec.run.dir == str(tmp_path / "other")
    by_kwargs = read(GOOD, name="specs/a.toml", model_kwargs='{"weights": "w.pth"}').spec
    assert by_kwargs.models[0].params["weights"] == str(tmp_path / "w.pth")


def test_a_path_through_a_link_keeps_its_meaning(tmp_path: Path) -> None:
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "inner")
    root = read(GOOD, root="link/../data").spec.dataset.root
    assert root is not None
    assert os.path.realpath(root) == str(tmp_path / "far" / "data")


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert read(GOOD.replace('"demo"', '"demo"\nroot = "~/data"')).spec.dataset.root == str(tmp_path / "me" / "data")


def test_variables_are_expanded_in_every_string(tmp_path: Path) -> None:
    text = '[run]\nname = "${WHO}-$${WHO}-$x"\n' + GOOD.replace('"demo"', '"demo"\nroot = "${ROOT}/b"')
    text += '[model.params]\nlayers = ["${WHO}"]\n'
    spec = read(text, env={"WHO": "me", "ROOT": str(tmp_path)}).spec
    assert spec.run.name == "me-${WHO}-$x"
    assert spec.dataset.root == str(tmp_path / "b")
    assert spec.models[0].params["layers"] == ("me",)


def test_an_unset_variable_is_named_at_its_line() -> None:
    text = GOOD.replace('"demo"', '"mvtec"\nroot = "${MVTEC_ROOT}"\ncategories = ["a", "${X"]')
    assert problems(text) == [
        's.toml:3: [dataset] root = "${MVTEC_ROOT}": the environment variable MVTEC_ROOT is not set',
        's.toml:4: [dataset] categories[1] = "${X": expected ${NAME}, the name of an environment variable',
    ]
    assert helps(text)[0] == "Set it: export MVTEC_ROOT=…, or write the value itself."


def test_an_option_takes_the_place_of_an_unset_variable(tmp_path: Path) -> None:
    text = GOOD.replace('"demo"', '"mvtec"\nroot = "${MVTEC_ROOT}"')
    assert read(text, root="d").spec.dataset.root == str(tmp_path / "d")
    assert read(text, root="${d}").spec.dataset.root == str(tmp_path / "${d}")


# ---- problems of files


def test_a_file_that_is_no_spec() -> None:
    for path, message in (
        ("none.toml", "none.toml: there is no such spec file"),
        (".", ".: is a folder, expected a spec file"),
    ):
        with pytest.raises(SpecError) as error:
            read_spec(path)
        assert str(error.value) == message
    assert problems(b"[run]\nname = '\xff'\n") == ["s.toml:2: not UTF-8 text (byte 0xff)"]
    assert problems(b"#" * 1_000_001) == ["s.toml: longer than 1000000 bytes, which no spec is"]
    assert problems("a = " + "[" * 100_000) == ["s.toml: lists or tables are nested too deeply"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run]\nseed 3\n", "s.toml:3: not valid TOML: Expected '=' after a key in a key/value pair (column 6)"),
        ("[run]\n\nname = 'x\n", 's.toml:4: not valid TOML: Expected "\'" (at the end of the file)'),
        ("[run]\nname = [1,\n", "s.toml:3: not valid TOML: Unclosed array (at the end of the file)"),
        ("[run]\nseed = 1\nseed = 2\n", "s.toml:4: not valid TOML: Cannot overwrite a value (column 9)"),
    ],
)
def test_a_syntax_error_is_reported_alone_with_its_line(text: str, message: str) -> None:
    found = problems("[datset]\n" + text)
    assert len(found) == 1
    # tomllib's own words differ between versions; the place does not.
    assert found[0].split(": ")[:2] == message.split(": ")[:2]


# ---- problems of values


def test_every_problem_is_reported_at_its_line() -> None:
    text = """\
seed = 1
[run]
sed = 3
device = "gpu"
batch_size = 0
threads = true
name = "a/b"
[datset]
[dataset]
name = "mvtek"
categories = [
  "bottle",  # [run]
  "a/b",
  3,
]
limit_train = 0
on_error = "skipp"
[preprocess]
size = 256
resize = [256, 256]
crop = [1, 2, 3]
[model]
name = "patchcor"
[metrics]
fpr_limits = [0.3, 1.5]
pixel = 1
[calibration]
alpha = 1
holdout = 0.2
split = "validation"
"""
    name = "expected a name of 1 to 64 characters without /, \\, .. or control characters"
    folder = "expected the name of a folder, or a glob, without /, \\, .. or control characters"
    assert problems(text) == [
        "s.toml:1: seed is in no table; did you mean [run] seed?",
        "s.toml:3: [run] sed is not a key of [run]; did you mean seed?",
        's.toml:4: [run] device = "gpu": expected "auto", "cpu", "cuda", "cuda:N" or "mps"',
        's.toml:5: [run] batch_size = 0: expected an integer of at least 1, or "auto"',
        "s.toml:6: [run] threads = true: expected an integer >= 1, found true or false",
        f's.toml:7: [run] name = "a/b": {name}',
        "s.toml:8: [datset] is not a table of a spec; did you mean dataset?",
        f's.toml:10: [dataset] name = "mvtek": no such data set; did you mean mvtec? Choose from: {parts.DATA_SETS}',
        f's.toml:13: [dataset] categories[1] = "a/b": {folder}',
        f"s.toml:14: [dataset] categories[2] = 3: {folder}, found an integer",
        "s.toml:16: [dataset] limit_train = 0: expected an integer >= 1",
        's.toml:17: [dataset] on_error = "skipp": expected one of "fail", "skip"; did you mean "skip"?',
        "s.toml:20: [preprocess] resize = [256, 256]: only one of resize and size can be given",
        "s.toml:21: [preprocess] crop = [1, 2, 3]: expected a list of 2 integers >= 1, found 3",
        's.toml:23: [model] name = "patchcor": no such model; did you mean vision_patchcore? See: uadctl models list',
        "s.toml:25: [metrics] fpr_limits[1] = 1.5: expected a number > 0 and <= 1",
        "s.toml:26: [metrics] pixel = 1: expected true or false, found an integer",
        "s.toml:28: [calibration] alpha = 1: expected a number > 0 and < 1",
        's.toml:29: [calibration] holdout = 0.2: contradicts split = "validation"',
    ]


def test_parameters_are_checked_at_their_lines() -> None:
    text = (
        GOOD
        + """\
ratio = 0.2
[model.params]
ration = 0.1
layers = ["a", 3]
backend = "torhc"
count = nan
embedder = "x"
checkpoint_path = "m"
weights = 1979-05-27
[model.trainer]
"""
    )
    assert problems(text) == [
        "s.toml:5: [model] ratio is not a key of [model]; did you mean [model.params] ratio?",
        "s.toml:7: [model.params] ration is not a parameter of vision_strict; did you mean ratio?",
        "s.toml:8: [model.params] layers[1] = 3: expected a string, found an integer",
        's.toml:9: [model.params] backend = "torhc": expected one of "numpy", "torch"; did you mean "torch"?',
        "s.toml:10: [model.params] count = nan: expected a finite number",
        's.toml:11: [model.params] embedder = "x": embedder is a Python object, which only create_model can be given',
        "s.toml:13: [model.params] weights = 1979-05-27: expected true or false, a number, a string, a list or a "
        "table, found a date or time",
        "s.toml:14: [model.trainer] has no effect: vision_strict is not trained by uadctl",
    ]
    assert helps(text)[1] == (
        "vision_strict takes: backend, contamination, count, device, flag, kernel, layers, limit, pretrained, ratio, "
        "weights"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["s.toml: [dataset] is missing", "s.toml: [model] is missing"]),
        ("model = []\n[dataset]\nname = 'demo'\n", ["s.toml: [model] is missing"]),
        (
            "model = 3\ndataset = [1]\n[[run]]\n",
            [
                "s.toml:1: model = 3: expected a table [model], found an integer",
                "s.toml:2: dataset = [1]: expected a table [dataset], found a list",
                "s.toml:3: run = [{}]: expected a table [run], found a list",
            ],
        ),
        (
            "model = [3]\n[dataset]\nname='demo'",
            ["s.toml:1: model[0] = 3: expected a table [[model]], found an integer"],
        ),
        (GOOD.replace("demo", "mvtec"), ["s.toml:1: [dataset] root is missing: mvtec needs the folder it lies in"]),
        (
            "[dataset]\n[model]\n",
            [
                "s.toml:1: [dataset] name is missing: kind of data set. See: uadctl datasets list",
                "s.toml:2: [model] name is missing: name or alias of the model. See: uadctl models list",
            ],
        ),
        (
            GOOD + '[model.params]\nweights = ""\n',
            ['s.toml:6: [model.params] weights = "": expected a path'],
        ),
        (
            GOOD + '[model.params]\nweights = "a\\u0000"\n',
            ['s.toml:6: [model.params] weights = "a\\x00": expected a path'],
        ),
        (GOOD + "params = 3\n", ["s.toml:5: [model] params = 3: expected a table, found an integer"]),
        (
            GOOD.replace('"demo"', '"demo"\nfiles = 3'),
            ["s.toml:3: [dataset] files = 3: expected a table, found an integer"],
        ),
        (
            GOOD.replace('"demo"', '"folder"\nroot = "."\nfiles = {trian = 3}'),
            [
                "s.toml:4: [dataset.files] trian is not a key of [dataset.files]; did you mean train?",
            ],
        ),
        (
            GOOD.replace('"demo"', '"demo"\nfiles = {}'),
            ["s.toml:3: [dataset] files: demo finds its files by its layout"],
        ),
        (
            GOOD.replace('"demo"', '"demo"\nsplit = "x"'),
            ['s.toml:3: [dataset] split = "x": demo has no such split, expected "test"'],
        ),
        (
            GOOD.replace('"demo"', '"demo"\nlayout = "x"'),
            ['s.toml:3: [dataset] layout = "x": demo has only one layout'],
        ),
        (
            GOOD + "[metrics]\nfpr_limits = []\n",
            ["s.toml:6: [metrics] fpr_limits = []: expected a list of numbers > 0 and <= 1 that is not empty"],
        ),
        (
            GOOD + "[metrics]\nfpr_limits = [0.3, 0.3]\n",
            ["s.toml:6: [metrics] fpr_limits = [0.3, 0.3]: 0.3 is given twice"],
        ),
        (
            GOOD + "[preprocess]\nresize = [8, 8]\ncrop = [8, 9]\n",
            ["s.toml:7: [preprocess] crop = [8, 9]: larger than resize = [8, 8] (height, width)"],
        ),
        (
            GOOD.replace('"demo"', '"folder"\nroot = "."\n[dataset.files]\nmask = "m/{x}.png"'),
            [
                's.toml:5: [dataset.files] mask = "m/{x}.png": there is no placeholder {x}',
            ],
        ),
        (
            GOOD.replace('"demo"', '"folder"\nroot = "."\n[dataset.files]\nmask = "m.png"'),
            [
                's.toml:5: [dataset.files] mask = "m.png": every image would have the same mask, '
                "expected {stem} or {name} in it",
            ],
        ),
        (
            GOOD.replace("strict", "vision_checkpoint"),
            [
                "s.toml:3: [model] vision_checkpoint needs a checkpoint and none is given. Give "
                "--checkpoint-path FILE, or model.params.checkpoint_path (in --model-kwargs: checkpoint_path)",
            ],
        ),
        (
            GOOD + '[model.params]\ncheckpoint_path = "m"\n',
            [
                "s.toml:6: [model.params] vision_strict takes no checkpoint: checkpoint_path would have no effect",
            ],
        ),
        (
            GOOD.replace("strict", "vision_needy"),
            ["s.toml:3: [model.params] kind is missing: vision_needy has no default for it"],
        ),
        (
            GOOD.replace("[model]", "[[model]]") + "[[model]]\nname = 'strict'\n",
            [
                's.toml:6: [model] name = "strict": a second model with the label vision_strict',
            ],
        ),
        (
            GOOD.replace("[model]", "[[model]]") + "[[model]]\nname = 'strict'\nlabel = 'Vision_strict'\n",
            [
                's.toml:7: [model] label = "Vision_strict": a second model with the label Vision_strict',
            ],
        ),
        (
            GOOD + "['a b\\u001b']\n[\"\\u001b[31m\"]\n",
            [
                's.toml:5: ["a b\\\\u001b"] is not a table of a spec',
                's.toml:6: ["\\x1b[31m"] is not a table of a spec',
            ],
        ),
        (
            GOOD + '[model.params]\nratio = "' + "x" * 500 + '"\n',
            [
                's.toml:6: [model.params] ratio = "' + "x" * 70 + "…: expected a number, found a string",
            ],
        ),
    ],
)
def test_one_problem_one_message(text: str, expected: list[str]) -> None:
    assert problems(text) == expected


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\\\b", "x..y", "a\\nb", "a\\u0000", "\\u202ex", "x" * 65])
def test_names_that_could_leave_a_folder_are_refused(name: str) -> None:
    for text in (f'[run]\nname = "{name}"\n' + GOOD, GOOD + f'label = "{name}"\n'):
        found = problems(text)
        assert len(found) == 1
        assert found[0].endswith(": expected a name of 1 to 64 characters without /, \\, .. or control characters")


def test_a_trainable_model_takes_a_trainer_in_place_of_a_checkpoint() -> None:
    text = GOOD.replace("strict", "vision_trainable") + "[model.trainer]\nmax_epochs = 3\n"
    assert read(text).spec.models[0].trainer == TrainerTable(max_epochs=3, batch_size=32)
    assert problems(text + '[model.params]\ncheckpoint_path = "m"\n') == [
        's.toml:5: [model.trainer] vision_trainable is given both a checkpoint ("m") and [model.trainer]'
    ]


def trained(name: str, *lines: str) -> str:
    """A spec of one of anomalib's models with a trainer, which begins in line 5."""
    return "\n".join([GOOD.replace("strict", f"vision_{name}_anomalib") + "[model.trainer]", *lines, ""])


def test_a_trainer_is_as_strict_as_every_table() -> None:
    text = trained("fastflow", "epochs = 3", "max_epochs = 0", "workers = -1", 'batch_size = "8"', "patience = 1.5")
    assert problems(text) == [
        "s.toml:6: [model.trainer] epochs is not a key of [model.trainer]; did you mean max_epochs?",
        "s.toml:7: [model.trainer] max_epochs = 0: expected an integer >= 1",
        "s.toml:8: [model.trainer] workers = -1: expected an integer >= 0",
        's.toml:9: [model.trainer] batch_size = "8": expected an integer >= 1, found a string',
        "s.toml:10: [model.trainer] patience = 1.5: expected an integer >= 1, found a number",
    ]
    assert helps(text)[0] == ("[model.trainer] takes: batch_size, max_epochs, max_steps, patience, workers")
    assert problems(GOOD.replace("strict", "vision_fastflow_anomalib") + "trainer = 3\n") == [
        "s.toml:5: [model] trainer = 3: expected a table, found an integer"
    ]


def test_a_trainer_says_how_long() -> None:
    assert problems(trained("fastflow", "workers = 2")) == [
        "s.toml:5: [model.trainer] max_epochs is missing: anomalib would train 1000 epochs"
    ]
    assert helps(trained("fastflow")) == ["Give max_epochs = N, or max_steps = N."]
    for line in ("max_epochs = 3", "max_steps = 30"):
        (model,) = read(trained("fastflow", line)).spec.models
        assert model.trainer is not None
        assert {line.split()[0]: int(line.split()[2])}.items() <= model.trainer.given().items()


def test_a_model_that_learns_in_one_pass_needs_no_epochs() -> None:
    (model,) = read(trained("padim")).spec.models
    assert model.trainer is not None
    assert model.trainer.given() == {"batch_size": 32, "workers": 0}
    assert problems(trained("padim", "max_epochs = 1", "patience = 3", "max_steps = 2")) == [
        "s.toml:6: [model.trainer] max_epochs = 1: has no effect: padim learns in one pass over the images",
        "s.toml:7: [model.trainer] patience = 3: has no effect: padim learns in one pass over the images",
        "s.toml:8: [model.trainer] max_steps = 2: has no effect: padim learns in one pass over the images",
    ]


def test_a_batch_size_that_the_model_insists_on_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    models = tuple(replace(m, batch_size=1) if m.name == "fastflow" else m for m in anomalib_models())
    monkeypatch.setattr("uadctl.spec.signature.anomalib_models", lambda: models)
    (model,) = read(trained("fastflow", "max_epochs = 3")).spec.models
    assert model.trainer == TrainerTable(max_epochs=3, batch_size=1)
    assert problems(trained("fastflow", "max_epochs = 3", "batch_size = 8")) == [
        "s.toml:7: [model.trainer] batch_size = 8: fastflow can only be trained with 1"
    ]


def test_a_trainer_and_a_grid_go_together() -> None:
    text = trained("fastflow", "max_epochs = 3", "[model.grid]", "flow_steps = [4, 8]")
    spec = read(text).spec
    found = [(v.model.params["flow_steps"], v.model.trainer) for v in variants(spec)]
    assert found == [(4, spec.models[0].trainer), (8, spec.models[0].trainer)]
    assert [constructor_kwargs(spec.run, v.model)["trainer"] for v in variants(spec)] == [
        {"max_epochs": 3, "batch_size": 32, "workers": 0}
    ] * 2
    assert problems(text + 'checkpoint_path = ["a.ckpt"]\n') == [
        "s.toml:5: [model.trainer] vision_fastflow_anomalib is given both a checkpoint "
        f"({shown(str(Path.cwd() / 'a.ckpt'))}) and [model.trainer]"
    ]


def test_a_trainer_from_the_command_line() -> None:
    spec = read(trained("fastflow"), set=("model.trainer.max_epochs=2",)).spec
    assert spec.models[0].trainer == TrainerTable(max_epochs=2, batch_size=32)
    assert problems(trained("fastflow"), set=("model.trainer.max_epoch=2",)) == [
        "--set model.trainer.max_epoch=2: max_epoch is not a key of [model.trainer]; did you mean max_epochs?",
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vision_winclip_anomalib", "it is not trained: it compares images with words"),
        (
            "vision_anomalib_checkpoint",
            "no model of anomalib is named; the models vision_NAME_anomalib are trained",
        ),
    ],
)
def test_why_a_model_is_not_trained_is_said(name: str, reason: str) -> None:
    text = GOOD.replace("strict", name)
    assert problems(text + "[model.trainer]\nmax_epochs = 1\n") == [
        f"s.toml:5: [model.trainer] has no effect: {name} is not trained by uadctl ({reason})"
    ]
    assert problems(text) == [
        f"s.toml:3: [model] {name} needs a checkpoint and none is given. Give --checkpoint-path FILE, or "
        "model.params.checkpoint_path (in --model-kwargs: checkpoint_path)"
    ]
    assert helps(text) == [f"uadctl does not train it: {reason}"]


def test_a_model_that_is_not_offered_is_refused_with_the_reason() -> None:
    assert problems(GOOD.replace("strict", "vision_ai_vad_anomalib")) == [
        's.toml:4: [model] name = "vision_ai_vad_anomalib": is not offered: it takes videos, and uadctl takes single '
        "images"
    ]


def test_parameters_for_training_are_not_written_out_beside_a_checkpoint() -> None:
    text = GOOD.replace("strict", "vision_ganomaly_anomalib") + "params = { checkpoint_path = 'm.ckpt' }\n"
    (model,) = read(text).spec.models
    assert model.params == {
        "checkpoint_path": str(Path.cwd() / "m.ckpt"),
        "inference": "training",
        "contamination": 0.1,
    }
    (trained_,) = read(trained("ganomaly", "max_epochs = 1")).spec.models
    assert {"model_batch_size", "n_features", "inference"} <= set(trained_.params)
    assert "checkpoint_path" not in trained_.params


@pytest.mark.parametrize(
    ("name", "table", "noted"),
    [
        ("strict", "", True),
        ("vision_fastflow_anomalib", "[model.trainer]\nmax_epochs = 1\n", True),
        ("vision_fastflow_anomalib", 'params = { checkpoint_path = "m.pt" }\n', False),
        ("vision_anomalib_checkpoint", 'params = { checkpoint_path = "m.pt" }\n', False),
    ],
)
def test_trust_without_a_checkpoint_has_no_effect(name: str, table: str, noted: bool) -> None:
    text = GOOD.replace("strict", name) + table
    note = "--trust-checkpoint has no effect: no model of the spec is given a checkpoint"
    assert list(read(text, trust_checkpoint=True).notes) == ([note] if noted else [])
    assert list(read(text).notes) == []


def test_a_spec_cannot_trust_a_checkpoint() -> None:
    text = GOOD.replace("strict", "vision_anomalib_checkpoint")
    text += 'params = { checkpoint_path = "m.pt", trust_checkpoint = true }\n'
    assert problems(text) == [
        "s.toml:5: [model.params] trust_checkpoint = true: no spec can say that a file may run code; whoever runs it "
        "can, with --trust-checkpoint"
    ]
    text = GOOD.replace("strict", "vision_padim_anomalib") + "[model.trainer]\n[model.params]\ntrainer = {}\n"
    assert problems(text) == ["s.toml:7: [model.params] trainer: it is a table of its own, [model.trainer]"]


def test_a_wrapped_model_takes_anything_toml_has() -> None:
    text = GOOD.replace("strict", "vision_wrapped") + "[model.params]\nx = {a = [1, 2.5]}\n"
    assert read(text).spec.models[0].params == {"n_jobs": 1, "x": {"a": [1, 2.5]}}
    assert problems(text + "y = [{a = inf}]\n") == ["s.toml:7: [model.params.y] a = inf: expected a finite number"]


# ---- cameras, tiles, corruptions, maps


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations of all kinds, whatever the program's own are."""
    frame = Operation(
        "frame",
        "nowhere",
        "",
        (Parameter("picture", "path", None), Parameter("dark", "path", ""), Parameter("gain", "float", 1.5, 0.0)),
    )
    monkeypatch.setitem(CAMERA_STEPS, "frame", frame)
    monkeypatch.setitem(CAMERA_STEPS, "even", Operation("even", "nowhere", "", (Parameter("grid", "int", 8, 1, 64),)))
    monkeypatch.setitem(CAMERA_STEPS, "plain", Operation("plain", "nowhere", ""))
    monkeypatch.setitem(PRESETS, "industrial-test", ("plain", "even:grid=4"))
    monkeypatch.setitem(AUGMENTATIONS, "shake", Operation("shake", "nowhere", "", (Parameter("by", "float", 2.0),)))
    monkeypatch.setitem(SEVERITIES, "shake", ("shake", "shake", "shake", "shake", "shake"))


def why(text: str, *, augmentation: bool = False) -> str:
    """What is wrong with a step, in the words of who reads it."""
    with pytest.raises(ValueError) as error:
        read_step(text, AUGMENTATIONS) if augmentation else read_steps((text,))
    return str(error.value)


@pytest.mark.usefixtures("steps")
def test_steps_are_written_out_with_every_parameter(tmp_path: Path) -> None:
    text = GOOD + '[preprocess]\nsteps = ["even", "industrial-test", "frame:picture=flat/,gain=2", "plain"]\n'
    assert read(text, name="specs/s.toml").spec.preprocess.steps == (
        "even:grid=8",
        "plain",
        "even:grid=4",
        f"frame:picture={tmp_path}/specs/flat,dark=,gain=2.0",
        "plain",
    )


@pytest.mark.usefixtures("steps")
def test_paths_in_steps_are_relative_to_where_they_are_written(tmp_path: Path) -> None:
    text = GOOD + '[preprocess]\nsteps = ["frame:picture=../${F}.png,dark=~/d.png"]\n'
    (step,) = read(text, name="specs/s.toml", env={"F": "a b"}).spec.preprocess.steps
    assert step == f"frame:picture={tmp_path}/a b.png,dark={Path('~/d.png').expanduser()},gain=1.5"
    (step,) = read(GOOD, name="specs/s.toml", set=("preprocess.steps=frame:picture=f.png",)).spec.preprocess.steps
    assert step == f"frame:picture={tmp_path}/f.png,dark=,gain=1.5"
    found = problems(GOOD + '[preprocess]\nsteps = ["plain", "frame:picture=f.png"]\n', name="a,b/s.toml")
    assert found == [
        'a,b/s.toml:6: [preprocess] steps[1] = "frame:picture=f.png": picture of frame: '
        f"{shown(str(tmp_path / 'a,b' / 'f.png'))} has a comma, which a path in a step cannot hold"
    ]


@pytest.mark.usefixtures("steps")
def test_a_wrong_step_is_reported_at_its_line() -> None:
    text = GOOD + '[preprocess]\nsteps = [\n  "evn",\n  "even:grid=0",\n  "plain",\n  "industrial-tst",\n  3,\n]\n'
    assert problems(text) == ["s.toml:11: [preprocess] steps[4] = 3: expected a string, found an integer"]
    assert problems(text.replace("  3,\n", "")) == [
        f's.toml:7: [preprocess] steps[0] = "evn": {why("evn")}',
        f's.toml:8: [preprocess] steps[1] = "even:grid=0": {why("even:grid=0")}',
        f's.toml:10: [preprocess] steps[3] = "industrial-tst": {why("industrial-tst")}',
    ]
    assert "industrial-test" in why("industrial-tst")
    assert problems(GOOD + '[preprocess]\nsteps = "evn"\n') == [f's.toml:6: [preprocess] steps = "evn": {why("evn")}']
    assert problems(GOOD, set=("preprocess.steps=evn",)) == [f"--set preprocess.steps=evn: {why('evn')}"]


def test_the_presets_of_the_program_are_steps() -> None:
    assert len(PRESETS) >= 3
    for name in PRESETS:
        spec = read(GOOD + f'[preprocess]\nsteps = "{name}"\n').spec
        assert spec.preprocess.steps == tuple(map(str, read_steps((name,))))
        assert len(spec.preprocess.steps) == len(PRESETS[name])


def test_areas_are_shapes_or_files(tmp_path: Path) -> None:
    text = GOOD + '[preprocess]\nroi = " polygon:0,0 0,9 9,9 "\nignore = ["box:1,2,3,4", "../${M}.png"]\n'
    preprocess = read(text, name="specs/s.toml", env={"M": "mask"}).spec.preprocess
    assert preprocess.roi == "polygon:0,0 0,9 9,9"
    assert preprocess.ignore == ("box:1,2,3,4", str(tmp_path / "mask.png"))
    assert read(GOOD, set=("preprocess.roi=m.png",)).spec.preprocess.roi == str(tmp_path / "m.png")
    assert read(GOOD, set=("preprocess.ignore=box:0,0,9,9",)).spec.preprocess.ignore == ("box:0,0,9,9",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('roi = "box:5,0,5,9"', 'roi = "box:5,0,5,9": a box\'s top (=5) must be less than its bottom (=5)'),
        ('roi = ["box:0,0,5,9"]', 'roi = ["box:0,0,5,9"]: expected a string, found a list'),
        (
            'ignore = ["m.png", "polygon:0,0 1,1"]',
            'ignore[1] = "polygon:0,0 1,1": expected a polygon of at least 3 points, found 2',
        ),
        (
            'intensity = "window:5,1"',
            'intensity = "window:5,1": the lower end (=5) must be less than the upper end (=1)',
        ),
        ("intensity = 8", "intensity = 8: expected a string, found an integer"),
        ('raw = "8x4x2:uint8"', 'raw = "8x4x2:uint8": expected 1 channel (grey) or 3 (RGB), found 2'),
    ],
)
def test_what_cannot_be_said_of_a_camera(line: str, message: str) -> None:
    assert problems(GOOD + f"[preprocess]\n{line}\n") == [f"s.toml:6: [preprocess] {message}"]


def test_intensity_and_raw_are_kept_as_they_are_said() -> None:
    text = GOOD + '[preprocess]\nintensity = "percentile:0.1,99.9 "\nraw = "*x25000:uint16"\n'
    preprocess = read(text).spec.preprocess
    assert (preprocess.intensity, preprocess.raw) == ("percentile:0.1,99.9", "*x25000:uint16")


def test_tiles_overlap_by_a_quarter_and_keep_their_pixels() -> None:
    spec = read(GOOD + "[tiling]\nsize = 513\n").spec
    assert spec.tiling == TilingTable(size=513, stride=384, reduce="mean", score="max", fit="tiles")
    assert spec.preprocess.size == 513
    assert spec.tiling.tiling == Tiling(size=513, stride=384)
    assert TilingTable(size=513).tiling == Tiling(size=513, stride=384)
    text = GOOD + '[tiling]\nsize = 64\nstride = 64\nreduce = "hann"\nscore = "mean"\nfit = "tiles"\n'
    spec = read(text).spec
    assert spec.tiling is not None
    assert spec.tiling.tiling == Tiling(size=64, stride=64, reduce="hann", score="mean")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", (64, None)),
        ("[preprocess]\nsteps = []\n", (64, None)),
        ("[preprocess]\nsize = 48\n", (48, None)),
        ("[preprocess]\nresize = [32, 32]\n", (None, (32, 32))),
    ],
)
def test_the_size_of_a_tile_is_that_of_the_network_unless_it_is_said(table: str, expected: tuple) -> None:
    preprocess = read(GOOD + table + "[tiling]\nsize = 64\n").spec.preprocess
    assert (preprocess.size, preprocess.resize) == expected


def test_images_that_are_learned_whole_keep_the_default_size() -> None:
    spec = read(GOOD + '[tiling]\nsize = 64\nfit = "resized"\n').spec
    assert (spec.preprocess.size, spec.tiling and spec.tiling.stride) == (256, 48)


def test_tiling_from_the_command_line() -> None:
    spec = read(GOOD, set=("tiling.size=512",)).spec
    assert spec.tiling == TilingTable(size=512, stride=384)
    assert spec.preprocess.size == 512
    assert read(GOOD + "[tiling]\nsize = 64\n", set=("tiling.stride=32",)).spec.tiling == TilingTable(
        size=64, stride=32
    )
    assert problems(GOOD, set=("tiling.stride=512",)) == [
        "--set tiling.stride=512: size is missing: side of a square tile, in pixels of the file."
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("size = 15", ["s.toml:6: [tiling] size = 15: expected an integer >= 16"]),
        ("size = true", ["s.toml:6: [tiling] size = true: expected an integer >= 16, found true or false"]),
        ("size = 64\nstride = 0", ["s.toml:7: [tiling] stride = 0: expected an integer >= 1"]),
        (
            "size = 64\nstride = 65",
            [
                "s.toml:7: [tiling] stride = 65: larger than size = 64: pixels between two tiles would never be looked at"
            ],
        ),
        (
            "size = 64\nreduce = 'men'",
            ['s.toml:7: [tiling] reduce = "men": expected one of "hann", "max", "mean"; did you mean "mean"?'],
        ),
        ("size = 64\nfit = 'whole'", ['s.toml:7: [tiling] fit = "whole": expected one of "resized", "tiles"']),
        (
            "",
            ["s.toml:5: [tiling] size is missing: side of a square tile, in pixels of the file."],
        ),
        ("sise = 64\nsize = 64", ["s.toml:6: [tiling] sise is not a key of [tiling]; did you mean size?"]),
    ],
)
def test_what_cannot_be_said_of_tiles(lines: str, expected: list[str]) -> None:
    assert problems(GOOD + f"[tiling]\n{lines}\n") == expected


def test_a_crop_of_tiles_is_refused() -> None:
    text = GOOD + "[tiling]\nsize = 64\n[preprocess]\ncrop = [8, 8]\n"
    assert problems(text) == [
        "s.toml:8: [preprocess] crop = [8, 8]: contradicts [tiling]: a crop of every tile would leave gaps between them"
    ]
    assert helps(text) == ['Say which part of the images counts: [preprocess] roi = "box:top,left,bottom,right"']
    assert problems(GOOD + "[preprocess]\ncrop = [8, 8]\n", set=("tiling.size=64",)) == problems(
        GOOD + "[preprocess]\ncrop = [8, 8]\n[tiling]\nsize = 64\n"
    )


@pytest.mark.usefixtures("steps")
def test_augmentations_and_corruptions_are_named() -> None:
    spec = read(GOOD + '[augment]\nsteps = ["shake", "shake:by=3"]\n[robustness]\ncorruptions = "shake"\n').spec
    assert spec.augment == AugmentTable(steps=("shake:by=2.0", "shake:by=3.0"), copies=1)
    assert spec.robustness == RobustnessTable(corruptions=("shake",), severities=(1, 3, 5))
    assert read(GOOD + "[robustness]\n").spec.robustness == RobustnessTable(corruptions=None, severities=(1, 3, 5))
    assert read(GOOD, set=("robustness.severities=[5]",)).spec.robustness == RobustnessTable(severities=(5,))


@pytest.mark.usefixtures("steps")
def test_what_cannot_be_said_of_augmentations_and_corruptions() -> None:
    text = GOOD + '[augment]\nsteps = [\n"plain",\n"shake:to=1"]\ncopies = 0\n'
    text += '[robustness]\ncorruptions = ["shak"]\nseverities = [1, 6]\n'
    choices = ", ".join(sorted(SEVERITIES))
    assert problems(text) == [
        f's.toml:7: [augment] steps[0] = "plain": {why("plain", augmentation=True)}',
        f's.toml:8: [augment] steps[1] = "shake:to=1": {why("shake:to=1", augmentation=True)}',
        "s.toml:9: [augment] copies = 0: expected an integer >= 1",
        's.toml:11: [robustness] corruptions[0] = "shak": no such corruption; did you mean shake? '
        f"Choose from: {choices}",
        "s.toml:12: [robustness] severities[1] = 6: expected an integer >= 1 and <= 5",
    ]
    text = GOOD + '[augment]\n[robustness]\ncorruptions = ["shake", "shake"]\nseverities = [1, 3, 3]\n'
    assert problems(text) == [
        's.toml:5: [augment] steps is missing: what is done to a copy, in this order: "NAME" or '
        '"NAME:KEY=VALUE,KEY=VALUE".',
        's.toml:7: [robustness] corruptions = ["shake", "shake"]: shake is given twice',
        "s.toml:8: [robustness] severities = [1, 3, 3]: 3 is given twice",
    ]
    assert problems(GOOD + "[augment]\nsteps = []\n[robustness]\nseverities = []\ncorruptions = []\n") == [
        "s.toml:6: [augment] steps = []: expected a list of strings that is not empty",
        "s.toml:8: [robustness] severities = []: expected a list of integers >= 1 and <= 5 that is not empty",
        "s.toml:9: [robustness] corruptions = []: expected a list of strings that is not empty",
    ]


def test_maps_are_left_alone_unless_it_is_said() -> None:
    nothing = PostprocessTable(normalize=False, gaussian_sigma=0.0, opening=0, closing=0, min_area=0, hysteresis=None)
    assert read(GOOD + "[postprocess]\n").spec.postprocess == nothing
    text = GOOD + "[postprocess]\nnormalize = true\ngaussian_sigma = 2\nopening = 3\nclosing = 5\nmin_area = 9\n"
    assert read(text + "hysteresis = 5\n").spec.postprocess == PostprocessTable(
        normalize=True, gaussian_sigma=2.0, opening=3, closing=5, min_area=9, hysteresis=5.0
    )
    assert problems(
        GOOD
        + "[postprocess]\nnormalize = 'minmax'\ngaussian_sigma = -1\nopening = 2.5\nhysteresis = 0\nmin_area = -1\n"
    ) == [
        's.toml:6: [postprocess] normalize = "minmax": expected true or false, found a string',
        "s.toml:7: [postprocess] gaussian_sigma = -1: expected a number >= 0 and <= 1000",
        "s.toml:8: [postprocess] opening = 2.5: expected an integer >= 0 and <= 1000, found a number",
        "s.toml:9: [postprocess] hysteresis = 0: expected a number > 0 and <= 1000",
        "s.toml:10: [postprocess] min_area = -1: expected an integer >= 0",
    ]


def test_a_hysteresis_that_every_region_reaches_is_refused() -> None:
    text = GOOD + "[postprocess]\nhysteresis = 3\n"
    assert problems(text) == [
        "s.toml:6: [postprocess] hysteresis = 3: has no effect: [calibration] pixel_sigmas = 3.0, which every region "
        "reaches"
    ]
    assert helps(text) == ["Make hysteresis larger than pixel_sigmas, or leave it out."]
    assert read(text + "[calibration]\npixel_sigmas = 2.5\n").spec.postprocess == PostprocessTable(hysteresis=3.0)
    assert read(text + "[calibration]\npixel_threshold = 2.5\n").spec.postprocess == PostprocessTable(hysteresis=3.0)


def test_whether_a_spec_says_a_size() -> None:
    for table, wanted in (
        ("", True),
        ('steps = "gray_world"', True),
        ("size = 256", True),
        ("size = 64", False),
        ("resize = [256, 256]", False),
        ("crop = [8, 8]", False),
    ):
        assert read(GOOD + f"[preprocess]\n{table}\n").spec.preprocess.says_no_size is wanted, table


# ---- options


def test_options_override_the_file() -> None:
    reading = read(
        GOOD + "[run]\nseed = 1\n[metrics]\npixel = true\n[model.params]\nratio = 0.2\n",
        dataset="mvtec",
        root="r",
        categories=("a", "b*"),
        split="test",
        pixel=False,
        device="cuda:1",
        seed=7,
        limit_train=3,
        limit_test=4,
        model_kwargs='{"count": 2}',
        set=("run.batch_size=2", 'model.params.layers=["x"]', "run.name=bare words", "metrics.fpr_limits=[0.05]"),
    )
    spec = reading.spec
    assert (spec.dataset.name, spec.dataset.categories, spec.dataset.split) == ("mvtec", ("a", "b*"), "test")
    assert (spec.dataset.limit_train, spec.dataset.limit_test) == (3, 4)
    assert (spec.run.device, spec.run.seed, spec.run.batch_size, spec.run.name) == ("cuda:1", 7, 2, "bare words")
    assert spec.metrics.pixel is False
    assert spec.metrics.fpr_limits == (0.05,)
    params = spec.models[0].params
    assert (params["ratio"], params["count"], params["layers"]) == (0.2, 2, ("x",))
    assert reading.notes == ("--seed 7 does not reach vision_strict, which takes no seed",)


def test_a_spec_from_options_alone(tmp_path: Path) -> None:
    spec = read_spec(None, Overrides(dataset="mvtec", root="r", categories=("bottle",), model="strict"), env={}).spec
    assert (spec.run.name, spec.dataset.root, spec.dataset.categories) == ("mvtec", str(tmp_path / "r"), ("bottle",))
    assert spec.models[0].name == "vision_strict"
    assert spec.run.dir == str(tmp_path / "runs")
    with pytest.raises(SpecError) as error:
        read_spec(None, env={})
    assert [(p.message, p.help) for p in error.value.problems] == [
        ("[dataset] is missing", 'Say which images: [dataset] with name = "NAME", or --dataset NAME --root FOLDER.'),
        (
            "[model] is missing",
            'Say which detector: [model] with name = "NAME", or --model NAME. See: uadctl models list',
        ),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": ("run.seed=x",)}, "--set run.seed=x: expected an integer >= 0 and <= 4294967295, found a string"),
        ({"set": ("run.sed=1",)}, "--set run.sed=1: sed is not a key of [run]; did you mean seed?"),
        ({"set": ("runn.seed=1",)}, "--set runn.seed=1: [runn] is not a table of a spec; did you mean run?"),
        ({"set": ("run=1",)}, "--set run=1: run is a table"),
        ({"set": ("model=1",)}, "--set model=1: model is a table"),
        ({"set": ("seed=1",)}, "--set seed=1: seed is in no table; did you mean [run] seed?"),
        ({"set": ("run.seed",)}, "--set run.seed: expected KEY=VALUE"),
        ({"set": ("run.seed.x=1",)}, "--set run.seed.x=1: expected an integer >= 0 and <= 4294967295, found a table"),
        ({"set": ("model.params.ratio=x",)}, "--set model.params.ratio=x: expected a number, found a string"),
        (
            {"set": ("model.params.ration=1",)},
            "--set model.params.ration=1: ration is not a parameter of vision_strict; did you mean ratio?",
        ),
        (
            {"set": ("dataset.files={train=3}",)},
            "--set dataset.files={train=3}: train = 3: expected a list of strings, found an integer",
        ),
        ({"set": ("dataset.root=${NO}",)}, "--set dataset.root=${NO}: the environment variable NO is not set"),
        (
            {"set": ("run.name=1 \x1b[31m/",)},
            "--set run.name=1 \\x1b[31m/: expected a name of 1 to 64 characters without /, \\, .. or control "
            "characters",
        ),
        (
            {"dataset": "mvtek"},
            f"--dataset mvtek: no such data set; did you mean mvtec? Choose from: {parts.DATA_SETS}",
        ),
        ({"model": "stritc"}, "--model stritc: no such model; did you mean vision_strict? See: uadctl models list"),
        ({"seed": -1}, "--seed -1: expected an integer >= 0 and <= 4294967295"),
        ({"limit_test": 0}, "--limit-test 0: expected an integer >= 1"),
        ({"device": "gpu"}, '--device gpu: expected "auto", "cpu", "cuda", "cuda:N" or "mps"'),
        ({"split": "x"}, '--split x: demo has no such split, expected "test"'),
        ({"root": ""}, "--root : expected a path"),
        ({"root": "\udcff"}, "--root \\udcff: is not Unicode text, which a spec is"),
        (
            {"categories": ("a", "../b")},
            "--category ../b: expected the name of a folder, or a glob, without /, \\, .. or control characters",
        ),
        (
            {"model_kwargs": '{"ration": 1}'},
            "--model-kwargs: ration is not a parameter of vision_strict; did you mean ratio?",
        ),
        (
            {"model_kwargs": '{"layers": ["a", 3]}'},
            "--model-kwargs: layers[1] = 3: expected a string, found an integer",
        ),
        ({"model_kwargs": "[1]"}, "--model-kwargs: expected a JSON object, found a list: [1]"),
        ({"model_kwargs": '{"limit": null}'}, "--model-kwargs: limit = null: a spec cannot say null"),
        (
            {"checkpoint_path": "m.ckpt"},
            "--checkpoint-path m.ckpt: vision_strict takes no checkpoint: checkpoint_path would have no effect",
        ),
        ({"seed": 1, "set": ("run.seed=2",)}, "--set run.seed=2: contradicts --seed 1"),
        (
            {"pretrained": True, "set": ("model.params.pretrained=false",)},
            "--pretrained: contradicts --set model.params.pretrained=false",
        ),
    ],
)
def test_a_problem_of_an_option_names_the_option(options: dict, message: str) -> None:
    text = GOOD + "[run]\nseed = 3\n"
    if "files" in message:
        text = text.replace('"demo"', '"folder"\nroot = "."')
    assert problems(text, **options) == [message]


def test_a_null_that_is_the_default_goes_without_saying() -> None:
    assert "layers" not in read(GOOD, model_kwargs='{"layers": null}').spec.models[0].params


def test_the_same_option_twice_with_the_same_value_is_no_contradiction() -> None:
    assert read(GOOD, seed=1, set=("run.seed=1",)).spec.run.seed == 1
    assert read(GOOD, set=("run.seed=1", "run.seed=2")).spec.run.seed == 2


def test_all_is_every_category() -> None:
    text = GOOD.replace('"demo"', '"demo"\ncategories = ["a"]')
    assert read(text, categories=("all",)).spec.dataset.categories == "all"


def test_set_takes_the_place_of_what_the_file_says_instead() -> None:
    spec = read(GOOD + "[preprocess]\nsize = 128\n", set=("preprocess.resize=[64, 64]",)).spec
    assert (spec.preprocess.size, spec.preprocess.resize) == (None, (64, 64))
    spec = read(GOOD + "[preprocess]\nresize = [64, 64]\n", set=("preprocess.size=32",)).spec
    assert (spec.preprocess.size, spec.preprocess.resize) == (32, None)
    assert problems(GOOD, set=("preprocess.resize=[64, 64]", "preprocess.size=32")) == [
        "--set preprocess.resize=[64, 64]: only one of resize and size can be given"
    ]


SEVERAL = GOOD.replace("[model]", "[[model]]") + "[[model]]\nname = 'strict'\nlabel = 'b.c'\n"


def test_with_several_models_set_needs_a_label() -> None:
    models = read(SEVERAL, set=('model."b.c".params.ratio=0.5', "model.vision_strict.params.count=3")).spec.models
    assert [m.params["ratio"] for m in models] == [0.1, 0.5]
    assert [m.params["count"] for m in models] == [3, 9]
    assert read(SEVERAL, set=("model.strict.params.count=4",)).spec.models[0].params["count"] == 4
    assert read(GOOD, set=("model.strict.params.count=4",)).spec.models[0].params["count"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"set": ("model.params.ratio=0.5",)},
            "--set model.params.ratio=0.5: the spec has 2 models, expected model.LABEL.params.ratio",
        ),
        ({"set": ("model.b.params.ratio=0.5",)}, "--set model.b.params.ratio=0.5: no model has the label b"),
        ({"model_kwargs": '{"ratio": 0.5}'}, "--model-kwargs: the spec has 2 models, expected one"),
        ({"checkpoint_path": "m"}, "--checkpoint-path m: the spec has 2 models, expected one"),
    ],
)
def test_what_needs_one_model_says_so(options: dict, message: str) -> None:
    assert problems(SEVERAL, **options) == [message]


def test_model_takes_the_place_of_all_models_and_says_what_is_dropped() -> None:
    reading = read(
        SEVERAL + "[model.params]\nratio = 0.5\nnonsense = 1\n", model="vision_wrapped", model_kwargs='{"a": 1}'
    )
    assert [(m.name, m.params) for m in reading.spec.models] == [("vision_wrapped", {"n_jobs": 1, "a": 1})]
    assert reading.notes == (
        "--model vision_wrapped takes the place of b.c: its parameters (ratio, nonsense) are dropped",
    )


def test_pretrained_reaches_the_models_that_take_it() -> None:
    text = SEVERAL + "[[model]]\nname = 'vision_wrapped'\n"
    reading = read(text, pretrained=False)
    assert [m.params.get("pretrained") for m in reading.spec.models] == [False, False, None]
    assert reading.notes == ("--no-pretrained has no effect on vision_wrapped, which takes no parameter pretrained",)
    assert (
        read(GOOD + "[model.params]\npretrained = false\n", pretrained=True).spec.models[0].params["pretrained"] is True
    )


def test_a_parameter_of_one_model_beats_an_option_for_the_run() -> None:
    reading = read(GOOD + '[model.params]\ndevice = "cuda"\n', device="cpu")
    assert reading.spec.run.device == "cpu"
    assert reading.spec.models[0].params["device"] == "cuda"
    assert reading.notes == ('--device cpu does not change the parameter device = "cuda" of vision_strict',)


def test_a_checkpoint_comes_from_either_side(tmp_path: Path) -> None:
    text = GOOD.replace("strict", "vision_checkpoint")
    own = text + '[model.params]\ncheckpoint_path = "../m.ckpt"\n'
    wanted = str(tmp_path / "m.ckpt")
    assert read(text, checkpoint_path="m.ckpt").spec.models[0].params["checkpoint_path"] == wanted
    assert read(text, model_kwargs='{"checkpoint_path": "m.ckpt"}').spec.models[0].params["checkpoint_path"] == wanted
    assert read(own, name="specs/s.toml").spec.models[0].params["checkpoint_path"] == wanted
    same = read(own, name="specs/s.toml", checkpoint_path="m.ckpt").spec
    assert same.models[0].params["checkpoint_path"] == wanted
    assert problems(own, name="specs/s.toml", checkpoint_path="../m.ckpt") == [
        f"--checkpoint-path {tmp_path.parent / 'm.ckpt'} and the model parameter checkpoint_path = {shown(wanted)} "
        "conflict"
    ]


# ---- the grammar


def test_every_key_has_a_meaning_in_the_schema() -> None:
    definitions = msgspec.json.schema(RunSpec)["$defs"]
    checked = 0
    for name, table in definitions.items():
        assert table["description"]
        if name == "RunSpec":
            continue
        for key, facts in table["properties"].items():
            assert facts.get("description"), f"{name}.{key} has no description"
            checked += 1
    assert checked >= 90
    assert definitions["RunTable"]["properties"]["threads"]["minimum"] == 1
    assert definitions["RunSpec"]["required"] == ["run", "dataset", "model"]
