"""The JSON schemas: kept in step with the program, true of what it writes, strict with what it does not know."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import parts
import pytest
import spec_models
import trees_mvtec
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import best_match

from uadctl.cli.schema import FILES, complete_schema, make_schema
from uadctl.errors import SpecError
from uadctl.records import DefectConfig, Sample
from uadctl.runs.documents import DOCUMENTS
from uadctl.runs.provenance import fingerprint
from uadctl.spec import read_spec
from uadctl.spec.data_sets import DATASETS, DatasetEntry
from uadctl.spec.registry import MODELS
from uadctl.spec.schema import spec_schema
from uadctl.spec.signature import list_params

SPECS = Path(__file__).parents[1] / "specs"


def kept(name: str) -> dict[str, Any]:
    return json.loads((SPECS / FILES[name]).read_text(encoding="utf-8"))


# ---- in step


@pytest.mark.parametrize("name", FILES)
def test_the_kept_schema_is_the_one_the_program_makes(name):
    assert kept(name) == json.loads(json.dumps(make_schema(name))), "bring it in step with: uadctl schema --write specs"


def test_every_kept_schema_has_a_name():
    assert sorted(p.name for p in SPECS.glob("*.json")) == sorted(FILES.values())
    assert set(DOCUMENTS) | {"spec", "score", "log", "journal"} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_schema_is_one(name):
    schema = kept(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


def test_the_command_prints_one_and_writes_all(uadctl, tmp_path):
    assert uadctl("schema").json == kept("spec")
    assert uadctl("schema", "metrics").json == kept("metrics")
    ended = uadctl("schema", "--write", "out/schemas")
    assert ended.out.splitlines() == [f"out/schemas/{file}" for file in FILES.values()]
    for file in FILES.values():
        assert (tmp_path / "out/schemas" / file).read_bytes() == (SPECS / file).read_bytes()


def test_a_name_that_is_none(uadctl):
    ended = uadctl("schema", "metric", code=2)
    assert ended.err == (
        'error: "metric": no such schema; did you mean metrics?\n'
        "  Choose from: spec, run, metrics, gate, thresholds, timing, parity, anomalib, robustness, replicates, baseline, score, log, journal\n"
    )
    ended = uadctl("schema", "run", "--write", "out", code=2)
    assert ended.err == "error: --write out writes all schemas; it goes without the name run\n"
    assert not Path("out").exists()
    assert complete_schema("s") == ["spec", "score"]


# ---- the spec

SPEC = kept("spec")


def problems(document: object, schema: dict[str, Any] = SPEC) -> list[str]:
    """Where a document breaks a schema. Of the spec's, draft 7 has to say the same: editors of TOML know that one."""
    found = [e.json_path for e in Draft202012Validator(schema).iter_errors(document)]
    if schema["title"] == SPEC["title"]:
        assert found == [e.json_path for e in Draft7Validator(schema).iter_errors(document)]
    return found


def test_every_spec_names_the_schema_and_is_valid_by_it():
    files = sorted(SPECS.glob("*.toml"))
    assert len(files) >= 4
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.startswith("#:schema ./spec.schema.json\n"), file.name
        assert problems(tomllib.loads(text)) == [], file.name


def test_the_filled_spec_of_a_run_is_valid(finished):
    assert problems(tomllib.loads((finished / "spec.toml").read_text(encoding="utf-8"))) == []


DEMO = '[dataset]\nname = "demo"\n'
CORE = '[model]\nname = "patchcore"\n'
FASTFLOW = '[model]\nname = "vision_fastflow_anomalib"\n'
PADIM = '[model]\nname = "vision_padim_anomalib"\n'
FOLDER = '[dataset]\nname = "folder"\nroot = "."\n'

