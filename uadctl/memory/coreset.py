"""Greedy k-center selection: a subset of the features that leaves none of them far from a kept one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from uadctl.progress import Progress, Silent

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Candidates examined together. Larger pools need fewer passes over all points, but their distance matrix grows with the
# square; 2048 is the flat bottom of that curve for 50,000 to 500,000 points.
_POOL = 2048
# Rows updated by one matrix product: small enough that the product's result stays in the cache it was written to.
_ROWS = 1024


def project(features: torch.Tensor, dim: int, *, seed: int) -> torch.Tensor:
    """Gaussian random projection to `dim` columns (Johnson-Lindenstrauss); unchanged if there are no more than that.

    features: (n, d) float32. Returns (n, min(d, dim)), distances kept in expectation. The matrix depends on d, dim and
    seed only, on every device.
    """
    import torch

    d = features.shape[1]
    if dim >= d:
        return features
    matrix = np.random.default_rng([seed, d, dim]).standard_normal((d, dim), dtype=np.float32) / np.float32(dim**0.5)
    return features @ torch.from_numpy(matrix).to(features.device)


def greedy_coreset(
    features: NDArray[np.float32] | torch.Tensor,
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

    features: (n, d) float32, finite; a torch tensor is worked on where it lies.
    n_centers: 1 to n.
    projection_dim: columns of the Gaussian random projection in which distances are measured; 0, or no fewer than d:
        none.
    Returns (n_centers,) int64 row numbers without repetition, in the order of choice. Raises ValueError.
    """
    import torch

    x = torch.as_tensor(features, dtype=torch.float32)
    if x.ndim != 2 or not x.shape[0]:
        raise ValueError(f"features must be a non-empty (n, d) array, found shape {tuple(x.shape)}")
    n = x.shape[0]
    if not 1 <= n_centers <= n:
        raise ValueError(f"n_centers (={n_centers}) must lie in 1..{n}, the number of features")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("features contain NaN or infinity")
    first = int(np.random.default_rng(seed).integers(n))
    if projection_dim:
        x = project(x, projection_dim, seed=seed)
    x = x - x.mean(dim=0)  # smaller norms, smaller rounding errors in the products below
    norms = (x * x).sum(dim=1)

    # Squared distance to the nearest centre; -1 marks the centres themselves, so that none is taken twice.
    nearest = torch.full((n,), float("inf"), device=x.device)
    chosen = [first]
    _update(nearest, x, norms, torch.tensor([first], device=x.device))
    with (progress or Silent()).task("coreset", n_centers, unit="centres") as task:
        task.advance()
        while len(chosen) < n_centers:
            new = _block(nearest, x, norms, n_centers - len(chosen))
            _update(nearest, x, norms, torch.from_numpy(new).to(x.device))
            chosen.extend(new.tolist())
            task.advance(len(new))
    return np.asarray(chosen, dtype=np.int64)


def _block(nearest: torch.Tensor, x: torch.Tensor, norms: torch.Tensor, limit: int) -> NDArray[np.int64]:
    """The next centres, at most `limit` and at least one, that the pool alone decides."""
    import torch

    n = len(nearest)
    value, pool = torch.topk(nearest, min(_POOL, n))
    tau = float(value[-1]) if len(pool) < n else -1.0
    p = x[pool]
    between = torch.addmm(norms[pool][None, :] + norms[pool][:, None], p, p.T, alpha=-2).clamp_(min=0).cpu().numpy()
    distance = value.cpu().numpy().copy()
    new: list[int] = []
    while len(new) < limit:
        j = int(distance.argmax())
        if distance[j] < tau or distance[j] < 0:
            break
        new.append(j)
        np.minimum(distance, between[j], out=distance)
        distance[j] = -1
    return pool.cpu().numpy()[new].astype(np.int64)


def _update(nearest: torch.Tensor, x: torch.Tensor, norms: torch.Tensor, centres: torch.Tensor) -> None:
    """Let every point know of the new `centres`."""
    import torch

    c = x[centres]
    offset = norms[centres][None, :]
    step = _ROWS if x.device.type == "cpu" else 64 * _ROWS
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        # |x - c|^2 - |x|^2, whose minimum over the centres is where |x - c|^2 is least
        least = torch.addmm(offset, x[rows], c.T, alpha=-2).amin(dim=1)
        torch.minimum(nearest[rows], least.add_(norms[rows]).clamp_(min=0), out=nearest[rows])
    nearest[centres] = -1
