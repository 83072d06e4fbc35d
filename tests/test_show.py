"""`models show` and `datasets show`: all that is known of an entry, true to the code, and nothing heavy loaded."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import parts
import pytest
import trees_others
from spec_models import ENTRIES, Strict
from test_layers import NOT_FOR_LISTING, command, loaded_by

from uadctl.datasets import load_dataset
from uadctl.features.backbone import resolve_device
from uadctl.metrics import GROUP_METRICS, IMAGE_METRICS, THRESHOLD_METRICS, pixel_metric_names
from uadctl.spec import BACKBONES, DATASETS, MODELS, PROTOCOLS, ModelEntry, list_params, read_spec, resolve_dataset


@pytest.fixture
def doubles(monkeypatch):
    for entry in ENTRIES:
        monkeypatch.setitem(MODELS, entry.name, entry)


def cells(text: str) -> list[list[str]]:
    """The rows of the tables in a screen, without their rules and headings."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.startswith(" ") and line.strip()]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("models show vision_patchcore", 0),
        ("models show patchcore --json", 0),
        ("models show banana", 2),
        ("models show resnet18", 0),
        ("models show vision_stfpm_anomalib --json", 0),
        ("models show vision_ai_vad_anomalib", 0),
        ("models list --tag anomalib --json", 0),
        ("models show swin_t --json", 0),
        ("models list --backbones", 0),
        ("models verify", 0),
        ("datasets show mvtec", 0),
        ("datasets show demo --json", 0),
        ("datasets check mvtek", 2),
        ("datasets check absent.toml", 2),
    ],
)
def test_showing_loads_nothing_heavy(words, code):
    assert loaded_by(*command(*words.split(), code=code)) & NOT_FOR_LISTING == set()


def test_showing_loads_rich_only_where_it_draws():
    # Shows that the test above sees what a command loads.
    assert "rich" in loaded_by(*command("models", "show", "patchcore"))
    assert "rich" not in loaded_by(*command("models", "show", "patchcore", "--json"))


# --- models show


def test_a_model_is_shown_with_every_parameter(uadctl):
    text = uadctl("models", "show", "patchcore").out
    assert text.startswith(
        "vision_patchcore: Nearest-neighbour distance of CNN patches to a coreset of normal patches.\n"
        "\n"
        "also: patchcore\n"
        "tags: vision, memory-bank, cnn, nearest-neighbour, pixel_map\n"
        'paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022\n'
        "extra: none needed\n"
        "weights: found, in the package that came with pip\n"
    )
    rows = cells(text)
    for expected in (
        ["parameter", "type", "default", "meaning"],
        ["coreset_ratio", "float", "0.1", "share of the training patches that greedy and random keep, in (0, 1]."],
        ["layers", "tuple[str, ...]", "its stages to use; none given: those the registry names for the backbone."],
        [
            "knn_backend",
            "str",
            "torch",
            "library that finds the nearest neighbours. One of: faiss, numpy, sklearn, torch.",
        ],
        ["device", "str", "[run] device", '"auto", "cpu", "cuda", "cuda:N" or "mps".'],
        ["backbone", "layers", "channels", "stride", "other layers"],
        ["wide_resnet50_2", "layer2, layer3", "512, 1024", "8, 16", "layer1, layer4"],
        ["efficientnet_lite0", "efficientnet-lite0-57934424.pth", "Apache-2.0", "package"],
    ):
        assert expected in rows
    shown = [row[0] for row in rows]
    assert len(list_params("patchcore")) >= 22
    for param in list_params("patchcore"):
        assert param.name in shown
    for backbone in BACKBONES.values():
        assert shown.count(backbone.name) == (0 if backbone.family else 2)
    assert "\nAlso torchvision's alexnet, convnext_base, " in text
    assert text.endswith("\nAlso by name: openclip:NAME, timm:NAME\nSee: uadctl models show BACKBONE\n")


