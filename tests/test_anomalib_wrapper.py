"""anomalib's models with what is injected in place of their file: no anomalib anywhere, so that nothing of it is needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import anomalib_doubles
import numpy as np
import parts
import pytest
import torch

from uadctl import create_model, evaluate_split, load_benchmark_split
from uadctl.errors import BackendMissing, ParamError, RunError, SpecError
from uadctl.imaging.geometry import Geometry
from uadctl.inference import stream
from uadctl.intake import Intake
from uadctl.models.anomalib import AnomalibCheckpoint, Fastflow, Trained
from uadctl.models.anomalib.predictor import Raw
from uadctl.models.base import Detector, TrainedElsewhere, known_by_heart
from uadctl.progress import Silent
from uadctl.spec import MODELS, auto_kwargs, list_params
from uadctl.spec.grammar import RunTable
from uadctl.spec.signature import rebuild_model
from uadctl.spec.wrapped import anomalib_models

OF_ANY = "vision_anomalib_checkpoint"
ALIASES = sorted(name for name, entry in MODELS.items() if entry.anomalib_model is not None and entry.offered)


@pytest.fixture(autouse=True)
def _without_anomalib(monkeypatch):
    """A17, A04: an import of anomalib would fail."""
    anomalib_doubles.block(monkeypatch)


class Brightness:
    """An inferencer: of a picture, how bright it is. form: how it says so."""

    def __init__(self, form: Any = dict) -> None:
        self.form = form
        self.asked: list[object] = []

    def predict(self, image: Any) -> Any:
        from uadctl.imaging.files import read_image

        self.asked.append(image)
        pixels = read_image(image).astype(np.float32).mean(axis=2) / 255
        return self.form(pred_score=float(pixels.mean()), anomaly_map=pixels)


class Fixed:
    """An inferencer that says the same of every image."""

    def __init__(self, said: object) -> None:
        self.said = said

    def predict(self, image: Any) -> Any:
        return self.said


def checkpoint(inferencer: Any, **params: Any) -> Any:
    return create_model(OF_ANY, checkpoint_path="model.ckpt", inferencer=inferencer, **params)


def grey(value: int, *, height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


# -- A02, A03, K07, K08: what it is built of


@pytest.mark.parametrize("name", [OF_ANY, "vision_stfpm_anomalib"])
@pytest.mark.parametrize("file", ["model.pt", "absent.ckpt"])
def test_without_anomalib_and_inferencer_the_pip_command_is_named(tmp_path, name, file):
    (tmp_path / "model.pt").write_bytes(b"anything")
    with pytest.raises(ImportError, match=r"needs anomalib, which is not installed\. Install it with: pip install "):
        create_model(name, checkpoint_path=tmp_path / file)


def test_without_anomalib_a_trainer_names_the_pip_command():
    with pytest.raises(BackendMissing) as error:
        create_model("vision_padim_anomalib", trainer={})
    assert error.value.message == (
        "training vision_padim_anomalib needs anomalib, which is not installed. Install it with: "
        "pip install 'uadctl[anomalib]'"
    )


def test_every_alias_takes_an_inferencer_and_refuses_what_it_does_not_know():
    """K08 on all of them; A03."""
    assert len(ALIASES) >= 30
    for name in ALIASES:
        detector = create_model(name, checkpoint_path="model.ckpt", inferencer=Brightness(), contamination=0.2)
        assert isinstance(detector, Detector)
        assert isinstance(detector, TrainedElsewhere)
        assert (detector.comes_trained, detector.contamination, detector.device) == (True, 0.2, "cpu")
        with pytest.raises(
            TypeError, match=rf"^{name} does not accept inferensor \(did you mean inferencer\?\)|banana"
        ):
            create_model(name, checkpoint_path="model.ckpt", inferencer=Brightness(), banana=1)


def test_no_alias_means_something_else_by_what_a_run_gives_to_all():
    """`[run] precision` is "fp32" or "bf16", that of anomalib "float32" or "float16"; a category's class_name is none."""
    ours = {*auto_kwargs(RunTable(name="n")), "class_name"}
    for name in ALIASES:
        entry, model = MODELS[name], next(m for m in anomalib_models() if m.name == MODELS[name].anomalib_model)
        theirs = {p.name for p in model.parameters if p.kept is None} & ours
        taken = {p.name for p in list_params(entry.name)}
        assert {f"model_{name}" for name in theirs} <= taken
        assert taken & ours == {"batch_size", "device", "seed"}


