"""Backbones of timm (Wightman, PyTorch Image Models), described when they are asked for by "timm:NAME".

Whatever timm can take intermediate features of can be used: its convolutional networks with their stages as layers, its
vision transformers with their blocks, and with "norm", the last block after the final layer norm. timm builds the
network and names its tensors; its weights come from where all weights come from, never by timm's own download.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uadctl.errors import SpecError
from uadctl.features.network import Trunk
from uadctl.spec.optional import require
from uadctl.spec.registry import BackboneEntry, Weights

if TYPE_CHECKING:
    import torch

_PREFIX = "timm:"
# The layer after the final norm of a transformer whose blocks all have the same size.
_NORM = "norm"
# Constructors that take one of these make networks for images of any size.
_ANY_SIZE: dict[str, Any] = {"dynamic_img_size": True, "strict_img_size": False}
# What the trunk calls the network that it cuts.
_BODY = "body."
_PUBLISHED = re.compile(r"-([0-9a-f]{8,64})\.pth$")


def describe(name: str) -> BackboneEntry | None:
    """The timm model `name` ("resnet18" or, with the tag of its weights, "resnet18.a1_in1k"); None if there is none.

    Builds it without tensors. Raises BackendMissing without timm, SpecError for a model without intermediate features.
    """
    require("timm", "timm", needed_by=f"{_PREFIX}{name}")
    found = _configuration(name)
    if found is None:
        return None
    full, configuration = found
    network = _empty(full)
    stages = network.feature_info
    channels = {stage["module"]: int(stage["num_chs"]) for stage in stages}
    strides = {stage["module"]: int(stage["reduction"]) for stage in stages}
    last_at = {stride: layer for layer, stride in strides.items()}
    layers = tuple(last_at[stride] for stride in (8, 16) if stride in last_at)
    if _is_transformer(network):
        last = next(reversed(channels))
        layers = (last,)
        if _has_norm(network):
            channels[_NORM], strides[_NORM] = channels[last], strides[last]
            layers = (_NORM,)
    return BackboneEntry(
        name=f"{_PREFIX}{full}",
        target="uadctl.features.timm_models:build",
        summary=f"timm's {full}.",
        layers=layers or (next(reversed(channels)),),
        channels=channels,
        strides=strides,
        weights=_weights(full, configuration),
        mean=_three(configuration.mean),
        std=_three(configuration.std),
        paper=configuration.paper_name or configuration.paper_ids or "Wightman, PyTorch Image Models, 2019",
    )


def build(name: str, layers: tuple[str, ...]) -> Trunk:
    """The network `name` ("timm:…"), cut after the last of `layers` (those of its entry, in their order)."""
    full = name.removeprefix(_PREFIX)

    def make() -> torch.nn.Module:
        return _cut(full, layers)

    def converted(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        network = _empty(full)
        names = sys.modules[type(network).__module__]
        # How timm reads files of the network's authors, and its own of former versions.
        read = getattr(names, "checkpoint_filter_fn", None)
        return convert(state if read is None else read(dict(state), network))

    return Trunk(make, convert=converted)


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of timm's whole network in the trunk's names; tensors of what was cut off are left over."""
    return {f"{_BODY}{key}": value for key, value in state.items()}


def draw(name: str, architecture: Trunk) -> dict[str, torch.Tensor]:
    """Random tensors for `architecture` from torch's global generator, as timm's own start of training."""
    return dict(architecture.make().state_dict())


@functools.cache
def _configuration(name: str) -> tuple[str, Any] | None:
    """The full name of a model, with the tag of its weights, and what timm knows of these."""
    from timm.models import get_pretrained_cfg, is_model

    if ":" in name or "/" in name or not is_model(name):
        return None  # timm would look for such names elsewhere
    try:
        configuration = get_pretrained_cfg(name)
    except RuntimeError:  # no such tag
        return None
    if configuration is None:
        return None
    architecture = name.partition(".")[0]
    return (f"{architecture}.{configuration.tag}" if configuration.tag else architecture), configuration


def _create(full: str) -> Any:
    """The whole network without classifier, for images of any size if it can be, on torch's default device."""
    import timm

    return timm.create_model(full, pretrained=False, num_classes=0, **_options(full))


