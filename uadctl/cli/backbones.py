"""What `uadctl models` says of backbones: the networks behind the models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from uadctl.cli.console import print_lines, print_table
from uadctl.features.weights import available, check, places
from uadctl.spec.registry import BACKBONES, DOORS, BackboneEntry

ABSENT = "not here"
_BEHIND_DOORS = "Also by name: " + ", ".join(f"{door}:NAME" for door in sorted(DOORS))


def print_all(*, json_: bool) -> None:
    """Every backbone that has a name of its own."""
    entries = list(BACKBONES.values())
    if json_:
        print_lines(json.dumps([row(entry) for entry in entries], ensure_ascii=False))
        return
    print_table(
        ("backbone", "layers", "channels", "stride", "weights", "licence", "found"),
        [[*_layer_cells(e)[:4], e.weights.file, e.weights.licence, available(e) or ABSENT] for e in entries],
        text_columns=7,
        wrap=False,
    )
    print_lines(f"\n{_BEHIND_DOORS}")


def show(entry: BackboneEntry, *, json_: bool) -> None:
    """One backbone: its layers, and where its weights are or are to be had from."""
    found = next(((source, file) for source, file in places(entry) if file.is_file()), None)
    digest = check(entry, found[1]) if found else None
    command = f"uadctl models fetch {entry.name} --to DIR" if entry.weights.url else None
    if json_:
        document = {
            "schema": 1,
            **row(entry),
            "path": str(found[1]) if found else None,
            "sha256": digest,
            "fetch": None if found else command,
        }
        print_lines(json.dumps(document, ensure_ascii=False))
        return
    lack = f"not on this machine; fetch it with: {command}" if command else "not on this machine, and not to be fetched"
    facts = [
        ("also", ", ".join(entry.aliases)),
        ("paper", entry.paper),
        ("weights", entry.weights.file),
        ("licence", entry.weights.licence),
        ("from", entry.weights.url or entry.weights.package),
        ("found", f"{found[1]} ({found[0]})" if found else lack),
        ("sha256", digest),
    ]
    print_lines(f"{entry.name}: {entry.summary}\n")
    print_lines("\n".join(f"{title}: {text}" for title, text in facts if text))
    print_table(
        ("layer", "default", "channels", "stride", "features of a 224x224 image"),
        [
            [
                layer,
                "yes" if layer in entry.layers else "",
                str(channels),
                str(entry.strides[layer]),
                f"{channels} x {224 // entry.strides[layer]} x {224 // entry.strides[layer]}",
            ]
            for layer, channels in entry.channels.items()
        ],
        text_columns=2,
    )


def print_tables(entries: Sequence[BackboneEntry]) -> None:
    """The backbones that a model can be given: those that uadctl describes in full, the others by their names."""
    own = [entry for entry in entries if not entry.family]
    # Two tables, since the columns of both together do not fit into a terminal.
    print_table(
        ("backbone", "layers", "channels", "stride", "other layers"),
        [_layer_cells(b) for b in own],
        text_columns=5,
    )
    print_table(
        ("backbone", "weights", "licence", "found"),
        [[b.name, b.weights.file, b.weights.licence, available(b) or ABSENT] for b in own],
        text_columns=4,
    )
    others = ", ".join(entry.name for entry in entries if entry.family)
    print_lines(f"\nAlso torchvision's {others}.\n{_BEHIND_DOORS}\nSee: uadctl models show BACKBONE")


def row(entry: BackboneEntry) -> dict[str, Any]:
    """What programs are told of a backbone."""
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
    others = [layer for layer in entry.channels if layer not in used]
    return [
        entry.name,
        ", ".join(used),
        ", ".join(str(entry.channels[layer]) for layer in used),
        ", ".join(str(entry.strides[layer]) for layer in used),
        ", ".join(others) if len(others) <= 6 else f"{others[0]} … {others[-1]}",
    ]
