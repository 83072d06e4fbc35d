"""The tables of a spec, one frozen record each: what keys there are, what they mean, what they may hold.

`RunSpec` is the whole: each of its fields is a table (a tuple of records is a repeated one). Reading, writing
and the JSON schema follow these records, so a new table is a new record and a new field here. What a type
cannot say, `rules` and `instead` say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, Struct, field

from uadctl.records import Step, Tiling
from uadctl.spec.areas import parse_area, parse_intensity, parse_raw
from uadctl.spec.camera_steps import CAMERA_STEPS, PRESETS, read_steps
from uadctl.spec.corruptions import AUGMENTATIONS, SEVERITIES
from uadctl.spec.data_sets import DATASETS
from uadctl.spec.operations import Operation, read_step
from uadctl.spec.registry import find_dataset, find_model, no_such_dataset, no_such_model
from uadctl.spec.roles import BOUND, MASK_HELP, wrong_classes, wrong_role
from uadctl.spec.values import SIZE, bytes_in, did_you_mean, key_text, shown

# Nothing that could leave a folder, end a line or reorder the text of a terminal.
_NOT_IN_NAMES: Final = r"/\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_NAME: Final = rf"^(?!\.$)(?!.*\.\.)[^{_NOT_IN_NAMES}]+$"
_NAME_LENGTH: Final = 64
# Maps are float32. The largest is a little more; a bound of 39 digits would not be a help in a message.
_MOST_FLOAT32: Final = 3.4028234e38
_MOST_SIGMAS: Final = 1000.0

Name = Annotated[
    str,
    Meta(
        pattern=_NAME,
        max_length=_NAME_LENGTH,
        extra={"expected": f"a name of 1 to {_NAME_LENGTH} characters without /, \\, .. or control characters"},
    ),
]
Category = Annotated[
    str,
    Meta(pattern=_NAME, extra={"expected": "the name of a folder, or a glob, without /, \\, .. or control characters"}),
]
Path = Annotated[str, Meta(pattern=r"^[^\x00]+$", extra={"expected": "a path", "path": True})]
Glob = Annotated[str, Meta(pattern=r"^[^\x00]+$", extra={"expected": "a glob relative to root"})]
PositiveInt = Annotated[int, Meta(ge=1)]
Bytes = Annotated[str, Meta(pattern=SIZE, extra={"expected": 'a size such as "500MB" or "1GB"'})]
FprLimit = Annotated[float, Meta(gt=0.0, le=1.0)]
Address = Annotated[
    str,
    Meta(
        pattern=r"^(auto|local|ray://[^\s\x00-\x1f]+|[^\s/\x00-\x1f]+:[0-9]+)$",
        extra={"expected": '"auto", "local", "ray://HOST:PORT" or "HOST:PORT"'},
    ),
]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
GridValues = Annotated[tuple[Any, ...], Meta(min_length=1, extra={"expected": "a list of values that is not empty"})]


Absolute = Callable[[str], str]
"""Makes a path absolute, from the folder that relative paths refer to where it was written."""

Reads = Callable[[str, Absolute], tuple[str, ...]]
"""Under "reads" in a type's `extra`: takes a text with a grammar of its own and returns what the filled spec says in
its place: one text, or in a list several. Raises ValueError that says what is wrong."""


def _read_intensity(text: str, absolute: Absolute) -> tuple[str, ...]:
    parse_intensity(text)
    return (text.strip(),)


def _read_raw(text: str, absolute: Absolute) -> tuple[str, ...]:
    parse_raw(text)
    return (text.strip(),)


def _read_area(text: str, absolute: Absolute) -> tuple[str, ...]:
    kind, content = parse_area(text)
    return (absolute(str(content)) if kind == "mask" else text.strip(),)


def _read_camera_steps(text: str, absolute: Absolute) -> tuple[str, ...]:
    """One step, or those that the name of a preset stands for."""
    return tuple(_filled(step, CAMERA_STEPS, absolute) for step in read_steps((text,)))


def _read_augmentation(text: str, absolute: Absolute) -> tuple[str, ...]:
    return (_filled(read_step(text, AUGMENTATIONS), AUGMENTATIONS, absolute),)


def _filled(step: Step, known: Mapping[str, Operation], absolute: Absolute) -> str:
    """A step as text, with every parameter and with absolute paths. An optional path that is not given is ""."""
    paths = {parameter.name for parameter in known[step.name].parameters if parameter.kind == "path"}
    params = tuple((name, absolute(str(value)) if name in paths and value else value) for name, value in step.params)
    for name, value in params:
        if name in paths and "," in str(value):
            raise ValueError(f"{name} of {step.name}: {shown(value)} has a comma, which a path in a step cannot hold")
    return str(replace(step, params=params))


def _read_corruption(text: str, absolute: Absolute) -> tuple[str, ...]:
    if text not in SEVERITIES:
        names = sorted(SEVERITIES)
        raise ValueError(f"no such corruption{did_you_mean(text, names) or '.'} Choose from: {', '.join(names)}")
    return (text,)


Intensity = Annotated[str, Meta(extra={"reads": _read_intensity})]
Raw = Annotated[str, Meta(extra={"reads": _read_raw})]
Area = Annotated[str, Meta(extra={"reads": _read_area})]
CameraStep = Annotated[str, Meta(extra={"reads": _read_camera_steps, "examples": (CAMERA_STEPS, PRESETS)})]
Augmentation = Annotated[str, Meta(extra={"reads": _read_augmentation, "examples": (AUGMENTATIONS,)})]
Corruption = Annotated[str, Meta(extra={"reads": _read_corruption, "names": SEVERITIES})]
Severity = Annotated[int, Meta(ge=1, le=5)]


@dataclass(frozen=True, slots=True)
class Wrong:
    """One contradiction: the key to blame, what is wrong with its value, and the next step."""

    key: str
    fact: str
    help: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What a type cannot say of a table: `check` is called with the values of `keys` once each of them fits its
    type, and returns what is wrong, or None."""

    keys: tuple[str, ...]
    check: Callable[..., Wrong | None]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all tables.

    rules:   see Rule.
    instead: keys of which only one may be given; where one is, the others have no default, and one given on the
             command line takes the place of the others in the file.
    rest:    the field that takes the keys which are no field's name but fit its own key type; its entries stand in
             the table itself. None: there are no such keys.
    hints:   of keys that belong elsewhere: why they are not taken here.
    on_one_line: written as key = {...}.
    """

    rules: ClassVar[tuple[Rule, ...]] = ()
    instead: ClassVar[dict[str, tuple[str, ...]]] = {}
    rest: ClassVar[str | None] = None
    hints: ClassVar[dict[str, str]] = {}
    on_one_line: ClassVar[bool] = False


def name_from(text: str) -> str:
    """`text`, a file's stem perhaps, as a name that `[run] name` can have."""
    cleaned = re.sub(rf"[{_NOT_IN_NAMES}]", "-", text).replace("..", "-")[:_NAME_LENGTH]
    return cleaned if cleaned not in ("", ".") else "run"


