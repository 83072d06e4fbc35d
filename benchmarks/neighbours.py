"""Nearest neighbours in a memory bank: what one image costs, against anomalib, scikit-learn and faiss."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import LITE, WIDE, write_patches
from benchmarks.measure import Contender, Measured, Section, Target, at_least, compare, table

_BANK, _PATCHES, _IMAGES, _B = 16_385, 784, 6, 9


def _save(file: str, distance: Any, index: Any) -> float:
    np.savez(file, distance=np.asarray(distance)[:, 0], index=np.asarray(index)[:, 0])
    return float(np.asarray(distance).sum())


def ours(
    *, bank: str, queries: str, save: str, patches: int, backend: str = "torch", options: dict[str, Any] | None = None
) -> Callable[[], Any]:
    """k = 1 for all patches of an image, k = 9 around the one that its worst patch has found."""
    import torch

    from uadctl.memory import make_index

    rows, asked = (torch.from_numpy(np.load(f)) for f in (bank, queries))
    index = make_index(backend, **options or {}).fit(rows)  # type: ignore[arg-type]
    index.kneighbors(asked[:2], 1)

    def work() -> float:
        found = []
        for start in range(0, len(asked), patches):
            distance, nearest = index.kneighbors(asked[start : start + patches], 1)
            worst = int(distance[:, 0].argmax())
            index.kneighbors(rows[nearest[worst]], _B)
            found.append((distance, nearest))
        return _save(save, *(torch.cat(part) for part in zip(*found, strict=True)))

    return work


def anomalib(*, bank: str, queries: str, save: str, patches: int) -> Callable[[], Any]:
    """`PatchcoreModel`'s own two searches of an image, as its `forward` and `compute_anomaly_score` call them."""
    import torch
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(layers=("layer1",), backbone="resnet18", pre_trained=False, num_neighbors=_B).eval()
    model.memory_bank = torch.from_numpy(np.load(bank))
    asked = torch.from_numpy(np.load(queries))
    model.nearest_neighbors(asked[:2], 1)

    def work() -> float:
        found = []
        with torch.inference_mode():
            for start in range(0, len(asked), patches):
                chunk = asked[start : start + patches]
                distance, nearest = model.nearest_neighbors(embedding=chunk, n_neighbors=1)
                worst = int(distance.argmax())
                model.nearest_neighbors(model.memory_bank[nearest[worst]][None], n_neighbors=_B)
                found.append((distance[:, None], nearest[:, None]))
        return _save(save, *(torch.cat(part) for part in zip(*found, strict=True)))

    return work


def sections(*, quick: bool) -> list[Section]:
    with tempfile.TemporaryDirectory(prefix="uadctl-neighbours-") as name:
        folder = Path(name)
        bank, patches, images = (300, 36, 2) if quick else (_BANK, _PATCHES, _IMAGES)
        lite = write_patches(
            folder,
            backbone="efficientnet_lite0",
            points=10 * bank,
            queries=patches * images,
            dim=152,
            side=96 if quick else 256,
        )
        found = [_section(folder, f"{bank:,} × 152", f"Features {LITE}.", *lite, bank, patches, quick=quick)]
        noise = _noise(folder, bank, patches * images, 64 if quick else 1024)
        if not quick:
            wide = write_patches(
                folder, backbone="wide_resnet50_2", points=10 * bank, queries=patches * images, dim=1024, side=224
            )
            found.insert(
                0, _section(folder, f"{bank:,} × 1,024", f"Features {WIDE}.", *wide, bank, patches, quick=quick)
            )
        text = "Independent Gaussian noise: no axis says more than another, so nothing can be ruled out early."
        found.append(
            _section(folder, f"{bank:,} rows of noise", text, *noise, bank, patches, quick=quick, target=False)
        )
    text = (
        f"An image: {patches} patches with their nearest row of the bank, and the {_B} rows around the one that the "
        "worst patch has found. The bank is a greedy coreset. Times are per image."
    )
    return [Section(title="Nearest neighbours", text=text), *found]


def _noise(folder: Path, bank: int, queries: int, dim: int) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    names = []
    for name, n in (("points", bank), ("queries", queries)):
        np.save(folder / f"noise-{name}.npy", rng.standard_normal((n, dim), dtype=np.float32))
        names.append(str(folder / f"noise-{name}.npy"))
    return names[0], names[1]


def _section(
    folder: Path,
    title: str,
    text: str,
    points: str,
    queries: str,
    rows: int,
    patches: int,
    *,
    quick: bool,
    target: bool = True,
) -> Section:
    from uadctl.memory import greedy_coreset
    from uadctl.memory.index import has_matrix_units

    every = np.load(points)
    if len(every) > rows:
        every = every[np.sort(greedy_coreset(every, rows))]
    bank = str(folder / "bank.npy")
    np.save(bank, every)
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "uadctl, torch": ("torch", {}),
        "uadctl, torch, bf16": ("torch", {"precision": "bf16"}),
        "uadctl, numpy": ("numpy", {}),
        "scikit-learn, brute force": ("sklearn", {}),
        "faiss, IndexFlatL2": ("faiss", {}),
        "faiss, IVF and PQ, re-ranked": ("faiss", {"faiss_index": "ivfpq"}),
    }
    args = {"bank": bank, "queries": queries, "patches": patches}
    saved = {title: str(folder / f"{i}.npz") for i, title in enumerate(["anomalib", *kinds])}
    measured = compare(
        [
            *(
                Contender(
                    kind,
                    "benchmarks.neighbours:ours",
                    {**args, "save": saved[kind], "backend": backend, "options": options},
                )
                for kind, (backend, options) in kinds.items()
            ),
            Contender("anomalib", "benchmarks.neighbours:anomalib", {**args, "save": saved["anomalib"]}),
        ],
        repeats=1 if quick else 3,
    )
    asked = np.load(queries)
    true = _true(every, asked)

    def equal(m: Measured) -> str:
        with np.load(saved[m.contender.title]) as found:
            # The same distance to a part in 100,000: among equally near rows any may be named.
            right = np.abs(found["distance"] - true) <= 1e-5 * np.maximum(true, np.linalg.norm(asked, axis=1))
        return f"{100 * right.mean():.2f} %"

    mine, peer = measured[0], measured[-1]
    wanted = 3.0 if has_matrix_units("cpu") else 1.15
    targets: tuple[Target, ...] = ()
    if target:
        found = equal(mine) if mine.runs else mine.reason
        targets = (
            at_least(f"CPU of anomalib / uadctl, {title}", peer, mine, wanted),
            Target(f"equal neighbours, {title}", "100 %", found, found == "100.00 %"),
        )
    return Section(
        title=title,
        text=text,
        tables=(
            table(
                measured,
                ours=mine,
                per=len(asked) / patches / 1000,
                unit="ms",
                columns={"nearest as in float64": equal},
            ),
        ),
        targets=targets,
        measured=tuple(measured),
    )


def _true(bank: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(m,) the distance of each query to its nearest row, in float64."""
    import torch

    rows = torch.from_numpy(bank).double()
    asked = torch.from_numpy(queries).double()
    nearest = [torch.cdist(asked[i : i + 128], rows).amin(dim=1) for i in range(0, len(asked), 128)]
    return torch.cat(nearest).numpy()
