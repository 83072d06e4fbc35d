"""What anomalib's models want from the network, had from uadctl's own places instead.

Networks of timm and torchvision come with weights from where all of uadctl's come, see `uadctl.features.weights`. What
only anomalib offers is looked for on this machine. Inside `at_hand` no library downloads anything by itself: what is
not there is a WeightsError at once, which says where to get it and where to put it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from uadctl.errors import Problem, WeightsError
from uadctl.features.weights import available, find_weights, hub_folder, load_state, own_folder
from uadctl.models.anomalib.offline import Doors, Instead, guarded
from uadctl.spec.registry import BACKBONES, BackboneEntry, Weights, find_backbone

if TYPE_CHECKING:
    import torch

    from uadctl.features.weights import WeightsFile
    from uadctl.spec.wrapped import AnomalibModel

# Files that torchvision's ImageFolder and anomalib's generator of anomalies both read.
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_IMAGENETTE = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz"
_DTD = "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz"
_RELEASES = "https://github.com/open-edge-platform/anomalib/releases/download"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asset:
    """A weights file that only anomalib publishes, inside an archive. No checksum of the file itself is published.

    file: its path in the folder that weights lie in. url: of the archive. into: where in that folder it is unpacked.
    """

    file: str
    url: str
    into: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pictures:
    """A folder of images that are no product's, which a model learns beside the product's.

    parameter: of the model, that names it. url: of what anomalib takes. classed: images must lie in folders of it.
    """

    parameter: str
    url: str
    classed: bool = False


_PICTURES = {
    "draem": _Pictures(parameter="dtd_dir", url=_DTD),
    "efficient_ad": _Pictures(parameter="imagenet_dir", url=_IMAGENETTE, classed=True),
    "glass": _Pictures(parameter="anomaly_source_path", url=_DTD),
}


def _asset(model: AnomalibModel, params: Mapping[str, Any]) -> _Asset | None:
    if model.name == "efficient_ad":
        folder = "efficientad_pretrained_weights"
        return _Asset(
            file=f"{folder}/pretrained_teacher_{_value(model, params, 'model_size')}.pth",
            url=f"{_RELEASES}/{folder}/{folder}.zip",
        )
    if model.name == "dsr":
        return _Asset(
            file="dsr/vq_model_pretrained_128_4096.pckl",
            url=f"{_RELEASES}/dsr_pretrained_weights/dsr_vq_model_pretrained.zip",
            into="dsr",
        )
    return None


def _value(model: AnomalibModel, params: Mapping[str, Any], name: str) -> Any:
    """A parameter, as it was given or by default."""
    return params.get(name, next((p.default for p in model.parameters if p.name == name), None))


# -- what is missing


def missing(model: AnomalibModel, params: Mapping[str, Any]) -> list[Problem]:
    """What a training needs of anomalib's own that is not on this machine; networks' weights are not looked for.

    params: of the model's constructor. Nothing heavy is imported.
    """
    problems = []
    asset = _asset(model, params)
    if asset is not None and _folder_with(asset) is None:
        into = "/".join(filter(None, (str(hub_folder()), asset.into)))
        problems.append(
            Problem(
                f"{_named(model)}: the weights {asset.file} are not on this machine",
                help=f"Get {asset.url}\nand unpack it into {into}, or into "
                + (f"{asset.into} in " if asset.into else "")
                + "a folder named by $UADCTL_WEIGHTS.",
            )
        )
    pictures = _PICTURES.get(model.name)
    if pictures is not None and (wrong := _wrong(model, pictures, params)) is not None:
        problems.append(wrong)
    return problems


def _wrong(model: AnomalibModel, pictures: _Pictures, params: Mapping[str, Any]) -> Problem | None:
    given = _value(model, params, pictures.parameter)
    if given is None and model.name == "glass":
        return None  # it makes patterns of its own
    folder = _their_cache() / "datasets" / "dtd" if given is None else Path(given)
    kind = "in folders of their own" if pictures.classed else "in it"
    if _has_pictures(folder, classed=pictures.classed):
        return None
    return Problem(
        f'{_named(model)}: {pictures.parameter} (="{given or folder}") must be a folder with images {kind}',
        help=f"anomalib takes those of {pictures.url}\n"
        f'Unpack them, and name the folder: {pictures.parameter} = "DIR" in [model.params]. Others will do too.',
    )


def _has_pictures(folder: Path, *, classed: bool) -> bool:
    folders = sorted(f for f in folder.iterdir() if f.is_dir()) if classed and folder.is_dir() else [folder]
    return bool(folders) and all(any(f.suffix.lower() in _IMAGES for f in one.rglob("*")) for one in folders)


def _folder_with(asset: _Asset) -> Path | None:
    """The first folder that holds the file: $UADCTL_WEIGHTS, torch hub's cache, anomalib's own cache."""
    folders = (own_folder(), hub_folder(), _their_cache() / "pre_trained")
    return next((folder for folder in folders if folder is not None and (folder / asset.file).is_file()), None)


def _their_cache() -> Path:
    """Where anomalib keeps what it has downloaded. Nothing is made there."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("anomalib"))


def _named(model: AnomalibModel) -> str:
    return f"vision_{model.name}_anomalib"


