"""The detectors of PyOD: the table against the installed package, and what each of them does with rows of features.

With UADCTL_UPDATE_TABLES=1 the table is written anew: names and defaults from PyOD, our words as they are.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import parts
import pytest
import torch

from uadctl.errors import BackendMissing, DataError, ParamError, RunError
from uadctl.models import classical
from uadctl.models.base import Detector
from uadctl.spec import MODELS, create_model, list_models, list_params
from uadctl.spec.signature import build_model_kwargs, check_params
from uadctl.spec.wrapped import PYOD_FILE, WrappedDetector, pyod_detectors

pytest.importorskip("pyod", reason="PyOD is not installed: pip install 'uadctl[pyod]'")

OFFERED = {d.name: d for d in pyod_detectors() if d.offered}
# Seconds each: networks that are trained for hundreds of passes, or numba compiling.
SLOW = {
    "inne",
    "hbos",
    "rgraph",
    "ae1svm",
    "alad",
    "anogan",
    "deep_svdd",
    "dif",
    "lunar",
    "mo_gaal",
    "so_gaal",
    "vae",
    "sod",
    "cblof",
}
EACH = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(OFFERED)]
# What the scores of rows scored together depend on, where they are scored alone: the rows beside them, which these add
# to their training rows; or random
# numbers that they draw while scoring.
BESIDE = {"copod", "ecod", "rgraph"}
DRAWS = {"alad", "vae"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Rows:
    """A feature_extractor for tests: the image's first pixel is the number of its row."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __call__(self, images):
        return np.array([self.rows[image[0, 0, 0]] for image in images])

    def images(self, *numbers: int) -> list[np.ndarray]:
        return [np.full((2, 2, 3), n, np.uint8) for n in numbers]


@pytest.fixture
def rows() -> Rows:
    """Rows of 4 features: 0..11 to learn from, 12..15 like them, 16 far away, 17 no numbers."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(18, 4))
    rows[16] *= 20
    rows[17] = np.nan
    return Rows(rows)


def build(name: str, extractor: Rows, **params):
    return create_model(f"vision_{name}", feature_extractor=extractor, device="cpu", **params)


# --- the table


def found_in_pyod() -> list[str]:
    """The targets of all classes of PyOD that derive from its base classes, without importing them."""
    import pyod.models

    bases = {"BaseDetector", "BaseDeepLearningDetector", "BaseTSDetector"}
    targets = []
    for file in sorted(Path(pyod.models.__file__).parent.glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and {b.id for b in node.bases if isinstance(b, ast.Name)} & bases:
                targets.append(f"pyod.models.{file.stem}:{node.name}")
    return [t for t in targets if t.partition(":")[2] not in bases]


def default_of(parameter: inspect.Parameter):
    """As JSON has it; None for what it cannot say."""
    value = parameter.default
    if isinstance(value, tuple):
        value = list(value)
    return value if isinstance(value, bool | int | float | str | list | dict) else None


def regenerated() -> str:
    """The table's file as it would be, had it been made of the installed PyOD today."""
    import pyod

    document = json.loads(PYOD_FILE.read_text(encoding="utf-8"))
    known = {row["target"]: row for row in document["detectors"]}
    detectors = []
    for target in found_in_pyod():
        module, _, name = target.partition(":")
        row = known.get(target) or {
            "name": module.rpartition(".")[2],
            "target": target,
            "reason": f"new in PyOD {pyod.__version__}: nobody has looked at it yet",
        }
        if "reason" not in row:
            old = {param["name"]: param for param in row["parameters"]}
            row["parameters"] = []
            for parameter in inspect.signature(getattr(importlib.import_module(module), name)).parameters.values():
                default = default_of(parameter)
                words = old.get(parameter.name) or (
                    {"kept": "object"} if default is None else {"type": type(default).__name__}
                )
                row["parameters"].append({"name": parameter.name, "default": default, **words} | {"default": default})
        detectors.append(row)
    return written({**document, "version": pyod.__version__, "detectors": detectors})


