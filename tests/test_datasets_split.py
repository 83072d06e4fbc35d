"""`datasets split`: training images held out, the same that `[calibration] holdout` would draw, groups undivided."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import parts
import pytest

from uadctl.datasets import Dataset, list_categories, load_dataset
from uadctl.errors import DataError, SpecError
from uadctl.plan import hold_out, parts_of
from uadctl.records import Sample
from uadctl.spec import DatasetTable
from uadctl.split import hold_out_of, split


def images(*groups: str | None) -> list[Sample]:
    """A training image for each group given."""
    return [Sample(f"{i}.png", f"{i}.png", "train", 0, "good", "c", group=g) for i, g in enumerate(groups)]


def names(samples) -> list[str]:
    return [sample.relative for sample in samples]


def manifest_of(folder: Path, *rows: str) -> str:
    """A manifest with files for its rows: PATH,SPLIT,LABEL,GROUP."""
    (folder / "m.csv").write_text("\n".join(["path,split,label,group", *rows]))
    for row in rows:
        (folder / row.split(",")[0]).touch()
    return str(folder / "m.csv")


# --- which images


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 209])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 7])
def test_without_groups_each_image_is_drawn_for_itself(n, share, seed):
    kept, held = hold_out(images(*[None] * n), share=share, seed=seed)
    wanted = max(1, round(share * n))
    drawn = np.random.default_rng([seed, n]).permutation(n)[:wanted]
    assert names(held) == [f"{i}.png" for i in sorted(drawn)]
    assert names(kept) == [f"{i}.png" for i in sorted(set(range(n)) - set(drawn.tolist()))]


def test_these_are_drawn_of_ten():
    assert names(hold_out(images(*[None] * 10), share=0.3, seed=0)[1]) == ["1.png", "4.png", "7.png"]
    assert names(hold_out(images(*[None] * 10), share=0.3, seed=1)[1]) == ["1.png", "5.png", "6.png"]


def test_groups_stay_together_and_an_image_without_is_a_part():
    samples = images("a", None, "b", "a", None, "b", "b", "c")
    assert parts_of(samples) == [[0, 3], [1], [2, 5, 6], [4], [7]]
    seen = set()
    for seed in range(30):
        kept, held = hold_out(samples, share=0.4, seed=seed)
        assert len(parts_of(held)) == 2
        assert {s.group for s in kept if s.group} & {s.group for s in held if s.group} == set()
        assert sorted((*kept, *held), key=lambda s: s.path) == samples
        assert names(held) == sorted(names(held))
        seen.add(tuple(names(held)))
    assert len(seen) == 10  # all pairs of five parts


def test_if_all_parts_are_drawn_none_stays():
    assert [len(x) for x in hold_out(images("a", "a", "a"), share=0.2, seed=0)] == [0, 3]
    assert [len(x) for x in hold_out(images(), share=0.2, seed=0)] == [0, 0]


# --- from one split to another


@pytest.fixture
def grouped(tmp_path) -> str:
    """Four parts seen twice to learn from, one in each of the other splits, and two bad images."""
    rows = [f"{part}{view},train,0,{part}" for part in "abcd" for view in "12"]
    return manifest_of(tmp_path, *rows, "v,validation,0,v", "t,test,0,t", "x,test,1,", "y,train,1,y")


@pytest.mark.parametrize("to", ["validation", "test"])
def test_a_category_keeps_all_its_images(grouped, to):
    before = load_dataset("manifest", grouped)
    result = hold_out_of(before, holdout=0.5, seed=3, to=to)
    after = result.dataset
    assert (result.category, result.parts, len(result.images)) == ("m", 2, 4)
    assert {(s.split, s.label) for s in result.images} == {(to, 0)}
    moved = names(result.images)
    assert names(after.train) == [n for n in names(before.train) if n not in moved]
    assert names(after.validation) == sorted([*names(before.validation), *(moved if to == "validation" else [])])
    assert names(after.test) == sorted([*names(before.test), *(moved if to == "test" else [])])
    assert after.left_out == before.left_out
    assert names(after.left_out) == ["y"]


def test_the_manifest_reads_back_as_what_was_split(grouped, tmp_path):
    for name in ("out.csv", "out.jsonl"):
        out = str(tmp_path / name)
        (result,) = split(DatasetTable(name="manifest", root=grouped), out=out, holdout=0.25, seed=1, to="test")
        found = load_dataset("manifest", out)
        for part in ("train", "validation", "test", "left_out"):
            told = [(s.relative, s.split, s.label, s.defect, s.group) for s in getattr(result.dataset, part)]
            assert [(s.relative, s.split, s.label, s.defect, s.group) for s in getattr(found, part)] == told
        assert [len(found.train), len(found.validation), len(found.test), len(found.left_out)] == [6, 1, 4, 1]


def test_a_part_that_sets_the_threshold_is_not_moved_to_the_test():
    validation = tuple(replace(sample, split="validation") for sample in images("b", "a"))
    dataset = Dataset("mine", "m", ".", train=tuple(images("a", "b")), validation=validation, test=())
    with pytest.raises(DataError) as error:
        hold_out_of(dataset, holdout=0.5, to="test")
    (problem,) = error.value.problems
    group = problem.message.split('"')[1]
    assert (problem.message, problem.help) == (
        f'm: the group "{group}" is in the validation split too, and cannot go from training to test',
        "Hold out for validation, or draw others with another seed.",
    )


def test_what_leaves_nothing_to_learn_from_is_said_of_every_category_and_nothing_is_written(tmp_path):
    for name, train in (("bolt", 1), ("nut", 5), ("tile", 2)):
        parts.write_category(tmp_path, name, train=train, good=1, bad=1)
    table = DatasetTable(name="mvtec", root=str(tmp_path))
    with pytest.raises(DataError) as error:
        split(table, out=str(tmp_path / "o.csv"), holdout=0.8)
    assert [p.message for p in error.value.problems] == [
        "bolt: holding out 0.8 of 1 training images leaves none to learn from",
        "tile: holding out 0.8 of 2 training images leaves none to learn from",
    ]
    assert not (tmp_path / "o.csv").exists()
    root = manifest_of(tmp_path, "a1,train,0,a", "a2,train,0,a")
    with pytest.raises(DataError, match=r"^m: holding out 0\.2 of 2 training images in 1 group leaves none to learn f"):
        split(DatasetTable(name="manifest", root=root), out=str(tmp_path / "o.csv"))
    with pytest.raises(ValueError, match=r"^holdout \(=1\) must be above 0 and below 1$"):
        split(table, out=str(tmp_path / "o.csv"), holdout=1)
    with pytest.raises(SpecError, match=r"^o\.txt: expected a name that ends with \.csv, \.jsonl or \.ndjson$"):
        split(table, out="o.txt")


# --- the command


def test_the_command_says_what_was_moved_and_where_it_is_written(uadctl, one_category):
    parts.write_category(one_category, "nut", train=10, good=1, bad=1)
    ended = uadctl("datasets", "split", "mvtec", "--root", "data", "--out", "lists/m.csv")
    assert [line.split() for line in ended.out.splitlines()] == [
        ["to"],
        ["category", "validation", "train", "validation", "test"],
        ["─" * 45],
        ["nut", "2", "8", "2", "2"],
        ["tile", "1", "5", "1", "5"],
        ["manifest:", "lists/m.csv"],
    ]
    assert ended.err == ""
    assert list_categories("manifest", "lists/m.csv") == ["nut", "tile"]
    assert len(load_dataset("manifest", "lists/m.csv", category="nut").validation) == 2


def test_the_command_in_json(uadctl, one_category):
    words = ("datasets", "split", "mvtec", "--root", "data", "--category", "til*", "--out", "m.jsonl", "--json")
    ended = uadctl(*words, "--holdout", "0.4", "--seed", "5", "--to", "test")
    drawn = sorted(np.random.default_rng([5, 6]).permutation(6)[:2].tolist())
    assert ended.json == {
        "schema": 1,
        "dataset": "mvtec",
        "root": "data",
        "manifest": "m.jsonl",
        "holdout": 0.4,
        "seed": 5,
        "to": "test",
        "categories": [
            {
                "category": "tile",
                "held_out": [f"train/good/00{i}.png" for i in drawn],
                "parts": 2,
                "train": 4,
                "validation": 0,
                "test": 7,
                "left_out": 0,
            }
        ],
    }
    first = Path("m.jsonl").read_bytes()
    uadctl(*words, "--holdout", "0.4", "--seed", "5", "--to", "test", "--force")
    assert Path("m.jsonl").read_bytes() == first
    uadctl(*words, "--holdout", "0.4", "--seed", "6", "--to", "test", "--force")
    assert Path("m.jsonl").read_bytes() != first


def test_parts_are_counted_where_there_are_groups(uadctl, grouped):
    ended = uadctl("datasets", "split", "manifest", "--root", "m.csv", "--out", "o.csv", "--holdout", "0.5")
    assert [line.split() for line in ended.out.splitlines()][1:4:2] == [
        ["category", "validation", "parts", "train", "validation", "test"],
        ["m", "4", "2", "4", "5", "2"],
    ]


def test_a_spec_gives_its_seed_and_holdout(uadctl, one_category):
    text = '[run]\nseed = 4\n[dataset]\nname = "mvtec"\nroot = "data"\nlimit_train = 3\n[calibration]\nholdout = 0.5\n'
    Path("s.toml").write_text(text + '[preprocess]\nsize = 64\n[model]\nname = "patchcore"\n')
    found = uadctl("datasets", "split", "s.toml", "--out", "m.csv", "--json").json
    assert (found["seed"], found["holdout"], found["categories"][0]["train"]) == (4, 0.5, 3)
    found = uadctl("datasets", "split", "s.toml", "--out", "n.csv", "--json", "--seed", "5", "--holdout", "0.2").json
    assert (found["seed"], found["holdout"], found["categories"][0]["train"]) == (5, 0.2, 5)


def test_fitting_the_split_is_fitting_with_a_holdout(uadctl, small, one_category):
    """The same images are learned, and the same set the threshold, bit for bit."""
    held = uadctl("fit", *small, "--set", "calibration.holdout=0.3", "--seed", "2", "--json").json
    uadctl("datasets", "split", "mvtec", "--root", "data", "--holdout", "0.3", "--seed", "2", "--out", "m.csv")
    words = ["--dataset", "manifest", "--root", "m.csv", "--model", "patchcore", "--set", "preprocess.size=64"]
    listed = uadctl("fit", *words, "--seed", "2", "--json").json
    one, other = held["units"][0]["threshold"], listed["units"][0]["threshold"]
    assert (one["value"], one["n"]) == (other["value"], other["n"])
    assert (one["source"], other["source"], one["n"]) == ("holdout", "validation", 2)


def test_fit_holds_out_whole_groups(uadctl, tmp_path):
    for i in range(4):
        parts.write(tmp_path / f"{i}.png", parts.surface(i))
    rows = ["path,split,label,group", *(f"{i}.png,train,0,{'ab'[i // 2]}" for i in range(4))]
    Path("m.csv").write_text("\n".join(rows))
    words = ["--dataset", "manifest", "--root", "m.csv", "--model", "patchcore", "--set", "preprocess.size=64"]
    found = uadctl("fit", *words, "--set", "calibration.holdout=0.25", "--json").json
    assert found["units"][0]["threshold"]["n"] == 2
    Path("m.csv").write_text("\n".join(rows).replace(",b", ",a"))
    ended = uadctl("fit", *words, "--set", "calibration.holdout=0.25", code=1)
    assert "[calibration] holdout = 0.25 of 4 training images in 1 group leaves none to learn from" in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mvtec", "--out", "o.csv"], "error: mvtec needs the folder it lies in\n  Give --root DIR.\n"),
        (
            ["mvtec", "--root", "data", "--out", "o.txt"],
            "error: --out o.txt: expected a name that ends with .csv, .jsonl or .ndjson\n",
        ),
        (
            ["mvtec", "--root", "data", "--out", "o.csv", "--holdout", "1"],
            "error: --holdout 1: expected a share above 0 and below 1\n",
        ),
        (
            ["mvtec", "--root", "data", "--out", "o.csv", "--holdout", "0.9"],
            None,
        ),
        (
            ["manifest", "--root", "m.csv", "--out", "./m.csv"],
            "error: --out ./m.csv: is the same file as the root of the data set\n  Name another file.\n",
        ),
        (
            ["manifest", "--root", "f", "--out", "f/manifest.csv"],
            "error: --out f/manifest.csv: exists, and lies below the root of the data set\n"
            "  Name another file, or remove it.\n",
        ),
        (
            ["manifest", "--root", "f", "--out", "f/manifest.jsonl"],
            "error: --out f/manifest.jsonl: f holds manifest.csv already, and could no longer be given as a root\n"
            "  Name another file, or remove the other manifest.\n",
        ),
        (
            ["mvtec", "--root", "data", "--out", "m.csv"],
            "error: --out m.csv: exists\n  Give --force to replace it.\n",
        ),
        (
            ["mvtec", "--root", "data", "--category", "tyle", "--out", "o.csv"],
            'error: data has no category "tyle"; did you mean tile?\n  Found: tile\n',
        ),
        (
            ["mvtec", "--root", "data", "--layout", "flat", "--out", "o.csv"],
            "error: mvtec has no layout 'flat'; it has but one\n",
        ),
    ],
)
def test_what_a_user_can_fix_is_said(uadctl, one_category, words, message):
    uadctl("datasets", "check", "mvtec", "--root", "data", "--write-manifest", "m.csv")
    uadctl("datasets", "check", "mvtec", "--root", "data", "--write-manifest", "f/manifest.csv")
    before = Path("m.csv").read_bytes(), Path("f/manifest.csv").read_bytes()
    ended = uadctl("datasets", "split", *words, code=2 if message else 0)
    assert ended.err == (message or "")
    assert Path("o.csv").exists() == (message is None)
    assert (Path("m.csv").read_bytes(), Path("f/manifest.csv").read_bytes()) == before


def test_the_help_has_an_example(uadctl):
    text = " ".join(uadctl("datasets", "split", "--help").out.split())
    assert "Example: uadctl datasets split mvtec --root DIR --category bottle --out bottle.csv" in text
    assert "Then: uadctl bench --dataset manifest --root bottle.csv --model vision_patchcore" in text


def test_the_demo_can_be_split(uadctl, monkeypatch, tmp_path):
    monkeypatch.setattr("uadctl.datasets.demo.list_categories", lambda where: ["tile"])
    parts.write_category(tmp_path / "made", "tile")
    monkeypatch.setattr("uadctl.datasets.demo.load", lambda where, category: load_dataset("mvtec", "made"))
    found = uadctl("datasets", "split", "demo", "--out", "m.jsonl", "--json").json
    assert (found["root"], found["categories"][0]["train"]) == (None, 5)
    assert json.loads(Path("m.jsonl").read_text().splitlines()[0])["path"] == "made/tile/train/good/000.png"