def is_name(text: str) -> bool:
    """Whether `text` can name a category: a folder's name without control characters."""
    return re.fullmatch(_NAME, text) is not None


def usable_cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _each_once(key: str, values: object) -> Wrong | None:
    if not isinstance(values, tuple):
        return None
    twice = sorted({value for value in values if values.count(value) > 1})
    return Wrong(key, f"{twice[0]} is given twice") if twice else None


def _once(key: str) -> Rule:
    """That no value of a list is in it twice."""
    return Rule((key,), partial(_each_once, key))


class RunTable(Table, frozen=True, kw_only=True):
    """[run]: how the run is done."""

    name: Annotated[Name, Meta(description="Name of the run, part of its folder's name. Default: the file's stem.")]
    seed: Annotated[
        Seed | None, Meta(description="Seed of every random choice; the same seed gives the same numbers.")
    ] = 0
    seeds: Annotated[
        Annotated[tuple[Seed, ...], Meta(min_length=1)] | None,
        Meta(
            description="Several seeds, instead of seed: everything is done once with each, and measured as mean and "
            "standard deviation."
        ),
    ] = None
    device: Annotated[
        str,
        Meta(
            pattern=r"^(auto|cpu|cuda|cuda:[0-9]+|mps)$",
            description="Where the networks run. auto: CUDA, else MPS, else the processor.",
            extra={"expected": '"auto", "cpu", "cuda", "cuda:N" or "mps"'},
        ),
    ] = "auto"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "auto"],
        Meta(
            description="Number format of the networks. bf16 and fp16 are faster on devices made for them and move "
            "features by one to a few percent; auto takes the fastest that the device is made for."
        ),
    ] = "fp32"
    batch_size: Annotated[
        Literal["auto"] | PositiveInt,
        Meta(
            description="Images in one pass through the network. auto: as many as turn out fastest on this machine; "
            "a run then no longer repeats to the last bit.",
            extra={"expected": 'an integer of at least 1, or "auto"'},
        ),
    ] = 16
    threads: Annotated[
        int, Meta(ge=1, description="Threads that decode and compute. Default: the cores this process may use.")
    ] = field(default_factory=usable_cores)
    feature_cache: Annotated[
        Bytes,
        Meta(
            description="Memory in which several cells of a bench share the feature maps of the same images. "
            "Changes no result; 0MB: no sharing."
        ),
    ] = "1GB"
    dir: Annotated[
        Path,
        Meta(
            description="Folder in which run folders are made. In a spec, relative to its file; "
            "the default is relative to the working directory."
        ),
    ] = "runs"
    engine: Annotated[
        Literal["local", "ray"],
        Meta(
            description="Where the units of work run: on this machine, or on a Ray cluster. Changes no result, as the "
            "next four do not."
        ),
    ] = "local"
    workers: Annotated[
        PositiveInt | None,
        Meta(
            description='Units at a time, each computing with `threads`. Absent: 1; with engine = "ray" as many as '
            "the cluster has room for."
        ),
    ] = None
    address: Annotated[
        Address | None,
        Meta(
            description='With engine = "ray", the cluster: auto (that of this machine, or $RAY_ADDRESS), '
            "ray://HOST:10001, HOST:6379, or local (one is started for this run). Absent: auto."
        ),
    ] = None
    cpus: Annotated[
        Annotated[float, Meta(gt=0.0)] | None,
        Meta(description='With engine = "ray", processor cores that a worker takes. Absent: `threads`.'),
    ] = None
    gpus: Annotated[
        Annotated[float, Meta(ge=0.0)] | None,
        Meta(
            description='With engine = "ray", GPUs that a worker takes; 0.5: two share one. Absent: 1 with a device of '
            "CUDA, else 0."
        ),
    ] = None

    rules = (_once("seeds"),)
    instead = {"seed": ("seeds",), "seeds": ("seed",)}

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the run, in the spec's order: one, or several."""
        return (self.seed or 0,) if self.seeds is None else self.seeds

    @property
    def feature_cache_bytes(self) -> int:
        """`feature_cache` as a number of bytes."""
        return bytes_in(self.feature_cache) or 0