ACCEPTED = [
    DEMO + CORE,
    DEMO + '[[model]]\nname = "patchcore"\n[[model]]\nname = "vision_patchcore"\nlabel = "two"\n',
    DEMO + CORE + '[run]\nname = "a b"\nseed = 4294967295\ndevice = "cuda:3"\nthreads = 2\n',
    DEMO + CORE + '[run]\ndevice = "${DEVICE}"\n',
    '[dataset]\nname = "${KIND}"\n' + CORE,
    DEMO + CORE + "[preprocess]\nresize = [32, 64]\ncrop = [32, 32]\n",
    DEMO + CORE + "[preprocess]\nsize = 64\n",
    '[dataset]\nname = "demo"\ncategories = "all"\n' + CORE,
    '[dataset]\nname = "demo"\ncategories = "wov*"\n' + CORE,
    '[dataset]\nname = "demo"\ncategories = ["a", "b"]\nsplit = "test"\non_error = "skip"\n' + CORE,
    FOLDER + '[dataset.files]\ntrain = "good/*"\nanomaly = ["a/*", "b/*"]\nmask = "m/{stem}.png"\n' + CORE,
    DEMO + CORE + "[model.params]\ncoreset_ratio = 1\nlayers = ['blocks.2']\nseed = 3\n",
    DEMO + CORE + "[model.params]\nknn_backend = '${KNN}'\n",
    DEMO + CORE + "[model.grid]\ncoreset_ratio = [0.1, 1]\nlayers = [['blocks.2'], ['blocks.4']]\n",
    DEMO + CORE + "[run]\nseeds = [0, 4294967295]\n",
    '[dataset]\nname = "demo"\nshots = 4\n' + CORE,
    '[dataset]\nname = "demo"\nshots = [1, 2]\n' + CORE,
    DEMO + CORE + "[calibration]\nalpha = 0.05\nholdout = 0.2\n",
    DEMO + CORE + "[calibration]\npixel_sigmas = 0\n",
    DEMO + CORE + "[calibration]\npixel_sigmas = 1000\n",
    DEMO + CORE + "[calibration]\npixel_threshold = -3.4028234e38\n",
    DEMO + CORE + "[metrics]\npixel = true\nfpr_limits = [0.05, 1]\n",
    DEMO + CORE + "[gate]\nimage_auroc = { min = 0.95 }\naupro_30 = { min = 0.5, max = 1 }\n",
    DEMO + CORE + '[gate.category."woven fabric"]\ntp = { min = 1 }\n',
    DEMO + CORE + '[preprocess]\nsteps = "clahe"\nroi = "box:0,0,9,9"\nignore = "m.png"\nintensity = "window:0,1"\n',
    DEMO + CORE + '[preprocess]\nsteps = ["clahe:grid=4", "industrial-metal"]\nignore = ["m.png"]\nraw = "*x9:uint8"\n',
    DEMO + CORE + '[tiling]\nsize = 16\nstride = 16\nreduce = "hann"\nscore = "mean"\nfit = "resized"\n',
    DEMO + CORE + '[augment]\nsteps = ["vignette", "noise:sigma=3"]\ncopies = 3\n',
    DEMO + CORE + '[robustness]\ncorruptions = ["blur", "noise"]\nseverities = [5]\n',
    DEMO + CORE + '[robustness]\ncorruptions = "blur"\n',
    DEMO + CORE + '[robustness]\ncorruptions = ["${BLUR}"]\n',
    DEMO + CORE + "[postprocess]\nnormalize = true\ngaussian_sigma = 2\nhysteresis = 3.5\n",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_the_reader_takes_the_schema_takes(tmp_path, text):
    file = tmp_path / "s.toml"
    file.write_text(text, encoding="utf-8")
    read_spec(file, env={"BLUR": "blur", "DEVICE": "cpu", "KIND": "demo", "KNN": "numpy"})
    assert problems(tomllib.loads(text)) == []


REFUSED = {
    # a typo, and where an editor underlines it
    DEMO + CORE + "[model.params]\ncoreset_fraction = 0.1\n": "$.model.params",
    DEMO + '[[model]]\nname = "patchcore"\n[model.params]\ncoreset_fraction = 0.1\n': "$.model[0].params",
    DEMO + '[model]\nname = "patchcor"\n': "$.model.name",
    '[dataset]\nname = "dem"\n' + CORE: "$.dataset.name",
    DEMO + CORE + "[run]\nsead = 1\n": "$.run",
    DEMO + CORE + "[runs]\nseed = 1\n": "$",
    DEMO + CORE + "seed = 1\n": "$.model",
    # a value that does not fit
    DEMO + CORE + "[run]\nseed = -1\n": "$.run.seed",
    DEMO + CORE + '[run]\nseed = "1"\n': "$.run.seed",
    DEMO + CORE + "[run]\nbatch_size = 0\n": "$.run.batch_size",
    DEMO + CORE + '[run]\ndevice = "gpu"\n': "$.run.device",
    DEMO + CORE + '[run]\nname = "a/b"\n': "$.run.name",
    DEMO + CORE + "[model.params]\ncoreset_ratio = true\n": "$.model.params.coreset_ratio",
    DEMO + CORE + '[model.params]\nknn_backend = "torsch"\n': "$.model.params.knn_backend",
    DEMO + CORE + "[model.params]\nlayers = 'blocks.2'\n": "$.model.params.layers",
    DEMO + CORE + "[model.params]\nweights = ''\n": "$.model.params.weights",
    DEMO + CORE + "[preprocess]\ncrop = [32]\n": "$.preprocess.crop",
    DEMO + CORE + "[calibration]\nalpha = 1.0\n": "$.calibration.alpha",
    DEMO + CORE + "[calibration]\npixel_sigmas = -0.1\n": "$.calibration.pixel_sigmas",
    DEMO + CORE + "[calibration]\npixel_sigmas = 1000.5\n": "$.calibration.pixel_sigmas",
    DEMO + CORE + "[calibration]\npixel_threshold = 3.5e38\n": "$.calibration.pixel_threshold",
    DEMO + CORE + "[calibration]\npixel_threshold = -3.5e38\n": "$.calibration.pixel_threshold",
    DEMO + CORE + "[metrics]\nfpr_limits = []\n": "$.metrics.fpr_limits",
    DEMO + CORE + "[metrics]\nfpr_limits = 0.3\n": "$.metrics.fpr_limits",
    '[dataset]\nname = "demo"\ncategories = []\n' + CORE: "$.dataset.categories",
    '[dataset]\nname = "demo"\non_error = "stop"\n' + CORE: "$.dataset.on_error",
    DEMO + CORE + "[gate]\nimage_auroc = 0.95\n": "$.gate.image_auroc",
    DEMO + CORE + "[gate]\nimage_auroc = { low = 0.95 }\n": "$.gate.image_auroc",
    DEMO + CORE + "[gate]\nimage_aurok = { min = 0.95 }\n": "$.gate",
    DEMO + CORE + "[gate]\ntp = { min = 1 }\n": "$.gate",
    DEMO + CORE + "[gate.category.tile]\nmiss = { min = 1 }\n": "$.gate.category.tile",
    DEMO + CORE + "[run]\nseeds = []\n": "$.run.seeds",
    DEMO + CORE + "[run]\nseeds = 1\n": "$.run.seeds",
    '[dataset]\nname = "demo"\nshots = 0\n' + CORE: "$.dataset.shots",
    '[dataset]\nname = "demo"\nshots = []\n' + CORE: "$.dataset.shots",
    DEMO + CORE + "[model.grid]\ncoreset_fraction = [0.1]\n": "$.model.grid",
    DEMO + CORE + "[model.grid]\ncoreset_ratio = 0.1\n": "$.model.grid.coreset_ratio",
    DEMO + CORE + "[model.grid]\ncoreset_ratio = []\n": "$.model.grid.coreset_ratio",
    DEMO + CORE + "[model.grid]\ncoreset_ratio = [true]\n": "$.model.grid.coreset_ratio[0]",
    DEMO + CORE + "[model.grid]\nseed = [1]\n": "$.model.grid.seed",
    DEMO + CORE + "[model.grid]\n": "$.model.grid",
    DEMO + CORE + "[preprocess]\nsteps = 3\n": "$.preprocess.steps",
    DEMO + CORE + "[preprocess]\nsteps = [3]\n": "$.preprocess.steps[0]",
    DEMO + CORE + "[tiling]\nsize = 15\n": "$.tiling.size",
    DEMO + CORE + '[tiling]\nsize = 64\nreduce = "blend"\n': "$.tiling.reduce",
    DEMO + CORE + "[augment]\nsteps = []\n": "$.augment.steps",
    DEMO + CORE + '[robustness]\ncorruptions = ["blurr"]\n': "$.robustness.corruptions[0]",
    DEMO + CORE + '[robustness]\ncorruptions = "blurr"\n': "$.robustness.corruptions",
    DEMO + CORE + "[robustness]\nseverities = [6]\n": "$.robustness.severities[0]",
    DEMO + CORE + "[postprocess]\nopening = -1\n": "$.postprocess.opening",
    # keys that do not go together, or are missing
    DEMO + CORE + "[tiling]\nstride = 64\n": "$.tiling",
    DEMO + CORE + "[augment]\n": "$.augment",
    DEMO + CORE + "[run]\nseed = 1\nseeds = [1, 2]\n": "$.run",
    DEMO + CORE + "[preprocess]\nsize = 64\nresize = [64, 64]\n": "$.preprocess",
    DEMO + CORE + "[model.trainer]\nmax_epochs = 1\n": "$.model.trainer",
    DEMO + FASTFLOW + "[model.trainer]\n": "$.model.trainer",
    DEMO + FASTFLOW + "[model.trainer]\nepochs = 1\nmax_steps = 1\n": "$.model.trainer",
    DEMO + FASTFLOW + "[model.trainer]\nmax_epochs = 0\n": "$.model.trainer.max_epochs",
    DEMO + FASTFLOW + '[model.trainer]\nmax_epochs = 1\n[model.params]\ncheckpoint_path = "m.ckpt"\n': "$.model",
    DEMO + FASTFLOW: "$.model",
    DEMO + PADIM + "[model.trainer]\nmax_epochs = 1\n": "$.model.trainer.max_epochs",
    DEMO + PADIM + "[model.trainer]\npatience = 2\n": "$.model.trainer.patience",
    DEMO + '[model]\nname = "vision_vlm_ad_anomalib"\nparams = { checkpoint_path = "m.ckpt" }\n': "$.model.name",
    '[dataset]\nname = "mvtec"\n' + CORE: "$.dataset",
    '[dataset]\nroot = "."\n' + CORE: "$.dataset",
    '[dataset]\nname = "demo"\nlayout = "flat"\n' + CORE: "$.dataset.layout",
    '[dataset]\nname = "demo"\nsplit = "train"\n' + CORE: "$.dataset.split",
    DEMO + '[dataset.files]\ntrain = "*"\n' + CORE: "$.dataset.files",
    DEMO: "$",
    CORE: "$",
    DEMO + '[model]\nlabel = "a"\n': "$.model",
    "model = []\n" + DEMO: "$.model",
    'model = "patchcore"\n' + DEMO: "$.model",
}


@pytest.mark.parametrize(("text", "where"), REFUSED.items())
def test_what_the_schema_refuses_the_reader_refuses(tmp_path, text, where):
    file = tmp_path / "s.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError):
        read_spec(file)
    assert set(problems(tomllib.loads(text))) == {where}


def test_a_typo_is_named():
    error = best_match(
        Draft202012Validator(SPEC).iter_errors(
            {
                "dataset": {"name": "demo"},
                "model": {"name": "vision_patchcore", "params": {"coreset_fraction": 0.1}},
            }
        )
    )
    assert error.message == "Additional properties are not allowed ('coreset_fraction' was unexpected)"


def test_every_parameter_of_every_model_is_described():
    assert len(MODELS) >= 1
    for name, model in MODELS.items():
        assert (name in SPEC["$defs"]) is model.offered
        if not model.offered:
            continue
        described = SPEC["$defs"][name]["properties"]
        wanted = {p.name: p for p in list_params(name) if p.settable}
        assert set(described) == set(wanted)
        for key, entry in described.items():
            assert entry.get("description", "") == wanted[key].doc
    # An editor finds them without looking behind a condition.
    assert {"$ref": "#/$defs/vision_patchcore"} in SPEC["$defs"]["model"]["properties"]["params"]["anyOf"]


def test_every_key_of_every_table_is_described():
    found = 0
    todo = [(name, table) for name, table in SPEC["properties"].items()]
    while todo:
        where, table = todo.pop()
        assert table["description"], where
        for key, entry in table.get("properties", {}).items():
            assert entry["description"], f"{where}.{key}"
            found += 1
            todo.append((f"{where}.{key}", entry))
    assert found >= 40


def test_nothing_of_this_machine_is_in_it():
    assert "default" not in SPEC["properties"]["run"]["properties"]["threads"]
    assert SPEC["properties"]["run"]["properties"]["seed"]["default"] == 0
    assert SPEC["properties"]["metrics"]["properties"]["fpr_limits"]["default"] == [0.3]


@pytest.fixture
def strange(monkeypatch) -> dict[str, Any]:
    """The schema where there are models and data sets of all kinds."""
    for entry in spec_models.ENTRIES:
        monkeypatch.setitem(MODELS, entry.name, entry)
    monkeypatch.setitem(
        DATASETS,
        "several",
        DatasetEntry(
            name="several",
            target="nowhere",
            summary="",
            layout="",
            licence="",
            protocol="",
            places=(),
            splits=("test_public", "test_private"),
            layouts=("flat", "nested"),
        ),
    )
    return spec_schema()


SEVERAL = {"name": "several", "root": "."}


@pytest.mark.parametrize(
    ("dataset", "model", "where"),
    [
        ({**SEVERAL, "split": "test_private", "layout": "nested"}, {"name": "strict"}, None),
        ({**SEVERAL, "split": "test"}, {"name": "strict"}, "$.dataset.split"),
        ({**SEVERAL, "layout": "deep"}, {"name": "strict"}, "$.dataset.layout"),
        (SEVERAL, {"name": "strict", "params": {"kernel": [3, 5], "layers": [], "limit": 1, "ratio": 1}}, None),
        (SEVERAL, {"name": "strict", "params": {"kernel": [3]}}, "$.model.params.kernel"),
        (SEVERAL, {"name": "strict", "params": {"embedder": {}}}, "$.model.params"),
        (SEVERAL, {"name": "vision_wrapped", "params": {"n_jobs": 1, "anything": {"at": ["all"]}}}, None),
        (SEVERAL, {"name": "vision_wrapped", "params": {"n_jobs": "1"}}, "$.model.params.n_jobs"),
        (SEVERAL, {"name": "vision_needy", "params": {"kind": "a"}}, None),
        (SEVERAL, {"name": "vision_needy"}, "$.model"),
        (SEVERAL, {"name": "vision_needy", "grid": {"kind": ["a", "b"]}}, None),
        (SEVERAL, {"name": "vision_checkpoint", "grid": {"checkpoint_path": ["a.ckpt", "b.ckpt"]}}, None),
        (SEVERAL, {"name": "vision_wrapped", "grid": {"anything": [1, "a"]}}, None),
        (SEVERAL, {"name": "vision_wrapped", "grid": {"anything": 1}}, "$.model.grid.anything"),
        (SEVERAL, {"name": "vision_checkpoint", "grid": {"contamination": [0.2]}}, "$.model"),
        (SEVERAL, {"name": "vision_needy", "params": {"device": "cpu"}}, "$.model.params"),
        (SEVERAL, {"name": "vision_checkpoint", "params": {"checkpoint_path": "m.ckpt"}}, None),
        (SEVERAL, {"name": "vision_checkpoint"}, "$.model"),
        (SEVERAL, {"name": "vision_checkpoint", "params": {"contamination": 0.2}}, "$.model.params"),
        (SEVERAL, {"name": "vision_trainable", "params": {"checkpoint_path": "m.ckpt"}}, None),
        (SEVERAL, {"name": "vision_trainable", "trainer": {"max_epochs": 1}, "params": {"width": 4}}, None),
        (SEVERAL, {"name": "vision_trainable", "trainer": {}, "params": {"checkpoint_path": "m.ckpt"}}, "$.model"),
        (SEVERAL, {"name": "vision_trainable"}, "$.model"),
    ],
)
def test_what_each_model_and_data_set_takes(strange, tmp_path, dataset, model, where):
    import tomli_w

    document = {"dataset": dataset, "model": model}
    assert set(problems(document, strange)) == ({where} if where else set())
    file = tmp_path / "s.toml"
    file.write_text(tomli_w.dumps(document), encoding="utf-8")
    if where is None:
        read_spec(file)
    else:
        with pytest.raises(SpecError):
            read_spec(file)


# ---- the documents of a run


def documents(run: Path, name: str) -> list[Any]:
    """Every NAME.json of a run, its units' and earlier ones among them."""
    files = [run / f"{name}.json", *run.glob(f"units/*/*/*/{name}*.json")]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def used(schema: dict[str, Any], document: object) -> set[str]:
    """The properties of a schema, as "Record.key", that a document which fits it has."""
    found: set[str] = set()

    def walk(node: dict[str, Any], value: object) -> None:
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            record = schema["$defs"][name]
            if isinstance(value, dict):
                for key, held in value.items():
                    found.add(f"{name}.{key}")
                    walk(record["properties"][key], held)
        for option in node.get("anyOf", ()):
            if Draft202012Validator({**option, "$defs": schema["$defs"]}).is_valid(value):
                walk(option, value)
        if isinstance(value, list) and isinstance(node.get("items"), dict):
            for item in value:
                walk(node["items"], item)
        if isinstance(value, dict) and isinstance(node.get("additionalProperties"), dict):
            for held in value.values():
                walk(node["additionalProperties"], held)

    walk(schema, document)
    return found


def properties(schema: dict[str, Any]) -> set[str]:
    return {f"{name}.{key}" for name, record in schema["$defs"].items() for key in record.get("properties", ())}


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory) -> list[Path]:
    """Runs that, with a plain one, write every document in every form: a unit fails, a gate breaks, the only training
    image has no other to be compared with, nothing is scored, a defect has no mask, images have groups, there are
    intervals and several seeds, and the working directory has a commit."""
    from typer.testing import CliRunner

    from uadctl.cli.app import app

    folder = tmp_path_factory.mktemp("kinds")
    parts.write_category(folder / "data", "tile", train=2, good=1, bad=1)
    parts.write_category(folder / "data", "zinc", train=2, good=1, bad=1)
    (folder / "data" / "zinc" / "train" / "good" / "001.png").write_bytes(b"")
    parts.write_category(folder / "lone", "tile", train=1, good=1, bad=0)
    parts.write_category(folder / "many", "tile", train=62, good=1, bad=1, size=(32, 32))
    for i in range(3):
        parts.write(folder / "good" / f"{i}.png", parts.surface(300 + i, 32, 32))
        image, mask = parts.scratched(400 + i, 32, 48)
        parts.write(folder / f"bad/{i}.png", image[:, 16:])
        parts.write(folder / f"bad/{i}_mask.png", mask[:, 16:])
    (folder / "bad.csv").write_text(
        "path,label,mask\n" + "".join(f"bad/{i}.png,1,bad/{i}_mask.png\n" for i in range(3))
    )
    if shutil.which("git") is None:
        pytest.skip("git is not installed, and run.json tells the commit")
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "x"]):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *words], cwd=folder, check=True)

    trees_mvtec.mvtec_loco(folder / "loco", ("pushpins",))
    (folder / "loco/pushpins/ground_truth/structural_anomalies/001/000.png").unlink()
    rows = [
        "path,split,defect,group",
        "data/tile/train/good/000.png,train,good,",
        "data/tile/train/good/001.png,train,good,",
    ]
    rows += ["data/tile/test/good/000.png,test,good,a", "data/tile/test/scratch/000.png,test,scratch,b"]
    (folder / "groups.csv").write_text("\n".join(rows) + "\n")

    def labelled(folder: Path) -> Path:
        """The run with thresholds from labelled defects beside those that it had."""
        options = ["--anomalies", "bad.csv", "--good", "good", "--tune-postprocess"]
        result = CliRunner().invoke(app, ["calibrate", str(folder), *options, "--review-alpha", "0.3"])
        assert result.exit_code == 0, result.stderr
        return folder

    def run(verb: str, root: str, *more: str, code: int = 0, dataset: str = "mvtec") -> Path:
        options = ["--root", root, "--set", "preprocess.size=64", "--json", *more]
        result = CliRunner().invoke(app, [verb, "--dataset", dataset, "--model", "patchcore", *options])
        assert result.exit_code == code, result.stderr
        return folder / json.loads(result.stdout)["run"]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        models = ("--set", "model.grid.n_neighbors=[1,2]", "--set", "metrics.bootstrap=100", "--category", "tile")
        chosen = ("--set", 'calibration.method="evt"', "--set", "calibration.pixel_alpha=0.1")
        limits = ("--set", "gate.image_auroc.min=0.5", "--set", "gate.category.tile.image_auroc.min=1.01")
        return [
            run("bench", "data", *limits, code=1),
            run("bench", "lone"),
            run("fit", "lone"),
            run("fit", "lone", "--set", "tiling.size=48"),
            labelled(run("fit", "many", *chosen)),
            run("bench", "loco", "--set", "metrics.bootstrap=3", dataset="mvtec_loco"),
            run("bench", "loco", "--set", 'metrics.protocol="autovi"', dataset="mvtec_loco"),
            run("bench", "groups.csv", "--set", "run.seeds=[0,1]", dataset="manifest"),
            *(run("bench", "data", *models, "--gate", "b.json", *update) for update in (("--update-baseline",), ())),
        ]


