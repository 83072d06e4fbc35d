"""Whether a run that is repeated writes the same bytes, and if not, why: what run.json says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from uadctl.room import FEWER
from uadctl.spec.registry import MODELS, resolve_model
from uadctl.spec.signature import constructor_kwargs

if TYPE_CHECKING:
    from uadctl.spec import ModelTable, RunSpec

# More machines are not named one by one.
_HOSTS = 5


def determinism(
    spec: RunSpec,
    models: Mapping[str, Mapping[str, Mapping[str, Any]]],
    warnings: Sequence[str],
    engines: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What run.json says of it: "same_bytes", and "exceptions", a sentence each.

    Of `metrics.json`, `scores.csv`, maps and models, on the same machine with the same packages: the spec holds the
    seed and the number of threads, which last bits depend on.

    models: by label and category the facts of the detectors that were fitted. warnings: what the user was told.
    engines: where units were worked on, as `Engine.facts`.
    """
    found = []
    hosts = sorted({str(host) for engine in engines for host in engine.get("nodes", ())})
    if len(hosts) > 1:
        told = f"{', '.join(hosts[:_HOSTS])}{f' and {len(hosts) - _HOSTS} more' if len(hosts) > _HOSTS else ''}"
        found.append(
            f"computed on {len(hosts)} machines ({told}), whose processors may round the last bits differently"
        )
    for label, by_category in models.items():
        model = next((m for m in spec.models if m.label == label or label.startswith(f"{m.label} ")), None)
        for facts in by_category.values():
            found += [f"{label}: {why}" for why in _of_model(spec, model, facts)]
    found += [
        f"{warning.partition(': ')[0]}: memory ran out, which depends on what else it held; the last bits of an image "
        "may depend on how many are computed beside it"
        for warning in warnings
        if FEWER in warning
    ]
    exceptions = list(dict.fromkeys(found))
    return {"same_bytes": not exceptions, "exceptions": exceptions}


def _of_model(spec: RunSpec, model: ModelTable | None, facts: Mapping[str, Any]) -> Iterator[str]:
    device = str(facts.get("device", "cpu")).partition(":")[0]
    if device == "cuda":
        yield "computed on cuda, where not every operation of torch adds its numbers in a fixed order"
    elif device != "cpu":
        yield f"computed on {device}, where nothing makes sure that numbers are added in a fixed order"
    library = _other_library(facts)
    if library is not None:
        yield f"computed by {library}, which does not promise equal bits"
    if model is None:
        return
    if resolve_model(model.name).name not in MODELS:
        yield "the detector is a plug-in's, of which uadctl does not know whether it repeats itself"
        return
    params = constructor_kwargs(spec.run, model)
    # Others mean a fixed number by "auto"; the network of PyOD's features is not used by every kind of them.
    if params.get("batch_size") == "auto" and "runtime" in facts:
        yield 'batch_size = "auto" is measured, and the last bits of an image may depend on how many are beside it'
    if params.get("knn_backend") == "faiss" and spec.run.threads > 1:
        yield "neighbours are found by faiss, which with several threads does not promise equal bits"
    if model.trainer is not None:
        yield "trained by anomalib, whose libraries do not promise equal bits, though they are given the seed"


def _other_library(facts: Mapping[str, Any]) -> str | None:
    """The library that computes the network, where it is not torch."""
    if facts.get("runtime") == "openvino":
        return "OpenVINO"
    named = str(facts.get("computed_by", "uadctl")).partition(" ")[0]
    return None if named in ("uadctl", "anomalib") else str(facts["computed_by"])