def test_a_model_in_json(uadctl):
    found = uadctl("models", "show", "patchcore", "--json").json
    assert list(found) == [
        "schema",
        "name",
        "aliases",
        "summary",
        "paper",
        "tags",
        "metadata",
        "extra",
        "packages",
        "weights",
        "parameters",
        "backbones",
    ]
    assert (found["schema"], found["name"], found["weights"]) == (1, "vision_patchcore", "package")
    (row,) = uadctl("models", "list", "--tag", "vision_patchcore", "--json").json
    assert {key: found[key] for key in row} == row
    by_name = {p["name"]: p for p in found["parameters"]}
    assert by_name["knn_backend"] == {
        "name": "knn_backend",
        "type": "Literal['torch', 'numpy', 'sklearn', 'faiss']",
        "default": "torch",
        "required": False,
        "choices": ["faiss", "numpy", "sklearn", "torch"],
        "meaning": "library that finds the nearest neighbours.",
        "from_run": False,
        "settable": True,
    }
    assert [name for name, p in by_name.items() if p["from_run"]] == ["precision", "device", "seed", "batch_size"]
    assert [b["name"] for b in found["backbones"]] == list(BACKBONES)
    assert found["backbones"][0]["channels"] == BACKBONES["efficientnet_lite0"].channels


def test_weights_are_looked_for_each_time(uadctl, monkeypatch, tmp_path):
    def where(name: str) -> str | None:
        found = uadctl("models", "show", "patchcore", "--json").json["backbones"]
        return next(b["weights"]["found"] for b in found if b["name"] == name)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("UADCTL_WEIGHTS", raising=False)
    assert where("resnet18") is None
    assert ["resnet18", "resnet18-f37072fd.pth", "BSD-3-Clause", "not here"] in cells(
        uadctl("models", "show", "patchcore").out
    )
    assert "\nweights: found, in the package that came with pip\n" in uadctl("models", "show", "patchcore").out
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "resnet18-f37072fd.pth").touch()
    assert where("resnet18") == "cache"
    monkeypatch.setenv("UADCTL_WEIGHTS", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "efficientnet-lite0-57934424.pth").touch()
    assert where("efficientnet_lite0") == "UADCTL_WEIGHTS"
    assert "\nweights: found in the folder $UADCTL_WEIGHTS\n" in uadctl("models", "show", "patchcore").out


@pytest.mark.usefixtures("doubles")
def test_a_missing_extra_is_said_with_its_command(uadctl, monkeypatch):
    monkeypatch.setitem(sys.modules, "anomalib", None)
    text = uadctl("models", "show", "vision_checkpoint").out
    assert "\nextra: anomalib; anomalib not installed: pip install 'uadctl[anomalib]'\n" in text
    assert "\ncheckpoint: needed: --checkpoint-path FILE\n" in text
    assert "weights:" not in text
    assert ["checkpoint_path", "str", "needed"] in cells(text)
    found = uadctl("models", "show", "vision_checkpoint", "--json").json
    assert (found["extra"], found["packages"], found["weights"]) == ("anomalib", {"anomalib": False}, None)
    assert found["backbones"] == []
    # A module that something else has made, without a spec, is there all the same.
    monkeypatch.setitem(sys.modules, "anomalib", types.ModuleType("anomalib"))
    assert "\nextra: anomalib, installed\n" in uadctl("models", "show", "vision_checkpoint").out


@pytest.mark.usefixtures("doubles")
def test_python_objects_and_needed_parameters_are_marked(uadctl, monkeypatch):
    assert ["kind", "str", "needed"] in cells(uadctl("models", "show", "vision_needy").out)
    monkeypatch.setattr(Strict, "weights_state", lambda self: "random", raising=False)
    text = uadctl("models", "show", "strict").out
    assert "\nweights: random\n" in text
    rows = cells(text)
    assert ["embedder", "Embedder", "from Python only"] in rows
    assert ["kernel", "tuple[int, int]", "[3, 3]"] in rows
    assert ["ratio", "float", "0.1", "share of the patches that are kept."] in rows


# --- models show BACKBONE


