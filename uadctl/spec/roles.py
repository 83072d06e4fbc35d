"""Which keys of [dataset.files] go together: the same for a spec, and for a caller from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from uadctl.spec.values import shown

FOLDER_ROLES: Final = ("train", "validation", "normal", "anomaly")
"""The keys that hold globs of images, where the globs say which of them are good."""

MASK_ROLES: Final = ("train", "good", "validation", "test")
"""The same with by_mask, where their masks say it; `good` alone needs none."""

MASK_HELP: Final = 'Say where the mask of an image is, as in mask = "masks/{stem}.png".'
"""The next step where masks are needed, and not named."""

_INSTEAD: Final = {
    "normal": "Name good and bad test images together: test = GLOB.",
    "anomaly": "Name good and bad test images together: test = GLOB.",
    "good": "Without by_mask, train names the good images to learn from.",
    "test": "Without by_mask, normal names the good test images and anomaly the bad ones.",
    "classes": "Without by_mask, a kind of defect is called like the folder of its images.",
}

BOUND: Final = tuple(_INSTEAD)
"""The keys that belong to one of the two ways only."""


def wrong_role(key: str, by_mask: bool) -> tuple[str, str] | None:
    """Why a key has no place beside by_mask, or without it, and the next step; None where it has one."""
    if by_mask and key in ("normal", "anomaly"):
        return "not with by_mask = true, where masks say which images are good", _INSTEAD[key]
    if not by_mask and key in ("good", "test", "classes"):
        return "only with by_mask = true, where masks say which images are good", _INSTEAD[key]
    return None


def wrong_classes(names: Sequence[str]) -> str | None:
    """Why these cannot be the names of classes, or None."""
    for name in names:
        if not name or "," in name or not name.isprintable():
            return f"{shown(name)} is no name of a class: expected a text without commas and control characters"
        if name.casefold() == "good":
            return f"{shown(name)} is what images without defect are called"
        if names.count(name) > 1:
            return f"{shown(name)} is given twice"
    return None
