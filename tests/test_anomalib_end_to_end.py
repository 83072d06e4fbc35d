"""From anomalib's training to uadctl's numbers, through the command line: what the files say is what anomalib says."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import parts
import pytest
import tifffile
import torch
from anomalib_files import SIZE, Trained, preprocessor, quietly, said_by_anomalib, train_with_anomalib

pytest.importorskip("anomalib", reason="anomalib is not installed: pip install 'uadctl[anomalib]'")

# Five classes that need no pretrained weights, with the arguments that make them small.
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "Patchcore": ("patchcore", {"backbone": "resnet18", "layers": ["layer2"], "pre_trained": False}),
    "Padim": ("padim", {"backbone": "resnet18", "layers": ["layer1"], "n_features": 8, "pre_trained": False}),
    "ReverseDistillation": ("reverse_distillation", {"backbone": "resnet18", "pre_trained": False}),
    "Fastflow": ("fastflow", {"backbone": "resnet18", "flow_steps": 2, "pre_trained": False}),
    "Ganomaly": ("ganomaly", {"batch_size": 4, "n_features": 8, "latent_vec_size": 8}),
}
NO_MAP = {"Ganomaly"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A category whose images are larger than what the models look at, and not square."""
    folder = tmp_path_factory.mktemp("data")
    parts.write_category(folder, "tile", train=6, good=2, bad=3, size=(72, 90))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Trained]:
    """By anomalib's own Engine, each class once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            cls: train_with_anomalib(cls, tmp_path_factory.mktemp(cls), params=params)
            for cls, (_, params) in CLASSES.items()
        }
    finally:
        torch.set_num_threads(threads)


def unit(run: Path) -> Path:
    """The folder of a run's only unit."""
    (file,) = run.rglob("scores.csv")
    return file.parent


def rows(run: Path) -> dict[str, dict[str, str]]:
    with (unit(run) / "scores.csv").open(encoding="utf-8", newline="") as stream:
        return {row["path"]: row for row in csv.DictReader(stream)}


def laid_over(field: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("inference", ["training", "exported"])
@pytest.mark.parametrize("form", ["ckpt", "pt"])
@pytest.mark.parametrize("cls", CLASSES)
def test_bench_of_a_file_gives_what_anomalib_gives(cls, form, inference, trained, root, uadctl, tmp_path):
    name = f"vision_{CLASSES[cls][0]}_anomalib"
    model = trained[cls]
    file = model.ckpt if form == "ckpt" else model.pt
    more = ["--trust-checkpoint"] if form == "pt" else []
    said = uadctl(
        "bench", "--dataset", "mvtec", "--root", root, "--model", name, "--checkpoint-path", file, "--pixel",
        "--set", f"model.params.inference={inference}", "--json", "--run-dir", "runs", *more,
    )  # fmt: skip
    document = said.json
    run = Path(document["run"])
    found = rows(run)
    tested = {path: row for path, row in found.items() if row["split"] == "test"}
    assert len(tested) == 5
    for path, row in tested.items():
        image = cv2.imread(str(root / "tile" / path))[..., ::-1]
        score, field = (
            (said_by_anomalib(model.module, image, inference=inference))
            if cls not in NO_MAP
            else (only_score(model.module, image, inference), None)
        )
        assert float(row["score"]) == pytest.approx(score, rel=1e-5, abs=1e-5)
        if field is None:
            assert not row["map"]
            continue
        kept = tifffile.imread(unit(run) / row["map"])
        assert kept.shape == image.shape[:2]
        np.testing.assert_allclose(kept, laid_over(field, *image.shape[:2]), atol=1e-4, rtol=1e-4)
    cell = document["results"]["tile"][name]["0"]
    assert cell["success"] is True
    assert cell["counts"]["train_images"] == 0
    assert cell["metrics"]["image_auroc"] is not None
    assert (cell["metrics"]["pixel_auroc"] is None) == (cls in NO_MAP)
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))["models"][name]["tile"]
    assert (facts["anomalib_model"], facts["inference"], facts["scores"]) == (CLASSES[cls][0], inference, "raw")
    assert facts["anomalib_postprocessing"]["image_threshold"] == pytest.approx(
        float(model.module.post_processor.image_threshold)
    )


