"""The demo data set: what is written, when, and that its defects are where the masks say."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from uadctl.datasets import demo, demo_scenes, list_categories, load_dataset
from uadctl.datasets.demo_scenes import SCENES, draw_specimen
from uadctl.errors import DataError, SpecError

EVERY_KIND = [(category, kind) for category, scene in SCENES.items() for kind in scene.kinds]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image of each kind: what is tested about the folder does not depend on how many there are."""
    monkeypatch.setattr(demo, "TRAIN_GOOD", 1)
    monkeypatch.setattr(demo, "TEST_GOOD", 1)
    monkeypatch.setattr(demo, "TEST_PER_DEFECT", 1)


def files_below(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def read(path: Path) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels


# Pictures


def test_the_categories_named_without_numpy_are_those_that_can_be_drawn() -> None:
    assert tuple(sorted(SCENES)) == demo.CATEGORIES
    assert len(demo.CATEGORIES) >= 3
    assert all(3 <= len(scene.kinds) <= 5 for scene in SCENES.values())


def test_one_category_is_not_square() -> None:
    assert any(scene.size.height != scene.size.width for scene in SCENES.values())


@pytest.mark.parametrize(("category", "kind"), EVERY_KIND)
def test_a_defect_changes_its_part_inside_the_mask_and_nowhere_else(category: str, kind: str) -> None:
    size = SCENES[category].size
    for index in range(2):
        specimen = draw_specimen(category, "test", kind, index, seed=5)
        assert specimen.image.shape == specimen.sound.shape == (*size, 3)
        assert specimen.mask.shape == size
        assert specimen.image.dtype == specimen.sound.dtype == specimen.mask.dtype == np.uint8
        assert set(np.unique(specimen.mask)) == {0, 255}
        covered = np.count_nonzero(specimen.mask)
        assert demo_scenes.SMALLEST_DEFECT <= covered < 0.2 * specimen.mask.size

        differs = (specimen.image != specimen.sound).any(axis=2)
        side = 2 * demo_scenes.BORDER + 1
        near = cv2.dilate(specimen.mask, np.ones((side, side), np.uint8)) > 0
        assert not differs[~near].any()
        change = np.abs(specimen.image.astype(int) - specimen.sound.astype(int)).max(axis=2)
        assert change[specimen.mask > 0].mean() > 3 * max(change[specimen.mask == 0].mean(), 0.1)


@pytest.mark.parametrize("category", demo.CATEGORIES)
def test_good_parts_have_no_mask_and_differ_from_each_other(category: str) -> None:
    drawn = [draw_specimen(category, split, "good", i, seed=0) for split in ("train", "test") for i in range(2)]
    assert all(not specimen.mask.any() for specimen in drawn)
    assert all((specimen.image == specimen.sound).all() for specimen in drawn)
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.abs(one.image.astype(int) - other.image.astype(int)).mean() > 3


def test_a_picture_depends_on_its_name_and_seed_not_on_what_was_drawn_before() -> None:
    first = draw_specimen("printed_part", "test", "scratch", 3, seed=0)
    draw_specimen("printed_part", "test", "good", 0, seed=0)
    again = draw_specimen("printed_part", "test", "scratch", 3, seed=0)
    other = draw_specimen("printed_part", "test", "scratch", 3, seed=1)
    assert (first.image == again.image).all()
    assert (first.mask == again.mask).all()
    assert (first.image != other.image).any()


def test_importing_the_data_set_draws_in_neither_numpy_nor_opencv() -> None:
    code = (
        "import sys; from uadctl.datasets import demo; demo.list_categories(None); demo.demo_root(); "
        "print([m for m in ('numpy', 'cv2', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The folder


@pytest.mark.usefixtures("few")
def test_the_layout_is_that_of_mvtec(tmp_path: Path) -> None:
    out = tmp_path / "new" / "demo"
    assert demo.write_demo(out, seed=2) == out
    expected = {"demo.json"}
    for category, scene in SCENES.items():
        expected |= {f"{category}/train/good/000.png", f"{category}/test/good/000.png"}
        for kind in scene.kinds:
            expected |= {f"{category}/test/{kind}/000.png", f"{category}/ground_truth/{kind}/000_mask.png"}
            specimen = draw_specimen(category, "test", kind, 0, seed=2)
            assert (read(out / category / "test" / kind / "000.png") == specimen.image).all()
            assert (read(out / category / "ground_truth" / kind / "000_mask.png") == specimen.mask).all()
    assert set(files_below(out)) == expected
    assert len(expected) == 1 + sum(2 + 2 * len(scene.kinds) for scene in SCENES.values())
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.usefixtures("few")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one, same, other = (
        files_below(demo.write_demo(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == same
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


@pytest.mark.usefixtures("few")
def test_the_marker_says_what_the_folder_holds(tmp_path: Path) -> None:
    out = demo.write_demo(tmp_path / "demo", seed=4)
    marker = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    names = sorted(set(files_below(out)) - {"demo.json"})
    listing = "".join(f"{name}\t{(out / name).stat().st_size}\n" for name in names)
    assert marker == {
        "dataset": "uadctl demo",
        "version": demo.VERSION,
        "seed": 4,
        "files": len(names),
        "digest": hashlib.sha256(listing.encode()).hexdigest(),
    }


@pytest.mark.usefixtures("few")
def test_a_complete_data_set_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = demo.write_demo(tmp_path / "demo")
    (out / ".DS_Store").write_bytes(b"a file manager was here")
    monkeypatch.setattr(demo, "_write_files", lambda *_: pytest.fail("written again"))
    assert demo.write_demo(str(out)) == out


@pytest.mark.usefixtures("few")
def test_a_damaged_data_set_is_refused(tmp_path: Path) -> None:
    out = demo.write_demo(tmp_path / "demo")
    victim = out / "woven_fabric/test/good/000.png"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(DataError) as raised:
        demo.write_demo(out)
    assert str(raised.value) == f"{out}: holds this demo data set, but files of it were changed or removed"
    assert raised.value.help == "Delete it, or name a folder that does not exist yet."
    victim.unlink()
    with pytest.raises(DataError, match="files of it were changed or removed"):
        demo.write_demo(out)


@pytest.mark.usefixtures("few")
def test_another_demo_data_set_is_refused(tmp_path: Path) -> None:
    out = demo.write_demo(tmp_path / "demo", seed=3)
    before = files_below(out)
    with pytest.raises(DataError) as raised:
        demo.write_demo(out, seed=0)
    assert str(raised.value) == (
        f"{out}: holds another demo data set (version {demo.VERSION}, seed 3; wanted version {demo.VERSION}, seed 0)"
    )
    assert files_below(out) == before


@pytest.mark.parametrize("marker", [None, "{", "[]", '{"version": 1, "seed": 0}', b"\xff\xfe"])
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, marker: str | bytes | None) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"dear")
    if isinstance(marker, bytes):
        (tmp_path / "demo.json").write_bytes(marker)
    elif marker is not None:
        (tmp_path / "demo.json").write_text(marker, encoding="utf-8")
    before = files_below(tmp_path)
    with pytest.raises(DataError) as raised:
        demo.write_demo(tmp_path)
    assert str(raised.value) == f"{tmp_path}: is not empty"
    assert files_below(tmp_path) == before


def test_a_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    out.write_bytes(b"")
    with pytest.raises(DataError) as raised:
        demo.write_demo(out)
    assert str(raised.value) == f"{out}: is a file, not a folder"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    out = tmp_path / "file" / "demo"
    with pytest.raises(DataError) as raised:
        demo.write_demo(out)
    assert str(raised.value) == f"{out}: the demo data set cannot be written: Not a directory"


@pytest.mark.usefixtures("few")
def test_an_empty_folder_is_filled_unless_it_is_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    monkeypatch.chdir(out)
    with pytest.raises(DataError) as raised:
        demo.write_demo(".")
    assert str(raised.value) == ".: is the working directory, which cannot be replaced"
    monkeypatch.chdir(tmp_path)
    assert demo.write_demo("demo") == Path("demo")
    assert (out / "demo.json").is_file()


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        demo.write_demo(tmp_path / "demo", seed=-1)
    assert str(raised.value) == "seed (=-1) must be at least 0"


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be written: No space left on device"),
        (KeyboardInterrupt(), None),
    ],
)
def test_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, message: str | None
) -> None:
    whole = demo._write_png
    written: list[Path] = []

    def breaks_half_way(path: Path, pixels: np.ndarray) -> None:
        whole(path, pixels)
        written.append(path)
        if len(written) == 5:
            raise failure

    monkeypatch.setattr(demo, "_write_png", breaks_half_way)
    with pytest.raises(DataError if message else KeyboardInterrupt, match=message):
        demo.write_demo(tmp_path / "demo")
    assert len(written) >= 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few")
