"""The greedy coreset against anomalib's and against a plain loop, on the same points."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import WIDE, write_patches
from benchmarks.measure import Contender, Measured, Section, Table, Target, at_least, compare, number, table

_N, _DIM, _RATIO = 163_856, 1024, 0.1
_ROUNDS = {"anomalib": 60, "plain loop": 400}  # of 16,385


def ours(*, file: str, centers: int, projection_dim: int, save: str = "") -> Callable[[], Any]:
    """greedy_coreset, with what it does by itself: checking, projecting, centring."""
    from uadctl.memory import greedy_coreset

    points = np.load(file)
    greedy_coreset(points[:100], 10)

    def work() -> list[float]:
        chosen = greedy_coreset(points, centers, projection_dim=projection_dim)
        if save:
            np.save(save, chosen)
        return [len(set(chosen.tolist()))]

    return work


def anomalib(*, file: str, rounds: int, centers: int, project: bool) -> Callable[[], Any]:
    """Rounds of anomalib's KCenterGreedy. Its projection is made while it gets ready, and not counted."""
    import torch
    from anomalib.models.components.sampling import KCenterGreedy

    points = torch.from_numpy(np.load(file))
    sampler = KCenterGreedy(embedding=points, sampling_ratio=centers / len(points))
    if project:
        sampler.model.fit(points)
        sampler.features = sampler.model.transform(points)
    else:
        sampler.features = points
    index = torch.tensor(0)

    def one(index: torch.Tensor) -> torch.Tensor:
        # The body of the loop in `select_coreset_idxs`, through the class's own methods.
        sampler.update_distances(cluster_center=index)
        index = sampler.get_new_idx()
        sampler.min_distances.scatter_(0, index.unsqueeze(0).unsqueeze(1), 0.0)
        return index

    for _ in range(3):
        index = one(index)

    def work() -> int:
        nonlocal index
        for _ in range(rounds):
            index = one(index)
        return int(sampler.features.shape[1])

    return work


def plain(*, file: str, rounds: int, save: str = "") -> Callable[[], Any]:
    """The textbook's loop: one matrix-vector product a round, all of it in place."""
    import torch

    points = torch.from_numpy(np.load(file))
    points -= points.mean(dim=0)
    norms = (points * points).sum(dim=1)
    nearest = torch.full((len(points),), float("inf"))
    distance = torch.empty_like(nearest)
    first = int(np.random.default_rng(0).integers(len(points)))

    def work() -> int:
        index, chosen = first, [first]
        for _ in range(rounds - 1):
            torch.addmv(norms, points, points[index], alpha=-2, out=distance)
            distance.add_(norms[index])
            torch.minimum(nearest, distance, out=nearest)
            nearest[chosen[-1]] = -1
            index = int(nearest.argmax())
            chosen.append(index)
        if save:
            np.save(save, np.asarray(chosen))
        return len(set(chosen))

    return work


def stored(*, n: int, dim: int, memory: int, centers: int) -> Callable[[], Any]:
    """greedy_coreset over features that come in batches, as while fitting, with so many bytes of memory for them."""
    import torch

    from uadctl.memory import FeatureStore, greedy_coreset

    generator = torch.Generator().manual_seed(0)

    def work() -> list[str]:
        with FeatureStore(memory=memory) as store:
            while len(store) < n:
                store.append(torch.randn((min(16_384, n - len(store)), dim), generator=generator))
            chosen = greedy_coreset(store, centers)
            return [hashlib.sha256(chosen.tobytes()).hexdigest(), "disk" if store.on_disk else "memory"]

    return work


def radius(points: np.ndarray, chosen: np.ndarray) -> float:
    """The largest distance of a point to the nearest chosen one."""
    from uadctl.memory import make_index

    distance, _ = make_index().fit(points[chosen]).kneighbors(points, 1)
    return float(distance.max())


