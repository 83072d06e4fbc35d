"""Exports in Datumaro's format: which items are good, which split they are in, and what is wrong with a document."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import parts
import pytest
import trees_listed as trees
from parts import message, relatives
from trees_listed import document, item, label, polygon

from uadctl.datasets import datumaro, list_categories, load_dataset, recognise
from uadctl.datasets.base import LayoutError, NoLayout
from uadctl.errors import DataError


def problems(root: Path) -> list[str]:
    with pytest.raises(LayoutError) as error:
        load_dataset("datumaro", str(root))
    return [problem.message for problem in error.value.problems]


def two(root: Path, *items: dict[str, Any], **options: Any) -> Path:
    """An export of two good images, which are tested on and learned from, and further items."""
    trees.subset(root, "default", document([item("n0", label(0)), item("n1", label(0)), *items], **options))
    return root


def test_an_only_subset_is_parted(tmp_path: Path) -> None:
    root = trees.datumaro(tmp_path / "gear")
    assert list_categories("datumaro", str(root)) == ["gear"]
    dataset = load_dataset("datumaro", str(root))
    assert (dataset.name, dataset.category, dataset.root) == ("datumaro", "gear", str(root))
    assert relatives(dataset.train) == [f"images/default/n{i}.jpg" for i in (1, 2, 3, 4)]
    assert {(s.split, s.label, s.defect) for s in dataset.train} == {("train", 0, "good")}
    assert [(s.path, s.split, s.label, s.defect, s.category, s.masks, s.expected_mask) for s in dataset.test] == [
        (f"{root}/images/default/b0.jpg", "test", 1, "dent", "gear", (), None),
        (f"{root}/images/default/b1.jpg", "test", 1, "dent,Scratch", "gear", (), None),
        (f"{root}/images/default/n0.jpg", "test", 0, "good", "gear", (), None),
        (f"{root}/images/default/n5.jpg", "test", 0, "good", "gear", (), None),
    ]
    assert (dataset.validation, dataset.left_out) == ((), ())
    assert dataset.notes == (
        f"{root}/annotations/default.json: is the only subset: of its good images the first and then every fifth are "
        "tested on, the others are learned from",
        f"{root}/images/default/u0.jpg: is without a label, and left out",
        f"{root}/images/default/b1.jpg: is marked with shapes, which are not drawn as masks: with masks in PNG files, "
        "the data sets folder and manifest bring pixel metrics",
    )


def test_the_order_of_items_decides_nothing(tmp_path: Path) -> None:
    root = trees.datumaro(tmp_path)
    before = load_dataset("datumaro", str(root))
    trees.edited("default", lambda content: content["items"].reverse())(root)
    assert load_dataset("datumaro", str(root)) == before


def test_subsets_that_are_called_so_are_the_splits(tmp_path: Path) -> None:
    root = trees.datumaro_subsets(tmp_path)
    dataset = load_dataset("datumaro", str(root))
    assert relatives(dataset.train) == [f"images/Train/a/n{i}.jpg" for i in range(3)]
    assert relatives(dataset.validation) == ["images/Validation/v0.jpg"]
    assert relatives(dataset.test) == [f"images/Test/{name}.jpg" for name in ("b0", "b1", "n0", "n1")]
    assert [(s.relative, s.split, s.label, s.defect) for s in dataset.left_out] == [
        ("images/Train/b0.jpg", "train", 1, "dent"),
        ("images/Validation/v1.jpg", "validation", 1, "dent"),
    ]
    assert len(dataset.notes) == 1


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("training", "valid", "testing"), ("TRAIN", "val", "Test"), ("train", "VALIDATION", "test")],
)
def test_words_for_splits(tmp_path: Path, train: str, validation: str, test: str) -> None:
    for name in (train, validation, test):
        trees.subset(tmp_path, name, document([item("a", label(0))]))
    dataset = load_dataset("datumaro", str(tmp_path))
    parted = (dataset.train, dataset.validation, dataset.test)
    assert [relatives(part) for part in parted] == [[f"images/{name}/a.jpg"] for name in (train, validation, test)]


@pytest.mark.parametrize("name", ["Normal", "good", "OK", "No anomaly", "no_defect", "Anomaly-Free", " GOOD "])
@pytest.mark.parametrize("place", [0, 2])
def test_the_normal_label_is_known_by_its_name_wherever_it_stands(tmp_path: Path, name: str, place: int) -> None:
    labels = ["dent", "hole"]
    labels.insert(place, name)
    bad = labels.index("hole")
    items = [item("n0", label(place)), item("n1", label(place)), item("b0", label(bad))]
    trees.subset(tmp_path, "default", document(items, tuple(labels)))
    dataset = load_dataset("datumaro", str(tmp_path))
    assert [(s.relative, s.defect) for s in (*dataset.train, *dataset.test)] == [
        ("images/default/n1.jpg", "good"),
        ("images/default/b0.jpg", "hole"),
        ("images/default/n0.jpg", "good"),
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("part", "dent"), 'none of the labels is called as normal images are; the labels: "part", "dent"'),
        ((), "none of the labels is called as normal images are; the labels: none"),
        (
            ("good", "ok", "dent"),
            '"good" and "ok" are both called as normal images are; the labels: "good", "ok", "dent"',
        ),
    ],
)
def test_a_normal_label_must_be_known_for_sure(tmp_path: Path, labels: tuple[str, ...], expected: str) -> None:
    trees.subset(tmp_path, "default", document([item("a")], labels))
    with pytest.raises(DataError) as error:
        load_dataset("datumaro", str(tmp_path))
    assert message(error) == (
        f"{tmp_path}/annotations: {expected}",
        "Call one label so, as one of: normal, good, ok, no anomaly, no defect, anomaly free, defect free. "
        "Or list the images in a manifest.",
    )


def test_labels_are_numbered_by_each_subset_for_itself(tmp_path: Path) -> None:
    trees.subset(tmp_path, "train", document([item("a", label(0))], ("normal", "dent")))
    trees.subset(tmp_path, "test", document([item("a", label(1)), item("b", label(0))], ("dent", "Normal")))
    dataset = load_dataset("datumaro", str(tmp_path))
    assert [(s.relative, s.defect) for s in dataset.test] == [
        ("images/test/a.jpg", "good"),
        ("images/test/b.jpg", "dent"),
    ]


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([label(0)], "good"),
        ([label(0), label(0)], "good"),
        ([label(0), polygon(0)], "good"),
        ([label(0), {"id": 1, "type": "caption", "caption": "dent?"}], "good"),
        ([label(0), label(1)], "dent"),
        ([polygon(2), label(0)], "Scratch"),
        ([polygon(2), polygon(1)], "dent,Scratch"),
        ([polygon(2), polygon(None)], "Scratch"),
        ([], None),
        ([label(None)], None),
        ([polygon(None)], None),
        ([label(0), polygon(None)], None),
    ],
)
def test_an_item_is_what_all_of_its_annotations_say(
    tmp_path: Path, annotations: list[dict[str, Any]], expected: str | None
) -> None:
    dataset = load_dataset("datumaro", str(two(tmp_path, item("x", *annotations))))
    found = {s.relative: s for s in (*dataset.train, *dataset.test)}.get("images/default/x.jpg")
    left_out = f"{tmp_path}/images/default/x.jpg: is without a label, and left out"
    if expected is None:
        assert found is None
        assert left_out in dataset.notes
    else:
        assert found is not None
        assert (found.defect, found.label) == (expected, int(expected != "good"))
        assert left_out not in dataset.notes
    marked = [note for note in dataset.notes if "marked with shapes" in note]
    assert bool(marked) == (expected not in (None, "good") and any(a["type"] == "polygon" for a in annotations))


def test_images_may_lie_without_their_subset_and_be_named_by_their_id_alone(tmp_path: Path) -> None:
    items = [item("n0", label(0)), item("n1", label(0)), item("deep/b0", label(1))]
    trees.subset(tmp_path, "default", document(items), folder=".")
    del items[2]["image"]
    items[1]["image"]["path"] = ""
    (tmp_path / "annotations/default.json").write_text(json.dumps(document(items)))
    dataset = load_dataset("datumaro", str(tmp_path))
    assert relatives(dataset.train) == ["images/n1.jpg"]
    assert relatives(dataset.test) == ["images/deep/b0.jpg", "images/n0.jpg"]
    parts.write(tmp_path / "images/n1.png", parts.surface(1))
    assert problems(tmp_path) == [
        f'{tmp_path}/annotations/default.json: item 2 ("n1"): two images of this name: {tmp_path}/images/n1.jpg and '
        f"{tmp_path}/images/n1.png"
    ]


def test_every_problem_of_every_subset_is_said_at_once(tmp_path: Path) -> None:
    two(tmp_path, item("twice", label(0)))
    wrong = [
        item("twice", label(0)),
        item("far", label(3)),
        item("below", label(-1)),
        item("word", {**label(0), "label_id": "0"}),
        item("yes", {**label(0), "label_id": True}),
        item("out", label(0), path="../../../etc/passwd.jpg"),
        item("top", label(0), path="/etc/passwd.jpg"),
        item("gone", label(0), path="gone.jpg"),
        item("shape", {"id": 0, "label_id": 1}),
        {"id": "bare"},
        7,
        {**item("path", label(0)), "image": {"path": 5}},
        {**item("text", label(0)), "image": "text.jpg"},
    ]
    file = tmp_path / "annotations/default.json"
    content = json.loads(file.read_text())
    content["items"] += wrong
    file.write_text(json.dumps(content))
    (tmp_path / "annotations/test.json").write_text("[")
    found = problems(tmp_path)
    start, images = f"{file}: item ", f"{tmp_path}/images"
    assert found[:-1] == [
        f'{start}4 ("twice"): {images}/default/twice.jpg is listed already, in {start}3',
        f'{start}5 ("far"): annotations[0].label_id: 3 is no label: there are 3, counted from 0',
        f'{start}6 ("below"): annotations[0].label_id: -1 is no label: there are 3, counted from 0',
        f'{start}7 ("word"): annotations[0].label_id: expected an integer, found a string',
        f'{start}8 ("yes"): annotations[0].label_id: expected an integer, found true or false',
        f'{start}9 ("out"): "../../../etc/passwd.jpg" is no path below {images}',
        f'{start}10 ("top"): "/etc/passwd.jpg" is no path below {images}',
        f'{start}11 ("gone"): no image at {images}/default/gone.jpg nor at {images}/gone.jpg',
        f'{start}12 ("shape"): has no annotations[0].type',
        f'{start}13 ("bare"): has no annotations',
        f"{file}: 3 more items with something wrong",
    ]
    assert found[-1].startswith(f"{tmp_path}/annotations/test.json: is no JSON (")
    content["items"] = wrong[10:]
    file.write_text(json.dumps(content))
    assert problems(tmp_path)[:-1] == [
        f"{start}1: expected an object, found an integer",
        f'{start}2 ("path"): image.path: expected a string, found an integer',
        f'{start}3 ("text"): image: expected an object, found a string',
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "expected an object, found a list"),
        ({"items": []}, "has no categories"),
        ({"categories": {}, "items": []}, "has no categories.label"),
        (
            {"categories": {"label": {"labels": {}}}, "items": []},
            "categories.label.labels: expected a list, found a table",
        ),
        ({"categories": {"label": {"labels": [{}]}}, "items": []}, "has no categories.label.labels[0].name"),
        (
            {"categories": {"label": {"labels": [{"name": " "}]}}, "items": []},
            "categories.label.labels[0].name is empty",
        ),
        ({"categories": {"label": {"labels": []}}}, "has no items"),
        ({"categories": {"label": {"labels": []}}, "items": {}}, "items: expected a list, found a table"),
    ],
)
def test_a_document_of_another_shape_is_refused(tmp_path: Path, content: object, expected: str) -> None:
    two(tmp_path)
    file = tmp_path / "annotations/default.json"
    file.write_text(json.dumps(content))
    assert problems(tmp_path) == [f"{file}: {expected}"]


def test_a_hostile_document_is_refused(tmp_path: Path) -> None:
    two(tmp_path)
    file = tmp_path / "annotations/default.json"
    file.write_text("[" * 100_000)
    assert problems(tmp_path) == [f"{file}: nested too deeply"]
    file.write_text('{"items": [], "items": []}')
    assert problems(tmp_path) == [f'{file}: is no JSON ("items" is given twice)']


def test_of_very_many_problems_the_first_are_said(tmp_path: Path) -> None:
    two(tmp_path)
    file = tmp_path / "annotations/default.json"
    file.write_text(json.dumps(document([item(f"gone{i}", label(0)) for i in range(60)])))
    found = problems(tmp_path)
    assert len(found) == 11
    assert found[-1] == f"{file}: 50 more items with something wrong"


def test_images_in_no_annotations_are_left_out_and_said(tmp_path: Path) -> None:
    root = two(tmp_path, item("b0", label(1)))
    before = load_dataset("datumaro", str(root))
    parts.write(root / "images/default/z/x.jpg", parts.surface(1))
    dataset = load_dataset("datumaro", str(root))
    assert (dataset.train, dataset.test) == (before.train, before.test)
    assert set(dataset.notes) - set(before.notes) == {
        f"{root}/images/default/z/x.jpg: is listed in no annotations, and left out"
    }
    parts.write(root / "images/a.jpg", parts.surface(1))
    assert set(load_dataset("datumaro", str(root)).notes) - set(before.notes) == {
        f"{root}/images/a.jpg: is the first of 2 images that are listed in no annotations, and left out"
    }


def test_a_folder_of_images_without_its_annotations_is_said(tmp_path: Path) -> None:
    root = two(tmp_path, item("b0", label(1)))
    before = load_dataset("datumaro", str(root))
    for name in ("extra/a.jpg", "extra/in/b.jpg", "later/a.jpg"):
        parts.write(root / "images" / name, parts.surface(1))
    assert load_dataset("datumaro", str(root)).notes == (
        *before.notes,
        f"{root}/images/extra: holds 2 images and has no annotations in {root}/annotations/extra.json: left out",
        f"{root}/images/later: holds 1 image and has no annotations in {root}/annotations/later.json: left out",
    )
    for i in range(12):
        parts.write(root / f"images/x{i}/a.jpg", parts.surface(1))
    told = load_dataset("datumaro", str(root)).notes
    assert len(told) == len(before.notes) + 11
    assert told[-1] == f"{root}/images: 4 more folders without annotations"


@pytest.mark.parametrize("name", ["train", "Val", "validation", "test", "TESTING"])
def test_a_split_that_has_lost_its_annotations_is_an_error(tmp_path: Path, name: str) -> None:
    root = two(tmp_path, item("gone", label(1)))
    (root / "images/default/gone.jpg").unlink()
    parts.write(root / f"images/{name}/a.jpg", parts.surface(1))
    with pytest.raises(LayoutError) as error:
        load_dataset("datumaro", str(root))
    assert [(problem.message, problem.help) for problem in error.value.problems] == [
        (
            f'{root}/annotations/default.json: item 3 ("gone"): no image at {root}/images/default/gone.jpg nor at '
            f"{root}/images/gone.jpg",
            None,
        ),
        (
            f"{root}/annotations/{name}.json: no such file; there are images in {root}/images/{name}",
            "Export it together with the others, or take its images away.",
        ),
    ]


def test_a_folder_that_items_of_another_subset_lie_in_has_lost_nothing(tmp_path: Path) -> None:
    items = [item("train/n0", label(0)), item("train/n1", label(0)), item("test/b0", label(1))]
    trees.subset(tmp_path, "default", document(items), folder=".")
    parts.write(tmp_path / "images/test/x.jpg", parts.surface(1))
    dataset = load_dataset("datumaro", str(tmp_path))
    assert relatives(dataset.test) == ["images/test/b0.jpg", "images/train/n0.jpg"]
    assert dataset.notes[-1] == f"{tmp_path}/images/test/x.jpg: is listed in no annotations, and left out"
    # What a document that cannot be read lists is not known, so nothing is said of folders.
    (tmp_path / "annotations/default.json").write_text("[")
    assert [problem.partition(": ")[0] for problem in problems(tmp_path)] == [f"{tmp_path}/annotations/default.json"]


def test_a_subset_without_items_has_its_annotations_all_the_same(tmp_path: Path) -> None:
    root = trees.datumaro_subsets(tmp_path)
    trees.edited("Validation", lambda content: content["items"].clear())(root)
    dataset = load_dataset("datumaro", str(root))
    assert dataset.validation == ()
    assert dataset.notes[-1] == (
        f"{root}/images/Validation/v0.jpg: is the first of 2 images that are listed in no annotations, and left out"
    )


def test_a_subset_s_folder_in_another_case_is_said_once(tmp_path: Path) -> None:
    root = trees.datumaro_subsets(tmp_path)
    (root / "images/Test").rename(root / "images/test")
    trees.edited("Test", lambda content: content["items"].append(item("gone", label(0))))(root)
    with pytest.raises(LayoutError) as error:
        load_dataset("datumaro", str(root))
    assert [(problem.message, problem.help) for problem in error.value.problems] == [
        (
            f"{root}/images/Test: no such folder; there is {root}/images/test",
            "Case counts in the names of folders: rename it to Test.",
        ),
        (
            f'{root}/annotations/Test.json: item 5 ("gone"): no image at {root}/images/Test/gone.jpg nor at '
            f"{root}/images/gone.jpg",
            None,
        ),
    ]


def test_two_folders_that_differ_by_case_alone_are_two(tmp_path: Path) -> None:
    root = two(tmp_path, item("b0", label(1)))
    (root / "images/Default").mkdir()
    (root / "images/default/b0.jpg").rename(root / "images/Default/b0.jpg")
    assert problems(root) == [
        f'{root}/annotations/default.json: item 3 ("b0"): no image at {root}/images/default/b0.jpg nor at '
        f"{root}/images/b0.jpg"
    ]


def empty_images(root: Path, subset: str, names: list[str]) -> None:
    """Files called like images, which no listing opens."""
    (root / f"images/{subset}").mkdir(parents=True)
    for name in names:
        (root / f"images/{subset}/{name}.jpg").touch()


def seconds_to_load(root: Path) -> float:
    """Of this thread: what others of the process do at the time is not counted."""

    def once() -> float:
        began = time.thread_time()
        load_dataset("datumaro", str(root))
        return time.thread_time() - began

    return min(once() for _ in range(3))


def test_many_labels_of_two_subsets_are_read_once_each(tmp_path: Path) -> None:
    for n in (2_000, 20_000):
        root = tmp_path / str(n)
        (root / "annotations").mkdir(parents=True)
        for name in ("train", "test"):
            labels = ("good", *(f"{name} {i}" for i in range(n)))
            (root / f"annotations/{name}.json").write_text(json.dumps(document([item("a", label(0))], labels)))
            empty_images(root, name, ["a"])
    dataset = load_dataset("datumaro", str(tmp_path / "20000"))
    assert (len(dataset.train), len(dataset.test)) == (1, 1)
    # Ten times as much to read; each label held against each other would be a hundred times.
    assert seconds_to_load(tmp_path / "20000") < 40 * seconds_to_load(tmp_path / "2000")


def test_many_items_of_many_labels_do_not_look_at_all_labels(tmp_path: Path) -> None:
    for n in (3_000, 60_000):
        labels = ("good", *(f"kind {i}" for i in range(n)))
        items = [item(f"{i:04}", label(n - i if i > 9 else 0), label(n - 1 - i if i > 9 else 0)) for i in range(3_000)]
        root = tmp_path / str(n)
        (root / "annotations").mkdir(parents=True)
        (root / "annotations/default.json").write_text(json.dumps(document(items, labels)))
        empty_images(root, "default", [one["id"] for one in items])
    dataset = load_dataset("datumaro", str(tmp_path / "60000"))
    assert (len(dataset.train), len(dataset.test)) == (8, 2_992)
    assert dataset.test[-1].defect == "kind 56999,kind 57000"
    # Twice as long, for the file is longer; a list of labels searched for each item takes twenty times.
    assert seconds_to_load(tmp_path / "60000") < 8 * seconds_to_load(tmp_path / "3000")


def test_of_very_many_labels_the_first_are_listed(tmp_path: Path) -> None:
    trees.subset(tmp_path, "default", document([item("a")], tuple(f"k{i}" for i in range(25))))
    with pytest.raises(DataError) as error:
        load_dataset("datumaro", str(tmp_path))
    listed = ", ".join(f'"k{i}"' for i in range(20))
    assert message(error)[0] == (
        f"{tmp_path}/annotations: none of the labels is called as normal images are; the labels: {listed} and 5 more"
    )


def test_a_subset_that_is_no_split_beside_others_is_refused(tmp_path: Path) -> None:
    for name in ("train", "test", "extra", "later"):
        trees.subset(tmp_path, name, document([item("a", label(0))]))
    assert problems(tmp_path) == [
        f"{tmp_path}/annotations/{name}.json: which split it is, is not known" for name in ("extra", "later")
    ]


@pytest.mark.parametrize(
    ("name", "items", "what"),
    [
        ("train", [item("n0", label(0))], "image to test on"),
        ("test", [item("n0", label(0))], "good image to learn from"),
        ("default", [item("n0", label(0)), item("b0", label(1))], "good image to learn from"),
        ("default", [item("n0")], "good image to learn from"),
    ],
)
def test_there_must_be_images_to_learn_from_and_to_test_on(
    tmp_path: Path, name: str, items: list[dict[str, Any]], what: str
) -> None:
    trees.subset(tmp_path, name, document(items))
    with pytest.raises(DataError) as error:
        load_dataset("datumaro", str(tmp_path))
    assert message(error) == (
        f"{tmp_path}/annotations: no {what} in {name}.json",
        "Subsets are called train, validation and test; an only one has another name, as default.",
    )


def test_an_export_is_recognised_and_coco_is_not(tmp_path: Path) -> None:
    root = trees.datumaro(tmp_path / "geti")
    assert datumaro.recognises(str(root))
    assert recognise(str(root)) == ["datumaro"]
    assert recognise(str(trees.datumaro_subsets(tmp_path / "cvat"))) == ["datumaro"]
    trees.subset(tmp_path / "flat", "default", document([item("a", label(0))]), folder=".")
    assert recognise(str(tmp_path / "flat")) == ["datumaro"]

    coco = tmp_path / "coco"
    parts.write(coco / "images/train/a.jpg", parts.surface(1))
    (coco / "annotations").mkdir()
    (coco / "annotations/instances_train.json").write_text("{}")
    assert not datumaro.recognises(str(coco))
    parts.write(coco / "images/a.jpg", parts.surface(1))
    assert not datumaro.recognises(str(coco))
    assert not datumaro.recognises(str(tmp_path))
    (root / "annotations/default.json").unlink()
    assert not datumaro.recognises(str(root))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    root = trees.datumaro(tmp_path / "a")
    (root / "images").rename(root / "Images")
    with pytest.raises(DataError) as error:
        load_dataset("datumaro", str(root))
    assert message(error) == (
        f"{root}/images: no such folder; there is {root}/Images",
        "Case counts in the names of folders: rename it to images.",
    )
    other = parts.write_category(tmp_path / "b", "tile", train=1, good=1, bad=1).parent
    with pytest.raises(NoLayout) as error:
        load_dataset("datumaro", str(other))
    assert message(error) == (
        f"{other} holds no export in Datumaro's format: expected {other}/annotations/<subset>.json, found tile/",
        "It looks like mvtec: give that name in place of datumaro.",
    )
    with pytest.raises(DataError) as error:
        load_dataset("datumaro", str(trees.datumaro(tmp_path / "c")), category="d")
    assert message(error)[0] == f"{tmp_path}/c has no category 'd'; it has: c"
