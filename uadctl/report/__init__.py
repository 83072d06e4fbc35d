"""What is made of finished results, for programs (JSON) and people (a page). Reads results, never a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uadctl.atomic import write_json
from uadctl.report.html import report

__all__ = ["report", "save_run_report"]


def save_run_report(path: str | Path, results: Mapping[str, Any]) -> Path:
    """Write results as strict JSON: image and pixel metrics, whatever is there, in the order given.

    path: the file; its folders are made. results: nested mappings, sequences, numbers and texts; numpy numbers and
    arrays, paths and tuples are converted.
    Returns the path. Raises ValueError for NaN and infinity (write None and a reason instead), TypeError for what JSON
    cannot hold.
    """
    file = Path(path)
    write_json(file, _plain(results))
    return file


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return _plain(value.tolist())
    return value