def test_a_backbone_is_shown_with_its_layers(uadctl, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("UADCTL_WEIGHTS", raising=False)
    text = uadctl("models", "show", "resnet18").out
    assert text.startswith(
        "resnet18: torchvision's resnet18, ImageNet weights IMAGENET1K_V1.\n"
        "\n"
        'paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016\n'
        "weights: resnet18-f37072fd.pth\n"
        "licence: BSD-3-Clause\n"
        "from: https://download.pytorch.org/models/resnet18-f37072fd.pth\n"
        "found: not on this machine; fetch it with: uadctl models fetch resnet18 --to DIR\n"
    )
    rows = cells(text)
    assert ["layer2", "yes", "128", "8", "128 x 28 x 28"] in rows
    assert ["layer4", "512", "32", "512 x 7 x 7"] in rows
    found = uadctl("models", "show", "resnet18", "--json").json
    assert (found["schema"], found["name"], found["path"], found["sha256"]) == (1, "resnet18", None, None)
    assert found["fetch"] == "uadctl models fetch resnet18 --to DIR"
    (listed,) = (b for b in uadctl("models", "list", "--backbones", "--json").json if b["name"] == "resnet18")
    assert {key: found[key] for key in listed} == listed


def test_a_backbone_that_is_here_is_shown_with_its_checksum(uadctl):
    entry = BACKBONES["efficientnet_lite0"]
    text = uadctl("models", "show", "tf_efficientnet_lite0").out
    assert f"\nsha256: {entry.weights.sha256}\n" in text
    assert re.search(r"\nfound: \S+efficientnet-lite0-57934424\.pth \(package\)\n", text)
    found = uadctl("models", "show", "efficientnet_lite0", "--json").json
    assert (found["sha256"], found["fetch"]) == (entry.weights.sha256, None)


def test_every_backbone_is_listed(uadctl):
    text = uadctl("models", "list", "--backbones").out
    rows = {row[0]: row for row in cells(text)}
    assert set(BACKBONES) <= set(rows)
    assert rows["swin_t"][1:6] == ["features.3, features.5", "192, 384", "8, 16", "swin_t-704ceda3.pth", "BSD-3-Clause"]
    assert text.endswith("\nAlso by name: openclip:NAME, timm:NAME\n")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet19", "no such backbone; did you mean resnet18? Or openclip:NAME, timm:NAME. See: uadctl models list --backbones"),
        ("qqqqqq", "no such model. See: uadctl models list"),
    ],
)  # fmt: skip
def test_a_name_that_is_neither_a_model_nor_a_backbone(uadctl, name, says):
    assert uadctl("models", "show", name, code=2).err == f'error: "{name}": {says}\n'


def test_a_model_of_anomalib_is_shown_without_our_backbones(uadctl):
    text = uadctl("models", "show", "vision_efficientad_anomalib").out
    assert text.startswith(
        "vision_efficient_ad_anomalib: Small networks that fail to imitate a teacher and an autoencoder where an image is "
        "not normal.\n"
        "\n"
        "also: vision_efficientad_anomalib\n"
        "tags: vision, anomalib, efficient_ad, student-teacher, pixel_map\n"
    )
    assert "\ncheckpoint: needed: --checkpoint-path FILE, or [model.trainer] to train it\n" in text
    assert ["pad_maps", "bool", "true", "without padding, pad the maps to the size that they have with it."] in cells(
        text
    )
    found = uadctl("models", "show", "vision_patchcore_anomalib", "--json").json
    assert found["backbones"] == []
    assert "backbone" in {row["name"] for row in found["parameters"]}


def test_a_model_that_is_not_trained_here_says_why(uadctl):
    text = uadctl("models", "show", "vision_anomalyvfm_anomalib").out
    assert "\ncheckpoint: needed: --checkpoint-path FILE\n" in text
    assert "\ntraining: it is not trained: its makers have done that, on synthetic defects\n" in text


def test_a_model_that_is_trained_here_says_what_the_trainer_takes(uadctl):
    told = {
        "stfpm": "max_epochs, max_steps, batch_size, workers, patience; one of max_epochs and max_steps is needed",
        "efficient_ad": "max_epochs, max_steps, batch_size, workers, patience; one of max_epochs and max_steps is "
        "needed; batch_size is 1",
        "padim": "batch_size, workers, all optional",
    }
    for name, keys in told.items():
        text = uadctl("models", "show", f"vision_{name}_anomalib").out
        assert f"\ntraining: [model.trainer] takes {keys}\n" in text
    assert "\ntraining: " not in uadctl("models", "show", "vision_patchcore").out


