"""anomalib's PatchCore and PaDiM on uadctl's code: equal to anomalib, with anomalib absent."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib_files import (
    SIZE,
    Trained,
    blur_kernel,
    network_of,
    preprocessor,
    quietly,
    said_by_anomalib,
    train_with_anomalib,
    transform_tree,
    write_ckpt,
    write_padim_ckpt,
    write_patchcore_ckpt,
)
from parts import scratched, surface, write

from uadctl.errors import DataError, RunError, SpecError
from uadctl.features.backbone import Backbone
from uadctl.memory.gaussian import Gaussians, InverseGaussians, panels
from uadctl.models.anomalib import AnomalibCheckpoint, native
from uadctl.models.anomalib.checkpoint import Checkpoint, read_checkpoint
from uadctl.models.anomalib.native import open_native, reads
from uadctl.models.anomalib.opening import open_file, restore
from uadctl.models.anomalib.preprocessing import Postprocessing

NO_ANOMALIB = "anomalib is not installed: pip install 'uadctl[anomalib]'"
BANK = "model.memory_bank"
INVERSE = "model.gaussian.inv_covariance"
MEAN_OF, CHOSEN = "model.gaussian.mean", "model.idx"
KERNEL = "model.anomaly_map_generator.blur.kernel"


def pictures() -> list[np.ndarray]:
    """Good and bad images of several sizes, none of which was trained with."""
    sizes = [SIZE, SIZE, (96, 80), (50, 121), SIZE]
    return [surface(300 + i, *size) if i % 2 else scratched(300 + i, *size)[0] for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Trained]:
    """PatchCore and PaDiM, trained by anomalib's Engine."""
    pytest.importorskip("anomalib", reason=NO_ANOMALIB)
    folder = tmp_path_factory.mktemp("trained")
    params = {"backbone": "resnet18", "pre_trained": False}
    return {
        "patchcore": train_with_anomalib("Patchcore", folder / "patchcore", pt=False, params=params),
        "padim": train_with_anomalib("Padim", folder / "padim", pt=False, params={**params, "n_features": 30}),
    }


@pytest.fixture(scope="module")
def patchcore(tmp_path_factory) -> Path:
    return write_patchcore_ckpt(tmp_path_factory.mktemp("patchcore") / "model.ckpt")


@pytest.fixture(scope="module")
def padim(tmp_path_factory) -> Path:
    return write_padim_ckpt(tmp_path_factory.mktemp("padim") / "model.ckpt")


def same_as_anomalib(predictor, module, images, inference: str) -> None:
    found = predictor.predict(images, inference=inference)
    assert len(found) == len(images)
    for raw, image in zip(found, images, strict=True):
        score, field = said_by_anomalib(module, image, inference=inference)
        assert raw.score == pytest.approx(score, rel=1e-5)
        assert raw.map.shape == field.shape
        assert raw.map.dtype == np.float32
        np.testing.assert_allclose(raw.map, field, rtol=0, atol=1e-4)


# --- equal to anomalib


@pytest.mark.parametrize("inference", ["training", "exported"])
@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_what_anomalib_trained_scores_as_anomalib_does(trained, name, inference):
    predictor = open_file(trained[name].ckpt, model=name, trusted=False, device="cpu")
    assert isinstance(predictor, native._Native)
    assert predictor.is_raw
    assert predictor.inferences == ("training", "exported")
    same_as_anomalib(predictor, trained[name].module, pictures(), inference)


@pytest.mark.parametrize(
    "tree",
    [
        transform_tree((64, 96), crop=(48, 65)),
        transform_tree(64, interpolation="bicubic"),
        transform_tree((80, 64), antialias=False),
    ],
)
def test_other_transforms_score_as_in_anomalib(trained, tree, tmp_path):
    from anomalib.pre_processing import PreProcessor
    from anomalib.pre_processing.utils.spec import spec_to_transform

    module = trained["patchcore"].module
    checkpoint = replace(read_checkpoint(trained["patchcore"].ckpt), transform=tree)
    assert reads(checkpoint)
    before, module.pre_processor = module.pre_processor, PreProcessor(transform=spec_to_transform(tree))
    try:
        for inference in ("training", "exported"):
            same_as_anomalib(open_native(checkpoint, device="cpu"), module, pictures(), inference)
    finally:
        module.pre_processor = before


