"""Text of hostile size, depth or form: refused in a moment, in words, wherever text is read."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import made_runs
import pytest
import run_by_hand

import uadctl as package
from uadctl import untrusted
from uadctl.datasets import manifest
from uadctl.errors import DataError, RunError, SpecError, WeightsError
from uadctl.features.weights import load_state, records
from uadctl.runs.baseline import read_baseline
from uadctl.runs.folder import read_document
from uadctl.runs.listing import list_runs
from uadctl.spec import parse_model_kwargs, read_spec
from uadctl.spec.lines import find_lines, split_assignment
from uadctl.untrusted import Hostile, check_safetensors, parse_json, parse_toml, read_bounded

DEEP = "[" * 65 + "]" * 65


def refused(parse, text) -> str:
    with pytest.raises(Hostile) as caught:
        parse(text)
    return str(caught.value)


# ---- JSON


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null, true, "\\u00e9\\ud800"]}', {"a": [1, 2.5, None, True, "\u00e9\ud800"]}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ("[" * 64 + "]" * 64, json.loads("[" * 64 + "]" * 64)),
        ('["' + "[" * 1000 + '\\"' + "{" * 1000 + '\\\\"]', ["[" * 1000 + '"' + "{" * 1000 + "\\"]),
        ("9" * 4300, int("9" * 4300)),
    ],
    ids=["values", "BOM", "64 deep", "brackets in a string", "4300 digits"],
)
def test_honest_json_is_read(text, value):
    assert parse_json(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested too deeply"),
        ("[" + "[]," * 1_900_000 + "[]]", "more values than are read: 1900000 commas and colons in 5700004 bytes"),
        ("[" + "{}," * 800_000 + "{}]", "more values than are read: 800000 commas and colons in 2400004 bytes"),
        ('"\U0001f600' + "a" * 24_000_000 + '"', "more values than are read: 0 commas and colons in 24000006 bytes"),
        ('"\\ud83d' + "a" * 24_000_000 + '"', "more values than are read: 0 commas and colons in 24000008 bytes"),
        (b" " * (48 * 2**20 + 1), "longer than 50331648 bytes"),
        ("1" * 4301, "a number of more than 4300 digits"),
    ],
    ids=["deep", "deeper", "tables", "lists", "many tables", "wide", "escaped wide", "long", "digits"],
)
def test_hostile_json_is_refused(text, said):
    assert refused(parse_json, text) == said


def test_many_different_names_are_refused_and_as_many_equal_ones_are_not():
    different = "[" + ",".join(f'{{"{i:x}":1}}' for i in range(450_000)) + "]"
    assert refused(parse_json, different).startswith("more values than are read: 899999 commas and colons in ")
    assert len(parse_json("[" + ",".join(['{"same":1}'] * 450_000) + "]")) == 450_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("1e999", "1e999 is too large a number"),
        ('{"a": 1, "b": 2, "a": 1}', '"a" is given twice'),
        ('{"a": {"b": 1, "b": 1}}', '"b" is given twice'),
        ('{"a": 1, "a": 1, "b": "' + " " * 2**20 + '"}', "a name is given twice in an object"),
        (b'"\xff"', "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"),
        ("", "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_what_is_no_strict_json_is_refused(text, said):
    with pytest.raises(ValueError, match=".") as caught:
        parse_json(text)
    assert str(caught.value) == said
    assert not isinstance(caught.value, Hostile)


def test_a_large_document_is_read_as_a_small_one():
    value = {"a:b": {"c": ['x", "y":', "\\", '\\":'] * 40_000}, "d": [{"e": 1, "f": {}}] * 1000}
    text = json.dumps(value)
    assert len(text) > 2**20
    assert parse_json(text) == value


def test_metrics_of_a_sweep_of_10_000_cells_are_read(tmp_path):
    cell = {
        "success": True,
        "metrics": {f"metric_{i}": 0.12345678901234 + i for i in range(22)},
        "counts": {f"count_{i}": 1000 + i for i in range(12)},
        "by_defect": {f"kind {k}": {f"metric_{i}": 0.98765432109 for i in range(9)} for k in range(4)},
    }
    one = json.dumps(cell, indent=2)
    text = '{"schema": 1, "results": {"tile": {' + ",\n".join(f'"m{i}": {{"0": {one}}}' for i in range(10_000)) + "}}}"
    (tmp_path / "metrics.json").write_text(text)
    assert len(read_document(tmp_path / "metrics.json")["results"]["tile"]) == 10_000


# ---- TOML


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + DEEP, "nested too deeply"),
        ("a = " + "[" * 9000, "nested too deeply"),
        ("a = " + "{b=" * 70 + "1" + "}" * 70, "nested too deeply"),
        (".".join("a" * 13) + " = 1", "a key of more than 12 parts"),
        ("[" + " . ".join(['"a b"'] * 13) + "]", "a key of more than 12 parts"),
        ("[" + ".".join(["'a'"] * 200_000) + "]", "a key of more than 12 parts"),
        ("a=1\n" * 10_001, "more values than are read: 10001 assignments, 0 commas"),
        ("[[a]]\n" * 10_001, "more values than are read: 0 assignments, 0 commas"),
        ("a = [" + "1," * 100_001 + "]", "more values than are read: 1 assignments, 100001 commas"),
        ("#" * 1_000_001, "longer than 1000000 bytes"),
        ("#" + "\u20ac" * 400_000, "longer than 1000000 bytes"),
        ("a = " + "1" * 5000, "a number of more than 4300 digits"),
    ],
)
def test_hostile_toml_is_refused(text, said):
    assert refused(parse_toml, text) == said


def test_honest_toml_is_read():
    names = [f"object {i}.v1.2.3" for i in range(20_000)]
    assert parse_toml(f"categories = {json.dumps(names)}\n[model.params]\na.b.c = [[0.5, 0.25]]")["categories"] == names
    assert parse_toml(".".join("abcdefghijkl") + " = 1")


def test_lines_of_a_long_text_are_found_in_linear_time():
    text = "".join(f"[t{i}]\na = [1, {{b = 2}}]\n" for i in range(3000))
    assert find_lines(text)["t2999", "a", 1, "b"] == 6000
    assert split_assignment(".".join("a" * 13) + "=1") is None
    assert split_assignment(".".join("a" * 12) + "=1") == (tuple("a" * 12), "1")


# ---- files


def test_special_files_are_refused_and_never_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    assert refused(read_bounded, pipe) == "no regular file"
    assert refused(read_bounded, "/dev/zero") == "no regular file"
    assert refused(check_safetensors, pipe) == "no regular file"
    with pytest.raises(IsADirectoryError):
        read_bounded(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none")


def test_a_spec_may_come_through_a_pipe_and_a_silent_pipe_is_given_up(tmp_path, monkeypatch):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    with pytest.raises(Hostile, match=r"^nothing has come from it for 0\.1 s$"):
        untrusted.read_stream(pipe, most=10, patience=0.1)
    writer = subprocess.Popen(["sh", "-c", 'printf "a = 1" > "$0"', str(pipe)])
    assert untrusted.read_stream(pipe, most=10) == b"a = 1"
    assert writer.wait() == 0
    assert untrusted.read_stream("/dev/zero", most=10) == bytes(11)


def test_a_file_that_states_to_be_huge_is_not_read(tmp_path):
    file = tmp_path / "huge.json"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)  # takes no room
    assert refused(read_bounded, file) == "longer than 50331648 bytes"


def test_a_header_of_tensors_is_bounded(tmp_path):
    file = tmp_path / "x.safetensors"
    for header, said in (
        (b"[" * 4000, "nested too deeply"),
        (b"{" + b'"a":{},' * 700_000, "it states a header of 4900001 bytes"),
    ):
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        assert refused(check_safetensors, file) == said
        with pytest.raises(WeightsError) as caught:
            load_state(file)
        assert str(caught.value) == f"{file}: not a safetensors file: {said}"


def test_every_reader_names_the_file_and_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("b.json").write_text(DEEP)
    Path("weights.json").write_text(DEEP)
    Path("s.toml").write_text("a.a.a.a.a.a.a.a.a.a.a.a.a = 1")
    Path("m.jsonl").write_text('{"path": "a.png", "split": "train", "label": ' + DEEP + "}\n")
    run = made_runs.make_run(tmp_path / "runs" / "r")
    (run / "spec.toml").write_text("a.a.a.a.a.a.a.a.a.a.a.a.a = 1")
    cases = (
        (lambda: read_document(Path("b.json")), RunError, "b.json: damaged: nested too deeply"),
        (lambda: read_baseline("b.json"), DataError, "--gate b.json: not a baseline: nested too deeply"),
        (lambda: records(Path()), WeightsError, "weights.json: nested too deeply"),
        (lambda: read_spec("s.toml"), SpecError, "s.toml: a key of more than 12 parts"),
        (lambda: parse_model_kwargs(DEEP), SpecError, "--model-kwargs is not valid JSON: nested too deeply"),
        (lambda: manifest.labelled_images("m.jsonl", "a"), DataError, "m.jsonl:1: not valid JSON: nested too deeply"),
    )
    for read, kind, said in cases:
        with pytest.raises(kind) as caught:
            read()
        assert str(caught.value) == said
    (listed,) = list_runs("runs")
    assert listed.reason == "runs/r/spec.toml: damaged: a key of more than 12 parts"


def test_a_manifest_of_too_many_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_ROWS", 3)
    (tmp_path / "m.csv").write_text("path,split\n" + "a.png,train\n" * 4)
    with pytest.raises(DataError) as caught:
        manifest.labelled_images(str(tmp_path / "m.csv"), "a")
    assert str(caught.value) == f"{tmp_path}/m.csv: lists more than 3 images"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.csv", "\n" * 40_000_000, ": has more than 2000000 lines"),
        ("m.csv", "\r" * 3_000_000, ": has more than 2000000 lines"),
        ("m.jsonl", "\n" * 40_000_000, ": has more than 2000000 lines"),
        ("m.csv", "path,split\n" + "a" * 2_000_000, ":2: longer than 1048576 characters, as no row is"),
        ("m.csv", "path\n" + ('"\n"' + "," * 800_000) * 2, ":2: longer than 1048576 characters, as no row is"),
        ("m.jsonl", "\n{}" + " " * 2_000_000, ":2: longer than 1048576 characters, as no row is"),
        ("m.csv", ",".join(f"path{i}" for i in range(90_000)), ":1: 90000 columns, at most 1000 are read"),
        ("m.jsonl", "{" + ",".join(f'"k{i}":1' for i in range(90_000)) + "}", ":1: 90000 keys, at most 1000 are read"),
    ],
    ids=["blank", "blank, old line ends", "blank JSON", "long", "long in quotes", "long JSON", "columns", "keys"],
)
def test_a_manifest_of_hostile_lines_is_refused_at_once(tmp_path, name, text, said):
    file = tmp_path / name
    file.write_bytes(text.encode())
    done = subprocess.run([sys.executable, "-c", OF_MANIFEST, str(file)], capture_output=True, text=True, check=True)
    *lines, costs = done.stdout.splitlines()
    assert f"{file}{said}" in lines
    memory, seconds = map(float, costs.split())
    assert memory < 100e6
    assert seconds < 20


OF_MANIFEST = """
import resource, sys, time
from uadctl.datasets.manifest import labelled_images
from uadctl.errors import DataError
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before, begun = peak(), time.process_time()
try:
    labelled_images(sys.argv[1], "a")
