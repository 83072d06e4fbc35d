"""What anomalib does before and after its networks, as uadctl does it: compared with anomalib itself."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
import torch
from anomalib_files import MEAN, STD, quietly, transform_tree

from uadctl.errors import DataError
from uadctl.imaging.geometry import View
from uadctl.models.anomalib.preprocessing import PaddedView, Postprocessing, Preprocessing
from uadctl.records import Size

NO_ANOMALIB = "anomalib is not installed: pip install 'uadctl[anomalib]'"


def step(name: str, **given) -> dict:
    return {"class_path": name if "." in name else f"torchvision.transforms.v2.{name}", "init_args": given}


def compose(*steps: dict) -> dict:
    return step("Compose", transforms=list(steps))


SQUARE_PAD = step("anomalib.data.transforms.SquarePad")
NORMALIZE = step("Normalize", mean=list(MEAN), std=list(STD), inplace=False)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Noise, in which every error of half a pixel shows."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- the tree


def test_a_tree_becomes_resize_crop_and_normalisation():
    found = Preprocessing.of(transform_tree((40, 56), crop=(32, 48), antialias=False, interpolation="bicubic"))
    assert found == Preprocessing(
        resize=Size(40, 56), antialias=False, interpolation="bicubic", crop=Size(32, 48), mean=MEAN, std=STD
    )


def test_no_tree_is_no_transform():
    assert Preprocessing.of(None) == Preprocessing()
    x = Preprocessing().apply([picture(0, 5, 7)], inference="training")
    assert x.shape == (1, 3, 5, 7)
    assert torch.equal((x * 255).round().byte()[0].permute(1, 2, 0), torch.from_numpy(picture(0, 5, 7)))


def test_a_single_transform_needs_no_compose_and_composes_may_be_nested():
    assert Preprocessing.of(step("Resize", size=[8, 9])) == Preprocessing(resize=Size(8, 9))
    assert Preprocessing.of(compose(compose(step("Resize", size=8)), step("CenterCrop", size=4))) == Preprocessing(
        resize=8, crop=Size(4, 4)
    )


CANNOT = {
    "grey": (
        step("Grayscale", num_output_channels=3),
        "torchvision.transforms.v2.Grayscale {'num_output_channels': 3}",
    ),
    "random": (step("RandomCrop", size=[4, 4]), "torchvision.transforms.v2.RandomCrop {'size': [4, 4]}"),
    "crop first": (
        compose(step("CenterCrop", size=[4, 4]), step("Resize", size=[8, 8])),
        "torchvision.transforms.v2.Resize {'size': [8, 8]}",
    ),
    "normalised first": (
        compose(NORMALIZE, step("CenterCrop", size=[8, 8])),
        "torchvision.transforms.v2.CenterCrop {'size': [8, 8]}",
    ),
    "padded last": (
        compose(step("Resize", size=[8, 8]), SQUARE_PAD),
        "anomalib.data.transforms.SquarePad {}",
    ),
    "twice": (
        compose(step("Resize", size=[8, 8]), step("Resize", size=[6, 6])),
        "torchvision.transforms.v2.Resize {'size': [6, 6]}",
    ),
    "max_size": (
        step("Resize", size=[8], max_size=16),
        "torchvision.transforms.v2.Resize {'size': [8], 'max_size': 16}",
    ),
    "box": (
        step("Resize", size=[8, 8], interpolation="box"),
        "torchvision.transforms.v2.Resize {'size': [8, 8], 'interpolation': 'box'}",
    ),
    "no size": (step("Resize"), "torchvision.transforms.v2.Resize {}"),
    "empty size": (step("CenterCrop", size=[]), "torchvision.transforms.v2.CenterCrop {'size': []}"),
    "nothing left": (step("CenterCrop", size=[0, 3]), "torchvision.transforms.v2.CenterCrop {'size': [0, 3]}"),
    "one channel": (
        step("Normalize", mean=[0.5], std=[0.5]),
        "torchvision.transforms.v2.Normalize {'mean': [0.5], 'std': [0.5]}",
    ),
}


for _name, _tree, _said in (
    ("no deviation", step("Normalize", mean=[0.5] * 3, std=[0.5, 0, 0.5]), "[0.5, 0, 0.5]}"),
    ("words", step("Normalize", mean=[0.5] * 3, std=["a", "b", "c"]), "['a', 'b', 'c']}"),
    ("not a number", step("Normalize", mean=[0.5] * 3, std=[float("nan")] * 3), "[nan, nan, nan]}"),
):
    CANNOT[_name] = (_tree, f"torchvision.transforms.v2.Normalize {{'mean': [0.5, 0.5, 0.5], 'std': {_said}")
for _path in ("mine.Resize", "Resize", "torchvision.transforms.v3.Resize", "anomalib.data.transforms.Resize"):
    CANNOT[_path] = ({"class_path": _path, "init_args": {"size": [8, 8]}}, f"{_path} {{'size': [8, 8]}}")


def test_every_name_that_anomalib_reads_a_transform_by_is_known(anomalib):
    from anomalib.data.transforms import ExportableCenterCrop, SquarePad
    from torchvision.transforms import v2

    from uadctl.models.anomalib.preprocessing import _CLASSES

    known = (v2.Compose, v2.Resize, v2.CenterCrop, v2.Normalize, SquarePad, ExportableCenterCrop)
    assert len(_CLASSES) == 12
    for kind in known:
        assert _CLASSES[f"{kind.__module__}.{kind.__qualname__}"] == kind.__name__


@pytest.mark.parametrize("parts", [None, 3, "Resize", {"a": 1}])
def test_a_compose_of_no_list_is_refused(parts):
    with pytest.raises(DataError) as error:
        Preprocessing.of(step("Compose", transforms=parts))
    assert error.value.message == f"the checkpoint's transform is a Compose without a list of transforms: {parts}"


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_followed_back_to_the_file_is_refused(case):
    tree, said = CANNOT[case]
    with pytest.raises(DataError) as error:
        Preprocessing.of(tree)
    assert error.value.message == (
        f"the checkpoint's pre-processor has {said} at a place where uadctl cannot follow it: it knows a padding to a "
        "square, a resize, a centre crop and a normalisation, in this order"
    )


@pytest.mark.parametrize("tree", [["Resize"], {"class_path": "Resize"}, {"class_path": 3, "init_args": {}}, "Resize"])
def test_something_else_in_place_of_a_tree_is_refused(tree):
    with pytest.raises(DataError, match=r"^the checkpoint's transform is no tree of class_path and init_args: "):
        Preprocessing.of(tree)


# --- sizes, and the way back


def test_a_number_is_the_shorter_side_and_the_longer_one_is_cut_to_whole_pixels():
    assert Preprocessing(resize=64).view(Size(100, 151)).resized == (64, 96)  # 96.64
    assert Preprocessing(resize=64).view(Size(151, 100)).resized == (96, 64)


def test_half_a_pixel_of_a_crop_goes_to_the_even_side():
    assert Preprocessing(crop=Size(4, 4)).view(Size(7, 9)).box == (2, 2, 4, 4)  # 1.5 and 2.5


def test_a_crop_that_does_not_fit_is_an_error():
    with pytest.raises(DataError) as error:
        Preprocessing(resize=Size(32, 40), crop=Size(36, 36)).view(Size(90, 100))
    assert error.value.message == (
        "a crop of 36x36 does not fit into 32x40, the size that the model resizes an image of 90x100 to "
        "(height x width)"
    )


@pytest.mark.parametrize("size", [Size(4, 9), Size(9, 4), Size(8, 5), Size(6, 6)])
def test_the_map_of_a_padded_image_lies_on_its_own_pixels(size):
    view = Preprocessing(square=True).view(size)
    assert isinstance(view, PaddedView)
    assert view.original == size
    side = max(size)
    image = picture(1, *size)
    square = view.apply(image)
    assert square.shape == (side, side, 3)
    field = square[..., 0].astype(np.float32)
    assert np.array_equal(view.back(field), image[..., 0])
    with pytest.raises(ValueError, match=r"^planned for .* found 3x3$"):
        view.apply(picture(1, 3, 3))


def test_the_map_of_a_padded_resized_and_cropped_image():
    # 20x40 becomes 40x40 with 10 rows above, then 20x20, of which the middle 10x10 are looked at.
    view = Preprocessing(square=True, resize=Size(20, 20), crop=Size(10, 10)).view(Size(20, 40))
    back = view.back(np.ones((10, 10), np.float32))
    assert back.shape == (20, 40)
    assert np.isnan(back[:, :10]).all()
    assert np.isnan(back[:, 30:]).all()
    assert (back[:, 10:30] == 1).all()
    whole = View(Size(40, 40), Size(20, 20), view.box).back(np.arange(100, dtype=np.float32).reshape(10, 10))
    assert np.array_equal(view.back(np.arange(100, dtype=np.float32).reshape(10, 10)), whole[10:30], equal_nan=True)


# --- beside anomalib


@pytest.fixture(scope="module")
def anomalib():
    return pytest.importorskip("anomalib", reason=NO_ANOMALIB)


def theirs(preprocessor, image: np.ndarray, inference: str) -> torch.Tensor:
    """anomalib's input of the network."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    way = preprocessor.transform if inference == "training" else preprocessor.export_transform
    return x if way is None else way(x)