def written(document: dict) -> str:
    """JSON with a line for each parameter."""

    def text(value) -> str:
        return json.dumps(value, ensure_ascii=False)

    rows = []
    for row in document["detectors"]:
        lines = [f"   {text(k)}: {text(v)}" for k, v in row.items() if k != "parameters"]
        if "parameters" in row:
            params = ",\n".join(f"    {text(param)}" for param in row["parameters"])
            lines.append(f'   "parameters": [\n{params}\n   ]')
        rows.append("  {\n" + ",\n".join(lines) + "\n  }")
    head = [f" {text(k)}: {text(v)}" for k, v in document.items() if k != "detectors"]
    return "{\n" + ",\n".join([*head, ' "detectors": [\n' + ",\n".join(rows) + "\n ]"]) + "\n}\n"


def test_the_table_is_that_of_the_installed_pyod():
    import pyod

    text = regenerated()
    if os.environ.get("UADCTL_UPDATE_TABLES"):
        PYOD_FILE.write_text(text, encoding="utf-8")
    document = json.loads(PYOD_FILE.read_text(encoding="utf-8"))
    if pyod.__version__ != document["version"]:
        text = text.replace(f'"version": "{pyod.__version__}"', f'"version": "{document["version"]}"')
    assert PYOD_FILE.read_text(encoding="utf-8") == text
    assert len(document["detectors"]) >= 62


def test_the_table_says_of_every_detector_what_it_is_or_why_it_is_not_offered():
    names = [d.name for d in pyod_detectors()]
    assert names == sorted(names)
    assert len(OFFERED) >= 33
    left = {d.name for d in pyod_detectors() if not d.offered}
    assert left >= {"xgbod", "mad", "devnet", "lscp", "suod", "rod", "qmcd", "hdbscan"}
    for detector in pyod_detectors():
        if detector.offered:
            assert detector.summary.endswith(".")
            assert detector.paper
            assert detector.kind
            assert all((param.type is None) != (param.kept is None) for param in detector.parameters), detector.name
        else:
            assert detector.reason
            assert not detector.parameters


def test_each_offered_one_is_a_model_with_a_short_name():
    names = list_models("classical")
    assert names == sorted(f"vision_{name}" for name in OFFERED)
    for name in names:
        entry = MODELS[name]
        assert entry.aliases == (name.removeprefix("vision_"),)
        assert entry.metadata["pixel_map"] is False
        assert entry.metadata["extra"] == "pyod"
        assert isinstance(create_model(name), Detector)
    assert "vision_loci" not in MODELS


