"""Training by anomalib's Engine: the same models as with anomalib alone, and nothing downloaded or left behind."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from uadctl.errors import RunError, SpecError, WeightsError
from uadctl.models.anomalib import offline, pretrained, traces, training
from uadctl.models.anomalib.training import Settings
from uadctl.progress import Silent
from uadctl.spec.signature import checked_trainer
from uadctl.spec.wrapped import anomalib_model, anomalib_models

SIZE = (64, 64)
# Small enough to be trained in a moment: parameters, [model.trainer].
SMALL = {
    "patchcore": ({"backbone": "resnet18", "pre_trained": False, "coreset_sampling_ratio": 0.1}, {}),
    "padim": ({"backbone": "resnet18", "pre_trained": False, "n_features": 20, "layers": ("layer2", "layer3")}, {}),
    "fastflow": ({"backbone": "resnet18", "pre_trained": False, "flow_steps": 2}, {"max_epochs": 2}),
    "reverse_distillation": ({"backbone": "resnet18", "pre_trained": False}, {"max_epochs": 1}),
    "ganomaly": ({"batch_size": 2, "n_features": 8, "latent_vec_size": 8}, {"max_epochs": 2}),
}
LEARNING = ("fastflow", "reverse_distillation", "ganomaly")


def pictures(count, seed=0, size=(72, 80)):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small networks are slower with several
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def anomalib():
    found = pytest.importorskip("anomalib", reason="anomalib is not installed: pip install 'uadctl[anomalib]'")
    traces.import_anomalib()
    return found


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """No network, no caches of this machine, an empty working directory."""

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("UADCTL_WEIGHTS", raising=False)
    monkeypatch.delenv("UADCTL_OFFLINE", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def train(anomalib, tmp_path, monkeypatch):
    """Train a model by name; gives the live module, in place of what `checkpoint_of` makes of it."""
    from uadctl.models.anomalib import module

    monkeypatch.setattr(module, "checkpoint_of", lambda live, *, origin=None: live)

    def run(name, params=None, trainer=None, images=None, *, size=SIZE, **others):
        small = SMALL.get(name, ({}, {}))
        params = {**small[0], **({} if size is None else {"image_size": size}), **(params or {})}
        if name in LEARNING:
            trainer = {"batch_size": 2, **small[1], **(trainer or {})}
        folder = tmp_path / "kept"
        folder.mkdir(exist_ok=True)
        progress = others.get("progress", Silent())
        given = {"folder": folder, "device": "cpu", "seed": 7, "progress": progress, "warn": progress.warn, **others}
        images = pictures(5) if images is None else images
        filled = checked_trainer(f"vision_{name}_anomalib", trainer or {})
        return training.train(anomalib_model(name), params, filled, iter(images), **given)

    return run


class Recorded(Silent):
    """Bars as (title, total, unit), and how far each came."""

    def __init__(self):
        super().__init__()
        self.bars = []
        self.done = []

    def task(self, title, total, *, unit="images"):
        self.bars.append((title, total, unit))
        self.done.append(0)
        number = len(self.done) - 1
        outer = self

        class Bar(contextlib.AbstractContextManager):
            def advance(self, n=1):
                outer.done[number] += n

            def __exit__(self, *exc):
                return None

        return Bar()


# -- the table [model.trainer]


def test_every_trainable_model_takes_the_filled_table():
    checked = 0
    for model in anomalib_models():
        if model.trainable:
            filled = checked_trainer(f"vision_{model.name}_anomalib", {} if model.one_pass else {"max_epochs": 1})
            settings = Settings(**filled)
            assert (settings.batch_size, settings.workers) == (model.batch_size or 32, 0)
            assert checked_trainer(f"vision_{model.name}_anomalib", filled) == filled
            checked += 1
    assert checked >= 25


# -- a disk that is full


@pytest.mark.parametrize("when", ["images", "checkpoint"])
def test_a_full_disk_is_said_with_the_folder(when, train, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "kept"
    if when == "images":
        monkeypatch.setattr(np, "save", full)
        folder /= "training/train"
    else:
        import lightning.pytorch

        monkeypatch.setattr(lightning.pytorch.Trainer, "save_checkpoint", full)
    with pytest.raises(RunError) as caught:
        train("padim")
    assert caught.value.message == f"{folder}: cannot be written: No space left on device"
    assert caught.value.help == (
        "Training keeps its images there, as they are in memory. For another place: TMPDIR=DIR"
    )
    assert list((tmp_path / "kept").iterdir()) == []


# -- the same as anomalib alone


def by_anomalib(name, images, tmp_path, *, validation=(), epochs=None):
    """What anomalib's own API makes of the same images as PNG files, with seed 7."""
    import anomalib.models
    import cv2
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from lightning.pytorch import seed_everything

    for folder, given in (("good", images), ("held", validation)):
        for number, image in enumerate(given):
            (tmp_path / "png" / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "png" / folder / f"{number:03d}.png"), image[..., ::-1])
    held = {"normal_test_dir": "held", "test_split_mode": "from_dir", "val_split_mode": "same_as_test"}
    none = {"test_split_mode": "none", "val_split_mode": "none"}
    with traces.as_it_was():
        data = Folder(
            "parts",
            normal_dir="good",
            root=tmp_path / "png",
            train_batch_size=2 if epochs else 32,
            eval_batch_size=2,
            num_workers=0,
            **(held if validation else none),
        )
        seed_everything(7, verbose=False)
        cls = getattr(anomalib.models, anomalib_model(name).class_name)
        model = cls(
            **SMALL[name][0], pre_processor=cls.configure_pre_processor(SIZE), evaluator=False, visualizer=False
        )
        engine = Engine(
            default_root_dir=tmp_path / "engine",
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            **({"max_epochs": epochs} if epochs else {}),
            **({} if validation else {"limit_val_batches": 0}),
        )
        engine.fit(model, datamodule=data)
    return model


