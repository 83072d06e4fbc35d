"""The whole job on a real data set: `uadctl bench` on MVTec AD's bottle, beside anomalib's PatchCore.

Needs $MVTEC_ROOT, the folder that holds `bottle`. As a program it is anomalib's side of the comparison:
`python -m benchmarks.bottle REQUEST.json`, see `fit_and_test`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.measure import (
    PYTHON,
    ROOT,
    Contender,
    Measured,
    Program,
    Run,
    Section,
    Table,
    Target,
    Unavailable,
    at_least,
    at_most,
    command,
    compare,
    number,
    table,
)
from benchmarks.startup import UADCTL

if TYPE_CHECKING:
    import torch
    from torch import nn

CATEGORY = "bottle"
BACKBONE = "efficientnet_lite0"
_SIDE = 256
_ROUNDS = 150  # of anomalib's greedy loop, from which the rest is extrapolated
_WARM = 5
_JUDGED = ("image_auroc", "pixel_auroc", "aupro_30")
_TOLERANCE = 0.002


def sections(*, quick: bool, full: bool = False) -> list[Section]:
    """full: anomalib's greedy loop to its end, which takes more than an hour."""
    root = os.environ.get("MVTEC_ROOT")
    title = "The whole job: bench on MVTec AD bottle"
    if not root or not (Path(root) / CATEGORY).is_dir():
        return [Section(title=title, text=f"Not measured: needs $MVTEC_ROOT, a folder that holds `{CATEGORY}`.")]
    return [_whole_job(title, root, train=8 if quick else None, test=8 if quick else None, quick=quick, full=full)]


def _whole_job(title: str, root: str, *, train: int | None, test: int | None, quick: bool, full: bool) -> Section:
    rounds = 3 if quick else _ROUNDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limits = [
            word
            for flag, limit in (("--limit-train", train), ("--limit-test", test))
            if limit
            for word in (flag, str(limit))
        ]
        spec = str(ROOT / "specs" / "mvtec_patchcore.toml")
        where = ["--category", CATEGORY, "--run-dir", str(folder / "runs")]
        ours, peer = compare(
            [
                Contender.command(
                    "uadctl bench", [*UADCTL, "bench", spec, *where, *limits], env={"MVTEC_ROOT": root}, tree=True
                ),
                Contender(
                    "anomalib Patchcore, Engine.fit + Engine.test",
                    "benchmarks.bottle:anomalib",
                    {
                        "root": str(Path(root).resolve()),
                        "folder": str(folder / "anomalib"),
                        "train": train,
                        "test": test,
                        "rounds": None if full else rounds,
                    },
                    share="" if full else f"{rounds} rounds of its greedy loop, all else run in full",
                    repeats=1,
                ),
            ],
            repeats=1 if quick else 3,
        )
        if ours.failed:
            return Section(title=title, measured=(ours, peer))
        run = next((folder / "runs").iterdir())
        cell = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["results"][CATEGORY]
        own = cell["vision_patchcore"]["0"]["metrics"]
        theirs = said = judged = None
        if peer.runs:
            said = json.loads((folder / "anomalib" / "said.json").read_text(encoding="utf-8"))
            peer = _completed(peer, said)
            judged = compare(
                [
                    Contender(
                        "the metrics", "benchmarks.bottle:judge", {"root": root, "folder": str(folder / "anomalib")}
                    )
                ],
                repeats=1,
            )[0]
            theirs = judged.value
    measured = (ours, peer) if judged is None or not judged.failed else (ours, peer, judged)
    return Section(
        title=title,
        text=_text(train, test),
        tables=(table(measured, ours=ours, memory="peak"), *_agreement(own, theirs)),
        targets=(
            at_least("CPU of anomalib / ours, whole process", peer, ours, 20),
            at_most("peak memory, ours / anomalib", ours, peer, 1 / 3, quantity="peak_bytes"),
            *_differences(own, theirs),
        ),
        notes=_notes(said, full=full),
        measured=measured,
    )