def test_specs_are_checked_without_pyod_and_everything_it_needs():
    code = (
        "import sys, uadctl.spec as s; from uadctl.spec.signature import check_params;"
        "s.read_spec(None, s.Overrides(dataset='demo', model='vision_auto_encoder'));"
        "params = {'n_neighbours': 3, 'method': 'meen'};"
        "print(len(s.list_params('knn')), [p.fact for p in check_params('knn', params)[1]]);"
        "print([m for m in ('pyod', 'sklearn', 'numpy', 'scipy', 'torch', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"{len(list_params('knn'))} ['; did you mean n_neighbors?', "
        '\'expected one of "largest", "mean", "median"; did you mean "mean"?\']\n[]\n'
    )


# --- parameters


def test_the_constructor_has_pyods_parameters_and_ours_each_documented():
    infos = {info.name: info for info in list_params("auto_encoder")}
    assert {"lr", "epoch_num", "estimator_batch_size", "batch_size", "random_state", "features", "seed"} <= set(infos)
    assert not {"verbose", "use_compile", "optimizer_params", "estimator_device"} & set(infos)
    assert infos["estimator_batch_size"].default == 32
    assert infos["hidden_neuron_list"].default == (64, 32)
    assert infos["random_state"].default is None
    assert not infos["feature_extractor"].settable
    documented = 0
    for name in OFFERED:
        for info in list_params(name):
            assert info.doc, f"{name}: {info.name}"
            documented += 1
    assert documented >= 33 * 14


def test_values_are_checked_as_pyod_takes_them():
    assert check_params("iforest", {"max_samples": 8, "max_features": 0.5}) == (
        {"max_samples": 8, "max_features": 0.5},
        [],
    )
    assert check_params("auto_encoder", {"hidden_neuron_list": [8, 4]})[0] == {"hidden_neuron_list": (8, 4)}
    (problem,) = check_params("knn", {"device": 3})[1]
    assert problem.key == ("device",)
    with pytest.raises(
        TypeError, match=r"^vision_ecod does not accept contamnation \(did you mean contamination\?\)\. "
    ):
        create_model("ecod", contamnation=0.1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bins'"):
        classical.ECOD(bins=3)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ParamError) as error:
        create_model("knn", size=0, contamination=0.5, backbone="resnet18", layers=("x",), batch_size=0)
    assert error.value.message.split("\n") == [
        "layers (=['x']) must be distinct layers of resnet18: layer1, layer2, layer3, layer4",
        'batch_size (=0) must be at least 1, or "auto"',
        "size (=0) must be at least 1",
        "contamination (=0.5) must lie in (0, 0.5)",
    ]
    with pytest.raises(ParamError) as error:
        create_model("knn", features="pixels", feature_extractor=lambda images: images)
    assert error.value.message == ("features (='pixels') must be left out beside a feature_extractor, which gives them")


def test_what_pyods_constructor_refuses_is_said_before_any_work():
    detector = create_model("lmdd", n_iter=0, features="pixels", device="cpu")
    with pytest.raises(ParamError) as error:
        detector.prepare()
    assert error.value.message == (
        "vision_lmdd: PyOD refuses the parameters: ValueError: n_iter is set to 0. Not in the range of (1, 2147483647)."
    )


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        (
            "ocsvm",
            {"nu": 5.0},
            "InvalidParameterError: The 'nu' parameter of OneClassSVM must be a float in the range (0.0, 1.0]. Got 5.0 "
            "instead.",
        ),
        (
            "iforest",
            {"n_estimators": 0},
            "InvalidParameterError: The 'n_estimators' parameter of IsolationForest must be an int in the range "
            "[1, inf). Got 0 instead.",
        ),
        ("sampling", {"metric": "foo"}, "ValueError: Unrecognized metric 'foo'"),
        ("cblof", {"alpha": 2.0}, "ValueError: alpha is set to 2.0. Not in the range of (0, 1)."),
        ("auto_encoder", {"hidden_neuron_list": ()}, "IndexError: list index out of range"),
    ],
)
def test_what_pyod_refuses_only_when_it_learns_is_said_before_any_work_too(name, params, said):
    detector = create_model(name, features="pixels", device="cpu", **params)
    with pytest.raises(ParamError) as error:
        detector.prepare()
    assert error.value.message == f"vision_{name}: PyOD refuses the parameters: {said}"
    assert error.value.help is None


def test_and_when_nobody_prepared_it(rows):
    detector = build("ocsvm", rows, nu=5.0)
    with pytest.raises(ParamError, match="^vision_ocsvm: PyOD refuses the parameters: InvalidParameterError: The 'nu'"):
        detector.fit(rows.images(*range(12)))
    assert not detector.is_fitted


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *(("cblof", {"n_clusters": n}) for n in (2, 3, 5, 100)),
        ("iforest", {"max_features": 100, "max_samples": 1000}),
        ("pca", {"n_components": 50, "n_selected_components": 30}),
        ("kpca", {"n_components": 50, "n_selected_components": 30}),
        ("mcd", {"support_fraction": 0.1}),
        ("knn", {"n_neighbors": 1000}),
        ("auto_encoder", {"epoch_num": 10**6, "estimator_batch_size": 1000}),
        ("lunar", {"n_epochs": 10**6}),
        ("deep_svdd", {"epochs": 10**6}),
        ("mo_gaal", {"stop_epochs": 10**6}),
        ("anogan", {"epochs": 10**6, "epochs_query": 10**6}),
    ],
)
def test_what_only_the_few_made_up_rows_are_too_small_for_is_not_refused(name, params):
    create_model(name, features="pixels", device="cpu", **params).prepare()


def test_pyods_own_values_are_not_tried(monkeypatch):
    def stumble(*_, **__):
        raise AssertionError

    monkeypatch.setattr(classical.Classical, "_construct", stumble)
    create_model("sod", features="pixels", device="cpu").prepare()
    with pytest.raises(ParamError):
        create_model("sod", features="pixels", device="cpu", alpha=0.5).prepare()


