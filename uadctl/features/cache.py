"""Features that were computed once and are asked for again: by another cell of a bench with the same backbone."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class FeatureCache:
    """A size-limited store of backbones' outputs, which keeps what came first.

    Models of a bench go through the same batches in the same order, one model after the other. Where not all fit,
    dropping the oldest batch for a new one would always drop the one that is asked for next, and find none; keeping the
    first finds a part of them every time.

    It knows whole batches, not images: libraries choose their kernels by the shape of the batch, so an image's features
    may differ in the last bits with the company it was computed in. A batch of the same images in the same order is
    computed the same way, so results have the same bytes with and without the cache.

    Tensors are copied on the way in and on the way out: what a caller does to its features stays with that caller.
    Copies cost a thousandth of computing them. Threads may share one cache.

    max_bytes: most that the features kept may take, on whichever device they are.

    Attributes: `hits` and `misses` of `get`, `nbytes` kept now. Raises ValueError for a negative limit.
    """

    def __init__(self, *, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes (={max_bytes}) must be at least 0")
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self.nbytes = 0
        self._kept: dict[bytes, list[torch.Tensor]] = {}
        self._lock = threading.Lock()

    def key(self, identity: str, images: NDArray[np.uint8]) -> bytes:
        """The name of a batch: SHA-256 over who computes it (`Backbone.identity`), its shape, type and pixels."""
        import numpy as np

        digest = hashlib.sha256(f"{identity}\n{images.shape}\n{images.dtype.str}\n".encode())
        digest.update(np.ascontiguousarray(images).data)
        return digest.digest()

    def get(self, key: bytes) -> list[torch.Tensor] | None:
        """Copies of the features kept under `key`, one tensor a layer, or None."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                self.misses += 1
                return None
            self.hits += 1
        return _copies(kept)

    def put(self, key: bytes, features: Sequence[torch.Tensor]) -> None:
        """Keep a copy of `features`, if they still fit into `max_bytes`."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in features)
        with self._lock:
            if key in self._kept or self.nbytes + size > self.max_bytes:
                return
            self._kept[key] = _copies(features)
            self.nbytes += size

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._kept.clear()
            self.nbytes = 0


def _copies(features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    import torch

    # An inference tensor like those of a backbone; strides are kept, and with them what is computed from it.
    with torch.inference_mode():
        return [tensor.clone() for tensor in features]
