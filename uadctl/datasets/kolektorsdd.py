"""KolektorSDD, surfaces of electrical commutators (Tabernik et al., Journal of Intelligent Manufacturing 31, 2020).

    ROOT/kos01 … kos50/Part0.jpg … Part7.jpg           one surface each; one of the 400 is missing
    ROOT/kos01 … kos50/Part0_label.bmp …               its mask, of every image: black where it is good

ROOT may also be the folder that holds KolektorSDD. Whether an image is good is known from its mask only, so that all
masks are read to list them. A commutator is a group: its surfaces are never on both sides of a split.

The authors cross-validate over three folds, all images of one commutator in one of them, and publish which in a pickle
(split.pyb). A pickle runs code when it is read, and is never read here: of the commutators in sorted order, the i-th
(from 0) is tested in fold i mod 3, and the others are learned from. The authors' later code (mixed-segdec-net,
data/input_ksdd.py) leaves out Part7 of kos21; here it stays.
"""

from __future__ import annotations

import re

from uadctl.datasets.base import Dataset, NoLayout, Where, capped, check_category, check_root, holds, rename
from uadctl.datasets.by_mask import labelled_images, labelled_sample, passed_over
from uadctl.errors import DataError, Problem, with_help
from uadctl.imaging.listing import files_in, is_image_name, joined, relative_images, subfolders
from uadctl.records import Sample

CATEGORY = "kolektorsdd"
"""The name of its only category."""

SPLITS = ("fold_0", "fold_1", "fold_2")
"""The folds; the first is the default."""

ITEMS = 50
"""How many commutators the whole data set has."""

_UNPACKED = "KolektorSDD"
_ENDING = "_label"
_NAME = "kos"
_ITEM = re.compile(rf"{_NAME}[0-9]+")
_DIGIT = re.compile(r"[0-9]")
_ONE = "Remove the one that is not meant."


def recognises(root: str) -> bool:
    """Whether a folder, or KolektorSDD in it, holds a folder kosNN with a mask PartM_label."""
    check_root(root)
    return any(_has_mask(joined(home, item)) for home in _places(root) for item in _items(home)[:1])


def list_categories(where: Where) -> list[str]:
    """Its only category. Raises DataError where the root is missing, NoLayout where it holds no commutator."""
    _home(where.root)
    return [CATEGORY]


def load(where: Where, category: str) -> Dataset:
    """List the images of one fold; every mask is read, of the other folds too, to know which images are good.

    Test: all images of the fold's commutators. Train: the good images of the others; their defects are left out.

    Raises LayoutError with every problem at once: images without mask, of which nothing says whether they are good,
    masks without image or of another size, masks that cannot be read, folders in another case, one commutator in two
    folders. Raises DataError where there are fewer commutators than folds, or no good image to learn from.
    """
    home = _home(where.root)
    check_category(where.root, category, [CATEGORY])
    items = _items(home)
    names = [f"{item}/{name}" for item in items for name in relative_images(joined(home, item))]
    pairs = labelled_images(
        home, names, ending=_ENDING, image_suffix=".jpg", mask_suffix=".bmp", problems=_problems(home, items, names)
    )
    if len(items) < len(SPLITS):
        raise DataError(
            f"{home} holds {len(items)} commutators, and each of {len(SPLITS)} folds needs one",
            help=f"KolektorSDD has {ITEMS}, in folders kos01 to kos{ITEMS}.",
        )
    fold = SPLITS.index(where.split or SPLITS[0])
    tested = set(items[fold :: len(SPLITS)])
    test: list[Sample] = []
    given: list[Sample] = []
    for pair in pairs:
        item = pair.image.partition("/")[0]
        if item in tested:
            test.append(labelled_sample(home, pair, category=CATEGORY, split="test", group=item))
        else:
            given.append(labelled_sample(home, pair, category=CATEGORY, split="train", group=item))
    train = tuple(sample for sample in given if sample.label == 0)
    if not train:
        raise DataError(
            f"{home}: no image of the other folds than {SPLITS[fold]} is good", help="There is nothing to learn from."
        )
    return Dataset(
        name=CATEGORY,
        category=category,
        root=where.root,
        train=train,
        validation=(),
        test=tuple(test),
        left_out=tuple(sample for sample in given if sample.label == 1),
        notes=_notes(home, items),
    )