def test_a_count_below_one_is_refused_and_not_lifted():
    with pytest.raises(ParamError) as error:
        create_model("sod", n_neighbors=-3, ref_set=0, size=0)
    assert error.value.message.split("\n") == [
        "size (=0) must be at least 1",
        "n_neighbors (=-3) must be at least 1",
        "ref_set (=0) must be at least 1",
    ]
    with pytest.raises(ParamError, match=r"^estimator_batch_size \(=0\) must be at least 1$"):
        create_model("vae", estimator_batch_size=0)
    with pytest.raises(ParamError, match=r"^n_components \(=0\) must be at least 1$"):
        create_model("pca", n_components=0)
    # Shares and names are no counts.
    create_model("pca", n_components=0.5)
    create_model("pca", n_components="mle")


def test_neither_device_nor_pretrained_nor_anything_else_of_ours_reaches_the_estimator(monkeypatch, rows):
    given: dict[str, dict[str, object]] = {}
    load = classical.load_target

    def spied(target):
        made = load(target)

        def construct(**kwargs):
            given[target.rpartition(":")[2]] = kwargs
            return made(**kwargs)

        return construct

    monkeypatch.setattr(classical, "load_target", spied)
    auto = {"device": "cpu", "pretrained": False, "seed": 7, "batch_size": 5, "precision": "fp32"}
    for name in ("abod", "ecod", "iforest", "auto_encoder"):
        user = {"estimator_batch_size": 6, "random_state": 3} if name == "auto_encoder" else {}
        kwargs = build_model_kwargs(name, user_kwargs=user, auto_kwargs=auto)
        create_model(name, **kwargs, feature_extractor=rows).fit(rows.images(*range(12)))
    assert given["ABOD"] == {"contamination": 0.1, "n_neighbors": 5}
    assert given["ECOD"] == {"contamination": 0.1}
    assert given["IForest"] == {"contamination": 0.1, "random_state": 7, "verbose": 0}
    assert given["AutoEncoder"] == {
        "contamination": 0.1,
        "device": torch.device("cpu"),
        "random_state": 3,
        "verbose": 0,
        "batch_size": 6,
    }


def test_a_seed_larger_than_numpys_is_taken_and_matters(rows):
    images = rows.images(*range(12))
    scores = {seed: build("iforest", rows, seed=seed).fit(images).threshold_ for seed in (0, 1, 2**32 + 1)}
    assert scores[0] != scores[1]
    assert scores[2**32 + 1] == scores[1]


# --- what every one of them does


@pytest.mark.parametrize("name", EACH)
def test_scores_depend_on_the_image_and_the_seed_alone(name, rows, capsys):
    train, test = rows.images(*range(12)), rows.images(12, 13, 14, 15, 16)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 - the generators that PyOD would disturb
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    detector = build(name, rows).fit(iter(train))
    scores = detector.decision_function(test)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002
    assert "PYTHONHASHSEED" not in os.environ or os.environ["PYTHONHASHSEED"] != "0"
    assert capsys.readouterr() == ("", "")
    assert np.isfinite(scores).all()
    assert scores.tolist() == scores.astype(np.float32).tolist()
    single = [detector.predict_batch([image])[0].score for image in reversed(test)][::-1]
    assert single == scores.tolist()

    assert detector.predict_batch(test)[0].map is None
    with pytest.raises(ValueError, match=f"^{type(detector).__name__} makes no anomaly maps$"):
        detector.predict_anomaly_map(test)
    assert detector.threshold_ == float(np.quantile(detector.train_scores_.astype(np.float32), 0.9))
    assert set(detector.predict(test)) <= {0, 1}

    _holds_what_the_table_says_of_scoring(detector, rows)

    tensors, facts = detector.state()
    json.dumps(facts, allow_nan=False)
    again = build(name, rows).restore(tensors, facts)
    assert again._estimator.decision_scores_.ravel().tolist() == detector.train_scores_.tolist()
    assert again.decision_function(test).tolist() == scores.tolist()
    assert again.threshold_ == detector.threshold_


def test_scores_are_those_of_pyod_for_the_one_row_alone(rows):
    known, new = rows.rows[:12], rows.rows[12:17]
    mean, scale = known.mean(axis=0), known.std(axis=0)
    known, new = (((x - mean) / scale).astype(np.float32).astype(np.float64) for x in (known, new))
    for name in ("ecod", "copod", "knn", "sos"):
        own = classical.load_target(OFFERED[name].target)()
        own.fit(known)
        together = np.concatenate([known, new[4:]]) if name == "sos" else new[4:]
        wanted = np.float32(own.decision_function(together)[-1])
        found = build(name, rows).fit(rows.images(*range(12))).decision_function(rows.images(12, 16))
        assert found[1] == wanted, name


