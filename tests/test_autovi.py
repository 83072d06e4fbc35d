"""AutoVI: its images and their many masks, and how its folders are told apart from those of MVTec AD and MVTec LOCO AD."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import trees_autovi as trees
import trees_mvtec
from parts import message

from uadctl.check import check_dataset
from uadctl.datasets import Dataset, autovi, list_categories, load_dataset, load_mask, mvtec_loco, recognise
from uadctl.datasets.base import NoLayout, Where
from uadctl.datasets.defects import load_defects
from uadctl.errors import DataError
from uadctl.records import DefectConfig

CONFIGS = (DefectConfig("missing", 255, 20, False), DefectConfig("misplaced", 254, 0.5, True))


def load(root: Path, category: str = "engine_wiring") -> Dataset:
    return load_dataset("autovi", str(root), category=category)


def one(root: Path, category: str = "engine_wiring") -> Path:
    """A tree of one category; its folder."""
    return trees.autovi(root, [category]) / category


def without_config(root: Path) -> Path:
    """A tree of one category, of which the archive's configuration was left behind."""
    home = one(root)
    (home / "defects_config.json").unlink()
    return home


# --- the layout as published


def test_the_six_categories_are_found_and_those_of_the_documentation(tmp_path: Path) -> None:
    trees.autovi(tmp_path, trees.CATEGORIES)
    assert list_categories("autovi", str(tmp_path)) == sorted(trees.CATEGORIES)
    assert autovi.list_categories(Where(str(tmp_path))) == sorted(trees.CATEGORIES)
    text = autovi.__doc__ or ""
    assert len(trees.CATEGORIES) == 6
    assert all(re.search(rf"\b{name}\b", text) for name in trees.CATEGORIES)


@pytest.mark.parametrize("category", trees.CATEGORIES)
def test_a_category_becomes_sorted_samples(tmp_path: Path, category: str) -> None:
    home = one(tmp_path, category)
    dataset = load(tmp_path, category)
    assert (dataset.name, dataset.category, dataset.root) == ("autovi", category, str(tmp_path))
    assert [s.relative for s in dataset.train] == [f"train/good/{i:04}.png" for i in range(4)]
    expected = [(f"test/{kind}/{n:04}.png", 1, kind, n - 88) for kind in trees.KINDS[category] for n in (89, 90)]
    expected += [(f"test/good/{n:04}.png", 0, "good", 0) for n in range(2)]
    assert [(s.relative, s.label, s.defect, len(s.masks)) for s in dataset.test] == sorted(expected)
    assert [s.path for s in dataset.test] == [str(home / s.relative) for s in dataset.test]
    assert (dataset.validation, dataset.left_out, dataset.notes) == ((), (), ())
    assert dataset.defects == CONFIGS
    assert dataset.missing_masks() == []


def test_every_image_keeps_all_its_own_masks(tmp_path: Path) -> None:
    home = one(tmp_path)
    found = {s.relative: [os.path.relpath(m, home) for m in s.masks] for s in load(tmp_path).test if s.label}
    assert found == {
        f"test/{kind}/00{n}.png": [f"ground_truth/{kind}/00{n}/000{i}.png" for i in range(n - 88)]
        for kind in trees.KINDS["engine_wiring"]
        for n in (89, 90)
    }


def test_masks_in_three_and_in_four_channels_are_read_by_their_grey_value(tmp_path: Path) -> None:
    one(tmp_path)
    sample = load(tmp_path).test[1]
    assert sample.relative == "test/blue_hoop/0090.png"
    (first, missing), (second, misplaced) = load_defects(sample, CONFIGS)
    assert [first.name, second.name] == ["missing", "misplaced"]
    rows, columns = np.nonzero(misplaced)
    assert (missing.sum(), misplaced.sum()) == (48, 48)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (11, 16, 8, 15)
    union = load_mask(sample)
    assert union is not None
    # Opaque everywhere: alpha is no defect.
    assert np.array_equal(union > 0, missing | misplaced)
    assert union.sum() == 9 * 8


def test_the_root_may_be_the_category_itself(tmp_path: Path) -> None:
    home = one(tmp_path)
    assert list_categories("autovi", str(home)) == ["engine_wiring"]
    assert recognise(str(home)) == ["autovi"]
    assert len(load_dataset("autovi", str(home)).test) == 8


