"""What all pixel metrics share: masks and maps taken apart into normal and defect scores, pooled and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uadctl.metrics.descent import Step, descend
from uadctl.metrics.keys import keys32, runs
from uadctl.metrics.masked import MaskedMap, without_nan
from uadctl.metrics.ranking import Ranking, RankingSums, Scores, auroc, average_precision, f1_max
from uadctl.metrics.region import RegionsInBands, aupro_name

#: (N, H, W) in one array, or one array an image, the images of any sizes.
Stack: TypeAlias = Sequence[ArrayLike] | NDArray[Any]

#: The metrics that know pixels only: name -> its words in a message, and what computes it.
POOLED: dict[str, tuple[str, Callable[[RankingSums], float]]] = {
    "pixel_auroc": ("pixel AUROC", auroc),
    "pixel_ap": ("pixel AP", average_precision),
    "pixel_f1max": ("pixel F1-max", f1_max),
}


def pixel_metric_names(*, fpr_limits: Iterable[float] = (0.3,)) -> tuple[str, ...]:
    """The names of all pixel metrics, in the order in which they are reported."""
    return tuple(dict.fromkeys([*POOLED, *(aupro_name(limit) for limit in fpr_limits)]))


@dataclass(frozen=True, slots=True)
class Parts:
    """One image taken apart; NaN pixels are in none of the arrays.

    every:  (n,) all scores, those on defects included, in one array or several: telling them apart costs more than
            counting all and taking off the few on defects. It can be walked any number of times; of a map in a file
            each walk reads it anew. The arrays may be views of the map that was given: copy them to keep them.
    defect: (P,) scores on defects, region after region.
    sizes:  (R,) int64, pixels of each region, each at least 1; their sum is P.
    pixels, defect_pixels: how many were looked at, and how many of them lie on defects: n and P, but for saturated
            defects, whose pixels beyond the saturation are in no array, and some perhaps in several defects. The
            difference, normal pixels, is that of n and P in any case.
    left_out, regions_left_out: NaN pixels, and regions that are NaN on every pixel.
    """

    every: Iterable[Scores]
    defect: Scores
    sizes: NDArray[np.int64]
    pixels: int
    defect_pixels: int
    left_out: int
    regions_left_out: int

    @property
    def region(self) -> NDArray[np.intp]:
        """(P,) which of the R regions each defect score is in, ascending."""
        return np.repeat(np.arange(self.sizes.size), self.sizes)


def take_apart(image: MaskedMap) -> Parts:
    """All scores and the defect scores of one image; regions are those of the whole mask, NaN pixels included.

    image: a map with one mask. One in a file is read band by band, and again whenever `every` is walked: what stays in
           memory is 4 bytes for each defect pixel, and some 20 while they are put in order.

    Raises as walking the image does.
    """
    regions = RegionsInBands()
    found: list[Scores] = []
    kept: list[Scores] = []
    n_seen, left_out = 0, 0
    for (defect,), scores in image:
        seen = without_nan(scores)
        n_seen += seen.size
        left_out += scores.size - seen.size
        box = regions.add(defect)
        found.append(scores[box][defect[box]])
        if image.in_memory:
            kept.append(seen)
    on_defects, region, n_regions = np.concatenate(found), regions.joined(), regions.count
    if left_out:
        looked_at = ~np.isnan(on_defects)
        on_defects, region = on_defects[looked_at], region[looked_at]
    sizes = np.bincount(region, minlength=n_regions + 1)[1:]
    sizes = sizes[sizes > 0].astype(np.int64)
    return Parts(
        every=kept or _Seen(image),
        defect=on_defects[np.argsort(region, kind="stable")],
        sizes=sizes,
        pixels=n_seen,
        defect_pixels=on_defects.size,
        left_out=left_out,
        regions_left_out=n_regions - sizes.size,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """All scores of a map in a file that are not NaN, band by band, read anew each time."""

    image: MaskedMap

    def __iter__(self) -> Iterator[Scores]:
        return (without_nan(scores) for _, scores in MaskedMap((), self.image.scores, ()))


@dataclass(slots=True)
class Tally:
    """How much was looked at so far; `pixels` and `defect_pixels` without those left out."""

    images: int = 0
    pixels: int = 0
    defect_pixels: int = 0
    regions: int = 0
    left_out: int = 0
    regions_left_out: int = 0

    def add(self, parts: Parts) -> None:
        """Count one image."""
        self.images += 1
        self.pixels += parts.pixels
        self.defect_pixels += parts.defect_pixels
        self.regions += parts.sizes.size
        self.left_out += parts.left_out
        self.regions_left_out += parts.regions_left_out

    def counts(self) -> dict[str, int]:
        """The counts by the names under which they are reported."""
        return {
            "pixel_images": self.images,
            "pixels": self.pixels,
            "defect_pixels": self.defect_pixels,
            "regions": self.regions,
            "pixels_left_out": self.left_out,
            "regions_left_out": self.regions_left_out,
        }

    def undefined(self, *, regions: str = "regions") -> str | None:
        """Why the pixel metrics are undefined, or None if they are not. regions: what the regions are called."""
        looked_at = f"images: {self.images}, pixels: {self.pixels}"
        if self.left_out:
            looked_at += f", NaN pixels left out: {self.left_out}"
        if not self.images:
            return "there are no maps"
        if not self.pixels:
            return f"every pixel of the maps is NaN ({looked_at})"
        if not self.defect_pixels:
            if self.regions_left_out:
                looked_at += f", {regions} left out: {self.regions_left_out}"
                return f"the maps are NaN on every defect pixel ({looked_at})"
            return f"the masks have no defect pixel ({looked_at})"
        if self.defect_pixels == self.pixels:
            return f"the masks have no normal pixel ({looked_at})"
        return None


class Pool:
    """Scores from many images: how many of them lie above, and how many equal, any others.

    Few scores are kept and sorted. From 4 million on they are counted, each distinct float32 number by itself, in a
    table that reaches over four octaves (the largest score up to 16 times the smallest), or in two such tables: many
    times faster than sorting, with the same result, in memory that does not grow with them. The octaves are those that
    hold most of the first 4 million. Scores outside of them, and float64 scores, are kept and sorted after all.
    """

    SLAB = 2**24  # scores kept in one array: beyond 32 MiB malloc always maps, so a page is taken when written to,
    # and given back when the slab is dropped. Chunks an image were measured to need nearly two copies to be sorted.
    FEW = 2**22  # scores that are sorted
    TABLE = 2**25  # keys in the table, 128 MB if it came to be written to everywhere
    CHUNK = 2**17  # scores counted at a time: what is made of them stays in the cache

    def __init__(self) -> None:
        self._full: list[Scores] = []
        self._slab: Scores = np.empty(0, dtype=np.float32)
        self._filled = 0
        self._sorted = True
        self._tables: list[_Table] = []
        self._undecided = 0  # float32 scores kept since the last attempt to set up a table

    def add(self, scores: Scores) -> None:
        """Take in (n,) scores; nothing of the array is kept."""
        if self._tables and scores.dtype == np.float32:
            for start in range(0, scores.size, self.CHUNK):
                left = scores[start : start + self.CHUNK]
                for table in self._tables:
                    left = table.count(left)
                if left.size:
                    self._keep(left)
            return
        self._keep(scores)
        if not self._tables and scores.dtype == np.float32:
            self._undecided += scores.size
            if self._undecided >= self.FEW:
                self._undecided = 0
                self._start_tables()

    def standing(self, distinct: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each of (K,) distinct scores, ascending, how many pooled scores lie above it, and how many equal it."""
        kept = self._sorted_scores()
        up_to = np.searchsorted(kept, distinct, side="right")
        above = (kept.size - up_to).astype(np.int64)
        equal = (up_to - np.searchsorted(kept, distinct, side="left")).astype(np.int64)
        for table in self._tables:
            above_here, equal_here = table.standing(distinct)
            above += above_here
            equal += equal_here
        return above, equal

    def _keep(self, scores: Scores) -> None:
        if scores.dtype != self._slab.dtype:
            self._next_slab(scores.dtype, self.SLAB)
        while scores.size:
            if self._filled == self._slab.size:
                self._next_slab(scores.dtype, self.SLAB)
            fits = min(scores.size, self._slab.size - self._filled)
            self._slab[self._filled : self._filled + fits] = scores[:fits]
            self._filled += fits
            self._sorted = False
            scores = scores[fits:]

    def _start_tables(self) -> None:
        """Count the float32 scores kept so far, and those to come, where tables hold many of them."""
        self._next_slab(self._slab.dtype, 0)
        narrow = [slab for slab in self._full if slab.dtype == np.float32]
        self._tables = _Table.where_most_are(narrow, keys=self.TABLE, chunk=self.CHUNK)
        if not self._tables:
            return
        self._full = [slab for slab in self._full if slab.dtype != np.float32]
        self._sorted = False
        while narrow:
            self.add(narrow.pop())

    def _sorted_scores(self) -> Scores:
        """All scores kept so far in ascending order; float64 if any of them is. Not to be written to."""
        if not self._sorted:
            self._next_slab(self._slab.dtype, 0)
            end = sum(slab.size for slab in self._full)
            dtypes = {slab.dtype for slab in self._full} or {np.dtype(np.float32)}
            pooled: Scores = np.empty(end, dtype=np.result_type(*dtypes))
            while self._full:
                slab = self._full.pop()
                pooled[end - slab.size : end] = slab
                end -= slab.size
            pooled.sort()
            self._full = [pooled]
            self._sorted = True
        return self._full[0] if self._full else self._slab[:0]

    def _next_slab(self, dtype: np.dtype[np.floating[Any]], size: int) -> None:
        if self._filled:
            self._full.append(self._slab[: self._filled])
        self._slab = np.empty(size, dtype=dtype)
        self._filled = 0


