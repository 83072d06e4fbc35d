"""Cosine distance to the patches of reference images: the memory of AnomalyDINO and of WinCLIP's few-shot branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.memory.index import KNNIndex
from uadctl.spec.search import Backend

if TYPE_CHECKING:
    from numpy.typing import NDArray


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, d) float32 vectors scaled to length 1; a vector of zeros stays what it is. ValueError for NaN, infinity."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("features contain NaN or infinity")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


class CosineBank:
    """Unit vectors of reference images, each of which knows its image.

    backend: which library searches, see `KNNIndex`. "numpy" imports no torch.
    n_neighbors: over how many nearest vectors the distance is averaged; clamped to the size of the bank.

    Attributes: `vectors` (n, d) float32; `ends`: image i has rows ends[i] to ends[i + 1].
    """

    def __init__(self, *, backend: Backend = "torch", n_neighbors: int = 1, device: str = "cpu") -> None:
        self.n_neighbors = n_neighbors
        self._index = KNNIndex(backend=backend, device=device)
        self.vectors: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self.ends: tuple[int, ...] = (0,)

    def prepare(self) -> None:
        """Import the library that the search needs. Raises BackendMissing."""
        self._index.prepare()

    def fit(self, images: Sequence[NDArray[np.float32]]) -> CosineBank:
        """Hold the (n_i, d) vectors of each image, brought to length 1. ValueError without any vector."""
        self.restore(unit_length(np.concatenate(list(images))), [len(vectors) for vectors in images])
        return self

    def restore(self, vectors: NDArray[np.float32], counts: Sequence[int]) -> None:
        """Hold vectors of length 1 as they are. counts: how many of them each image has."""
        self.vectors = vectors
        self.ends = (0, *np.cumsum(counts).tolist())
        self._index.fit(vectors)

    @property
    def counts(self) -> list[int]:
        """How many vectors each image has."""
        return [stop - start for start, stop in zip(self.ends, self.ends[1:], strict=False)]

    def distances(self, queries: NDArray[np.float32], *, without: int | None = None) -> NDArray[np.float32]:
        """(m,) cosine distance 1 - cos of each query to its nearest vectors, their mean where there are several.

        Between unit vectors it is half the squared Euclidean distance, which keeps its digits where cos is near 1.

        queries: (m, d), of any length but zero. without: an image whose own vectors do not count.
        """
        exclude = None if without is None else slice(self.ends[without], self.ends[without + 1])
        found: Any = self._index.kneighbors(unit_length(queries), self.n_neighbors, exclude=exclude)[0]
        mean = (np.square(found, dtype=np.float64) / 2).mean(axis=1)
        return np.asarray(mean, dtype=np.float32)