def test_a_validation_split_of_ones_own_and_defects_outside_of_the_test_split(tmp_path: Path) -> None:
    home = one(tmp_path)
    trees.image(home / "validation/good/7.png")
    trees.image(home / "validation/missing/7.png")
    trees.image(home / "train/missing/7.png")
    dataset = load(tmp_path)
    assert [s.relative for s in dataset.validation] == ["validation/good/7.png"]
    assert [(s.relative, s.label) for s in dataset.left_out] == [
        ("train/missing/7.png", 1),
        ("validation/missing/7.png", 1),
    ]
    assert len(dataset.train) == 4


def test_listing_decodes_nothing(tmp_path: Path) -> None:
    home = one(tmp_path)
    for path in home.rglob("*.png"):
        path.write_bytes(b"broken")
    assert len(load(tmp_path).test) == 8
    with pytest.raises(DataError, match="not a PNG"):
        load_defects(load(tmp_path).test[0], CONFIGS)


# --- what is missing


def test_a_missing_mask_is_reported_where_the_authors_would_have_it(tmp_path: Path) -> None:
    home = one(tmp_path)
    shutil.rmtree(home / "ground_truth/fastening/0089")
    dataset = load(tmp_path)
    assert dataset.problems() == [
        f"{home}/test/fastening/0089.png: no mask at {home}/ground_truth/fastening/0089/0000.png"
    ]
    masks = dataset.get_test_paths()[2]
    assert masks is not None
    assert [None if mask is None else bool(mask.any()) for mask in masks] == [
        *[True, True, None, True],
        *[False, False, True, True],
    ]


def test_a_mask_belongs_to_one_image(tmp_path: Path) -> None:
    home = one(tmp_path)
    trees.image(home / "test/fastening/0089.bmp")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/test/fastening/0089.bmp and {home}/test/fastening/0089.png share one mask, "
        f"{home}/ground_truth/fastening/0089/0000.png",
        "Give the images names that differ by more than their suffix or their folder.",
    )


@pytest.mark.parametrize("name", ["0089.png", "0089_mask.bmp"])
def test_a_mask_beside_the_folder_of_an_images_masks_is_not_passed_over(tmp_path: Path, name: str) -> None:
    home = one(tmp_path)
    flat = trees.mask(home / "ground_truth/fastening" / name)
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"two places for the masks of one image: {home}/ground_truth/fastening/0089 and {flat}",
        "Remove the one that is not meant, or move the mask into the folder.",
    )
    shutil.rmtree(home / "ground_truth/fastening/0089")
    masks = {sample.relative: sample.masks for sample in load(tmp_path).test}
    assert masks["test/fastening/0089.png"] == (str(flat),)


def test_a_configuration_in_another_case_is_not_passed_over(tmp_path: Path) -> None:
    home = one(tmp_path)
    (home / "defects_config.json").rename(home / "DEFECTS_CONFIG.json")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/defects_config.json: no such file; there is {home}/DEFECTS_CONFIG.json",
        "Case counts in the names of files: rename it to defects_config.json.",
    )


@pytest.mark.parametrize("kind", ["ok", "OK", "Good", "normal"])
def test_no_kind_of_defect_is_called_as_good_images_are(tmp_path: Path, kind: str) -> None:
    home = one(tmp_path)
    trees.image(home / f"test/{kind}/0.png")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert message(error) == (
        f"{home}/test/{kind} would be a kind of defect; good images lie in good/",
        f"Rename it to good, or move its images to {home}/test/good.",
    )


def test_a_category_that_lacks_a_part_says_so(tmp_path: Path) -> None:
    trees.autovi(tmp_path, trees.CATEGORIES[:3])
    shutil.rmtree(tmp_path / "pipe_clip/train")
    shutil.rmtree(tmp_path / "pipe_staple/test")
    assert list_categories("autovi", str(tmp_path)) == ["engine_wiring", "pipe_clip", "pipe_staple"]
    with pytest.raises(DataError) as error:
        load(tmp_path, "pipe_clip")
    assert message(error) == (
        f"{tmp_path}/pipe_clip/train/good: no such folder",
        "It must hold the good training images.",
    )
    with pytest.raises(DataError) as error:
        load(tmp_path, "pipe_staple")
    assert message(error) == (
        f"{tmp_path}/pipe_staple/test: no such folder",
        "It must hold good/ and a folder for each kind of defect.",
    )
    with pytest.raises(DataError) as error:
        load(tmp_path, "pipeclip")
    assert message(error) == (
        f"{tmp_path} has no category 'pipeclip'; did you mean pipe_clip? It has: engine_wiring, pipe_clip, pipe_staple",
        None,
    )


