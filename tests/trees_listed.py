"""Data sets whose labels stand in lists, in small: Kaputt and an export in Datumaro's format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parts
from layouts import Damage, Layout

COLUMNS = (
    "capture_id",
    "item_identifier",
    "defect",
    "major_defect",
    "defect_types",
    "item_material",
    "query_image",
    "query_crop",
    "query_mask",
)
# name, material, kinds of defect ("" where it has none)
ROWS = {
    "train": [(f"t{i}", "cardboard", "") for i in range(4)]
    + [("t4", "cardboard", "penetration"), ("t5", "paper", ""), ("t6", "paper", "")],
    "validation": [("v0", "cardboard", ""), ("v1", "cardboard", ""), ("v2", "cardboard", "superficial")],
    "test": [
        ("q0", "cardboard", ""),
        ("q1", "cardboard", ""),
        ("q2", "cardboard", "deformation, deconstruction"),
        ("q3", "cardboard", "spillage"),
        ("q4", "paper", ""),
        ("q5", "paper", "actuation"),
    ],
}


def row(split: str, name: str, material: str | None, kinds: str | None, *, top: str = "data") -> dict[str, Any]:
    """A row as the publisher writes it, for the images of `name`."""
    return {
        "capture_id": name,
        "item_identifier": f"item {name}",
        "defect": bool(kinds),
        "major_defect": False,
        "defect_types": kinds,
        "item_material": material,
        "query_image": f"{top}/{split}/query-data/image/{name}.jpg",
        "query_crop": f"{top}/{split}/query-data/crop/{name}.jpg",
        "query_mask": f"{top}/{split}/query-data/mask/{name}.png",
    }


def write_list(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as a Parquet file, which takes pyarrow: without it the test is skipped."""
    import pytest

    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'uadctl[kaputt]'")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'uadctl[kaputt]'")
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), file)
    return file


def kaputt(root: Path) -> Path:
    """As on Hugging Face: paths start in query-image, query-crop and query-mask."""
    for split, listed in ROWS.items():
        rows = [row(split, *each) for each in listed]
        write_list(root / f"datasets/query-{split}.parquet", rows)
        references = [{"item_identifier": "item", "reference_image": f"data/{split}/reference-data/image/r.jpg"}]
        write_list(root / f"datasets/reference-{split}.parquet", references)
        for one in rows:
            for kind in ("image", "crop"):
                parts.write(root / f"query-{kind}" / one[f"query_{kind}"], parts.surface(1))
            parts.write(root / "query-mask" / one["query_mask"], parts.scratched(1)[1])
        parts.write(root / "reference-image" / references[0]["reference_image"], parts.surface(2))
    return root


def without_column(root: Path, name: str, *splits: str) -> None:
    """Take a column out of the lists of these splits."""
    for split in splits:
        rows = [row(split, *each) for each in ROWS[split]]
        for one in rows:
            del one[name]
        write_list(root / f"datasets/query-{split}.parquet", rows)


def kaputt_earlier(root: Path) -> Path:
    """As it was first released: the lists in the root, and paths from there."""
    for split, listed in ROWS.items():
        rows = [row(split, *each, top="kaputt-release/data") for each in listed]
        write_list(root / f"query-{split}.parquet", rows)
        for one in rows:
            for kind in ("image", "crop"):
                parts.write(root / one[f"query_{kind}"], parts.surface(1))
    return root


# --- Datumaro


def label(number: int | None) -> dict[str, Any]:
    return {"id": 0, "type": "label", "attributes": {}, "group": 0, "label_id": number}


def polygon(number: int | None) -> dict[str, Any]:
    return {**label(number), "type": "polygon", "points": [1.0, 1.0, 9.0, 1.0, 9.0, 9.0], "z_order": 0}


def item(name: str, *annotations: dict[str, Any], path: str | None = None) -> dict[str, Any]:
    image = {"path": f"{name}.jpg" if path is None else path, "size": [64, 64]}
    return {"id": name, "annotations": list(annotations), "attr": {}, "image": image}