def test_of_two_writers_at_once_one_wins_and_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    both_done = threading.Barrier(2, timeout=60)
    whole = demo._write_files
    folders: list[Path] = []

    def write_and_wait(folder: Path, seed: int, progress: demo.Progress) -> None:
        whole(folder, seed, progress)
        folders.append(folder)
        both_done.wait()

    monkeypatch.setattr(demo, "_write_files", write_and_wait)
    results: list[Path] = []
    writers = [threading.Thread(target=lambda: results.append(demo.write_demo(out))) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert results == [out, out]
    assert len(set(folders)) == 2
    assert demo._is_complete(out, 0)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("few")
def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    whole = demo._write_files

    def overtaken(folder: Path, seed: int, progress: demo.Progress) -> None:
        whole(folder, seed, progress)
        out.mkdir()
        (out / "mine.txt").write_text("mine", encoding="utf-8")

    monkeypatch.setattr(demo, "_write_files", overtaken)
    with pytest.raises(DataError, match="cannot be written: Directory not empty"):
        demo.write_demo(out)
    assert [p.name for p in tmp_path.rglob("*")] == ["demo", "mine.txt"]


@pytest.mark.usefixtures("few")
def test_progress_is_told_of_every_picture(tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.said: list[object] = []

        def task(self, title: str, total: int | None, *, unit: str = "images") -> Counting:
            self.said.append((title, total, unit))
            return self

        def warn(self, message: str) -> None:
            self.said.append(message)

        def advance(self, n: int = 1) -> None:
            self.said.append(n)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *exc: object) -> None:
            pass

    watched = Counting()
    demo.write_demo(tmp_path / "demo", progress=watched)
    total = sum(2 + len(scene.kinds) for scene in SCENES.values())
    assert watched.said == [("demo data set", total, "images"), *[1] * total]


# Reading


@pytest.mark.usefixtures("few")
def test_the_cache_folder_is_written_at_the_first_use_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UADCTL_CACHE", str(tmp_path))
    home = tmp_path / "demo" / f"v{demo.VERSION}-seed0"
    assert demo.demo_root() == home
    assert demo.list_categories(None) == list(demo.CATEGORIES)
    assert not home.exists()
    dataset = load_dataset("demo", None, category="printed_part")
    assert (dataset.name, dataset.category, dataset.root) == ("demo", "printed_part", str(home))
    assert [sample.relative for sample in dataset.train] == ["train/good/000.png"]
    kinds = SCENES["printed_part"].kinds
    assert [(s.defect, s.label) for s in dataset.test] == sorted([("good", 0), *[(kind, 1) for kind in kinds]])
    assert dataset.missing_masks() == []
    monkeypatch.setattr(demo, "_write_files", lambda *_: pytest.fail("written again"))
    assert load_dataset("demo", None, category="printed_part") == dataset
    assert load_dataset("demo", str(home), category="printed_part", split="test") == dataset
    assert list_categories("demo", str(home)) == list(demo.CATEGORIES)


def test_the_cache_folder_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv("UADCTL_CACHE", raising=False)
    expected = Path(platformdirs.user_cache_dir("uadctl")) / "demo" / f"v{demo.VERSION}-seed7"
    assert demo.demo_root(seed=7) == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"category": "printed_parts"},
            "demo has no category 'printed_parts'; did you mean printed_part? "
            "It has: brushed_metal, printed_part, woven_fabric",
        ),
        ({"split": "train"}, "demo has no split 'train'; it has: test"),
        ({"files": {"train": "*.png"}}, "demo has a fixed layout and takes no files"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: dict[str, object], message: str
) -> None:
    monkeypatch.setenv("UADCTL_CACHE", str(tmp_path))
    with pytest.raises(DataError) as raised:
        load_dataset("demo", None, **{"category": "printed_part", **choice})
    assert str(raised.value) == message
    assert list(tmp_path.iterdir()) == []


