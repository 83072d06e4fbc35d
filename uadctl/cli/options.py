"""Options that several commands share, and what they mean for a spec."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uadctl.cli.complete import complete_dataset, complete_model, complete_run
from uadctl.cli.console import screen
from uadctl.errors import RunError, SpecError
from uadctl.spec import Overrides, Reading, TilingTable, read_spec
from uadctl.spec.grammar import LEAST_TILE, default_stride

if TYPE_CHECKING:
    from uadctl.records import Tiling
    from uadctl.runs.fitted import Fitted
    from uadctl.runs.folder import RunFolder
    from uadctl.spec.grammar import RunTable

SpecArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[SPEC|RUN]",
        help="A TOML spec, or a run folder to repeat.",
        show_default=False,
        autocompletion=complete_run,
    ),
]
# Fewer bytes hold neither the tables of a spec nor the length of a bundle's header.
_SMALLEST = 8

FinishedRun = Annotated[
    str,
    typer.Argument(
        metavar="RUN|SPEC",
        help="A run folder, or a spec for its newest finished run.",
        autocompletion=complete_run,
    ),
]
ScoringModel = Annotated[
    str,
    typer.Argument(
        metavar="RUN|SPEC|BUNDLE",
        help="A run folder, a spec for its newest finished run, or a bundle that uadctl fit --bundle wrote.",
        autocompletion=complete_run,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override any key of the spec, e.g. --set run.seed=1. Repeatable."),
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="Kind of data set; see: uadctl datasets list", autocompletion=complete_dataset),
]
Root = Annotated[str | None, typer.Option("--root", metavar="DIR", help="Folder of the data set, or its manifest.")]
Category = Annotated[
    list[str] | None, typer.Option("--category", help="Category, or a glob. Repeatable. Default: all.")
]
Split = Annotated[str | None, typer.Option("--split", help="Test split, where the data set has several.")]
Model = Annotated[
    str | None, typer.Option("--model", help="Model name; see: uadctl models list", autocompletion=complete_model)
]
ModelKwargs = Annotated[
    str | None,
    typer.Option(
        "--model-kwargs", metavar="JSON", help="Model parameters as a JSON object, e.g. '{\"coreset_ratio\": 0.01}'."
    ),
]
CheckpointPath = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-path",
        metavar="FILE",
        help="Trained model for those that need one, e.g. --checkpoint-path model.ckpt",
    ),
]
TrustCheckpoint = Annotated[
    bool,
    typer.Option(
        "--trust-checkpoint",
        help="Load that file though it can run code, as a .pt does: only if you trust who made it.",
    ),
]
Pretrained = Annotated[
    bool | None,
    typer.Option("--pretrained/--no-pretrained", help="Pretrained weights, or random ones.", show_default=False),
]
Pixel = Annotated[
    bool | None,
    typer.Option("--pixel/--no-pixel", help="Pixel metrics where masks exist (on by default).", show_default=False),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")]
LimitTrain = Annotated[int | None, typer.Option("--limit-train", help="At most so many training images a category.")]
LimitTest = Annotated[int | None, typer.Option("--limit-test", help="At most so many test images a category.")]
RunDir = Annotated[
    str | None, typer.Option("--run-dir", metavar="DIR", help="Where run folders are made. Default: runs")
]
Engine = Annotated[
    Literal["local", "ray"] | None,
    typer.Option("--engine", help="Where the work is done: on this machine, or by Ray. The results are the same."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="Ray cluster: auto, HOST:6379, ray://HOST:10001, or local."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="So many at a time, each with the threads of [run].")
]
TileSize = Annotated[
    int | None,
    typer.Option("--tile-size", metavar="N", help="Cut images into tiles of N x N pixels, as [tiling] size does."),
]
TileStride = Annotated[
    int | None,
    typer.Option("--tile-stride", metavar="N", help="Pixels from one tile to the next. Default: 3/4 of the size."),
]
TileReduce = Annotated[
    Literal["mean", "max", "hann"] | None,
    typer.Option("--tile-reduce", help="What a pixel in several tiles gets. Default: mean."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
LogFile = Annotated[
    str | None,
    typer.Option("--log-file", metavar="FILE", help="Append what happens to a file, a line of JSON each."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars, no warnings.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, open no image.")]


def spec_file(target: str | None) -> str | None:
    """The spec file that a SPEC or RUN argument names. RunError for a folder that is no run, SpecError for a bundle."""
    from uadctl.runs.bundle import is_bundle
    from uadctl.runs.folder import RunFolder

    if target is not None and Path(target).is_dir():
        return str(RunFolder.open(Path(target)).path / "spec.toml")
    if target is not None and is_bundle(target):
        raise _no_run(target)
    return target


def _no_run(bundle: str) -> SpecError:
    return SpecError(
        f"{bundle}: is a bundle, expected a spec or a run folder: it holds a finished model, and nothing to change or "
        "repeat it by",
        help="Give the run that it was made of; uadctl models bundle RUN FILE makes a new bundle of it.",
    )


def read(spec: str | None, overrides: Overrides) -> Reading:
    """The spec that a command is about, with the notes on how it was understood said."""
    reading = read_spec(spec, overrides)
    for note in reading.notes:
        screen.note(note)
    return reading


def finished_run(target: str, *, run_dir: str | None = None) -> RunFolder:
    """The run that a RUN or SPEC argument stands for: itself, or the newest finished run of the spec."""
    from uadctl.runs.bundle import is_bundle
    from uadctl.runs.folder import RunFolder, newest

    if not Path(target).exists():
        raise RunError(f"{target}: no such run folder or spec")
    if not Path(target).is_file():
        return RunFolder.open(Path(target))
    if is_bundle(target):
        raise _no_run(target)
    run = newest(read_spec(target, Overrides(run_dir=run_dir)).spec, finished=True)
    screen.note(f"{target} stands for its newest finished run, {run.path}", kind="note")
    return run


def _size(target: str) -> int | None:
    """Of a regular file, in bytes; None for what is none, and for what cannot be looked at."""
    path = Path(target)
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Judge:
    """A model to score with. device: what it was asked to run on. threads: as many as it was fitted with."""

    fitted: Fitted
    device: str
    threads: int


def judge(
    target: str, *, category: str | None, label: str | None, seed: int | None, run_dir: str | None, device: str | None
) -> Judge:
    """The model that a RUN, SPEC or BUNDLE argument stands for. device: in place of its own.

    Raises RunError, listing them, where a run has several; SpecError for a choice where a bundle has one.
    """
    from uadctl.runs.bundle import is_bundle, load_bundle, refuse_choice

    if is_bundle(target):
        refuse_choice(target, category=category, label=label, seed=seed)
        if run_dir is not None:
            raise SpecError(f"--run-dir {run_dir}: has no effect, {target} is a bundle", help="Leave the option out.")
        found = load_bundle(target, device=device)
        bundle = found.bundle
        return Judge(found.fitted, device or bundle.run.device, bundle.run.threads)
    if (size := _size(target)) is not None and size < _SMALLEST:
        raise SpecError(
            f"{target}: {f'has only {size} bytes' if size else 'is empty'}: neither a bundle nor a spec",
            help="Copy it again from where it was made.",
        )
    run = finished_run(target, run_dir=run_dir)
    unit = run.choose(category=category, label=label, seed=seed)
    table = run.spec.run
    from uadctl.runs.fitted import load

    fitted = load(unit, device=device or table.device)
    return Judge(fitted, device or table.device, table.threads)


def show_device(device: str) -> str:
    """What the bars name. SpecError for a device that this machine has not; torch is about to be needed anyway."""
    from uadctl.features.backbone import resolve_device

    return resolve_device(device)


def bar_device(table: RunTable) -> str:
    """As `show_device`, of the device that a spec means; of a cluster's nodes as the spec names it."""
    from uadctl.plan import elsewhere

    return table.device if elsewhere(table) else show_device(table.device)


