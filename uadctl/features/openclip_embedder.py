"""What OpenCLIP sees and says: patches, windows and images in one space with texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uadctl.errors import ImageError, SpecError, WeightsError
from uadctl.features import openclip
from uadctl.features.openclip import TowerConfig
from uadctl.records import Size
from uadctl.spec import require
from uadctl.spec.values import shown

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from uadctl.features.backbone import Precision
    from uadctl.spec.registry import BackboneEntry

# What `pretrained` is where nobody says: ViT-B-16's usual weights, and so those of any model that are usual for it.
_DEFAULT = "laion2b_s34b_b88k"
# Windows and texts that pass through a tower together.
_SEQUENCES = 1024
_TEXTS = 64


@dataclass(frozen=True, slots=True)
class View:
    """What is seen of one image; all float32, of any length but zero.

    patches: (grid.height * grid.width, channels), row by row. size: of the image as it was given.
    image: (embed_dim,) the whole image, None unless windows were asked for.
    windows: for each side asked for the (n, embed_dim) windows of `uadctl.features.openclip.windows_of`.
    """

    patches: NDArray[np.float32]
    grid: Size
    size: Size
    image: NDArray[np.float32] | None = None
    windows: tuple[NDArray[np.float32], ...] = ()


class OpenCLIPEmbedder:
    """An image tower and a text tower of open_clip, frozen, loaded when they are first needed.

    model_name: a model of open_clip whose image tower is its VisionTransformer.
    pretrained: the name of weights that open_clip publishes, True for the usual ones, a checkpoint file, or False:
        random weights (seeded), for which nothing is ever downloaded. The default stands for the usual ones where the
        model has none of that name.
    weights: a checkpoint file to use in place of the published weights. `pretrained` then only says whose activation
        and normalisation the file goes with, if it names weights of the model.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps". precision: of the image tower; texts are always read in float32.
    layer: what `embed` gives of patches: "patches", after the last layer norm and the projection to where the texts
        are; "norm", before that projection; "blocks.i".
    needed_by: who asks, for messages.
    """

    def __init__(
        self,
        model_name: str = "ViT-B-16",
        pretrained: str | bool = _DEFAULT,
        *,
        weights: str | None = None,
        device: str = "auto",
        seed: int = 0,
        precision: Precision = "fp32",
        layer: str = "patches",
        needed_by: str = "OpenCLIPEmbedder",
    ) -> None:
        self.model_name = model_name
        self.pretrained = pretrained
        self.weights = weights
        self.device = device
        self.seed = seed
        self.precision: Precision = precision
        self.layer = layer
        self._needed_by = needed_by
        self._tower: Any = None
        self._state: dict[str, torch.Tensor] = {}
        self._config: TowerConfig | None = None
        self._facts: dict[str, Any] = {}
        self._restored = False

    @property
    def stride(self) -> int:
        """The side of a patch in pixels; 1 as long as open_clip is absent."""
        return openclip.patch_size(self.model_name)

    # -- where it comes from

    def weights_state(self) -> str:
        """Where the weights would come from: "random", "path", or a place of `uadctl.features.weights`."""
        from uadctl.features.weights import available

        if self.pretrained is False:
            return "random"
        if self.weights is not None:
            return "path"
        entry, path = self._source()
        return "path" if path is not None else available(entry) or "network"

    def prepare(self, *, download: bool = True, words: bool = False) -> None:
        """Have everything ready that the first image needs; without `download`, only what is not the network's.

        words: texts will be asked for too. Raises BackendMissing, SpecError, WeightsError.
        """
        from uadctl.features.backbone import resolve_device, resolve_precision
        from uadctl.features.weights import absent, find_weights, offline

        entry, path = self._source()
        if self.layer not in entry.channels:
            raise SpecError(
                f"layer (={self.layer!r}) must be a layer of {self.model_name}: {', '.join(entry.channels)}"
            )
        if words and self._tower is None:
            self._tokenizer()
        if path is not None:
            find_weights(entry, path=path)
        elif self.pretrained is not False:
            if download or self.weights_state() != "network":
                find_weights(entry)
            elif offline():
                raise absent(entry, "UADCTL_OFFLINE is set")
        device = resolve_device(self.device)
        resolve_precision(self.precision, device=device, runtime="torch")

    @property
    def entry(self) -> BackboneEntry:
        """The image tower with the weights that are meant. Raises as `prepare` does."""
        return self._source()[0]

    def _source(self) -> tuple[BackboneEntry, str | None]:
        """The model with these weights, as the registry knows it, and their file where the user names one."""
        require("open_clip", "clip", needed_by=self._needed_by)
        entry = openclip.describe(self.model_name)
        if entry is None:
            name = shown(self.model_name)
            raise SpecError(
                f"model_name (={name}): open_clip has no such model with a vision transformer of its own",
                help="Names are those of open_clip.list_models(), such as ViT-B-16, ViT-B-16-plus-240, ViT-L-14.",
            )
        if self.pretrained is False:
            return entry, None
        if self.weights is not None:
            return entry, self.weights
        tag = self._tag()
        if tag:
            return openclip.describe(f"{self.model_name}:{tag}") or entry, None
        if isinstance(self.pretrained, str) and Path(self.pretrained).is_file():
            return entry, self.pretrained
        if self.pretrained not in (True, _DEFAULT):
            name = shown(self.pretrained)
            raise SpecError(
                f"pretrained (={name}): open_clip has no such weights of {self.model_name}, and there is no such file",
                help=f"Its weights: {', '.join(openclip.tags_of(self.model_name)) or 'none'}. Or pretrained = true for "
                "its usual ones, false for random ones.",
            )
        raise WeightsError(
            f"{self.model_name}: open_clip publishes no weights of it",
            help="Name a checkpoint file with the parameter weights. For random weights: pretrained = false.",
        )

    def _tag(self) -> str:
        """The published weights that `pretrained` means; "" where it means none, or a file is used."""
        if isinstance(self.pretrained, str) and self.pretrained in openclip.tags_of(self.model_name):
            return self.pretrained
        by_name = self.pretrained == _DEFAULT and self.weights is None and not Path(_DEFAULT).is_file()
        return openclip.usual_tag(self.model_name) if self.pretrained is True or by_name else ""

    def _wanted(self) -> TowerConfig:
        """The tower that these parameters describe. A file's activation is that of the model, by its name."""
        config = openclip.tower_config(self.model_name, self._tag())
        if config is None:
            raise SpecError(f"model_name (={shown(self.model_name)}): open_clip has no such model")
        return config

    def _checkpoint(self) -> tuple[dict[str, torch.Tensor] | None, str, dict[str, str]]:
        """The tensors of both towers, by open_clip's names, or None: random; their file; what a record says of it."""
        from uadctl.features.weights import find_weights, load_state

        entry, path = self._source()
        if self.pretrained is False:
            return None, "", {"weights": "random"}
        found = find_weights(entry, path=path)
        facts = {"weights": found.source, "weights_file": found.path.name, "weights_sha256": found.sha256}
        if path is None:
            facts["weights_tag"] = self._tag()
        return openclip.convert(load_state(found.path)), str(found.path), facts

    def _loaded(self) -> Any:
        """The image tower, on its device."""
        import torch

        if self._tower is None:
            tensors, file, origin = self._checkpoint()
            config = self._wanted()
            if tensors is None:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.seed)
                    state = openclip.make_tower(config).state_dict()
            else:
                with torch.device("meta"):
                    shapes = openclip.make_tower(config).state_dict()
                state = _matching(tensors, shapes, prefix="visual.", name=self.model_name, file=file)
            self._build(config, state, self.precision, origin)
        return self._tower

    def _build(
        self, config: TowerConfig, state: Mapping[str, torch.Tensor], precision: Precision, origin: Mapping[str, str]
    ) -> None:
        """Put a tower with these tensors on the device. origin: what a record says of where they are from."""
        import torch

        from uadctl.features.backbone import resolve_device, resolve_precision, settle
        from uadctl.features.network import DTYPES

        device = resolve_device(self.device)
        effective = resolve_precision(precision, device=device, runtime="torch")
        settle(device)
        with torch.device("meta"):
            tower = openclip.make_tower(config)
        self._state = dict(state)
        tower.load_state_dict(self._state, strict=True, assign=True)
        self._tower = tower.to(device, getattr(torch, DTYPES[effective])).eval().requires_grad_(requires_grad=False)
        self._config = config
        self._facts = {**origin, "device": device, "precision": effective}

    # -- texts

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, embed_dim) float32 embeddings of length 1, by open_clip's tokeniser and text tower.

        The text tower is loaded for this call. Raises RuntimeError after `restore`: runs keep no text tower.
        """
        import torch

        from uadctl.features.backbone import resolve_device

        if self._restored:
            raise RuntimeError(f"{self.model_name} comes from a run, which keeps no text tower")
        device = resolve_device(self.device)
        tokenizer = self._tokenizer()
        towers = self._towers().to(device).eval()
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), _TEXTS):
                numbers = tokenizer(list(texts[start : start + _TEXTS])).to(device)
                parts.append(towers.encode_text(numbers, normalize=True).float().cpu())
        return _finite(torch.cat(parts), self.model_name).numpy()

    def _tokenizer(self) -> Any:
        self._source()  # of a model that there is: of others open_clip asks the network
        open_clip = require("open_clip", "clip", needed_by=self._needed_by)
        text = open_clip.get_model_config(self.model_name)["text_cfg"]
        foreign = text.get("hf_model_name") or text.get("hf_tokenizer_name")
        if foreign:
            name = shown(self.model_name)
            raise SpecError(
                f"model_name (={name}): its texts are read by {foreign} of Hugging Face, which uadctl does not fetch",
                help="Use a model that reads them by itself, such as ViT-B-16, or vision_openclip_patchknn, which "
                "needs no texts.",
            )
        return open_clip.get_tokenizer(self.model_name)

    def _towers(self) -> Any:
        """open_clip's CLIP, both towers, on the CPU in float32."""
        import torch

        tensors, file, _ = self._checkpoint()
        open_clip = require("open_clip", "clip", needed_by=self._needed_by)
        whole = open_clip.get_model_config(self.model_name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            towers = open_clip.CLIP(
                whole["embed_dim"], whole["vision_cfg"], whole["text_cfg"], quick_gelu=self._wanted().quick_gelu
            )
        if tensors is not None:
            # Where towers were trained apart, those of the texts are called text.*.
            own = {key.removeprefix("text."): value for key, value in tensors.items()}
            wanted = {key: value for key, value in towers.state_dict().items() if not key.startswith("logit_")}
            state = _matching(own, wanted, prefix="", name=self.model_name, file=file)
            towers.load_state_dict(state, strict=False)
        return towers

    # -- images

    def embed(self, image: str | NDArray[np.uint8]) -> tuple[NDArray[np.float32], tuple[int, int], tuple[int, int]]:
        """The patches (P, D) of one image, their grid (h, w), P = h w, row by row, and the size (H, W) of the image.

        image: a path, or an (H, W, 3) RGB uint8 array. Raises DataError for a broken file, ValueError for other arrays.
        """
        (view,) = self.views([_pixels(image)])
        return view.patches, (view.grid.height, view.grid.width), (view.size.height, view.size.width)

    def embed_windows(
        self, image: str | NDArray[np.uint8], sides: Sequence[int]
    ) -> tuple[NDArray[np.float32], tuple[NDArray[np.float32], ...]]:
        """The embedding (D,) of one image, and for each side the (n, D) embeddings of its windows, see `windows_of`."""
        (view,) = self.views([_pixels(image)], windows=tuple(sides))
        if view.image is None:
            raise ValueError("sides must name at least one side of windows")
        return view.image, view.windows

    def views(self, images: Sequence[NDArray[np.uint8]], *, windows: tuple[int, ...] = ()) -> list[View]:
        """What is seen of (H, W, 3) RGB uint8 images of any size; those of one shape share a forward pass.

        windows: the sides, in patches, of the windows that are wanted.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.shape, []).append(i)
        out: dict[int, View] = {}
        for members in groups.values():
            for i, view in zip(members, self._see(np.stack([images[i] for i in members]), windows), strict=True):
                out[i] = view
        return [out[i] for i in range(len(images))]

    def _see(self, images: NDArray[np.uint8], sides: tuple[int, ...]) -> list[View]:
        import torch

        tower = self._loaded()
        config = self._config
        if config is None:
            raise RuntimeError(f"{self.model_name} is not loaded")
        device = self._facts["device"]
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()
            mean, std = (torch.tensor(v, device=device)[None, :, None, None] for v in (config.mean, config.std))
            start, grid = openclip.tokens(tower, (x - mean) / std)
            patches = self._cpu(openclip.layer_outputs(tower, start, (self.layer,))[self.layer])
            whole = self._cpu(openclip.pooled(tower, tower.transformer(start))) if sides else None
            windows = [self._cpu(_windows(tower, start, openclip.windows_of(grid, side))) for side in sides]
        size = Size(*images.shape[1:3])
        return [
            View(patches[i], grid, size, None if whole is None else whole[i], tuple(w[i] for w in windows))
            for i in range(len(images))
        ]

    def _cpu(self, tensor: torch.Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = _finite(tensor.float().cpu(), self.model_name).numpy()
        return array

    # -- keeping

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tensors of the image tower, as "visual.…", and what it is made of and where it is from."""
        self._loaded()
        if self._config is None:
            raise RuntimeError(f"{self.model_name} is not loaded")
        tensors = {f"visual.{key}": value.cpu().contiguous() for key, value in self._state.items()}
        return tensors, {**self._facts, "tower": self._config.to_json()}

    def restore(self, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Take over what `state` gave, among other tensors and facts; needs open_clip, and no file.

        Raises SpecError if this device has not the precision of then.
        """
        state = {k.removeprefix("visual."): v for k, v in tensors.items() if k.startswith("visual.")}
        origin = {key: value for key, value in facts.items() if key.startswith("weights")}
        try:
            self._build(TowerConfig.from_json(facts["tower"]), state, facts["precision"], origin)
        except SpecError as error:
            raise SpecError(
                f"the model was fitted with precision {facts['precision']} and cannot be used here: {error}",
                help='Use it on a device that has this precision, or fit it with precision = "fp32".',
            ) from error
        self._restored = True

    def facts(self) -> dict[str, Any]:
        """The model, its weights' origin and checksum, how it is computed."""
        self._loaded()
        return {"model_name": self.model_name, **self._facts}


def _pixels(image: str | NDArray[np.uint8]) -> NDArray[np.uint8]:
    from uadctl.imaging.files import read_image

    if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3):
        raise ValueError(
            f"an image must be a path or an (H, W, 3) RGB uint8 array, found shape {image.shape}, {image.dtype}"
        )
    return read_image(image)


def _windows(tower: Any, start: torch.Tensor, windows: NDArray[np.int64]) -> torch.Tensor:
    """(B, n, embed_dim): the tower sees, but for the class token, only the patches of one window at a time."""
    import torch

    chosen = np.concatenate([np.zeros((len(windows), 1), np.int64), 1 + windows], axis=1)
    parts = [
        openclip.pooled(tower, tower.transformer(row))
        for image in start
        for row in image[torch.from_numpy(chosen).to(start.device)].split(_SEQUENCES)
    ]
    return torch.cat(parts).reshape(len(start), len(windows), -1)


def _matching(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], *, prefix: str, name: str, file: str
) -> dict[str, torch.Tensor]:
    """Those tensors of a checkpoint that are wanted, in float32. WeightsError if one is absent or of another shape."""
    wrong = [
        k for k, v in wanted.items() if tensors.get(f"{prefix}{k}") is None or tensors[prefix + k].shape != v.shape
    ]
    if wrong:
        raise WeightsError(
            f"{file}: not a checkpoint of {name}: {len(wrong)} of {len(wanted)} tensors are absent or of another "
            f"shape, the first is {prefix}{min(wrong)}"
        )
    return {key: tensors[f"{prefix}{key}"].detach().float().contiguous() for key in wanted}


def _finite(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if not bool(tensor.isfinite().all()):
        raise ImageError(
            f"{name}: features contain NaN or infinity",
            help='In precision "fp16" numbers end at 65504: use "bf16" or "fp32".',
        )
    return tensor
