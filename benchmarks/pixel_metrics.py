"""All metrics of one category of large images: exact, streaming, beside the usual tools; and intervals by bootstrap."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Contender, Measured, Section, Target, at_least, at_most, compare, number, table

LIMITS = (0.3, 0.05)
PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro_30", "aupro_05")
IMAGE = ("image_auroc", "image_ap", "image_f1max")
RESAMPLES = 1000

# images, side in pixels, images with a defect
FULL = (120, 900, 82)
QUICK = (6, 96, 4)


def sections(*, quick: bool) -> list[Section]:
    images, side, with_defect = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        masks, maps = synthetic(images, side, with_defect)
        np.save(Path(folder) / "masks.npy", masks)
        np.save(Path(folder) / "maps.npy", maps)
        data = (
            f"{images} maps of {side}×{side} float32, {len(np.unique(maps)):,} distinct scores, "
            f"{100 * np.count_nonzero(masks) / masks.size:.2f} % of the pixels in {3 * with_defect} defects on "
            f"{with_defect} images; smooth, as maps are that were enlarged, defects and background overlapping."
        )
        del masks, maps
        return [_metrics(folder, data, quick=quick), _bootstrap(folder, data, quick=quick)]


def _metrics(folder: str, data: str, *, quick: bool) -> Section:
    args = {"folder": folder}
    here = "benchmarks.pixel_metrics:"
    measured = compare(
        [
            Contender("uadctl, exact", here + "uadctl_exact", args),
            Contender("uadctl, streaming", here + "uadctl_streaming", args),
            Contender("adeval", here + "adeval", args),
            Contender("scikit-learn and plain AUPRO", here + "scikit_learn_and_aupro", args, repeats=1),
            Contender("anomalib", here + "anomalib", args, repeats=1),
        ],
        repeats=1 if quick else 5,
    )
    exact, streaming, peer, plain, _ = measured
    truth = (plain if plain.runs else exact).value
    return Section(
        title="Metrics of a category",
        text=(
            f"{data} Asked for: AUROC, AP and F1-max of images and of pixels, AUPRO to false-positive rates of 0.3 and "
            "0.05. Maps and masks lie in memory, and are given one by one to what takes them so.\n\n"
            "- adeval has no F1-max and AUPRO to 0.3 only, and is told the lowest and the highest score for free.\n"
            "- scikit-learn: `roc_auc_score`, `average_precision_score`, `precision_recall_curve`; it has no AUPRO. "
            "The plain one beside it follows the description of MVTec AD: all scores sorted, one curve, cut at both "
            "limits.\n"
            "- anomalib: AUROC, AUPR, F1Max and AUPRO (to 0.3) at their defaults; maps divided by their maximum first, "
            "for its scores must lie in 0 to 1.\n\n"
            "The error is the largest over the pixel metrics that a tool has, against scikit-learn and the plain AUPRO."
        ),
        tables=(
            table(
                measured,
                ours=exact,
                columns={
                    "metrics": lambda m: str(len(m.value)),
                    "largest error": lambda m: _error_text(m, truth),
                },
            ),
        ),
        targets=(
            at_least("CPU of scikit-learn and plain AUPRO / exact", plain, exact, 40),
            at_most(
                "extra memory of exact / scikit-learn and plain AUPRO", exact, plain, 1 / 6, quantity="extra_bytes"
            ),
            at_least("CPU of adeval / streaming", peer, streaming, 1.5),
            _smaller_error(streaming, peer, truth),
        ),
        measured=tuple(measured),
    )


def _bootstrap(folder: str, data: str, *, quick: bool) -> Section:
    resamples = 20 if quick else RESAMPLES
    measured = compare(
        [
            Contender(
                "uadctl, counts an image", "benchmarks.pixel_metrics:resampled", {"folder": folder, "n": resamples}
            ),
            Contender(
                "uadctl, exact, images given again",
                "benchmarks.pixel_metrics:given_again",
                {"folder": folder},
                scale=resamples,
                share=f"1 of {resamples:,} resamples",
                repeats=1,
            ),
        ],
        repeats=1 if quick else 3,
    )
    ours, _ = measured
    return Section(
        title="Intervals by bootstrap",
        text=(
            f"The five pixel metrics of {resamples:,} resamples of the images, drawn with replacement, good ones and "
            f"those with a defect apart. {data} With counts an image, what is measured includes taking the maps in."
        ),
        tables=(
            table(
                measured,
                ours=ours,
                columns={
                    "bound on the error": lambda m: (
                        number(max(m.value["bounds"].values())) if "bounds" in m.value else "exact"
                    )
                },
            ),
        ),
        measured=tuple(measured),
    )


# -- the data


def synthetic(
    images: int, side: int, with_defect: int, *, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(images, side, side) masks of 0 and 255, with three defects on each of the first ones, and maps.

    A map is a coarse grid of noise, enlarged, and raised about each defect by an amount of its own: some defects are
    found at once, some hardly.
    """
    import cv2

    rng = np.random.default_rng(seed)
    masks = np.zeros((images, side, side), dtype=np.uint8)
    maps = np.empty((images, side, side), dtype=np.float32)
    radius = np.sqrt(0.01 * images / (3 * with_defect) / np.pi) * side
    quarter = side // 2
    for mask, scores, i in zip(masks, maps, range(images), strict=True):
        grid = (rng.gamma(4, 3, (28, 28)) + 20).astype(np.float32)
        scores[:] = cv2.GaussianBlur(cv2.resize(grid, (side, side)), (0, 0), side / 225)
        if i >= with_defect:
            continue
        for corner in rng.permutation(4)[:3]:
            # No larger than half a quarter of the image: defects never touch.
            tall, wide = (min(radius * factor, quarter / 4) for factor in rng.uniform(0.7, 1.3, 2))
            y, x = (
                rng.integers(quarter // 3, quarter - quarter // 3, 2) + quarter * np.array(divmod(corner, 2))
            ).tolist()
            one = np.zeros((side, side), dtype=np.uint8)
            cv2.ellipse(one, (x, y), (max(1, round(wide)), max(1, round(tall))), rng.uniform(0, 180), 0, 360, 255, -1)
            mask |= one
            scores += cv2.GaussianBlur(one, (0, 0), side / 110).astype(np.float32) * (rng.uniform(2, 20) / 255)
    return masks, maps


def _load(folder: str) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Masks, maps, and of each image the label and the score, its highest."""
    masks, maps = np.load(Path(folder) / "masks.npy"), np.load(Path(folder) / "maps.npy")
    return masks, maps, masks.any(axis=(1, 2)).astype(np.int64), maps.max(axis=(1, 2))


# -- the contenders


def uadctl_exact(*, folder: str) -> Callable[[], dict[str, float]]:
    from uadctl.metrics import PixelMetrics

    return _uadctl(folder, PixelMetrics)


def uadctl_streaming(*, folder: str) -> Callable[[], dict[str, float]]:
    from uadctl.metrics import StreamingPixelMetrics

    return _uadctl(folder, StreamingPixelMetrics)


def _uadctl(folder: str, engine: Callable[[], Any]) -> Callable[[], dict[str, float]]:
    from uadctl.metrics import evaluate_detector

    masks, maps, labels, scores = _load(folder)

    def measure(some: slice) -> dict[str, float]:
        pixels = engine()
        for mask, anomaly_map in zip(masks[some], maps[some], strict=True):
            pixels.add(mask, anomaly_map)
        found = pixels.result(fpr_limits=LIMITS).metrics | evaluate_detector(labels, scores)["image_metrics"]
        return dict(found)

    measure(slice(1))
    return lambda: measure(slice(None))


def adeval(*, folder: str) -> Callable[[], dict[str, float]]:
    if not hasattr(np, "trapz"):
        vars(np)["trapz"] = np.trapezoid  # the name that it calls was taken out of numpy 2.4
    from adeval import EvalAccumulator

    masks, maps, labels, scores = _load(folder)
    low, high = float(maps.min()), float(maps.max())

    def measure(some: slice) -> dict[str, float]:
        counted = EvalAccumulator(float(scores.min()), float(scores.max()), low, high)
        for mask, anomaly_map in zip(masks[some], maps[some], strict=True):
            counted.add_anomap(anomaly_map, mask)
        for label, score in zip(labels[some], scores[some], strict=True):
            counted.add_image(float(score), int(label))
        with np.errstate(
            invalid="ignore"
        ):  # it divides by the number of samples of several images, of which we have none
            found = counted.summary()
        names = {
            "p_auroc": "pixel_auroc",
            "p_aupr": "pixel_ap",
            "p_aupro": "aupro_30",
            "i_auroc": "image_auroc",
            "i_aupr": "image_ap",
        }
        return {ours: float(found[theirs]) for theirs, ours in names.items()}

    measure(slice(1))
    return lambda: measure(slice(None))


def scikit_learn_and_aupro(*, folder: str) -> Callable[[], dict[str, float]]:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    masks, maps, labels, scores = _load(folder)

    def ranked(kind: str, y: NDArray[Any], s: NDArray[Any]) -> dict[str, float]:
        found = {f"{kind}_auroc": float(roc_auc_score(y, s)), f"{kind}_ap": float(average_precision_score(y, s))}
        precision, recall, _ = precision_recall_curve(y, s)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        return found | {f"{kind}_f1max": float(f1.max())}

    def measure() -> dict[str, float]:
        found = ranked("pixel", masks.ravel() > 0, maps.ravel()) | ranked("image", labels, scores)
        return found | plain_aupro(masks, maps, LIMITS)

    plain_aupro(masks[:1], maps[:1], LIMITS)
    return measure


def plain_aupro(masks: NDArray[np.uint8], maps: NDArray[np.float32], limits: Sequence[float]) -> dict[str, float]:
    """AUPRO as the paper of MVTec AD describes it: sort every pixel, walk down, integrate the curve.

    Lowering the threshold past a normal pixel adds 1 / normal pixels to the false-positive rate; past a pixel of a
    region it adds 1 / (size of the region · number of regions) to the mean overlap.
    """
    from scipy.ndimage import label

    from uadctl.metrics import aupro_name

    weight = np.zeros(maps.shape)
    n_regions = 0
    for mask, steps in zip(masks, weight, strict=True):
        regions, n = label(mask, structure=np.ones((3, 3), dtype=int))
        sizes = np.bincount(regions.ravel())
        sizes[0] = 1
        steps[:] = np.where(regions > 0, 1 / sizes[regions], 0)
        n_regions += n
    weight = weight.ravel() / n_regions
    scores = maps.ravel()
    order = np.argsort(scores)[::-1]
    scores, weight = scores[order], weight[order]
    last = np.append(scores[1:] != scores[:-1], True)  # equal scores fall together
    normal = weight == 0
    fpr = np.append(0, (np.cumsum(normal) / np.count_nonzero(normal))[last])
    pro = np.append(0, np.minimum(np.cumsum(weight), 1)[last])
    found = {}
    for limit in limits:
        within = fpr <= limit
        x = np.append(fpr[within], limit)
        y = np.append(pro[within], np.interp(limit, fpr, pro))
        found[aupro_name(limit)] = float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2 / limit)
    return found


def anomalib(*, folder: str) -> Callable[[], dict[str, float]]:
    import torch
    from anomalib.metrics.aupr import _AUPR
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.auroc import _AUROC
    from anomalib.metrics.f1_score import _F1Max

    masks, maps, labels, scores = _load(folder)
    highest = maps.max()
    y, s = torch.from_numpy((masks > 0).astype(np.int64)), torch.from_numpy(maps / highest)
    image_y, image_s = torch.from_numpy(labels), torch.from_numpy(scores / highest)

    def measure() -> dict[str, float]:
        found: dict[str, float] = {}
        metrics: Mapping[str, Any] = {"auroc": _AUROC, "ap": _AUPR, "f1max": _F1Max}
        for name, metric in metrics.items():
            for kind, target, predicted in (("pixel", y, s), ("image", image_y, image_s)):
                counted = metric()
                counted.update(predicted, target)
                found[f"{kind}_{name}"] = float(counted.compute())
        overlap = _AUPRO()
        overlap.update(s, y)
        return found | {"aupro_30": float(overlap.compute())}

    return measure


def resampled(*, folder: str, n: int) -> Callable[[], dict[str, Any]]:
    from uadctl.metrics import PixelStatistics, bootstrap_weights

    masks, maps, _, _ = _load(folder)

    def measure(some: slice, resamples: int) -> dict[str, Any]:
        taken = PixelStatistics()
        for mask, anomaly_map in zip(masks[some], maps[some], strict=True):
            taken.add(mask, anomaly_map)
        drawn = bootstrap_weights(taken.images, resamples, seed=0, strata=taken.with_defect)
        found = taken.resample(drawn, fpr_limits=LIMITS)
        intervals = {name: np.nanquantile(values, [0.025, 0.975]).tolist() for name, values in found.items()}
        return {"intervals": intervals, "bounds": taken.bounds(fpr_limits=LIMITS)}

    measure(slice(1), 2)
    return lambda: measure(slice(None), n)


def given_again(*, folder: str) -> Callable[[], dict[str, float]]:
    from uadctl.metrics import PixelMetrics, bootstrap_weights

    masks, maps, labels, _ = _load(folder)
    drawn = bootstrap_weights(len(maps), 1, seed=0, strata=labels)[0]

    def measure(times: Sequence[int]) -> dict[str, float]:
        pixels = PixelMetrics()
        for mask, anomaly_map, count in zip(masks, maps, times, strict=True):
            for _ in range(count):
                pixels.add(mask, anomaly_map)
        return {name: float(value or 0) for name, value in pixels.result(fpr_limits=LIMITS).metrics.items()}

    measure([1] + [0] * (len(maps) - 1))
    return lambda: measure(drawn.tolist())


# -- what the values say


def _error(measured: Measured, truth: Mapping[str, float], names: Sequence[str] = PIXEL) -> float:
    return max(abs(float(measured.value[name]) - truth[name]) for name in names if name in measured.value)


def _error_text(measured: Measured, truth: Mapping[str, float]) -> str:
    return "–" if measured.value is truth else f"{_error(measured, truth):.1e}"


def _smaller_error(ours: Measured, peer: Measured, truth: Mapping[str, float]) -> Target:
    what, wanted = "largest error of streaming, of the metrics that adeval has", "below adeval's"
    if not ours.runs or not peer.runs:
        return Target(what, wanted, ours.reason or peer.reason, None)
    shared = [name for name in PIXEL if name in peer.value]
    errors = _error(ours, truth, shared), _error(peer, truth, shared)
    return Target(what, wanted, f"{errors[0]:.1e} beside {errors[1]:.1e}", errors[0] < errors[1])
