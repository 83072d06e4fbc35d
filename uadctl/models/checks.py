"""One battery of checks for every detector: what its callers rely on, and what numbers alone do not show.

In the manner of scikit-learn's checks for estimators. `check_model` examines a registered model, `check_detector` any
class that keeps the protocol of `uadctl.models.base`: call one of them in the tests of a detector of your own. Nothing
here needs a network, a data set or pretrained weights; the images are drawn.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import gc
import io
import json
import random
import socket
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from uadctl.errors import DataError, UadctlError
from uadctl.models.base import Detector, TrainedElsewhere
from uadctl.records import Prediction, Size
from uadctl.spec import create_model, get_model_signature_info, model_info
from uadctl.spec.signature import rebuild_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture: TypeAlias = NDArray[np.uint8]
    # Detectors are asked for more than the protocol of the verbs holds: predict, threshold_, …
    Make: TypeAlias = Callable[[], Any]

_SIZE = Size(64, 64)
_ODD = (Size(8, 8), Size(1, 1), Size(1, 40), Size(32, 96), Size(96, 32))
_NEIGHBORS = ("n_neighbors", "n_neighbours")
_MANY = 10_000  # more neighbours than any check's images have patches


class CheckFailed(AssertionError):
    """A detector broke a rule; the message says what was found, and what was expected."""


def part(seed: int, size: Size) -> Picture:
    """A good part: an (H, W, 3) RGB uint8 picture of soft waves that lie nearly the same in all of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size.height, : size.width]
    tilt, lift = rng.normal(0, 0.15, 2)
    grey = 120 + 30 * np.sin(x / 5 + tilt) + 20 * np.cos(y / 7 + lift) + rng.normal(0, 2)
    pixels = grey[..., None] * np.array([1.0, 0.95, 0.9]) + rng.normal(0, 3, (*size, 3))
    return np.asarray(np.clip(np.rint(pixels), 0, 255), dtype=np.uint8)


