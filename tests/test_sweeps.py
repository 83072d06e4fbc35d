"""Sweeps: `[run] seeds`, `[model.grid]` and `[dataset] shots`, from the spec to the table."""

from __future__ import annotations

import itertools
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import parts
import pytest

from uadctl.bench import _check_submission, bench
from uadctl.calibrate import calibrate
from uadctl.check import check_spec
from uadctl.errors import DataError, ParamError, RunError, SpecError
from uadctl.models.base import FromPredictions, Image
from uadctl.plan import Plan, draw_shots, make_plan
from uadctl.records import Prediction, Sample
from uadctl.runs.folder import RunFolder
from uadctl.runs.summary import ONE_SEED, spread, summarise
from uadctl.spec import MODELS, ModelEntry, Overrides, RunSpec, read_spec, spec_hash, to_toml, variants

FITTED: list[tuple[float, int, int]] = []
"""Gain, seed and number of images of every fit of `Tiny`."""


class Tiny(FromPredictions):
    """How much redder an image is than the good ones, and a little that the seed draws.

    gain: of the score; 3 cannot be fitted. mode: of no effect. names: of no effect. weights: of no effect.
    seed: of what is drawn. device: of no effect.
    """

    stride = 1
    images_per_batch = 4  # type: ignore[assignment]
    offers_left_out = False

    def __init__(
        self,
        *,
        gain: float = 1.0,
        mode: Literal["a", "b"] = "a",
        names: tuple[str, ...] = (),
        weights: str | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if gain <= 0:
            raise ParamError(f"gain (={gain}) must be above 0")
        self.gain, self.mode, self.seed = gain, mode, seed
        self.red: float | None = None

    def prepare(self, *, download: bool = True) -> None:
        pass

    def weights_state(self) -> str:
        return "none"

    @property
    def is_fitted(self) -> bool:
        return self.red is not None

    def fit(self, images: Iterable[Image], **_: object) -> Self:
        reds = [_red(image) for image in images]
        FITTED.append((self.gain, self.seed, len(reds)))
        if self.gain == 3:
            raise MemoryError("no room")
        self.red = float(np.mean(reds))
        return self

    def predict_batch(self, images: Sequence[Any]) -> list[Prediction]:
        self.require_fitted()
        return [Prediction(float(np.float32(self.gain * (_red(image) + self._drawn(image)))), None) for image in images]

    def _drawn(self, image: Any) -> float:
        return float(np.random.default_rng([self.seed, int(image.sum())]).normal(0, 12))

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"red": self.red}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        self.red = facts["red"]
        return self

    def facts(self) -> dict[str, Any]:
        return {"gain": self.gain, "red": self.red}


def _red(image: Any) -> float:
    pixels = np.asarray(image, np.float64)
    return float(pixels[..., 0].mean() - pixels[..., 2].mean())


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = ModelEntry(
        name="vision_tiny", target=f"{__name__}:Tiny", summary="tiny", aliases=("tiny",), path_params=("weights",)
    )
    monkeypatch.setitem(MODELS, entry.name, entry)
    monkeypatch.chdir(tmp_path)
    FITTED.clear()


def text(run: str = "", dataset: str = "", model: str = "", rest: str = "", name: str = "mvtec") -> str:
    return (
        f'[run]\n{run}\n[dataset]\nname = "{name}"\nroot = "data"\n{dataset}\n[preprocess]\nsize = 64\n'
        f'[metrics]\npixel = false\n[model]\nname = "tiny"\nlabel = "t"\n{model}\n{rest}'
    )


def read(toml: str, **overrides: Any) -> RunSpec:
    Path("s.toml").write_text(toml, encoding="utf-8")
    return read_spec("s.toml", Overrides(**overrides)).spec


def problems(toml: str, **overrides: Any) -> list[tuple[str, str | None]]:
    with pytest.raises(SpecError) as error:
        read(toml, **overrides)
    return [(problem.message, problem.help) for problem in error.value.problems]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("tile", "wood"):
        parts.write_category(tmp_path / "data", name, train=6, good=3, bad=3)
    return tmp_path / "data"


SWEEP = text(
    run="seeds = [0, 7, 3]",
    dataset="shots = [2, 4]",
    model="[model.params]\nmode = 'b'\n[model.grid]\ngain = [1, 2.5]",
)


# ---- the spec


def test_seeds_and_shots_are_one_or_several():
    assert read(text()).run.all_seeds == (0,)
    assert read(text(run="seed = 4")).run.all_seeds == (4,)
    several = read(text(run="seeds = [4, 0]"))
    assert (several.run.all_seeds, several.run.seed) == ((4, 0), None)
    assert read(text()).dataset.shot_counts == (None,)
    assert read(text(dataset="shots = 3")).dataset.shot_counts == (3,)
    assert read(text(dataset="shots = [3, 1]")).dataset.shot_counts == (3, 1)


