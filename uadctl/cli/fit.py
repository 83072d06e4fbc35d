"""`uadctl fit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from uadctl.cli import options as o
from uadctl.cli.bench import print_plan
from uadctl.cli.console import print_lines, screen
from uadctl.errors import SpecError
from uadctl.spec import Overrides, read_spec
from uadctl.spec.grammar import name_from


def fit(
    spec: o.SpecArgument = None,
    good: Annotated[
        str | None, typer.Option("--good", metavar="DIR", help="A folder of good images, in place of a spec.")
    ] = None,
    set_: o.Set = None,
    dataset: o.DatasetOption = None,
    root: o.Root = None,
    category: o.Category = None,
    split: o.Split = None,
    model: o.Model = None,
    model_kwargs: o.ModelKwargs = None,
    checkpoint_path: o.CheckpointPath = None,
    pretrained: o.Pretrained = None,
    device: o.Device = None,
    seed: o.Seed = None,
    limit_train: o.LimitTrain = None,
    run_dir: o.RunDir = None,
    json_: o.Json = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Learn good images and set a threshold; `uadctl score` then judges new ones.

    Example: uadctl fit --good photos/good
    """
    screen.configure(quiet=quiet, debug=debug)
    settings = list(set_ or ())
    if good is not None:
        if spec is not None or dataset is not None or root is not None:
            raise SpecError("--good names the images; it goes without a spec, --dataset and --root")
        if not Path(good).is_dir():
            raise SpecError(f"--good {good}: no such folder")
        dataset, root, model = "folder", good, model or "vision_patchcore"
        name = name_from(Path(good).resolve().name)
        settings = [f"run.name={json.dumps(name)}", 'dataset.files.train="**/*"', *settings]
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
    )
    reading = read_spec(o.spec_file(spec), overrides)
    for note in reading.notes:
        screen.note(note)
    if dry_run:
        print_plan(reading.spec, json_=json_, testing=False)
        return
    from uadctl.fit import fit as run_fit

    with screen.progress(device=o.show_device(reading.spec.run.device)) as progress:
        result = run_fit(reading.spec, progress=progress, notes=reading.notes)
    units = [{"category": u.category, "label": u.label, "seed": u.seed, "status": u.status} for u in result.run.units()]
    if json_:
        print_lines(json.dumps({"schema": 1, "run": str(result.run.path), "units": units}, allow_nan=False))
    else:
        for unit in units:
            print_lines(f"{unit['status']}: {unit['category']} · {unit['label']} · seed {unit['seed']}")
        print_lines(f"run: {result.run.path}")
        if not result.failed:
            print_lines(f"next: uadctl score {result.run.path} IMAGE…")
    if result.failed:
        raise typer.Exit(1)
