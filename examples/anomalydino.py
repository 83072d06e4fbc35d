"""AnomalyDINO from Python: a data set's split, a fit on its good images, image and pixel metrics on the others.

    python examples/anomalydino.py --dataset mvtec --root data/mvtec --category screw
    python examples/anomalydino.py --dataset mvtec --root data/mvtec --category screw --shots 4
    python examples/anomalydino.py --no-pretrained --limit 4 --image-size 112     # offline, on drawn parts

The first run downloads DINOv2's weights (88 MB). With --no-pretrained they are random: that tries the machinery, and
its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import uadctl
from uadctl.errors import UadctlError
from uadctl.inference import infer
from uadctl.models.anomalydino import AnomalyDINO


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="AnomalyDINO on one category of a data set.")
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--root", help="folder of the data set; the demo set needs none")
    parser.add_argument("--category", default="printed_part")
    parser.add_argument("--shots", type=int, help="so few training images, rotated")
    parser.add_argument("--image-size", type=int, default=448, help="pixels of the shorter side")
    parser.add_argument("--limit", type=int, help="at most so many training, and so many test images")
    parser.add_argument("--no-pretrained", dest="pretrained", action="store_false", help="random weights, no download")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(argv)


def some(n: int, limit: int | None) -> list[int]:
    """At most `limit` of n images, evenly spaced, so that good and bad ones are among them."""
    wanted = n if limit is None else min(limit, n)
    return [i * n // wanted for i in range(wanted)]


def main(argv: Sequence[str] | None = None) -> int:
    try:
        run(parse(argv))
    except UadctlError as error:  # what is wrong with the data, the weights or the installation, and the next step
        sys.stderr.write(f"error: {error.message}\n" + (f"{error.help}\n" if error.help else ""))
        return error.exit_code
    return 0


def run(options: argparse.Namespace) -> None:
    split = uadctl.load_benchmark_split(options.dataset, options.root, category=options.category)
    detector = AnomalyDINO(
        image_size=options.image_size, shots=options.shots, pretrained=options.pretrained, device=options.device
    )
    detector.fit([split.train_paths[i] for i in some(len(split.train_paths), options.limit)])

    tested = some(len(split.test_paths), options.limit)
    predictions = infer(detector, [split.test_paths[i] for i in tested], include_maps=True)
    # Defect images whose mask nobody has drawn are left out of the pixel metrics.
    masks = [None if split.test_masks is None else split.test_masks[i] for i in tested]
    known = [k for k, mask in enumerate(masks) if mask is not None]
    found = uadctl.evaluate_detector(
        [int(split.test_labels[i]) for i in tested],
        [p.score for p in predictions],
        pixel_labels=[masks[k] for k in known],
        pixel_scores=[predictions[k].map for k in known],
    )
    json.dump({"model": detector.facts(), "threshold": detector.threshold_, **found}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