def test_a_model_that_is_not_offered_is_shown_with_the_reason(uadctl):
    assert uadctl("models", "show", "vision_fuvas_anomalib").out == (
        "vision_fuvas_anomalib: Reconstruction error of a video network's features by PCA.\n"
        "\n"
        "tags: vision, anomalib, fuvas, gaussian, pixel_map\n"
        'paper: Jiang et al., "FUVAS: Few-shot Unsupervised Video Anomaly Segmentation via Low-Rank Factorization of '
        'Spatio-Temporal Features", ICASSP 2025\n'
        "not offered: it takes videos, and uadctl takes single images\n"
    )
    found = uadctl("models", "show", "vision_fuvas_anomalib", "--json").json
    assert (found["parameters"], found["weights"]) == ([], None)
    assert found["metadata"]["offered"] is False
    assert found["metadata"]["reason"] == "it takes videos, and uadctl takes single images"


def test_a_model_that_is_not_offered_cannot_be_used(uadctl):
    why = "is not offered: it takes videos, and uadctl takes single images\n"
    Path("spec.toml").write_text('[dataset]\nname = "demo"\n[model]\nname = "vision_fuvas_anomalib"\n')
    assert uadctl("bench", "spec.toml", code=2).err.startswith(
        f'error: spec.toml:4: [model] name = "vision_fuvas_anomalib": {why}'
    )
    given = ("--dataset", "demo", "--model", "vision_fuvas_anomalib", "--checkpoint-path", "m.ckpt", "--no-pretrained")
    assert uadctl("fit", *given, code=2).err == f"error: --model vision_fuvas_anomalib: {why}"
    assert uadctl("models", "fetch", "vision_fuvas_anomalib", code=2).err == f'error: "vision_fuvas_anomalib": {why}'


# --- models list


def test_models_of_anomalib_have_a_table_of_their_own(uadctl):
    text = uadctl("models", "list").out
    ours, rest = text.split(
        "\nTrained models of anomalib: each takes --checkpoint-path FILE or, where it says so, is trained\n"
    )
    theirs, rest = rest.split("\nNot trained by uadctl:\n")
    untrained, absent = rest.split("\nNot offered:\n")
    assert "_anomalib" not in ours
    rows = {row[0]: row for row in cells(theirs)[2:]}
    assert len(rows) == 32
    assert rows["vision_efficient_ad_anomalib"][1:3] == ["vision_efficientad_anomalib", "yes"]
    assert rows["vision_winclip_anomalib"][1] == "no"
    assert [line.strip().partition(":")[0] for line in untrained.splitlines()] == [
        "vision_anomalib_checkpoint",
        "vision_anomalyvfm_anomalib",
        "vision_winclip_anomalib",
    ]
    assert absent.splitlines()[0] == "  vision_ai_vad_anomalib: it takes videos, and uadctl takes single images"
    assert len(absent.splitlines()) == 4


def test_a_model_of_any_library_may_be_listed_and_not_offered(uadctl, monkeypatch):
    entry = ModelEntry(name="vision_gone", target="nowhere:Gone", summary="-", tags=("odd",), reason="it is gone")
    monkeypatch.setitem(MODELS, entry.name, entry)
    assert uadctl("models", "list", "--tag", "odd").out == "Not offered:\n  vision_gone: it is gone\n"
    (row,) = uadctl("models", "list", "--tag", "odd", "--check", "--json").json["models"]
    assert (row["ready"], row["needs"]) == (False, ["not offered: it is gone"])


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("padim", "; not needed for checkpoints of PatchCore and PaDiM"),
        ("stfpm", ""),
    ],
)
def test_without_anomalib_a_model_says_what_works_all_the_same(uadctl, monkeypatch, name, without):
    monkeypatch.setattr("uadctl.cli.models._installed", lambda package: False)
    text = uadctl("models", "show", f"vision_{name}_anomalib").out
    assert f"\nextra: anomalib; anomalib not installed: pip install 'uadctl[anomalib]'{without}\n" in text


def test_a_part_of_the_list_has_only_the_tables_that_it_needs(uadctl):
    assert "anomalib" not in uadctl("models", "list", "--tag", "classical").out
    text = uadctl("models", "list", "--tag", "anomalib", "--tag", "flow").out
    assert text.startswith("Trained models of anomalib: ")
    assert "Not" not in text
    assert uadctl("models", "list", "--tag", "vlm").out == (
        "Not offered:\n"
        "  vision_vlm_ad_anomalib: it asks a language model, mostly a service on the network, and answers yes or no\n"
    )