def test_a_checkpoint_and_its_trainer_are_checked_before_anything_is_built():
    with pytest.raises(SpecError, match=r"^vision_stfpm_anomalib needs a checkpoint and none is given\. Give --checkp"):
        create_model("vision_stfpm_anomalib", inferencer=Brightness())
    with pytest.raises(SpecError, match=r"is given both a checkpoint \(\"a\.ckpt\"\) and \[model\.trainer\]$"):
        create_model("vision_padim_anomalib", checkpoint_path="a.ckpt", trainer={})


def test_parameters_of_training_have_no_place_beside_a_checkpoint():
    with pytest.raises(ParamError) as error:
        create_model(
            "vision_padim_anomalib",
            checkpoint_path="a.ckpt",
            inferencer=Brightness(),
            backbone="resnet34",
            pre_trained=True,
            image_size=(64, 64),
        )
    assert [problem.message for problem in error.value.problems] == [
        "backbone (='resnet34') must not be given: a checkpoint has its own",
        "pre_trained (=True) must not be given: a checkpoint has its own",  # though it is the default
        "image_size (=[64, 64]) must not be given: a checkpoint has its own",
    ]
    with pytest.raises(ParamError, match=r"^model_batch_size \(=32\) must not be given: a checkpoint has its own$"):
        create_model("vision_ganomaly_anomalib", checkpoint_path="a.ckpt", inferencer=Brightness(), model_batch_size=32)


@pytest.mark.parametrize("contamination", [-0.1, 0, 0.5, 0.6, 1])
def test_contamination_lies_between_nothing_and_a_half(contamination):
    """A08."""
    with pytest.raises(ValueError, match=r"^contamination \(=.*\) must lie in \(0, 0\.5\)$"):
        checkpoint(Brightness(), contamination=contamination)


# -- A04, A05, A09, A10, A11: what an inferencer says


@dataclass
class Spoken:
    pred_score: object
    anomaly_map: object


class Named(NamedTuple):
    pred_score: object
    anomaly_map: object


@pytest.mark.parametrize("form", [dict, SimpleNamespace, Spoken, Named], ids=lambda form: form.__name__)
def test_a_prediction_may_have_any_form(tmp_path, form):
    """A04, A05: predict(path) is called once an image."""
    inferencer = Brightness(form)
    paths = [parts.write(tmp_path / f"{value}.png", grey(value)) for value in (51, 102)]
    detector = checkpoint(inferencer)
    assert detector.decision_function(paths) == pytest.approx([0.2, 0.4])
    assert inferencer.asked == paths
    maps = detector.predict_anomaly_map(paths)
    assert (maps.shape, maps.dtype) == ((2, 6, 8), np.float32)
    assert maps[:, 0, 0] == pytest.approx([0.2, 0.4])


