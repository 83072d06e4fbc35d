"""As many images at a time as there is memory for: half as many, where it runs out."""

from __future__ import annotations

import errno
import functools
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from uadctl import heap
from uadctl.errors import ImageError, UadctlError
from uadctl.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

# What the warnings of this module have in them, and no other.
FEWER = "out of memory with "

# How libraries without an exception of their own for it say that memory has run out.
_WORDS = (
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "Invalid buffer size",  # MPS: more than the largest buffer
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",  # Windows
    "std::bad_alloc",
    "bad allocation",  # std::bad_alloc in Windows' words
    "Failed to allocate memory",  # ONNX Runtime
    "CL_OUT_OF_RESOURCES",  # OpenVINO on a GPU
    "CL_MEM_OBJECT_ALLOCATION_FAILURE",
    "Insufficient memory",  # OpenCV
)


def ran_out(error: BaseException) -> bool:
    """Whether an error, or the one that it was raised from, says that memory has run out."""
    seen: BaseException | None = error
    while seen is not None:
        # torch has a type for it on CUDA; it is told by its name, so that nothing loads torch to ask.
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return True
        # What uadctl says in words of its own is never meant: only what it was raised from.
        if not isinstance(seen, UadctlError) and any(words in str(seen) for words in _WORDS):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def attempt(work: Callable[[], R]) -> R | ImageError:
    """What `work` returns; or why it cannot: out of memory, or an ImageError that it raises.

    What was made on the way is freed by then: no traceback is left that would hold on to it.
    """
    try:
        return work()
    except ImageError as error:
        failed = ImageError(error.problems, help=error.help)
    except Exception as error:
        if not ran_out(error):
            raise
        failed = ImageError("does not fit into memory", large=True)
    if failed.large:
        give_back()
    return failed


def give_back() -> None:
    """Return what is free to the system and to the device, for a new attempt."""
    gc.collect()
    heap.give_back()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


class Room:
    """How many images at a time memory holds, found out by work that runs out of it.

    images: how many are tried; fewer, once memory has run out with so many.
    progress: is told, once, that work goes on with fewer; or, once, that one image did not fit by itself, whose
        neighbours were tried in smaller parts.
    settled: is told of each other number of `images`, for whoever makes batches.
    """

    def __init__(self, images: int, *, progress: Progress, settled: Callable[[int], None] | None = None) -> None:
        self.images = images
        self._progress = progress
        self._settled = settled
        self._told = False  # that one did not fit, and what was beside it

    def parts(
        self, work: Callable[[Sequence[T]], R], items: Sequence[T]
    ) -> Iterator[tuple[Sequence[T], R | ImageError]]:
        """Consecutive parts of the items, and what `work` makes of each: as large as memory allows.

        Where an item by itself fails, by memory or by an ImageError that `work` raises, the error comes in place of an
        answer, with that item alone. Everything else that `work` raises is raised.
        """
        start, failed_with, before = 0, 0, self.images
        while start < len(items):
            part = items[start : start + self.images]
            said = attempt(functools.partial(work, part))
            if isinstance(said, ImageError) and len(part) > 1:
                if said.large:
                    failed_with = failed_with or len(part)
                    self._settle(len(part) // 2)
                    continue
                # One of them has no answer. Which one, each by itself will tell.
                for alone in (part[i : i + 1] for i in range(len(part))):
                    yield alone, attempt(functools.partial(work, alone))
            else:
                if failed_with and isinstance(said, ImageError) and said.large:
                    # It was this one that did not fit: the others may have as much company as before.
                    self._settle(before)
                    self._warn_of_one(failed_with)
                    failed_with = 0
                yield part, said
            start += len(part)
        if failed_with:
            self._progress.warn(f"{FEWER}{failed_with} images at a time; going on with {self.images}")

    def _warn_of_one(self, images: int) -> None:
        # The others were computed in other company than if memory had sufficed: their last bits may differ.
        if not self._told:
            self._told = True
            self._progress.warn(f"{FEWER}{images} images at a time; one of them does not fit by itself")

    def _settle(self, images: int) -> None:
        self.images = images
        if self._settled is not None:
            self._settled(images)
