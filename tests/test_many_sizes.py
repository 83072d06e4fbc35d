"""Images of many sizes in one stream: each gets what it gets alone, at its own aspect ratio and its own border.

The sizes are those of the magnetic tiles of Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile", 2020: cut
out by hand, from 103x222 to 632x403.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import parts
import pytest
import tifffile
import torch
from test_anomalydino import TINY
from test_anomalydino import model as dino
from test_anomalydino import tiny as tiny  # a fixture
from test_every_detector import EXAMINED, candidate_of
from test_every_detector import tiny_clip as tiny_clip  # a fixture

from uadctl.errors import DataError
from uadctl.features.backbone import Backbone
from uadctl.features.torch_runtime import TorchNetwork
from uadctl.imaging.files import read_mask
from uadctl.imaging.geometry import Geometry
from uadctl.inference import Scored, stream
from uadctl.intake import Intake
from uadctl.metrics import compute_aupro, compute_pixel_auroc
from uadctl.models.checks import part
from uadctl.models.padim import PaDiM
from uadctl.models.patchcore import PatchCore
from uadctl.records import Size, Tiling
from uadctl.spec import MODELS

# Nine sizes of file, eight shapes before the network; three sizes come twice, and two share a shape.
SIZES = (
    *(Size(103, 222), Size(222, 103), Size(403, 632), Size(160, 160), Size(632, 403), Size(300, 90)),
    *(Size(160, 160), Size(103, 222), Size(248, 373), Size(403, 632), Size(90, 300), Size(211, 402)),
)
SIDE = 64
CLOSE = 1e-5  # of the largest value

# Images at a time, and in which order they come.
FORWARD = list(range(len(SIZES)))
SHUFFLED = np.random.default_rng(3).permutation(len(SIZES)).tolist()
COMPANIES = {"1": (1, FORWARD), "3": (3, SHUFFLED), "16": (16, FORWARD[::-1]), "16 shuffled": (16, SHUFFLED)}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def goods(n: int, first: int = 0) -> list[np.ndarray]:
    """Good parts, each of another size than the one before."""
    return [part(first + i, SIZES[i % len(SIZES)]) for i in range(n)]


def as_a_run(detector, *, side: int = SIDE) -> Geometry:
    """The geometry of a spec with that [preprocess] size; of a detector that resizes by itself, of one without."""
    return Geometry(size=None if detector.own_resizing is not None else side, stride=detector.stride)


def fitted(detector, geometry: Geometry, images: Sequence[np.ndarray]):
    return detector.fit([geometry.plan(image.shape[:2]).apply(image) for image in images], threshold=False)


def scored(detector, images: Sequence[np.ndarray], intake: Intake) -> list[Scored]:
    found = list(stream(detector, images, intake=intake, threads=1))
    assert [item.error for item in found] == [None] * len(images)
    assert [item.index for item in found] == list(range(len(images)))
    return found


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest value; of nothing but 0 as it is."""
    assert found.shape == expected.shape
    difference = np.abs(found.astype(np.float64) - expected).max()
    return float(difference / (np.abs(expected).max() or 1.0))


def furthest(detector, images: Sequence[np.ndarray], intake: Intake, companies=COMPANIES) -> Iterator[float]:
    """How far scores and maps in each company are from those of each image alone."""
    detector.take_at_once(16)
    alone = [scored(detector, [image], intake)[0].prediction for image in images]
    for together, order in companies.values():
        detector.take_at_once(together)
        assert detector.images_per_batch == together
        mixed = scored(detector, [images[i] for i in order], intake)
        for i, item in zip(order, mixed, strict=True):
            yield apart(np.array([item.prediction.score]), np.array([alone[i].score]))
            assert (item.prediction.map is None) == (alone[i].map is None)
            if alone[i].map is not None:
                assert item.prediction.map.shape == images[i].shape[:2]
                assert item.prediction.map.std() > 0
                yield apart(item.prediction.map, alone[i].map)


# -- alone and in company


@pytest.mark.usefixtures("tiny_clip")
@pytest.mark.parametrize("name", EXAMINED)
def test_an_image_gets_in_a_mixed_batch_what_it_gets_alone(name, tmp_path):
    """All detectors but anomalib's own code."""
    for package in MODELS[name].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    candidate = candidate_of(name, tmp_path)
    detector = candidate.make()
    geometry = as_a_run(detector)
    if name == "vision_padim":  # it knows places
        geometry = Geometry(resize=Size(SIDE, SIDE), stride=detector.stride)
    if candidate.comes_trained:
        detector.load()
    else:
        fitted(detector, geometry, goods(candidate.train))
    images, companies = goods(len(SIZES), 500), COMPANIES
    if "classical" in MODELS[name].tags:  # they score a row of features at a time, some of them slowly
        images, companies = images[:6], {"16": (16, [5, 2, 0, 3, 1, 4])}
    differences = list(furthest(detector, images, Intake(geometry=geometry), companies))
    assert len(differences) == (2 if MODELS[name].pixel_map else 1) * len(images) * len(companies)
    assert max(differences) <= CLOSE


