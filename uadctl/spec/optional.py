"""Packages that may be absent: found without raising, or asked for with the command that installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from uadctl.errors import BackendMissing


def optional_import(name: str) -> tuple[ModuleType | None, Exception | None]:
    """Import the module `name` if that is possible.

    Returns (module, None), or (None, what went wrong). Never raises: a package that is installed but
    broken counts as absent, and its error says why.
    """
    try:
        return importlib.import_module(name), None
    except Exception as error:  # noqa: BLE001 - an import runs foreign code, which may raise anything
        return None, error


def require(name: str, extra: str, *, needed_by: str | None = None) -> ModuleType:
    """Import the module `name`, which the extra `extra` of uadctl installs.

    needed_by: what cannot work without it (a model's name), said in the message.

    Raises BackendMissing (an ImportError) with the pip command; the original error is its cause.
    """
    module, error = optional_import(name)
    if module is not None:
        return module
    command = f"Install it with: pip install 'uadctl[{extra}]'"
    subject = f"{needed_by} needs {name}, which" if needed_by else name
    absent = isinstance(error, ModuleNotFoundError) and error.name is not None and name.split(".")[0] == error.name
    if absent:
        message = f"{subject} is not installed. {command}"
    else:
        message = f"{subject} is installed but cannot be imported ({type(error).__name__}: {error}). {command}"
    raise BackendMissing(message) from error