def test_an_option_takes_the_place_of_what_the_file_says():
    assert read(text(run="seeds = [4, 0]"), seed=9).run.all_seeds == (9,)
    assert read(text(run="seed = 4"), set=("run.seeds=[1, 2]",)).run.all_seeds == (1, 2)
    swept = text(model="[model.grid]\ngain = [1, 2]\nmode = ['a', 'b']")
    assert [v.model.label for v in variants(read(swept, set=("model.params.gain=5",)))] == ["t mode=a", "t mode=b"]
    only = text(model="[model.grid]\ngain = [1, 2]")
    assert [v.model.params["gain"] for v in variants(read(only, model_kwargs='{"gain": 5}'))] == [5.0]
    given = text(model="[model.params]\ngain = 5")
    assert [v.model.label for v in variants(read(given, set=("model.grid.gain=[1, 2]",)))] == [
        "t gain=1.0",
        "t gain=2.0",
    ]


def test_two_options_contradict_each_other():
    assert problems(text(), seed=1, set=("run.seeds=[1, 2]",)) == [
        (
            "--seed 1: only one of seed and seeds can be given",
            "Remove one of seed and seeds.",
        )
    ]


RUN, DATASET, MODEL = 2, 6, 14  # lines of what `text` is given
GRID = "[model.grid]\n"
WRONG: list[tuple[dict[str, str], list[tuple[str, str | None]]]] = [
    (
        {"run": "seeds = [1, 2, 1]"},
        [(f"s.toml:{RUN}: [run] seeds = [1, 2, 1]: 1 is given twice", None)],
    ),
    (
        {"run": "seeds = []"},
        [
            (
                f"s.toml:{RUN}: [run] seeds = []: expected a list of integers >= 0 and <= 4294967295 that is not empty",
                None,
            )
        ],
    ),
    (
        {"run": "seeds = [-1]"},
        [(f"s.toml:{RUN}: [run] seeds[0] = -1: expected an integer >= 0 and <= 4294967295", None)],
    ),
    (
        {"run": "seed = 1\nseeds = [1]"},
        [
            (
                f"s.toml:{RUN + 1}: [run] seeds = [1]: only one of seed and seeds can be given",
                "Remove one of seed and seeds.",
            )
        ],
    ),
    (
        {"dataset": "shots = [1, 1]"},
        [(f"s.toml:{DATASET}: [dataset] shots = [1, 1]: 1 is given twice", None)],
    ),
    (
        {"dataset": "shots = 0"},
        [(f"s.toml:{DATASET}: [dataset] shots = 0: expected an integer of at least 1, or a list of such", None)],
    ),
    (
        {"model": GRID},
        [(f"s.toml:{MODEL}: [model.grid] has no key", "Example: coreset_ratio = [0.01, 0.1]")],
    ),
    (
        {"model": GRID + "gain = 1"},
        [
            (
                f"s.toml:{MODEL + 1}: [model.grid] gain = 1: expected a list of values that is not empty, "
                "found an integer",
                None,
            )
        ],
    ),
    (
        {"model": GRID + "gain = []"},
        [(f"s.toml:{MODEL + 1}: [model.grid] gain = []: expected a list of values that is not empty", None)],
    ),
    (
        {"model": GRID + "gain = [1,\n-2, 'x', 0]"},
        [(f's.toml:{MODEL + 2}: [model.grid] gain[2] = "x": expected a number, found a string', None)],
    ),
    (
        {"model": GRID + "gain = [1,\n-2]\nmode = ['a', 'b']"},
        [(f"s.toml:{MODEL + 2}: [model.grid] gain[1] = -2: must be above 0", None)],
    ),
    (
        {"model": "[model.params]\ngain = -1\n" + GRID + "mode = ['a', 'b']"},
        [(f"s.toml:{MODEL + 1}: [model.params] gain = -1: must be above 0", None)],
    ),
    (
        {"model": GRID + "gain = [1, 2, 1.0]"},
        [(f"s.toml:{MODEL + 1}: [model.grid] gain[2] = 1.0: is given twice", None)],
    ),
    (
        {"model": GRID + "mode = ['a', 'c']"},
        [(f's.toml:{MODEL + 1}: [model.grid] mode[1] = "c": expected one of "a", "b"', None)],
    ),
    (
        {"model": GRID + "gian = [1]"},
        [
            (
                f"s.toml:{MODEL + 1}: [model.grid] gian is not a parameter of vision_tiny; did you mean gain?",
                "vision_tiny takes: device, gain, mode, names, seed, weights",
            )
        ],
    ),
    (
        {"model": "[model.params]\ngain = 1\n" + GRID + "gain = [1, 2]"},
        [(f"s.toml:{MODEL + 3}: [model.grid] gain is in [model.params] as well", "Give it in one of the two.")],
    ),
    (
        {"model": GRID + "seed = [1, 2]\ndevice = ['cpu']"},
        [
            (
                f"s.toml:{MODEL + 1}: [model.grid] seed cannot be in a grid: [run] gives it to all models alike",
                "Several seeds: [run] seeds = [0, 1, 2]",
            ),
            (
                f"s.toml:{MODEL + 2}: [model.grid] device cannot be in a grid: [run] gives it to all models alike",
                "Models that differ in it: [[model]] twice, each with its label and params = { device = … }",
            ),
        ],
    ),
    (
        {"model": GRID + "weights = ['w', '']"},
        [(f's.toml:{MODEL + 1}: [model.grid] weights[1] = "": expected a path', None)],
    ),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=lambda value: str(value)[:50])
