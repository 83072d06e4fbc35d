"""Files of anomalib as data: what is read, what is refused, and that no code in them runs."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib_files import (
    blur_kernel,
    quietly,
    train_with_anomalib,
    transform_tree,
    write_ckpt,
    write_padim_ckpt,
    write_patchcore_ckpt,
)

from uadctl.errors import BackendMissing, DataError, SpecError, WeightsError
from uadctl.models.anomalib import checkpoint as module
from uadctl.models.anomalib import opening
from uadctl.models.anomalib.checkpoint import Checkpoint, format_of, identify, looks_native, read_checkpoint
from uadctl.models.anomalib.opening import open_file
from uadctl.models.anomalib.preprocessing import Postprocessing
from uadctl.spec.wrapped import anomalib_model, anomalib_models

NO_ANOMALIB = "anomalib is not installed: pip install 'uadctl[anomalib]'"
WHERE = "anomalib leaves its checkpoints in results/MODEL/DATA/…/weights/lightning/model.ckpt."
COMPONENTS = {"pre_processor": True, "post_processor": True, "evaluator": True, "visualizer": True}
PADIM = {"backbone": "resnet18", "layers": ["layer1"], "pre_trained": True, "n_features": 3}
BUFFERS = {"_image_threshold": 1.5, "image_min": 0.25, "image_max": 3.0, "pixel_min": 0.125, "pixel_max": 2.5}


@pytest.fixture(scope="module")
def patchcore(tmp_path_factory) -> Path:
    return write_patchcore_ckpt(tmp_path_factory.mktemp("patchcore") / "model.ckpt", buffers=BUFFERS)


@pytest.fixture(scope="module")
def padim(tmp_path_factory) -> Path:
    return write_padim_ckpt(tmp_path_factory.mktemp("padim") / "model.ckpt")


@pytest.fixture
def anomalib():
    return pytest.importorskip("anomalib", reason=NO_ANOMALIB)


def rewritten(source: Path, target: Path, **changes) -> Path:
    """A checkpoint with other values at its top level; None leaves one out."""
    with torch.serialization.safe_globals(module._safe()):
        blob = torch.load(source, weights_only=True)
    blob["hyper_parameters"] = {k: str(v) if isinstance(v, str) else v for k, v in blob["hyper_parameters"].items()}
    torch.save({k: v for k, v in {**blob, **changes}.items() if v is not None}, target)
    return target


def refused(path: Path, **given) -> tuple[str, str | None]:
    with pytest.raises(DataError) as error:
        read_checkpoint(path, **given)
    assert "\n" not in error.value.message
    return error.value.message, error.value.help


# --- names and looks


def test_the_name_says_what_kind_of_file_it_is():
    names = ["a.ckpt", "a.pt", "a.pth", "a.onnx", "a.xml", "a.bin", "results/x/model.v2.CKPT"]
    assert [format_of(n) for n in names] == ["ckpt", "torch", "torch", "onnx", "openvino", "openvino", "ckpt"]
    assert format_of(Path("a.pt")) == "torch"


@pytest.mark.parametrize("name", ["model", "weights/model.safetensors", "model.ckpt.zip"])
def test_another_name_is_an_error_that_lists_those_that_can_be(name):
    with pytest.raises(SpecError) as error:
        format_of(name)
    assert error.value.message == f"{name}: not the name of a file that anomalib writes"
    assert error.value.help == "Expected: a checkpoint (.ckpt), or an exported model (.pt, .onnx, .xml with its .bin)."


def test_native_files_are_known_by_their_looks(patchcore, padim, tmp_path):
    assert looks_native(patchcore)
    assert looks_native(str(padim))
    other = write_ckpt(tmp_path / "stfpm.ckpt", {"model.a": torch.zeros(1)}, {"backbone": "resnet18", "layers": []})
    # MHPatchcore's bank has the same name.
    bank = write_ckpt(tmp_path / "mh.ckpt", {"model.memory_bank": torch.zeros(1)}, {"memory_bank_size": 3})
    text = tmp_path / "text.ckpt"
    text.write_text("model.memory_bank coreset_sampling_ratio", encoding="utf-8")
    half = tmp_path / "half.ckpt"
    half.write_bytes(patchcore.read_bytes()[:5000])
    with zipfile.ZipFile(tmp_path / "empty.ckpt", "w") as archive:
        archive.writestr("model/readme", "model.memory_bank coreset_sampling_ratio")
    found = [other, bank, text, half, tmp_path / "empty.ckpt", tmp_path, tmp_path / "absent.ckpt"]
    assert [looks_native(path) for path in found] == [False] * 7


def test_a_look_needs_no_torch(patchcore):
    code = (
        "import sys\n"
        "from uadctl.models.anomalib.checkpoint import looks_native\n"
        f"assert looks_native({str(patchcore)!r})\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr == ""


# --- what is read


def test_a_patchcore_checkpoint_as_data(patchcore):
    found = read_checkpoint(patchcore)
    assert found.model == "patchcore"
    assert found.hyper_parameters == {
        "backbone": "resnet18",
        "layers": ["layer2", "layer3"],
        "pre_trained": True,
        "coreset_sampling_ratio": 0.25,
        "num_neighbors": 9,
        "precision": "float32",
    }
    assert json.loads(json.dumps(found.hyper_parameters)) == found.hyper_parameters
    assert type(found.hyper_parameters["precision"]) is str
    assert found.transform == transform_tree()
    assert found.postprocessing == Postprocessing(
        image_threshold=1.5, image_min=0.25, image_max=3.0, pixel_min=0.125, pixel_max=2.5
    )
    assert found.postprocessing.pixel_threshold is None
    names = {name for name in found.state if "feature_extractor" not in name}
    assert names == {"_is_fitted", "model.memory_bank", "model.anomaly_map_generator.blur.kernel"}
    assert found.state["model.memory_bank"].shape == (64, 384)
    assert found.origin["file"] == "model.ckpt"
    assert found.origin["format"] == "ckpt"
    assert len(found.origin["sha256"]) == 64


def test_a_padim_checkpoint_as_data(padim):
    found = read_checkpoint(str(padim))
    assert found.model == "padim"
    assert found.hyper_parameters["n_features"] == 20
    assert found.state["model.gaussian.inv_covariance"].shape == (256, 20, 20)
    assert found.postprocessing == Postprocessing()


def test_tensors_are_not_the_files(padim, tmp_path):
    path = Path(shutil.copyfile(padim, tmp_path / "model.ckpt"))
    found = read_checkpoint(path)
    before = found.state["model.gaussian.mean"].clone()
    path.write_bytes(b"\0" * path.stat().st_size)  # as anomalib's next training would
    assert torch.equal(found.state["model.gaussian.mean"], before)


def test_parts_that_are_not_the_models_are_left_out(patchcore, tmp_path):
    with torch.serialization.safe_globals(module._safe()):
        state = torch.load(patchcore, weights_only=True)["state_dict"]
    more = {
        "evaluator.test_metrics.2.fpr_limit": torch.tensor(0.3),
        "post_processor._image_threshold_metric.x": torch.zeros(1),
        "loss.weight": torch.zeros(1),
        "extra_state": {"not": "a tensor"},
    }
    found = read_checkpoint(rewritten(patchcore, tmp_path / "m.ckpt", state_dict={**state, **more}))
    assert set(found.state) == {k for k in state if not k.startswith("post_processor.")} | {"loss.weight"}


@pytest.mark.parametrize(
    ("enabled", "transform", "after"),
    [
        (
            {"pre_processor": False},
            None,
            Postprocessing(image_threshold=1.5, image_min=0.25, image_max=3.0, pixel_min=0.125, pixel_max=2.5),
        ),
        ({"post_processor": False}, transform_tree(), Postprocessing(normalises=False, thresholds=False)),
    ],
)
def test_switched_off_parts_do_nothing(patchcore, tmp_path, enabled, transform, after):
    found = read_checkpoint(
        rewritten(patchcore, tmp_path / "m.ckpt", anomalib_components_enabled={**COMPONENTS, **enabled})
    )
    assert found.transform == transform
    assert found.postprocessing == after


def test_settings_of_the_post_processor(padim, tmp_path):
    given = {
        "enable_normalization": False,
        "enable_thresholding": False,
        "enable_threshold_matching": False,
        "image_sensitivity": 0.75,
        "pixel_sensitivity": 0.25,
    }
    found = read_checkpoint(rewritten(padim, tmp_path / "m.ckpt", anomalib_post_processor_config=given))
    assert found.postprocessing == Postprocessing(
        normalises=False, thresholds=False, matches=False, image_sensitivity=0.75, pixel_sensitivity=0.25
    )


def test_arguments_of_other_kinds_become_plain_values(tmp_path):
    given = {**PADIM, "layers": ("layer1", np.float64(0.5), torch.tensor([1, 2]), {"a": (1,)})}
    found = read_checkpoint(write_ckpt(tmp_path / "model.ckpt", {}, given))
    assert found.hyper_parameters["layers"] == ["layer1", 0.5, [1, 2], {"a": [1]}]
    assert type(found.hyper_parameters["layers"][1]) is float


def test_numpy_numbers_of_a_scheduler_are_read(padim, tmp_path):
    schedule = [{"schedule": np.linspace(0, 1, 4), "last": np.float64(0.5)}]
    assert read_checkpoint(rewritten(padim, tmp_path / "m.ckpt", lr_schedulers=schedule)).model == "padim"


def test_a_checkpoint_survives_a_run_folder(patchcore):
    first = read_checkpoint(patchcore)
    tensors, facts = first.to_state()
    again = Checkpoint.from_state(tensors, json.loads(json.dumps(facts)))
    assert again.model == first.model
    assert again.hyper_parameters == first.hyper_parameters
    assert again.transform == first.transform
    assert again.postprocessing == first.postprocessing
    assert again.origin == first.origin
    assert set(again.state) == set(first.state)
    assert all(torch.equal(again.state[name], value) for name, value in first.state.items())


# --- files from before 2.7


def test_an_older_file_with_anomalibs_own_parts_needs_no_trust(padim, tmp_path):
    old = rewritten(
        padim,
        tmp_path / "old.ckpt",
        hyper_parameters={**COMPONENTS, **PADIM, "n_features": 20},
        anomalib_components_enabled=None,
        anomalib_pre_processor_config=None,
        anomalib_post_processor_config=None,
    )
    found = read_checkpoint(old)
    assert found.transform == transform_tree((256, 256))
    assert found.postprocessing == Postprocessing()
    assert "pre_processor" not in found.hyper_parameters
    none = {**COMPONENTS, **PADIM, "pre_processor": False, "post_processor": None}
    off = read_checkpoint(rewritten(old, tmp_path / "off.ckpt", hyper_parameters=none))
    assert off.transform is None
    assert off.postprocessing == Postprocessing(normalises=False, thresholds=False)


def test_a_patchcore_of_which_version_is_not_known_says_so(patchcore, padim, tmp_path):
    """anomalib 2.0.0 cropped, and its files look like those of 2.1."""
    old = {"anomalib_components_enabled": None, "anomalib_pre_processor_config": None}
    arguments = {
        **COMPONENTS,
        **{"backbone": "resnet18", "layers": ["layer2", "layer3"], "pre_trained": True},
        **{"coreset_sampling_ratio": 0.25, "num_neighbors": 9},
    }
    found = read_checkpoint(rewritten(patchcore, tmp_path / "a.ckpt", hyper_parameters=arguments, **old))
    assert (found.model, found.transform) == ("patchcore", transform_tree((256, 256)))
    assert found.origin["doubt"] == (
        "written by anomalib 2.0 to 2.6, which do not say how images are prepared: taken is a resize to 256x256 as from "
        "2.1 on; if 2.0 wrote it, a centre crop of 224x224 followed, and its scores and maps differ"
    )
    tensors, facts = found.to_state()
    assert Checkpoint.from_state(tensors, json.loads(json.dumps(facts))).origin == found.origin
    arguments["pre_processor"] = False
    sure = [
        rewritten(patchcore, tmp_path / "b.ckpt", hyper_parameters=arguments, **old),
        rewritten(padim, tmp_path / "c.ckpt", hyper_parameters={**COMPONENTS, **PADIM}, **old),
        patchcore,
    ]
    assert ["doubt" in read_checkpoint(file).origin for file in sure] == [False] * 3


WAY_OUT = (
    "In anomalib, export the model as ONNX, where the transform is inside, or give its pre-processor a transform of "
    "torchvision's Resize, CenterCrop and Normalize and save it again."
)
NO_CONFIG = "it has a pre-processor, but no anomalib_pre_processor_config, which says what that does"
NOT_WRITTEN = "it has a pre-processor whose transform anomalib did not write down: it may be one of one's own"


@pytest.mark.parametrize(
    ("config", "said", "help"),
    [
        (None, NO_CONFIG, WAY_OUT),
        ([], NO_CONFIG, WAY_OUT),
        ({}, NOT_WRITTEN, WAY_OUT),
        ({"transform": None}, NOT_WRITTEN, WAY_OUT),
        ({"transform": ["Resize"]}, "damaged, its pre-processor's transform is list, expected a tree", None),
    ],
)
def test_a_file_that_does_not_say_how_images_are_prepared(patchcore, tmp_path, config, said, help):
    """Since 2.7 it would; nothing is assumed for one that should and does not."""
    path = rewritten(patchcore, tmp_path / "m.ckpt", anomalib_pre_processor_config=config)
    assert refused(path) == (f"{path}: {said}", help)
    off = {**COMPONENTS, "pre_processor": False}
    assert read_checkpoint(rewritten(path, tmp_path / "o.ckpt", anomalib_components_enabled=off)).transform is None


def test_values_of_the_post_processor_that_are_no_numbers(padim, tmp_path):
    with torch.serialization.safe_globals(module._safe()):
        state = torch.load(padim, weights_only=True)["state_dict"]
    two = {"state_dict": {**state, "post_processor.pixel_max": torch.tensor([1.0, 2.0])}}
    word = {"state_dict": {**state, "post_processor.image_min": "low"}}
    cases = [
        ({"anomalib_components_enabled": True}, "damaged, its anomalib_components_enabled is no table"),
        (two, "its post_processor.pixel_max is of (2,), expected one number"),
        (word, "its post_processor.image_min is str, expected one number"),
        *(
            (
                {"anomalib_post_processor_config": {"image_sensitivity": value}},
                f"its image_sensitivity is {said}, expected a number",
            )
            for value, said in (("high", "'high'"), ([0.5], "'[0.5]'"), (True, "'True'"), (float("nan"), "'nan'"))
        ),
    ]
    for changes, said in cases:
        path = rewritten(padim, tmp_path / "m.ckpt", **changes)
        assert refused(path)[0] == f"{path}: {said}"
    assert len(cases) == 7


def test_the_usual_transform_is_that_of_the_installed_classes(anomalib):
    with quietly():
        from anomalib.models import Padim, Patchcore
        from anomalib.pre_processing.utils.spec import transform_to_spec

        found = {
            c.__name__.lower(): transform_to_spec(c.configure_pre_processor().transform) for c in (Padim, Patchcore)
        }
    assert found == module._USUAL


def test_only_anomalib_knows_what_other_classes_do_to_images(anomalib, tmp_path, monkeypatch):
    given = {"lr": 1e-4, "layers": [7, 11], "topk_ratio": 0.001} | {
        f"blur_{name}": 3 for name in ("w_l", "w_u", "pad_l", "pad_u", "repeats_l", "repeats_u")
    }
    path = write_ckpt(tmp_path / "a.ckpt", {}, {**COMPONENTS, **given})
    old = rewritten(path, tmp_path / "old.ckpt", anomalib_components_enabled=None, anomalib_pre_processor_config=None)
    with quietly():
        found = read_checkpoint(old)
    assert found.model == "l2bt"
    steps = [step["class_path"].rpartition(".")[2] for step in found.transform["init_args"]["transforms"]]
    assert steps == ["SquarePad", "Resize", "Normalize"]
    monkeypatch.setitem(sys.modules, "anomalib", None)
    with pytest.raises(
        BackendMissing,
        match=r"^.*old\.ckpt needs anomalib, which is not installed\. Install it with: pip install 'uadctl\[anomalib\]'$",
    ):
        read_checkpoint(old)


@pytest.fixture
def live(anomalib, padim, tmp_path) -> Path:
    """A checkpoint as anomalib 2.6 wrote it for a model with a pre-processor of one's own: it contains objects."""
    with quietly():
        from anomalib.post_processing import PostProcessor
        from anomalib.pre_processing import PreProcessor
        from torchvision.transforms import v2

        before = PreProcessor(transform=v2.Compose([v2.Resize((48, 40)), v2.CenterCrop((32, 32))]))
        given = {**COMPONENTS, **PADIM, "n_features": 20, "pre_processor": before}
        return rewritten(
            padim,
            tmp_path / "live.ckpt",
            hyper_parameters={**given, "post_processor": PostProcessor(image_sensitivity=0.75)},
            anomalib_components_enabled=None,
            anomalib_pre_processor_config=None,
            anomalib_post_processor_config=None,
        )