def check_address(address: str | None, table: RunTable) -> None:
    """SpecError for --address where the work is not done by Ray."""
    if address is not None and table.engine != "ray":
        raise SpecError(f"--address {address}: has no effect without --engine ray", help="Give --engine ray as well.")


def tiling(
    size: int | None,
    stride: int | None,
    reduce: Literal["mean", "max", "hann"] | None,
    *,
    like: Tiling | None,
) -> Tiling | None:
    """What --tile-size, --tile-stride and --tile-reduce mean; None without a size. SpecError where they mean nothing.

    like: that of the run. What is left out is as there; its stride, if the size is; else as in [tiling].
    """
    if size is None:
        for option, value in (("--tile-stride", stride), ("--tile-reduce", reduce)):
            if value is not None:
                raise SpecError(f"{option} {value}: has no effect without --tile-size", help="Give --tile-size N.")
        return None
    if size < LEAST_TILE:
        raise SpecError(f"--tile-size {size}: expected an integer >= {LEAST_TILE}")
    if stride is not None and not 1 <= stride <= size:
        raise SpecError(
            f"--tile-stride {stride}: expected an integer >= 1 and <= {size}, the size of a tile",
            help=f"Left out it is {default_stride(size)}.",
        )
    if stride is None and like is not None and like.size == size:
        stride = like.stride
    reduced = reduce or (like.reduce if like is not None else "mean")
    return TilingTable(size=size, stride=stride, reduce=reduced, score="max" if like is None else like.score).tiling


def check_outputs(*, files: Iterable[tuple[str, str | None]], folders: Iterable[tuple[str, str | None]] = ()) -> None:
    """Make the folders that results will go to, before any work is done for them. SpecError if that is impossible."""
    wanted = []
    for option, name in files:
        if name is not None:
            try:
                folder = Path(name).is_dir()
            except OSError as error:  # a name that no file can have
                raise SpecError(f"{option} {name}: cannot be written: {error.strerror}") from error
            if folder:
                raise SpecError(f"{option} {name}: is a folder, expected a file to write")
            wanted.append((option, name, Path(name).parent))
    wanted += [(option, name, Path(name)) for option, name in folders if name is not None]
    for option, given, parent in wanted:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            raise SpecError(f"{option} {given}: {parent} cannot be written to: {error.strerror}") from error


def check_distinct(*named: tuple[str, str | None]) -> None:
    """SpecError if two of these are the same file: neither may be written over the other."""
    seen: dict[str, str] = {}
    for option, name in named:
        if name is None:
            continue
        path = os.path.realpath(name)  # Path.resolve raises where links lead to themselves
        if path in seen:
            raise SpecError(f"{option} {name}: is the same file as {seen[path]}", help="Name another file.")
        seen[path] = option
