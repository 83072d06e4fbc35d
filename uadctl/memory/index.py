"""Nearest neighbours by Euclidean distance, behind one interface for several libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from uadctl.spec.search import Backend, FaissIndex, Precision, wrong_search

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Queries whose distances to the whole bank are held at once: 1024 x 20,000 floats are 80 MB.
_QUERIES = 1024
# Neighbours that an index of compressed vectors proposes for each one asked for; their true distances decide.
_PROPOSED = 32
# Rows of the bank for each list of an inverted file, one of how many lists a query looks into, how many rows a list's
# centre is learned from, and the bank from which on there are lists at all.
_LIST, _PROBED, _LEARNED, _LISTED = 40, 16, 64, 1024

# The import name behind a backend, and the extra of uadctl that installs it.
_LIBRARIES = {"sklearn": ("sklearn.neighbors", "pyod"), "faiss": ("faiss", "faiss")}


def _library(backend: str) -> Any:
    from uadctl.spec import require

    module, extra = _LIBRARIES[backend]
    return require(module, extra)


class _Search(Protocol):
    def fit(self, bank: Any) -> None: ...

    def search(self, queries: Any, k: int, exclude: slice | None) -> tuple[Any, Any]: ...


class _NumpySearch:
    """One matrix product with the whole bank, and a selection; distances of the selected are then exact."""

    def fit(self, bank: Any) -> None:
        data = np.asarray(bank, dtype=np.float32)
        # |q - b|^2 = |q|^2 + |b|^2 - 2qb loses digits where norms are large against distances: move the origin.
        self._origin = data.mean(axis=0)
        self._bank = data - self._origin
        self._norms = np.einsum("ij,ij->i", self._bank, self._bank)

    def search(self, queries: Any, k: int, exclude: slice | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        centred = np.asarray(queries, dtype=np.float32) - self._origin
        distances, indices = [], []
        for start in range(0, len(centred), _QUERIES):
            chunk = centred[start : start + _QUERIES]
            rank = self._norms[None, :] - 2 * (chunk @ self._bank.T)
            if exclude is not None:
                rank[:, exclude] = np.inf
            index = rank.argmin(axis=1)[:, None] if k == 1 else np.argpartition(rank, k - 1, axis=1)[:, :k]
            distance, index = _measured(chunk, self._bank, index)
            distances.append(distance)
            indices.append(index)
        return np.concatenate(distances), np.concatenate(indices)


class _SklearnSearch:
    """scikit-learn's exact brute-force search."""

    def fit(self, bank: Any) -> None:
        neighbors = _library("sklearn")
        self._index = neighbors.NearestNeighbors(algorithm="brute", metric="euclidean").fit(np.asarray(bank))

    def search(self, queries: Any, k: int, exclude: slice | None) -> tuple[Any, Any]:
        left_out = 0 if exclude is None else exclude.stop - exclude.start
        distance, index = self._index.kneighbors(np.asarray(queries), n_neighbors=k + left_out)
        if exclude is not None:
            # It cannot leave rows out, so it is asked for as many more; a stable sort keeps the others in order.
            out = (index >= exclude.start) & (index < exclude.stop)
            order = np.argsort(out, axis=1, kind="stable")[:, :k]
            distance, index = np.take_along_axis(distance, order, axis=1), np.take_along_axis(index, order, axis=1)
        return distance.astype(np.float32), index


