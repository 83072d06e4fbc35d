"""Scores as whole numbers that keep their order: what makes counting possible where sorting is slow.

The bits of a floating-point number without its sign, read as a whole number, are ordered as such numbers are; the
sign is then put before it again. Neighbouring scores so get neighbouring numbers, here called keys, and dropping the
lowest bits of the keys merges them into bins of equal relative width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A float64 has so many bits more than a float32, all 0 where a float32 was widened.
WIDER = 29

# The exponent's bias is 127 in one and 1023 in the other: so far apart are the key of a normal float32 number and that
# of the same number in float64 without the WIDER bits (up for positive numbers, down for negative ones).
_BIAS = (1023 - 127) << 23
_SMALLEST_NORMAL = 0x00800000
_INFINITY = 0x7F800000


def keys32(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """(n,) keys of float32 scores without NaN; both zeros are 0, positive scores are their own bits."""
    bits = scores.view(np.int32)
    negative = bits >> 31  # -1 or 0
    keys = negative & np.int32(0x7FFFFFFF)
    keys ^= bits
    keys -= negative
    return keys


def scores32(keys: NDArray[np.int32]) -> NDArray[np.float32]:
    """(n,) the scores that `keys32` gave these keys; 0 for both zeros."""
    negative = keys >> 31
    bits = keys + negative
    bits ^= negative & np.int32(0x7FFFFFFF)
    return bits.view(np.float32)


def keys64(scores: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """(n,) keys of scores without NaN, as float64 whatever their type; both zeros are 0."""
    bits = scores.astype(np.float64, copy=False).view(np.int64)
    negative = bits >> 63
    keys = negative & np.int64(0x7FFFFFFFFFFFFFFF)
    keys ^= bits
    keys -= negative
    return keys


def narrow_keys(scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], int, NDArray[np.float32]]:
    """What `keys64(scores) >> WIDER` would give, got without widening the numbers. scores: (n,), n >= 1, without NaN.

    Returns the keys of all scores that are normal numbers, how many scores are zero, and the few scores that are
    neither: infinities, and numbers so small that float32 holds them with fewer digits.
    """
    bits = keys32(scores)
    low, high = int(bits.min()), int(bits.max())
    keys: NDArray[np.int64]
    if (low >= _SMALLEST_NORMAL and high < _INFINITY) or (low > -_INFINITY and high <= -_SMALLEST_NORMAL):
        keys = bits.astype(np.int64)
        keys += _BIAS if low > 0 else -_BIAS
        return keys, 0, scores[:0]
    magnitude = np.abs(bits)
    normal = (magnitude >= _SMALLEST_NORMAL) & (magnitude < _INFINITY)
    keys = bits[normal].astype(np.int64)
    keys += np.where(keys > 0, _BIAS, -_BIAS)
    n_zero = bits.size - int(np.count_nonzero(bits))
    rest = scores[~normal & (bits != 0)] if keys.size + n_zero < bits.size else scores[:0]
    return keys, n_zero, rest


def common_zeros(keys: NDArray[np.int64]) -> int:
    """How many of the lowest bits are 0 in every key; 63 where there is no other key than 0, or none at all."""
    seen = int(np.bitwise_or.reduce(keys)) if keys.size else 0
    return (seen & -seen).bit_length() - 1 if seen else 63


def needed_shift(keys: NDArray[np.int64], capacity: int, *, least: int) -> int:
    """The fewest low bits to drop, at least `least`, for keys in ascending order to fill that many bins at most."""
    low, high = least, 63  # with 63 bits dropped two bins are left
    while low < high:
        middle = (low + high) // 2
        bins = keys >> middle
        if 1 + np.count_nonzero(bins[1:] != bins[:-1]) <= capacity:
            high = middle
        else:
            low = middle + 1
    return low


def runs(values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each run of equal values starts and ends (exclusive). values: (n,) ascending, n >= 1."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.append(0, changes), np.append(changes, values.size)
