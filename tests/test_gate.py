"""`[gate]`: limits on metrics, from the spec to the exit code, gate.json and JUnit XML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import parts
import pytest

from uadctl.errors import GateFailed, RunError, SpecError
from uadctl.metrics import (
    COUNTED,
    GROUP_METRICS,
    IMAGE_METRICS,
    LOWER_IS_BETTER,
    THRESHOLD_METRICS,
    aupro_name,
    pixel_metric_names,
)
from uadctl.report.junit import write_junit
from uadctl.runs.baseline import Baseline, Measured
from uadctl.runs.gate import Verdict, check_categories, compare, compare_models, evaluate
from uadctl.spec import (
    PROTOCOLS,
    CategoryGateTable,
    GateTable,
    Overrides,
    RunSpec,
    read_spec,
    spec_hash,
    to_dict,
    to_toml,
)
from uadctl.spec.grammar import COMPARABLE, RegressionTable
from uadctl.spec.reading import _aupro_name

SPEC = '[dataset]\nname = "demo"\n[model]\nname = "patchcore"\n'


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_text(text: str, **overrides) -> RunSpec:
        Path("s.toml").write_text(SPEC + text, encoding="utf-8")
        return read_spec("s.toml", Overrides(**overrides)).spec

    return read_text


@pytest.fixture
def gate(read):
    """The gate that these lines of a spec mean."""

    def read_gate(text: str) -> GateTable:
        found = read(text).gate
        assert found is not None
        return found

    return read_gate


@pytest.fixture
def problems(read):
    def read_problems(text: str, **overrides) -> list[tuple[str, str | None]]:
        with pytest.raises(SpecError) as error:
            read(text, **overrides)
        return [(problem.message, problem.help) for problem in error.value.problems]

    return read_problems


# ---- the table


def test_limits_have_the_names_of_the_metrics():
    of_protocols = {name for protocol in PROTOCOLS.values() for name in protocol.own}
    assert len(of_protocols) >= 8
    means = {*IMAGE_METRICS, *pixel_metric_names(fpr_limits=()), *THRESHOLD_METRICS} - set(COUNTED)
    means |= of_protocols | set(GROUP_METRICS)
    assert set(GateTable.__struct_fields__) - {"aupro", "category", "regression"} == means
    assert set(COMPARABLE) == means
    assert means > LOWER_IS_BETTER
    assert set(CategoryGateTable.__struct_fields__) - {"aupro"} == means | set(COUNTED)


@pytest.mark.parametrize("limit", [0.3, 0.05, 0.125, 0.001, 0.1, 1.0, 1e-05, 0.99])
def test_aupro_is_called_the_same_in_a_spec_and_in_the_metrics(limit):
    assert _aupro_name(limit) == aupro_name(limit)


TEXT = """\
[metrics]
fpr_limits = [0.3, 0.05]
[gate]
aupro_05.min = 0.5
image_auroc = { min = 0.95, max = 1 }
miss_rate = { max = 0.1 }
[gate.category."bottle 2.0"]
fn = { max = 3 }
[gate.category.cable]
aupro_30 = { min = -1 }
"""


def test_a_gate_is_written_and_reads_back_equal(read):
    spec = read(TEXT)
    assert to_toml(spec).partition("[gate]")[1:] == (
        "[gate]",
        """
image_auroc = {min = 0.95, max = 1.0}
aupro_05 = {min = 0.5}
miss_rate = {max = 0.1}

[gate.category."bottle 2.0"]
fn = {max = 3.0}

[gate.category.cable]
aupro_30 = {min = -1.0}
""",
    )
    again = read_spec(_write("again.toml", to_toml(spec))).spec
    assert again.gate == spec.gate
    assert to_toml(again) == to_toml(spec)
    assert to_dict(spec)["gate"]["category"]["cable"] == {"aupro_30": {"min": -1.0}}
    only = read("[gate.category.a]\ntp.min = 1\n")
    assert to_toml(only).endswith("\n\n[gate.category.a]\ntp = {min = 1.0}\n")
    assert read_spec(_write("only.toml", to_toml(only))).spec.gate == only.gate


def _write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_the_hash_names_the_gate_and_has_not_changed_without_one(read):
    assert read("").gate is None
    assert "gate" not in to_dict(read(""))
    assert spec_hash(read(TEXT)) != spec_hash(read(TEXT.replace("0.95", "0.94")))


TAKES = (
    "aupro_30, category, classf1, false_alarm_rate, group_ap, group_auroc, group_f1max, group_false_alarm_rate, "
    "group_miss_rate, image_ap, image_auroc, image_auroc_logical, image_auroc_pooled, image_auroc_structural, "
    "image_f1max, miss_rate, pixel_ap, pixel_auroc, pixel_f1max, precision, regression, segf1, spro_05, "
    "spro_05_logical, spro_05_structural"
)
OF_A_CATEGORY = ", ".join(sorted({*TAKES.split(", "), "tp", "fp", "fn", "tn"} - {"category", "regression"}))
COMPARED = ", ".join(sorted({*TAKES.split(", ")} - {"category", "regression"}))


def test_every_problem_of_a_gate_is_reported_at_its_line(problems):
    text = """\
