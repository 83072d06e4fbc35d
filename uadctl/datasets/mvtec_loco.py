"""MVTec LOCO AD: logical and structural defects, each with masks of its own (Bergmann et al., IJCV 130, 2022).

    ROOT/<category>/train/good/*.png
    ROOT/<category>/validation/good/*.png
    ROOT/<category>/test/{good,logical_anomalies,structural_anomalies}/*.png
    ROOT/<category>/ground_truth/<kind>/<stem>/000.png, 001.png, …      one file a defect of the image
    ROOT/<category>/defects_config.json                                 how much of a defect is enough, by pixel value

The categories are breakfast_box, juice_bottle, pushpins, screw_bag and splicing_connectors; others beside them are
read as well, without validation/ or defects_config.json too, and ROOT may be one category's folder. A kind may have
a folder for each defect: test/<kind>/<defect>/*.png, with masks in ground_truth/<kind>/<defect>/<stem>/. An image
without a folder of masks may have one mask named like it, or <stem>_mask, as in MVTec AD. Images of train/ and
validation/ in other folders than good/ are left out.

The layout is that of the archive which MVTec publishes. What defects_config.json means is said where the paper defines
its metric, and in the evaluation code published with it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

from uadctl.datasets.base import Dataset, MaskFolder, Where
from uadctl.datasets.sorted_folders import (
    GOOD,
    Folders,
    Truth,
    all_categories,
    category_folders,
    find_category,
    given_images,
    has_part,
    is_category,
    no_category,
    scored_images,
)
from uadctl.errors import DataError, with_help
from uadctl.imaging.listing import is_folder, joined
from uadctl.records import DefectConfig, Sample
from uadctl.untrusted import MAX_SPEC_BYTES, Hostile, parse_json, read_bounded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KINDS = ("logical_anomalies", "structural_anomalies")
"""The folders of bad test images."""

_FOLDERS = Folders(bad=KINDS)

CONFIG = "defects_config.json"
"""The file in a category's folder that says how much of each kind of defect is enough to have found it."""


def recognises(root: str) -> bool:
    """Whether a folder holds a category with a sign of this data set: one of `KINDS` in test/, or `CONFIG`."""
    return bool(category_folders(root, is_own))


def list_categories(where: Where) -> list[str]:
    """The categories below the root, sorted by bytes; if it is itself a category's folder, its name alone.

    Where one has a sign of this data set, the others beside it need none, and one that lacks train/good counts as well:
    `load` says so. Raises DataError where the root is missing, and NoLayout where no category has a sign.
    """
    return list(_homes(where.root))


def load(where: Where, category: str) -> Dataset:
    """List one category. No image is decoded; the defects' configuration is read.

    A defect is called "logical_anomalies" or "structural_anomalies", with "/" and its own folder where it lies in one.
    A test image without mask keeps none and says where it was looked for. Raises DataError where the category is
    missing, has no training or no test image, an image lies where it would be passed over, or in a third kind of test/,
    of which the protocol measures nothing, one mask belongs to two images, or the configuration is not as it should be.
    """
    home = find_category(where.root, category, is_own, _homes)
    given = given_images(home, category)
    truth = Truth(home, find=_find_masks, expected="{}/000.png")
    test = scored_images(home, category, folders=_FOLDERS, truth=truth)
    return Dataset(
        name="mvtec_loco",
        category=category,
        root=where.root,
        train=given.train,
        validation=given.validation,
        test=tuple(replace(sample, defect=_defect_of(sample)) for sample in test),
        left_out=given.left_out,
        defects=read_defects(joined(home, CONFIG)),
    )


def is_own(folder: str) -> bool:
    """Whether a folder is a category with a sign of this data set."""
    return is_category(folder) and _has_sign(folder)


def _has_sign(folder: str) -> bool:
    return os.path.lexists(joined(folder, CONFIG)) or any(is_folder(joined(folder, f"test/{kind}")) for kind in KINDS)


def _homes(root: str) -> dict[str, str]:
    found = all_categories(root, is_own, lambda folder: has_part(folder) or _has_sign(folder))
    if not found:
        raise no_category(root, "MVTec LOCO category", "train/good", f"test/{KINDS[0]}")
    return found


def _defect_of(sample: Sample) -> str:
    """The kind of a test image, and its own folder in the kind's if it lies in one."""
    _, kind, *below = sample.relative.split("/")
    return f"{kind}/{below[0]}" if kind != GOOD and len(below) > 1 else kind


def _find_masks(masks: MaskFolder, base: str) -> list[str]:
    # The folder of the image's own name, with those above it before without: names may repeat from defect to defect.
    several = masks.inside((base, base.rpartition("/")[2]))
    if several:
        return several
    one = masks.find((base, f"{base}_mask"))
    return [] if one is None else [one]


# --- how much of a defect is enough


def read_defects(path: str) -> tuple[DefectConfig, ...] | None:
    """Read a category's defects_config.json: a list of objects with defect_name, pixel_value, saturation_threshold
    and relative_saturation, in the file's order. None where there is no such file.

    Raises DataError with every problem found, each naming the file and the entry, counted from 1.
    """
    if not os.path.lexists(path):
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
    try:
        entries = parse_json(read_bounded(path, most=MAX_SPEC_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is not JSON ({error.msg})", help=_CONFIG_HOLDS) from error
    except Hostile as error:
        raise DataError(f"{path}: {error}", help=_CONFIG_HOLDS) from error
    except ValueError as error:  # not UTF-8, or not strict
        raise DataError(f"{path}: is not JSON ({error})", help=_CONFIG_HOLDS) from error
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
        help="A mask of MVTec LOCO shows one defect, in the value of its kind.",
    )