# -- while a model is built and trained


@contextlib.contextmanager
def at_hand(model: AnomalibModel, params: Mapping[str, Any]) -> Iterator[None]:
    """In here a model is built and trained with weights from uadctl's places.

    Raises WeightsError for what is `missing`, and where weights of a network are nowhere. This holds for the
    thread that calls it; see `guarded`.
    """
    problems = missing(model, params)
    if problems:
        raise WeightsError(problems)
    asset = _asset(model, params)

    def create(make: Callable[..., Any], model_name: str, *args: Any, **given: Any) -> Any:
        """timm's network, with weights where it is asked to be pretrained."""
        given.update(zip(tuple(inspect.signature(make).parameters)[1:], args, strict=False))
        if given.get("pretrained"):
            file = _weights(find_backbone(f"timm:{model_name}") or _unknown(f"timm's {model_name}"), model)
            asked = given.get("pretrained_cfg_overlay") or {}
            # custom_load is for files of another library that some of timm's networks were published in.
            given["pretrained_cfg_overlay"] = {**asked, "file": str(file.path), "custom_load": False}
        return make(model_name, **given)

    def tensors(load: Callable[..., Any], url: str, *args: Any, **given: Any) -> dict[str, torch.Tensor]:
        del load, args, given
        return dict(load_state(_weights(_at(url), model).path))

    with guarded(doors(timm=create, torchvision=tensors, folder=None if asset is None else _folder_with(asset))):
        yield


def doors(*, timm: Instead | None = None, torchvision: Instead | None = None, folder: Path | None = None) -> Doors:
    """What training is served with; None: what that library has of its own, which is nothing that would be fetched.

    timm: in place of its create_model. torchvision: in place of what gives the tensors of a file at a URL.
    folder: where anomalib's own weights lie; None: where it would keep them.
    """
    wanted: dict[str, Instead | None] = {
        "timm:create_model": timm,
        "torch.hub:load_state_dict_from_url": torchvision,
        "huggingface_hub:hf_hub_download": _from_the_hub,
        "anomalib.data.utils.download:download_and_extract": _refuse_archive,
        "anomalib.utils.path:get_pretrained_weights_dir": None if folder is None else lambda _: folder,
    }
    return Doors(refuse=_refuse, functions={name: instead for name, instead in wanted.items() if instead is not None})


def _at(url: str) -> BackboneEntry:
    """Whose weights lie at a URL of torchvision: a backbone of uadctl, or one that is known by its file only."""
    known = next((entry for entry in BACKBONES.values() if entry.weights.url == url), None)
    if known is not None:
        return known
    file = PurePosixPath(url).name
    return BackboneEntry(
        name=file,
        target="",
        summary="",
        layers=(),
        channels={},
        strides={},
        # torchvision writes the first digits of the checksum into the name.
        weights=Weights(file=file, sha256=PurePosixPath(file).stem.rpartition("-")[2], licence="", url=url),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        paper="",
    )


def _unknown(network: str) -> NoReturn:
    raise WeightsError(
        f"{network}: uadctl knows no weights of this network",
        help="Choose a network that timm has, or random weights where the model takes them: pre_trained = false.",
    )


def _weights(entry: BackboneEntry, model: AnomalibModel) -> WeightsFile:
    """The weights of a network; WeightsError in terms of a model that takes no weights file as a parameter."""
    try:
        return find_weights(entry)
    except WeightsError as error:
        if available(entry) is not None:
            raise WeightsError(error.message, help="The file is damaged or another one. Remove it.") from error
        raise WeightsError(error.message, help=_where(entry, model)) from error


def _where(entry: BackboneEntry, model: AnomalibModel) -> str:
    fetch = f"with: uadctl models fetch {entry.name} --to DIR, or " if entry.target else ""
    random = any(parameter.name == "pre_trained" for parameter in model.parameters)
    return (
        (f"Get it {fetch}from {entry.weights.url}\n" if entry.weights.url else "")
        + f"Put it into {hub_folder()}, or into a folder named by $UADCTL_WEIGHTS."
        + (" For random weights: pre_trained = false." if random else "")
    )


def _refuse(function: Callable[..., Any], wanted: str, *args: Any, **given: Any) -> NoReturn:
    """In place of a function whose first argument says what it would download."""
    del function, args, given
    raise _not_here(wanted, "uadctl lets no other library download anything.")


def _refuse_archive(function: Callable[..., Any], root: Path, info: Any) -> NoReturn:
    del function
    raise _not_here(info.url, f"Get it, and unpack it into {root}")


def _from_the_hub(download: Callable[..., Any], repo_id: str, filename: str, *args: Any, **given: Any) -> Any:
    """The file as the Hugging Face hub's own cache on this machine has it."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return download(repo_id, filename, *args, **{**given, "local_files_only": True})
    except LocalEntryNotFoundError as error:
        raise _not_here(
            f"https://huggingface.co/{repo_id}/resolve/main/{filename}",
            "Put it into the cache of the Hugging Face hub: hf download REPOSITORY FILE, where there is a network.",
        ) from error


def _not_here(wanted: str, help: str) -> WeightsError:
    return WeightsError(f"{wanted}: anomalib wants this, and it is not on this machine", help=help)