def _known_placeholders(mask: str | None) -> Wrong | None:
    if mask is None:
        return None
    known = ("stem", "name", "parent")
    unknown = [p for p in re.findall(r"\{([^{}]*)\}", mask) if p not in known]
    takes = "A mask pattern takes {stem} (the image's name without suffix), {name} (with it) and {parent} (its folder)."
    if unknown:
        return Wrong("mask", f"there is no placeholder {{{unknown[0]}}}", takes)
    if "{stem}" not in mask and "{name}" not in mask:
        return Wrong("mask", "every image would have the same mask, expected {stem} or {name} in it", takes)
    return None


def _in_its_place(key: str, by_mask: bool | None, value: object) -> Wrong | None:
    found = None if value is None else wrong_role(key, by_mask is True)
    return None if found is None else Wrong(key, *found)


def _masks_are_named(by_mask: bool | None, mask: object) -> Wrong | None:
    if by_mask is not True or mask is not None:
        return None
    return Wrong("mask", "is missing: with by_mask, masks say which images are good", MASK_HELP)


def _class_names(classes: object) -> Wrong | None:
    found = wrong_classes(classes) if isinstance(classes, tuple) else None
    return None if found is None else Wrong("classes", found)


class FilesTable(Table, frozen=True, kw_only=True):
    """[dataset.files]: which files of the data set `folder` are which."""

    train: Annotated[
        tuple[Glob, ...] | None,
        Meta(description="Globs, relative to root, of the good images to learn from.", extra={"single": True}),
    ] = None
    validation: Annotated[
        tuple[Glob, ...] | None,
        Meta(description="Globs of good images kept for the threshold.", extra={"single": True}),
    ] = None
    normal: Annotated[
        tuple[Glob, ...] | None, Meta(description="Globs of the good test images.", extra={"single": True})
    ] = None
    anomaly: Annotated[
        tuple[Glob, ...] | None, Meta(description="Globs of the bad test images.", extra={"single": True})
    ] = None
    mask: Annotated[
        str | None,
        Meta(
            description="Where the mask of a bad image is (with by_mask, of every image), relative to root: a pattern "
            "with {stem}, {name}, {parent}."
        ),
    ] = None
    by_mask: Annotated[
        bool | None,
        Meta(
            description="true: every image has a mask, which alone says whether it is good: no pixel above 0. "
            "Then test takes the place of normal and anomaly. Absent: false."
        ),
    ] = None
    good: Annotated[
        tuple[Glob, ...] | None,
        Meta(
            description="With by_mask, globs of further images to learn from, known to be good: they need no mask.",
            extra={"single": True},
        ),
    ] = None
    test: Annotated[
        tuple[Glob, ...] | None,
        Meta(description="With by_mask, globs of the test images, good and bad.", extra={"single": True}),
    ] = None
    classes: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1)] | None,
        Meta(description="With by_mask, what the values 1, 2, 3 and so on of a mask are called: kinds of defect."),
    ] = None

    rules = (
        Rule(("mask",), _known_placeholders),
        *(Rule(("by_mask", key), partial(_in_its_place, key)) for key in BOUND),
        Rule(("by_mask", "mask"), _masks_are_named),
        Rule(("classes",), _class_names),
    )


def _known_dataset(name: str) -> Wrong | None:
    return None if find_dataset(name) else Wrong("name", no_such_dataset(name))


def _has_root(name: str, root: str | None) -> Wrong | None:
    entry = find_dataset(name)
    if entry is None or root is not None or not entry.needs_root:
        return None
    return Wrong("root", f"is missing: {name} needs the folder it lies in", 'Give root = "FOLDER", or --root FOLDER.')


def _known_split(name: str, split: str | None) -> Wrong | None:
    entry = find_dataset(name)
    if entry is None or split is None or split in entry.splits:
        return None
    expected, meant = " or ".join(map(shown, entry.splits)), did_you_mean(split, entry.splits)
    return Wrong("split", f"{entry.name} has no such split, expected {expected}{meant}")


def _known_layout(name: str, layout: str | None) -> Wrong | None:
    entry = find_dataset(name)
    if entry is None or layout is None or layout in entry.layouts:
        return None
    if not entry.layouts:
        return Wrong("layout", f"{entry.name} has only one layout", f"Leave layout out. {entry.name}: {entry.layout}")
    expected, meant = " or ".join(map(shown, entry.layouts)), did_you_mean(layout, entry.layouts)
    return Wrong("layout", f"{entry.name} has no such layout, expected {expected}{meant}")


def _takes_files(name: str, files: FilesTable | None) -> Wrong | None:
    entry = find_dataset(name)
    if entry is None or files is None or entry.takes_files:
        return None
    takers = ", ".join(sorted(e.name for e in DATASETS.values() if e.takes_files))
    return Wrong("files", f"{entry.name} finds its files by its layout", f"[dataset.files] is for: {takers}")


