"""`uadctl models`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from uadctl.cli import backbones, bundles, weights
from uadctl.cli.complete import complete_network
from uadctl.cli.console import print_lines, print_table, screen
from uadctl.cli.readiness import default_detector, device_here, params_of, readiness, reads_without_packages
from uadctl.errors import BackendMissing, SpecError
from uadctl.features.weights import own_folder
from uadctl.spec.plugins import find_plugins
from uadctl.spec.registry import (
    BACKBONES,
    ModelEntry,
    find_backbone,
    known_model,
    list_models,
    model_info,
    no_such_network,
)
from uadctl.spec.signature import AUTO_PARAMS, OF_CATEGORY, ParamInfo, trainer_keys
from uadctl.spec.values import shown

_OF_ANOMALIB = "Trained models of anomalib: each takes --checkpoint-path FILE or, where it says so, is trained"

app = typer.Typer(help="The models there are.", rich_markup_mode=None)

Tag = Annotated[list[str] | None, typer.Option("--tag", help="Only models with this tag. Repeatable: all of them.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_STATES = {
    "random": "random",
    "path": "a file of your own",
    "UADCTL_WEIGHTS": "found in the folder $UADCTL_WEIGHTS",
    "package": "found, in the package that came with pip",
    "cache": "found, in torch hub's cache",
    "huggingface": "found, in the cache of the Hugging Face hub",
    "none": "none: it uses no network",
    "network": "not on this machine; asked of the network when they are first needed",
}


Check = Annotated[bool, typer.Option("--check", help="Say of each whether this machine can run it, and why not.")]
Backbones = Annotated[bool, typer.Option("--backbones", help="The networks behind the models, in place of the models.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print a page with all parameters: docs/models.md.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, tag: Tag = None, json_: Json = False) -> None:
    """The models there are; alone: list."""
    if context.invoked_subcommand is None:
        list_(tag, json_)
    elif tag or json_:
        raise SpecError(f"uadctl models: options go behind the command: uadctl models {context.invoked_subcommand} …")


@app.command("list")
def list_(
    tag: Tag = None,
    json_: Json = False,
    check: Check = False,
    backbones_: Backbones = False,
    markdown: Markdown = False,
) -> None:
    """List the models: name, aliases, what they do, the extra they need; or their backbones."""
    if sum((check, backbones_, markdown)) > 1 or (backbones_ and tag) or (markdown and (tag or json_)):
        raise SpecError(
            "uadctl models list: --check, --backbones and --markdown do not go together, nor with a --tag "
            "or --json that they would ignore"
        )
    if backbones_:
        backbones.print_all(json_=json_)
        return
    for problem in find_plugins().problems:
        screen.note(problem)
    if markdown:
        from uadctl.cli.catalogue import page

        print_lines(page())
        return
    entries = [model_info(name) for name in list_models(tag)]
    if not entries:
        screen.note(f"no model has every one of the tags: {', '.join(tag or ())}")
    if check:
        _print_checks(entries, json_=json_)
    elif json_:
        print_lines(json.dumps([_row(e) for e in entries], ensure_ascii=False))
    else:
        _print_models(entries)


def _print_models(entries: Sequence[ModelEntry]) -> None:
    """A table of the models; those of anomalib, which are many and all need a checkpoint, in one of their own."""
    of_anomalib = [e for e in entries if e.offered and e.backend == "anomalib"]
    others = [e for e in entries if e.offered and e.backend != "anomalib"]
    if others:
        print_table(
            ("name", "also", "extra", "summary"),
            [[e.name, ", ".join(e.aliases), e.extra or "", e.summary] for e in others],
            text_columns=4,
        )
    if of_anomalib:
        print_lines(("\n" if others else "") + _OF_ANOMALIB)
        print_table(
            ("name", "also", "trained", "summary"),
            [[e.name, ", ".join(e.aliases), "yes" if e.trainable else "no", e.summary] for e in of_anomalib],
            text_columns=4,
        )
    untrained = [(e, e.untrained) for e in of_anomalib if e.untrained]
    absent = [(e, e.reason) for e in entries if e.reason]
    for title, reasons in (("Not trained by uadctl", untrained), ("Not offered", absent)):
        if reasons:
            before = "\n" if screen.printed else ""
            print_lines("\n".join([f"{before}{title}:", *(f"  {e.name}: {reason}" for e, reason in reasons)]))


def _print_checks(entries: Sequence[ModelEntry], *, json_: bool) -> None:
    """Whether each model can be run here with its default parameters."""
    own_folder()  # one that is not there is wrong for all models alike
    device = device_here()
    found = [(e, readiness(e)) for e in entries]
    if json_:
        rows = [{**_row(e), "ready": r.ready, "weights": r.weights, "needs": list(r.needs)} for e, r in found]
        print_lines(json.dumps({"schema": 1, "device": device, "models": rows}, ensure_ascii=False))
        return
    print_lines(f"device: {device}")
    print_table(
        ("name", "ready", "weights", "needs"),
        [[e.name, "yes" if r.ready else "no", r.weights or "", "\n".join(r.needs)] for e, r in found],
        text_columns=4,
        wrap=False,  # commands that somebody will copy
    )


def _row(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "summary": entry.summary,
        "paper": entry.paper,
        "tags": list(entry.tags),
        "metadata": entry.metadata,
    }


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|BUNDLE",
            help="A model or a backbone, see: uadctl models list; or a bundle.",
            autocompletion=complete_network,
        ),
    ],
    json_: Json = False,
) -> None:
    """Show one model: its parameters, paper, extra, and whether its weights are at hand; or one backbone; or what a
    bundle holds, and that it is whole.

    Example: uadctl models show vision_patchcore
    """
    entry = known_model(name)
    if entry is None:
        backbone = find_backbone(name)
        if backbone is None:
            from uadctl.runs.bundle import is_bundle

            if is_bundle(name):
                bundles.show(name, json_=json_)
                return
            raise SpecError(f"{shown(name)}: {no_such_network(name)}")
        backbones.show(backbone, json_=json_)
        return
    params = params_of(entry) if entry.offered else []
    names = {p.name for p in params}
    packages = {package: _installed(package) for package in entry.packages}
    state = _weights(entry, params) if entry.offered else None
    # anomalib's backbones are timm's, by timm's names.
    networks = list(BACKBONES.values()) if entry.backend != "anomalib" and "backbone" in names else []
    if json_:
        document = {
            "schema": 1,
            **_row(entry),
            "extra": entry.extra,
            "packages": packages,
            "weights": state,
            "parameters": [_parameter(p) for p in params],
            "backbones": [backbones.row(b) for b in networks],
        }
        print_lines(json.dumps(document, ensure_ascii=False, allow_nan=False))
        return
    facts = [
        ("also", ", ".join(entry.aliases)),
        ("tags", ", ".join(entry.tags)),
        ("paper", entry.paper),
        ("extra", _extra(entry, packages) if entry.offered else None),
        ("weights", _STATES.get(state, state) if state else None),
        ("checkpoint", _checkpoint(entry)),
        ("training", _training(entry)),
        ("not offered", entry.reason),
    ]
    print_lines(f"{entry.name}: {entry.summary}\n")
    print_lines("\n".join(f"{title}: {text}" for title, text in facts if text))
    if not entry.offered:
        return
    print_table(
        ("parameter", "type", "default", "meaning"),
        [[p.name, _type(p), _default(p), _meaning(p)] for p in params],
        text_columns=4,
    )
    if networks:
        backbones.print_tables(networks)


def _checkpoint(entry: ModelEntry) -> str | None:
    if not entry.requires_checkpoint or not entry.offered:
        return None
    trained = ", or [model.trainer] to train it" if entry.trainable else ""
    return f"needed: --checkpoint-path FILE{trained}"


def _training(entry: ModelEntry) -> str | None:
    """What [model.trainer] takes for the model, or why uadctl does not train it; None for uadctl's own detectors."""
    if not entry.offered or not entry.trainable:
        return entry.untrained if entry.offered else None
    needed, keys, batch = trainer_keys(entry.name)
    takes = f"[model.trainer] takes {', '.join(keys)}"
    fixed = "" if batch is None else f"; batch_size is {batch}"
    return f"{takes}; one of {' and '.join(needed)} is needed{fixed}" if needed else f"{takes}, all optional{fixed}"


