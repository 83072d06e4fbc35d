"""What stands in the JSON files of a run folder: a record for each, from which its JSON Schema is made.

The stages write plain dicts; the tests hold what they write against these schemas, so that a key without a line here is
found. Every key is always there unless its line says otherwise, and there are no others. A key that came with a later
version may be absent, so that files of before, which have the same schema number, stay valid.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec import inspect as types

from uadctl.records import Tiling
from uadctl.runs.baseline import BaselineDocument, ReplicatesDocument
from uadctl.runs.fitted import PixelScale
from uadctl.runs.folder import Document, RunStatus
from uadctl.runs.gate import Checked, Compared, Pair
from uadctl.spec.grammar import PostprocessTable
from uadctl.spec.schema import DRAFT
from uadctl.spec.signature import _documented
from uadctl.thresholds import Expected, Threshold

Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Seconds = NotNegative
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
SeedName = Annotated[str, Meta(pattern="^[0-9]+$")]


class Machine(Struct, kw_only=True):
    """What a run was made on.

    cores: logical processors of the machine; null where the system does not tell.
    """

    system: str
    architecture: str
    processor: str
    cores: int | None


class Git(Struct, kw_only=True):
    """The work tree that the run was started in.

    changed: tracked files differ from the commit.
    """

    commit: str
    changed: bool


class Fingerprint(Struct, kw_only=True):
    """Two runs with equal fingerprints saw the same data.

    sha256: over names, splits, labels, groups and bytes of all images and masks, and over the saturations of LOCO.
    files: images and masks.
    bytes: of all of them.
    """

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    files: Count
    bytes: Count


class FailedUnit(Struct, kw_only=True):
    """A unit that ended in an error.

    label: of the model.
    """

    category: str
    label: str
    seed: Count
    error: str


class Determinism(Struct, kw_only=True):
    """Whether the same spec on the same machine gives the same bytes.

    same_bytes: of every metrics.json, scores.csv, map and model.
    exceptions: why that is not certain, a sentence each; empty where it is.
    """

    same_bytes: bool
    exceptions: list[str]


class Engine(Struct, kw_only=True):
    """Where units of a run were worked on.

    name: as [run] engine.
    workers: units at a time at most; on Ray the most that there were, 0 if none came to be.
    nodes: the machines that workers ran on, by their host names.
    cpus, gpus: of the cluster's, what each worker took. It and what follows: absent with "local".
    ray: its version.
    """

    name: Literal["local", "ray"]
    workers: Count
    nodes: list[str]
    cpus: NotNegative | UnsetType = UNSET
    gpus: NotNegative | UnsetType = UNSET
    ray: str | UnsetType = UNSET


class RunDocument(Document, kw_only=True):
    """run.json: what a run was made with.

    status: "started" while it works or if it was killed, "interrupted" by Ctrl-C or SIGTERM, "failed" if a unit did.
    verb: the command that made it.
    name: from [run] name.
    hash: 8 hex digits of the SHA-256 of the filled spec without run.dir, dataset.root and the engine in [run].
    seed: from [run] seed, or the first of [run] seeds.
    seeds: all of them. Absent before 0.5.
    started: when it was begun, UTC.
    resumed: when it was gone on with.
    finished: when it ended, null before.
    versions: of uadctl, Python and the packages that numbers depend on; null for one that is not installed.
    git: null outside of a work tree.
    notes: what the user was told of how the spec was read.
    warnings: what the user was told while it worked.
    data: by category.
    models: by label and category: the detector's own facts, such as its backbone, the origin of its weights, its
        device and the size of its memory bank. Of several seeds, those of the one that was finished last.
    failed: the units that ended in an error.
    engines: where the units were worked on, once for when it was begun and for each time it was gone on with. Absent
        before 0.11, and the first ones of a run that was begun before.
    determinism: what could not be made so that a repetition gives the same bytes, of the units done so far. Absent
        before 0.9.
    """

    status: RunStatus
    verb: Literal["bench", "fit"]
    name: str
    hash: Annotated[str, Meta(pattern="^[0-9a-f]{8}$")]
    seed: Count
    seeds: list[Count] | UnsetType = UNSET
    started: Time
    resumed: list[Time]
    finished: Time | None
    versions: dict[str, str | None]
    machine: Machine
    git: Git | None
    notes: list[str]
    warnings: list[str]
    data: dict[str, Fingerprint]
    models: dict[str, dict[str, dict[str, Any]]]
    failed: list[FailedUnit]
    engines: list[Engine] | UnsetType = UNSET
    determinism: Determinism | UnsetType = UNSET


class Counts(Struct, kw_only=True):
    """How many images, pixels and regions the metrics rest on.

    images: test images with a label and a score.
    normal_images, defect_images: of these.
    alarms: of these, those at or above the threshold; absent without a threshold.
    train_images: learned from; 0 for a checkpoint, which has learned before.
    broken_images: of train and test, left out with on_error = "skip".
    pixel_images: with a mask; this and the next absent without pixel metrics.
    pixels, defect_pixels: of these images, without those left out.
    regions: 8-connected defects in their masks.
    pixels_left_out: cut off by a crop.
    regions_left_out: of which no pixel is left.
    defect_images_without_mask: left out of the pixel metrics; absent without them.
    logical_defects, structural_defects: regions that sPRO of these two sorts rests on; absent but for LOCO's protocol.
    spro_defects: regions that sPRO rests on where it tells no sorts apart, by AutoVI's protocol; absent else.
    defect_images_without_saturation: left out of sPRO; absent without it.
    train_defects_left_out: defect images in the training and validation splits, never learned from. Absent before 0.4.
    logical_images, structural_images: defect images of these two sorts; absent but for LOCO's protocol.
    groups, normal_groups, defect_groups: parts seen in several images; absent where no image has a group.
    """

    images: Count
    normal_images: Count
    defect_images: Count
    alarms: Count | UnsetType = UNSET
    train_images: Count
    broken_images: Count
    pixel_images: Count | UnsetType = UNSET
    pixels: Count | UnsetType = UNSET
    defect_pixels: Count | UnsetType = UNSET
    regions: Count | UnsetType = UNSET
    pixels_left_out: Count | UnsetType = UNSET
    regions_left_out: Count | UnsetType = UNSET
    defect_images_without_mask: Count | UnsetType = UNSET
    logical_defects: Count | UnsetType = UNSET
    structural_defects: Count | UnsetType = UNSET
    spro_defects: Count | UnsetType = UNSET
    defect_images_without_saturation: Count | UnsetType = UNSET
    train_defects_left_out: Count | UnsetType = UNSET
    logical_images: Count | UnsetType = UNSET
    structural_images: Count | UnsetType = UNSET
    groups: Count | UnsetType = UNSET
    normal_groups: Count | UnsetType = UNSET
    defect_groups: Count | UnsetType = UNSET


# Names of metrics and one key that is none: no type of msgspec's says that.
_Kind = Annotated[
    Any,
    Meta(
        extra_json_schema={
            "type": "object",
            "properties": {
                "images": {"type": "integer", "minimum": 0},
                "reasons": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
            },
            "required": ["images"],
            "additionalProperties": {"type": ["number", "null"]},
        }
    ),
]


class Measured(Struct, kw_only=True):
    """A unit that was measured.

    metrics: by name; null where undefined.
    reasons: why, for exactly the names that are null.
    pixel_mode: how the pixel metrics and AUPRO were computed; null where there are none.
    bounds: the exact value of a metric lies within its bound: of all pixel metrics in streaming mode; in exact mode of
        none, or of sPRO alone, whose further engines may not fit into [metrics] memory where the first one does.
    pixel_threshold: of maps: SegF1, ClassF1 and the overlays were made with it; null where there is none. Absent before
        0.4.
    by_defect: by kind of defect: images, missed, miss_rate, and the metrics of that kind against all good images; null
        where undefined, and then reasons says why, for exactly the names that are null. Absent before 0.4.
    intervals: by metric: lower and upper end of the 95 % bootstrap interval over images, null where too few resamples
        define it; empty without [metrics] bootstrap. Absent before 0.4.
    """

    success: Annotated[bool, Meta(extra_json_schema={"const": True})]
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    counts: Counts
    pixel_mode: Literal["exact", "streaming"] | None
    bounds: dict[str, float]
    pixel_threshold: float | UnsetType | None = UNSET
    by_defect: dict[str, _Kind] | UnsetType = UNSET
    intervals: dict[str, Annotated[list[float], Meta(min_length=2, max_length=2)] | None] | UnsetType = UNSET


class Failed(Struct, kw_only=True):
    """A unit that ended in an error; error.txt beside it has the traceback."""

    success: Annotated[bool, Meta(extra_json_schema={"const": False})]
    error: str


class UnitMeasured(Measured, kw_only=True):
    """metrics.json of a unit that was measured.

    schema: version of this form; another number is another form.
    """

    schema: Literal[1]


class UnitFailed(Failed, kw_only=True):
    """metrics.json of a unit that ended in an error.

    schema: version of this form; another number is another form.
    """

    schema: Literal[1]


# The two cannot be told apart by a type, which msgspec asks of a union.
_Cell = Annotated[Any, Meta(extra_json_schema={"anyOf": [{"$ref": "#/$defs/Measured"}, {"$ref": "#/$defs/Failed"}]})]


class OfSeeds(Struct, kw_only=True):
    """What several seeds of one label add up to in one category.

    means: by metric: over the seeds; null unless every one defines it.
    sds: by metric: the sample standard deviation over the seeds.
    sd_reasons: why, for exactly the names whose sd is null.
    """

    means: dict[str, float | None]
    sds: dict[str, float | None]
    sd_reasons: dict[str, str]


class MetricsDocument(Document, kw_only=True):
    """metrics.json of a run: every unit's metrics, and the means.

    results: by category, label and seed.
    means: by label: over the categories and seeds; null unless every unit defines the metric. Counts have none.
    sds: by label: the sample standard deviation, over the seeds, of the mean over the categories; null for one seed and
        where the mean is null. Absent before 0.5.
    sd_reasons: by label: why, for exactly the names whose sd is null. Absent before 0.5.
    by_category: by category and label: the same of each category alone. Absent for one seed.
    """

    results: dict[str, dict[str, dict[SeedName, _Cell]]]
    means: dict[str, dict[str, float | None]]
    sds: dict[str, dict[str, float | None]] | UnsetType = UNSET
    sd_reasons: dict[str, dict[str, str]] | UnsetType = UNSET
    by_category: dict[str, dict[str, OfSeeds]] | UnsetType = UNSET


class GateDocument(Document, kw_only=True):
    """gate.json of a run whose spec has a gate, or that was held against a baseline.

    passed: every limit holds, and no metric is worse than the baseline or that was accepted.
    limits: how many there are.
    broken: those that do not hold.
    baseline: the file that the run was held against, as it was named; null without one. Absent before 0.8.
    accepted: the run was made the baseline, so that what is worse than the old one breaks nothing. Absent before 0.8.
    regressions: every comparison with the baseline; those with a reason are regressions. Absent before 0.8.
    models: every pair of the run's models by three metrics, over its categories. Absent before 0.8.
    """

    passed: bool
    limits: Count
    broken: list[Checked]
    baseline: str | UnsetType | None = UNSET
    accepted: bool | UnsetType = UNSET
    regressions: list[Compared] | UnsetType = UNSET
    models: list[Pair] | UnsetType = UNSET


class ThresholdsDocument(Document, kw_only=True):
    """thresholds.json of a unit: its image threshold, its pixel scale, and the normal scores they come from.

    review: a lower threshold of image scores: from here up to the other an image is to be reviewed; null where there is
        none.
    expected: the shares of new images that each verdict is expected to get; null without a threshold.
    pixel: null where no calibration map was made.
    scores: of normal images that the model does not contain, ascending.
    maxima: the highest pixel of each of their maps, ascending. Absent before 0.8.
    data: SHA-256 over the bytes of these images.
    tiling: how the scored images were cut into tiles; null where they were not.
    postprocess: of maps, where it was tuned with labelled defects; null: as the model was fitted with.
    checksum: SHA-256 over this file as it would be without this key. Absent before 0.9.
    """

    image: Threshold
    review: Threshold | None = None
    expected: Expected | None = None
    pixel: PixelScale | None
    scores: list[float]
    maxima: list[float] | UnsetType = UNSET
    data: str | None = None
    tiling: Tiling | None = None
    postprocess: PostprocessTable | None = None
    checksum: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | UnsetType = UNSET


class Timing(Struct, kw_only=True):
    """What a unit cost. The keys from score_seconds on are absent where only `fit` was done.

    fit_seconds: decoding, features, coreset and calibration.
    train_images: learned from; 0 for a checkpoint, which has learned before.
    model_bytes: of the fitted model in the folder model/; another library's own checkpoint beside it is not counted.
    score_seconds: all of scoring, with maps and overlays written.
    test_images: scored.
    images_per_second: test_images in score_seconds; null without test images, as the next two.
    ms_per_image_p50, ms_per_image_p95: one image's decoding, its share of its batch's network and neighbour search,
        and its map.
    peak_memory_bytes: the most that the process has held so far; null where the system does not tell.
    """

    fit_seconds: Seconds
    train_images: Count
    model_bytes: Count
    score_seconds: Seconds | UnsetType = UNSET
    test_images: Count | UnsetType = UNSET
    images_per_second: Seconds | UnsetType | None = UNSET
    ms_per_image_p50: Seconds | UnsetType | None = UNSET
    ms_per_image_p95: Seconds | UnsetType | None = UNSET
    peak_memory_bytes: Count | UnsetType | None = UNSET


class UnitTiming(Timing, kw_only=True):
    """timing.json of a unit.

    schema: version of this form; another number is another form.
    """

    schema: Literal[1]


class TimedUnit(Timing, kw_only=True):
    """What one unit of a run cost.

    label: of the model.
    """

    category: str
    label: str
    seed: Count


class TimingDocument(Document, kw_only=True):
    """timing.json of a run.

    units: those that were finished.
    peak_memory_bytes: the most that the process held; null where the system does not tell.
    """

    units: list[TimedUnit]
    peak_memory_bytes: Count | None


class Differing(Struct, kw_only=True):
    """An image by its scores of both of anomalib's ways.

    path: of the image below its category.
    """

    path: str
    training: float
    exported: float


class ParityCounts(Struct, kw_only=True):
    """What a comparison of both ways rests on.

    images: test images that went both ways.
    broken_images: left out, since they cannot be read.
    maps: of these images, those with a map.
    """

    images: Count
    broken_images: Count
    maps: Count


class Parity(Struct, kw_only=True):
    """The same model, its test images once on anomalib's training way and once on its exported way.

    inference: the way that metrics.json was measured on.
    threshold: of the unit, for the images flipped; null where it has none.
    anomalib_threshold: of raw scores, where anomalib's own labels change; null where it has none, or all the same.
    metrics: by name; null where undefined. A difference is exported minus training, that of scores and maps its size.
        Maps are compared at the model's resolution, pixel AUROC is measured at the file's. A share is of score_iqr, the
        interquartile range of the training way's scores. flipped: images anomalous on one way only.
    reasons: why, for exactly the names that are null.
    pixel_mode: how pixel AUROC was computed; null where it was not.
    bounds: the exact value of a metric lies within its bound; empty in exact mode.
    most_different: the images whose scores differ most, up to five.
    """

    inference: Literal["training", "exported"]
    threshold: float | None
    anomalib_threshold: float | None
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    counts: ParityCounts
    pixel_mode: Literal["exact", "streaming"] | None
    bounds: dict[str, float]
    most_different: list[Differing]


class ParityDocument(Document, kw_only=True):
    """parity.json of a unit: how far anomalib's two ways for an image lie apart.

    result: null where the model has not both ways.
    reason: why the result is null; null if it is not.
    """

    result: Parity | None
    reason: str | None


class Reported(Struct, kw_only=True):
    """anomalib's four default metrics.

    metrics: image_AUROC, image_F1Score, pixel_AUROC and pixel_F1Score; null where undefined.
    reasons: why, for exactly the names that are null.
    """

    metrics: dict[str, float | None]
    reasons: dict[str, str]


class ProtocolCounts(Struct, kw_only=True):
    """What anomalib's numbers rest on.

    images: test images with a label.
    broken_images: left out, since they cannot be read.
    images_cut: of these images, those whose normalised score is cut to 0 or 1.
    images_at_threshold: whose normalised score is the threshold, but for rounding.
    maps: with a mask.
    maps_without_mask: left out of the pixel metrics.
    pixels: of the maps, at the model's resolution.
    pixels_cut, pixels_at_threshold: of these pixels, likewise.
    """

    images: Count
    broken_images: Count
    images_cut: Count
    images_at_threshold: Count
    maps: Count
    maps_without_mask: Count
    pixels: Count
    pixels_cut: Count
    pixels_at_threshold: Count


class Protocol(Struct, kw_only=True):
    """A model as anomalib's Engine would measure it, and as uadctl does.

    anomalib: of normalised, cut scores and maps, at the model's resolution, by its own thresholds.
    uadctl: of raw scores, at the file's resolution, by the unit's thresholds.
    differences: uadctl minus anomalib; null where either is.
    causes: by metric, in words: what there is that makes the two differ.
    postprocessing: anomalib's thresholds, ranges of raw values and settings, as the checkpoint has them.
    normalised_image_threshold, normalised_pixel_threshold: a normalised value above it is anomalous.
    inference: the way that uadctl's numbers were measured on; anomalib's are always of the training way.
    pixel_mode: how anomalib's pixel AUROC was computed; null where it was not.
    bounds: the exact value of a metric lies within its bound; empty in exact mode.
    """

    anomalib: Reported
    uadctl: Reported
    differences: dict[str, float | None]
    causes: dict[str, list[str]]
    postprocessing: dict[str, Any]
    normalised_image_threshold: float
    normalised_pixel_threshold: float
    inference: Literal["training", "exported"]
    counts: ProtocolCounts
    pixel_mode: Literal["exact", "streaming"] | None
    bounds: dict[str, float]


class ProtocolDocument(Document, kw_only=True):
    """anomalib.json of a unit: what anomalib itself would report of its model, beside uadctl's numbers.

    result: null where that cannot be said.
    reason: why the result is null; null if it is not.
    """

    result: Protocol | None
    reason: str | None


class RobustnessCounts(Struct, kw_only=True):
    """What the numbers of every corruption rest on: the same images.

    images: test images that were scored, as they are and changed.
    normal_images, defect_images: of these.
    broken_images: left out, since they cannot be read.
    """

    images: Count
    normal_images: Count
    defect_images: Count
    broken_images: Count


class Unchanged(Struct, kw_only=True):
    """The test images as they are.

    metrics: image AUROC, AUPRO and pixel AUROC where pixels are measured, and the rates at the unit's threshold; null
        where undefined.
    reasons: why, for exactly the names that are null.
    bounds: the exact value of a metric lies within its bound; empty in exact mode.
    """

    metrics: dict[str, float | None]
    reasons: dict[str, str]
    bounds: dict[str, float]


class Corrupted(Struct, kw_only=True):
    """The test images after one corruption at one severity.

    step: what was done, as [augment] steps would say it; what is drawn from a range was drawn from its two ends.
    metrics: as of the unchanged images, and of each image with and without the change: flip_rate, the share of images
        whose verdict is another one, and good_shift, how far the scores of good images have moved on average, in
        interquartile ranges of the calibration scores (above 0: towards anomalous). Null where undefined.
    changes: each metric but these two, minus that of the unchanged images; null where either is.
    reasons: why, for exactly the metrics that are null.
    bounds: the exact value of a metric lies within its bound; empty in exact mode.
    """

    corruption: str
    severity: Annotated[int, Meta(ge=1, le=5)]
    step: str
    metrics: dict[str, float | None]
    changes: dict[str, float | None]
    reasons: dict[str, str]
    bounds: dict[str, float]


class RobustnessDocument(Document, kw_only=True):
    """robustness.json of a unit: what its model and threshold make of the test images if the camera had changed.

    seed: of what is drawn; the run's first, so that all units see the same pixels.
    threshold: of the unit, that the rates are at; null where it has none.
    score_iqr: the interquartile range of the calibration scores; null where they have none.
    clean: the test images as they are, measured in the same way at the same time.
    corruptions: each at each severity that was asked for.
    pixel_mode: how the pixel metrics were computed; null where there are none.
    """

    seed: Count
    threshold: float | None
    score_iqr: float | None
    clean: Unchanged
    corruptions: list[Corrupted]
    pixel_mode: Literal["exact", "streaming"] | None
    counts: RobustnessCounts


DOCUMENTS: Final[dict[str, tuple[type, ...]]] = {
    "run": (RunDocument,),
    "metrics": (MetricsDocument, UnitMeasured, UnitFailed),
    "gate": (GateDocument,),
    "thresholds": (ThresholdsDocument,),
    "timing": (TimingDocument, UnitTiming),
    "parity": (ParityDocument,),
    "anomalib": (ProtocolDocument,),
    "robustness": (RobustnessDocument,),
    "replicates": (ReplicatesDocument,),
    "baseline": (BaselineDocument,),
}
"""By the name of the file without .json: the forms that it can have, in the run's folder and in a unit's. A
baseline lies where its user wants it."""

_BESIDE: Final = (Measured, Failed)
# Fields with a default that files of before this version lack.
_NEW: Final[dict[tuple[type, str], str]] = {
    (PixelScale, "sigmas"): "0.4",
    (PixelScale, "normalize"): "0.7",
    (ThresholdsDocument, "tiling"): "0.7",
    **{(ThresholdsDocument, name): "0.8" for name in ("review", "expected", "data", "postprocess")},
    **{(PixelScale, name): "0.8" for name in ("chosen", "review")},
    **{(Threshold, name): "0.8" for name in ("delta", "guarantee", "tail", "labelled")},
}


def document_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of NAME.json, NAME being a key of `DOCUMENTS`."""
    return records_schema(f"{name}.json of uadctl", DOCUMENTS[name])