def _text(train: int | None, test: int | None) -> str:
    images = "All images" if train is None else f"{train} training and {test} test images, for trying the benchmark"
    return (
        f"{images}; whole processes, imports included. Both: EfficientNet-Lite0 with the same weights, layers blocks.2 "
        f"and blocks.4, images brought to {_SIDE}×{_SIDE} and normalised alike, no crop, 10 % coreset, 9 neighbours. "
        "`uadctl bench` also calibrates a threshold from leave-one-image-out scores, and writes model, maps and "
        "overlays. anomalib runs with its defaults: it scores the test images twice (its validation set is the test "
        "set), normalises the maps, and measures image AUROC and F1-max, pixel AUROC and AUPRO on maps and masks of "
        f"{_SIDE}×{_SIDE}; uadctl measures on the masks as they are, 900×900. Only its picture of every image is "
        "switched off. Memory is that of all processes of each: anomalib loads images in 8 of them."
    )


def _notes(said: dict[str, Any] | None, *, full: bool) -> tuple[str, ...]:
    if said is None:
        return ()
    figures = ", ".join(f"{name} {value:.4f}" for name, value in said["metrics"].items())
    notes = [
        f"anomalib's own figures, on normalised maps and on scores cut to 0…1, at {_SIDE}×{_SIDE}: {figures}. "
        "The comparison above takes its raw maps and scores."
    ]
    if not full:
        notes.append(
            f"anomalib's greedy loop needs {said['needed']:,} rounds on {said['points']:,} points of "
            f"{said['dimensions']} dimensions (its random projection). {said['rounds']} rounds of the real loop on "
            f"these points took {number(1000 * said['round_cpu_s'])} ms of CPU each; every round does the same work, "
            f"so the loop takes {number(said['round_cpu_s'] * said['needed'])} s. For the rest of the job its coreset "
            "was chosen by uadctl's `greedy_coreset` on the same projected points, which is not counted. "
            "`python -m benchmarks bottle --full` runs its loop to the end."
        )
    return tuple(notes)


def _completed(peer: Measured, said: dict[str, Any]) -> Measured:
    """With the rounds that were not run counted in place of what stood in for them. said: the program's answer."""
    (run,) = peer.runs
    cpu = run.cpu_s - said["instead_cpu_s"] + said["round_cpu_s"] * said["needed"]
    wall = run.wall_s - said["instead_wall_s"] + said["round_wall_s"] * said["needed"]
    return dataclasses.replace(peer, runs=(Run(cpu, wall, run.extra_bytes, run.peak_bytes, said),))


def _agreement(own: dict[str, float], theirs: dict[str, float] | None) -> list[Table]:
    if theirs is None:
        return []
    rows = [
        ("uadctl", *(f"{own[key]:.4f}" for key in _JUDGED)),
        ("anomalib", *(f"{theirs[key]:.4f}" for key in _JUDGED)),
    ]
    return [
        Table(
            ("", *_JUDGED),
            tuple(rows),
            "Raw scores and maps of both, measured by uadctl at the masks' size; anomalib's maps are brought there "
            "bilinearly, as its user would have to:",
        )
    ]


def _differences(own: dict[str, float], theirs: dict[str, float] | None) -> list[Target]:
    if theirs is None:
        return []
    targets = []
    for key in _JUDGED:
        difference = abs(own[key] - theirs[key])
        targets.append(Target(f"{key}, difference", f"≤ {_TOLERANCE}", f"{difference:.4f}", difference <= _TOLERANCE))
    return targets


def anomalib(*, root: str, folder: str, train: int | None, test: int | None, rounds: int | None) -> Program:
    """The contender: `fit_and_test` in a process of its own, whose answer lies in said.json."""
    for package in ("anomalib", "timm"):
        if importlib.util.find_spec(package) is None:
            raise Unavailable(f"needs {package}")
    Path(folder).mkdir(parents=True)
    request = Path(folder) / "request.json"
    asked = {"root": root, "folder": folder, "train": train, "test": test, "rounds": rounds}
    request.write_text(json.dumps(asked), encoding="utf-8")
    return command(argv=[PYTHON, "-m", "benchmarks.bottle", str(request)], tree=True)