def test_what_is_wrong_with_a_sweep_is_said_at_its_line(given, said):
    assert problems(text(**given)) == said


def test_there_is_a_case_of_every_kind():
    assert len(WRONG) == 18


def test_a_grid_of_too_many_combinations_is_refused_before_they_are_made():
    numbers = list(range(1, 102))
    names = [[str(n)] for n in range(100)]
    assert problems(text(model=f"[model.grid]\ngain = {numbers}\nnames = {names}")) == [
        (f"s.toml:{MODEL}: [model.grid] has 10100 combinations; at most 10000 are run", "Leave out values, or keys.")
    ]
    assert problems(text(run=f"seeds = {numbers}", model=f"[model.grid]\nnames = {names}")) == [
        (
            "s.toml:11: this sweep has 10100 cells in every category (100 variants, 101 seeds); at most 10000 are run",
            "Leave out values of [model.grid], [dataset] shots or [run] seeds.",
        )
    ]
    most = read(text(run=f"seeds = {numbers[:100]}", model=f"[model.grid]\nnames = {names}"))
    assert len(variants(most)) == 100


def test_a_sweep_of_too_many_cells_over_all_categories_is_refused(data):
    numbers, names = list(range(60)), [[str(n)] for n in range(100)]
    spec = read(text(run=f"seeds = {numbers}", model=f"[model.grid]\nnames = {names}"))
    with pytest.raises(SpecError) as error:
        make_plan(spec)
    assert parts.message(error) == (
        "this sweep has 12000 cells (2 categories, 100 variants, 60 seeds); at most 10000 are run",
        "Leave out categories, values of [model.grid], [dataset] shots or [run] seeds.",
    )


def test_paths_in_a_grid_are_relative_to_the_spec(tmp_path):
    found = read(text(model="[model.grid]\nweights = ['a.pt', '../b.pt']"))
    assert [v.model.params["weights"] for v in variants(found)] == [
        str(tmp_path / "a.pt"),
        str(tmp_path.parent / "b.pt"),
    ]


# ---- variants and their labels


def path_labels(weights: str) -> list[str]:
    spec = read(text(model=f"[model.grid]\nweights = {weights}"))
    found = [v.model.label for v in variants(spec)]
    # The run's own copy, whose paths are absolute, has the same labels.
    assert [v.model.label for v in variants(read(to_toml(spec)))] == found
    return found


def test_labels_of_paths_are_the_same_in_another_folder(tmp_path, monkeypatch):
    assert path_labels("['a.pt', 'w/b.pt', '../c.pt']") == ["t weights=a.pt", "t weights=b.pt", "t weights=c.pt"]
    found = path_labels("['1/best.pt', '2/best.pt', '2/a/other.pt']")
    heads, digests = zip(*(label.split("~") for label in found), strict=True)
    assert heads == ("t weights=1-best.pt", "t weights=2-best.pt", "t weights=a-other.pt")
    assert len(set(digests)) == 3
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert path_labels("['1/best.pt', '2/best.pt', '2/a/other.pt']") == found
    assert path_labels("['A/x.pt', 'a/X.pt']") == path_labels("['b/../A/x.pt', 'a/X.pt']")


def test_a_variant_for_every_combination_in_the_order_of_the_spec():
    spec = read(text(dataset="shots = [2, 4]", model="[model.grid]\nmode = ['b', 'a']\ngain = [1, 0.25]"))
    found = variants(spec)
    assert [v.model.label for v in found] == [
        f"t mode={mode},gain={gain},shots={shots}" for mode in "ba" for gain in (1.0, 0.25) for shots in (2, 4)
    ]
    assert [(v.model.params["mode"], v.model.params["gain"], v.shots) for v in found[:3]] == [
        ("b", 1.0, 2),
        ("b", 1.0, 4),
        ("b", 0.25, 2),
    ]
    assert {v.of for v in found} == {"t"}
    assert all(v.model.grid is None for v in found)
    assert list(found[0].model.params) == ["gain", "mode", "names"]  # as the constructor has them


def test_one_number_of_shots_is_not_in_the_label():
    assert [v.model.label for v in variants(read(text(dataset="shots = 4")))] == ["t"]
    assert [(v.model.label, v.shots) for v in variants(read(text(dataset="shots = [4]")))] == [("t", 4)]


