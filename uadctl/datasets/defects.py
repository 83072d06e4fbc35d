"""Defects one by one: their masks, a file for each, and how much of a defect is enough to have found it.

    HOME/ground_truth/<kind>/<stem>/000.png, 001.png, …     one file a defect of the image <stem> of that kind
    HOME/defects_config.json                                what is enough, by the value of a mask's pixels

HOME is one category's folder. MVTec LOCO AD came with this first, and with the metric that needs it, sPRO; AutoVI has
both too. What defects_config.json means is said where the paper of MVTec LOCO AD defines that metric (Bergmann et al.,
IJCV 130, 2022), and in the evaluation code published with it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from uadctl.datasets.base import MaskFolder, read_document, right_case
from uadctl.datasets.sorted_folders import FindMasks, Truth
from uadctl.errors import DataError, with_help
from uadctl.imaging.listing import files_in, joined
from uadctl.records import DefectConfig, Sample
from uadctl.untrusted import MAX_SPEC_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG = "defects_config.json"
"""The file in a category's folder that says how much of each kind of defect is enough to have found it."""


def has_config(home: str) -> bool:
    """Whether there is anything called `CONFIG` in a category's folder."""
    return os.path.lexists(joined(home, CONFIG))


def truth_by_defect(home: str, *, first: str, find: FindMasks | None = None) -> Truth:
    """The masks of one category's images, several an image. first: what the first one's file is called.

    find: how they are found; None for `find_masks`.
    """
    return Truth(home, find=find or find_masks, expected=f"{{}}/{first}")


def find_masks(masks: MaskFolder, base: str) -> list[str]:
    """Those in the folder of an image; without one, the mask named like the image, or <stem>_mask, as in MVTec AD."""
    return _in_folder(masks, base) or _named_like(masks, base)


def find_masks_in_one_place(masks: MaskFolder, base: str) -> list[str]:
    """As `find_masks`, but raises DataError where there are both: a defect of which the folder has no mask would be
    measured as good.
    """
    several, one = _in_folder(masks, base), _named_like(masks, base)
    if several and one:
        raise DataError(
            f"two places for the masks of one image: {several[0].rpartition('/')[0]} and {one[0]}",
            help="Remove the one that is not meant, or move the mask into the folder.",
        )
    return several or one


def _in_folder(masks: MaskFolder, base: str) -> list[str]:
    # The folder of the image's own name, with those above it before without: names may repeat from defect to defect.
    return masks.inside((base, base.rpartition("/")[2]))


def _named_like(masks: MaskFolder, base: str) -> list[str]:
    one = masks.find((base, f"{base}_mask"))
    return [] if one is None else [one]


# --- how much of a defect is enough


def read_defects(home: str) -> tuple[DefectConfig, ...] | None:
    """Read a category's defects_config.json: a list of objects with defect_name, pixel_value, saturation_threshold
    and relative_saturation, in the file's order. None where there is no such file.

    Raises DataError with every problem found, each naming the file and the entry, counted from 1; and where the file is
    called so but for its case.
    """
    path = joined(home, CONFIG)
    if not has_config(home):
        other = next((name for name in files_in(home) if right_case(name, (CONFIG,)) is not None), None)
        if other is not None:
            raise DataError(
                f"{path}: no such file; there is {joined(home, other)}",
                help=f"Case counts in the names of files: rename it to {CONFIG}.",
            )
        return None
    configs: list[DefectConfig] = []
    problems: list[str] = []
    owners: dict[int, int] = {}
    for number, entry in enumerate(_read_list(path), start=1):
        wrong = _wrong_with(entry)
        if not wrong:
            config = DefectConfig(*(entry[key] for key in _KEYS))
            owner = owners.setdefault(config.pixel_value, number)
            if owner != number:
                wrong = [f"pixel_value = {config.pixel_value} is that of entry {owner}"]
            configs.append(config)
        problems += [f"{path}: entry {number}: {text}" for text in wrong]
    if problems:
        raise DataError(with_help(problems, _CONFIG_HOLDS))
    return tuple(configs)


def _read_list(path: str) -> list[Any]:
    entries = read_document(path, most=MAX_SPEC_BYTES, help=_CONFIG_HOLDS)
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list of defects, found {_shown(entries)}", help=_CONFIG_HOLDS)
    return entries


_KEYS = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")  # as in DefectConfig
_CONFIG_HOLDS = (
    'An entry is {"defect_name": text, "pixel_value": 1 to 255, "saturation_threshold": pixels, or a share of the '
    'defect, "relative_saturation": true for a share}.'
)


def _wrong_with(entry: object) -> list[str]:
    """What is wrong with one entry of the file; nothing if it can be taken as it is."""
    if not isinstance(entry, dict):
        return [f"expected an object, found {_shown(entry)}"]
    missing = [key for key in _KEYS if key not in entry]
    if missing:
        return [f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"]
    name, value, threshold, relative = (entry[key] for key in _KEYS)
    wrong = []
    if not isinstance(name, str) or not name:
        wrong.append(f"defect_name = {_shown(name)}: expected text")
    if not _is_number(value) or isinstance(value, float) or not 1 <= value <= 255:
        wrong.append(f"pixel_value = {_shown(value)}: expected a whole number from 1 to 255")
    if not isinstance(relative, bool):
        wrong.append(f"relative_saturation = {_shown(relative)}: expected true or false")
    if not _is_number(threshold) or not 0 < threshold < math.inf:
        wrong.append(f"saturation_threshold = {_shown(threshold)}: expected a number above 0")
    elif relative is True and threshold > 1:
        wrong.append(f"saturation_threshold = {_shown(threshold)}: expected a share of at most 1")
    elif relative is False and threshold < 1:
        wrong.append(f"saturation_threshold = {_shown(threshold)}: expected at least 1 pixel")
    return wrong


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def load_defects(sample: Sample, configs: Sequence[DefectConfig]) -> list[tuple[DefectConfig, NDArray[np.bool_]]]:
    """Read the defects of one image apart: for each of its mask files, in their order, its kind and its pixels.

    configs: of the sample's category, from `Dataset.defects`.

    Returns (config, (H, W) bool array) pairs, H and W those of the image as displayed; their union is the sample's
    mask. Empty for a sample without masks. Raises DataError naming the file where it is broken, has another size than
    its image, no pixel above 0 or several values, or a value that no entry has.
    """
    from uadctl.imaging.files import image_size, read_mask_values

    if not sample.masks:
        return []
    size = image_size(sample.path)
    by_value: dict[float, DefectConfig] = {config.pixel_value: config for config in configs}
    found = []
    for path in sample.masks:
        pixels = read_mask_values(path, size=size)
        value = _only_value(path, pixels)
        if value not in by_value:
            known = ", ".join(str(known) for known in sorted(by_value)) or "no value"
            raise DataError(
                f"{path} has the value {value}, {CONFIG} has {known}",
                help="The value of a mask says which kind of defect it shows.",
            )
        found.append((by_value[value], pixels > 0))
    return found


def _only_value(path: str, pixels: NDArray[Any]) -> float:
    """The one value above 0 in a mask."""
    import numpy as np

    values: list[float] = np.unique(pixels[pixels > 0]).tolist()
    if len(values) == 1:
        return values[0]
    shown = ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
    raise DataError(
        f"{path} has {f'the values {shown}' if values else 'no value'} above 0, expected one",
        help="A mask file shows one defect, in the value of its kind.",
    )