@functools.cache
def _options(full: str) -> dict[str, Any]:
    import timm
    import torch

    with torch.device("meta"):
        taken = inspect.signature(type(timm.create_model(full, pretrained=False)).__init__).parameters
    return {key: value for key, value in _ANY_SIZE.items() if key in taken}


@functools.cache
def _empty(full: str) -> Any:
    """The whole network without tensors. Only looked at. Raises SpecError without intermediate features."""
    import torch

    with torch.device("meta"):
        network = _create(full)
    if not (hasattr(network, "forward_intermediates") and hasattr(network, "prune_intermediate_layers")):
        raise SpecError(f"{_PREFIX}{full}: timm takes no intermediate features of this model")
    return network


def _is_transformer(network: Any) -> bool:
    """Whether its layers are blocks on one grid of patches."""
    stages = network.feature_info
    return hasattr(network, "patch_embed") and len(stages) > 1 and len({stage["reduction"] for stage in stages}) == 1


def _has_norm(network: Any) -> bool:
    from torch import nn

    return not isinstance(getattr(network, "norm", nn.Identity()), nn.Identity)


def _cut(full: str, layers: tuple[str, ...]) -> torch.nn.Module:
    from torch import nn
    from torch.nn import functional

    names = [stage["module"] for stage in _empty(full).feature_info]
    # Which of timm's intermediates each layer is, or comes from.
    places = [len(names) - 1 if layer == _NORM else names.index(layer) for layer in layers]
    # The sides of the patches that the image is cut into, 1 where it is not.
    patch = _empty(full).feature_info[0]["reduction"] if hasattr(_empty(full), "patch_embed") else 1

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _create(full)
            self.body.prune_intermediate_layers(sorted(set(places)), prune_norm=_NORM not in layers, prune_head=True)

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            size = [max(1, round(side / patch)) * patch for side in images.shape[-2:]]
            if size != list(images.shape[-2:]):
                # A transformer takes whole patches only. Resized, they cover the image as a map is stretched over it.
                images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
            maps = self._maps(images)
            return [
                self._normed(maps[place]) if layer == _NORM else maps[place]
                for layer, place in zip(layers, places, strict=True)
            ]

        def _maps(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
            wanted = sorted(set(places))
            try:
                found = self.body.forward_intermediates(
                    images, indices=wanted, output_fmt="NCHW", stop_early=True, intermediates_only=True
                )
            except (AssertionError, RuntimeError) as error:
                # How timm says that windows or position codes do not fit; whatever else fails is not about the size.
                if not isinstance(error, AssertionError) and "The size of tensor" not in str(error):
                    raise
                height, width = images.shape[-2:]
                raise SpecError(
                    f"{_PREFIX}{full} takes no images of {height}x{width} (height x width): {error}",
                    help="Choose another size with [preprocess], or a network for images of any size.",
                ) from error
            return dict(zip(wanted, found, strict=True))

        def _normed(self, x: torch.Tensor) -> torch.Tensor:
            """The final norm of a transformer, which it applies to each patch by itself."""
            normed: torch.Tensor = self.body.norm(x.permute(0, 2, 3, 1))
            return normed.permute(0, 3, 1, 2)

    return Cut()


def _weights(full: str, configuration: Any) -> Weights:
    """The file on the Hugging Face hub, else that of the network's authors, else none to be fetched."""
    url = configuration.url or None
    if configuration.hf_hub_id:
        file = configuration.hf_hub_filename or "model.safetensors"
        url = f"https://huggingface.co/{configuration.hf_hub_id}/resolve/main/{file}"
    checksum = _PUBLISHED.search(url or "")
    suffix = ".safetensors" if url is None or url.endswith(".safetensors") else ".pth"
    return Weights(
        file=f"timm-{full}{suffix}",
        sha256=checksum[1] if checksum else "",
        licence=configuration.license or "not stated by timm",
        url=url,
    )


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    """timm's mean or deviation of pixels in 0..1, for pixels in 0..255 of three channels."""
    red, green, blue = (255 * value for value in values)
    return red, green, blue