def fit_and_test(*, root: str, folder: str, train: int | None, test: int | None, rounds: int | None) -> dict[str, Any]:
    """anomalib's whole job. Writes maps.npy, (n, 256, 256) raw, and scores.json into `folder`.

    train, test: at most so many images. rounds: of the greedy loop to run in earnest; None: all.
    Returns its own metrics, and what the greedy loop took: see `_Greedy`.
    """
    import numpy as np
    from anomalib.data import MVTecAD
    from anomalib.engine import Engine
    from anomalib.metrics import AUPRO, AUROC, Evaluator, F1Max
    from anomalib.models import Patchcore
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    from uadctl.spec.registry import resolve_backbone

    entry = resolve_backbone(BACKBONE)
    data = MVTecAD(root=root, category=CATEGORY)
    data.setup()
    _limit(data, root, train=train, test=test)
    model = Patchcore(
        backbone="tf_efficientnet_lite0",
        layers=list(entry.layers),
        pre_trained=False,
        coreset_sampling_ratio=0.1,
        num_neighbors=9,
        pre_processor=PreProcessor(
            transform=Compose(
                [
                    Resize((_SIDE, _SIDE), antialias=True),
                    Normalize(mean=[x / 255 for x in entry.mean], std=[x / 255 for x in entry.std]),
                ]
            )
        ),
        evaluator=Evaluator(
            test_metrics=[
                AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
                F1Max(fields=["pred_score", "gt_label"], prefix="image_"),
                AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_"),
                AUPRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_"),
            ]
        ),
        visualizer=False,
    )
    _load_weights(model.model.feature_extractor.feature_extractor)
    greedy = _Greedy(rounds)
    outputs: list[tuple[Any, Any]] = []
    model.model.register_forward_hook(
        lambda network, _, out: None if network.training else outputs.append((out.pred_score, out.anomaly_map))
    )
    engine = Engine(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    with greedy.standing_in():
        engine.fit(model=model, datamodule=data)
    outputs.clear()  # of the validation
    measured = engine.test(model=model, datamodule=data)[0]

    scores = np.concatenate([score.numpy().ravel() for score, _ in outputs])
    np.save(Path(folder) / "maps.npy", np.concatenate([m.numpy().reshape(-1, _SIDE, _SIDE) for _, m in outputs]))
    paths = [str(path) for path in data.test_data.samples.image_path]
    if len(paths) != len(scores):
        raise RuntimeError(f"{len(paths)} test images but {len(scores)} scores")
    (Path(folder) / "scores.json").write_text(
        json.dumps(dict(zip(paths, scores.tolist(), strict=True))), encoding="utf-8"
    )
    return {"metrics": {name: float(value) for name, value in measured.items()}, **dataclasses.asdict(greedy)}


def _limit(data: Any, root: str, *, train: int | None, test: int | None) -> None:
    """Keep the images that uadctl would keep."""
    from uadctl.datasets import load_dataset
    from uadctl.plan import limited

    found = load_dataset("mvtec", root, category=CATEGORY)
    for subset, samples in (
        (data.train_data, limited(found.train, train)),
        (data.val_data, limited(found.test, test)),
        (data.test_data, limited(found.test, test)),
    ):
        wanted = {os.path.realpath(sample.path) for sample in samples}
        table = subset.samples
        subset.samples = table[[os.path.realpath(path) in wanted for path in table.image_path]].reset_index(drop=True)
        if len(subset.samples) != len(samples):
            raise RuntimeError(f"anomalib lists {len(subset.samples)} of {len(samples)} images of {root}")
    data._is_setup = True  # or the engine would list them all again


def _load_weights(network: nn.Module) -> None:
    """The weights that come with uadctl, into timm's network: what is used of it must come from them."""
    from uadctl.features.lite0 import convert
    from uadctl.features.weights import find_weights, load_state
    from uadctl.spec.registry import resolve_backbone

    state = convert(load_state(find_weights(resolve_backbone(BACKBONE)).path))
    absent = network.load_state_dict(state, strict=False).missing_keys
    if absent:
        raise RuntimeError(f"weights that timm's network needs and that are absent: {', '.join(absent)}")


@dataclasses.dataclass
class _Greedy:
    """anomalib's greedy loop, of which `rounds` are run and measured; None: all.

    points, dimensions: of what it selects from, after its own projection. needed: rounds of the whole loop.
    round_cpu_s, round_wall_s: of one round. instead_cpu_s, instead_wall_s: of the rounds run, and of the selection
    that stands in for the others.
    """

    rounds: int | None
    points: int = 0
    dimensions: int = 0
    needed: int = 0
    round_cpu_s: float = 0.0
    round_wall_s: float = 0.0
    instead_cpu_s: float = 0.0
    instead_wall_s: float = 0.0

    def standing_in(self) -> contextlib.AbstractContextManager[object]:
        """A block in which this stands in for the method of anomalib's class that holds the loop."""
        if self.rounds is None:
            return contextlib.nullcontext()
        from anomalib.models.components import KCenterGreedy

        return mock.patch.object(KCenterGreedy, "select_coreset_idxs", lambda sampler: self.select(sampler))

    def select(self, sampler: Any) -> list[int]:
        import time

        from uadctl.memory import greedy_coreset

        sampler.model.fit(sampler.embedding)
        sampler.features = sampler.model.transform(sampler.embedding)
        sampler.reset_distances()
        self.points, self.dimensions = sampler.features.shape
        self.needed = sampler.coreset_size - 1
        rounds = min(self.rounds or 0, self.needed)
        began = time.process_time(), time.perf_counter()
        index = self._advance(sampler, _first(self.points), _WARM)
        cpu, wall = time.process_time(), time.perf_counter()
        self._advance(sampler, index, rounds)
        self.round_cpu_s = (time.process_time() - cpu) / rounds
        self.round_wall_s = (time.perf_counter() - wall) / rounds
        chosen: list[int] = greedy_coreset(sampler.features, sampler.coreset_size, projection_dim=0).tolist()
        self.instead_cpu_s, self.instead_wall_s = time.process_time() - began[0], time.perf_counter() - began[1]
        return chosen

    @staticmethod
    def _advance(sampler: Any, index: torch.Tensor, rounds: int) -> torch.Tensor:
        """The body of anomalib's loop, through its own methods."""
        for _ in range(rounds):
            sampler.update_distances(cluster_center=index)
            index = sampler.get_new_idx()
            sampler.min_distances.scatter_(0, index.unsqueeze(0).unsqueeze(1), 0.0)
        return index


def _first(n: int) -> torch.Tensor:
    import torch

    return torch.randint(high=n, size=(1,), generator=torch.Generator().manual_seed(0)).squeeze()


def judge(*, root: str, folder: str) -> Callable[[], dict[str, float | int | None]]:
    """uadctl's metrics of what `fit_and_test` left in `folder`, maps brought to the size of their masks bilinearly."""
    import cv2
    import numpy as np

    from uadctl.datasets import load_dataset
    from uadctl.imaging.files import image_size, read_mask
    from uadctl.metrics import PixelMetrics, compute_image_auroc

    scores = json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))
    known = {os.path.realpath(path): i for i, path in enumerate(scores)}
    values = list(scores.values())
    maps = np.load(Path(folder) / "maps.npy")
    test = [s for s in load_dataset("mvtec", root, category=CATEGORY).test if os.path.realpath(s.path) in known]

    def work() -> dict[str, float | int | None]:
        pixels = PixelMetrics()
        labels, ranked = [], []
        for sample in test:
            i = known[os.path.realpath(sample.path)]
            size = image_size(sample.path)
            mask = read_mask(sample.masks, size=size) if sample.masks else np.zeros(size, np.uint8)
            pixels.add(mask, cv2.resize(maps[i], (size.width, size.height), interpolation=cv2.INTER_LINEAR))
            labels.append(sample.label)
            ranked.append(values[i])
        found = pixels.result(fpr_limits=(0.3,)).metrics
        return {**found, "image_auroc": compute_image_auroc(labels, ranked)}

    return work


def main(argv: Sequence[str]) -> None:
    """anomalib's side, as a program: argv holds the file of arguments; the answer goes beside it."""
    request = Path(argv[0])
    said = fit_and_test(**json.loads(request.read_text(encoding="utf-8")))
    request.with_name("said.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
