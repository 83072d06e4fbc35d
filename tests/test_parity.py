"""Models of anomalib held against anomalib: its two ways for an image, and what it would report itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import parts
import pytest
import test_schemas
from jsonschema import Draft202012Validator

from uadctl.errors import DataError, RunError
from uadctl.imaging.geometry import Geometry
from uadctl.metrics import compute_pixel_auroc
from uadctl.models.anomalib import AnomalibCheckpoint, Trained
from uadctl.models.anomalib.predictor import Raw
from uadctl.models.anomalib.preprocessing import Inference, Postprocessing, Preprocessing
from uadctl.parity import Answer, compare, label_threshold, why_never
from uadctl.plan import Cell, make_plan
from uadctl.progress import Silent
from uadctl.records import Size
from uadctl.runs.documents import document_schema
from uadctl.runs.fitted import Calibration, Fitted
from uadctl.spec import Overrides, RunSpec, read_spec
from uadctl.thresholds import Threshold

SIZE = (8, 12)
# Of a category: path below it, the score on the training way and on the exported way, defect or not.
IMAGES = (
    ("test/good/000.png", 10, 10, 0),
    ("test/good/001.png", 20, 26, 0),
    ("test/good/002.png", 30, 29, 0),
    ("test/scratch/000.png", 30, 33, 1),
    ("test/scratch/001.png", 60, 20, 1),
    ("test/scratch/002.png", 90, 100, 1),
)
ALL = Postprocessing(
    image_threshold=30.0, image_min=10.0, image_max=90.0, pixel_threshold=100.0, pixel_min=0.0, pixel_max=200.0
)
HALF = Preprocessing(resize=Size(4, 6))


@dataclass
class Channels:
    """A model whose maps are channels of the image: red on the training way, green on the exported way.

    Scores are the first pixel of the map. Every other pixel is looked at where images are resized to half their size.
    """

    model: str | None = "patchcore"
    preprocessing: Preprocessing | None = field(default_factory=Preprocessing)
    postprocessing: Postprocessing | None = ALL
    inferences: tuple[Inference, ...] = ("training", "exported")
    is_raw: bool = True
    maps: bool = True
    asked: list[tuple[Inference, int]] = field(default_factory=list)

    def predict(self, images: Sequence[np.ndarray], *, inference: Inference) -> list[Raw]:
        self.asked.append((inference, len(images)))
        said = []
        for image in images:
            channel = image[..., 0 if inference == "training" else 1].astype(np.float32)
            score = float(channel[0, 0])
            if self.preprocessing is not None:
                view = self.preprocessing.view(Size(*channel.shape))
                step = channel.shape[0] // view.resized.height
                y0, x0, height, width = view.box
                channel = channel[::step, ::step][y0 : y0 + height, x0 : x0 + width]
            said.append(Raw(score, channel if self.maps else None))
        return said

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        return {"nothing": torch.zeros(1)}, {"kind": "channels"}

    def facts(self) -> dict[str, Any]:
        return {}


def draw(path: str, training: int, exported: int, defect: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask: a defect of 2x5 pixels, of which the model finds those at the left better."""
    image, mask = np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.uint8)
    rng = np.random.default_rng([training, exported, defect])
    image[..., :2] = rng.integers(0, 120, (*SIZE, 2))
    if defect:
        mask[3:5, 4:9] = 255
        image[3:5, 4:9, 0] = rng.integers(90, 220, (2, 5))
        image[3:5, 4:9, 1] = rng.integers(90, 180, (2, 5))
    image[0, 0, :2] = training, exported
    return image, mask


@pytest.fixture
def root(tmp_path) -> Path:
    """A data set in MVTec AD's layout with the images of IMAGES as the category tile."""
    home = tmp_path / "data/tile"
    for i in range(2):
        parts.write(home / f"train/good/{i:03}.png", draw("", 15 + i, 15 + i, 0)[0])
    for image in IMAGES:
        pixels, mask = draw(*image)
        parts.write(home / image[0], pixels)
        if image[3]:
            parts.write(home / image[0].replace("test", "ground_truth").replace(".png", "_mask.png"), mask)
    return tmp_path / "data"


def plan(root: Path, *sets: str) -> tuple[RunSpec, Cell]:
    overrides = Overrides(dataset="mvtec", root=str(root), model="patchcore", pretrained=False, set=sets)
    spec = read_spec(None, overrides).spec
    return spec, make_plan(spec).cells[0]


def fitted(predictor: Any = None, *, threshold: float | None = 28.0, geometry: Geometry | None = None, **given: Any):
    detector = AnomalibCheckpoint(checkpoint_path="", batch_size=4, **given)
    if predictor is not None:
        detector._hold(predictor)
    image = Threshold(value=threshold, source="validation") if threshold else Threshold(value=None, reason="no images")
    calibration = Calibration(image, None, ())
    return Fitted("anomalib", {}, detector, geometry or Geometry(size=None), calibration)


MEASURED = {
    "metrics": {"image_auroc": 0.75, "tp": 3, "fp": 1, "fn": 0, "tn": 2, "pixel_auroc": 0.5},
    "reasons": {},
    "pixel_threshold": 110.0,
}


def answer(root: Path, question, predictor=None, *, sets=(), measured=MEASURED, **given: Any) -> Answer:
    spec, cell = plan(root, *sets)
    found = compare(spec, cell, fitted(predictor or Channels(), **given), [question], measured=measured)
    assert list(found) == [question]
    document = {"schema": 1, **found[question].document()}
    assert list(Draft202012Validator(document_schema(question)).iter_errors(document)) == []
    json.dumps(document, allow_nan=False)
    return found[question]


def result(*args: Any, **given: Any) -> dict[str, Any]:
    found = answer(*args, **given)
    assert found.reason is None
    assert found.result is not None
    return found.result


def maps(way: int) -> list[np.ndarray]:
    return [draw(*image)[0][..., way].astype(np.float32) for image in IMAGES]


def masks() -> list[np.ndarray]:
    return [draw(*image)[1] for image in IMAGES]


# --- parity


