"""What the tests of `uadctl calibrate` look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import parts

UNIT = "units/tile/vision_patchcore/0"


def thresholds(run: Path, name: str = "thresholds.json", unit: str = UNIT) -> Any:
    """What a unit's thresholds.json says, or another of its files."""
    return json.loads((run / unit / name).read_text(encoding="utf-8"))


def files(run: Path) -> dict[str, bytes]:
    """Every file of a run and its bytes."""
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def good_images(folder: Path, number: int) -> Path:
    """A folder of so many good images that no run has seen."""
    for i in range(number):
        parts.write(folder / f"{i}.png", parts.surface(700 + i))
    return folder