NETWORKS = [
    ("resnet18", ("layer3", "layer2")),  # anomalib gives the layers in the network's order whatever the argument's
    ("resnet18.a1_in1k", (1, 2)),
    ("resnet50", ("layer2",)),
    ("regnetx_002", ("s2", "s3")),
]


@pytest.mark.parametrize(("backbone", "layers"), NETWORKS)
def test_networks_and_layers_are_those_of_anomalib(tmp_path, backbone, layers):
    pytest.importorskip("anomalib", reason=NO_ANOMALIB)
    with quietly():
        from anomalib.models import Patchcore

        torch.manual_seed(0)
        module = Patchcore(backbone=backbone, layers=layers, pre_trained=False, visualizer=False).eval()
        network = module.model.train()
        module.model.memory_bank = network(torch.rand(2, 3, *SIZE))[::3].clone()
        network.embedding_store.clear()
        module.model.eval()
        module.pre_processor = preprocessor()
    state = {k: v for k, v in module.state_dict().items() if k.startswith("model.")}
    path = write_ckpt(tmp_path / "m.ckpt", state, {**module.hparams, "precision": "float32"})
    checkpoint = read_checkpoint(path)
    assert reads(checkpoint)
    same_as_anomalib(open_native(checkpoint, device="cpu"), module, pictures()[:3], "training")


BLOCKED = """
import json, sys
for name in ("anomalib", "timm", "lightning", "lightning_fabric", "torchmetrics", "kornia"):
    sys.modules[name] = None
import cv2
from uadctl.models.anomalib import AnomalibCheckpoint, Padim, Patchcore
from uadctl.models.anomalib.checkpoint import looks_native
out = {}
for kind, path in ((Patchcore, sys.argv[1]), (Padim, sys.argv[2])):
    for model in (kind(checkpoint_path=path), AnomalibCheckpoint(checkpoint_path=path)):
        image = cv2.imread(sys.argv[3])[:, :, ::-1]
        (prediction,) = model.load().predict_batch([image])
        out[f"{kind.__name__} {type(model).__name__}"] = [prediction.score, float(prediction.map[70, 40])]
print(json.dumps(out))
"""


def test_scores_are_the_same_with_anomalib_timm_and_lightning_absent(trained, tmp_path):
    image = scratched(301, 96, 80)[0]
    path = write(tmp_path / "image.png", image)
    files = [trained["patchcore"].ckpt, trained["padim"].ckpt, path]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert sorted(found) == [
        "Padim AnomalibCheckpoint",
        "Padim Padim",
        "Patchcore AnomalibCheckpoint",
        "Patchcore Patchcore",
    ]
    for key, (score, pixel) in found.items():
        said, field = said_by_anomalib(trained[key.split()[0].lower()].module, image)
        assert score == pytest.approx(said, rel=1e-5)
        assert pixel == pytest.approx(at_70_40(field), rel=1e-4)


def at_70_40(field: np.ndarray) -> float:
    """The pixel (70, 40) of an image of 96x80 in its map of 64x64: centres at half-integers, bilinear between them."""
    y, x = 70.5 * 64 / 96 - 0.5, 40.5 * 64 / 80 - 0.5
    top, left = int(y), int(x)
    rows = field[top : top + 2, left : left + 2]
    return float(np.array([1 - (y - top), y - top]) @ rows @ np.array([1 - (x - left), x - left]))


def test_maps_of_a_crop_lie_on_the_pixels_of_the_file(patchcore, tmp_path):
    path = write_patchcore_ckpt(tmp_path / "crop.ckpt", transform=transform_tree((64, 64), crop=(32, 48)))
    model = AnomalibCheckpoint(checkpoint_path=str(path)).load()
    (prediction,) = model.predict_batch([scratched(1, 128, 192)[0]])
    assert prediction.map.shape == (128, 192)
    looked_at = ~np.isnan(prediction.map)
    assert looked_at[32:96, 24:168].all()
    assert looked_at.sum() == 64 * 144


