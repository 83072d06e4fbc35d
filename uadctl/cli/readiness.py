"""`uadctl models list --check`: whether this machine can run a model, and what is missing if it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uadctl.errors import BackendMissing, SpecError, UadctlError
from uadctl.features.weights import offline
from uadctl.models.base import NamesWeights
from uadctl.spec.optional import optional_import
from uadctl.spec.plugins import find_plugins
from uadctl.spec.registry import MODELS, BackboneEntry, ModelEntry
from uadctl.spec.signature import CHECKPOINT, ParamInfo, create_model, list_params
from uadctl.spec.wrapped import anomalib_models

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Readiness:
    """weights: where those of the default parameters would come from, or None where that cannot be said.

    needs: what has to be done first, a line each; the model is ready where there is nothing.
    """

    weights: str | None
    needs: tuple[str, ...]

    @property
    def ready(self) -> bool:
        return not self.needs


def readiness(entry: ModelEntry) -> Readiness:
    """What a model with its default parameters needs on this machine before it can be run.

    One that uadctl trains needs no checkpoint, where the packages for that are there.
    """
    if not entry.offered:
        return Readiness(None, (f"not offered: {entry.reason}",))
    missing = [_missing(package, entry.extra) for package in entry.packages]
    needs = tuple(dict.fromkeys(text for text in missing if text))
    if entry.requires_checkpoint and (not needs or reads_without_packages(entry)):
        if entry.trainable and not needs:
            return Readiness(None, ())
        training = f"; to train it: {', '.join(needs)}" if entry.trainable else ""
        return Readiness(None, (f"a checkpoint: --checkpoint-path FILE, or [model.params] {CHECKPOINT}{training}",))
    if needs:
        return Readiness(None, needs)
    try:
        if required := [param.name for param in list_params(entry.name) if param.required]:
            return Readiness(None, (f"[model.params] {', '.join(required)}",))
        detector = create_model(entry.name)
        state: str = detector.weights_state()
        return Readiness(state, _fetching(network_of(detector)) if state == "network" else ())
    except BackendMissing as error:
        return Readiness(None, (error.message,))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in's code; the others are to be listed
        return Readiness(None, (f"it cannot be built: {type(error).__name__}: {error}",))


def reads_without_packages(entry: ModelEntry) -> bool:
    """Whether a checkpoint is all that it takes: uadctl reads those of some of anomalib's models itself."""
    if entry.backend != "anomalib":
        return False
    native = {model.name for model in anomalib_models() if model.native}
    return entry.anomalib_model is None or entry.anomalib_model in native


def network_of(detector: object) -> BackboneEntry | None:
    """The network whose weights a detector wants; None if it uses none, or does not say. Raises BackendMissing."""
    return detector.weights_entry() if isinstance(detector, NamesWeights) else None


def default_detector(entry: ModelEntry) -> Any:
    """A model with its default parameters. SpecError for one of a plug-in that cannot be built."""
    return _of_a_plugin(entry, lambda: create_model(entry.name), "built")


def params_of(entry: ModelEntry) -> list[ParamInfo]:
    """A model's parameters. SpecError for one of a plug-in that cannot be imported."""
    params: list[ParamInfo] = _of_a_plugin(entry, lambda: list_params(entry.name), "imported")
    return params


def _of_a_plugin(entry: ModelEntry, make: Callable[[], Any], done: str) -> Any:
    """What `make` gives; what a plug-in's code raises there, anything at all, is said as its own fault."""
    if MODELS.get(entry.name) is entry:
        return make()
    try:
        return make()
    except UadctlError:
        raise
    except (Exception, SystemExit) as error:
        where = find_plugins().sources.get(entry.name, "a plug-in")
        raise SpecError(
            f"{entry.name}, of {where}: {entry.target} cannot be {done}: {type(error).__name__}: {error}"
        ) from error


def device_here() -> str:
    """The device that "auto" means on this machine."""
    from uadctl.features.backbone import resolve_device

    return resolve_device("auto")


def _missing(package: str, extra: str | None) -> str | None:
    _, error = optional_import(package)
    if error is None:
        return None
    how = f"pip install 'uadctl[{extra}]'" if extra else f"pip install {package}"
    return how if isinstance(error, ModuleNotFoundError) else f"{package} is broken ({error}): {how}"


def _fetching(backbone: BackboneEntry | None) -> tuple[str, ...]:
    if backbone is None:
        return ("weights, which are not on this machine",)
    note = " (UADCTL_OFFLINE is set)" if offline() else ""
    return (f"weights: uadctl models fetch {backbone.name} --to DIR{note}",)
