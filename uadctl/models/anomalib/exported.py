"""ONNX and OpenVINO files that anomalib exported: the whole way of the image is inside them.

Their graphs resize without antialiasing, normalise, and end with anomalib's own normalisation of scores. What is inside
is found by asking the graph: see `_is_raw` and `_preprocessing`.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar

from uadctl.errors import BackendMissing, DataError, RunError
from uadctl.models.anomalib.module import alike
from uadctl.models.anomalib.outputs import as_map
from uadctl.models.anomalib.predictor import Raw
from uadctl.models.anomalib.preprocessing import Inference, Postprocessing, Preprocessing
from uadctl.records import Size
from uadctl.spec.optional import optional_import

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.models.anomalib.predictor import Predictor

_SCORE, _MAP = "pred_score", "anomaly_map"
# The name of a tensor that is a file: this before the file's name.
_FILE = "file:"
# Sides of the image that a graph of any size is asked with first.
_ANY_SIZE = Size(256, 256)
# A side so long that the edges of a crop can be told to a fraction of a pixel of what it is resized to.
_LONG = 4096
# Middle and strength of noise that the graph is asked with.
_PROBES = ((0.5, 1.0), (0.5, 0.1), (0.1, 0.1), (0.9, 0.1))
# A graph that looks at all but this share of a side, or more, has a crop inside: less is what patches leave over.
_LEAST_CROP = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """A graph that is ready to run.

    runtime: the library that runs it and its version. device: where.
    batch, height, width: what it takes, None where it takes any. gives: the names of its outputs.
    run: outputs by name of (B, 3, H, W) float32 RGB images in 0..1.
    """

    runtime: str
    device: str
    batch: int | None
    height: int | None
    width: int | None
    gives: tuple[str, ...]
    run: Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]


def open_exported(path: str | Path, *, device: str) -> Predictor:
    """The model of an .onnx, .xml or .bin file, with the files beside it that hold its weights.

    Raises DataError for a file that is absent, damaged or takes no image; BackendMissing without a runtime.
    """
    given = Path(path)
    files = [given]
    if given.suffix.lower() != ".onnx":
        files = [_beside(given, ".xml"), _beside(given, ".bin")]
    _must_be_there(files, path)
    if given.suffix.lower() == ".onnx":
        names = _external_data(given.read_bytes(), str(path))
        _must_lie_below(given, names)
        files += [given.parent / name for name in names]
        _must_be_there(files, path)
    origin = {"file": given.name, "sha256": _digest(files), "format": _format(files)}
    return _Exported(_graph(files, str(path), device), files, origin)


def restore_exported(tensors: Mapping[str, Any], facts: Mapping[str, Any], *, device: str) -> Predictor:
    """Again what `state` of such a predictor gave: its files, as bytes.

    Whoever hands on a run may have written anything into it: raises DataError, before any file or folder is made, for
    names of files that are not below the folder that they are written to, and for a graph whose weights are not there.
    """
    contents = _contents(tensors, facts)
    origin = facts["origin"]
    folder = Path(tempfile.mkdtemp(prefix="uadctl-"))
    try:
        files = [folder / name for name in contents]
        for file, content in zip(files, contents.values(), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        restored = _Exported(_graph(files, origin["file"], device), files, origin)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # Runtimes read weights from the files as long as they live.
    weakref.finalize(restored, shutil.rmtree, folder, ignore_errors=True)
    return restored


def _contents(tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of a kept model's files by their names, the graph's first. DataError where they are not as `state`
    gives them."""
    path, names = str(facts["origin"]["file"]), facts["files"]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: the run's record of it names no files")
    for name in names:
        if not _stays_below(name):
            raise DataError(
                f"{path}: the run's record of it names the file {ascii(name)[:200]}, which is not beside it"
            )
    if any(one != other and PurePosixPath(one).is_relative_to(other) for one in names for other in names):
        raise DataError(f"{path}: the run's record of it names a file that is a folder too")
    absent = [name for name in names if _FILE + name not in tensors]
    if absent:
        raise DataError(f"{path}: the run has not kept its {absent[0]}")
    contents = {name: tensors[_FILE + name].cpu().numpy().tobytes() for name in names}
    first = PurePosixPath(names[0])
    expected = [str(_beside(first, ".xml")), str(_beside(first, ".bin"))]
    if first.suffix.lower() == ".onnx":
        expected = [names[0], *_external_data(contents[names[0]], path)]
    if names != expected:
        raise DataError(f"{path}: the run has kept {', '.join(names)}, expected {', '.join(expected)}")
    return contents