def test_scores_maps_labels_and_auroc_of_both_ways(root):
    predictor = Channels()
    found = result(root, "parity", predictor)
    m = found["metrics"]
    # Differences of the scores: 0, 6, 1, 3, 40, 10. Quartiles of 10, 20, 30, 30, 60, 90: 22.5 and 52.5.
    assert (m["score_difference_max"], m["score_difference_mean"], m["score_iqr"]) == (40, 10, 30)
    assert m["score_difference_max_share"] == pytest.approx(40 / 30)
    assert m["score_difference_mean_share"] == pytest.approx(10 / 30)
    apart = np.abs(np.stack(maps(0)) - np.stack(maps(1)))
    assert m["map_difference_max"] == apart.max()
    assert m["map_difference_mean"] == pytest.approx(apart.mean())
    # At 28: anomalous are 30, 30, 60, 90 there, and 29, 33, 100 here; above (not at) 30: 60, 90, and 33, 100.
    assert (m["flipped"], m["flipped_to_anomaly"], m["flipped_to_good"]) == (1, 0, 1)
    assert (m["anomalib_flipped"], m["anomalib_flipped_to_anomaly"], m["anomalib_flipped_to_good"]) == (2, 1, 1)
    # 9 pairs; of 30 against 10, 20, 30: 2.5; of 60 and 90 all. Of 33 all, of 20 against 10, 26, 29: 1; of 100 all.
    assert m["image_auroc_training"] == pytest.approx(8.5 / 9)
    assert m["image_auroc_exported"] == pytest.approx(7 / 9)
    assert m["image_auroc_difference"] == pytest.approx(-1.5 / 9)
    for way, name in enumerate(("training", "exported")):
        assert m[f"pixel_auroc_{name}"] == pytest.approx(compute_pixel_auroc(masks(), maps(way)), abs=1e-12)
    assert m["pixel_auroc_difference"] == m["pixel_auroc_exported"] - m["pixel_auroc_training"]
    assert found["reasons"] == {}
    assert found["counts"] == {"images": 6, "broken_images": 0, "maps": 6}
    assert (found["inference"], found["threshold"], found["anomalib_threshold"]) == ("training", 28.0, 30.0)
    assert (found["pixel_mode"], found["bounds"]) == ("exact", {})
    assert sorted(predictor.asked) == [("exported", 2), ("exported", 4), ("training", 2), ("training", 4)]


def test_the_five_images_that_differ_most(root):
    most = result(root, "parity")["most_different"]
    assert [(m["path"], m["training"], m["exported"]) for m in most] == [
        ("test/scratch/001.png", 60, 20),
        ("test/scratch/002.png", 90, 100),
        ("test/good/001.png", 20, 26),
        ("test/scratch/000.png", 30, 33),
        ("test/good/002.png", 30, 29),
    ]


def test_maps_are_compared_at_the_models_resolution_and_measured_at_the_files(root):
    found = result(root, "parity", Channels(preprocessing=Preprocessing(resize=Size(4, 6), crop=Size(2, 4))))
    a, b = (np.stack(maps(way))[:, ::2, ::2][:, 1:3, 1:5] for way in (0, 1))
    assert found["metrics"]["map_difference_max"] == np.abs(a - b).max()
    assert found["metrics"]["map_difference_mean"] == pytest.approx(np.abs(a - b).mean())
    view = HALF.view(Size(*SIZE))
    view = dataclasses.replace(view, box=type(view.box)(1, 1, 2, 4))
    for found_auroc, way in (
        (found["metrics"]["pixel_auroc_training"], a),
        (found["metrics"]["pixel_auroc_exported"], b),
    ):
        fields = [view.back(small) for small in way]
        assert np.isnan(fields[0]).any()
        assert found_auroc == pytest.approx(compute_pixel_auroc(masks(), fields), abs=1e-12)


NEVER_VALIDATED = (
    "the checkpoint has no {} threshold, which anomalib finds while validating: its labels are raw values above 0.5, "
    "which mean nothing"
)


def test_what_is_undefined_is_null_with_a_reason(root):
    found = result(
        root,
        "parity",
        Channels(maps=False, postprocessing=Postprocessing()),
        threshold=None,
        sets=["metrics.pixel=false", "dataset.limit_test=3"],
    )
    assert {name: why for name, why in found["reasons"].items() if "auroc" not in name} == {
        "map_difference_max": "the model makes no maps",
        "map_difference_mean": "the model makes no maps",
        "flipped": "no images",
        "flipped_to_anomaly": "no images",
        "flipped_to_good": "no images",
        "anomalib_flipped": NEVER_VALIDATED.format("image"),
        "anomalib_flipped_to_anomaly": NEVER_VALIDATED.format("image"),
        "anomalib_flipped_to_good": NEVER_VALIDATED.format("image"),
    }
    assert found["anomalib_threshold"] == 0.5


def test_one_kind_of_image_has_no_auroc(root):
    found = result(root, "parity", sets=["dataset.limit_test=1"])
    assert found["reasons"] == {
        "score_difference_max_share": "half of the scores are equal: they have no spread",
        "score_difference_mean_share": "half of the scores are equal: they have no spread",
        **dict.fromkeys(
            ("image_auroc_training", "image_auroc_exported", "image_auroc_difference"),
            "there is no defect image (1 normal)",
        ),
        **dict.fromkeys(
            ("pixel_auroc_training", "pixel_auroc_exported", "pixel_auroc_difference"),
            "the masks have no defect pixel (images: 1, pixels: 96)",
        ),
    }
    assert found["pixel_mode"] is None


def test_without_masks_or_pixel_metrics_the_reason_is_said(root):
    found = result(root, "parity", sets=["metrics.pixel=false"])
    assert found["reasons"] == dict.fromkeys(
        ("pixel_auroc_training", "pixel_auroc_exported", "pixel_auroc_difference"), "[metrics] pixel = false"
    )
    for mask in root.glob("tile/ground_truth/*/*"):
        mask.unlink()
    found = result(root, "parity")
    assert set(found["reasons"].values()) == {"the data set has no masks"}
    assert len(found["reasons"]) == 3


def test_beyond_the_memory_pixel_metrics_are_binned_with_their_bounds(root):
    # 8 x 12 pixels of 6 images, 5 bytes each, twice: 5760 bytes.
    exact = result(root, "parity", sets=["metrics.memory='5.76kB'"])
    binned = result(root, "parity", sets=["metrics.memory='5.759kB'"])
    assert (exact["pixel_mode"], exact["bounds"]) == ("exact", {})
    assert binned["pixel_mode"] == "streaming"
    assert list(binned["bounds"]) == ["pixel_auroc_training", "pixel_auroc_exported", "pixel_auroc_difference"]
    assert all(0 < bound < 1e-11 for bound in binned["bounds"].values())  # no more values than bins
    assert binned["metrics"]["pixel_auroc_training"] == pytest.approx(exact["metrics"]["pixel_auroc_training"])


