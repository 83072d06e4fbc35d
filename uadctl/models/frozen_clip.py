"""What a detector of OpenCLIP looks through: open_clip's towers, or an embedder that its caller brings.

Detectors hold one; none inherits from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from uadctl.models import base
from uadctl.records import Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.features.backbone import Precision
    from uadctl.features.openclip_embedder import View
    from uadctl.spec.registry import BackboneEntry

_AUTO_BATCH = 16


class Embedder(Protocol):
    """What a caller may bring in place of open_clip."""

    def embed(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], tuple[int, int], tuple[int, int]]:
        """The patches (P, D) of an (H, W, 3) RGB uint8 image, their grid (h, w), row by row, and (H, W)."""
        ...


class WindowEmbedder(Embedder, Protocol):
    """One that sees windows too."""

    def embed_windows(
        self, image: NDArray[np.uint8], sides: Sequence[int]
    ) -> tuple[NDArray[np.float32], tuple[NDArray[np.float32], ...]]:
        """The embedding (D,) of the image, and of its windows of each side, see `windows_of`."""
        ...


def wrong_clip(
    *, pretrained: str | bool, batch_size: int | str, layer: str = "patches", embedder: object = None
) -> list[str]:
    """What is wrong with these parameters of a detector, as its constructor says it."""
    checks = (
        (pretrained != "", 'pretrained (="") must name weights of open_clip or a checkpoint file, or be true or false'),
        (
            batch_size == "auto" or (isinstance(batch_size, int) and batch_size >= 1),
            f'batch_size (={batch_size!r}) must be at least 1, or "auto"',
        ),
        (
            re.fullmatch(r"norm|patches|blocks\.\d+", layer) is not None,
            f'layer (={layer!r}) must be "norm", "patches" or "blocks.i"',
        ),
        (
            embedder is None or callable(getattr(embedder, "embed", None)),
            "embedder must have a method embed(image) -> (patches, grid, size)",
        ),
    )
    return [message for holds, message in checks if not holds]


class FrozenCLIP:
    """The eyes of a detector, which learn nothing.

    The arguments are the parameters of the same names of the detectors; `wrong_clip` has found nothing wrong with them.
    embedder: what sees, in place of open_clip. layer: of the patches. name: of the detector, for messages.
    """

    def __init__(
        self,
        *,
        name: str,
        model_name: str,
        pretrained: str | bool,
        weights: str | None,
        device: str,
        seed: int,
        precision: Precision,
        batch_size: int | Literal["auto"],
        layer: str = "patches",
        embedder: Embedder | None = None,
    ) -> None:
        from uadctl.features.openclip_embedder import OpenCLIPEmbedder

        self.own = OpenCLIPEmbedder(
            model_name,
            pretrained,
            weights=weights,
            device=device,
            seed=seed,
            precision=precision,
            layer=layer,
            needed_by=name,
        )
        self.brought = embedder
        self.images_per_batch = _AUTO_BATCH if batch_size == "auto" else batch_size

    @property
    def entry(self) -> BackboneEntry | None:
        """The image tower and its weights; None where the caller's embedder sees. BackendMissing without open_clip."""
        return self.own.entry if self.brought is None else None

    @property
    def stride(self) -> int:
        """Side of a patch in pixels; 1 where that is not known."""
        return self.own.stride if self.brought is None else 1

    def weights_state(self) -> str:
        """Where the weights would come from; "none" where the caller's embedder sees."""
        return self.own.weights_state() if self.brought is None else "none"

    def doubts(self) -> list[str]:
        """That a file of weights was named and is not read, a sentence."""
        if self.brought is not None or self.own.weights is None or self.own.pretrained is not False:
            return []
        return [f"weights = {self.own.weights}: the file is not read, since pretrained = false asks for random weights"]

    def prepare(self, *, download: bool, words: bool = False) -> None:
        """Have everything ready that the first image needs. words: and the texts. See `OpenCLIPEmbedder.prepare`."""
        if self.brought is None:
            self.own.prepare(download=download, words=words)

    @property
    def device(self) -> str:
        """Where neighbours are best looked for: where open_clip's tower is; the processor beside another embedder."""
        return str(self.own.facts()["device"]) if self.brought is None else "cpu"

    def batches(self, images: Iterable[base.Image]) -> Iterator[list[NDArray[np.uint8]]]:
        """Decoded images in batches."""
        return base.batches(images, self.images_per_batch)

    def views(self, images: Sequence[NDArray[np.uint8]], *, windows: tuple[int, ...] = ()) -> list[View]:
        """What is seen of each (H, W, 3) RGB uint8 image.

        windows: sides of the windows that are wanted. Raises ValueError where a caller's embedder contradicts itself.
        """
        if self.brought is None:
            return self.own.views(images, windows=windows)
        return [_brought_view(self.brought, image, windows) for image in images]

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) embeddings of length 1, by open_clip's text tower."""
        return self.own.text_features(texts)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The image tower, what it is and where it is from; nothing of an embedder that a caller has brought."""
        return self.own.state() if self.brought is None else ({}, {"weights": "none"})

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> None:
        """Take over what `state` gave, among other tensors and facts; an embedder must have been brought again."""
        if self.brought is None:
            self.own.restore(tensors, facts)

    def facts(self) -> dict[str, Any]:
        """The model, its weights' origin and checksum, how it is computed."""
        own = self.own.facts() if self.brought is None else {"weights": "none"}
        return {**own, "batch_size": self.images_per_batch}


def _brought_view(embedder: Any, image: NDArray[np.uint8], windows: tuple[int, ...]) -> View:
    import numpy as np

    patches, grid, size = embedder.embed(image)
    patches, grid = np.asarray(patches, dtype=np.float32), Size(*grid)
    if patches.ndim != 2 or len(patches) != grid.height * grid.width:
        raise ValueError(f"the embedder gives patches of shape {patches.shape} for a grid of {grid}")
    if tuple(size) != image.shape[:2]:
        raise ValueError(f"the embedder gives {Size(*size)} as the size of an image of {Size(*image.shape[:2])}")
    from uadctl.features.openclip_embedder import View

    if not windows:
        return View(patches, grid, Size(*size))
    whole, parts = embedder.embed_windows(image, windows)
    return View(
        patches,
        grid,
        Size(*size),
        np.asarray(whole, dtype=np.float32),
        tuple(np.asarray(part, dtype=np.float32) for part in parts),
    )