def test_a_broken_configuration_is_an_error(tmp_path: Path) -> None:
    home = one(tmp_path)
    (home / "defects_config.json").write_text('[{"defect_name": "missing", "pixel_value": 0}]')
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert error.value.message == (
        f"{home}/defects_config.json: entry 1: saturation_threshold, relative_saturation are missing"
    )


def test_without_configuration_it_is_read_and_check_says_what_will_be_null(tmp_path: Path) -> None:
    without_config(tmp_path)
    assert recognise(str(tmp_path)) == ["autovi"]
    dataset = load(tmp_path)
    assert dataset.defects is None
    assert [len(s.masks) for s in dataset.test] == [1, 2, 1, 2, 0, 0, 1, 2]
    warnings = [
        (problem.message, problem.help)
        for problem in check_dataset("autovi", root=str(tmp_path)).warnings
        if "defects_config.json" in problem.message
    ]
    assert warnings == [
        (
            "engine_wiring: no defects_config.json; spro_05 will be null",
            "It says how much of each kind of defect is enough, and is part of MVTec LOCO AD and of AutoVI.",
        )
    ]


# --- which data set is which


LOOKS_LIKE_AUTOVI = "It looks like autovi: give that name in place of {}."


@pytest.mark.parametrize("build", [one, without_config], ids=["as published", "without configuration"])
@pytest.mark.parametrize(("name", "title"), [("mvtec", "MVTec AD"), ("mvtec_loco", None)])
def test_others_refuse_it_and_name_it(tmp_path: Path, name: str, title: str | None, build) -> None:
    build(tmp_path)
    assert recognise(str(tmp_path)) == ["autovi"]
    for ask in (
        lambda: list_categories(name, str(tmp_path)),
        lambda: load_dataset(name, str(tmp_path), category="engine_wiring"),
    ):
        with pytest.raises(NoLayout) as error:
            ask()
        assert message(error) == (
            f"{tmp_path} is not laid out as {title} is: it holds engine_wiring/"
            if title
            else f"{tmp_path} holds no MVTec LOCO category: expected {tmp_path}/<category>/train/good and "
            f"{tmp_path}/<category>/test/logical_anomalies, found engine_wiring/",
            LOOKS_LIKE_AUTOVI.format(name),
        )


def test_it_refuses_others_and_names_them(tmp_path: Path) -> None:
    trees_mvtec.mvtec_loco(tmp_path / "loco", ["pushpins"])
    trees_mvtec.mvtec_ad(tmp_path / "ad", ["bottle"])
    trees_mvtec.mvtec_ad2(tmp_path / "ad2", ["can"])
    for folder, name in (("loco", "mvtec_loco"), ("ad", "mvtec"), ("ad2", "mvtec_ad2")):
        root = tmp_path / folder
        assert recognise(str(root)) == [name]
        with pytest.raises(NoLayout) as error:
            list_categories("autovi", str(root))
        text, advice = message(error)
        assert text.startswith(
            f"{root} holds no AutoVI category: expected {root}/<category>/train/good and "
            f"{root}/<category>/defects_config.json, found "
        )
        assert advice == f"It looks like {name}: give that name in place of autovi."


def test_locos_kinds_tell_its_categories_in_any_case_and_beside_others(tmp_path: Path) -> None:
    home = trees_mvtec.mvtec_loco(tmp_path, ["pushpins"]) / "pushpins"
    trees.image(home / "test/scratch/0.png")
    assert recognise(str(tmp_path)) == ["mvtec_loco"]
    (home / "test/logical_anomalies").rename(home / "test/Logical_Anomalies")
    shutil.rmtree(home / "test/structural_anomalies")
    assert recognise(str(tmp_path)) == ["mvtec_loco"]
    assert not autovi.recognises(str(tmp_path))