def test_an_image_that_cannot_be_read_is_left_out_and_counted(root):
    (root / "tile" / IMAGES[4][0]).write_bytes(b"no image")
    found = result(root, "parity")
    assert found["counts"] == {"images": 5, "broken_images": 1, "maps": 5}
    assert found["metrics"]["score_difference_max"] == 10
    assert [m["path"] for m in found["most_different"]][:2] == ["test/scratch/002.png", "test/good/001.png"]
    assert result(root, "anomalib")["counts"]["broken_images"] == 1


def test_a_score_that_is_no_number_ends_the_comparison(root):
    class Broken(Channels):
        def predict(self, images, *, inference):
            return [Raw(float("nan") if inference == "exported" else 1.0, None) for _ in images]

    with pytest.raises(RunError) as error:
        answer(root, "parity", Broken())
    assert error.value.message == f"{root}/tile/test/good/000.png: the model gave the score nan on the exported way"


# --- anomalib's own numbers


TIED = dataclasses.replace(ALL, image_threshold=60.0, image_min=59.0, image_max=61.0)


def test_anomalibs_image_numbers_are_of_normalised_cut_scores(root):
    found = result(root, "anomalib", Channels(postprocessing=TIED))
    # 10, 20, 30 and 30, 60, 90 become 0, 0, 0 and 0, 0.5, 1: of 9 pairs, three tie. Above 0.5 is only 90.
    assert found["anomalib"]["metrics"]["image_AUROC"] == pytest.approx(7.5 / 9)
    assert found["anomalib"]["metrics"]["image_F1Score"] == 0.5
    assert found["uadctl"]["metrics"]["image_AUROC"] == 0.75  # of metrics.json, as are the next: 3 found, 1 false alarm
    assert found["uadctl"]["metrics"]["image_F1Score"] == pytest.approx(6 / 7)
    assert found["uadctl"]["metrics"]["pixel_AUROC"] == 0.5
    assert found["differences"]["image_AUROC"] == pytest.approx(0.75 - 7.5 / 9)
    assert found["causes"]["image_AUROC"] == [
        "ties: anomalib's normalisation cuts 5 of 6 scores to 0 or 1; uadctl ranks raw ones"
    ]
    assert found["causes"]["image_F1Score"] == [
        "threshold: anomalib's 60 is from the validation set of its training, which by default is the test set; "
        "uadctl's comes from good images alone",
        "on the line: 1 of 6 images at anomalib's threshold but for rounding, which it calls normal",
    ]
    assert found["counts"]["images"] == 6
    assert (found["counts"]["images_cut"], found["counts"]["images_at_threshold"]) == (5, 1)
    assert (found["normalised_image_threshold"], found["normalised_pixel_threshold"]) == (0.5, 0.5)
    assert found["postprocessing"] == TIED.facts()


def f1(called: np.ndarray, defect: np.ndarray) -> float:
    return 2 * (called & defect).sum() / (called.sum() + defect.sum())


@pytest.mark.parametrize(
    ("preprocessing", "cause"),
    [
        (Preprocessing(), None),
        (HALF, "resolution: anomalib measures at 4x6, with masks resized likewise; uadctl in the file's 8x12 pixels"),
        (
            Preprocessing(resize=Size(4, 6), crop=Size(2, 4)),
            "resolution: anomalib measures at 4x6, of which a crop leaves 2x4, with masks resized likewise; "
            "uadctl in the file's 8x12 pixels",
        ),
    ],
)
def test_anomalibs_pixel_numbers_are_of_the_models_resolution(root, preprocessing, cause):
    found = result(root, "anomalib", Channels(preprocessing=preprocessing))
    raw, defect = np.stack(maps(0)), np.stack(masks()) > 0
    if preprocessing.resize is not None:
        raw, defect = raw[:, ::2, ::2], defect[:, ::2, ::2]  # the nearest pixel is the first of two
    if preprocessing.crop is not None:
        raw, defect = raw[:, 1:3, 1:5], defect[:, 1:3, 1:5]
    normalised = np.clip((raw - 100) / 200 + 0.5, 0, 1)
    theirs = found["anomalib"]["metrics"]
    assert theirs["pixel_AUROC"] == pytest.approx(compute_pixel_auroc(defect, normalised), abs=1e-12)
    assert theirs["pixel_F1Score"] == pytest.approx(f1(raw > 100, defect))
    n, cut = normalised.size, int(((normalised == 0) | (normalised == 1)).sum())
    assert cut > 0
    ties = f"ties: anomalib's normalisation cuts {cut} of {n} pixels to 0 or 1; uadctl ranks raw ones"
    tied = max((normalised == 0).sum(), (normalised == 1).sum()) > 1
    assert tied == (preprocessing.crop is None)
    assert found["causes"]["pixel_AUROC"] == [*([ties] if tied else []), *([cause] if cause else [])]
    assert (found["counts"]["pixels"], found["counts"]["pixels_cut"]) == (n, cut)
    assert found["counts"]["maps"] == 6


def test_our_f1_of_pixels_is_at_the_runs_threshold_in_the_files_pixels(root):
    found = result(root, "anomalib")
    raw, defect = np.stack(maps(0)), np.stack(masks()) > 0
    assert found["uadctl"]["metrics"]["pixel_F1Score"] == pytest.approx(f1(raw >= 110, defect))
    found = result(root, "anomalib", Channels(preprocessing=Preprocessing(resize=Size(4, 6), crop=Size(2, 2))))
    view = Preprocessing(resize=Size(4, 6), crop=Size(2, 2)).view(Size(*SIZE))
    fields = np.stack([view.back(small[::2, ::2][1:3, 2:4]) for small in maps(0)])
    looked_at = ~np.isnan(fields)
    assert not looked_at[defect].all()
    assert found["uadctl"]["metrics"]["pixel_F1Score"] == pytest.approx(f1(fields >= 110, defect & looked_at))


