"""The benchmarks run, agree with each other on what they compute, and end up on the page. No test asserts a time."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import parts as made
import pytest

from benchmarks import __main__ as program
from benchmarks import bottle, false_alarms, gate, growth, large_image, machine, page
from benchmarks.measure import (
    PYTHON,
    Contender,
    Figure,
    Measured,
    Run,
    Section,
    Spread,
    Table,
    Target,
    Unavailable,
    added,
    at_least,
    at_most,
    compare,
    measure_command,
    number,
    table,
)
from uadctl.imaging.raster import LARGE
from uadctl.records import Size

MB = 1_000_000


# -- contenders, which the harness finds as test_benchmarks:NAME


def busy(*, rounds):
    return lambda: sum(i * i for i in range(rounds))


def holding(*, megabytes, before):
    """Holds `megabytes` while it works, after having held and freed `before`."""
    bytearray(before * MB)
    return lambda: len(bytearray(b"\1") * (megabytes * MB))


def environment(*, names):
    return lambda: {name: os.environ.get(name) for name in names}


def turn(*, file, name):
    def work():
        with Path(file).open("a", encoding="utf-8") as log:
            log.write(name)

    return work


def printing():
    print("while getting ready")
    return lambda: print("at work")


def needs_a_package():
    import no_such_package

    return no_such_package.run


def needs_an_extra():
    from uadctl.spec import require

    return require("no_such_package", "faiss").run


def needs_a_gpu():
    raise Unavailable("needs a GPU")


def breaks():
    def work():
        raise ValueError("it broke")

    return work


@pytest.fixture
def measure(monkeypatch):
    """Measure contenders of this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def run(*contenders, repeats=1, threads=2):
        here = [c if ":" in c.function else replace(c, function=f"test_benchmarks:{c.function}") for c in contenders]
        return compare(here, repeats=repeats, threads=threads, say=lambda line: None)

    return run


# -- the harness


def test_a_busy_loop_takes_cpu_and_gives_its_value(measure):
    (found,) = measure(Contender("loop", "busy", {"rounds": 200_000}), repeats=2)
    assert len(found.runs) == 2
    assert found.value == sum(i * i for i in range(200_000))
    assert found.cpu.low > 0
    assert found.cpu.low <= found.cpu.median <= found.cpu.high


def test_memory_is_what_the_work_held_beyond_what_was_held_before(measure):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system cannot set back the high-water mark of a process")
    more, less, none = measure(
        Contender("200 MB", "holding", {"megabytes": 200, "before": 0}),
        Contender("200 MB after 400 MB", "holding", {"megabytes": 200, "before": 400}),
        Contender("nothing after 400 MB", "holding", {"megabytes": 0, "before": 400}),
    )
    assert 190 * MB <= more.extra.median <= 260 * MB
    assert 190 * MB <= less.extra.median <= 260 * MB
    assert none.extra.median <= 10 * MB
    assert more.peak.median > more.extra.median


def test_a_program_is_measured_as_a_whole(measure):
    run = measure_command([PYTHON, "-c", f"x = bytearray(b'1') * {150 * MB}; print(len(x))"])
    assert run.value == f"{150 * MB}\n"
    assert run.cpu_s > 0
    assert 150 * MB <= run.extra_bytes <= 220 * MB
    with pytest.raises(RuntimeError, match=r"^failed: RuntimeError: \S+ ended with exit code 3$"):
        measure_command([PYTHON, "-c", "raise SystemExit(3)"])
    (expected,) = measure(Contender.command("three", [PYTHON, "-c", "raise SystemExit(3)"], codes=[3]))
    assert expected.runs


def test_the_memory_of_a_program_is_that_of_all_its_processes(measure):
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this system does not tell what a process shares")
    held = f"x = bytearray(b'1') * {100 * MB}; import time; time.sleep(1)"
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {held!r}]); {held}; p.wait()"
    largest, together = measure(
        Contender.command("largest", [PYTHON, "-c", code]),
        Contender.command("together", [PYTHON, "-c", code], tree=True),
    )
    assert 100 * MB <= largest.peak.median <= 150 * MB
    assert 200 * MB <= together.peak.median <= 260 * MB


