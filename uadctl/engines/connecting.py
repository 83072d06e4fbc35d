"""To a Ray cluster and away from it: one that runs, or one that is started for a while on this machine alone."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from uadctl.abrupt import at_abrupt_end
from uadctl.errors import RunError
from uadctl.spec.grammar import usable_cores
from uadctl.spec.optional import require

# A connection to the head takes milliseconds; one to a host that is gone must not stop the others' results.
PROBE_S = 2.0
_START = "Start one with `ray start --head`, or take `--address local`: one is started for this run, on this machine."

_Signals: TypeAlias = dict[signal.Signals, "Callable[[int, FrameType | None], Any] | int | None"]


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def answers(address: str) -> bool:
    """Whether anything listens at HOST:PORT."""
    found = urlsplit(f"//{address}")
    try:
        with socket.create_connection((found.hostname or "", found.port or 0), timeout=PROBE_S):
            return True
    except (OSError, ValueError):
        return False


def import_ray() -> Any:
    """The package. BackendMissing without it."""
    return require("ray", "ray", needed_by='engine = "ray"')


@contextlib.contextmanager
def connected(address: str | None, workers: int | None, cpus: float) -> Iterator[bool]:
    """A connection to the cluster, and the cluster itself if it is a local one. Gives whether it is Ray Client's."""
    ray = import_ray()
    if ray.is_initialized():
        yield _is_client(ray)
        return
    wanted = os.environ.get("RAY_ADDRESS") or None if address in (None, "auto") else address
    with contextlib.ExitStack() as until_the_end:
        until_the_end.enter_context(_silent(ray))
        if wanted == "local":
            folder = until_the_end.enter_context(_session_folder())
            until_the_end.enter_context(_loopback())
            until_the_end.enter_context(_own_token())
            # The user's own machine: so many workers were asked for, and may share its cores as other processes do.
            cores = max(usable_cores(), -(-int((workers or 1) * cpus * 1000) // 1000))
            options: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "_temp_dir": folder}
        else:
            options = {}
            if _only_on_loopback(wanted or "auto"):
                until_the_end.enter_context(_loopback())
        with _signals_kept():
            _start(ray, wanted or "auto", options)
        until_the_end.callback(_shut_down, ray)
        if wanted == "local":
            _check_loopback(ray)
        yield _is_client(ray)


def _is_client(ray: Any) -> bool:
    """Whether the connection is one of Ray Client, to a cluster that this machine is no node of."""
    return bool(ray.util.client.ray.is_connected())


def _only_on_loopback(address: str) -> bool:
    """Whether a cluster answers at 127.0.0.1, and not at this machine's other address, in whose place Ray puts it.

    Raises RunError where none answers: Ray tries for minutes.
    """
    if address.startswith("ray://"):
        require("grpc", "ray", needed_by=f"the address {address}")
        if not answers(address.removeprefix("ray://")):
            raise RunError(f"no Ray cluster answers at {address}", help=_START)
        return False
    from ray._private.services import canonicalize_bootstrap_address

    try:
        there = canonicalize_bootstrap_address(address)
        if answers(there or ""):
            return False
        with _loopback():
            if answers(canonicalize_bootstrap_address(address) or ""):
                return True
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RunError(f"no Ray cluster is running on this machine ({first_line(error)})", help=_START) from error
    raise RunError(f"no Ray cluster answers at {there if address == 'auto' else address}", help=_START)


def _start(ray: Any, address: str, options: dict[str, Any]) -> None:
    if not address.startswith("ray://"):
        options["_skip_env_hook"] = address == "local"  # `uv run` would have the working directory copied for workers
    try:
        ray.init(
            address=address, log_to_driver=False, configure_logging=False, logging_level=logging.CRITICAL, **options
        )
    except Exception as error:
        if address == "local":
            raise RunError(f"no Ray cluster can be started on this machine: {first_line(error)}") from error
        raise RunError(
            f"cannot connect to the Ray cluster at {address}: {first_line(error)}",
            help="HOST:PORT needs this machine to be a node of the cluster (`ray start --address=HOST:PORT`), and "
            "ray://HOST:10001 does not; Ray and Python must be of the same versions here and there; and if the cluster "
            "asks for a token, RAY_AUTH_MODE=token must be set here too.",
        ) from error


def _shut_down(ray: Any) -> None:
    """Disconnect, and end what was started. Ray waits for a head that is gone; then this does not."""
    ending = threading.Thread(target=ray.shutdown, name="ray shutdown", daemon=True)
    ending.start()
    ending.join(timeout=20.0)


def _check_loopback(ray: Any) -> None:
    found = {str(node["NodeManagerAddress"]) for node in ray.nodes()}
    if not all(address.startswith("127.") or address == "::1" for address in found):
        raise RunError(
            f"ray listens at {', '.join(sorted(found))}, and not on this machine alone",
            help="Start a cluster yourself, behind a firewall (`ray start --head`), and take `--address auto`.",
        )


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """A cluster that is started within listens on 127.0.0.1 only, and one that does can be connected to.

    Ray replaces the loopback address by one that others can reach, on Linux; on Windows and macOS it takes it, unless
    this variable says otherwise. It is read when ray is imported.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    with _environment({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _own_token() -> Iterator[None]:
    """A local cluster asks for a token, so that other users of this machine cannot run code in it.

    Without one, Ray would make one in the user's home, where it changes what `ray start` does from then on. What Ray
    remembers of it is forgotten at the end: clusters without a token would be closed to this process.
    """
    with _environment({} if _has_token() else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        _forget_token()
        yield
    _forget_token()


def _forget_token() -> None:
    """Have Ray look anew whether there is a token, and which."""
    with contextlib.suppress(Exception):  # no public name does it, and an older Ray has no tokens
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _has_token() -> bool:
    """Whether Ray finds a token of the user's, in the places that its documentation names."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or Path.home().joinpath(".ray", "auth_token").exists()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """With these set. RAY_AUTH_MODE, which `ray.init` sets for a local cluster, is put back as well."""
    names = (*variables, "RAY_AUTH_MODE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _session_folder() -> Iterator[str | None]:
    """Where a local cluster keeps its sockets and logs; Ray's own place, where paths of sockets would be too long."""
    if len(tempfile.gettempdir()) > 25:
        yield None
        return
    folder = tempfile.mkdtemp(prefix="uadctl-ray-")

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    try:
        with at_abrupt_end(remove):  # it takes Ray longer to end than an interrupted program has
            yield folder
    finally:
        remove()


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, in Python and below it, and would print a trace of C++ when one comes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: _Signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@contextlib.contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """What Ray logs and prints stays out of the program's output: losses are told by ourselves, in our words.

    It prints what its own processes report (a node's end, a worker's) to stdout, whatever the level of its logger.
    """
    logger = logging.getLogger("ray")
    level = logger.level
    printing = getattr(ray._private.worker, "print_to_stdstream", None)
    logger.setLevel(logging.CRITICAL + 1)
    if printing is not None:
        ray._private.worker.print_to_stdstream = _say_nothing
    try:
        yield
    finally:
        logger.setLevel(level)
        if printing is not None:
            ray._private.worker.print_to_stdstream = printing


def _say_nothing(*said: object, **options: object) -> None:
    """In place of what prints."""