# The others are written when they are asked for: tests/test_parity.py, tests/test_robustness.py, tests/test_baseline.py
OF_EVERY_RUN = sorted(set(DOCUMENTS) - {"parity", "anomalib", "robustness", "baseline"})


@pytest.mark.parametrize("name", OF_EVERY_RUN)
def test_what_runs_write_is_valid_and_every_property_is_written(all_kinds, finished, name):
    schema = kept(name)
    found = [document for run in (*all_kinds, finished) for document in documents(run, name)]
    assert len(found) >= {"run": 8, "metrics": 11, "gate": 1, "thresholds": 9, "timing": 13, "replicates": 5}[name]
    for document in found:
        assert problems(document, schema) == []
    written = set().union(*(used(schema, document) for document in found))
    # Runs on Ray are held against the schema in test_bench_engines.py.
    by_ray = {f"Engine.{key}" for key in ("cpus", "gpus", "ray")} if name == "run" else set()
    assert properties(schema) - written == by_ray


def test_lines_of_score_are_valid_and_every_property_is_written(uadctl, finished, tmp_path):
    schema = kept("score")
    parts.write(tmp_path / "new" / "bad.png", parts.scratched(901)[0])
    (tmp_path / "new" / "broken.png").write_bytes(b"")
    odd = parts.write(tmp_path / "new" / "odd.png", parts.surface(900))
    odd.rename(os.fsdecode(os.fsencode(odd.parent) + b"/caf\xe9.png"))
    lines = uadctl("score", finished, "new", "--json", "--maps", "maps", code=1).lines
    assert len(lines) == 3
    for line in lines:
        assert problems(line, schema) == []
    written = set().union(*(used(schema, line) for line in lines))
    assert properties(schema) - written == set()


