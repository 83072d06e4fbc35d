"""What a run is: the registry of what can be used, the grammar of specs, reading and writing them.

Nothing here imports a heavy package.
"""

from __future__ import annotations

from uadctl.spec.grammar import (
    CalibrationTable,
    DatasetTable,
    FilesTable,
    MetricsTable,
    ModelTable,
    PreprocessTable,
    RunSpec,
    RunTable,
)
from uadctl.spec.optional import optional_import, require
from uadctl.spec.reading import Overrides, Reading, read_spec
from uadctl.spec.registry import (
    BACKBONES,
    DATASETS,
    MODELS,
    BackboneEntry,
    DatasetEntry,
    ModelEntry,
    Weights,
    list_models,
    load_target,
    model_info,
    resolve_backbone,
    resolve_dataset,
    resolve_model,
)
from uadctl.spec.signature import (
    AUTO_PARAMS,
    ParamInfo,
    auto_kwargs,
    build_model_kwargs,
    check_checkpoint,
    constructor_kwargs,
    create_model,
    fill_params,
    get_model_signature_info,
    list_params,
    merge_checkpoint_path,
    parse_model_kwargs,
    validate_user_model_kwargs,
)
from uadctl.spec.writing import spec_hash, to_dict, to_toml

__all__ = [
    "RunSpec",
    "RunTable",
    "DatasetTable",
    "FilesTable",
    "PreprocessTable",
    "ModelTable",
    "CalibrationTable",
    "MetricsTable",
    "read_spec",
    "Reading",
    "Overrides",
    "to_toml",
    "to_dict",
    "spec_hash",
    "MODELS",
    "DATASETS",
    "BACKBONES",
    "ModelEntry",
    "DatasetEntry",
    "BackboneEntry",
    "Weights",
    "list_models",
    "model_info",
    "resolve_model",
    "resolve_dataset",
    "resolve_backbone",
    "load_target",
    "create_model",
    "ParamInfo",
    "list_params",
    "AUTO_PARAMS",
    "auto_kwargs",
    "constructor_kwargs",
    "fill_params",
    "check_checkpoint",
    "parse_model_kwargs",
    "merge_checkpoint_path",
    "get_model_signature_info",
    "validate_user_model_kwargs",
    "build_model_kwargs",
    "optional_import",
    "require",
]