def test_scores_of_the_images_here_differ():
    """Else to mix them up would not be seen."""
    detector = PatchCore(device="cpu")
    geometry = as_a_run(detector)
    fitted(detector, geometry, goods(8))
    found = [item.prediction.score for item in scored(detector, goods(len(SIZES), 500), Intake(geometry=geometry))]
    assert np.diff(sorted(found)).min() > 100 * CLOSE * max(found)


def test_each_goes_at_its_own_aspect_ratio():
    """Area of 64x64, sides in steps of Lite0's stride."""
    geometry = Geometry(size=SIDE, stride=16)
    assert {size: geometry.plan(size).size for size in SIZES} == {
        (103, 222): (48, 96),
        (222, 103): (96, 48),
        (403, 632): (48, 80),
        (632, 403): (80, 48),
        (160, 160): (64, 64),
        (300, 90): (112, 32),
        (90, 300): (32, 112),
        (248, 373): (48, 80),
        (211, 402): (48, 96),
    }


@pytest.mark.parametrize(
    "params",
    [
        {"precision": "bf16"},
        {"runtime": "openvino"},
        {"backbone": "resnet18", "pretrained": False},
        {"knn_backend": "faiss"},
        {"knn_backend": "sklearn"},
        {"knn_backend": "numpy"},
    ],
    ids=lambda params: "-".join(map(str, params.values())),
)
def test_so_it_is_however_it_is_computed(params):
    packages = {"openvino": "openvino", "faiss": "faiss", "sklearn": "sklearn"}
    for value in params.values():
        if value in packages:
            pytest.importorskip(packages[value], reason=f"{value} is not installed")
    detector = PatchCore(device="cpu", **params)
    geometry = as_a_run(detector)
    fitted(detector, geometry, goods(8))
    assert max(furthest(detector, goods(len(SIZES), 500), Intake(geometry=geometry))) <= CLOSE


@pytest.mark.parametrize("image_size", ["given", 56])
def test_so_it_is_on_a_vision_transformer(tiny, image_size):
    """Its positions are laid anew over each shape."""
    detector = dino(backbone=TINY, image_size=image_size)
    geometry = as_a_run(detector)
    assert (detector.own_resizing is None) == (image_size == "given")
    fitted(detector, geometry, goods(4))
    assert max(furthest(detector, goods(len(SIZES), 500), Intake(geometry=geometry))) <= CLOSE


@pytest.mark.parametrize("reduce", ["mean", "max", "hann"])
def test_so_it_is_in_tiles(reduce):
    tiling = Tiling(96, 72, reduce, "max")
    detector = PatchCore(device="cpu")
    geometry = Geometry(size=None, stride=detector.stride)
    detector.fit([part(i, Size(96, 96)) for i in range(8)], threshold=False)
    images = [part(500 + i, size) for i, size in enumerate(SIZES) if size.height * size.width < 100_000]
    assert len({image.shape for image in images}) >= 7
    companies = {"1": (1, [*range(len(images))]), "16": (16, [*range(len(images))][::-1])}
    assert max(furthest(detector, images, Intake(geometry=geometry, tiling=tiling), companies)) <= CLOSE


def test_so_it_is_of_a_crop():
    """What the crop cuts is NaN at the same pixels."""
    detector = PatchCore(device="cpu")
    geometry = Geometry(size=96, stride=16, crop=Size(48, 48))
    fitted(detector, geometry, goods(6))
    images = goods(len(SIZES), 500)
    intake = Intake(geometry=geometry)
    for item, image in zip(scored(detector, images, intake), images, strict=True):
        (alone,) = scored(detector, [image], intake)
        nothing = np.isnan(alone.prediction.map)
        assert nothing.any()
        assert np.array_equal(np.isnan(item.prediction.map), nothing)
        assert apart(item.prediction.map[~nothing], alone.prediction.map[~nothing]) <= CLOSE


def test_what_is_learned_does_not_depend_on_how_many_are_learned_together():
    learned = []
    for together in (1, 3, 16):
        detector = PatchCore(device="cpu", batch_size=together)
        learned.append(fitted(detector, as_a_run(detector), goods(len(SIZES))).memory_bank_.numpy())
    assert apart(learned[1], learned[0]) <= CLOSE
    assert apart(learned[2], learned[0]) <= CLOSE