@pytest.mark.parametrize("name", OF_EVERY_RUN)
def test_a_key_without_a_schema_would_be_seen(finished, all_kinds, name):
    schema = kept(name)
    document = next(d for run in (finished, *all_kinds) for d in documents(run, name))
    assert problems({**document, "banana": 1}, schema) != []
    # Absent before 0.5, 0.7, 0.8, 0.9 and 0.11.
    new = {"seeds", "sds", "sd_reasons", "tiling", "baseline", "accepted", "regressions", "models"}
    new |= {"review", "expected", "maxima", "data", "postprocess", "checksum", "determinism", "engines"}
    for key in set(document) - new:
        assert problems({k: v for k, v in document.items() if k != key}, schema) != [], key
    assert problems({**document, "schema": 2}, schema) != []


def test_a_key_deep_inside_would_be_seen(finished):
    run = documents(finished, "run")[0]
    run["machine"]["banana"] = 1
    assert problems(run, kept("run")) == ["$.machine"]
    metrics = documents(finished, "metrics")[0]
    metrics["results"]["tile"]["vision_patchcore"]["0"]["counts"]["banana"] = 1
    assert problems(metrics, kept("metrics")) != []


# As 0.3 wrote them.
OLD_CELL = {
    "success": True,
    "metrics": {"image_auroc": 1.0, "aupro_30": None},
    "reasons": {"aupro_30": "the data set has no masks"},
    "counts": {"images": 3, "normal_images": 1, "defect_images": 2, "train_images": 6, "broken_images": 0, "alarms": 2},
    "pixel_mode": None,
    "bounds": {},
}
OLD_THRESHOLDS = {
    "schema": 1,
    "image": {"value": 3.5, "method": "quantile", "alpha": 0.01, "n": 2, "source": "leave-one-out", "reason": None},
    "pixel": {"mean": 1.0, "std": 0.5, "max": 3.0, "threshold": 2.5, "n": 4096},
    "scores": [2.0, 3.5],
}