def document(items: list[dict[str, Any]], labels: tuple[str, ...] = ("Normal", "dent", "Scratch")) -> dict[str, Any]:
    named = [{"name": name, "parent": "", "attributes": []} for name in labels]
    return {"info": {}, "categories": {"label": {"labels": named, "attributes": []}}, "items": items}


def subset(root: Path, name: str, content: dict[str, Any], *, folder: str | None = None) -> Path:
    """One subset's annotations and, where they are not there, the images of its items."""
    file = root / "annotations" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    for one in content["items"]:
        path = one.get("image", one.get("media", {})).get("path")
        if path:
            parts.write(root / "images" / (name if folder is None else folder) / path, parts.surface(1))
    return file


def datumaro(root: Path) -> Path:
    """One subset, default, as Geti and CVAT export a task: its images are parted."""
    items = [item(f"n{i}", label(0)) for i in range(6)]
    items += [item("b0", label(1)), item("b1", polygon(2), label(1)), item("u0")]
    subset(root, "default", document(items))
    return root


def datumaro_subsets(root: Path) -> Path:
    """Three subsets, as of a CVAT project, and newer Datumaro's word for images."""
    train = [item(f"a/n{i}", label(0)) for i in range(3)] + [item("b0", label(1))]
    validation = [item("v0", label(0)), item("v1", polygon(1))]
    test = [item("n0", label(0)), item("n1", label(0)), item("b0", label(1)), item("b1", polygon(2), label(1))]
    for name, items in (("Train", train), ("Validation", validation), ("Test", test)):
        for one in items:
            one["media"] = one.pop("image")
        subset(root, name, document(items))
    return root


# --- what may be wrong


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """The damage that changes a subset's document in place."""

    def hurt(root: Path) -> None:
        file = root / "annotations" / f"{name}.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        change(content)
        file.write_text(json.dumps(content), encoding="utf-8")

    return hurt


def set_path(content: dict[str, Any], path: str) -> None:
    content["items"][0]["image"]["path"] = path


