"""Give uadctl what nobody meant, and count: accepted, refused, broken, the worst of time and memory.

    pip install -e '.[all,test]'

    python -m fuzz spec --inputs 100000 --seed 0     # specs and options, through `read_spec`
    python -m fuzz manifest model images             # manifests; fitted models and what else a run folder holds; images
    python -m fuzz --replay build/fuzz/spec-1.json   # an input that was kept, once more, with its traceback

Inputs are drawn by Hypothesis, those of images by numpy: the same for the same seed. Ctrl-C ends a target, and what it
saw until then is counted. Many small files are written: TMPDIR=/dev/shm makes it faster. Exit code 1: something was
found, a line each on stderr, and the first input that did it is kept below build/fuzz.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fuzz.figures import Figures, Target, outcome_of, save, saved, table

TARGETS = ("spec", "manifest", "model", "images")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=100_000, help="how many for each target; 100000 if not given")
    parser.add_argument("--seed", type=int, default=0, help="another draws other inputs; 0 if not given")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="folder of the inputs that broke something"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="give an input that was kept once more")
    given = parser.parse_args(argv)
    if wrong := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(wrong)}; there are: {', '.join(TARGETS)}")
    if given.replay is not None:
        return replay(given.replay)
    if not given.targets:
        parser.error(f"name what to give inputs: {', '.join(TARGETS)}")

    # An input gives a second thread nothing to do. Before what reads it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    measured: dict[str, Figures] = {}
    for name in given.targets:
        start = time.perf_counter()
        figures: Figures = importlib.import_module(f"fuzz.{name}").run(given.inputs, given.seed)
        measured[name] = figures
        sys.stderr.write(f"{name}: {figures.inputs} inputs in {time.perf_counter() - start:.0f} s\n")
        for finding in figures.findings:
            file = save(given.keep, name, finding)
            sys.stderr.write(f"error: {name}: {finding.what} ({finding.times} times; the first is kept as {file})\n")
    if given.json:
        kept = {name: dataclasses.asdict(figures) for name, figures in measured.items()}
        for figures_of in kept.values():
            figures_of["findings"] = [{"what": one["what"], "times": one["times"]} for one in figures_of["findings"]]
        sys.stdout.write(f"{json.dumps(kept, indent=2)}\n")
    else:
        sys.stdout.write(table(measured))
    return 1 if any(figures.findings for figures in measured.values()) else 0


def replay(file: Path) -> int:
    """Give a kept input to its target. Returns 1 where it is wrong still."""
    name, case = saved(file)
    with tempfile.TemporaryDirectory() as folder:
        target: Target = importlib.import_module(f"fuzz.{name}").prepared(Path(folder))
        outcome, what = outcome_of(target, case)
    sys.stdout.write(f"{name}: {outcome}\n")
    if what is not None:
        sys.stderr.write(f"error: {what}\n")
    return 0 if what is None else 1


if __name__ == "__main__":
    sys.exit(main())
