"""A fitted model whose files have changed since they were written is refused, whatever bit it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import parts
import pytest

from uadctl.errors import RunError
from uadctl.runs.fitted import load, read_calibration
from uadctl.runs.folder import RunFolder, UnitFolder
from uadctl.runs.loading import load_run
from uadctl.runs.sealed import KEY, MODEL_KEYS, THRESHOLDS_KEYS, check_seal, seal

UNIT = "units/good/vision_ecod/0"


@pytest.fixture
def run(uadctl, tmp_path) -> Path:
    """A small fitted model with a reference picture of its camera."""
    for i in range(5):
        parts.write(tmp_path / "good" / f"{i}.png", parts.surface(i, 32, 32))
    found = uadctl(
        "fit",
        *("--good", "good", "--model", "vision_ecod", "--model-kwargs", '{"features": "histogram"}'),
        *("--set", "calibration.holdout=0.2", "--json"),
    ).json
    return tmp_path / found["run"]


def unit_of(run: Path) -> UnitFolder:
    return RunFolder.open(run).choose()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def test_a_turned_bit_in_any_byte_of_the_documents_is_damage(run):
    unit = unit_of(run)
    readers = {
        unit.model / "model.json": lambda: load(unit, device="cpu"),
        unit.thresholds: lambda: read_calibration(unit),
    }
    tried = 0
    for file, read in readers.items():
        data = file.read_bytes()
        assert KEY in json.loads(data)
        for at in range(len(data)):
            file.write_bytes(flipped(data, at))
            with pytest.raises(RunError) as caught:
                read()
            assert str(caught.value).startswith(f"{file}: damaged: "), (at, data[at - 9 : at + 9], str(caught.value))
            tried += 1
        file.write_bytes(data)
        read()
    assert tried > 1000


def test_a_turned_bit_of_the_weights_is_damage(run):
    unit = unit_of(run)
    file = unit.model / "model.safetensors"
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*range(header), *range(header, len(data), max(1, (len(data) - header) // 50))]
    assert len(places) > 100
    for at in places:
        file.write_bytes(flipped(data, at))
        with pytest.raises(RunError, match=r"model\.safetensors: damaged: "):
            load(unit, device="cpu")
    file.write_bytes(data)
    load(unit, device="cpu")


def test_a_run_of_before_loads_and_a_misspelt_key_of_it_does_not(run):
    unit = unit_of(run)
    before = read_calibration(unit)
    for file in (unit.model / "model.json", unit.thresholds):
        document = json.loads(file.read_bytes())
        del document[KEY]
        file.write_text(json.dumps(document))
    fitted = load_run(run, device="cpu")
    assert fitted.calibration == before
    document = json.loads(unit.thresholds.read_bytes())
    document["rewiew"] = document.pop("review")
    unit.thresholds.write_text(json.dumps(document))
    with pytest.raises(RunError) as caught:
        read_calibration(unit)
    assert str(caught.value) == f'{unit.thresholds}: damaged: it has the unknown key "rewiew"'


def test_a_threshold_typed_by_hand_is_refused_with_the_way_to_set_one(uadctl, run, tmp_path):
    file = run / UNIT / "thresholds.json"
    document = json.loads(file.read_bytes())
    document["image"]["value"] = 1e9
    file.write_text(json.dumps(document, indent=2))
    typed = f"{run.relative_to(tmp_path)}/{UNIT}/thresholds.json"
    for words in (
        ("score", run.relative_to(tmp_path), "good"),
        ("calibrate", run.relative_to(tmp_path), "--good", "good"),
        ("report", run.relative_to(tmp_path)),
    ):
        ended = uadctl(*words, code=2)
        assert (ended.out, ended.err) == (
            "",
            f"error: {typed}: damaged: changed since it was written: its checksum is another\n"
            "  Put back a copy of the file: thresholds.N.json are those that were replaced. Another threshold is set with "
            "uadctl calibrate, or given with --threshold.\n",
        )


def test_what_calibrate_writes_is_sealed_and_so_is_what_it_keeps(uadctl, run):
    unit = run / UNIT
    first = (unit / "thresholds.json").read_bytes()
    for i in range(5):
        parts.write(run.parents[1] / "more" / f"{i}.png", parts.surface(100 + i, 32, 32))
    uadctl("calibrate", run, "--good", "more", "--alpha", "0.4")
    assert (unit / "thresholds.1.json").read_bytes() == first
    assert KEY in json.loads((unit / "thresholds.json").read_bytes())
    load_run(run, device="cpu")


def test_line_ends_of_another_system_are_no_damage(run):
    unit = unit_of(run)
    unit.thresholds.write_bytes(unit.thresholds.read_bytes().replace(b"\n", b"\r\n"))
    read_calibration(unit)


def test_the_keys_are_those_that_are_written(run):
    unit = unit_of(run)
    for file, keys in ((unit.model / "model.json", MODEL_KEYS), (unit.thresholds, THRESHOLDS_KEYS)):
        assert set(json.loads(file.read_bytes())) == keys | {KEY}


def test_a_seal_is_of_the_bytes_and_not_of_their_meaning():
    data = seal({"schema": 1, "data": "a\u00fc", "scores": [1e-07]})
    said = json.loads(data)
    keys = {"schema", "data", "scores"}
    assert check_seal(Path("x.json"), data, said, keys) == {"schema": 1, "data": "a\u00fc", "scores": [1e-07]}
    with pytest.raises(RunError, match=r"^x\.json: damaged: changed since it was written: its checksum is another$"):
        check_seal(Path("x.json"), data.replace(b"1e-07", b"1E-07"), said, keys)


def test_the_checksum_stands_at_the_end_and_nowhere_else():
    data = seal({"schema": 1, "data": "a"})
    said = json.loads(data)
    wrong = (
        data + b"\n",
        data[:-1],
        b"\xef\xbb\xbf" + data,
        data.replace(b"\n  ", b"\n"),
        json.dumps(said).encode(),
        json.dumps({KEY: said[KEY], **said}, indent=2).encode() + b"\n",
        data.replace(said[KEY].encode(), said[KEY].upper().encode()),
    )
    for other in wrong:
        with pytest.raises(
            RunError, match=r"^x\.json: damaged: changed since it was written: its checksum is another$"
        ):
            check_seal(Path("x.json"), other, said, {"schema", "data"})
    assert check_seal(Path("x.json"), data, said, {"schema", "data"}) == {"schema": 1, "data": "a"}
    # What versions before this one have written bears the same checksum.
    assert said[KEY] == hashlib.sha256(b'{\n  "schema": 1,\n  "data": "a"\n}\n').hexdigest()


def test_a_large_document_is_refused_without_being_written_again(tmp_path):
    file = tmp_path / "thresholds.json"
    whole = json.dumps({"schema": 1, "scores": [1.5] * 1_000_000, KEY: "0" * 64}, indent=2)
    file.write_text(whole.replace(",\n    ", ",") + "\n")
    done = subprocess.run([sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, check=True)
    said, costs = done.stdout.splitlines()
    assert said == f"{file}: damaged: changed since it was written: its checksum is another"
    memory, seconds = map(float, costs.split())
    assert memory < 200e6
    assert seconds < 20


CHILD = """
import resource, sys, time
from pathlib import Path
from uadctl.errors import RunError
from uadctl.runs.folder import read_document
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before, begun = peak(), time.process_time()
try:
    read_document(Path(sys.argv[1]), keys={"schema", "scores"})