# --- beside each other, kept, and what they say of themselves


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_images_do_not_depend_on_those_beside_them(name, request):
    predictor = open_file(request.getfixturevalue(name), model=None, trusted=False, device="cpu")
    images = pictures()
    for image, together in zip(images, predictor.predict(images, inference="training"), strict=True):
        (alone,) = predictor.predict([image], inference="training")
        assert together.score == pytest.approx(alone.score, rel=1e-5)
        np.testing.assert_allclose(together.map, alone.map, atol=1e-4)
    assert predictor.predict([], inference="training") == []


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_a_run_keeps_the_whole_model(name, request):
    predictor = open_file(request.getfixturevalue(name), model=None, trusted=False, device="cpu")
    tensors, facts = predictor.state()
    again = restore(tensors, json.loads(json.dumps(facts)), device="cpu")
    images = pictures()[:2]
    for inference in ("training", "exported"):
        first, second = (p.predict(images, inference=inference) for p in (predictor, again))
        for one, other in zip(first, second, strict=True):
            assert one.score == other.score
            assert np.array_equal(one.map, other.map)


def test_what_they_say_of_themselves(patchcore, padim):
    bank = open_file(patchcore, model=None, trusted=False, device="cpu")
    gaussians = open_file(padim, model=None, trusted=False, device="cpu")
    assert bank.model == "patchcore"
    assert bank.postprocessing == Postprocessing()
    assert bank.facts() == {
        "computed_by": "uadctl",
        "device": "cpu",
        "backbone": "resnet18",
        "layers": ["layer2", "layer3"],
        "memory_bank": [64, 384],
        "origin": dict(read_checkpoint(patchcore).origin),
    }
    assert gaussians.facts() == {
        "computed_by": "uadctl",
        "device": "cpu",
        "backbone": "resnet18",
        "layers": ["layer1", "layer2", "layer3"],
        "n_features": 20,
        "places": 256,
        "origin": dict(read_checkpoint(padim).origin),
    }


def test_a_bank_of_one_feature_has_unweighted_scores(patchcore):
    checkpoint = read_checkpoint(patchcore)
    small = replace(checkpoint, state={**checkpoint.state, BANK: checkpoint.state[BANK][:1]})
    (raw,) = open_native(small, device="cpu").predict([surface(3)], inference="training")
    alone = replace(small, hyper_parameters={**checkpoint.hyper_parameters, "num_neighbors": 1})
    (other,) = open_native(alone, device="cpu").predict([surface(3)], inference="training")
    assert raw.score == other.score > 0


def test_the_number_of_neighbours_is_the_checkpoints(patchcore):
    checkpoint = read_checkpoint(patchcore)
    image = [scratched(9)[0]]
    scores = []
    for number in (1, 3, 9):
        given = replace(checkpoint, hyper_parameters={**checkpoint.hyper_parameters, "num_neighbors": number})
        (raw,) = open_native(given, device="cpu").predict(image, inference="training")
        scores.append(raw.score)
    assert scores[0] > scores[2] > scores[1] > 0  # the weights are 1, about 8/9 and about 2/3


def test_how_a_tensor_lies_in_memory_does_not_matter(padim):
    checkpoint = read_checkpoint(padim)
    inverse = checkpoint.state[INVERSE].transpose(1, 2).contiguous().transpose(1, 2)  # as linalg.inv leaves it
    assert not inverse.is_contiguous()
    live = open_native(replace(checkpoint, state={**checkpoint.state, INVERSE: inverse}), device="cpu")
    again = restore(*live.state(), device="cpu")
    (one,), (other,) = (p.predict([scratched(5)[0]], inference="training") for p in (live, again))
    assert np.array_equal(one.map, other.map)


# --- what is not read here


def changed(checkpoint: Checkpoint, **given) -> Checkpoint:
    return replace(checkpoint, hyper_parameters={**checkpoint.hyper_parameters, **given})