def _places(root: str) -> list[str]:
    """The root, or the folder in it that the archive unpacks to."""
    unpacked = [joined(root, name) for name in subfolders(root) if name.casefold() == _UNPACKED.casefold()]
    return [root, *unpacked] if len(unpacked) == 1 else [root]


def _items(home: str) -> list[str]:
    return [name for name in subfolders(home) if _ITEM.fullmatch(name)]


def _in_another_case(home: str) -> list[str]:
    return [name for name in subfolders(home) if _ITEM.fullmatch(name.casefold()) and not _ITEM.fullmatch(name)]


def _misnamed(home: str) -> list[str]:
    """Folders that are called nearly as a commutator's is, such as "kos01 (copy)"."""
    alike = [name for name in subfolders(home) if name.casefold().startswith(_NAME) and _DIGIT.search(name)]
    return [name for name in alike if not _ITEM.fullmatch(name.casefold())]


def _has_mask(folder: str) -> bool:
    return any(
        is_image_name(name) and name.rpartition(".")[0].casefold().endswith(_ENDING) for name in files_in(folder)
    )


def _home(root: str) -> str:
    check_root(root)
    for find in (_items, _in_another_case):
        for home in _places(root):
            if find(home):
                return home
    raise NoLayout(
        f"{root} holds no KolektorSDD: expected {joined(root, 'kos01/Part0.jpg')} and "
        f"{joined(root, 'kos01/Part0_label.bmp')}, found {holds(root)}",
        help=f"Give the folder that holds kos01 to kos{ITEMS}, or the one that holds {_UNPACKED}.",
    )


def _problems(home: str, items: list[str], names: list[str]) -> list[Problem]:
    """What is wrong with the folders: what lies where it would be passed over."""
    found: list[Problem] = []
    others = _in_another_case(home)
    first: dict[int, str] = {}
    for item in [*items, *others]:
        # kos1 beside kos01 is no other commutator, and would move all after it to other folds.
        same = first.setdefault(int(item[len(_NAME) :]), item)
        if same != item and same in items:
            both = f"{joined(home, same)} and {joined(home, item)}"
            found.append(Problem(f"two folders of one commutator: {both}", _ONE))
        elif item in others:
            right = item.casefold()
            found.append(
                Problem(f"{joined(home, right)}: no such folder; there is {joined(home, item)}", rename(right))
            )
    inner = _places(home)[1:]
    if inner and (_items(inner[0]) or _in_another_case(inner[0])):
        found.append(Problem(f"both {home} and {inner[0]} hold commutators", _ONE))
    misnamed = [f"{joined(home, other)} is no name of a commutator, but nearly one" for other in _misnamed(home)]
    if misnamed:
        found += with_help(
            capped(misnamed, home, "folders are called nearly so"),
            f"They are called kos01 to kos{ITEMS}: rename it, or move it away.",
        )
    loose = [joined(home, name) for name in files_in(home) if is_image_name(name)]
    deep = [joined(home, name) for name in names if name.count("/") > 1]
    lost = [f"{path} does not lie in the folder of its commutator" for path in (*loose, *deep)]
    if lost:
        found += with_help(
            capped(lost, home, "files do not lie in the folder of their commutator"),
            "Images and their masks lie in kos01, kos02 and so on themselves.",
        )
    full = {name.partition("/")[0] for name in names}
    empty = [f"{joined(home, item)} holds no image" for item in items if item not in full]
    if empty:
        found += with_help(capped(empty, home, "hold no image"), "Unpack the archive again, or remove the folder.")
    return found


def _notes(home: str, items: list[str]) -> tuple[str, ...]:
    notes = passed_over(home, items, "KolektorSDD has folders kos01, kos02 and so on only")
    if len(items) != ITEMS:
        notes.append(
            f"{home} holds {len(items)} commutators, the whole data set {ITEMS}: its folds are not those of all"
        )
    return tuple(notes)