TREES = [
    transform_tree((40, 56)),
    transform_tree((40, 56), crop=(33, 40)),
    transform_tree((41, 57), crop=(32, 32), interpolation="bicubic"),
    transform_tree(48),
    transform_tree(64, interpolation="nearest"),
    transform_tree(64, interpolation="nearest-exact", antialias=False),
    compose(SQUARE_PAD, step("Resize", size=[44, 60], interpolation="bicubic", antialias=True), NORMALIZE),
    compose(SQUARE_PAD, step("Resize", size=[40], antialias=True), step("CenterCrop", size=[31, 30])),
    SQUARE_PAD,
    None,
]


@pytest.mark.parametrize("tree", TREES)
def test_inputs_equal_those_of_anomalibs_transforms(anomalib, tree):
    from anomalib.pre_processing import PreProcessor
    from anomalib.pre_processing.utils.spec import spec_to_transform

    before = PreProcessor(transform=spec_to_transform(tree))
    ours = Preprocessing.of(tree)
    for inference, (height, width) in itertools.product(("training", "exported"), ((90, 63), (50, 121))):
        images = [picture(i, height, width) for i in range(2)]
        expected = torch.cat([theirs(before, image, inference) for image in images])
        found = ours.apply(images, inference=inference)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
        assert found.shape[-2:] == ours.view(Size(height, width)).size


