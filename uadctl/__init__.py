"""uadctl: find defects on images having seen only good parts.

The names below are loaded when they are first used; `import uadctl` itself loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.4.0"

if TYPE_CHECKING:
    from uadctl.bench import build_default_detector, run_benchmark
    from uadctl.datasets import load_benchmark_split, load_dataset
    from uadctl.metrics import evaluate_detector
    from uadctl.runs.fitted import load_run
    from uadctl.spec import create_model, list_models, model_info

__all__ = [
    "__version__",
    "build_default_detector",
    "create_model",
    "evaluate_detector",
    "list_models",
    "load_benchmark_split",
    "load_dataset",
    "load_run",
    "model_info",
    "run_benchmark",
]

_HOMES = {
    "build_default_detector": "uadctl.bench",
    "create_model": "uadctl.spec",
    "evaluate_detector": "uadctl.metrics",
    "list_models": "uadctl.spec",
    "load_benchmark_split": "uadctl.datasets",
    "load_dataset": "uadctl.datasets",
    "load_run": "uadctl.runs.fitted",
    "model_info": "uadctl.spec",
    "run_benchmark": "uadctl.bench",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'uadctl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
