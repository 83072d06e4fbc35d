"""The classical detectors of PyOD on features of whole images.

Zhao, Nasrullah, Li, "PyOD: A Python Toolbox for Scalable Outlier Detection", JMLR 20, 2019. Which there are, and what
they take, is the table of `uadctl.spec.wrapped`; a class for each is made of it when it is asked for by the name that
it has in PyOD: `uadctl.models.classical.ECOD`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import os
import random
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard, cast, get_args

from uadctl.errors import DataError, ImageError, ParamError, Problem, RunError
from uadctl.models import base
from uadctl.models.frozen import FrozenNetwork, wrong_network
from uadctl.records import Prediction
from uadctl.room import ran_out
from uadctl.spec.optional import require
from uadctl.spec.registry import load_target
from uadctl.spec.wrapped import WrappedDetector, WrappedParam, pyod_detectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.features.cache import FeatureCache
    from uadctl.progress import Progress
    from uadctl.spec.registry import BackboneEntry

Features = Literal["auto", "pooled", "pixels", "histogram"]
Extractor = Callable[[Sequence[Any]], Any]

# Training scores that a second fit may move by, as a share of the largest: the rounding of other processors.
_CLOSE = 1e-4
# From a training image, in standard deviations of every feature: what tells near from far does so here.
_PROBES = (0.5, 10.0, -10.0)
# Parameters of how long a network is trained: once is enough to see what PyOD refuses.
_PASSES = frozenset({"epochs", "epochs_query", "epoch_num", "n_epochs", "stop_epochs"})
# Parameters that count features, of which the made-up rows of a trial have few.
_COLUMNS = frozenset({"max_features", "n_selected_components"})
_CANNOT_FIT = "Give it more training images that differ, or take another detector: uadctl models list --tag classical"

_DOC = """\
features: what describes an image: "pooled", the mean of each channel of the backbone's layers; "histogram" of its
    colours; "pixels", the image made small; "auto": pooled, and histogram where pretrained is false.
backbone: a registered network, see `uadctl models list`; for pooled features.
layers: its stages to use; none given: those the registry names for the backbone.
size: side of the square that the image is brought to for features = "pixels"; the others take it as it comes.
precision: number format of the backbone: "fp32", "bf16", "fp16", or "auto", the fastest one the device is made for.
pretrained: False needs no weights: features = "auto" then means the histogram, and pooled features are random.
weights: a checkpoint file of the backbone to use in place of the published weights.
contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of PyOD's scores of the training images,
    in-sample. Only `predict` uses it, and detectors of PyOD that shift their scores by it.
device: "auto", "cpu", "cuda", "cuda:N" or "mps", of the backbone; PyOD's detectors always compute on the processor.
seed: of PyOD's random numbers and of random weights.
batch_size: images that pass through the backbone together; "auto": as many as turn out fastest.
feature_extractor: computes the features in place of all that: takes a list of (H, W, 3) RGB uint8 images, returns one
    row of numbers for each.
