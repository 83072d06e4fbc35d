"""Regions as a COCO file, in which annotation tools show and correct them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from uadctl import __version__
from uadctl.atomic import replacing
from uadctl.records import Region, Size

_CATEGORIES = ("anomaly", "review")

# Directions clockwise from west, as (dy, dx). Beyond the even ones lies a side of the pixel; walked clockwise it starts
# at this corner, as (dy, dx) from the pixel's top left one.
_AROUND = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))
_CORNER = {0: (1, 0), 2: (0, 0), 4: (0, 1), 6: (1, 1)}


@contextmanager
def writing_coco(path: str | Path, *, threshold: float) -> Iterator[CocoFile]:
    """A COCO "instances" file that appears under its name when the block ends well, and else not at all.

    The same images in the same order give the same bytes. Annotations are written as they come, one a line, so that
    memory is that of the names of the images.

    path: its folder is made. threshold: the pixel threshold of the regions; stands in `info`.

    Source of the format: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, and cocodataset.org.
    """
    with replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"annotations": [')
        document = CocoFile(file)
        yield document
        file.write('\n],\n"images": [')
        _write_rows(file, document.images)
        info = {
            "description": "Regions of anomaly maps at or above the pixel threshold, by uadctl",
            "version": __version__,
            "pixel_threshold": threshold,
            "errors": document.errors,
        }
        file.write(f'\n],\n"categories": {_strict(document.categories)},\n"licenses": [],\n"info": {_strict(info)}}}\n')
        file.flush()


class CocoFile:
    """A COCO file that is being written; from `writing_coco`."""

    def __init__(self, file: TextIO) -> None:
        self.images: list[dict[str, Any]] = []
        self.errors: list[dict[str, str]] = []
        self._file = file
        self._annotations = 0
        self._review = False

    @property
    def categories(self) -> list[dict[str, Any]]:
        """Of the annotations: that of anomalies, and that of regions to be reviewed if there is any."""
        names = _CATEGORIES if self._review else _CATEGORIES[:1]
        return [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, start=1)]

    def add(self, name: str, size: Size, regions: Iterable[Region], *, exact: str | None = None) -> None:
        """An image and its regions; without regions it is there as one in which nothing was found.

        name: the file as it was named. exact: its bytes in base64, where `name` is not exactly it.
        """
        self.images.append(
            {"id": len(self.images) + 1, **_named(name, exact), "height": size.height, "width": size.width}
        )
        for region in regions:
            self._annotations += 1
            self._review |= region.verdict == "review"
            row = {"id": self._annotations, "image_id": len(self.images), **_annotation(region)}
            self._file.write(("," if self._annotations > 1 else "") + "\n" + _strict(row))

    def add_error(self, name: str, reason: str, *, exact: str | None = None) -> None:
        """A file of which nothing is known: in no list of images, so that nobody takes it for a good one."""
        self.errors.append({**_named(name, exact), "reason": reason})


def outline(contour: Sequence[tuple[int, int]]) -> list[int]:
    """The polygon about the pixels of a region: x, y, x, y, … of its corners, clockwise from its topmost, leftmost one.

    The pixel in column x and row y is the square from (x, y) to (x + 1, y + 1). So the polygon of one pixel has the
    area 1, and in general that of the region's pixels and of its holes. Where pixels touch by a corner only, the
    polygon goes through this corner twice.

    contour: of a `Region`: pixels (y, x) where its boundary turns, clockwise.
    """
    steps = _steps(contour)
    sides = []
    for i, (y, x, onward) in enumerate(steps):
        # Outside of the region is what is seen turning clockwise from where one came to where one goes.
        back = (steps[i - 1][2] + 4) % 8
        turn = range(back + 1, back + ((onward - back - 1) % 8) + 1) if len(steps) > 1 else range(8)
        sides += [(y + _CORNER[k % 8][0], x + _CORNER[k % 8][1], k % 8) for k in turn if k % 2 == 0]
    corners = [(y, x) for i, (y, x, side) in enumerate(sides) if side != sides[i - 1][2]]
    first = corners.index(min(corners))
    return [v for y, x in corners[first:] + corners[:first] for v in (x, y)]


def _steps(contour: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Every pixel of the boundary (y, x), and in which of the directions _AROUND the next one lies; once round."""
    steps = []
    for (y, x), (next_y, next_x) in zip(contour, [*contour[1:], contour[0]], strict=True):
        length = max(abs(next_y - y), abs(next_x - x))
        if length == 0:  # the only pixel
            return [(y, x, 0)]
        dy, dx = (next_y - y) // length, (next_x - x) // length
        steps += [(y + i * dy, x + i * dx, _AROUND.index((dy, dx))) for i in range(length)]
    return steps


def _annotation(region: Region) -> dict[str, Any]:
    top, left, bottom, right = region.box
    return {
        "category_id": _CATEGORIES.index(region.verdict) + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": region.area,
        "segmentation": [] if region.contour is None else [outline(region.contour)],
        "iscrowd": 0,
        "score": region.score,
    }


def _named(name: str, exact: str | None) -> dict[str, str]:
    return {"file_name": name} if exact is None else {"file_name": name, "path_b64": exact}


def _write_rows(file: TextIO, rows: Iterable[dict[str, Any]]) -> None:
    for i, row in enumerate(rows):
        file.write(("," if i else "") + "\n" + _strict(row))


def _strict(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
