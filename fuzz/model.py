"""Run folders whose files were changed: the fitted models in them, their bundles, and what a report and a gate read.

A model is refused, or it scores exactly as the one that was saved. One in four changed models is `sealed`: it bears the
checksums of its changed files, as of somebody who writes them on purpose; then it may score otherwise. None may run
code, start a program, open a connection, or write, move or remove a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final

import numpy as np

from fuzz.figures import ACCEPTED, Broken, Case, Figures, drive
from fuzz.mutate import as_json, mutated_bytes, mutated_tree
from fuzz.spec import check_messages
from uadctl.bench import bench
from uadctl.errors import UadctlError
from uadctl.imaging.files import write_png
from uadctl.report.reading import read_run
from uadctl.runs.baseline import read_baseline, read_replicates
from uadctl.runs.bundle import load_bundle, write_bundle
from uadctl.runs.fitted import Fitted, load
from uadctl.runs.folder import RunFolder, UnitFolder
from uadctl.runs.listing import list_runs
from uadctl.spec import Overrides, read_spec

# The last two have a network of 13 MB in their file, of which a checksum is made: they are given few inputs.
_SPEC: Final = """
[run]
name = "fuzz"
threads = 1
[dataset]
name = "mvtec"
root = "data"
[preprocess]
size = 32
ignore = ["mask.png"]
[metrics]
bootstrap = 100
[gate]
image_auroc = { min = 0.1 }
[postprocess]
gaussian_sigma = 1.0
[[model]]
name = "vision_ecod"
params = { features = "histogram" }
[[model]]
name = "vision_knn"
params = { features = "histogram" }
[[model]]
name = "vision_pca"
params = { features = "histogram" }
[[model]]
name = "vision_patchcore"
params = { coreset_ratio = 0.05 }
[[model]]
name = "vision_padim"
params = { n_features = 8 }
"""
_LARGE: Final = ("vision_patchcore", "vision_padim")
_WORDS: Final = (
    "vision_ecod",
    "vision_knn",
    "vision_patchcore",
    "histogram",
    "pooled",
    "cpu",
    "fp32",
    "image",
    "schema",
)
_DOCUMENTS: Final = ("model/model.json", "thresholds.json")
_TENSORS: Final = "model/model.safetensors"
_CAMERA: Final = "model/camera.safetensors"
_MODEL_FILES: Final = (*_DOCUMENTS, _TENSORS, _CAMERA)
_BUNDLES: Final = "bundles"
_UNSIGNED: Final = "0" * 64
_STATUS: Final = (b"done\n", b"started\n", b"failed\n", b"", b"done", b"\xff", b"d" * 100_000)
_CHECKSUM: Final = "checksum"
_BASELINE: Final = "baseline.json"
# What nothing that reads a model may do; "open" only for writing.
_FORBIDDEN: Final = (
    *("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class", "socket."),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil."),
    *("ctypes.dlopen", "marshal.loads", "exec", "compile"),
)
# What Python itself does while it imports a module, and while it reads the annotations of a class, for msgspec at first
# use: all of that lies in the installation.
_OF_PYTHON: Final = ("exec", "compile", "marshal.loads", "ctypes.dlopen", "open", "os.mkdir", "os.rename", "os.remove")


def run(inputs: int, seed: int) -> Figures:
    """Give the readers of run folders so many changed files."""
    with tempfile.TemporaryDirectory() as folder:
        return drive(prepared(Path(folder)), inputs, seed)


def prepared(folder: Path, *, models: Sequence[str] | None = None) -> ModelTarget:
    """The target: a bench of small images is run below this folder.

    models: those of the bench that are wanted, by name; None: all.
    """
    _write_images(folder / "data" / "part")
    mask = np.zeros((32, 32), np.uint8)
    mask[:3] = 255
    write_png(folder / "mask.png", mask)
    (folder / "spec.toml").write_text(_SPEC)
    run_dir = folder / "runs"
    spec = read_spec(str(folder / "spec.toml"), Overrides(run_dir=str(run_dir), device="cpu")).spec
    if models is not None:
        from msgspec.structs import replace

        spec = replace(spec, models=tuple(model for model in spec.models if model.name in models))
    baseline = run_dir / _BASELINE
    result = bench(spec, gate=str(baseline), update_baseline=True)
    if any(unit.status != "done" for unit in result.run.units()):
        raise RuntimeError("the run that is to be changed could not be made")
    for model in spec.models:
        write_bundle(result.run, run_dir / _BUNDLES / model.label, label=model.label)
    return ModelTarget(result.run.path, baseline)


def _write_images(category: Path) -> None:
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 12), ("test/good", 4), ("test/hole", 4)):
        for i in range(count):
            pixels = rng.integers(100, 140, (32, 32, 3), dtype=np.uint8)
            if place == "test/hole":
                pixels[8:20, 8:20] = 0
                write_png(category / "ground_truth" / "hole" / f"{i}_mask.png", (pixels[..., 0] == 0) * np.uint8(255))
            write_png(category / place / f"{i}.png", pixels)


@dataclass(slots=True)
class ModelTarget:
    """run: a finished run folder, whose files are changed and put back. baseline: the file of one beside it, as are
    the bundles of its models."""

    run: Path
    baseline: Path
    name: str = field(default="model", init=False)
    _units: dict[str, UnitFolder] = field(default_factory=dict, init=False)
    _good: dict[str, bytes] = field(default_factory=dict, init=False)
    _right: dict[str, str] = field(default_factory=dict, init=False)
    _others: tuple[str, ...] = field(default=(), init=False)
    _small: tuple[bytes, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._units = {unit.label: unit for unit in RunFolder(self.run).units()}
        wanted = [file for file in self.run.rglob("*") if file.suffix in (".json", ".csv", ".toml", ".safetensors")]
        wanted += [unit.path / "status" for unit in self._units.values()]
        self._good = {file.relative_to(self.run.parent).as_posix(): file.read_bytes() for file in sorted(wanted)}
        self._good[_BASELINE] = self.baseline.read_bytes()
        bundles = {f"{_BUNDLES}/{label}" for label in self._units}
        self._good |= {name: (self.run.parent / name).read_bytes() for name in sorted(bundles)}
        self._small = tuple(data for name, data in self._good.items() if name.endswith(".json"))
        of_models = {self._path(label, file) for label in self._units for file in _MODEL_FILES}
        self._others = tuple(name for name in self._good if name not in of_models | bundles)
        self._right = {label: _behaviour(load(unit, device="cpu")) for label, unit in self._units.items()}
        self._read_all()
        _watch()

    def _path(self, label: str, file: str) -> str:
        return (self._units[label].path / file).relative_to(self.run.parent).as_posix()

    def make(self, rng: Random) -> Case:
        """The changed files by their place below the runs' folder; "sealed" and "model" say what is to be done."""
        if rng.randrange(10) < 4:
            name = rng.choice(self._others)
            return {name: self._changed(rng, name)}
        large = [label for label in self._units if label in _LARGE]
        small = [label for label in self._units if label not in _LARGE]
        label = rng.choice(large if large and (not small or rng.randrange(200) == 0) else small)
        if rng.randrange(4) == 0:
            name = f"{_BUNDLES}/{label}"
            signed = rng.randrange(4) == 0
            data = _signed_anew(rng, self._good[name]) if signed else _changed_tensors(rng, self._good[name])
            return {"model": label.encode(), name: data} | ({"sealed": b"1"} if signed else {})
        file = self._path(label, rng.choice(_MODEL_FILES))
        case = {"model": label.encode(), file: self._changed(rng, file)}
        if rng.randrange(4) == 0:
            case["sealed"] = b"1"
        return case

    def _changed(self, rng: Random, name: str) -> bytes:
        good = self._good[name]
        if name.endswith("status"):
            return rng.choice(_STATUS)
        if name.endswith(".json") and rng.randrange(2):
            tree = mutated_tree(rng, json.loads(good), _WORDS)
            return as_json(tree).encode("utf-8", "surrogatepass")
        if name.endswith(".safetensors"):
            return _changed_tensors(rng, good)
        return mutated_bytes(rng, good, self._small)

    def judge(self, case: Case) -> str:
        case = dict(case)
        label, sealed = case.pop("model", b"").decode(), case.pop("sealed", None) is not None
        changed = {name: data for name, data in case.items() if self._good.get(name) != data}
        bundle = f"{_BUNDLES}/{label}"
        folder = sealed and bundle not in case
        with self._changed_files(changed, [self._path(label, name) for name in _DOCUMENTS] if folder else []):
            if folder:
                self._seal(label)
            try:
                with _watched():
                    if not label:
                        self._read_all(next(iter(case)))
                        return ACCEPTED
                    if bundle in case:
                        found = _behaviour(load_bundle(self.run.parent / bundle, device="cpu").fitted)
                    else:
                        found = _behaviour(load(self._units[label], device="cpu"))
            except UadctlError as error:
                check_messages(error)
                return type(error).__name__
        if not sealed and found != self._right[label] and not self._is_older(changed):
            raise Broken(f"a changed {Path(next(iter(changed), '')).name} is accepted, and says or scores otherwise")
        return ACCEPTED

    @contextlib.contextmanager
    def _changed_files(self, changed: Case, also: Sequence[str]) -> Iterator[None]:
        """Files with other bytes, and all as they were afterwards. also: files that are changed meanwhile."""
        try:
            for name, data in changed.items():
                (self.run.parent / name).write_bytes(data)
            yield
        finally:
            for name in {*changed, *also}:
                (self.run.parent / name).write_bytes(self._good[name])

    def _seal(self, label: str) -> None:
        """Write the checksums of a unit's files as they are now; what is no JSON object stays as it is."""
        folder = self._units[label].path
        tensors, camera = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (_TENSORS, _CAMERA))
        for name in _DOCUMENTS:
            with contextlib.suppress(ValueError, RecursionError):
                document = json.loads((folder / name).read_bytes())
                if not isinstance(document, dict):
                    continue
                if name == _DOCUMENTS[0]:
                    document["sha256"] = tensors
                    if isinstance(document.get("camera"), dict):
                        document["camera"]["sha256"] = camera
                (folder / name).write_bytes(self._sealed(self._path(label, name), document))

    def _sealed(self, name: str, document: dict[str, Any]) -> bytes:
        """A document as its file is written, with its checksum if it had one."""
        document.pop(_CHECKSUM, None)
        if _CHECKSUM.encode() in self._good[name]:
            document[_CHECKSUM] = hashlib.sha256(_text(document)).hexdigest()
        return _text(document)

    def _is_older(self, changed: Case) -> bool:
        """Whether a file is one of before 0.9 now, which has no checksum: nothing can be told then."""
        for name, data in changed.items():
            if name.endswith(".json") and _CHECKSUM.encode() in self._good[name]:
                with contextlib.suppress(ValueError, RecursionError):
                    document = json.loads(data)
                    if isinstance(document, dict) and _CHECKSUM not in document:
                        return True
        return False

    def _read_all(self, changed: str = "") -> None:
        """What `report`, `report --list` and `bench --gate` read. changed: the only file that is worth it; "": all."""
        name = Path(changed).name
        of_unit = changed.count("/") > 1
        if name in ("", _BASELINE):
            read_baseline(str(self.baseline))
        if name in ("", "replicates.json"):
            for unit in self._units.values():
                read_replicates(unit)
        if name != _BASELINE and not of_unit:
            list_runs(self.run.parent)
        if name not in (_BASELINE, "replicates.json"):
            read_run(RunFolder.open(self.run))


