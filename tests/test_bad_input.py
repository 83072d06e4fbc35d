"""Files that are no whole pictures, through every verb: named, counted, never scored, never passed over in silence."""

from __future__ import annotations

import base64
import contextlib
import csv
import ctypes
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bad_files
import cv2
import numpy as np
import parts
import pytest
from bad_files import BAD, ODD, Bad

from uadctl import load_run
from uadctl.errors import DataError
from uadctl.imaging.files import read_image
from uadctl.imaging.overheard import listening
from uadctl.score import score

MODEL = ["--model", "vision_ecod", "--model-kwargs", '{"features": "histogram"}', "--set", "preprocess.size=32"]
UNIT = "units/tile/vision_ecod/0"
WHAT = {"train": "train/good/003.png", "test": "test/good/001.png", "validation": "validation/good/001.png"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a cheap model. Read it, do not change it."""
    from typer.testing import CliRunner

    from uadctl.cli.app import app

    folder = tmp_path_factory.mktemp("fitted")
    parts.write_category(folder / "data", "tile", train=24)
    words = ["--dataset", "mvtec", "--root", str(folder / "data"), "--run-dir", str(folder / "runs"), *MODEL]
    result = CliRunner().invoke(app, ["bench", *words])
    assert result.exit_code == 0, result.stderr
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for bad in (*BAD, *ODD):
        bad.make(folder / bad.name)
    yield folder
    for bad in BAD:
        (folder / bad.name).unlink() if not (folder / bad.name).is_dir() else None


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert (len(BAD), len(ODD)) == (45, 32)
    assert len({bad.name for bad in (*BAD, *ODD)}) == 77


# --- score


def test_every_good_file_has_the_score_it_has_alone_and_every_bad_one_its_reason(uadctl, fitted, corpus) -> None:
    good = [parts.write(corpus / "good" / f"{i}.png", parts.surface(700 + i)) for i in range(3)]
    alone = [uadctl("score", fitted, path, "--json").lines[0]["score"] for path in good]
    odd_alone = [line["score"] for line in uadctl("score", fitted, *(corpus / odd.name for odd in ODD), "--json").lines]
    named: list[Path] = []
    kinds = [bad for bad in (*BAD, *ODD) if bad.name != "folder.png"]
    for i, bad in enumerate(kinds):
        named += [corpus / bad.name, good[i % 3]]
    ended = uadctl("score", fitted, *named, "--json", code=1)
    assert len(ended.lines) == len(named) == 152
    assert ended.err.count("error") == 0
    for i, bad in enumerate(kinds):
        line, beside = ended.lines[2 * i], ended.lines[2 * i + 1]
        assert beside["score"] == alone[i % 3]
        assert beside["status"] == "ok"
        if bad.reason is None:
            assert (line["status"], line["score"]) == ("ok", odd_alone[i - len(kinds)]), bad.name
        else:
            assert (line["status"], line["score"], line["verdict"]) == ("error", None, None), bad.name
            assert line["reason"] == bad.reason, bad.name


def test_a_folder_of_them_has_a_row_for_each(uadctl, fitted, corpus) -> None:
    (corpus / "again").symlink_to(corpus, target_is_directory=True)
    (corpus / "deeper" / "still").mkdir(parents=True)
    (corpus / "deeper" / "still" / "up").symlink_to(corpus / "deeper")
    parts.write(corpus / "deeper" / "still" / "last.png", parts.surface(1))
    found = uadctl("score", fitted, corpus, "--json", code=1).lines
    kept = [bad for bad in (*BAD, *ODD) if bad.name != "folder.png"]
    assert len(found) == len(kept) + 1
    assert sum(line["status"] == "error" for line in found) == len(BAD) - 1
    exact = {base64.b64decode(line["path_b64"]) for line in found if "path_b64" in line}
    assert exact == {os.fsencode(corpus / "caf\udce9.png")}
    people = uadctl("score", fitted, corpus, code=1).out
    assert len(people.splitlines()) == len(found)
    assert "\x1b" not in people


def test_no_file_takes_the_memory_it_states_and_no_decoder_is_heard(corpus) -> None:
    """In a process of its own: its peak is that of these files, and what C code prints bypasses Python."""
    script = (
        "import os, resource, sys\n"
        "from uadctl.errors import DataError\n"
        "from uadctl.imaging.files import image_size, read_image, read_mask\n"
        "from uadctl.imaging.raster import open_image\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_image(sys.argv[1]); read_image(sys.argv[2])\n"
        "before, read_so_far = peak(), 0\n"
        "for name in sorted(os.listdir(sys.argv[3])):\n"
        "    path = os.path.join(sys.argv[3], name)\n"
        "    for read in (read_image, lambda p: read_mask([p]), image_size, lambda p: open_image(p).close()):\n"
        "        try:\n"
        "            read(path)\n"
        "            read_so_far += 1\n"
        "        except DataError: pass\n"
        "print(peak() - before, read_so_far)\n"
    )
    first = [str(corpus / name) for name in ("1bit.png", "planar.tiff")]
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *first, str(corpus)], capture_output=True, check=True, timeout=120
    )
    assert ended.stderr == b""
    grown, read_so_far = map(int, ended.stdout.split())
    assert grown * (1 if sys.platform == "darwin" else 1024) < 200_000_000
    assert read_so_far >= 4 * len(ODD)


def test_no_file_takes_long(corpus: Path) -> None:
    for bad in (*BAD, *ODD):
        began = time.process_time()
        with contextlib.nullcontext() if bad.reason is None else pytest.raises(DataError):
            read_image(corpus / bad.name)
        assert time.process_time() - began < 20, bad.name


def test_a_name_no_file_can_have_is_a_row(uadctl, fitted, tmp_path: Path) -> None:
    good = parts.write(tmp_path / "good.png", parts.surface(1))
    names = ("y" * 300 + ".png", "z/" * 3000 + "deep.png", "good.png/inside.png")
    ended = uadctl("score", fitted, *names, good, "--json", code=1)
    assert [line["reason"] for line in ended.lines] == [
        "cannot be read (File name too long)",
        "cannot be read (File name too long)",
        "cannot be read (Not a directory)",
        None,
    ]


def test_a_folder_deeper_than_a_path_can_say_is_an_error_that_says_so(uadctl, fitted, tmp_path: Path) -> None:
    top = tmp_path / "deep"
    parts.write(top / "good.png", parts.surface(1))
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    try:
        ended = uadctl("score", fitted, top, "--json", code=2)
        assert ended.out == ""
        assert ended.err.endswith(": cannot be read (File name too long)\n")
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)


def test_what_vanishes_after_the_listing_is_a_row(fitted, tmp_path: Path) -> None:
    paths = [parts.write(tmp_path / "new" / f"{i:02}.png", parts.surface(i)) for i in range(40)]
    lines = score(load_run(str(fitted), device="cpu"), [str(tmp_path / "new")])
    first = next(lines)
    paths[30].unlink()
    rest = list(lines)
    assert (first.status, len(rest)) == ("ok", 39)
    assert [(line.path, line.reason) for line in rest if line.status == "error"] == [(str(paths[30]), "no such file")]


def test_a_folder_that_vanishes_after_the_listing_is_rows(fitted, tmp_path: Path) -> None:
    parts.write(tmp_path / "new" / "0.png", parts.surface(0))
    for i in range(30):
        parts.write(tmp_path / "new" / "z" / f"{i:02}.png", parts.surface(i))
    lines = score(load_run(str(fitted), device="cpu"), [str(tmp_path / "new")])
    assert next(lines).status == "ok"
    (tmp_path / "new" / "z").rename(tmp_path / "gone")
    reasons = [line.reason for line in lines]
    assert len(reasons) == 30
    assert set(reasons) <= {None, "no such file"}
    assert reasons[-1] == "no such file"


def test_a_file_that_is_still_being_written_is_whole_or_an_error(fitted, tmp_path: Path) -> None:
    """Every length that it has while it grows: it is an error until the last byte is there."""
    model = load_run(str(fitted), device="cpu")
    for suffix in (".png", ".jpg", ".bmp", ".webp", ".tiff"):
        data = bad_files.encoded(suffix)
        file = tmp_path / f"growing{suffix}"
        lengths = sorted({len(data) * share // 23 for share in range(23)} | {len(data) - 1})
        lines = []
        for length in lengths:
            file.write_bytes(data[:length])
            lines += score(model, [str(file)])
        assert {line.status for line in lines} == {"error"}, suffix
        assert all(line.reason and line.score is None for line in lines)
        file.write_bytes(data)
        (whole,) = score(model, [str(file)])
        assert whole.status == "ok"


def test_a_file_replaced_while_it_is_read_is_one_of_the_two_or_an_error(tmp_path: Path) -> None:
    """A writer that renames gives whole pictures only; one that writes over the file may give an error, never a mix."""
    file, other = tmp_path / "shown.png", tmp_path / "next.png"
    pictures = [parts.surface(seed, 200, 200) for seed in (1, 2)]
    parts.write(file, pictures[0])
    done = threading.Event()

    def replace() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            parts.write(other, pictures[turn % 2]).replace(file)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = {read_image(file).tobytes() for _ in range(60)}
    finally:
        done.set()
        writer.join()
    assert seen <= {picture.tobytes() for picture in pictures}


@pytest.mark.parametrize("number", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_files_are_listed_soon_and_not_held(fitted, tmp_path: Path, number: int) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    data = bad_files.encoded(".png")
    for i in range(number):
        with (folder / f"{i:06}.png").open("wb") as file:
            file.write(data if i < 50 else b"")
    model = load_run(str(fitted), device="cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    lines = score(model, [str(folder)])
    found = [next(lines) for _ in range(5)]
    assert time.process_time() - began < 30
    lines.close()
    assert [Path(line.path).name for line in found] == [f"{i:06}.png" for i in range(5)]
    assert len({line.score for line in found}) == 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown * (1 if sys.platform == "darwin" else 1024) < 200_000_000


def test_a_file_that_may_not_be_read_is_a_row(fitted, tmp_path: Path) -> None:
    """Root reads everything: where this is root, a child drops to nobody first."""
    closed = parts.write(tmp_path / "open" / "closed.png", parts.surface(1))
    closed.chmod(0)
    drop = "os.setgid(65534); os.setuid(65534)\n" if os.geteuid() == 0 else ""
    script = (
        "import os, sys\n"
        "from uadctl.errors import DataError\n"
        "from uadctl.imaging.files import read_image\n"
        "import cv2, tifffile\n" + drop + "os.chdir(int(sys.argv[2]))\n"
        "try: read_image(sys.argv[1])\n"
        "except DataError as error: print(error)\n"
    )
    descriptor = os.open(closed.parent, os.O_RDONLY)
    try:
        words = [sys.executable, "-c", script, "closed.png", str(descriptor)]
        ended = subprocess.run(words, capture_output=True, pass_fds=[descriptor], check=False, timeout=60, text=True)
    finally:
        os.close(descriptor)
    assert (ended.stdout, ended.stderr) == ("closed.png: permission denied\n", "")


# --- fit, bench, calibrate, datasets check, report


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is heard but with the GNU C library")
def test_what_a_decoder_says_is_said_of_its_own_picture() -> None:
    """Many threads, some of them with a picture that makes libjpeg complain, and one that is no decoder."""
    libc = ctypes.CDLL(None)
    whole, broken = bad_files.encoded(".jpg"), bad_files.jpeg_with_garbage()

    def decoded(data: bytes) -> str:
        pixels, said = listening(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
        assert pixels.shape == (64, 64, 3)
        return said

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(decoded, [whole, whole, broken] * 40))
    assert said[0::3] == said[1::3] == [""] * 40
    assert set(said[2::3]) == {"Corrupt JPEG data: 251 extraneous bytes before marker 0xd9\n"}
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")
    before = stderr.value
    with pytest.raises(ZeroDivisionError):
        listening(lambda: 1 // 0)
    assert stderr.value == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is heard but with the GNU C library")
def test_what_others_print_meanwhile_goes_on_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)

    def prints() -> int:
        stream = ctypes.c_void_p.in_dll(libc, "stderr")
        libc.fputs(b"somebody else: hello\nlibpng error: this one is kept\n", stream)
        return 7

    assert listening(prints) == (7, "libpng error: this one is kept\n")
    # Twice, since it was called once more to be heard alone.
    assert capfd.readouterr().err == "somebody else: hello\n" * 2


FEW = ("empty.png", "cut_png60.png", "text.png", "pages.tiff", "garbage.jpg", "nan.tiff", "bomb.png", "dangling.png")


def few() -> list[Bad]:
    found = [bad for bad in BAD if bad.name in FEW]
    assert len(found) == len(FEW)
    return found


def words(root: Path) -> list[str]:
    return ["--dataset", "mvtec", "--root", str(root), *MODEL]


def category(tmp_path: Path) -> Path:
    folder = parts.write_category(tmp_path / "data", "tile", train=5)
    for i in range(3):
        parts.write(folder / "validation" / "good" / f"{i:03}.png", parts.surface(300 + i))
    return folder


def replaced(file: Path, bad: Bad) -> str:
    file.unlink()
    bad.make(file)
    return f"{file}: {bad.reason}"


@pytest.mark.parametrize("role", WHAT)
def test_a_bad_image_fails_its_cell_and_is_named(uadctl, tmp_path: Path, role: str) -> None:
    file = category(tmp_path) / WHAT[role]
    said = replaced(file, few()[list(WHAT).index(role)])
    ended = uadctl("bench", *words(tmp_path / "data"), "--json", code=1)
    assert f"error: tile / vision_ecod: {said}\n" in ended.err
    cell = ended.json["results"]["tile"]["vision_ecod"]["0"]
    assert (cell["success"], cell["error"]) == (False, said)
    if role == "test":  # which fit does not read
        uadctl("fit", *words(tmp_path / "data"))
        return
    assert f"error: tile / vision_ecod: {said}\n" in uadctl("fit", *words(tmp_path / "data"), code=1).err


def test_bad_images_are_left_out_where_the_spec_says_so_and_counted(uadctl, tmp_path: Path) -> None:
    """All kinds at once, in every role: a row, a warning and a count for each, in bench and in fit."""
    folder = category(tmp_path)
    said = {}
    for role in WHAT.values():
        for i, bad in enumerate(few()):
            file = (folder / role).with_name(f"bad_{i}.png")
            bad.make(file)
            said[f"{role.rpartition('/')[0]}/{file.name}"] = f"{file}: {bad.reason}"
    skip = ["--set", "dataset.on_error=skip"]
    ended = uadctl("bench", *words(tmp_path / "data"), *skip, "--json")
    counts = ended.json["results"]["tile"]["vision_ecod"]["0"]["counts"]
    assert (len(said), counts["broken_images"]) == (24, 24)
    assert (counts["train_images"], counts["images"]) == (5, 5)
    with (Path(ended.json["run"]) / UNIT / "scores.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["status"] == "error"]
    assert {row["path"]: row["reason"] for row in rows} == said
    assert {(row["score"], row["verdict"], row["map"]) for row in rows} == {("", "", "")}
    recorded = json.loads((Path(ended.json["run"]) / "run.json").read_text())["warnings"]
    for line in said.values():
        assert ended.err.count(line) == 1
        assert sum(line in warning for warning in recorded) == 1
    fitted = uadctl("fit", *words(tmp_path / "data"), *skip).err
    assert [fitted.count(line) for line in said.values()] == [1] * 8 + [0] * 8 + [1] * 8
    uadctl("report", ended.json["run"])
    page = next((Path(ended.json["run"]) / "report").rglob("index.html")).read_text(encoding="utf-8")
    assert "16" in page


def test_bad_masks_are_named_or_their_images_left_out_of_the_pixel_metrics(uadctl, tmp_path: Path) -> None:
    folder = category(tmp_path) / "ground_truth" / "scratch"
    kinds = [bad for bad in few() if bad.name in ("cut_png60.png", "text.png", "pages.tiff")]
    model = ["--model", "vision_padim", "--set", "preprocess.size=32"]
    data = ["--dataset", "mvtec", "--root", str(tmp_path / "data"), *model]
    said = [replaced(folder / f"{i:03}_mask.png", bad) for i, bad in enumerate(kinds)]
    assert len(said) == 3
    assert f"error: tile / vision_padim: {said[0]}\n" in uadctl("bench", *data, code=1).err
    skipped = uadctl("bench", *data, "--set", "dataset.on_error=skip", "--json")
    for line in said:
        assert skipped.err.count(f"warning: left out of the pixel metrics: {line}\n") == 1
    counts = skipped.json["results"]["tile"]["vision_padim"]["0"]["counts"]
    assert (counts["images"], counts["defect_images_without_mask"]) == (5, 3)


def test_calibrate_names_the_bad_image(uadctl, fitted, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(fitted, run)
    before = (run / UNIT / "thresholds.json").read_bytes()
    for i in range(4):
        parts.write(tmp_path / "good" / f"{i}.png", parts.surface(400 + i))
    for bad in few()[:3]:
        said = replaced(tmp_path / "good" / "2.png", bad)
        ended = uadctl("calibrate", run, "--good", "good", code=None)
        assert ended.code in (1, 2)
        assert f"good/2.png: {said.split(': ', 1)[1]}" in ended.err
        assert (run / UNIT / "thresholds.json").read_bytes() == before


def test_datasets_check_names_each_bad_file(uadctl, tmp_path: Path) -> None:
    folder = category(tmp_path)
    said = []
    for i, bad in enumerate(few()):
        parts.write(folder / "train" / "good" / f"{i:03}.png", parts.surface(i))
        said.append(replaced(folder / "train" / "good" / f"{i:03}.png", bad))
    ended = uadctl("datasets", "check", "mvtec", "--root", tmp_path / "data", code=2)
    for line in said:
        assert line in ended.out + ended.err, (line, ended)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heard only where the C library's stderr is a variable")
def test_what_c_code_prints_late_or_at_length_does_no_harm(capfd):
    """A thread may have read the variable just before it was put back: the stream must be there for ever."""
    libc = ctypes.CDLL(None)
    libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")
    real, seen = stderr.value, []

    def decode(said: bytes) -> int:
        seen.append(stderr.value)
        libc.fputs(said, stderr)
        return 7

    warning = "Corrupt JPEG data: bad\n"
    for _ in range(3):
        assert listening(lambda: decode(warning.encode())) == (7, warning)
        libc.fputs(b"late\n", seen[-1])
        assert listening(lambda: decode(b"")) == (7, "")
    assert len(set(seen)) == 1
    assert real not in seen
    _, said = listening(lambda: decode(warning.encode() * 100_000))
    assert said.startswith(warning)
    assert len(said) <= 1 << 16
    assert listening(lambda: decode(warning.encode())) == (7, warning)
    capfd.readouterr()
    assert listening(lambda: decode(b"other words\n")) == (7, "")
    assert set(capfd.readouterr().err.splitlines()) == {"other words"}
    assert stderr.value == real