def test_a_variant_takes_what_no_grid_says_from_the_parameters():
    spec = read(text(model="[model.params]\nnames = ['x']\n[model.grid]\ngain = [1, 2]"))
    assert spec.models[0].params == {"mode": "a", "names": ("x",)}
    assert [v.model.params for v in variants(spec)] == [
        {"gain": 1.0, "mode": "a", "names": ("x",)},
        {"gain": 2.0, "mode": "a", "names": ("x",)},
    ]


def labels(names: str) -> list[str]:
    return [v.model.label for v in variants(read(text(model=f"[model.grid]\nnames = {names}")))]


def test_a_label_that_no_folder_could_have_is_shortened_and_stays_its_own():
    long = "x" * 70
    found = labels(
        f"[['a', 'b'], ['{long}'], ['{long}y'], ['a/b'], ['a\\b'], ['..'], ['Ä'], ['ä'], ['c+d'], ['c', 'd']]"
    )
    assert found[0] == "t names=a+b"
    shortened = [label.partition("~") for label in found[1:]]
    assert [head for head, _, _ in shortened] == [
        f"t names={'x' * 47}",
        f"t names={'x' * 47}",
        "t names=a-b",
        "t names=a-b",
        "t names=-",
        "t names=Ä",
        "t names=ä",
        "t names=c+d",
        "t names=c+d",
    ]
    assert all(len(digest) == 8 and int(digest, 16) >= 0 for _, _, digest in shortened)
    assert len({label.casefold() for label in found}) == 10
    assert [len(label) for label in found[1:3]] == [64, 64]
    assert found[1] == labels(f"[['{long}'], ['a']]")[0]  # whatever else is in the grid


def test_variants_of_two_models_cannot_share_a_label():
    two = '[[model]]\nname = "tiny"\nlabel = "T gain=1.0"\n[[model]]\nname = "tiny"\nlabel = "t"\n[model.grid]\ngain = [1]\n'
    assert problems('[dataset]\nname = "demo"\n' + two) == [
        (
            's.toml:6: [model] a second model with the label "t gain=1.0"',
            'Give each model its own: label = "NAME".',
        )
    ]


def test_the_saved_spec_keeps_the_sweep_and_has_the_same_hash():
    spec = read(SWEEP)
    written = to_toml(spec)
    assert "seeds = [0, 7, 3]" in written
    assert "\nseed =" not in written
    assert "shots = [2, 4]" in written
    assert '\n[model.params]\nmode = "b"\nnames = []\n\n[model.grid]\ngain = [1.0, 2.5]\n' in written
    again = read(written)
    assert again == spec
    assert to_toml(again) == written
    assert spec_hash(again) == spec_hash(spec)
    for change in ("run.seeds=[0]", "dataset.shots=2", "model.grid.gain=[1]"):
        assert spec_hash(read(SWEEP, set=(change,))) != spec_hash(spec), change


def test_a_spec_without_a_sweep_says_nothing_of_one():
    written = to_toml(read(text()))
    assert not {"seeds", "shots", "grid"} & set(written.replace("[", " ").replace("]", " ").replace(".", " ").split())


def test_another_model_on_the_command_line_drops_the_grid():
    Path("s.toml").write_text(SWEEP)
    reading = read_spec("s.toml", Overrides(model="tiny"))
    assert reading.notes == ("--model tiny takes the place of t: its parameters (mode, gain) are dropped",)
    assert reading.spec.models[0].grid is None


# ---- shots


def samples(n: int) -> tuple[Sample, ...]:
    return tuple(Sample(f"{i}.png", f"{i}.png", "train", 0, "good", "tile") for i in range(n))


def test_fewer_shots_are_among_more_and_all_is_all():
    pool = samples(20)
    drawn = [draw_shots(pool, k, category="tile", seed=3) for k in range(1, 21)]
    assert [len(each) for each in drawn] == list(range(1, 21))
    for fewer, more in itertools.pairwise(drawn):
        assert set(fewer) < set(more)
    assert all(list(each) == sorted(each, key=pool.index) for each in drawn)
    assert drawn[-1] == pool
    assert draw_shots(pool, None, category="tile", seed=3) is pool
    assert drawn[3] == draw_shots(pool, 4, category="tile", seed=3)


def test_other_seeds_and_other_categories_draw_others():
    pool = samples(20)
    of = {(c, s): draw_shots(pool, 5, category=c, seed=s) for c in ("tile", "wood") for s in (0, 1, 2)}
    assert len(set(of.values())) == 6
    counts = np.zeros(20)
    for seed in range(400):
        for sample in draw_shots(pool, 5, category="tile", seed=seed):
            counts[pool.index(sample)] += 1
    assert (counts.min(), counts.max()) == (pytest.approx(100, abs=35), pytest.approx(100, abs=35))