class DatasetTable(Table, frozen=True, kw_only=True):
    """[dataset]: which images."""

    name: Annotated[str, Meta(description="Kind of data set. See: uadctl datasets list")]
    root: Annotated[Path | None, Meta(description="Folder of the data set, relative to the spec file.")] = None
    categories: Annotated[
        Literal["all"] | Annotated[tuple[Category, ...], Meta(min_length=1)],
        Meta(
            description='"all" (those found), or a list of names and globs.',
            extra={"single": True, "expected": '"all", or a list of names and globs that is not empty'},
        ),
    ] = "all"
    split: Annotated[str | None, Meta(description="Which test images, where the data set has several sets.")] = None
    layout: Annotated[str | None, Meta(description="Layout of the folders. Default: the one found.")] = None
    on_error: Annotated[
        Literal["fail", "skip"],
        Meta(description="What an image that cannot be read does: ends its unit of work, or is left out and counted."),
    ] = "fail"
    limit_train: Annotated[
        PositiveInt | None, Meta(description="At most so many training images a category; absent: all.")
    ] = None
    limit_test: Annotated[
        PositiveInt | None, Meta(description="At most so many test images a category; absent: all.")
    ] = None
    shots: Annotated[
        PositiveInt | Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] | None,
        Meta(
            description="Learn from exactly so many training images a category, drawn by the seed after limit_train; "
            "a list: once with each number. Absent: from all.",
            extra={"expected": "an integer of at least 1, or a list of such"},
        ),
    ] = None
    files: Annotated[FilesTable | None, Meta(description="Which files are which, for the data set folder.")] = None

    rules = (
        Rule(("name",), _known_dataset),
        Rule(("name", "root"), _has_root),
        Rule(("name", "split"), _known_split),
        Rule(("name", "layout"), _known_layout),
        Rule(("name", "files"), _takes_files),
        _once("shots"),
    )

    @property
    def shot_counts(self) -> tuple[int | None, ...]:
        """The numbers of training images to learn from, in the spec's order; (None,): from all."""
        return self.shots if isinstance(self.shots, tuple) else (self.shots,)


def _crop_fits(resize: tuple[int, int] | None, crop: tuple[int, int] | None) -> Wrong | None:
    if resize is None or crop is None or (crop[0] <= resize[0] and crop[1] <= resize[1]):
        return None
    return Wrong("crop", f"larger than resize = {shown(resize)} (height, width)")


