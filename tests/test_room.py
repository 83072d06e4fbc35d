"""Out of memory with many images at a time, out of memory with one, and scores that are no numbers."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import parts
import pytest
import torch

from uadctl.errors import ImageError, RunError
from uadctl.features.backbone import Backbone
from uadctl.imaging.geometry import Geometry
from uadctl.inference import stream
from uadctl.intake import Intake
from uadctl.models.anomalydino import AnomalyDINO
from uadctl.models.padim import PaDiM
from uadctl.models.patchcore import PatchCore
from uadctl.progress import Silent
from uadctl.records import Prediction, Tiling
from uadctl.room import Room, attempt, ran_out
from uadctl.spec import create_model

ONCE = "vision_padim: out of memory with 6 images at a time; going on with 3"
TILES = "cut it into tiles: [tiling] size, or --tile-size"


def raised_by(work) -> Exception:
    with pytest.raises(Exception) as caught:
        work()
    return caught.value


def wrapped() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise RunError("PyOD cannot") from error


def test_memory_that_runs_out_is_known_in_every_library():
    enough = 2**47  # bytes: more than a process can address
    real = [
        raised_by(lambda: torch.empty(enough, dtype=torch.uint8)),
        raised_by(lambda: np.empty(enough, np.uint8)),
        raised_by(lambda: bytearray(enough)),
        raised_by(wrapped),
    ]
    assert [type(error).__name__ for error in real] == ["RuntimeError", "MemoryError", "MemoryError", "RunError"]
    said = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB, max allowed: 9.07 GB)."),
        RuntimeError("Invalid buffer size: 24.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("Exception from src/inference: std::bad_alloc"),
        Exception("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 8"),
        RuntimeError("[GPU] clEnqueueNDRangeKernel, error code: -5 CL_OUT_OF_RESOURCES"),
        cv2.error("OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 8 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ]
    assert all(ran_out(error) for error in real + said)
    assert len(said) == 12


@pytest.mark.parametrize(
    "error",
    [
        ValueError("memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RunError("a file named std::bad_alloc.png cannot be read"),  # our own words are never meant
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not ran_out(error)

    def work(_):
        raise error

    with pytest.raises(type(error)) as caught:
        list(Room(2, progress=Silent()).parts(work, [1, 2]))
    assert caught.value is error


def up_to(most: int, *, never=(), unknown=(), calls=None):
    """Work that takes so many numbers at a time, gives them doubled; never some, and of others it knows nothing."""

    def work(numbers):
        if calls is not None:
            calls.append(list(numbers))
        if len(numbers) > most or set(numbers) & set(never):
            raise MemoryError
        if set(numbers) & set(unknown):
            raise ImageError("no number", help="Ask another.")
        return [2 * number for number in numbers]

    return work


def told(room: Room, work, numbers) -> list:
    out = []
    for part, said in room.parts(work, numbers):
        if isinstance(said, ImageError):
            assert len(part) == 1
            out.append("large" if said.large else said.message)
        else:
            out += said
    return out


def test_half_as_many_until_they_fit_and_that_stays():
    progress, settled, calls = Silent(), [], []
    room = Room(16, progress=progress, settled=settled.append)
    work = up_to(3, calls=calls)
    assert told(room, work, list(range(20))) == [2 * i for i in range(20)]
    assert [len(call) for call in calls] == [16, 8, 4, *[2] * 10]
    assert (room.images, settled) == (2, [8, 4, 2])
    assert told(room, work, [7, 8, 9]) == [14, 16, 18]
    assert progress.warnings == ["out of memory with 16 images at a time; going on with 2"]
    work = up_to(1)
    assert told(room, work, [7, 8, 9]) == [14, 16, 18]
    assert progress.warnings[1:] == ["out of memory with 2 images at a time; going on with 1"]


def test_one_that_never_fits_leaves_the_others_their_company():
    progress, calls = Silent(), []
    room = Room(8, progress=progress)
    assert told(room, up_to(8, never=[3], calls=calls), list(range(16))) == [
        *(0, 2, 4, "large"),
        *(2 * i for i in range(4, 16)),
    ]
    assert calls[-1] == [12, 13, 14, 15]
    # Once: the neighbours were computed in smaller parts, and last bits may depend on that.
    told_of = ["out of memory with 8 images at a time; one of them does not fit by itself"]
    assert (room.images, progress.warnings) == (8, told_of)
    assert told(room, up_to(8, never=[3, 4]), list(range(8))) == [0, 2, 4, "large", "large", 10, 12, 14]
    assert progress.warnings == told_of
    assert told(Room(1, progress=progress), up_to(1, never=[1]), [0, 1, 2]) == [0, "large", 4]
    assert progress.warnings == told_of


def test_one_without_an_answer_is_found_by_asking_each():
    calls = []
    room = Room(4, progress=Silent())
    assert told(room, up_to(4, unknown=[1], calls=calls), list(range(8))) == [0, "no number", 4, 6, 8, 10, 12, 14]
    assert calls == [[0, 1, 2, 3], [0], [1], [2], [3], [4, 5, 6, 7]]
    assert room.images == 4


def test_what_the_failed_attempt_held_is_freed_before_the_next():
    held: list[weakref.ref] = []

    def work(numbers):
        assert all(there() is None for there in held)
        array = np.zeros(1000)
        held.append(weakref.ref(array))
        try:
            if len(numbers) > 2:
                raise MemoryError
        except MemoryError as error:
            kept = error  # a circle: the frame holds the error, the error the frame
            raise RuntimeError("std::bad_alloc") from kept
        return [array.sum()]

    assert len(list(Room(8, progress=Silent()).parts(work, list(range(8))))) == 4
    assert len(held) == 6
    assert attempt(lambda: 3) == 3


# -- detectors


def image(number: int) -> np.ndarray:
    return parts.surface(number)


class Fake:
    """A detector of means that takes at most so many images at a time."""

    own_resizing = None

    def __init__(self, most: int, images_per_batch: int = 8, *, scores=None) -> None:
        self.most, self.images_per_batch, self.scores = most, images_per_batch, scores or {}
        self.asked: list[int] = []

    def predict_batch(self, images):
        self.asked.append(len(images))
        if len(images) > self.most or any(image.shape[0] > 100 for image in images):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        found = []
        for image in images:
            score, field = self.scores.get(int(image[0, 0, 0]), (float(image.mean()), None))
            found.append(Prediction(score, np.full(image.shape[:2], score, np.float32) if field is None else field))
        return found


def plain(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def scored(detector, images, **settings):
    progress = Silent()
    intake = settings.pop("intake", Intake(geometry=Geometry(size=None)))
    return list(stream(detector, images, intake=intake, progress=progress)), progress.warnings


def test_images_are_scored_as_with_the_smaller_batch_from_the_start():
    images = [plain(i) for i in range(21)]
    halved, fewer = Fake(2), Fake(2, images_per_batch=2)
    found, warnings = scored(halved, images)
    assert [item.prediction.score for item in found] == [float(i) for i in range(21)]
    assert [item.index for item in found] == list(range(21))
    assert warnings == ["out of memory with 8 images at a time; going on with 2"]
    assert halved.asked == [8, 4, *[2] * 10, 1]
    assert scored(fewer, images)[1] == []


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (plain(0, 101), f"101x101 (height x width), as the model gets it, does not fit into memory; {TILES}"),
        (plain(200), "the model gave the score nan"),
        (plain(201), "the model gave the score inf"),
        (plain(202), "the model gave a map that contains NaN or infinity"),
        (plain(203), "the model gave a map that contains NaN or infinity"),
    ],
)
def test_an_image_without_a_score_is_an_error_of_its_own(tmp_path, shown, reason):
    field = np.zeros((8, 8), np.float32)
    nowhere, infinite = field.copy(), field.copy()
    nowhere[0, 0], infinite[0, 0] = np.nan, np.inf
    scores = {200: (float("nan"), field), 201: (float("inf"), field), 202: (1.0, nowhere), 203: (1.0, infinite)}
    file = str(parts.write(tmp_path / "shown.png", shown) or tmp_path / "shown.png")
    found, warnings = scored(Fake(8, scores=scores), [plain(1), plain(2), file, plain(3)])
    assert [None if item.prediction is None else item.prediction.score for item in found] == [1.0, 2.0, None, 3.0]
    assert str(found[2].error) == f"{file}: {reason}"
    assert not any("going on with 1" in warning for warning in warnings)


def test_a_map_of_a_detector_that_crops_may_have_nothing_where_it_did_not_look():
    border, nothing = np.zeros((8, 8), np.float32), np.full((8, 8), np.nan, np.float32)
    border[:2] = np.nan
    detector = Fake(8, scores={5: (1.0, border), 6: (1.0, nothing)})
    detector.own_resizing = "crops"
    found, _ = scored(detector, [plain(5), plain(6)])
    assert found[0].prediction.score == 1.0
    assert str(found[1].error) == "the model gave a map that contains NaN or infinity"


def test_a_tile_that_does_not_fit_suggests_smaller_ones(tmp_path):
    parts.write(tmp_path / "large.png", plain(9, 200))
    parts.write(tmp_path / "small.png", plain(9, 90))
    way = {size: Intake(geometry=Geometry(size=None), tiling=Tiling(size=size, stride=size)) for size in (90, 150)}
    paths = [str(tmp_path / name) for name in ("large.png", "small.png")]
    found, warnings = scored(Fake(2), paths, intake=way[90])
    assert [item.prediction.score for item in found] == [9.0, 9.0]
    assert warnings == ["out of memory with 8 images at a time; going on with 2"]
    found, _ = scored(Fake(2), paths[:1], intake=way[150])
    assert str(found[0].error) == (
        f"{paths[0]}: a tile of 150x150 (height x width), as the model gets it, does not fit into memory; take smaller "
        "tiles: [tiling] size, or --tile-size"
    )


@pytest.fixture
def narrow(monkeypatch):
    """A device that holds so many images; the largest number that it was given. Set `most`."""
    real, seen = Backbone._in_groups, SimpleNamespace(most=10**9, calls=[])

    def compute(self, images, pixels, run):
        seen.calls.append(len(images))
        if len(images) > seen.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, images, pixels, run)

    monkeypatch.setattr(Backbone, "_in_groups", compute)
    return seen


KINDS = {
    "patchcore": lambda batch: PatchCore(device="cpu", batch_size=batch),
    "padim": lambda batch: PaDiM(device="cpu", batch_size=batch, n_features=8),
    "anomalydino": lambda batch: AnomalyDINO(
        backbone="efficientnet_lite0",
        image_size=64,
        device="cpu",
        batch_size=batch,
        shots=5,
        rotation="on",
        masking="off",
    ),
    "ecod": lambda batch: create_model("vision_ecod", device="cpu", batch_size=batch, features="pooled"),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_fitting_goes_on_with_as_many_as_fit(narrow, kind):
    images = [image(i) for i in range(8)]
    expected = KINDS[kind](2).fit(images)
    narrow.most, progress = 3, Silent()
    found = KINDS[kind](8).fit(images, progress=progress)
    assert progress.warnings == ["out of memory with 8 images at a time; going on with 2"]
    assert found.images_per_batch == found.facts()["batch_size"] == 2
    tensors, others = found.state()[0], expected.state()[0]
    assert sorted(tensors) == sorted(others)
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)
    narrow.calls.clear()
    assert found.decision_function(images[:3]).tolist() == expected.decision_function(images[:3]).tolist()
    assert max(narrow.calls) == 2


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_image_that_cannot_be_learned_is_named_by_its_number(narrow, kind, monkeypatch):
    images = [image(i) for i in range(4)]
    detector = KINDS[kind](8)
    narrow.most = 0
    with pytest.raises(ImageError) as caught:
        detector.fit(images)
    assert caught.value.message == "64x64 (height x width), as the model gets it, does not fit into memory"
    assert (caught.value.large, caught.value.number) == (True, 0)
    narrow.most = 10**9
    monkeypatch.setattr(Backbone, "__call__", blind(Backbone.__call__, images[2]))
    if kind != "anomalydino":  # which resizes the images, so that this one is not known again
        with pytest.raises(ImageError, match="features contain NaN or infinity") as caught:
            detector.fit(images)
        assert (caught.value.large, caught.value.number) == (False, 2)
    assert not detector.is_fitted


def blind(real, unknown: np.ndarray):
    """A network whose features of one image are no numbers."""

    def call(self, images):
        maps = [features.clone() for features in real(self, images)]
        for i, shown in enumerate(images):
            if np.array_equal(shown, unknown):
                for features in maps:
                    features[i] = float("nan")
        return maps

    return call


# -- the commands


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "units" / "tile" / "vision_padim" / "0" / "scores.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def padim(one_category) -> list[str]:
    return ["--dataset", "mvtec", "--root", str(one_category), "--model", "padim", "--set", "preprocess.resize=[64,64]"]


def pixels_of(path: Path) -> np.ndarray:
    shown = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return Geometry(resize=(64, 64), stride=32).plan(shown.shape[:2]).apply(shown)


def test_a_bench_says_once_that_memory_ran_out_and_keeps_it(uadctl, one_category, padim, narrow):
    expected = uadctl("bench", *padim, "--set", "run.batch_size=3", "--json").json
    parts.write_category(one_category, "wood")
    narrow.most = 3
    ended = uadctl("bench", *padim, "--json")
    assert [line for line in ended.err.splitlines() if "memory" in line] == [f"warning: {ONCE}"]
    run = Path(ended.json["run"])
    record = json.loads((run / "run.json").read_text())
    assert ONCE in record["warnings"]
    assert {facts["batch_size"] for facts in record["models"]["vision_padim"].values()} == {3}
    assert record["determinism"] == {
        "same_bytes": False,
        "exceptions": [
            "vision_padim: memory ran out, which depends on what else it held; the last bits of an image may depend on "
            "how many are computed beside it"
        ],
    }
    before = Path(expected["run"])
    assert json.loads((before / "run.json").read_text())["determinism"] == {"same_bytes": True, "exceptions": []}
    assert rows(run) == rows(before)
    assert [number for number in narrow.calls if number > 3] == [6]


def test_a_training_image_without_numbers_fails_the_bench_or_is_a_counted_row(uadctl, one_category, padim, monkeypatch):
    bad = sorted((one_category / "tile" / "train" / "good").iterdir())[2]
    monkeypatch.setattr(Backbone, "__call__", blind(Backbone.__call__, pixels_of(bad)))
    reason = (
        'efficientnet_lite0: features contain NaN or infinity; in precision "fp16" numbers end at 65504: use "bf16" or '
        '"fp32"'
    )
    ended = uadctl("bench", *padim, "--json", code=1)
    assert ended.json["results"]["tile"]["vision_padim"]["0"]["error"] == f"{bad}: {reason}"
    ended = uadctl("bench", *padim, "--set", "dataset.on_error=skip", "--json")
    found = ended.json["results"]["tile"]["vision_padim"]["0"]
    assert (found["counts"]["broken_images"], found["counts"]["train_images"]) == (1, 5)
    errors = [row for row in rows(Path(ended.json["run"])) if row["status"] == "error"]
    assert [(row["split"], row["score"], row["reason"]) for row in errors] == [("train", "", f"{bad}: {reason}")]
    # The model is the one that has never seen it, and so is the threshold.
    bad.unlink()
    monkeypatch.undo()
    without = uadctl("bench", *padim, "--json").json
    assert found["metrics"] == without["results"]["tile"]["vision_padim"]["0"]["metrics"]


def test_a_test_image_without_numbers_is_never_in_the_metrics(uadctl, one_category, padim, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    bad = sorted((one_category / "tile" / "test" / "good").iterdir())[0]
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "__call__", blind(Backbone.__call__, pixels_of(bad)))
        assert (
            uadctl("bench", *padim, "--json", code=1)
            .json["results"]["tile"]["vision_padim"]["0"]["error"]
            .startswith(f"{bad}: efficientnet_lite0: features contain NaN or infinity; in precision")
        )
        ended = uadctl("bench", *padim, "--set", "dataset.on_error=skip", "--json")
    found = ended.json["results"]["tile"]["vision_padim"]["0"]
    images = len(list((one_category / "tile" / "test").rglob("*.png")))
    assert (found["counts"]["broken_images"], found["counts"]["images"]) == (1, images - 1)
    errors = [row for row in rows(Path(ended.json["run"])) if row["status"] == "error"]
    assert [(row["split"], row["score"], row["verdict"]) for row in errors] == [("test", "", "")]


def test_score_goes_on_after_an_image_without_a_score(uadctl, finished, tmp_path, monkeypatch):
    for i in range(5):
        parts.write(tmp_path / "new" / f"{i}.png", image(800 + i))
    plainly = uadctl("score", finished, "new", "--json").lines
    shown = cv2.cvtColor(cv2.imread(str(tmp_path / "new" / "3.png")), cv2.COLOR_BGR2RGB)
    ready = Geometry(size=256, stride=32).plan(shown.shape[:2]).apply(shown)
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "__call__", blind(Backbone.__call__, ready))
        lines = uadctl("score", finished, "new", "--json", code=1).lines
    assert [line["status"] for line in lines] == ["ok", "ok", "ok", "error", "ok"]
    assert (lines[3]["score"], lines[3]["verdict"]) == (None, None)
    assert lines[3]["reason"].startswith("efficientnet_lite0: features contain NaN or infinity; in precision")
    for line, other in zip(lines, plainly, strict=True):
        assert line["score"] is None or line["score"] == pytest.approx(other["score"], rel=1e-5)


def test_score_says_what_does_not_fit_and_how_to_go_on(uadctl, finished, tmp_path, narrow):
    parts.write(tmp_path / "new" / "a.png", image(800))
    narrow.most = 0
    (line,) = uadctl("score", finished, "new", "--json", code=1).lines
    assert line["reason"] == f"256x256 (height x width), as the model gets it, does not fit into memory; {TILES}"


CHILD = """
import resource, sys
import numpy as np
from uadctl.imaging.geometry import Geometry
from uadctl.inference import stream, use_threads
from uadctl.intake import Intake
from uadctl.models.padim import PaDiM
from uadctl.progress import Silent

use_threads(1)
rng = np.random.default_rng(0)
images = [rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(64)]
model = PaDiM(device="cpu", batch_size=2, n_features=100).fit(images[:4], threshold=False)

def scores(batch):
    model.network.images_per_batch = batch
    progress = Silent()
    found = stream(model, images, intake=Intake(geometry=Geometry(size=None)), threads=1, progress=progress)
    return [item.prediction.score.hex() if item.prediction else str(item.error) for item in found], progress.warnings

scores(2)
if sys.argv[1] == "limited":
    with open("/proc/self/status") as status:
        used = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + 44 * 2**20, resource.RLIM_INFINITY))
    found, (warning,) = scores(64)
    print(warning)
else:
    found, _ = scores(int(sys.argv[1]))
print(found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_process_of_little_memory_scores_all_images():
    def child(*words: object) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    warning, scores = child("limited")
    assert warning.startswith("out of memory with 64 images at a time; going on with ")
    assert child(warning.split()[-1]) == [scores]
