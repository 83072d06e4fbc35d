"""The program's manners: streams, exit codes, messages, help; the same in every command."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import parts
import pytest

import uadctl as package
from uadctl.cli.console import Screen
from uadctl.records import Tiling
from uadctl.spec.data_sets import DATASETS
from uadctl.spec.registry import MODELS, ModelEntry

COMMANDS = ("bench", "fit", "score", "models", "datasets")


def test_help_names_every_command_and_exit_code(uadctl):
    text = uadctl("--help").out
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", text, re.M)
    for code in ("0 done", "1 failed", "2 something to fix", "3 a gate failed", "4 an anomaly", "130 interrupted"):
        assert code in " ".join(text.split())
    assert uadctl("-h").out == text


def test_help_of_bench_shows_how_to_give_parameters_and_checkpoints(uadctl):
    text = " ".join(uadctl("bench", "--help").out.split())
    assert "--model-kwargs JSON" in text
    assert """e.g. '{"coreset_ratio": 0.01}'""" in text
    assert "--checkpoint-path FILE" in text
    assert "e.g. --checkpoint-path model.ckpt" in text


def test_version(uadctl):
    assert uadctl("--version").out == f"uadctl {package.__version__}\n"


@pytest.mark.parametrize("name", ["models", "datasets"])
def test_alone_means_list(uadctl, name):
    assert uadctl(name).out == uadctl(name, "list").out
    assert len(uadctl(name, "list", "--json").json) >= 1


def test_listing_filters_by_tag(uadctl):
    assert [m["name"] for m in uadctl("models", "list", "--tag", "memory-bank", "--tag", "cnn", "--json").json] == [
        "vision_patchcore"
    ]
    assert uadctl("models", "list", "--tag", "memory-bank", "--tag", "banana", "--json").json == []


def test_data_sets_have_one_line_each(uadctl):
    text = uadctl("datasets", "list").out
    for name in ("demo", "folder", "mvtec"):
        assert len(re.findall(rf"^ {name} ", text, re.M)) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["bench", "--banana"], "error: no such option: --banana\n  See: uadctl bench --help\n"),
        (
            ["bench", "--seed", "x"],
            "error: invalid value for '--seed': 'x' is not a valid int.\n  See: uadctl bench --help\n",
        ),
        (["banana"], "error: no such command 'banana'.\n  See: uadctl --help\n"),
        (["score"], "error: missing argument 'RUN|SPEC|BUNDLE'.\n  See: uadctl score --help\n"),
    ],
)
def test_errors_of_usage_are_one_line_and_a_hint(uadctl, args, message):
    ended = uadctl(*args, code=2)
    assert ended.err.replace("root --help", "uadctl --help") == message
    assert ended.out == ""


def test_every_problem_of_a_spec_is_a_line(uadctl, tmp_path):
    spec = tmp_path / "screw.toml"
    spec.write_text('[dataset]\nname = "demo"\n[model]\nname = "patchcor"\n[run]\nsead = 1\nseed = -1\n')
    ended = uadctl("bench", "screw.toml", code=2)
    lines = [line for line in ended.err.splitlines() if not line.startswith("  ")]
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        ["error", "screw.toml:4"],
        ["error", "screw.toml:6"],
        ["error", "screw.toml:7"],
    ]
    assert lines[-1] == "screw.toml: 3 problems (listed above); nothing was run."
    assert ended.out == ""


def test_an_unset_variable_is_named(uadctl, monkeypatch, tmp_path):
    monkeypatch.delenv("MVTEC_ROOT", raising=False)
    spec = Path(__file__).parents[1] / "specs" / "mvtec_patchcore.toml"
    ended = uadctl("bench", spec, code=2)
    assert "the environment variable MVTEC_ROOT is not set" in ended.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--root", "nowhere"], "nowhere"),
        (["--category", "til"], ' has no category "til"; did you mean tile?'),
        (["--model-kwargs", "[1]"], "error: --model-kwargs: expected a JSON object, found a list: "),
        (["--model-kwargs", "{"], "error: --model-kwargs is not valid JSON: "),
        (["--model-kwargs", '{"coreset_rate": 1}'], "did you mean coreset_ratio"),
        (["--set", "model.params.coreset_ratio=0.0"], "model.params.coreset_ratio=0.0: must lie in (0, 1]"),
        (["--set", "model.params.backbone=resnet19"], "no such backbone; did you mean resnet"),
        (["--checkpoint-path", "m.ckpt"], "vision_patchcore takes no checkpoint"),
        (["--set", "metrics.pixels=false"], "did you mean pixel"),
        (["--set", "model.params.weights=absent.pth"], "absent.pth: no such weights file"),
    ],
)
def test_what_a_user_can_fix_ends_with_2_before_anything_is_made(uadctl, small, tmp_path, args, message):
    if args[0] == "--root":
        small = [a for a in small if a != small[2] or a == "--root"]
        small = ["--dataset", "mvtec", "--model", "patchcore"]
    ended = uadctl("bench", *small, *args, code=2)
    assert message in ended.err
    assert ended.err.startswith("error: ")
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("remove", ["tile/train", "tile/test", "tile"])
def test_empty_and_missing_folders_have_their_own_messages(uadctl, small, one_category, remove):
    import shutil

    shutil.rmtree(one_category / remove)
    ended = uadctl("bench", *small, code=2)
    assert (
        ended.err.splitlines()[0].replace(str(one_category), "ROOT")
        == {
            "tile/train": "error: ROOT holds no MVTec category: expected ROOT/<category>/train/good, found tile/",
            "tile/test": "error: ROOT/tile/test: no such folder",
            "tile": "error: ROOT holds no MVTec category: expected ROOT/<category>/train/good, found nothing",
        }[remove]
    )


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", 'error: device "cuda:99": this machine has '),
        ("banana", 'error: device "banana": no such device\n'),
    ],
)
def test_a_device_that_is_not_there_is_said_before_any_work(uadctl, small, finished, tmp_path, device, message):
    ended = uadctl("score", finished, tmp_path, "--device", device, code=2)
    assert ended.err.startswith(message)
    assert "Expected: auto (the best there is), cpu, cuda, cuda:N or mps." in ended.err
    if device != "banana":
        assert uadctl("bench", *small, "--device", device, code=2).err.startswith(message)
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["--output", "--maps"])
def test_places_that_cannot_be_written_to_are_said_before_any_work(uadctl, finished, tmp_path, option):
    parts.write(tmp_path / "new" / "0.png", parts.surface(0))
    (tmp_path / "file").write_text("in the way")
    target = "file/lines.csv" if option == "--output" else "file"
    ended = uadctl("score", finished, "new", option, target, code=2)
    assert ended.err.startswith(f"error: {option} {target}: file cannot be written to: ")
    ended = uadctl("bench", "--dataset", "demo", "--model", "patchcore", "--output", tmp_path, code=2)
    assert ended.err == f"error: --output {tmp_path}: is a folder, expected a file to write\n"


def test_a_report_is_not_written_over_the_spec_or_another_report(uadctl, tmp_path):
    spec = tmp_path / "s.toml"
    spec.write_text('[dataset]\nname = "demo"\n[model]\nname = "patchcore"\n')
    ended = uadctl("bench", "s.toml", "--output", spec, code=2)
    assert ended.err == f"error: --output {spec}: is the same file as SPEC\n  Name another file.\n"
    ended = uadctl("bench", "s.toml", "--output", "r", "--junit", "./r", code=2)
    assert ended.err == "error: --junit ./r: is the same file as --output\n  Name another file.\n"
    assert spec.read_text().startswith("[dataset]")


def test_a_file_name_cannot_forge_a_message(uadctl, small, one_category):
    (one_category / "tile" / "test" / "good" / "evil\nerror: forged\x1b[31m.png").write_bytes(b"junk")
    ended = uadctl("bench", *small, code=1)
    assert ended.err.count("error: ") == 2  # ours, and the one in the name
    assert len([line for line in ended.err.splitlines() if line.startswith("error: ")]) == 1
    assert "\x1b" not in ended.err


def test_dry_run_checks_weights_files_and_libraries(uadctl, small, monkeypatch):
    ended = uadctl("bench", *small, "--dry-run", "--set", "model.params.weights=absent.pth", code=2)
    assert "absent.pth: no such weights file" in ended.err
    monkeypatch.setenv("UADCTL_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", "nowhere")
    ended = uadctl("bench", *small, "--dry-run", "--set", "model.params.backbone=resnet18", code=2)
    assert "resnet18-f37072fd.pth are not on this machine, and UADCTL_OFFLINE is set" in ended.err
    Path("text.pth").write_text("no weights")
    ended = uadctl("bench", *small, "--set", "model.params.weights=text.pth", code=2)
    assert ended.err.startswith(
        f"error: {Path('text.pth').absolute()}: cannot be read as a state dict (UnpicklingError)\n"
    )
    assert not Path("runs").exists()
    monkeypatch.setitem(sys.modules, "faiss", None)
    ended = uadctl("bench", *small, "--dry-run", "--set", "model.params.knn_backend=faiss", code=2)
    assert "pip install 'uadctl[faiss]'" in ended.err


def test_a_threshold_must_be_finite(uadctl, finished, tmp_path):
    for value in ("nan", "inf"):
        ended = uadctl("score", finished, tmp_path, f"--threshold={value}", code=2)
        assert ended.err == f"error: --threshold {value}: expected a finite number\n"


TILED = {
    ("--tile-size", "64"): Tiling(size=64, stride=48),
    ("--tile-size", "64", "--tile-stride", "64"): Tiling(size=64, stride=64),
    ("--tile-size", "16", "--tile-stride", "1", "--tile-reduce", "hann"): Tiling(size=16, stride=1, reduce="hann"),
    (): None,
}


@pytest.mark.parametrize(("options", "tiling"), TILED.items())
def test_score_and_calibrate_hand_on_the_tiling(uadctl, finished, monkeypatch, options, tiling):
    given = []

    def verb(*args, tiling, **options):
        given.append(tiling)
        return []

    monkeypatch.setattr(importlib.import_module("uadctl.score"), "score", verb)
    monkeypatch.setattr(importlib.import_module("uadctl.calibrate"), "calibrate", verb)
    uadctl("score", finished, "new", *options)
    uadctl("calibrate", finished, "--good", "new", *options)
    assert given == [tiling, tiling]


WRONG_TILES = [
    (
        ("--tile-size", "15"),
        "error: --tile-size 15: expected an integer >= 16\n",
    ),
    (
        ("--tile-stride", "8"),
        "error: --tile-stride 8: has no effect without --tile-size\n  Give --tile-size N.\n",
    ),
    (
        ("--tile-reduce", "max"),
        "error: --tile-reduce max: has no effect without --tile-size\n  Give --tile-size N.\n",
    ),
    (
        ("--tile-size", "64", "--tile-stride", "65"),
        "error: --tile-stride 65: expected an integer >= 1 and <= 64, the size of a tile\n  Left out it is 48.\n",
    ),
    (
        ("--tile-size", "64", "--tile-stride", "0"),
        "error: --tile-stride 0: expected an integer >= 1 and <= 64, the size of a tile\n  Left out it is 48.\n",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG_TILES)
def test_tiles_that_cannot_be(uadctl, finished, options, message):
    assert uadctl("score", finished, "new", *options, code=2).err == message
    assert uadctl("calibrate", finished, "--good", "new", *options, code=2).err == message


def test_a_blending_that_there_is_not(uadctl, finished):
    ended = uadctl("score", finished, "new", "--tile-size", "64", "--tile-reduce", "avg", code=2)
    assert ended.err == (
        "error: invalid value for '--tile-reduce': 'avg' is not one of 'mean', 'max', 'hann'.\n"
        "  See: uadctl score --help\n"
    )


def test_the_runs_own_scores_are_not_those_of_tiles(uadctl, finished):
    assert uadctl("calibrate", finished, "--tile-size", "64", code=2).err == (
        "error: --tile-size 64: needs --good: the run's own normal scores were not made of such tiles\n"
        "  Give good images that the model has not learned: --good DIR\n"
    )


def test_several_wrong_ranges_are_several_lines(uadctl, small):
    given = ["--set", "model.params.coreset_ratio=0.0", "--set", "model.params.sigma=-1.0"]
    ended = uadctl("bench", *small, *given, code=2)
    assert [line for line in ended.err.splitlines() if line.startswith("error: ")] == [
        "error: --set model.params.coreset_ratio=0.0: must lie in (0, 1]",
        "error: --set model.params.sigma=-1.0: must be at least 0",
    ]


def test_values_out_of_range_have_their_lines(uadctl, tmp_path):
    (tmp_path / "s.toml").write_text(
        '[dataset]\nname = "demo"\n[model]\nname = "patchcore"\n[model.params]\nsigma = -1\nbackbone = "resnet19"\n'
    )
    lines = uadctl("bench", "s.toml", code=2).err.splitlines()
    assert lines[0] == "error: s.toml:6: [model.params] sigma = -1: must be at least 0"
    assert lines[1].startswith('error: s.toml:7: [model.params] backbone = "resnet19": no such backbone; did you mean ')


def test_the_table_fits_80_columns_and_breaks_no_name(uadctl, one_category, small, monkeypatch):
    parts.write_category(one_category, "brushed_metal")
    monkeypatch.setenv("COLUMNS", "80")
    lines = uadctl("bench", *small).out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert sum(line.startswith(" brushed_metal ") for line in lines) == 2
    assert not any(line != line.rstrip() for line in lines)


def test_bare_program_prints_its_help_and_ends_with_2(uadctl):
    ended = uadctl(code=2)
    assert ended.err.startswith("Usage: ")
    assert "Exit codes: " in ended.err
    assert ended.out == ""


def test_resume_and_fit_say_what_they_need(uadctl):
    assert uadctl("bench", "--resume", code=2).err.startswith("error: --resume: which run?\n")
    assert uadctl("fit", code=2).err.startswith("error: nothing to learn from: give a SPEC, --good DIR, or --dataset\n")


def test_a_tag_that_no_model_has_is_said(uadctl):
    assert uadctl("models", "list", "--tag", "foo").err == "warning: no model has every one of the tags: foo\n"


def test_help_has_a_line_for_each_data_set(uadctl):
    text = uadctl("bench", "--help").out
    starts = [re.findall(rf"^( +{name}  +)\w", text, re.M) for name in DATASETS]
    assert {len(found) for found in starts} == {1}
    assert len({len(found[0]) for found in starts}) == 1
    assert len(starts) >= 8


@pytest.mark.parametrize("words", [["bench"], ["fit"], ["datasets", "check"], ["datasets", "split"]])
def test_help_fits_80_columns(uadctl, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(len(line) for line in uadctl(*words, "--help").out.splitlines()) <= 80


class NeedsCheckpoint:
    """A detector of the tests that works only with a checkpoint."""

    offers_left_out = False
    stride = 8

    def __init__(self, *, checkpoint_path: str, device: str = "cpu") -> None:
        self.checkpoint_path = checkpoint_path
        self.device = device

    def weights_state(self) -> str:
        return "path"

    def prepare(self, *, download: bool = True) -> None:
        pass


@pytest.fixture
def checkpoint_model(monkeypatch):
    entry = ModelEntry(
        name="vision_needs",
        target=f"{__name__}:NeedsCheckpoint",
        summary="needs a checkpoint",
        requires_checkpoint=True,
        path_params=("checkpoint_path",),
    )
    monkeypatch.setitem(MODELS, entry.name, entry)


def test_flag_and_kwargs_reach_the_constructor_as_one_checkpoint_path(uadctl, small, checkpoint_model, monkeypatch):
    seen = []

    def spy(name, **kwargs):
        seen.append((name, kwargs))
        return NeedsCheckpoint(**kwargs)

    monkeypatch.setattr("uadctl.plan.create_model", spy)
    small[5] = "vision_needs"
    given = ["--checkpoint-path", "m.ckpt", "--model-kwargs", '{"device": "cpu"}', "--dry-run"]
    uadctl("bench", *small, *given)
    assert seen
    assert all(
        s == ("vision_needs", {"checkpoint_path": str(Path("m.ckpt").absolute()), "device": "cpu"}) for s in seen
    )


def test_a_missing_checkpoint_is_said_before_data_are_looked_for(uadctl, small, checkpoint_model):
    small[3], small[5] = "/nowhere", "vision_needs"
    ended = uadctl("bench", *small, code=2)
    assert "vision_needs needs a checkpoint and none is given" in ended.err
    assert "nowhere" not in ended.err


def test_hostile_input_does_not_flood(uadctl, one_category, small):
    for i in range(3000):
        (one_category / "tile" / "train" / "good" / f"{'x' * 100}{i}.png").touch()
    ended = uadctl("bench", *small, "--set", "dataset.on_error=skip")
    assert 10_000 < len(ended.err.encode()) < 100_000
    assert re.fullmatch(r"and \d+ more lines", ended.err.splitlines()[-1])


def test_a_long_line_is_cut_and_not_dropped(capsys):
    screen = Screen()
    screen.message("error", "é" * 100_000, "y" * 100_000)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: " + "é" * 7996 + "…"
    assert second == "  " + "y" * 15_998 + "…"
    for i in range(1000):
        screen.message("error", f"{i} {'z' * 998}")
    screen.close()
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines), lines[-1]) == (32, "and 969 more lines")


def test_the_first_error_is_said_after_any_number_of_warnings(capsys):
    screen = Screen()
    for i in range(2000):
        screen.message("warning", f"{i} {'z' * 98}")
    screen.message("error", "this is why", "a help")
    screen.message("error", "another")
    screen.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("warning: ")] == ["error: this is why", "and 1430 more lines"]


def test_a_path_of_100_kilobytes_is_still_an_error(uadctl, tmp_path):
    (tmp_path / "m.csv").write_text(f"path,split,label\n{'x' * 100_000},train,0\n")
    ended = uadctl("datasets", "check", "manifest", "--root", "m.csv", code=2)
    assert ended.err.startswith("error: m.csv:2: xxx")
    ended = uadctl("datasets", "check", "x" * 20_000, code=2)
    assert ended.err.startswith('error: "xxx')
    assert "…: no such data set. Choose from: " in ended.err


def test_quiet_silences_warnings_and_not_errors(uadctl, small):
    loud = uadctl("bench", *small, "--no-pretrained", "--limit-train", "2")
    assert "warning: " in loud.err
    assert uadctl("bench", *small, "--no-pretrained", "--limit-train", "2", "--quiet").err == ""
    assert uadctl("bench", *small, "--quiet", "--category", "x", code=2).err.startswith("error: ")


def test_no_bars_where_stderr_is_no_terminal(uadctl, small):
    assert uadctl("bench", *small).err == ""


def test_a_bug_is_one_line_and_a_traceback_with_debug(uadctl, small, monkeypatch):
    def bug(*args, **kwargs):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("uadctl.bench.make_plan", bug)
    ended = uadctl("bench", *small, code=1)
    assert ended.err.startswith("error: ZeroDivisionError: oops\n")
    assert "Traceback" not in ended.err
    with pytest.raises(ZeroDivisionError):
        uadctl("bench", *small, "--debug")


def program(*args: object, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "uadctl", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts jobs in the background lets them ignore Ctrl-C; these must not inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_130_and_a_resumable_folder(one_category, tmp_path, number):
    parts.write_category(one_category, "panel", train=40, size=(256, 256))
    run_dir = tmp_path / "runs"
    process = program(
        "bench",
        "--dataset",
        "mvtec",
        "--root",
        one_category,
        "--model",
        "patchcore",
        "--run-dir",
        run_dir,
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 60
    while not list(run_dir.glob("*/units/*/*/*/status")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[0] == "error: interrupted"
    assert '"status": "interrupted"' in next(run_dir.glob("*/run.json")).read_text()


def test_a_reader_that_goes_away_is_no_error(finished, tmp_path):
    for i in range(4):
        parts.write(tmp_path / "many" / f"{i}.png", parts.surface(i))
    process = program("score", finished, tmp_path / "many", "--json", "--quiet")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        err = process.stderr.read()
    process.wait(timeout=60)
    assert err == ""
    assert process.returncode == 1


def test_bars_name_the_device(finished, tmp_path):
    pty = pytest.importorskip("pty", reason="bars need a terminal, which this system cannot make")
    parts.write(tmp_path / "new" / "0.png", parts.surface(0))
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "uadctl",
                "score",
                str(finished),
                str(tmp_path / "new"),
                "--json",
                "--device",
                "cpu",
            ],
            stdout=subprocess.PIPE,
            stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(follower)
        seen = b""
        while True:
            try:
                chunk = terminal.read(4096)
            except OSError:  # Linux says so when the other side is closed
                break
            if not chunk:
                break
            seen += chunk
        out = process.communicate(timeout=60)[0]
    assert b"score" in seen
    assert b"0/1" in seen
    assert b"cpu" in seen
    assert out.count(b"\n") == 1


def test_a_name_that_no_file_can_have_is_an_error_of_use(uadctl, small):
    name = "a" * 300 + ".json"
    ended = uadctl("bench", *small, "--output", name, code=2)
    assert ended.err == f"error: --output {name}: cannot be written: File name too long\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is /dev/full of Linux")
@pytest.mark.parametrize("words", [["models", "list"], ["schema"], ["--version"]])
def test_a_full_disk_behind_stdout_is_named(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "uadctl", *words], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert (ended.returncode, ended.stderr) == (1, b"error: standard output: No space left on device\n")