def test_the_other_way_of_our_numbers_is_a_cause(root):
    found = result(root, "anomalib", inference="exported")
    way = "uadctl went the exported way, anomalib the training way"
    assert found["inference"] == "exported"
    assert {name: way in causes for name, causes in found["causes"].items()} == dict.fromkeys(found["causes"], True)
    assert len(found["causes"]) == 4
    assert found["anomalib"]["metrics"]["image_AUROC"] == pytest.approx(8.5 / 9)
    raw, defect = np.stack(maps(1)), np.stack(masks()) > 0
    assert found["uadctl"]["metrics"]["pixel_F1Score"] == pytest.approx(f1(raw >= 110, defect))


SIGMOID = (
    "the checkpoint does not normalise, and torchmetrics puts those batches that have values outside of 0 to 1 through "
    "a sigmoid: anomalib's number depends on the batches"
)


def test_a_checkpoint_that_was_never_validated_has_no_numbers_of_its_own(root):
    found = result(root, "anomalib", Channels(postprocessing=Postprocessing()))
    assert found["anomalib"]["metrics"] == dict.fromkeys(found["anomalib"]["metrics"])
    assert found["anomalib"]["reasons"] == {
        "image_AUROC": SIGMOID,
        "image_F1Score": NEVER_VALIDATED.format("image"),
        "pixel_AUROC": SIGMOID,
        "pixel_F1Score": NEVER_VALIDATED.format("pixel"),
    }
    assert found["uadctl"]["metrics"]["image_AUROC"] == 0.75
    assert found["differences"] == dict.fromkeys(found["differences"])
    assert len(found["differences"]) == 4


def test_raw_values_within_0_and_1_are_measured_as_they_are(root):
    class Small(Channels):
        def predict(self, images, *, inference):
            return [Raw(r.score / 255, r.map / 255) for r in super().predict(images, inference=inference)]

    found = result(root, "anomalib", Small(postprocessing=Postprocessing(normalises=False, image_threshold=0.1)))
    assert found["anomalib"]["metrics"]["image_AUROC"] == pytest.approx(8.5 / 9)
    raw, defect = np.stack(maps(0)), np.stack(masks()) > 0
    assert found["anomalib"]["metrics"]["pixel_AUROC"] == pytest.approx(compute_pixel_auroc(defect, raw), abs=1e-12)
    # anomalib asks for more than 0.5, whatever the threshold.
    assert found["anomalib"]["metrics"]["pixel_F1Score"] == pytest.approx(f1(raw / 255 > 0.5, defect))
    assert found["causes"]["image_F1Score"] == [
        "threshold: anomalib compares raw values with 0.5, since it does not normalise"
    ]
    assert found["counts"]["pixels_cut"] == 0


def test_scores_on_the_threshold_but_for_rounding_are_normal_as_they_are_to_anomalib(root):
    # Of a range of 80: 2.5e-6 below the scores of 30 they lie on it, 2.5e-5 below they do not.
    near = dataclasses.replace(ALL, image_threshold=30 - 2e-4, pixel_threshold=100 - 1e-4)
    found = result(root, "anomalib", Channels(postprocessing=near))
    assert found["counts"]["images_at_threshold"] == 2
    assert found["anomalib"]["metrics"]["image_F1Score"] == pytest.approx(4 / 5)  # 60 and 90, of three
    raw, defect = np.stack(maps(0)), np.stack(masks()) > 0
    assert (raw == 100).any()
    assert found["anomalib"]["metrics"]["pixel_F1Score"] == pytest.approx(f1(raw > 100, defect))
    assert result(root, "parity", Channels(postprocessing=near))["metrics"]["anomalib_flipped"] == 2
    far = dataclasses.replace(ALL, image_threshold=30 - 2e-3)
    found = result(root, "anomalib", Channels(postprocessing=far))
    assert found["counts"]["images_at_threshold"] == 0
    assert found["anomalib"]["metrics"]["image_F1Score"] == pytest.approx(6 / 7)  # 30, 60 and 90, and a good 30


def test_a_range_without_a_threshold_has_its_middle(root):
    found = result(root, "anomalib", Channels(postprocessing=dataclasses.replace(ALL, image_threshold=None)))
    assert found["causes"]["image_F1Score"][0].startswith(
        "threshold: anomalib's 100 is from the validation set"
    )  # matches
    bare = dataclasses.replace(ALL, image_threshold=None, matches=False)
    found = result(root, "anomalib", Channels(postprocessing=bare))
    # Above 50 of 10 to 90: 60 and 90 of three.
    assert found["anomalib"]["metrics"]["image_F1Score"] == pytest.approx(4 / 5)
    assert found["causes"]["image_F1Score"] == [
        "threshold: anomalib's is the middle of its range, having none",
    ]


def test_no_labels_no_f1(root):
    found = result(root, "anomalib", Channels(postprocessing=dataclasses.replace(ALL, thresholds=False)))
    reason = "the checkpoint's post-processor gives no labels"
    assert found["anomalib"]["reasons"] == {"image_F1Score": reason, "pixel_F1Score": reason}
    assert found["causes"]["image_F1Score"] == []


def test_what_of_ours_is_undefined_keeps_its_reason(root):
    measured = {
        "metrics": {"image_auroc": None, "tp": None, "fp": None, "fn": None, "tn": None, "pixel_auroc": None},
        "reasons": {"image_auroc": "one kind", "tp": "no threshold", "pixel_auroc": "no maps"},
        "pixel_threshold": None,
    }
    found = result(root, "anomalib", measured=measured)
    assert found["uadctl"]["reasons"] == {
        "image_AUROC": "one kind",
        "image_F1Score": "no threshold",
        "pixel_AUROC": "no maps",
        "pixel_F1Score": "no maps",
    }
    assert list(found["differences"].values()) == [None] * 4
    found = result(root, "anomalib", measured={**MEASURED, "pixel_threshold": None})
    assert found["uadctl"]["reasons"] == {"pixel_F1Score": "the run has no pixel threshold"}
    found = result(root, "anomalib", Channels(maps=False), sets=["dataset.limit_test=1"])
    assert found["anomalib"]["reasons"] == {
        "image_AUROC": "there is no defect image (1 normal)",
        "image_F1Score": "there is no defect image",
        "pixel_AUROC": "no image has a map and a mask",
        "pixel_F1Score": "no image has a map and a mask",
    }
    assert found["causes"]["pixel_AUROC"] == []