def test_pyod_runs_without_a_word_and_leaves_random_numbers_alone(capsys, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "5")
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    drawn = []

    def runs_and_fails() -> None:
        with classical._by_itself(3):
            print("Epoch 1")
            warnings.warn("something", UserWarning, stacklevel=1)
            drawn.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002
            os.environ["PYTHONHASHSEED"] = "0"
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            runs_and_fails()
    assert drawn[0] == drawn[1]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before
    assert os.environ["PYTHONHASHSEED"] == "5"
    assert capsys.readouterr() == ("", "")


def _holds_what_the_table_says_of_scoring(detector, rows) -> None:
    new = detector._standardised(rows.rows[12:17]).astype(np.float64)
    estimator, entry = detector._estimator, detector.detector

    def raw(x: np.ndarray) -> np.ndarray | None:
        try:
            with classical._by_itself(0), np.errstate(all="ignore"):
                return np.asarray(estimator.decision_function(x), np.float64).ravel()
        except (ValueError, IndexError):
            return None

    together = raw(new)
    alone = [raw(row[None]) for row in new]
    same = together is not None and all(
        a is not None and np.allclose(a, t, rtol=1e-4, atol=1e-6) for a, t in zip(alone, together, strict=True)
    )
    if entry.scored == "alone" and entry.name not in BESIDE | DRAWS:
        assert same, "scored alone, and yet its scores depend on the rows beside"
    else:
        assert not same, "its scores do not depend on the rows beside: it can be scored alone"


CASES = {
    "1": np.random.default_rng(1).normal(size=(1, 4)),
    "2": np.random.default_rng(2).normal(size=(2, 4)),
    "3": np.random.default_rng(3).normal(size=(3, 4)),
    "20": np.random.default_rng(4).normal(size=(20, 4)),
    "33": np.random.default_rng(7).normal(size=(33, 4)),
    "more features": np.random.default_rng(5).normal(size=(8, 30)),
    "all the same": np.zeros((6, 4)),
    "copies": np.repeat(np.random.default_rng(6).normal(size=(3, 4)), 3, axis=0),
}


def refusal(detector, images, new) -> DataError | RunError | None:
    """What it says instead of learning `images` and scoring `new`."""
    try:
        detector.fit(images)
        assert np.isfinite(detector.decision_function(new)).all()
    except (DataError, RunError) as error:
        return error
    return None


@pytest.mark.parametrize("name", EACH)
def test_few_or_odd_images_are_learned_or_refused_in_one_line(name):
    learned = []
    for case, known in CASES.items():
        rows = Rows(np.concatenate([known, known[:1] + 0.5]))
        detector = build(name, rows)
        error = refusal(detector, rows.images(*range(len(known))), rows.images(len(known)))
        if error is None:
            assert np.abs(detector.train_scores_).max() < 1e30, case
            learned.append(case)
        else:
            assert str(error).startswith((f"vision_{name} ", f"vision_{name}: ")), str(error)
            assert "\n" not in str(error)
            assert error.help
    assert {"20", "33"} <= set(learned), learned


def test_what_cannot_be_learned_or_scored_is_said(rows):
    cases = {
        ("mcd", 4): "vision_mcd needs more training images than features, found 4 images of 4 features",
        ("abod", 2): "vision_abod cannot learn from 2 training images of 4 features: the scores of 2 of them are no "
        "finite numbers",
        ("knn", 1): "vision_knn cannot learn from 1 training image of 4 features: ValueError: Expected n_neighbors < "
        "n_samples_fit, but n_neighbors = 1, n_samples_fit = 1, n_samples = 1",
    }
    for (name, n), message in cases.items():
        with pytest.raises(DataError) as error:
            build(name, rows).fit(rows.images(*range(n)))
        assert error.value.message == message
    with pytest.raises(ValueError, match="^ECOD needs at least one training image, found none$"):
        build("ecod", rows).fit([])
    with pytest.raises(RuntimeError, match=r"^ECOD is not fitted; call fit\(images\) first$"):
        build("ecod", rows).decision_function(rows.images(0))


