"""The specs that come with the project are valid, and say what their comments say."""

from __future__ import annotations

import re
from pathlib import Path

import parts
import pytest

from uadctl.spec import (
    DATASETS,
    PROTOCOLS,
    AugmentTable,
    Overrides,
    PostprocessTable,
    RobustnessTable,
    RunSpec,
    TilingTable,
    create_model,
    read_spec,
    spec_hash,
    variants,
)
from uadctl.spec.areas import parse_intensity
from uadctl.spec.camera_steps import read_steps
from uadctl.spec.corruptions import SEVERITIES
from uadctl.spec.reading import fields_of
from uadctl.spec.values import shown

SPECS = Path(__file__).parents[1] / "specs"


@pytest.fixture
def env(tmp_path):
    names = (
        "AUTOVI_ROOT",
        "BMAD_ROOT",
        "BTAD_ROOT",
        "EXPORT_ROOT",
        "KAPUTT_ROOT",
        "KOLEKTORSDD2_ROOT",
        "KOLEKTORSDD_ROOT",
        "MAGNETIC_TILE_ROOT",
        "MPDD_ROOT",
        "MVTEC_3D_ROOT",
        "MVTEC_AD2_ROOT",
        "MVTEC_LOCO_ROOT",
        "MVTEC_ROOT",
        "NEU_SEG_ROOT",
        "PARTS_LIST",
        "PARTS_ROOT",
        "REAL_IAD_ROOT",
        "VAD_ROOT",
        "VISA_ROOT",
    )
    return {name: str(tmp_path) for name in names} | {"CHECKPOINT": str(tmp_path / "model.ckpt")}


def test_every_spec_is_valid_and_gives_no_notes(env):
    files = sorted(SPECS.glob("*.toml"))
    assert [f.stem for f in files] == [
        "anomalib_checkpoint",
        "anomalib_fastflow",
        "autovi_patchcore",
        "bmad_patchcore",
        "btad_patchcore",
        "cluster",
        "compare_models",
        "datumaro_patchcore",
        "demo",
        "folder",
        "gate",
        "industrial_camera",
        "kaputt_patchcore",
        "kolektorsdd2_patchcore",
        "kolektorsdd_patchcore",
        "magnetic_tile_patchcore",
        "manifest",
        "mpdd_patchcore",
        "mvtec_3d_patchcore",
        "mvtec_ad2_patchcore",
        "mvtec_anomalydino",
        "mvtec_loco_patchcore",
        "mvtec_padim_wrn50",
        "mvtec_patchcore",
        "mvtec_patchcore_wrn50",
        "mvtec_winclip",
        "neu_seg_patchcore",
        "real_iad_patchcore",
        "sweep",
        "tiled",
        "vad_patchcore",
        "visa_patchcore",
    ]
    for file in files:
        reading = read_spec(str(file), env=env)
        assert reading.notes == ()
        assert reading.spec.run.name == file.stem
        words = file.stem.split("_")
        named = [word for word in words if word in ("patchcore", "padim", "anomalydino", "winclip")]
        assert {f"vision_{word}" for word in named} <= {model.name for model in reading.spec.models}


def test_every_data_set_has_a_spec_with_its_own_protocol(env):
    specs = [read_spec(str(file), env=env).spec for file in sorted(SPECS.glob("*.toml"))]
    assert {spec.dataset.name for spec in specs} == set(DATASETS)
    for spec in specs:
        protocol = DATASETS[spec.dataset.name].measured_by
        assert spec.metrics.protocol == protocol
        assert spec.metrics.fpr_limits == PROTOCOLS[protocol].fpr_limits


def test_the_sweep_is_of_three_seeds_two_shots_and_two_coresets(env):
    spec = read_spec(str(SPECS / "sweep.toml"), env=env).spec
    assert spec.run.all_seeds == (0, 1, 2)
    assert [variant.model.label for variant in variants(spec)] == [
        f"patchcore coreset_ratio={ratio},shots={shots}" for ratio in (0.01, 0.1) for shots in (2, 8)
    ]


def test_the_cluster_s_spec_is_the_same_spec_on_this_machine(env):
    there = read_spec(str(SPECS / "cluster.toml"), env=env).spec
    here = read_spec(str(SPECS / "cluster.toml"), Overrides(engine="local", workers=2), env=env).spec
    assert (there.run.engine, there.run.cpus, here.run.engine, here.run.workers) == ("ray", 2, "local", 2)
    assert spec_hash(there) == spec_hash(here)


def test_the_papers_spec_is_the_papers_setting(env):
    spec = read_spec(str(SPECS / "mvtec_patchcore_wrn50.toml"), env=env).spec
    assert spec.preprocess.resize == (256, 256)
    assert spec.preprocess.crop == (224, 224)
    params = spec.models[0].params
    assert (params["backbone"], tuple(params["layers"])) == ("wide_resnet50_2", ("layer2", "layer3"))
    assert (params["neighborhood"], params["coreset_ratio"], params["n_neighbors"], params["sigma"]) == (3, 0.1, 9, 4.0)