def defect_box(size: Size) -> tuple[slice, slice]:
    """Rows and columns of the defect: low on the left, so that a map turned or mirrored misses it."""
    height, width = size
    return slice(height * 5 // 8, height * 7 // 8), slice(width // 8, width * 3 // 8)


def damaged(seed: int, size: Size) -> Picture:
    """A part with a checkered patch in colours that no good part has."""
    image = part(seed, size)
    box = defect_box(size)
    y, x = np.mgrid[box]
    image[box] = np.where(((x // 2 + y // 2) % 2 == 0)[..., None], (255, 0, 255), (255, 255, 0))
    return image


@dataclass(frozen=True)
class Observed:
    """One fit and one prediction, and what they did besides.

    returned: what `fit` returned. printed: on stdout. changed: which images are not what they were. settings: which of
    the process's are not. network: addresses that were asked for.
    """

    detector: Any
    returned: object
    predictions: list[Prediction]
    printed: str
    changed: list[str]
    settings: list[str]
    network: list[str]


@dataclass(frozen=True)
class Streamed:
    """A fit, without a threshold, on images that can be read only once.

    reads: how often they were begun. peak: how many were alive at once. given: how many there were. generators: which
    random generators of the process were used or seeded, by this fit or a prediction.
    """

    detector: Any
    reads: int
    peak: int
    given: int
    generators: list[str]


@dataclass(frozen=True)
class Candidate:
    """A detector under examination: how it is built, what it is shown, and the fits that several checks look at.

    make:     builds it, unfitted, equal at every call; no weights are downloaded for it.
    folder:   an empty folder for image files.
    restoring: builds the one that takes over a saved state, on a machine without weights; `make` if None.
    crowded:  builds one that asks for more neighbours than there are patches; None if it has no such parameter.
    pixel_map: whether it makes maps.
    size:     of the images. train: how many it learns from, at least 4.
    tolerance: by which share of the largest score scores may differ that should be equal but for rounding; of maps ten
               times as much.
    """

    make: Make
    folder: Path
    restoring: Make | None = None
    crowded: Make | None = None
    pixel_map: bool = True
    size: Size = _SIZE
    train: int = 8
    tolerance: float = 1e-5

    @functools.cached_property
    def comes_trained(self) -> bool:
        """Whether it has learned before, in a checkpoint: then it is not asked for the checks of `OF_LEARNING`."""
        detector = self.make()
        return isinstance(detector, TrainedElsewhere) and detector.comes_trained

    @functools.cached_property
    def good(self) -> list[Picture]:
        """What is learned."""
        return [part(seed, self.size) for seed in range(self.train)]

    @functools.cached_property
    def tests(self) -> list[Picture]:
        """Four good parts that are not learned, and two with a defect, the last ones."""
        return [part(1000 + i, self.size) for i in range(4)] + [damaged(2000 + i, self.size) for i in range(2)]

    @functools.cached_property
    def observed(self) -> Observed:
        """Learned from `good`, asked of `tests`. Whoever takes its detector must not fit it again."""
        shown = {"good": [image.copy() for image in self.good], "test": [image.copy() for image in self.tests]}
        self.make()  # what importing does to the process is not the detector's doing
        settings = _settings()
        with contextlib.redirect_stdout(io.StringIO()) as printed, _no_network() as network:
            detector = self.make()
            returned = detector.fit(shown["good"])
            predictions = detector.predict_batch(shown["test"])
        changed = [
            f"{kind} image {i}"
            for kind, before in (("good", self.good), ("test", self.tests))
            for i, (a, b) in enumerate(zip(before, shown[kind], strict=True))
            if not np.array_equal(a, b)
        ]
        return Observed(
            detector,
            returned,
            predictions,
            printed.getvalue(),
            changed,
            _differing(settings, _settings()),
            network,
        )

    @functools.cached_property
    def streamed(self) -> Streamed:
        """Learned from an iterable that is gone after one reading. Of small batches there are enough to see them go."""
        detector = self.make()
        batch = detector.images_per_batch
        once = _Once(self.size, max(self.train, 3 * batch + 4) if batch <= 8 else self.train, allowed=_allowed(batch))
        # A seed that nobody takes: to seed with 0 what others have seeded with 0 would not be seen.
        with _seeds(815):
            before = _generators()
            detector.fit(once, threshold=False)
            detector.predict_batch(self.tests[:1])
            used = _differing(before, _generators())
        return Streamed(detector, once.reads, once.peak, once.n, used)


Check: TypeAlias = Callable[[Candidate], None]


# -- before and while fitting


def refuses_before_fit(c: Candidate) -> None:
    """Whatever is asked for before `fit` is a RuntimeError that says so."""
    for method in ("decision_function", "predict", "predict_anomaly_map", "predict_batch"):
        error = _raised(getattr(c.make(), method), c.tests)
        if not _is_not_fitted(error):
            raise CheckFailed(f"{method} before fit {_told(error)}; expected a RuntimeError: … is not fitted")


def refuses_no_images(c: Candidate) -> None:
    """Fitting on nothing is a ValueError, and nothing is fitted by it."""
    for name, nothing in (("[]", []), ("an empty iterator", iter(()))):
        detector = c.make()
        error = _raised(detector.fit, nothing)
        if not isinstance(error, ValueError):
            raise CheckFailed(f"fit({name}) {_told(error)}; expected a ValueError")
        error = _raised(detector.decision_function, c.tests)
        if not _is_not_fitted(error):
            raise CheckFailed(f"decision_function after fit({name}) {_told(error)}; expected: … is not fitted")


def fit_returns_the_detector(c: Candidate) -> None:
    """`fit` returns the detector, so that calls can be chained."""
    if c.observed.returned is not c.observed.detector:
        raise CheckFailed(f"fit returned {c.observed.returned!r}, expected the detector")


def instances_share_nothing(c: Candidate) -> None:
    """What one detector learns another one does not know."""
    _ = c.observed
    error = _raised(c.make().decision_function, c.tests)
    if not _is_not_fitted(error):
        raise CheckFailed(f"after another one was fitted, an unfitted detector {_told(error)}")


def reads_images_once(c: Candidate) -> None:
    """`fit` takes an iterable that can be read only once."""
    if c.streamed.reads != 1:
        raise CheckFailed(f"fit began to read its images {c.streamed.reads} times, expected once")


def lets_images_go(c: Candidate) -> None:
    """`fit` does not hold all of its images at once. Seen of detectors whose `images_per_batch` is at most 8."""
    found, batch = c.streamed, c.streamed.detector.images_per_batch
    if batch <= 8 and found.peak > _allowed(batch):
        raise CheckFailed(
            f"fit held {found.peak} of {found.given} images at once, expected at most {_allowed(batch)} "
            f"with images_per_batch = {batch}"
        )


def threshold_can_be_left_out(c: Candidate) -> None:
    """`fit(threshold=False)` leaves `threshold_` None, and `predict` then says that there is none."""
    detector = c.streamed.detector
    if detector.threshold_ is not None:
        raise CheckFailed(f"threshold_ is {detector.threshold_!r} after fit(threshold=False), expected None")
    error = _raised(detector.predict, c.tests)
    if not isinstance(error, RuntimeError):
        raise CheckFailed(f"predict without a threshold_ {_told(error)}; expected a RuntimeError")


def fit_forgets(c: Candidate) -> None:
    """A second `fit` gives what a first one would have given, to the bit."""
    detector = c.make()
    detector.fit([damaged(3000 + i, Size(48, 40)) for i in range(c.train - 1)])
    detector.fit(c.good)
    _same_bits(detector, c, "fitted before on other images")


def fit_repeats(c: Candidate) -> None:
    """The same images give the same model, to the bit, whatever the global random generators hold."""
    with _seeds(4711):
        detector = c.make()
        detector.fit(c.good)
    _same_bits(detector, c, "fitted once more on the same images")


def inputs_stay(c: Candidate) -> None:
    """Images that are given stay as they are."""
    if c.observed.changed:
        raise CheckFailed(f"changed its input: {', '.join(c.observed.changed)}")


def generators_stay(c: Candidate) -> None:
    """The random generators of the process are neither used nor seeded."""
    if c.streamed.generators:
        raise CheckFailed(f"used or seeded the global generator of {', '.join(c.streamed.generators)}")


def settings_stay(c: Candidate) -> None:
    """Gradients, default types, error handling, the number of threads and the folder of the process stay as set."""
    if c.observed.settings:
        raise CheckFailed(f"left changed, for the whole process: {', '.join(c.observed.settings)}")


def nothing_is_printed(c: Candidate) -> None:
    """stdout is for results."""
    if c.observed.printed:
        raise CheckFailed(f"printed {c.observed.printed[:60]!r} on stdout")


def stays_offline(c: Candidate) -> None:
    """Only weights that are to be downloaded need a network, and none are here."""
    if c.observed.network:
        raise CheckFailed(f"asked the network for {', '.join(c.observed.network)}")


# -- scores


def scores_are_numbers(c: Candidate) -> None:
    """A score is a finite float32 value as a Python float; `decision_function` gives the same ones, (n,) float64."""
    for prediction in c.observed.predictions:
        score: object = prediction.score
        if type(score) is not float:
            raise CheckFailed(f"a score is a {type(score).__name__}, expected a Python float")
        if not np.isfinite(score) or score != float(np.float32(score)):
            raise CheckFailed(f"a score is {score!r}, expected a finite value of float32")
    scores = c.observed.detector.decision_function(c.tests)
    if scores.shape != (len(c.tests),) or scores.dtype != np.float64:
        raise CheckFailed(f"decision_function gave {scores.shape} {scores.dtype}, expected ({len(c.tests)},) float64")
    _alike(scores, _scores(c.observed.predictions), c, "decision_function and predict_batch")
    if set(scores.tolist()) <= {0.0, 1.0} or len(set(scores.tolist())) == 1:
        raise CheckFailed(f"the scores of different images are {_listed(scores)}; expected continuous ones")
    empty = c.observed.detector.decision_function([])
    if empty.shape != (0,):
        raise CheckFailed(f"decision_function([]) gave {empty.shape}, expected (0,)")


def scoring_changes_nothing(c: Candidate) -> None:
    """The same images asked again have the same scores and maps, to the bit."""
    c.observed.detector.predict_batch(c.tests[:1])
    _same_bits(c.observed.detector, c, "asked again")


def order_does_not_matter(c: Candidate) -> None:
    """The scores of test images do not depend on their order."""
    backwards = c.observed.detector.predict_batch(c.tests[::-1])[::-1]
    _alike_predictions(backwards, c.observed.predictions, c, "the images in another order")


def batch_does_not_matter(c: Candidate) -> None:
    """The score of an image does not depend on what else is in its batch."""
    detector, found = c.observed.detector, c.observed.predictions
    for i, image in enumerate(c.tests):
        _alike_predictions(detector.predict_batch([image]), found[i : i + 1], c, f"test image {i} alone")
    twice = detector.predict_batch([*c.tests, *c.tests])
    _alike_predictions(twice, [*found, *found], c, "all of them twice in one batch")


def sizes_may_differ(c: Candidate) -> None:
    """Images of several sizes in one batch have the scores and maps that each has alone."""
    detector = c.observed.detector
    sizes = [c.size, Size(32, 96), Size(96, 32), c.size]
    images = [part(1100 + i, size) for i, size in enumerate(sizes)]
    taken = [image for image in images if _raised(detector.predict_batch, [image]) is None]
    alone = [prediction for image in taken for prediction in detector.predict_batch([image])]
    _alike_predictions(detector.predict_batch(taken), alone, c, "images of several sizes in one batch")


def odd_sizes_score_or_are_refused(c: Candidate) -> None:
    """Tall, wide and tiny images get a finite score, or a ValueError that names their size."""
    for size in _ODD:
        image = part(1200, size)
        error = _raised(c.observed.detector.predict_batch, [image])
        if error is None:
            _finite(c.observed.detector, [image], f"an image of {size}")
        elif not (isinstance(error, ValueError) and all(str(side) in str(error) for side in size)):
            raise CheckFailed(f"an image of {size} {_told(error)}; expected a score, or a ValueError naming its size")


def flat_images_get_numbers(c: Candidate) -> None:
    """An image of one colour gets a finite score, or a ValueError; so does one of a model of such images."""
    flat = [np.full((*c.size, 3), value, np.uint8) for value in (0, 128, 255)]
    _finite(c.observed.detector, flat, "an image of one colour")
    detector = c.make()
    errors = [_raised(detector.fit, [flat[1]] * c.train)]
    for image in [] if errors[0] is not None else [flat[1], flat[2], c.tests[-1]]:
        errors.append(_raised(detector.predict_batch, [image]))
        if errors[-1] is None:
            _finite(detector, [image], "an image, after learning one colour")
    for error in errors:
        if not isinstance(error, ValueError | UadctlError | None):
            raise CheckFailed(f"learning one colour {_told(error)}; expected scores, or a ValueError or RunError")


def one_image_is_enough_or_refused(c: Candidate) -> None:
    """One training image gives a model, or a ValueError; it is not called out-of-sample for that model."""
    detector = c.make()
    left_out: list[Prediction] = []
    error = _raised(functools.partial(detector.fit, left_out=left_out.append), c.good[:1])
    if error is None:
        _finite(detector, c.tests, "an image, after learning a single one")
        threshold = detector.threshold_
        if threshold is not None and not np.isfinite(threshold):
            raise CheckFailed(f"threshold_ is {threshold!r} after one training image")
    elif not isinstance(error, ValueError | UadctlError):
        raise CheckFailed(f"one training image {_told(error)}; expected a model, or a ValueError or RunError")
    if left_out and c.observed.detector.offers_left_out and _remembers(c):
        raise CheckFailed("left_out was called for the only training image: without it there is no model")


def neighbors_are_clamped(c: Candidate) -> None:
    """More neighbours than there are patches are as many as there are: scores still tell images apart."""
    if c.crowded is None:
        return
    detector = c.crowded()
    detector.fit(c.good)
    predictions = _finite(detector, c.tests, "an image, with more neighbours than there are patches")
    if len({p.score for p in predictions}) == 1:
        raise CheckFailed(
            f"with more neighbours than there are patches all scores are {predictions[0].score}; expected several"
        )


def defects_score_higher(c: Candidate) -> None:
    """Higher is more anomalous: an obvious defect scores above every good image that was not learned."""
    scores = _scores(c.observed.predictions)
    if scores[-2:].min() <= scores[:-2].max():
        raise CheckFailed(
            f"images with an obvious defect score {_listed(scores[-2:])}, good ones {_listed(scores[:-2])}"
        )


def predict_compares(c: Candidate) -> None:
    """`predict` is 1 exactly where the score reaches `threshold_`."""
    detector = c.observed.detector
    threshold: object = detector.threshold_
    if not isinstance(threshold, float) or not np.isfinite(threshold):
        raise CheckFailed(f"threshold_ is {threshold!r} after {c.train} training images, expected a finite float")
    images = [*c.tests, *c.good]
    scores, labels = detector.decision_function(images), detector.predict(images)
    if labels.shape != scores.shape or labels.dtype.kind != "i":
        raise CheckFailed(f"predict gave {labels.shape} {labels.dtype}, expected {scores.shape} integers")
    if not np.array_equal(labels, scores >= threshold):
        raise CheckFailed(f"predict gave {labels.tolist()} for {_listed(scores)}, the threshold being {threshold:g}")
    detector.threshold_ = float(detector.decision_function(images[:1])[0])
    (label,) = detector.predict(images[:1])
    detector.threshold_ = threshold
    if label != 1:
        raise CheckFailed("predict gave 0 for a score equal to threshold_, expected 1: anomalous is score >= threshold")


def left_out_is_out_of_sample(c: Candidate) -> None:
    """`left_out` gets every training image once, in order, scored by a model without it; so does `threshold_`.

    One of the training images has a defect. What a model without it says of it is asked of such a model; a detector
    that remembers its images says something else when it has learned it.
    """
    odd = 2
    images = [*c.good[:odd], damaged(4000, c.size), *c.good[odd + 1 :]]
    detector = c.make()
    told: list[Prediction] = []
    detector.fit(images, left_out=told.append)
    if not detector.offers_left_out:
        if told:
            raise CheckFailed(f"left_out was called {len(told)} times by a detector that does not offer it")
        return
    if len(told) != len(images):
        raise CheckFailed(f"left_out was called {len(told)} times for {len(images)} training images")
    found = _scores(told)
    if not np.isfinite(found).all():
        raise CheckFailed(f"left_out was given {_listed(found)}, expected finite scores")
    for prediction in told:
        _check_map(prediction, c.size, c)
    inside = detector.decision_function(images)
    without = c.make()
    without.fit([*images[:odd], *images[odd + 1 :]], threshold=False)
    (outside,) = without.decision_function([images[odd]])
    gap = outside - inside[odd]
    if abs(gap) <= c.tolerance * float(np.abs(inside).max()):
        _alike(found, inside, c, "what left_out was given and, nothing being remembered, decision_function")
    elif (found[odd] - inside[odd]) / gap < 0.5:
        raise CheckFailed(
            f"left_out was given {found[odd]:g} for an image that a model without it gives {outside:g}, "
            f"and one that has learned it {inside[odd]:g}"
        )
    elif int((found * np.sign(gap)).argmax()) != odd:
        raise CheckFailed(f"left_out was given {_listed(found)}; expected training image {odd} to stand out")
    threshold = detector.threshold_
    if threshold is None or not found.min() <= threshold <= found.max():
        raise CheckFailed(f"threshold_ is {threshold}, not among the scores of left-out images, {_listed(found)}")


# -- maps


def maps_fit_their_image(c: Candidate) -> None:
    """A map is (H, W) float32 of its image's size and finite; or there are none, and asking for one is an error."""
    for prediction in c.observed.predictions:
        _check_map(prediction, c.size, c)
    detector = c.observed.detector
    if not c.pixel_map:
        error = _raised(detector.predict_anomaly_map, c.tests)
        if not isinstance(error, ValueError):
            raise CheckFailed(f"predict_anomaly_map without maps {_told(error)}; expected a ValueError")
        return
    stack = detector.predict_anomaly_map(c.tests)
    if stack.shape != (len(c.tests), *c.size) or stack.dtype != np.float32:
        raise CheckFailed(f"predict_anomaly_map gave {stack.shape} {stack.dtype} for {len(c.tests)} of {c.size}")
    single = detector.get_anomaly_map(c.tests[0])
    _alike(single, stack[0], c, "get_anomaly_map and predict_anomaly_map", tolerance=10 * c.tolerance)
    image = part(1300, Size(40, 72))
    if _raised(detector.predict_batch, [image]) is None:
        _check_map(detector.predict_batch([image])[0], Size(40, 72), c)


def maps_point_at_the_defect(c: Candidate) -> None:
    """The highest value of a map lies within a quarter of the image's side of an obvious defect."""
    rows, columns = defect_box(c.size)
    for prediction in c.observed.predictions[-2:]:
        if prediction.map is None:
            continue
        y, x = (int(i) for i in np.unravel_index(int(prediction.map.argmax()), prediction.map.shape))
        away = max(rows.start - y, y - rows.stop + 1, columns.start - x, x - columns.stop + 1, 0)
        if away > max(c.size) // 4:
            raise CheckFailed(
                f"the map is highest at row {y}, column {x}; the defect has rows {rows.start} to {rows.stop - 1}, "
                f"columns {columns.start} to {columns.stop - 1}"
            )


# -- what images may be


def files_are_arrays(c: Candidate) -> None:
    """Files give exactly what the arrays in them give, in learning and in scoring; a grey file is three channels."""
    from uadctl.imaging.files import write_png

    names = [str(c.folder / f"{i:03}.png") for i in range(len(c.good) + len(c.tests))]
    for name, image in zip(names, [*c.good, *c.tests], strict=True):
        write_png(name, image)
    detector = c.make()
    detector.fit(names[: c.train])
    _same_bits(detector, c, "learned from files")
    scores = detector.decision_function([Path(name) for name in names[c.train :]])
    if not np.array_equal(scores, c.observed.detector.decision_function(c.tests)):
        raise CheckFailed(f"files score {_listed(scores)}, their arrays {_listed(_scores(c.observed.predictions))}")
    grey = c.tests[0][..., 0]
    write_png(c.folder / "grey.png", grey)
    (found,) = detector.decision_function([c.folder / "grey.png"])
    (expected,) = detector.decision_function([np.repeat(grey[..., None], 3, axis=2)])
    if found != expected:
        raise CheckFailed(f"a grey file scores {found!r}, its three equal channels {expected!r}")


def memory_layout_does_not_matter(c: Candidate) -> None:
    """Views, arrays in another order of bytes and arrays that must not be written score as their copies do."""
    mirrored = c.tests[-1].copy()[:, ::-1]
    (expected,) = c.observed.detector.predict_batch([np.ascontiguousarray(mirrored)])
    locked = np.ascontiguousarray(mirrored)
    locked.flags.writeable = False
    for words, image in (
        ("a mirrored view", mirrored),
        ("an array in column order", np.asfortranarray(mirrored)),
        ("an array that must not be written", locked),
    ):
        (found,) = c.observed.detector.predict_batch([image])
        if not _equal(found, expected):
            raise CheckFailed(f"{words} scores {found.score!r}, its copy {expected.score!r}")


def unreadable_files_are_named(c: Candidate) -> None:
    """A file that is missing or no image is a DataError that names it, and never a score."""
    broken = c.folder / "broken.png"
    broken.write_bytes(b"no picture")
    for path in (str(broken), str(c.folder / "missing.png")):
        for words, call, images in (
            ("decision_function", c.observed.detector.decision_function, [*c.tests[:1], path]),
            ("fit", c.make().fit, [*c.good, path]),
        ):
            error = _raised(call, images)
            if not isinstance(error, DataError) or path not in str(error):
                raise CheckFailed(f"{words} with {path} {_told(error)}; expected a DataError naming it")


def other_arrays_are_refused(c: Candidate) -> None:
    """An array that is not (H, W, 3) is a ValueError, one that is not uint8 a TypeError."""
    image = c.tests[0]
    alpha = np.concatenate([image, image[..., :1]], axis=2)
    for words, array, kind in (
        ("an (H, W) array", image[..., 0], ValueError),
        ("an (H, W, 4) array", alpha, ValueError),
        ("an empty array", image[:0], ValueError),
        ("a float array", image / 255, TypeError),
    ):
        error = _raised(c.observed.detector.decision_function, [array])
        if not isinstance(error, kind):
            raise CheckFailed(f"{words} {_told(error)}; expected a {kind.__name__}")


# -- keeping


def describes_itself(c: Candidate) -> None:
    """Before and after fitting it says what runs ask: where weights come from, doubts, sizes, facts in strict JSON."""
    for detector in (c.make(), c.observed.detector):
        if not isinstance(detector, Detector):
            raise CheckFailed("is no uadctl.models.base.Detector: a method of the protocol is missing")
        state: object = detector.weights_state()
        if not isinstance(state, str) or not state:
            raise CheckFailed(f"weights_state gave {state!r}, expected a word")
        doubts: object = detector.doubts()
        if not isinstance(doubts, list) or not all(isinstance(doubt, str) and doubt for doubt in doubts):
            raise CheckFailed(f"doubts gave {doubts!r}, expected a list of sentences")
        if state == "random" and not doubts:
            raise CheckFailed("its weights are random, and doubts() does not say so")
        for name in ("stride", "images_per_batch"):
            value: object = getattr(detector, name)
            if type(value) is not int or value < 1:
                raise CheckFailed(f"{name} is {value!r}, expected a whole number from 1")
        _strict_json(detector.facts(), "facts()")
        detector.prepare(download=False)


def state_is_plain(c: Candidate) -> None:
    """`state` is tensors by name, on the processor, and strict JSON; none of it can run code."""
    import torch

    tensors, facts = c.observed.detector.state()
    _strict_json(facts, "the facts of state()")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckFailed(f"state() holds {name!r}: {type(tensor).__name__}, expected a torch tensor")
        if tensor.device.type != "cpu":
            raise CheckFailed(f"state() holds {name} on {tensor.device}, expected it on the processor")
        if tensor.dtype in (torch.uint8, torch.int8) and _is_pickle(tensor.numpy().tobytes()):
            raise CheckFailed(f"state() holds a pickle in {name}: loading it would run code")
    for text in _texts(facts):
        if _is_pickle(text.encode("latin-1", "replace")) or _is_pickle(_unwrapped(text)):
            raise CheckFailed(f"the facts of state() hold a pickle, {text[:20]!r}: loading it would run code")


def state_restores_every_bit(c: Candidate) -> None:
    """What `state` gave and a file kept makes a detector that gives equal scores and maps, without any weights."""
    from safetensors.torch import load_file, save_file

    tensors, facts = c.observed.detector.state()
    file = c.folder / "model.safetensors"
    save_file(tensors, file)
    text = json.dumps(facts, allow_nan=False)
    with _no_weights(), _no_network() as network:
        detector = (c.restoring or c.make)()
        detector.prepare(download=False)
        returned = detector.restore(load_file(file), json.loads(text))
        _same_bits(detector, c, "restored")
    if network:
        raise CheckFailed(f"asked the network for {', '.join(network)} while it was restored")
    if returned is not detector:
        raise CheckFailed(f"restore returned {returned!r}, expected the detector")
    again, facts_again = detector.state()
    if json.dumps(facts_again, sort_keys=True) != json.dumps(facts, sort_keys=True):
        raise CheckFailed(f"saved once more, its facts are {facts_again!r}, were {facts!r}")
    different = sorted(set(again) ^ set(tensors)) or [
        name for name in tensors if tensors[name].numpy().tobytes() != again[name].numpy().tobytes()
    ]
    if different:
        raise CheckFailed(f"saved once more, {', '.join(different[:4])} differ")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        refuses_before_fit,
        refuses_no_images,
        fit_returns_the_detector,
        instances_share_nothing,
        reads_images_once,
        lets_images_go,
        threshold_can_be_left_out,
        fit_forgets,
        fit_repeats,
        inputs_stay,
        generators_stay,
        settings_stay,
        nothing_is_printed,
        stays_offline,
        scores_are_numbers,
        scoring_changes_nothing,
        order_does_not_matter,
        batch_does_not_matter,
        sizes_may_differ,
        odd_sizes_score_or_are_refused,
        flat_images_get_numbers,
        one_image_is_enough_or_refused,
        neighbors_are_clamped,
        defects_score_higher,
        predict_compares,
        left_out_is_out_of_sample,
        maps_fit_their_image,
        maps_point_at_the_defect,
        files_are_arrays,
        memory_layout_does_not_matter,
        unreadable_files_are_named,
        other_arrays_are_refused,
        describes_itself,
        state_is_plain,
        state_restores_every_bit,
    )
}
"""Every check by its name, in the order in which they run. Each takes a `Candidate` and raises CheckFailed."""

OF_LEARNING = dict.fromkeys(
    ("refuses_before_fit", "refuses_no_images", "instances_share_nothing"),
    "it comes trained, and knows good images before any fit",
)
"""Those that a detector which comes trained is not asked for, each with the reason."""


def check_detector(
    make: Make,
    *,
    restoring: Make | None = None,
    crowded: Make | None = None,
    pixel_map: bool = True,
    size: Size | tuple[int, int] = _SIZE,
    train: int = 8,
    tolerance: float = 1e-5,
    exempt: Mapping[str, str] | None = None,
) -> None:
    """Examine a detector with every check of `CHECKS`; takes seconds.

    The arguments are those of `Candidate`. exempt: check -> why this detector is not asked for it; for what cannot be
    had, such as good scores from random weights. A detector that comes trained (`TrainedElsewhere`) is exempt from
    those of `OF_LEARNING`.

    Raises CheckFailed with a line for each check that failed, ValueError for exemptions that name no check or no
    reason, and for less than 4 training images.
    """
    exempt = exempt or {}
    unknown = [name for name, reason in exempt.items() if name not in CHECKS or not reason.strip()]
    if unknown:
        raise ValueError(f"exempt names {', '.join(unknown)}; expected checks, each with a reason: {', '.join(CHECKS)}")
    if train < 4:
        raise ValueError(f"train (={train}) must be at least 4")
    with tempfile.TemporaryDirectory() as folder:
        candidate = Candidate(
            make,
            Path(folder),
            restoring=restoring,
            crowded=crowded,
            pixel_map=pixel_map,
            size=Size(*size),
            train=train,
            tolerance=tolerance,
        )
        _run(candidate, {**exempt, **OF_LEARNING} if candidate.comes_trained else exempt)


def check_model(
    name: str,
    params: Mapping[str, object] | None = None,
    *,
    train: int = 8,
    size: Size | tuple[int, int] = _SIZE,
    exempt: Mapping[str, str] | None = None,
) -> None:
    """Examine a registered model with these parameters, as `check_detector` does.

    With `pretrained = false` where its weights are not on this machine. Raises besides what `create_model` raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        candidate = model_candidate(name, Path(folder), params, train=train, size=size)
    check_detector(
        candidate.make,
        restoring=candidate.restoring,
        crowded=candidate.crowded,
        pixel_map=candidate.pixel_map,
        size=size,
        train=train,
        exempt=exempt,
    )


def model_candidate(
    name: str,
    folder: Path,
    params: Mapping[str, object] | None = None,
    *,
    train: int = 8,
    size: Size | tuple[int, int] = _SIZE,
) -> Candidate:
    """A registered model as a candidate for single checks. folder: an empty one, for image files."""
    entry = model_info(name)
    given = dict(params or {})
    accepted, _ = get_model_signature_info(name)
    # "network": the weights would have to be downloaded.
    if "pretrained" in accepted and "pretrained" not in given and _build(name, given).weights_state() == "network":
        given["pretrained"] = False
    crowd = next((key for key in _NEIGHBORS if key in accepted), None)
    return Candidate(
        functools.partial(_build, name, given),
        folder,
        restoring=functools.partial(rebuild_model, name, given, device=str(given.get("device", "auto"))),
        crowded=None if crowd is None else functools.partial(_build, name, {**given, crowd: _MANY}),
        pixel_map=entry.pixel_map,
        size=Size(*size),
        train=train,
    )


def _build(name: str, params: Mapping[str, object]) -> Any:
    return create_model(name, **params)


def _run(candidate: Candidate, exempt: Mapping[str, str]) -> None:
    failed = []
    for name, check in CHECKS.items():
        if name not in exempt:
            error = _raised(check, candidate)
            if error is not None:
                failed.append(f"{name}: {error if isinstance(error, CheckFailed) else _told(error)}")
    if failed:
        raise CheckFailed("\n".join([f"{len(failed)} of {len(CHECKS)} checks failed", *failed]))


# -- what is compared


def _raised(call: Callable[[Any], object], argument: object) -> Exception | None:
    try:
        call(argument)
    except Exception as error:  # noqa: BLE001 - which kind it is, is what is checked
        return error
    return None


def _told(error: Exception | None) -> str:
    return "raised nothing" if error is None else f"raised {type(error).__name__}: {str(error)[:200]}"


def _is_not_fitted(error: Exception | None) -> bool:
    return isinstance(error, RuntimeError) and " is not fitted" in str(error)


def _scores(predictions: Sequence[Prediction]) -> NDArray[np.float64]:
    return np.array([prediction.score for prediction in predictions], dtype=np.float64)


def _listed(scores: Iterable[float]) -> str:
    return ", ".join(f"{score:.6g}" for score in scores)


def _finite(detector: Any, images: Sequence[Picture], words: str) -> list[Prediction]:
    predictions: list[Prediction] = detector.predict_batch(images)
    for prediction in predictions:
        if not np.isfinite(prediction.score):
            raise CheckFailed(f"{words} scores {prediction.score}")
        if prediction.map is not None and not np.isfinite(prediction.map).all():
            raise CheckFailed(f"{words} has a map with NaN or infinity")
    return predictions


def _check_map(prediction: Prediction, size: Size, c: Candidate) -> None:
    field = prediction.map
    if not c.pixel_map:
        if field is not None:
            raise CheckFailed("made a map, though it is said to make none (pixel_map)")
        return
    if field is None:
        raise CheckFailed("made no map, though it is said to make some (pixel_map)")
    if field.shape != tuple(size) or field.dtype != np.float32:
        raise CheckFailed(f"an image of {size} has a map of {field.shape} {field.dtype}, expected its size in float32")
    if not np.isfinite(field).all():
        raise CheckFailed("a map has NaN or infinity")


def _equal(found: Prediction, expected: Prediction) -> bool:
    if found.map is None or expected.map is None:
        return found.map is expected.map and found.score == expected.score
    return found.score == expected.score and np.array_equal(found.map, expected.map)


def _same_bits(detector: Any, c: Candidate, words: str) -> None:
    """Raise unless this detector predicts what the observed one did."""
    found = detector.predict_batch(c.tests)
    for i, (a, b) in enumerate(zip(found, c.observed.predictions, strict=True)):
        if not _equal(a, b):
            what = f"scores {a.score!r}, before {b.score!r}" if a.score != b.score else "has another map"
            raise CheckFailed(f"{words}, test image {i} {what}")
    if detector.threshold_ != c.observed.detector.threshold_:
        raise CheckFailed(f"{words}, threshold_ is {detector.threshold_!r}, before {c.observed.detector.threshold_!r}")


def _alike(found: Any, expected: Any, c: Candidate, words: str, *, tolerance: float | None = None) -> None:
    scale = float(np.abs(expected).max())
    apart = float(np.abs(np.asarray(found, np.float64) - expected).max())
    # Not ">": a NaN is not alike.
    if not apart <= (c.tolerance if tolerance is None else tolerance) * scale:
        raise CheckFailed(f"{words}: differ by {apart:.3g} where values are up to {scale:.6g}")


def _alike_predictions(found: Sequence[Prediction], expected: Sequence[Prediction], c: Candidate, words: str) -> None:
    if len(found) != len(expected):
        raise CheckFailed(f"{words}: {len(found)} predictions for {len(expected)} images")
    _alike(_scores(found), _scores(expected), c, f"{words}: scores")
    for a, b in zip(found, expected, strict=True):
        if a.map is not None and b.map is not None:
            if a.map.shape != b.map.shape:
                raise CheckFailed(f"{words}: a map is {a.map.shape}, expected {b.map.shape}")
            _alike(a.map, b.map, c, f"{words}: maps", tolerance=10 * c.tolerance)


def _remembers(c: Candidate) -> bool:
    """Whether a model says another thing of an image that it has learned."""
    without = c.make()
    without.fit(c.good[1:], threshold=False)
    outside, inside = (d.decision_function(c.good[:1])[0] for d in (without, c.observed.detector))
    return bool(abs(outside - inside) > c.tolerance * max(abs(outside), abs(inside)))


def _strict_json(value: object, words: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"{words} is not strict JSON: {error}") from error


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _is_pickle(data: bytes) -> bool:
    """Whether bytes begin as pickles of protocol 2 and later do, with their version, and end with their stop."""
    return len(data) > 3 and data[0] == 0x80 and 2 <= data[1] <= 5 and data.rstrip(b"\0").endswith(b".")


def _unwrapped(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


# -- what is watched


def _allowed(batch: int) -> int:
    """Images that may be alive: the batch that is computed, the next one that is read, one in each of their loops."""
    return 2 * batch + 2


class _Once:
    """`n` good parts, drawn as they are asked for; counts readings, and how many parts are alive."""

    def __init__(self, size: Size, n: int, *, allowed: int) -> None:
        self.size, self.n, self.allowed = size, n, allowed
        self.reads = self.peak = 0
        self._alive: list[weakref.ref[Picture]] = []

    def __iter__(self) -> Iterator[Picture]:
        self.reads += 1
        for seed in range(self.n):
            image = part(seed, self.size)
            self._alive.append(weakref.ref(image))
            yield image
            self._count()

    def _count(self) -> None:
        # Slow, and only needed where images hang in circles; once too many have been seen, no more is to be learned.
        if self._living() > self.allowed >= self.peak:
            gc.collect()
        self.peak = max(self.peak, self._living())

    def _living(self) -> int:
        return sum(reference() is not None for reference in self._alive)


def _generators() -> dict[str, object]:
    import torch

    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one is what is watched
    return {
        "random": random.getstate(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def _settings() -> dict[str, object]:
    import torch

    return {
        "torch's gradients": torch.is_grad_enabled(),
        "torch's default type": torch.get_default_dtype(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's number of threads": torch.get_num_threads(),
        "numpy's handling of errors": np.geterr(),
        "the working directory": Path.cwd(),
    }


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    return [name for name, value in before.items() if value != after[name]]


@contextlib.contextmanager
def _seeds(seed: int) -> Iterator[None]:
    """The global generators seeded, and then back in their own state."""
    import torch

    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])


@contextlib.contextmanager
def _no_network() -> Iterator[list[str]]:
    """Every connection fails as on a machine without a network; gives the addresses that were asked for."""
    asked: list[str] = []

    def refuse(self: socket.socket, address: object) -> None:
        asked.append(str(address))
        raise OSError("no network while a detector is checked")

    kept = {"connect": socket.socket.connect, "connect_ex": socket.socket.connect_ex}
    lookup = socket.getaddrinfo

    def unknown(host: object, *_: object, **__: object) -> None:
        asked.append(str(host))
        raise OSError("no network while a detector is checked")

    for name in kept:
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = unknown  # type: ignore[assignment]
    try:
        yield asked
    finally:
        for name, method in kept.items():
            setattr(socket.socket, name, method)
        socket.getaddrinfo = lookup


@contextlib.contextmanager
def _no_weights() -> Iterator[None]:
    """No pretrained weights are on this machine."""
    from uadctl.features import backbone, weights

    def refuse(entry: object, *_: object, **__: object) -> None:
        raise CheckFailed("looked for pretrained weights while it was restored")

    kept = weights.find_weights
    for module in (weights, backbone):
        module.find_weights = refuse  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in (weights, backbone):
            module.find_weights = kept  # type: ignore[attr-defined]
