"""What a TAB offers, in the scripts of completions/ and in the program behind them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from uadctl.cli.complete import complete_dataset, complete_model, complete_run
from uadctl.spec.data_sets import DATASETS
from uadctl.spec.registry import MODELS, ModelEntry

OFFERED = {name for name, entry in MODELS.items() if entry.offered}

FOLDER = Path(__file__).parents[1] / "completions"
SCRIPTS = {"bash": "uadctl.bash", "zsh": "_uadctl", "fish": "uadctl.fish"}
# As the console script does; -c lets a test look at what was loaded.
PROGRAM = "import sys; sys.argv[0] = 'uadctl'; from uadctl.cli.entry import main; main()"
HEAVY = {
    "torch",
    "torchvision",
    "cv2",
    "numpy",
    "tifffile",
    "sklearn",
    "faiss",
    "anomalib",
    "matplotlib",
    "jinja2",
    "rich",
}
REPORT = (
    "import atexit, sys; "
    "atexit.register(lambda: sys.stderr.write('LOADED ' + ' '.join(m.partition('.')[0] for m in sys.modules))); "
)


def program(folder: Path | None = None, *, code: str = PROGRAM, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env={**os.environ, **variables}
    )


def tab(shell: str, line: str, folder: Path | None = None, *, code: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    """What a shell asks of the program at a TAB at the end of a line."""
    if shell == "bash":
        words = line.replace("=", " = ").split(" ")
        words = [word for i, word in enumerate(words) if word or i == len(words) - 1]
        asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        asked = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return program(folder, code=code, _UADCTL_COMPLETE=f"complete_{shell}", **asked)


def words(shell: str, line: str, folder: Path | None = None) -> list[str]:
    done = tab(shell, line, folder)
    assert done.stderr == ""
    assert done.returncode == 0
    if shell != "zsh":
        return [line.partition("\t")[0] for line in done.stdout.splitlines() if line]
    inside = done.stdout.strip().removeprefix("_arguments '*: :((").removesuffix("))'")
    return [] if inside == "_files" else [word.split('"')[1] for word in inside.splitlines()]


# ---- the scripts


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_scripts_are_what_the_program_prints(shell):
    done = program(_UADCTL_COMPLETE=f"source_{shell}")
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout == (FOLDER / SCRIPTS[shell]).read_text(encoding="utf-8")


def test_each_script_says_how_it_is_written():
    assert sorted(p.name for p in FOLDER.iterdir()) == sorted(SCRIPTS.values())
    for shell, name in SCRIPTS.items():
        lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
        assert f"# Written by: _UADCTL_COMPLETE=source_{shell} uadctl" in lines[:2]


def test_compinit_takes_the_zsh_file():
    lines = (FOLDER / "_uadctl").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#compdef uadctl"
    assert lines[-1] == '[[ $funcstack[1] = _uadctl ]] && _uadctl_completion "$@"'


def installed(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    return found


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_shells_read_their_scripts(shell):
    done = subprocess.run([installed(shell), "-n", FOLDER / SCRIPTS[shell]], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def on_path(tmp_path, monkeypatch) -> Path:
    """A folder in which `uadctl` is a command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "uadctl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PROGRAM}" "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bash_completes_by_its_script(on_path):
    code = f"""
        source '{FOLDER / "uadctl.bash"}'
        complete -p uadctl
        COMP_WORDS=(uadctl fit --d); COMP_CWORD=2
        _uadctl_completion uadctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([installed("bash"), "--norc", "-c", code], capture_output=True, text=True, check=True)
    registered, *offered = done.stdout.splitlines()
    assert registered == "complete -o default -F _uadctl_completion uadctl"
    assert sorted(offered) == ["--dataset", "--debug", "--device", "--dry-run"]


def test_the_first_tab_in_zsh_completes(on_path):
    code = f"""
        fpath=('{FOLDER}' $fpath)
        autoload -Uz _uadctl
        compdef() {{ print -r -- "compdef $@" }}
        _arguments() {{ print -r -- "$@" }}
        words=(uadctl models show vi); CURRENT=4
        _uadctl
    """
    done = subprocess.run([installed("zsh"), "-f", "-c", code], capture_output=True, text=True, check=True)
    registered, offered = done.stdout.splitlines()
    assert registered == "compdef _uadctl_completion uadctl"
    assert offered.startswith('*: :(("vision_patchcore":"')


def test_fish_completes_by_its_script(on_path):
    code = f"source '{FOLDER / 'uadctl.fish'}'; complete -C 'uadctl bench --model vi'"
    done = subprocess.run([installed("fish"), "--no-config", "-c", code], capture_output=True, text=True, check=True)
    assert "vision_patchcore" in [line.partition("\t")[0] for line in done.stdout.splitlines()]


# ---- the program behind them


@pytest.mark.parametrize("shell", SCRIPTS)
def test_options_are_offered_and_files_left_to_the_shell(shell):
    assert set(words(shell, "uadctl fit --d")) == {"--dataset", "--device", "--debug", "--dry-run"}
    assert words(shell, "uadctl score nowhere-") == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("uadctl sc", {"score", "schema"}),
        ("uadctl bench --dataset ", set(DATASETS)),
        ("uadctl fit --model ", OFFERED),
        ("uadctl models show ", OFFERED),
        ("uadctl datasets show ", set(DATASETS)),
    ],
)
def test_commands_and_names(line, offered):
    assert set(words("fish", line)) == offered


@pytest.mark.parametrize(
    ("shell", "offered"), [("bash", "demo"), ("zsh", "--dataset=demo"), ("fish", "--dataset=demo")]
)
def test_a_value_behind_an_equals_sign(shell, offered):
    assert words(shell, "uadctl bench --dataset=de") == [offered]


def test_help_stands_beside_a_name():
    assert tab("fish", "uadctl bench --dataset de").stdout == f"demo\t{DATASETS['demo'].summary}\n"
    assert tab("zsh", "uadctl schema sp").stdout == "_arguments '*: :((\"spec\"))'\n"


def test_what_is_quoted_in_a_help_text_does_not_end_a_quotation():
    text = tab("zsh", "uadctl bench --model-").stdout
    assert text.startswith('_arguments \'*: :(("--model-kwargs":"Model parameters as a JSON object')
    assert text.count("'") % 2 == 0
    assert text.count('"') % 2 == 0


def test_another_shell_is_refused_in_words():
    done = program(_UADCTL_COMPLETE="source_tcsh")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Shell tcsh not supported.\n")


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A working directory with two run folders, one that is none, and other files."""
    monkeypatch.chdir(tmp_path)
    for name in ("20260101T000000Z-a-01234567", "20260102T000000Z-my part-01234567"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in ("run.json", "spec.toml"):
            (tmp_path / "runs" / name / file).touch()
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "specs").mkdir()
    for file in ("rust.toml", ".hidden"):
        (tmp_path / file).touch()
    return tmp_path


