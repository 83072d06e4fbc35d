"""`uadctl models fetch` and `uadctl models verify`: weights files brought here, and held against their checksums."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from uadctl.cli.complete import complete_network
from uadctl.cli.console import print_lines, print_table, screen
from uadctl.cli.readiness import default_detector, network_of
from uadctl.errors import SpecError, WeightsError, with_help
from uadctl.features import weights
from uadctl.features.download import sha256_of
from uadctl.spec.registry import BACKBONES, BackboneEntry, find_backbone, find_model, no_such_network
from uadctl.spec.values import shown

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

# How weights files are called.
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

# What a checksum was held against, in words.
_CHECKED = {
    "published": "its SHA-256 is the published one",
    "server": "its SHA-256 is the one that the server names",
    "recorded": "its SHA-256 is the one recorded when it was fetched",
    "nothing": "nobody publishes a checksum of it; its SHA-256 is recorded from now on",
}


@dataclass(frozen=True, slots=True)
class Verified:
    """One weights file, and what became of its checksum.

    state: "ok", "wrong" (not what it should be), "unknown" (nobody knows what it should be) or "absent".
    against: "published" or "recorded", what it was held against; "" where there is nothing.
    """

    backbone: str
    file: str
    state: str
    against: str
    sha256: str | None


def fetch(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME…", help="Models or backbones.", autocompletion=complete_network)
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DIR", help="Folder to put the files into. Default: torch hub's cache"),
    ] = None,
    json_: Json = False,
) -> None:
    """Fetch the weights of models or backbones, checked and recorded, for a machine without network too.

    A download that was cut off goes on where it ended. Example: uadctl models fetch wide_resnet50_2 --to weights
    """
    if to is not None and Path(to).exists() and not Path(to).is_dir():
        raise WeightsError(f"--to {to}: not a folder")
    entries = [(name, _network(name)) for name in names]
    folder = weights.hub_folder() if to is None else Path(to)
    rows = []
    with screen.progress() as bars:
        for name, entry in entries:
            if entry is None:
                screen.note(f"{name} uses no network: nothing to fetch", kind="note")
                continue
            if to is None and weights.available(entry) == "package":
                screen.note(f"{entry.name}: its weights came with pip: nothing to fetch", kind="note")
                continue
            found = weights.fetch(entry, folder, progress=bars)
            rows.append(
                {
                    "backbone": entry.name,
                    "file": str(found.path),
                    "new": found.new,
                    "sha256": found.sha256,
                    "checked": found.checked,
                    "licence": entry.weights.licence,
                    "url": entry.weights.url,
                    "bytes": found.path.stat().st_size,
                }
            )
            if not json_:
                there = "" if found.new else " was there already;"
                print_lines(f"{found.path}:{there} licence {entry.weights.licence}; {_CHECKED[found.checked]}")
                print_lines(f"  sha256 {found.sha256}")
    if json_:
        print_lines(json.dumps({"schema": 1, "files": rows}, ensure_ascii=False))
    elif rows and to is not None:
        screen.note(f"To use them: UADCTL_WEIGHTS={to}", kind="note")


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME…]",
            help="Models or backbones; none: every weights file that is found.",
            autocompletion=complete_network,
        ),
    ] = None,
    in_: Annotated[
        str | None,
        typer.Option("--in", metavar="DIR", help="Folder to look into. Default: every place weights are taken from"),
    ] = None,
    json_: Json = False,
) -> None:
    """Compute the SHA-256 of weights files anew and compare it with the published or recorded one.

    Exit code 2 if a file is not what it should be, or one that was named is absent. Example: uadctl models verify
    """
    if in_ is not None and not Path(in_).is_dir():
        raise WeightsError(f"--in {in_}: no such folder")
    if names:
        rows = []
        for name in names:
            entry = _network(name)
            if entry is None:
                screen.note(f"{name} uses no network: nothing to verify", kind="note")
            else:
                rows.append(_verified(entry, _file_of(entry, in_)))
    else:
        rows = [_verified(entry, file) for entry, file in _every_file(in_)]
    if json_:
        print_lines(json.dumps({"schema": 1, "files": [asdict(row) for row in rows]}, ensure_ascii=False))
    elif rows:
        print_table(
            ("file", "backbone", "state", "against", "sha256"),
            [[r.file, r.backbone, r.state, r.against, r.sha256 or ""] for r in rows],
            text_columns=5,
            wrap=False,
        )
    elif not names:
        screen.note(f"no weights files in {in_ or 'any of the places they are taken from'}")
    wrong = [row for row in rows if row.state in ("wrong", "absent")]
    if wrong:
        raise WeightsError(
            with_help(
                [f"{row.file}: {_problem(row)}" for row in wrong],
                "Fetch it again, after removing what is wrong: uadctl models fetch NAME --to DIR",
            )
        )


def _problem(row: Verified) -> str:
    if row.state == "absent":
        return f"the weights of {row.backbone} are not there"
    return f"not the {row.against} weights of {row.backbone}: SHA-256 {row.sha256}"


def _network(name: str) -> BackboneEntry | None:
    """The backbone that a name means: its own, or that of a model with its default parameters. None: it uses none."""
    model = find_model(name)
    if model is not None:
        detector = default_detector(model)
        found = network_of(detector)
        if found is None and detector.weights_state() != "none":
            raise SpecError(
                f"{name} does not say which network's weights it uses",
                help="If it is one of uadctl's, name it: uadctl models list --backbones",
            )
        return found
    entry = find_backbone(name)
    if entry is None:
        raise SpecError(f"{shown(name)}: {no_such_network(name)}")
    return entry


def _file_of(entry: BackboneEntry, folder: str | None) -> Path:
    """Where the weights of a backbone are, or would first be looked for."""
    if folder is not None:
        return Path(folder) / entry.weights.file
    files = [file for _, file in weights.places(entry)]
    return next((file for file in files if file.is_file()), files[0])


def _every_file(folder: str | None) -> Iterable[tuple[BackboneEntry | None, Path]]:
    """The weights files of a folder, or of every place, each with its backbone.

    None for one that only a record knows, or that nobody knows and that is called as weights are.
    """
    if folder is not None:
        found = {Path(folder) / e.weights.file: e for e in BACKBONES.values()}
        folders = [Path(folder)]
    else:
        found = {file: e for e in BACKBONES.values() for _, file in weights.places(e)}
        folders = sorted({file.parent for file in found})
    files: dict[Path, BackboneEntry | None] = {file: e for file, e in found.items() if file.is_file()}
    for place in folders:
        for name in weights.records(place):
            files.setdefault(place / name, None)
        for file in place.iterdir() if place.is_dir() else ():
            if file.suffix in _SUFFIXES and file.is_file():
                files.setdefault(file, None)
    return [(files[file], file) for file in sorted(files)]


def _verified(entry: BackboneEntry | None, file: Path) -> Verified:
    row = weights.records(file.parent).get(file.name, {})
    backbone = entry.name if entry else str(row.get("backbone", ""))
    if not file.is_file():
        return Verified(backbone, str(file), "absent", "", None)
    digest = sha256_of(file)
    known = {"published": entry.weights.sha256 if entry else "", "recorded": row.get("sha256", "")}
    known = {what: checksum for what, checksum in known.items() if checksum}
    for what, checksum in known.items():
        if not digest.startswith(checksum):
            return Verified(backbone, str(file), "wrong", what, digest)
    return Verified(backbone, str(file), "ok" if known else "unknown", next(iter(known), ""), digest)
