"""The engines beside each other: a bench and a scoring by local workers and on Ray, and what a unit costs by itself."""

from __future__ import annotations

import hashlib
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Contender, Measured, Run, Section, Table, Target, at_most, compare, number

if TYPE_CHECKING:
    from uadctl.engines import Engine, Work
    from uadctl.progress import Progress

_WORKERS = (1, 2, 4)
_PAIR = 2  # so many workers are compared: as many as there are cores
_SLACK = 1.15  # Ray's wall time, of that of local workers
_ENGINES = ("local", "ray")
_IN_WORDS = {"local": "local", "ray": "Ray"}


def sections(*, quick: bool) -> list[Section]:
    workers = [1, 2] if quick else list(_WORKERS)
    args: dict[str, Any] = {
        "units": 2 if quick else 8,
        "size": 64 if quick else 128,
        "images": 40 if quick else 5_000,
        "rounds": 1 if quick else 3,
        "dummies": 20 if quick else 2_000,
        "workers": workers,
    }
    (whole,) = compare([Contender("engines", "benchmarks.engines:in_turns", args)], repeats=1, threads=1)
    if not whole.runs:
        return [Section(title="Engines", measured=(whole,))]
    found = whole.value
    text = (
        f"The same work by worker processes of one machine (`--workers N`) and by actors of a Ray cluster on it "
        f"(`--engine ray --workers N`), each worker with one thread, in one process and in turns, {args['rounds']} "
        f"{'round' if args['rounds'] == 1 else 'rounds'} with {_PAIR} workers: a bench of {args['units']} units "
        f"(PatchCore on the demo set, {args['size']}×{args['size']}, features not shared), and the scoring of "
        f"{args['images']:,} images in a folder with one of its models. Wall time from the call to its end: starting "
        "the workers, importing torch in them and loading the model is in it. Starting the cluster is not: it took "
        f"{number(found['cluster_s'])} s."
    )
    walls = {
        (what, name, n): _of(found, what, name, n) for what in ("bench", "score") for name in _ENGINES for n in workers
    }
    return [
        Section(
            title="Engines",
            text=text,
            tables=(_times(walls, workers, args), _costs(found, workers)),
            targets=(*_targets(walls, args), _same(found)),
            notes=_notes(found, walls, workers, args),
            measured=(whole,),
        )
    ]


def _of(found: dict[str, Any], what: str, name: str, workers: int) -> Measured:
    """The rounds of one engine, as if measured by themselves: wall time stands for all that it took."""
    runs = tuple(Run(wall, wall, 0, 0) for wall in found[what].get(f"{name} {workers}", ()))
    return Measured(Contender(f"{_IN_WORDS[name]}, {workers}", "benchmarks.engines:in_turns"), runs)


def _targets(walls: dict[tuple[str, str, int], Measured], args: dict[str, Any]) -> Iterator[Target]:
    for what, title in (
        ("bench", f"bench of {args['units']} units"),
        ("score", f"scoring of {args['images']:,} images"),
    ):
        ray, local = walls[what, "ray", _PAIR], walls[what, "local", _PAIR]
        yield at_most(f"wall time of Ray / local, {_PAIR} workers, {title}", ray, local, _SLACK, quantity="wall_s")


def _same(found: dict[str, Any]) -> Target:
    """Whether all engines gave the same bytes."""
    kinds = {what: len(set(found["digests"][what])) for what in ("bench", "score")}
    said = "yes" if set(kinds.values()) == {1} else "no"
    return Target("metrics.json, scores.csv and lines are the same bytes", "yes", said, said == "yes")


