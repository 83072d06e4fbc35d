"""Networks of anomalib built and trained while no library fetches anything by itself.

Here stand all functions of other packages that fetch files, and the one way in which they are replaced: by what a
`Doors` says, else by a refusal; in one thread; and put back.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from uadctl.errors import WeightsError
from uadctl.models.anomalib.traces import import_anomalib
from uadctl.spec.optional import optional_import

# One thread at a time: what is replaced belongs to the whole process.
_LOCK = threading.RLock()

# What is called in place of a function, which it is given with its arguments.
Instead = Callable[..., Any]
# By these functions the packages that anomalib's models stand on fetch what is not on the machine.
_FETCHING = (
    "anomalib.data.utils.download:download_and_extract",
    "huggingface_hub:hf_hub_download",
    "huggingface_hub:snapshot_download",
    "torch.hub:download_url_to_file",
    "torch.hub:load",
    "torch.hub:load_state_dict_from_url",
    "urllib.request:urlretrieve",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where what models want comes from instead.

    refuse: in place of functions that fetch and that the others do not name.
    functions: by "module:name", replaced in every module that has imported them.
    attributes: by "module:name" or "module:Class.name", replaced there only, and only if that module was imported.
    """

    refuse: Instead
    functions: Mapping[str, Instead] = field(default_factory=dict)
    attributes: Mapping[str, Instead] = field(default_factory=dict)


@contextmanager
def guarded(doors: Doors) -> Iterator[None]:
    """While it lasts, this thread fetches nothing but through these doors; timm's own functions are back afterwards.

    Other threads go on as ever, but one that wants the same waits.
    """
    with _LOCK, ExitStack() as undo:
        import_anomalib()
        here = threading.get_ident()
        instead = {**dict.fromkeys(_FETCHING, doors.refuse), **doors.functions}
        to = {id(function): instead[name] for name in instead for function in _found(name)}
        replaced = {
            id(value): (value, _in_thread(here, value, to[id(_bare(value))]))
            for _, _, value in _globals()
            if id(_bare(value)) in to
        }
        # A module that imported a function by its name holds it itself; one imported meanwhile holds what replaced it.
        undo.callback(_rebind, {id(new): old for old, new in replaced.values()})
        _rebind({number: new for number, (_, new) in replaced.items()})
        for place, other in doors.attributes.items():
            owner, name = _owner(place)
            if owner is not None:
                old = getattr(owner, name)
                undo.callback(setattr, owner, name, old)
                setattr(owner, name, _in_thread(here, old, other))
        undo.enter_context(_stretching(_timms_own()))
        yield


@contextmanager
def without_downloads() -> Iterator[None]:
    """While it lasts, this thread builds networks with random weights, and whatever else would fetch a file fails.

    Networks of timm, torchvision and open_clip are built as if nobody had asked for pretrained weights. Other downloads
    (by torch.hub, the Hugging Face hub, urllib) raise WeightsError at once, and are not tried again.
    """
    with guarded(_NONE):
        yield


# -- what is replaced


def _found(place: str) -> Iterator[Any]:
    """The function at a place, if the package is there."""
    module, _, name = place.partition(":")
    found, _ = optional_import(module)
    if found is not None:
        yield _bare(getattr(found, name))


def _owner(place: str) -> tuple[Any, str]:
    """Module or class, and the name in it; None where the module was not imported."""
    module, _, path = place.partition(":")
    owner: Any = sys.modules.get(module)
    outer, _, name = path.rpartition(".")
    return (getattr(owner, outer) if outer and owner is not None else owner), name


def _in_thread(thread: int, function: Callable[..., Any], instead: Instead) -> Callable[..., Any]:
    """`instead` in this thread, `function` in all others."""

    @functools.wraps(function)
    def chosen(*args: Any, **given: Any) -> Any:
        if threading.get_ident() != thread:
            return function(*args, **given)
        return instead(function, *args, **given)

    return chosen


def _rebind(new: Mapping[int, Any]) -> None:
    """In every module, let the names of the objects with these identities mean others."""
    for module, name, value in _globals():
        if id(value) in new:
            setattr(module, name, new[id(value)])