@pytest.mark.parametrize(("name", "n"), [("ecod", 1), ("copod", 1), ("iforest", 1), ("iforest", 2), ("sos", 3)])
def test_what_would_give_every_image_the_same_score_is_not_a_model(name, n, rows):
    detector = build(name, rows)
    with pytest.raises(DataError) as error:
        detector.fit(rows.images(*range(n)))
    assert error.value.message == (
        f"vision_{name} cannot learn from {n} training image{'s'[: n > 1]} of 4 features: images near to them and far "
        "from them would all have the same score"
    )
    assert error.value.help.startswith("Give it more training images")
    assert not detector.is_fitted
    assert detector.threshold_ is None


def test_equal_scores_of_the_training_images_alone_are_no_reason_to_refuse(rows):
    for name, n in (("sampling", 12), ("kde", 1), ("knn", 2), ("mcd", 5)):
        detector = build(name, rows).fit(rows.images(*range(n)))
        assert np.ptp(detector.train_scores_) <= 1e-6 * np.abs(detector.train_scores_).max(), name
        near, far = detector.decision_function(rows.images(0, 16))
        assert near < far


def test_features_that_are_no_numbers_are_never_a_score(rows):
    detector = build("ecod", rows)
    with pytest.raises(RunError, match="^vision_ecod: features contain NaN or infinity$"):
        detector.fit(rows.images(0, 1, 17))
    assert not detector.is_fitted
    detector.fit(rows.images(*range(12)))
    with pytest.raises(RunError, match="^vision_ecod: features contain NaN or infinity$"):
        detector.decision_function(rows.images(12, 17))


def test_a_failed_fit_forgets_the_one_before(rows):
    detector = build("knn", rows).fit(rows.images(*range(12)))
    with pytest.raises(DataError):
        detector.fit(rows.images(0))
    assert not detector.is_fitted
    assert detector.threshold_ is None


def test_no_more_neighbours_than_there_are(rows):
    few = rows.images(*range(5))
    test = rows.images(12, 16)
    assert (
        build("knn", rows, n_neighbors=50).fit(few).decision_function(test).tolist()
        == build("knn", rows, n_neighbors=4).fit(few).decision_function(test).tolist()
        != build("knn", rows, n_neighbors=3).fit(few).decision_function(test).tolist()
    )


@pytest.mark.parametrize(
    ("value", "most", "n", "bounded"),
    [
        (20, "rows - 1", 5, 4),
        (3, "rows - 1", 5, 3),
        (20, "rows - 1", 1, 1),
        (10, "rows - 2", 5, 3),
        (20, "rows", 5, 5),
        (0.5, "rows", 5, 0.5),
        (32, "batch", 5, 5),
        (32, "batch", 33, 31),
        (2, "batch", 33, 2),
        (32, "batch", 1, 1),
        (None, "rank", 5, 4),
        (2, "rank", 5, 2),
        (9, "rank", 5, 4),
        (0.9, "rank", 5, 0.9),
        (None, "rank", 40, 6),
    ],
)
def test_counts_are_bounded_by_the_training_rows(value, most, n, bounded):
    matrix = np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)
    assert classical._at_most(value, most, matrix) == bounded


def test_components_without_variance_do_not_make_scores_of_rounding():
    rng = np.random.default_rng(0)
    rows = Rows(rng.normal(size=(9, 30)))
    detector = build("pca", rows).fit(rows.images(*range(8)))
    assert np.abs(detector.train_scores_).max() < 1e6
    assert detector._estimator.detector_.n_components_ == 7


# --- features


def test_without_pretrained_weights_the_histogram_stands_in_and_that_is_said():
    detector = create_model("ecod", pretrained=False, device="cpu")
    assert detector.features == "histogram"
    assert detector.weights_state() == "none"
    assert detector.stride == 1
    assert detector.doubts() == [
        'pretrained = false: features = "histogram" stands in for the network\'s, the scores know colours only'
    ]
    assert create_model("ecod", pretrained=False, features="pixels").doubts() == []
    wanted = create_model("ecod", pretrained=False, features="pooled")
    assert wanted.doubts() == ["pretrained = false: the backbone's weights are random, the scores mean little"]
    assert wanted.weights_state() == "random"
    assert create_model("ecod").features == "pooled"
    assert create_model("ecod").doubts() == []
    assert create_model("ecod").stride == 16


