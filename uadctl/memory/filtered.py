"""Exact nearest neighbours in torch, found among the few rows of the bank that a cheap lower bound cannot rule out.

In an orthonormal basis the squared distance of two vectors is the sum over its coordinates. Of a bank's principal axes
the first few carry nearly all of it; of the others the difference of the two vectors' lengths is kept, which no
rotation can make larger than their distance. Both together are a vector of `width` numbers in place of d, and the
distance between two such vectors is never more than the true one. So:

1. one narrow matrix product bounds all distances from below, and only the least bound of each block of rows is kept;
2. the true distance to the best row of the best block bounds the nearest distance from above;
3. what lies below that in any block, a handful of rows a query, is measured in full.

The idea is that of the partial distance search (Bei and Gray, IEEE Trans. Communications 33, 1985) and of VA-files
(Weber, Schek and Blott, VLDB 1998), with the one step that a processor is best at, the product, in front. What comes
out is the exact nearest neighbour, up to the rounding that products in float32 have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from uadctl.errors import RunError

if TYPE_CHECKING:
    import torch

FilterPrecision = Literal["fp32", "bf16"]

# Queries that pass the filter together, and rows of the bank in one product: its result, two megabytes, stays in the
# processor's cache until the minima are taken.
_QUERIES = 1024
_ROWS = 512
# Rows a block, and numbers that are fetched from all over the bank at a time: few enough to stay in the cache.
_BLOCK = 16
_FETCHED = 2**18
# Numbers of leading axes that are tried; with the length of the rest each makes a row of full cache lines.
_AXES = (15, 31, 47, 63, 79, 95, 127, 191, 255, 383)
# What a fetched number costs in multiplications inside a product: from a block of the filter, and from a row of the
# bank together with its query (measured on x86-64; the choice is flat around its best).
_INNER, _FULL = 40, 200
# Rows of the bank that stand in for queries when the number of axes is chosen, and rows that they are compared with.
_TRIALS, _SAMPLE = 128, 4096
# Axes found beside those wanted, which makes the wanted ones better.
_MORE = 16
# What rounding may do to a squared distance, as a share of the squared norms it is made of. fp32: products add up
# thousands of terms in blocks; measured errors stay below 1e-6. bf16 (8 significant bits): each factor, the norm, the
# product and the sum are rounded by at most 2**-9 of themselves, and 2|ab| <= a² + b².
_SLACK: dict[FilterPrecision, float] = {"fp32": 4e-6, "bf16": 3 * 2.0**-8}


@dataclass(frozen=True, slots=True)
class _Filter:
    """What the lower bounds of one bank are made of.

    axes:  (d, a) orthonormal columns; None where the vectors themselves are the filter.
    rows:  (blocks * _BLOCK, width) float32, the bank in the narrow form, zeros behind its end.
    norms: (blocks * _BLOCK,) their squared lengths, infinite behind the end.
    low:   `rows` in bfloat16, where the filter computes in it.
    """

    axes: torch.Tensor | None
    rows: torch.Tensor
    norms: torch.Tensor
    low: torch.Tensor | None

    def narrow(self, vectors: torch.Tensor) -> torch.Tensor:
        """(m, d) centred vectors in the narrow form, (m, width)."""
        return vectors if self.axes is None else _narrow(vectors, self.axes)


class FilteredSearch:
    """Nearest neighbours of one bank on one device.

    precision: of the products in the filter; distances are always measured in float32. "bf16" reads half the bytes and
        is computed by matrix units (AMX, tensor cores); the bound allows for its rounding, so the answer is the same.
    verify: search exhaustively in float64 as well, and raise RunError where the two differ by more than rounding in
        float32 products explains.
    """

    def __init__(self, *, device: str, precision: FilterPrecision = "fp32", verify: bool = False) -> None:
        self._device = device
        self._precision: FilterPrecision = precision
        self._verify = verify

    def fit(self, bank: Any) -> None:
        import torch

        data = torch.as_tensor(bank, dtype=torch.float32, device=self._device)
        # |q - b|^2 = |q|^2 + |b|^2 - 2qb loses digits where norms are large against distances: move the origin.
        self._origin = data.mean(dim=0)
        self._bank = data - self._origin
        self._norms = (self._bank * self._bank).sum(dim=1)
        axes = _choose_axes(self._bank)
        rows = self._bank if axes is None else _narrow(self._bank, axes)
        if len(rows) % _BLOCK:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _BLOCK))
        norms = (rows * rows).sum(dim=1)
        norms[len(data) :] = torch.inf
        self._filter = _Filter(axes, rows, norms, rows.to(torch.bfloat16) if self._precision == "bf16" else None)

    @property
    def width(self) -> int:
        """Numbers a row in the filter, of the d that the bank has."""
        return self._filter.rows.shape[1]

    def search(self, queries: Any, k: int, exclude: slice | None) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        asked = torch.as_tensor(queries, dtype=torch.float32, device=self._device)
        norms = self._filter.norms
        if exclude is not None:
            norms = norms.clone()
            norms[exclude] = torch.inf
        distances, indices = [], []
        for part in _parts(len(asked), _QUERIES):
            chunk = asked[part] - self._origin
            if k > 1:
                squared, index = self._several(chunk, k, norms)
            elif self._filter.axes is None and self._filter.low is None:
                squared, index = self._exhaustive(chunk, norms)
            else:
                squared, index = self._nearest(chunk, norms)
            distances.append(squared.sqrt_())
            indices.append(index)
        if self._verify:
            self._check(asked - self._origin, torch.cat(distances), k, exclude)
        return torch.cat(distances), torch.cat(indices)

    def _nearest(self, q: torch.Tensor, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(m, 1) squared distances and rows of the nearest."""
        import torch

        p = self._filter.narrow(q)
        least = self._block_minima(p, norms)
        best = least.argmin(dim=0)
        inner = self._inner(best, p, norms)
        row = best * _BLOCK + inner.argmin(dim=1)
        squared = self._squared(q, row)
        # The bounds lack |p|^2, so the limits lack it as well, and allow for what rounding may have added to a bound.
        own = (p * p).sum(dim=1)
        limit = squared - own + _SLACK[self._precision] * (own + squared)
        exact = squared - own + _SLACK["fp32"] * (own + squared)
        least[best, torch.arange(len(q), device=q.device)] = torch.inf  # its rows are looked into here
        again = torch.nonzero(inner <= exact[:, None])
        self._improve(squared, row, q, again[:, 0], best[again[:, 0]] * _BLOCK + again[:, 1])
        open_ = least <= limit
        # Where bounds say little (a bank of equal rows, say) looking into blocks would cost more than all distances.
        lost = open_.sum(dim=0) * (_INNER * _BLOCK * self.width) > self._bank.numel()
        open_ &= ~lost
        pairs = torch.nonzero(open_)
        for part in _parts(len(pairs), _FETCHED // (_BLOCK * self.width)):
            block, query = pairs[part, 0], pairs[part, 1]
            hit = torch.nonzero(self._inner(block, p[query], norms) <= exact[query][:, None])
            self._improve(squared, row, q, query[hit[:, 0]], block[hit[:, 0]] * _BLOCK + hit[:, 1])
        squared, row = squared[:, None], row[:, None]
        if bool(lost.any()):
            squared[lost], row[lost] = self._exhaustive(q[lost], norms)
        return squared, row

    def _improve(
        self, squared: torch.Tensor, row: torch.Tensor, q: torch.Tensor, query: torch.Tensor, rows: torch.Tensor
    ) -> None:
        """Measure pairs of a query and a row, and keep each query's nearest row; of equally near ones the first."""
        for part in _parts(len(query), _FETCHED // q.shape[1]):
            which, at = query[part], rows[part]
            found = self._squared(q[which], at)
            before = squared.clone()
            squared.scatter_reduce_(0, which, found, "amin")
            row[squared < before] = len(self._bank)
            nearest = found == squared[which]
            row.scatter_reduce_(0, which[nearest], at[nearest], "amin")

    def _exhaustive(self, q: torch.Tensor, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(m, 1) squared distances and rows of the nearest, by the products with all rows."""
        import torch

        n = len(self._bank)
        full = torch.where(norms[:n] < torch.inf, self._norms, torch.inf)
        best = torch.full((len(q),), torch.inf, device=q.device)
        row = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        step = _ROWS if q.device.type == "cpu" else 64 * _ROWS
        buffer = torch.empty((len(q), min(step, n)), device=q.device)
        for start in range(0, n, step):
            part = self._bank[start : start + step]
            out = buffer if len(part) == buffer.shape[1] else buffer.new_empty((len(q), len(part)))
            rank = torch.addmm(full[None, start : start + step], q, part.T, alpha=-2, out=out)  # lacks |q|^2
            least = rank.amin(dim=1)
            # Looking for the place of a minimum costs six times as much as the minimum: only where it is a new one.
            better = torch.nonzero(least < best)[:, 0]
            best[better] = least[better]
            row[better] = start + rank[better].argmin(dim=1)
        return self._squared(q, row)[:, None], row[:, None]

    def _several(self, q: torch.Tensor, k: int, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(m, k) squared distances and rows, nearest first. For few queries: all their bounds are held at once."""
        import torch

        f = self._filter
        p = f.narrow(q)
        own = (p * p).sum(dim=1)
        distances, indices = [], []
        step = max(1, 2**23 // len(f.rows))
        for start in range(0, len(q), step):
            some = slice(start, start + step)
            bound = torch.addmm(norms[None, :], p[some], f.rows.T, alpha=-2)
            first = bound.topk(k, dim=1, largest=False).indices
            upper = (self._bank[first] - q[some][:, None, :]).square_().sum(dim=2).amax(dim=1)
            limit = upper - own[some] + _SLACK["fp32"] * (own[some] + upper)
            for i, (row, most) in enumerate(zip(bound, limit, strict=True), start):
                candidates = torch.nonzero(row <= most)[:, 0]
                squared = self._squared(q[i][None, :], candidates)
                order = squared.sort(stable=True)
                distances.append(order.values[:k])
                indices.append(candidates[order.indices[:k]])
        return torch.stack(distances), torch.stack(indices)

    def _block_minima(self, p: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """(blocks, m) the least bound of each block, without |p|^2."""
        import torch

        f = self._filter
        rows, columns, added = f.rows, p.T, norms
        if f.low is not None:
            rows, columns = f.low, p.to(torch.bfloat16).T
            # Rounded bounds, lowered by the row's part of the slack so that they stay bounds.
            added = (norms * (1 - _SLACK["bf16"])).clamp_(max=1e38).to(torch.bfloat16)
        m = len(p)
        step = _ROWS if p.device.type == "cpu" else 64 * _ROWS
        least = torch.empty((len(rows) // _BLOCK, m), device=p.device)
        buffer = torch.empty((min(step, len(rows)), m), device=p.device, dtype=rows.dtype)
        for start in range(0, len(rows), step):
            part = slice(start, min(start + step, len(rows)))
            n = part.stop - start
            bound = torch.addmm(added[part][:, None], rows[part], columns, alpha=-2, out=buffer[:n])
            least[start // _BLOCK : part.stop // _BLOCK] = bound.view(n // _BLOCK, _BLOCK, m).amin(dim=1)
        return least

    def _inner(self, blocks: torch.Tensor, p: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """(m, _BLOCK) float32 bounds of all rows of one block a query, without |p|^2."""
        import torch

        width = self.width
        rows = self._filter.rows.view(-1, _BLOCK * width).index_select(0, blocks).view(-1, _BLOCK, width)
        added = norms.view(-1, _BLOCK).index_select(0, blocks)
        return torch.baddbmm(added[:, :, None], rows, p[:, :, None], alpha=-2)[:, :, 0]

    def _squared(self, q: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(m,) squared distance of each query to one row of the bank; one query may face all rows."""
        return (self._bank.index_select(0, rows) - q).square_().sum(dim=1)

    def _check(self, centred: torch.Tensor, distances: torch.Tensor, k: int, exclude: slice | None) -> None:
        import torch

        # In float64, which MPS has not.
        where = "cpu" if self._bank.device.type == "mps" else self._bank.device
        bank = self._bank.to(where).double()
        wrong = 0
        for part in _parts(len(centred), 64):
            q, found = centred[part].to(where).double(), distances[part].to(where).double()
            every = torch.cdist(q, bank)
            if exclude is not None:
                every[:, exclude] = torch.inf
            true = every.topk(k, dim=1, largest=False).values
            # What rounding in a product may do; without one, far copies of each other could not be told apart.
            allowed = 2 * _SLACK["fp32"] * ((q * q).sum(dim=1, keepdim=True) + true.square())
            wrong += int(((found.square() - true.square()).abs() > allowed).any(dim=1).sum())
        if wrong:
            raise RunError(
                f"nearest neighbours: {wrong} of {len(centred)} queries differ from an exhaustive search in float64",
                help=f'The filter ran in {self._precision} on {self._device}. Use knn_precision = "fp32", '
                'or knn_backend = "numpy", and report this.',
            )


def _narrow(vectors: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """(m, a + 1): the coordinates on the axes, and the length of what is left."""
    import torch

    along = vectors @ axes
    # From the remainder itself: |v|^2 - |along|^2 would lose the digits of a small one, and lengthen it.
    rest = torch.linalg.vector_norm(torch.addmm(vectors, along, axes.T, alpha=-1), dim=1, keepdim=True)
    return torch.cat([along, rest], dim=1)


def _parts(total: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, total, step))


def _choose_axes(bank: torch.Tensor) -> torch.Tensor | None:
    """The leading principal axes for which filter and refinement together cost least; None if all distances cost less.

    bank: (n, d), centred. The costs are counted, not timed, so that the choice is the same on every run.
    """
    import torch

    n, d = bank.shape
    numbers = [number for number in _AXES if number + 1 < d]
    if n < 4 * _BLOCK or not numbers:
        return None
    sample = bank[:: -(-n // _SAMPLE)]
    axes = _principal_axes((sample.T @ sample).cpu().double(), numbers[-1]).float().to(bank.device)
    # Rows stand in for queries. What equals one is the row itself, or a copy, which a query has not.
    trials = bank[:: -(-n // _TRIALS)]
    squared = _squared_distances(trials, sample)
    squared[squared <= 1e-5 * (trials * trials).sum(dim=1, keepdim=True)] = torch.inf
    nearest = squared.amin(dim=1, keepdim=True)
    t, x = trials @ axes, sample @ axes
    t_rest, x_rest = ((v * v).sum(dim=1) - (w * w).cumsum(dim=1).T for v, w in ((trials, t), (sample, x)))
    best, least = None, float(n * d)
    for number in numbers:
        rest = t_rest[number - 1].clamp(min=0).sqrt()[:, None] - x_rest[number - 1].clamp(min=0).sqrt()[None, :]
        bound = _squared_distances(t[:, :number], x[:, :number]) + rest.square_()
        rows = float((bound <= nearest).sum()) / len(trials) * n / len(sample)
        cost = n * (number + 1) + rows * (_INNER * _BLOCK * (number + 1) + _FULL * d)
        if cost < least:
            best, least = number, cost
    return None if best is None else axes[:, :best].contiguous()


def _principal_axes(covariance: torch.Tensor, number: int) -> torch.Tensor:
    """(d, number) orthonormal leading eigenvectors of a (d, d) float64 covariance, up to a factor.

    Of a large one they are found by subspace iteration (Halko, Martinsson and Tropp, SIAM Review 53, 2011, algorithm
    4.4): nearly the leading ones, which is as good here, in a fraction of the time.
    """
    import torch

    d = len(covariance)
    if 2 * number > d:
        every: torch.Tensor = torch.linalg.eigh(covariance).eigenvectors
        return every.flip(1)[:, :number]
    start = np.random.default_rng(0).standard_normal((d, number + _MORE))
    basis = torch.linalg.qr(covariance @ torch.from_numpy(start)).Q
    for _ in range(2):
        basis = torch.linalg.qr(covariance @ basis).Q
    turn: torch.Tensor = torch.linalg.eigh(basis.T @ covariance @ basis).eigenvectors
    leading: torch.Tensor = basis @ turn.flip(1)[:, :number]
    return leading


def _squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * a).sum(dim=1)[:, None] + (b * b).sum(dim=1)[None, :] - 2 * (a @ b.T)