def _text(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def _changed_tensors(rng: Random, good: bytes) -> bytes:
    """A safetensors file with another header, or another byte anywhere, or cut off."""
    length = int.from_bytes(good[:8], "little")
    header, data = good[8 : 8 + length], good[8 + length :]
    roll = rng.randrange(6)
    if roll == 0:
        return mutated_bytes(rng, good[:4096], most=1) + good[4096:]
    if roll == 1:
        at = rng.randrange(len(good))
        return good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :]
    if roll == 2:
        return good[: rng.randrange(len(good))]
    if roll == 3:
        header = mutated_bytes(rng, header)
    else:
        tree = mutated_tree(rng, json.loads(header), ("F32", "F64", "I64", "BOOL", "U8"))
        header = as_json(tree).encode("utf-8", "surrogatepass")
    said = rng.choice((len(header), len(header), len(header), 0, len(header) + 1, 2**32, 2**63, 2**64 - 1))
    return said.to_bytes(8, "little") + header + data


def _signed_anew(rng: Random, good: bytes) -> bytes:
    """A bundle that says something else, with the checksum that it should have; where it has a place for one."""
    length = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    header["__metadata__"]["sha256"] = _UNSIGNED
    if rng.randrange(3):
        said = header["__metadata__"]
        key = rng.choice(sorted(said))
        is_json = said[key].startswith(("{", "["))
        if is_json:
            said[key] = as_json(mutated_tree(rng, json.loads(said[key]), _WORDS))
        if not is_json or rng.randrange(4) == 0:
            said[key] = mutated_bytes(rng, said[key].encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    else:
        header = mutated_tree(rng, header, ("F32", "F64", "BF16", "BOOL", "U8", "model/x", "camera/x"))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "surrogatepass")
    whole = len(text).to_bytes(8, "little") + text + data
    digest = hashlib.sha256(whole).hexdigest()
    return whole.replace(f'"{_UNSIGNED}"'.encode(), f'"{digest}"'.encode(), 1)


