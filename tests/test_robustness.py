"""`uadctl bench --robustness`: what a fitted model makes of its test images if the camera had changed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import parts
import pytest
import test_schemas
from test_report import Page

from uadctl import robustness
from uadctl.errors import DataError, RunError
from uadctl.imaging.files import read_image
from uadctl.imaging.geometry import Geometry
from uadctl.intake import Intake
from uadctl.models.patchcore import PatchCore
from uadctl.plan import Cell, make_plan
from uadctl.progress import Silent
from uadctl.records import Prediction
from uadctl.report import charts, report
from uadctl.robustness import Corruption, find_corruptions, measure_robustness
from uadctl.runs.documents import document_schema
from uadctl.runs.fitted import Calibration
from uadctl.spec import Overrides, RunSpec, read_spec
from uadctl.spec.corruptions import SEVERITIES
from uadctl.thresholds import Threshold

SIZE = (48, 64)
# Of a category: path below it, the grey level of its upper half, defect or not.
IMAGES = (
    ("test/good/000.png", 90, 0),
    ("test/good/001.png", 100, 0),
    ("test/good/002.png", 119, 0),
    ("test/scratch/000.png", 121, 1),
    ("test/scratch/001.png", 150, 1),
)
THRESHOLD = 120.0
# Quartiles 90 and 100.
CALIBRATION = (80.0, 90.0, 95.0, 100.0, 110.0)


@dataclass
class Brightness:
    """A model whose score is the mean of the image's upper half, and whose map is red minus green."""

    maps: bool = True
    images_per_batch: int = 2
    seen: list[np.ndarray] = field(default_factory=list)

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        self.seen += [image.copy() for image in images]
        return [
            Prediction(
                float(np.float32(image[: image.shape[0] // 2].mean())),
                image[..., 0].astype(np.float32) - image[..., 1] if self.maps else None,
            )
            for image in images
        ]


@pytest.fixture
def root(tmp_path) -> Path:
    """The images of IMAGES as the category tile in MVTec AD's layout; a defect is reddish, and off the centre."""
    home = tmp_path / "data/tile"
    parts.write(home / "train/good/000.png", np.full((*SIZE, 3), 100, np.uint8))
    for path, level, defect in IMAGES:
        image, mask = np.full((*SIZE, 3), level, np.uint8), np.zeros(SIZE, np.uint8)
        if defect:
            mask[36:46, 40:60] = 255
            image[mask > 0] = (200, 100, 100)
            parts.write(home / path.replace("test", "ground_truth").replace(".png", "_mask.png"), mask)
        parts.write(home / path, image)
    return tmp_path / "data"


def plan(root: Path, *sets: str) -> tuple[RunSpec, Cell]:
    overrides = Overrides(dataset="mvtec", root=str(root), model="patchcore", pretrained=False, set=sets)
    spec = read_spec(None, overrides).spec
    return spec, make_plan(spec).cells[0]


def fitted(
    detector: Any = None, *, threshold: float | None = THRESHOLD, scores: tuple[float, ...] = CALIBRATION
) -> Any:
    """As much of a fitted model as is asked for; images are given as they are."""
    image = Threshold(value=threshold, source="validation") if threshold else Threshold(value=None, reason="no images")
    return SimpleNamespace(
        detector=detector or Brightness(),
        intake=Intake(geometry=Geometry(size=None)),
        calibration=Calibration(image, None, scores),
    )


def measure(root: Path, corruptions: Sequence[Corruption], *sets: str, **given: Any) -> dict[str, Any]:
    """What is found, after it has proved to be what robustness.json holds."""
    spec, cell = plan(root, *sets)
    found = measure_robustness(spec, cell, fitted(**given), corruptions, pixels=10_000)
    document = json.loads(json.dumps({"schema": 1, **found}, allow_nan=False))
    assert test_schemas.problems(document, document_schema("robustness")) == []
    for one in (found["clean"], *found["corruptions"]):
        assert {name for name, value in one["metrics"].items() if value is None} == set(one["reasons"])
    return found


# -- what is done to the images


def test_all_corruptions_at_three_severities_unless_others_are_asked_for():
    found = find_corruptions()
    assert len(found) == 24
    assert [(c.name, c.severity) for c in found] == [(name, s) for name in SEVERITIES for s in (1, 3, 5)]
    assert [(c.name, c.severity, c.seed) for c in find_corruptions(["noise", "blur"], (2,), seed=7)] == [
        ("noise", 2, 7),
        ("blur", 2, 7),
    ]
    assert str(find_corruptions(["jpeg_compress"], (5,))[0].step) == "jpeg_compress:quality=10"
    with pytest.raises(ValueError, match=r"^no such corruption: fog; expected one of jpeg_compress, vignette, "):
        find_corruptions(["fog"])
    for severity in (0, 6):
        with pytest.raises(ValueError, match=rf"^severity must be 1 to 5, found {severity}$"):
            find_corruptions(["noise"], (severity,))


def test_what_is_drawn_depends_on_seed_image_and_corruption_alone():
    image = parts.surface(0)
    for name in ("noise", "motion_blur", "rotate_shift"):
        (one,), (again,), (other,) = (find_corruptions([name], (4,), seed=seed) for seed in (0, 0, 1))
        changed = [one(index, image) for index in range(3)]
        assert [c.tobytes() for c in changed] == [again(index, image).tobytes() for index in range(3)]
        assert len({c.tobytes() for c in changed}) == 3
        assert other(0, image).tobytes() != changed[0].tobytes()


def test_the_amount_is_the_severity_s_and_goes_one_way_at_all_of_them():
    image = np.full((4, 4, 3), 100, np.uint8)
    levels = np.array(
        [
            [int(c(index, image)[0, 0, 0]) for index in range(12)]
            for c in find_corruptions(["exposure_drift"], range(1, 6))
        ]
    )
    stops = np.array([0.1, 0.2, 0.4, 0.7, 1.0])
    brighter = np.rint(100 * 2**stops)
    darker = np.rint(100 * 2**-stops)
    up = levels[0] > 100
    assert 0 < up.sum() < 12
    assert np.array_equal(levels, np.where(up, brighter[:, None], darker[:, None]))


def test_a_mask_goes_where_its_image_goes():
    image, mask = parts.scratched(0)
    for corruption in find_corruptions(None, (5,)):
        moved = corruption.moved(3, mask)
        assert np.array_equal(moved, mask) == (corruption.name != "rotate_shift")
    seen = corruption(3, np.repeat(mask[..., None], 3, axis=2))
    assert np.mean((seen[..., 0] > 127) != (moved > 0)) < 0.01
    assert image.shape[:2] == mask.shape


# -- what is measured


def test_the_model_sees_the_corrupted_images_and_the_clean_ones_first(root):
    detector = Brightness()
    corruptions = find_corruptions(["noise"], (1, 4))
    measure(root, corruptions, detector=detector)
    clean = [read_image(root / "tile" / path) for path, _, _ in IMAGES]
    expected = clean + [c(index, image) for c in corruptions for index, image in enumerate(clean)]
    assert len(detector.seen) == 15
    assert all(np.array_equal(a, b) for a, b in zip(detector.seen, expected, strict=True))


def test_figures_by_hand(root):
    # 2^0.4 = 1.32: below the clean 100 scores as 132 or 76.
    corruption = find_corruptions(["exposure_drift"], (3,))[0]
    after = [
        float(corruption(i, np.full((1, 1, 3), level, np.uint8))[0, 0, 0]) for i, (_, level, _) in enumerate(IMAGES)
    ]
    levels = [float(level) for _, level, _ in IMAGES]
    assert any(a > b for a, b in zip(after, levels, strict=True))
    found = measure(root, [corruption])
    assert found["threshold"] == THRESHOLD
    assert found["score_iqr"] == 10.0
    assert found["seed"] == 0
    assert found["pixel_mode"] == "exact"
    assert found["counts"] == {"images": 5, "normal_images": 3, "defect_images": 2, "broken_images": 0}
    clean, changed = found["clean"]["metrics"], found["corruptions"][0]["metrics"]
    assert clean == {
        "image_auroc": 1.0,
        "pixel_auroc": 1.0,
        "aupro_30": 1.0,
        "false_alarm_rate": 0.0,
        "miss_rate": 0.0,
    }
    assert found["corruptions"][0]["step"] == "exposure_drift:ev_range=0.4"
    wins = [float(bad > good) + 0.5 * (bad == good) for bad in after[3:] for good in after[:3]]
    assert changed["image_auroc"] == pytest.approx(np.mean(wins))
    assert changed["false_alarm_rate"] == np.mean([score >= THRESHOLD for score in after[:3]])
    assert changed["miss_rate"] == np.mean([score < THRESHOLD for score in after[3:]])
    assert changed["flip_rate"] == np.mean([(a >= 120) != (b >= 120) for a, b in zip(after, levels, strict=True)])
    assert 0 < changed["flip_rate"] < 1
    assert changed["good_shift"] == pytest.approx((np.mean(after[:3]) - np.mean(levels[:3])) / 10)
    changes = found["corruptions"][0]["changes"]
    assert set(changes) == set(clean)
    assert changes["image_auroc"] == changed["image_auroc"] - 1
    assert changes["false_alarm_rate"] == changed["false_alarm_rate"]


def test_masks_move_with_the_images(root):
    found = measure(root, find_corruptions(["rotate_shift"], (5,)))
    assert found["corruptions"][0]["metrics"]["pixel_auroc"] > 0.98
    assert found["clean"]["metrics"]["pixel_auroc"] == 1.0


def test_pixels_are_counted_in_bins_where_memory_is_short(root):
    found = measure(root, find_corruptions(["blur"], (1,)), "metrics.memory=1kB")
    assert found["pixel_mode"] == "streaming"
    assert set(found["clean"]["bounds"]) == set(found["corruptions"][0]["bounds"]) == {"pixel_auroc", "aupro_30"}


def test_what_is_undefined_is_null_with_its_reason(root):
    corruptions = find_corruptions(["blur"], (1,))
    (one,) = measure(root, corruptions, threshold=None, scores=())["corruptions"]
    assert one["reasons"] == {
        "false_alarm_rate": "no images",
        "miss_rate": "no images",
        "flip_rate": "no images",
        "good_shift": "there are no calibration scores",
    }
    assert one["changes"]["miss_rate"] is None
    found = measure(root, corruptions, scores=(3.0,) * 9)
    assert found["score_iqr"] is None
    reason = "half of the calibration scores are equal: they have no spread"
    assert found["corruptions"][0]["reasons"] == {"good_shift": reason}


def test_without_maps_without_pixels_and_with_defects_only(root):
    corruptions = find_corruptions(["blur"], (1,))
    (one,) = measure(root, corruptions, detector=Brightness(maps=False))["corruptions"]
    assert set(one["reasons"]) == {"pixel_auroc", "aupro_30"}
    (one,) = measure(root, corruptions, "metrics.pixel=false")["corruptions"]
    assert set(one["metrics"]) == {"image_auroc", "false_alarm_rate", "miss_rate", "flip_rate", "good_shift"}
    for path, _, defect in IMAGES:
        if not defect:
            (root / "tile" / path).unlink()
    found = measure(root, corruptions)
    (one,) = found["corruptions"]
    assert one["metrics"]["image_auroc"] is one["changes"]["image_auroc"] is None
    assert one["reasons"]["good_shift"] == "there is no normal image (2 others)"
    assert found["counts"]["normal_images"] == 0


def test_images_that_cannot_be_read(root):
    broken = root / "tile" / IMAGES[1][0]
    broken.write_bytes(b"")
    spec, cell = plan(root)
    corruptions = find_corruptions(["blur"], (1,))
    with pytest.raises(DataError) as error:
        measure_robustness(spec, cell, fitted(), corruptions)
    assert str(error.value).startswith(f"{broken}: ")
    found = measure(root, corruptions, 'dataset.on_error="skip"')
    assert found["counts"] == {"images": 4, "normal_images": 2, "defect_images": 2, "broken_images": 1}


def test_images_that_cannot_be_compared(root):
    spec, cell = plan(root)

    @dataclass(frozen=True, slots=True)
    class Broken(Corruption):
        def __call__(self, index: int, image: np.ndarray) -> np.ndarray:
            if index == 2:
                raise DataError("gone")
            return image

    corruption = find_corruptions(["blur"], (1,))[0]
    broken = Broken(corruption.name, corruption.severity, corruption.step, 0)
    with pytest.raises(RunError) as error:
        measure_robustness(spec, cell, fitted(), [broken])
    assert str(error.value) == f"{cell.test[2].path}: can be scored as it is, and not after blur:sigma=0.5: gone"


def test_a_bar_goes_on_with_every_image_of_every_pass(root):
    told: list[Any] = []

    class Noted(Silent):
        def task(self, title: str, total: int | None, *, unit: str = "images") -> Any:
            told.append((title, total, unit))
            outer = super().task(title, total, unit=unit)
            advance = outer.advance
            outer.advance = lambda n=1: (told.append(n), advance(n))[1]  # type: ignore[method-assign]
            return outer

    spec, cell = plan(root)
    measure_robustness(spec, cell, fitted(), find_corruptions(["blur"], (1, 2)), progress=Noted())
    assert told[0] == ("robustness tile · vision_patchcore", 15, "images")
    assert sum(told[1:]) == 15


# -- the page of the docs

PAGE = (Path(__file__).parents[1] / "docs" / "robustness.md").read_text(encoding="utf-8")


def test_the_docs_tell_the_amounts_of_the_data():
    rows = re.findall(r"^\| `(\w+)` \|((?:[^|\n]*\|){5})", PAGE, re.M)
    assert [name for name, _ in rows] == list(SEVERITIES)
    for name, cells in rows:
        shown = [
            [float(n.removesuffix(" %")) / (100 if "%" in n else 1) for n in re.findall(r"[\d.]+(?: %)?", c)]
            for c in cells.split("|")[:5]
        ]
        assert shown == [[float(n) for n in re.findall(r"(?<==)[\d.]+", text)] for text in SEVERITIES[name]], name


def test_the_python_of_the_docs_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(compile(code, "docs/robustness.md", "exec"), {})


# -- bench --robustness

TABLE = '[robustness]\ncorruptions = ["exposure_drift", "rotate_shift"]\nseverities = [1, 5]\n'


def spec_file(root: Path, table: str = TABLE, model: str = '[model]\nname = "patchcore"\n') -> str:
    text = f'[run]\nname = "r"\n[dataset]\nname = "mvtec"\nroot = {json.dumps(str(root))}\n[preprocess]\nsize = 64\n'
    Path("r.toml").write_text(f"{text}{model}{table}", encoding="utf-8")
    return "r.toml"


@pytest.fixture
def two_only(monkeypatch):
    """Two corruptions are all there are, so that a bench of all takes a second."""
    monkeypatch.setattr(robustness, "SEVERITIES", {name: SEVERITIES[name] for name in ("noise", "blur")})


def file_of(run: str | Path, label: str = "vision_patchcore") -> Path:
    return Path(run, f"units/tile/{label}/0/robustness.json")


def test_a_table_in_the_spec_asks_for_it(uadctl, one_category):
    ended = uadctl("bench", spec_file(one_category), "--json")
    document = json.loads(file_of(ended.json["run"]).read_text(encoding="utf-8"))
    schema = document_schema("robustness")
    assert test_schemas.problems(document, schema) == []
    assert test_schemas.properties(schema) - test_schemas.used(schema, document) == set()
    told = ended.json["robustness"]["tile"]["vision_patchcore"]["0"]
    assert {"schema": 1, **told} == document
    assert [(c["corruption"], c["severity"]) for c in told["corruptions"]] == [
        ("exposure_drift", 1),
        ("exposure_drift", 5),
        ("rotate_shift", 1),
        ("rotate_shift", 5),
    ]
    measured = ended.json["results"]["tile"]["vision_patchcore"]["0"]["metrics"]
    assert told["clean"]["metrics"] == {name: measured[name] for name in told["clean"]["metrics"]}
    limit = json.loads(file_of(ended.json["run"]).with_name("thresholds.json").read_text())["image"]["value"]
    assert told["threshold"] == limit


def test_the_flag_asks_for_all_of_them_and_people_get_a_table(uadctl, small, two_only):
    ended = uadctl("bench", *small, "--robustness")
    lines = [line.split() for line in ended.out.splitlines()]
    heads = ["tile", "severity", "AUROC", "change", "@0.3", "change", "alarms", "missed", "flipped", "shift"]
    assert heads in lines
    assert [line[:2] for line in lines if line[:1] in (["noise"], ["blur"])] == [
        [name, severity] for name in ("noise", "blur") for severity in "135"
    ]
    assert uadctl("bench", *small, "--json").json["robustness"] is None


def test_a_finished_run_is_asked_later_and_once(uadctl, small, two_only, monkeypatch):
    run = uadctl("bench", *small, "--json").json["run"]
    assert not file_of(run).exists()

    def never(*_args: object, **_words: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(PatchCore, "fit", never)
    first = uadctl("bench", "--resume", run, "--robustness", "--json").json["robustness"]
    before = file_of(run).stat().st_mtime_ns
    monkeypatch.setattr(robustness, "stream", never)
    assert uadctl("bench", "--resume", run, "--robustness", "--json").json["robustness"] == first
    assert file_of(run).stat().st_mtime_ns == before


def test_every_model_and_seed_sees_the_same_images_and_one_that_fails_stops_no_other(
    uadctl, one_category, two_only, monkeypatch
):
    seen: dict[str, set[bytes]] = {}
    real = robustness.measure_robustness
    whose: list[str] = []
    seeds: set[int] = set()

    def noted(spec, cell, *args, **words):
        whose[:] = [f"{cell.model.label} {cell.seed}"]
        if whose == ["two 1"]:
            raise RunError("it has no mind for that", help="Try again.")
        return real(spec, cell, *args, **words)

    call = Corruption.__call__

    def watched(self, index, image):
        changed = call(self, index, image)
        seeds.add(self.seed)
        seen.setdefault(whose[0], set()).add(changed.tobytes())
        return changed

    monkeypatch.setattr("uadctl.bench.measure_robustness", noted)
    monkeypatch.setattr(Corruption, "__call__", watched)
    models = "".join(f'[[model]]\nname = "patchcore"\nlabel = "{name}"\n' for name in ("one", "two"))
    spec = spec_file(one_category, '[robustness]\ncorruptions = ["noise"]\nseverities = [2]\n', models)
    ended = uadctl("bench", spec, "--set", "run.seeds=[3,1]", "--json", code=1)
    run = ended.json["run"]
    assert seeds == {3}
    assert set(seen) == {"one 3", "one 1", "two 3"}
    assert len({frozenset(images) for images in seen.values()}) == 1
    assert {label: sorted(seeds) for label, seeds in ended.json["robustness"]["tile"].items()} == {
        "one": ["1", "3"],
        "two": ["3"],
    }
    assert ended.err.endswith(
        "error: tile · two · seed 1: it has no mind for that\n"
        f"  Try again.\n  When that is mended: uadctl bench --resume {run} --robustness\n"
    )
    assert json.loads(Path(run, "run.json").read_text())["status"] == "interrupted"
    monkeypatch.setattr("uadctl.bench.measure_robustness", real)
    again = uadctl("bench", "--resume", run, "--robustness", "--json").json
    assert sorted(again["robustness"]["tile"]["two"]) == ["1", "3"]
    assert json.loads(Path(run, "run.json").read_text())["status"] == "done"


def test_an_interruption_is_gone_on_with(uadctl, small, two_only, monkeypatch):
    def stop(*_args: object, **_words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(robustness, "stream", stop)
        uadctl("bench", *small, "--robustness", code=130)
    (run,) = Path("runs").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert not file_of(run).exists()
    uadctl("bench", *small, "--robustness", "--resume")
    assert file_of(run).is_file()


def test_it_has_no_effect_without_scores(uadctl, small):
    ended = uadctl("bench", *small, "--robustness", "--dry-run", code=2)
    assert ended.err == "error: --robustness has no effect on --dry-run: nothing is scored\n"


# -- the report


def test_the_page_of_a_run_shows_it(uadctl, one_category):
    run = uadctl("bench", spec_file(one_category), "--json").json["run"]
    page = Page(report(run))
    assert "If the camera changes" in page.text
    assert "exposure_drift 1" in page.text
    assert "unchanged" in page.text
    alts = [a["aria-label"] or "" for a in page.drawings]
    assert sum("image AUROC with rising severity: exposure drift: " in alt for alt in alts) == 1
    assert sum("false alarms with rising severity: exposure drift: " in alt for alt in alts) == 1
    source = page.source
    assert Page(report(run)).source == source
    file = file_of(run)
    document = json.loads(file.read_text(encoding="utf-8"))
    for one in (document["clean"], *document["corruptions"]):
        one["metrics"] |= {"image_auroc": None, "aupro_30": None}
        one["reasons"] |= {"image_auroc": "there is no normal image", "aupro_30": "no masks"}
    file.write_text(json.dumps(document), encoding="utf-8")
    text = Page(report(run)).text
    assert "Undefined: image AUROC, AUPRO to FPR 0.30." in text
    assert "Undefined (–): there is no normal image (image AUROC); no masks (AUPRO to FPR 0.30)." in text
    file.write_text('{"schema": 1}', encoding="utf-8")
    with pytest.raises(RunError) as error:
        report(run)
    assert str(error.value) == f"{file}: damaged: Object missing required field `clean`"


def test_a_chart_has_a_panel_a_corruption_and_gaps_where_nothing_is_defined():
    courses = [
        charts.Course("blur", (1, 3, 5), ((0.9, None, 0.5), (0.8, 0.7, 0.6))),
        charts.Course("noise", (1, 3, 5), ((None, None, None), (0.8, 0.7, 0.6))),
        charts.Course("jpeg", (2,), ((0.5,), (0.5,))),
    ]
    drawn = charts.severity_chart(courses, (0.95, None), key="k", alt="<x>")
    assert drawn == charts.severity_chart(courses, (0.95, None), key="k", alt="<x>")
    assert 'aria-label="&lt;x&gt;"' in drawn
    assert all(f">{title}<" in drawn for title in ("blur", "noise", "jpeg", "severity"))
    assert "nan" not in drawn
    known = [charts.Course("blur", (1, 3, 5), ((0.9, 0.6, 0.5), (0.8, 0.7, 0.6))), *courses[1:]]
    whole = charts.severity_chart(known, (0.95, None), key="k", alt="<x>")
    assert whole.count("<use ") == drawn.count("<use ") + 1  # a dot more
    one = charts.severity_chart(courses[:1], (None, None), key="k", alt="")
    assert ">blur<" in one
