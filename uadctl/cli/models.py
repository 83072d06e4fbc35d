"""`uadctl models`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from uadctl.cli.complete import complete_model
from uadctl.cli.console import print_lines, print_table, screen
from uadctl.errors import BackendMissing, SpecError
from uadctl.features.weights import available
from uadctl.spec.registry import BACKBONES, BackboneEntry, ModelEntry, list_models, model_info
from uadctl.spec.signature import AUTO_PARAMS, ParamInfo, create_model, list_params
from uadctl.spec.values import shown

app = typer.Typer(help="The models there are.", rich_markup_mode=None)

Tag = Annotated[list[str] | None, typer.Option("--tag", help="Only models with this tag. Repeatable: all of them.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_ABSENT = "not here"
_STATES = {
    "random": "random",
    "path": "a file of your own",
    "UADCTL_WEIGHTS": "found in the folder $UADCTL_WEIGHTS",
    "package": "found, in the package that came with pip",
    "cache": "found, in torch hub's cache",
    "network": "not on this machine; asked of the network when they are first needed",
}


@app.callback(invoke_without_command=True)
def models(context: typer.Context, tag: Tag = None, json_: Json = False) -> None:
    """The models there are; alone: list."""
    if context.invoked_subcommand is None:
        list_(tag, json_)
    elif tag or json_:
        raise SpecError(f"uadctl models: options go behind the command: uadctl models {context.invoked_subcommand} …")


@app.command("list")
def list_(tag: Tag = None, json_: Json = False) -> None:
    """List the models: name, aliases, what they do, the extra they need."""
    entries = [model_info(name) for name in list_models(tag)]
    if not entries:
        screen.note(f"no model has every one of the tags: {', '.join(tag or ())}")
    if json_:
        print_lines(json.dumps([_row(e) for e in entries], ensure_ascii=False))
        return
    print_table(
        ("name", "also", "extra", "summary"),
        [[e.name, ", ".join(e.aliases), e.extra or "", e.summary] for e in entries],
        text_columns=4,
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
        str, typer.Argument(metavar="NAME", help="A model; see: uadctl models list", autocompletion=complete_model)
    ],
    json_: Json = False,
) -> None:
    """Show one model: its parameters, paper, extra, and whether its weights are at hand.

    Example: uadctl models show vision_patchcore
    """
    entry = model_info(name)
    params = list_params(entry.name)
    packages = {package: _installed(package) for package in entry.packages}
    weights = _weights(entry, params)
    backbones = list(BACKBONES.values()) if any(p.name == "backbone" for p in params) else []
    if json_:
        document = {
            "schema": 1,
            **_row(entry),
            "extra": entry.extra,
            "packages": packages,
            "weights": weights,
            "parameters": [_parameter(p) for p in params],
            "backbones": [_backbone(b) for b in backbones],
        }
        print_lines(json.dumps(document, ensure_ascii=False, allow_nan=False))
        return
    facts = [
        ("also", ", ".join(entry.aliases)),
        ("tags", ", ".join(entry.tags)),
        ("paper", entry.paper),
        ("extra", _extra(entry, packages)),
        ("weights", _STATES.get(weights, weights) if weights else None),
        ("checkpoint", "needed: --checkpoint-path FILE" if entry.requires_checkpoint else None),
    ]
    print_lines(f"{entry.name}: {entry.summary}\n")
    print_lines("\n".join(f"{title}: {text}" for title, text in facts if text))
    print_table(
        ("parameter", "type", "default", "meaning"),
        [[p.name, _type(p), _default(p), _meaning(p)] for p in params],
        text_columns=4,
    )
    if backbones:
        # Two tables, since the columns of both together do not fit into a terminal.
        print_table(
            ("backbone", "layers", "channels", "stride", "other layers"),
            [_layer_cells(b) for b in backbones],
            text_columns=5,
        )
        print_table(
            ("backbone", "weights", "licence", "found"),
            [[b.name, b.weights.file, b.weights.licence, available(b) or _ABSENT] for b in backbones],
            text_columns=4,
        )


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
        state: str = create_model(entry.name).weights_state()
    except BackendMissing:
        return None
    return state


def _extra(entry: ModelEntry, packages: dict[str, bool]) -> str:
    if entry.extra is None:
        return "none needed"
    absent = [package for package, there in packages.items() if not there]
    if not absent:
        return f"{entry.extra}, installed"
    return f"{entry.extra}; {', '.join(absent)} not installed: pip install 'uadctl[{entry.extra}]'"


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
    if param.choices:
        return " | ".join(sorted({type(choice).__name__ for choice in param.choices}))
    return param.type.removesuffix(" | None")


def _meaning(param: ParamInfo) -> str:
    return param.doc + (f" One of: {', '.join(str(c) for c in param.choices)}." if param.choices else "")


def _default(param: ParamInfo) -> str:
    if not param.settable:
        return "from Python only"
    if param.name in AUTO_PARAMS:
        return f"[run] {param.name}"
    if param.required:
        return "needed"
    if param.default is None:
        return ""
    return param.default if isinstance(param.default, str) else shown(param.default)


def _backbone(entry: BackboneEntry) -> dict[str, Any]:
    weights = entry.weights
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "summary": entry.summary,
        "paper": entry.paper,
        "layers": list(entry.layers),
        "channels": dict(entry.channels),
        "strides": dict(entry.strides),
        "weights": {
            "file": weights.file,
            "sha256": weights.sha256,
            "licence": weights.licence,
            "url": weights.url,
            "package": weights.package,
            "found": available(entry),
        },
    }


def _layer_cells(entry: BackboneEntry) -> list[str]:
    used = entry.layers
    return [
        entry.name,
        ", ".join(used),
        ", ".join(str(entry.channels[layer]) for layer in used),
        ", ".join(str(entry.strides[layer]) for layer in used),
        ", ".join(layer for layer in entry.channels if layer not in used),
    ]