class _Table:
    """How often each float32 number within a span of keys was counted."""

    COARSE = 20  # bits dropped to find where most scores are: an eighth of an octave is left
    MOST = 2  # tables: one for each sign, or for eight octaves
    BLOCK = 2**17  # entries added up at a time

    def __init__(self, lowest: int, keys: int) -> None:
        self._lowest = lowest
        self._counts: NDArray[Any] = np.zeros(keys, dtype=np.int32)  # pages are taken when first written to
        self._counted = 0
        self._from, self._to = keys, 0  # what was written to: entries _from up to _to, exclusive
        self._beyond: NDArray[np.int64] | None = None  # counted from each block on; None: not added up

    @classmethod
    def where_most_are(cls, slabs: list[Scores], *, keys: int, chunk: int) -> list[_Table]:
        """Tables of so many keys over the densest parts of float32 scores, each for at least an eighth of them."""
        spread = np.zeros(2 ** (32 - cls.COARSE), dtype=np.int64)
        for slab in slabs:
            for start in range(0, slab.size, chunk):
                coarse = keys32(slab[start : start + chunk]) >> cls.COARSE
                spread += np.bincount(coarse + spread.size // 2, minlength=spread.size)
        width = max(1, keys >> cls.COARSE)
        least = int(spread.sum()) / 8
        tables: list[_Table] = []
        while len(tables) < cls.MOST:
            up_to = np.append(0, np.cumsum(spread))
            held = up_to[width:] - up_to[:-width]
            best = np.flatnonzero(held == held.max())
            if held[best[0]] < least or not held[best[0]]:
                break
            first = int(best[best.size // 2])  # in the middle of those that hold as many: room on both sides
            tables.append(cls((first - spread.size // 2) << cls.COARSE, keys))
            spread[first : first + width] = 0
        return tables

    def count(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Count (n,) float32 scores, and return those that lie outside."""
        if not scores.size:
            return scores
        at = keys32(scores).astype(np.intp)
        at -= self._lowest
        low, high = int(at.min()), int(at.max())
        outside = scores[:0]
        if low < 0 or high >= self._counts.size:
            inside = (at >= 0) & (at < self._counts.size)
            outside, at = scores[~inside], at[inside]
            if not at.size:
                return outside
            low, high = int(at.min()), int(at.max())
        self._from, self._to = min(self._from, low), max(self._to, high + 1)
        self._counted += at.size
        self._beyond = None
        if self._counted > np.iinfo(np.int32).max and self._counts.dtype == np.int32:
            self._counts = self._counts.astype(np.int64)
        np.add.at(self._counts, at, self._counts.dtype.type(1))  # of its own type: many times faster than a Python 1
        return outside

    def standing(self, distinct: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `Pool.standing`, of the scores counted here."""
        if self._from >= self._to or not distinct.size:
            return np.zeros(distinct.size, dtype=np.int64), np.zeros(distinct.size, dtype=np.int64)
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite, and as far above or below all of them
            nearest = distinct.astype(np.float32)
        # The lowest float32 that is not below the score: counted ones from there on are above it, or equal it.
        reached = nearest
        if distinct.dtype != np.float32:
            with np.errstate(over="ignore"):  # above the largest float32 there is infinity
                reached = np.where(nearest < distinct, np.nextafter(nearest, np.float32(np.inf)), nearest)
        key = keys32(reached).astype(np.int64) - self._lowest
        at = np.clip(key, self._from, self._to)
        starts, ends = runs(at)
        from_here = np.repeat(self._counted_from(at[starts]), ends - starts)
        hit = (reached == distinct) & (key == at) & (key < self._to)
        equal = np.zeros(distinct.size, dtype=np.int64)
        equal[hit] = self._counts[key[hit]]
        return from_here - equal, equal

    def _counted_from(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """(K,) sums from each of K ascending places on, the last of which may be the end of what was written to."""
        end = -(-int(starts[-1]) // self.BLOCK) * self.BLOCK
        sums = np.zeros(starts.size, dtype=np.int64)
        for low in range(int(starts[0]), end, self.BLOCK):  # reduceat would widen all counts at once
            block = self._counts[low : min(low + self.BLOCK, end)].astype(np.int64)
            first, last = np.searchsorted(starts, [low, low + block.size])
            within = starts[first:last] - low
            sums[first:last] += np.add.reduceat(block, within) if within.size else 0
            if first:
                sums[first - 1] += block[: within[0] if within.size else None].sum()
        return np.cumsum(sums[::-1])[::-1] + self._counted_beyond(end)

    def _counted_beyond(self, end: int) -> int:
        """How many were counted in the blocks from `end` on, which is a multiple of their size."""
        if self._beyond is None:
            sums = np.zeros(-(-self._counts.size // self.BLOCK) + 1, dtype=np.int64)
            for block in range(self._from // self.BLOCK, -(-self._to // self.BLOCK)):
                sums[block] = self._counts[block * self.BLOCK : (block + 1) * self.BLOCK].sum(dtype=np.int64)
            self._beyond = np.cumsum(sums[::-1])[::-1]
        return int(self._beyond[end // self.BLOCK])


def rank_in_pool(
    found: Sequence[Scores], sizes: NDArray[np.int64], pool: Pool, *, n_normal: int, pooled: bool
) -> Iterator[tuple[Ranking, Step]]:
    """Where defect scores stand among `n_normal` pooled ones, in parts from the highest scores down.

    found, sizes: the defect scores, as `descend`. pooled: they are in the pool too.
    """
    n_positive = int(np.sum(sizes))
    before = 0
    for step in descend(found, sizes):
        above, equal = pool.standing(step.distinct)
        here = int(np.sum(step.at))
        if pooled:
            equal -= step.at
            above -= before + here - np.cumsum(step.at)
        yield Ranking(n_positive, n_normal, at=step.at, above=above, equal=equal, before=before), step
        before += here
