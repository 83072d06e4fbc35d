"""What it costs to begin: commands that compute nothing, and judging one image with a fitted run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measure import (
    PYTHON,
    Contender,
    Section,
    at_most,
    compare,
    measure_command,
    table,
)

# What the installed script `uadctl` does, under its name.
UADCTL = (PYTHON, "-c", "import sys; sys.argv[0] = 'uadctl'; from uadctl.cli.entry import main; main()")

# What anybody would write who wants the features of one image from the same weights, and nothing else.
BY_HAND = """\
import sys
import cv2, torch
from safetensors.torch import load_file
from uadctl.features.backbone import Backbone

weights, file = sys.argv[1:]
tensors = load_file(weights)
state = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
network = Backbone("efficientnet_lite0", state=state)
image = cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB)
image = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
features = network(image[None])
print([list(f.shape) for f in features])
"""


def sections(*, quick: bool) -> list[Section]:
    return [_light(quick), _score(quick)]


def _light(quick: bool) -> Section:
    measure_command([*UADCTL, "models", "list"])
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / "wrong.toml"
        wrong.write_text('[dataset]\nname = "demo"\n\n[model]\nname = "patchcor"\n', encoding="utf-8")
        completing = {"_UADCTL_COMPLETE": "complete_bash", "COMP_WORDS": "uadctl bench --model p", "COMP_CWORD": "3"}
        measured = compare(
            [
                Contender.command("`python -c pass`", [PYTHON, "-c", "pass"]),
                Contender.command("`python -c 'import typer'`", [PYTHON, "-c", "import typer"]),
                Contender.command("`uadctl --help`", [*UADCTL, "--help"]),
                Contender.command("`uadctl models list`", [*UADCTL, "models", "list"]),
                Contender.command("`uadctl bench` of a spec with an error", [*UADCTL, "bench", str(wrong)], codes=[2]),
                Contender.command("completion of `uadctl bench --model p`", UADCTL, env=completing),
            ],
            repeats=1 if quick else 15,
        )
    typer = measured[1]
    return Section(
        title="Commands that compute nothing",
        text="Whole processes, beside the import of the library that the command line is built on. No numpy, no torch.",
        tables=(table(measured, ours=typer, per=1e-3, unit="ms", memory="peak", times="CPU, times `import typer`"),),
        measured=tuple(measured),
    )


def _score(quick: bool) -> Section:
    with tempfile.TemporaryDirectory() as folder:
        run, image = fitted_run(Path(folder), quick=quick)
        model = next(run.glob("units/*/*/*/model/model.safetensors"))
        measure_command([*UADCTL, "score", str(run), image])
        measured = compare(
            [
                Contender.command("`uadctl score RUN one.png --json`", [*UADCTL, "score", str(run), image, "--json"]),
                Contender.command("the script", [PYTHON, "-c", BY_HAND, str(model), image]),
                Contender.command("`python -c 'import torch, cv2'`", [PYTHON, "-c", "import torch, cv2"]),
            ],
            repeats=1 if quick else 9,
        )
    ours, script, _ = measured
    return Section(
        title="Judging one image",
        text=(
            "Whole processes. `uadctl score` finds the run, checks the model file's checksum, restores backbone and "
            "memory bank, decodes the image, computes features, map, score and verdict. The script imports torch, "
            f"reads the same weights and image, and stops after one forward pass:\n\n```python\n{BY_HAND}```"
        ),
        tables=(table(measured, ours=ours, per=1e-3, unit="ms", memory="peak"),),
        targets=(at_most("CPU of `uadctl score` / the script", ours, script, 1.3),),
        measured=tuple(measured),
    )


def fitted_run(folder: Path, *, quick: bool) -> tuple[Path, str]:
    """A run folder fitted on the demo set's brushed metal, in a process of its own; and one of its test images."""
    measure_command([*UADCTL, "datasets", "demo", "--out", str(folder / "data")])
    limits = ["--limit-train", "4"] if quick else []
    where = ["--dataset", "mvtec", "--root", str(folder / "data"), "--category", "brushed_metal"]
    measure_command([*UADCTL, "fit", *where, "--model", "patchcore", *limits, "--run-dir", str(folder / "runs")])
    run = next((folder / "runs").iterdir())
    image = next((folder / "data" / "brushed_metal" / "test" / "good").iterdir())
    return run, str(image)
