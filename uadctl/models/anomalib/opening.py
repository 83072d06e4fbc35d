"""From a file, a training, or a run's model to something that can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uadctl.errors import DataError, SpecError
from uadctl.models.anomalib.checkpoint import Checkpoint, format_of, read_checkpoint
from uadctl.spec.wrapped import anomalib_model

if TYPE_CHECKING:
    from uadctl.models.anomalib.predictor import Predictor

# The kind that the facts of an exported file's predictor state; a checkpoint's is "checkpoint".
_EXPORTED = "exported"


def open_file(path: str | Path, *, model: str | None, trusted: bool, device: str) -> Predictor:
    """The model in a file of anomalib.

    model: the one that must be in it, by its name in anomalib; None: any. ONNX and OpenVINO files do not say which they
        have.
    Raises DataError, WeightsError for a file that must be trusted, BackendMissing, SpecError where another model is in
    it, or one that uadctl does not offer.
    """
    if format_of(path) in ("onnx", "openvino"):
        from uadctl.models.anomalib.exported import open_exported

        return open_exported(path, device=device)
    checkpoint = read_checkpoint(path, trusted=trusted)
    if model is not None and checkpoint.model != model:
        raise SpecError(
            f"{path}: a checkpoint of anomalib's {checkpoint.model}, and vision_{model}_anomalib wants one of {model}",
            help=f"Use the model vision_{checkpoint.model}_anomalib, or vision_anomalib_checkpoint.",
        )
    reason = anomalib_model(checkpoint.model).reason
    if reason is not None:
        raise SpecError(f"{path}: a checkpoint of anomalib's {checkpoint.model}, which is not offered: {reason}")
    try:
        return open_checkpoint(checkpoint, device=device)
    except DataError as error:  # who opens a model as data knows of no file
        raise DataError(f"{path}: {error.message}", help=error.help) from error


def open_checkpoint(checkpoint: Checkpoint, *, device: str) -> Predictor:
    """A model as data, run on uadctl's own code where that can be, else on anomalib's."""
    from uadctl.models.anomalib import module, native

    if native.reads(checkpoint):
        return native.open_native(checkpoint, device=device)
    return module.open_module(checkpoint, device=device)


def restore(tensors: Mapping[str, Any], facts: Mapping[str, Any], *, device: str) -> Predictor:
    """Again what `state` of a predictor gave."""
    if facts["kind"] == _EXPORTED:
        from uadctl.models.anomalib.exported import restore_exported

        return restore_exported(tensors, facts, device=device)
    return open_checkpoint(Checkpoint.from_state(tensors, facts), device=device)