def only_choices(param: ParamInfo) -> bool:
    """Whether a parameter's choices are all that it takes: `int | Literal["auto"]` takes numbers as well."""
    alternatives = [part for part in param.type.split(" | ") if part != "None"]
    # One that stands alone may have a name: Precision.
    return bool(param.choices) and (len(alternatives) == 1 or all(a.startswith("Literal[") for a in alternatives))


def _installed(package: str) -> bool:
    """Whether a package could be imported; a package's own code is not run to find out."""
    try:
        return find_spec(package.partition(".")[0]) is not None
    except ValueError:  # imported already, by something that gave it no spec
        return True


def _weights(entry: ModelEntry, params: Sequence[ParamInfo]) -> str | None:
    """Where the weights of the model with its default parameters come from.

    None where that says nothing: it cannot be built without a checkpoint, other parameters or its extra.
    """
    if entry.requires_checkpoint or any(param.required for param in params):
        return None
    try:
        state: str = default_detector(entry).weights_state()
    except BackendMissing:
        return None
    return state


def _extra(entry: ModelEntry, packages: dict[str, bool]) -> str:
    if entry.extra is None:
        return "none needed"
    absent = [package for package, there in packages.items() if not there]
    if not absent:
        return f"{entry.extra}, installed"
    without = "; not needed for checkpoints of PatchCore and PaDiM" if reads_without_packages(entry) else ""
    return f"{entry.extra}; {', '.join(absent)} not installed: pip install 'uadctl[{entry.extra}]'{without}"


def _parameter(param: ParamInfo) -> dict[str, Any]:
    return {
        "name": param.name,
        "type": param.type,
        "default": param.default,
        "required": param.required,
        "choices": list(param.choices),
        "meaning": param.doc,
        "from_run": param.name in AUTO_PARAMS,
        "settable": param.settable,
    }


def _type(param: ParamInfo) -> str:
    """As written, without what the other columns say already: that it may be left out, and what there is to choose."""
    if only_choices(param):
        return " | ".join(sorted({type(choice).__name__ for choice in param.choices}))
    return param.type.removesuffix(" | None")


def _meaning(param: ParamInfo) -> str:
    return param.doc + (f" One of: {', '.join(str(c) for c in param.choices)}." if only_choices(param) else "")


def _default(param: ParamInfo) -> str:
    if not param.settable:
        return "from Python only"
    if param.name in AUTO_PARAMS:
        return f"[run] {param.name}"
    if param.name in OF_CATEGORY:
        return "the category"
    if param.required:
        return "needed"
    if param.default is None:
        return ""
    return param.default if isinstance(param.default, str) else shown(param.default)


app.command("bundle")(bundles.bundle)
app.command("fetch")(weights.fetch)
app.command("verify")(weights.verify)