@pytest.mark.parametrize(("features", "d"), [("pooled", 152), ("histogram", 96), ("pixels", 12)])
def test_each_kind_of_feature_finds_the_red_bar_in_images_of_any_size(features, d, tmp_path):
    sizes = [(48, 48), (64, 80), (48, 48), (50, 60), (64, 64), (64, 80)]
    train = [parts.surface(i, *size) for i, size in enumerate(sizes)]
    detector = create_model("knn", features=features, size=2, device="cpu", batch_size=4).fit(train)
    assert detector.features_.shape == (6, d)
    assert detector.features_.dtype == np.float32
    good, bad = parts.surface(7, 64, 64), parts.scratched(8, 64, 64)[0]
    scores = detector.decision_function([good, parts.write(tmp_path / "bad.png", bad)])
    assert scores[0] < scores[1]
    tensors, facts = detector.state()
    again = create_model("knn", pretrained=False, size=2, device="cpu").restore(tensors, facts)
    assert again.decision_function([good, bad]).tolist() == scores.tolist()
    assert again.features == features
    assert again.facts()["training_rows"] == [6, d]
    assert again.facts()["weights"] == ("package" if features == "pooled" else "none")


def test_a_feature_extractor_must_give_a_row_for_each_image(rows):
    images = rows.images(0, 1, 2)
    with pytest.raises(ValueError, match=r"^feature_extractor must return \(3, d\) features, found shape \(3,\)$"):
        create_model("ecod", feature_extractor=lambda images: np.zeros(len(images))).fit(images)
    widths = iter((4, 5))
    detector = create_model("ecod", feature_extractor=lambda images: np.eye(len(images), next(widths))).fit(images)
    with pytest.raises(ValueError, match="^vision_ecod has learned 4 features an image, found 5$"):
        detector.decision_function(images)
    tensors, facts = build("ecod", rows).fit(images).state()
    with pytest.raises(RunError, match="^vision_ecod was fitted with a feature_extractor, and has none now$"):
        create_model("ecod").restore(tensors, facts).decision_function(images)


# --- keeping


def test_a_refit_with_other_scores_is_refused(rows):
    import pyod
    import sklearn

    tensors, facts = build("knn", rows).fit(rows.images(*range(12))).state()
    assert set(tensors) == {"features", "mean", "scale", "train_scores"}
    rounding = {**tensors, "train_scores": tensors["train_scores"] * (1 + 1e-6)}
    assert build("knn", rows).restore(rounding, facts).is_fitted
    facts["versions"] = {"pyod": "1.0", "scikit-learn": "0.1"}
    other = {**tensors, "train_scores": tensors["train_scores"] * (1 + 1e-3)}
    detector = build("knn", rows)
    with pytest.raises(RunError) as error:
        detector.restore(other, facts)
    assert error.value.message == (
        f"vision_knn was fitted with pyod 1.0, scikit-learn 0.1; here, with pyod {pyod.__version__}, scikit-learn "
        f"{sklearn.__version__}, its training images get other scores"
    )
    assert error.value.help == "Install the versions it was fitted with, or fit it again."
    assert not detector.is_fitted


def test_other_scores_of_the_same_versions_are_not_laid_on_them(rows):
    import pyod
    import sklearn

    tensors, facts = build("knn", rows).fit(rows.images(*range(12))).state()
    with pytest.raises(RunError) as error:
        build("knn", rows).restore({**tensors, "train_scores": tensors["train_scores"] + 1}, facts)
    assert error.value.message == (
        f"vision_knn was fitted with pyod {pyod.__version__}, scikit-learn {sklearn.__version__}; here, with the same, "
        "its training images get other scores"
    )
    assert error.value.help == (
        "This processor or its libraries compute otherwise: fit it again here, or score where it was fitted."
    )