@contextmanager
def _points(*, quick: bool) -> Iterator[tuple[Path, str, int, int]]:
    """A folder, the file of points in it, how many centres to choose, and the columns."""
    with tempfile.TemporaryDirectory(prefix="uadctl-coreset-") as name:
        folder = Path(name)
        backbone, n, dim, side = ("efficientnet_lite0", 2000, 152, 96) if quick else ("wide_resnet50_2", _N, _DIM, 224)
        file, _ = write_patches(folder, backbone=backbone, points=n, queries=10, dim=dim, side=side)
        yield folder, file, max(1, round(_RATIO * n)), dim


def _saved(folder: Path, file: str, columns: int) -> str:
    """The points, projected as greedy_coreset projects them."""
    import torch

    from uadctl.memory.coreset import project

    points = torch.from_numpy(np.load(file))
    out = folder / f"{columns}.npy"
    np.save(out, project(points, columns, seed=0).numpy())
    return str(out)


def sections(*, quick: bool, full: bool = False) -> list[Section]:
    """full: the plain loop to its end."""
    rounds = {"anomalib": 5, "plain loop": 100} if quick else _ROUNDS
    repeats = 1 if quick else 3
    with _points(quick=quick) as (folder, file, centers, dim):
        narrow = _saved(folder, file, 32 if quick else 128)
        wide = _saved(folder, file, 64 if quick else 296)
        found = [
            _against_anomalib(file, centers, repeats, rounds["anomalib"], dim=dim),
            _against_a_loop(folder, narrow, centers, repeats, centers if full else rounds["plain loop"]),
            _in_its_dimensions(wide, centers, repeats, rounds["anomalib"]),
        ]
        n = len(np.load(file, mmap_mode="r"))
    found.append(_beyond_memory(quick=quick))
    text = f"{n:,} patch features {WIDE}; 10 %, {centers:,}, are chosen." if not quick else f"{n:,} patch features."
    return [Section(title="Greedy coreset", text=text), *found]


def _slice(rounds: int, centers: int) -> dict[str, Any]:
    return {"scale": centers / rounds, "share": f"{rounds:,} of {centers:,} rounds"} if rounds < centers else {}


def _against_anomalib(file: str, centers: int, repeats: int, rounds: int, *, dim: int) -> Section:
    measured = compare(
        [
            Contender("uadctl, projection to 128", "benchmarks.coreset:ours", _ours(file, centers, 128)),
            _anomalib(file, centers, rounds, project=True),
        ],
        repeats=repeats,
    )
    mine, peer = measured
    return Section(
        title="Each with its own projection",
        text=f"uadctl projects {dim} columns to 128 (Gaussian) and that is counted; anomalib projects to as many as "
        f"scikit-learn's SparseRandomProjection(eps=0.9) asks for ({peer.value}), and that is not counted.",
        tables=(table(measured, ours=mine),),
        targets=(at_least("CPU of anomalib / uadctl", peer, mine, 150),),
        measured=tuple(measured),
    )


def _anomalib(file: str, centers: int, rounds: int, *, project: bool) -> Contender:
    return Contender(
        "anomalib KCenterGreedy",
        "benchmarks.coreset:anomalib",
        {"file": file, "rounds": rounds, "centers": centers, "project": project},
        **_slice(rounds, centers),
    )


def _ours(file: str, centers: int, projection_dim: int, save: str = "") -> dict[str, Any]:
    return {"file": file, "centers": centers, "projection_dim": projection_dim, "save": save}