def test_a_score_alone_at_an_end_of_the_range_ties_with_none(root):
    found = result(root, "anomalib", Channels(postprocessing=dataclasses.replace(ALL, image_max=100.0)))
    assert found["counts"]["images_cut"] == 1  # 90, more than half a range above the threshold of 30
    assert found["causes"]["image_AUROC"] == []


def test_a_map_that_is_not_of_the_inputs_size_is_said(root):
    class Coarse(Channels):
        def predict(self, images, *, inference):
            return [Raw(r.score, r.map[:2, :3]) for r in super().predict(images, inference=inference)]

    found = result(root, "anomalib", Coarse())
    odd = "the model's map is 2x3, its input 8x12 (height x width): anomalib cannot lay it over the mask"
    assert found["anomalib"]["reasons"] == {"pixel_AUROC": odd, "pixel_F1Score": odd}
    assert found["uadctl"]["metrics"]["pixel_F1Score"] is not None


def test_a_defect_without_a_mask_counts_for_images_only(root):
    (root / "tile/ground_truth/scratch/001_mask.png").unlink()
    found = result(root, "anomalib")
    assert (found["counts"]["maps"], found["counts"]["maps_without_mask"], found["counts"]["images"]) == (5, 1, 6)
    assert found["counts"]["pixels"] == 5 * 96


def test_masks_go_through_torchvisions_own_way_of_resizing_them():
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from uadctl.parity import _mask_of_model

    rng = np.random.default_rng(0)
    for original, resized, crop in (
        ((37, 53), (16, 24), (9, 12)),
        ((10, 10), (25, 33), (24, 32)),
        ((8, 8), (8, 8), (8, 8)),
    ):
        mask = rng.integers(0, 2, original).astype(np.uint8)
        preprocessing = Preprocessing(resize=Size(*resized), crop=Size(*crop))
        view = preprocessing.view(Size(*original))
        transform = v2.Compose([v2.Resize(resized), v2.CenterCrop(crop)])
        wanted = transform(tv_tensors.Mask(torch.from_numpy(mask)[None]))[0].numpy()
        assert np.array_equal(_mask_of_model(mask, view.resized, view.box), wanted)


# --- who can be asked


def test_why_a_model_cannot_be_asked(root):
    one_way = Channels(inferences=("exported",), preprocessing=None, postprocessing=None, is_raw=False)
    assert answer(root, "parity", one_way) == Answer(reason="the file has one way for images only, the exported one")
    inside = "anomalib's thresholds and normalisation are inside the file, where they cannot be read"
    assert answer(root, "anomalib", one_way) == Answer(reason=inside)
    assert answer(root, "anomalib", Channels(inferences=("exported",))) == Answer(
        reason="the file lacks the training way, which anomalib itself measures"
    )
    changed = "[preprocess] changes the images before the model sees them, which anomalib itself would not do"
    assert answer(root, "anomalib", geometry=Geometry(size=64)) == Answer(reason=changed)
    given = AnomalibCheckpoint(checkpoint_path="", inferencer=object())
    assert why_never(given, "parity") == "an inferencer was handed in, and no file of anomalib's"
    from uadctl.models.patchcore import PatchCore

    assert why_never(PatchCore(pretrained=False), "anomalib") == "the model is not one of anomalib's"


def test_parity_follows_the_runs_own_preprocessing(root):
    found = result(root, "parity", geometry=Geometry(size=None, crop=Size(4, 6)))
    apart = np.abs(np.stack(maps(0)) - np.stack(maps(1)))[:, 2:6, 3:9]
    assert found["metrics"]["map_difference_max"] == apart.max()
    assert found["metrics"]["map_difference_mean"] == pytest.approx(apart.mean())


def test_both_questions_are_answered_in_one_pass(root):
    predictor, progress = Channels(), Silent()
    spec, cell = plan(root)
    found = compare(spec, cell, fitted(predictor), ["parity", "anomalib"], measured=MEASURED, progress=progress)
    assert list(found) == ["parity", "anomalib"]
    assert found["parity"] == answer(root, "parity")
    assert found["anomalib"] == answer(root, "anomalib")
    assert len(predictor.asked) == 4
    assert sum(n for _, n in predictor.asked) == 2 * len(IMAGES)
    only = Channels()
    compare(spec, cell, fitted(only), ["anomalib"], measured=MEASURED)
    assert only.asked == [("training", 4), ("training", 2)]


@pytest.mark.parametrize("question", ["parity", "anomalib"])
def test_every_key_of_a_document_has_its_line_in_the_schema(root, question):
    schema = document_schema(question)
    assert test_schemas.kept(question) == json.loads(json.dumps(schema)), "uadctl schema --write specs"
    whole = {"schema": 1, **answer(root, question).document()}
    assert test_schemas.properties(schema) - test_schemas.used(schema, whole) == set()
    valid = Draft202012Validator(schema).is_valid
    assert valid({"schema": 1, **Answer(reason="why").document()})
    assert not valid({**whole, "banana": 1})
    assert not valid({**whole, "result": {**whole["result"], "banana": 1}})
    assert len(whole["result"]) >= 9
    for key in whole["result"]:
        assert not valid({**whole, "result": {k: v for k, v in whole["result"].items() if k != key}}), key


# --- on the command line


@pytest.fixture
def opened(monkeypatch) -> list[Channels]:
    """Every file m.ckpt, and every model of a run folder, is a `Channels`; returned are those that were opened."""
    from uadctl.models.anomalib import checkpoint, opening

    found: list[Channels] = []

    def open_file(path, *, model, trusted, device):
        if not Path(path).is_file():
            raise DataError(f"{path}: there is no such file")
        one_way = Path(path).suffix == ".onnx"
        found.append(Channels(inferences=("exported",)) if one_way else Channels())
        return found[-1]

    def restore(tensors, facts, *, device):
        found.append(Channels())
        return found[-1]

    monkeypatch.setattr(opening, "open_file", open_file)
    monkeypatch.setattr(opening, "restore", restore)
    monkeypatch.setattr(checkpoint, "format_of", lambda path: "onnx" if Path(path).suffix == ".onnx" else "ckpt")
    monkeypatch.setattr(checkpoint, "looks_native", lambda path: True)
    return found