feature_cache: where feature maps of batches seen before are found, shared with other models; none: they are
    computed."""


class Classical(base.FromPredictions):
    """A detector of PyOD on one row of features an image. Scores only: it makes no anomaly maps.

    The features are standardised by the mean and the standard deviation of the training images, as float32. Each image
    is scored by itself, under the same seed, so that no score depends on the images beside it or on their order.
    PyOD's random numbers are its own: those of the process are left as they were.

    A fitted model is kept as its training rows; `restore` fits again and compares the scores of these rows with those
    kept. Nothing is unpickled.

    detector: its row in the table. params: what the user gives of the parameters that the table offers, by their names
        in PyOD. The others are described in the classes that are made of this one.
    Learned: `features_` (n, d) float32, `train_scores_` (n,) float64, `threshold_`.
    """

    def __init__(
        self,
        detector: WrappedDetector,
        params: Mapping[str, object],
        *,
        features: Literal["auto", "pooled", "pixels", "histogram"] = "auto",
        backbone: str = "efficientnet_lite0",
        layers: tuple[str, ...] | None = None,
        size: int = 32,
        precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32",
        pretrained: bool = True,
        weights: str | None = None,
        contamination: float = 0.1,
        device: str = "auto",
        seed: int = 0,
        batch_size: int | Literal["auto"] = 16,
        feature_extractor: Extractor | None = None,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        wrong = wrong_network(backbone=backbone, layers=layers, batch_size=batch_size)
        wrong += [
            message
            for holds, message in (
                (features in get_args(Features), f"features (={features!r}) must be one of auto, pooled, pixels, "
                 "histogram"),
                (feature_extractor is None or features == "auto", f"features (={features!r}) must be left out beside "
                 "a feature_extractor, which gives them"),
                (size >= 1, f"size (={size}) must be at least 1"),
                (0 < contamination < 0.5, f"contamination (={contamination}) must lie in (0, 0.5)"),
            )
            if not holds
        ]  # fmt: skip
        wrong += _too_small(detector, params)
        if wrong:
            raise ParamError([Problem(message) for message in wrong])
        self.network = FrozenNetwork(
            backbone=backbone,
            layers=layers,
            precision=precision,
            pretrained=pretrained,
            weights=weights,
            device=device,
            seed=seed,
            batch_size=batch_size,
            cache=feature_cache,
        )
        self.detector = detector
        self.params = dict(params)
        self.size = size
        self.contamination = contamination
        self.seed = seed
        self.feature_extractor = feature_extractor
        self._in_place = features == "auto" and feature_extractor is None and not pretrained
        self.features: str = features
        if features == "auto":
            self.features = "histogram" if self._in_place else "pooled" if feature_extractor is None else "extractor"
        self._estimator: Any = None
        self._mean: NDArray[np.float64] | None = None
        self._scale: NDArray[np.float64] | None = None
        self.features_: NDArray[np.float32] | None = None
        self.train_scores_: NDArray[np.float64] | None = None
        self.threshold_: float | None = None

    @property
    def name(self) -> str:
        return f"vision_{self.detector.name}"

    @property
    def stride(self) -> int:
        """Pixels between neighbouring features of the coarsest layer used; 1 without a network."""
        return self.network.stride if self.features == "pooled" else 1

    @property
    def images_per_batch(self) -> int:
        """How many images `predict_batch` takes best: `batch_size`, or what "auto" has found while fitting."""
        return self.network.images_per_batch

    def take_at_once(self, images: int) -> None:
        self.network.images_per_batch = images

    @property
    def is_fitted(self) -> bool:
        return self._estimator is not None

    def weights_state(self) -> str:
        """Where the backbone's weights would come from; "none" where the features need no network."""
        return self.network.weights_state() if self.features == "pooled" else "none"

    def weights_entry(self) -> BackboneEntry | None:
        """The backbone; None where the features need no network."""
        return self.network.entry if self.features == "pooled" else None

    def doubts(self) -> list[str]:
        """That the histogram stands in for the network, or that the network is random."""
        if self._in_place:
            return [
                'pretrained = false: features = "histogram" stands in for the network\'s, the scores know colours only'
            ]
        return super().doubts()

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images; without `download`, only what is not the network's.

        PyOD and scikit-learn look at most values only when they learn: parameters are tried on a few made-up rows.

        Raises WeightsError, BackendMissing without PyOD, SpecError for a device that this machine has not, ParamError
        for what PyOD refuses.
        """
        from uadctl.features.backbone import resolve_device

        if self.features == "pooled":
            self.network.prepare(download=download)
        else:
            resolve_device(self.network.device)
        self._require()
        self._try()

    def _try(self) -> None:
        """Learn 24 made-up rows of 6 features in one pass; ParamError where PyOD refuses. Not for its own defaults."""
        import numpy as np

        if not self.params:
            return

        matrix = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
        matrix[0] *= 100  # cblof finds no small cluster otherwise, whatever its parameters
        bounded = self._bounded(matrix)
        for param in self.detector.parameters:
            value = self.params.get(param.name, param.default)
            if _is_count(value) and value > 1 and param.name in _PASSES | _COLUMNS:
                bounded[param.name] = 1
        try:
            with _by_itself(self.seed):
                self._construct(bounded, columns=matrix.shape[1]).fit(matrix.astype(np.float64))
        except Exception as error:  # PyOD raises what it likes
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ParamError:
        return ParamError(f"{self.name}: PyOD refuses the parameters: {_said(error)}")

    # -- learning

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from normal images, which are kept as one row of features each.

        left_out: is not called: no detector here can leave out an image. threshold: False leaves `threshold_` unset.
        Raises ValueError without images, DataError for a broken one or where PyOD cannot learn from so few or such
        features, ParamError for parameters that it refuses, RunError for features that are no numbers, WeightsError,
        BackendMissing.
        """
        import numpy as np

        self._forget()
        described_parts = base.looked_at(self._batches(images), self._describe, of=self, progress=progress)
        rows = [row for _, part in described_parts for row in part]
        if not rows:
            raise ValueError(f"{type(self).__name__} needs at least one training image, found none")
        described = np.stack(rows)
        mean, scale = described.mean(axis=0), described.std(axis=0)
        scale[scale == 0] = 1
        self._mean, self._scale = mean, scale
        self._learn(self._standardised(described))
        if threshold and self.train_scores_ is not None:
            self.threshold_ = self.threshold_of(self.train_scores_.astype(np.float32))
        return self

    def _forget(self) -> None:
        self._estimator = self._mean = self._scale = None
        self.features_ = self.train_scores_ = self.threshold_ = None

    def _learn(self, matrix: NDArray[np.float32]) -> None:
        """Fit a new estimator to these standardised (n, d) rows; DataError where that fails or means nothing.

        ParamError where it is the parameters that are refused.
        """
        import numpy as np

        n, d = matrix.shape
        if self.detector.more_rows_than_features and n <= d:
            raise DataError(
                f"{self.name} needs more training images than features, found {n} images of {d} features",
                help=_CANNOT_FIT,
            )
        self._require()
        try:
            with _by_itself(self.seed):
                estimator = self._construct(self._bounded(matrix), columns=d)
                estimator.fit(matrix.astype(np.float64))
        except Exception as error:  # PyOD raises what it likes
            if type(error).__name__ == "InvalidParameterError":  # scikit-learn's class is not public
                raise self._refused(error) from error
            raise DataError(
                f"{self.name} cannot learn from {_images(n)} of {d} features: {_said(error)}", help=_CANNOT_FIT
            ) from error
        scores = np.asarray(estimator.decision_scores_, np.float64).ravel()
        with np.errstate(over="ignore"):
            finite = np.isfinite(scores.astype(np.float32))
        if not finite.all():
            raise DataError(
                f"{self.name} cannot learn from {_images(n)} of {d} features: the scores of {n - int(finite.sum())} of "
                "them are no finite numbers",
                help=_CANNOT_FIT,
            )
        self._estimator, self.features_, self.train_scores_ = estimator, matrix, scores
        if self._is_constant():
            self._forget()
            raise DataError(
                f"{self.name} cannot learn from {_images(n)} of {d} features: images near to them and far from them "
                "would all have the same score",
                help=_CANNOT_FIT,
            )

    def _is_constant(self) -> bool:
        """Whether it learned too little to tell images apart: no cut, no second value of a feature.

        Equal scores of the training images do not show that by themselves: they are all 0 where a score is the
        distance to them.
        """
        import numpy as np

        scores, rows = self.train_scores_, self.features_
        if scores is None or rows is None or len(np.unique(scores.astype(np.float32))) > 1:
            return False
        found = [self._raw(rows[:1] + np.float32(probe)) for probe in _PROBES]
        return bool(np.isfinite(found).all()) and len(set(found)) == 1

    def _require(self) -> None:
        for package in ("sklearn", "pyod"):
            require(package, "pyod", needed_by=self.name)

    def _construct(self, bounded: Mapping[str, object], *, columns: int) -> Any:
        """PyOD's detector, unfitted. bounded: parameters in place of the user's."""
        import torch

        given: dict[str, object] = {}
        for param in self.detector.parameters:
            if param.kept == "silent":
                given[param.name] = type(param.default)(0)
            elif param.name in self.params:
                given[param.name] = _plain(self.params[param.name], param)
        names = {param.name for param in self.detector.parameters}
        ours = {
            "contamination": self.contamination,
            "device": torch.device("cpu"),
            "n_features": columns,
            "random_state": self.seed % 2**32,  # numpy's old generators take no more
        }
        given = {key: value for key, value in ours.items() if key in names} | given | dict(bounded)
        estimator = load_target(self.detector.target)(**given)
        if hasattr(estimator, "device"):
            # Some choose the GPU themselves: sums in another order, and the model could not be restored without one.
            estimator.device = torch.device("cpu")
        return estimator

    def _bounded(self, matrix: NDArray[np.float32]) -> dict[str, object]:
        """The parameters that so few rows bound, where the table says so."""
        bounded: dict[str, object] = {}
        for param in self.detector.parameters:
            if param.most is not None:
                value = self.params.get(param.name, param.default)
                bounded[param.name] = _at_most(value, param.most, matrix)
        return bounded

    # -- predicting

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score of each image, higher is more anomalous, and no map.

        RuntimeError before `fit`. ImageError where PyOD cannot score an image, or gives it a score that is no finite
        number.
        """
        self.require_fitted()
        return [Prediction(self._score(row), None) for row in self._describe(images)]

    def _score(self, row: NDArray[np.float64]) -> float:
        import numpy as np

        if self.features_ is None:
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit(images) first")
        if len(row) != self.features_.shape[1]:
            raise ValueError(f"{self.name} has learned {self.features_.shape[1]} features an image, found {len(row)}")
        score = self._raw(self._standardised(row[None]))
        if not np.isfinite(score):
            raise ImageError(f"{self.name}: the score of an image is no finite number: {score}", help=_CANNOT_FIT)
        return score

    def _raw(self, row: NDArray[np.float32]) -> float:
        """PyOD's score of a standardised (1, d) row, rounded to float32, whatever number that is."""
        import numpy as np

        new = row.astype(np.float64)
        rows, which = new, 0
        if self.detector.scored == "among" and self.features_ is not None:
            rows, which = np.concatenate([self.features_.astype(np.float64), new]), -1
        elif self.detector.scored == "twice":
            rows = np.concatenate([new, new])
        try:
            with _by_itself(self.seed), np.errstate(all="ignore"):
                found = np.asarray(self._estimator.decision_function(rows), np.float64).ravel()
                return float(found[which].astype(np.float32))
        except Exception as error:  # PyOD raises what it likes
            if ran_out(error):
                raise
            raise ImageError(f"{self.name} cannot score an image: {_said(error)}", help=_CANNOT_FIT) from error

    # -- features

    def _batches(self, images: Iterable[base.Image]) -> Iterator[list[NDArray[np.uint8]]]:
        return (
            self.network.batches(images) if self.features == "pooled" else base.batches(images, self.images_per_batch)
        )

    def _describe(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
        """A (d,) row of features of each image, not standardised. RunError where one is no finite number."""
        import numpy as np

        from uadctl.features.pooled import histogram, pixels, pool

        rows: list[NDArray[np.float64]]
        if self.features == "pooled":
            found: dict[int, NDArray[np.float64]] = {}
            for members, maps in self.network.maps(images):
                found.update(zip(members, pool(maps), strict=True))
            rows = [found[i] for i in range(len(images))]
        elif self.features == "histogram":
            rows = [histogram(image) for image in images]
        elif self.features == "pixels":
            rows = [pixels(image, side=self.size) for image in images]
        else:
            rows = self._extracted(images)
        if not all(np.isfinite(row).all() for row in rows):
            raise ImageError(
                f"{self.name}: features contain NaN or infinity",
                help='In precision "fp16" numbers end at 65504: use "bf16" or "fp32".',
            )
        return rows

    def _extracted(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
        import numpy as np

        if self.feature_extractor is None:
            raise RunError(f"{self.name} was fitted with a feature_extractor, and has none now")
        if not images:
            return []
        out = np.asarray(self.feature_extractor(list(images)), np.float64)
        if out.ndim != 2 or len(out) != len(images) or not out.size:
            raise ValueError(f"feature_extractor must return ({len(images)}, d) features, found shape {out.shape}")
        return list(out)

    def _standardised(self, rows: NDArray[np.float64]) -> NDArray[np.float32]:
        """As float32, which is how they are kept: what is fitted again is what was fitted."""
        import numpy as np

        mean, scale = (cast("NDArray[np.float64]", array) for array in (self._mean, self._scale))
        out: NDArray[np.float32] = ((rows - mean) / scale).astype(np.float32)
        return out

    # -- keeping

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The training rows, their scale and their scores, the cut backbone if there is one, and who fitted them."""
        import torch

        self.require_fitted()
        arrays = {
            "features": self.features_,
            "mean": self._mean,
            "scale": self._scale,
            "train_scores": self.train_scores_,
        }
        tensors = {key: torch.from_numpy(array).clone() for key, array in arrays.items() if array is not None}
        facts: dict[str, Any] = {}
        if self.features == "pooled":
            network, facts = self.network.state()
            tensors |= network
        return tensors, {
            **facts,
            "features": self.features,
            "seed": self.seed,
            "threshold": self.threshold_,
            "versions": self._versions(),
        }

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Fit again to the rows that `state` gave; needs no other file, and no network.

        Raises RunError where that does not give the scores that it gave then: another version of PyOD or scikit-learn,
        or another processor.
        """
        import numpy as np

        self._forget()
        self._in_place = False
        self.features, self.seed = facts["features"], facts["seed"]
        if self.features == "pooled":
            self.network.restore(tensors, facts)
        self._mean, self._scale = tensors["mean"].numpy(), tensors["scale"].numpy()
        then: NDArray[np.float64] = tensors["train_scores"].numpy()
        self._learn(tensors["features"].numpy())
        now = cast("NDArray[np.float64]", self.train_scores_)
        if now.shape != then.shape or np.abs(now - then).max() > _CLOSE * np.abs(then).max() + 1e-9:
            self._forget()
            raise self._other_scores(facts["versions"])
        self.train_scores_ = then
        self.threshold_ = facts["threshold"]
        return self

    def _other_scores(self, versions: Mapping[str, str]) -> RunError:
        """versions: by package, those it was fitted with."""
        was, here = (", ".join(f"{k} {v}" for k, v in found.items()) for found in (versions, self._versions()))
        if was == here:
            return RunError(
                f"{self.name} was fitted with {was}; here, with the same, its training images get other scores",
                help="This processor or its libraries compute otherwise: fit it again here, or score where it was "
                "fitted.",
            )
        return RunError(
            f"{self.name} was fitted with {was}; here, with {here}, its training images get other scores",
            help="Install the versions it was fitted with, or fit it again.",
        )

    def _versions(self) -> dict[str, str]:
        import pyod
        import sklearn

        return {"pyod": str(pyod.__version__), "scikit-learn": str(sklearn.__version__)}

    def facts(self) -> dict[str, Any]:
        """What describes an image, PyOD's class and version, size of the training matrix, the backbone if any."""
        network = self.network.facts() if self.features == "pooled" else {"weights": "none"}
        return {
            **network,
            "features": self.features,
            "estimator": self.detector.target,
            "versions": self._versions(),
            "training_rows": None if self.features_ is None else list(self.features_.shape),
        }


def _images(n: int) -> str:
    return "1 training image" if n == 1 else f"{n} training images"


def _said(error: Exception) -> str:
    """An error of another library on one line, and not all of it."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")


def _plain(value: object, param: WrappedParam) -> object:
    """As PyOD takes it: lists where we have tuples of any length."""
    return list(value) if isinstance(value, tuple) and "..." in (param.type or "") else value


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _too_small(detector: WrappedDetector, params: Mapping[str, object]) -> list[str]:
    """What is wrong with counts of rows or components, which are bounded from above without a word."""
    counts = [(offered_name(p), params[p.name]) for p in detector.parameters if p.most and p.name in params]
    return [f"{name} (={value}) must be at least 1" for name, value in counts if _is_count(value) and value < 1]


def _at_most(value: object, most: str, matrix: NDArray[np.float32]) -> object:
    """A count, bounded by what `WrappedParam.most` says of these (n, d) rows; shares and names are left alone."""
    import numpy as np

    n = len(matrix)
    if most == "rank" and (value is None or isinstance(value, int)):
        # A component without variance divides by zero: scores of 1e33, made of rounding.
        rank = int(np.linalg.matrix_rank(matrix.astype(np.float64) - matrix.mean(axis=0, dtype=np.float64)))
        return max(1, rank if value is None else min(value, rank))
    if not isinstance(value, int):
        return value
    if most == "batch":
        size = max(1, min(value, n))
        while n % size == 1 and size > 2:
            size -= 1
        return size
    bounds = {"rows": n, "rows - 1": n - 1, "rows - 2": n - 2}
    return max(1, min(value, bounds.get(most, value)))


@contextlib.contextmanager
def _by_itself(seed: int) -> Iterator[None]:
    """Let PyOD run with these seeds and one thread, without a word, and leave the process as it was.

    With another number of threads networks learn other weights: rounding adds up in training, and a model could not be
    restored on another machine.

    It seeds the generators of Python, numpy and torch, and sets PYTHONHASHSEED; the libraries below it set the number
    of OpenMP's threads, which are torch's as well; it prints to stdout, where results go, and warns of what is an error
    to us or no matter to the user.
    """
    import numpy as np
    import torch

    python, hash_seed = random.getstate(), os.environ.get("PYTHONHASHSEED")
    old = np.random.get_state()  # noqa: NPY002 - PyOD draws from it
    threads = torch.get_num_threads()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with (
        torch.random.fork_rng(devices=devices),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(python)
            np.random.set_state(old)  # noqa: NPY002
            if hash_seed is None:
                os.environ.pop("PYTHONHASHSEED", None)
            else:
                os.environ["PYTHONHASHSEED"] = hash_seed


# -- a class for each row of the table


def _own_parameters() -> dict[str, inspect.Parameter]:
    every = inspect.signature(Classical.__init__).parameters.values()
    return {p.name: p for p in every if p.kind is inspect.Parameter.KEYWORD_ONLY}


def offered_name(param: WrappedParam) -> str:
    """A parameter's name here: PyOD's, behind "estimator_" where uadctl's detectors mean something else by it."""
    return f"estimator_{param.name}" if param.name in _own_parameters() else param.name


def _offered(detector: WrappedDetector) -> dict[str, WrappedParam]:
    """The parameters that can be given, by the name they have here."""
    return {offered_name(param): param for param in detector.parameters if param.kept is None}


def _signature(detector: WrappedDetector) -> inspect.Signature:
    """PyOD's parameters, then ours. random_state has no default of its own: `seed` is meant."""
    theirs = []
    for name, param in _offered(detector).items():
        default = None if name == "random_state" else param.default
        theirs.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=tuple(default) if isinstance(default, list) else default,
                annotation=param.type,
            )
        )
    return inspect.Signature([*theirs, *_own_parameters().values()])