def test_an_older_file_with_objects_must_be_trusted(live):
    with pytest.raises(WeightsError) as error:
        read_checkpoint(live)
    assert error.value.message.startswith(
        f"{live}: loading this file would run code that lies in it: it is a pickle of "
    )
    assert "anomalib.metrics." in error.value.message
    assert error.value.help == (
        "If you trust whoever made it: --trust-checkpoint (in Python trust_checkpoint=True).\n"
        "Checkpoints (.ckpt) of anomalib 2.7 and later are read without running code."
    )
    found = read_checkpoint(live, trusted=True)
    assert found.model == "padim"
    assert [s["init_args"]["size"] for s in found.transform["init_args"]["transforms"]] == [[48, 40], [32, 32]]
    assert found.postprocessing == Postprocessing(image_sensitivity=0.75)
    assert set(found.hyper_parameters) == set(PADIM)


def test_without_anomalib_trust_is_not_enough(live, monkeypatch):
    monkeypatch.setitem(sys.modules, "anomalib", None)
    with pytest.raises(BackendMissing) as error:
        read_checkpoint(live, trusted=True)
    assert error.value.message == (
        f"{live} needs anomalib, which is not installed. Install it with: pip install 'uadctl[anomalib]'"
    )


def test_an_exported_model_must_be_trusted(anomalib, tmp_path):
    trained = train_with_anomalib("Padim", tmp_path, params={"pre_trained": False, "n_features": 8}, good=4, bad=2)
    with pytest.raises(
        WeightsError, match=r"model\.pt: loading this file would run code that lies in it: .* and \d+ more$"
    ):
        read_checkpoint(trained.pt)
    with quietly():
        found = read_checkpoint(trained.pt, trusted=True)
    from_ckpt = read_checkpoint(trained.ckpt)
    assert found.origin["format"] == "torch"
    assert found.model == "padim"
    assert found.transform == from_ckpt.transform
    assert found.postprocessing == from_ckpt.postprocessing
    assert set(from_ckpt.state) == set(found.state)
    assert all(torch.equal(value, found.state[name]) for name, value in from_ckpt.state.items())


