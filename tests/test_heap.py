"""What was freed goes back to the system."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import pytest

from uadctl import heap


def held() -> int:
    """Bytes of memory this process holds."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc gives memory back"
)
def test_freed_blocks_between_held_ones_are_given_back():
    blocks = [bytes(10_000) for _ in range(20_000)]
    blocks[:-1] = [None] * (len(blocks) - 1)  # the last one keeps the heap from shrinking by itself
    before = held()
    heap.give_back()
    assert before - held() > 100_000_000


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)  # not even looked for
    heap.give_back()
