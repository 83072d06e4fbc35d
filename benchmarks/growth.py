"""How time and memory grow: of a whole bench with the number and size of the images, of a coreset with the points."""

from __future__ import annotations

import dataclasses
import io
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Contender, Figure, Measured, Section, Table, Target, compare, number
from benchmarks.startup import UADCTL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_IMAGES = (50, 200, 800, 2000, 5000)
_SMALL = 128  # side of these images
_TRAIN = 20
_SIDES = (224, 512, 1024, 2048)
_INPUT = 1024  # the largest side given to the network as it is: the coreset of 2048² patches takes a quarter of an hour
_FEW = 4  # training images, and test images, of each of these sizes
_POINTS = (20_000, 80_000, 320_000)
_DIMENSIONS = 128
_REPEATS = 3  # but of the three largest sizes one: their minutes drown what comes and goes
_BUDGET = "32MB"  # [metrics] memory: 400 maps of 128 x 128 fit
_FILE = "performance-growth.svg"


@dataclass(frozen=True)
class Curve:
    """One line of the figure. label: in the table. line: in the figure. sizes: ascending. measured: one a size."""

    label: str
    line: str
    sizes: tuple[int, ...]
    measured: tuple[Measured, ...]

    @property
    def cpu(self) -> list[float]:
        """Median seconds, for the sizes that ran."""
        return [m.cpu.median for m in self.measured if m.runs]

    @property
    def memory(self) -> list[float]:
        """Median extra bytes, for the sizes that ran: of a whole program, all that it held."""
        return [m.extra.median for m in self.measured if m.runs]

    @property
    def ran(self) -> list[int]:
        return [n for n, m in zip(self.sizes, self.measured, strict=True) if m.runs]

    @property
    def _half(self) -> int:
        return max(0, min(len(self.ran) // 2, len(self.ran) - 2))

    def exponent(self, figures: Sequence[float]) -> float:
        """Slope of log(figure) against log(size), least squares, over the larger half of the sizes: at the small ones
        what every run costs hides the growth. NaN for fewer than two sizes, and for figures that are not positive.
        """
        if min(figures, default=0) <= 0:
            return math.nan
        return slope([math.log(n) for n in self.ran[self._half :]], [math.log(y) for y in figures[self._half :]])

    def rate(self, figures: Sequence[float]) -> float:
        """Figure for one more of the size, over the larger half of the sizes. NaN for fewer than two sizes."""
        return slope(self.ran[self._half :], figures[self._half :])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line; NaN for fewer than two points."""
    if len(x) < 2:
        return math.nan
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / across


def sections(*, quick: bool) -> list[Section]:
    repeats = 1 if quick else _REPEATS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = _by_images(folder / "images", (4, 8) if quick else _IMAGES, repeats)
        sides = _by_side(folder / "sides", (64, 96) if quick else _SIDES, repeats)
    points = _by_points((500, 1000) if quick else _POINTS, repeats)
    curves = {"test images": [images], "side, pixels": sides, "points": points}
    figure = Figure(
        _FILE,
        draw(curves),
        "CPU time and memory against the number of test images, the side of the images and the points a coreset "
        "is chosen from, on logarithmic axes",
    )
    return [_section(images, sides, points, figure)]


def _section(images: Curve, sides: Sequence[Curve], points: Sequence[Curve], figure: Figure) -> Section:
    title = "Growth"
    every = [images, *sides, *points]
    if any(not m.runs for curve in every for m in curve.measured):
        return Section(title=title, measured=tuple(m for curve in every for m in curve.measured))
    first, last = images.ran[0], images.ran[-1]
    low, high = (images.memory[i] / 1e6 for i in (0, -1))
    exponent, seconds, held = images.exponent(images.cpu), images.rate(images.cpu), images.rate(images.memory)
    text = (
        f"Whole `uadctl bench` on synthetic parts of {_SMALL}×{_SMALL} pixels, {_TRAIN} for training, "
        f'{first:,} to {last:,} for testing, `[metrics] memory = "{_BUDGET}"`: the exact pixel metrics of more images '
        "than fit there give way to the streaming ones, whose memory is fixed. Then on "
        f"{_FEW} training and {_FEW} test images of {sides[0].sizes[0]}² to {sides[0].sizes[-1]}² pixels, once brought "
        f"to 256×256 as is the default, once given to the network as they are (to {_INPUT}²): patches grow with the "
        "square of the side, and so does the memory bank that each of them is compared with. Then `greedy_coreset` "
        f"alone, on clustered points of {_DIMENSIONS} dimensions: the work is the product of points and centres, "
        "quadratic where the ratio stays. Memory is that of the whole process for a bench, and what is held beside the "
        "points for a coreset."
    )
    return Section(
        title=title,
        text=text,
        tables=tuple(_table(curve) for curve in every),
        targets=(
            Target(
                "bench, CPU time against test images: exponent",
                "≤ 1.05",
                f"{exponent:.2f} ({number(1000 * seconds)} ms an image)",
                exponent <= 1.05,
            ),
            Target(
                "bench, memory against test images",
                "flat: ≤ 10 kB an image",
                f"{number(held / 1000)} kB an image (from {low:.0f} to {high:.0f} MB)",
                held <= 10_000,
            ),
        ),
        figures=(figure,),
        notes=(
            "Exponents are slopes of the logarithms over the larger half of the sizes: 1 is linear, 2 quadratic, 0 "
            "flat; figures for one image more are slopes over the same half.",
        ),
        measured=tuple(m for curve in every for m in curve.measured),
    )


def _table(curve: Curve) -> Table:
    head = (curve.label, *(f"{n:,}" for n in curve.ran), "exponent")
    rows = (
        ("CPU s", *(number(x) for x in curve.cpu), f"{curve.exponent(curve.cpu):.2f}"),
        ("MB", *(number(x / 1e6) for x in curve.memory), f"{curve.exponent(curve.memory):.2f}"),
    )
    return Table(head, rows)


def _by_images(folder: Path, counts: Sequence[int], repeats: int) -> Curve:
    write_parts(folder, side=_SMALL, train=_TRAIN, test=max(counts))
    contenders = [
        _bench(f"bench, {n} test images", folder, f"preprocess.size={_SMALL}", "--limit-test", str(n)) for n in counts
    ]
    return Curve("bench: test images", "bench", tuple(counts), tuple(_growing(contenders, repeats)))


def _by_side(folder: Path, sides: Sequence[int], repeats: int) -> list[Curve]:
    for side in sides:
        write_parts(folder / str(side), side=side, train=_FEW, test=_FEW)
    resized = [_bench(f"bench, {s}², network 256²", folder / str(s), "preprocess.size=256") for s in sides]
    inputs = [side for side in sides if side <= _INPUT]
    whole = [_bench(f"bench, {s}², network {s}²", folder / str(s), f"preprocess.size={s}") for s in inputs]
    measured = [*_growing(resized, repeats), *_growing(whole, repeats)]
    return [
        Curve(
            "bench: side of the files, network at 256",
            "bench, network at 256",
            tuple(sides),
            tuple(measured[: len(sides)]),
        ),
        Curve(
            "bench: side of the files and of the network's input",
            "bench, network at this size",
            tuple(inputs),
            tuple(measured[len(sides) :]),
        ),
    ]


def _growing(contenders: Sequence[Contender], repeats: int) -> list[Measured]:
    large = [dataclasses.replace(contender, repeats=1) for contender in contenders[-3:]]
    return compare([*contenders[:-3], *large], repeats=repeats)


def _bench(title: str, root: Path, setting: str, *more: str) -> Contender:
    where = ["--dataset", "folder", "--root", str(root), "--model", "patchcore", "--run-dir", f"{root}-runs"]
    return Contender.command(
        title, [*UADCTL, "bench", *where, "--set", setting, "--set", f"metrics.memory={_BUDGET}", *more]
    )


def _by_points(counts: Sequence[int], repeats: int) -> list[Curve]:
    curves = []
    for ratio in (0.01, 0.1):
        contenders = [
            Contender(f"coreset {ratio:.0%} of {n:,}", "benchmarks.growth:coreset", {"n": n, "ratio": ratio})
            for n in counts
        ]
        measured = _growing(contenders, repeats)
        curves.append(Curve(f"coreset, {ratio:.0%}: points", f"coreset, {ratio:.0%}", tuple(counts), tuple(measured)))
    return curves


def coreset(*, n: int, ratio: float) -> Callable[[], dict[str, int]]:
    """`greedy_coreset` of n clustered points; how many it chose, and how many of them are different."""
    import numpy as np

    from uadctl.memory import greedy_coreset

    rng = np.random.default_rng(0)
    greedy_coreset(rng.standard_normal((4096, 8), dtype=np.float32), 64)  # torch and its kernels, once
    centres = rng.standard_normal((256, _DIMENSIONS), dtype=np.float32)
    x = centres[rng.integers(len(centres), size=n)]
    for start in range(0, n, 65_536):  # in parts: the noise of all would be held beside the points
        part = x[start : start + 65_536]
        part += 0.3 * rng.standard_normal(part.shape, dtype=np.float32)

    def work() -> dict[str, int]:
        chosen = greedy_coreset(x, max(1, round(ratio * n)), projection_dim=0)
        return {"chosen": len(chosen), "different": len(set(chosen.tolist()))}

    return work


def write_parts(root: Path, *, side: int, train: int, test: int) -> None:
    """Grey textured parts in the layout of the data set `folder`, half of the test images with a bright scratch and its
    mask. No two are equal; the same arguments draw the same pixels.
    """
    for i in range(train):
        _write(root / "train" / "normal" / f"{i:05}.png", _part(side, seed=i))
    for i in range(test):
        image = _part(side, seed=100_000 + i)
        if i % 2 == 0:
            _write(root / "test" / "normal" / f"{i:05}.png", image)
            continue
        mask = _scratch(image, seed=i)
        _write(root / "test" / "anomaly" / f"{i:05}.png", image)
        _write(root / "ground_truth" / "anomaly" / f"{i:05}_mask.png", mask)


def _part(side: int, *, seed: int) -> NDArray[np.uint8]:
    import cv2
    import numpy as np

    rng = np.random.default_rng([seed, side])
    coarse = rng.normal(110, 25, (8, 8, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    smooth += rng.normal(0, 6, (side, side, 1)).astype(np.float32)
    return np.clip(smooth, 0, 255).astype(np.uint8)


def _scratch(image: NDArray[np.uint8], *, seed: int) -> NDArray[np.uint8]:
    """Draw a scratch into the image; its mask."""
    import cv2
    import numpy as np

    side = image.shape[0]
    rng = np.random.default_rng([seed, side, 1])
    (x0, y0), (x1, y1) = rng.integers(side // 8, side - side // 8, (2, 2)).tolist()
    thickness = max(2, side // 64)
    cv2.line(image, (x0, y0), (x1, y1), (250, 240, 230), thickness)
    mask = np.zeros((side, side), np.uint8)
    cv2.line(mask, (x0, y0), (x1, y1), 255, thickness)
    return mask


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f"{path} cannot be written")


def draw(curves: Mapping[str, Sequence[Curve]]) -> str:
    """The figure as SVG: for each kind of size a column, CPU time above and memory below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    plain = FuncFormatter(lambda value, _: f"{value:g}" if value < 10_000 else f"{value / 1000:g}k")
    style: Any = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "uadctl",
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(
            2, len(curves), figsize=(9, 4.8), sharex="col", sharey="row", squeeze=False, facecolor="white"
        )
        for column, (label, group) in enumerate(curves.items()):
            above, below = axes[0][column], axes[1][column]
            for curve in group:
                above.plot(curve.ran, curve.cpu, "o-", markersize=3, linewidth=1.2, label=curve.line)
                below.plot(curve.ran, [b / 1e6 for b in curve.memory], "o-", markersize=3, linewidth=1.2)
            for axis in (above, below):
                axis.set_xscale("log")
                axis.set_yscale("log")
                axis.set_xticks(group[0].ran[::2], [plain(n) for n in group[0].ran[::2]])
                axis.minorticks_off()
                axis.yaxis.set_major_formatter(plain)
                axis.grid(True, alpha=0.3, linewidth=0.5)
            above.legend(frameon=False, fontsize=7, loc="upper left")
            below.set_xlabel(label)
        axes[0][0].set_ylabel("CPU, seconds")
        axes[1][0].set_ylabel("memory, MB")
        for row in axes:
            low, high = row[0].get_ylim()
            row[0].set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(3 * high)))
        figure.tight_layout()
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return out.getvalue()
