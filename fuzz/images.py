"""Damaged and hostile image files at the image door: `python -m fuzz images --inputs 100000 --seed 0`.

Files of every format that uadctl reads, with bits turned, ends cut off, pieces spliced in and numbers replaced, and
files built from nothing around hostile numbers, go through all that reads an image, a mask or a map. Only DataError
may come out. The door must agree with itself: what is read in regions is what is read whole, the size read from the
header is that of the pixels, and what is written is what is read again. Decoding is done in a child process, so that
a fault in a library's C code is counted instead of ending the count; `--replay` does without one, and ends with it.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuzz.figures import ACCEPTED, MOST_BYTES, MOST_SECONDS, Broken, Case, Figures, Finding
from uadctl.imaging.files import MAX_PIXELS

PATIENCE = 30.0
"""Seconds without a word from the child after which it is ended, and the input counted as one that hangs."""

_HANG = "hang"

HOSTILE = (0, 1, 2, 7, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x4000, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


BYTES_A_PIXEL = 12
"""Further memory for each pixel that a file states, up to MAX_PIXELS: three channels, of 16 bits, twice in OpenCV's PNG
decoder."""

SECONDS_A_PIXEL = 1e-7
"""Further processor time, likewise, for all the ways to read a file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one input.

    accepted: as an image. kind: of what came out, if it was not; or of what should not have come out.
    seconds: of processor time. grown: bytes by which the most memory of the process has grown, up to now; grew: by this
    input. pixels: that the file states, where it is not refused for their number. fault: what is wrong, if anything.
    """

    number: int
    accepted: bool = False
    kind: str = ""
    seconds: float = 0.0
    grown: int = 0
    grew: int = 0
    pixels: int = 0
    fault: str = ""

    def faults(self) -> list[str]:
        """What is wrong, a line each. Of an input that hangs, or ends the process, nothing else is known."""
        if self.kind == _HANG:
            return [self.fault]
        found = [self.fault] if self.fault else []
        if self.seconds > MOST_SECONDS + SECONDS_A_PIXEL * self.pixels:
            found.append(f"takes more than {MOST_SECONDS:g} s of processor time, beside its pixels")
        if self.grew > MOST_BYTES + BYTES_A_PIXEL * self.pixels:
            found.append(f"takes more than {MOST_BYTES >> 20} MB beside its pixels")
        return found


def run(inputs: int, seed: int) -> Figures:
    """Put so many inputs through the door; the same seed gives the same inputs. Ctrl-C ends it early.

    Figures.findings has what is wrong, with the first input of each kind; Figures.refused has those inputs as well, by
    the kind of error that came out, the signal that ended the process, or as "hang".
    """
    refused: Counter[str] = Counter()
    found: dict[str, tuple[int, int]] = {}
    done, accepted, worst_seconds, worst_bytes = 0, 0, 0.0, 0
    with (
        tempfile.TemporaryDirectory(prefix="uadctl-fuzz-") as folder,
        contextlib.suppress(KeyboardInterrupt),
        contextlib.closing(_outcomes(inputs, seed, Path(folder))) as outcomes,
    ):
        for outcome in outcomes:
            done += 1
            accepted += outcome.accepted
            refused.update([outcome.kind] if outcome.kind else [])
            worst_seconds, worst_bytes = max(worst_seconds, outcome.seconds), max(worst_bytes, outcome.grown)
            for what in outcome.faults():
                first, times = found.get(what, (outcome.number, 0))
                found[what] = first, times + 1
    return Figures(
        inputs=done,
        accepted=accepted,
        refused=dict(sorted(refused.items())),
        worst_seconds=worst_seconds,
        worst_bytes=worst_bytes,
        findings=tuple(Finding(what, {"image": made(n, seed)}, times) for what, (n, times) in found.items()),
    )


def prepared(folder: Path) -> ImageTarget:
    """The door, for one input at a time, in this process."""
    return ImageTarget(folder)


@dataclass(slots=True)
class ImageTarget:
    """What `--replay` gives an input that was kept. folder: where its file is written."""

    folder: Path
    name: str = field(default="images", init=False)

    def make(self, rng: Random) -> Case:
        return {"image": made(rng.randrange(1 << 32), 0)}

    def judge(self, case: Case) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind, fault = _judged(case["image"], self.folder)
        if fault:
            raise Broken(fault)
        return kind or ACCEPTED


def _outcomes(inputs: int, seed: int, folder: Path) -> Generator[Outcome]:
    """One for each input, in order; a child that dies is replaced, and goes on after the input that killed it. None is
    left where the caller does not go on to the end."""
    done = 0
    spawning = multiprocessing.get_context("spawn")
    while done < inputs:
        here, there = spawning.Pipe(duplex=False)
        child = spawning.Process(target=_work, args=(there, done, inputs, seed, str(folder)), daemon=True)
        child.start()
        there.close()
        try:
            while done < inputs:
                # The first word takes as long as the imports do.
                if not here.poll(PATIENCE):
                    yield Outcome(done, kind=_HANG, seconds=PATIENCE, fault=f"no word for {PATIENCE:g} s")
                    done += 1
                    break
                try:
                    outcome = here.recv()
                except EOFError:
                    child.join()
                    code = child.exitcode or 0
                    name = signal.Signals(-code).name if code < 0 else f"exit {code}"
                    yield Outcome(done, kind=f"crash ({name})", fault=f"the process ended with {name}")
                    done += 1
                    break
                yield outcome
                done += 1
        finally:
            # It has nothing more to do, or cannot be waited for.
            child.kill()
            child.join()
            here.close()


def _work(answers: Connection, first: int, inputs: int, seed: int, folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too, and it is the other process that counts
    warnings.simplefilter("error")  # a warning is chatter on the terminal of whoever scores such a file
    _through_the_door(png_of(8, 2, picture(0)), Path(folder))  # what is imported at first use is no cost of an input
    _through_the_door(dict(seeds())["tiff deflate"], Path(folder))
    start = most = _peak()
    for number in range(first, inputs):
        data = made(number, seed)
        began = time.process_time()
        kind, fault = _judged(data, Path(folder))
        seconds = time.process_time() - began
        peak = _peak()
        grown, grew, pixels = peak - start, peak - most, _stated(Path(folder))
        answers.send(Outcome(number, not kind, kind, seconds, grown, grew, pixels, fault))
        most = peak
    answers.close()


def _stated(folder: Path) -> int:
    """The pixels that the last input states, as far as the door reads so many."""
    from uadctl.errors import DataError
    from uadctl.imaging.files import image_size

    try:
        height, width = image_size(folder / "input.png")
    except DataError:
        return 0
    return height * width if height * width <= MAX_PIXELS else 0


def _peak() -> int:
    """The most memory of this process so far, in bytes: what an input adds to it is at most its own need."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _judged(data: bytes, folder: Path) -> tuple[str, str]:
    """The kind of error, "" for an image; and what is wrong with the door, if anything."""
    try:
        return ("DataError" if _through_the_door(data, folder) else ""), ""
    except Exception as error:  # noqa: BLE001 - whatever comes out is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split())[:120]
        return type(error).__name__, f"{type(error).__name__} in {Path(place.filename).name}:{place.name}: {said}"