A, B = "runs/20260101T000000Z-a-01234567", "runs/20260102T000000Z-my part-01234567"


@pytest.mark.parametrize(
    ("incomplete", "offered"),
    [
        ("", [A, B, "rust.toml", "specs/"]),
        ("ru", [A, B, "rust.toml"]),
        ("runs/", [A, B, "runs/notes/"]),
        ("runs/20260102", [B]),
        # Here the shell completes files by itself.
        ("sp", []),
        ("runs/n", []),
        ("nowhere/", []),
    ],
)
def test_run_folders_and_the_files_beside_them(runs, incomplete, offered):
    assert complete_run(incomplete) == offered


def test_without_runs_the_shell_completes_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").touch()
    assert complete_run("") == []


@pytest.mark.parametrize("command", ["bench", "fit", "score", "calibrate", "report"])
def test_commands_that_take_a_run_offer_runs(runs, command):
    assert words("fish", f"uadctl {command} runs/2", runs) == [A, B]


def test_bash_gets_words_that_need_no_more_quoting(runs):
    assert words("bash", "uadctl score runs/20260102", runs) == [B.replace(" ", "\\ ")]


def test_images_are_the_shells_matter(runs):
    assert words("fish", f"uadctl score {A} ", runs) == []


def test_aliases_are_offered_once_begun(monkeypatch):
    entry = ModelEntry(name="vision_zebra", target="nowhere:Zebra", summary="stripes", aliases=("zebra",))
    monkeypatch.setitem(MODELS, entry.name, entry)
    assert "zebra" not in dict(complete_model(""))
    assert complete_model("ze") == [("zebra", "stripes")]
    assert complete_model("vision_z") == [("vision_zebra", "stripes")]
    assert dict(complete_dataset("cus")) == {"custom": DATASETS["folder"].summary}


def test_what_is_not_offered_is_not_completed():
    assert complete_model("vision_ai_vad") == []
    assert [name for name, _ in complete_model("vision_efficient")] == [
        "vision_efficient_ad_anomalib",
        "vision_efficientad_anomalib",
    ]


def loaded(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(done.stderr.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize(
    ("shell", "line"), [("bash", "uadctl score "), ("zsh", "uadctl fit --"), ("fish", "uadctl bench --model ")]
)
def test_a_tab_loads_nothing_heavy(runs, shell, line):
    done = tab(shell, line, runs, code=REPORT + PROGRAM)
    assert done.stdout
    assert "typer" in loaded(done)
    assert loaded(done) & HEAVY == set()


def test_a_heavy_import_at_a_tab_would_be_seen():
    done = tab("zsh", "uadctl fit --", code=f"{REPORT}import rich; {PROGRAM}")
    assert loaded(done) & HEAVY == {"rich"}
