"""`score` through an engine: the same lines, maps, masks and annotations as in this process, whatever becomes of
workers."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import parts
import pytest

from uadctl import load_run
from uadctl import score as score_module
from uadctl.bench import bench
from uadctl.engines import ATTEMPTS, Here, Job, Unit
from uadctl.engines.carrying import Failure
from uadctl.engines.scheduling import Done, Event, Lost, Opened, Refused, schedule
from uadctl.engines.shell import Shell
from uadctl.errors import DiskError, RunError, SpecError
from uadctl.imaging.geometry import Geometry
from uadctl.inference import stream
from uadctl.intake import Intake
from uadctl.progress import Silent
from uadctl.records import Prediction
from uadctl.runs import sharing
from uadctl.runs.fitted import Carried, Fitted
from uadctl.score import block_of, score
from uadctl.spec import Overrides, read_spec

CAMERA = """
[preprocess]
size = 64
steps = ["flat_field:reference=flat.png"]
ignore = ["ignore.png", "box:0,0,8,8"]
"""


@dataclass
class Crew:
    """Workers that live in this process, and get and give bytes only: those given last answer first.

    lost: so often the worker that is given a unit with this in its title ends, after it has printed something.
    """

    job: bytes
    workers: int
    lost: dict[str, int]
    shell: Callable[[bytes], Shell]
    _shells: dict[int, Shell] = field(default_factory=dict)
    _todo: list[tuple[int, bytes, Unit]] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)
    _started: int = 0
    closed: bool = False

    def employ(self, number: int) -> None:
        while len(self._shells) < number:
            self._started += 1
            try:
                self._shells[self._started] = self.shell(self.job)
            except Exception as error:  # noqa: BLE001 - as every worker does
                self._events.append(Refused(self._started, pickle.loads(pickle.dumps(Failure.of(error)))))
                return
            self._events.append(Opened(self._started))

    def hand(self, worker: int, unit: Unit) -> None:
        # Without its log: what this process prints is not to go there.
        self._todo.append((worker, pickle.dumps(replace(unit, log=None)), unit))

    def events(self) -> Collection[Event]:
        found, self._events = self._events, []
        while self._todo:
            worker, told, unit = self._todo.pop()
            if self.lost.get(unit.title, 0) > 0:
                self.lost[unit.title] -= 1
                unit.log.write_text("a lot of noise\n" * 50 + "Fatal: the last word")
                del self._shells[worker]
                found.append(Lost(worker, "was killed"))
            else:
                answer = self._shells[worker].do(pickle.loads(told))
                found.append(Done(worker, pickle.loads(pickle.dumps(answer))))
        return found

    def close(self) -> None:
        self.closed = True


@dataclass
class Pickling:
    """An engine whose workers share nothing with this process but what is pickled."""

    workers: int = 3
    lost: dict[str, int] = field(default_factory=dict)
    shell: Callable[[bytes], Shell] = lambda job: Shell(pickle.loads(job))
    name: str = "local"
    crew: Crew | None = None

    def map(self, job: Job, units, *, progress, begun=None, ordered=False, title=None):
        self.crew = Crew(pickle.dumps(job, pickle.HIGHEST_PROTOCOL), self.workers, self.lost, self.shell)
        yield from schedule(self.crew, units, progress=progress, begun=begun, ordered=ordered, title=title)

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "workers": self.workers}


class Told(Silent):
    """Counts what bars are advanced by."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: list[tuple[str, int | None]] = []
        self.advanced = 0

    def task(self, title, total, *, unit="images"):
        self.bars.append((title, total))
        told = self

        class Bar:
            def advance(self, n: int = 1) -> None:
                told.advanced += n

            def __enter__(self):
                return self

            def __exit__(self, *exc: object) -> None:
                pass

        return Bar()