def test_categories_of_both_in_one_folder_are_not_read_as_one_data_set(tmp_path: Path) -> None:
    trees_mvtec.mvtec_loco(tmp_path, ["pushpins"])
    one(tmp_path)
    assert recognise(str(tmp_path)) == ["autovi", "mvtec_loco"]
    for ask in (lambda: list_categories("autovi", str(tmp_path)), lambda: load(tmp_path, "pushpins")):
        with pytest.raises(DataError) as error:
            ask()
        assert message(error) == (
            f"{tmp_path} is not laid out as AutoVI is: {tmp_path}/pushpins/test/logical_anomalies is a kind of MVTec "
            "LOCO AD",
            f"Rename the kind, or move {tmp_path}/pushpins elsewhere: the data set mvtec_loco reads it.",
        )
    with pytest.raises(DataError, match="blue_hoop/0089.png lies neither in good/ nor in logical_anomalies/"):
        load_dataset("mvtec_loco", str(tmp_path), category="engine_wiring")


def test_one_kind_of_locos_in_one_category_is_named(tmp_path: Path) -> None:
    home = trees.autovi(tmp_path) / "pipe_clip"
    trees.image(home / "test/Structural_Anomalies/0.png")
    with pytest.raises(DataError) as error:
        list_categories("autovi", str(tmp_path))
    assert message(error) == (
        f"{tmp_path} is not laid out as AutoVI is: {home}/test/Structural_Anomalies is a kind of MVTec LOCO AD",
        f"Rename the kind, or move {home} elsewhere: the data set mvtec_loco reads it.",
    )


def test_loco_of_which_a_category_is_half_unpacked_is_still_named(tmp_path: Path) -> None:
    trees_mvtec.mvtec_loco(tmp_path, ["pushpins", "screw_bag"])
    for kind in ("logical_anomalies", "structural_anomalies"):
        shutil.rmtree(tmp_path / "pushpins/test" / kind)
    with pytest.raises(NoLayout) as error:
        list_categories("autovi", str(tmp_path))
    assert message(error) == (
        f"{tmp_path} is not laid out as AutoVI is: {tmp_path}/screw_bag/test/logical_anomalies is a kind of MVTec "
        "LOCO AD",
        "It looks like mvtec_loco: give that name in place of autovi.",
    )


def test_good_images_with_a_configuration_are_of_loco_unless_autovi_is_asked_for(tmp_path: Path) -> None:
    """Half unpacked, either may be it: what recognises says LOCO, and who names AutoVI is believed."""
    home = one(tmp_path)
    for kind in trees.KINDS["engine_wiring"]:
        shutil.rmtree(home / "test" / kind)
    assert recognise(str(tmp_path)) == ["mvtec_loco"]
    assert mvtec_loco.is_own(str(home))
    assert not autovi.is_own(str(home))
    for name in ("autovi", "mvtec_loco"):
        dataset = load_dataset(name, str(tmp_path), category="engine_wiring")
        assert [s.label for s in dataset.test] == [0, 0]
        assert dataset.defects == CONFIGS
    trees.image(home / "test/ok/0.png")  # which would be no kind of defect
    assert recognise(str(tmp_path)) == ["mvtec_loco"]


def test_folders_of_masks_are_a_sign_only_where_they_are_named_like_images(tmp_path: Path) -> None:
    # MVTec AD's layout may have folders below a kind of defect, of images and of their masks alike.
    home = tmp_path / "bottle"
    for path in ("train/good/0.png", "test/good/0.png", "test/crack/left/0.png", "test/crack/1.png"):
        trees.image(home / path)
    trees.mask(home / "ground_truth/crack/left/0_mask.png")
    trees.mask(home / "ground_truth/crack/1_mask.png")
    assert recognise(str(tmp_path)) == ["mvtec"]
    assert load_dataset("mvtec", str(tmp_path)).missing_masks() == []
    trees.mask(home / "ground_truth/crack/1/0000.png")
    assert recognise(str(tmp_path)) == ["autovi"]


def test_without_masks_and_configuration_it_is_the_layout_of_mvtec(tmp_path: Path) -> None:
    home = without_config(tmp_path)
    shutil.rmtree(home / "ground_truth")
    assert recognise(str(tmp_path)) == ["mvtec"]
    with pytest.raises(NoLayout) as error:
        load(tmp_path)
    assert error.value.help == "It looks like mvtec: give that name in place of autovi."
