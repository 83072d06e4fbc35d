"""uadctl: find defects on images having seen only good parts.

The names below are loaded when they are first used; `import uadctl` itself loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.11.0"

if TYPE_CHECKING:
    from uadctl.bench import build_default_detector, run_benchmark
    from uadctl.datasets import load_benchmark_split, load_dataset
    from uadctl.evaluate import evaluate_split, quick_benchmark
    from uadctl.metrics import evaluate_detector
    from uadctl.models.checks import check_detector, check_model
    from uadctl.runs.bundle import write_bundle
    from uadctl.runs.loading import load_run
    from uadctl.spec import create_model, list_models, model_info

__all__ = [
    "__version__",
    "build_default_detector",
    "check_detector",
    "check_model",
    "create_model",
    "evaluate_detector",
    "evaluate_split",
    "list_models",
    "load_benchmark_split",
    "load_dataset",
    "load_run",
    "model_info",
    "quick_benchmark",
    "run_benchmark",
    "write_bundle",
]

_HOMES = {
    "build_default_detector": "uadctl.bench",
    "check_detector": "uadctl.models.checks",
    "check_model": "uadctl.models.checks",
    "create_model": "uadctl.spec",
    "evaluate_detector": "uadctl.metrics",
    "evaluate_split": "uadctl.evaluate",
    "list_models": "uadctl.spec",
    "load_benchmark_split": "uadctl.datasets",
    "load_dataset": "uadctl.datasets",
    "load_run": "uadctl.runs.loading",
    "model_info": "uadctl.spec",
    "quick_benchmark": "uadctl.evaluate",
    "run_benchmark": "uadctl.bench",
    "write_bundle": "uadctl.runs.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'uadctl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