def equal_states(one, other):
    import torch

    assert one.keys() == other.keys()
    assert len(one) > 10
    for key, value in one.items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(other[key])), key


def scores(module, images):
    import torch

    module.eval()
    with torch.no_grad():
        batch = torch.stack([torch.from_numpy(i.copy()).permute(2, 0, 1) / 255 for i in images])
        return module.model(module.pre_processor.transform(batch)).pred_score.flatten().numpy()


@pytest.mark.parametrize("name", SMALL)
def test_training_here_and_with_anomalib_gives_the_same_model(name, train, tmp_path):
    images = [*pictures(3), *pictures(2, size=(90, 70))]
    ours = train(name, images=images)
    theirs = by_anomalib(name, images, tmp_path, epochs=SMALL[name][1].get("max_epochs"))
    equal_states(ours.state_dict(), theirs.state_dict())
    np.testing.assert_array_equal(scores(ours, pictures(3, seed=1)), scores(theirs, pictures(3, seed=1)))


def test_with_validation_too_and_thresholds_are_its_largest_scores(train, tmp_path):
    images, held = pictures(5), pictures(3, seed=2)
    ours = train("fastflow", images=images, validation=iter(held))
    theirs = by_anomalib("fastflow", images, tmp_path, validation=held, epochs=2)
    equal_states(ours.state_dict(), theirs.state_dict())
    after = ours.state_dict()
    assert after["post_processor._image_threshold"] == after["post_processor.image_max"]
    assert after["post_processor.image_max"] == pytest.approx(scores(ours, held).max(), abs=1e-6)


def test_another_seed_gives_another_model(train):
    import torch

    one, same, other = (train("fastflow", seed=seed).state_dict() for seed in (1, 1, 2))
    equal_states(one, same)
    assert any(not torch.equal(torch.nan_to_num(one[k]), torch.nan_to_num(other[k])) for k in one)


def test_images_may_differ_in_size(train):
    images = [*pictures(2, size=(70, 90)), *pictures(2, size=(130, 64))]
    assert int(train("patchcore", images=images).model.memory_bank.shape[0]) == 25  # a tenth of 4 images of 8x8


# -- what is kept, and what is not


def test_the_checkpoint_is_one_of_anomalib_without_optimizers(train, tmp_path):
    import torch

    ours = train("ganomaly")
    assert sorted(p.name for p in (tmp_path / "kept").rglob("*")) == ["model.ckpt"]
    assert list((tmp_path / "here").iterdir()) == []
    file = torch.load(tmp_path / "kept" / "model.ckpt", weights_only=True)
    assert "optimizer_states" not in file
    assert file["hyper_parameters"]["latent_vec_size"] == 8
    cls = type(ours)
    loaded = cls.load_from_checkpoint(tmp_path / "kept" / "model.ckpt", pre_processor=cls.configure_pre_processor(SIZE))
    equal_states(ours.state_dict(), loaded.state_dict())