@pytest.mark.parametrize(
    ("name", "params"), [("lunar", {"n_epochs": 20}), ("ae1svm", {"epochs": 5, "kernel_approx_features": 200})]
)
def test_networks_are_restored_whatever_the_number_of_threads(name, params):
    rows = Rows(np.random.default_rng(0).normal(size=(200, 150)))
    torch.set_num_threads(2)
    detector = build(name, rows, **params).fit(rows.images(*range(200)))
    assert torch.get_num_threads() == 2
    tensors, facts = detector.state()
    torch.set_num_threads(1)
    again = build(name, rows, **params).restore(tensors, facts)
    assert again._estimator.decision_scores_.ravel().tolist() == detector.train_scores_.tolist()


def test_without_pyod_its_extra_is_named(monkeypatch, rows):
    monkeypatch.setitem(sys.modules, "pyod", None)
    detector = build("knn", rows)
    for act in (detector.prepare, lambda: detector.fit(rows.images(0, 1, 2))):
        with pytest.raises(BackendMissing) as error:
            act()
        assert "vision_knn needs pyod, which is " in error.value.message
        assert error.value.message.endswith("Install it with: pip install 'uadctl[pyod]'")


def test_a_wrong_device_is_said_before_any_work():
    detector = create_model("knn", features="pixels", device="cuda:99")
    with pytest.raises(ValueError, match='^device "cuda:99": this machine has '):
        detector.prepare()


# --- the command line


@pytest.mark.parametrize("model", ["vision_abod", "vision_ecod"])
def test_a_bench_without_pretrained_weights(uadctl, tmp_path, model):
    parts.write_category(tmp_path / "data", "tile", train=20)
    words = ["--dataset", "mvtec", "--root", "data", "--model", model, "--device", "cpu", "--no-pretrained", "--json"]
    ended = uadctl("bench", *words)
    cell = ended.json["results"]["tile"][model]["0"]
    assert cell["success"]
    assert cell["metrics"]["image_auroc"] == 1.0
    pixel = [name for name in cell["metrics"] if name.startswith(("pixel_", "aupro"))]
    assert len(pixel) == 4
    assert {cell["metrics"][name] for name in pixel} == {None}
    assert {cell["reasons"][name] for name in pixel} == {"there are no maps"}
    assert ended.err.count("warning: ") == 1
    assert f'warning: {model}: pretrained = false: features = "histogram" stands in' in ended.err

    run = json.loads((Path(ended.json["run"]) / "run.json").read_text())
    assert run["models"][model]["tile"]["weights"] == "none"
    assert len(run["warnings"]) == 1
    lines = uadctl("score", ended.json["run"], "data/tile/test", "--json").lines
    assert len(lines) == 5
    assert [line["verdict"] for line in lines if "scratch" in line["path"]] == ["anomaly"] * 3
    assert {line["map"] for line in lines} == {None}


def test_one_training_image_and_one_test_image(uadctl, tmp_path):
    parts.write_category(tmp_path / "data", "tile", train=1, good=1, bad=0)
    words = ["--dataset", "mvtec", "--root", "data", "--device", "cpu", "--json"]
    metrics = uadctl("bench", *words, "--model", "kde").json["results"]["tile"]["vision_kde"]["0"]["metrics"]
    assert set(metrics.values()) == {None}
    ended = uadctl("bench", *words, "--model", "knn", code=1)
    assert ended.err.startswith(
        "error: tile / vision_knn: vision_knn cannot learn from 1 training image of 152 features"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    "UADCTL_REALDATA" not in os.environ, reason="UADCTL_REALDATA is not set: no real images to measure on"
)
def test_pooled_features_see_what_raw_pixels_do_not(tmp_path):
    from uadctl import run_benchmark

    root = str(Path(os.environ["UADCTL_REALDATA"]) / "mvtec_ad")
    aurocs = {}
    for features in ("pooled", "pixels"):
        result = run_benchmark(
            "mvtec", root=root, categories=["bottle"], model="ecod", model_kwargs={"features": features},
            pixel=False, run_dir=str(tmp_path),
        )  # fmt: skip
        aurocs[features] = result.metrics["results"]["bottle"]["vision_ecod"]["0"]["metrics"]["image_auroc"]
    assert aurocs["pooled"] >= 0.95
    assert aurocs["pixels"] <= 0.8


def test_the_check_of_the_table_would_see_a_change():
    assert WrappedDetector(name="x", target="a:B", reason="no").class_name == "B"
    assert regenerated() != regenerated().replace('"n_neighbors", "default": 5', '"n_neighbors", "default": 6')
