"""Every registered detector passes every check; and each check fails on a detector that breaks its rule and no other."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import anomalib_files
import numpy as np
import pytest
import torch

from uadctl import build_default_detector, check_detector, check_model
from uadctl.errors import DataError, SpecError
from uadctl.imaging.files import read_image
from uadctl.models.checks import CHECKS, OF_LEARNING, Candidate, CheckFailed, model_candidate, part
from uadctl.records import Prediction, Size
from uadctl.spec import MODELS, get_model_signature_info, model_info
from uadctl.spec.wrapped import anomalib_models

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_detector.py"

# Processor time that all checks of one model may take, in seconds.
AT_MOST = 30.0


def load_example():
    spec = importlib.util.spec_from_file_location("own_detector", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_detector"] = module
    spec.loader.exec_module(module)
    return module


own_detector = load_example()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- the registered ones


@dataclass(frozen=True)
class Row:
    """Small settings of a model, the checks that it is not asked for, each with the reason, and how much it learns."""

    params: dict[str, object] = field(default_factory=dict)
    exempt: dict[str, str] = field(default_factory=dict)
    train: int = 8
    checkpoint: Callable[..., Path] | None = None  # writes the file of what comes trained, of the images given


RANDOM_WORDS = "its text tower has random weights: which words an image is near to is chance"
NOT_TRAINED = {"defects_score_higher": "networks trained against each other for a moment do not know good from bad"}
TOO_FEW = "what it estimates, clusters or densities in random projections, is not to be had from so few images"

TINY_CLIP = {"model_name": "uadctl-checks-tiny", "pretrained": False}

# Cheap features, in which a defect is one of 16 squares; some detectors have the pooled ones of a network as well.
SMALL = {"features": "pixels", "size": 4}

# More images than features: there is no covariance otherwise.
MORE_IMAGES = Row({"features": "pixels", "size": 2}, train=24)

#: Models by name. Those with the tag "classical" need none if they are fast as they are.
ROWS: dict[str, Row] = {
    "vision_patchcore": Row(),
    "vision_padim": Row({"n_features": 20}),
    "vision_anomalydino": Row({"backbone": "timm:test_vit.r160_in1k", "image_size": 64}),
    "vision_openclip_promptscore": Row(
        TINY_CLIP, {"defects_score_higher": RANDOM_WORDS, "maps_point_at_the_defect": RANDOM_WORDS}
    ),
    "vision_openclip_patchknn": Row(TINY_CLIP),
    "vision_winclip": Row(
        {**TINY_CLIP, "shots": 8},
        {"defects_score_higher": RANDOM_WORDS, "maps_point_at_the_defect": RANDOM_WORDS},
    ),
    "vision_patchcore_anomalib": Row(checkpoint=anomalib_files.write_patchcore_ckpt),
    "vision_padim_anomalib": Row(checkpoint=anomalib_files.write_padim_ckpt),
    "vision_ae1svm": Row({**SMALL, "epochs": 5, "kernel_approx_features": 50}),
    "vision_alad": Row({**SMALL, "epochs": 2}, NOT_TRAINED),
    "vision_anogan": Row({**SMALL, "epochs": 2, "epochs_query": 2}, NOT_TRAINED),
    "vision_auto_encoder": Row({**SMALL, "epoch_num": 2}),
    "vision_cblof": Row(SMALL, train=24),
    "vision_cd": Row(MORE_IMAGES.params, {"defects_score_higher": TOO_FEW}, train=24),
    "vision_copod": Row(),
    "vision_deep_svdd": Row({**SMALL, "epochs": 5}),
    "vision_dif": Row({**MORE_IMAGES.params, "n_ensemble": 2}, train=12),
    "vision_ecod": Row(),
    "vision_hbos": Row(),
    "vision_iforest": Row({"n_estimators": 20}),
    "vision_inne": Row({**MORE_IMAGES.params, "n_estimators": 20}, train=24),
    "vision_knn": Row(),
    "vision_lmdd": Row({**SMALL, "n_iter": 10}),
    "vision_loda": Row(SMALL, {"defects_score_higher": TOO_FEW}),
    "vision_lunar": Row({**SMALL, "n_epochs": 5}),
    "vision_mcd": MORE_IMAGES,
    "vision_mo_gaal": Row({**SMALL, "k": 2, "stop_epochs": 2}, NOT_TRAINED),
    "vision_rgraph": Row(
        {"features": "pixels", "size": 2, "maxiter": 2, "transition_steps": 2}, {"defects_score_higher": TOO_FEW}
    ),
    "vision_so_gaal": Row({**SMALL, "stop_epochs": 2}, NOT_TRAINED),
    "vision_vae": Row({**SMALL, "epoch_num": 2}),
}

CLASSICAL = Row(SMALL)

#: Models that are not examined here, and why.
UNEXAMINED = {
    name: entry.reason or "anomalib's own code, on a checkpoint that only training makes: tests/test_anomalib_module.py"
    for name, entry in MODELS.items()
    if entry.backend == "anomalib" and name not in ROWS
}
EXAMINED = sorted(set(MODELS) - set(UNEXAMINED))


def row(name: str) -> Row:
    if name in ROWS:
        return ROWS[name]
    assert "classical" in model_info(name).tags, f"{name} has no row in the table ROWS"
    return CLASSICAL


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """An open_clip model that is drawn in a moment; absent where open_clip is."""
    if importlib.util.find_spec("open_clip") is None:
        return
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "uadctl-checks-tiny.json").write_text(
        json.dumps(
            {
                "embed_dim": 32,
                "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
            }
        ),
        encoding="utf-8",
    )
    open_clip.add_model_config(folder)


@functools.lru_cache(maxsize=1)
def candidate_of(name: str, folder: Path) -> Candidate:
    accepted, _ = get_model_signature_info(name)
    given = {"device": "cpu", "batch_size": 4, **row(name).params}
    params = {key: value for key, value in given.items() if key in accepted}
    write = row(name).checkpoint
    if write is not None:
        images = [part(seed, Size(*anomalib_files.SIZE)) for seed in range(row(name).train)]
        params["checkpoint_path"] = str(write(folder / "model.ckpt", images=images))
    return model_candidate(name, folder, params, train=row(name).train)


@functools.cache
def spent() -> dict[str, float]:
    """Processor seconds by model."""
    return {}


@pytest.mark.usefixtures("tiny_clip")
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", EXAMINED)
def test_a_registered_detector_passes(name, check, tmp_path_factory):
    entry = MODELS[name]
    comes_trained = row(name).checkpoint is not None
    for package in () if comes_trained else entry.packages:  # their files are read without anomalib
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if check in row(name).exempt:
        pytest.skip(row(name).exempt[check])
    if comes_trained and check in OF_LEARNING:
        pytest.skip(OF_LEARNING[check])
    start = time.process_time()
    folder = tmp_path_factory.getbasetemp() / f"checks-{name}"
    folder.mkdir(exist_ok=True)
    candidate = candidate_of(name, folder)
    assert candidate.comes_trained is comes_trained
    CHECKS[check](candidate)
    seconds = spent()[name] = spent().get(name, 0.0) + time.process_time() - start
    assert seconds < AT_MOST, f"the checks of {name} take {seconds:.0f} s: give it a row of smaller settings"


def test_the_table_names_models_and_checks():
    assert len(MODELS) >= 6
    assert len(CHECKS) >= 35
    assert [name for name in ROWS if name not in MODELS] == []
    assert len(OF_LEARNING) == 3
    assert set(OF_LEARNING) <= set(CHECKS)
    assert [name for name in UNEXAMINED if name not in EXAMINED] == list(UNEXAMINED)
    assert len(UNEXAMINED) == len(anomalib_models()) + 1 - 2  # and any checkpoint of theirs; PatchCore and PaDiM are
    assert len(EXAMINED) + len(UNEXAMINED) == len(MODELS)
    for name, settings in ROWS.items():
        accepted, _ = get_model_signature_info(name)
        assert set(settings.params) <= set(accepted), name
        assert set(settings.exempt) <= set(CHECKS), name


def test_a_model_without_a_row_would_be_seen(monkeypatch):
    monkeypatch.setitem(MODELS, own_detector.ENTRY.name, own_detector.ENTRY)
    with pytest.raises(AssertionError, match=r"^vision_block_colours has no row in the table ROWS"):
        row("vision_block_colours")


def test_a_default_detector_is_found_by_each_of_its_names():
    names = [name for entry in MODELS.values() for name in (entry.name, *entry.aliases)]
    assert {"patchcore", "vision_patchcore"} <= set(names)
    for name in names:
        entry = model_info(name)
        if entry.requires_checkpoint:
            with pytest.raises(SpecError, match=r"needs a checkpoint|is not offered"):
                build_default_detector(name, device="cpu", pretrained=False)
        elif all(importlib.util.find_spec(package) for package in entry.packages):
            detector = build_default_detector(name, device="cpu", pretrained=False)
            assert type(detector).__name__ == entry.target.partition(":")[2]


def test_building_a_detector_loads_nothing_heavy():
    names = sorted(name for name, entry in MODELS.items() if not entry.requires_checkpoint)
    code = (
        "import sys, uadctl\n"
        f"for name in {names!r}: uadctl.create_model(name)\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'pyod', 'sklearn', 'open_clip', 'timm'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# -- the example


def test_the_example_passes_all_checks_as_a_registered_model(monkeypatch):
    monkeypatch.setitem(MODELS, own_detector.ENTRY.name, own_detector.ENTRY)
    check_model("block_colours")
    check_model("vision_block_colours", {"blocks": 8, "n_neighbors": 2}, train=5, size=(48, 56))


def test_the_example_runs():
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("all checks passed\n", "", 0)


# -- detectors that break one rule each


class Good(own_detector.BlockColours):
    """Breaks none."""


def altered(prediction: Prediction, *, score=None, map=None) -> Prediction:
    return Prediction(prediction.score if score is None else score, prediction.map if map is None else map)


def scored(factor: float, prediction: Prediction) -> Prediction:
    return altered(prediction, score=float(np.float32(prediction.score * factor)))


class PredictsUnfitted(Good):
    def predict(self, images):
        return super().predict(images) if self.is_fitted else np.zeros(len(images), np.int64)


class LearnsFromNothing(Good):
    def fit(self, images, **options):
        stream = iter(images)
        return super().fit(chain([next(stream, np.zeros((8, 8, 3), np.uint8))], stream), **options)


class ReturnsNothing(Good):
    def fit(self, images, **options):
        super().fit(images, **options)


def sharing():
    class SharesThatItIsFitted(Good):
        fitted = False

        @property
        def is_fitted(self):
            return type(self).fitted

        def fit(self, images, **options):
            super().fit(images, **options)
            type(self).fitted = True
            return self

    return SharesThatItIsFitted


class ReadsTwice(Good):
    def fit(self, images, **options):
        for image in images:
            read_image(image)
        return super().fit(images, **options)


class HoldsAll(Good):
    def fit(self, images, **options):
        return super().fit(list(images), **options)


class AlwaysThreshold(Good):
    def fit(self, images, *, threshold=True, **options):
        return super().fit(images, **options)


class RemembersTheFirstFit(Good):
    def fit(self, images, **options):
        before = self.bank_
        super().fit(images, **options)
        if before is not None:
            self.bank_ = np.concatenate([before, self.bank_])
        return self


class DependsOnTheSeedOfOthers(Good):
    def fit(self, images, **options):
        super().fit(images, **options)
        self.bank_ = self.bank_ + np.float32(int(np.random.get_state()[1][0]) % 997 / 1e4)  # noqa: NPY002
        return self


class WritesIntoItsInput(Good):
    def _colours(self, image):
        pixels = image.copy()
        pixels[0, 0] = 0
        if image.flags.writeable:
            image[0, 0] = 0
        return super()._colours(pixels)


class SeedsTheProcess(Good):
    def fit(self, images, **options):
        torch.manual_seed(0)
        return super().fit(images, **options)


class DrawsFromTheProcess(Good):
    def predict_batch(self, images):
        np.random.random()  # noqa: NPY002
        return super().predict_batch(images)


class SilencesDivisions(Good):
    def fit(self, images, **options):
        super().fit(images, **options)
        np.seterr(divide="ignore")
        return self


class Prints(Good):
    def predict_batch(self, images):
        print("predicting")
        return super().predict_batch(images)


class AsksTheNetwork(Good):
    def fit(self, images, **options):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=1).close()
        return super().fit(images, **options)


class ScoresInNumpy(Good):
    def predict_batch(self, images):
        return [altered(p, score=np.float64(p.score)) for p in super().predict_batch(images)]


class ScoresInFloat64(Good):
    def predict_batch(self, images):
        return [altered(p, score=p.score / 3) for p in super().predict_batch(images)]


class ScoresAreVerdicts(Good):
    def predict_batch(self, images):
        return [altered(p, score=float(p.score > 50)) for p in super().predict_batch(images)]


class Adapts(Good):
    asked = False

    def predict_batch(self, images):
        factor, self.asked = (1 + 1e-6 if self.asked else 1), True
        return [scored(factor, p) for p in super().predict_batch(images)]


class LooksAtTheFirst(Good):
    images_per_batch = 8

    def predict_batch(self, images):
        found = super().predict_batch(images)
        return [scored(1.01 if i and found[0].score > 50 else 1, p) for i, p in enumerate(found)]


class LooksAtItsBatch(Good):
    images_per_batch = 8

    def predict_batch(self, images):
        return [scored(1.01 if len(images) > 4 else 1, p) for p in super().predict_batch(images)]


class MixesSizes(Good):
    def predict_batch(self, images):
        factor = 1.01 if len({image.shape for image in images}) > 1 else 1
        return [scored(factor, p) for p in super().predict_batch(images)]


class NoNumberForSmall(Good):
    def predict_batch(self, images):
        found = super().predict_batch(images)
        return [altered(p, score=float("nan")) if min(p.map.shape) < 4 else p for p in found]


class UnclearForSmall(Good):
    def predict_batch(self, images):
        if min(min(image.shape[:2]) for image in images) < 4:
            raise ValueError("operands could not be broadcast together")
        return super().predict_batch(images)


class NoNumberForFlat(Good):
    def predict_batch(self, images):
        found = zip(images, super().predict_batch(images), strict=True)
        return [p if np.ptp(image) else altered(p, score=float("nan")) for image, p in found]


class StumblesOverOne(Good):
    def fit(self, images, **options):
        super().fit(images, **options)
        _ = self.bank_[1]
        return self


class LeavesOutTheOnlyOne(Good):
    def fit(self, images, *, left_out=None, **options):
        super().fit(images, left_out=left_out, **options)
        if left_out is not None and len(self.bank_) == 1:
            left_out(Prediction(0.0, np.zeros((64, 64), np.float32)))
        return self


class ZeroForManyNeighbors(Good):
    def predict_batch(self, images):
        found = super().predict_batch(images)
        return [altered(p, score=0.0) for p in found] if self.n_neighbors > len(self.bank_) else found


class HigherIsBetter(Good):
    def _predict(self, *arguments):
        prediction = super()._predict(*arguments)
        return altered(prediction, score=-prediction.score)


class PredictsAbove(Good):
    def predict(self, images):
        super().predict(images)  # says what is missing
        return (self.decision_function(images) > self.threshold_).astype(np.int64)


class PredictsNothing(Good):
    def predict(self, images):
        return super().predict(images) * 0


class InSample(Good):
    def fit(self, images, *, left_out=None, threshold=True, **options):
        images = list(map(read_image, images)) if left_out else images
        super().fit(images, threshold=threshold, **options)
        if left_out is not None and len(self.bank_) > 1:
            for prediction in self.predict_batch(images):
                left_out(prediction)
        return self


class LeftOutBackwards(Good):
    def fit(self, images, *, left_out=None, **options):
        told = []
        super().fit(images, left_out=None if left_out is None else told.append, **options)
        for prediction in reversed(told):
            left_out(prediction)
        return self


class LeftOutTwice(Good):
    def fit(self, images, *, left_out=None, **options):
        twice = None if left_out is None else lambda prediction: (left_out(prediction), left_out(prediction))
        return super().fit(images, left_out=twice, **options)


class InSampleThreshold(Good):
    def fit(self, images, **options):
        super().fit(images, **options)
        if self.threshold_ is not None:
            self.threshold_ = 0.0
        return self


class OffersNothingAndCalls(Good):
    offers_left_out = False


class MapsInFloat64(Good):
    def predict_batch(self, images):
        return [altered(p, map=p.map.astype(np.float64)) for p in super().predict_batch(images)]

    def predict_anomaly_map(self, images):
        return super().predict_anomaly_map(images).astype(np.float32)


class MapsMirrored(Good):
    def _predict(self, *arguments):
        prediction = super()._predict(*arguments)
        return altered(prediction, map=np.ascontiguousarray(prediction.map[:, ::-1]))


class FilesInOtherColours(Good):
    def decision_function(self, images):
        return super().decision_function(i if isinstance(i, np.ndarray) else read_image(i)[..., ::-1] for i in images)


class WantsContiguous(Good):
    def _colours(self, image):
        if not image.flags.c_contiguous:
            raise ValueError("ndarray is not C-contiguous")
        return super()._colours(image)


class SkipsUnreadable(Good):
    def decision_function(self, images):
        kept = []
        for image in images:
            with contextlib.suppress(DataError):
                kept.append(read_image(image))
        return super().decision_function(kept)


class TakesGrey(Good):
    def decision_function(self, images):
        return super().decision_function(
            np.repeat(i[..., None], 3, axis=2) if isinstance(i, np.ndarray) and i.ndim == 2 else i for i in images
        )


class FactsWithNaN(Good):
    def facts(self):
        return {"mean": float("nan")}


class NoDoubtsOfRandom(Good):
    def weights_state(self):
        return "random"

    def doubts(self):
        return []


class Pickles(Good):
    def state(self):
        tensors, facts = super().state()
        return {**tensors, "more": torch.frombuffer(bytearray(pickle.dumps({"a": 1})), dtype=torch.uint8)}, facts

    def restore(self, tensors, facts):
        return super().restore(tensors, facts)


class RestoresRounded(Good):
    def restore(self, tensors, facts):
        return super().restore({"bank": tensors["bank"].half().float()}, facts)


class ForgetsItsThreshold(Good):
    def restore(self, tensors, facts):
        return super().restore(tensors, {"threshold": None})


class RestoresFromWeights(Good):
    def restore(self, tensors, facts):
        from uadctl.features import weights
        from uadctl.spec import resolve_backbone

        weights.find_weights(resolve_backbone("efficientnet_lite0"))
        return super().restore(tensors, facts)


#: Detector -> what of CHECKS it fails: the rule it breaks, and no other.
BROKEN = {
    PredictsUnfitted: "refuses_before_fit",
    LearnsFromNothing: "refuses_no_images",
    ReturnsNothing: "fit_returns_the_detector",
    sharing(): "instances_share_nothing",
    ReadsTwice: "reads_images_once",
    HoldsAll: "lets_images_go",
    AlwaysThreshold: "threshold_can_be_left_out",
    RemembersTheFirstFit: "fit_forgets",
    DependsOnTheSeedOfOthers: "fit_repeats",
    WritesIntoItsInput: "inputs_stay",
    SeedsTheProcess: "generators_stay",
    DrawsFromTheProcess: "generators_stay",
    SilencesDivisions: "settings_stay",
    Prints: "nothing_is_printed",
    AsksTheNetwork: "stays_offline",
    ScoresInNumpy: "scores_are_numbers",
    ScoresInFloat64: "scores_are_numbers",
    ScoresAreVerdicts: "scores_are_numbers",
    Adapts: "scoring_changes_nothing",
    LooksAtTheFirst: "order_does_not_matter",
    LooksAtItsBatch: "batch_does_not_matter",
    MixesSizes: "sizes_may_differ",
    NoNumberForSmall: "odd_sizes_score_or_are_refused",
    UnclearForSmall: "odd_sizes_score_or_are_refused",
    NoNumberForFlat: "flat_images_get_numbers",
    StumblesOverOne: "one_image_is_enough_or_refused",
    LeavesOutTheOnlyOne: "one_image_is_enough_or_refused",
    ZeroForManyNeighbors: "neighbors_are_clamped",
    HigherIsBetter: "defects_score_higher",
    PredictsAbove: "predict_compares",
    PredictsNothing: "predict_compares",
    InSample: "left_out_is_out_of_sample",
    LeftOutBackwards: "left_out_is_out_of_sample",
    LeftOutTwice: "left_out_is_out_of_sample",
    InSampleThreshold: "left_out_is_out_of_sample",
    OffersNothingAndCalls: "left_out_is_out_of_sample",
    MapsInFloat64: "maps_fit_their_image",
    MapsMirrored: "maps_point_at_the_defect",
    FilesInOtherColours: "files_are_arrays",
    WantsContiguous: "memory_layout_does_not_matter",
    SkipsUnreadable: "unreadable_files_are_named",
    TakesGrey: "other_arrays_are_refused",
    FactsWithNaN: "describes_itself",
    NoDoubtsOfRandom: "describes_itself",
    Pickles: "state_is_plain",
    RestoresRounded: "state_restores_every_bit",
    ForgetsItsThreshold: "state_restores_every_bit",
    RestoresFromWeights: "state_restores_every_bit",
}


def failing(make, folder: Path) -> dict[str, Exception]:
    """Which checks fail of a detector, and how."""
    candidate = Candidate(make, folder, crowded=functools.partial(make, n_neighbors=100))
    found = {}
    for name, check in CHECKS.items():
        try:
            check(candidate)
        except Exception as error:  # noqa: BLE001 - whatever a check says
            found[name] = error
    return found


def test_the_good_one_passes_all_checks(tmp_path):
    assert failing(Good, tmp_path) == {}


def test_there_is_a_broken_detector_for_every_check():
    assert set(BROKEN.values()) == set(CHECKS)


@pytest.mark.parametrize(("broken", "check"), BROKEN.items(), ids=[broken.__name__ for broken in BROKEN])
def test_a_broken_rule_is_seen_and_no_other(broken, check, tmp_path):
    with np.errstate():
        found = failing(broken, tmp_path)
    assert list(found) == [check], found


# -- the calls that examine a detector


def test_what_failed_is_listed_a_line_each():
    class Both(Prints, ScoresInNumpy):
        pass

    with pytest.raises(CheckFailed) as error:
        check_detector(Both)
    assert str(error.value).splitlines() == [
        f"2 of {len(CHECKS)} checks failed",
        "nothing_is_printed: printed 'predicting\\n' on stdout",
        "scores_are_numbers: a score is a float64, expected a Python float",
    ]


def test_what_comes_trained_is_not_asked_what_it_knew_before(tmp_path):
    class ComesTrained(Good):
        comes_trained = True
        scores_are_cut = False

        def __init__(self, **params):
            super().__init__(**params)
            self.fit([part(seed, Size(64, 64)) for seed in range(4)])

        def load(self):
            return self

        def keep(self, folder):
            del folder

    class IsTrainedNow(ComesTrained):
        comes_trained = False

    assert Candidate(ComesTrained, tmp_path).comes_trained
    assert not Candidate(IsTrainedNow, tmp_path).comes_trained
    assert not Candidate(Good, tmp_path).comes_trained
    assert set(failing(ComesTrained, tmp_path)) == {"refuses_before_fit", "instances_share_nothing"}
    check_detector(ComesTrained)


def test_an_exempt_check_is_not_asked_for():
    check_detector(Prints, exempt={"nothing_is_printed": "a terminal is all it has"})


def test_an_error_that_no_check_expects_is_told_with_its_kind():
    class Stumbles(Good):
        def facts(self):
            raise ZeroDivisionError("by zero")

    with pytest.raises(CheckFailed, match=r"\ndescribes_itself: raised ZeroDivisionError: by zero$"):
        check_detector(Stumbles)


@pytest.mark.parametrize("exempt", [{"no_such_check": "why not"}, {"inputs_stay": " "}])
def test_an_exemption_needs_a_check_and_a_reason(exempt):
    with pytest.raises(ValueError) as error:
        check_detector(Good, exempt=exempt)
    (name,) = exempt
    assert str(error.value) == f"exempt names {name}; expected checks, each with a reason: {', '.join(CHECKS)}"


def test_too_few_training_images_are_refused():
    with pytest.raises(ValueError, match=r"^train \(=3\) must be at least 4$"):
        check_detector(Good, train=3)


def test_maps_that_the_registry_denies_are_seen(tmp_path):
    with pytest.raises(CheckFailed, match=r"^made a map, though it is said to make none \(pixel_map\)$"):
        CHECKS["maps_fit_their_image"](Candidate(Good, tmp_path, pixel_map=False))


def test_a_detector_without_maps_is_not_asked_for_any(tmp_path):
    class ScoresOnly(Good):
        def predict_batch(self, images):
            return [Prediction(p.score) for p in super().predict_batch(images)]

        def fit(self, images, *, left_out=None, **options):
            told = None if left_out is None else lambda prediction: left_out(Prediction(prediction.score))
            return super().fit(images, left_out=told, **options)

    check_detector(ScoresOnly, pixel_map=False)
    with pytest.raises(CheckFailed, match=r"^made no map, though it is said to make some \(pixel_map\)$"):
        CHECKS["maps_fit_their_image"](Candidate(ScoresOnly, tmp_path))


def test_weights_that_are_not_here_are_not_downloaded_for_a_check(tmp_path, monkeypatch):
    monkeypatch.setattr("uadctl.models.frozen.FrozenNetwork.weights_state", lambda self: "network")
    examined = model_candidate("patchcore", tmp_path)
    assert examined.make().network.pretrained is False
    assert examined.restoring().network.pretrained is False
    monkeypatch.setattr("uadctl.models.frozen.FrozenNetwork.weights_state", lambda self: "package")
    examined = model_candidate("patchcore", tmp_path, {"weights": "file.pth"})
    assert (examined.make().network.pretrained, examined.make().network.weights) == (True, "file.pth")
    assert (examined.restoring().network.pretrained, examined.restoring().network.weights) == (False, None)
    assert examined.crowded().n_neighbors == 10_000