def _times(walls: dict[tuple[str, str, int], Measured], workers: Sequence[int], args: dict[str, Any]) -> Table:
    rows = []
    for what, unit, many in (("bench", "s a unit", args["units"]), ("score", "images a second", args["images"])):
        for n in workers:
            ours, peer = walls[what, "ray", n], walls[what, "local", n]
            ratio = ours.over(peer, "wall_s")
            for name in _ENGINES:
                m = walls[what, name, n]
                wall = m.wall.median
                rate = number(wall / many) if what == "bench" else number(many / wall)
                relative = "1" if name == "local" or ratio is None else ratio.text()
                growth = number(walls[what, name, workers[0]].wall.median / wall)
                rows.append((f"{what}, {m.title}", m.wall.text(), f"{rate} {unit}", growth, relative))
    head = ("workers", "wall s [min–max]", "rate", "times one worker's speed", "wall, times local")
    return Table(head, tuple(rows))


def _costs(found: dict[str, Any], workers: Sequence[int]) -> Table:
    rows = [("in this process", "", number(1000 * found["dummy"]["here 1"]))]
    rows += [
        (
            f"{_IN_WORDS[name]}, {n}",
            number(found["start_s"][f"{name} {n}"]),
            number(1000 * found["dummy"][f"{name} {n}"]),
        )
        for name in _ENGINES
        for n in workers
    ]
    caption = "Units that do nothing: what handing out and taking back costs. Starting: until the first result."
    return Table(("workers", "starting, s", "ms a unit"), tuple(rows), caption=caption)


def _notes(
    found: dict[str, Any], walls: dict[tuple[str, str, int], Measured], workers: Sequence[int], args: dict[str, Any]
) -> tuple[str, ...]:
    most = max(workers)
    per_unit = found["dummy"][f"ray {most}"]
    rate = args["images"] / walls["score", "local", 1].wall.median
    block = found["block"] / rate
    return (
        f"A block of {found['block']} images takes a worker {number(block)} s here, and the driver's own part of a "
        f"unit is at most the {number(1000 * per_unit)} ms of the table: computed from that, and not measured, one "
        f"driver keeps {int(block / per_unit):,} such workers busy. Two cores cannot show more than two workers' "
        "speed; what four workers cost on them is what is lost by too many.",
        f"Between driver and workers: a block comes back as {number(found['bytes_line'])} bytes an image, its paths go "
        f"out as {number(found['bytes_path'])}; the model is {number(found['bytes_model'] / 1e6)} MB, once a node.",
    )


# ---- what runs in the measured process


@dataclass(frozen=True)
class Idle:
    """A job whose units do nothing."""

    threads: int = 1

    def open(self) -> Work[int, int]:
        return _nothing


def _nothing(payload: int, progress: Progress) -> int:
    return payload