def test_the_papers_spec_runs(tmp_path, uadctl, monkeypatch):
    monkeypatch.setenv("MVTEC_ROOT", str(tmp_path / "data"))
    parts.write_category(tmp_path / "data", "tile", train=2, good=1, bad=1)
    found = uadctl("bench", SPECS / "mvtec_patchcore_wrn50.toml", "--no-pretrained", "--json", "--run-dir", "runs").json
    cell = found["results"]["tile"]["patchcore_wrn50"]["0"]
    assert cell["success"] is True
    assert cell["counts"]["pixels_left_out"] == 2 * (64 * 64 - 56 * 56)


def test_the_folder_spec_reads_its_layout(env, tmp_path, uadctl, monkeypatch):
    for i in range(4):
        parts.write(tmp_path / "good" / "train" / "a" / f"{i}.png", parts.surface(i))
    parts.write(tmp_path / "good" / "test" / "0.png", parts.surface(9))
    image, mask = parts.scratched(10)
    parts.write(tmp_path / "bad" / "dent" / "7.png", image)
    parts.write(tmp_path / "masks" / "7.png", mask)
    monkeypatch.setenv("PARTS_ROOT", str(tmp_path))
    found = uadctl("bench", SPECS / "folder.toml", "--run-dir", tmp_path / "runs", "--json").json
    (cell,) = found["results"].values()
    metrics = cell["vision_patchcore"]["0"]["metrics"]
    assert metrics["image_auroc"] == 1.0
    assert metrics["pixel_auroc"] > 0.9


def test_padims_spec_is_its_papers_setting(env):
    spec = read_spec(str(SPECS / "mvtec_padim_wrn50.toml"), env=env).spec
    assert (spec.preprocess.resize, spec.preprocess.crop) == ((256, 256), (224, 224))
    params = spec.models[0].params
    assert (params["backbone"], tuple(params["layers"])) == ("wide_resnet50_2", ("layer1", "layer2", "layer3"))
    assert (params["n_features"], params["eps"], params["sigma"]) == (550, 0.01, 4.0)


def test_winclips_spec_is_its_papers_setting(env):
    spec = read_spec(str(SPECS / "mvtec_winclip.toml"), env=env).spec
    assert spec.preprocess.resize == (240, 240)
    assert [model.label for model in spec.models] == ["zero_shot", "few_shot"]
    for model in spec.models:
        assert (model.params["model_name"], model.params["pretrained"]) == ("ViT-B-16-plus-240", "laion400m_e31")
        built = create_model(model.name, **model.params)
        assert (built.temperature, built.sigma) == (0.07, 0.0)


def test_the_few_shot_spec_draws_three_times_of_each_number(env):
    spec = read_spec(str(SPECS / "mvtec_anomalydino.toml"), env=env).spec
    assert spec.run.all_seeds == (0, 1, 2)
    assert [variant.shots for variant in variants(spec)] == [1, 4, 16]


def test_the_tiled_spec_says_what_goes_without_saying(env):
    spec = read_spec(str(SPECS / "tiled.toml"), env=env).spec
    assert spec.tiling == TilingTable(size=256, stride=TilingTable(size=256).tiling.stride, reduce="hann")
    assert (spec.tiling.fit, spec.preprocess.size) == ("tiles", 256)


def test_the_spec_of_a_changing_camera_uses_all_that_there_is_for_it(env):
    spec = read_spec(str(SPECS / "industrial_camera.toml"), env=env).spec
    assert spec.preprocess.steps == tuple(map(str, read_steps(("industrial-metal",))))
    assert parse_intensity(spec.preprocess.intensity) == ("percentile", (0.1, 99.9))
    assert spec.augment is not None
    assert spec.augment.copies == 2
    assert spec.robustness is not None
    learned = {step.partition(":")[0] for step in spec.augment.steps}
    assert learned < set(spec.robustness.corruptions) <= set(SEVERITIES)
    assert spec.postprocess == PostprocessTable(min_area=12)
    roi = "preprocess.roi=box:100,80,980,1180"
    assert roi in (SPECS / "industrial_camera.toml").read_text(encoding="utf-8")
    cut = read_spec(str(SPECS / "industrial_camera.toml"), Overrides(set=(roi,)), env=env).spec
    assert cut.preprocess.roi == "box:100,80,980,1180"


def test_the_quickstart_lists_the_optional_tables_with_their_keys():
    text = (SPECS.parent / "docs" / "quickstart.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1] for row in re.findall(r"^\| `\[(\w+)\]` \| .*? \| (.*) \|$", text, re.M)}
    optional = [f for f in fields_of(RunSpec) if f.default is None]
    assert set(rows) == {f.encode_name for f in optional}
    assert len(rows) == 5
    records = {"tiling": TilingTable, "augment": AugmentTable, "robustness": RobustnessTable}
    for name, record in {**records, "postprocess": PostprocessTable}.items():
        said = dict(re.findall(r"`(\w+)`(?: = (\[[^]]*\]|[^ ,|]+))?", rows[name]))
        wanted = {f.encode_name: f.default for f in fields_of(record)}
        assert list(said) == list(wanted)
        for key, value in said.items():
            if value:
                assert value == shown(wanted[key]), f"{name}.{key}"