def _against_a_loop(folder: Path, file: str, centers: int, repeats: int, rounds: int) -> Section:
    chosen = {"uadctl": str(folder / "ours.npy"), "loop": str(folder / "loop.npy")}
    measured = compare(
        [
            Contender("uadctl", "benchmarks.coreset:ours", _ours(file, centers, 0, chosen["uadctl"])),
            Contender(
                "plain loop, a matrix–vector product a round",
                "benchmarks.coreset:plain",
                {"file": file, "rounds": rounds, "save": chosen["loop"]},
                repeats=1 if rounds == centers else None,
                **_slice(rounds, centers),
            ),
        ],
        repeats=repeats,
    )
    mine, peer = measured
    points = np.load(file)
    columns = points.shape[1]
    targets = [at_least("CPU of the loop / uadctl", peer, mine, 30)]
    tables = [table(measured, ours=mine)]
    if mine.runs and peer.runs:
        by_us, by_loop = (np.load(f)[:rounds] for f in chosen.values())
        radii = radius(points, by_us), radius(points, by_loop)
        lot = radius(points, np.sort(np.random.default_rng(0).choice(len(points), centers, replace=False)))
        all_of_ours = radius(points, np.load(chosen["uadctl"]))
        same = len(set(by_us.tolist()) & set(by_loop.tolist())) / len(by_loop)
        targets.append(
            Target(
                f"covering radius after {rounds:,} rounds, uadctl / loop",
                "within 0.1 %",
                f"{number(radii[0])} / {number(radii[1])} = {radii[0] / radii[1]:.5f}",
                abs(radii[0] / radii[1] - 1) <= 1e-3,
            )
        )
        tables.append(
            Table(
                ("", "covering radius"),
                (
                    (f"uadctl, {rounds:,} centres", number(radii[0])),
                    (f"loop, {rounds:,} centres ({100 * same:.1f} % of them the same)", number(radii[1])),
                    (f"uadctl, {centers:,} centres", number(all_of_ours)),
                    (f"{centers:,} points by lot", number(lot)),
                ),
            )
        )
    return Section(
        title=f"The same points in {columns} dimensions",
        tables=tuple(tables),
        targets=tuple(targets),
        notes=(_note(mine, len(points), centers, columns),) if mine.runs else (),
        measured=tuple(measured),
    )


def _note(mine: Measured, n: int, centers: int, columns: int) -> str:
    tera = 2 * n * centers * columns / 1e12
    speed = 1000 * tera / mine.cpu.median
    return (
        f"All distances between {n:,} points and {centers:,} centres in {columns} dimensions are {number(tera)} TFLOP; "
        f"uadctl does them at {number(speed)} GFLOP a second of CPU time, products, minima and choosing included. "
        "What is left above the machine's matrix product is the pass that takes the minima. Lower bounds on a few "
        "principal axes were tried in front of the products: they save half of the arithmetic and cost as much in "
        "picking the rest out (1.2 times faster on patches, 1.6 times slower on noise), so they are not used."
    )


def _in_its_dimensions(file: str, centers: int, repeats: int, rounds: int) -> Section:
    measured = compare(
        [
            Contender("uadctl", "benchmarks.coreset:ours", _ours(file, centers, 0)),
            _anomalib(file, centers, rounds, project=False),
        ],
        repeats=repeats,
    )
    columns = np.load(file, mmap_mode="r").shape[1]
    return Section(
        title=f"The same points in {columns} dimensions, for both",
        tables=(table(measured, ours=measured[0]),),
        measured=tuple(measured),
    )


def _beyond_memory(*, quick: bool) -> Section:
    n, dim, memory = (4_000, 64, 200_000) if quick else (600_000, 1024, 256_000_000)
    centers = n // 600
    whole = 4 * n * dim
    measured = compare(
        [
            Contender(title, "benchmarks.coreset:stored", {"n": n, "dim": dim, "memory": limit, "centers": centers})
            for title, limit in (
                (f"feature_memory = {number(memory / 1e6)} MB", memory),
                ("everything in memory", 4 * whole),
            )
        ],
        repeats=1,
    )
    disk, ram = measured
    targets = []
    if disk.runs and ram.runs:
        share = disk.extra.median / whole
        same = disk.value[0] == ram.value[0] and (disk.value[1], ram.value[1]) == ("disk", "memory")
        targets.append(Target("the same features are chosen", "yes", "yes" if same else "no", same))
        targets.append(
            Target("extra memory with the limit, of the bytes of all features", "≤ 1/2", f"{share:.2f}", share <= 0.5)
        )
    return Section(
        title="Features beyond memory",
        text=f"{n:,} × {dim:,} features, {number(whole / 1e9)} GB, come in batches; {centers:,} are chosen. With the "
        "limit they lie in a memory-mapped file, and so does their projection.",
        tables=(table(measured, ours=disk),),
        targets=tuple(targets),
        measured=tuple(measured),
    )
