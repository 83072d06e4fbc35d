"""Run folders made by hand, as bench writes them, for what only reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import parts

from uadctl.runs.folder import SCORE_COLUMNS

# (path, label, defect, score)
Image = tuple[str, int, str, float | None]

IMAGES: tuple[Image, ...] = (
    ("test/good/000.png", 0, "good", 4.0),
    ("test/good/001.png", 0, "good", 12.0),
    ("test/dent/000.png", 1, "dent", 9.0),
    ("test/dent/001.png", 1, "dent", 40.0),
)
METRICS = {"image_auroc": 0.75, "miss_rate": 0.5, "false_alarm_rate": 0.5, "tp": 1, "fp": 1, "fn": 1, "tn": 1}
COUNTS = {"images": 4, "normal_images": 2, "defect_images": 2, "alarms": 2}


def write_json(path: Path, value: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, **value}), encoding="utf-8")


def make_run(
    folder: Path, *, status: str = "done", verb: str = "bench", models: str = "", more: str = "", **facts: object
) -> Path:
    """A run without units. models: TOML of them in place of one vision_patchcore; more: further TOML."""
    folder.mkdir(parents=True)
    models = models or '[model]\nname = "vision_patchcore"\n'
    (folder / "spec.toml").write_text(
        f'[run]\nname = "parts"\ndir = "{folder.name}"\n[dataset]\nname = "mvtec"\nroot = "/{folder.name}"\n{models}{more}'
    )
    record = {"status": status, "verb": verb, "name": "parts", "hash": "0123abcd", "seed": 0}
    record |= {"started": "2026-01-01T12:00:00+00:00", "finished": "2026-01-01T12:01:00+00:00"}
    write_json(folder / "run.json", record | facts)
    return folder


def add_unit(
    run: Path,
    category: str = "tile",
    label: str = "vision_patchcore",
    seed: int = 0,
    *,
    images: Sequence[Image] = IMAGES,
    metrics: Mapping[str, float | None] = METRICS,
    threshold: float | None = 10.0,
    review: float | None = None,
    replicates: Mapping[str, object] | None = None,
    **measured: object,
) -> Path:
    """A finished unit with an overlay for each image that has a score."""
    unit = run / "units" / category / label / str(seed)
    lines = [",".join(SCORE_COLUMNS)]
    for path, truth, defect, score in images:
        if score is None:
            lines.append(f"{path},test,{truth},{defect},,{threshold},,error,cannot be read,")
            continue
        said = "good"
        if threshold is None:
            said = ""
        elif score >= threshold:
            said = "anomaly"
        elif review is not None and score >= review:
            said = "review"
        stem = path.removesuffix(".png")
        limit = "" if threshold is None else threshold
        lines.append(f'"{path}",test,{truth},{defect},{score!r},{limit},{said},ok,,"maps/{stem}.tiff"')
        parts.write(unit / "overlays" / f"{stem}.png", parts.surface(int(score * 10), 30, 40))
    unit.mkdir(parents=True, exist_ok=True)
    (unit / "scores.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figures = {"success": True, "metrics": dict(metrics), "reasons": {}, "counts": COUNTS}
    write_json(unit / "metrics.json", figures | measured)
    image = {"value": threshold, "method": "quantile", "alpha": 0.01, "n": 20, "source": "leave-one-out"}
    write_json(unit / "thresholds.json", {"image": image, "pixel": None, "scores": [2.0, 3.0, 9.9]})
    if replicates is not None:
        write_json(unit / "replicates.json", replicates)
    (unit / "status").write_text("done\n")
    return unit


def fail_unit(run: Path, category: str, error: str, *, label: str = "vision_patchcore") -> None:
    unit = run / "units" / category / label / "0"
    write_json(unit / "metrics.json", {"success": False, "error": error})
    (unit / "status").write_text("failed\n")
