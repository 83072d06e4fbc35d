"""`bench --gate FILE` and `--update-baseline`: the file of a baseline, and what the program does with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import parts
import pytest
from jsonschema import Draft202012Validator

from uadctl.bench import check_baseline, with_resamples
from uadctl.errors import DataError, RunError
from uadctl.plan import make_plan
from uadctl.runs.baseline import (
    Baseline,
    Measured,
    baseline_document,
    carry_over,
    measured_by,
    not_in_both,
    read_baseline,
    short,
    write_baseline,
)
from uadctl.runs.documents import document_schema
from uadctl.runs.folder import UnitFolder
from uadctl.spec import Overrides, read_spec

FEW = ("--set", "metrics.bootstrap=100", "--quiet")
ANEW_FILE = "Remove it and make it anew with --update-baseline."
AGAIN = "Name a file that --update-baseline has written, or one that is not there yet."


@pytest.fixture
def made(uadctl, small) -> list[str]:
    """Options of a run, after one like it has written the baseline b.json."""
    args = [*small, *FEW, "--gate", "b.json"]
    uadctl("bench", *args, "--update-baseline")
    return args


def content(file: str = "b.json") -> Any:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def change(**keys: Any) -> None:
    Path("b.json").write_text(json.dumps(content() | keys), encoding="utf-8")


def valid(document: Any, name: str) -> None:
    Draft202012Validator(document_schema(name)).validate(document)


# ---- the file


def example() -> Baseline:
    one = Measured("a" * 64, "b" * 64, (0, 3), {"image_auroc": 2 / 3, "tp": 1.5}, {"image_auroc": np.array([0.5, 1])})
    two = Measured("c" * 64, "d" * 64, (0,), {"image_auroc": 1.0}, {"image_auroc": np.array([1 / 3, np.nan])})
    return Baseline("0.8.0", "0" * 8, "r", 2, "mvtec_ad", (0.3,), {"x": {"m": one, "ü": two}, "y": {"m": two}})


def test_a_baseline_is_written_and_reads_back_equal(tmp_path):
    file = str(tmp_path / "deep" / "b.json")
    write_baseline(file, example())
    found = read_baseline(file)
    assert baseline_document(found) == baseline_document(example())
    assert found.results["y"]["m"].replicates["image_auroc"].tolist()[0] == 0.333333333
    assert np.isnan(found.results["y"]["m"].replicates["image_auroc"][1])
    assert found.results["x"]["m"].metrics["image_auroc"] == 2 / 3
    valid(content(file), "baseline")
    # A metric is a line: what differs between two baselines can be looked at.
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    assert [line.strip() for line in lines if "[0" in line] == [
        '"image_auroc": [0.5,1.0]',
        '"image_auroc": [0.333333333,null]',
        '"image_auroc": [0.333333333,null]',
    ]


def test_replicates_keep_nine_digits():
    assert short(np.array([1 / 3, 1, 0, 1e-12, np.nan])) == [0.333333333, 1.0, 0.0, 1e-12, None]


@pytest.mark.parametrize(
    ("text", "message", "help"),
    [
        ("{", "--gate b.json: not a baseline: not JSON", AGAIN),
        ("\xff", "--gate b.json: not a baseline: not JSON", AGAIN),
        pytest.param("[" * 200_000, "--gate b.json: not a baseline: nested too deeply", AGAIN, id="nested"),
        ("[]", "--gate b.json: not a baseline", AGAIN),
        ('{"schema": 1, "results": {}}', "--gate b.json: not a baseline", AGAIN),
        (
            '{"schema": 2, "resamples": 1, "results": {}}',
            "--gate b.json: written by another version of uadctl: schema 1 is expected",
            ANEW_FILE,
        ),
        (
            '{"schema": 1, "resamples": 1, "results": {}}',
            "--gate b.json: damaged: Object missing required field `uadctl`",
            ANEW_FILE,
        ),
    ],
)
def test_what_is_no_baseline_is_said_and_never_written_over(uadctl, small, text, message, help):
    Path("b.json").write_bytes(text.encode("latin-1"))
    for more in ([], ["--update-baseline"], ["--dry-run"]):
        ended = uadctl("bench", *small, *FEW, "--gate", "b.json", *more, code=2)
        assert ended.err == f"error: {message}\n  {help}\n"
    assert Path("b.json").read_bytes() == text.encode("latin-1")
    assert not Path("runs").exists()


def test_replicates_must_be_as_many_as_are_said_and_belong_to_a_number(tmp_path):
    file = tmp_path / "b.json"
    for break_ in ({"replicates": {"image_auroc": [1.0]}}, {"metrics": {"image_auroc": None}}):
        write_baseline(str(file), example())
        document = content(str(file))
        document["results"]["x"]["m"] |= break_
        file.write_text(json.dumps(document))
        with pytest.raises(
            DataError, match=r"b\.json: damaged: image_auroc has [12] replicates and the value"
        ) as error:
            read_baseline(str(file))
        assert error.value.help == ANEW_FILE


def test_a_missing_file_is_an_error_that_names_the_command(uadctl, small, tmp_path):
    for more in ([], ["--dry-run"]):
        ended = uadctl("bench", *small, *FEW, "--gate", "no/b.json", *more, code=2)
        assert ended.err == (
            "error: --gate no/b.json: no such file\n"
            "  Make it from a run that is good enough: the same command with --update-baseline\n"
        )
    (tmp_path / "b.json").mkdir()
    ended = uadctl("bench", *small, *FEW, "--gate", "b.json", code=2)
    assert ended.err == "error: --gate b.json: cannot be read: Is a directory\n"
    ended = uadctl("bench", *small, *FEW, "--gate", "b.json", "--update-baseline", code=2)
    assert ended.err.startswith("error: --gate b.json: ")
    assert not Path("runs").exists()


@pytest.mark.parametrize("more", [[], ["--update-baseline"], ["--dry-run"], ["--update-baseline", "--dry-run"]])
def test_a_name_that_no_file_can_have_is_an_error(uadctl, small, more):
    name = "b" * 300
    ended = uadctl("bench", *small, *FEW, "--gate", name, *more, code=2)
    assert ended.err == f"error: --gate {name}: cannot be read: File name too long\n"
    assert not Path("runs").exists()


def test_options_that_say_nothing(uadctl, small):
    ended = uadctl("bench", *small, "--update-baseline", code=2)
    assert ended.err == "error: --update-baseline: which file?\n  Name it: --gate FILE\n"
    assert uadctl("bench", *small, "--gate", "", code=2).err == "error: --gate: expected the name of a file\n"
    ended = uadctl("bench", *small, "--gate", "a.json", "--output", "a.json", code=2)
    assert ended.err == "error: --gate a.json: is the same file as --output\n  Name another file.\n"


# ---- runs


def test_the_same_run_twice_writes_the_same_bytes_and_holds(uadctl, made):
    first = Path("b.json").read_bytes()
    valid(json.loads(first), "baseline")
    ended = uadctl("bench", *made, "--json")
    gate = ended.json["gate"]
    assert (gate["passed"], gate["accepted"], gate["baseline"], gate["limits"]) == (True, False, "b.json", 0)
    names = [one["metric"] for one in gate["regressions"]]
    assert len(names) >= 10
    assert {"image_auroc", "pixel_ap", "aupro_30", "false_alarm_rate"} <= set(names)
    assert not {"tp", "fp", "fn", "tn"} & set(names)
    for one in gate["regressions"]:
        assert (one["category"], one["difference"], one["reason"]) == ("tile", 0.0, None)
        assert one["interval"] in ([0.0, 0.0], None)
    run = Path(ended.json["run"])
    assert json.loads((run / "gate.json").read_text()) == {"schema": 1, **gate}
    valid(json.loads((run / "gate.json").read_text()), "gate")
    assert Path("b.json").read_bytes() == first  # nothing writes it unasked

    people = uadctl("bench", *made, "--update-baseline", "--set", "gate.image_auroc.min=0.5")
    n = len(names)
    assert people.out.splitlines()[-3:-1] == [
        f"gate: 1 of 1 limits hold; {n} of {n} metrics no worse than b.json",
        "gate: b.json was written from this run",
    ]
    again = content()
    assert again.pop("hash") != json.loads(first)["hash"]  # the gate is part of the spec
    assert again == {k: v for k, v in json.loads(first).items() if k != "hash"}
    uadctl("bench", *made, "--update-baseline")
    assert Path("b.json").read_bytes() == first


def test_the_draws_depend_on_the_images_alone(uadctl, small):
    args = [*small, *FEW, "--set", 'model.params.coreset="none"', "--set", "run.seeds=[0, 7]", "--json"]
    run = Path(uadctl("bench", *args).json["run"])
    files = [run / f"units/tile/vision_patchcore/{seed}/replicates.json" for seed in (0, 7)]
    assert files[0].read_bytes() == files[1].read_bytes()
    found = json.loads(files[0].read_text())
    valid(found, "replicates")
    assert found["resamples"] == 100
    assert {len(values) for values in found["metrics"].values()} == {100}
    measured = json.loads((files[0].parent / "metrics.json").read_text())
    assert set(found["metrics"]) == set(measured["intervals"])
    other = uadctl("bench", *args, "--limit-test", "4").json["run"]
    less = json.loads(Path(other, "units/tile/vision_patchcore/0/replicates.json").read_text())
    assert less["images"] != found["images"]


def test_without_resamples_there_is_no_such_file(finished):
    assert not list(finished.glob("units/*/*/*/replicates.json"))


def test_the_gate_asks_for_resamples_and_says_so(uadctl, small):
    ended = uadctl("bench", *small, "--no-pixel", "--gate", "b.json", "--update-baseline", "--json")
    note = "--gate: [metrics] bootstrap = 1000, since differences are judged by resamples"
    assert ended.err == f"note: {note}\n"
    run = Path(ended.json["run"])
    assert json.loads((run / "run.json").read_text())["notes"] == [note]
    assert "bootstrap = 1000\n" in (run / "spec.toml").read_text()
    assert content()["resamples"] == 1000
    ended = uadctl("bench", *small, "--set", "metrics.bootstrap=99", "--gate", "b.json", code=2)
    assert ended.err == (
        "error: --gate: [metrics] bootstrap = 99: at least 100 resamples are needed\n  Leave it out for 1000.\n"
    )


def test_a_regression_table_without_a_baseline_is_idle_and_said_to_be(uadctl, small):
    args = [*small, "--no-pixel", "--set", "gate.regression.tolerance=0.01", "--json"]
    ended = uadctl("bench", *args)
    assert ended.err == "note: [gate.regression] has no effect without --gate FILE, the baseline to compare with\n"
    assert ended.json["gate"] is None  # a gate that holds nothing back is none
    run = Path(ended.json["run"])
    assert not (run / "gate.json").exists()
    assert "gate:" not in uadctl("bench", *args[:-1], "--quiet").out
    limited = uadctl("bench", *args, "--set", "gate.image_ap.min=0.5").json["gate"]
    assert (limited["limits"], limited["passed"]) == (1, True)


def worse() -> None:
    """Make b.json better in every resample than any run can be."""
    document = content()
    one = document["results"]["tile"]["vision_patchcore"]
    one["metrics"]["image_auroc"] = 1.25
    one["replicates"]["image_auroc"] = [1.25] * document["resamples"]
    Path("b.json").write_text(json.dumps(document))


FELL = (
    "tile / vision_patchcore: image_auroc fell by 0.2500 (from 1.2500 to 1.0000; 95 % of resamples -0.2500 to -0.2500, "
    "tolerance 0.002)"
)


def test_a_regression_ends_with_3_and_is_a_line(uadctl, made):
    worse()
    ended = uadctl("bench", *made, "--json", "--set", "gate.image_ap.min=1.01", code=3)
    assert ended.err == (
        "error: gate: mean / vision_patchcore: image_ap is 1, the least allowed is 1.01 (mean of 1 category)\n"
        f"error: gate: {FELL}\n"
    )
    gate = ended.json["gate"]
    assert (gate["passed"], len(gate["broken"])) == (False, 1)
    (found,) = [one for one in gate["regressions"] if one["reason"] is not None]
    assert found["metric"] == "image_auroc"
    people = uadctl("bench", *made, code=3)
    n = len(gate["regressions"])
    assert people.out.splitlines()[-2] == f"gate: {n - 1} of {n} metrics no worse than b.json"
    assert uadctl("bench", *made, "--set", "gate.regression.tolerances.image_auroc=0.26").code == 0
    assert uadctl("bench", *made, "--set", "gate.regression.metrics=['image_ap']").code == 0


def test_an_update_accepts_what_is_worse_and_tells_it(uadctl, made):
    first = Path("b.json").read_bytes()
    worse()
    ended = uadctl("bench", *[word for word in made if word != "--quiet"], "--update-baseline", "--json")
    assert ended.err == f"warning: {FELL}; accepted, since it becomes the baseline\n"
    assert (ended.json["gate"]["passed"], ended.json["gate"]["accepted"]) == (True, True)
    assert sum(one["reason"] is not None for one in ended.json["gate"]["regressions"]) == 1
    assert Path("b.json").read_bytes() == first


def test_a_broken_limit_or_a_failed_unit_leaves_the_baseline_as_it_was(uadctl, made, one_category):
    first = Path("b.json").read_bytes()
    worse()
    kept = Path("b.json").read_bytes()
    loud = [word for word in made if word != "--quiet"]
    ended = uadctl("bench", *loud, "--update-baseline", "--set", "gate.image_ap.min=1.01", code=3)
    assert ended.err.count("error: gate: ") == 2  # nothing is accepted then
    assert ended.err.splitlines()[0] == "warning: b.json was not written: 1 limit is broken"
    assert "was written" not in ended.out
    assert Path("b.json").read_bytes() == kept

    Path("b.json").write_bytes(first)
    training = one_category / "tile/train/good/001.png"
    whole = training.read_bytes()
    training.write_bytes(whole[:-500])
    limits = ["--set", "gate.image_ap.min=1.01", "--set", "gate.image_auroc.min=1.01"]
    ended = uadctl("bench", *loud, "--update-baseline", "--json", *limits, code=1)
    assert Path("b.json").read_bytes() == first
    assert ended.json["gate"]["accepted"] is False
    told = [line for line in ended.err.splitlines() if line.startswith("warning: ")]
    assert told == ["warning: b.json was not written: 1 unit failed; 2 limits are broken"]
    ended = uadctl("bench", *made, "--json", code=1)
    told = [line for line in ended.err.splitlines() if line.startswith("error: gate: ")]
    assert len(told) == len(ended.json["gate"]["regressions"]) >= 10
    assert told[0].startswith(
        "error: gate: tile / vision_patchcore: image_auroc is null and cannot be compared with 1.0000 in the baseline: "
        "the unit failed: "
    )
    training.write_bytes(whole)
    assert uadctl("bench", "--resume", ended.json["run"], "--gate", "b.json", "--json").json["gate"]["passed"] is True


def test_a_run_that_is_over_can_be_held_against_a_baseline(uadctl, small):
    run = uadctl("bench", *small, *FEW, "--json").json["run"]
    uadctl("bench", "--resume", run, "--gate", "b.json", "--update-baseline")
    assert content()["resamples"] == 100
    ended = uadctl("bench", "--resume", run, "--gate", "b.json", "--json")
    assert ended.json["run"] == run
    assert ended.json["gate"]["baseline"] == "b.json"
    (Path(run) / "units/tile/vision_patchcore/0/replicates.json").unlink()
    ended = uadctl("bench", "--resume", run, "--gate", "b.json", code=2)
    assert ended.err == (
        f"error: {run}/units/tile/vision_patchcore/0: has no replicates.json, with which a baseline is compared\n"
        "  Units measured before uadctl 0.8 have none. Start a new run.\n"
    )
    plain = uadctl("bench", *small, "--no-pixel", "--json").json["run"]
    ended = uadctl("bench", "--resume", plain, "--gate", "b.json", code=2)
    assert ended.err == (
        f"error: {plain}: was begun without resamples of its test images, which --gate compares\n"
        "  Start a new run with --gate, or with --set metrics.bootstrap=1000.\n"
    )


ANEW = "  If that is meant, make it anew: add --update-baseline\n"
HELPS = {
    "gate.regression.metrics=['group_ap']": (
        "  Name others, or make it anew from a run that has a number for them: add --update-baseline\n"
    ),
    "--no-pixel": "  Measure them, or name those to compare, [gate.regression] metrics, or add --update-baseline\n",
}


def test_what_cannot_be_compared_is_said_before_any_work(uadctl, made, one_category):
    for path in Path("runs").iterdir():
        path.rename(Path("kept"))
    said = "error: --gate b.json: cannot be compared: "
    for more, what in (
        (["--limit-test", "4"], "the test images of tile or their masks are not those it was measured on"),
        (["--set", "model.label=x"], "it holds tile / vision_patchcore, this run has tile / x"),
        (
            ["--set", "metrics.fpr_limits=[0.05]"],
            "it was measured with [metrics] fpr_limits = [0.3], this run has [0.05]",
        ),
        (
            ["--set", "metrics.protocol='mvtec_ad2'", "--set", "metrics.fpr_limits=[0.3]"],
            'it was measured with [metrics] protocol = "mvtec_ad", this run has "mvtec_ad2"',
        ),
        (
            ["--set", "gate.regression.metrics=['group_ap']"],
            "it has no group_ap, which [gate.regression] metrics names",
        ),
        (
            ["--no-pixel"],
            "it has pixel_auroc, pixel_ap, pixel_f1max, aupro_30, which [metrics] pixel = false leaves out",
        ),
    ):
        for dry in ([], ["--dry-run"]):
            ended = uadctl("bench", *made, *more, *dry, code=2)
            assert ended.err == f"{said}{what}\n{HELPS.get(more[-1], ANEW)}"
            assert ended.out == ""
    mask = one_category / "tile/ground_truth/scratch/000_mask.png"
    parts.write(mask, parts.scratched(1)[1][::-1])
    ended = uadctl("bench", *made, "--set", "metrics.fpr_limits=[0.05]", code=2)
    assert ended.err == (
        f"{said}it was measured with [metrics] fpr_limits = [0.3], this run has [0.05]\n"
        f"{said}the test images of tile or their masks are not those it was measured on\n{ANEW}"
    )
    assert not any(Path("runs").iterdir())
    updated = uadctl("bench", *[word for word in made if word != "--quiet"], "--update-baseline")
    assert updated.err == (
        "warning: not compared with b.json before it is replaced: the test images of tile or their masks are not those "
        "it was measured on\n"
    )
    assert uadctl("bench", *made).code == 0


def test_what_only_one_of_the_two_has_is_a_warning(uadctl, small, one_category):
    made = [*small, *FEW, "--no-pixel", "--gate", "b.json"]
    uadctl("bench", *made, "--update-baseline")
    parts.write_category(one_category, "zinc", train=2, good=1, bad=1)
    loud = [word for word in made if word != "--quiet"]
    ended = uadctl("bench", *loud, "--json")
    assert ended.err == "warning: not compared, since not in b.json: zinc / vision_patchcore\n"
    assert {one["category"] for one in ended.json["gate"]["regressions"]} == {"tile"}
    uadctl("bench", *made, "--update-baseline")
    ended = uadctl("bench", *loud, "--category", "zinc", "--json")
    assert ended.err == "warning: not compared, since in b.json, but not in this run: tile / vision_patchcore\n"


def test_metrics_of_maps_do_not_leave_the_gate_unseen(uadctl, made):
    """That nothing but images is compared has to be asked for, or the baseline made anew without maps."""
    asked = uadctl("bench", *made, "--no-pixel", "--set", "gate.regression.metrics='image_ap'", "--json").json["gate"]
    assert [one["metric"] for one in asked["regressions"]] == ["image_ap"]
    loud = [word for word in made if word != "--quiet"]
    ended = uadctl("bench", *loud, "--no-pixel", "--update-baseline")
    assert ended.err == (
        "warning: not compared with b.json before it is replaced: it has pixel_auroc, pixel_ap, pixel_f1max, aupro_30, "
        "which [metrics] pixel = false leaves out\n"
    )
    again = uadctl("bench", *made, "--no-pixel", "--json").json["gate"]
    assert len(again["regressions"]) >= 4
    assert not any("pixel" in one["metric"] for one in again["regressions"])


# ---- a run that is gone on with


def gate_of(run: Any) -> Any:
    return json.loads(Path(run, "gate.json").read_text(encoding="utf-8"))


def go_on(run: str) -> str:
    """The folder of a run that is over, as if something had stopped it after its gate."""
    file = Path(run, "run.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "interrupted"}), encoding="utf-8")
    return run


def test_a_resume_without_the_gate_keeps_what_it_said(uadctl, made):
    first = Path("b.json").read_bytes()
    worse()
    gate = ["--set", "gate.image_ap.min=0.5", "--set", "gate.regression.tolerance=0.001"]
    run = uadctl("bench", *made, *gate, "--json", code=3).json["run"]
    said = gate_of(run)
    assert (said["passed"], said["baseline"], said["limits"]) == (False, "b.json", 1)
    Path("b.json").unlink()  # nothing is compared anew
    ended = uadctl("bench", "--resume", go_on(run), "--json", code=3)
    assert gate_of(run) == said == {"schema": 1, **ended.json["gate"]}
    assert ended.err == f"error: gate: {FELL.replace('0.002', '0.001')}\n"
    assert json.loads(Path(run, "run.json").read_text())["notes"] == []

    worse_file = Path("b.json")
    worse_file.write_bytes(first)
    worse()
    uadctl("bench", "--resume", run, "--gate", "b.json", "--update-baseline")
    said = gate_of(run)
    assert (said["passed"], said["accepted"]) == (True, True)
    written = worse_file.read_bytes()
    people = uadctl("bench", "--resume", go_on(run))
    assert gate_of(run) == said
    assert "was written" not in people.out  # this time
    assert worse_file.read_bytes() == written


def test_what_is_measured_anew_is_no_longer_compared_and_that_is_said(uadctl, made, one_category):
    training = one_category / "tile/train/good/001.png"
    whole = training.read_bytes()
    training.write_bytes(whole[:-500])
    run = uadctl("bench", *made, "--json", code=1).json["run"]
    assert gate_of(run)["passed"] is False
    training.write_bytes(whole)
    ended = uadctl("bench", "--resume", run, "--json")
    assert ended.err == ("warning: no longer compared with b.json, since units are measured anew; that takes --gate\n")
    assert ended.json["gate"] is None
    assert not Path(run, "gate.json").exists()
    assert uadctl("bench", "--resume", run, "--gate", "b.json", "--json").json["gate"]["passed"] is True


@pytest.mark.parametrize("broken", [{"regressions": [{}]}, {"baseline": 1}])
def test_a_damaged_gate_json_is_said_and_nothing_is_made_of_it(uadctl, made, broken):
    run = uadctl("bench", *made, "--json").json["run"]
    Path(run, "gate.json").write_text(json.dumps(gate_of(run) | broken), encoding="utf-8")
    ended = uadctl("bench", "--resume", go_on(run), code=2)
    assert ended.err.startswith(f"error: {run}/gate.json: damaged: ")
    assert ended.err.endswith("\n  Remove it; --gate FILE makes it anew.\n")


def test_an_old_gate_json_was_held_against_nothing(uadctl, small):
    args = [*small, "--no-pixel", "--set", "gate.image_ap.min=0.5", "--json"]
    run = uadctl("bench", *args).json["run"]
    old = {key: value for key, value in gate_of(run).items() if key in ("schema", "passed", "limits", "broken")}
    Path(run, "gate.json").write_text(json.dumps(old), encoding="utf-8")
    again = uadctl("bench", "--resume", go_on(run), "--json").json["gate"]
    assert (again["baseline"], again["regressions"], again["limits"]) == (None, [], 1)


# ---- a baseline that is written over


def test_gate_json_does_not_say_that_a_run_is_the_baseline_before_it_is(uadctl, made, monkeypatch):
    def fail(file: str, baseline: Baseline) -> None:
        raise RunError(f"{file}: cannot be written: No space left on device")

    before = set(Path("runs").iterdir())
    monkeypatch.setattr("uadctl.bench.write_baseline", fail)
    ended = uadctl("bench", *made, "--update-baseline", code=2)
    assert ended.err == "error: b.json: cannot be written: No space left on device\n"
    (run,) = set(Path("runs").iterdir()) - before
    assert not (run / "gate.json").exists()
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    monkeypatch.undo()


def one_of(value: float, *, data: str = "d") -> Measured:
    return Measured("i", data, (0,), {"image_ap": value}, {"image_ap": np.full(4, value)})


def of(results: dict[str, dict[str, Measured]], **changes: Any) -> Baseline:
    return dataclasses.replace(Baseline("1", "h", "r", 4, "mvtec_ad", (0.3,), results), **changes)


def test_what_a_run_has_not_looked_at_is_carried_over():
    old = of({"a": {"m": one_of(0.1), "n": one_of(0.2)}, "b": {"m": one_of(0.3)}, "c": {"n": one_of(0.4, data="old")}})
    new = of({"d": {"m": one_of(0.5)}, "a": {"m": one_of(0.6)}}, hash="new")
    found, carried = carry_over(old, new, {"d": "d", "a": "d"}, ["m"])
    told = {(c, label): one.metrics["image_ap"] for c, of_ in found.results.items() for label, one in of_.items()}
    assert told == {("a", "m"): 0.6, ("a", "n"): 0.2, ("b", "m"): 0.3, ("c", "n"): 0.4, ("d", "m"): 0.5}
    assert list(found.results) == ["a", "b", "c", "d"]
    assert carried == ("a / n", "b / m", "c / n")
    assert found.hash == "new"
    # Of a category whose images have changed no other model's figures can be compared any more.
    new = of({"c": {"m": one_of(0.6, data="new")}})
    found, carried = carry_over(old, new, {"c": "new"}, ["m"])
    assert list(found.results["c"]) == ["m"]
    assert carried == ("a / m", "a / n", "b / m")
    # What the run has, and could not measure, is not taken from before.
    assert carry_over(old, of({}), {"a": "d", "b": "d", "c": "old"}, ["m", "n"])[1] == ()


@pytest.mark.parametrize("change", [{"protocol": "mvtec_ad2"}, {"fpr_limits": (0.05,)}, {"resamples": 5}])
def test_nothing_is_carried_over_that_was_measured_otherwise(change):
    old, new = of({"a": {"m": one_of(0.1)}}), of({"b": {"m": one_of(0.1)}}, **change)
    assert carry_over(old, new, {"b": "d"}, ["m"]) == (new, ())


def test_an_update_of_one_category_keeps_the_others(uadctl, made, one_category):
    parts.write_category(one_category, "zinc", train=2, good=1, bad=1)
    loud = [word for word in made if word != "--quiet"]
    tile = content()["results"]["tile"]
    ended = uadctl("bench", *loud, "--category", "zinc", "--update-baseline")
    assert ended.err == (
        "warning: not compared with b.json before it is replaced: it holds tile / vision_patchcore, this run has zinc / "
        "vision_patchcore\n"
        "warning: b.json keeps what this run has not: tile / vision_patchcore\n"
    )
    assert list(content()["results"]) == ["tile", "zinc"]
    assert content()["results"]["tile"] == tile
    gate = uadctl("bench", *made, "--json").json["gate"]
    assert {one["category"] for one in gate["regressions"]} == {"tile", "zinc", None}
    kept = Path("b.json").read_bytes()
    uadctl("bench", *made, "--update-baseline")
    again = content()
    assert again.pop("hash") != json.loads(kept)["hash"]
    assert again == {key: value for key, value in json.loads(kept).items() if key != "hash"}


# ---- several seeds


def unit(folder: Path, seed: int, *, images: str = "0" * 64, values: list[float | None], value: float) -> UnitFolder:
    made = UnitFolder(folder / str(seed), "tile", "m", seed)
    made.path.mkdir(parents=True)
    made.write("replicates", {"images": images, "resamples": len(values), "metrics": {"image_ap": values}})
    made.write("metrics", {"success": True, "metrics": {"image_ap": value}, "reasons": {}, "counts": {}})
    made.set_status("done")
    return made


def test_seeds_are_compared_by_their_means(tmp_path, small):
    spec = read_spec(None, Overrides(dataset="demo", model="patchcore", set=("metrics.bootstrap=3",))).spec
    units = [
        unit(tmp_path, 0, values=[0.25, 0.5, None], value=0.25),
        unit(tmp_path, 7, values=[0.75, 1.0, 0.5], value=0.5),
    ]
    found = measured_by(spec, units, {"tile": "d"})
    one = found.results["tile"]["m"]
    assert one.replicates["image_ap"][:2].tolist() == [0.5, 0.75]
    assert np.isnan(one.replicates["image_ap"][2])
    assert (one.metrics, one.seeds, found.left_out) == ({"image_ap": 0.375}, (0, 7), {})


def test_seeds_on_different_images_are_not_compared_and_the_run_is_kept(uadctl, small):
    args = [*small, "--set", "metrics.bootstrap=100", "--set", "run.seeds=[0, 7]", "--gate", "b.json"]
    run = Path(uadctl("bench", *args, "--update-baseline", "--json").json["run"])
    before = Path("b.json").read_bytes()
    file = run / "units/tile/vision_patchcore/7/replicates.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"images": "0" * 64}))
    ended = uadctl("bench", "--resume", run, "--gate", "b.json", "--json", code=3)
    regressions = ended.json["gate"]["regressions"]
    assert len(regressions) >= 10
    whys = {one["reason"].rpartition(": ")[2] for one in regressions if one["reason"]}
    assert whys == {"its seeds were measured on different images"}
    assert all(one["reason"] for one in regressions if one["baseline"] is not None)
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    ended = uadctl("bench", "--resume", run, "--gate", "b.json", "--update-baseline", "--json", code=3)
    assert ended.err.splitlines()[0] == (
        "warning: b.json was not written: of tile / vision_patchcore its seeds were measured on different images"
    )
    assert Path("b.json").read_bytes() == before


def test_many_that_are_not_compared_are_counted():
    ours = {f"c{i}": "d" * 64 for i in range(9)}
    assert not_in_both(example(), "b.json", ours, ["m"]) == [
        "not compared, since not in b.json: c0 / m, c1 / m, c2 / m, c3 / m, c4 / m and 4 more",
        "not compared, since in b.json, but not in this run: x / m, x / ü, y / m",
    ]


def test_two_categories_are_compared_one_by_one_and_in_their_mean(uadctl, one_category, small):
    parts.write_category(one_category, "zinc", train=2, good=1, bad=1)
    args = [*small, *FEW, "--no-pixel", "--gate", "b.json"]
    uadctl("bench", *args, "--update-baseline")
    for on, categories in (
        ("both", {"tile", "zinc", None}),
        ("categories", {"tile", "zinc"}),
        ("means", {None}),
    ):
        gate = uadctl("bench", *args, "--set", f"gate.regression.on='{on}'", "--json").json["gate"]
        assert {one["category"] for one in gate["regressions"]} == categories
    one = [*args, "--category", "tile", "--json"]
    assert {r["category"] for r in uadctl("bench", *one).json["gate"]["regressions"]} == {"tile"}
    mean = uadctl("bench", *one, "--set", "gate.regression.on='means'").json["gate"]["regressions"]
    assert {r["category"] for r in mean} == {None}


def test_a_dry_run_says_nothing_of_a_baseline_that_fits(uadctl, made):
    ended = uadctl("bench", *made, "--dry-run")
    assert ended.err == ""
    assert ended.out.splitlines()[-1] == "1 unit; nothing was run."


def test_a_plan_is_checked_from_python_too(small, made):
    spec = with_resamples(
        read_spec(None, Overrides(dataset="mvtec", root=small[3], model="patchcore", set=("preprocess.size=64",))).spec
    )
    assert spec.metrics.bootstrap == 1000
    assert with_resamples(spec) is spec
    check_baseline(make_plan(spec), "b.json", update=False)
    with pytest.raises(DataError, match=r"^--gate c\.json: no such file$"):
        check_baseline(make_plan(spec), "c.json", update=False)
    check_baseline(make_plan(spec), "c.json", update=True)