# --- code in files


class Runs:
    """Pickled, it is a call that leaves a folder behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def evil(tmp_path: Path, **more) -> tuple[Path, Path]:
    """A file that makes a folder when it is unpickled, and that folder."""
    trace = tmp_path / "trace"
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": dict(COMPONENTS), "x": Runs(trace), **more}, path)
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would
    trace.rmdir()
    return path, trace


@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_a_stranger_does_not_run_even_if_trusted(tmp_path, trusted):
    path, trace = evil(tmp_path)
    message, _ = refused(path, trusted=trusted)
    assert message.startswith(f"{path}: no checkpoint of anomalib 2: it contains {os.mkdir.__module__}.mkdir")
    assert not trace.exists()


def test_code_in_a_file_of_anomalib_does_not_run(tmp_path, monkeypatch):
    stand_in = types.ModuleType("anomalib")

    class Model:
        pass

    Model.__module__, Model.__qualname__ = "anomalib", "Model"
    stand_in.Model = Model
    monkeypatch.setitem(sys.modules, "anomalib", stand_in)
    path, trace = evil(tmp_path, model=Model())
    with pytest.raises(WeightsError) as error:
        read_checkpoint(path)
    assert error.value.message.startswith(
        f"{path}: loading this file would run code that lies in it: it is a pickle of anomalib.Model, {os.mkdir.__module__}.mkdir"
    )
    assert not trace.exists()


def test_long_and_unprintable_names_do_not_reach_the_terminal(tmp_path, padim):
    path = tmp_path / "names.ckpt"
    with zipfile.ZipFile(padim) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("data.pkl"):
                data = b"\x80\x02canomalib\n\x1b[2J" + b"x" * 5000 + b"\n)R."
            new.writestr(info.filename, data)
    with pytest.raises(WeightsError) as error:
        read_checkpoint(path)
    assert "\x1b" not in error.value.message
    assert len(error.value.message) < 400


def test_the_enumerations_of_the_installed_anomalib_are_known(anomalib):
    with quietly():
        from anomalib.models import image as package
        from anomalib.models.components.base import AnomalibModule
        from anomalib.utils.serialization import ANOMALIB_SAFE_GLOBALS

        classes = [c for _, c in inspect.getmembers(package, inspect.isclass) if issubclass(c, AnomalibModule)]
        named = [
            *ANOMALIB_SAFE_GLOBALS,
            *(g for c in classes if c.__name__ != "VlmAd" for g in c.checkpoint_safe_globals()),
        ]
    assert len(classes) >= 33
    assert sorted({f"{g.__module__}.{g.__qualname__}" for g in named}) == sorted(module._ENUMERATIONS)


# --- what is no checkpoint


def test_what_is_no_file_of_torch_is_refused(tmp_path, patchcore):
    text, empty, half, plain = (tmp_path / f"{name}.ckpt" for name in ("text", "empty", "half", "plain"))
    text.write_text("not a model", encoding="utf-8")
    empty.touch()
    content = patchcore.read_bytes()
    half.write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("a", "b")
    legacy = tmp_path / "legacy.ckpt"
    torch.save({"state_dict": {}}, legacy, _use_new_zipfile_serialization=False)
    foreign = "no checkpoint of anomalib 2: it is no archive as torch writes it, or not all of one"
    assert refused(tmp_path / "absent.ckpt") == (f"{tmp_path / 'absent.ckpt'}: no such file", WHERE)
    assert refused(tmp_path) == (f"{tmp_path}: a folder, expected a file that anomalib wrote", WHERE)
    assert refused(empty) == (f"{empty}: the file is empty", WHERE)
    assert refused(text) == (f"{text}: {foreign}", WHERE)
    assert refused(half) == (f"{half}: {foreign}", WHERE)
    assert refused(legacy) == (f"{legacy}: {foreign}", WHERE)
    message, _ = refused(plain)
    assert message.startswith(f"{plain}: no checkpoint of anomalib 2: torch cannot read it (RuntimeError: ")


def test_a_damaged_archive_is_refused(tmp_path, padim):
    path = tmp_path / "damaged.ckpt"
    with zipfile.ZipFile(padim) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            if not info.filename.endswith("/data/3"):
                new.writestr(info.filename, old.read(info))
    message, next_step = refused(path)
    assert message.startswith(f"{path}: damaged, torch cannot load it (")
    assert next_step == WHERE


def saved(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def test_other_checkpoints_are_refused(tmp_path):
    lightning = {"state_dict": {}, "pytorch-lightning_version": "2.6.1"}
    foreign = "no checkpoint of anomalib 2: "
    for number, (content, said) in enumerate(
        (
            ({"weight": torch.zeros(3)}, f"{foreign}it has no state_dict, which Lightning's have"),
            ([torch.zeros(3)], f"{foreign}it contains list"),
            (torch.zeros(3), f"{foreign}it contains Tensor"),
            (lightning, f"{foreign}it is Lightning's, but of a model that is not anomalib's"),
            (
                {**lightning, "hyper_parameters": dict(PADIM)},
                f"{foreign}it is Lightning's, but of a model that is not anomalib's",
            ),
            (
                {**lightning, "hyper_parameters": {**COMPONENTS, "mine": 1, "yours": 2}},
                "no model of anomalib that uadctl knows has its arguments: mine, yours",
            ),
        )
    ):
        path = saved(tmp_path / f"{number}.ckpt", content)
        assert refused(path)[0] == f"{path}: {said}"


def test_an_argument_that_is_an_object_is_refused(tmp_path):
    path = write_ckpt(tmp_path / "model.ckpt", {}, {**PADIM, "backbone": {1, 2}})
    assert refused(path)[0] == f"{path}: its backbone is an object of builtins.set, not a plain value"


# --- which model it is


def test_no_two_models_have_the_same_arguments_and_each_is_known_by_its_own():
    known = {m.name: {p.name: None for p in m.parameters} for m in anomalib_models() if m.offered}
    assert len(known) >= 31
    for name, arguments in known.items():
        assert identify(arguments) == name
        assert identify({k: v for k, v in arguments.items() if k not in COMPONENTS}) == name


# Arguments of anomalib 2.0 to 2.5 that are not those of 2.7: added since, renamed since.
OLDER = {
    "draem": (["dtd_dir"], ["anomaly_source_path"]),
    "patchcore": (["precision"], []),
    "supersimplenet": (["adapt_cls_features"], []),
    "dinomaly": (["precision", "use_context_recentering"], []),
    "inp_former": (["precision"], []),
}


@pytest.mark.parametrize("name", OLDER)
def test_arguments_of_older_versions_are_known(name):
    gone, came = OLDER[name]
    now = {p.name for model in anomalib_models() if model.name == name for p in model.parameters}
    assert set(gone) <= now
    assert identify(dict.fromkeys([*(now - set(gone)), *came])) == name


def test_a_stranger_is_not_identified():
    assert identify({}) is None
    assert identify({"hidden": 1, "depth": 2}) is None
    assert identify({"backbone": "x", "hidden": 2, "depth": 3}) is None


# --- opening


def test_a_checkpoint_of_another_model_than_wanted_is_an_error(patchcore):
    with pytest.raises(SpecError) as error:
        open_file(patchcore, model="padim", trusted=False, device="cpu")
    assert error.value.message == (
        f"{patchcore}: a checkpoint of anomalib's patchcore, and vision_padim_anomalib wants one of padim"
    )
    assert error.value.help == "Use the model vision_patchcore_anomalib, or vision_anomalib_checkpoint."
    assert open_file(patchcore, model="patchcore", trusted=False, device="cpu").model == "patchcore"


def test_a_model_that_is_not_offered_is_an_error_in_a_trusted_file_too(tmp_path, monkeypatch):
    path = write_patchcore_ckpt(tmp_path / "m.ckpt")
    video = dataclasses.replace(read_checkpoint(path), model="ai_vad")
    monkeypatch.setattr(opening, "read_checkpoint", lambda path, *, trusted: video)
    with pytest.raises(SpecError) as error:
        open_file(path, model=None, trusted=True, device="cpu")
    reason = anomalib_model("ai_vad").reason
    assert error.value.message == f"{path}: a checkpoint of anomalib's ai_vad, which is not offered: {reason}"


def test_errors_of_what_is_inside_name_the_file(tmp_path):
    grey = {"class_path": "torchvision.transforms.v2.Grayscale", "init_args": {"num_output_channels": 3}}
    path = write_patchcore_ckpt(tmp_path / "grey.ckpt", transform=grey)
    with pytest.raises(DataError) as error:
        open_file(path, model=None, trusted=False, device="cpu")
    assert error.value.message.startswith(
        f"{path}: the checkpoint's pre-processor has torchvision.transforms.v2.Grayscale"
    )


def test_the_made_kernel_is_anomalibs(anomalib):
    with quietly():
        from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

    torch.testing.assert_close(blur_kernel(), AnomalyMapGenerator().blur.kernel, rtol=1e-5, atol=1e-9)