class _FaissSearch:
    """faiss's indexes (Douze et al., The faiss library, 2024).

    "flat": exact. "ivf": the bank in lists around k-means centres, of which the nearest few are searched. "ivfpq": the
    same with each vector's difference from its centre in a byte for every four of its numbers (Jégou, Douze and Schmid,
    Product quantization, PAMI 33, 2011). Of all, distances are those of the vectors themselves.
    """

    def __init__(self, kind: FaissIndex) -> None:
        self._kind = kind

    def fit(self, bank: Any) -> None:
        faiss = _library("faiss")
        data = np.asarray(bank, dtype=np.float32)
        n, d = data.shape
        self._origin = data.mean(axis=0)  # its distances come from the same formula as numpy's, so the same care
        self._bank = data
        if self._kind == "flat" or n < _LISTED:
            self._index = faiss.IndexFlatL2(d)
            self._probed = 0
        else:
            coarse = faiss.IndexFlatL2(d)
            lists = min(n // _LIST, int(4 * n**0.5))
            codes = next(m for m in range(max(1, d // 4), 0, -1) if d % m == 0)
            bits = 8 if n >= 40 * 256 else 4
            self._index = (
                faiss.IndexIVFFlat(coarse, d, lists)
                if self._kind == "ivf"
                else faiss.IndexIVFPQ(coarse, d, lists, codes, bits)
            )
            self._probed = max(1, lists // _PROBED)
            sample = data[:: max(1, n // (_LEARNED * lists))]
            self._index.train(np.ascontiguousarray(sample - self._origin))
        for start in range(0, n, 65_536):  # in parts: the bank may be a file that is larger than memory
            self._index.add(np.ascontiguousarray(data[start : start + 65_536] - self._origin))

    def search(self, queries: Any, k: int, exclude: slice | None) -> tuple[Any, Any]:
        faiss = _library("faiss")
        queries = np.asarray(queries, dtype=np.float32)
        asked = k if self._kind != "ivfpq" else min(_PROPOSED * k, len(self._bank))
        options = {}
        if exclude is not None:
            inside = faiss.IDSelectorRange(exclude.start, exclude.stop)
            options["sel"] = faiss.IDSelectorNot(inside)
        if self._probed:
            parameters = faiss.SearchParametersIVF(nprobe=self._probed, **options)
        else:
            parameters = faiss.SearchParameters(**options) if options else None
        _, index = self._index.search(np.ascontiguousarray(queries - self._origin), asked, params=parameters)
        short = (index[:, :k] < 0).any(axis=1)
        if self._probed and short.any():  # the lists searched hold too few: search them all
            every = faiss.SearchParametersIVF(nprobe=self._index.nlist, **options)
            _, index[short] = self._index.search(
                np.ascontiguousarray(queries[short] - self._origin), asked, params=every
            )
        distances, indices = [], []
        for start in range(0, len(queries), 64):
            distance, order = _measured(queries[start : start + 64], self._bank, index[start : start + 64])
            distances.append(distance[:, :k])
            indices.append(order[:, :k])
        return np.concatenate(distances), np.concatenate(indices)


def _measured(
    queries: NDArray[np.float32], bank: NDArray[np.float32], index: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """True distances to the rows `index` of the bank, and the rows, nearest first; -1, no row, comes last."""
    distance = np.linalg.norm(queries[:, None, :] - bank[index], axis=2)
    distance[index < 0] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(distance, order, axis=1), np.take_along_axis(index, order, axis=1)


class KNNIndex:
    """The k nearest neighbours in a bank of vectors.

    backend: "torch" (default; on `device`), "numpy", "sklearn" or "faiss". All give the same Euclidean distances (not
        squared), up to float32 rounding; equal distances may name different neighbours.
    precision: of torch's products, which only decide what is looked at closely: the neighbours are the same. "bf16" is
        for processors with matrix units; "auto" takes it where there are some (AMX, CUDA from capability 8.0 on).
    verify: (torch) compare every answer with an exhaustive search in float64; slow. RunError where they differ.
    faiss_index: "flat", exact; "ivf" and "ivfpq" find most of the true neighbours in a fraction of the time, and with
        "ivfpq" of the memory: for banks of millions of rows. A bank given as a memory-mapped array is not copied.
    """

    def __init__(
        self,
        *,
        backend: Backend = "torch",
        device: str = "cpu",
        precision: Precision = "fp32",
        verify: bool = False,
        faiss_index: FaissIndex = "flat",
    ) -> None:
        wrong = wrong_search(backend=backend, precision=precision, verify=verify, faiss_index=faiss_index)
        if wrong:
            raise ValueError("; ".join(wrong))
        self.backend = backend
        self._search: _Search
        if backend == "torch":
            from uadctl.memory.filtered import FilteredSearch

            chosen = precision if precision != "auto" else "bf16" if has_matrix_units(device) else "fp32"
            self._search = FilteredSearch(device=device, precision=chosen, verify=verify)
        elif backend == "numpy":
            self._search = _NumpySearch()
        elif backend == "sklearn":
            self._search = _SklearnSearch()
        else:
            self._search = _FaissSearch(faiss_index)
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

    def kneighbors(self, X: Any, k: int = 1, *, exclude: slice | None = None) -> tuple[Any, Any]:
        """Distances and row numbers of the k nearest, nearest first: (m, k) float32 and (m, k) int64.

        k is clamped to the size of the bank. exclude: rows start:stop of the bank that do not count.
        A torch tensor as X gives tensors on the index's device ("torch") or on the CPU; a numpy array gives numpy
        arrays. Raises RuntimeError before fit, ValueError for k < 1 and where nothing of the bank is left.
        """
        if not self._size:
            raise RuntimeError("KNNIndex is not fitted; call fit(bank) first")
        if k < 1:
            raise ValueError(f"k (={k}) must be at least 1")
        left = self._size
        if exclude is not None:
            start, stop, _ = exclude.indices(self._size)
            exclude = slice(start, stop) if stop > start else None
            left -= max(0, stop - start)
        if not left:
            raise ValueError(f"exclude ({start}:{stop}) leaves nothing of a bank of {self._size} rows")
        as_tensor = not isinstance(X, np.ndarray)
        queries = X if self.backend == "torch" else _numpy(X)
        distance, index = self._search.search(queries, min(k, left), exclude)
        if as_tensor and self.backend != "torch":
            import torch

            return torch.from_numpy(distance), torch.from_numpy(index)
        if not as_tensor and self.backend == "torch":
            return distance.cpu().numpy(), index.cpu().numpy()
        return distance, index


def make_index(
    backend: Backend = "torch",
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    verify: bool = False,
    faiss_index: FaissIndex = "flat",
) -> KNNIndex:
    """An empty index; arguments as `KNNIndex`. Raises ValueError for those that do not go together."""
    return KNNIndex(backend=backend, device=device, precision=precision, verify=verify, faiss_index=faiss_index)


def has_matrix_units(device: str) -> bool:
    """Whether products in bfloat16 run on units made for them: AMX, or tensor cores from capability 8.0 on."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device == "cpu" and bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def _numpy(x: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(x if isinstance(x, np.ndarray) else x.detach().cpu().numpy(), dtype=np.float32)