NOT_READ = {
    "another network": {"backbone": "no_such_network"},
    "no network": {"backbone": None},
    "a network of another shape": {"backbone": "resnet50"},
    "a transformer": {"backbone": "vit_tiny_patch16_224", "layers": ["blocks.2"]},
    "the stem": {"layers": ["act1", "layer2"]},
    "the stem by number": {"layers": [0, 2]},
    "a layer twice": {"layers": ["layer2", "layer2"]},
    "a layer that was cut off": {"layers": ["layer2", "layer4"]},
    "no layers": {"layers": []},
    "an unknown layer": {"layers": ["layer7"]},
    "a number too far": {"layers": [1, 9]},
}


@pytest.mark.parametrize("case", NOT_READ)
def test_other_networks_are_left_to_anomalib(patchcore, case):
    checkpoint = read_checkpoint(patchcore)
    assert reads(checkpoint)
    other = changed(checkpoint, **NOT_READ[case])
    assert not reads(other)
    with pytest.raises(ValueError, match=r"^no network of uadctl's is that of this checkpoint of patchcore$"):
        open_native(other, device="cpu")


def test_other_models_precisions_and_parts_are_left_to_anomalib(patchcore):
    checkpoint = read_checkpoint(patchcore)
    state = checkpoint.state
    assert not reads(replace(checkpoint, model="stfpm"))
    assert not reads(replace(checkpoint, model="padim"))
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    assert not reads(replace(checkpoint, state=halves))
    assert not reads(replace(checkpoint, state={k: v for k, v in state.items() if k != BANK}))
    assert not reads(replace(checkpoint, state={k: v for k, v in state.items() if not k.endswith("conv1.weight")}))


def test_networks_of_timm_need_timm(patchcore, monkeypatch):
    pytest.importorskip("timm", reason="timm is not installed: pip install 'uadctl[timm]'")
    seen = []
    monkeypatch.setattr(native, "find_backbone", lambda name: seen.append(name))
    other = changed(read_checkpoint(patchcore), backbone="regnetx_002", layers=["s2"])
    assert not reads(other)
    assert seen == ["timm:regnetx_002"]
    monkeypatch.setitem(sys.modules, "timm", None)
    assert not reads(other)
    assert seen == ["timm:regnetx_002"]


def test_a_model_that_was_not_trained_is_an_error(patchcore, padim):
    for path, name in ((patchcore, BANK), (padim, "model.gaussian.mean")):
        checkpoint = read_checkpoint(path)
        empty = replace(checkpoint, state={**checkpoint.state, name: torch.empty(0)})
        with pytest.raises(DataError) as error:
            open_native(empty, device="cpu")
        assert error.value.message == f"the checkpoint was not trained: its {name} is empty"


def test_gaussians_that_contradict_each_other_are_an_error(padim):
    checkpoint = read_checkpoint(padim)
    cut = replace(checkpoint, state={**checkpoint.state, INVERSE: checkpoint.state[INVERSE][:9]})
    with pytest.raises(DataError) as error:
        open_native(cut, device="cpu")
    assert error.value.message == (
        "the checkpoint contradicts itself: channels of (20,), a mean of (20, 256) and inverse covariances of (9, 20, 20)"
    )


