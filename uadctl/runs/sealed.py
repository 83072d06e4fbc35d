"""model.json and thresholds.json: documents that verdicts rest on, with a checksum of their own in them.

A bit that a disk has turned must not turn a verdict, and a number that somebody has typed must not pass for one that
was chosen. This is no signature: who means to can write another checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Final

from uadctl.errors import RunError

KEY: Final = "checksum"
"""The last key of a sealed document: SHA-256 over the file as it would be without this key, in hexadecimal."""

MODEL_KEYS: Final = frozenset(
    ("schema", "model", "params", "preprocess", "learned_tiles", "camera", "postprocess", "facts", "sha256")
)
"""All that a model.json may hold besides its checksum."""

THRESHOLDS_KEYS: Final = frozenset(
    ("schema", "image", "review", "expected", "pixel", "scores", "maxima", "data", "tiling", "postprocess")
)
"""All that a thresholds.json may hold besides its checksum."""

# How a sealed file ends, and how it would without the checksum.
_SEALED: Final = re.compile(rb',\n  "checksum": "([0-9a-f]{64})"\n\}\n\Z')
_UNSEALED: Final = b"\n}\n"
_LONGEST_END: Final = 100

_HELP: Final = {
    "model": "Fit again, or put back a copy of the file.",
    "thresholds": "Put back a copy of the file: thresholds.N.json are those that were replaced. "
    "Another threshold is set with uadctl calibrate, or given with --threshold.",
}


def seal(document: Mapping[str, Any]) -> bytes:
    """The document as its file is written, with its checksum. ValueError for NaN and infinity."""
    return _text({**document, KEY: hashlib.sha256(_text(document)).hexdigest()})


def check_seal(file: Path, data: bytes, document: dict[str, Any], keys: Set[str]) -> dict[str, Any]:
    """The document without its checksum, of which nothing has changed since it was written.

    data: the bytes of the file; line ends may be "\\r\\n". keys: all that it may hold. Files of before 0.9, which have
    no checksum, are only held against these: a turned bit in the key of the checksum makes another key.

    Raises RunError where the checksum is another or the bytes are not those that were written, or for an unknown key.
    """
    said = {name: value for name, value in document.items() if name != KEY}
    if KEY in document and not _is_whole(data):
        raise _damaged(file, "changed since it was written: its checksum is another")
    unknown = sorted(set(said) - keys)
    if unknown:
        raise _damaged(file, f"it has the unknown key {json.dumps(unknown[0][:80])}")
    return said


def _is_whole(data: bytes) -> bool:
    """Whether a file ends with the checksum of itself. Of its own bytes: to write it anew, to compare, would take the
    time and the memory of a hostile document several times over."""
    if b"\r\n" in data:
        data = data.replace(b"\r\n", b"\n")
    end = _SEALED.search(data, max(0, len(data) - _LONGEST_END))
    if end is None:
        return False
    digest = hashlib.sha256(memoryview(data)[: end.start()])
    digest.update(_UNSEALED)
    return digest.hexdigest().encode() == end[1]


def _damaged(file: Path, fact: str) -> RunError:
    return RunError(f"{file}: damaged: {fact}", help=_HELP["model" if file.stem == "model" else "thresholds"])


def _text(document: Mapping[str, Any]) -> bytes:
    # As uadctl.atomic.write_json writes every document.
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    return f"{text}\n".encode("utf-8", "backslashreplace")