def _through_the_door(data: bytes, folder: Path) -> bool:
    """Read a file in every way there is. Whether it is refused as an image; anything but DataError goes through.

    AssertionError where two ways disagree.
    """
    from uadctl.errors import DataError
    from uadctl.imaging.files import (
        image_size,
        read_image,
        read_map,
        read_mask,
        read_mask_values,
        read_stored_map,
        read_stored_png,
    )
    from uadctl.imaging.raster import open_image, open_mask
    from uadctl.records import Box

    path = folder / "input.png"
    path.write_bytes(data)
    name = str(path)

    def attempt(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except DataError as error:
            _check(error.message.startswith(name), f"an error does not name its file: {error.message}")
            _check(len(error.message) < 1000, f"an error of {len(error.message)} characters")
            return None

    def whole(raster: Any) -> Any:
        try:
            height, width = raster.size
            if height * width > 1 << 22:  # as large as it says, and only its parts would be read
                return raster.read(Box(height // 2, width // 2, 1, 1)) is None
            return raster.read(Box.whole(raster.size))
        finally:
            raster.close()

    image = attempt(lambda: read_image(name))
    size = attempt(lambda: image_size(name))
    in_regions = attempt(lambda: whole(open_image(name)))
    mask = attempt(lambda: read_mask([name]))
    mask_in_regions = attempt(lambda: whole(open_mask([name])))
    attempt(lambda: read_mask_values(name))
    attempt(lambda: read_stored_png(name))
    field = attempt(lambda: read_map(name))
    attempt(lambda: read_stored_map(name))
    if image is not None:
        _check(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, "no RGB picture")
        _check(size == image.shape[:2], f"the header says {size}, the pixels are {image.shape}")
        _check(_same(in_regions, image), "what is read in regions is not what is read whole")
        _round_trip(image, field, folder)
    if mask is not None:
        _check(_same(mask_in_regions, mask), "a mask read in regions is not the one read whole")
    return image is None


def _round_trip(image: NDArray[np.uint8], field: NDArray[np.float32] | None, folder: Path) -> None:
    from uadctl.imaging.files import read_image, read_map, write_map, write_png

    if image.size < 1 << 16:
        write_png(folder / "again.png", image)
        _check(_same(read_image(folder / "again.png"), image), "a PNG written is not the PNG read")
    if field is not None and field.size < 1 << 16:
        write_map(folder / "again.tiff", field)
        _check(read_map(folder / "again.tiff").tobytes() == field.tobytes(), "a map written is not the map read")


def _same(found: Any, expected: NDArray[Any]) -> bool:
    # A large one is looked at in a part only.
    return isinstance(found, bool) or (found is not None and np.array_equal(found, expected))


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


# --- inputs


def made(number: int, seed: int) -> bytes:
    """The input of this number: it depends on nothing else."""
    rng = np.random.default_rng((seed, number))
    if rng.random() < 0.25:
        return GENERATORS[int(rng.integers(len(GENERATORS)))](rng)
    names = seeds()
    data = bytearray(names[int(rng.integers(len(names)))][1])
    for _ in range(int(rng.integers(1, 5))):
        data = MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        return checksummed(bytes(data))  # otherwise hardly any damage gets past the checksums
    return bytes(data)


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """A byte: half of the time one of the first hundred, where the numbers are."""
    most = len(data) if rng.random() < 0.5 else min(100, len(data))
    return int(rng.integers(most)) if most else 0


def _turn_bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(len(data) + 1))]


def _grow(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data + rng.bytes(int(rng.integers(1, 200)))


def _drop(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = _place(data, rng)
    del data[start : start + int(rng.integers(1, 40))]
    return data


def _double(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = _place(data, rng)
    piece = data[start : start + int(rng.integers(1, 200))]
    data[start:start] = piece
    return data


def _splice(data: bytearray, rng: np.random.Generator) -> bytearray:
    names = seeds()
    other = names[int(rng.integers(len(names)))][1]
    start = int(rng.integers(len(other)))
    piece = other[start : start + int(rng.integers(1, 300))]
    place = _place(data, rng)
    data[place : place + (len(piece) if rng.random() < 0.5 else 0)] = piece
    return data


def _number(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A hostile number of 1, 2, 4 or 8 bytes, in either order, over what is there."""
    width = (1, 2, 4, 8)[int(rng.integers(4))]
    number = HOSTILE[int(rng.integers(len(HOSTILE)))] & ((1 << 8 * width) - 1)
    place = _place(data, rng)
    data[place : place + width] = number.to_bytes(width, "little" if rng.random() < 0.5 else "big")
    return data


def _noise(data: bytearray, rng: np.random.Generator) -> bytearray:
    place = _place(data, rng)
    data[place : place + 16] = rng.bytes(16)
    return data


def _run(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A long run of one byte: what looks at it more than once takes the square of its length."""
    place = _place(data, rng)
    data[place:place] = bytes([b" \n\t,0(\0\xff"[int(rng.integers(8))]]) * int(rng.integers(1, 60_000))
    return data


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
    _turn_bits,
    _turn_bits,
    _cut,
    _grow,
    _drop,
    _double,
    _splice,
    _number,
    _number,
    _noise,
    _run,
)


def _hostile(rng: np.random.Generator, *usual: int) -> int:
    """One of the usual numbers, or now and then a hostile one."""
    numbers = usual if usual and rng.random() < 0.7 else HOSTILE
    return numbers[int(rng.integers(len(numbers)))]


def _any_png(rng: np.random.Generator) -> bytes:
    width, height = (_hostile(rng, 1, 8, 32) for _ in range(2))
    head = struct.pack(
        ">IIBBBBB",
        width,
        height,
        (1, 2, 4, 8, 16, 3, 0)[int(rng.integers(7))],
        (0, 2, 3, 4, 6, 1, 9)[int(rng.integers(7))],
        int(rng.random() < 0.05),
        int(rng.random() < 0.05),
        int(rng.integers(3)),
    )
    rows = rng.integers(0, 6, int(rng.integers(1, 6000)), dtype=np.uint8).tobytes()
    chunks = [(b"IHDR", head)]
    if rng.random() < 0.5:
        chunks.append((b"PLTE", rng.bytes(int(rng.integers(0, 780)))))
    if rng.random() < 0.3:
        chunks.append((b"tRNS", rng.bytes(int(rng.integers(0, 260)))))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def _any_tiff(rng: np.random.Generator) -> bytes:
    order = "<" if rng.random() < 0.7 else ">"
    packing = (1, 8, 5, 7, 32773, 32946, 2, 3, 4, 6, 50000, 34712)[int(rng.integers(12))]
    pixels = rng.bytes(int(rng.integers(1, 3000)))
    body = zlib.compress(pixels) if packing in (8, 32946) else pixels
    tiled = rng.random() < 0.4
    tags = [
        (256, 4, _hostile(rng, 16, 32, 33)),
        (257, 4, _hostile(rng, 16, 32, 33)),
        (258, 3, (1, 8, 16, 32, 64, 4, 12, 0)[int(rng.integers(8))]),
        (259, 3, packing),
        (262, 3, int(rng.integers(0, 10))),
        (274, 3, int(rng.integers(0, 10))),
        (277, 3, _hostile(rng, 1, 2, 3, 4) & 0xFFFF),
        (284, 3, int(rng.integers(0, 4))),
        (317, 3, int(rng.integers(0, 4))),
        (339, 3, int(rng.integers(0, 7))),
    ]
    if tiled:
        tags += [(322, 4, _hostile(rng, 16, 32)), (323, 4, _hostile(rng, 16, 32)), (324, 4, 8), (325, 4, len(body))]
    else:
        tags += [(273, 4, 8), (278, 4, _hostile(rng, 16, 32, 33)), (279, 4, len(body))]
    kept = sorted(tag for tag in tags if rng.random() < 0.97)
    entries = b"".join(
        struct.pack(order + "HHI", tag, kind, _hostile(rng, 1) if rng.random() < 0.05 else 1)
        + (struct.pack(order + "HH", value & 0xFFFF, 0) if kind == 3 else struct.pack(order + "I", value))
        for tag, kind, value in kept
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body))
    further = _hostile(rng, 0, 8 + len(body))
    return head + body + struct.pack(order + "H", len(kept)) + entries + struct.pack(order + "I", further)


def _any_bmp(rng: np.random.Generator) -> bytes:
    width, height = (_hostile(rng, 1, 8, 32) for _ in range(2))
    header = (12, 40, 52, 56, 108, 124, 64)[int(rng.integers(7))]
    bits, compression = (1, 4, 8, 16, 24, 32)[int(rng.integers(6))], int(rng.integers(0, 7))
    pixels = rng.bytes(int(rng.integers(1, 5000)))
    facts = struct.pack("<IIIHHIIIIII", header, width, height, 1, bits, compression, 0, 0, 0, _hostile(rng, 0, 256), 0)
    start = 14 + header + (1024 if bits <= 8 else 0)
    whole = facts.ljust(header, b"\0") + (rng.bytes(1024) if bits <= 8 else b"") + pixels
    return b"BM" + struct.pack("<III", _hostile(rng, 14 + len(whole)), 0, _hostile(rng, start, 54)) + whole


def _any_npy(rng: np.random.Generator) -> bytes:
    kinds = ("<f4", ">f8", "|u1", "<u2", "|b1", "|O", "<f2", "|V9", "a5", "<M8[ns]", "f4,f4", "<c8", "<U3")
    shape = tuple(_hostile(rng, 1, 5, 9) for _ in range(int(rng.integers(0, 4))))
    facts = (
        f"{{'descr': '{kinds[int(rng.integers(len(kinds)))]}', 'fortran_order': {bool(rng.random() < 0.1)}, "
        f"'shape': {shape}, }}"
    )
    text = bytearray(facts.encode())
    if rng.random() < 0.4:
        text = MUTATIONS[int(rng.integers(len(MUTATIONS)))](text, rng)
    if rng.random() < 0.05:
        text = bytearray(b"([{-"[int(rng.integers(4))] for _ in range(int(rng.integers(1, 9000))))
    size = np.array([min(len(text), 0xFFFF)], "<u2").tobytes()
    body = rng.bytes(int(rng.integers(0, 800)))
    return b"\x93NUMPY" + bytes((int(rng.integers(0, 5)) or 1, 0)) + size + bytes(text) + body


def _any_bytes(rng: np.random.Generator) -> bytes:
    """Noise behind the first bytes of a format."""
    starts = (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"II+\0\x08\0\0\0",
        b"RIFF\x64\0\0\0WEBPVP8 ",
        b"RIFF\x64\0\0\0WEBPVP8L",
        b"\x93NUMPY\x01\0",
        b"",
    )
    return starts[int(rng.integers(len(starts)))] + rng.bytes(int(rng.integers(0, 400)))


GENERATORS: tuple[Callable[[np.random.Generator], bytes], ...] = (
    _any_png,
    _any_tiff,
    _any_tiff,
    _any_bmp,
    _any_npy,
    _any_bytes,
)


# --- whole files to start from


def picture(seed: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """A slope with some noise, RGB."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(height) * 4, np.arange(width) * 3)[..., np.newaxis]
    return np.clip(slope + rng.integers(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(bits: int, colours: int, pixels: NDArray[np.uint8], *, interlaced: bool = False) -> bytes:
    """A PNG of any depth and kind, whose samples are bytes of `pixels`: noise as good as another."""
    height, width = pixels.shape[:2]
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    source = np.resize(pixels.reshape(-1), height * width * 8 + 64).tobytes()
    rows, used = [], 0
    for top, left, down, across in passes if interlaced else ((0, 0, 1, 1),):
        stride = (len(range(left, width, across)) * samples * bits + 7) // 8
        for _ in range(top, height, down) if stride else ():
            rows.append(b"\0" + source[used : used + stride])
            used += stride
    head = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", bytes(range(0, 3 << bits)) if bits < 8 else bytes(768)) if colours == 3 else b""
    body = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + body + chunk(b"IEND", b"")


def checksummed(data: bytes) -> bytes:
    """A PNG with the checksum that each of its chunks should have."""
    whole = bytearray(data)
    position = 8
    while position + 12 <= len(whole):
        end = position + 12 + int.from_bytes(whole[position : position + 4], "big")
        if end > len(whole):
            break
        whole[end - 4 : end] = struct.pack(">I", zlib.crc32(whole[position + 4 : end - 4]))
        position = end
    return bytes(whole)


def _tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    import tifffile

    target = io.BytesIO()
    tifffile.imwrite(target, pixels, **{"metadata": None, **options})
    return target.getvalue()


def _encoded(suffix: str, pixels: NDArray[Any], *options: int) -> bytes:
    import cv2

    done, data = cv2.imencode(suffix, pixels, list(options))
    if not done:
        raise ValueError(f"OpenCV cannot write {suffix}")
    return data.tobytes()


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """Whole files by name, of every format and most of its kinds."""
    import cv2

    rgb = picture(1)
    grey = rgb[..., 0].copy()
    found = {f"png {b} {c}": png_of(b, c, rgb) for c, depths in _PNG_DEPTHS.items() for b in depths}
    found |= {f"png interlaced {c}": png_of(8, c, rgb, interlaced=True) for c in _PNG_DEPTHS}
    found |= {
        "jpeg": _encoded(".jpg", rgb),
        "jpeg grey": _encoded(".jpg", grey),
        "jpeg progressive": _encoded(".jpg", rgb, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "jpeg restarts": _encoded(".jpg", rgb, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "bmp": _encoded(".bmp", rgb),
        "bmp grey": _encoded(".bmp", grey),
        "webp": _encoded(".webp", rgb, cv2.IMWRITE_WEBP_QUALITY, 60),
        "webp lossless": _encoded(".webp", rgb, cv2.IMWRITE_WEBP_QUALITY, 101),
        "tiff": _tiff(rgb),
        "tiff big": _tiff(rgb, bigtiff=True, byteorder=">"),
        "tiff deflate": _tiff(rgb, compression="zlib", predictor=True, rowsperstrip=5),
        "tiff tiles": _tiff(rgb, tile=(16, 16), compression="zlib"),
        "tiff planar": _tiff(np.moveaxis(rgb, -1, 0).copy(), planarconfig="separate", photometric="rgb"),
        "tiff packbits": _tiff(grey, compression="packbits") if _has_packbits() else _tiff(grey, rowsperstrip=1),
        "tiff lzw": _encoded(".tiff", rgb, cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "tiff jpeg": _encoded(".tiff", rgb, cv2.IMWRITE_TIFF_COMPRESSION, 7),
        "tiff 16": _tiff(grey.astype(np.uint16) * 257, byteorder=">"),
        "tiff float": _tiff(grey.astype(np.float32) / 255),
        "tiff bits": _tiff(grey > 99),
        "tiff pages": _tiff(np.stack([grey, grey])),
        "npy": _npy(rgb),
        "npy float": _npy(grey.astype(np.float32) / 255),
        "npy 16": _npy(grey.astype(">u2") * 257),
    }
    return tuple(found.items())


_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def _has_packbits() -> bool:
    """Whether tifffile can write PackBits, which takes another package."""
    import importlib.util

    return importlib.util.find_spec("imagecodecs") is not None


def _npy(pixels: NDArray[Any]) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array(target, pixels, allow_pickle=False)
    return target.getvalue()