[gate]
image_aurok = { min = 0.95 }
image_auroc = { min = 0.95, max = 0.9 }
image_ap = {}
image_f1max = 0.3
tp = { min = 1 }
aupro_05 = { min = 1 }
aupro_30 = { min = 1, mx = 3 }
aupro = { min = 2 }
pixel_ap.min = "x"
precision.max = nan
[gate.category.cable]
image_aurok.min = 1
[gate.category]
"a/b" = {tp = {min = 1}}
d = {}
c = 3
"""
    assert problems(text) == [
        ("s.toml:6: [gate] image_aurok is not a key of [gate]; did you mean image_auroc?", f"[gate] takes: {TAKES}"),
        ("s.toml:7: [gate.image_auroc] min = 0.95: larger than max = 0.9", None),
        ("s.toml:8: [gate.image_ap] min is missing, and so is max", "Give { min = X }, { max = X } or both."),
        ("s.toml:9: [gate] image_f1max = 0.3: expected { min = X }, { max = X } or both, found a number", None),
        (
            "s.toml:10: [gate] tp is not a key of [gate]; it counts images and has no mean: limit it in "
            "[gate.category.NAME]",
            f"[gate] takes: {TAKES}",
        ),
        (
            "s.toml:11: [gate] aupro_05 is not computed; did you mean aupro_30?",
            "[metrics] fpr_limits = [0.3] gives: aupro_30",
        ),
        (
            "s.toml:12: [gate.aupro_30] mx is not a key of [gate.aupro_30]; did you mean max?",
            "[gate.aupro_30] takes: max, min",
        ),
        ("s.toml:13: [gate] aupro is not a key of [gate]; did you mean aupro_30?", f"[gate] takes: {TAKES}"),
        ('s.toml:14: [gate.pixel_ap] min = "x": expected a number, found a string', None),
        (
            "s.toml:15: [gate.precision] max = nan: expected a number, nan, inf and numbers beyond 1e308 are none",
            None,
        ),
        (
            "s.toml:17: [gate.category.cable] image_aurok is not a key of [gate.category.cable]; did you mean "
            "image_auroc?",
            f"[gate.category.cable] takes: {OF_A_CATEGORY}",
        ),
        (
            's.toml:19: [gate.category] "a/b": expected the name of a category without /, \\, .. or control characters',
            None,
        ),
        ("s.toml:20: [gate.category.d] has no limit", "Example: image_auroc = { min = 0.95 }"),
        ("s.toml:21: [gate.category] c = 3: expected a table, found an integer", None),
    ]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("[gate]\n", {}, "s.toml:5: [gate] has no limit"),
        ("[gate.category]\n", {}, "s.toml:5: [gate] has no limit"),
        ("[[gate]]\n", {}, "s.toml:5: gate = [{}]: expected a table [gate], found a list"),
        (
            "[metrics]\npixel = false\n[gate]\npixel_auroc.min = 0.5\n",
            {},
            "s.toml:8: [gate] pixel_auroc is not computed: [metrics] pixel = false",
        ),
        (
            "[gate.category.a]\naupro_30.min = 0.5\n",
            {"pixel": False},
            "s.toml:6: [gate.category.a] aupro_30 is not computed: [metrics] pixel = false",
        ),
        (
            "",
            {"set": ("gate.imge_ap.min=1",)},
            "--set gate.imge_ap.min=1: imge_ap is not a key of [gate]; did you mean image_ap?",
        ),
        ("", {"set": ("gate.image_ap.min=x",)}, "--set gate.image_ap.min=x: expected a number, found a string"),
        ("", {"set": ("gate.image_ap={}",)}, "--set gate.image_ap={}: min is missing, and so is max"),
        ("[run]\ncategory = 1\n", {}, "s.toml:6: [run] category is not a key of [run]"),
    ],
)
def test_one_problem_one_message(problems, text, overrides, message):
    assert [m for m, _ in problems(text, **overrides)] == [message]


def test_a_gate_on_the_command_line(read):
    spec = read("", set=("gate.image_auroc.min=1.01", 'gate.category."a b".fn.max=0'))
    assert to_dict(spec)["gate"] == {"image_auroc": {"min": 1.01}, "category": {"a b": {"fn": {"max": 0.0}}}}


# ---- the verdict


def cell(**metrics: float | None) -> dict[str, Any]:
    counts = {"images": 83, "normal_images": 20, "defect_images": 63, "alarms": 60, "pixel_images": 83, "regions": 70}
    reasons = {name: "there is no defect image (20 normal)" for name, value in metrics.items() if value is None}
    return {"success": True, "metrics": metrics, "reasons": reasons, "counts": counts}


def measured(means: dict[str, Any], **categories: dict[str, Any]) -> dict[str, Any]:
    """A metrics.json with one label and one seed."""
    results = {name: {"m": {"0": found}} for name, found in categories.items()}
    return {"results": results, "means": {"m": means}}


FAILED = {"success": False, "error": "MemoryError: no room\nfor the bank"}


@pytest.mark.parametrize(
    ("limits", "value", "reason"),
    [
        ("image_auroc.min = 0.95", 0.95, None),
        ("image_auroc.max = 0.95", 0.95, None),
        ("image_auroc = {min = 0.9, max = 0.95}", 0.92, None),
        (
            "image_auroc.min = 0.95",
            0.94118,
            "image_auroc is 0.9412, the least allowed is 0.95 (20 normal and 63 defect images)",
        ),
        (
            "image_auroc.min = 0.95",
            0.9499999999,
            "image_auroc is 0.9499999999, the least allowed is 0.95 (20 normal and 63 defect images)",
        ),
        (
            "image_auroc.min = 0.9500000001",
            0.95,
            "image_auroc is 0.95, the least allowed is 0.9500000001 (20 normal and 63 defect images)",
        ),
        ("miss_rate.max = 0.1", 0.25, "miss_rate is 0.25, the most allowed is 0.1 (63 defect images)"),
        ("false_alarm_rate.max = 0", 0.05, "false_alarm_rate is 0.05, the most allowed is 0 (20 normal images)"),
        ("precision.min = 1", 0.5, "precision is 0.5, the least allowed is 1 (60 alarms)"),
        ("fn.max = 3", 12, "fn is 12, the most allowed is 3 (63 defect images)"),
        ("fp.max = 3", 4, "fp is 4, the most allowed is 3 (20 normal images)"),
        ("tp.min = 12345678", 12345677, "tp is 12345677, the least allowed is 12345678 (63 defect images)"),
        ("aupro_30.min = 0.9", 0.8, "aupro_30 is 0.8, the least allowed is 0.9 (83 images and 70 defect regions)"),
        (
            "image_auroc.min = -1",
            None,
            "image_auroc is null, which no limit allows: there is no defect image (20 normal)",
        ),
    ],
)
def test_a_limit_of_a_category(gate, limits, value, reason):
    name = limits.partition(".")[0].partition(" ")[0]
    (found,) = evaluate(gate(f"[gate.category.bottle]\n{limits}\n"), measured({}, bottle=cell(**{name: value}))).limits
    assert (found.where, found.category, found.label, found.seed) == ("bottle / m", "bottle", "m", 0)
    assert (found.metric, found.value) == (name, value)
    assert found.reason == reason


LOGICAL = '[metrics]\nprotocol = "mvtec_loco"\n[gate.category.bottle]\nspro_05_logical.min = 0.5\n'
RESTS_ON = {
    "image_auroc": "20 normal and 63 defect images",
    "image_auroc_pooled": "20 normal and 63 defect images",
    "image_auroc_logical": "20 normal and 40 logical images",
    "image_auroc_structural": "20 normal and 23 structural images",
    "spro_05": "20 normal, 40 logical images, 23 structural images, 55 logical defects and 31 structural defects",
    "spro_05_logical": "20 normal, 40 logical images and 55 logical defects",
    "spro_05_structural": "20 normal, 23 structural images and 31 structural defects",
    "segf1": "83 images and 70 defect regions",
    "classf1": "20 normal and 63 defect images",
    "group_auroc": "4 normal and 9 defect parts",
    "group_miss_rate": "9 defect parts",
    "group_false_alarm_rate": "4 normal parts",
}


def test_the_numbers_of_a_protocol_are_those_that_its_metric_rests_on(read):
    assert {name for protocol in PROTOCOLS.values() for name in protocol.own} < set(RESTS_ON)
    found = cell(**dict.fromkeys(RESTS_ON, 0.25))
    found["counts"] |= {"logical_images": 40, "structural_images": 23, "logical_defects": 55, "structural_defects": 31}
    found["counts"] |= {"groups": 13, "normal_groups": 4, "defect_groups": 9}
    for name, said in RESTS_ON.items():
        protocol = next((p.name for p in PROTOCOLS.values() if name in p.own), "mvtec_ad")
        text = f'[metrics]\nprotocol = "{protocol}"\n[gate.category.bottle]\n{name}.min = 0.5\n'
        (limit,) = evaluate(read(text).gate, measured({}, bottle=found)).limits
        assert limit.reason == f"{name} is 0.25, the least allowed is 0.5 ({said})"
    alike = {"logical_images", "structural_images", "logical_defects", "structural_defects"}
    together = {name: n for name, n in found["counts"].items() if name not in alike} | {"spro_defects": 86}
    text = '[metrics]\nprotocol = "autovi"\n[gate.category.bottle]\nspro_05.min = 0.5\n'
    (limit,) = evaluate(read(text).gate, measured({}, bottle=found | {"counts": together})).limits
    assert limit.reason == "spro_05 is 0.25, the least allowed is 0.5 (20 normal, 63 defect images and 86 defects)"
    found["counts"].pop("logical_defects")  # as in a run of before it was counted
    (limit,) = evaluate(read(LOGICAL).gate, measured({}, bottle=found)).limits
    assert limit.reason == "spro_05_logical is 0.25, the least allowed is 0.5 (20 normal and 40 logical images)"
    found["counts"].clear()
    (limit,) = evaluate(read(LOGICAL).gate, measured({}, bottle=found)).limits
    assert limit.reason == "spro_05_logical is 0.25, the least allowed is 0.5"


def test_a_limit_on_parts_where_no_image_has_a_group(gate):
    (found,) = evaluate(gate("[gate.category.a]\ngroup_auroc.min = 0\n"), measured({}, a=cell())).broken
    assert found.reason == "group_auroc is null, which no limit allows: no image has a group"
    (found,) = evaluate(gate("[gate]\ngroup_auroc.min = 0\n"), measured({}, a=cell(), b=cell())).broken
    assert found.reason == (
        "group_auroc is null, which no limit allows: a: no image has a group (and 1 more of 2 units)"
    )
    with_parts = cell()
    with_parts["counts"]["groups"] = 2
    (found,) = evaluate(gate("[gate.category.a]\ngroup_auroc.min = 0\n"), measured({}, a=with_parts)).broken
    assert found.reason == "group_auroc is null, which no limit allows: it was not measured"


def test_means_are_held_for_every_label(gate):
    found = {"results": {"a": {"x": {"0": cell()}, "y": {"0": cell()}}}, "means": {}}
    found["means"] = {"x": {"image_ap": 0.5, "image_auroc": 1.0}, "y": {"image_ap": 0.7, "image_auroc": 0.2}}
    verdict = evaluate(gate("[gate]\nimage_auroc.min = 0.5\nimage_ap.min = 0.6\n"), found)
    assert [(c.label, c.metric, c.category, c.seed, c.reason is None) for c in verdict.limits] == [
        ("x", "image_auroc", None, None, True),
        ("x", "image_ap", None, None, False),
        ("y", "image_auroc", None, None, False),
        ("y", "image_ap", None, None, True),
    ]
    assert str(verdict.error()) == (
        "gate: mean / x: image_ap is 0.5, the least allowed is 0.6 (mean of 1 category)\n"
        "gate: mean / y: image_auroc is 0.2, the least allowed is 0.5 (mean of 1 category)"
    )
    assert isinstance(verdict.error(), GateFailed)
    assert verdict.error().exit_code == 3


@pytest.mark.parametrize(
    ("categories", "why"),
    [
        ({"a": cell(image_ap=0.5), "b": cell(image_ap=None)}, "b: there is no defect image (20 normal)"),
        (
            {"a": cell(image_ap=None), "b": cell(image_ap=None), "c": cell(image_ap=1.0)},
            "a: there is no defect image (20 normal) (and 1 more of 3 units)",
        ),
        ({"a": cell(image_ap=0.5), "b": FAILED}, "b: the unit failed: MemoryError: no room"),
        ({"a": cell()}, "a: it was not measured"),
    ],
)
def test_a_mean_that_is_null_breaks_its_limit_and_says_why(gate, categories, why):
    verdict = evaluate(gate("[gate]\nimage_ap.min = 0.1\n"), measured({"image_ap": None}, **categories))
    assert [c.reason for c in verdict.broken] == [f"image_ap is null, which no limit allows: {why}"]
    assert evaluate(gate("[gate]\nimage_ap.min = 0.1\n"), measured({}, **categories)) == verdict


def test_a_failed_unit_breaks_the_limits_of_its_category(gate):
    (found,) = evaluate(gate("[gate.category.a]\ntp.min = 0\n"), measured({}, a=FAILED)).broken
    assert found.reason == "tp is null, which no limit allows: the unit failed: MemoryError: no room"
    (found,) = evaluate(gate("[gate.category.b]\ntp.min = 0\n"), measured({}, a=FAILED)).broken
    assert found.reason == "tp is null, which no limit allows: there is no such unit"


# Of a run that has one model and is held against no baseline.
ALONE = {"baseline": None, "accepted": False, "regressions": [], "models": []}


def test_the_document_holds_what_is_broken(gate):
    text = "[gate]\nimage_ap.min = 0.5\n[gate.category.a]\nimage_ap = {min = 0.9, max = 1}\n"
    verdict = evaluate(gate(text), measured({"image_ap": 0.6}, a=cell(image_ap=0.6)))
    assert verdict.document() == {
        "passed": False,
        "limits": 2,
        "broken": [
            {
                "category": "a",
                "label": "m",
                "seed": 0,
                "metric": "image_ap",
                "value": 0.6,
                "min": 0.9,
                "max": 1.0,
                "reason": "image_ap is 0.6, the least allowed is 0.9 (20 normal and 63 defect images)",
            }
        ],
        **ALONE,
    }


def test_categories_must_be_those_of_the_run(gate):
    limits = gate("[gate.category.tile]\ntp.min = 1\n[gate.category.'a b']\ntp.min = 1\n")
    with pytest.raises(SpecError) as error:
        check_categories(limits, ["tyle", "zinc"])
    assert [(p.message, p.help) for p in error.value.problems] == [
        ("[gate.category] tile is no category of this run; did you mean tyle?", "Its categories: tyle, zinc"),
        ('[gate.category] "a b" is no category of this run', "Its categories: tyle, zinc"),
    ]
    check_categories(limits, ["tile", "a b"])
    check_categories(None, ["tile"])


# ---- against a baseline


REGRESSION = """\
[metrics]
fpr_limits = [0.3, 0.05]
[gate.regression]
metrics = ["image_auroc", "aupro_05"]
tolerance = 0.01
on = "means"

