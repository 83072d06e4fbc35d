"""Manifests that nobody meant, CSV and JSON lines, on a folder with a few images and with what only looks like some.

What is accepted names files that are there, each image once, in categories that can be folders; written again as a
manifest, it is the same samples.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

from fuzz.figures import ACCEPTED, Broken, Case, Figures, drive
from fuzz.mutate import TEXTS, as_json, mutated_bytes, mutated_tree, text, value
from fuzz.spec import check_messages
from uadctl.check import check_dataset
from uadctl.datasets import Dataset, list_categories, load_dataset
from uadctl.datasets.manifest import COLUMNS, compose_manifest
from uadctl.errors import DataError, SpecError
from uadctl.imaging.files import write_png
from uadctl.records import Sample
from uadctl.spec.grammar import is_name

_IMAGES: Final = tuple(f"images/{i}.png" for i in range(8))
_MASKS: Final = tuple(f"masks/{i}.png" for i in range(4))
_STRANGE: Final = (
    "images/text.png",
    "images/empty.png",
    "images/folder.png",
    "images/fifo.png",
    "images/loop.png",
    "images/dangling.png",
    "images/link.png",
    "images/../images/0.png",
    "./images/0.png",
    "images/0.png ",
    "images\\0.png",
    "images/absent.png",
    "masks/large.png",
    "../outside.png",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    ".",
    "manifest.csv",
)
_WORDS: Final = (*_IMAGES, *_MASKS, *_STRANGE, "train", "test", "good", "scratch", "0", "1", "-1", "bolt", "nut")
_USUAL: Final = {
    "split": ("train", "train", "validation", "test", "test", "Train "),
    "label": ("0", "0", "1", "1", "-1", "normal", "anomaly", ""),
    "defect": ("", "", "good", "scratch", "dent", "unknown"),
    "mask": ("", "", *_MASKS, ";".join(_MASKS[:2])),
    "category": ("", "bolt", "bolt", "nut"),
    "group": ("", "", "a", "b", "c"),
}


def run(inputs: int, seed: int) -> Figures:
    """Give the manifest's reader, and `check_dataset`, so many files."""
    with tempfile.TemporaryDirectory() as folder:
        return drive(prepared(Path(folder)), inputs, seed)


