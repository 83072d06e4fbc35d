"""Rows of features that come block by block: in memory while they fit, in a temporary file when they do not."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from uadctl.errors import RunError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Numbers in a block: what is written to the file, and brought in from it, at a time. A block of 32 MB goes back to the
# system when it is dropped, and so leaves no hole in the heap.
_NUMBERS = 2**23


class FeatureStore:
    """(n, d) float32 rows, appended in blocks and read in any order.

    memory: bytes of rows that are held in memory, on the device they came on. When they grow beyond it, all of them
        move to an unnamed file in the folder for temporary files ($TMPDIR), which is memory-mapped to be read: the
        system keeps as much of it in memory as it has to spare. What is read goes back to that device. The file is gone
        with the store, even after a crash.

    A context manager; after its end only arrays that were handed out live on.
    """

    def __init__(self, *, memory: int) -> None:
        self.memory = memory
        self.dim = 0
        self._length = 0
        self._waiting: list[torch.Tensor] = []
        self._blocks: list[torch.Tensor] = []
        self._starts: list[int] = [0]
        self._file: Any = None
        self._map: NDArray[np.float32] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting, self._blocks, self._map = [], [], None
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return self._length

    @property
    def on_disk(self) -> bool:
        """Whether the rows have outgrown the memory that they were given."""
        return self._file is not None

    def append(self, rows: torch.Tensor) -> None:
        """Add (m, d) rows; nothing may be changed in them afterwards. Raises RunError where the disk is full."""
        self.dim, self._device = rows.shape[1], rows.device
        self._length += len(rows)
        self._waiting.append(rows)
        if (self._length - self._starts[-1]) * self.dim >= _NUMBERS:
            self._settle()

    def _settle(self) -> None:
        """Put the rows that wait where rows belong: a block of their own, or the file."""
        import torch

        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        if not self.on_disk and 4 * self._length * self.dim <= self.memory:
            self._blocks.append(waiting[0] if len(waiting) == 1 else torch.cat(waiting))
        else:
            self._write(waiting)
        self._starts.append(self._length)

    def _write(self, rows: list[torch.Tensor]) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="uadctl-features-")  # noqa: SIM115 - closed with the store
                rows, self._blocks = self._blocks + rows, []
            for block in rows:
                self._file.write(block.cpu().contiguous().numpy().data)
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{tempfile.gettempdir()}: features beyond feature_memory cannot be kept there: {error}",
                help="Set TMPDIR to a folder with more room, or raise feature_memory.",
            ) from error
        self._map = None

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Consecutive rows, (m, d). Not to be changed."""
        import torch

        self._settle()
        start, stop, _ = rows.indices(self._length)
        if self.on_disk:
            self._let_go()  # of earlier slices; who still holds one reads it from the file again
            return torch.from_numpy(self._mapped()[start:stop]).to(self._device)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        for i in range(first, len(self._blocks)):
            begin = self._starts[i]
            if begin >= stop:
                break
            parts.append(self._blocks[i][max(0, start - begin) : stop - begin])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """All rows in order: where a block lies, and the block, which is good until the next one is asked for."""
        self._settle()
        for start, stop in zip(self._starts, self._starts[1:], strict=False):
            yield slice(start, stop), self[start:stop]
            self._let_go()

    def rows(self, index: NDArray[np.int64]) -> torch.Tensor:
        """(m, d) the rows of these numbers, in this order."""
        import torch

        self._settle()
        if self.on_disk:
            taken = torch.from_numpy(self._mapped()[index]).to(self._device)
            self._let_go()
            return taken
        out = torch.empty((len(index), self.dim), device=self._device)
        order = np.argsort(index, kind="stable")
        ends = np.searchsorted(index[order], self._starts)
        for start, low, high, block in zip(self._starts, ends, ends[1:], self._blocks, strict=False):
            if low < high:
                which = order[low:high]
                out[torch.from_numpy(which)] = block[torch.from_numpy(index[which] - start).to(block.device)]
        return out

    def _mapped(self) -> NDArray[np.float32]:
        if self._map is None:
            # Copy on write: torch takes no read-only arrays, and nobody writes.
            self._map = np.memmap(self._file, dtype=np.float32, mode="c", shape=(self._length, self.dim))
        return self._map

    def _let_go(self) -> None:
        """Pages that were read count as this process's memory until it says that it is done with them."""
        mapping = getattr(self._map, "_mmap", None)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)