def test_shots_are_drawn_after_the_limit_and_leave_validation_and_test_alone(data):
    for i in range(3):
        parts.write(data / "tile" / "validation" / "good" / f"{i}.png", parts.surface(70 + i))
    cells = make_plan(read(text(dataset="shots = [1, 3]\nlimit_train = 3\ncategories = ['tile']"))).cells
    assert [len(cell.train) for cell in cells] == [1, 3]
    assert parts.relatives(cells[1].train) == parts.relatives(cells[0].pool)
    assert parts.relatives(cells[0].pool) == [f"train/good/{i:03}.png" for i in (0, 2, 4)]
    assert [(len(cell.dataset.validation), len(cell.test)) for cell in cells] == [(3, 6)] * 2


FEW = [
    "tile: [dataset] shots asks for 7 training images, there are 6",
    "wood: [dataset] shots asks for 7 training images, there are 6",
]


def test_too_few_images_for_the_shots_are_found_before_any_work(data, uadctl):
    toml = text(dataset="shots = [1, 7]")
    with pytest.raises(DataError) as error:
        bench(read(toml))
    assert [(p.message, p.help) for p in error.value.problems] == [
        (FEW[0], "tile can have at most 6 shots."),
        (FEW[1], "wood can have at most 6 shots."),
    ]
    assert not Path("runs").exists()
    assert FITTED == []
    assert [p.message for p in check_spec(read(toml)).errors] == FEW
    assert uadctl("bench", "s.toml", "--limit-train", 5, "--dry-run", code=2).err.splitlines()[0] == (
        "error: tile: [dataset] shots asks for 7 training images, there are 5 with limit_train = 5"
    )


def test_a_hold_out_that_takes_every_shot_is_found_by_check(data):
    toml = text(dataset="shots = [1, 4]\ncategories = ['tile']", rest="[calibration]\nholdout = 0.5")
    assert [p.message for p in check_spec(read(toml)).errors] == [
        "tile: [calibration] holdout = 0.5 of 1 shot leaves none to learn from"
    ]


# ---- running


def document(run: Path, name: str = "metrics.json") -> Any:
    return json.loads((run / name).read_text(encoding="utf-8"))


@pytest.fixture
def swept(data) -> Any:
    result = bench(read(SWEEP))
    assert not result.failed
    return result


LABELS = [f"t gain={gain},shots={shots}" for gain in (1.0, 2.5) for shots in (2, 4)]


def test_every_cell_is_fitted_once_by_category_label_and_seed(swept):
    of_category = [(gain, seed, shots) for gain in (1.0, 2.5) for shots in (2, 4) for seed in (0, 7, 3)]
    assert of_category * 2 == FITTED
    results = swept.metrics["results"]
    assert list(results) == ["tile", "wood"]
    assert list(results["tile"]) == LABELS
    assert list(results["tile"][LABELS[0]]) == ["0", "7", "3"]
    assert [u.label for u in swept.run.units()][:3] == [LABELS[0]] * 3
    unit = swept.run.unit("wood", LABELS[3], 7)
    assert document(unit.path, "model/model.json")["params"] == {
        "gain": 2.5,
        "mode": "b",
        "names": [],
        "device": "auto",
        "seed": 7,
    }
    assert document(unit.path)["counts"]["train_images"] == 4


def test_means_and_standard_deviations_are_those_of_numpy_and_statistics(swept):
    found = swept.metrics
    checked = 0
    for label in LABELS:
        for name in ("image_auroc", "image_ap", "image_f1max"):
            table = np.array(
                [[found["results"][c][label][s]["metrics"][name] for s in ("0", "7", "3")] for c in ("tile", "wood")]
            )
            assert found["means"][label][name] == pytest.approx(table.mean(), abs=1e-15)
            assert found["sds"][label][name] == pytest.approx(table.mean(axis=0).std(ddof=1), abs=1e-15)
            for category, row in zip(("tile", "wood"), table, strict=True):
                of = found["by_category"][category][label]
                assert of["means"][name] == pytest.approx(row.mean(), abs=1e-15)
                assert of["sds"][name] == statistics.stdev(row.tolist())
                assert name not in of["sd_reasons"]
                checked += of["sds"][name] > 0
    assert checked >= 12  # the seeds do differ
    assert found["means"][LABELS[0]]["miss_rate"] is None
    assert found["sd_reasons"][LABELS[0]]["miss_rate"] == "the mean is undefined"
    assert "tp" not in found["sds"][LABELS[0]]


def cells(*values: float | None) -> list[dict[str, float | None]]:
    return [{"a": value} for value in values]


def test_the_spread_is_that_of_the_means_over_categories():
    # means of the seeds 0.5, 0.6 and 0.7: by hand sqrt((0.01 + 0 + 0.01) / 2)
    assert spread([cells(0.4, 0.6), cells(0.9, 0.3), cells(0.7, 0.7)]) == ({"a": pytest.approx(0.1, abs=1e-15)}, {})
    # what one category gains the other loses
    assert spread([cells(0.4, 0.6), cells(0.6, 0.4)]) == ({"a": 0.0}, {})
    assert spread([cells(0.1)] * 49) == ({"a": 0.0}, {})
    assert spread([cells(0.2, 0.4)]) == ({"a": None}, {"a": ONE_SEED})
    assert spread([cells(0.2), cells(None)]) == ({"a": None}, {"a": "the mean is undefined"})
    assert spread([cells(0.2), [{}]]) == ({"a": None}, {"a": "the mean is undefined"})
    assert spread([[{"tp": 3, "a": 1.0}], [{"tp": 4, "a": 0.0}]])[0] == {"a": statistics.stdev([1.0, 0.0])}


