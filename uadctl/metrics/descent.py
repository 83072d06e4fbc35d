"""Defect scores from the highest down, some at a time: what sums over all of them need, in little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uadctl.metrics.keys import keys32, runs, scores32
from uadctl.metrics.ranking import Scores

#: Scores that are looked at together, but for equal ones, which are never parted: what is made of them stays in the
#: cache.
CHUNK = 2**16

_REGION_BITS = 32


@dataclass(frozen=True, slots=True)
class Step:
    """All defect scores between two values, and whose they are.

    distinct: (K,) the scores, each once, ascending.
    at:       (K,) int64, how many defect scores equal each.
    entry:    (M,) integer, ascending, which of the K: one entry for each score and each region that has it, or more.
    region:   (M,) integer, which region.
    times:    (M,) int64, how often the region has the score there; `at` in sum.
    """

    distinct: Scores
    at: NDArray[np.int64]
    entry: NDArray[np.intp]
    region: NDArray[np.int64]
    times: NDArray[np.int64]


def descend(found: Sequence[Scores], sizes: NDArray[np.int64]) -> Iterator[Step]:
    """The scores of R regions in steps from the highest down, ties in one step.

    found: float32 or float64 arrays that put together are the scores region after region, at least one score.
    sizes: (R,) how many scores each region has, at least 1.
    """
    steps = _descend32 if all(scores.dtype == np.float32 for scores in found) else _descend64
    return steps(found, sizes)


def _descend32(found: Sequence[Scores], sizes: NDArray[np.int64]) -> Iterator[Step]:
    # The key of the score and the region in one number: sorted in place, where a sort of the scores would need to
    # say in another array, as large, where each came from.
    packed = np.repeat(np.arange(sizes.size), sizes)
    start = 0
    for scores in found:
        for low in range(0, scores.size, CHUNK):
            some = keys32(scores[low : low + CHUNK]).astype(np.int64)
            packed[start : start + some.size] |= some << _REGION_BITS
            start += some.size
    packed.sort()
    end = packed.size
    while end:
        start = int(np.searchsorted(packed, packed[max(0, end - CHUNK)] >> _REGION_BITS << _REGION_BITS))
        starts, ends = runs(packed[start:end])
        pairs = packed[start:end][starts]
        yield _step(scores32((pairs >> _REGION_BITS).astype(np.int32)), pairs & (2**_REGION_BITS - 1), (ends - starts))
        end = start


def _descend64(found: Sequence[Scores], sizes: NDArray[np.int64]) -> Iterator[Step]:
    scores = np.concatenate(found, dtype=np.float64)
    of_region = np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)
    order = np.argsort(scores)
    end = scores.size
    while end:
        start = int(np.searchsorted(scores, scores[order[max(0, end - CHUNK)]], sorter=order))
        here, region = scores[order[start:end]], of_region[order[start:end]]
        changes = np.flatnonzero((here[1:] != here[:-1]) | (region[1:] != region[:-1])) + 1
        starts = np.append(0, changes)
        yield _step(here[starts], region[starts].astype(np.int64), np.diff(starts, append=here.size))
        end = start


def _step(scores: Scores, region: NDArray[np.int64], times: NDArray[Any]) -> Step:
    starts, ends = runs(scores)
    return Step(
        distinct=scores[starts],
        at=np.add.reduceat(times, starts),
        entry=np.repeat(np.arange(starts.size), ends - starts),
        region=region,
        times=times,
    )