def in_turns(
    *, units: int, size: int, images: int, rounds: int, dummies: int, workers: Sequence[int]
) -> Callable[[], dict[str, Any]]:
    """All engines in turns; see `sections` for what comes back."""
    from uadctl.bench import bench
    from uadctl.datasets import prepare_dataset
    from uadctl.engines import Here, Unit
    from uadctl.engines.connecting import connected
    from uadctl.fit import fit
    from uadctl.progress import Silent
    from uadctl.runs.fitted import Carried
    from uadctl.runs.loading import load_run
    from uadctl.score import block_of, score
    from uadctl.spec import Overrides, read_spec

    prepare_dataset("demo", None, progress=Silent())
    began = time.perf_counter()
    stack = ExitStack()
    stack.enter_context(connected("local", max(workers), 1.0))
    cluster_s = time.perf_counter() - began
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uadctl-engines-")))
    seeds = list(range(max(1, units // 2)))
    spec = read_spec(
        None,
        Overrides(
            dataset="demo",
            categories=("brushed_metal", "woven_fabric"),
            model="vision_patchcore",
            device="cpu",
            run_dir=str(folder / "runs"),
            set=(f"run.seeds={seeds}", "run.threads=1", 'run.feature_cache="0MB"', f"preprocess.size={size}"),
        ),
    ).spec
    fitted = load_run(str(fit(_with(spec, seeds=None, seed=0, categories=("brushed_metal",))).run.path), device="cpu")
    pictures = _pictures(folder / "images", images)

    def benched(name: str, n: int) -> tuple[float, str]:
        start = time.perf_counter()
        result = bench(_with(spec, engine=name, workers=n, address=None))
        wall = time.perf_counter() - start
        if result.failed:
            raise RuntimeError(f"{name}: {len(result.failed)} units failed")
        return wall, _digest(result.run.path)

    def scored(name: str, n: int) -> tuple[float, str]:
        start = time.perf_counter()
        lines = list(score(fitted, [str(pictures)], threads=1, engine=_engine(name, n)))
        wall = time.perf_counter() - start
        if len(lines) != images or any(line.status != "ok" for line in lines):
            raise RuntimeError(f"{name}: not all of {images} images have a score")
        return wall, hashlib.sha256(repr(lines).encode()).hexdigest()

    def idle(run: Engine) -> tuple[float, float]:
        """Seconds until the first result, and for each further unit."""
        todo = [Unit(i, str(i)) for i in range(dummies)]
        began = time.perf_counter()
        first = began
        for count, outcome in enumerate(run.map(Idle(), todo, progress=Silent())):
            if outcome.error is not None:
                raise outcome.error
            if count == 0:
                first = time.perf_counter()
        return first - began, (time.perf_counter() - first) / max(1, dummies - 1)

    def work() -> dict[str, Any]:
        found: dict[str, Any] = {"cluster_s": cluster_s, "bench": {}, "score": {}, "dummy": {}, "start_s": {}}
        digests: dict[str, list[str]] = {"bench": [], "score": []}
        found["dummy"]["here 1"] = idle(Here())[1]
        for name in _ENGINES:
            for n in workers:
                started, each = idle(_engine(name, n))
                found["start_s"][f"{name} {n}"], found["dummy"][f"{name} {n}"] = started, each
        for what, do in (("bench", benched), ("score", scored)):
            for turn in range(rounds):
                for n in workers:
                    if turn and n != _PAIR:
                        continue
                    for name in _ENGINES if turn % 2 == 0 else _ENGINES[::-1]:
                        wall, digest = do(name, n)
                        found[what].setdefault(f"{name} {n}", []).append(wall)
                        digests[what].append(digest)
        found["digests"] = digests
        found["block"] = block_of(fitted)
        sample = list(islice(score(fitted, [str(pictures)], threads=1), 64))
        found["bytes_line"] = len(pickle.dumps(sample)) / len(sample)
        found["bytes_path"] = statistics.mean(len(os.fsencode(line.path)) for line in sample)
        found["bytes_model"] = len(pickle.dumps(Carried.of(fitted)))
        stack.close()
        return found

    return work


def _engine(name: str, workers: int) -> Engine:
    from uadctl.engines.cluster import OnRay
    from uadctl.engines.processes import Processes

    return OnRay(address=None, workers=workers, cpus=1, gpus=0.0) if name == "ray" else Processes(workers)


def _with(spec: Any, *, categories: tuple[str, ...] | None = None, **run: Any) -> Any:
    from msgspec.structs import replace

    changed = replace(spec, run=replace(spec.run, **run))
    if categories is None:
        return changed
    return replace(changed, dataset=replace(changed.dataset, categories=categories))


def _pictures(folder: Path, images: int) -> Path:
    """A folder of so many images: those of the demo set, again and again."""
    from uadctl.datasets import load_dataset

    tested = load_dataset("demo", None, category="brushed_metal").test
    folder.mkdir(parents=True)
    contents = [Path(sample.path).read_bytes() for sample in tested]
    for i in range(images):
        (folder / f"{i:05}.png").write_bytes(contents[i % len(contents)])
    return folder


def _digest(run: Path) -> str:
    """Of metrics.json and every scores.csv of a run."""
    files = [
        run / "metrics.json",
        *sorted(run.glob("units/*/*/*/metrics.json")),
        *sorted(run.glob("units/*/*/*/scores.csv")),
    ]
    seen = hashlib.sha256()
    for file in files:
        seen.update(f"{file.relative_to(run)}\0".encode() + file.read_bytes())
    return seen.hexdigest()