except RunError as error:
    print(error)
print(peak() - before, time.process_time() - begun)
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_weights_that_are_no_file_are_not_waited_for(run, kind):
    unit = unit_of(run)
    file = unit.model / "model.safetensors"
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    done: list[str] = []

    def attempt() -> None:
        with pytest.raises(RunError) as caught:
            load(unit, device="cpu")
        done.append(str(caught.value))

    reader = threading.Thread(target=attempt, daemon=True)
    reader.start()
    reader.join(10)
    assert done == [f"{file}: damaged: no regular file"]


def test_links_lead_nowhere(uadctl, run, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(run / "units/good", outside / "good")
    shutil.rmtree(run / "units/good")
    (run / "units/good").symlink_to(outside / "good")
    typed = run.relative_to(tmp_path)
    for words in (("score", typed, "good"), ("calibrate", typed, "--good", "good"), ("report", typed)):
        ended = uadctl(*words, code=2)
        assert ended.err == (
            f"error: {typed}/units/good: is a link; the units of a run lie in its own folder\n  Remove the link.\n"
        )
    assert sorted(p.name for p in outside.rglob("thresholds*")) == ["thresholds.json"]


def test_a_report_is_not_made_where_a_link_leads(uadctl, run, tmp_path):
    (tmp_path / "outside").mkdir()
    (run / "report").symlink_to(tmp_path / "outside")
    ended = uadctl("report", run, code=2)
    assert ended.err == f"error: {run}/report: is a link; it was left as it is\n  Give a folder with --out.\n"
    assert list((tmp_path / "outside").iterdir()) == []