def fitted_run(folder: Path, text: str, *, train: int = 5, size: tuple[int, int] = (64, 64)) -> Path:
    parts.write_category(folder / "data", "tile", train=train, good=1, bad=1, size=size)
    spec = folder / "spec.toml"
    spec.write_text(
        '[dataset]\nname = "mvtec"\nroot = "data"\n[model]\nname = "vision_patchcore"\n'
        f'[run]\ndir = "runs"\nthreads = 1\nbatch_size = 16\ndevice = "cpu"\n{text}'
    )
    result = bench(read_spec(str(spec), Overrides()).spec)
    assert not result.failed
    return result.run.path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fitted_run(tmp_path_factory.mktemp("plain"), "[preprocess]\nsize = 64\n")


@pytest.fixture(scope="module")
def fitted(run) -> Fitted:
    return load_run(run, device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Three blocks and a bit: of several sizes, some broken, two of them in the first block."""
    folder = tmp_path_factory.mktemp("new")
    for i in range(200):
        height, width = ((64, 64), (80, 56), (48, 96))[i % 3]
        image = parts.scratched(i, height, width)[0] if i % 7 == 0 else parts.surface(i, height, width)
        parts.write(folder / f"{i // 50}" / f"{i:03}.png", image)
    for i in (3, 20, 70, 199):
        file = folder / f"{i // 50}" / f"{i:03}.png"
        file.write_bytes(file.read_bytes()[:200])
    return folder


def scored(
    fitted: Fitted, images: list[str], out: Path, monkeypatch, *, masks: bool = True, **options: Any
) -> dict[str, bytes]:
    """All bytes that come of it, by name: outputs are named relative to a working folder of their own."""
    out.mkdir(exist_ok=True)
    monkeypatch.chdir(out)
    pixel = {"masks": "masks", "coco": "coco.json"} if masks else {}
    lines = score(fitted, images, maps="maps", threads=1, **pixel, **options)
    encoded = [score_module.msgspec.json.encode(line) for line in lines]
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    assert len(encoded) > 2
    return found | {"": b"\n".join(encoded)}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def test_every_engine_gives_the_same_bytes(fitted, images, tmp_path, monkeypatch):
    """Lines, maps, masks and annotations; images of several sizes, broken ones among them, one that is not there."""
    given = [str(images), str(tmp_path / "gone.png"), str(images / "0" / "001.png")]
    here = scored(fitted, given, tmp_path / "here", monkeypatch)
    assert len(json.loads(b"[" + here[""].replace(b"\n", b",") + b"]")) == 202
    assert here[""].count(b'"status":"error"') == 5
    assert sum(name.endswith(".tiff") for name in here) == 197
    assert sum(name.endswith(".png") for name in here) == 197
    assert block_of(fitted) == 64
    for engine in (Here(), Pickling(1), Pickling(3), Pickling(7)):
        there = scored(
            fitted, given, tmp_path / f"there{engine.workers}{engine.name}{id(engine)}", monkeypatch, engine=engine
        )
        assert differing(here, there) == []


def test_worker_processes_give_the_same_bytes(fitted, images, tmp_path, monkeypatch):
    from uadctl.engines.processes import Processes

    given = [str(images / "0"), str(images / "3")]
    here = scored(fitted, given, tmp_path / "here", monkeypatch)
    there = scored(fitted, given, tmp_path / "there", monkeypatch, engine=Processes(2))
    assert differing(here, there) == []
    assert len(here) > 180


def test_a_ray_cluster_gives_the_same_bytes(fitted, images, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    from uadctl.engines.cluster import OnRay

    given = [str(images / "0"), str(images / "3")]
    here = scored(fitted, given, tmp_path / "here", monkeypatch)
    engine = OnRay(address="local", workers=2, cpus=1, gpus=0)
    assert differing(here, scored(fitted, given, tmp_path / "there", monkeypatch, engine=engine)) == []


def test_images_in_tiles_and_a_camera_with_areas_too(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    mask = np.zeros((80, 80), np.uint8)
    mask[10:20, 30:40] = 255
    parts.write(folder / "ignore.png", mask)
    parts.write(folder / "flat.png", np.full((80, 80, 3), 200, np.uint8))
    for i in range(20):
        parts.write(tmp_path / "new" / f"{i:02}.png", parts.surface(i, 80, 80))
    run = fitted_run(folder, CAMERA + "[tiling]\nsize = 48\nstride = 32\n", train=3, size=(80, 80))
    fitted = load_run(run, device="cpu")
    assert fitted.camera.state()[0].keys() >= {"ignore.0", "flat_field.0.gain"}
    assert block_of(fitted) == 8
    given = [str(tmp_path / "new")]
    here = scored(fitted, given, tmp_path / "here", monkeypatch)
    there = scored(fitted, given, tmp_path / "there", monkeypatch, engine=Pickling(2))
    assert differing(here, there) == []
    assert sum(name.endswith(".tiff") for name in there) == 20


def in_another_process(pickled: bytes) -> Any:
    """A job that takes this process for another one than where it was made."""
    job = pickle.loads(pickled)
    return replace(job, place=replace(job.place, process=-1))


def test_paths_named_from_the_working_folder_stand_in_lines_as_named(fitted, images, tmp_path, monkeypatch):
    out = tmp_path / "work"
    parts.write(out / "in" / "a.png", parts.surface(1))
    (out / "in" / "b.png").write_bytes(b"no image")
    monkeypatch.chdir(out)

    def elsewhere(job: bytes) -> Shell:
        monkeypatch.chdir(tmp_path)  # as a worker whose working folder is another one
        return Shell(in_another_process(job))

    lines = score(fitted, ["in", "in/gone.png"], maps="maps", threads=1, engine=Pickling(1, shell=elsewhere))
    told = [(line.path, line.status, line.map, line.reason) for line in lines]
    monkeypatch.chdir(out)
    here = score(fitted, ["in", "in/gone.png"], maps="maps", threads=1)
    assert told == [(line.path, line.status, line.map, line.reason) for line in here]
    assert [path for path, *_ in told] == ["in/a.png", "in/b.png", "in/gone.png"]
    assert (told[0][2], (out / "maps/a.tiff").is_file()) == ("maps/a.tiff", True)


class Batches:
    """A detector whose scores are the sizes of their batches."""

    images_per_batch = 4
    own_resizing = None
    stride = 1

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict_batch(self, images):
        self.sizes.append(len(images))
        return [Prediction(float(len(images)), None) for _ in images]


@pytest.mark.parametrize(
    ("block", "broken", "sizes"),
    [
        (None, (), [4, 4, 4, 4, 3]),
        (8, (), [4, 4, 4, 4, 3]),
        (6, (), [4, 2, 4, 2, 4, 2, 1]),
        (None, (0, 5), [4, 4, 4, 4, 1]),
        (8, (0, 5), [4, 2, 4, 4, 3]),
        (8, (7, 8, 15), [4, 3, 4, 2, 3]),
        (8, (0, 1, 2, 3, 4, 5, 6, 7), [4, 4, 3]),
        (1, (), [1] * 19),
    ],
)
def test_no_batch_crosses_a_block(tmp_path, block, broken, sizes):
    image = np.zeros((8, 8, 3), np.uint8)
    sources = [str(tmp_path / "gone.png") if i in broken else image for i in range(19)]
    detector = Batches()
    found = list(stream(detector, sources, intake=Intake(geometry=Geometry(size=None)), block=block))
    assert [item.index for item in found] == list(range(19))
    assert [item.index for item in found if item.error is not None] == list(broken)
    assert detector.sizes == sizes
    if block is not None:  # each block by itself is the same
        alone = Batches()
        for start in range(0, 19, block):
            list(stream(alone, sources[start : start + block], intake=Intake(geometry=Geometry(size=None))))
        assert alone.sizes == sizes


@pytest.mark.parametrize(
    ("batch", "block"), [(1, 64), (4, 64), (16, 64), (24, 72), (48, 96), (64, 64), (100, 100), (256, 256)]
)
def test_blocks_are_of_whole_batches(fitted, batch, block):
    detector = Batches()
    detector.images_per_batch = batch
    assert block_of(replace(fitted, detector=detector)) == block


def test_lines_of_this_process_have_the_batches_of_blocks(fitted, images):
    """Where the first block lacks two images, those of the next do not move up."""
    detector = Batches()
    sources = score_module.find_sources([str(images)])
    lines = [line for line, _ in score_module.judged(replace(fitted, detector=detector), sources)]
    assert len(lines) == 200
    assert detector.sizes == [4] * 15 + [2] + [4] * 15 + [3] + [4] * 16 + [4, 3]


def test_a_carried_model_is_plain_data(fitted):
    carried = Carried.of(fitted)
    raw = pickle.dumps(carried, pickle.HIGHEST_PROTOCOL)
    names = set()

    class Reading(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            names.add(f"{module}.{name}")
            return super().find_class(module, name)

    Reading(io.BytesIO(raw)).load()
    assert {name for name in names if not name.startswith("numpy.")} == {
        "uadctl.runs.fitted.Carried",
        "uadctl.runs.fitted.Flat",
    }
    again = pickle.loads(raw).rebuild(device="cpu")
    tensors, facts = fitted.detector.state()
    tensors_again, facts_again = again.detector.state()
    assert facts_again == facts
    assert {n: (t.dtype, t.shape, t.numpy().tobytes()) for n, t in tensors.items()} == {
        n: (t.dtype, t.shape, t.numpy().tobytes()) for n, t in tensors_again.items()
    }
    assert (again.calibration, again.geometry, again.camera, again.params) == (
        fitted.calibration,
        fitted.geometry,
        fitted.camera,
        fitted.params,
    )


def test_a_carried_tensor_has_its_type_and_shape_and_memory_of_its_own():
    import torch

    from uadctl.runs.fitted import Flat

    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    cases = [base, base.T, base[:, 1:3], base.to(torch.bfloat16), base > 3, torch.tensor(2.5, dtype=torch.float64)]
    for tensor in [*cases, torch.empty((0, 4), dtype=torch.int64)]:
        flat = Flat.of(tensor)
        flat.data.flags.writeable = False  # as what lies in Ray's store
        again = flat.tensor()
        assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(again, tensor)
        again.zero_()
        assert torch.equal(flat.tensor(), tensor)


def test_images_of_a_lost_block_are_errors_and_the_others_have_their_scores(fitted, images, tmp_path, monkeypatch):
    given = [str(images)]
    here = scored(fitted, given, tmp_path / "here", monkeypatch, threshold=5.0)[""].splitlines()
    progress = Told()
    # As of a worker that was killed in the middle of its block.
    for folder, name in (("maps", "100.tiff"), ("masks", "100.png")):
        early = tmp_path / "there" / folder / "2" / name
        early.parent.mkdir(parents=True)
        early.write_bytes(b"half of the work")
    engine = Pickling(2, lost={"images 65 to 128": ATTEMPTS, "images 129 to 192": ATTEMPTS - 1})
    there = scored(fitted, given, tmp_path / "there", monkeypatch, engine=engine, progress=progress, threshold=5.0)
    lines = there[""].splitlines()
    assert len(lines) == len(here) == 200
    assert [i for i, (a, b) in enumerate(zip(here, lines, strict=True)) if a != b] == list(range(64, 128))
    reason = "was not judged: given up, since its worker ended 3 times: was killed"
    for before, line in zip(here[64:128], lines[64:128], strict=True):
        found, wanted = json.loads(line), json.loads(before)
        assert (found["path"], found["threshold"]) == (wanted["path"], 5.0)
        assert (found["status"], found["score"], found["verdict"], found["map"]) == ("error", None, None, None)
        assert found["reason"] == reason
    kept = {Path(name).stem for name in there if name.endswith((".tiff", ".png"))}
    assert not kept & {f"{i:03}" for i in range(64, 128)}
    assert len(kept) == 200 - 64 - 3
    coco = json.loads(there["coco.json"])
    assert len(coco["images"]) == 200 - 64 - 3  # of the four that are broken one was in the block
    (warned,) = [w for w in progress.warnings if "images 65 to 128: given up" in w]
    assert warned.splitlines()[0] == "images 65 to 128: given up, since its worker ended 3 times: was killed"
    assert warned.splitlines()[-1] == "Fatal: the last word"
    assert len(warned.splitlines()) == 21
    assert sum("begun again" in w for w in progress.warnings) == 4
    assert progress.advanced == 200
    assert [bar for bar in progress.bars if bar[0] == "score"] == [("score", 200)]


def test_one_bar_over_the_images_and_each_warning_once(fitted, images, monkeypatch):
    def judged(fitted, sources, *, progress, **options):
        progress.warn("half as many at a time")
        progress.warn(f"of {len(sources)}")
        for source in sources:
            yield score_module.error_line(fitted, source.path, "made up"), None

    monkeypatch.setattr(score_module, "judged", judged)
    progress = Told()
    lines = list(score(fitted, [str(images)], threads=1, progress=progress, engine=Pickling(2)))
    assert len(lines) == 200
    assert progress.warnings == ["half as many at a time", "of 64", "of 8"]
    assert (progress.bars, progress.advanced) == ([("score", 200)], 200)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("a bug"), RuntimeError, "a bug"),
        (DiskError("maps/a.tiff", 28), DiskError, "maps/a.tiff: cannot be written: No space left on device"),
    ],
)
def test_a_bug_and_a_full_disk_end_all_of_it(fitted, images, monkeypatch, error, kind, text):
    first = str(images / "0" / "000.png")

    def judged(fitted, sources, **options):
        for source in sources:
            if source.path == first and len(sources) < 64:
                raise error
            yield score_module.error_line(fitted, source.path, "made up"), None

    monkeypatch.setattr(score_module, "judged", judged)
    engine = Pickling(2)
    lines = []
    with pytest.raises(kind) as raised:
        lines.extend(score(fitted, [str(images), first], threads=1, engine=engine))
    assert str(raised.value) == text
    assert len(lines) == 192
    assert engine.crew.closed


def test_workers_end_when_nobody_wants_more_lines(fitted, images):
    engine = Pickling(2)
    lines = score(fitted, [str(images)], threads=1, engine=engine)
    assert next(lines).status == "ok"
    assert not engine.crew.closed
    lines.close()
    assert engine.crew.closed


def test_a_worker_must_find_the_same_folders(fitted, images, tmp_path, monkeypatch):
    """As on a node of a cluster that has no part in the storage."""
    monkeypatch.setattr("uadctl.runs.folder._SHARED_S", 0.2)
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    monkeypatch.chdir(tmp_path)
    image = str(images / "0" / "000.png")

    def refused(before, given: list[str], **options: Any) -> tuple[str, str | None]:
        def elsewhere(job: bytes) -> Shell:
            before()
            return Shell(in_another_process(job))

        with pytest.raises(RunError) as raised:
            list(score(fitted, given, threads=1, engine=Pickling(1, shell=elsewhere), **options))
        return str(raised.value), raised.value.help

    def empty() -> None:
        for file in tmp_path.glob("*/.score.*"):
            file.unlink()

    for option in ("maps", "masks"):
        assert refused(empty, [image], **{option: "out"}) == (
            "out: is not there, or another one, on node7",
            sharing.OUTPUTS,
        )
    parts.write(tmp_path / "new" / "a.png", parts.surface(1))
    assert refused(lambda: (tmp_path / "new").rename(tmp_path / "old"), [image, "new"]) == (
        "new: is not there, or another one, on node7",
        sharing.DATA,
    )
    gone = tmp_path / "gone"
    parts.write(gone / "new" / "a.png", parts.surface(1))
    monkeypatch.chdir(gone)
    assert refused(lambda: gone.rename(tmp_path / "moved"), ["new"]) == (
        f"new: is relative to {gone}, which is not there on node7",
        "Give absolute paths, on storage that all nodes share. See docs/scaling.md.",
    )


def test_nothing_is_left_in_folders_of_outputs(fitted, images, tmp_path):
    list(score(fitted, [str(images / "0" / "000.png")], threads=1, maps=str(tmp_path / "m"), engine=Pickling(1)))
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["000.tiff"]


def test_a_folder_that_cannot_be_written_is_an_error_of_each_image_as_here(fitted, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    given = [str(images / "0" / "000.png")]
    (here,) = score(fitted, given, threads=1, maps="file/maps")
    (there,) = score(fitted, given, threads=1, maps="file/maps", engine=Pickling(1))
    assert here == there
    assert there.reason == "file/maps/000.tiff: cannot be written: Not a directory"


def test_the_command_with_workers(uadctl, run, images, tmp_path):
    words = ("score", run, images, tmp_path / "gone.png", "--json", "--threshold", 5)
    alone = uadctl(*words, "--maps", "one", code=1)
    several = uadctl(*words, "--maps", "two", "--workers", 2, code=1)
    assert several.out.replace('"two/', '"one/') == alone.out
    assert len(alone.lines) == 201
    assert uadctl(
        "score", run, images / "0", "--quiet", "--fail-on-anomaly", "--threshold=-1", "--engine", "local", code=1
    )


def test_only_options_choose_the_engine_of_score(uadctl, run, images, monkeypatch):
    tables = []

    def choose_engine(table):
        tables.append((table.engine, table.workers, table.address, table.threads, table.cpus, table.device))
        return Here()

    devices = []

    def judged(fitted, images, *, device, engine, **options):
        devices.append((device, type(engine)))
        return iter(())

    monkeypatch.setattr("uadctl.engines.choose_engine", choose_engine)
    monkeypatch.setattr("uadctl.score.score", judged)
    image = images / "0" / "000.png"
    uadctl("score", run, image)
    uadctl("score", run, image, "--workers", 3)
    uadctl("score", run, image, "--engine", "ray")
    uadctl(
        "score", run, image, "--engine", "ray", "--address", "ray://head:10001", "--workers", 8, "--device", "cuda:1"
    )
    assert tables == [
        ("local", None, None, 1, None, "cpu"),
        ("local", 3, None, 1, None, "cpu"),
        ("ray", None, None, 1, None, "cpu"),
        ("ray", 8, "ray://head:10001", 1, None, "cuda:1"),
    ]
    assert devices == [("cpu", Here), ("cpu", Here), ("cpu", Here), ("cuda", Here)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--watch", "new", "--engine", "ray"],
            "error: --engine ray: hands out images that are known beforehand, and with --watch they come one by one\n",
        ),
        (
            ["--stdin", "--workers", "2"],
            "error: --workers 2: hands out images that are known beforehand, and with --stdin they come one by one\n",
        ),
        (["new", "--workers", "0"], "error: --workers 0: expected an integer >= 1\n"),
        (
            ["new", "--address", "auto"],
            "error: --address auto: has no effect without --engine ray\n  Give --engine ray as well.\n",
        ),
        (
            ["new", "--address", "auto", "--engine", "local"],
            "error: --address auto: has no effect without --engine ray\n  Give --engine ray as well.\n",
        ),
        (
            ["new", "--address", "head", "--engine", "ray"],
            'error: --address head: expected "auto", "local", "ray://HOST:PORT" or "HOST:PORT"\n  auto is the cluster of this machine, or that of $RAY_ADDRESS.\n',
        ),
    ],
)
def test_engines_that_cannot_be(uadctl, words, text):
    """Said before the run is looked for."""
    ended = uadctl("score", "no-such-run", *words, code=2)
    assert ended.err == text


def test_the_device_asked_for_is_that_of_the_workers(fitted, images):
    image = str(images / "0" / "000.png")
    with pytest.raises(SpecError) as raised:
        list(score(fitted, [image], threads=1, engine=Pickling(1), device="tpu"))
    assert str(raised.value) == 'device "tpu": no such device'