def test_one_seed_has_means_and_says_why_it_has_no_spread():
    one = summarise({"tile": {"m": {"0": {"success": True, "metrics": {"a": 0.5}}}}})
    assert one == {"means": {"m": {"a": 0.5}}, "sds": {"m": {"a": None}}, "sd_reasons": {"m": {"a": ONE_SEED}}}


def test_a_single_seed_in_a_list_changes_no_unit(data):
    runs = [bench(read(text(run=run))).run.path for run in ("seed = 5", "seeds = [5]")]
    files = [sorted(p.relative_to(run) for p in (run / "units").rglob("*") if p.is_file()) for run in runs]
    assert files[0] == files[1]
    assert len(files[0]) >= 12
    for file in files[0]:
        if file.name != "timing.json":
            assert (runs[0] / file).read_bytes() == (runs[1] / file).read_bytes(), file
    assert (runs[0] / "metrics.json").read_bytes() == (runs[1] / "metrics.json").read_bytes()
    records = [document(run, "run.json") for run in runs]
    assert [(r["seed"], r["seeds"], r["data"]) for r in records] == [(5, [5], records[0]["data"])] * 2


def test_shots_change_no_fingerprint_of_the_data(data):
    prints = [
        document(bench(read(text(dataset=shots))).run.path, "run.json")["data"] for shots in ("", "shots = [1, 2]")
    ]
    assert prints[0] == prints[1]
    assert set(prints[0]) == {"tile", "wood"}


FAILS = text(run="seeds = [0, 1]", dataset="categories = ['tile']", model="[model.grid]\ngain = [1, 3]")


def test_a_failed_cell_is_a_row_and_is_done_again_on_resuming(data, uadctl, monkeypatch):
    Path("s.toml").write_text(FAILS)
    ended = uadctl("bench", "s.toml", "--json", code=1)
    assert [line for line in ended.err.splitlines() if line.startswith("error")] == [
        f"error: tile / t gain=3.0 / seed {seed}: MemoryError: no room" for seed in (0, 1)
    ]
    found = ended.json
    assert found["results"]["tile"]["t gain=3.0"]["1"] == {"success": False, "error": "MemoryError: no room"}
    assert found["means"]["t gain=3.0"] == found["sds"]["t gain=3.0"] == {}
    assert found["sds"]["t gain=1.0"]["image_auroc"] is not None
    people = uadctl("bench", "s.toml", code=1).out
    assert "tile · t gain=3.0 · seed 1" in people
    FITTED.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Tiny, "fit", _mended(Tiny.fit))
        again = uadctl("bench", "--resume", found["run"], "--json").json
    assert FITTED == [(2.0, 0, 6), (2.0, 1, 6)]  # the cells that were done are not done again
    assert again["run"] == found["run"]
    assert again["results"]["tile"]["t gain=1.0"] == found["results"]["tile"]["t gain=1.0"]
    assert again["sds"]["t gain=3.0"]["image_auroc"] is not None


def _mended(fit: Any) -> Any:
    def fits(self: Tiny, images: Any, **options: Any) -> Tiny:
        self.gain = 2.0 if self.gain == 3 else self.gain
        return fit(self, images, **options)

    return fits


def test_one_seed_that_fails_voids_the_mean_and_the_others_stay_rows(data, uadctl, monkeypatch):
    Path("s.toml").write_text(text(run="seeds = [0, 1]", dataset="categories = ['tile']"))
    fit = Tiny.fit

    def fails(self: Tiny, images: Any, **options: Any) -> Tiny:
        if self.seed == 1:
            raise MemoryError("no room")
        return fit(self, images, **options)

    monkeypatch.setattr(Tiny, "fit", fails)
    found = uadctl("bench", "s.toml", "--json", code=1).json
    assert found["means"]["t"]["image_auroc"] is None
    assert found["by_category"]["tile"]["t"]["sd_reasons"]["image_auroc"] == "the mean is undefined"
    monkeypatch.setattr("uadctl.cli.bench._MOST_SPREADS", 2)  # several tables
    out = uadctl("bench", "s.toml", code=1).out
    rows = [line.split() for line in out.splitlines() if line.startswith(" tile · seed")]
    assert rows[1][:5] == ["tile", "·", "seed", "1", "failed"]
    assert rows[0][4] != "failed"
    assert sum("failed" in row for row in rows) == 1  # in the first of the tables only
    assert sum(row[:4] == ["tile", "·", "seed", "0"] for row in rows) == 2  # in both


