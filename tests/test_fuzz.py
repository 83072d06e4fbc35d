"""The fuzzers: some hundred inputs each, what they have found, and that they do find what is planted."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import marshal
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import __main__ as command
from fuzz import figures as counting
from fuzz import manifest, model, spec
from fuzz.figures import ACCEPTED, Broken, Case, Figures, Finding, drive, outcome_of, save, saved
from fuzz.mutate import as_json, as_toml, mutated_bytes, mutated_tree
from uadctl.datasets import load_dataset
from uadctl.errors import DataError, RunError, SpecError
from uadctl.report.reading import read_run
from uadctl.runs import bundle, fitted
from uadctl.runs.folder import RunFolder
from uadctl.spec import Overrides, read_spec, to_toml

CHEAP = ("vision_ecod", "vision_knn")
ROWS = "path,split,label,mask\nimages/0.png,train,0,\nimages/1.png,train,0,\nimages/2.png,test,1,masks/0.png\n"


@pytest.fixture(scope="module")
def of_spec(tmp_path_factory: pytest.TempPathFactory) -> spec.SpecTarget:
    return spec.prepared(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def of_manifest(tmp_path_factory: pytest.TempPathFactory) -> manifest.ManifestTarget:
    return manifest.prepared(tmp_path_factory.mktemp("manifest"))


@pytest.fixture(scope="module")
def of_model(tmp_path_factory: pytest.TempPathFactory) -> model.ModelTarget:
    return model.prepared(tmp_path_factory.mktemp("model"), models=CHEAP)


def told(figures: Figures) -> list[str]:
    return [finding.what for finding in figures.findings]


# ---- reduced forms


def test_specs(of_spec: spec.SpecTarget) -> None:
    figures = drive(of_spec, 300, 1)
    assert told(figures) == []
    assert figures.inputs == 300
    assert figures.accepted >= 5
    assert set(figures.refused) <= {"SpecError", "ParamError"}
    assert figures.accepted + sum(figures.refused.values()) == 300


def test_manifests(of_manifest: manifest.ManifestTarget) -> None:
    figures = drive(of_manifest, 300, 1)
    assert told(figures) == []
    assert figures.inputs == 300
    assert figures.accepted >= 50
    assert set(figures.refused) <= {"DataError", "LayoutError", "SpecError"}
    assert figures.worst_bytes < counting.MOST_BYTES


def test_models(of_model: model.ModelTarget) -> None:
    figures = drive(of_model, 200, 1)
    assert told(figures) == []
    assert figures.inputs == 200
    assert figures.accepted >= 20
    assert sum(figures.refused.values()) >= 100


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.randoms(use_true_random=False))
def test_specs_choice_by_choice(of_spec: spec.SpecTarget, rng: Random) -> None:
    """Every choice is Hypothesis's, which makes an input that breaks something as small as it can."""
    _, what = outcome_of(of_spec, of_spec.make(rng))
    assert what is None


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.randoms(use_true_random=False))
def test_manifests_choice_by_choice(of_manifest: manifest.ManifestTarget, rng: Random) -> None:
    _, what = outcome_of(of_manifest, of_manifest.make(rng))
    assert what is None


def test_equal_seeds_give_equal_inputs(of_spec: spec.SpecTarget, of_manifest: manifest.ManifestTarget) -> None:
    for target in (of_spec, of_manifest):

        def drawn(seed: int, target: counting.Target = target) -> list[Case]:
            cases: list[Case] = []
            drive(_Listening(target, cases), 20, seed)
            return cases

        assert drawn(3) == drawn(3)
        assert drawn(3) != drawn(4)
        assert len(drawn(3)) == 20


class _Listening:
    """A target that keeps its inputs and looks at none."""

    def __init__(self, target: counting.Target, cases: list[Case]) -> None:
        self.name, self.make, self._cases = target.name, target.make, cases

    def judge(self, case: Case) -> str:
        self._cases.append(case)
        return ACCEPTED


# ---- what is planted is found


