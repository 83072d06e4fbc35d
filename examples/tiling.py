"""Tiles from Python: small defects on large images, without shrinking the images until the defects are gone.

    python examples/tiling.py                                       # drawn parts, a backbone that is in the package
    python examples/tiling.py --dataset mvtec --root data/mvtec --category screw --tile 384 --stride 288

Learns the tiles of good images, scores one image with a defect tile by tile, prints what was found as JSON, and writes
a picture of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import uadctl
from uadctl.errors import DataError, UadctlError
from uadctl.imaging import TiledDetector, read_image, write_png
from uadctl.imaging.overlay import overlay
from uadctl.inference import infer
from uadctl.models.patchcore import PatchCore


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="PatchCore on tiles of one category of a data set.")
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--root", help="folder of the data set; the demo set needs none")
    parser.add_argument("--category", default="printed_part")
    parser.add_argument("--tile", type=int, default=128, help="side of a tile in pixels")
    parser.add_argument(
        "--stride", type=int, help="from one tile to the next, at most a tile; three quarters of it if not given"
    )
    parser.add_argument("--limit", type=int, default=12, help="at most so many training images")
    parser.add_argument("--no-pretrained", dest="pretrained", action="store_false", help="random weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="tiling.png", help="where the picture goes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run(parse(argv))
    except UadctlError as error:  # what is wrong with the data, the weights or the installation, and the next step
        sys.stderr.write(f"error: {error.message}\n" + (f"{error.help}\n" if error.help else ""))
        return error.exit_code
    except ValueError as error:  # options that cannot be
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    split = uadctl.load_benchmark_split(options.dataset, options.root, category=options.category)
    good = [path for path, label in zip(split.test_paths, split.test_labels, strict=True) if label == 0]
    bad = [path for path, label in zip(split.test_paths, split.test_labels, strict=True) if label == 1]
    if not good or not bad:
        raise DataError(f"{options.category}: this example needs a good and a defect image in the test split")

    # Learned from tiles, each image left out with all of its tiles for the threshold: no image is lost to it.
    bank = PatchCore(coreset_ratio=0.02, pretrained=options.pretrained, device=options.device)
    detector = TiledDetector(bank, options.tile, options.stride, map_reduce="hann", fit="tiles")
    detector.fit(split.train_paths[: options.limit])

    normal, found = infer(detector, [good[0], bad[0]], include_maps=True)
    y, x = np.unravel_index(int(found.map.argmax()), found.map.shape)
    picture = overlay(
        read_image(bad[0]),
        found.map,
        low=float(np.median(normal.map)),
        high=float(normal.map.max()),  # of a good image: what lies above is unusual
        caption=f"{Path(bad[0]).name}: {found.score:.3g}",
    )
    write_png(options.out, picture)
    said = {
        "image": str(bad[0]),
        "score": found.score,
        "threshold": detector.threshold_,
        "peak": [int(y), int(x)],
        "good_score": normal.score,
        "tiling": str(detector.tiling),
        "picture": options.out,
    }
    json.dump(said, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