NEW_IN_8 = {
    *(("ThresholdsDocument", key) for key in ("review", "expected", "maxima", "data", "postprocess")),
    *(("PixelScale", key) for key in ("chosen", "review")),
    *(("Threshold", key) for key in ("delta", "guarantee", "tail", "labelled")),
    *(("GateDocument", key) for key in ("baseline", "accepted", "regressions", "models")),
}


def test_the_documents_of_before_are_valid():
    run = {"schema": 1, "results": {"tile": {"m": {"0": OLD_CELL}}}, "means": {"m": {"image_auroc": 1.0}}}
    for document in ({"schema": 1, **OLD_CELL}, run):
        assert problems(document, kept("metrics")) == []
    assert problems(OLD_THRESHOLDS, kept("thresholds")) == []
    for key in OLD_CELL:
        assert problems({"schema": 1, **{k: v for k, v in OLD_CELL.items() if k != key}}, kept("metrics")) != [], key


def test_every_key_that_files_of_before_lack_says_so():
    found = {
        (record, key)
        for name in DOCUMENTS
        for record, schema in kept(name)["$defs"].items()
        for key, entry in schema.get("properties", {}).items()
        if entry.get("description", "").endswith(tuple(f" Absent before 0.{n}." for n in (4, 7, 8)))
    }
    new = {("PixelScale", "normalize"), ("ThresholdsDocument", "tiling"), *NEW_IN_8}
    measured = {(r, k) for r in ("Measured", "UnitMeasured") for k in ("pixel_threshold", "by_defect", "intervals")}
    assert found == {("Counts", "train_defects_left_out"), ("PixelScale", "sigmas"), *new, *measured}
    for name in ("metrics", "thresholds"):
        for record, schema in kept(name)["$defs"].items():
            assert not {key for of, key in found if of == record} & set(schema["required"])