def records_schema(title: str, records: tuple[type, ...]) -> dict[str, Any]:
    """The JSON Schema of a document that has the form of one of `records`.

    records: Structs and dataclasses as msgspec encodes them. What their docstrings say of a field ("name: meaning")
    becomes its description. A field with a default is written all the same, so it is required; one that may be UNSET
    is not, nor one that is new.
    """
    forms, found = msgspec.json.schema_components([*records, *_BESIDE], ref_template="#/$defs/{name}")
    classes = {cls.__name__: cls for record in (*records, *_BESIDE) for cls in _classes(types.type_info(record))}
    parts = {key: _closed(part, classes[key]) if key in classes else part for key, part in found.items()}
    main = list(forms[: len(records)])
    reachable = _reachable(main, parts)
    return {
        "$schema": DRAFT,
        "$comment": "Written by: uadctl schema --write specs",
        "title": title,
        **(main[0] if len(main) == 1 else {"anyOf": main}),
        "$defs": {key: parts[key] for key in sorted(reachable)},
    }


def _closed(part: dict[str, Any], record: type) -> dict[str, Any]:
    """The schema of one record: nothing but its keys, each with its meaning."""
    meanings = _meanings(record, part["properties"])
    required = set(part.get("required", ()))
    properties: dict[str, Any] = {}
    for key, value in part["properties"].items():
        new = _NEW.get((record, key))
        if "default" in value and new is None:
            required.add(key)
        told = {k: v for k, v in value.items() if k != "default"}
        meaning = meanings.get(key) if new is None else f"{meanings[key]} Absent before {new}."
        properties[key] = told if meaning is None else {"description": meaning, **told}
    return {
        "type": "object",
        "description": (inspect.getdoc(record) or "").partition("\n\n")[0].replace("\n", " "),
        "properties": properties,
        "required": [key for key in properties if key in required],
        "additionalProperties": False,
    }