def test_the_list_for_programs_says_what_is_offered(uadctl):
    rows = {row["name"]: row["metadata"] for row in uadctl("models", "list", "--tag", "anomalib", "--json").json}
    assert len(rows) == 36
    assert [name for name, facts in rows.items() if not facts["offered"]] == [
        "vision_ai_vad_anomalib",
        "vision_cfm_anomalib",
        "vision_fuvas_anomalib",
        "vision_vlm_ad_anomalib",
    ]
    assert rows["vision_cfm_anomalib"]["reason"].startswith("it takes point clouds")


# --- models list --check


@pytest.mark.parametrize("installed", [True, False])
def test_models_of_anomalib_are_ready_where_it_is_and_some_read_files_without_it(uadctl, monkeypatch, installed):
    monkeypatch.setitem(sys.modules, "anomalib", types.ModuleType("anomalib") if installed else None)
    found = uadctl("models", "list", "--check", "--tag", "anomalib", "--json").json["models"]
    rows = {row["name"]: row for row in found}
    assert len(rows) == 36
    pip = "pip install 'uadctl[anomalib]'"
    a_file = "a checkpoint: --checkpoint-path FILE, or [model.params] checkpoint_path"
    for name, needs in {
        "vision_stfpm_anomalib": [] if installed else [pip],
        "vision_winclip_anomalib": [a_file] if installed else [pip],
        "vision_patchcore_anomalib": [] if installed else [f"{a_file}; to train it: {pip}"],
        "vision_padim_anomalib": [] if installed else [f"{a_file}; to train it: {pip}"],
        "vision_anomalib_checkpoint": [a_file],
        "vision_ai_vad_anomalib": ["not offered: it takes videos, and uadctl takes single images"],
    }.items():
        assert rows[name]["needs"] == needs, name
        assert rows[name]["ready"] is (needs == [])


@pytest.fixture
def few(monkeypatch):
    """PatchCore and the models of spec_models.py, and no others."""
    kept = {"vision_patchcore": MODELS["vision_patchcore"], **{entry.name: entry for entry in ENTRIES}}
    for name in list(MODELS):
        monkeypatch.delitem(MODELS, name)
    for name, entry in kept.items():
        monkeypatch.setitem(MODELS, name, entry)


@pytest.mark.usefixtures("few")
def test_each_model_is_checked_on_this_machine(uadctl, monkeypatch):
    monkeypatch.setitem(sys.modules, "anomalib", None)
    monkeypatch.setattr(Strict, "weights_state", lambda self: "none", raising=False)
    found = uadctl("models", "list", "--check", "--json").json
    assert (found["schema"], found["device"]) == (1, resolve_device("auto"))
    rows = {row["name"]: (row["ready"], row["weights"], row["needs"]) for row in found["models"]}
    assert rows == {
        "vision_checkpoint": (False, None, ["pip install 'uadctl[anomalib]'"]),
        "vision_needy": (False, None, ["[model.params] kind, device"]),
        "vision_patchcore": (True, "package", []),
        "vision_strict": (True, "none", []),
        "vision_trainable": (True, None, []),
        "vision_wrapped": (
            False,
            None,
            ["it cannot be built: AttributeError: 'Wrapped' object has no attribute 'weights_state'"],
        ),
    }
    text = uadctl("models", "list", "--check").out
    assert text.startswith(f"device: {resolve_device('auto')}\n")
    assert ["vision_checkpoint", "no", "pip install 'uadctl[anomalib]'"] in cells(text)
    assert ["vision_patchcore", "yes", "package"] in cells(text)


@pytest.mark.usefixtures("few")
def test_absent_weights_are_fetched_by_the_command_said(uadctl, monkeypatch):
    from uadctl.models.frozen import FrozenNetwork

    def check() -> list[str]:
        rows = uadctl("models", "list", "--check", "--tag", "patchcore", "--json").json["models"]
        (row,) = rows
        assert not row["ready"]
        return row["needs"]

    monkeypatch.setattr(FrozenNetwork, "weights_state", lambda self: "network")
    monkeypatch.delenv("UADCTL_OFFLINE", raising=False)
    assert check() == ["weights: uadctl models fetch efficientnet_lite0 --to DIR"]
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    assert check() == ["weights: uadctl models fetch efficientnet_lite0 --to DIR (UADCTL_OFFLINE is set)"]


