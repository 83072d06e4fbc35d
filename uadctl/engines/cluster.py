"""Units in the processes of a Ray cluster: actors that hold the opened job.

Ray places the actors and says when one has ended; that a unit is begun again, and how often, is decided here, as with
every engine. Actors, not Ray Data: what is handed out is few and long, and its order and its losses are our own matter.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import pickle
import platform
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from uadctl import __version__
from uadctl.engines.base import Job, Outcome, R, U, Unit
from uadctl.engines.carrying import Answer, Failure
from uadctl.engines.connecting import PROBE_S, answers, connected, first_line, import_ray
from uadctl.engines.scheduling import Done, Event, Lost, Opened, Refused, Said, schedule
from uadctl.errors import RunError
from uadctl.progress import Progress
from uadctl.spec.grammar import usable_cores

# How long `events` waits for something to happen, and how often the bars of a worker are asked for.
_WAIT_S = 0.5
_BARS_S = 0.5
# How often the nodes are counted, and the head is asked whether it is there.
_LOOK_S = 2.0
# Ray ends the driver's process 60 seconds after the head is gone (gcs_rpc_server_reconnect_timeout_s), with no
# exception. A head that is restarted in place is back within this time.
_HEAD_S = 30.0
# So long a worker may wait for its place before that is said, and it is said so often.
_BUSY_S = 60.0
# A node that was lost may be replaced, which takes a cloud some minutes.
_NODELESS_S = 600.0
_RESUME = "When there is one again: a bench goes on with --resume, a scoring or a fit is begun anew."


class OnRay:
    """`[run] engine = "ray"`.

    address: None or "auto" is the cluster of $RAY_ADDRESS, else that of this machine; "local" one that is started for
        the run, reachable from this machine only; "HOST:6379" one that this machine is a node of; "ray://HOST:10001"
        one that it is not. Where this process is connected already, that connection is used, and kept.
    workers: at a time; None: as many as the nodes have room for.
    cpus, gpus: what a worker takes of its node.
    """

    name: ClassVar[Literal["ray"]] = "ray"

    def __init__(self, *, address: str | None, workers: int | None, cpus: float, gpus: float) -> None:
        """Raises BackendMissing without ray."""
        import_ray()
        self.address, self.workers_wanted, self.cpus, self.gpus = address, workers, cpus, gpus
        self._most, self._room = 0, 1
        self._nodes: set[str] = set()

    @property
    def workers(self) -> int:
        """See `Engine.workers`. Without a number given, that of the last look at the nodes; 1 before the first."""
        return self._room if self.workers_wanted is None else self.workers_wanted

    def map(
        self,
        job: Job[U, R],
        units: Iterable[Unit[U]],
        *,
        progress: Progress,
        begun: Callable[[int], None] | None = None,
        ordered: bool = False,
        title: str | None = None,
    ) -> Iterator[Outcome[R]]:
        """See `Engine.map`. RunError where no cluster is found, where it is lost, and where no node is large enough."""
        with connected(self.address, self.workers_wanted, self.cpus) as client:
            crew = _Actors(self, job, progress, client=client)
            yield from schedule(crew, units, progress=progress, begun=begun, ordered=ordered, title=title)

    def facts(self) -> dict[str, Any]:
        """See `Engine.facts`. workers: the most that were there at a time. nodes: their host names."""
        return {
            "name": self.name,
            "workers": self._most,
            "nodes": sorted(self._nodes),
            "cpus": self.cpus,
            "gpus": self.gpus,
            "ray": importlib.metadata.version("ray"),
        }

    def saw(self, *, room: int | None = None, there: int = 0, node: str | None = None) -> None:
        """For the facts: room for so many workers, so many that are there at a time, a node with one."""
        if room is not None:
            self._room = room
        self._most = max(self._most, there)
        if node is not None:
            self._nodes.add(node)


def facts_here(gpus: float) -> dict[str, str]:
    """What makes results of this process what they are, to the last bit, beside the work itself."""
    found = {"Python": platform.python_version(), "the processor": _processor(), "cores": str(usable_cores())}
    for name, package in (("numpy", "numpy"), ("torch", "torch"), ("opencv", "opencv-python-headless")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(package)
    if gpus:
        import torch

        found["the GPU"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return found


def _processor() -> str:
    """The model of the processor, as the system calls it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def threads_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables with which a worker's libraries compute with as many threads as they do in a process with `environ`.

    Ray sets OMP_NUM_THREADS to the cores that a worker takes, and a node may have been started with others; how a
    product of matrices is cut among threads changes its last bits. Which variable comes before which is documented by
    OpenBLAS (README, "Setting the number of threads using environment variables") and oneMKL; with none of them set,
    both take the cores that the process may use. Torch's own number is set apart from these.
    """
    openmp = environ.get("OMP_NUM_THREADS") or str(usable_cores())
    openblas = environ.get("OPENBLAS_NUM_THREADS") or environ.get("GOTO_NUM_THREADS") or openmp
    mkl = environ.get("MKL_NUM_THREADS") or openmp
    return {"OMP_NUM_THREADS": openmp, "OPENBLAS_NUM_THREADS": openblas, "MKL_NUM_THREADS": mkl}


def _actor_class(ray: Any) -> Any:
    """The class of the actors. Being local, it travels itself, not its name: a node without uadctl can say so."""

    class Worker:
        def who(self, host: str, paths: list[str], version: str, gpus: float) -> dict[str, Any]:
            """Where this is, and with what it computes; on the driver's host, what it can import is imported here."""
            import socket
            import sys

            mine = socket.gethostname()
            if mine == host:
                sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
            try:
                import uadctl

                found = str(uadctl.__version__)
                if found == version:
                    from uadctl.engines.cluster import facts_here

                    return {"host": mine, "uadctl": found, "facts": facts_here(gpus)}
            except Exception as error:  # noqa: BLE001 - a foreign environment: an import may raise anything
                return {"host": mine, "uadctl": None, "why": f"{type(error).__name__}: {error}"}
            return {"host": mine, "uadctl": found}

        def open(self, job: bytes) -> bytes | None:
            """None; a Failure where it cannot be opened."""
            import pickle

            from uadctl.engines.carrying import Failure
            from uadctl.engines.shell import Shell

            try:
                self.shell: Any = Shell(pickle.loads(job))
            except Exception as error:  # noqa: BLE001 - it is raised where the units are
                return pickle.dumps(Failure.of(error))
            return None

        def do(self, unit: bytes) -> bytes:
            """The Answer."""
            import pickle

            from uadctl.engines.carrying import Answer, Failure

            try:
                return pickle.dumps(self.shell.do(pickle.loads(unit)), protocol=5)
            except Exception as error:  # noqa: BLE001 - a class may raise anything when it is pickled or read
                return pickle.dumps(Answer(failure=Failure.of(error)))

        @ray.method(concurrency_group="bars")  # type: ignore[untyped-decorator, unused-ignore]
        def bars(self) -> dict[int, tuple[str, int | None, str, int]]:
            """As `Relay.bars`, while a unit is at work: in a thread of its own."""
            found: dict[int, tuple[str, int | None, str, int]] = self.shell.bars()
            return found

    return ray.remote(concurrency_groups={"bars": 1})(Worker)