class PreprocessTable(Table, frozen=True, kw_only=True):
    """[preprocess]: from a file's pixels to the network's."""

    size: Annotated[
        PositiveInt | None,
        Meta(
            description="The aspect ratio is kept; the sides get the area of a square of this side, in pixels, "
            "rounded to the stride of the backbone. Absent where resize is given."
        ),
    ] = 256
    resize: Annotated[
        tuple[PositiveInt, PositiveInt] | None,
        Meta(description="Exactly this height and width in pixels, instead of size."),
    ] = None
    crop: Annotated[
        tuple[PositiveInt, PositiveInt] | None,
        Meta(description="Height and width in pixels of the centre that is kept after size or resize."),
    ] = None
    intensity: Annotated[
        Intensity,
        Meta(
            description='Which stored values become black and white. "full": the range of the file\'s type. '
            '"window:LO,HI": these two. "percentile:A,B": these percentiles of all training images at once.'
        ),
    ] = "full"
    raw: Annotated[
        Raw | None,
        Meta(
            description='Layout of files without header, *.raw: "HEIGHTxWIDTH:TYPE" or "HEIGHTxWIDTHx3:TYPE", with the '
            "types uint8, uint16 and float32; * for HEIGHT: as many rows as the file has."
        ),
    ] = None
    steps: Annotated[
        tuple[CameraStep, ...],
        Meta(
            description='What makes the pictures of cameras agree, in this order: "NAME", "NAME:KEY=VALUE,KEY=VALUE", '
            "or the name of a preset, which stands for its steps.",
            extra={"single": True},
        ),
    ] = ()
    roi: Annotated[
        Area | None,
        Meta(
            description='Where something is learned, scored and measured, in pixels of the file: "box:top,left,bottom,'
            'right", "polygon:y,x y,x y,x" or a mask file. Absent: everywhere.'
        ),
    ] = None
    ignore: Annotated[
        tuple[Area, ...],
        Meta(description="Where nothing is, inside roi; areas as roi's.", extra={"single": True}),
    ] = ()

    rules = (Rule(("resize", "crop"), _crop_fits),)
    instead = {"size": ("resize",), "resize": ("size",)}

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The files, and folders of them, that the camera needs, each with the key that names it."""
        areas = [("roi", self.roi)] if self.roi is not None else []
        areas += [(f"ignore[{i}]", area) for i, area in enumerate(self.ignore)]
        found = [(key, str(content)) for key, area in areas for kind, content in [parse_area(area)] if kind == "mask"]
        for i, step in enumerate(read_steps(self.steps)):
            paths = {p.name for p in CAMERA_STEPS[step.name].parameters if p.kind == "path"}
            found += [(f"steps[{i}]", str(value)) for name, value in step.params if name in paths and value]
        return tuple(found)

    @property
    def says_no_size(self) -> bool:
        """Whether size, resize and crop are left at their defaults."""
        default = PreprocessTable()
        return (self.size, self.resize, self.crop) == (default.size, default.resize, default.crop)


def default_stride(size: int) -> int:
    """From one tile to the next where nothing is said: three quarters of a tile, so that neighbours overlap."""
    return max(1, size * 3 // 4)


def _tiles_touch(size: int, stride: int | None) -> Wrong | None:
    if stride is None or stride <= size:
        return None
    return Wrong(
        "stride",
        f"larger than size = {size}: pixels between two tiles would never be looked at",
        f"Give {size} or less. Without stride it is three quarters of size.",
    )


LEAST_TILE: Final = 16
"""Side of the smallest tile, in pixels: there is nothing to see in a smaller one."""


class TilingTable(Table, frozen=True, kw_only=True):
    """[tiling]: images are cut into overlapping tiles, and each is looked at as if it were an image."""

    size: Annotated[int, Meta(ge=LEAST_TILE, description="Side of a square tile, in pixels of the file.")]
    stride: Annotated[
        PositiveInt | None,
        Meta(description="Pixels from one tile to the next, size at most. Default: three quarters of size."),
    ] = None
    reduce: Annotated[
        Literal["mean", "max", "hann"],
        Meta(
            description="What a pixel in several tiles gets: the mean or the highest of their maps, or (hann) a mean "
            "in which a tile counts less towards its own border."
        ),
    ] = "mean"
    score: Annotated[
        Literal["max", "mean"], Meta(description="Score of an image: the highest or the mean of its tiles' scores.")
    ] = "max"
    fit: Annotated[
        Literal["tiles", "resized"],
        Meta(
            description="What is learned: the tiles of the training images, or these images as a whole, brought to "
            "[preprocess] size: then a tile shows things larger than they were learned."
        ),
    ] = "tiles"

    rules = (Rule(("size", "stride"), _tiles_touch),)

    @property
    def tiling(self) -> Tiling:
        """How images are cut, and what is said of the tiles put together."""
        stride = default_stride(self.size) if self.stride is None else self.stride
        return Tiling(size=self.size, stride=stride, reduce=self.reduce, score=self.score)


class AugmentTable(Table, frozen=True, kw_only=True):
    """[augment]: training images are also learned as another day or another camera might have shown them."""

    steps: Annotated[
        tuple[Augmentation, ...],
        Meta(
            min_length=1,
            description='What is done to a copy, in this order: "NAME" or "NAME:KEY=VALUE,KEY=VALUE".',
            extra={"single": True},
        ),
    ]
    copies: Annotated[
        PositiveInt, Meta(description="Changed versions of each training image that are learned beside itself.")
    ] = 1


class RobustnessTable(Table, frozen=True, kw_only=True):
    """[robustness]: the test images are scored again, each corrupted in several ways, and compared with the clean
    ones."""

    corruptions: Annotated[
        Annotated[tuple[Corruption, ...], Meta(min_length=1)] | None,
        Meta(description="Which corruptions. Absent: all there are.", extra={"single": True}),
    ] = None
    severities: Annotated[
        tuple[Severity, ...],
        Meta(min_length=1, description="How strong each is, of 1 (hardly visible) to 5."),
    ] = (1, 3, 5)

    rules = (_once("corruptions"), _once("severities"))


def _known_model(name: str) -> Wrong | None:
    entry = find_model(name)
    if entry is None:
        return Wrong("name", no_such_model(name))
    return None if entry.offered else Wrong("name", f"is not offered: {entry.reason}", "See: uadctl models list")


class TrainerTable(Table, frozen=True, kw_only=True):
    """[model.trainer]: how the library that a model comes from trains it."""

    max_epochs: Annotated[
        PositiveInt | None,
        Meta(
            description="How often training goes over all images. This or max_steps is needed, except by models that "
            "learn in one pass."
        ),
    ] = None
    max_steps: Annotated[
        PositiveInt | None,
        Meta(description="Training ends after so many steps, whatever max_epochs says. Absent: no such limit."),
    ] = None
    batch_size: Annotated[
        PositiveInt | None, Meta(description="Images a training step. Default: 32, or the number the model insists on.")
    ] = None
    workers: Annotated[
        int, Meta(ge=0, description="Processes that prepare images; 0: the training process itself.")
    ] = 0
    patience: Annotated[
        PositiveInt | None,
        Meta(
            description="Training stops when the mean loss of an epoch has not fallen for so many epochs. "
            "Absent: it does not."
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """What is not absent, as a detector's constructor takes it."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


class ModelTable(Table, frozen=True, kw_only=True):
    """[model], or several [[model]]: which detector."""

    name: Annotated[str, Meta(description="Name or alias of the model. See: uadctl models list")]
    label: Annotated[Name, Meta(description="Name of its results, unique in the spec. Default: the full model name.")]
    params: Annotated[
        dict[str, Any], Meta(description="Parameters of the model's constructor. See: uadctl models list")
    ] = field(default_factory=dict)
    grid: Annotated[
        dict[str, GridValues] | None,
        Meta(
            description="Parameters with a list of values each: the model is done once with every combination of them."
        ),
    ] = None
    trainer: Annotated[
        TrainerTable | None,
        Meta(description="How the model is trained, for those that take it in place of a checkpoint."),
    ] = None

    rules = (Rule(("name",), _known_model),)


def _one_source(holdout: float | None, split: str | None) -> Wrong | None:
    if holdout is None or split is None:
        return None
    return Wrong("holdout", f"contradicts split = {shown(split)}", "Give one of holdout and split.")


