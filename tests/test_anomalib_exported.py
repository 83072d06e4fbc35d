"""ONNX and OpenVINO files: what they give, which sizes they take, crops inside them, and that they can be kept."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from uadctl.errors import BackendMissing, DataError
from uadctl.features import openvino_runtime
from uadctl.models.anomalib import exported
from uadctl.models.anomalib.exported import open_exported, restore_exported
from uadctl.records import Size

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'uadctl[test]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'uadctl[onnx]'")

FLOAT, BOOL = 1, 9
IMAGES = [np.random.default_rng(n).integers(0, 256, (70, 90, 3), dtype=np.uint8) for n in range(3)]


def node(op: str, inputs: list[str], output: str, **attributes: object) -> object:
    return onnx.helper.make_node(op, inputs, [output], **attributes)


def write(
    path: Path,
    *,
    shape: tuple[int | str | None, ...] = ("batch", 3, "height", "width"),
    resize: tuple[int, int] | None = (40, 48),
    crop: tuple[int, int] | None = None,
    scale: float = 0.1,
    clip: bool = True,
    outputs: tuple[str, ...] = ("pred_score", "pred_label", "anomaly_map"),
    beside: str | None = None,
) -> Path:
    """A graph as anomalib exports them: resize, crop, a map (how red it is), its maximum, normalisation, label."""
    constants = {
        "sizes": np.array([1, 3, *(resize or (1, 1))], dtype=np.int64),
        "axes": np.array([2, 3], dtype=np.int64),
        "channel": np.array([1], dtype=np.int64),
        "red": np.array([1, 0, 0], dtype=np.float32).reshape(1, 3, 1, 1) * np.float32(scale),
        "half": np.array(0.05, dtype=np.float32),
        "ones": np.ones((300,), dtype=np.float32),
        "low": np.array(0, dtype=np.float32),
        "high": np.array(1, dtype=np.float32),
    }
    nodes, at = [], "input"
    if resize:
        constants |= {"none": np.array([], dtype=np.float32), "hw": np.array(resize, dtype=np.int64)}
        modes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel", "axes": [2, 3]}
        nodes.append(node("Resize", [at, "none", "none", "hw"], "resized", **modes))
        at = "resized"
    if crop:
        height, width = resize or (shape[2], shape[3])
        y0, x0 = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
        constants |= {
            "from": np.array([y0, x0], dtype=np.int64),
            "to": np.array([y0 + crop[0], x0 + crop[1]], dtype=np.int64),
        }
        nodes.append(node("Slice", [at, "from", "to", "axes"], "cropped"))
        at = "cropped"
    nodes += [
        node("Mul", [at, "red"], "reds"),
        node("ReduceSum", ["reds", "channel"], "field", keepdims=1),
        node("Clip", ["field", "low", "high"], "anomaly_map") if clip else node("Identity", ["field"], "anomaly_map"),
        node("ReduceMax", ["anomaly_map", "axes"], "most", keepdims=0),
        node("Identity", ["most"], "pred_score"),
        node("Greater", ["most", "half"], "pred_label"),
    ]
    kinds = {
        "pred_score": (FLOAT, [None, 1]),
        "pred_label": (BOOL, [None, 1]),
        "anomaly_map": (FLOAT, [None, 1, None, None]),
        "field": (FLOAT, [None, 1, None, None]),
    }
    graph = onnx.helper.make_graph(
        nodes,
        "model",
        [onnx.helper.make_tensor_value_info("input", FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(name, *kinds[name]) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    if beside is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=beside, size_threshold=1000)
    return path


def reds(image: np.ndarray, size: tuple[int, int], scale: float = 0.1) -> np.ndarray:
    x = cv2.resize(image.astype(np.float32) / 255, size[::-1], interpolation=cv2.INTER_LINEAR)
    return x[..., 0] * np.float32(scale)


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request, monkeypatch):
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed: pip install 'uadctl[openvino]'")
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return request.param


def openvino_files(source: Path) -> Path:
    openvino = openvino_runtime.library()
    target = source.with_suffix(".xml")
    openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=False)
    return target


# -- predictions


def test_a_graph_of_any_size_gets_images_as_they_are(tmp_path, runtime):
    predictor = open_exported(write(tmp_path / "model.onnx"), device="cpu")
    images = [IMAGES[0], IMAGES[1][:50], IMAGES[2]]
    raws = predictor.predict(images, inference="exported")
    assert len(raws) == 3
    for raw, image in zip(raws, images, strict=True):
        expected = reds(image, (40, 48))
        assert raw.map.shape == (40, 48)
        assert raw.map.dtype == np.float32
        np.testing.assert_allclose(raw.map, expected, atol=1e-6)
        assert raw.score == pytest.approx(float(expected.max()), abs=1e-6)
    facts = predictor.facts()
    assert facts.pop("computed_by").split()[0] == runtime
    assert facts.pop("origin")["format"] == "onnx"
    assert facts == {
        "device": "cpu",
        "input": "any size",
        "resized_to_input": None,
        "crop_inside": None,
        "raw_because": None,
    }
    assert (predictor.model, predictor.preprocessing, predictor.postprocessing) == (None, None, None)
    assert (predictor.inferences, predictor.is_raw) == (("exported",), False)


@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_a_graph_of_one_size_gets_images_of_that_size_as_it_would_resize_them_itself(tmp_path, runtime, batch):
    free = open_exported(write(tmp_path / "any.onnx"), device="cpu")
    fixed = open_exported(write(tmp_path / "one.onnx", shape=(batch, 3, 40, 48), resize=None), device="cpu")
    images = [IMAGES[0], IMAGES[1][:50], IMAGES[2]]
    both = zip(free.predict(images, inference="exported"), fixed.predict(images, inference="exported"), strict=True)
    for a, b in both:
        np.testing.assert_allclose(a.map, b.map, atol=1e-6)
        assert a.score == pytest.approx(b.score, abs=1e-6)
    assert fixed.facts()["input"] == [40, 48]
    assert fixed.facts()["resized_to_input"] == "bilinear, without antialiasing"


def test_a_file_has_only_the_exported_way(tmp_path):
    predictor = open_exported(write(tmp_path / "model.onnx"), device="cpu")
    with pytest.raises(ValueError, match=r'^inference \(="training"\) is not what an exported file can do$'):
        predictor.predict(IMAGES, inference="training")


def test_without_a_score_it_is_the_maximum_of_the_map(tmp_path, runtime):
    predictor = open_exported(write(tmp_path / "model.onnx", outputs=("anomaly_map",)), device="cpu")
    (raw,) = predictor.predict(IMAGES[:1], inference="exported")
    assert raw.score == float(raw.map.max())


def test_without_a_map_there_is_a_score(tmp_path, runtime):
    predictor = open_exported(write(tmp_path / "model.onnx", outputs=("pred_label", "pred_score")), device="cpu")
    (raw,) = predictor.predict(IMAGES[:1], inference="exported")
    assert raw.map is None
    assert raw.score == pytest.approx(float(reds(IMAGES[0], (40, 48)).max()), abs=1e-6)
    assert predictor.preprocessing is None


def test_scores_outside_0_to_1_are_raw(tmp_path):
    cases = {
        ("raw", 9.0, False): True,
        ("clipped", 9.0, True): False,
        ("small", 0.1, False): False,
        ("below", -1.0, False): True,
    }
    for (name, scale, clip), expected in cases.items():
        predictor = open_exported(write(tmp_path / f"{name}.onnx", scale=scale, clip=clip), device="cpu")
        assert predictor.is_raw is expected, name
        assert (predictor.facts()["raw_because"] is not None) is expected


# -- crops inside


@pytest.mark.parametrize("crop", [(40, 48), (32, 48), (36, 40), (33, 41), (20, 24)])
@pytest.mark.parametrize("shape", [("batch", 3, "height", "width"), ("batch", 3, 40, 48)])
def test_a_crop_inside_is_found(tmp_path, crop, shape):
    resize = (40, 48) if shape[2] == "height" else None
    predictor = open_exported(write(tmp_path / "model.onnx", crop=crop, shape=shape, resize=resize), device="cpu")
    found = predictor.preprocessing
    if crop == (40, 48):
        assert found is None
    else:
        assert (found.resize, found.crop) == (Size(40, 48), Size(*crop))
        assert predictor.facts()["crop_inside"] == list(crop)


@pytest.mark.parametrize(
    ("resize", "crop"), [((256, 448), (224, 392)), ((257, 519), (224, 333)), ((512, 300), (448, 299))]
)
def test_a_crop_inside_is_found_to_the_pixel(tmp_path, resize, crop):
    predictor = open_exported(write(tmp_path / "model.onnx", crop=crop, resize=resize), device="cpu")
    expected = Size(resize[0], 299 if crop[1] == 299 else resize[1])  # one column of 300 is less than a crop leaves
    assert (predictor.preprocessing.resize, predictor.preprocessing.crop) == (expected, Size(*crop))


@pytest.mark.parametrize("scale", [8.0, 1e6, -1.0])
def test_maps_that_are_cut_at_0_and_1_hide_no_crop_and_make_up_none(tmp_path, scale):
    found = []
    for crop in (None, (32, 40)):
        predictor = open_exported(write(tmp_path / f"{crop}.onnx", crop=crop, scale=scale), device="cpu")
        found.append((predictor.preprocessing and predictor.preprocessing.crop, predictor.facts()["crop_inside"]))
    if scale == 8.0:  # dark images are not all 1
        assert found == [(None, None), (Size(32, 40), [32, 40])]
    else:
        assert found == [(None, "unknown: its maps are 0 or 1 all along their border")] * 2


# -- keeping


def test_what_is_kept_needs_no_file_of_the_user(tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'uadctl[openvino]'")
    paths = [
        write(tmp_path / "one" / "model.onnx"),
        write(tmp_path / "two" / "model.onnx", beside="weights.data"),
        openvino_files(write(tmp_path / "three" / "model.onnx")),
    ]
    names = [["model.onnx"], ["model.onnx", "weights.data"], ["model.xml", "model.bin"]]
    empty = tmp_path / "work"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for path, files in zip(paths, names, strict=True):
        first = open_exported(path, device="cpu")
        tensors, facts = first.state()
        assert facts["kind"] == "exported"
        assert facts["files"] == files
        assert {key: bytes(t.numpy()) for key, t in tensors.items()} == {
            f"file:{name}": (path.parent / name).read_bytes() for name in files
        }
        expected = first.predict(IMAGES, inference="exported")
        for file in path.parent.iterdir():
            file.write_bytes(b"")
        again = restore_exported(tensors, facts, device="cpu")
        for a, b in zip(expected, again.predict(IMAGES, inference="exported"), strict=True):
            assert a.score == b.score
            assert np.array_equal(a.map, b.map)
        assert again.state()[1] == facts
        with pytest.raises(DataError) as error:
            first.state()
        assert error.value.message == f"{path}: has changed since it was read"
    assert list(empty.iterdir()) == []


def test_the_checksum_is_that_of_the_files_one_behind_the_other(tmp_path):
    path = write(tmp_path / "model.onnx")
    origin = open_exported(path, device="cpu").facts()["origin"]
    assert origin == {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "format": "onnx"}
    path = write(tmp_path / "parts.onnx", beside="weights.data")
    parts = path.read_bytes() + (tmp_path / "weights.data").read_bytes()
    assert open_exported(path, device="cpu").facts()["origin"]["sha256"] == hashlib.sha256(parts).hexdigest()


def test_either_of_openvinos_two_files_will_do(tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'uadctl[openvino]'")
    xml = openvino_files(write(tmp_path / "model.onnx"))
    scores = [
        open_exported(p, device="cpu").predict(IMAGES, inference="exported")[0].score
        for p in (xml, xml.with_suffix(".bin"))
    ]
    assert scores[0] == scores[1] == pytest.approx(float(reds(IMAGES[0], (40, 48)).max()), abs=1e-5)


def test_a_suffix_in_capitals(tmp_path, runtime):
    """An .ONNX with its weights beside it; an .XML with its .BIN."""
    path = write(tmp_path / "M.ONNX", beside="weights.data")
    files = [path, tmp_path / "weights.data"]
    if runtime == "openvino":
        xml = openvino_files(write(tmp_path / "x.onnx"))
        files = [xml.rename(tmp_path / "M.XML"), xml.with_suffix(".bin").rename(tmp_path / "M.BIN")]
        path = files[1]
    first = open_exported(path, device="cpu")
    assert first.facts()["origin"]["format"] == ("onnx" if runtime == "onnxruntime" else "openvino")
    tensors, facts = first.state()
    assert facts["files"] == [file.name for file in files]
    again = restore_exported(tensors, facts, device="cpu")
    (one,), (other,) = (p.predict(IMAGES[:1], inference="exported") for p in (first, again))
    assert one.score == other.score == pytest.approx(float(reds(IMAGES[0], (40, 48)).max()), abs=1e-5)


# -- files that somebody else has made up


# Names that would lead a file out of its folder, on one system or another, or that are none.
OUTSIDE = (
    *("", " ", ".", "..", "../a", "a/../../b", "a/..", "/tmp/a", "//host/a", "~/../a"),
    *("C:a", "C:/a", "c:\\a", "a\\b", "..\\a", "\\a", "a\0b"),
)


@pytest.fixture
def nothing_made(tmp_path, monkeypatch):
    """Folders where nothing may appear: that of temporary files, and the present one."""
    folders = [tmp_path / "temporary", tmp_path / "work"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders[0]))
    monkeypatch.chdir(folders[1])
    yield
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


@pytest.mark.parametrize("name", [*OUTSIDE, None, 3])
def test_a_run_cannot_write_outside_of_its_folder(tmp_path, name, nothing_made):
    path = write(tmp_path / "model.onnx", beside="weights.data")
    tensors, facts = open_exported(path, device="cpu").state()
    for names in (["model.onnx", name], [name, "weights.data"]):
        given = {**tensors, f"file:{name}": tensors["file:weights.data"]}
        with pytest.raises(DataError) as error:
            restore_exported(given, {**facts, "files": names}, device="cpu")
        assert (
            error.value.message
            == f"{path.name}: the run's record of it names the file {name!a}, which is not beside it"
        )
    assert len(OUTSIDE) == 17


def test_what_else_a_run_may_not_claim(tmp_path, nothing_made):
    path = write(tmp_path / "model.onnx", beside="weights.data")
    tensors, facts = open_exported(path, device="cpu").state()
    more = {**tensors, "file:a": tensors["file:model.onnx"], "file:a/b": tensors["file:weights.data"]}
    cases = {
        (): "the run's record of it names no files",
        ("model.onnx", "other.data"): "the run has not kept its other.data",
        ("model.onnx",): "the run has kept model.onnx, expected model.onnx, weights.data",
        ("model.onnx", "weights.data", "a"): "the run has kept model.onnx, weights.data, a, "
        "expected model.onnx, weights.data",
        ("a", "a/b"): "the run's record of it names a file that is a folder too",
        ("a",): "the run has kept a, expected a.xml, a.bin",
    }
    for names, said in cases.items():
        with pytest.raises(DataError) as error:
            restore_exported(more, {**facts, "files": list(names)}, device="cpu")
        assert error.value.message == f"{path.name}: {said}"
    elsewhere = more["file:model.onnx"].numpy().tobytes().replace(b"weights.data", b"../../eights")
    more["file:model.onnx"] = np_tensor(elsewhere)
    with pytest.raises(DataError) as error:
        restore_exported(more, facts, device="cpu")
    assert error.value.message == f"{path.name}: its weights lie in ../../eights, which is not beside it"


def np_tensor(content: bytes) -> object:
    import torch

    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())


def test_scoring_with_a_run_of_somebody_else_writes_no_file(uadctl, one_category, tmp_path):
    """The whole way: a run folder whose model.json was changed, and its checksum with it."""
    from safetensors.torch import load_file, save_file

    from uadctl import load_run
    from uadctl.errors import RunError
    from uadctl.runs.sealed import seal

    path, victim, runs = write(tmp_path / "model.onnx"), tmp_path / "victim", tmp_path / "runs"
    words = ["--dataset", "mvtec", "--root", one_category, "--device", "cpu", "--run-dir", runs, "--json"]
    uadctl("fit", *words, "--model", "vision_anomalib_checkpoint", "--checkpoint-path", path)
    (file,) = runs.rglob("model.json")
    image = next((one_category / "tile" / "test").rglob("*.png"))
    run = file.relative_to(runs).parts[0]
    assert uadctl("score", runs / run, image, "--json").lines[0]["score"] > 0
    tensors = load_file(file.with_suffix(".safetensors"))
    save_file({f"file:{victim}": tensors["file:model.onnx"]}, file.with_suffix(".safetensors"))
    document = json.loads(file.read_text(encoding="utf-8"))
    document["facts"]["files"] = [str(victim)]
    document["sha256"] = hashlib.sha256(file.with_suffix(".safetensors").read_bytes()).hexdigest()
    del document["checksum"]
    file.write_bytes(seal(document))
    said = f"the run's record of it names the file '{victim}', which is not beside it"
    with pytest.raises(RunError) as error:
        load_run(runs / run, device="cpu")
    assert error.value.message == f"{file.parent}: {path.name}: {said}"
    assert said in uadctl("score", runs / run, image, "--json", code=2).err
    assert not victim.exists()


@pytest.mark.parametrize("name", [name for name in OUTSIDE if name])
def test_weights_are_read_from_beside_the_graph_only(tmp_path, name):
    path = write(tmp_path / "model.onnx", beside="weights.data")
    model = onnx.load(path, load_external_data=False)
    changed = 0
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value, changed = name, changed + 1
    assert changed == 1
    path.write_bytes(model.SerializeToString())
    said = name if name.isprintable() else ascii(name)
    assert fails(path) == f"{path}: its weights lie in {said}, which is not beside it"


def test_a_link_leads_outside_only_where_the_graph_is_one_too(tmp_path):
    path = write(tmp_path / "here" / "model.onnx", beside="weights.data")
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "here" / "weights.data").rename(store / "1")
    (tmp_path / "here" / "weights.data").symlink_to(store / "1")
    assert fails(path) == f"{path}: its weights lie in weights.data, which is not beside it"


def test_weights_anywhere_in_the_graph_are_kept(tmp_path):
    """Of constants, of the branches of a choice, of sparse tensors, of functions: not only initial values."""
    helper = onnx.helper

    def outside(name: str, kind: int = FLOAT) -> object:
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"{name}.data")
        tensor.external_data.add(key="offset", value="0")
        return tensor

    branch = helper.make_graph([], "branch", [], [], [outside("in_branch")])
    sparse, other = (
        onnx.SparseTensorProto(values=outside(f"values{n}"), indices=outside(f"indices{n}", 7), dims=[1]) for n in "12"
    )
    nodes = [
        helper.make_node("Constant", [], ["a"], value=outside("constant")),
        helper.make_node("Constant", [], ["b"], sparse_value=sparse),
        helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "graph", [], [], sparse_initializer=[other])
    inner = helper.make_node("Constant", [], ["a"], value=outside("in_function"))
    function = helper.make_function("own", "f", [], ["a"], [inner], [helper.make_opsetid("", 18)])
    content = helper.make_model(graph, functions=[function]).SerializeToString()
    names = ["constant", "in_branch", "in_function", "indices1", "indices2", "values1", "values2"]
    assert exported._external_data(content, "m.onnx") == [f"{name}.data" for name in names]


def test_weights_of_a_constant_come_along(tmp_path):
    path = write(tmp_path / "model.onnx")
    model = onnx.load(path)
    (red,) = (tensor for tensor in model.graph.initializer if tensor.name == "red")
    model.graph.initializer.remove(red)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["red"], value=red))
    convert = onnx.external_data_helper
    (tmp_path / "sub").mkdir()
    (tensor,) = (a.t for a in model.graph.node[0].attribute)
    convert.set_external_data(tensor, "sub/red.data")
    (tmp_path / "sub" / "red.data").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    first = open_exported(path, device="cpu")
    tensors, facts = first.state()
    assert facts["files"] == ["model.onnx", "sub/red.data"]
    again = restore_exported(tensors, facts, device="cpu").predict(IMAGES, inference="exported")
    assert [raw.score for raw in again] == [raw.score for raw in first.predict(IMAGES, inference="exported")]


def test_a_number_without_an_end_is_damage(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08" + b"\xff" * 100_000)
    assert fails(path) == (f"{path}: cannot be read, it is damaged or no exported model (a number without an end)")


# -- what can be wrong


def fails(path: Path) -> str:
    with pytest.raises(DataError) as error:
        open_exported(path, device="cpu")
    return error.value.message


def test_files_that_are_not_there(tmp_path):
    assert fails(tmp_path / "model.onnx") == f"{tmp_path}/model.onnx: no such file"
    path = write(tmp_path / "parts.onnx", beside="weights.data")
    (tmp_path / "weights.data").unlink()
    assert fails(path) == f"{path}: there is no {tmp_path}/weights.data, which belongs to it"
    (tmp_path / "model.xml").write_text("<net/>")
    assert (
        fails(tmp_path / "model.xml") == f"{tmp_path}/model.xml: there is no {tmp_path}/model.bin, which belongs to it"
    )
    assert (
        fails(tmp_path / "other.bin") == f"{tmp_path}/other.bin: there is no {tmp_path}/other.xml, which belongs to it"
    )


def test_weights_elsewhere_are_not_read(tmp_path):
    path = write(tmp_path / "model.onnx", beside="weights.data")
    path.write_bytes(path.read_bytes().replace(b"weights.data", b"../eights.dat"[:12]))
    assert fails(path) == f"{path}: its weights lie in ../eights.da, which is not beside it"


def test_damaged_files(tmp_path, runtime):
    path = write(tmp_path / "model.onnx")
    whole = path.read_bytes()
    broken = [whole[: len(whole) // 2], b"no graph at all", b""]
    for content in broken:
        path.write_bytes(content)
        assert fails(path).startswith(f"{path}: cannot be read, it is damaged or no exported model (")
    assert len(broken) == 3


def test_a_damaged_openvino_file(tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'uadctl[openvino]'")
    xml = openvino_files(write(tmp_path / "model.onnx"))
    xml.write_text(xml.read_text()[:300])
    assert fails(xml).startswith(f"{xml}: cannot be read, it is damaged or no exported model (")


def test_graphs_that_are_no_detector(tmp_path, runtime):
    path = write(tmp_path / "model.onnx", shape=("batch", 1, "height", "width"))
    said = "['batch', 1, 'height', 'width']" if runtime == "onnxruntime" else "[None, 1, None, None]"
    assert fails(path) == f"{path}: takes input {said}; expected images, [batch, 3, height, width] in float32"
    path = write(tmp_path / "other.onnx", outputs=("pred_label", "field"))
    assert (
        fails(path) == f"{path}: gives pred_label, field; expected pred_score or anomaly_map, as anomalib's exports do"
    )


def test_no_runtime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    path = write(tmp_path / "model.onnx")
    with pytest.raises(BackendMissing) as error:
        open_exported(path, device="cpu")
    assert (
        error.value.message
        == f"{path} needs onnxruntime or openvino, which is not installed. Install it with: pip install 'uadctl[onnx]'"
    )
    for suffix in (".xml", ".bin"):
        path.with_suffix(suffix).write_bytes(b"")
    with pytest.raises(BackendMissing) as error:
        open_exported(path.with_suffix(".xml"), device="cpu")
    assert (
        error.value.message
        == f"{tmp_path}/model.xml needs openvino, which is not installed. Install it with: pip install 'uadctl[openvino]'"
    )


def test_neither_torch_nor_anomalib_is_needed_to_predict(tmp_path):
    import subprocess

    path = write(tmp_path / "model.onnx")
    code = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = sys.modules['anomalib'] = None\n"
        "from uadctl.models.anomalib.exported import open_exported\n"
        f"p = open_exported({str(path)!r}, device='cpu')\n"
        "print(p.predict([np.zeros((9, 9, 3), np.uint8)], inference='exported')[0].score)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0.0\n", "")


# -- anomalib's own files


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """PaDiM, fitted and exported by anomalib with a crop: any size as ONNX, one size as OpenVINO."""
    pytest.importorskip("anomalib", reason="anomalib is not installed: pip install 'uadctl[anomalib]'")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'uadctl[test]'")
    openvino_runtime.library()
    folder = tmp_path_factory.mktemp("exports")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from anomalib.models import Padim
        from anomalib.pre_processing import PreProcessor
        from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

        torch.manual_seed(0)
        steps = Compose([Resize((64, 72)), CenterCrop((48, 56)), Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.2])])
        model = Padim(
            backbone="resnet18", layers=["layer1"], n_features=8, pre_trained=False, pre_processor=PreProcessor(steps)
        )
        model.train()
        with torch.no_grad():
            model.model(steps(torch.rand(16, 3, 64, 72)))
        model.model.fit()
        for name, value in {
            "image_min": 1.0,
            "image_max": 40.0,
            "_image_threshold": 9.0,
            "pixel_min": 1.0,
            "pixel_max": 30.0,
        }.items():
            getattr(model.post_processor, name).fill_(value)
        model.eval()
        paths = [model.to_onnx(folder), model.to_openvino(folder, input_size=(64, 72))]
    return model, paths


@pytest.mark.slow
def test_predictions_are_anomalibs(exports, tmp_path, monkeypatch):
    import torch
    from anomalib.deploy import OpenVINOInferencer

    model, paths = exports
    monkeypatch.chdir(tmp_path)
    big = [cv2.resize(image, (72, 64)) for image in IMAGES]
    assert [path.suffix for path in paths] == [".onnx", ".xml"]
    for path in paths:
        predictor = open_exported(path, device="cpu")
        assert (predictor.preprocessing.resize, predictor.preprocessing.crop) == (Size(64, 72), Size(48, 56))
        assert predictor.is_raw is False
        ours = predictor.predict(big, inference="exported")
        assert list(tmp_path.iterdir()) == []
        theirs = OpenVINOInferencer(path, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
        direct = onnxruntime.InferenceSession(str(paths[0]), providers=["CPUExecutionProvider"])
        for image, raw in zip(big, ours, strict=True):
            said = theirs.predict(image)
            assert raw.score == pytest.approx(float(said.pred_score.squeeze()), abs=1e-5)
            np.testing.assert_allclose(raw.map, np.squeeze(said.anomaly_map), atol=1e-5)
            x = image.astype(np.float32).transpose(2, 0, 1)[None] / 255
            score, field = direct.run(["pred_score", "anomaly_map"], {"input": x})
            assert raw.score == pytest.approx(float(score.squeeze()), abs=1e-5)
            np.testing.assert_allclose(raw.map, field.squeeze(), atol=1e-5)
            with torch.no_grad():
                live = model(torch.from_numpy(x))
            assert raw.score == pytest.approx(float(live.pred_score.squeeze()), abs=1e-4)
        for path in tmp_path.glob("openvino_cache"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