def only_score(module: Any, image: np.ndarray, inference: str) -> float:
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    before = module.pre_processor
    with torch.inference_mode():
        x = (before.transform if inference == "training" else before.export_transform)(x)
        return float(module.model.eval()(x).pred_score.reshape(-1)[0])


def test_a_run_scores_without_the_file_that_it_came_from(trained, root, uadctl, tmp_path):
    file = tmp_path / "here.ckpt"
    file.write_bytes(trained["ReverseDistillation"].ckpt.read_bytes())
    told = uadctl(
        "bench", "--dataset", "mvtec", "--root", root, "--model", "vision_anomalib_checkpoint", "--checkpoint-path",
        file, "--json", "--run-dir", "runs",
    ).json  # fmt: skip
    file.unlink()
    image = root / "tile" / "test" / "scratch" / "000.png"
    (line,) = uadctl("score", told["run"], image, "--json").lines
    row = rows(Path(told["run"]))["test/scratch/000.png"]
    assert line["score"] == pytest.approx(float(row["score"]), rel=1e-6)


SPEC = """
[run]
seed = 7
dir = "runs"
[dataset]
name = "mvtec"
root = "{root}"
[model]
name = "vision_{name}_anomalib"
[model.params]
{params}
image_size = [64, 64]
[model.trainer]
{trainer}
"""


def toml(params: dict[str, Any]) -> str:
    from uadctl.models.anomalib import offered_name

    return "\n".join(f"{offered_name(key)} = {json.dumps(value)}" for key, value in params.items())


@pytest.mark.parametrize("cls", CLASSES)
def test_training_here_gives_the_scores_of_training_there(cls, root, uadctl, tmp_path):
    """`uadctl bench` and anomalib's API, both told: these images, this seed."""
    name, params = CLASSES[cls]
    one_pass = cls in ("Patchcore", "Padim")
    spec = tmp_path / "spec.toml"
    trainer = "batch_size = 4" if one_pass else "batch_size = 4\nmax_epochs = 2"
    spec.write_text(SPEC.format(root=root, name=name, params=toml(params), trainer=trainer), encoding="utf-8")
    ended = uadctl("bench", spec, "--json")
    run = Path(ended.json["run"])
    found = rows(run)
    module = by_anomalib(cls, params, root / "tile" / "train", tmp_path / "there", epochs=None if one_pass else 2)
    for path, row in found.items():
        image = cv2.imread(str(root / "tile" / path))[..., ::-1]
        assert float(row["score"]) == pytest.approx(only_score(module, image, "training"), rel=1e-5, abs=1e-5)
    assert len(found) == 5
    kept = unit(run) / "model" / "model.ckpt"
    with quietly():
        from anomalib import models

        again = getattr(models, cls).load_from_checkpoint(
            kept, **({} if cls == "Ganomaly" else {"pre_trained": False}), pre_processor=preprocessor(SIZE)
        )
    assert only_score(again.eval(), image, "training") == pytest.approx(only_score(module, image, "training"), rel=1e-5)
    (line,) = uadctl("score", run, root / "tile" / "test" / "scratch" / "001.png", "--json").lines
    assert line["score"] == pytest.approx(float(found["test/scratch/001.png"]["score"]), rel=1e-6)


def by_anomalib(cls: str, params: dict[str, Any], folder: Path, results: Path, *, epochs: int | None) -> Any:
    """What anomalib's API makes of the training images."""
    with quietly():
        from anomalib import models
        from anomalib.data import Folder
        from anomalib.engine import Engine
        from lightning.pytorch import seed_everything

        data = Folder(
            "tile", root=folder, normal_dir="good", train_batch_size=4, eval_batch_size=4, num_workers=0,
            test_split_mode="none", val_split_mode="none",
        )  # fmt: skip
        seed_everything(7, verbose=False)
        model = getattr(models, cls)(**params, pre_processor=preprocessor(SIZE), evaluator=False, visualizer=False)
        engine = Engine(
            default_root_dir=results, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
            limit_val_batches=0, **({} if epochs is None else {"max_epochs": epochs}),
        )  # fmt: skip
        engine.fit(model, datamodule=data)
    return model.eval()