def _documentation(detector: WrappedDetector) -> str:
    said = [
        f"{name}: {param.doc or 'PyOD' + chr(39) + 's parameter of this name'}."
        for name, param in _offered(detector).items()
    ]
    wrapped = [textwrap.fill(line, 120, subsequent_indent="    ") for line in said]
    return "\n".join([detector.summary, "", f"{detector.paper}.", "", *wrapped, _DOC])


@functools.cache
def _class_of(class_name: str) -> type[Classical] | None:
    detector = next((d for d in pyod_detectors() if d.offered and d.class_name == class_name), None)
    if detector is None:
        return None
    signature = _signature(detector)
    offered = _offered(detector)
    own = _own_parameters()

    # Any name that the signature lacks is a TypeError here as it would be if the signature were written out.
    def construct(self: Classical, **given: Any) -> None:
        signature.bind(**given)
        theirs = {offered[name].name: value for name, value in given.items() if name in offered}
        if theirs.get("random_state", 0) is None:
            del theirs["random_state"]
        Classical.__init__(self, detector, theirs, **{name: value for name, value in given.items() if name in own})

    return type(
        detector.class_name,
        (Classical,),
        {
            "__init__": construct,
            "__signature__": signature,
            "__doc__": _documentation(detector),
            "__module__": __name__,
            "__qualname__": detector.class_name,
        },
    )


def __getattr__(name: str) -> type[Classical]:
    """The detector with this class name in PyOD."""
    found = _class_of(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
