"""Models that only the tests of specs know: what a constructor can look like, without any backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from uadctl.spec.registry import ModelEntry

if TYPE_CHECKING:
    from nowhere import Embedder  # as in a real model: injected objects need not be importable


class Strict:
    """Takes TOML values only.

    ratio: share of the patches that
        are kept.
    """

    def __init__(
        self,
        *,
        ratio: float = 0.1,
        count: int = 9,
        layers: tuple[str, ...] | None = None,
        kernel: tuple[int, int] = (3, 3),
        backend: Literal["torch", "numpy"] = "torch",
        flag: bool = False,
        weights: str | None = None,
        limit: int | None = 5,
        pretrained: bool = True,
        contamination: float = 0.1,
        device: str = "auto",
        embedder: Embedder | None = None,
    ) -> None:
        self.given = dict(locals())
        del self.given["self"]


class Checkpoint:
    def __init__(self, *, checkpoint_path: str, device: str = "auto", contamination: float = 0.1) -> None:
        self.checkpoint_path = checkpoint_path


class Trainable:
    def __init__(
        self, *, checkpoint_path: str | None = None, width: int = 8, trainer: dict[str, object] | None = None
    ) -> None:
        self.checkpoint_path = checkpoint_path
        self.width = width
        self.trainer = trainer


class Wrapped:
    def __init__(self, n_jobs: int = 1, **kwargs: object) -> None:
        self.kwargs = {"n_jobs": n_jobs, **kwargs}


class Needy:
    def __init__(self, *, kind: str, device: str) -> None:
        self.kind = kind


ENTRIES = (
    ModelEntry(
        name="vision_strict",
        target=f"{__name__}:Strict",
        summary="strict",
        aliases=("strict",),
        tags=("test", "bank"),
        not_settable=("embedder",),
        path_params=("weights",),
    ),
    ModelEntry(
        name="vision_checkpoint",
        target=f"{__name__}:Checkpoint",
        summary="needs a file",
        tags=("test",),
        backend="anomalib",
        requires_checkpoint=True,
        anomalib_model="Stfpm",
        extra="anomalib",
        packages=("anomalib",),
        path_params=("checkpoint_path",),
    ),
    ModelEntry(
        name="vision_trainable",
        target=f"{__name__}:Trainable",
        summary="needs a file or training",
        tags=("test",),
        requires_checkpoint=True,
        trainable=True,
        path_params=("checkpoint_path",),
        not_settable=("trainer",),
    ),
    ModelEntry(name="vision_wrapped", target=f"{__name__}:Wrapped", summary="takes anything", tags=("test",)),
    ModelEntry(name="vision_needy", target=f"{__name__}:Needy", summary="has no defaults", tags=("test",)),
)