def test_contenders_take_turns(measure, tmp_path):
    log = str(tmp_path / "log")
    measure(
        Contender("a", "turn", {"file": log, "name": "a"}),
        Contender("b", "turn", {"file": log, "name": "b"}, repeats=2),
        Contender("c", "turn", {"file": log, "name": "c"}),
        repeats=3,
    )
    assert Path(log).read_text(encoding="utf-8") == "abcabcac"


def test_a_contender_has_its_threads_and_environment_and_no_network(measure, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "UADCTL_OFFLINE", "MINE", "PYTHONDONTWRITEBYTECODE"]
    (found,) = measure(Contender("it", "environment", {"names": names}, env={"MINE": "yes"}), threads=3)
    assert [found.value[name] for name in names] == ["3", "3", "1", "yes", None]


def test_what_a_contender_prints_does_not_mix_with_its_figures(measure):
    (found,) = measure(Contender("it", "printing"))
    assert found.runs


def test_what_cannot_run_says_what_it_needs_and_what_breaks_says_how(measure, capsys):
    package, extra, gpu, broken, sound = measure(
        Contender("a", "needs_a_package"),
        Contender("b", "needs_an_extra"),
        Contender("c", "needs_a_gpu"),
        Contender("d", "breaks"),
        Contender("e", "busy", {"rounds": 10}),
        repeats=2,
    )
    assert (package.reason, package.failed) == ("not measured: needs no_such_package", False)
    assert extra.reason == (
        "not measured: no_such_package is not installed. Install it with: pip install 'uadctl[faiss]'"
    )
    assert (gpu.reason, gpu.failed) == ("not measured: needs a GPU", False)
    assert (broken.reason, broken.failed) == ("failed: ValueError: it broke", True)
    assert capsys.readouterr().err.count("ValueError: it broke") == 1  # with its traceback, and not tried again
    assert len(sound.runs) == 2
    assert package.value is None
    assert package.over(sound) is None


def test_a_contender_of_ours_that_is_not_there_is_no_missing_package(measure, capsys):
    (found,) = measure(Contender("it", "benchmarks.no_such_module:ours"))
    assert found.reason == "failed: ModuleNotFoundError: No module named 'benchmarks.no_such_module'"
    capsys.readouterr()


def test_a_share_is_scaled_and_says_so(measure):
    (whole,) = measure(Contender("loop", "busy", {"rounds": 100_000}, scale=1e6, share="1 of a million"))
    assert whole.title == "loop (extrapolated from 1 of a million)"
    assert whole.cpu.low > 100  # a ten-thousandth of a second at least, times a million
    with pytest.raises(ValueError, match=r"^loop: scale \(=2\) needs a share that says what was run$"):
        Contender("loop", "m:f", scale=2)


def ran(title, *cpu, memory=10 * MB, value=None):
    return Measured(Contender(title, "m:f"), tuple(Run(c, c, memory, 2 * memory, value) for c in cpu))


ABSENT = Measured(Contender("absent", "m:f"), (), "not measured: needs X")


def test_ratios_pair_the_repetitions():
    slow, fast = ran("slow", 2.0, 6.0, 4.0), ran("fast", 1.0, 2.0, 1.0)
    assert slow.over(fast) == Spread(3.0, 2.0, 4.0)
    assert ran("once", 8.0).over(fast) == Spread(8.0, 8.0, 8.0)
    assert slow.over(fast, "peak_bytes") == Spread(1.0, 1.0, 1.0)


def test_targets_say_what_was_wanted_and_reached():
    slow, fast = ran("slow", 2.0, 6.0, 4.0, memory=30 * MB), ran("fast", 1.0, 2.0, 1.0)
    assert at_least("x", slow, fast, 3) == Target("x", "≥ 3×", "3.00 [2.00–4.00]×", True)
    assert at_least("x", slow, fast, 3.5).ok is False
    assert at_most("x", fast, slow, 1 / 3, quantity="peak_bytes") == Target("x", "≤ 0.333×", "0.333×", True)
    assert at_least("x", ABSENT, fast, 3) == Target("x", "≥ 3×", "not measured: needs X", None)