def test_inputs_equal_those_of_every_class_of_anomalib(anomalib):
    with quietly():
        from anomalib.models import image as package
        from anomalib.models.components.base import AnomalibModule
        from anomalib.pre_processing.utils.spec import transform_to_spec

        classes = [c for _, c in inspect.getmembers(package, inspect.isclass) if issubclass(c, AnomalibModule)]
        before = {c.__name__: c.configure_pre_processor() for c in classes}
    assert len(before) >= 33
    image = picture(7, 61, 84)
    for name, preprocessor in before.items():
        ours = Preprocessing.of(transform_to_spec(preprocessor.transform))
        for inference in ("training", "exported"):
            found = ours.apply([image], inference=inference)
            torch.testing.assert_close(
                found,
                theirs(preprocessor, image, inference),
                rtol=0,
                atol=2e-6,
                msg=lambda m, name=name: f"{name}: {m}",
            )


def test_the_two_ways_differ_where_an_image_shrinks():
    ours = Preprocessing.of(transform_tree((32, 32)))
    large, small = picture(0, 90, 90), picture(0, 20, 20)
    ways = [[ours.apply([x], inference=way) for way in ("training", "exported")] for x in (large, small)]
    assert (ways[0][0] - ways[0][1]).abs().max() > 0.5
    torch.testing.assert_close(ways[1][0], ways[1][1], rtol=0, atol=2e-6)


BUFFERS = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
NAN = float("nan")
RANGES = {
    "all": (0.6, 0.4, 0.1, 1.7, 0.05, 1.2),
    "no thresholds": (NAN, NAN, 0.1, 1.7, 0.05, 1.2),
    "no pixel threshold": (0.6, NAN, 0.1, 1.7, 0.05, 1.2),
    "no image threshold": (NAN, 0.4, 0.1, 1.7, 0.05, 1.2),
    "no range": (0.6, 0.4, NAN, NAN, NAN, NAN),
    "half a range": (0.6, 0.4, 0.1, NAN, NAN, 1.2),
    "one value": (0.5, 0.25, 0.5, 0.5, 0.25, 0.25),
    "one value without threshold": (NAN, NAN, 0.5, 0.5, 0.25, 0.25),
    "nothing": (NAN,) * 6,
}
SETTINGS = {
    "usual": {},
    "raw": {"enable_normalization": False},
    "no labels": {"enable_thresholding": False},
    "each its own": {"enable_threshold_matching": False},
    "sensitive": {"image_sensitivity": 0.8, "pixel_sensitivity": 0.3},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("ranges", RANGES)
def test_normalised_values_and_labels_equal_anomalibs(anomalib, ranges, settings):
    with quietly():
        from anomalib.data import InferenceBatch
        from anomalib.post_processing import PostProcessor

        after = PostProcessor(**SETTINGS[settings])
    values = dict(zip(BUFFERS, RANGES[ranges], strict=True))
    for name, value in values.items():
        getattr(after, name).copy_(torch.tensor(value))
    rng = np.random.default_rng(3)
    # What lies on the threshold, and beyond the range on both sides, is among them.
    scores = np.concatenate([rng.uniform(-0.5, 2.5, 40), [0.6, 0.4, 0.5, 0.25]]).astype(np.float32)
    maps = rng.uniform(-0.5, 2.5, (44, 3, 4)).astype(np.float32)
    maps[0, 0] = (0.6, 0.4, 0.5, 0.25)
    with torch.inference_mode():
        said = after(InferenceBatch(pred_score=torch.from_numpy(scores), anomaly_map=torch.from_numpy(maps)))

    def number(name: str) -> float | None:
        value = float(getattr(after, name))
        return None if np.isnan(value) else value

    given = SETTINGS[settings]
    ours = Postprocessing(
        **{name.removeprefix("_"): number(name) for name in BUFFERS},
        normalises=given.get("enable_normalization", True),
        thresholds=given.get("enable_thresholding", True),
        matches=given.get("enable_threshold_matching", True),
        image_sensitivity=given.get("image_sensitivity", 0.5),
        pixel_sensitivity=given.get("pixel_sensitivity", 0.5),
    )
    for of, raw, normal, label in (
        ("image", scores, said.pred_score, said.pred_label),
        ("pixel", maps, said.anomaly_map, said.pred_mask),
    ):
        found = ours.normalised(raw, of=of)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, normal.numpy(), rtol=0, atol=1e-6)
        verdict = ours.is_anomalous(raw, of=of)
        if label is None:
            assert verdict is None
        else:
            assert np.array_equal(verdict, label.numpy())