def test_a_traceback_is_found_kept_and_replayed(
    of_spec: spec.SpecTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planted(path: str, *arguments: object, **options: object) -> object:
        if b"coreset" in Path(path).read_bytes():
            raise KeyError("coreset")
        return read_spec(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(spec, "read_spec", planted)
    figures = drive(of_spec, 60, 2)
    (finding,) = figures.findings
    assert finding.what.startswith("KeyError in spec.py:") or finding.what.startswith("KeyError in test_fuzz.py:")
    assert finding.times == figures.refused["traceback"] >= 2
    assert b"coreset" in finding.case["spec.toml"]

    file = save(tmp_path, "spec", finding)
    assert saved(file) == ("spec", finding.case)
    assert command.main(["--replay", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == "spec: traceback\n"
    assert 'raise KeyError("coreset")' in err
    monkeypatch.undo()
    assert command.main(["--replay", str(file)]) == 0
    assert "traceback" not in capsys.readouterr().out


def test_a_spec_that_is_written_wrongly_is_found(of_spec: spec.SpecTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"spec.toml": (spec.SPECS / "demo.toml").read_bytes()}
    assert of_spec.judge(good) == ACCEPTED
    for wrong, said in (
        (lambda text: text.replace("seed = 0", "seed = 1"), "an accepted spec is another once it is written and read"),
        (lambda text: text.replace("seed", "sead"), "an accepted spec is refused once it is written: "),
    ):
        monkeypatch.setattr(spec, "to_toml", lambda s, wrong=wrong: wrong(to_toml(s)))
        with pytest.raises(Broken, match=said):
            of_spec.judge(good)
    monkeypatch.undo()
    monkeypatch.setattr(spec, "spec_hash", lambda s: str(id(s)))
    with pytest.raises(Broken, match="an accepted spec has another hash, or text, once it is written and read"):
        of_spec.judge(good)


@pytest.mark.parametrize(
    ("letter", "said"), [("", "says nothing"), ("\x1b", "with control characters"), ("x" * 100_001, "of more than")]
)
def test_wrong_messages_are_found(
    of_spec: spec.SpecTarget, monkeypatch: pytest.MonkeyPatch, letter: str, said: str
) -> None:
    def refuses(*arguments: object, **options: object) -> object:
        raise SpecError(letter)

    monkeypatch.setattr(spec, "read_spec", refuses)
    with pytest.raises(Broken, match=said):
        of_spec.judge({"spec.toml": b""})


def test_a_manifest_that_is_read_wrongly_is_found(
    of_manifest: manifest.ManifestTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"manifest.csv": ROWS.encode()}
    assert of_manifest.judge(good) == ACCEPTED
    # The first reading is planted; in the last case the second, of what was written again.
    for wrong, said in (
        (lambda d: replace(d, test=d.test * 2), "with an image twice"),
        (lambda d: replace(d, train=()), "without training images"),
        (lambda d: replace(d, train=(*d.train, *d.test), test=()), "a defect is learned from"),
        (lambda d: replace(d, train=(replace(d.train[0], path="gone.png"),)), "'gone.png' is no file"),
        (lambda d: replace(d, train=tuple(replace(s, relative="a") for s in d.train)), "two images of one name"),
        (lambda d: replace(d, train=(replace(d.train[0], masks=d.test[0].masks),)), "the mask of a normal image"),
        (lambda d: replace(d, category=".."), "with the category '..'"),
        (lambda d: replace(d, test=(replace(d.test[0], defect="dent"),)), "once it is written and read"),
    ):
        turns = [said == "once it is written and read", said != "once it is written and read"]

        def planted(*arguments: object, wrong: object = wrong, turns: list[bool] = turns, **options: object) -> object:
            found = load_dataset(*arguments, **options)  # type: ignore[arg-type]
            return wrong(found) if turns.pop() else found  # type: ignore[operator]

        monkeypatch.setattr(manifest, "load_dataset", planted)
        with pytest.raises(Broken, match=said):
            of_manifest.judge(good)


def test_a_changed_number_that_is_accepted_is_found(
    of_model: model.ModelTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that does not look at the checksums of documents."""
    from uadctl.runs import folder

    if not hasattr(folder, "check_seal"):
        pytest.skip("documents of this version have no checksum")
    label = CHEAP[1]
    cases = {}
    for file, change in (
        ("thresholds.json", lambda document: {"scores": [-1.0, *document["scores"][1:]]}),
        ("model/model.json", lambda document: {"preprocess": {**document["preprocess"], "stride": 7}}),
    ):
        path = of_model._path(label, file)
        document = json.loads(of_model._good[path])
        cases[file] = {"model": label.encode(), path: model._text(document | change(document))}
    path = of_model._path(label, "model/model.safetensors")
    data = bytearray(of_model._good[path])
    data[8 + int.from_bytes(data[:8], "little") + 3] ^= 0x40
    cases["model/model.safetensors"] = {"model": label.encode(), path: bytes(data)}
    for file, case in cases.items():
        assert (file, of_model.judge(case)) == (file, "RunError")

    monkeypatch.setattr(folder, "check_seal", lambda file, data, document, keys: document)
    del cases["model/model.safetensors"]
    for file, case in cases.items():
        said = f"a changed {Path(file).name} is accepted, and says or scores otherwise"
        assert outcome_of(of_model, case) == ("broken", said)


def _unpickles(folder: Path) -> None:
    pickle.loads(pickle.dumps(Path()))


def _unmarshals(folder: Path) -> None:
    marshal.loads(marshal.dumps(1))


def _loads_a_library(folder: Path) -> None:
    with contextlib.suppress(OSError):
        ctypes.CDLL(str(folder / "absent.so"))


DEEDS: dict[str, Callable[[Path], object]] = {
    "pickle.find_class": _unpickles,
    "subprocess.Popen": lambda folder: subprocess.run(["true"], check=False),
    "os.system": lambda folder: os.system("true"),
    "socket.__new__": lambda folder: socket.socket().close(),
    "open for writing": lambda folder: (folder / "file").write_text("x"),
    "os.remove": lambda folder: (folder / "there").unlink(),
    "os.rename": lambda folder: (folder / "there").rename(folder / "other"),
    "os.mkdir": lambda folder: (folder / "new").mkdir(),
    "os.rmdir": lambda folder: (folder / "empty").rmdir(),
    "os.link": lambda folder: (folder / "link").hardlink_to(folder / "there"),
    "os.symlink": lambda folder: (folder / "link").symlink_to("there"),
    "os.truncate": lambda folder: os.truncate(folder / "there", 0),
    "os.chmod": lambda folder: (folder / "there").chmod(0o600),
    "shutil.rmtree": lambda folder: shutil.rmtree(folder / "empty"),
    "ctypes.dlopen": _loads_a_library,
    "marshal.loads": _unmarshals,
    "compile": lambda folder: eval("1 + 1"),
    "exec": lambda folder: eval(CODE),
}
CODE = compile("1 + 1", "a file", "eval")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other events and no links")
@pytest.mark.parametrize("said", DEEDS)
@pytest.mark.parametrize("how", ["as it is", "sealed", "bundle"])
def test_what_a_loader_must_not_do_is_found(
    of_model: model.ModelTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, how: str
) -> None:
    (tmp_path / "there").write_text("x")
    (tmp_path / "empty").mkdir()
    case = {"model": CHEAP[0].encode()}
    if how == "sealed":
        case["sealed"] = b"1"
    name = "load"
    if how == "bundle":
        name = "load_bundle"
        case[f"bundles/{CHEAP[0]}"] = of_model._good[f"bundles/{CHEAP[0]}"]
    assert of_model.judge(case) == ACCEPTED
    whole = getattr(model, name)

    def planted(*arguments: object, **options: object) -> object:
        DEEDS[said](tmp_path)
        return whole(*arguments, **options)

    monkeypatch.setattr(model, name, planted)
    with pytest.raises(Broken, match=f"while it is read: {re.escape(said)}"):
        of_model.judge(case)


def test_what_an_import_does_is_no_finding(
    of_model: model.ModelTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "imported_for_the_first_time.py").write_text("import ctypes\nexec('x = 1')\nctypes.CDLL(None)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load = model.load

    def planted(*arguments: object, **options: object) -> object:
        importlib.import_module("imported_for_the_first_time")
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "load", planted)
    assert of_model.judge({"model": CHEAP[0].encode()}) == ACCEPTED
    del sys.modules["imported_for_the_first_time"]


def test_bundles_and_pictures_of_the_camera_are_changed_too(of_model: model.ModelTarget) -> None:
    rng = Random(1)
    cases = [of_model.make(rng) for _ in range(600)]
    of_bundles = [case for case in cases if any(name.startswith("bundles/") for name in case)]
    signed = [case for case in of_bundles if "sealed" in case]
    assert len(of_bundles) > 60
    assert len(signed) > 10
    assert sum(of_model._path(CHEAP[0], "model/camera.safetensors") in case for case in cases) > 10
    outcomes = [of_model.judge(case) for case in of_bundles]
    assert outcomes.count("RunError") > 30
    assert ACCEPTED in [of_model.judge(case) for case in signed]


def test_a_bundle_whose_checksum_is_not_looked_at_is_found(
    of_model: model.ModelTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"bundles/{CHEAP[1]}"
    data = bytearray(of_model._good[name])
    data[-1] ^= 1  # of the mask: the narrowest numbers come last
    case = {"model": CHEAP[1].encode(), name: bytes(data)}
    assert of_model.judge(case) == "RunError"
    digest = bundle._digest

    def blind(stream: object, header: object, metadata: dict[str, str], *more: object) -> str:
        digest(stream, header, metadata, *more)  # type: ignore[arg-type]
        return metadata["sha256"]

    monkeypatch.setattr(bundle, "_digest", blind)
    said = f"a changed {CHEAP[1]} is accepted, and says or scores otherwise"
    assert outcome_of(of_model, case) == ("broken", said)


def test_changed_pictures_of_the_camera_are_found(of_model: model.ModelTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_model._path(CHEAP[1], "model/camera.safetensors")
    data = of_model._good[path][:-1] + b"\x01"
    case = {"model": CHEAP[1].encode(), path: data}
    assert data != of_model._good[path]
    assert of_model.judge(case) == "RunError"
    assert of_model.judge(case | {"sealed": b"1"}) == ACCEPTED

    def believed(file: Path) -> object:
        document = json.loads((file.parent / "model.json").read_bytes())
        return (document if file.stem == "model" else document["camera"])["sha256"]

    monkeypatch.setattr(fitted, "_sha256", believed)
    said = "a changed camera.safetensors is accepted, and says or scores otherwise"
    assert outcome_of(of_model, case) == ("broken", said)


class _Planted:
    """A target of its own: what it does with an input is given."""

    name = "planted"

    def __init__(self, judge: object) -> None:
        self.judge = judge  # type: ignore[method-assign]

    def make(self, rng: Random) -> Case:
        return {"input": bytes([rng.randrange(256)])}

    def judge(self, case: Case) -> str:
        raise NotImplementedError


def test_slow_large_and_endless_inputs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(case: Case) -> str:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        return ACCEPTED

    def endless(case: Case) -> str:
        while True:
            with contextlib.suppress(Exception):  # as code does that must go on whatever happens
                time.sleep(1)

    monkeypatch.setattr(counting, "MOST_SECONDS", 0.01)
    figures = drive(_Planted(slow), 3, 0)
    assert told(figures) == ["takes more than 0.01 s of processor time"]
    assert figures.accepted == 3
    assert figures.worst_seconds >= 0.02

    monkeypatch.setattr(counting, "_PATIENCE", 0.05)
    figures = drive(_Planted(endless), 1, 0)
    assert told(figures) == ["is not done after 0.05 s"]
    assert figures.refused == {"stuck": 1}

    peaks = iter(range(0, 10 * 300 << 20, 300 << 20))
    monkeypatch.setattr(counting, "_peak", lambda: next(peaks))
    figures = drive(_Planted(lambda case: ACCEPTED), 2, 0)
    assert told(figures) == ["takes more than 200 MB"]


def test_what_is_no_exception_is_found_too() -> None:
    class Panic(BaseException):
        pass

    def panics(case: Case) -> str:
        raise Panic("in a library that is not Python")

    figures = drive(_Planted(panics), 2, 0)
    assert figures.refused == {"traceback": 2}
    assert told(figures)[0].startswith("Panic in test_fuzz.py:panics (")


def test_ctrl_c_ends_it_with_what_was_seen() -> None:
    seen: list[Case] = []

    def judge(case: Case) -> str:
        seen.append(case)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return ACCEPTED

    figures = drive(_Planted(judge), 100, 0)
    assert figures.accepted == 3


# ---- the command


@pytest.fixture
def one_target(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """`python -m fuzz spec` without inputs; what it finds is the list."""
    findings: list[Finding] = []

    def run(inputs: int, seed: int) -> Figures:
        return Figures(inputs, inputs - 3, {"SpecError": 3}, 0.0123, 5_000_000, tuple(findings))

    monkeypatch.setattr(spec, "run", run)
    return findings


def test_the_command_prints_a_table_or_json(
    one_target: list[Finding], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["spec", "--inputs", "1000"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["| spec | 1,000 | 997 | SpecError 3 | 0 | 13 ms | 5 MB |"]

    one_target.append(Finding("KeyError in x", {"spec.toml": b"\xff\x00a"}, 3))
    assert command.main(["spec", "--inputs", "10", "--json", "--keep", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["spec"]["findings"] == [{"what": "KeyError in x", "times": 3}]
    kept = tmp_path / "spec-1.json"
    assert err.splitlines()[1] == f"error: spec: KeyError in x (3 times; the first is kept as {kept})"
    assert saved(kept) == ("spec", {"spec.toml": b"\xff\x00a"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "name what to give inputs"), (["spek"], "no such target: spek; there are: spec, manifest, model, images")],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert said in capsys.readouterr().err


# ---- what makes inputs


def test_trees_are_written_as_toml_and_json() -> None:
    files = sorted(spec.SPECS.glob("*.toml"))
    assert len(files) >= 15
    for file in files:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
        assert tomllib.loads(as_toml(tree)) == tree
        assert json.loads(as_json(tree)) == tree
    assert tomllib.loads(as_toml({"a": False, "b": [True, -0.5]})) == {"a": False, "b": [True, -0.5]}


def test_changes_leave_the_original_as_it_is() -> None:
    rng = Random(0)
    tree = {"a": [1, {"b": "c"}], "d": {"e": 2.5, "f": True}}
    before = as_json(tree)
    trees = {as_json(mutated_tree(rng, tree, ("x",))) for _ in range(200)}
    assert as_json(tree) == before
    assert len(trees) > 150
    data = b"path,split\n1,2\n"
    assert len({mutated_bytes(rng, data, (b"other",)) for _ in range(200)}) > 150


# ---- what was found, one by one


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("images/fifo.png", "images/fifo.png: is no regular file, expected an image"),
        ("/dev/zero", "/dev/zero: is no regular file, expected an image"),
        ("images/folder.png", "images/folder.png: is a folder, expected an image"),
    ],
)
def test_a_manifest_names_files_only(of_manifest: manifest.ManifestTarget, name: str, said: str) -> None:
    """A device may have no end, and nobody may ever write into a pipe."""
    if not (of_manifest.root / name).exists():
        pytest.skip(f"this system has no {name}")
    file = of_manifest.root / "manifest.csv"
    file.write_text(f"{ROWS}{name},test,0,\n", encoding="utf-8")
    told_path = said if name.startswith("/") else f"{of_manifest.root}/{said}"
    with pytest.raises(DataError) as error:
        load_dataset("manifest", str(file))
    assert error.value.message == f"{file}:5: {told_path}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_mask_is_a_file(of_manifest: manifest.ManifestTarget) -> None:
    file = of_manifest.root / "manifest.csv"
    file.write_text(f"{ROWS}images/3.png,test,1,images/fifo.png\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_dataset("manifest", str(file))
    assert error.value.message == (f"{file}:5: {of_manifest.root}/images/fifo.png: is no regular file, expected a mask")


@pytest.mark.parametrize("depth", [300, 460, 2000])
def test_deeply_nested_specs_are_refused(tmp_path: Path, depth: int) -> None:
    """tomllib takes more levels than what comes after it."""
    file = tmp_path / "spec.toml"
    file.write_text(f"x = {'[' * depth}{']' * depth}\n", encoding="utf-8")
    with pytest.raises(SpecError):
        read_spec(str(file))


def test_a_status_that_is_no_text_is_none(of_model: model.ModelTarget) -> None:
    for status in (b"\xff", b"done\xff\n", b"d" * 100_000):
        name = of_model._path(CHEAP[0], "status")
        with of_model._changed_files({name: status}, []):
            assert [unit.status for unit in RunFolder(of_model.run).units()] == [None, "done"]
            assert read_run(RunFolder.open(of_model.run)).units[0].status is None


@pytest.mark.parametrize("name", [b"maps/" + b"a" * 300 + b".tiff", b"maps/" + b"a/" * 3000, b"maps/\x00.tiff"])
def test_a_map_that_no_file_can_be_called_is_none(of_model: model.ModelTarget, name: bytes) -> None:
    file = of_model._path(CHEAP[0], "scores.csv")
    lines = of_model._good[file].splitlines()
    lines[1] = lines[1].rpartition(b",")[0] + b"," + name
    with of_model._changed_files({file: b"\n".join(lines)}, []):
        (unit, _) = read_run(RunFolder.open(of_model.run)).units
    assert unit.rows[0].map is None
    assert unit.rows[0].overlay is None


@pytest.mark.parametrize("wrong", [b'"', b"\xff", b"test/good/0.png"])
def test_broken_scores_are_damage(of_model: model.ModelTarget, wrong: bytes) -> None:
    file = of_model._path(CHEAP[0], "scores.csv")
    with of_model._changed_files({file: of_model._good[file] + wrong}, []), pytest.raises(RunError) as error:
        read_run(RunFolder.open(of_model.run))
    assert error.value.message.startswith(f"{of_model.run.parent / file}: damaged: ")


@pytest.mark.parametrize("name", ["run.json", "units/part/vision_ecod/0/metrics.json", "metrics.json"])
def test_a_lone_surrogate_is_damage(of_model: model.ModelTarget, name: str) -> None:
    """JSON can say what no text can hold, and msgspec says so with an error of its own."""
    file = f"{of_model.run.name}/{name}"
    document = json.dumps(json.loads(of_model._good[file]) | {"\ud800": 1}).encode()
    with of_model._changed_files({file: document}, []), pytest.raises(RunError) as error:
        read_run(RunFolder.open(of_model.run))
    assert "damaged: " in error.value.message


@pytest.mark.parametrize("model", ["vision_patchcore", "vision_padim", "vision_knn", "vision_anomalydino"])
def test_a_name_with_a_line_end_stays_on_its_line(model, tmp_path):
    (tmp_path / "s.toml").write_text(
        f'[dataset]\nname = "demo"\n[model]\nname = "{model}"\n[model.params]\nbackbone = "a\\nb"\n'
    )
    with pytest.raises(SpecError) as caught:
        read_spec(str(tmp_path / "s.toml"))
    assert [p.message.count("\n") for p in caught.value.problems] == [0]
    assert 'backbone = "a\\nb": no such backbone' in caught.value.message


def test_a_checkpoint_whose_path_no_system_has_is_refused(tmp_path):
    (tmp_path / "s.toml").write_text('[dataset]\nname = "demo"\n[model]\nname = "vision_padim_anomalib"\n')
    with pytest.raises(SpecError, match="expected a path"):
        read_spec(str(tmp_path / "s.toml"), Overrides(checkpoint_path="a\0b"))
    with pytest.raises(SpecError) as caught:
        read_spec(
            str(tmp_path / "s.toml"), Overrides(checkpoint_path="a\0b", model_kwargs='{"checkpoint_path": "other"}')
        )
    assert "a\\x00b and the model parameter" in caught.value.message
