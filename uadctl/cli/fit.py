"""`uadctl fit`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uadctl.cli import options as o
from uadctl.cli.bench import print_plan
from uadctl.cli.console import print_lines, print_told, screen
from uadctl.errors import SpecError
from uadctl.imaging.listing import list_images
from uadctl.spec import Overrides
from uadctl.spec.grammar import name_from

if TYPE_CHECKING:
    from uadctl.runs.folder import UnitFolder


def fit(
    spec: o.SpecArgument = None,
    good: Annotated[
        list[str] | None, typer.Option("--good", metavar="DIR", help="A folder of good images, in place of a spec.")
    ] = None,
    set_: o.Set = None,
    dataset: o.DatasetOption = None,
    root: o.Root = None,
    category: o.Category = None,
    split: o.Split = None,
    model: o.Model = None,
    model_kwargs: o.ModelKwargs = None,
    checkpoint_path: o.CheckpointPath = None,
    trust_checkpoint: o.TrustCheckpoint = False,
    pretrained: o.Pretrained = None,
    device: o.Device = None,
    seed: o.Seed = None,
    limit_train: o.LimitTrain = None,
    run_dir: o.RunDir = None,
    engine: o.Engine = None,
    address: o.Address = None,
    workers: o.Workers = None,
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", metavar="FILE", help="Write the model, if it is one, to a file that score takes."),
    ] = None,
    json_: o.Json = False,
    dry_run: o.DryRun = False,
    log_file: o.LogFile = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Learn good images and set a threshold; `uadctl score` then judges new ones.

    Example: uadctl fit --good photos/good
    """
    o.check_distinct(("SPEC", spec), ("--bundle", bundle), ("--log-file", log_file))
    screen.configure(quiet=quiet, debug=debug, log_file=log_file)
    settings = list(set_ or ())
    if good:
        if spec is not None or dataset is not None or root is not None:
            raise SpecError("--good names the images; it goes without a spec, --dataset and --root")
        if len(good) > 1:
            raise SpecError(
                "--good is given twice", help="Put the images into one folder; its sub-folders are read too."
            )
        folder = Path(good[0])
        if not folder.is_dir():
            raise SpecError(
                f"--good {folder}: {'is a file, expected a folder' if folder.exists() else 'no such folder'}"
            )
        if not list_images(str(folder)):
            raise SpecError(f"--good {folder}: no images in this folder")
        dataset, root, model = "folder", str(folder), model or "vision_patchcore"
        name = name_from(folder.resolve().name)
        settings = [f"run.name={json.dumps(name)}", 'dataset.files.train="**/*"', *settings]
    elif spec is None and dataset is None:
        raise SpecError("nothing to learn from: give a SPEC, --good DIR, or --dataset", help="See: uadctl fit --help")
    overrides = Overrides(
        set=tuple(settings),
        dataset=dataset,
        root=root,
        categories=tuple(category) if category else None,
        split=split,
        model=model,
        model_kwargs=model_kwargs,
        checkpoint_path=checkpoint_path,
        pretrained=pretrained,
        device=device,
        seed=seed,
        limit_train=limit_train,
        run_dir=run_dir,
        engine=engine,
        address=address,
        workers=workers,
        trust_checkpoint=trust_checkpoint,
    )
    reading = o.read(o.spec_file(spec), overrides)
    o.check_address(address, reading.spec.run)
    o.check_outputs(files=[("--bundle", bundle)])
    if dry_run:
        if bundle is not None:
            from uadctl.fit import check_single
            from uadctl.plan import make_plan
            from uadctl.runs.bundle import check_place

            check_single(make_plan(reading.spec, trust_checkpoint=trust_checkpoint), bundle)
            check_place(bundle, reading.spec.dataset.root)
        print_plan(reading.spec, json_=json_, testing=False, trust_checkpoint=trust_checkpoint)
        return
    from uadctl.fit import fit as run_fit

    with screen.progress(device=o.bar_device(reading.spec.run)) as progress:
        result = run_fit(
            reading.spec, trust_checkpoint=trust_checkpoint, bundle=bundle, progress=progress, notes=reading.notes
        )
    bundled = None if result.failed else bundle
    units: list[dict[str, Any]] = [
        {"category": u.category, "label": u.label, "seed": u.seed, "status": u.status, "threshold": _threshold(u)}
        for u in result.run.units()
    ]
    if json_:
        document = {"schema": 1, "run": str(result.run.path), "units": units, "bundle": bundled}
        print_lines(json.dumps(document, allow_nan=False))
    else:
        for unit in units:
            told = f": {_told(unit['threshold'])}" if unit["threshold"] is not None else ""
            print_told(f"{unit['status']}: {unit['category']} · {unit['label']} · seed {unit['seed']}{told}")
        print_told(f"run: {result.run.path}")
        if bundled is not None:
            print_told(f"bundle: {bundled} ({Path(bundled).stat().st_size / 1e6:.1f} MB)")
        if not result.failed:
            print_told(f"next: uadctl score {shlex.quote(bundled or str(result.run.path))} IMAGE…")
    if result.failed:
        raise typer.Exit(1)


def _threshold(unit: UnitFolder) -> dict[str, Any] | None:
    """The image threshold of a finished unit, as it stands in its thresholds.json."""
    if unit.status != "done":
        return None
    found: dict[str, Any] = unit.read("thresholds")["image"]
    return found


def _told(threshold: dict[str, Any]) -> str:
    if threshold["value"] is None:
        return f"no threshold: {threshold['reason']}"
    n, alpha = threshold["n"], threshold["alpha"]
    text = f"threshold {threshold['value']:.4f}, for {alpha:.3g} false alarms, from {n} {threshold['source']} scores"
    return text if n * alpha >= 1 else f"{text} (so few that it lies above all of them)"
