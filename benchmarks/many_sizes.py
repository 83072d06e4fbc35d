"""Images of many sizes in one stream, beside images of one size, and beside the same images sorted by size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Contender, Measured, Run, Section, Table, at_least, compare, number
from uadctl.records import Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# As magnetic tiles are cut out: seven shapes before the network.
_SIZES = (
    *(Size(103, 222), Size(222, 103), Size(403, 632), Size(632, 403)),
    *(Size(160, 160), Size(300, 90), Size(248, 373), Size(211, 402)),
)
# The square with as many pixels as these have on average.
_SQUARE = Size(*[round((sum(size.height * size.width for size in _SIZES) / len(_SIZES)) ** 0.5)] * 2)
# By the key of their values.
_ORDERS = {"one": "one size", "mixed": "many sizes, as they come", "sorted": "many sizes, sorted by size"}
# Of the images a second that the same images give when they come sorted.
_SLOWEST = 0.85


def sections(*, quick: bool) -> list[Section]:
    size, images, batch, rounds = (64, 16, 4, 1) if quick else (256, 120, 16, 7)
    args = {"size": size, "images": images, "batch": batch, "rounds": rounds}
    (whole,) = compare([Contender("PatchCore", "benchmarks.many_sizes:in_turns", args)], repeats=1, threads=1)
    one, mixed, by_size = (_rounds(whole, key) for key in _ORDERS)
    return [
        Section(
            title="Images of many sizes",
            text=(
                f"PatchCore on EfficientNet-Lite0 scores {images} images in one stream, {batch} at a time, each at its "
                f"own aspect ratio with the area of {size}x{size}, with maps at the file's own size; one thread. They "
                f"are of {_SQUARE}, or of {len(_SIZES)} sizes, {_SIZES[0]} to {_SIZES[3]}, with as many pixels on "
                "average. All in one process, in turns."
            ),
            tables=(_table((one, mixed, by_size), images),),
            targets=(at_least("CPU of images sorted by size / as they come", by_size, mixed, _SLOWEST),),
            notes=(
                "Images of one shape that are in one batch go through the network together, nothing is padded. The "
                "weights of convolutions lie in the layout that is fastest for one size, and are laid out anew only "
                "for a size that stays: most sizes have the same one.",
            ),
            measured=(whole,),
        )
    ]


def _rounds(whole: Measured, key: str) -> Measured:
    """The rounds of one order of images, as if measured by themselves; their memory is not known apart."""
    contender = Contender(_ORDERS[key], whole.contender.function, whole.contender.args)
    runs = tuple(Run(cpu, wall, 0, 0) for cpu, wall in whole.value[key]) if whole.runs else ()
    return Measured(contender, runs, whole.reason, whole.failed)


def _table(measured: Sequence[Measured], images: int) -> Table:
    rows = []
    for m in measured:
        ratio = m.over(measured[0])
        if ratio is None:
            rows.append((m.title, m.reason, "", "", ""))
            continue
        wall = m.wall.median
        relative = "1" if m is measured[0] else ratio.text()
        rows.append((m.title, m.cpu.text(images / 1000), number(1000 * wall / images), number(images / wall), relative))
    head = ("", "CPU ms an image [min–max]", "wall ms an image", "images a second", "CPU, times one size")
    return Table(head, tuple(rows))


def in_turns(*, size: int, images: int, batch: int, rounds: int) -> Callable[[], Any]:
    """Streams of each order, in turns: CPU and wall seconds of every round, by the order's key."""
    from uadctl.imaging.geometry import Geometry
    from uadctl.inference import stream
    from uadctl.intake import Intake
    from uadctl.models.checks import part
    from uadctl.models.patchcore import PatchCore

    model = PatchCore(device="cpu", batch_size=batch)
    geometry = Geometry(size=size, stride=model.stride)
    learned = [part(10_000 + i, each) for i, each in enumerate((*_SIZES, _SQUARE))]
    model.fit([geometry.plan(Size(*x.shape[:2])).apply(x) for x in learned], threshold=False)
    streams = _streams(images)

    def seconds(order: str) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        found = list(stream(model, streams[order], intake=Intake(geometry=geometry), threads=1))
        spent = time.process_time() - cpu, time.perf_counter() - wall
        if sum(item.prediction is not None for item in found) != images:
            raise RuntimeError(f"{order}: not all of {images} images have a score")
        return spent

    for order in streams:  # what oneDNN prepares for each shape is kept
        seconds(order)

    def work() -> dict[str, list[tuple[float, float]]]:
        turns = [{order: seconds(order) for order in streams} for _ in range(rounds)]
        return {order: [turn[order] for turn in turns] for order in streams}

    return work


def _streams(images: int) -> dict[str, list[NDArray[np.uint8]]]:
    """So many images in each order: (H, W, 3) RGB uint8; mixed and sorted are the same images."""
    import numpy as np

    from uadctl.models.checks import part

    sizes = sorted(_SIZES[i % len(_SIZES)] for i in range(images))
    by_size = [part(i, size) for i, size in enumerate(sizes)]
    places = np.random.default_rng(0).permutation(images)
    return {
        "one": [part(i, _SQUARE) for i in range(images)],
        "mixed": [by_size[i] for i in places],
        "sorted": by_size,
    }