def test_broken_images_between_change_nothing(tmp_path):
    detector = PatchCore(device="cpu", batch_size=3)
    geometry = as_a_run(detector)
    fitted(detector, geometry, goods(6))
    images: list[object] = [*goods(len(SIZES), 500)]
    expected = [item.prediction.score for item in scored(detector, images, Intake(geometry=geometry))]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    for place in (9, 4, 4, 0):
        images.insert(place, tmp_path / "broken.png")
    found = list(stream(detector, images, intake=Intake(geometry=geometry), threads=1))
    assert [item.index for item in found if item.error is not None] == [0, 5, 6, 12]
    kept = [item.prediction.score for item in found if item.error is None]
    assert apart(np.array(kept), np.array(expected)) <= CLOSE


# -- what needs one size


def test_padim_refuses_many_sizes_and_says_the_way_out():
    detector = PaDiM(device="cpu", n_features=20)
    with pytest.raises(DataError) as error:
        fitted(detector, as_a_run(detector), goods(8))
    assert parts.message(error) == (
        "training images of 48x96 and of 96x48 (height x width) have no places in common, and PaDiM learns each place "
        "by itself",
        "Bring all of them to one size: [preprocess] resize = [48, 96]",
    )


# -- at the border


def stripes(seed: int, size: Size) -> np.ndarray:
    """A periodic texture without noise; only where its first stripe lies differs."""
    y, x = np.mgrid[: size.height, : size.width]
    phase = np.random.default_rng(seed).uniform(0, 6, 2)
    grey = 120 + 40 * np.sin(x / 4 + phase[0]) + 30 * np.cos(y / 5 + phase[1])
    return np.repeat(np.rint(grey)[..., None], 3, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def of_stripes() -> PatchCore:
    """Learned 36 images in their own pixels, of the sizes of the tests, each by itself: no seam is known to it."""
    detector = PatchCore(device="cpu", coreset_ratio=0.25, sigma=0.0, batch_size=1)
    sizes = [BORDERED[i % len(BORDERED)] for i in range(36)]
    detector.fit([stripes(i, size) for i, size in enumerate(sizes)], threshold=False)
    detector.take_at_once(16)
    return detector


BORDERED = (Size(64, 128), Size(128, 64), Size(96, 96), Size(48, 176), Size(176, 48), Size(80, 112))
UNCHANGED = Intake(geometry=Geometry(size=None))


def test_the_border_of_a_good_image_is_no_defect(of_stripes):
    """Nor is it of any of the shapes, though a network sees nothing beyond it."""
    images = [stripes(900 + i, size) for i, size in enumerate(BORDERED)]
    for item, image in zip(scored(of_stripes, images, UNCHANGED), images, strict=True):
        field = item.prediction.map
        inside = np.zeros(image.shape[:2], bool)
        inside[16:-16, 16:-16] = True
        assert field[~inside].max() < 2 * field[inside].max()
        assert field[~inside].mean() < 1.5 * field[inside].mean()


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_a_defect_at_the_very_border_is_found_there(of_stripes, corner):
    images, boxes = [], []
    for i, size in enumerate(BORDERED):
        image = stripes(700 + i, size)
        rows = slice(0, 12) if "top" in corner else slice(size.height - 12, size.height)
        columns = slice(0, 12) if "left" in corner else slice(size.width - 12, size.width)
        image[rows, columns] = (220, 30, 30)
        images.append(image)
        boxes.append((rows, columns))
    found = scored(of_stripes, images, UNCHANGED)
    good = scored(of_stripes, [stripes(900 + i, size) for i, size in enumerate(BORDERED)], UNCHANGED)
    assert min(item.prediction.score for item in found) > 2 * max(item.prediction.score for item in good)
    for item, (rows, columns) in zip(found, boxes, strict=True):
        y, x = np.unravel_index(item.prediction.map.argmax(), item.prediction.map.shape)
        assert rows.start - 4 <= y < rows.stop + 4
        assert columns.start - 4 <= x < columns.stop + 4


# -- weights packed for one size


def lite0() -> tuple[Backbone, TorchNetwork]:
    backbone = Backbone("efficientnet_lite0")
    network = backbone._network
    assert isinstance(network, TorchNetwork)
    return backbone, network


def packings(network: TorchNetwork) -> list[tuple[int, int]]:
    return [kept._packed[1] for kept in network._filters.values()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_do_not_depend_on_the_size_that_weights_are_packed_for(precision):
    images = [part(i, size) for i, size in enumerate((*BORDERED, Size(33, 65), Size(65, 33), Size(224, 224)))]
    fresh = [[m.clone() for m in Backbone("efficientnet_lite0", precision=precision)(image[None])] for image in images]
    one = Backbone("efficientnet_lite0", precision=precision)
    for _ in range(2):
        for image, expected in zip(images, fresh, strict=True):
            for found, features in zip(one(image[None]), expected, strict=True):
                assert apart(found.numpy(), features.numpy()) <= CLOSE


def test_weights_are_packed_for_a_size_that_stays():
    backbone, network = lite0()
    if type(next(iter(network._filters.values()))).__name__ != "_FusedFilter":
        pytest.skip("this processor packs no weights")
    wide, tall = part(0, Size(32, 64))[None], part(0, Size(64, 32))[None]
    backbone(wide)
    of_wide = packings(network)
    assert of_wide[0] == (32, 64)
    for _ in range(7):
        backbone(tall)
        backbone(wide)
    for _ in range(7):
        backbone(tall)
    assert packings(network) == of_wide  # images of many sizes do not pay for it
    backbone(tall)
    assert packings(network) == [(width, height) for height, width in of_wide]


# -- from the command line


def write_category(root: Path, names: Sequence[int]) -> dict[int, Path]:
    """A category of parts of many sizes; defect image i is called by the i-th name. Its path, by its number."""
    for i in range(8):
        parts.write(root / "tile/train/good" / f"{i:03}.png", parts.surface(i, *SIZES[i]))
    found = {}
    for i, size in enumerate(SIZES):
        image, mask = parts.surface(200 + i, *size), np.zeros(size, np.uint8)
        kind = "good" if i % 3 == 0 else "scratch"
        if kind == "scratch":
            box = slice(size.height // 4, size.height // 2), slice(size.width // 4, size.width // 2)
            image[box], mask[box] = (200, 30, 30), 255
            parts.write(root / "tile/ground_truth/scratch" / f"{names[i]:03}_mask.png", mask)
        found[i] = parts.write(root / "tile/test" / kind / f"{names[i]:03}.png", image)
    return found


def test_a_run_is_the_same_whatever_its_batches_and_the_order_of_files(uadctl, tmp_path):
    runs = {}
    for title, together, names in (("one", 1, FORWARD), ("mixed", 16, FORWARD), ("renamed", 3, SHUFFLED)):
        root = tmp_path / title
        images = write_category(root, names)
        uadctl(
            *("bench", "--dataset", "mvtec", "--root", root, "--model", "patchcore", "--set", "preprocess.size=64"),
            *("--set", f"run.batch_size={together}", "--set", f"run.dir={root / 'runs'}"),
        )
        (folder,) = (root / "runs").iterdir()
        unit = folder / "units/tile/vision_patchcore/0"
        with (unit / "scores.csv").open(encoding="utf-8", newline="") as table:
            rows = {row["path"]: row for row in csv.DictReader(table)}
        ours = {i: rows[path.relative_to(root / "tile").as_posix()] for i, path in images.items()}
        scores = np.array([float(ours[i]["score"]) for i in FORWARD])
        maps = [tifffile.imread(unit / ours[i]["map"]) for i in FORWARD]
        runs[title] = (scores, maps, json.loads((unit / "metrics.json").read_text(encoding="utf-8")), root)

        assert [field.shape for field in maps] == list(SIZES)
        truth = root / "tile/ground_truth/scratch"
        masks = [
            read_mask([truth / f"{images[i].stem}_mask.png"], size=SIZES[i]) if i % 3 else np.zeros(SIZES[i], np.uint8)
            for i in FORWARD
        ]
        metrics = runs[title][2]["metrics"]
        assert metrics["pixel_auroc"] == pytest.approx(compute_pixel_auroc(masks, maps), abs=1e-9)
        assert metrics["aupro_30"] == pytest.approx(compute_aupro(masks, maps), abs=1e-9)
        assert metrics["image_auroc"] == 1.0
        assert metrics["pixel_auroc"] > 0.9

    expected_scores, expected_maps, expected, _ = runs["one"]
    for title in ("mixed", "renamed"):
        scores, maps, found, _ = runs[title]
        assert apart(scores, expected_scores) <= CLOSE
        assert max(apart(a, b) for a, b in zip(maps, expected_maps, strict=True)) <= CLOSE
        assert found["metrics"]["pixel_auroc"] == pytest.approx(expected["metrics"]["pixel_auroc"], abs=1e-5)