def test_a_table_has_a_row_for_every_contender():
    ours, peer = ran("ours", 1.0, value=0.5), ran("peer", 2.0, 3.0, memory=1234 * MB, value=0.25)
    assert table(
        [ours, peer, ABSENT], ours=ours, per=1e-3, unit="ms", columns={"error": lambda m: f"{m.value}"}
    ) == Table(
        ("", "CPU ms [min–max]", "wall ms", "extra MB", "CPU, times ours", "error"),
        (
            ("ours", "1,000", "1,000", "10.0", "1", "0.5"),
            ("peer", "2,500 [2,000–3,000]", "2,500", "1,230", "2.00", "0.25"),
            ("absent", "not measured: needs X", "", "", "", ""),
        ),
    )


def test_parts_measured_apart_add_up():
    both = added("both", ran("a", 1.0, 2.0, memory=3 * MB), ran("b", 10.0, 20.0, memory=5 * MB))
    assert [r.cpu_s for r in both.runs] == [11.0, 22.0]
    assert both.extra.median == 5 * MB
    assert added("both", ran("a", 1.0), ABSENT).reason == "not measured: needs X"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1,230,000"),
        (999.7, "1,000"),
        (99.96, "100"),
        (12.345, "12.3"),
        (1, "1.00"),
        (0.0012345, "0.00123"),
        (-3.3333, "-3.33"),
        (1e-9, "1.00e-09"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


# -- the page

HERE = {
    "processor": "Some CPU",
    "cores": 2,
    "features": ["avx2"],
    "memory_bytes": 8 * 2**30,
    "system": "Linux x86_64",
    "versions": {"uadctl": "1.0", "python": "3.11", "anomalib": None},
}
ABOUT = {
    "commit": "abc",
    "changed": False,
    "date": "2026-01-02",
    "command": "python -m benchmarks it",
    "load": 0.25,
    "roofline": {"gflops_1": 70.0, "gflops_2": 140.0, "gbytes_1": 20.0, "gbytes_2": 30.0},
}


def section(title, **more):
    ours, peer = ran("ours", 1.0), ran("a|peer", 4.0)
    return Section(
        title=title,
        text="What is compared.",
        tables=(table([ours, peer, ABSENT], ours=ours, caption="Caption:"),),
        targets=(at_least("peer / ours", peer, ours, 5),),
        notes=("What limits it.",),
        measured=(ours, peer, ABSENT),
        **more,
    )


def test_the_page_shows_everything(tmp_path):
    document = page.read(tmp_path)
    found = [section("First", figures=(Figure("f.svg", "<svg/>", "A curve"),)), section("Second")]
    page.put(document, "it", found, environment=HERE, about=ABOUT)
    page.write(tmp_path, document, found)
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    for line in (
        "| First | peer / ours | ≥ 5× | 4.00× | **not reached** |",
        "| processor | Some CPU, 2 cores (avx2) |",
        "| memory | 8 GiB |",
        "| packages | uadctl 1.0, anomalib – |",
        "| it | 70.0 | 140 | 20.0 | 30.0 |",
        "## First",
        "## Second",
        "What is compared.",
        "Caption:",
        "| a\\|peer | 4.00 | 4.00 | 10.0 | 4.00 |",
        "| absent | not measured: needs X |  |  |  |",
        "![A curve](f.svg)",
        "What limits it.",
        "*`python -m benchmarks it`, 2026-01-02, commit abc, load average 0.2*",
    ):
        assert f"{line}\n" in text, line
    assert (tmp_path / "f.svg").read_text(encoding="utf-8") == "<svg/>"
    assert page.read(tmp_path) == document


def test_what_is_measured_anew_leaves_the_others_as_they_were(tmp_path):
    document = page.read(tmp_path)
    page.put(document, "one", [section("First")], environment=HERE, about=ABOUT)
    page.put(document, "two", [section("Second")], environment=HERE, about=ABOUT)
    page.write(tmp_path, document)
    before = page.read(tmp_path)
    assert len(before["environments"]) == 1

    again = page.read(tmp_path)
    about = {**ABOUT, "commit": "def", "changed": True, "date": "2026-02-03"}
    page.put(again, "two", [section("Second, again")], environment={**HERE, "processor": "Another CPU"}, about=about)
    page.write(tmp_path, again)
    assert page.read(tmp_path)["benchmarks"]["one"] == before["benchmarks"]["one"]
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "Second, again" in text
    assert "## Second\n" not in text
    assert "Not all figures come from one machine" in text
    assert "*`python -m benchmarks it`, 2026-01-02, commit abc, load average 0.2, machine 1*\n" in text
    assert (
        "*`python -m benchmarks it`, 2026-02-03, commit def, with uncommitted changes, load average 0.2, machine 2*\n"
        in text
    )

    page.put(again, "one", [section("First")], environment={**HERE, "processor": "Another CPU"}, about=about)
    assert [facts["processor"] for facts in again["environments"]] == ["Another CPU"]


def test_the_raw_figures_hold_no_paths():
    contender = Contender("it", "m:f", {"folder": "/home/somebody/data"}, env={"X": "/home/somebody"})
    measured = Measured(contender, (Run(1.0, 1.0, 1, 1, "/home/somebody/runs/1"),))
    document = page.read(Path("/nowhere"))
    page.put(document, "it", [Section(title="It", measured=(measured,))], environment=HERE, about=ABOUT)
    assert "/home" not in json.dumps(document)


# -- the program


@pytest.fixture
def toy(monkeypatch):
    """The program with two benchmarks that measure nothing."""
    monkeypatch.setattr(program, "names", lambda: ["one", "two"])
    monkeypatch.setattr(machine, "roofline", lambda *, quick: ABOUT["roofline"])
    calls = []

    def sections(name, *, quick, full):
        calls.append((name, quick, full))
        return [section(f"Title of {name}")]

    monkeypatch.setattr(program, "sections", sections)
    return calls


def test_the_program_measures_what_is_named_and_keeps_the_rest(toy, tmp_path, capsys):
    assert program.main(["--docs", str(tmp_path)]) == 0
    assert program.main(["two", "--full", "--docs", str(tmp_path)]) == 0
    assert toy == [("one", False, False), ("two", False, False), ("two", False, True)]
    benchmarks = page.read(tmp_path)["benchmarks"]
    assert benchmarks["one"]["command"] == "python -m benchmarks one"
    assert benchmarks["two"]["command"] == "python -m benchmarks two --full"
    assert re.fullmatch(r"[0-9a-f]{12}|unknown", benchmarks["one"]["commit"])
    assert capsys.readouterr().out == ""


def test_toy_sizes_are_printed_and_not_kept(toy, capsys, monkeypatch):
    monkeypatch.setattr(page, "write", lambda *_: pytest.fail("written"))
    assert program.main(["--quick"]) == 0
    assert "## Title of two\n" in capsys.readouterr().out


def test_a_failed_contender_is_said_and_fails_the_program(toy, capsys, monkeypatch):
    broken = Measured(Contender("peer", "m:f"), (), "failed: ValueError: it broke", True)
    monkeypatch.setattr(program, "sections", lambda *_, **__: [Section(title="T", measured=(broken,))])
    assert program.main(["one", "--quick"]) == 1
    assert "error: one: peer: failed: ValueError: it broke\n" in capsys.readouterr().err


def test_an_unknown_benchmark_is_named(toy, capsys):
    with pytest.raises(SystemExit):
        program.main(["three"])
    assert "error: no such benchmark: three; there are: one, two\n" in capsys.readouterr().err


# -- the benchmarks themselves, at toy sizes


def test_there_are_benchmarks():
    assert {"bottle", "growth", "large_image", "startup"} <= set(program.names())
    assert set(program.names()).isdisjoint({"measure", "page", "machine", "__main__"})


def check(sections):
    """Every contender ran, or lacks a package; every section can be shown."""
    assert sections
    for found in sections:
        assert [f"{m.title}: {m.reason}" for m in found.measured if m.failed] == []
    document = page.read(Path("/nowhere"))
    page.put(document, "it", sections, environment=HERE, about=ABOUT)
    text = page.render(document)
    assert all(f"## {found.title}\n" in text for found in sections)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in program.names() if n not in ("startup", "growth", "bottle", "large_image", "gate")]
)
def test_a_benchmark_runs(name):
    check(program.sections(name, quick=True))