except DataError as error:
    print(error)
print(peak() - before, time.process_time() - begun)
"""


def test_a_manifest_is_the_same_wherever_its_parts_end(tmp_path, monkeypatch):
    texts = {f"{i}.csv": f"path,label\r\n{'x' * i}é€😀.png,0\r\n" for i in range(9)}
    for name, text in texts.items():
        for data in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
            (tmp_path / name).write_bytes(data)
            with monkeypatch.context() as patch:
                patch.setattr(manifest, "_CHUNK", 4)
                patch.setattr(manifest, "_samples", lambda found, category: (found.rows, []))
                (row,) = manifest.labelled_images(str(tmp_path / name), "a")
            assert row.path == text.splitlines()[1].split(",")[0]
    for at in range(30):
        data = b"path,label\n" + b"a" * at + b"\xc3\xff"
        (tmp_path / "wrong.csv").write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "_CHUNK", 4)
            with pytest.raises(DataError) as caught:
                manifest.labelled_images(str(tmp_path / "wrong.csv"), "a")
        assert str(caught.value) == f"{tmp_path}/wrong.csv:2: not UTF-8 text (byte 0xc3)"


def test_the_limit_is_of_each_row_and_not_of_all_together(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_LINE_BYTES", 20)
    monkeypatch.setattr(manifest, "_samples", lambda found, category: (found.rows, []))
    (tmp_path / "m.csv").write_text("path,label\n" + "".join(f"{i:013}.png,0\n" for i in range(50)))
    assert len(manifest.labelled_images(str(tmp_path / "m.csv"), "a")) == 50


def test_a_long_cell_of_scores_is_cut_in_the_message(uadctl, tmp_path):
    run = run_by_hand.begin_run(tmp_path)
    unit = run_by_hand.add_unit(run, "tile")
    lines = (unit / "scores.csv").read_text().splitlines()
    for column in (2, 4):
        cells = lines[1].split(",")
        cells[column] = "x" * 100_000
        (unit / "scores.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
        ended = uadctl("report", run, code=2)
        assert ended.err.startswith(f"error: {unit}/scores.csv: damaged: line 2: ")
        assert ended.err.endswith("xxx…\n")
        assert len(ended.err) < len(str(unit)) + 300


def test_cells_without_an_end_in_scores_are_damage(uadctl, tmp_path):
    run = run_by_hand.begin_run(tmp_path)
    unit = run_by_hand.add_unit(run, "tile")
    with (unit / "scores.csv").open("a") as stream:
        stream.write('"' + "x" * 200_000)
    ended = uadctl("report", run, code=2)
    assert ended.err == f"error: {unit}/scores.csv: damaged: line 10: field larger than field limit (131072)\n"


def test_maps_that_a_run_names_elsewhere_are_not_read(tmp_path):
    from uadctl.report.reading import read_run
    from uadctl.runs.folder import RunFolder

    run = run_by_hand.begin_run(tmp_path)
    unit = run_by_hand.add_unit(run, "tile")
    (tmp_path / "secret.tiff").write_bytes(b"x")
    (unit / "maps").mkdir()
    (unit / "maps/link.tiff").symlink_to(tmp_path / "secret.tiff")
    (unit / "maps/own.tiff").write_bytes(b"x")
    names = ["../../../../../secret.tiff", str(tmp_path / "secret.tiff"), "maps/../status", "maps/link.tiff"]
    names += ["maps/a\0b", "maps/" + "x" * 300, "maps/own.tiff"]
    lines = (unit / "scores.csv").read_text().splitlines()
    rows = [",".join([*line.split(",")[:-1], name]) for line, name in zip(lines[1:], names, strict=False)]
    (unit / "scores.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    (read,) = read_run(RunFolder.open(run)).units
    assert [row.map for row in read.rows] == [None] * 6 + [unit / "maps/own.tiff"]


# ---- what it costs


WORST = {
    "names": '"{" + ",".join(f\'"{i:x}":7.5\' for i in range(700_000)) + "}"',
    "refused tables": '"[" + "{}," * 15_000_000 + "{}]"',
    "numbers": '"[" + "1.5," * 3_500_000 + "1]"',
    "string": "'\"' + \"a\" * (47 << 20) + '\"'",
    "wide": "'\"\\U0001f600' + \"a\" * (22 << 20) + '\"'",
    "deep": '"[" * (30 << 20)',
}
CHILD = """
import sys, time
from uadctl.untrusted import parse_json, read_bounded
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before, begun = peak(), time.process_time()
try:
    parse_json(read_bounded(sys.argv[1]))