def _globals() -> Iterator[tuple[Any, str, Any]]:
    for module in list(sys.modules.values()):
        yield from ((module, name, value) for name, value in list(getattr(module, "__dict__", {}).items()))


def _bare(value: Any) -> Any:
    # isinstance would ask objects for their class, and some answer that with a warning.
    return value.func if type(value) is functools.partial else value


# -- how vision transformers stretch their position embeddings

# anomalib changes this function of timm's for the whole process when it builds one. It holds the name; the last is its
# own, in the module that defines it.
_TRANSFORMERS, _STRETCH, _OWN = "timm.models.vision_transformer", "resample_abs_pos_embed", "timm.layers.pos_embed"


def stretch_in_use() -> Any:
    """What timm's vision transformers stretch their position embeddings with just now."""
    return getattr(importlib.import_module(_TRANSFORMERS), _STRETCH)


@contextmanager
def stretched_by(function: Any) -> Iterator[None]:
    """While it lasts, timm's vision transformers use a function that was once `stretch_in_use`, in this thread.

    Where that is what they use anyway, nothing happens; else no other thread builds, trains or does this meanwhile.
    """
    if stretch_in_use() is function:
        yield
        return
    with _LOCK:
        here, before = threading.get_ident(), stretch_in_use()
        with _stretching(_in_thread(here, before, lambda _, *args, **given: function(*args, **given))):
            yield


@contextmanager
def _stretching(function: Any) -> Iterator[None]:
    transformers = importlib.import_module(_TRANSFORMERS)
    before = getattr(transformers, _STRETCH)
    setattr(transformers, _STRETCH, function)
    try:
        yield
    finally:
        setattr(transformers, _STRETCH, before)


def _timms_own() -> Any:
    return getattr(importlib.import_module(_OWN), _STRETCH)


# -- no weights at all


class _NoWeights(dict[str, Any]):
    """In place of fetched weights: loading them leaves a network as it is."""


def _untrained_of_timm(create: Callable[..., Any], *args: Any, **given: Any) -> Any:
    if len(args) > 1:
        return create(args[0], False, *args[2:], **given)
    return create(*args, **{**given, "pretrained": False})


def _untrained_of_open_clip(create: Callable[..., Any], *args: Any, **given: Any) -> Any:
    if len(args) > 1:
        args = (args[0], None, *args[2:])
    else:
        given["pretrained"] = None
    # It warns that weights are random by logging.warning, which gives a root logger without handlers one for good.
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        return create(*args, **given)
    finally:
        logging.getLogger().removeHandler(silent)


def _load_if_any(load: Callable[..., Any], network: Any, state: Any, *args: Any, **given: Any) -> Any:
    return None if isinstance(state, _NoWeights) else load(network, state, *args, **given)


def _no_weights(function: Callable[..., Any], *args: Any, **given: Any) -> _NoWeights:
    del function, args, given
    return _NoWeights()


def _refuse(function: Callable[..., Any], *args: Any, **given: Any) -> NoReturn:
    del function
    wanted = (getattr(value, "url", value) for value in (*args, *given.values()))
    what = " ".join(value for value in wanted if isinstance(value, str))
    raise WeightsError(
        f"{what} would be fetched to build the network, and nothing is fetched to read a checkpoint",
        help="Export the model with anomalib as ONNX or OpenVINO, and give that file.",
    )


_NONE = Doors(
    refuse=_refuse,
    functions={
        "timm:create_model": _untrained_of_timm,
        "open_clip:create_model_and_transforms": _untrained_of_open_clip,
    },
    attributes={
        "torchvision.models:WeightsEnum.get_state_dict": _no_weights,
        "torch.nn:Module.load_state_dict": _load_if_any,
        # This module fetches a file of weights and reads it into the network by these names.
        "anomalib.models.image.anomalyvfm.torch_model:hf_hub_download": _no_weights,
        "anomalib.models.image.anomalyvfm.torch_model:load_file": _no_weights,
    },
)