def _delta_is_conformal(method: str, delta: float | None) -> Wrong | None:
    if delta is None or method == "conformal":
        return None
    return Wrong("delta", f"has no effect with method = {shown(method)}", 'It belongs to method = "conformal".')


def _wider(key: str, alpha: str, narrow: float | None, wide: float | None) -> Wrong | None:
    """A review threshold lies below the other: it lets more good images reach it."""
    if wide is None:
        return None
    if narrow is None:
        return Wrong(key, f"needs {alpha}", f"Give {alpha} as well.")
    if wide > narrow:
        return None
    return Wrong(key, f"must be above {alpha} (={shown(narrow)}): more images are reviewed than called anomalous")


Share = Annotated[float, Meta(gt=0.0, lt=1.0)]


class CalibrationTable(Table, frozen=True, kw_only=True):
    """[calibration]: where the threshold comes from; only ever from good images."""

    method: Annotated[
        Literal["quantile", "conformal", "evt"],
        Meta(
            description="quantile: the (1 - alpha) quantile of normal scores. conformal: such that new normal images "
            "reach it with probability at most alpha, from images that no part of the model has seen. evt: by a "
            "generalised Pareto tail of the scores."
        ),
    ] = "quantile"
    alpha: Annotated[float, Meta(gt=0.0, lt=1.0, description="Share of good images that may be called anomalous.")] = (
        0.01
    )
    delta: Annotated[
        Share | None,
        Meta(
            description='With method = "conformal": the share of good images that are called anomalous is at most '
            "alpha with probability 1 - delta, over draws of the calibration images. Absent: in expectation."
        ),
    ] = None
    review_alpha: Annotated[
        Share | None,
        Meta(
            description="A second, lower threshold that this share of good images may reach: images between the two "
            "have the verdict review. Absent: none."
        ),
    ] = None
    holdout: Annotated[
        Share | None,
        Meta(
            description="Share of the training images kept out of the model for the threshold. Absent: the data set's "
            "validation images, else leave-one-out scores where the model has them. No effect on a checkpoint, which "
            "learns none."
        ),
    ] = None
    split: Annotated[
        Literal["validation"] | None, Meta(description="Take the data set's own validation images and nothing else.")
    ] = None
    pixel_sigmas: Annotated[
        Annotated[float, Meta(ge=0.0, le=_MOST_SIGMAS)] | None,
        Meta(
            description="The threshold of maps is the mean of all pixels of normal images' maps and so many of their "
            "standard deviations. Absent where pixel_threshold or pixel_alpha is given."
        ),
    ] = 3.0
    pixel_threshold: Annotated[
        Annotated[float, Meta(ge=-_MOST_FLOAT32, le=_MOST_FLOAT32)] | None,
        Meta(description="Exactly this threshold of maps, instead of pixel_sigmas."),
    ] = None
    pixel_alpha: Annotated[
        Share | None,
        Meta(
            description="The threshold of maps is such that this share of good images may have a pixel that reaches "
            "it, by method and delta, instead of pixel_sigmas."
        ),
    ] = None
    pixel_review_alpha: Annotated[
        Share | None,
        Meta(description="A second, lower threshold of maps: its regions are worth a review. Absent: none."),
    ] = None

    rules = (
        Rule(("holdout", "split"), _one_source),
        Rule(("method", "delta"), _delta_is_conformal),
        Rule(("alpha", "review_alpha"), partial(_wider, "review_alpha", "alpha")),
        Rule(("pixel_alpha", "pixel_review_alpha"), partial(_wider, "pixel_review_alpha", "pixel_alpha")),
    )
    instead = {
        "pixel_sigmas": ("pixel_threshold", "pixel_alpha"),
        "pixel_threshold": ("pixel_sigmas", "pixel_alpha"),
        "pixel_alpha": ("pixel_sigmas", "pixel_threshold"),
    }


_LARGEST_KERNEL: Final = 1000


class PostprocessTable(Table, frozen=True, kw_only=True):
    """[postprocess]: what is done to maps before they are measured, compared with a threshold and written."""

    normalize: Annotated[
        bool,
        Meta(
            description="Subtract the mean of all pixels of normal calibration images' maps, and divide by their "
            "standard deviation. Never per image."
        ),
    ] = False
    gaussian_sigma: Annotated[
        float,
        Meta(
            ge=0.0,
            le=_LARGEST_KERNEL,
            description="Smooth with this standard deviation, in pixels of the file; 0: do not.",
        ),
    ] = 0.0
    opening: Annotated[
        int,
        Meta(
            ge=0, le=_LARGEST_KERNEL, description="Remove what is narrower than so many pixels of the file; 0: nothing."
        ),
    ] = 0
    closing: Annotated[
        int,
        Meta(ge=0, le=_LARGEST_KERNEL, description="Fill gaps narrower than so many pixels of the file; 0: none."),
    ] = 0
    min_area: Annotated[
        int, Meta(ge=0, description="Regions of fewer pixels of the file are no regions; 0: all are.")
    ] = 0
    hysteresis: Annotated[
        Annotated[float, Meta(gt=0.0, le=_MOST_SIGMAS)] | None,
        Meta(
            description="A region must somewhere reach the mean of all pixels of normal images' maps and so many of "
            "their standard deviations. Absent: the threshold of maps is enough."
        ),
    ] = None