except ValueError:
    pass
print(peak() - before, time.process_time() - begun)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak memory")
@pytest.mark.parametrize("name", WORST)
def test_the_worst_documents_take_less_than_200_mb(tmp_path, name):
    file = tmp_path / "x.json"
    subprocess.run([sys.executable, "-c", f"open({str(file)!r}, 'w').write({WORST[name]})"], check=True)
    done = subprocess.run([sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, check=True)
    memory, seconds = map(float, done.stdout.split())
    assert memory < 200e6
    assert seconds < 30  # a second on a machine that does nothing else


# ---- the package loads nothing that can run code

FORBIDDEN = {"pickle.load", "pickle.loads", "pickle.Unpickler", "os.system", "os.popen", "eval", "exec", "__import__"}
FORBIDDEN_MODULES = {"yaml", "joblib", "dill", "cloudpickle", "marshal", "shelve", "ruamel"}


def dangerous(source: str) -> list[str]:
    """What could run code that lies in a file, or a shell, in a module's source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                found.append("from pickle")
        if not isinstance(node, ast.Call):
            continue
        said = ast.unparse(node.func)
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if said in FORBIDDEN or options.get("shell") == "True":
            found.append(said)
        if said == "torch.load" and options.get("weights_only") != "True":
            found.append("torch.load")
        if said in ("np.load", "numpy.load", "np.lib.format.read_array") and options.get("allow_pickle") != "False":
            found.append(said)
    return found


def test_nothing_runs_code_that_lies_in_a_file():
    files = sorted(Path(package.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    found = {(f.name, name) for f in files for name in dangerous(f.read_text(encoding="utf-8"))}
    # Behind --trust-checkpoint; and what engines and their own workers say to each other, which lies in no file.
    of_engines = {(name, "pickle.loads") for name in ("processes.py", "worker.py", "cluster.py")}
    assert found == {("checkpoint.py", "torch.load")} | of_engines


@pytest.mark.parametrize(
    "source",
    [
        "import yaml",
        "from joblib import load",
        "from pickle import loads",
        "pickle.load(f)",
        "eval(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_what_could_would_be_seen(source):
    assert len(dangerous(source)) == 1