@pytest.mark.parametrize(
    ("kind", "valid"),
    [
        ({"images": 2, "missed": 0, "image_auroc": 1.0, "aupro_30": 0.5}, True),
        ({"images": 2, "aupro_30": None, "reasons": {"aupro_30": "its image has no mask"}}, True),
        ({"images": 2, "aupro_30": {"reason": "none"}}, False),
        ({"images": 2, "reasons": None}, False),
        ({"images": 2, "reasons": {}}, False),
        ({"images": 2, "reasons": {"aupro_30": 1}}, False),
        ({"images": None}, False),
        ({"aupro_30": 0.5}, False),
    ],
)
def test_what_is_known_of_a_kind_is_numbers_and_their_reasons(kind, valid):
    document = {"schema": 1, **OLD_CELL, "pixel_threshold": None, "by_defect": {"dent": kind}, "intervals": {}}
    assert (problems(document, kept("metrics")) == []) == valid


# ---- what a run says of its data


def test_a_fingerprint_sees_names_contents_and_saturations(tmp_path):
    image = parts.write(tmp_path / "a.png", parts.surface(1))
    sample = Sample(str(image), "test/dent/a.png", "test", 1, "dent", "tile")
    plain = fingerprint([sample])
    assert fingerprint([sample], defects=None) == plain
    dent = DefectConfig("dent", 255, 2.0, False)
    configs: list[list[DefectConfig]] = [
        [],
        [dent],
        [dent, dent],
        [DefectConfig("dent", 255, 2.5, False)],
        [DefectConfig("dent", 255, 2.0, True)],
        [DefectConfig("dent", 254, 2.0, False)],
        [DefectConfig("cut", 255, 2.0, False)],
    ]
    found = [fingerprint([sample], defects=config) for config in configs]
    assert len({plain["sha256"], *(print_["sha256"] for print_ in found)}) == len(configs) + 1
    assert {(print_["files"], print_["bytes"]) for print_ in found} == {(1, image.stat().st_size)}
    # However the file writes the number.
    assert fingerprint([sample], defects=[DefectConfig("dent", 255, 2, False)]) == found[1]
    other = dataclasses.replace(sample, group="p1")
    image.write_bytes(image.read_bytes() + b"x")
    assert len({plain["sha256"], fingerprint([sample])["sha256"], fingerprint([other])["sha256"]}) == 3


def test_every_record_says_what_it_is():
    seen = 0
    for name in FILES:
        for record, schema in kept(name)["$defs"].items():
            assert schema["description"], record
            seen += 1
    assert seen >= 15
