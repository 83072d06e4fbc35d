"""What anomalib, Lightning and all that they import leave behind in a process, taken away again."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from uadctl.chatter import is_collected

_LOGGERS = (
    "anomalib",
    "fsspec",
    "huggingface_hub",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "pytorch_lightning",
    "timm",
    "torch",
)
# Harmless: what Lightning, torch and anomalib say of anomalib's own models.
_SAID = (
    r"`LightningModule\.configure_optimizers` returned `None`",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Argument embeddings is deprecated",
    r"You called `self\.log\(.*` but have no logger configured",
    r"Trying to infer the `batch_size` from an ambiguous collection",
    r"The transform `ToTensor\(\)` is deprecated",
    r"'pin_memory' argument is set as true but no accelerator is found",
    r"The image decoding and encoding capabilities of TorchVision are deprecated",
)


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """What anomalib and Lightning change of the process is put back, and what they say is not heard.

    Put back are the states of the random generators (Python's, numpy's, torch's), environment variables, signal
    handlers, levels of loggers, filters of warnings, cuDNN's benchmark mode and torch's number of threads.
    """
    import numpy as np
    import torch

    # What imports change is put back too.
    environment = dict(os.environ)
    chance = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the global one
    initialised = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if initialised else []
    cudnn, threads = torch.backends.cudnn.benchmark, torch.get_num_threads()
    handlers = _handlers()
    try:
        import_anomalib()
        from lightning.fabric.utilities.warnings import PossibleUserWarning

        with _silence(), warnings.catch_warnings():
            # Lightning's name for hints that need not be meant.
            warnings.simplefilter("ignore", PossibleUserWarning)
            for said in _SAID:
                warnings.filterwarnings("ignore", message=said)
            yield
    finally:
        _restore_handlers(handlers)
        _restore_environment(environment)
        random.setstate(chance[0])
        np.random.set_state(chance[1])  # noqa: NPY002
        torch.set_rng_state(chance[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        torch.backends.cudnn.benchmark = cudnn
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def import_anomalib() -> None:
    """Its modules set up loggers, and warn of outdated modules that they import of timm's and their own.

    Packages that they import set environment variables (TOKENIZERS_PARALLELISM, KMP_…), which programs that are started
    later would inherit: they are put back.
    """
    environment = dict(os.environ)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            for module in ("anomalib.data", "anomalib.engine", "anomalib.models"):
                importlib.import_module(module)
    finally:
        _restore_environment(environment)


def _restore_environment(environment: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


def _handlers() -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}  # only the main thread can change them
    return {number: signal.getsignal(number) for number in signal.valid_signals() if isinstance(number, signal.Signals)}


def _restore_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The loggers of anomalib and what it stands on say nothing, where nobody collects what they say."""
    if is_collected():
        yield
        return
    names = [
        name
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LOGGERS
    ]
    loggers = [logging.getLogger(name) for name in sorted({*_LOGGERS, *names})]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