SCORES = {
    "a number": 0.75,
    "of numpy": np.float64(0.75),
    "(1,)": np.array([0.75]),
    "(1, 1)": np.array([[0.75]]),
    "a tensor": torch.tensor(0.75),
    "a tensor (1,)": torch.tensor([0.75]),
    "a tensor that learns": torch.tensor([0.75], requires_grad=True),
    "bfloat16": torch.tensor([0.75], dtype=torch.bfloat16),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("name", ["pred_score", "anomaly_score", "score"])
def test_a_score_is_found(score, name):
    found = checkpoint(Fixed({name: score})).decision_function([grey(0)])
    assert (found.tolist(), found.dtype) == ([0.75], np.float64)


def test_the_first_of_the_names_counts():
    said = {"score": 3.0, "anomaly_score": 2.0, "pred_score": None}
    assert checkpoint(Fixed(said)).decision_function([grey(0)]).tolist() == [2.0]


@pytest.mark.parametrize("said", [{}, {"pred_label": 1}, SimpleNamespace(), {"pred_score": None}])
def test_no_score_is_an_error(said):
    with pytest.raises(ValueError, match=r"^the prediction has no pred_score, nor anomaly_score or score$"):
        checkpoint(Fixed(said)).decision_function([grey(0)])


def test_several_scores_are_an_error():
    with pytest.raises(ValueError, match=r"^pred_score has the shape \(2,\), expected one number for one image$"):
        checkpoint(Fixed({"pred_score": [1.0, 2.0]})).decision_function([grey(0)])


FIELD = np.arange(48, dtype=np.float64).reshape(6, 8)
MAPS = {
    "(H, W)": FIELD,
    "(1, H, W)": FIELD[None],
    "(H, W, 1)": FIELD[..., None],
    "(1, 1, H, W)": FIELD[None, None],
    "a list": FIELD.tolist(),
    "a tensor": torch.from_numpy(FIELD),
    "a tensor (1, 1, H, W)": torch.from_numpy(FIELD)[None, None].requires_grad_(),
    "bfloat16": torch.from_numpy(FIELD).to(torch.bfloat16),
}


@pytest.mark.parametrize("field", MAPS.values(), ids=MAPS)
def test_a_map_becomes_two_dimensional(field):
    """A09."""
    detector = checkpoint(Fixed({"pred_score": 1.0, "anomaly_map": field}))
    found = detector.get_anomaly_map(grey(0))
    assert (found.shape, found.dtype) == ((6, 8), np.float32)
    np.testing.assert_array_equal(found, FIELD)
    (prediction,) = detector.predict_batch([grey(0)])
    np.testing.assert_array_equal(prediction.map, FIELD)


@pytest.mark.parametrize("shape", [(3, 6, 8), (6, 8, 3), (2, 1, 6, 8), (6,), (), (0, 8)])
def test_what_is_not_one_map_is_an_error(shape):
    """A10."""
    with pytest.raises(ValueError, match=r"^an anomaly map of shape \(.*\) is not one \(H, W\) map$") as error:
        checkpoint(Fixed({"pred_score": 1.0, "anomaly_map": np.zeros(shape)})).predict_anomaly_map([grey(0)])
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("said", [{"pred_score": 1.0}, {"pred_score": 1.0, "anomaly_map": None}])
def test_no_map_is_an_error(said):
    with pytest.raises(ValueError, match=r"^the prediction has no anomaly_map$"):
        checkpoint(Fixed(said)).predict_anomaly_map([grey(0)])


def test_maps_of_different_sizes_are_no_array():
    """A11."""
    images = [grey(1), grey(1, height=4)]
    with pytest.raises(
        ValueError, match=r"^images of 2 sizes \(\(4, 8\) to \(6, 8\)\) cannot be stacked into one array"
    ):
        checkpoint(Brightness()).predict_anomaly_map(images)


def test_a_map_of_another_size_than_its_image_is_brought_to_it():
    """A16, before metrics: what a run compares with masks has the size of the image."""
    (prediction,) = checkpoint(Fixed({"pred_score": 1.0, "anomaly_map": FIELD})).predict_batch([grey(0, height=12)])
    assert prediction.map.shape == (12, 8)
    assert (prediction.map.min(), prediction.map.max()) == (0, 47)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_an_error(score):
    with pytest.raises(RuntimeError, match=r"^the model gave the score (nan|inf)$"):
        checkpoint(Fixed({"pred_score": score, "anomaly_map": FIELD})).predict_batch([grey(0)])


# -- A06, A07, A08: fit, threshold_, predict


def test_fit_sets_the_quantile_of_good_scores():
    images = [grey(value) for value in range(10, 110, 10)]
    detector = checkpoint(Brightness(), contamination=0.2)
    assert detector.fit(iter(images)) is detector
    scores = detector.decision_function(images)
    assert detector.threshold_ == np.quantile(scores, 0.8)
    assert scores.shape == (10,)
    labels = detector.predict([*images, grey(200)])
    assert (labels.dtype, labels.tolist()) == (np.int64, [0] * 8 + [1] * 3)
    assert (
        labels.tolist()
        == (detector.decision_function([*images, grey(200)]) >= detector.threshold_).astype(int).tolist()
    )


def test_predict_before_fit_is_an_error():
    with pytest.raises(RuntimeError, match=r"is not fitted; call fit\(images\) first$"):
        checkpoint(Brightness()).predict([grey(0)])


@pytest.mark.parametrize("images", [[], iter(())])
def test_fit_on_nothing_is_an_error(images):
    detector = checkpoint(Brightness())
    with pytest.raises(ValueError, match=r"needs at least one image for its threshold, found none$"):
        detector.fit(images)
    with pytest.raises(RuntimeError, match="is not fitted"):
        detector.predict([grey(0)])


def test_a_second_fit_forgets_the_first():
    detector = checkpoint(Brightness())
    first = detector.fit([grey(10), grey(20)]).threshold_
    second = detector.fit([grey(100), grey(200)]).threshold_
    assert first < second
    assert detector.fit([grey(10), grey(20)]).threshold_ == first
    with pytest.raises(ValueError, match="found none"):
        detector.fit([])
    assert detector.threshold_ is None


def test_images_known_by_heart_are_warned_of():
    with pytest.warns(
        UserWarning, match=r"^2 of 4 images for the threshold have scores near 0: the model has probably"
    ):
        checkpoint(Brightness()).fit([grey(0), grey(100), grey(0), grey(110)])
    checkpoint(Brightness()).fit([grey(90), grey(100)])  # without a word: warnings are errors


def test_who_is_known_by_heart_is_seen_in_scores_of_any_sign():
    assert known_by_heart([0.0, 5.0, 0.04, -0.05], [4.0, 5.0, 6.0]) == [0, 2, 3]
    assert known_by_heart([-0.5, -0.6, -1e-4], [-0.5, -0.6, -0.7]) == [2]
    assert known_by_heart([0.0, 0.0], [0.0, 0.0]) == [0, 1]
    assert known_by_heart([], []) == []


class Cut:
    """A predictor whose file has anomalib's normalisation inside: everything good is 0."""

    model = preprocessing = postprocessing = None
    inferences = ("exported",)
    is_raw = False

    def predict(self, images, *, inference):
        return [Raw(0.0, np.zeros(image.shape[:2], np.float32)) for image in images]

    def facts(self):
        return {"origin": {}}


def test_of_cut_scores_nothing_is_concluded_and_that_is_said():
    detector = AnomalibCheckpoint(checkpoint_path="model.onnx")
    assert detector.doubts() == []
    detector._hold(Cut())
    assert detector.scores_are_cut
    detector.fit([grey(90), grey(100)])  # without a word: warnings are errors
    (doubt,) = detector.doubts()
    assert doubt.startswith("anomalib's normalisation, inside the file, cuts scores and maps to 0..1")
    assert not checkpoint(Brightness()).scores_are_cut


def test_every_batch_of_a_run_goes_through(tmp_path):
    """As a bench asks: from files, in batches, one prediction an image, in order."""
    paths = [parts.write(tmp_path / f"{i}.png", grey(10 * i, height=5 + i)) for i in range(7)]
    inferencer = Brightness()
    detector = checkpoint(inferencer, batch_size=3)
    found = list(stream(detector, paths, intake=Intake(geometry=Geometry(size=None))))
    assert [item.prediction.score for item in found] == pytest.approx([10 * i / 255 for i in range(7)])
    assert [item.prediction.map.shape for item in found] == [(5 + i, 8) for i in range(7)]
    assert len(inferencer.asked) == 7


def test_a_split_is_evaluated_without_fitting(one_category):
    class Redness(Brightness):
        def predict(self, image):
            from uadctl.imaging.files import read_image

            pixels = read_image(image).astype(np.float32)
            red = pixels[..., 0] - pixels[..., 1]
            return {"pred_score": red.max(), "anomaly_map": red}

    split = load_benchmark_split("mvtec", root=str(one_category), category="tile")
    found = evaluate_split(checkpoint(Redness()), split)
    assert found["counts"]["train_images"] == 0
    assert found["image_metrics"]["image_auroc"] == 1.0
    assert found["pixel_metrics"]["pixel_auroc"] > 0.9


def test_a_checkpoint_is_read_for_a_split_and_not_fitted(one_category, tmp_path, monkeypatch):
    asked = anomalib_doubles.use(monkeypatch)
    (tmp_path / "model.ckpt").write_bytes(b"no checkpoint")
    detector = create_model("vision_patchcore_anomalib", checkpoint_path=tmp_path / "model.ckpt")
    split = load_benchmark_split("mvtec", root=str(one_category), category="tile")
    found = evaluate_split(detector, split)
    assert found["counts"]["train_images"] == 0
    assert detector.threshold_ is None
    assert found["image_metrics"]["image_auroc"] == 1.0
    assert asked.opened == [("model.ckpt", "patchcore", False)]


def test_an_inferencer_needs_no_file_and_imports_nothing():
    """A04, A17, in a process of its own: neither anomalib nor torch."""
    code = (
        "import sys, numpy as np, uadctl\n"
        "class Fixed:\n"
        "    def predict(self, image): return {'pred_score': 1.0, 'anomaly_map': np.ones((4, 4))}\n"
        "d = uadctl.create_model('vision_fastflow_anomalib', checkpoint_path='absent.ckpt', inferencer=Fixed())\n"
        "image = np.zeros((4, 4, 3), np.uint8)\n"
        "d.fit([image]); d.predict([image]); d.predict_batch([image]); d.predict_anomaly_map([image])\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'anomalib', 'torch', 'lightning'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# -- a trainer, from Python


@pytest.fixture
def asked(monkeypatch) -> anomalib_doubles.Asked:
    return anomalib_doubles.use(monkeypatch)


def test_python_code_trains(asked):
    detector = create_model("vision_fastflow_anomalib", trainer={"max_epochs": 2, "batch_size": None})
    assert not detector.comes_trained
    with pytest.raises(RuntimeError, match=r"^Fastflow is not fitted; call fit\(images\) first$"):
        detector.predict_batch([grey(0)])
    images = [parts.surface(i) for i in range(6)]
    assert detector.fit(iter(images)) is detector
    assert (asked.learned, asked.watched) == ([6], [0])
    assert asked.trainers == [{"max_epochs": 2, "batch_size": 32, "workers": 0}]
    assert detector.threshold_ == np.quantile(detector.decision_function(images), 0.9)


def test_what_validation_is_for_stays_out_of_training(asked):
    held = [parts.surface(100 + i) for i in range(3)]
    detector = create_model("vision_fastflow_anomalib", trainer={"max_steps": 2})
    detector.fit((parts.surface(i) for i in range(6)), validation=iter(held))
    assert (asked.learned, asked.watched) == ([6], [3])
    assert detector.threshold_ == np.quantile(detector.decision_function(held), 0.9)
    detector.fit((parts.surface(i) for i in range(6)), validation=iter(held), threshold=False)
    assert detector.threshold_ is None


def test_a_run_decodes_images_as_they_are_needed(asked):
    """What is learned from and what is watched are read while training asks for them, in that order."""
    seen: list[str] = []

    def images(name: str, n: int) -> Iterator[np.ndarray]:
        for i in range(n):
            seen.append(name)
            yield parts.surface(i)

    detector = create_model("vision_fastflow_anomalib", trainer={"max_epochs": 2})
    detector.fit(images("learned", 6), validation=images("watched", 3), threshold=False)
    assert seen == ["learned"] * 6 + ["watched"] * 3


def test_what_anomalib_would_want_is_kept_as_long_as_the_detector(asked, tmp_path):
    detector = create_model("vision_fastflow_anomalib", trainer={"max_epochs": 1})
    detector.keep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        detector.fit([parts.surface(1)])
    folder = detector._folder
    detector.keep(tmp_path)
    assert (tmp_path / "model.ckpt").read_bytes() == (folder / "model.ckpt").read_bytes()
    del detector
    assert not folder.exists()


TRAINERS = {
    "epochs": ({"epochs": 1}, "trainer does not accept epochs; did you mean max_epochs?"),
    "zero": ({"max_epochs": 0}, "trainer.max_epochs = 0: expected an integer >= 1"),
    "text": ({"max_epochs": 1, "workers": "2"}, 'trainer.workers = "2": expected an integer >= 0, found a string'),
    "none": ({}, "trainer: max_epochs is missing: anomalib would train 1000 epochs"),
    "no table": (3, "trainer: expected a table, found an integer"),
}


@pytest.mark.parametrize(("trainer", "message"), TRAINERS.values(), ids=TRAINERS)
def test_a_trainer_from_python_is_checked(asked, trainer, message):
    with pytest.raises(TypeError) as error:
        create_model("vision_fastflow_anomalib", trainer=trainer)
    assert str(error.value) == f"vision_fastflow_anomalib: {message}"


@pytest.mark.parametrize(("trainer", "message"), TRAINERS.values(), ids=TRAINERS)
def test_a_trainer_is_checked_by_the_class_too(asked, trainer, message):
    with pytest.raises(ParamError) as error:
        Fastflow(trainer=trainer)
    assert str(error.value) == f"vision_fastflow_anomalib: {message}"


def test_the_class_fills_its_trainer_and_takes_no_checkpoint_beside_it(asked):
    assert Fastflow(trainer={"max_epochs": 1}).trainer == {"max_epochs": 1, "batch_size": 32, "workers": 0}
    with pytest.raises(SpecError, match=r"is given both a checkpoint \(\"a\.ckpt\"\) and \[model\.trainer\]$"):
        Fastflow(trainer={"max_epochs": 1}, checkpoint_path="a.ckpt", inferencer=Brightness())


RANDOM = "pre_trained = false: the backbone's weights are random, the scores mean little"


def test_where_the_weights_of_a_training_come_from(asked):
    def state(name: str, **given: object) -> tuple[str, list[str]]:
        detector = create_model(f"vision_{name}_anomalib", **given)
        return detector.weights_state(), detector.doubts()

    epochs = {"max_epochs": 1}
    assert state("fastflow", trainer=epochs) == ("network", [])
    assert state("fastflow", trainer=epochs, pre_trained=True) == ("network", [])
    assert state("fastflow", trainer=epochs, pre_trained=False) == ("random", [RANDOM])
    assert state("stfpm", trainer=epochs) == ("network", [])
    assert state("efficient_ad", trainer=epochs) == ("network", [])
    assert state("ganomaly", trainer=epochs) == ("none", [])
    assert state("draem", trainer=epochs) == ("none", [])
    assert state("fastflow", checkpoint_path="a.ckpt", inferencer=Brightness()) == ("path", [])


def test_what_is_known_of_a_training_is_kept_with_the_model(asked, tmp_path):
    params = {"pre_trained": False, "trainer": {"max_epochs": 1}}
    detector = create_model("vision_fastflow_anomalib", **params)
    detector.fit([parts.surface(1)], validation=[parts.surface(i) for i in range(3)])
    assert (detector.facts()["weights"], detector.facts()["validation_images"]) == ("random", 3)
    tensors, facts = detector.state()
    again = rebuild_model("vision_fastflow_anomalib", params, device="cpu").restore(tensors, facts)
    assert again.training_ == Trained("random", 3)
    assert again.facts() == detector.facts()
    (tmp_path / "model.ckpt").touch()
    given = create_model("vision_fastflow_anomalib", checkpoint_path=tmp_path / "model.ckpt").load()
    assert not {"weights", "validation_images"} & set(given.facts())


def test_a_training_is_prepared_with_and_without_downloads(asked):
    detector = create_model("vision_fastflow_anomalib", trainer={"max_epochs": 1})
    detector.prepare()
    detector.prepare(download=False)
    assert asked.prepared == [("fastflow", True), ("fastflow", False)]


def test_what_training_says_is_told_to_who_asked(monkeypatch):
    anomalib_doubles.use(monkeypatch, said="no validation images")
    told: list[str] = []
    detector = create_model("vision_fastflow_anomalib", trainer={"max_epochs": 1})
    detector.fit([parts.surface(1)], warn=told.append)
    progress = Silent()
    detector.fit([parts.surface(1)], progress=progress)
    assert (told, progress.warnings) == (["no validation images"], ["no validation images"])


def test_without_a_temporary_folder_training_says_so(asked, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(RunError) as error:
        create_model("vision_fastflow_anomalib", trainer={"max_epochs": 1}).fit([parts.surface(1)])
    assert error.value.message == "there is no folder for the images of a training: No such file or directory"
    assert error.value.help == "Name one with room for them: TMPDIR=DIR"


def test_trust_from_python(asked, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"a pickle")
    with pytest.raises(RuntimeError, match="runs code"):
        create_model(OF_ANY, checkpoint_path=tmp_path / "model.pt").load()
    create_model(OF_ANY, checkpoint_path=Path(tmp_path / "model.pt"), trust_checkpoint=True).load()
    assert asked.opened == [("model.pt", None, True)]
