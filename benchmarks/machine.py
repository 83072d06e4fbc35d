"""The machine that figures come from: what it is, what is installed, and what it can do at most."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Contender, compare
from uadctl.runs import provenance

# Processor features that decide which kernels run.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
_PEERS = (
    "scikit-learn",
    "anomalib",
    "lightning",
    "timm",
    "adeval",
    "faiss-cpu",
    "openvino",
    "typer",
)
_SIDE = 2048  # of the matrices multiplied
_COPIED = 1 << 28  # bytes copied: far more than caches hold


def environment() -> dict[str, Any]:
    """Processor, cores, features, memory in bytes, system; versions of uadctl, of what it uses, and of the peers."""
    facts = provenance.machine()
    return {
        "processor": facts["processor"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else facts["cores"],
        "features": features(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{facts['system']} {facts['architecture']}",
        "versions": {**provenance.versions(), **{name: _version(name) for name in _PEERS}},
    }


def features() -> list[str]:
    """Which of the features that matter here the processor has; empty where /proc/cpuinfo does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return []
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words = set(value.split())
            return [flag for flag in _FLAGS if flag in words]
    return []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def roofline(*, quick: bool = False) -> dict[str, float]:
    """What the machine reaches at best, by number of threads: fp32 GFLOP/s of a product of matrices of 2048 x 2048
    (torch), and GB/s of a large copy, read and written bytes both counted.

    No work can be faster than its operations at the one rate and its traffic at the other.
    """
    out = {}
    for threads in (1, 2):
        product, copy = compare(
            [
                Contender(
                    f"matrix product, {threads} threads", "benchmarks.machine:matmul", {"rounds": 1 if quick else 8}
                ),
                Contender(f"copy, {threads} threads", "benchmarks.machine:copy", {"rounds": 1 if quick else 8}),
            ],
            repeats=1 if quick else 3,
            threads=threads,
        )
        out[f"gflops_{threads}"] = round(max(r.value for r in product.runs), 1)
        out[f"gbytes_{threads}"] = round(max(r.value for r in copy.runs), 1)
    return out


def matmul(*, rounds: int) -> Callable[[], float]:
    """GFLOP/s of the fastest of `rounds` products."""
    import time

    import torch

    a, b = torch.rand(2, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0)).unbind()
    out = a @ b

    def work() -> float:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            seconds.append(time.perf_counter() - start)
        return 2 * _SIDE**3 / min(seconds) / 1e9

    return work


def copy(*, rounds: int) -> Callable[[], float]:
    """GB/s of the fastest of `rounds` copies."""
    import time

    import torch

    a = torch.zeros(_COPIED // 4)
    b = torch.ones(_COPIED // 4)

    def work() -> float:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            b.copy_(a)
            seconds.append(time.perf_counter() - start)
        return 2 * _COPIED / min(seconds) / 1e9

    return work