BAD_KERNEL = "the checkpoint's model.anomaly_map_generator.blur.kernel of {} is no Gaussian that smooths a map"
DAMAGED = {
    "bank of another width": (
        "patchcore",
        {BANK: torch.ones(9, 5)},
        {},
        "a memory bank of (9, 5), and layers of 384 ch",
    ),
    "bank of another rank": ("patchcore", {BANK: torch.ones(384)}, {}, "a memory bank of (384,), and layers of 384 ch"),
    "bank of whole numbers": ("patchcore", {BANK: torch.ones(9, 384).int()}, {}, "a memory bank of (9, 384), and lay"),
    "no neighbours": ("patchcore", {}, {"num_neighbors": 0}, "num_neighbors (=0) must be a whole number, at least 1"),
    "fewer": ("patchcore", {}, {"num_neighbors": -3}, "num_neighbors (=-3) must be a whole number, at least 1"),
    "not said": ("patchcore", {}, {"num_neighbors": None}, "num_neighbors (=None) must be a whole number, at least 1"),
    "words": ("patchcore", {}, {"num_neighbors": "9"}, "num_neighbors (=9) must be a whole number, at least 1"),
    "half": ("patchcore", {}, {"num_neighbors": 1.5}, "num_neighbors (=1.5) must be a whole number, at least 1"),
    "kernel of a rank less": ("padim", {KERNEL: torch.ones(3, 3)}, {}, BAD_KERNEL.format((3, 3))),
    "kernel of several": ("padim", {KERNEL: torch.ones(2, 1, 3, 3)}, {}, BAD_KERNEL.format((2, 1, 3, 3))),
    "even kernel": ("patchcore", {KERNEL: torch.ones(1, 1, 4, 4)}, {}, BAD_KERNEL.format((1, 1, 4, 4))),
    "kernel of nothing": ("padim", {KERNEL: torch.zeros(1, 1, 3, 3)}, {}, BAD_KERNEL.format((1, 1, 3, 3))),
    "kernel of no numbers": ("padim", {KERNEL: torch.full((1, 1, 3, 3), float("nan"))}, {}, "is no Gaussian that"),
    "channel too many": ("padim", {CHOSEN: torch.arange(429, 449)}, {}, "its model.idx are no numbers of its 448 chan"),
    "channel below": ("padim", {CHOSEN: torch.arange(-1, 19)}, {}, "its model.idx are no numbers of its 448 channels"),
    "half channels": (
        "padim",
        {CHOSEN: torch.arange(20) + 0.5},
        {},
        "its model.idx are no numbers of its 448 channels",
    ),
    "one channel": ("padim", {CHOSEN: torch.tensor(3)}, {}, "channels of (), a mean of (20, 256) and inverse covari"),
    "mean of a rank more": ("padim", {MEAN_OF: torch.ones(1, 20, 256)}, {}, "a mean of (1, 20, 256) and inverse"),
    "inverse of a rank less": ("padim", {INVERSE: torch.ones(256, 20)}, {}, "inverse covariances of (256, 20)"),
    "mean of whole numbers": ("padim", {MEAN_OF: torch.ones(20, 256).int()}, {}, "Gaussians are of torch.int32 and "),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_was_learned_and_does_not_fit_is_an_error_when_it_is_opened(case, request):
    name, tensors, arguments, said = DAMAGED[case]
    checkpoint = read_checkpoint(request.getfixturevalue(name))
    damaged = replace(
        checkpoint,
        state={**checkpoint.state, **tensors},
        hyper_parameters={**checkpoint.hyper_parameters, **arguments},
    )
    assert set(tensors) <= set(checkpoint.state)
    with pytest.raises(DataError) as error:
        open_native(damaged, device="cpu")
    assert said in error.value.message
    assert "\n" not in error.value.message
    open_native(checkpoint, device="cpu")


def test_there_are_damages():
    assert len(DAMAGED) == 20


def test_padim_takes_inputs_of_the_size_that_it_was_trained_with(tmp_path):
    path = write_padim_ckpt(tmp_path / "m.ckpt", transform=transform_tree(64))
    predictor = open_file(path, model=None, trusted=False, device="cpu")
    assert predictor.predict([surface(1)], inference="training")[0].score > 0
    with pytest.raises(DataError) as error:
        predictor.predict([surface(1, 64, 128)], inference="training")
    assert error.value.message == (
        "an input of 64x128 (height x width) has 16x32 places, and the checkpoint's PaDiM knows 256: "
        "it takes images of one size only"
    )


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_distances_that_are_no_numbers_are_an_error(name, request):
    checkpoint = read_checkpoint(request.getfixturevalue(name))
    learned = {"patchcore": BANK, "padim": "model.gaussian.mean"}[name]
    nothing = torch.full_like(checkpoint.state[learned], float("nan"))
    broken = replace(checkpoint, state={**checkpoint.state, learned: nothing})
    with pytest.raises(RunError, match=r"^the checkpoint's model gives distances that are NaN or infinite$"):
        open_native(broken, device="cpu").predict([surface(1)], inference="training")


# --- the parts


def test_the_blur_is_a_convolution_with_the_kernel_over_mirrored_borders(patchcore):
    field = np.random.default_rng(0).normal(size=(40, 33)).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(field)[None, None], [16] * 4, mode="reflect")
    expected = torch.nn.functional.conv2d(padded.double(), blur_kernel().double())[0, 0].numpy()
    found = native._Blur(read_checkpoint(patchcore))(field)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_inverse_gaussians_give_the_distances_of_their_factors():
    rng = torch.Generator().manual_seed(0)
    samples = torch.randn(5, 40, 7, generator=rng, dtype=torch.float64) @ torch.diag(torch.arange(1.0, 8.0)).double()
    covariance = samples.transpose(1, 2) @ samples / 39
    mean = torch.randn(5, 7, generator=rng)
    batch = torch.randn(3, 5, 7, generator=rng) * 4
    found = InverseGaussians(mean, torch.linalg.inv(covariance).float()).distances(batch)
    away = (batch - mean).double()
    expected = torch.einsum("bpi,pij,bpj->bp", away, torch.linalg.inv(covariance), away).sqrt()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    assert found.dtype == torch.float32
    factor = torch.linalg.cholesky(covariance)
    assert len(panels(7)) == 1
    ours = Gaussians(mean, [torch.linalg.inv(factor).float()]).distances(batch)
    torch.testing.assert_close(found, ours, rtol=1e-5, atol=0)


