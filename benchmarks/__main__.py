"""Measure uadctl beside others, and write docs/performance.md and docs/performance.json.

    pip install -e '.[all,test]'        # the peers: anomalib, faiss, timm, openvino, scikit-learn
    pip install --no-deps adeval        # with its dependencies it would bring a second cv2

    python -m benchmarks                        # everything; hours
    python -m benchmarks coreset startup        # these anew, the others' figures stay
    MVTEC_ROOT=/data/mvtec_ad python -m benchmarks bottle --full
    python -m benchmarks --quick                # toy sizes, printed and not kept: does everything run?

A peer that is not installed is a line "not measured: needs X" on the page. Run it on an otherwise idle machine, from a
clean work tree. Exit code 1: a contender failed; its error is on stderr.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import inspect
import os
import pkgutil
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks
from benchmarks import machine, page
from benchmarks.measure import ROOT, Section
from uadctl.runs.provenance import git_commit

# As they stand on the page; others in the folder follow by name.
_ORDER = ("bottle", "coreset", "padim", "pixel_metrics", "neighbours", "backbones", "large_image", "startup", "growth")
_NO_BENCHMARKS = {"__main__", "data", "machine", "measure", "page"}


def names() -> list[str]:
    """The benchmarks there are, in the order of the page."""
    found = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - _NO_BENCHMARKS
    return sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def sections(name: str, *, quick: bool = False, full: bool = False) -> list[Section]:
    """Run one benchmark. full: without extrapolation, where it offers that."""
    function = importlib.import_module(f"benchmarks.{name}").sections
    options = {"full": True} if full and "full" in inspect.signature(function).parameters else {}
    found: list[Section] = function(quick=quick, **options)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=f"of: {', '.join(names())}; none given: all")
    parser.add_argument("--quick", action="store_true", help="toy sizes; the page is printed, not written")
    parser.add_argument("--full", action="store_true", help="run in full what is otherwise extrapolated; hours")
    parser.add_argument("--docs", type=Path, help="folder of the page and its data; docs if not given")
    given = parser.parse_args(argv)
    if wrong := [name for name in given.names if name not in names()]:
        parser.error(f"no such benchmark: {', '.join(wrong)}; there are: {', '.join(names())}")

    keep = not given.quick or given.docs is not None
    folder = given.docs or ROOT / "docs"
    document = page.read(folder) if keep else page.read(Path())
    load = os.getloadavg()[0]  # before we add to it
    environment = machine.environment()
    roof = machine.roofline(quick=given.quick)
    chosen = given.names or names()
    options = [flag for flag in ("--quick", "--full") if getattr(given, flag[2:])]
    git = git_commit(ROOT) or {"commit": "unknown", "changed": False}
    failed = []
    for name in chosen:
        sys.stderr.write(f"{name}\n")
        found = sections(name, quick=given.quick, full=given.full)
        failed += [f"{name}: {m.title}: {m.reason}" for s in found for m in s.measured if m.failed]
        about = {
            "commit": git["commit"][:12],
            "changed": git["changed"],
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": shlex.join(["python", "-m", "benchmarks", name, *options]),
            "load": round(load, 2),
            "roofline": roof,
        }
        page.put(document, name, found, environment=environment, about=about)
        document["benchmarks"] = {n: document["benchmarks"][n] for n in names() if n in document["benchmarks"]}
        if keep:  # after each: the work of hours is not lost to a later failure
            page.write(folder, document, found)
    if not keep:
        sys.stdout.write(page.render(document))
    for line in failed:
        sys.stderr.write(f"error: {line}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