@pytest.fixture
def options(root) -> list[str]:
    for name in ("m.ckpt", "m.onnx"):
        (root.parent / name).touch()
    model = ["--model", "vision_anomalib_checkpoint", "--checkpoint-path", "m.ckpt"]
    return ["--dataset", "mvtec", "--root", str(root), *model]


def documents(run: str) -> dict[str, dict[str, Any]]:
    return {p.stem: json.loads(p.read_text()) for p in Path(run).glob("units/*/*/*/*.json")}


def test_the_command_writes_and_prints_both_answers(uadctl, options, opened):
    plain = uadctl("bench", *options, "--json").json
    assert (plain["parity"], plain["anomalib"]) == (None, None)
    document = uadctl("bench", *options, "--parity", "--protocol", "anomalib", "--json").json
    files = documents(document["run"])
    label = "vision_anomalib_checkpoint"
    for question in ("parity", "anomalib"):
        assert list(Draft202012Validator(document_schema(question)).iter_errors(files[question])) == []
        found = document[question]["tile"][label]["0"]
        assert {"schema": 1, **found} == files[question]
        assert found["reason"] is None
    found = document["parity"]["tile"][label]["0"]["result"]
    assert found["metrics"]["score_difference_max"] == 40
    measured = document["results"]["tile"][label]["0"]["metrics"]
    assert found["metrics"]["image_auroc_training"] == measured["image_auroc"]
    assert found["metrics"]["pixel_auroc_training"] == measured["pixel_auroc"]
    ours = document["anomalib"]["tile"][label]["0"]["result"]["uadctl"]["metrics"]
    assert (ours["image_AUROC"], ours["pixel_AUROC"]) == (measured["image_auroc"], measured["pixel_auroc"])
    same, asked = (next(Path(d["run"]).glob("units/*/*/*/metrics.json")).read_bytes() for d in (plain, document))
    assert same == asked


def test_the_tables(uadctl, options, opened):
    lines = [
        " ".join(line.split())
        for line in uadctl("bench", *options, "--parity", "--protocol", "anomalib").out.splitlines()
    ]
    for line in (
        "tile 6 40 10 1.333 125 40.76 0 2",
        "tile 0.9444 0.7778 -0.1667 0.9682 0.9494 -0.0188",
        "tile test/scratch/001.png 60 20",
        "tile image_AUROC 0.9444 0.9444 0.0000",
        "pixel_F1Score 0.3506 0.5714 0.2208",
        "tile: ties: anomalib's normalisation cuts 17 of 576 pixels to 0 or 1; uadctl ranks raw ones (pixel_AUROC)",
    ):
        assert line in lines


def test_a_finished_run_can_be_asked_later_and_each_question_once(uadctl, options, opened):
    first = uadctl("bench", *options, "--parity", "--json").json
    before = documents(first["run"])
    opened.clear()
    again = uadctl("bench", "--resume", first["run"], "--parity", "--protocol", "anomalib", "--json").json
    assert again["run"] == first["run"]
    assert again["parity"] == first["parity"]
    # The run's model, once to see whether it can be asked; never the file.
    assert [[way for way, _ in one.asked] for one in opened] == [[], ["training"]]
    after = documents(first["run"])
    assert after.pop("anomalib")["result"] is not None
    assert after == before
    assert json.loads((Path(first["run"]) / "run.json").read_text())["status"] == "done"
    opened.clear()
    assert uadctl("bench", "--resume", first["run"], "--parity", "--json").json["parity"] == first["parity"]
    assert opened == []


def test_a_finished_run_is_asked_without_its_file_and_without_trust(uadctl, options, opened, root):
    run = uadctl("bench", *options, "--json").json["run"]
    opened.clear()
    (root.parent / "m.ckpt").unlink()
    found = uadctl("bench", "--resume", run, "--parity", "--json").json["parity"]
    assert found["tile"]["vision_anomalib_checkpoint"]["0"]["reason"] is None
    assert len(opened) == 2


def test_of_a_finished_run_that_cannot_answer_that_is_said(uadctl, options, opened, monkeypatch):
    from uadctl.models.anomalib import opening

    run = uadctl("bench", *options, "--json").json["run"]
    one_way = Channels(inferences=("exported",))
    monkeypatch.setattr(opening, "restore", lambda tensors, facts, *, device: one_way)
    says = (
        "error: --parity: no model of the spec can be asked: vision_anomalib_checkpoint: the file has one way for "
        "images only, the exported one\n"
    )
    assert says in uadctl("bench", "--resume", run, "--parity", code=2).err