def prepared(folder: Path) -> ManifestTarget:
    """The target, on images that are written below this folder."""
    root = folder / "root"
    rng = np.random.default_rng(0)
    for name in _IMAGES:
        write_png(root / name, rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for i, name in enumerate(_MASKS):
        mask = np.zeros((8, 8), np.uint8)
        mask[i : i + 2] = 255
        write_png(root / name, mask)
    write_png(root / "masks/large.png", np.full((16, 16), 255, np.uint8))
    write_png(folder / "outside.png", np.zeros((8, 8, 3), np.uint8))
    images = root / "images"
    (images / "text.png").write_text("no image")
    (images / "empty.png").touch()
    (images / "folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(images / "fifo.png")
    (images / "loop.png").symlink_to("loop.png")
    (images / "dangling.png").symlink_to("nowhere.png")
    (images / "link.png").symlink_to("0.png")
    return ManifestTarget(root)


@dataclass(slots=True)
class ManifestTarget:
    """root: the folder in which the manifest and most of the images are."""

    root: Path
    name: str = field(default="manifest", init=False)

    def make(self, rng: Random) -> Case:
        rows = _rows(rng)
        if rng.randrange(2):
            name, data = "manifest.csv", _as_csv(rng, rows).encode("utf-8", "surrogatepass")
        else:
            if rng.randrange(4) == 0:
                rows = mutated_tree(rng, rows, _WORDS)
            lines = [as_json(_numbered(rng, row)) for row in rows]
            name, data = "manifest.jsonl", "\n".join(lines).encode("utf-8", "surrogatepass")
        if rng.randrange(5) < 2:
            data = mutated_bytes(rng, data)
        return {name: data}

    def judge(self, case: Case) -> str:
        ((name, data),) = case.items()
        for other in ("manifest.csv", "manifest.jsonl"):
            (self.root / other).unlink(missing_ok=True)
        file = self.root / name
        file.write_bytes(data)
        root = str(file)
        refused = None
        datasets: list[Dataset] = []
        try:
            datasets = [load_dataset("manifest", root, category=one) for one in list_categories("manifest", root)]
        except (DataError, SpecError) as error:
            check_messages(error)
            refused = type(error).__name__
        self._check(root, accepted=refused is None)
        if refused is not None:
            return refused
        for dataset in datasets:
            _check_samples(dataset)
        self._check_written(name, datasets)
        return ACCEPTED

    def _check(self, root: str, *, accepted: bool) -> None:
        """What `uadctl datasets check` does."""
        try:
            report = check_dataset("manifest", root=root)
        except (DataError, SpecError) as error:
            check_messages(error)
            if accepted:
                raise Broken(f"loaded, and then refused by check: {error.message.splitlines()[0]}") from error
            return
        if not accepted and report.ok:
            raise Broken("refused, and check finds nothing wrong")
        for problem in (*report.errors, *report.warnings):
            check_messages(DataError([problem]))

    def _check_written(self, name: str, datasets: Sequence[Dataset]) -> None:
        """That what was accepted reads back from the manifest that uadctl writes of it."""
        again = self.root / f"again{Path(name).suffix}"
        try:
            written = compose_manifest(again, datasets)
        except (DataError, SpecError) as error:
            check_messages(error)
            return
        written.save()
        for dataset in datasets:
            second = load_dataset("manifest", str(again), category=dataset.category)
            if any(_facts(a) != _facts(b) for a, b in zip(_samples(second), _samples(dataset), strict=True)):
                raise Broken("an accepted manifest is another once it is written and read")


def _samples(dataset: Dataset) -> list[Sample]:
    found = (*dataset.train, *dataset.validation, *dataset.test, *dataset.left_out)
    return sorted(found, key=lambda sample: os.path.realpath(sample.path))


def _facts(sample: Sample) -> Sample:
    """A sample without what depends on how a path is written."""
    missing = sample.expected_mask and os.path.realpath(sample.expected_mask)
    masks = tuple(map(os.path.realpath, sample.masks))
    return replace(sample, path=os.path.realpath(sample.path), relative="", masks=masks, expected_mask=missing)


def _check_samples(dataset: Dataset) -> None:
    """Broken where a sample cannot be what it is said to be."""
    samples = _samples(dataset)
    if not is_name(dataset.category):
        raise Broken(f"accepted, with the category {dataset.category!r}")
    if not dataset.train:
        raise Broken("accepted, with a category without training images")
    if any(sample.label != 0 for sample in (*dataset.train, *dataset.validation)):
        raise Broken("accepted, and a defect is learned from")
    if len({os.path.realpath(sample.path) for sample in samples}) < len(samples):
        raise Broken("accepted, with an image twice")
    if len({sample.relative for sample in samples}) < len(samples):
        raise Broken("accepted, with two images of one name")
    for sample in samples:
        for path in (sample.path, *sample.masks):
            if not Path(path).is_file():
                raise Broken(f"accepted, and {Path(path).name!r} is no file")
        if sample.masks and sample.label != 1:
            raise Broken("accepted, with the mask of a normal image")


def _rows(rng: Random) -> list[dict[str, Any]]:
    """Rows of which most are right: one in six has a cell that is not."""
    paths = list(_IMAGES)
    rng.shuffle(paths)
    rows: list[dict[str, Any]] = []
    for path in paths[: rng.randint(1, len(paths))]:
        row: dict[str, Any] = {"path": path, "split": "train", "label": "0"}
        if rows or rng.randrange(4) == 0:
            row |= {"split": "test", "label": rng.choice(("0", "1", "1", "-1"))} if rng.randrange(2) else {}
        if row["label"] == "1":
            row |= {"defect": "scratch"} | ({"mask": _MASKS[len(rows) % 4]} if rng.randrange(2) else {})
        if rng.randrange(12) == 0:
            column = rng.choice(COLUMNS)
            row[column] = rng.choice(_USUAL.get(column, _STRANGE)) if rng.randrange(2) else text(rng, _WORDS)
        rows.append(row)
    if rng.randrange(4) == 0:
        name = rng.choice(("bolt", "nut", rng.choice(TEXTS)))
        for row in rows:
            row.setdefault("category", name)
    return rows


def _numbered(rng: Random, row: Any) -> Any:
    """A row as JSON has it: labels as numbers, several masks as a list, and now and then any value."""
    if not isinstance(row, dict):
        return row
    row = dict(row)
    if row.get("label") in ("0", "1", "-1") and rng.randrange(2):
        row["label"] = int(row["label"])
    if isinstance(row.get("mask"), str) and rng.randrange(2):
        row["mask"] = row["mask"].split(";")
    if rng.randrange(30) == 0:
        row[rng.choice(COLUMNS)] = value(rng, _WORDS)
    return row


def _as_csv(rng: Random, rows: Sequence[dict[str, Any]]) -> str:
    columns = list(COLUMNS)
    if rng.randrange(3) == 0:
        rng.shuffle(columns)
    if rng.randrange(20) == 0:
        del columns[rng.randrange(len(columns))]
    if rng.randrange(20) == 0:
        columns.insert(rng.randint(0, len(columns)), text(rng, COLUMNS))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator=rng.choice(("\n", "\r\n")), quoting=rng.choice((0, 1)))
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row.get(column, "") for column in columns])
    return lines.getvalue()