def test_the_tables_tell_mean_and_standard_deviation(data, uadctl):
    Path("s.toml").write_text(SWEEP)
    out = uadctl("bench", "s.toml").out
    run = next(Path("runs").iterdir())
    found = document(run)
    for name, of in (("tile", found["by_category"]["tile"][LABELS[0]]), ("mean", found)):
        means, sds = of["means"], of["sds"]
        if name == "mean":
            means, sds = means[LABELS[0]], sds[LABELS[0]]
        said = f"{means['image_auroc']:.3f} ± {sds['image_auroc']:.3f}"
        (row,) = [line for line in out.splitlines() if line.startswith(f" {name} · {LABELS[0]} ") and "±" in line]
        assert said in row
    assert sum("· seed" in line for line in out.splitlines()) == 20  # costs, a row a unit
    assert "\nand 4 more; timing.json has them all\n" in out
    page = Path(uadctl("report", run).out.strip()).read_text(encoding="utf-8")
    means, sds = found["means"][LABELS[0]]["image_auroc"], found["sds"][LABELS[0]]["image_auroc"]
    assert f"{means:.4f} ± {sds:.4f}" in page
    assert f"mean · {LABELS[0]}" in page
    assert f"tile · {LABELS[3]}, all seeds" in page
    assert "±: the sample standard deviation over 3 seeds" in page
    assert "<dt>grid</dt><dd>gain = 1.0, 2.5</dd>" in page
    assert "<dt>shots</dt><dd>2, 4</dd>" in page
    assert "<dt>seeds</dt><dd>0, 7, 3</dd>" in page
    assert f"wood · {LABELS[1]} · seed 7" in page


def test_of_many_undefined_metrics_the_first_are_told(data, uadctl):
    for name in ("tile", "wood"):
        for file in (data / name / "test" / "good").iterdir():
            file.unlink()
    Path("s.toml").write_text(text(model=f"[model.grid]\ngain = {[n / 10 for n in range(1, 14)]}"))
    out = uadctl("bench", "s.toml").out
    told = [line for line in out.splitlines() if re.match(r"(tile|wood) · t gain=", line)]
    assert len(told) == 20
    assert "\nand 32 more; metrics.json has them all\n" in out  # 26 cells, each without normal image and threshold


def test_all_missing_extras_are_said_at_once(data, uadctl, monkeypatch):
    for name in ("timm", "open_clip"):
        monkeypatch.setitem(sys.modules, name, None)
    Path("s.toml").write_text(
        text().replace('name = "tiny"\nlabel = "t"', 'name = "patchcore"')
        + "[model.grid]\nbackbone = ['timm:absent', 'openclip:absent']\ncoreset_ratio = [0.1, 0.2]\n"
    )
    assert uadctl("bench", "s.toml", "--dry-run", code=2).err == (
        "error: timm:absent needs timm, which is not installed. Install it with: pip install 'uadctl[timm]'\n"
        "error: openclip:absent needs open_clip, which is not installed. Install it with: pip install 'uadctl[clip]'\n"
    )


def test_a_dry_run_lists_every_cell(data, uadctl):
    Path("s.toml").write_text(SWEEP)
    found = uadctl("bench", "s.toml", "--dry-run", "--json").json
    assert len(found["units"]) == 24
    assert [(u["label"], u["seed"], u["train"]) for u in found["units"][2:4]] == [(LABELS[0], 3, 2), (LABELS[1], 0, 4)]
    assert list(found["models"]) == LABELS
    assert found["models"][LABELS[2]]["params"]["gain"] == 2.5
    people = uadctl("fit", "s.toml", "--dry-run").out.splitlines()
    assert people[-4:] == [
        "t: vision_tiny(mode = b, names = ())",
        "  grid: gain = [1.0, 2.5]",
        "  weights: none",
        "24 units; nothing was run.",
    ]


def test_features_are_computed_once_for_all_variants_and_seeds(one_category, monkeypatch):
    from uadctl.features import cache

    made: list[cache.FeatureCache] = []

    class Watched(cache.FeatureCache):
        def __init__(self, *, max_bytes: int) -> None:
            super().__init__(max_bytes=max_bytes)
            made.append(self)

    monkeypatch.setattr(cache, "FeatureCache", Watched)
    toml = text(run="seeds = [0, 1]", model="[model.grid]\nn_neighbors = [1, 3]").replace("tiny", "patchcore")
    result = bench(read(toml))
    assert not result.failed
    batches = 2  # one of training images, one of test images
    assert [(c.hits, c.misses) for c in made] == [(3 * batches, batches)]
    shots = text(run="seeds = [0, 2]", dataset="shots = [2]").replace("tiny", "patchcore")
    assert not bench(read(shots)).failed
    assert [(c.hits, c.misses) for c in made[1:]] == [(1, 3)]  # each learns from others, both test on the same


# ---- one of many