def test_files_are_refused_when_listing() -> None:
    with pytest.raises(DataError, match="demo has a fixed layout and takes no files"):
        list_categories("demo", None, files={})


# How hard it is


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write_demo(tmp_path_factory.mktemp("demo") / "data")


def labelled(whole: Path, category: str) -> tuple[list[str], list[str], np.ndarray]:
    train = sorted((whole / category / "train" / "good").glob("*.png"))
    test = sorted((whole / category / "test").glob("*/*.png"))
    labels = np.array([path.parent.name != "good" for path in test], dtype=np.int64)
    assert len(train) == demo.TRAIN_GOOD
    assert (labels == 0).sum() == demo.TEST_GOOD
    assert (labels == 1).sum() == demo.TEST_PER_DEFECT * len(SCENES[category].kinds)
    return [str(path) for path in train], [str(path) for path in test], labels


@pytest.mark.slow
@pytest.mark.parametrize("category", demo.CATEGORIES)
def test_pixel_statistics_do_not_find_the_defects(whole: Path, category: str) -> None:
    from uadctl.metrics import compute_image_auroc

    train, test, labels = labelled(whole, category)

    def softened(paths: list[str], sigma: float, grey: bool) -> np.ndarray:
        pictures = [cv2.GaussianBlur(read(Path(path)).astype(np.float32), (0, 0), sigma) for path in paths]
        return np.stack([p.mean(axis=2, keepdims=True) if grey else p for p in pictures])

    for sigma in (1.0, 2.5):
        for grey in (False, True):
            sound = softened(train, sigma, grey)
            z = np.abs(softened(test, sigma, grey) - sound.mean(axis=0)) / (sound.std(axis=0) + 1)
            far = np.sort(z.max(axis=3).reshape(len(test), -1), axis=1)
            assert compute_image_auroc(labels, far[:, -1]) < 0.85
            assert compute_image_auroc(labels, far[:, -far.shape[1] // 100 :].mean(axis=1)) < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("category", demo.CATEGORIES)
def test_the_default_patchcore_finds_most_defects(whole: Path, category: str) -> None:
    from uadctl.metrics import compute_image_auroc
    from uadctl.spec import create_model

    train, test, labels = labelled(whole, category)
    detector = create_model("vision_patchcore").fit(train)
    assert compute_image_auroc(labels, detector.decision_function(test)) >= 0.90