class MetricsTable(Table, frozen=True, kw_only=True):
    """[metrics]: what is computed."""

    pixel: Annotated[
        bool, Meta(description="Compare the maps with the masks, where there are masks. false: image metrics only.")
    ] = True
    protocol: Annotated[
        Literal["mvtec_ad", "mvtec_loco", "mvtec_ad2", "real_iad", "autovi", "kolektor", "mpdd", "bmad", "vad"],
        Meta(
            description="Whose benchmark is followed. mvtec_loco adds sPRO, logical and structural defects apart; "
            "mvtec_ad2 adds SegF1 and ClassF1; autovi adds sPRO. Default: that of the data set's authors."
        ),
    ] = "mvtec_ad"
    fpr_limits: Annotated[
        tuple[FprLimit, ...],
        Meta(
            min_length=1,
            description="False positive rates up to which AUPRO is integrated; 0.3 gives aupro_30. "
            "Default: those of the protocol.",
        ),
    ] = (0.3,)
    memory: Annotated[
        Bytes,
        Meta(
            description="Memory for the pixel scores of a category. More than it holds is measured in streaming mode, "
            "whose error bounds stand beside the metrics.",
        ),
    ] = "1GB"
    bootstrap: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Resamples of the test images for 95 % intervals of the metrics; 0: no intervals.",
        ),
    ] = 0

    rules = (_once("fpr_limits"),)

    @property
    def memory_bytes(self) -> int:
        """`memory` as a number of bytes."""
        return bytes_in(self.memory) or 0


def _has_room(min: float | None, max: float | None) -> Wrong | None:
    if min is None and max is None:
        return Wrong("min", "is missing, and so is max", "Give { min = X }, { max = X } or both.")
    if min is not None and max is not None and min > max:
        return Wrong("min", f"larger than max = {shown(max)}")
    return None


class LimitTable(Table, frozen=True, kw_only=True):
    """{ min = X, max = X }: what a gated metric may be; one of the two is enough."""

    min: Annotated[float | None, Meta(description="The least allowed.")] = None
    max: Annotated[float | None, Meta(description="The most allowed.")] = None

    rules = (Rule(("min", "max"), _has_room),)
    on_one_line = True


_LIMIT: Final = Meta(extra={"expected": "{ min = X }, { max = X } or both"})
Limit = Annotated[LimitTable | None, _LIMIT]
AuproName = Annotated[str, Meta(pattern=r"^aupro_[0-9]+$", extra={"example": "aupro_30"})]
CategoryName = Annotated[
    str,
    Meta(pattern=_NAME, extra={"expected": "the name of a category without /, \\, .. or control characters"}),
]


class LimitsTable(Table, frozen=True, kw_only=True):
    """The metrics that can have limits everywhere."""

    image_auroc: Annotated[Limit, Meta(description="Area under the ROC curve of the image scores.")] = None
    image_ap: Annotated[Limit, Meta(description="Average precision of the image scores.")] = None
    image_f1max: Annotated[Limit, Meta(description="Highest F1 of the image scores over all thresholds.")] = None
    pixel_auroc: Annotated[Limit, Meta(description="Area under the ROC curve of all pixels.")] = None
    pixel_ap: Annotated[Limit, Meta(description="Average precision of all pixels.")] = None
    pixel_f1max: Annotated[Limit, Meta(description="Highest F1 of all pixels over all thresholds.")] = None
    aupro: Annotated[
        dict[AuproName, Annotated[LimitTable, _LIMIT]],
        Meta(
            description="aupro_30 and so on, for each of [metrics] fpr_limits: area under the per-region overlap "
            "up to that false positive rate."
        ),
    ] = field(default_factory=dict)
    spro_05: Annotated[
        Limit, Meta(description="Area under the saturated per-region overlap; by mvtec_loco the mean of both sorts.")
    ] = None
    spro_05_logical: Annotated[Limit, Meta(description="The same, of logical defects.")] = None
    spro_05_structural: Annotated[Limit, Meta(description="The same, of structural defects.")] = None
    image_auroc_logical: Annotated[Limit, Meta(description="Image AUROC of logical defects.")] = None
    image_auroc_structural: Annotated[Limit, Meta(description="Image AUROC of structural defects.")] = None
    image_auroc_pooled: Annotated[Limit, Meta(description="Image AUROC of all defects at once.")] = None
    segf1: Annotated[Limit, Meta(description="F1 of all pixels at the threshold of maps.")] = None
    classf1: Annotated[
        Limit, Meta(description="F1 of the images, anomalous where a pixel reaches the threshold of maps.")
    ] = None
    group_auroc: Annotated[Limit, Meta(description="AUROC of parts seen in several images.")] = None
    group_ap: Annotated[Limit, Meta(description="Average precision of parts seen in several images.")] = None
    group_f1max: Annotated[Limit, Meta(description="Highest F1 of parts seen in several images.")] = None
    group_miss_rate: Annotated[Limit, Meta(description="Share of the defect parts below the threshold.")] = None
    group_false_alarm_rate: Annotated[Limit, Meta(description="Share of the good parts at or above the threshold.")] = (
        None
    )
    miss_rate: Annotated[Limit, Meta(description="Share of the defect images below the threshold.")] = None
    false_alarm_rate: Annotated[Limit, Meta(description="Share of the good test images at or above the threshold.")] = (
        None
    )
    precision: Annotated[Limit, Meta(description="Share of defect images among those at or above the threshold.")] = (
        None
    )

    rest = "aupro"

    def limits(self) -> dict[str, LimitTable]:
        """Every limit by the name of its metric, in the order of the grammar."""
        found: dict[str, LimitTable] = {}
        for name in self.__struct_fields__:
            held = getattr(self, name)
            if isinstance(held, LimitTable):
                found[name] = held
            elif name == self.rest:
                found.update(held)
        return found