def _meanings(record: type, fields: Iterable[str]) -> dict[str, str]:
    """What the docstrings of a record and its bases say of each field. A line may say more than one: "a: …. b: …"."""
    start = re.compile(rf"(?<=\.)\s+({'|'.join(fields)}):\s+")
    found: dict[str, str] = {}
    for cls in reversed(record.__mro__):
        if not cls.__module__.startswith("uadctl."):
            continue
        for name, text in _documented(cls).items():
            first, *others = start.split(re.sub(r"\bNone\b", "null", text))
            found |= {name: first, **dict(zip(others[::2], others[1::2], strict=True))}
    return found


def _classes(wanted: types.Type) -> set[type]:
    """The records in a type, itself and all that it holds."""
    match wanted:
        case types.Metadata():
            return _classes(wanted.type)
        case types.StructType() | types.DataclassType():
            return {wanted.cls}.union(*(_classes(f.type) for f in wanted.fields))
        case types.UnionType():
            return set[type]().union(*map(_classes, wanted.types))
        case types.DictType():
            return _classes(wanted.value_type)
        case types.CollectionType():
            return _classes(wanted.item_type)
        case _:
            return set()


def _reachable(value: object, parts: dict[str, Any]) -> set[str]:
    """The names of the parts that a schema refers to, directly or through others."""
    found: set[str] = set()
    todo = [value]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        elif isinstance(node, dict):
            todo += node.values()
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                todo.append(parts[name])
    return found
