"""Run folders as bench writes them, made by hand: what a report shows of them is known beforehand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import parts

from uadctl.imaging.files import write_map
from uadctl.runs.folder import SCORE_COLUMNS

# (path, label, defect, score); the threshold is 10.
THRESHOLD = 10.0
IMAGES = (
    ("test/good/000.png", 0, "good", 4.0),
    ("test/good/001.png", 0, "good", 12.0),
    ("test/good/002.png", 0, "good", 9.5),
    ("test/good/003.png", 0, "good", 30.0),
    ("test/scratch/000.png", 1, "scratch", 9.0),
    ("test/scratch/001.png", 1, "scratch", 40.0),
    ("test/dent/000.png", 1, "dent", 3.0),
    ("test/dent/001.png", 1, "dent", 11.0),
)
METRICS = {"image_auroc": 0.5625, "image_ap": 0.7, "tp": 2, "fp": 2, "fn": 2, "tn": 2}
METRICS |= {"miss_rate": 0.5, "false_alarm_rate": 0.5, "precision": 0.5}
COUNTS = {"images": 8, "normal_images": 4, "defect_images": 4, "alarms": 4, "train_images": 20, "broken_images": 0}
# Of the maps of `add_layers`: normal pixels are 1 to 2, those of a defect 9.
SCALE = {"mean": 1.0, "std": 1.0, "max": 2.0, "threshold": 5.0, "n": 100, "sigmas": 4.0}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, **value}), encoding="utf-8")


def begin_run(parent: Path, *, status: str = "done", verb: str = "bench", root: str = "/data", **facts: Any) -> Path:
    """A run folder without units. root: of the data set, in MVTec AD's layout."""
    run = parent / "20260101T120000Z-parts-0123abcd"
    run.mkdir(parents=True)
    (run / "spec.toml").write_text(
        f'[run]\nname = "parts"\n[dataset]\nname = "mvtec"\nroot = "{root}"\n[model]\nname = "vision_patchcore"\n'
    )
    record = {"status": status, "verb": verb, "name": "parts", "hash": "0123abcd", "seed": 0}
    record |= {"started": "2026-01-01T12:00:00+00:00", "finished": "2026-01-01T12:01:00+00:00"}
    write_json(run / "run.json", record | facts)
    return run


def add_unit(
    run: Path,
    category: str,
    images: Sequence[tuple[str, int, str, float]] = IMAGES,
    *,
    metrics: Any = METRICS,
    reasons: Any = None,
    threshold: float | None = THRESHOLD,
    review: float | None = None,
    broken: Sequence[tuple[str, str]] = (),
    overlays: bool = True,
) -> Path:
    """A finished unit with an overlay for each image."""
    unit = run / "units" / category / "vision_patchcore" / "0"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SCORE_COLUMNS)
    for path, label, defect, score in images:
        said = "" if threshold is None else "anomaly" if score >= threshold else "good"
        if review is not None and said == "good" and score >= review:
            said = "review"
        limit = "" if threshold is None else threshold
        stem = path.removesuffix(".png")
        writer.writerow([path, "test", label, defect, repr(score), limit, said, "ok", "", f"maps/{stem}.tiff"])
        if overlays:
            parts.write(unit / "overlays" / f"{stem}.png", parts.surface(int(score * 10), 90, 700))
    for path, reason in broken:
        writer.writerow([path, "test", 0, "good", "", threshold, "", "error", reason, ""])
    unit.mkdir(parents=True, exist_ok=True)
    (unit / "scores.csv").write_text(text.getvalue(), encoding="utf-8")
    metrics = {"success": True, "metrics": metrics, "reasons": reasons or {}, "counts": COUNTS}
    write_json(unit / "metrics.json", metrics)
    image: dict[str, Any] = {
        "value": threshold,
        "method": "quantile",
        "alpha": 0.01,
        "n": 20,
        "source": "leave-one-out",
    }
    if threshold is None:
        image |= {"source": None, "n": 0, "reason": "1 training image leaves no other to compare it with"}
    lower = None if review is None else {**image, "value": review, "alpha": 0.05}
    document = {"image": image, "review": lower, "pixel": None, "scores": [2.0, 3.0, 9.9]}
    write_json(unit / "thresholds.json", document)
    (unit / "status").write_text("done\n")
    return unit


def add_layers(
    unit: Path,
    category: Path,
    images: Sequence[tuple[str, int, str, float]] = IMAGES,
    *,
    size: tuple[int, int] = (64, 96),
) -> None:
    """The images of a unit in a data set of MVTec AD's layout, their masks, and their maps in the run folder.

    Defects are 12 x 24 pixels at row 20, column 24; the maps find them and two pixels around.
    """
    parts.write(category / "train" / "good" / "000.png", parts.surface(1, *size))
    for i, (path, label, defect, _) in enumerate(images):
        image, mask = parts.scratched(i, *size)
        field = np.linspace(1, 2, size[0] * size[1], dtype=np.float32).reshape(size)
        if label == 1:
            name = f"{Path(path).stem}_mask.png"
            parts.write(category / "ground_truth" / defect / name, mask)
            field[18:34, 22:50] = 9
        parts.write(category / path, image if label == 1 else parts.surface(i, *size))
        write_map(unit / "maps" / f"{path.removesuffix('.png')}.tiff", field)
    document = json.loads((unit / "thresholds.json").read_text())
    write_json(unit / "thresholds.json", {**document, "pixel": SCALE})


def fail_unit(run: Path, category: str, error: str) -> Path:
    unit = run / "units" / category / "vision_patchcore" / "0"
    write_json(unit / "metrics.json", {"success": False, "error": error})
    (unit / "status").write_text("failed\n")
    (unit / "error.txt").write_text("Traceback …\n", encoding="utf-8")
    return unit
