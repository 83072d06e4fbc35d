"""Writing a spec: everything is said, reading it again gives the same, the hash names what matters."""

from __future__ import annotations

from pathlib import Path

import pytest
from spec_models import ENTRIES

from uadctl.spec import MODELS, Overrides, RunSpec, read_spec, spec_hash, to_dict, to_toml

TEXT = """\
[run]
name = "x$${A}"
threads = 3
feature_cache = "1GB"
dir = "out"
[dataset]
name = "folder"
root = "data $${HOME} \\u001b \\"q\\" ü"
categories = ["a", "b*"]
limit_train = 5
files = {train = ["good/*.png", "more/[ab]*"], mask = "m/{stem}.png"}
[[model]]
name = "strict"
[model.params]
layers = ["x", "y"]
ratio = 1
device = "cpu"
[[model]]
name = "vision_wrapped"
label = "any"
[model.params]
"odd key" = {a = [1, {b = "${NOT}"}], c = {}}
text = '''two
lines'''
[metrics]
fpr_limits = [0.3, 0.05]
"""


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for entry in ENTRIES:
        monkeypatch.setitem(MODELS, entry.name, entry)
    monkeypatch.chdir(tmp_path)


def read(text: str, name: str = "s.toml", **overrides) -> RunSpec:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text, encoding="utf-8", newline="\n")
    return read_spec(name, Overrides(**overrides), env={"NOT": "a${b}"}).spec


def test_what_is_written_reads_back_equal() -> None:
    spec = read(TEXT)
    written = to_toml(spec)
    assert read(written, "elsewhere/s.toml") == spec
    assert to_toml(read(written, "elsewhere/s.toml")) == written
    assert spec.models[1].params["odd key"] == {"a": [1, {"b": "a${b}"}], "c": {}}


CAMERA = """\
[preprocess]
intensity = "window:0,4095"
raw = "*x512x3:uint16"
steps = ["industrial-metal", "flat_field:reference=flat $${X}/1.png"]
roi = "polygon:0,0 0,90 90,90"
ignore = ["box:1,2,3,4", "mask ü.png"]
"""
TABLES = """\
[tiling]
size = 100
[augment]
steps = ["vignette", "noise:sigma=3"]
[robustness]
corruptions = ["blur"]
severities = [2]
[postprocess]
gaussian_sigma = 1
hysteresis = 4
"""


@pytest.mark.parametrize(
    "extra",
    ["", "[preprocess]\nresize = [64, 32]\ncrop = [8, 8]\n", CAMERA, TABLES, CAMERA + TABLES, "[robustness]\n"],
)
def test_a_small_spec_reads_back_equal(extra: str) -> None:
    spec = read('[dataset]\nname = "demo"\n[model]\nname = "patchcore"\n' + extra)
    assert read(to_toml(spec), "copy/other.toml") == spec


def test_everything_is_said_in_the_order_of_the_grammar(tmp_path: Path) -> None:
    spec = read('[model]\nname = "strict"\n[dataset]\nname = "demo"\n[run]\nthreads = 3\n')
    assert (
        to_toml(spec)
        == f"""\
[run]
name = "s"
seed = 0
device = "auto"
precision = "fp32"
batch_size = 16
threads = 3
feature_cache = "1GB"
dir = "{tmp_path}/runs"
engine = "local"

[dataset]
name = "demo"
categories = "all"
split = "test"
on_error = "fail"

[preprocess]
size = 256
intensity = "full"
steps = []
ignore = []

[model]
name = "vision_strict"
label = "vision_strict"

[model.params]
ratio = 0.1
count = 9
kernel = [3, 3]
backend = "torch"
flag = false
limit = 5
pretrained = true
contamination = 0.1

[calibration]
method = "quantile"
alpha = 0.01
pixel_sigmas = 3.0

[metrics]
pixel = true
protocol = "mvtec_ad"
fpr_limits = [0.3]
memory = "1GB"
bootstrap = 0
"""
    )


def test_what_is_off_by_default_is_written_where_it_is_on(tmp_path: Path) -> None:
    spec = read('[model]\nname = "strict"\n[dataset]\nname = "demo"\n' + CAMERA + TABLES)
    written = to_toml(spec)
    tables = [line for line in written.splitlines() if line.startswith("[")]
    assert tables == [
        "[run]",
        "[dataset]",
        "[preprocess]",
        "[tiling]",
        "[augment]",
        "[robustness]",
        "[model]",
        "[model.params]",
        "[postprocess]",
        "[calibration]",
        "[metrics]",
    ]
    assert f'"flat_field:reference={tmp_path}/flat $${{X}}/1.png,dark="]\n' in written
    assert f'ignore = ["box:1,2,3,4", "{tmp_path}/mask ü.png"]\n' in written
    assert "[tiling]\nsize = 100\nstride = 75\nreduce = " in written
    assert "[preprocess]\nsize = 100\n" in written


def test_the_dict_is_what_the_toml_says() -> None:
    content = to_dict(read(TEXT))
    assert list(content) == ["run", "dataset", "preprocess", "model", "calibration", "metrics"]
    assert content["model"][0]["params"]["layers"] == ["x", "y"]
    assert content["dataset"]["files"] == {"train": ["good/*.png", "more/[ab]*"], "mask": "m/{stem}.png"}


def test_the_hash_leaves_out_where_and_keeps_what() -> None:
    spec = read(TEXT)
    short = spec_hash(spec)
    assert len(short) == 8
    assert int(short, 16) >= 0
    assert spec_hash(read(TEXT, root="other", run_dir="there")) == short
    assert spec_hash(read(to_toml(spec), "elsewhere/s.toml")) == short
    for change in (
        "run.threads=4",
        "run.seed=1",
        "run.name=y",
        "metrics.pixel=false",
        "tiling.size=64",
        "model.any.params.n_jobs=2",
    ):
        assert spec_hash(read(TEXT, set=(change,))) != short, change


def test_a_filled_spec_still_obeys_the_options_of_the_run() -> None:
    written = to_toml(read('[dataset]\nname = "demo"\n[model]\nname = "patchcore"\n'))
    reading = read_spec(
        _write("again.toml", written), Overrides(seed=3, device="cpu", set=("preprocess.resize=[8, 8]",)), env={}
    )
    assert (reading.spec.run.seed, reading.spec.run.device) == (3, "cpu")
    assert not {"seed", "device", "batch_size"} & set(reading.spec.models[0].params)
    assert (reading.spec.preprocess.size, reading.spec.preprocess.resize) == (None, (8, 8))
    assert reading.notes == ()


def _write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name