def test_nothing_is_said_and_nothing_of_the_process_changes(train, capfd, monkeypatch):
    import torch

    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global state is what is looked at
    torch.manual_seed(5)

    def state():
        return {
            "random": random.getstate(),
            "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002
            "torch": torch.get_rng_state().tolist(),
            "environment": dict(os.environ),
            "signals": {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)},
            "levels": {n: logging.getLogger(n).level for n in ("anomalib", "lightning", "lightning.pytorch", "torch")},
            "disabled": logging.root.manager.disable,
            "warnings": list(warnings.filters),
            "grad": torch.is_grad_enabled(),
            "threads": torch.get_num_threads(),
            "cudnn": torch.backends.cudnn.benchmark,
        }

    with torch.inference_mode():
        before = state()
        train("fastflow", trainer={"max_epochs": 1}, validation=iter(pictures(2)))
        after = state()
    assert {key: after[key] == before[key] for key in before} == dict.fromkeys(before, True)
    assert capfd.readouterr() == ("", "")


def test_what_is_changed_in_between_is_put_back(anomalib, monkeypatch):
    """Also where Lightning did not come to it."""
    import torch

    monkeypatch.setenv("PL_SEED_WORKERS", "7")
    level, handler, filters = logging.getLogger("timm").level, signal.getsignal(signal.SIGINT), list(warnings.filters)
    benchmark = torch.backends.cudnn.benchmark
    with contextlib.suppress(KeyboardInterrupt), traces.as_it_was():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ["PL_SEED_WORKERS"] = "0"
        os.environ["PL_NEW"] = "1"
        torch.backends.cudnn.benchmark = not benchmark
        assert not logging.getLogger("timm.models._builder").isEnabledFor(logging.CRITICAL)
        raise KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) is handler
    assert (os.environ["PL_SEED_WORKERS"], "PL_NEW" in os.environ) == ("7", False)
    assert (logging.getLogger("timm").level, list(warnings.filters)) == (level, filters)
    assert torch.backends.cudnn.benchmark == benchmark


def test_scratch_files_are_removed_where_training_fails(train, tmp_path):
    with pytest.raises(RunError) as caught:
        train("cflow", {"backbone": "resnet18", "pre_trained": False}, {"max_epochs": 1}, pictures(1))
    assert caught.value.message == (
        "vision_cflow_anomalib: training by anomalib failed: ValueError: Make sure we have enough fibers, otherwise "
        "decrease N or batch-size!"
    )
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_failure_of_anomalib_is_one_line(train, monkeypatch):
    import anomalib.models

    def fail(self, *args):
        raise IndexError("out of something")

    monkeypatch.setattr(anomalib.models.Fastflow, "training_step", fail)
    with pytest.raises(RunError) as caught:
        train("fastflow")
    assert caught.value.message == (
        "vision_fastflow_anomalib: training by anomalib failed: IndexError: out of something"
    )


def test_no_images_no_model(train):
    with pytest.raises(ValueError, match=r"^Fastflow needs at least one image, found none$"):
        train("fastflow", images=[])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_anomalib_does_not_take(seed, train):
    with pytest.raises(SpecError) as caught:
        train("fastflow", seed=seed)
    assert caught.value.message == f"seed (={seed}) must lie in 0..4294967295: anomalib takes no other"