def test_an_inverse_that_is_not_symmetric_nor_positive_counts_as_it_is():
    mean = torch.zeros(2, 2)
    inverse = torch.tensor([[[2.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, -1.0]]])
    batch = torch.tensor([[[1.0, 1.0], [1.0, 2.0]], [[1.0, -1.0], [2.0, 1.0]]])
    found = InverseGaussians(mean, inverse).distances(batch)
    # 2 + 1 + 2, and 1 - 4, which is 0; 2 - 1 + 2, and 4 - 1.
    torch.testing.assert_close(found, torch.tensor([[5.0, 0.0], [3.0, 3.0]]).sqrt())


def test_many_places_are_computed_in_parts(monkeypatch):
    from uadctl.memory import gaussian

    rng = torch.Generator().manual_seed(1)
    mean, root = torch.randn(50, 4, generator=rng), torch.randn(50, 4, 4, generator=rng)
    batch = torch.randn(6, 50, 4, generator=rng)
    given = InverseGaussians(mean, root @ root.transpose(1, 2))
    whole = given.distances(batch)
    monkeypatch.setattr(gaussian, "_NUMBERS", 200)
    torch.testing.assert_close(given.distances(batch), whole, rtol=1e-6, atol=0)


def test_a_backbone_takes_images_that_are_normalised_already():
    backbone = Backbone("resnet18", layers=("layer1", "layer2"), pretrained=False)
    images = np.stack([surface(i, 400, 360) for i in range(2)])  # two do not fit together
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (backbone.entry.mean, backbone.entry.std))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - mean) / std
    for found, expected in zip(backbone.of_normalised(x), backbone(images), strict=True):
        assert found.shape == expected.shape
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_trunk_of_another_library_takes_images_that_are_normalised_already():
    backbone = Backbone("mobilenet_v2", pretrained=False)
    images = np.stack([surface(i) for i in range(2)])
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (backbone.entry.mean, backbone.entry.std))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - mean) / std
    for found, expected in zip(backbone.of_normalised(x), backbone(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 4, 8, 8), torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8), torch.zeros(1, 3, 8, 8).double()]
)
def test_a_backbone_says_which_normalised_images_it_takes(images):
    backbone = Backbone("resnet18", pretrained=False)
    with pytest.raises(ValueError) as error:
        backbone.of_normalised(images)
    assert str(error.value) == (
        f"images must be a non-empty (B, 3, H, W) float32 tensor, found shape {tuple(images.shape)}, {images.dtype}"
    )


def test_openvino_takes_no_normalised_images():
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'uadctl[openvino]'")
    backbone = Backbone("resnet18", pretrained=False, runtime="openvino")
    with pytest.raises(SpecError, match=r'^runtime "openvino" takes no normalised images$'):
        backbone.of_normalised(torch.zeros(1, 3, 8, 8))


def test_the_made_network_is_the_whole_of_what_anomalib_builds(trained):
    names = {k for k in trained["patchcore"].module.state_dict() if "feature_extractor" in k}
    made = set(network_of(("layer2", "layer3")))
    assert made == names