def test_of_many_units_the_choice_is_said_in_a_few_lines(swept, uadctl, tmp_path):
    run = swept.run.path
    ended = uadctl("score", run, tmp_path / "data/tile/test", code=2)
    assert ended.err == (
        f"error: {run}: this run has 24 finished units; choose one\n"
        "  --category, one of 2: tile, wood\n"
        f"  --label, one of 4: {', '.join(repr(label) for label in LABELS)}\n"
        "  --seed, one of 3: 0, 3, 7\n"
    )
    lines = uadctl("score", run, tmp_path / "data/tile/test", "--category", "tile", "--label", LABELS[1], "--seed", 7)
    assert len(lines.out.splitlines()) == 6
    with pytest.raises(RunError) as error:
        swept.run.choose(category="tile", label=LABELS[0])
    assert error.value.help is not None
    assert len(error.value.help.splitlines()) == 3


def test_more_seeds_than_fit_on_a_line_are_counted(tmp_path):
    run = RunFolder(tmp_path)
    for seed in range(25):
        unit = run.unit("tile", "t", seed)
        unit.path.mkdir(parents=True)
        unit.set_status("done")
    with pytest.raises(RunError) as error:
        run.choose()
    assert error.value.help == f"--seed, one of 25: {', '.join(map(str, range(20)))} and 5 more"


def test_images_that_no_chosen_unit_learned_may_set_its_threshold(data, uadctl):
    Path("s.toml").write_text(text(run="seeds = [0, 2]", dataset="shots = 2\ncategories = ['tile']"))
    run = RunFolder.open(Path(uadctl("bench", "s.toml", "--json").json["run"]))
    (first, second) = [cell.train for cell in make_plan(run.spec).cells]
    only_second = [s.path for s in second if s not in first]
    assert only_second
    (done,) = calibrate(run, seed=0, good=only_second)
    assert done.new.source == "given"
    with pytest.raises(DataError) as error:
        calibrate(run, seed=2, good=only_second)
    assert error.value.problems[0].message.startswith(f"{only_second[0]}: is a training image of this run: ")
    with pytest.raises(DataError):
        calibrate(run, good=only_second)


def test_a_submission_is_made_by_one_model(tmp_path):
    (tmp_path / "data").mkdir()
    spec = read(text(run="seeds = [3, 4]", name="mvtec_ad2"))
    with pytest.raises(SpecError) as error:
        _check_submission(Plan(spec, ()), "out")
    assert parts.message(error) == (
        "--submission out: holds the maps of one model; the spec has 2 seeds",
        "Choose one: --seed 3",
    )


def test_a_split_is_drawn_with_one_seed(data, uadctl):
    Path("s.toml").write_text(text(run="seeds = [3, 4]"))
    ended = uadctl("datasets", "split", "s.toml", "--out", "m.csv", code=2)
    assert ended.err == "error: s.toml: has 2 seeds, and a split is drawn with one\n  Give --seed N.\n"
    assert uadctl("datasets", "split", "s.toml", "--out", "m.csv", "--seed", 4, "--json").json["seed"] == 4


def test_a_gate_on_a_category_holds_for_every_seed_and_one_on_the_mean_for_the_mean(data, uadctl):
    Path("s.toml").write_text(text(run="seeds = [0, 7, 3]"))
    found = uadctl("bench", "s.toml", "--json").json
    scores = {s: c["metrics"]["image_auroc"] for s, c in found["results"]["tile"]["t"].items()}
    worst = min(scores, key=lambda s: scores[s])
    assert sorted(scores.values())[0] < sorted(scores.values())[1]
    limit = sorted(scores.values())[1]
    mean = found["means"]["t"]["image_auroc"]
    limits = [
        f"gate.category.tile.image_auroc.min={limit!r}",
        f"gate.image_auroc.min={mean!r}",
        "gate.image_ap.min=1.01",
    ]
    ended = uadctl("bench", "s.toml", *[word for each in limits for word in ("--set", each)], "--json", code=3)
    assert [(b["category"], b["seed"], b["metric"]) for b in ended.json["gate"]["broken"]] == [
        (None, None, "image_ap"),
        ("tile", int(worst), "image_auroc"),
    ]
    assert ended.json["gate"]["limits"] == 5
    errors = ended.err.splitlines()
    assert errors[-2].startswith("error: gate: mean / t: image_ap is ")
    assert errors[-2].endswith("the least allowed is 1.01 (mean of 2 categories and 3 seeds)")
    assert errors[-1].startswith(f"error: gate: tile / t / seed {worst}: image_auroc is ")


def test_fit_keeps_a_model_of_every_seed(data, uadctl):
    Path("s.toml").write_text(text(run="seeds = [0, 1]", dataset="categories = ['tile']"))
    out = uadctl("fit", "s.toml").out.splitlines()
    assert [line.partition(":")[2].partition(": no")[0] for line in out[:2]] == [
        " tile · t · seed 0",
        " tile · t · seed 1",
    ]
    (run,) = Path("runs").iterdir()
    assert [document(run, f"units/tile/t/{s}/model/model.json")["params"]["seed"] for s in (0, 1)] == [0, 1]