def test_of_a_run_with_work_left_only_models_with_work_left_are_prepared(uadctl, options, opened, root, tmp_path):
    (tmp_path / "two.toml").write_text(
        f'''[dataset]
name = "mvtec"
root = "{root}"
[[model]]
name = "vision_anomalib_checkpoint"
label = "first"
params = {{ checkpoint_path = "m.ckpt" }}
[[model]]
name = "vision_anomalib_checkpoint"
label = "second"
params = {{ checkpoint_path = "n.ckpt" }}
'''
    )
    (tmp_path / "n.ckpt").touch()
    run = uadctl("bench", "two.toml", "--json").json["run"]
    record = json.loads((Path(run) / "run.json").read_text())
    (Path(run) / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    (Path(run) / "units/tile/second/0/status").write_text("started\n")
    opened.clear()
    (tmp_path / "m.ckpt").unlink()
    found = uadctl("bench", "--resume", run, "--parity", "--json").json["parity"]["tile"]
    assert {label: seeds["0"]["reason"] for label, seeds in found.items()} == {"first": None, "second": None}
    # Of the first the kept model, to see whether it can be asked; the file of the second, for that and for its unit;
    # then both kept models.
    assert len(opened) == 5
    ended = uadctl("bench", "two.toml", "--parity", code=2)
    assert "m.ckpt" in ended.err


def test_a_model_with_any_work_left_needs_its_file_before_it_is_begun(uadctl, options, opened, root):
    shots = ["--set", "dataset.shots=[1, 2]"]
    run = Path(uadctl("bench", *options, *shots, "--json").json["run"])
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    unit = run / "units/tile/vision_anomalib_checkpoint shots=2/0"
    (unit / "status").write_text("started\n")
    (root.parent / "m.ckpt").unlink()
    ended = uadctl("bench", "--resume", run, code=2)
    assert "m.ckpt: there is no such file" in ended.err
    assert (unit / "metrics.json").is_file()


def test_a_model_that_is_none_of_anomalibs_says_so(uadctl, options, opened, tmp_path):
    (tmp_path / "two.toml").write_text(
        f"""[dataset]
name = "mvtec"
root = "{tmp_path}/data"
[[model]]
name = "vision_anomalib_checkpoint"
label = "theirs"
params = {{ checkpoint_path = "m.ckpt" }}
[[model]]
name = "vision_ecod"
label = "ecod"
params = {{ features = "histogram" }}
"""
    )
    document = uadctl("bench", "two.toml", "--parity", "--json").json
    found = {label: seeds["0"] for label, seeds in document["parity"]["tile"].items()}
    assert found["ecod"] == {"result": None, "reason": "the model is not one of anomalib's"}
    assert found["theirs"]["reason"] is None
    text = uadctl("bench", "--resume", document["run"], "--parity").out
    assert "\nparity: tile · ecod: the model is not one of anomalib's\n" in text
    ended = uadctl("bench", "two.toml", "--set", "model.theirs.params.checkpoint_path=m.onnx", "--parity", code=2)
    assert ended.err == (
        "error: --parity: no model of the spec can be asked: theirs: the file has one way for images only, the "
        "exported one; ecod: the model is not one of anomalib's\n"
        "  Models of anomalib can, from a .ckpt or .pt or trained by the spec: uadctl models list --tag anomalib\n"
    )
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--protocol", "anomalip"],
            'error: --protocol "anomalip": expected anomalib\n  It measures as anomalib itself does.\n',
        ),
        (
            ["--protocol", "mvtec_ad"],
            'error: --protocol "mvtec_ad": expected anomalib\n  It measures as anomalib itself does. '
            "Protocols of data sets are set in the spec: --set metrics.protocol=NAME\n",
        ),
        (["--parity", "--dry-run"], "error: --parity has no effect on --dry-run: nothing is scored\n"),
        (
            ["--protocol", "anomalib", "--dry-run"],
            "error: --protocol has no effect on --dry-run: nothing is scored\n",
        ),
    ],
)
def test_usage(uadctl, options, opened, tmp_path, flags, message):
    ended = uadctl("bench", *options, *flags, code=2)
    assert (ended.err.partition("error: ")[1] + ended.err.partition("error: ")[2], ended.out) == (message, "")
    assert not (tmp_path / "runs").exists()


def test_what_stops_the_comparison_leaves_the_metrics_and_can_be_resumed(uadctl, options, opened, monkeypatch):
    from uadctl import bench as module

    def broken(*args, **kwargs):
        raise RunError("the model fell asleep")

    with monkeypatch.context() as patched:
        patched.setattr(module, "compare", broken)
        ended = uadctl("bench", *options, "--parity", "--json", code=1)
    run = ended.json["run"]
    assert ended.json["parity"] == {}
    assert ended.json["results"]["tile"]["vision_anomalib_checkpoint"]["0"]["success"] is True
    assert (
        f"error: tile · vision_anomalib_checkpoint: the model fell asleep\n"
        f"  When that is mended: uadctl bench --resume {run} --parity\n"
    ) in ended.err
    assert json.loads((Path(run) / "run.json").read_text())["status"] == "interrupted"
    again = uadctl("bench", "--resume", run, "--parity", "--json").json
    assert again["parity"]["tile"]["vision_anomalib_checkpoint"]["0"]["reason"] is None
    assert json.loads((Path(run) / "run.json").read_text())["status"] == "done"


def test_what_nobody_expected_of_one_unit_leaves_the_others(uadctl, options, opened, monkeypatch):
    from uadctl import bench as module

    real = module.compare
    broken = []

    def once(spec, cell, *args, **kwargs):
        if not broken:
            broken.append(cell)
            raise MemoryError("CUDA out of memory")
        return real(spec, cell, *args, **kwargs)

    monkeypatch.setattr(module, "compare", once)
    grid = ["--set", 'model.grid.inference=["training", "exported"]']
    ended = uadctl("bench", *options, *grid, "--parity", "--json", code=1)
    (answered,) = ended.json["parity"]["tile"]
    assert answered == "vision_anomalib_checkpoint inference=exported"
    assert len(ended.json["results"]["tile"]) == 2
    label = "tile · vision_anomalib_checkpoint inference=training"
    assert f"error: {label}: MemoryError: CUDA out of memory\n  When that is mended: " in ended.err
    assert json.loads((Path(ended.json["run"]) / "run.json").read_text())["status"] == "interrupted"


# --- where anomalib's threshold comes from


TRAINED = {
    3: "comes from 3 good validation images: uadctl shows anomalib no test images, so these are not the numbers of a "
    "published protocol",
    1: "comes from 1 good validation image: uadctl shows anomalib no test images, so these are not the numbers of a "
    "published protocol",
    0: "comes from its training images, there being no validation images",
}


@pytest.mark.parametrize("images", TRAINED)
def test_where_the_threshold_of_a_model_trained_here_comes_from(root, images):
    model = fitted(Channels())
    model.detector.training_ = Trained("network", images)
    spec, cell = plan(root)
    found = compare(spec, cell, model, ["anomalib"], measured=MEASURED)["anomalib"].result
    assert found["causes"]["image_F1Score"][0] == f"threshold: anomalib's 30 {TRAINED[images]}"
    assert found["causes"]["pixel_F1Score"][0] == f"threshold: anomalib's 100 {TRAINED[images]}"


def test_another_sensitivity_is_a_cause(root):
    after = dataclasses.replace(ALL, image_sensitivity=0.25)
    found = result(root, "anomalib", Channels(postprocessing=after))
    said = "sensitivity: anomalib calls anomalous what lies above 0.75 once normalised, not above 0.5"
    assert [said in found["causes"][name] for name in ("image_F1Score", "pixel_F1Score")] == [True, False]
    # 30 + 0.25 * 80: anomalous are 60 and 90, and 100.
    found = result(root, "parity", Channels(postprocessing=after))
    assert found["anomalib_threshold"] == 50
    assert found["metrics"]["anomalib_flipped_to_good"] == 1


# --- anomalib itself