def _behaviour(fitted: Fitted) -> str:
    """All that a fitted model says of two images, as text that is equal where it is, to the last bit."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2)]
    digest = hashlib.sha256()
    for prediction in fitted.detector.predict_batch(images):
        digest.update(repr(prediction.score).encode())
        if prediction.map is not None:
            digest.update(np.ascontiguousarray(prediction.map).tobytes())
    arrays, facts = fitted.camera.state()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    said = (
        digest.hexdigest(),
        fitted.calibration,
        fitted.geometry,
        fitted.learned_tiles,
        fitted.postprocess,
        sorted(arrays),
        facts,
    )
    return repr(said)


# ---- what the readers do beside reading

_watching = False
_seen: list[str] = []
_hooked = False


def _watch() -> None:
    """Have Python tell what is done. https://docs.python.org/3/library/audit_events.html; a hook stays for good."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_told)
        _hooked = True


def _told(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if not writes and not event.startswith(_FORBIDDEN):
        return
    if event in _OF_PYTHON and _is_python(sys._getframe(1)):
        return
    _seen.append(f"open for writing {args[0]!r}" if writes else f"{event} {str(args[:1])[:200]}")


def _is_python(frame: FrameType | None) -> bool:
    """Whether a module is being imported, or annotations are read."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(("<frozen importlib.", typing.__file__)):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Broken where something forbidden is done meanwhile."""
    global _watching
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
        if _seen:
            raise Broken(f"while it is read: {_seen[0][:200]}")