@dataclass(slots=True)
class _Hand:
    """A worker. state: what it is at. ref: what comes when that is over. bars: of a question for its bars."""

    actor: Any
    state: Literal["placing", "opening", "idle", "working"]
    ref: Any
    started: float
    host: str = ""
    bars: Any = None
    asked: float = 0.0


@dataclass(slots=True)
class _Cluster:
    """What the last look at the nodes has shown. room: for so many workers."""

    room: int = 1
    largest: tuple[float, float] = (0.0, 0.0)
    looked: float = -1e9
    answered: float = field(default_factory=time.monotonic)
    fits: float = field(default_factory=time.monotonic)


class _Actors:
    """The workers of one `map`; see `Crew`."""

    def __init__(self, engine: OnRay, job: Job[Any, Any], progress: Progress, *, client: bool) -> None:
        self._ray = import_ray()
        self._engine = engine
        self._progress = progress
        self._client = client
        self._hands: dict[int, _Hand] = {}
        self._number = 0
        self._events: list[Event] = []
        self._error: RunError | None = None
        self._nodes = _Cluster()
        self._told_busy = time.monotonic()
        self._told_differs = False
        self._facts: dict[str, str] = facts_here(0.0)
        self._lost = False
        # Pickled here, for all engines alike: arrays that Ray hands over itself can only be read.
        travelling = pickle.dumps(job, protocol=5)
        with self._calling():
            context = self._ray.get_runtime_context()
            self._head = "" if client else str(context.gcs_address)
            self._home = "" if client else str(context.get_node_id())
            self._job = self._ray.put(travelling)
            self._look(first=True)
        self._class = _actor_class(self._ray).options(
            num_cpus=engine.cpus,
            num_gpus=engine.gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": threads_variables(os.environ)},
        )

    @property
    def workers(self) -> int:
        """See `Crew`. At least one: while no node has room, one worker waits for it."""
        return self._engine.workers_wanted or max(1, self._nodes.room)

    def employ(self, number: int) -> None:
        with self._calling():
            while len(self._hands) < min(number, self.workers):
                self._number += 1
                actor = self._class.remote()
                ref = actor.who.remote(socket.gethostname(), sys.path, __version__, self._engine.gpus)
                self._hands[self._number] = _Hand(actor, "placing", ref, time.monotonic())

    def hand(self, worker: int, unit: Unit[Any]) -> None:
        found = self._hands.get(worker)
        if found is None:
            return  # it was lost meanwhile, which the next events tell
        with self._calling():
            found.state, found.ref = "working", found.actor.do.remote(pickle.dumps(unit, protocol=5))

    def events(self) -> Collection[Event]:
        """See `Crew`. An error waits until what has happened before it was told."""
        if self._error is not None:
            raise self._error
        try:
            self._hear()
        except RunError as error:
            if not self._events:
                raise
            self._error = error
        events, self._events = self._events, []
        return events

    def _hear(self) -> None:
        with self._calling():
            self._look()
            self._ask()
            self._tell_if_busy()
            refs = [ref for hand in self._hands.values() for ref in (hand.ref, hand.bars) if ref is not None]
            if not refs:
                time.sleep(_WAIT_S)
                return
            ready, _ = self._ray.wait(refs, num_returns=1, timeout=_WAIT_S)
            if ready:
                ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
            come = set(ready)
            for worker, hand in list(self._hands.items()):
                if hand.bars is not None and hand.bars in come:
                    self._take_bars(worker, hand)
                if worker in self._hands and hand.ref is not None and hand.ref in come:
                    self._take(worker, hand)

    def close(self) -> None:
        hands, self._hands = self._hands, {}
        if self._lost:  # each call would wait for the head that is gone
            return
        for hand in hands.values():
            self._kill(hand.actor)

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(actor, no_restart=True)

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """Ray's errors here are those of the connection: what becomes of a worker is told by its reference."""
        from ray.exceptions import RayError

        try:
            yield
        except (ConnectionError, RayError) as error:
            raise self._broken(first_line(error)) from error

    def _broken(self, why: str) -> RunError:
        self._lost = True
        return RunError(f"the connection to the Ray cluster is lost: {why}", help=_RESUME)

    def _take_bars(self, worker: int, hand: _Hand) -> None:
        from ray.exceptions import GetTimeoutError, RayError

        ref, hand.bars = hand.bars, None
        try:
            bars = self._ray.get(ref, timeout=PROBE_S)
        except GetTimeoutError:  # it is still on its way; the next round asks again
            hand.bars = ref
            return
        except RayError as error:
            if hand.state == "idle":  # nothing else would tell that it is no more
                self._lose(worker, hand, error)
            return
        if hand.state == "working":
            self._events.append(Said(worker, bars))

    def _take(self, worker: int, hand: _Hand) -> None:
        """What a worker was at is over, or the worker is."""
        from ray.exceptions import GetTimeoutError, RayError, RayTaskError

        try:
            found = self._ray.get(hand.ref, timeout=PROBE_S)
        except GetTimeoutError:
            return  # it is still on its way; the next round asks again
        except RayTaskError as error:
            # The actor's methods catch what is raised, so that this is an error at their edges: arguments of theirs
            # that are lost are told so as well.
            cause = error.cause if isinstance(error, RayTaskError) else error
            self._lose(worker, hand, cause if isinstance(cause, RayError) else error)
            return
        except RayError as error:
            self._lose(worker, hand, error)
            return
        hand.ref = None
        if hand.state == "placing":
            self._meet(worker, hand, found)
            hand.state, hand.ref = "opening", hand.actor.open.remote(self._job)
        elif hand.state == "opening":
            if found is not None:
                del self._hands[worker]
                self._kill(hand.actor)
                self._events.append(Refused(worker, pickle.loads(found)))
                return
            hand.state = "idle"
            there = sum(each.state in ("idle", "working") for each in self._hands.values())
            self._engine.saw(there=there, node=hand.host)
            self._events.append(Opened(worker))
        else:
            hand.state = "idle"
            self._events.append(Done(worker, _answer(found)))

    def _lose(self, worker: int, hand: _Hand, error: Exception) -> None:
        from ray.exceptions import LocalRayletDiedError

        text = str(error).lower()
        if isinstance(error, LocalRayletDiedError) or "owner has died" in text or "owner died" in text:
            raise self._broken("Ray's own process on this machine (raylet) has ended")
        del self._hands[worker]
        self._kill(hand.actor)
        self._nodes.looked = -1e9  # a node may be gone with it
        self._events.append(Lost(worker, _reason(error, hand)))

    def _meet(self, worker: int, hand: _Hand, who: dict[str, Any]) -> None:
        """A worker has its place: its node must have this version of uadctl, and should compute alike."""
        hand.host = who["host"]
        if who["uadctl"] != __version__:
            found = f"uadctl {who['uadctl']}" if who["uadctl"] else f"no uadctl that can be imported ({who['why']})"
            raise RunError(
                f"node {hand.host} has {found}; this is {__version__}",
                help=f"Install the same on each node of the cluster: pip install 'uadctl[ray]=={__version__}'",
            )
        facts: dict[str, str] = who["facts"]
        self._facts.setdefault("the GPU", facts.get("the GPU", ""))  # the driver needs none: that of the first worker
        wanted = threads_variables(os.environ)["OPENBLAS_NUM_THREADS"]
        if wanted.isdecimal() and min(int(wanted), int(facts["cores"])) == min(int(wanted), int(self._facts["cores"])):
            facts["cores"] = self._facts["cores"]  # that many threads have a core each, here and there
        differs = [
            f"{name} {there} (here {self._facts[name]})"
            for name, there in facts.items()
            if name in self._facts and there != self._facts[name]
        ]
        if differs and not self._told_differs:
            self._told_differs = True
            self._progress.warn(
                f"node {hand.host} has {', '.join(differs)}: results may differ in their last bits from those of one "
                "machine"
            )

    def _ask(self) -> None:
        """For bars; an idle worker too, so that its end is noticed."""
        now = time.monotonic()
        for hand in self._hands.values():
            if hand.bars is None and hand.state in ("idle", "working") and now - hand.asked >= _BARS_S:
                hand.bars, hand.asked = hand.actor.bars.remote(), now

    def _look(self, *, first: bool = False) -> None:
        """Whether the head is there, and what the nodes have; raises RunError where there can be no worker at all."""
        now, nodes = time.monotonic(), self._nodes
        if now - nodes.looked < _LOOK_S:
            return
        nodes.looked = now
        if not self._client and not answers(self._head):  # `ray.nodes` would wait for it, and then end the process
            if now - nodes.answered > _HEAD_S:
                raise self._broken(f"its head, {self._head}, has not answered for {now - nodes.answered:.0f} seconds")
            return
        nodes.answered = now
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        if self._home and all(node["NodeID"] != self._home for node in alive):
            raise self._broken("the node of this machine is no more a part of it")
        has = [(float(n["Resources"].get("CPU", 0.0)), float(n["Resources"].get("GPU", 0.0))) for n in alive]
        nodes.room = sum(self._fitting(*each) for each in has)
        self._engine.saw(room=max(1, nodes.room))
        if nodes.room or self._may_grow():
            nodes.fits = now
        elif first or now - nodes.fits > _NODELESS_S:
            raise self._too_small(has)

    def _fitting(self, cpus: float, gpus: float) -> int:
        """So many workers have room on a node of so many cores and GPUs."""
        most = int(cpus / self._engine.cpus + 1e-9)
        if self._engine.gpus > 1:
            return min(most, int(gpus / self._engine.gpus + 1e-9))
        if self._engine.gpus > 0:  # what shares a GPU lies on one, as a whole
            return min(most, int(gpus) * int(1 / self._engine.gpus + 1e-9))
        return most

    def _may_grow(self) -> bool:
        """Whether the cluster starts nodes as they are needed (Ray's autoscaler), and such a node has room."""
        try:
            from ray._private.state import state

            most = state.get_max_resources_from_cluster_config() or {}
            return self._fitting(float(most.get("CPU", 0.0)), float(most.get("GPU", 0.0))) > 0
        except Exception:  # noqa: BLE001 - no public name says it: where the private one is gone, nothing grows
            return False

    def _too_small(self, has: list[tuple[float, float]]) -> RunError:
        cpus, gpus = max(has, key=lambda each: (each[1] >= self._engine.gpus, *each), default=(0.0, 0.0))
        needs = _resources(self._engine.cpus, self._engine.gpus)
        return RunError(
            f"no node of the Ray cluster can hold a worker: it takes {needs}, and the largest node has "
            f"{_resources(cpus, gpus, all_of_it=True)}",
            help="Let a worker take less: `[run] cpus` (default: `threads`) and `gpus`. `score` takes the threads of "
            "the run that it scores with, and a GPU if the device is cuda: --device cpu takes none.",
        )

    def _tell_if_busy(self) -> None:
        now = time.monotonic()
        waiting = [hand for hand in self._hands.values() if hand.state == "placing"]
        if not waiting or len(waiting) < len(self._hands):
            self._told_busy = now
            return
        if now - max(self._told_busy, min(hand.started for hand in waiting)) < _BUSY_S:
            return
        self._told_busy = now
        since = now - min(hand.started for hand in waiting)
        self._progress.warn(
            f"the Ray cluster has had no room for a worker ({_resources(self._engine.cpus, self._engine.gpus)}) for "
            f"{since:.0f} seconds; still waiting. `ray status` shows what takes it."
        )


