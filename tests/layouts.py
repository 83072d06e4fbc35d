"""Every layout of a data set as its publisher ships it, in small, and what may be wrong with one."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import parts
import tomli_w

from uadctl.datasets import Dataset, load_dataset, load_mask
from uadctl.imaging.files import image_size


@dataclass(frozen=True)
class Layout:
    """A data set on disk.

    build:    writes it below a folder and returns its root.
    counts:   training, good test and defect test images of the category.
    kinds:    of defect. options: further words of the command.
    masks:    whether its defect images have masks.
    validation, left_out: images of the validation split, and of training and validation that are defects.
    groups:   whether several images show one part.
    files:    which files are which, for the data set `folder`: [dataset.files] of a spec.
    """

    name: str
    category: str
    build: Callable[[Path], Path]
    counts: tuple[int, int, int]
    kinds: tuple[str, ...]
    options: tuple[str, ...] = ()
    masks: bool = True
    validation: int = 0
    left_out: int = 0
    groups: bool = False
    files: Mapping[str, object] | None = None

    def load(self, root: str | Path) -> Dataset:
        """The category, with the options."""
        return load_dataset(
            self.name,
            str(root),
            category=self.category,
            split=option(self, "--split"),
            layout=option(self, "--layout"),
            files=self.files,
        )

    def check(self, root: Path) -> list[str]:
        """The words that let a program look at it."""
        if self.files is None:
            return ["datasets", "check", self.name, "--root", str(root), "--category", self.category, *self.options]
        return ["datasets", "check", str(self._spec(root))]

    def bench(self, root: Path) -> list[str]:
        """The words of a bench that takes a second or two."""
        if self.files is not None:
            return ["bench", str(self._spec(root))]
        where = ["--dataset", self.name, "--root", str(root), "--category", self.category, *self.options]
        return ["bench", *where, "--model", "patchcore", "--set", "preprocess.size=64"]

    def _spec(self, root: Path) -> Path:
        dataset = {"name": self.name, "root": str(root), "files": self.files}
        document = {"dataset": dataset, "model": {"name": "patchcore"}, "preprocess": {"size": 64}}
        spec = root.parent / "layout.toml"
        spec.write_text(tomli_w.dumps(document))
        return spec


@dataclass(frozen=True)
class Damage:
    """Something wrong with a data set on disk.

    hurt: does it, given the root. message: lines that `datasets check` says of it, {root} standing for the root.
    ends: whether a bench ends with it; else it is told, and the rest is measured.
    told: what a bench says of it that goes on; None for the first line of the message.
    """

    what: str
    hurt: Callable[[Path], object]
    message: str
    ends: bool = True
    told: str | None = None


def option(layout: Layout, name: str) -> str | None:
    """The value of one of a layout's options."""
    return dict(zip(layout.options[::2], layout.options[1::2], strict=True)).get(name)


def paint(root: Path, layout: Layout) -> None:
    """Noise in place of a tree's flat pictures, each its own, and white where a mask shows a defect."""
    dataset = layout.load(root)
    for sample in (*dataset.train, *dataset.validation, *dataset.test, *dataset.left_out):
        size = image_size(sample.path)
        image = parts.surface(zlib.crc32(sample.relative.encode()), *size)
        mask = load_mask(sample) if sample.label == 1 else None
        if mask is not None:
            image[mask > 0] = 255
        parts.write(Path(sample.path), image)