class CategoryGateTable(LimitsTable, frozen=True, kw_only=True):
    """[gate.category.NAME]: limits on what one category measures, with every model."""

    tp: Annotated[Limit, Meta(description="Defect images at or above the threshold.")] = None
    fp: Annotated[Limit, Meta(description="Good test images at or above the threshold.")] = None
    fn: Annotated[Limit, Meta(description="Defect images below the threshold.")] = None
    tn: Annotated[Limit, Meta(description="Good test images below the threshold.")] = None


_COUNTS_HAVE_NO_MEAN: Final = "; it counts images and has no mean: limit it in [gate.category.NAME]"


COMPARABLE: Final = tuple(name for name in LimitsTable.__struct_fields__ if name != LimitsTable.rest)
"""The metrics that have a better and a worse end, in the order of the grammar; aupro_30 and its like are more."""


def _read_metric(text: str, absolute: Absolute) -> tuple[str, ...]:
    if text not in COMPARABLE and re.fullmatch("aupro_[0-9]+", text) is None:
        names = sorted([*COMPARABLE, "aupro_30"])
        raise ValueError(f"no such metric{did_you_mean(text, names) or '.'} Choose from: {', '.join(names)}")
    return (text,)


def _known_tolerances(tolerances: Mapping[str, float] | None) -> Wrong | None:
    for name in tolerances or {}:
        try:
            _read_metric(name, str)
        except ValueError as error:
            return Wrong("tolerances", f"{key_text(name)}: {error}")
    return None


def _tolerances_have_effect(metrics: object, tolerances: object) -> Wrong | None:
    if not isinstance(metrics, tuple) or not isinstance(tolerances, dict):  # absent, or wrong by another rule
        return None
    for name in tolerances:
        if name not in metrics:
            return Wrong(
                "tolerances",
                f"{key_text(name)} is not among metrics, so it is not compared",
                f"Those that are: {', '.join(metrics)}",
            )
    return None


ComparedMetric = Annotated[
    str,
    Meta(
        extra={"reads": _read_metric, "examples": (dict.fromkeys([*COMPARABLE, "aupro_30"]),)},
    ),
]
Tolerance = Annotated[float, Meta(ge=0.0, le=1.0)]


class RegressionTable(Table, frozen=True, kw_only=True):
    """[gate.regression]: what counts as worse than a baseline, for bench --gate FILE."""

    metrics: Annotated[
        Annotated[tuple[ComparedMetric, ...], Meta(min_length=1)] | None,
        Meta(
            description="The metrics that are compared. Absent: all of the baseline.",
            extra={"single": True},
        ),
    ] = None
    tolerance: Annotated[
        Tolerance, Meta(description="So much worse a metric may be, besides what the draw of the test images explains.")
    ] = 0.002
    tolerances: Annotated[
        dict[str, Tolerance] | None,
        Meta(description="Other tolerances of single metrics, such as { image_auroc = 0.01 }."),
    ] = None
    on: Annotated[
        Literal["categories", "means", "both"],
        Meta(description="Whether each category is compared, or the means over them, or both."),
    ] = "both"

    rules = (
        _once("metrics"),
        Rule(("tolerances",), _known_tolerances),
        Rule(("metrics", "tolerances"), _tolerances_have_effect),
    )

    def tolerance_of(self, metric: str) -> float:
        """How much worse this metric may be."""
        return (self.tolerances or {}).get(metric, self.tolerance)


class GateTable(LimitsTable, frozen=True, kw_only=True):
    """[gate]: limits on the means of every model. A bench that breaks one ends with exit code 3."""

    category: Annotated[
        dict[CategoryName, CategoryGateTable] | None,
        Meta(description="Limits on single categories: [gate.category.NAME]."),
    ] = None
    regression: Annotated[
        RegressionTable | None, Meta(description="What counts as worse than a baseline: [gate.regression].")
    ] = None

    hints = dict.fromkeys(("tp", "fp", "fn", "tn"), _COUNTS_HAVE_NO_MEAN)


class RunSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run is. `read_spec` makes it with every default filled in and every path absolute."""

    run: RunTable
    dataset: Annotated[
        DatasetTable,
        Meta(extra={"missing": 'Say which images: [dataset] with name = "NAME", or --dataset NAME --root FOLDER.'}),
    ]
    preprocess: PreprocessTable = field(default_factory=PreprocessTable)
    tiling: TilingTable | None = None
    augment: AugmentTable | None = None
    robustness: RobustnessTable | None = None
    models: Annotated[
        tuple[ModelTable, ...],
        Meta(
            min_length=1,
            extra={
                "missing": 'Say which detector: [model] with name = "NAME", or --model NAME. See: uadctl models list'
            },
        ),
    ] = field(name="model")
    postprocess: PostprocessTable | None = None
    calibration: CalibrationTable = field(default_factory=CalibrationTable)
    metrics: MetricsTable = field(default_factory=MetricsTable)
    gate: GateTable | None = None