@pytest.mark.parametrize("words", [["list", "--check"], ["list", "--check", "--json"], ["list", "--backbones"]])
def test_a_weights_folder_that_is_not_there_is_one_error(uadctl, monkeypatch, words):
    monkeypatch.setenv("UADCTL_WEIGHTS", "nowhere")
    ended = uadctl("models", *words, code=2)
    assert ended.out == ""
    assert ended.err == "error: UADCTL_WEIGHTS=nowhere: no such folder\n  Name the folder that weights files lie in.\n"


def test_a_model_that_a_library_has_not(uadctl):
    pytest.importorskip("open_clip", reason="it is asked for its models")
    assert (
        uadctl("models", "show", "openclip:nope", code=2).err == 'error: "openclip:nope": no such model of open_clip\n'
    )


def test_a_parameter_that_takes_more_than_its_choices_is_shown_as_written(uadctl):
    rows = {row[0]: row for row in cells(uadctl("models", "show", "anomalydino").out) if len(row) > 3}
    assert rows["image_size"][1:3] == ["int | Literal['given']", "448"]
    assert "One of" not in rows["image_size"][3]
    assert rows["knn_backend"][1] == "str"
    assert rows["precision"][1] == "str"  # its Literal has a name


@pytest.mark.parametrize(
    "options", ["--check --backbones", "--markdown --json", "--markdown --tag cnn", "--backbones --tag cnn"]
)
def test_options_of_the_list_that_do_not_go_together(uadctl, options):
    ended = uadctl("models", "list", *options.split(), code=2)
    assert ended.err == (
        "error: uadctl models list: --check, --backbones and --markdown do not go together, nor with a --tag or --json "
        "that they would ignore\n"
    )


def test_a_model_that_is_not_there(uadctl):
    ended = uadctl("models", "show", "patchcor", code=2)
    assert ended.err == 'error: "patchcor": no such model; did you mean vision_patchcore? See: uadctl models list\n'
    assert ended.out == ""


# --- datasets show


def test_a_data_set_is_shown_with_its_tree(uadctl):
    assert uadctl("datasets", "show", "mvtec").out == (
        "mvtec: MVTec AD, and every data set in its layout.\n"
        "\n"
        "licence: CC BY-NC-SA 4.0\n"
        'paper: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", '
        "CVPR 2019\n"
        "doi: https://doi.org/10.1109/CVPR.2019.00982\n"
        "homepage: https://www.mvtec.com/company/research/datasets/mvtec-ad\n"
        "protocol: image AUROC, and AU-PRO up to a false-positive rate of 0.3, of each category; "
        "then the mean over the categories\n"
        "metrics: image_auroc, aupro_30\n"
        "splits: test\n"
        "\n"
        "ROOT\n"
        "└── <category>\n"
        "    ├── train\n"
        "    │   └── good\n"
        "    │       └── *.png             good images to learn from\n"
        "    ├── validation\n"
        "    │   └── good\n"
        "    │       └── *.png             good images that set the threshold (optional)\n"
        "    ├── test\n"
        "    │   ├── good\n"
        "    │   │   └── *.png             good images to test on\n"
        "    │   └── <defect>\n"
        "    │       └── *.png             bad images; a folder for each kind of defect\n"
        "    └── ground_truth\n"
        "        └── <defect>\n"
        "            └── <stem>_mask.png   their masks: a pixel above 0 is a defect\n"
        "\n"
        "example:\n"
        "  uadctl datasets check mvtec --root DIR\n"
        "  uadctl bench --dataset mvtec --root DIR --model vision_patchcore\n"
        "\n"
        "  [dataset]\n"
        '  name = "mvtec"\n'
        '  root = "DIR"\n'
        "\n"
        "  [model]\n"
        '  name = "vision_patchcore"\n'
    )


def test_trees_and_examples_fit_80_columns(uadctl):
    assert len(DATASETS) >= 3
    for name in DATASETS:
        lines = uadctl("datasets", "show", name).out.splitlines()
        assert [line for line in lines[lines.index("ROOT") :] if len(line) > 80] == []


def test_roles_are_named_where_globs_are_taken(uadctl):
    lines = (
        "\nOther folders: [dataset.files] train, validation, normal, anomaly, mask (globs)\n"
        "With by_mask = true: train, good, validation, test (globs), mask, classes\n"
    )
    assert lines in uadctl("datasets", "show", "folder").out
    assert "[dataset.files]" not in uadctl("datasets", "show", "mvtec").out