def test_labels_change_where_anomalibs_do():
    """At 500 settings of anomalib's post-processor, on both sides of the raw value that uadctl names."""
    pytest.importorskip("anomalib", reason="anomalib is not installed: pip install 'uadctl[anomalib]'")
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.data import InferenceBatch
        from anomalib.post_processing import PostProcessor

    rng = np.random.default_rng(5)
    kinds: dict[str, int] = {"none": 0, "constant": 0, "raw": 0, "middle": 0, "threshold": 0}
    for _ in range(500):
        low = float(rng.uniform(-50, 50))
        high = low if rng.random() < 0.1 else low + float(rng.uniform(5, 100))
        has_range, thresholds, normalises, matches = (bool(rng.random() < p) for p in (0.8, 0.8, 0.8, 0.5))
        limits = [float(rng.uniform(-50, 150)) if rng.random() < 0.6 else None for _ in range(2)]
        sensitivity = float(rng.choice([0.0, 0.5, 1.0, rng.uniform(0, 1), rng.uniform(0, 1)]))
        after = Postprocessing(
            image_threshold=limits[0],
            pixel_threshold=limits[1],
            image_min=low if has_range else None,
            image_max=high if has_range else None,
            normalises=normalises,
            thresholds=thresholds,
            matches=matches,
            image_sensitivity=sensitivity,
        )
        theirs = PostProcessor(
            enable_normalization=normalises,
            enable_thresholding=thresholds,
            enable_threshold_matching=matches,
            image_sensitivity=sensitivity,
        )
        for name, value in zip(("_image_threshold", "_pixel_threshold"), limits, strict=True):
            getattr(theirs, name).fill_(float("nan") if value is None else value)
        theirs.image_min.fill_(low if has_range else float("nan"))
        theirs.image_max.fill_(high if has_range else float("nan"))

        found = label_threshold(after, "image")
        around = [-1e6, 1e6] if found is None else [found - 0.01, found + 0.01]
        labels = theirs(InferenceBatch(pred_score=torch.tensor(around))).pred_label
        if not thresholds:
            kinds["none"] += 1
            assert (found, labels) == (None, None)
        elif found is None:
            kinds["constant"] += 1
            assert labels[0] == labels[1]
        else:
            raw = not (has_range and normalises)
            kinds["raw" if raw else "middle" if after.threshold("image") is None else "threshold"] += 1
            assert labels.tolist() == [False, True]
    assert min(kinds.values()) >= 10, kinds


class Own:
    """anomalib's own modules as a predictor: what its Engine computes before its post-processor and its metrics."""

    model = None
    inferences = ("training", "exported")
    is_raw = True

    def __init__(self, module: Any) -> None:
        self.module = module.eval()
        self.preprocessing = Preprocessing.of(module.pre_processor.checkpoint_config()["transform"])
        after = module.post_processor
        names = ("image_threshold", "pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
        self.postprocessing = Postprocessing(**{name: float(getattr(after, name)) for name in names})

    def predict(self, images: Sequence[np.ndarray], *, inference: Inference) -> list[Raw]:
        import torch

        said = []
        for image in images:
            with torch.inference_mode():
                out = self.module.model(self.preprocessing.apply([image], inference=inference))
            said.append(
                Raw(float(out.pred_score.reshape(())), out.anomaly_map.reshape(out.anomaly_map.shape[-2:]).numpy())
            )
        return said


@pytest.mark.parametrize("name", ["Padim", pytest.param("Patchcore", marks=pytest.mark.slow)])
def test_anomalibs_engine_reports_the_same_four_numbers(name, tmp_path, capfd):
    pytest.importorskip("anomalib", reason="anomalib is not installed: pip install 'uadctl[anomalib]'")
    import logging
    import warnings

    import torch

    home = parts.write_category(tmp_path / "data", "tile", train=8, good=6, bad=6, size=(90, 75))
    for i in range(6):  # defects of all strengths, some of which are not found
        image, _ = parts.scratched(200 + i, 90, 75)
        good = parts.surface(200 + i, 90, 75)
        parts.write(home / f"test/scratch/{i:03}.png", (good + (image.astype(int) - good) * i / 15).astype(np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib import models
        from anomalib.data import Folder
        from anomalib.engine import Engine
        from anomalib.pre_processing import PreProcessor
        from torchvision.transforms import v2

        logging.disable(logging.CRITICAL)
        try:
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002 - anomalib's coreset projects with NumPy's global generator
            data = Folder(
                "tile",
                root=home,
                normal_dir="train/good",
                normal_test_dir="test/good",
                abnormal_dir="test/scratch",
                mask_dir="ground_truth/scratch",
                train_batch_size=4,
                eval_batch_size=1,
                num_workers=0,
                val_split_mode="same_as_test",
            )
            steps = [v2.Resize((64, 64), antialias=True), v2.CenterCrop((48, 56)), v2.Normalize([0.5] * 3, [0.25] * 3)]
            module = getattr(models, name)(
                backbone="resnet18",
                layers=["layer1", "layer2"],
                pre_trained=False,
                pre_processor=PreProcessor(transform=v2.Compose(steps)),
                visualizer=False,
            )
            engine = Engine(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path / "engine")
            engine.fit(model=module, datamodule=data)
            engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
            (wanted,) = engine.test(model=module, datamodule=data, verbose=False)
        finally:
            logging.disable(logging.NOTSET)
    capfd.readouterr()

    # Once computed by anomalib's own modules, once as uadctl reads the checkpoint.
    for predictor in (Own(module), AnomalibCheckpoint(checkpoint_path=str(tmp_path / "model.ckpt")).load().predictor):
        found = result(tmp_path / "data", "anomalib", predictor)
        theirs, counts = found["anomalib"]["metrics"], found["counts"]
        assert len(theirs) == 4
        for of in ("image", "pixel"):
            assert theirs[f"{of}_AUROC"] == pytest.approx(float(wanted[f"{of}_AUROC"]), abs=1e-5)
            # The threshold is one of the values. Of others that equal it but for rounding each may fall on either side,
            # and moves F1 = 2 TP / (2 TP + FP + FN) by at most 2 / (TP + FN), here of 960 pixels.
            others = counts[f"{of}s_at_threshold"] - 1
            assert 0 <= others <= (0 if of == "image" else 4)
            assert theirs[f"{of}_F1Score"] == pytest.approx(float(wanted[f"{of}_F1Score"]), abs=1e-5 + others / 480)
        assert 0.4 < theirs["pixel_AUROC"] < 1
        assert found["counts"]["images_cut"] + found["counts"]["pixels_cut"] > 0