LAYOUTS = {
    "kaputt": Layout(
        "kaputt",
        "cardboard",
        kaputt,
        (4, 2, 2),
        ("deformation,deconstruction", "spillage"),
        masks=False,
        validation=2,
        left_out=2,
    ),
    "kaputt of the first release": Layout("kaputt", "paper", kaputt_earlier, (2, 1, 1), ("actuation",), masks=False),
    "datumaro": Layout("datumaro", "parts", datumaro, (4, 2, 2), ("dent", "dent,Scratch"), masks=False),
    "datumaro subsets": Layout(
        "datumaro",
        "parts",
        datumaro_subsets,
        (3, 2, 2),
        ("dent", "dent,Scratch"),
        masks=False,
        validation=1,
        left_out=2,
    ),
}
_CROPS = "data/train/query-data/crop"
TRAYS = 'Or measure the whole trays: [dataset] layout = "image" (without a spec: --set \'dataset.layout="image"\').'
DAMAGES: dict[str, tuple[Damage, ...]] = {
    "kaputt": (
        Damage(
            "missing list",
            lambda root: (root / "datasets/query-test.parquet").unlink(),
            "{root}/datasets/query-test.parquet: no such file",
        ),
        Damage(
            "wrong case",
            lambda root: (root / "datasets").rename(root / "Datasets"),
            "{root}/datasets: no such folder; there is {root}/Datasets",
        ),
        Damage(
            "wrong case of the crops",
            lambda root: (root / "query-crop").rename(root / "Query-crop"),
            "{root}/query-crop: no such folder; there is {root}/Query-crop\n  Case counts in the names of folders: rename "
            f"it to query-crop. {TRAYS}\n",
        ),
        Damage(
            "missing folder of crops beside trays",
            lambda root: shutil.rmtree(root / "query-crop"),
            "{root}/datasets/query-train.parquet: the image of row 1 is not there, nor is any other of cardboard; looked "
            f"for {{root}}/query-crop/{_CROPS}/t0.jpg, {{root}}/{_CROPS}/t0.jpg\n  Unpack the archives of the images "
            f"into the root. {TRAYS}\n",
        ),
        Damage(
            "lists without crops",
            lambda root: without_column(root, "query_crop", *ROWS),
            "{root}/datasets/query-train.parquet: has no column query_crop: the whole trays are measured",
            ends=False,
        ),
        Damage(
            "a good row with a major defect",
            lambda root: write_list(
                root / "datasets/query-train.parquet",
                [row("train", *each) | {"major_defect": each[0] == "t2"} for each in ROWS["train"]],
            ),
            "{root}/datasets/query-train.parquet: row 3 has defect = false and yet kinds of defect or a major one, and is "
            "not learned from",
            ends=False,
        ),
        Damage(
            "missing image",
            lambda root: (root / f"query-crop/{_CROPS}/t1.jpg").unlink(),
            f"{{root}}/datasets/query-train.parquet: row 2: {{root}}/query-crop/{_CROPS}/t1.jpg: no such file",
        ),
        Damage(
            "broken list",
            lambda root: (root / "datasets/query-train.parquet").write_bytes(b"PAR1 and no more"),
            "{root}/datasets/query-train.parquet: cannot be read as Parquet",
        ),
        Damage(
            "no material",
            lambda root: write_list(
                root / "datasets/query-test.parquet",
                [*(row("test", *each) for each in ROWS["test"]), row("test", "q0", None, "spillage")],
            ),
            "{root}/datasets/query-test.parquet: row 7 has no item_material, and is in no category",
            ends=False,
        ),
    ),
    "kaputt of the first release": (
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "kaputt-release"),
            "{root}/query-train.parquet: the image of row 6 is not there, nor is any other of paper; looked for "
            "{root}/query-crop/kaputt-release/data/train/query-data/crop/t5.jpg, ",
        ),
    ),
    "datumaro": (
        Damage(
            "missing folder",
            lambda root: shutil.rmtree(root / "images"),
            "{root}/images: no such folder",
        ),
        Damage(
            "wrong case",
            lambda root: (root / "annotations").rename(root / "Annotations"),
            "{root}/annotations: no such folder; there is {root}/Annotations",
        ),
        Damage(
            "wrong case of a subset's images",
            lambda root: (root / "images/default").rename(root / "images/Default"),
            "{root}/images/default: no such folder; there is {root}/images/Default\n  Case counts in the names of "
            "folders: rename it to default.\n",
        ),
        Damage(
            "images in no annotations",
            edited("default", lambda content: content["items"].pop()),
            "{root}/images/default/u0.jpg: is listed in no annotations, and left out",
            ends=False,
        ),
        Damage(
            "missing image",
            lambda root: (root / "images/default/b1.jpg").unlink(),
            '{root}/annotations/default.json: item 8 ("b1"): no image at {root}/images/default/b1.jpg nor at '
            "{root}/images/b1.jpg",
        ),
        Damage(
            "a path that leads out",
            edited("default", lambda content: set_path(content, "../../n0.jpg")),
            '{root}/annotations/default.json: item 1 ("n0"): "../../n0.jpg" is no path below {root}/images',
        ),
        Damage(
            "no normal label",
            edited("default", lambda content: content["categories"]["label"]["labels"][0].update(name="part")),
            '{root}/annotations: none of the labels is called as normal images are; the labels: "part", "dent", '
            '"Scratch"',
        ),
        Damage(
            "unlabelled image",
            lambda root: None,
            "{root}/images/default/u0.jpg: is without a label, and left out",
            ends=False,
        ),
    ),
    "datumaro subsets": (
        Damage(
            "lost subset",
            lambda root: (root / "annotations/Test.json").unlink(),
            "{root}/annotations/Test.json: no such file; there are images in {root}/images/Test\n  Export it together "
            "with the others, or take its images away.\n",
        ),
        Damage(
            "shapes",
            lambda root: None,
            "{root}/images/Test/b1.jpg: is the first of 2 images that are marked with shapes, which are not drawn",
            ends=False,
        ),
    ),
}