# How many training, validation, good test and defect test images the places of a data set make.
SHOWN = {
    "btad": (1, 0, 1, 1),
    "demo": (1, 1, 1, 1),
    "folder": (1, 1, 1, 1),
    "mvtec": (1, 1, 1, 1),
    "mvtec_ad2": (1, 1, 1, 1),
    "mvtec_loco": (1, 1, 1, 2),
}


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_images_laid_out_as_shown_are_found(uadctl, tmp_path, name):
    """Every place of the tree, filled, is read as what it is called; the loader looks nowhere else."""
    found = uadctl("datasets", "show", name, "--json").json
    image, mask = parts.scratched(1)
    for i, place in enumerate(found["places"]):
        path = place["path"].replace("<category>", "printed_part").replace("<defect>", "dent")
        path = path.replace("<stem>", "007")
        if place["path"].endswith(".json"):
            (tmp_path / "root" / path).write_text("[]")
            continue
        for kind in ("logical_anomalies", "structural_anomalies") if "<kind>" in path else ("",):
            file = path.replace("<kind>", kind).replace("*", "007")
            parts.write(tmp_path / "root" / file, mask if "mask" in path or "ground_truth" in path else image + i)
    dataset = load_dataset(name, str(tmp_path / "root"))
    assert (len(dataset.train), len(dataset.validation)) == SHOWN[name][:2]
    of_test = [(s.label, bool(s.masks)) for s in sorted(dataset.test, key=lambda s: s.label)]
    assert of_test == [(0, False)] * SHOWN[name][2] + [(1, True)] * SHOWN[name][3]


def test_the_tree_of_visa_is_that_of_its_archive(uadctl, tmp_path):
    trees_others.visa_original(tmp_path / "VisA")
    places = uadctl("datasets", "show", "visa", "--json").json["places"]
    assert len(places) == 5
    for place in places:
        assert list((tmp_path / "VisA").glob(place["path"].replace("<category>", "*"))), place


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_the_layout_in_one_line_and_the_places_agree(name):
    entry = resolve_dataset(name)
    if entry.needs_root:
        for word in re.findall(r"\w+", entry.layout.replace("ROOT", "")):
            assert any(word in place.path for place in entry.places), word


@pytest.mark.parametrize("name", [n for entry in DATASETS.values() for n in (entry.name, *entry.aliases)])
def test_the_example_spec_is_valid_and_aliases_are_the_entry(uadctl, tmp_path, name):
    found = uadctl("datasets", "show", name, "--json").json
    file = Path("example.toml")
    file.write_text(found["example"]["spec"])
    reading = read_spec(str(file))
    assert reading.notes == ()
    assert reading.spec.dataset.name == found["name"] == resolve_dataset(name).name


def test_the_example_commands_run(uadctl, one_category):
    commands = uadctl("datasets", "show", "mvtec", "--json").json["example"]["commands"]
    assert len(commands) == 2
    for line in commands:
        program, *words = line.replace("DIR", str(one_category)).split()
        assert program == "uadctl"
        uadctl(*words, *(["--dry-run"] if words[0] == "bench" else []))


def test_protocol_metrics_exist_and_where_there_are_none_it_says_so():
    known = {*IMAGE_METRICS, *THRESHOLD_METRICS, *pixel_metric_names(fpr_limits=(0.3, 0.05))}
    known |= set(GROUP_METRICS)
    known |= {name for protocol in PROTOCOLS.values() for name in protocol.own}
    for entry in DATASETS.values():
        assert set(entry.protocol_metrics) <= known
        assert bool(entry.protocol_metrics) != entry.protocol.startswith("none"), entry.name
        assert bool(entry.doi) == bool(entry.paper), entry.name


def test_a_data_set_in_json_holds_its_row_of_the_list(uadctl):
    rows = {row["name"]: row for row in uadctl("datasets", "list", "--json").json}
    for name, row in rows.items():
        found = uadctl("datasets", "show", name, "--json").json
        assert found["schema"] == 1
        assert {key: found[key] for key in row} == row
        assert found["places"]


def test_a_data_set_that_is_not_there(uadctl):
    ended = uadctl("datasets", "show", "mvtek", code=2)
    assert ended.err == (f'error: "mvtek": no such data set; did you mean mvtec? Choose from: {parts.DATA_SETS}\n')