@pytest.mark.slow
def test_startup_runs_and_the_commands_do_their_work():
    light, score = program.sections("startup", quick=True)
    check([light, score])
    _, _, help_, models, _, completion = light.measured
    assert "Find defects on images" in help_.value
    assert "vision_patchcore" in models.value
    assert "patchcore" in completion.value
    ours, script, _ = score.measured
    assert json.loads(ours.value)["verdict"] in ("good", "anomaly")
    assert script.value == "[[1, 40, 32, 32], [1, 112, 16, 16]]\n"


@pytest.mark.slow
def test_growth_runs_and_coresets_are_complete():
    (found,) = program.sections("growth", quick=True)
    check([found])
    values = {m.title: m.value for m in found.measured}
    assert values["coreset 10% of 1,000"] == {"chosen": 100, "different": 100}
    assert found.figures[0].svg.startswith("<?xml")


@pytest.mark.slow
def test_the_roof_is_measured():
    roof = machine.roofline(quick=True)
    assert set(roof) == {"gflops_1", "gflops_2", "gbytes_1", "gbytes_2"}
    assert min(roof.values()) > 0


def test_the_environment_names_processor_and_versions():
    facts = machine.environment()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 0
    assert facts["versions"]["torch"]
    assert set(facts["features"]) <= {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"}


def test_exponents_are_those_of_the_larger_sizes():
    sizes = (1, 10, 100, 1000)
    measured = tuple(ran("x", c, memory=m) for c, m in ((5, 7), (5, 7), (1e4, 7), (1e6, 7)))
    found = growth.Curve("bench: sizes", "bench", sizes, measured)
    assert found.exponent(found.cpu) == pytest.approx(2)
    assert found.exponent(found.memory) == pytest.approx(0)
    assert found.rate(found.cpu) == pytest.approx((1e6 - 1e4) / 900)
    assert np.isnan(growth.Curve("x", "x", (1,), measured[:1]).exponent([5]))
    assert np.isnan(found.exponent([0, 1, 2, 3]))


def test_the_figure_shows_every_curve():
    one = growth.Curve("bench: images", "bench", (1, 10), (ran("x", 1.0), ran("x", 2.0)))
    two = growth.Curve("coreset: points", "coreset, 10%", (100, 200), (ran("x", 1.0), ran("x", 2.0)))
    svg = growth.draw({"test images": [one], "points": [two]})
    for text in ("coreset, 10%", "test images", "points", "CPU, seconds", "memory, MB"):
        assert f">{text}</text>" in svg
    assert svg == growth.draw({"test images": [one], "points": [two]})


def test_synthetic_parts_are_a_data_set(tmp_path):
    from uadctl.datasets import load_dataset

    growth.write_parts(tmp_path / "parts", side=32, train=3, test=4)
    found = load_dataset("folder", str(tmp_path / "parts"))
    assert (len(found.train), len(found.test), found.has_masks) == (3, 4, True)
    pictures = [Path(sample.path).read_bytes() for sample in (*found.train, *found.test)]
    assert len(set(pictures)) == 7
    growth.write_parts(tmp_path / "again", side=32, train=3, test=4)
    again = load_dataset("folder", str(tmp_path / "again"))
    assert [Path(sample.path).read_bytes() for sample in (*again.train, *again.test)] == pictures


# -- images larger than memory


def test_the_surface_is_the_same_however_large_and_has_its_scratch(tmp_path):
    import tifffile

    size, scratch = Size(700, 1100), large_image.Scratch(300, 500, 40)
    for name, line in (("clean", None), ("scratched", scratch)):
        large_image.write_surface(tmp_path / f"{name}.tif", size, seed=0, scratch=line)
    with tifffile.TiffFile(tmp_path / "clean.tif") as file:
        assert (file.is_bigtiff, file.pages[0].is_tiled) == (True, True)
        clean = file.asarray()
    assert (clean.shape, clean.dtype) == (size, np.uint8)
    rows, columns = np.nonzero(tifffile.imread(tmp_path / "scratched.tif") != clean)
    assert rows.size == 40 * 12
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (300, 339, 500, 500 + 39 // 4 + 11)
    large_image.write_surface(tmp_path / "again.tif", Size(700, 300), seed=0)
    again = tifffile.imread(tmp_path / "again.tif")
    assert np.array_equal(again, clean[:, :300])
    assert abs(clean.mean() - 110) < 2
    assert clean.std() > 8


def test_the_distance_to_the_scratch_is_0_on_it_alone():
    scratch = large_image.Scratch(8, 20, 10)
    rows, columns = np.arange(30)[:, None], np.arange(50)[None]
    distances = np.array([[scratch.distance(y, x) for x in range(50)] for y in range(30)])
    assert np.array_equal(distances == 0, scratch.pixels(rows, columns))
    assert scratch.pixels(rows, columns).sum() == 10 * 12
    assert (scratch.distance(3, 20), scratch.distance(8, 15), scratch.distance(8, 34), scratch.distance(20, 22)) == (
        5,
        5,
        3,
        3,
    )


@pytest.mark.slow
def test_a_scratch_on_an_image_larger_than_memory_is_found(tmp_path):
    """500 megapixels within 1.5 GB above the loaded model; one four times as large is measured by hand."""
    job = large_image.FULL[0]
    assert job.size == Size(20_000, 25_000)
    found = large_image.scored(tmp_path, job)
    assert not found.failed, found.reason
    assert found.value["megapixels"] == 500
    assert found.value["in_a_file"]
    assert large_image.memory(found).ok
    assert large_image.place(found).ok


@pytest.mark.slow
def test_the_benchmark_of_large_images_runs():
    (found,) = program.sections("large_image", quick=True)
    check([found])
    small, large = found.measured
    assert large.value["megapixels"] == 4 * small.value["megapixels"]
    assert (small.value["in_a_file"], large.value["in_a_file"]) == (False, True)
    assert large.value["megapixels"] * 1e6 > LARGE
    assert [t.ok for t in found.targets] == [True] * 4


# -- false alarms


def test_the_ranges_of_false_alarms_are_those_of_their_distributions():
    """By SciPy: binom.interval(0.95, 2000, 0.01), betabinom.interval(0.95, 2000, 6, 495)."""
    rates = false_alarms.Rates(calibrating=500, tested=2000, alarms=0, untiled=0)
    assert (rates.range(), rates.range_of_quantile()) == ((12, 29), (7, 49))
    assert false_alarms.Rates(100, 1, 0, 0).range() == (0, 0)


@pytest.mark.slow
def test_false_alarms_in_tiles_are_as_many_as_calibrated_for():
    """The reduced form: 40 images say little of 1 %, but a threshold of whole images calls most tiled ones anomalous."""
    found = false_alarms.measure(learned=6, calibrating=40, tested=60)
    low, high = found.range_of_quantile(0.999)
    assert low <= found.alarms <= high < 30


# -- the gate


def test_a_change_is_judged_by_what_the_gate_says_of_the_maps():
    harmful, seed = gate.Change("c"), gate.Change("s", harmful=False)
    assert gate.Outcome(harmful, {}, {"aupro_30": "fell"}).as_wished
    assert not gate.Outcome(harmful, {}, {"image_auroc": "fell"}).as_wished
    assert not gate.Outcome(harmful, {}, {}).as_wished
    assert gate.Outcome(seed, {}, {}).as_wished
    assert not gate.Outcome(seed, {}, {"image_auroc": "fell"}).as_wished


def test_another_normalisation_is_put_back():
    from uadctl.spec.registry import BACKBONES

    right = BACKBONES["efficientnet_lite0"]
    with gate._input((0.0, 255.0)):
        assert BACKBONES["efficientnet_lite0"].std == (255.0, 255.0, 255.0)
    assert BACKBONES["efficientnet_lite0"] is right


@pytest.mark.slow
def test_the_gate_is_measured():
    """The reduced form; tests/test_gate_regression.py says what must come out."""
    (found,) = gate.sections(quick=True)
    check([found])
    assert [t.what for t in found.targets] == [change.title for change in gate.CHANGES]
    assert [t.ok for t in found.targets[1:]] == [True] * 5


# -- the whole job


def test_without_the_data_set_the_page_says_what_is_needed(monkeypatch):
    monkeypatch.delenv("MVTEC_ROOT", raising=False)
    (found,) = bottle.sections(quick=True)
    assert found.text == "Not measured: needs $MVTEC_ROOT, a folder that holds `bottle`."
    check([found])


def test_maps_are_judged_at_the_size_of_the_masks(tmp_path):
    from uadctl.datasets import load_dataset
    from uadctl.imaging.files import read_mask

    made.write_category(tmp_path, "bottle", size=(80, 80))
    test = load_dataset("mvtec", str(tmp_path), category="bottle").test
    maps = np.zeros((len(test), 80, 80), np.float32)
    for i, sample in enumerate(test):
        if sample.masks:
            maps[i] = read_mask(sample.masks, size=(80, 80)) > 0
    np.save(tmp_path / "maps.npy", maps)
    (tmp_path / "scores.json").write_text(json.dumps({s.path: float(s.label) for s in test}), encoding="utf-8")
    found = bottle.judge(root=str(tmp_path), folder=str(tmp_path))()
    assert (found["image_auroc"], found["pixel_auroc"], found["aupro_30"]) == (1.0, 1.0, 1.0)

    np.save(tmp_path / "maps.npy", maps[:, ::2, ::2])  # of another size than the masks
    assert bottle.judge(root=str(tmp_path), folder=str(tmp_path))()["pixel_auroc"] > 0.99
    np.save(tmp_path / "maps.npy", 1 - maps)
    assert bottle.judge(root=str(tmp_path), folder=str(tmp_path))()["pixel_auroc"] == 0.0


def test_rounds_not_run_are_counted_in_place_of_what_stood_in():
    said = {"instead_cpu_s": 3.0, "instead_wall_s": 2.0, "round_cpu_s": 0.1, "round_wall_s": 0.05, "needed": 1000}
    peer = Measured(Contender("peer", "m:f"), (Run(20.0, 15.0, 7, 8, ""),))
    assert bottle._completed(peer, said).runs == (Run(117.0, 63.0, 7, 8, said),)


@pytest.mark.slow
def test_the_whole_job_runs_beside_anomalib(tmp_path, monkeypatch):
    pytest.importorskip("anomalib", reason="the peer")
    pytest.importorskip("timm", reason="the peer's backbones")
    made.write_category(tmp_path, "bottle", train=10, good=3, bad=6, size=(256, 256))
    monkeypatch.setenv("MVTEC_ROOT", str(tmp_path))
    (found,) = bottle.sections(quick=True)
    check([found])
    ours, peer = found.measured
    assert ours.runs
    said = peer.value
    assert (said["points"], said["rounds"]) == (8 * 32 * 32, 3)
    assert said["needed"] == 8 * 32 * 32 // 10 - 1
    assert [t.what for t in found.targets[2:]] == [
        "image_auroc, difference",
        "pixel_auroc, difference",
        "aupro_30, difference",
    ]
    # The same weights, layers and images: the raw scores rank alike, whatever the coresets' first points.
    assert all(float(t.reached) <= 0.02 for t in found.targets[2:])
