"""Greedy k-center selection: a subset of the features that leaves none of them far from a kept one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from uadctl import heap
from uadctl.memory.store import FeatureStore
from uadctl.progress import Progress, Silent

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Candidates examined together. Larger pools need fewer passes over all points, but their distance matrix grows with the
# square; 2048 is the flat bottom of that curve for 50,000 to 500,000 points.
_POOL = 2048
# Distances computed by one matrix product: few enough to stay in the cache that they are written to until their minima
# are taken, enough that sharing them between threads costs little.
_DISTANCES = 2**19
# Rows centred at a time.
_CENTRED = 8192


def project(features: torch.Tensor, dim: int, *, seed: int) -> torch.Tensor:
    """Gaussian random projection to `dim` columns (Johnson-Lindenstrauss); none if `dim` is 0 or d and more.

    features: (n, d) float32. Returns (n, dim), distances kept in expectation. The matrix depends on d, dim and
    seed only, on every device.
    """
    import torch

    d = features.shape[1]
    if not 0 < dim < d:
        return features
    return features @ torch.from_numpy(_projection(d, dim, seed)).to(features.device)


@functools.lru_cache(maxsize=1)
def _projection(d: int, dim: int, seed: int) -> NDArray[np.float32]:
    matrix = np.random.default_rng([seed, d, dim]).standard_normal((d, dim), dtype=np.float32)
    matrix /= np.float32(dim**0.5)
    return matrix


def greedy_coreset(
    features: NDArray[np.float32] | torch.Tensor | FeatureStore,
    n_centers: int,
    *,
    projection_dim: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """Choose `n_centers` rows so that the largest distance of any row to its nearest chosen one is small.

    Farthest-point traversal (Gonzalez 1985; the "greedy coreset" of Roth et al. 2022, section 3.2, and of Sener &
    Savarese 2018): start with a row drawn by `seed`, then always take the row that is farthest from those taken. The
    covering radius is at most twice the best possible. The sequence is that of the plain loop, up to rounding between
    near-ties, but it is computed in blocks. A pool holds the points that are farthest now; all others are at most tau
    away. Distances never grow, so the pool's farthest point is the farthest of all as long as it is at least tau away:
    the loop runs inside the pool, on its own distance matrix. Then one matrix product updates all points for the whole
    block of new centres.

    features: (n, d) float32, finite; a torch tensor is worked on where it lies. Of a store that is on disk only blocks
        are ever in memory, and what is computed from it for each row: a few numbers, and its projection unless that is
        larger than the memory which the store was given; then it goes to disk too.
    n_centers: 1 to n.
    projection_dim: columns of the Gaussian random projection in which distances are measured; 0, or no fewer than d:
        none.
    Returns (n_centers,) int64 row numbers without repetition, in the order of choice. Raises ValueError.
    """
    import torch

    store = features if isinstance(features, FeatureStore) else _as_store(features)
    n = len(store)
    if not 1 <= n_centers <= n:
        raise ValueError(f"n_centers (={n_centers}) must lie in 1..{n}, the number of features")
    first = int(np.random.default_rng(seed).integers(n))
    with _prepared(store, projection_dim, seed=seed) as x:
        heap.give_back()
        device = x[:1].device
        norms = torch.cat([(block * block).sum(dim=1) for _, block in x.blocks()])
        # Squared distance to the nearest centre; -1 marks the centres themselves, so that none is taken twice.
        nearest = torch.full((n,), float("inf"), device=device)
        chosen = [first]
        _update(nearest, x, norms, np.array([first]))
        with (progress or Silent()).task("coreset", n_centers, unit="centres") as task:
            task.advance()
            while len(chosen) < n_centers:
                new = _block(nearest, x, norms, n_centers - len(chosen))
                if len(chosen) + len(new) < n_centers:
                    _update(nearest, x, norms, new)
                heap.give_back()  # the matrix of the pool, and what malloc would keep for the next
                chosen.extend(new.tolist())
                task.advance(len(new))
    return np.asarray(chosen, dtype=np.int64)


def random_coreset(n: int, n_centers: int, *, seed: int = 0) -> NDArray[np.int64]:
    """`n_centers` of n rows, each as likely as any other: (n_centers,) int64, ascending, without repetition.

    What a greedy coreset is measured against: at the same size its covering radius is larger. Raises ValueError.
    """
    if not 1 <= n_centers <= n:
        raise ValueError(f"n_centers (={n_centers}) must lie in 1..{n}, the number of features")
    return np.sort(np.random.default_rng(seed).choice(n, n_centers, replace=False)).astype(np.int64)


def _as_store(features: NDArray[np.float32] | torch.Tensor) -> FeatureStore:
    import torch

    x = torch.as_tensor(features, dtype=torch.float32)
    if x.ndim != 2 or not x.shape[0]:
        raise ValueError(f"features must be a non-empty (n, d) array, found shape {tuple(x.shape)}")
    store = FeatureStore(memory=4 * x.numel())
    store.append(x)
    return store


def _prepared(store: FeatureStore, dim: int, *, seed: int) -> FeatureStore:
    """The rows in which distances are measured: projected, and centred for smaller rounding errors in the products."""
    import torch

    total = torch.zeros(store.dim, dtype=torch.float64)
    for _, block in store.blocks():
        sums = block.sum(dim=0).cpu().double()  # of finite numbers only finite, unless they pass 1e38 themselves
        if not bool(torch.isfinite(sums).all()):
            raise ValueError("features contain NaN or infinity")
        total += sums
    mean = (total / len(store)).float()
    out = FeatureStore(memory=store.memory)
    for _, block in store.blocks():
        rows = torch.empty((len(block), dim if 0 < dim < store.dim else store.dim), device=block.device)
        for start in range(0, len(block), _CENTRED):
            part = slice(start, start + _CENTRED)
            rows[part] = project(block[part] - mean.to(block.device), dim, seed=seed)
        out.append(rows)
    return out


def _block(nearest: torch.Tensor, x: FeatureStore, norms: torch.Tensor, limit: int) -> NDArray[np.int64]:
    """The next centres, at most `limit` and at least one, that the pool alone decides."""
    import torch

    n = len(nearest)
    value, pool = torch.topk(nearest, min(_POOL, n))
    tau = float(value[-1]) if len(pool) < n else -1.0
    rows = pool.cpu().numpy()
    p = x.rows(rows)
    between = torch.mm(p, p.T).mul_(-2).add_(norms[pool][None, :]).add_(norms[pool][:, None]).clamp_(min=0)
    matrix = between.cpu().numpy()
    distance = value.cpu().numpy().copy()
    new: list[int] = []
    while len(new) < limit:
        j = int(distance.argmax())
        if distance[j] < tau or distance[j] < 0:
            break
        new.append(j)
        np.minimum(distance, matrix[j], out=distance)
        distance[j] = -1
    return rows[new].astype(np.int64)


def _update(nearest: torch.Tensor, x: FeatureStore, norms: torch.Tensor, centres: NDArray[np.int64]) -> None:
    """Let every point know of the new `centres`."""
    import torch

    index = torch.from_numpy(centres).to(nearest.device)
    c = x.rows(centres)
    offset = norms[index][None, :]
    step = max(256, (_DISTANCES if nearest.device.type == "cpu" else 64 * _DISTANCES) // len(centres))
    for where, block in x.blocks():
        for start in range(0, len(block), step):
            part = block[start : start + step]
            rows = slice(where.start + start, where.start + start + len(part))
            # |x - c|^2 - |x|^2, whose minimum over the centres is where |x - c|^2 is least
            least = torch.addmm(offset, part, c.T, alpha=-2).amin(dim=1)
            torch.minimum(nearest[rows], least.add_(norms[rows]).clamp_(min=0), out=nearest[rows])
    nearest[index] = -1