[gate.regression.tolerances]
aupro_05 = 0.02
"""


def test_a_regression_table_is_written_and_reads_back_equal(read):
    spec = read(REGRESSION)
    assert spec.gate is not None
    table = spec.gate.regression
    assert table is not None
    assert [table.tolerance_of(name) for name in ("image_auroc", "aupro_05")] == [0.01, 0.02]
    assert spec.gate.limits() == {}
    text = to_toml(spec)
    assert text.endswith("\n[gate.regression]" + REGRESSION.partition("[gate.regression]")[2])
    assert read_spec(_write("again.toml", text)).spec.gate == spec.gate
    filled = read("[gate.regression]\n").gate
    assert filled is not None
    assert filled.regression == RegressionTable(metrics=None, tolerance=0.002, tolerances=None, on="both")
    assert spec_hash(read("[gate.regression]\n")) != spec_hash(read(""))
    assert read("", set=("gate.regression.metrics='image_ap'",)).gate.regression.metrics == ("image_ap",)


@pytest.mark.parametrize(
    ("text", "message", "help"),
    [
        (
            'metrics = ["image_ap", "tp"]',
            f's.toml:6: [gate.regression] metrics[1] = "tp": no such metric. Choose from: {COMPARED}',
            None,
        ),
        (
            "tolerances = { image_aurok = 0.1 }",
            "s.toml:6: [gate.regression] tolerances: image_aurok: no such metric; did you mean image_auroc? "
            f"Choose from: {COMPARED}",
            None,
        ),
        (
            'metrics = ["aupro_05"]',
            "s.toml:6: [gate.regression.metrics] aupro_05 is not computed; did you mean aupro_30?",
            "[metrics] fpr_limits = [0.3] gives: aupro_30",
        ),
        (
            "tolerances = { spro_05 = 0.1 }",
            "s.toml:6: [gate.regression.tolerances] spro_05 is not computed: it belongs to the protocol mvtec_loco or "
            "autovi",
            '[metrics] protocol = "mvtec_ad"',
        ),
        ("tolerance = -0.1", "s.toml:6: [gate.regression] tolerance = -0.1: expected a number >= 0 and <= 1", None),
        (
            'metrics = ["image_ap", "pixel_ap"]\ntolerances = { pixel_ap = 0.1, image_auroc = 0.01 }',
            "s.toml:7: [gate.regression] tolerances: image_auroc is not among metrics, so it is not compared",
            "Those that are: image_ap, pixel_ap",
        ),
        (
            'metrics = ["image_ap", "image_ap"]\ntolerances = { image_ap = 0.1 }',
            's.toml:6: [gate.regression] metrics = ["image_ap", "image_ap"]: image_ap is given twice',
            None,
        ),
        (
            'metrics = ["image_ap", "image_ap"]',
            's.toml:6: [gate.regression] metrics = ["image_ap", "image_ap"]: image_ap is given twice',
            None,
        ),
    ],
)
def test_what_a_regression_table_does_not_take(problems, text, message, help):
    assert problems(f"[gate.regression]\n{text}\n") == [(message, help)]


# The replicates of a metric: round its value, by so much.
SPREAD = np.linspace(-0.01, 0.01, 201)


def run_of(
    by_category: dict[str, float | None],
    *,
    metric: str = "image_auroc",
    labels: tuple[str, ...] = ("m",),
    **changes: Any,
) -> Baseline:
    """What a run measured of one metric, with every label the same."""
    results: dict[str, dict[str, Measured]] = {}
    for category, value in by_category.items():
        replicates = {} if value is None else {metric: changes.get("replicates", value + SPREAD)}
        one = Measured(changes.get("images", "i"), "d", (0,), {metric: value}, replicates)
        results[category] = dict.fromkeys(labels, one)
    return Baseline("0", "0", "r", len(SPREAD), "mvtec_ad", (0.3,), results)


def of_run(run: Baseline) -> dict[str, Any]:
    """The metrics.json of what `run_of` made."""
    found: dict[str, Any] = {"results": {}, "means": {}}
    for category, labels in run.results.items():
        for label, one in labels.items():
            cells = found["results"].setdefault(category, {})
            cells[label] = {"0": cell(**one.metrics)}
            found["means"][label] = {}
    return found


def held(old: Baseline, new: Baseline, *, table: RegressionTable | None = None) -> list[Any]:
    return list(compare(table, old, new, of_run(new)))


def test_a_metric_is_worse_if_the_whole_interval_lies_beyond_the_tolerance():
    for loss, tolerance, is_worse in (
        (0.0019, 0.002, False),  # an interval of no width within the tolerance
        (0.0021, 0.002, True),
        (0.0021, 0.0021000001, False),
        (-0.3, 0.002, False),
        (0.0, 0.0, False),
        (1e-6, 0.0, True),
    ):
        table = RegressionTable(tolerance=tolerance)
        (found,) = held(run_of({"a": 0.9}), run_of({"a": 0.9 - loss}), table=table)
        assert (found.reason is not None) is is_worse, loss
        assert found.interval == pytest.approx((-loss, -loss), abs=1e-12)
        assert found.difference == pytest.approx(-loss)
    (found,) = held(run_of({"a": 0.9}), run_of({"a": 0.85}))
    assert found.reason == (
        "image_auroc fell by 0.0500 (from 0.9000 to 0.8500; 95 % of resamples -0.0500 to -0.0500, tolerance 0.002)"
    )
    assert found.where == "a / m"
    assert found.limit == "image_auroc no worse than the baseline (tolerance 0.002)"


def test_what_the_draw_of_the_images_explains_is_no_regression():
    wide = 0.8 + 8 * SPREAD[::-1]  # against 0.9 + SPREAD: from -0.19 to -0.01
    (found,) = held(run_of({"a": 0.9}), run_of({"a": 0.8}, replicates=wide))
    assert found.interval == pytest.approx((-0.1855, -0.0145))
    assert found.reason is not None
    (found,) = held(run_of({"a": 0.9}), run_of({"a": 0.8}, replicates=wide), table=RegressionTable(tolerance=0.015))
    assert found.reason is None
    (found,) = held(run_of({"a": 0.9}), run_of({"a": 0.8}, replicates=0.8 + 12 * SPREAD[::-1]))
    assert found.interval is not None
    assert found.interval[1] > 0
    assert found.reason is None


@pytest.mark.parametrize("metric", sorted(LOWER_IS_BETTER))
def test_less_is_better_of_rates_of_errors(metric):
    (found,) = held(run_of({"a": 0.1}, metric=metric), run_of({"a": 0.3}, metric=metric))
    assert found.reason == (
        f"{metric} rose by 0.2000 (from 0.1000 to 0.3000; 95 % of resamples 0.2000 to 0.2000, tolerance 0.002)"
    )
    assert held(run_of({"a": 0.3}, metric=metric), run_of({"a": 0.1}, metric=metric))[0].reason is None
    (found,) = held(run_of({"a": 0.3}, metric="precision"), run_of({"a": 0.1}, metric="precision"))
    assert found.reason is not None


def test_what_is_null_now_is_a_regression_and_what_was_null_is_not_compared():
    (found,) = held(run_of({"a": 0.9}), run_of({"a": None}))
    assert (found.value, found.difference, found.interval) == (None, None, None)
    assert found.reason == (
        "image_auroc is null and cannot be compared with 0.9000 in the baseline: there is no defect image (20 normal)"
    )
    assert held(run_of({"a": None}), run_of({"a": 0.9})) == []
    absent = of_run(run_of({"a": 0.9}))
    absent["results"]["a"]["m"] = {"0": FAILED}
    none = Baseline("0", "0", "r", 201, "mvtec_ad", (0.3,), {})
    (found,) = compare(None, run_of({"a": 0.9}), none, absent)
    assert found.reason == (
        "image_auroc is null and cannot be compared with 0.9000 in the baseline: the unit failed: MemoryError: no room"
    )


def test_other_images_cannot_be_compared():
    (found,) = held(run_of({"a": 0.9}), run_of({"a": 0.9}, images="j"))
    assert found.reason == (
        "image_auroc is 0.9000 and cannot be compared with 0.9000 in the baseline: other images were left out of the "
        "results than in the baseline"
    )


def test_the_resamples_that_both_have_are_compared_and_too_few_say_nothing():
    longer = np.concatenate([0.9 + SPREAD, np.full(50, 5.0)])
    (found,) = held(run_of({"a": 0.9}, replicates=longer), run_of({"a": 0.9}))
    assert found.interval == (0.0, 0.0)
    undefined = np.where(np.arange(201) < 100, 0.9, np.nan)
    (found,) = held(run_of({"a": 0.9}), run_of({"a": 0.1}, replicates=undefined))
    assert (found.interval, found.reason) == (None, None)
    assert found.difference == pytest.approx(-0.8)


def test_only_the_metrics_asked_for_are_compared():
    table = RegressionTable(metrics=("image_ap",))
    assert held(run_of({"a": 0.9}), run_of({"a": 0.1}), table=table) == []
    assert held(run_of({"a": 0.9}, metric="tp"), run_of({"a": 0.1}, metric="tp")) == []
    assert len(held(run_of({"a": 0.9}, metric="aupro_125"), run_of({"a": 0.1}, metric="aupro_125"))) == 1


@pytest.mark.parametrize("table", [None, RegressionTable(metrics=("pixel_ap",))])
def test_what_is_not_measured_any_more_is_a_regression(table):
    (found,) = held(run_of({"a": 0.9}, metric="pixel_ap"), run_of({"a": 0.9}), table=table)
    assert found.reason == "pixel_ap is null and cannot be compared with 0.9000 in the baseline: it was not measured"


def test_what_has_no_resamples_is_a_regression():
    new = run_of({"a": 0.9})
    new.results["a"]["m"].replicates.clear()
    (found,) = held(run_of({"a": 0.9}), new)
    assert found.reason == (
        "image_auroc is 0.9000 and cannot be compared with 0.9000 in the baseline: it has no resamples"
    )


def test_a_model_that_has_nothing_to_compare_is_a_regression_with_its_reason():
    old, new = run_of({"a": 0.9, "b": 0.9}), run_of({"a": 0.9, "b": 0.8})
    of_seeds = of_run(new)
    of_seeds["results"]["b"]["m"]["1"] = cell(image_auroc=0.6)
    del new.results["b"]
    new.left_out["b", "m"] = "its seeds were measured on different images"
    found = list(compare(None, old, new, of_seeds))
    why = "cannot be compared with 0.9000 in the baseline:"
    assert [(one.category, one.reason) for one in found] == [
        ("a", None),
        ("b", f"image_auroc is 0.7000 and {why} its seeds were measured on different images"),
        (None, f"image_auroc is 0.8000 and {why} b: its seeds were measured on different images"),
    ]
    of_seeds["results"]["b"]["m"]["1"] = cell(image_auroc=None)
    found = list(compare(None, old, new, of_seeds))
    assert found[1].reason == f"image_auroc is null and {why} there is no defect image (20 normal)"


def test_a_mean_is_of_the_categories_that_are_compared():
    old, new = run_of({"a": 0.9, "b": 0.8, "d": 0.1}), run_of({"a": 0.9, "b": 0.7, "c": 0.1})
    found = held(old, new)
    assert [(one.category, one.reason is None) for one in found] == [("a", True), ("b", False), (None, False)]
    assert (found[2].baseline, found[2].value) == pytest.approx((0.85, 0.8))
    assert found[2].interval == pytest.approx((-0.05, -0.05))
    assert found[2].reason == (
        "image_auroc fell by 0.0500 (from 0.8500 to 0.8000; 95 % of resamples -0.0500 to -0.0500, tolerance 0.002)"
    )
    assert found[2].where == "mean / m"
    assert [one.category for one in held(old, new, table=RegressionTable(on="means"))] == [None]
    assert [one.category for one in held(old, new, table=RegressionTable(on="categories"))] == ["a", "b"]
    assert [one.category for one in held(run_of({"a": 0.9}), new)] == ["a"]
    lone = held(run_of({"a": 0.9}), new, table=RegressionTable(on="means"))
    assert [one.category for one in lone] == [None]


def test_a_mean_with_a_category_that_is_null_is_null():
    found = held(run_of({"a": 0.9, "b": 0.8}), run_of({"a": 0.9, "b": None}), table=RegressionTable(on="means"))
    assert [(one.value, one.interval) for one in found] == [(None, None)]
    assert found[0].reason == (
        "image_auroc is null and cannot be compared with 0.8500 in the baseline: b: there is no defect image (20 normal)"
    )


def test_a_mean_that_cannot_be_compared_tells_the_reason_of_its_category():
    old, new = run_of({"a": 0.9, "b": 0.8}), run_of({"a": 0.9, "b": 0.8})
    other = run_of({"b": 0.8}, images="j")
    new.results["b"] = other.results["b"]
    (found,) = held(old, new, table=RegressionTable(on="means"))
    assert (found.value, found.interval) == (pytest.approx(0.85), None)
    assert found.reason == (
        "image_auroc is 0.8500 and cannot be compared with 0.8500 in the baseline: b: other images were left out of "
        "the results than in the baseline"
    )


def test_categories_with_the_same_draws_are_independent_in_their_mean():
    """Losses that go with the draw in one category and against it in the other do not cancel out."""
    noise = np.random.default_rng(0).normal(0, 0.1, 3000)
    old = run_of({"a": 0.8, "b": 0.8}, replicates=np.full(3000, 0.8))
    new = run_of({"a": 0.7}, replicates=0.7 + noise)
    new.results["b"] = run_of({"b": 0.7}, replicates=0.7 - noise).results["b"]
    one, _, mean = held(old, new)
    assert one.interval is not None
    assert mean.interval is not None
    assert np.ptp(mean.interval) / np.ptp(one.interval) == pytest.approx(0.5**0.5, rel=0.08)
    assert mean.reason is None


def test_a_mean_over_fewer_resamples_than_the_baseline_has_stays_paired():
    noise = np.random.default_rng(0).normal(0, 0.1, 1000)
    names = [f"c{i}" for i in range(60)]  # of few, hardly a resample would meet another draw than its own
    old = run_of(dict.fromkeys(names, 0.8), replicates=0.8 + noise)
    new = run_of(dict.fromkeys(names, 0.75), replicates=0.75 + noise[:300])
    for before, after, change in ((old, new, -0.05), (new, old, 0.05)):
        found = held(before, after)
        assert found[-1].category is None
        assert found[-1].interval == pytest.approx((change, change))


def test_of_several_models_a_mean_is_worse_only_if_the_ranks_agree():
    names = "abcdef"
    old = run_of(dict.fromkeys(names, 0.9), labels=("m", "n"))
    # One category that is much worse moves the mean, and no rank test.
    one = run_of({**dict.fromkeys(names, 0.905), "f": 0.5}, labels=("m", "n"))
    means = RegressionTable(on="means")
    for found in held(old, one, table=means):
        assert found.interval is not None
        assert found.interval[1] < -0.06
        assert found.p_value is not None
        assert found.p_value > 0.05
        assert found.reason is None
    # All a little worse: p = 0.03125 each, 0.0625 as the smaller of two by Holm.
    every = run_of({name: 0.9 - 0.01 * (i + 1) for i, name in enumerate(names)}, labels=("m", "n"))
    assert [found.p_value for found in held(old, every, table=means)] == [0.0625, 0.0625]
    assert [found.reason for found in held(old, every, table=means)] == [None, None]
    more = {name: 0.9 - 0.01 * (i + 1) for i, name in enumerate(names + "gh")}
    old = run_of(dict.fromkeys(names + "gh", 0.9), labels=("m", "n"))
    found = held(old, run_of(more, labels=("m", "n")), table=means)
    assert [one.p_value for one in found] == [2 * 2 / 256] * 2
    assert found[0].reason == (
        "image_auroc fell by 0.0450 (from 0.9000 to 0.8550; 95 % of resamples -0.0450 to -0.0450, tolerance 0.002); "
        "signed-rank test over 8 categories p = 0.0156"
    )
    # One model, or few categories: the interval alone.
    (alone,) = held(run_of(dict.fromkeys(names, 0.9)), run_of({**dict.fromkeys(names, 0.905), "f": 0.5}), table=means)
    assert alone.p_value is None
    assert alone.reason is not None
    few = held(
        run_of({"a": 0.9, "b": 0.9}, labels=("m", "n")), run_of({"a": 0.9, "b": 0.8}, labels=("m", "n")), table=means
    )
    assert [(one.p_value, one.reason is None) for one in few] == [(None, False)] * 2


def test_a_mean_that_is_null_is_no_matter_of_ranks():
    names = "abcdefgh"
    old = run_of(dict.fromkeys(names, 0.9), labels=("m", "n"))
    new = run_of({**dict.fromkeys(names, 0.9), "h": None}, labels=("m", "n"))
    found = held(old, new, table=RegressionTable(on="means"))
    assert [(one.p_value, one.reason is None) for one in found] == [(None, False)] * 2


def test_models_are_compared_in_pairs_over_the_categories():
    results = {
        f"c{i}": {
            "x": {"0": cell(image_auroc=0.9, pixel_ap=0.5), "1": cell(image_auroc=0.8)},
            "y": {"0": cell(image_auroc=0.7 + 0.01 * i), "1": cell(image_auroc=0.7 - 0.01 * i)},
            "z": {"0": cell(image_auroc=0.85 if i < 5 else None), "1": cell(image_auroc=0.85)},
        }
        for i in range(6)
    }
    found = compare_models({"results": results, "means": {"x": {}, "y": {}, "z": {}}}, fpr_limits=(0.05,))
    assert [(p.metric, p.label, p.other, p.categories) for p in found] == [
        ("image_auroc", "x", "y", 6),
        ("image_auroc", "x", "z", 5),
        ("image_auroc", "y", "z", 5),
    ]
    first, second, third = found
    assert (first.difference, first.p_value, first.adjusted) == (pytest.approx(0.15), 0.03125, 0.03125)
    assert (first.better, first.worse, first.equal, first.reason) == (6, 0, 0, None)
    assert (second.better, second.worse, second.equal) == (0, 0, 5)
    assert (second.p_value, second.adjusted) == (None, None)
    assert second.reason == "a signed-rank test needs 6 categories, there are 5"
    assert (third.better, third.worse, third.difference) == (0, 5, pytest.approx(-0.15))
    assert compare_models({"results": results, "means": {"x": {}}}, fpr_limits=(0.3,)) == ()
    many = {f"m{i}": {} for i in range(21)}
    assert compare_models({"results": results, "means": many}, fpr_limits=(0.3,)) == ()


def test_pairs_are_adjusted_for_each_other():
    results = {
        f"c{i}": {name: {"0": cell(aupro_05=0.5 + step * 0.1 + 0.001 * i * step)} for step, name in enumerate("xyz")}
        for i in range(7)
    }
    found = compare_models({"results": results, "means": {"x": {}, "y": {}, "z": {}}}, fpr_limits=(0.05, 0.3))
    assert [(p.metric, p.p_value, p.adjusted) for p in found] == [("aupro_05", 2 / 128, 6 / 128)] * 3


def test_an_accepted_regression_breaks_nothing_but_a_limit_does(gate):
    (one,) = held(run_of({"a": 0.9}), run_of({"a": 0.8}))
    assert not Verdict((), (one,)).passed
    told = Verdict((), (one,)).error()
    assert (told.exit_code, str(told)) == (3, f"gate: a / m: {one.reason}")
    accepted = Verdict((), (one,), baseline="b.json", accepted=True)
    assert accepted.passed
    assert accepted.worse == (one,)
    assert accepted.document()["regressions"][0]["reason"] == one.reason
    limits = evaluate(gate("[gate.category.a]\nimage_ap.min = 0.5\n"), measured({}, a=cell(image_ap=0.1))).limits
    assert Verdict(limits, (one,)).broken == (*limits, one)
    assert len(Verdict(limits, (one,)).document()["broken"]) == 1


# ---- the program


def test_a_limit_that_cannot_be_reached_ends_with_3_and_names_it(uadctl, small):
    args = [*small, "--set", "gate.image_auroc.min=1.01", "--set", "gate.category.tile.fn.max=3"]
    ended = uadctl("bench", *args, "--json", "--junit", "deep/junit.xml", code=3)
    found = ended.json
    broken = {
        "category": None,
        "label": "vision_patchcore",
        "seed": None,
        "metric": "image_auroc",
        "value": 1.0,
        "min": 1.01,
        "max": None,
        "reason": "image_auroc is 1, the least allowed is 1.01 (mean of 1 category)",
    }
    assert found["gate"] == {"passed": False, "limits": 2, "broken": [broken], **ALONE}
    assert ended.err == (
        "error: gate: mean / vision_patchcore: image_auroc is 1, the least allowed is 1.01 (mean of 1 category)\n"
    )
    run = Path(found["run"])
    assert json.loads((run / "gate.json").read_text()) == {"schema": 1, **found["gate"]}
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    suite = ElementTree.parse("deep/junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "0")

    people = uadctl("bench", run, "--set", "gate.image_auroc.min=0.9")
    assert people.out.splitlines()[-2] == "gate: 2 of 2 limits hold"
    assert people.err == ""


def test_without_a_gate_there_is_none(uadctl, small):
    found = uadctl("bench", *small, "--no-pixel", "--json").json
    assert found["gate"] is None
    assert not (Path(found["run"]) / "gate.json").exists()


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_category_that_is_not_run_is_an_error_before_any_work(uadctl, small, tmp_path, more):
    ended = uadctl("bench", *small, "--set", "gate.category.til.tp.min=1", *more, code=2)
    assert ended.err == (
        "error: [gate.category] til is no category of this run; did you mean tile?\n  Its categories: tile\n"
    )
    assert ended.out == ""
    assert not (tmp_path / "runs").exists()


def test_a_failed_unit_wins_over_a_broken_limit_and_the_gate_is_resumed(uadctl, small, one_category):
    file = one_category / "tile/test/good/001.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:-500])
    args = [*small, "--no-pixel", "--set", "gate.image_auroc.min=0.5"]
    ended = uadctl("bench", *args, "--json", "--junit", "junit.xml", code=1)
    lines = ended.err.splitlines()
    assert [line for line in lines if line.startswith("error: gate: ")] == [lines[-1]]
    assert lines[-1].startswith(
        "error: gate: mean / vision_patchcore: image_auroc is null, which no limit allows: tile: the unit failed: "
        f"{file}: "
    )
    assert ended.json["gate"]["broken"][0]["value"] is None
    (suite,) = ElementTree.parse("junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")

    file.write_bytes(whole)
    run = Path(ended.json["run"])
    resumed = uadctl("bench", "--resume", run, "--json").json
    assert resumed["gate"] == {"passed": True, "limits": 1, "broken": [], **ALONE}
    assert json.loads((run / "gate.json").read_text())["passed"] is True


def test_a_metric_that_is_null_breaks_the_gate(uadctl, tmp_path):
    parts.write_category(tmp_path / "data", "tile", train=1, good=1, bad=0)
    args = ["--dataset", "mvtec", "--root", "data", "--model", "patchcore", "--quiet"]
    ended = uadctl("bench", *args, "--set", "gate.aupro_30.max=1", code=3)
    assert ended.err == (
        "error: gate: mean / vision_patchcore: aupro_30 is null, which no limit allows: tile: the data set has no "
        "masks\n"
    )
    assert ended.out.splitlines()[-2] == "gate: 0 of 1 limits hold"


# ---- JUnit


HOSTILE = "<a> & \"b\" 'c' ]]> \x1b[31m \x00 \udcff ü\nsecond\tline"


def test_junit_counts_and_escapes_everything(tmp_path, gate):
    good, bad = cell(image_ap=0.25, image_auroc=None), {"success": False, "error": HOSTILE}
    metrics = {
        "results": {
            "<ä>": {"x&y": {"0": good, "1": good}, "z": {"0": bad}},
            "b": {"x&y": {"0": bad}, "z": {"0": good}},
        },
        "means": {"x&y": {"image_ap": None}, "z": {"image_ap": 0.25}},
    }
    timing = {"units": [{"category": "<ä>", "label": "x&y", "seed": 1, "fit_seconds": 1.5, "score_seconds": 0.25}]}
    verdict = evaluate(
        gate("[gate]\nimage_ap = {min = 0.1, max = 1}\n[gate.category.'b']\nimage_ap.max = 0.1\n"), metrics
    )
    file = write_junit(tmp_path / "a" / "b.xml", metrics, verdict, timing=timing, name=HOSTILE)
    assert file.read_bytes().startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites ")
    root = ElementTree.fromstring(file.read_bytes())
    assert root.tag == "testsuites"
    assert root.get("name") == "<a> & \"b\" 'c' ]]> \\x1b[31m \\x00 \\udcff ü\nsecond\tline"
    facts = ("name", "tests", "failures", "errors", "skipped", "time")
    assert [[suite.get(f) for f in facts] for suite in root] == [
        ["x&y", "5", "2", "1", "0", "1.750"],
        ["z", "4", "1", "1", "0", "0.000"],
    ]
    assert [root.get(f) for f in facts[1:]] == ["9", "3", "2", "0", "1.750"]
    for suite in root:
        cases = suite.findall("testcase")
        assert len(cases) == int(suite.get("tests"))
        assert len(suite.findall("testcase/failure")) == int(suite.get("failures"))
        assert len(suite.findall("testcase/error")) == int(suite.get("errors"))
        assert len({case.get("name") for case in cases}) == len(cases)
        assert {case.get("classname") for case in cases} == {suite.get("name")}
    assert [case.get("name") for case in root[0]] == [
        "<ä>, seed 0",
        "<ä>, seed 1",
        "b, seed 0",
        "gate: mean: image_ap >= 0.1 and <= 1",
        "gate: b, seed 0: image_ap <= 0.1",
    ]
    assert root[0][0].findtext("system-out") == "image_ap = 0.25\nimage_auroc = null"
    error = root[0][2].find("error")
    assert error is not None
    assert error.get("message") == "<a> & \"b\" 'c' ]]> \\x1b[31m \\x00 \\udcff ü"
    assert error.text == "<a> & \"b\" 'c' ]]> \\x1b[31m \\x00 \\udcff ü\nsecond\tline"
    failure = root[1][3].find("failure")
    assert failure is not None
    assert failure.get("message") == "image_ap is 0.25, the most allowed is 0.1 (20 normal and 63 defect images)"


def test_junit_without_a_gate_and_where_it_cannot_be_written(tmp_path):
    metrics = measured({}, a=cell())
    root = ElementTree.parse(write_junit(tmp_path / "a.xml", metrics)).getroot()
    assert [case.get("name") for case in root.iter("testcase")] == ["a, seed 0"]
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/b\.xml: cannot be written: (Not a directory|File exists)$"):
        write_junit(tmp_path / "file" / "b.xml", metrics)


def test_an_empty_verdict_passes():
    assert Verdict(()).passed


def test_every_broken_limit_is_a_line_and_stands_in_the_report(uadctl, small):
    limits = ["--set", "gate.image_auroc.min=1.01", "--set", "gate.pixel_auroc.min=1.01"]
    ended = uadctl("bench", *small, *limits, "--json", code=3)
    lines = ended.err.splitlines()
    assert [line.startswith("error: gate: ") for line in lines] == [True, True]
    page = Path(uadctl("report", ended.json["run"]).out.strip()).read_text(encoding="utf-8")
    assert "0 of 2 limits hold:" in page
    assert page.count("the least allowed is 1.01") == 2
