"""What a run was made with: versions, machine, commit, data."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from uadctl import __version__
from uadctl.imaging.listing import list_images
from uadctl.records import DefectConfig, Sample

_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "tifffile", "safetensors")


def versions() -> dict[str, str | None]:
    """uadctl, Python and the packages that numbers depend on; None for one that is not installed."""
    out: dict[str, str | None] = {"uadctl": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            out[package] = None
    return out


def machine() -> dict[str, Any]:
    """System, architecture, processor and its number of cores."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def git_commit(folder: Path) -> dict[str, Any] | None:
    """Commit of the work tree that `folder` lies in, and whether tracked files differ from it; None outside of one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed)}


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def fingerprint(
    samples: Iterable[Sample], *, defects: Sequence[DefectConfig] | None = None, camera: Sequence[str] = ()
) -> dict[str, Any]:
    """SHA-256 over names, splits, labels, groups and bytes of all images and masks; their number, and their bytes.

    defects: how much of each kind of defect is enough, where the data set says so: hashed as well.
    camera: files, and folders of frames, that say how images are seen: their bytes, not their names.

    Two runs with equal fingerprints saw the same data, wherever it lay. A file that cannot be read counts as absent;
    the stage that needs it reports it.
    """
    digest = hashlib.sha256()
    files = size = 0
    for sample in samples:
        facts = f"{sample.relative}\0{sample.split}\0{sample.label}\0{sample.defect}\0"
        if sample.group is not None:
            facts += f"{sample.group}\0"
        digest.update(facts.encode(errors="surrogateescape"))
        for path in (sample.path, *sample.masks):
            size += _hash_file(path, digest)
            files += 1
    if defects is not None:
        # No sample's facts begin with a NUL.
        digest.update(b"\0defects\0")
        for entry in defects:
            enough = f"{float(entry.saturation_threshold)!r}\0{entry.relative_saturation}"
            digest.update(f"{entry.name}\0{entry.pixel_value}\0{enough}\0".encode(errors="surrogateescape"))
    for path in camera:
        digest.update(b"\0camera\0")
        for frame in list_images(path) if Path(path).is_dir() else [path]:
            size += _hash_file(frame, digest)
            files += 1
    return {"sha256": digest.hexdigest(), "files": files, "bytes": size}


def content_hash(paths: Iterable[str]) -> str:
    """SHA-256 over the bytes of some files, whatever their names and their order."""
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        _hash_file(path, digest)
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _hash_file(path: str, digest: Any) -> int:
    """Take the bytes of a file into a digest. Returns how many there are."""
    try:
        if not Path(path).is_file():  # opening a pipe would wait for a writer
            raise FileNotFoundError(path)
        with Path(path).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
            return stream.tell()
    except OSError:
        digest.update(b"absent")
        return 0


def peak_memory() -> int | None:
    """The most memory this process has held so far, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