class _Exported:
    """An exported graph that can be asked.

    An image goes in at its own size where the graph takes any. Where it takes one size only, the image is first brought
    to that size as the graph itself would have done it: bilinearly, without antialiasing.

    preprocessing: the resize and the centre crop that are inside the graph; None where there is no crop, or where its
        maps do not show whether there is one.
    """

    model: str | None = None
    postprocessing: Postprocessing | None = None
    inferences: tuple[Inference, ...] = ("exported",)

    def __init__(self, graph: _Graph, files: Sequence[Path], origin: Mapping[str, Any]) -> None:
        self._graph = graph
        self._files = files
        self._origin = dict(origin)
        self.is_raw = _is_raw(graph)
        self.preprocessing: Preprocessing | None = None
        self._crop: list[int] | str | None = None
        try:
            self.preprocessing = _preprocessing(graph)
            if self.preprocessing is not None and self.preprocessing.crop is not None:
                self._crop = list(self.preprocessing.crop)
        except _Blind:
            self._crop = "unknown: its maps are 0 or 1 all along their border"

    def predict(self, images: Sequence[NDArray[np.uint8]], *, inference: Inference) -> list[Raw]:
        """Of (H, W, 3) RGB uint8 images; those of one size together, where the graph takes several."""
        import numpy as np

        if inference not in self.inferences:
            raise ValueError(f'inference (="{inference}") is not what an exported file can do')
        inputs = [_input_of(self._graph, image) for image in images]
        found: dict[int, Raw] = {}
        for numbers in alike(inputs):
            for some in _batches(numbers, self._graph.batch):
                full = [*some, *[some[-1]] * ((self._graph.batch or 0) - len(some))]
                said = _raws(self._graph, np.stack([inputs[number] for number in full]))
                found.update(zip(some, said, strict=False))
        return [found[number] for number in range(len(images))]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The bytes of its files. DataError where one of them was changed since it was opened."""
        import numpy as np
        import torch

        if _digest(self._files) != self._origin["sha256"]:
            raise DataError(f"{self._files[0]}: has changed since it was read")
        root = self._files[0].parent
        tensors = {
            _FILE + file.relative_to(root).as_posix(): torch.from_numpy(np.fromfile(file, dtype=np.uint8))
            for file in self._files
        }
        names = [key.removeprefix(_FILE) for key in tensors]
        return tensors, {"kind": "exported", "files": names, "origin": self._origin}

    def facts(self) -> dict[str, Any]:
        height, width = self._graph.height, self._graph.width
        return {
            "computed_by": self._graph.runtime,
            "device": self._graph.device,
            "origin": self._origin,
            "input": "any size" if height is None or width is None else [height, width],
            "resized_to_input": None if height is None or width is None else "bilinear, without antialiasing",
            "crop_inside": self._crop,
            "raw_because": "a score lies outside 0..1, where anomalib's normalisation ends" if self.is_raw else None,
        }


# -- asking


def _input_of(graph: _Graph, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) float32 in 0..1 of the size that the graph takes."""
    import cv2
    import numpy as np

    x = image.astype(np.float32) / np.float32(255)
    height, width = graph.height or x.shape[0], graph.width or x.shape[1]
    if x.shape[:2] == (height, width):
        return x
    # OpenCV takes (width, height); its INTER_LINEAR never smooths, and aligns pixels as torch does.
    return np.asarray(cv2.resize(x, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _batches(numbers: list[int], size: int | None) -> Iterator[list[int]]:
    step = size or len(numbers)
    for first in range(0, len(numbers), step):
        yield numbers[first : first + step]


def _raws(graph: _Graph, images: NDArray[np.float32]) -> list[Raw]:
    """Of (B, H, W, 3) images in 0..1."""
    import numpy as np

    said = graph.run(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    maps = [as_map(one) for one in said[_MAP]] if _MAP in said else [None] * len(images)
    scores = said[_SCORE] if _SCORE in said else np.array([np.max(field) for field in maps if field is not None])
    if scores.size != len(images) or len(maps) != len(images):
        raise RunError(f"the graph gave scores of shape {scores.shape} for {len(images)} images, expected one each")
    return [Raw(float(np.float32(s)), m) for s, m in zip(scores.reshape(-1), maps, strict=True)]


def _noise(size: Size, *, middle: float = 0.5, strength: float = 1.0) -> NDArray[np.float32]:
    """A (1, H, W, 3) image, the same for the same arguments."""
    import numpy as np

    noise = np.random.default_rng(0).random((1, *size, 3), dtype=np.float32)
    return np.asarray(np.clip(middle + strength * (noise - 0.5), 0, 1), dtype=np.float32)


def _asked(graph: _Graph, image: NDArray[np.float32]) -> Raw:
    """Of one (1, H, W, 3) image."""
    import numpy as np

    return _raws(graph, np.repeat(image, graph.batch or 1, axis=0))[0]


def _is_raw(graph: _Graph) -> bool:
    """Whether anomalib's normalisation is certainly not inside: a score outside of 0..1, where that ends, says so.

    False proves nothing: raw scores of some models lie in 0..1 as well.
    """
    size = Size(graph.height or _ANY_SIZE.height, graph.width or _ANY_SIZE.width)
    scores = [_asked(graph, image).score for image in (_noise(size), 0 * _noise(size))]
    return any(score < 0 or score > 1 for score in scores)


class _Blind(Exception):
    """The map of an image is 0 or 1 all along its border, so that it shows no change."""


def _preprocessing(graph: _Graph) -> Preprocessing | None:
    """The resize and the centre crop inside a graph, so that maps get back to where they belong; None without a crop.

    A crop shows in what the graph does not look at: pixels at the border change nothing in its map. Raises _Blind where
    that cannot be told.
    """
    size = Size(graph.height or _ANY_SIZE.height, graph.width or _ANY_SIZE.width)
    field = _asked(graph, _noise(size)).map
    if field is None:
        return None
    crop = Size(*field.shape)
    # An image smaller than what it is resized to: so that resizing passes over no pixel.
    size = Size(graph.height or crop.height, graph.width or crop.width)
    # anomalib's normalisation cuts maps to 0..1: with some kind of image there will be something in between.
    for number, (middle, strength) in enumerate(_PROBES):
        try:
            image = functools.partial(_noise, middle=middle, strength=strength)
            resized = Size(*(_resized_side(graph, image, size, crop, axis) for axis in (0, 1)))
        except _Blind:
            if number == len(_PROBES) - 1:
                raise
        else:
            break
    return None if resized == crop else Preprocessing(resize=resized, crop=crop)


def _resized_side(
    graph: _Graph, image: Callable[[Size], NDArray[np.float32]], size: Size, crop: Size, axis: int
) -> int:
    """Height (axis 0) or width (1) that the graph brings images to before it crops."""
    kept, fixed = crop[axis], (graph.height, graph.width)[axis]
    if not _ignores(graph, image(size), axis)(max(1, round(_LEAST_CROP * size[axis]))):
        return kept
    side = fixed or _LONG
    long = Size(side, size.width) if axis == 0 else Size(size.height, side)
    unseen = _most(_ignores(graph, image(long), axis), side // 2)
    if fixed is not None and fixed - kept - 2 * unseen in (0, 1):
        return fixed  # nothing is resized
    # The first line of the crop, `border` lines into the resized image, lies at this share of the side:
    # (border + 1/2) / resized. An even difference leaves 2 x border = resized - kept; an odd one, 1 less at one side.
    share = (unseen + 1) / side
    candidates = [(kept - 1) / (1 - 2 * share), kept / (1 - 2 * share)]
    nearest = [kept + parity + 2 * round((one - kept - parity) / 2) for parity, one in enumerate(candidates)]
    return min(zip(candidates, nearest, strict=True), key=lambda pair: abs(pair[0] - pair[1]))[1]


def _most(holds: Callable[[int], bool], end: int) -> int:
    """The largest number below `end` for which something holds that holds for all smaller ones; 0 if for none."""
    low, high = 0, end
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _ignores(graph: _Graph, image: NDArray[np.float32], axis: int) -> Callable[[int], bool]:
    """Whether so many rows (axis 0) or columns (1) at each border of the image change nothing in the map."""
    import numpy as np

    before = np.asarray(_asked(graph, image).map)
    if _is_cut(np.moveaxis(before, axis, 0)):
        raise _Blind

    def ignores(border: int) -> bool:
        other = np.moveaxis(image.copy(), axis + 1, 0)
        other[:border] = (other[:border] + 0.5) % 1
        other[len(other) - border :] = (other[len(other) - border :] + 0.5) % 1
        return np.array_equal(before, np.asarray(_asked(graph, np.moveaxis(other, 0, axis + 1)).map))

    return ignores


def _is_cut(field: NDArray[np.float32]) -> bool:
    """Whether more than half of the first or the last rows of a map are 0 or 1."""
    border = max(1, len(field) // 16)
    return any(bool(((rows == 0) | (rows == 1)).mean() > 0.5) for rows in (field[:border], field[-border:]))


# -- files


def _must_be_there(files: Sequence[Path], path: str | Path) -> None:
    for file in files:
        if not file.is_file():
            belongs = "" if file == Path(path) else f": there is no {file}, which belongs to it"
            raise DataError(f"{path}{belongs}" if belongs else f"{path}: no such file")


def _format(files: Sequence[Path]) -> str:
    return "onnx" if files[0].suffix.lower() == ".onnx" else "openvino"


_AnyPath = TypeVar("_AnyPath", bound=PurePath)


def _beside(file: _AnyPath, suffix: str) -> _AnyPath:
    """The file of this name with another suffix, in capitals where its own is."""
    return file.with_suffix(suffix.upper() if file.suffix.isupper() else suffix)


def _stays_below(name: Any) -> bool:
    """Whether a name is that of a file below whichever folder it is joined to, on any system."""
    if not isinstance(name, str) or not name.strip() or "\\" in name or "\0" in name:
        return False
    there = PureWindowsPath(name)
    return not (there.drive or there.root) and ".." not in there.parts and PurePosixPath(name).name != ""


def _must_lie_below(file: Path, names: Sequence[str]) -> None:
    """DataError where one of the files, beside that of the graph, is a link to somewhere else.

    Beside what the graph's file itself is a link to will do: caches keep files that way.
    """
    folders = (file.parent.resolve(), file.resolve().parent)
    for name in names:
        lies = (file.parent / name).resolve()
        if not any(lies.is_relative_to(folder) for folder in folders):
            raise _elsewhere(str(file), name)


def _elsewhere(path: str, name: str) -> DataError:
    said = name if name.isprintable() else ascii(name)
    return DataError(f"{path}: its weights lie in {said[:200]}, which is not beside it")


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 of the files, one behind the other: of a single one, its own."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def _external_data(model: bytes, path: str) -> list[str]:
    """The names of files beside an .onnx that hold its weights, sorted. DataError for names of files elsewhere."""
    try:
        names = sorted(set(_locations(model)))
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    for name in names:
        if not _stays_below(name):
            raise _elsewhere(path, name)
    return names


# ONNX's messages that a tensor may lie in, and which of their fields are messages that one may lie in: initial values
# and those of nodes (constants, and the graphs of branches and loops), of the model and of its functions.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
# Of an entry of a tensor's external data.
_KEY, _VALUE = 1, 2
# Bytes of a number of 64 bits.
_VARINT = 10


def _locations(model: bytes) -> Iterator[str]:
    """The names of the files that tensors of a model lie in."""
    todo = [("model", memoryview(model))]
    while todo:
        kind, message = todo.pop()
        if kind == "external":
            entry = list(_fields(message))
            if [bytes(value) for number, value in entry if number == _KEY] == [b"location"]:
                yield from (bytes(value).decode() for number, value in entry if number == _VALUE)
            continue
        inner = _MESSAGES[kind]
        todo += [(inner[number], value) for number, value in _fields(message) if number in inner]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the fields that have a length, of a message in Protocol Buffers' encoding.

    Raises IndexError or ValueError where it is none.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, length = key & 7, 0
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(message, at)
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + length > len(message):
            raise ValueError("it ends in the middle of a field")
        if kind == 2:
            yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and where it ends."""
    value = 0
    for place in range(_VARINT):
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number without an end")


# -- runtimes


def _graph(files: Sequence[Path], path: str, device: str) -> _Graph:
    """files: the graph's, then those of its weights. path: as the user gave it."""
    if _format(files) == "onnx" and optional_import("onnxruntime")[0] is not None:
        return _by_onnxruntime(files[0], path, device)
    return _by_openvino(files, path)


def _by_onnxruntime(file: Path, path: str, device: str) -> _Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception
    wanted = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        wanted.insert(0, "CUDAExecutionProvider")
    offered = onnxruntime.get_available_providers()
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=[name for name in wanted if name in offered]
        )
    except Exception as error:
        raise _damaged(path, error) from error
    takes = [(one.name, list(one.shape), one.type == "tensor(float)") for one in session.get_inputs()]
    gives = tuple(one.name for one in session.get_outputs())
    name, sizes = _image_input(takes, gives, path)
    asked = [one for one in gives if one in (_SCORE, _MAP)]

    def run(images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return dict(zip(asked, session.run(asked, {name: images}), strict=True))

    return _Graph(
        runtime=f"onnxruntime {onnxruntime.__version__}",
        device=session.get_providers()[0].removesuffix("ExecutionProvider").lower(),
        batch=sizes[0],
        height=sizes[1],
        width=sizes[2],
        gives=gives,
        run=run,
    )


def _by_openvino(files: Sequence[Path], path: str) -> _Graph:
    from uadctl.features.openvino_runtime import library

    try:
        openvino = library()
    except BackendMissing as error:
        others = "onnxruntime or openvino" if _format(files) == "onnx" else "openvino"
        extra = "onnx" if _format(files) == "onnx" else "openvino"
        raise BackendMissing(
            f"{path} needs {others}, which is not installed. Install it with: pip install 'uadctl[{extra}]'"
        ) from error
    core = openvino.Core()
    try:
        # By itself it looks for weights beside an .xml by their usual name, and for those of an .onnx by their own.
        model = core.read_model(*files[:1]) if _format(files) == "onnx" else core.read_model(*files)
        # Without this it computes in bf16 where the processor can.
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise _damaged(path, error) from error
    takes = []
    for one in model.inputs:
        sizes = [size.get_length() if size.is_static else None for size in one.get_partial_shape()]
        takes.append((one.get_any_name(), sizes, one.get_element_type() == openvino.Type.f32))
    gives = tuple(next(iter(sorted(one.get_names())), "") for one in model.outputs)
    name, (batch, height, width) = _image_input(takes, gives, path)

    def run(images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        import numpy as np

        said = compiled({name: images}).to_tuple()
        # Copied: the next request writes over them.
        return {one: np.array(value) for one, value in zip(gives, said, strict=True) if one in (_SCORE, _MAP)}

    return _Graph(
        runtime=f"openvino {openvino.__version__}",
        device="cpu",
        batch=batch,
        height=height,
        width=width,
        gives=gives,
        run=run,
    )


def _image_input(
    takes: Sequence[tuple[str, list[Any], bool]], gives: Sequence[str], path: str
) -> tuple[str, tuple[int | None, int | None, int | None]]:
    """The name of the input for images, and its batch, height and width. DataError where there is none such."""
    if len(takes) != 1 or not takes[0][2] or len(takes[0][1]) != 4 or takes[0][1][1] not in (3, None):
        said = "; ".join(f"{name} {shape}{'' if is_float else ', no float32'}" for name, shape, is_float in takes)
        raise DataError(f"{path}: takes {said or 'nothing'}; expected images, [batch, 3, height, width] in float32")
    if not {_SCORE, _MAP} & set(gives):
        raise DataError(f"{path}: gives {', '.join(gives)}; expected {_SCORE} or {_MAP}, as anomalib's exports do")
    name, shape, _ = takes[0]
    batch, _, height, width = (size if isinstance(size, int) and size > 0 else None for size in shape)
    return name, (batch, height, width)


def _damaged(path: str, error: Exception) -> DataError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DataError(f"{path}: cannot be read, it is damaged or no exported model ({first[:200]})")