def test_parameters_are_wrong_before_anything_is_trained(anomalib):
    model = anomalib_model("fastflow")
    with pytest.raises(SpecError) as caught:
        training.prepare_training(model, {"backbone": "vgg99", "pre_trained": False})
    assert caught.value.message.startswith(
        "vision_fastflow_anomalib: anomalib's Fastflow does not take these parameters: "
    )
    with pytest.raises(SpecError) as caught:
        training.prepare_training(anomalib_model("uflow"), {"image_size": (64, 64)})
    assert caught.value.message == (
        "vision_uflow_anomalib: image_size (=[64, 64]) must not be given: images are always brought to [448, 448]"
    )
    with pytest.raises(SpecError) as caught:
        training.prepare_training(anomalib_model("dinomaly"), {"image_size": (64, 64)})
    assert caught.value.message == (
        "vision_dinomaly_anomalib: anomalib's Dinomaly does not take these parameters: "
        "Crop size 392 cannot be larger than image size (64, 64)"
    )
    with pytest.raises(SpecError) as caught:
        training.prepare_training(anomalib_model("rad"), {"image_size": (512, 64)})
    assert caught.value.message == (
        "vision_rad_anomalib: image_size (=[512, 64]) must be at least [448, 448], which the model crops from it"
    )


def test_images_travel_to_worker_processes(tmp_path, anomalib):
    files = training._written(iter(pictures(2)), tmp_path / "images")
    item = pickle.loads(pickle.dumps(training._Images(files)))[1]
    np.testing.assert_allclose(item.image.numpy(), pictures(2)[1].transpose(2, 0, 1) / 255, rtol=0, atol=1e-7)
    assert (int(item.gt_label), item.gt_mask) == (0, None)


# -- while it goes on


class _Trainer:
    """As much of Lightning's as a data module looks at."""

    def __init__(self, transform):
        self.model = SimpleNamespace(pre_processor=SimpleNamespace(transform=transform))


@pytest.mark.parametrize("held", [0, 1])
def test_what_is_padded_when_it_is_scored_is_padded_when_it_is_learned(anomalib, tmp_path, held):
    """anomalib's own data modules would resize a (20, 40) image to (16, 16) as it is."""
    import torch
    from anomalib.data.transforms import SquarePad
    from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

    from uadctl.models.anomalib.preprocessing import Preprocessing

    norm = Normalize(mean=[0.5] * 3, std=[0.5] * 3)
    files = training._written(pictures(1 + held, size=(20, 40)), tmp_path / "images")
    step = "torchvision.transforms.v2."
    cases = [
        (Compose([SquarePad(), Resize((16, 16)), norm]), True),
        (Compose([Compose([SquarePad()]), Resize((16, 16)), norm]), True),
        (Compose([Resize((16, 16)), norm]), False),
        (Compose([CenterCrop((16, 16)), norm]), False),
    ]
    for transform, square in cases:
        data = training._data(files[:1], files[1:], training.Settings(batch_size=1))
        data.trainer = _Trainer(transform)
        data.setup("fit")
        for images, file in zip([data.train_data, *([data.val_data] if held else [])], files, strict=True):
            given = images[0].image
            if square:
                assert given.shape == (3, 16, 16)
                seen = transform(given)[None]
                tree = {
                    "class_path": f"{step}Compose",
                    "init_args": {
                        "transforms": [
                            {"class_path": "anomalib.data.transforms.SquarePad", "init_args": {}},
                            {"class_path": f"{step}Resize", "init_args": {"size": [16, 16]}},
                            {"class_path": f"{step}Normalize", "init_args": {"mean": [0.5] * 3, "std": [0.5] * 3}},
                        ]
                    },
                }
                scored = Preprocessing.of(tree).apply([np.load(file)], inference="training")
                torch.testing.assert_close(torch.as_tensor(seen), scored, rtol=0, atol=1e-6)
                plain = norm(Resize((16, 16))(torch.from_numpy(np.load(file)).permute(2, 0, 1).float() / 255))
                assert float((plain - scored[0]).abs().max()) > 0.1
            else:
                assert given.shape == ((3, 16, 16) if isinstance(transform.transforms[0], Resize) else (3, 20, 40))


def test_bars_are_ours(train):
    progress = Recorded()
    train("fastflow", progress=progress)
    assert (progress.bars, progress.done) == ([("train fastflow", 6, "steps")], [6])
    progress = Recorded()
    train("patchcore", progress=progress)
    assert progress.bars == [
        ("train patchcore", 1, "steps"),
        ("train patchcore: selecting coreset indices", 31, "steps"),
    ]
    assert progress.done == [1, 31]


def test_steps_end_a_training(train):
    progress = Recorded()
    train("fastflow", trainer={"max_epochs": None, "max_steps": 4}, progress=progress)
    assert (progress.bars, progress.done) == ([("train fastflow", 4, "steps")], [4])
    progress = Recorded()
    train("ganomaly", trainer={"max_epochs": None, "max_steps": 4}, progress=progress)
    assert (progress.bars, progress.done) == ([("train ganomaly", None, "steps")], [2])  # two optimizers


