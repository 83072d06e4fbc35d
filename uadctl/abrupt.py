"""What is put in order where the process ends without coming back: `os._exit` runs no `finally`.

A long call into C code cannot be interrupted. When the program must end all the same, what stands here is done by
another thread than the one that registered it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

_todo: dict[object, Callable[[], object]] = {}


@contextlib.contextmanager
def at_abrupt_end(do: Callable[[], object]) -> Iterator[None]:
    """Have `do` called if the process ends abruptly within the block; where the block ends by itself it is not.

    It must be safe beside the code that it cuts off, which may still be running: whole files replaced by whole files.
    """
    key = object()
    _todo[key] = do
    try:
        yield
    finally:
        del _todo[key]


def end_abruptly() -> None:
    """Do what was registered, the earliest first; what one of them raises does not keep the others from it."""
    for do in list(_todo.values()):
        with contextlib.suppress(Exception):
            do()
