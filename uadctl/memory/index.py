"""Exact nearest neighbours by Euclidean distance, behind one interface for several libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Backend = Literal["torch", "numpy", "sklearn", "faiss"]

# Queries whose distances to the whole bank are held at once: 1024 x 20,000 floats are 80 MB.
_QUERIES = 1024

# The import name behind a backend, and the extra of uadctl that installs it.
_LIBRARIES = {"sklearn": ("sklearn.neighbors", "pyod"), "faiss": ("faiss", "faiss")}


def _library(backend: str) -> Any:
    from uadctl.spec import require

    module, extra = _LIBRARIES[backend]
    return require(module, extra)


class _Search(Protocol):
    def fit(self, bank: Any) -> None: ...

    def search(self, queries: Any, k: int) -> tuple[Any, Any]: ...


class _TorchSearch:
    """One matrix product and a selection, on any device torch knows; distances of the selected are then exact."""

    def __init__(self, device: str) -> None:
        self._device = device

    def fit(self, bank: Any) -> None:
        import torch

        data = torch.as_tensor(bank, dtype=torch.float32, device=self._device)
        # |q - b|^2 = |q|^2 + |b|^2 - 2qb loses digits where norms are large against distances: move the origin.
        self._origin = data.mean(dim=0)
        self._bank = data - self._origin
        self._norms = (self._bank * self._bank).sum(dim=1)

    def search(self, queries: Any, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        centred = torch.as_tensor(queries, dtype=torch.float32, device=self._device) - self._origin
        distances, indices = [], []
        for start in range(0, len(centred), _QUERIES):
            chunk = centred[start : start + _QUERIES]
            rank = torch.addmm(self._norms[None, :], chunk, self._bank.T, alpha=-2)  # |q - b|^2 - |q|^2
            index = rank.argmin(dim=1, keepdim=True) if k == 1 else rank.topk(k, dim=1, largest=False).indices
            distance = torch.linalg.vector_norm(chunk[:, None, :] - self._bank[index], dim=2)
            if k > 1:
                distance, order = distance.sort(dim=1, stable=True)
                index = index.gather(1, order)
            distances.append(distance)
            indices.append(index)
        return torch.cat(distances), torch.cat(indices)


class _NumpySearch:
    """The same method in numpy alone."""

    def fit(self, bank: Any) -> None:
        data = np.asarray(bank, dtype=np.float32)
        self._origin = data.mean(axis=0)
        self._bank = data - self._origin
        self._norms = np.einsum("ij,ij->i", self._bank, self._bank)

    def search(self, queries: Any, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        centred = np.asarray(queries, dtype=np.float32) - self._origin
        distances, indices = [], []
        for start in range(0, len(centred), _QUERIES):
            chunk = centred[start : start + _QUERIES]
            rank = self._norms[None, :] - 2 * (chunk @ self._bank.T)
            index = rank.argmin(axis=1)[:, None] if k == 1 else np.argpartition(rank, k - 1, axis=1)[:, :k]
            distance = np.linalg.norm(chunk[:, None, :] - self._bank[index], axis=2)
            order = np.argsort(distance, axis=1, kind="stable")
            distances.append(np.take_along_axis(distance, order, axis=1))
            indices.append(np.take_along_axis(index, order, axis=1))
        return np.concatenate(distances), np.concatenate(indices)


class _SklearnSearch:
    """scikit-learn's exact brute-force search."""

    def fit(self, bank: Any) -> None:
        neighbors = _library("sklearn")
        self._index = neighbors.NearestNeighbors(algorithm="brute", metric="euclidean").fit(np.asarray(bank))

    def search(self, queries: Any, k: int) -> tuple[Any, Any]:
        distance, index = self._index.kneighbors(np.asarray(queries), n_neighbors=k)
        return distance.astype(np.float32), index


class _FaissSearch:
    """faiss's exact flat index (Douze et al. 2024)."""

    def fit(self, bank: Any) -> None:
        faiss = _library("faiss")
        data = np.ascontiguousarray(bank, dtype=np.float32)
        self._origin = data.mean(axis=0)  # its distances come from the same formula as torch's, so the same care
        self._bank = data - self._origin
        self._index = faiss.IndexFlatL2(data.shape[1])
        self._index.add(self._bank)

    def search(self, queries: Any, k: int) -> tuple[Any, Any]:
        centred = np.ascontiguousarray(queries, dtype=np.float32) - self._origin
        _, index = self._index.search(centred, k)
        distance = np.linalg.norm(centred[:, None, :] - self._bank[index], axis=2)
        order = np.argsort(distance, axis=1, kind="stable")
        return np.take_along_axis(distance, order, axis=1), np.take_along_axis(index, order, axis=1)


class KNNIndex:
    """Exact k nearest neighbours in a bank of vectors.

    backend: "torch" (default; on `device`), "numpy", "sklearn" or "faiss". All give the same Euclidean distances (not
        squared), up to float32 rounding; equal distances may name different neighbours.
    """

    def __init__(self, *, backend: Backend = "torch", device: str = "cpu") -> None:
        if backend not in get_args(Backend):
            raise ValueError(f"knn_backend {backend!r} is unknown; choose one of: {', '.join(get_args(Backend))}")
        self.backend = backend
        self._search: _Search
        if backend == "torch":
            self._search = _TorchSearch(device)
        elif backend == "numpy":
            self._search = _NumpySearch()
        elif backend == "sklearn":
            self._search = _SklearnSearch()
        else:
            self._search = _FaissSearch()
        self._size = 0

    def prepare(self) -> None:
        """Import the library that `fit` needs. Raises BackendMissing, which says how to install it."""
        if self.backend in _LIBRARIES:
            _library(self.backend)

    def fit(self, X: NDArray[np.float32] | torch.Tensor) -> KNNIndex:
        """Hold the bank X, (n, d) float32. Raises ValueError if it is empty, BackendMissing without its library."""
        if X.ndim != 2 or not len(X):
            raise ValueError(f"the bank must be a non-empty (n, d) array, found shape {tuple(X.shape)}")
        self._search.fit(X if self.backend == "torch" else _numpy(X))
        self._size = len(X)
        return self

    def kneighbors(self, X: Any, k: int = 1) -> tuple[Any, Any]:
        """Distances and row numbers of the k nearest, nearest first: (m, k) float32 and (m, k) int64.

        k is clamped to the size of the bank. A torch tensor as X gives tensors on the index's device ("torch") or on
        the CPU; a numpy array gives numpy arrays. Raises RuntimeError before fit, ValueError for k < 1.
        """
        if not self._size:
            raise RuntimeError("KNNIndex is not fitted; call fit(bank) first")
        if k < 1:
            raise ValueError(f"k (={k}) must be at least 1")
        as_tensor = not isinstance(X, np.ndarray)
        distance, index = self._search.search(X if self.backend == "torch" else _numpy(X), min(k, self._size))
        if as_tensor and self.backend != "torch":
            import torch

            return torch.from_numpy(distance), torch.from_numpy(index)
        if not as_tensor and self.backend == "torch":
            return distance.cpu().numpy(), index.cpu().numpy()
        return distance, index


def make_index(backend: Backend = "torch", *, device: str = "cpu") -> KNNIndex:
    """An empty index of this backend; raises ValueError for an unknown one."""
    return KNNIndex(backend=backend, device=device)


def _numpy(x: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(x if isinstance(x, np.ndarray) else x.detach().cpu().numpy(), dtype=np.float32)