def losing(monkeypatch, values):
    """Fastflow's loss is each of the values, an epoch long."""
    import anomalib.models

    def step(self, batch, *args):
        return {"loss": self.model(batch.image)[0][0].sum() * 0 + values[self.current_epoch]}

    monkeypatch.setattr(anomalib.models.Fastflow, "training_step", step)


def test_patience(train, monkeypatch):
    losing(monkeypatch, [5, 4, 4, 4.5, 3, 2, 1])
    progress = Recorded()
    train("fastflow", trainer={"max_epochs": 7, "patience": 2, "batch_size": 5}, progress=progress)
    assert progress.done == [4]
    progress = Recorded()
    train("fastflow", trainer={"max_epochs": 7, "patience": 3, "batch_size": 5}, progress=progress)
    assert progress.done == [7]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_ends_it(value, train, monkeypatch, tmp_path):
    losing(monkeypatch, [1.0, float(value)])
    with pytest.raises(RunError) as caught:
        train("fastflow")
    assert caught.value.message == f"vision_fastflow_anomalib: the loss of epoch 2 is {value}"
    assert caught.value.help == (
        "Training came apart. Try smaller steps (the parameter lr, if it has one) or larger batches "
        "(batch_size in [model.trainer])."
    )
    assert list((tmp_path / "kept").iterdir()) == []


