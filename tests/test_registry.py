"""The tables of models, data sets and backbones: found by name, alias and tag, and true to what they describe."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import parts
import pytest
from spec_models import ENTRIES

from uadctl.errors import BackendMissing, SpecError
from uadctl.spec import (
    BACKBONES,
    DATASETS,
    MODELS,
    list_models,
    list_params,
    load_target,
    model_info,
    optional_import,
    require,
    resolve_backbone,
    resolve_dataset,
    resolve_model,
)
from uadctl.spec.registry import ModelEntry, all_models, find_model, known_model, no_such_network

HEAVY = ("torch", "torchvision", "numpy", "cv2", "anomalib", "open_clip", "faiss", "sklearn", "timm", "rich", "typer")


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in ENTRIES:
        monkeypatch.setitem(MODELS, entry.name, entry)


def test_names_and_aliases_are_unique_and_keys_are_names() -> None:
    for table, least in ((MODELS, 1), (DATASETS, 3), (BACKBONES, 8)):
        assert len(table) >= least
        assert all(key == entry.name for key, entry in table.items())
        names = [name for entry in table.values() for name in (entry.name, *entry.aliases)]
        assert len(names) == len(set(names))


def test_a_data_set_whose_splits_share_no_image_says_which_are_on_disk() -> None:
    several = [entry for entry in DATASETS.values() if entry.splits_are_disjoint]
    assert [entry.name for entry in several] == ["mvtec_ad2"]
    for entry in several:
        assert len(entry.splits) > 1
        assert callable(load_target(entry.target).list_splits)


def test_an_alias_is_the_entry() -> None:
    assert resolve_model("patchcore") is resolve_model("vision_patchcore") is model_info("patchcore")
    assert resolve_dataset("custom") is resolve_dataset("folder")
    assert resolve_backbone("resnet18").name == "resnet18"


@pytest.mark.parametrize(
    ("resolve", "name", "message"),
    [
        (
            resolve_model,
            "patchcor",
            '"patchcor": no such model; did you mean vision_patchcore? See: uadctl models list',
        ),
        (resolve_model, "xyz", '"xyz": no such model. See: uadctl models list'),
        (
            resolve_dataset,
            "mvtek",
            f'"mvtek": no such data set; did you mean mvtec? Choose from: {parts.DATA_SETS}',
        ),
        (
            resolve_backbone,
            "resnet19",
            '"resnet19": no such backbone; did you mean resnet18? Or openclip:NAME, timm:NAME. '
            "See: uadctl models list --backbones",
        ),
        (resolve_model, "a\x1b[31m\n", '"a\\x1b[31m\\n": no such model. See: uadctl models list'),
    ],
)
def test_an_unknown_name_is_a_spec_error_with_the_nearest(resolve, name, message) -> None:
    with pytest.raises(SpecError) as error:
        resolve(name)
    assert str(error.value) == message
    assert isinstance(error.value, ValueError)


@pytest.mark.usefixtures("doubles")
def test_tags_are_anded_and_names_are_tags() -> None:
    assert list_models() == sorted(MODELS)
    assert list_models(["test", "bank"]) == ["vision_strict"]
    assert list_models(tags="vision_strict") == ["vision_strict"]
    assert list_models(["strict", "test"]) == ["vision_strict"]
    assert list_models(["test", "memory-bank"]) == []
    assert "vision_patchcore" in list_models(["memory-bank"])


@pytest.mark.usefixtures("doubles")
def test_metadata_names_the_anomalib_model_only_where_there_is_one() -> None:
    assert model_info("vision_checkpoint").metadata == {
        "backend": "anomalib",
        "requires_checkpoint": True,
        "trainable": False,
        "offered": True,
        "pixel_map": True,
        "input": "rgb",
        "anomalib_model": "Stfpm",
        "extra": "anomalib",
    }
    assert not {"anomalib_model", "extra"} & set(model_info("vision_patchcore").metadata)


def test_every_target_resolves() -> None:
    # Modules only: the code behind a target may import its backend when it is called.
    assert len(MODELS) + len(DATASETS) + len(BACKBONES) >= 12
    for entry in all_models().values():
        assert inspect.isclass(load_target(entry.target))
    for backbone in BACKBONES.values():
        assert callable(load_target(backbone.target))
    for dataset in DATASETS.values():
        module = load_target(dataset.target)
        assert callable(module.load)
        assert callable(module.list_categories)


def test_every_parameter_of_every_model_is_documented_and_keyword_only() -> None:
    checked = 0
    for entry in all_models().values():
        parameters = inspect.signature(load_target(entry.target)).parameters
        kinds = {p.kind for name, p in parameters.items() if name != "checkpoint_path"}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}
        assert set(entry.not_settable) | set(entry.path_params) <= set(parameters)
        for info in list_params(entry.name):
            assert info.doc, f"{entry.name}: {info.name} is not in the docstring"
            assert not info.required or info.name == "checkpoint_path"
            checked += 1
    assert checked >= 900


def test_what_is_not_offered_is_known_and_listed_and_not_to_be_had(monkeypatch) -> None:
    entry = ModelEntry(
        name="vision_gone", target="nowhere:Gone", summary="-", aliases=("gone",), tags=("odd",), reason="it is gone"
    )
    monkeypatch.setitem(MODELS, entry.name, entry)
    assert known_model("gone") is model_info("gone") is entry
    assert not entry.offered
    assert entry.metadata["offered"] is False
    assert entry.metadata["reason"] == "it is gone"
    assert list_models("odd") == ["vision_gone"]
    assert find_model("gone") is None
    assert "vision_gone" not in all_models()
    assert no_such_network("gone") == "is not offered: it is gone"
    with pytest.raises(SpecError, match=r"^vision_gone is not offered: it is gone$"):
        resolve_model("gone")
    with pytest.raises(SpecError, match=r'^"zzz": no such model\. See: uadctl models list$'):
        model_info("zzz")


def test_a_target_without_its_attribute_is_an_import_error() -> None:
    with pytest.raises(ImportError, match=r"^json has no Nothing, which the target json:Nothing names$"):
        load_target("json:Nothing")
    assert load_target("json").__name__ == "json"


def test_listing_and_reading_import_nothing_heavy() -> None:
    code = (
        "import sys, uadctl.spec as s; s.list_models(); s.get_model_signature_info('patchcore');"
        "s.read_spec(None, s.Overrides(dataset='demo', model='patchcore'));"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_backbones_are_torchvisions() -> None:
    models = pytest.importorskip("torchvision.models", reason="compares with torchvision, which is not installed")
    import torch

    checked = 0
    for entry in BACKBONES.values():
        if entry.target != "uadctl.features.resnet:build":
            continue
        weights = models.get_model_weights(entry.name).IMAGENET1K_V1
        assert entry.weights.url == weights.url
        assert weights.url.endswith(f"-{entry.weights.sha256}.pth")
        assert weights.url.endswith(f"/{entry.weights.file}")
        preset = weights.transforms()
        assert entry.mean == pytest.approx([255 * m for m in preset.mean], abs=1e-12)
        assert entry.std == pytest.approx([255 * s for s in preset.std], abs=1e-12)
        with torch.device("meta"):
            assert _channels(models.get_model(entry.name)) == entry.channels
        checked += 1
    assert checked == 7
    # The others are held against it in test_torchvision_backbones.py.


def _channels(network) -> dict[str, int]:
    """Output channels of the four stages, from the last normalisation of each."""
    names = ("layer1", "layer2", "layer3", "layer4")
    return {
        name: [m.num_features for m in network.get_submodule(name)[-1].children() if hasattr(m, "num_features")][-1]
        for name in names
    }


def test_the_embedded_weights_are_the_packages() -> None:
    weights = BACKBONES["efficientnet_lite0"].weights
    assert weights.module is not None
    assert weights.inner is not None
    found = importlib.util.find_spec(weights.module)
    if found is None or found.origin is None:
        pytest.skip(f"{weights.package} is not installed")
    data = (Path(found.origin).parent / weights.inner).read_bytes()
    assert hashlib.sha256(data).hexdigest() == weights.sha256
    assert weights.inner.endswith(weights.file)


def test_default_layers_are_offered() -> None:
    for entry in BACKBONES.values():
        assert set(entry.layers) <= set(entry.channels)
        assert set(entry.channels) == set(entry.strides)
        assert [entry.strides[layer] for layer in entry.layers] == sorted(
            entry.strides[layer] for layer in entry.layers
        )


def test_optional_import_gives_the_module_or_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uadctl_broken_package.py").write_text("raise RuntimeError('built for another system')\n")
    monkeypatch.syspath_prepend(tmp_path)
    module, error = optional_import("json")
    assert module is not None
    assert error is None
    module, error = optional_import("uadctl_no_such_package")
    assert module is None
    assert isinstance(error, ModuleNotFoundError)
    module, error = optional_import("uadctl_broken_package")
    assert module is None
    assert isinstance(error, RuntimeError)


def test_require_names_the_pip_command_and_chains_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uadctl_broken_package.py").write_text("import uadctl_no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert require("json", "clip").__name__ == "json"
    with pytest.raises(BackendMissing) as error:
        require("uadctl_no_such_package", "clip")
    assert str(error.value) == "uadctl_no_such_package is not installed. Install it with: pip install 'uadctl[clip]'"
    assert isinstance(error.value, ImportError)
    assert isinstance(error.value.__cause__, ModuleNotFoundError)
    with pytest.raises(BackendMissing) as error:
        require("uadctl_no_such_package.sub", "clip", needed_by="vision_openclip_promptscore")
    assert str(error.value) == (
        "vision_openclip_promptscore needs uadctl_no_such_package.sub, which is not installed. "
        "Install it with: pip install 'uadctl[clip]'"
    )
    with pytest.raises(BackendMissing) as error:
        require("uadctl_broken_package", "clip")
    assert str(error.value) == (
        "uadctl_broken_package is installed but cannot be imported "
        "(ModuleNotFoundError: No module named 'uadctl_no_such_package'). Install it with: pip install 'uadctl[clip]'"
    )
