"""anomalib's own classes filled from checkpoints: its predictions exactly, and nothing fetched for them."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import sys
import threading
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from uadctl.errors import BackendMissing, DataError, WeightsError
from uadctl.models.anomalib.checkpoint import Checkpoint
from uadctl.models.anomalib.module import checkpoint_of, class_of, open_module
from uadctl.models.anomalib.offline import without_downloads
from uadctl.models.anomalib.preprocessing import Postprocessing
from uadctl.spec.wrapped import anomalib_model, anomalib_models

pytest.importorskip("anomalib", reason="anomalib is not installed: pip install 'uadctl[anomalib]'")

# What is trained here, with the arguments that make it small.
TRAINED: dict[str, dict[str, Any]] = {
    "patchcore": {"backbone": "resnet18", "layers": ["layer2"], "pre_trained": False, "coreset_sampling_ratio": 0.2},
    "padim": {"backbone": "resnet18", "layers": ["layer1"], "n_features": 8, "pre_trained": False},
    "reverse_distillation": {"backbone": "resnet18", "layers": ["layer1", "layer2", "layer3"], "pre_trained": False},
    "fastflow": {"backbone": "resnet18", "flow_steps": 2, "pre_trained": False},
    "ganomaly": {"batch_size": 4, "n_features": 8, "latent_vec_size": 8},
}
NO_MAP = ("dfkde", "ganomaly")


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("somebody wants to use the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def small_pre_processor() -> Any:
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    return PreProcessor(Compose([Resize((64, 64)), Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]))


def images_in(folder: Path) -> list[np.ndarray]:
    return [cv2.imread(str(p))[..., ::-1] for p in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder, number, size in (("good", 8, (64, 64)), ("bad", 3, (64, 64)), ("wide", 3, (60, 90))):
        (root / folder).mkdir()
        for n in range(number):
            cv2.imwrite(str(root / folder / f"{n}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> dict[str, tuple[Any, Path, list[tuple[float, np.ndarray | None]]]]:
    """Of each model: anomalib's module, its .ckpt, and what its Engine predicts for bad/ and wide/, not normalised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from anomalib.data import Folder, PredictDataset
        from anomalib.engine import Engine

        out = {}
        for name, given in TRAINED.items():
            torch.manual_seed(0)
            module = class_of(anomalib_model(name))(
                pre_processor=small_pre_processor(), visualizer=False, evaluator=False, **given
            )
            engine = Engine(
                default_root_dir=tmp_path_factory.mktemp(name),
                logger=False,
                accelerator="cpu",
                max_epochs=1,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            engine.fit(
                module,
                datamodule=Folder(
                    name="x",
                    root=data,
                    normal_dir="good",
                    abnormal_dir="bad",
                    train_batch_size=4,
                    eval_batch_size=4,
                    num_workers=0,
                ),
            )
            file = Path(engine.trainer.checkpoint_callback.best_model_path)
            module.post_processor.enable_normalization = False
            batches = [
                b for d in ("bad", "wide") for b in engine.predict(model=module, dataset=PredictDataset(data / d))
            ]
            module.post_processor.enable_normalization = True
            found = []
            for batch in batches:
                assert len(batch.image_path) == 1
                found.append(
                    (
                        float(batch.pred_score),
                        None if batch.anomaly_map is None else batch.anomaly_map.squeeze().numpy(),
                    )
                )
            assert len(found) == 6
            out[name] = (module, file, found)
    return out


def from_ckpt(file: Path, name: str) -> Checkpoint:
    """The parts of a .ckpt, as they stand in it."""
    import torch
    from anomalib.utils.serialization import anomalib_safe_globals

    with anomalib_safe_globals(class_of(anomalib_model(name)).checkpoint_safe_globals()):
        content = torch.load(file, map_location="cpu", weights_only=True)
    tree = content["anomalib_pre_processor_config"]["transform"]
    plain = {k: getattr(v, "value", v) for k, v in content["hyper_parameters"].items()}
    return Checkpoint(
        model=name,
        state=content["state_dict"],
        hyper_parameters=json.loads(json.dumps(plain)),
        transform=tree,
        postprocessing=Postprocessing(),
    )


# -- predictions


@pytest.mark.parametrize("name", TRAINED)
def test_predictions_of_a_checkpoint_are_those_of_the_engine(name, trained, data, no_network):
    module, file, expected = trained[name]
    images = images_in(data / "bad") + images_in(data / "wide")
    for checkpoint in (checkpoint_of(module), from_ckpt(file, name)):
        predictor = open_module(checkpoint, device="cpu")
        ours = predictor.predict(images, inference="training")
        assert len(ours) == len(expected) == 6
        for raw, (score, field) in zip(ours, expected, strict=True):
            assert raw.score == pytest.approx(score, rel=1e-5, abs=1e-5)
            if field is None:
                assert raw.map is None
            else:
                assert raw.map.shape == (64, 64)
                assert raw.map.dtype == np.float32
                np.testing.assert_allclose(raw.map, field, rtol=1e-4, atol=1e-4)
        assert len({raw.score for raw in ours}) == 6
    assert (name in NO_MAP) is (expected[0][1] is None)


@pytest.mark.parametrize("name", TRAINED)
def test_an_unpickled_pt_predicts_as_torch_inferencer_does(name, trained, data, tmp_path, no_network):
    import torch

    file = trained[name][0].to_torch(tmp_path)
    live = torch.load(file, weights_only=False)["model"].eval()
    predictor = open_module(checkpoint_of(live), device="cpu")
    for image in images_in(data / "wide"):
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            said = live.model(live.pre_processor.export_transform(x))
        (ours,) = predictor.predict([image], inference="exported")
        (other,) = predictor.predict([image], inference="training")
        assert ours.score == pytest.approx(float(said.pred_score), rel=1e-5, abs=1e-5)
        assert ours.score != other.score
        if said.anomaly_map is not None:
            np.testing.assert_allclose(ours.map, said.anomaly_map.squeeze().numpy(), rtol=1e-4, atol=1e-4)


def test_images_of_several_sizes_come_back_in_their_order(trained, data):
    predictor = open_module(checkpoint_of(trained["fastflow"][0]), device="cpu")
    a, b = images_in(data / "bad"), images_in(data / "wide")
    mixed = [a[0], b[0], a[1], b[1]]
    alone = [predictor.predict([image], inference="training")[0].score for image in mixed]
    together = [raw.score for raw in predictor.predict(mixed, inference="training")]
    assert together == pytest.approx(alone, abs=1e-5)
    assert predictor.predict([], inference="training") == []


def test_without_a_score_it_is_the_maximum_of_the_map(trained, data, monkeypatch):
    from anomalib.data import InferenceBatch

    predictor = open_module(checkpoint_of(trained["padim"][0]), device="cpu")
    network = predictor._network
    monkeypatch.setattr(predictor, "_network", lambda x: InferenceBatch(anomaly_map=network(x).anomaly_map))
    for raw in predictor.predict(images_in(data / "bad"), inference="training"):
        assert raw.score == float(raw.map.max())


def test_a_kept_model_is_the_same_model(trained, data):
    first = open_module(checkpoint_of(trained["fastflow"][0], origin={"file": "m.ckpt"}), device="cpu")
    tensors, facts = first.state()
    again = open_module(Checkpoint.from_state(tensors, json.loads(json.dumps(facts))), device="cpu")
    images = images_in(data / "bad")
    assert first.predict(images, inference="training")[0].score == again.predict(images, inference="training")[0].score
    assert (again.model, again.is_raw, again.inferences) == ("fastflow", True, ("training", "exported"))
    assert again.facts() == {
        "computed_by": "anomalib " + sys.modules["anomalib"].__version__,
        "device": "cpu",
        "origin": {"file": "m.ckpt"},
    }


# -- a live module as data


def test_a_module_as_data(trained):
    module = trained["reverse_distillation"][0]
    found = checkpoint_of(module, origin={"format": "torch"})
    assert found.model == "reverse_distillation"
    assert found.hyper_parameters == {
        "backbone": "resnet18",
        "layers": ["layer1", "layer2", "layer3"],
        "anomaly_map_mode": "add",
        "pre_trained": False,
    }
    assert json.loads(json.dumps(found.hyper_parameters)) == found.hyper_parameters
    assert found.origin == {"format": "torch"}
    assert [s["class_path"].rpartition(".")[2] for s in found.transform["init_args"]["transforms"]] == [
        "Resize",
        "Normalize",
    ]
    assert len(found.state) > 50
    assert all(key.startswith(("model.", "loss.")) for key in found.state)
    after = module.post_processor
    assert found.postprocessing.image_threshold == float(after._image_threshold)
    assert (found.postprocessing.image_min, found.postprocessing.pixel_max) == (
        float(after.image_min),
        float(after.pixel_max),
    )
    assert found.postprocessing.pixel_threshold is None  # no masks, so it is not a number in anomalib
    assert (found.postprocessing.normalises, found.postprocessing.thresholds) == (True, True)


def small_padim(**given: Any) -> Any:
    made = class_of(anomalib_model("padim"))
    return made(**{**TRAINED["padim"], "visualizer": False, "evaluator": False, **given})


def test_components_that_are_not_the_plain_ones():
    import torch
    from anomalib.post_processing import MEBinPostProcessor

    made = checkpoint_of(small_padim(post_processor=MEBinPostProcessor(image_sensitivity=0.25)))
    assert made.origin == {"post_processor": "anomalib.post_processing.mebin_post_processor.MEBinPostProcessor"}
    assert made.postprocessing == Postprocessing(image_sensitivity=0.25)
    without = checkpoint_of(small_padim(post_processor=False, pre_processor=False))
    assert (without.transform, without.origin) == (None, {})
    assert without.postprocessing == Postprocessing(normalises=False, thresholds=False)
    with pytest.raises(DataError) as error:
        checkpoint_of(small_padim(pre_processor=torch.nn.Identity()))
    assert (
        error.value.message
        == "the model's pre-processor is torch.nn.modules.linear.Identity, whose transforms uadctl cannot see"
    )


def test_what_cannot_be_written_down():
    import torch
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import RandomHorizontalFlip

    module = small_padim()
    module.hparams["backbone"] = torch.nn.Identity()
    with pytest.raises(DataError) as error:
        checkpoint_of(module)
    assert (
        error.value.message
        == "Padim's backbone is torch.nn.modules.linear.Identity, which cannot be written down: only plain values can"
    )
    with pytest.raises(DataError, match="^the model's pre-processor cannot be written down: "):
        checkpoint_of(small_padim(pre_processor=PreProcessor(RandomHorizontalFlip())))
    with pytest.raises(DataError) as error:
        checkpoint_of(torch.nn.Linear(1, 1))
    assert error.value.message == "torch.nn.modules.linear.Linear is no model of anomalib's that uadctl knows"


# -- checkpoints that do not fit


def changed(checkpoint: Checkpoint, **new: Any) -> Checkpoint:
    return Checkpoint(**{**{f: getattr(checkpoint, f) for f in checkpoint.__dataclass_fields__}, **new})


def test_tensors_that_do_not_fit(trained):
    good = checkpoint_of(trained["fastflow"][0])
    key = next(iter(good.state))
    for state, said in (
        ({k: v for k, v in good.state.items() if k != key}, f'Missing key(s) in state_dict: "{key}".'),
        ({**good.state, "model.more": good.state[key]}, 'Unexpected key(s) in state_dict: "model.more".'),
    ):
        with pytest.raises(DataError) as error:
            open_module(changed(good, state=state), device="cpu")
        assert (
            error.value.message
            == f"the checkpoint's tensors do not fit anomalib's Fastflow as its arguments make it: {said}"
        )
    with pytest.raises(DataError, match="size mismatch for "):
        open_module(changed(good, state={**good.state, key: good.state[key][:1, :1]}), device="cpu")
    extra = {
        **good.state,
        "evaluator.test_metrics.2.fpr_limit": good.state[key],
        "post_processor.image_min": good.state[key],
    }
    assert open_module(changed(good, state=extra), device="cpu").model == "fastflow"


def test_arguments_that_do_not_fit(trained):
    good = checkpoint_of(trained["fastflow"][0])
    with pytest.raises(DataError) as error:
        open_module(changed(good, hyper_parameters={**good.hyper_parameters, "flow": 2, "and": 1}), device="cpu")
    assert (
        error.value.message
        == f"the checkpoint has arguments that Fastflow of anomalib {sys.modules['anomalib'].__version__} does not take: and, flow"
    )
    assert error.value.help == "Install the version of anomalib that wrote it."
    with pytest.raises(
        DataError, match=r"^anomalib cannot build its Fastflow as the checkpoint's arguments say \(\w+: "
    ):
        open_module(changed(good, hyper_parameters={**good.hyper_parameters, "backbone": "resnet0"}), device="cpu")


def test_damage_is_said_when_a_model_is_opened(trained, monkeypatch):
    """Whatever anomalib's class says to arguments and transforms that are none, it is one line."""
    good = checkpoint_of(trained["fastflow"][0])
    wrong: list[dict[str, Any]] = [
        {"flow_steps": "many"},
        {"flow_steps": None},
        {"flow_steps": -1},
        {"backbone": 3},
        {"conv3x3_only": {}, "hidden_ratio": "a\nb"},
    ]
    for arguments in wrong:
        with pytest.raises(DataError) as error:
            open_module(changed(good, hyper_parameters={**good.hyper_parameters, **arguments}), device="cpu")
        assert "\n" not in error.value.message
    efficient = checkpoint_of(untrained("efficient_ad"))
    with pytest.raises(DataError, match=r"^anomalib cannot build its EfficientAd as the checkpoint's arguments say"):
        open_module(changed(efficient, hyper_parameters={"model_size": "enormous"}), device="cpu")
    for failure in (OSError, ImportError, LookupError, AssertionError, ZeroDivisionError):

        def fails(*_: object, failure: type[Exception] = failure, **__: object) -> None:
            raise failure("no\nway")

        with monkeypatch.context() as patched:
            patched.setattr("timm.create_model", fails)
            with pytest.raises(DataError) as error:
                open_module(good, device="cpu")
        assert f"({failure.__name__}: " in error.value.message
        assert "\n" not in error.value.message


def test_building_leaves_no_trace(trained, monkeypatch):
    import torch

    def state() -> tuple[Any, ...]:
        numbers = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one
        return random.getstate(), numbers, torch.get_rng_state().tolist(), dict(os.environ)

    from uadctl.models.anomalib import module

    build = module._built

    def restless(checkpoint: Checkpoint) -> Any:
        os.environ["KMP_NEW"] = "1"
        random.random()
        np.random.random()  # noqa: NPY002
        return build(checkpoint)

    monkeypatch.setattr(module, "_built", restless)
    before = state()
    open_module(checkpoint_of(trained["fastflow"][0]), device="cpu")
    assert state() == before


def test_importing_anomalib_leaves_the_environment_as_it_was():
    import subprocess

    code = (
        "import os\nbefore = dict(os.environ)\n"
        "from uadctl.models.anomalib.module import class_of\n"
        "from uadctl.spec.wrapped import anomalib_model\n"
        "class_of(anomalib_model('patchcore'))\n"
        "print(sorted(n for n in {*before, *os.environ} if before.get(n) != os.environ.get(n)))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_vision_transformers_of_others_are_as_before(data):
    """anomalib stretches position embeddings otherwise, for the whole process, once it has built one of its own."""
    import timm
    import timm.models.vision_transformer as vit
    import torch

    original = vit.resample_abs_pos_embed
    torch.manual_seed(0)
    others = timm.create_model("test_vit", pretrained=False, dynamic_img_size=True).eval()
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        before = others(x)
    model = class_of(anomalib_model("patchcore"))(
        backbone="test_vit", layers=["blocks.0"], pre_trained=False, visualizer=False, evaluator=False
    )
    theirs = vit.resample_abs_pos_embed
    vit.resample_abs_pos_embed = original
    assert theirs is not original
    checkpoint = checkpoint_of(model)
    bank = torch.rand(4, model.model.feature_extractor.out_dims[0])
    checkpoint = changed(checkpoint, state={**checkpoint.state, "model.memory_bank": bank})
    predictor = open_module(checkpoint, device="cpu")
    assert vit.resample_abs_pos_embed is original
    used = []
    network = predictor._network
    predictor._network = lambda x: (used.append(vit.resample_abs_pos_embed), network(x))[1]
    predictor.predict(images_in(data / "bad")[:1], inference="training")
    assert len(used) == 1
    assert used[0] is not original
    pos = torch.rand(1, 17, 8)
    assert torch.equal(used[0](pos, [3, 3]), original(pos, [3, 3], antialias=False))
    assert not torch.equal(used[0](pos, [3, 3]), original(pos, [3, 3]))
    assert vit.resample_abs_pos_embed is original
    with torch.no_grad():
        assert torch.equal(others(x), before)


def test_without_anomalib(trained, monkeypatch):
    good = checkpoint_of(trained["fastflow"][0])
    monkeypatch.setitem(sys.modules, "anomalib", None)
    with pytest.raises(BackendMissing) as error:
        open_module(good, device="cpu")
    assert (
        error.value.message
        == "a checkpoint of anomalib's fastflow needs anomalib, which is not installed. Install it with: pip install 'uadctl[anomalib]'"
    )


# -- nothing is fetched


def names_in_use() -> dict[str, Any]:
    import huggingface_hub
    import timm
    import torch
    from torchvision.models import WeightsEnum

    return {
        "timm": timm.create_model,
        "hub": torch.hub.load_state_dict_from_url,
        "hf": huggingface_hub.hf_hub_download,
        "timm's hf": sys.modules["timm.models._hub"].hf_hub_download,
        "url": urllib.request.urlretrieve,
        "anomalib's url": sys.modules["anomalib.data.utils.download"].urlretrieve,
        "load": torch.nn.Module.load_state_dict,
        "torchvision": WeightsEnum.get_state_dict,
        "vfm": sys.modules["anomalib.models.image.anomalyvfm.torch_model"].load_file,
    }


def test_everything_is_put_back():
    class_of(anomalib_model("stfpm"))
    before = names_in_use()
    with without_downloads():
        inside = names_in_use()
        with without_downloads():
            pass
        assert names_in_use() == inside
    assert names_in_use() == before
    assert [name for name in before if inside[name] is before[name]] == []
    with pytest.raises(ZeroDivisionError), without_downloads():
        _ = 1 / 0
    assert names_in_use() == before


def test_downloads_fail_at_once(no_network):
    class_of(anomalib_model("stfpm"))
    import torch

    hub = sys.modules["timm.models._hub"]
    with without_downloads():
        for fetch, said in (
            (
                lambda: hub.hf_hub_download("timm/resnet18.a1_in1k", filename="model.safetensors"),
                "timm/resnet18.a1_in1k model.safetensors",
            ),
            (lambda: torch.hub.load_state_dict_from_url("https://example.org/a.pth"), "https://example.org/a.pth"),
            (lambda: urllib.request.urlretrieve("https://example.org/b.zip"), "https://example.org/b.zip"),
        ):
            with pytest.raises(WeightsError) as error:
                fetch()
            assert (
                error.value.message
                == f"{said} would be fetched to build the network, and nothing is fetched to read a checkpoint"
            )
            assert error.value.help == "Export the model with anomalib as ONNX or OpenVINO, and give that file."


def test_other_threads_go_on(monkeypatch):
    class_of(anomalib_model("stfpm"))
    import timm

    seen = []
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **_: seen.append((name, pretrained)))
    with without_downloads():
        timm.create_model("here", pretrained=True)
        timm.create_model("here", True)
        other = threading.Thread(target=lambda: timm.create_model("there", pretrained=True))
        other.start()
        other.join()
    assert seen == [("here", False), ("here", False), ("there", True)]


def test_a_logger_is_left_as_it_was():
    pytest.importorskip("open_clip", reason="open_clip is not installed: pip install 'uadctl[clip]'")
    class_of(anomalib_model("winclip"))
    import open_clip

    before = list(logging.getLogger().handlers)
    with without_downloads():
        open_clip.create_model_and_transforms("RN50-quickgelu", pretrained="openai")
    assert logging.getLogger().handlers == before


def untrained(name: str, **given: Any) -> Any:
    """A module as its constructor makes it, but with random weights."""
    import torch

    made = class_of(anomalib_model(name))
    torch.manual_seed(0)
    with without_downloads():
        return made(visualizer=False, evaluator=False, **given)


@pytest.mark.parametrize("name", ["stfpm", "efficient_ad"])
def test_models_that_insist_on_downloads_are_read_without(name, data, no_network, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    module = untrained(name, pre_processor=small_pre_processor() if name == "stfpm" else True).eval()
    predictor = open_module(checkpoint_of(module), device="cpu")
    for image in images_in(data / "bad")[:2]:
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            said = module.model(module.pre_processor.transform(x))
        (ours,) = predictor.predict([image], inference="training")
        assert ours.score == pytest.approx(float(said.pred_score), rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(ours.map, said.anomaly_map.squeeze().numpy(), rtol=1e-4, atol=1e-4)
    assert list(tmp_path.iterdir()) == []


# Too large for a test: these stand-ins take the same way through the class.
SMALLER = {
    "super_add": {"backbone": "vit_small_patch16_dinov3"},
    "general_ad": {"backbone": "vit_small_patch14_dinov2.lvd142m", "layers": [12]},
}


@pytest.mark.slow
@pytest.mark.parametrize("model", [m for m in anomalib_models() if m.offered], ids=lambda m: m.name)
def test_every_offered_class_is_built_without_a_download(model, no_network, tmp_path, monkeypatch):
    if model.name == "winclip":
        pytest.importorskip("open_clip", reason="open_clip is not installed: pip install 'uadctl[clip]'")
    monkeypatch.chdir(tmp_path)
    given = dict(SMALLER.get(model.name, {}))
    if model.name == "draem":
        given["dtd_dir"] = str(tmp_path)
    checkpoint = checkpoint_of(untrained(model.name, **given))
    assert checkpoint.model == model.name
    assert json.loads(json.dumps(checkpoint.hyper_parameters)) == checkpoint.hyper_parameters
    if model.name == "draem":
        checkpoint = changed(checkpoint, hyper_parameters={**checkpoint.hyper_parameters, "dtd_dir": "gone"})
    assert open_module(checkpoint, device="cpu").model == model.name
    assert list(tmp_path.iterdir()) == []


def test_there_are_classes_to_build():
    assert len([m for m in anomalib_models() if m.offered]) >= 31


@pytest.mark.slow
def test_winclip_is_given_its_words(no_network, data):
    pytest.importorskip("open_clip", reason="open_clip is not installed: pip install 'uadctl[clip]'")
    import torch

    module = untrained("winclip", class_name="screw").eval()
    checkpoint = checkpoint_of(module)
    assert not checkpoint.state["model._text_embeddings"].numel()
    module.setup("predict")
    image = images_in(data / "bad")[0]
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    said = module.model(module.pre_processor.transform(x))
    for made in (checkpoint, checkpoint_of(module)):
        (ours,) = open_module(made, device="cpu").predict([image], inference="training")
        assert ours.score == pytest.approx(float(said.pred_score), abs=1e-5)
        np.testing.assert_allclose(ours.map, said.anomaly_map.squeeze().numpy(), atol=1e-4)