class Interrupting(Silent):
    """Its bars do something at the second step."""

    def __init__(self, act):
        super().__init__()
        self.act = act
        self.steps = 0

    def task(self, title, total, *, unit="images"):
        outer = self

        class Bar(contextlib.AbstractContextManager):
            def advance(self, n=1):
                outer.steps += 1
                if outer.steps == 2:
                    outer.act()

            def __exit__(self, *exc):
                return None

        return Bar()


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_ctrl_c_ends_it_at_once(train, tmp_path, capfd):
    before = signal.getsignal(signal.SIGTERM)
    progress = Interrupting(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("fastflow", trainer={"max_epochs": 5}, progress=progress)
    assert progress.steps == 2
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert list((tmp_path / "kept").iterdir()) == []
    assert capfd.readouterr() == ("", "")


TERMINATED = """
import signal, sys
from pathlib import Path
from test_anomalib_training import SIZE, SMALL, Interrupting, pictures, terminate
from uadctl.models.anomalib.training import train
from uadctl.spec.signature import checked_trainer
from uadctl.spec.wrapped import anomalib_model

def raising(signum, frame):  # as the command line's
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, raising)
progress = Interrupting(terminate)
try:
    train(
        anomalib_model("fastflow"), {**SMALL["fastflow"][0], "image_size": SIZE},
        checked_trainer("vision_fastflow_anomalib", {"batch_size": 2, "max_epochs": 5}), iter(pictures(5)),
        folder=Path(sys.argv[1]), device="cpu", seed=7, progress=progress, warn=progress.warn,
    )
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGTERM) is raising
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("ended after", progress.steps)
"""


def test_sigterm_ends_it_at_once(anomalib, tmp_path):
    """In a process of its own, which is the one that the signal is sent to."""
    (tmp_path / "kept").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED, str(tmp_path / "kept")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ended after 2\n", "", 0)
    assert list((tmp_path / "kept").iterdir()) == []


# -- pretrained weights


STFPM_WANTS = "timm:resnet18.a1_in1k: the weights timm-resnet18.a1_in1k.safetensors are not on this machine, and "
RESNET18 = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The folder $UADCTL_WEIGHTS."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("UADCTL_WEIGHTS", str(folder))
    return folder


def put_resnet18(folder):
    """Random weights under the name of timm's. Its maker publishes no checksum, so that any are taken."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(3)
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    save_file(state, folder / "timm-resnet18.a1_in1k.safetensors")
    return state


@pytest.mark.parametrize("how", ["prepare", "train"])
def test_stfpm_without_weights(how, anomalib, train, tmp_path, monkeypatch):
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    act = {
        "prepare": lambda: training.prepare_training(anomalib_model("stfpm"), {}),
        "train": lambda: train("stfpm", trainer={"max_epochs": 1}),
    }
    with pytest.raises(WeightsError) as caught:
        act[how]()
    assert caught.value.message == f"{STFPM_WANTS}UADCTL_OFFLINE is set"
    assert caught.value.help == (
        f"Get it with: uadctl models fetch timm:resnet18.a1_in1k --to DIR, or from {RESNET18}\n"
        f"Put it into {tmp_path}/torch/hub/checkpoints, or into a folder named by $UADCTL_WEIGHTS."
    )


def test_stfpm_without_a_network_fails_at_once(anomalib):
    started = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(anomalib_model("stfpm"), {})
    assert caught.value.message == f"{STFPM_WANTS}the download failed: <urlopen error no network in tests>"
    assert time.perf_counter() - started < 60


def test_where_random_weights_will_do_that_is_said(anomalib, monkeypatch):
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(anomalib_model("padim"), {"backbone": "resnet18"})
    assert caught.value.help.endswith(". For random weights: pre_trained = false.")
    training.prepare_training(anomalib_model("padim"), {"backbone": "resnet18", "pre_trained": False})
    training.prepare_training(anomalib_model("padim"), {"backbone": "resnet18"}, download=False)


def test_stfpm_with_weights_put_in_place(train, weights):
    import torch

    state = put_resnet18(weights)
    training.prepare_training(anomalib_model("stfpm"), {})
    module = train("stfpm", trainer={"max_steps": 1, "batch_size": 2})
    teacher = module.model.teacher_model.feature_extractor.state_dict()
    assert len(teacher) > 50
    same = [key for key, value in teacher.items() if torch.equal(value, state[key])]
    assert len(same) == len(teacher)  # as they came; it does not learn
    student = module.model.student_model.feature_extractor.state_dict()
    assert not torch.equal(student["conv1.weight"], state["conv1.weight"])


def test_weights_change_nothing_in_what_is_drawn(train, weights):
    """Patchcore's coreset starts where it starts without them."""
    import torch

    put_resnet18(weights)
    with traces.as_it_was():
        torch.manual_seed(1)
        with pretrained.at_hand(anomalib_model("padim"), {}):
            training._build(anomalib_model("padim"), {"backbone": "resnet18", "n_features": 5})
        with_weights = torch.rand(1)
        torch.manual_seed(1)
        with offline.without_downloads():
            training._build(anomalib_model("padim"), {"backbone": "resnet18", "n_features": 5})
        assert torch.equal(with_weights, torch.rand(1))


def test_weights_that_are_not_what_was_fetched(anomalib, weights):
    put_resnet18(weights)
    file = weights / "timm-resnet18.a1_in1k.safetensors"
    (weights / "weights.json").write_text(f'{{"files": {{"{file.name}": {{"sha256": "{"0" * 64}"}}}}}}')
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(anomalib_model("stfpm"), {})
    assert caught.value.message.startswith(f"{file}: not the file it was when it was fetched: SHA-256 ")
    assert caught.value.help == "The file is damaged or another one. Remove it."


def test_weights_of_torchvision_are_checked_by_their_name(anomalib, weights):
    import torch

    file = weights / "resnet18-f37072fd.pth"
    torch.save({}, file)
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(anomalib_model("cfa"), {"backbone": "resnet18"})
    assert caught.value.message.startswith(f"{file}: not the published weights of resnet18: SHA-256 ")
    # uadctl knows older ones of this network.
    other = weights / "wide_resnet50_2-9ba9bcbe.pth"
    torch.save({}, other)
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(anomalib_model("cfa"), {"backbone": "wide_resnet50_2"})
    assert caught.value.message.startswith(
        f"{other}: not the published weights of wide_resnet50_2-9ba9bcbe.pth: SHA-256 "
    )
    other.unlink()
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(anomalib_model("cfa"), {"backbone": "wide_resnet50_2"})
    assert caught.value.message.startswith(
        "wide_resnet50_2-9ba9bcbe.pth: the weights wide_resnet50_2-9ba9bcbe.pth are not"
    )
    assert caught.value.help.startswith(
        "Get it from https://download.pytorch.org/models/wide_resnet50_2-9ba9bcbe.pth\nPut "
    )


def test_a_backbone_that_timm_has_not(anomalib):
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(anomalib_model("stfpm"), {"backbone": "hf-hub:somebody/resnet18"})
    assert caught.value.message == (
        "https://huggingface.co/somebody/resnet18/resolve/main/config.json: anomalib wants this, and it is not on this "
        "machine"
    )
    with pytest.raises(SpecError) as caught:
        training.prepare_training(anomalib_model("stfpm"), {"backbone": "vgg99"})
    assert caught.value.message == (
        "vision_stfpm_anomalib: anomalib's Stfpm does not take these parameters: Unknown model (vgg99)"
    )


TEACHER = "efficientad_pretrained_weights/pretrained_teacher_small.pth"
RELEASE = (
    "https://github.com/open-edge-platform/anomalib/releases/download/"
    "efficientad_pretrained_weights/efficientad_pretrained_weights.zip"
)


@pytest.mark.parametrize("download", [True, False])
def test_efficient_ad_without_weights_and_pictures(download, anomalib, tmp_path):
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(anomalib_model("efficient_ad"), {}, download=download)
    first, second = caught.value.problems
    assert first.message == f"vision_efficient_ad_anomalib: the weights {TEACHER} are not on this machine"
    assert first.help == (
        f"Get {RELEASE}\nand unpack it into {tmp_path}/torch/hub/checkpoints, or into a folder named by $UADCTL_WEIGHTS."
    )
    assert second.message == (
        'vision_efficient_ad_anomalib: imagenet_dir (="./datasets/imagenette") must be a folder with images in folders '
        "of their own"
    )
    assert second.help == (
        "anomalib takes those of https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz\n"
        'Unpack them, and name the folder: imagenet_dir = "DIR" in [model.params]. Others will do too.'
    )


def put_teacher(folder):
    import torch
    from anomalib.models.image.efficient_ad.torch_model import SmallPatchDescriptionNetwork

    torch.manual_seed(4)
    state = SmallPatchDescriptionNetwork(384, padding=False).state_dict()
    (folder / TEACHER).parent.mkdir(parents=True)
    torch.save(state, folder / TEACHER)
    return state


def put_pictures(folder):
    import cv2

    folder.mkdir(parents=True)
    for number, image in enumerate(pictures(2, seed=9)):
        cv2.imwrite(str(folder / f"{number}.png"), image)


@pytest.mark.parametrize("place", ["UADCTL_WEIGHTS", "torch hub", "anomalib"])
def test_where_efficient_ad_finds_its_weights(place, anomalib, tmp_path, weights):
    places = {
        "UADCTL_WEIGHTS": weights,
        "torch hub": tmp_path / "torch" / "hub" / "checkpoints",
        "anomalib": tmp_path / "cache" / "anomalib" / "pre_trained",
    }
    put_pictures(tmp_path / "others" / "things")
    params = {"imagenet_dir": str(tmp_path / "others")}
    assert len(pretrained.missing(anomalib_model("efficient_ad"), params)) == 1
    put_teacher(places[place])
    training.prepare_training(anomalib_model("efficient_ad"), params)
    assert len(pretrained.missing(anomalib_model("efficient_ad"), {**params, "model_size": "medium"})) == 1


@pytest.mark.slow
def test_efficient_ad_with_weights_put_in_place(train, tmp_path, weights):
    import torch

    state = put_teacher(weights)
    put_pictures(tmp_path / "others" / "things")
    progress = Silent()
    # The smallest images, and the fewest steps, that it takes.
    params = {"imagenet_dir": str(tmp_path / "others")}
    module = train("efficient_ad", params, {"max_steps": 2}, pictures(2), size=(256, 256), progress=progress)
    for key, value in module.model.teacher.state_dict().items():
        assert torch.equal(value, state[key])
    assert progress.warnings == [
        "no validation images; the quantiles that its maps are scaled by come from the training images"
    ]
    low, high = (float(module.model.quantiles[key].detach()) for key in ("qa_st", "qb_st"))
    assert high > low > 0
    assert list((tmp_path / "here").iterdir()) == []


def test_a_folder_of_textures(anomalib, tmp_path):
    draem = anomalib_model("draem")
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(draem, {})
    assert (
        caught.value.message == 'vision_draem_anomalib: dtd_dir (="./datasets/dtd") must be a folder with images in it'
    )
    with pytest.raises(WeightsError) as caught:
        training.prepare_training(draem, {"dtd_dir": None})
    assert caught.value.message == (
        f'vision_draem_anomalib: dtd_dir (="{tmp_path}/cache/anomalib/datasets/dtd") must be a folder with images in it'
    )
    (tmp_path / "empty").mkdir()
    assert len(pretrained.missing(draem, {"dtd_dir": str(tmp_path / "empty")})) == 1
    put_pictures(tmp_path / "others" / "things")
    assert pretrained.missing(draem, {"dtd_dir": str(tmp_path / "others")}) == []
    assert pretrained.missing(anomalib_model("glass"), {}) == []
    assert len(pretrained.missing(anomalib_model("glass"), {"anomaly_source_path": "nowhere"})) == 1
    assert [p.message for p in pretrained.missing(anomalib_model("dsr"), {})] == [
        "vision_dsr_anomalib: the weights dsr/vq_model_pretrained_128_4096.pckl are not on this machine"
    ]


def test_no_library_downloads_anything_meanwhile(anomalib, tmp_path):
    import anomalib.models.image.efficient_ad.lightning_model as efficient_ad
    import huggingface_hub
    import timm.models._hub
    import torch.hub
    from anomalib.data.utils import download

    def functions():
        return [
            torch.hub.load_state_dict_from_url,
            torch.hub.download_url_to_file,
            torch.hub.load,
            huggingface_hub.hf_hub_download,
            huggingface_hub.snapshot_download,
            timm.models._hub.hf_hub_download,
            timm.models._hub.download_url_to_file,
            download.urlretrieve,
            sys.modules["timm.models._builder"].load_state_dict_from_url,
            sys.modules["torchvision.models._api"].load_state_dict_from_url,
        ]

    before = functions()
    started = time.perf_counter()
    with offline.guarded(pretrained.doors()):
        for number, function in enumerate(functions()):
            with pytest.raises(WeightsError, match=r": anomalib wants this, and it is not on this machine$"):
                function("org/name", "file") if "hf_hub" in str(before[number]) else function("org/name")
        with pytest.raises(WeightsError) as caught:
            efficient_ad.download_and_extract(tmp_path / "there", efficient_ad.WEIGHTS_DOWNLOAD_INFO)
        assert caught.value.message == f"{RELEASE}: anomalib wants this, and it is not on this machine"
        assert caught.value.help == f"Get it, and unpack it into {tmp_path / 'there'}"
        assert time.perf_counter() - started < 60  # nobody has tried a network again and again
        # A module that is imported meanwhile takes what it finds.
        late = type(sys)("timm.late")
        late.load = torch.hub.load
        sys.modules["timm.late"] = late
    try:
        assert functions() == before
        assert late.load is torch.hub.load
    finally:
        del sys.modules["timm.late"]


def test_other_threads_go_on_while_a_model_is_trained(anomalib, monkeypatch):
    import timm
    import torch.hub

    seen = []
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **_: seen.append((name, pretrained)))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url: seen.append(url))

    def there():
        timm.create_model("there", pretrained=True)
        torch.hub.load_state_dict_from_url("https://example.org/a.pth")

    def instead(make, name, **given):
        make(f"{name} instead", **given)

    with offline.guarded(pretrained.doors(timm=instead)):
        timm.create_model("here", pretrained=True)
        with pytest.raises(WeightsError, match=r"^https://example.org/a.pth: anomalib wants this"):
            torch.hub.load_state_dict_from_url("https://example.org/a.pth")
        other = threading.Thread(target=there)
        other.start()
        other.join()
    assert seen == [("here instead", True), ("there", True), "https://example.org/a.pth"]


def test_vision_transformers_are_as_before(anomalib):
    """anomalib changes timm for everybody when it builds one."""
    import timm.models.vision_transformer as vit

    before = vit.resample_abs_pos_embed
    with traces.as_it_was(), offline.without_downloads():
        training._build(
            anomalib_model("patchcore"), {"backbone": "test_vit", "pre_trained": False, "layers": ("blocks.0",)}
        )
        assert vit.resample_abs_pos_embed is not before
    assert vit.resample_abs_pos_embed is before