def _answer(found: bytes) -> Answer[Any]:
    try:
        answer: Answer[Any] = pickle.loads(found)
    except Exception as error:  # noqa: BLE001 - a class may raise anything when it is read
        return Answer(failure=Failure.of(error))
    return answer


def _reason(error: Exception, hand: _Hand) -> str:
    """What has become of a worker: what can follow "its worker"."""
    from ray.exceptions import (
        ActorUnavailableError,
        NodeDiedError,
        ObjectLostError,
        OutOfMemoryError,
        RayActorError,
        RuntimeEnvSetupError,
    )

    text = str(error).lower()
    place = f" on node {hand.host}" if hand.host else ""
    # Of any process that is killed Ray says that it may have been for its memory; this is its own monitor's word.
    if isinstance(error, OutOfMemoryError) or "running low on memory" in text:
        return f"was ended by Ray{place}, whose memory was running out"
    if isinstance(error, NodeDiedError) or "node has died" in text or "node was terminated" in text:
        return f"was lost together with node {hand.host}" if hand.host else "was lost together with its node"
    if isinstance(error, ObjectLostError):
        if hand.state == "working":
            return f"was done{place}, but its result was lost"
        return f"could not fetch{place} what all units have in common: it was lost"
    if isinstance(error, ActorUnavailableError):
        return f"could no more be reached{place}"
    if isinstance(error, RuntimeEnvSetupError):
        return f"could not be started{place}: {first_line(error)}"
    if isinstance(error, RayActorError):
        return f"was killed, or crashed{place}"
    return f"failed{place}: {first_line(error)}"


def _resources(cpus: float, gpus: float, *, all_of_it: bool = False) -> str:
    """As "2 CPUs and 1 GPU"."""
    said = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return f"{said} and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus or all_of_it else said
