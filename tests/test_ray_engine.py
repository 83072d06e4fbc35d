"""Units on a Ray cluster of several nodes: what comes back, and what becomes of losses. The nodes are of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ray_jobs import Bars, Failing, Marked, Refusing, Square, Surroundings, Unreadable

from uadctl.engines import Here, Unit, UnitLost, choose_engine
from uadctl.errors import DataError, RunError
from uadctl.progress import Silent
from uadctl.spec.grammar import RunTable

pytest.importorskip("ray", reason="the extra ray is not installed")
from uadctl.engines import cluster as on_ray
from uadctl.engines import connecting
from uadctl.engines.cluster import OnRay, threads_variables

# The cluster's own processes are ended by ray, which leaves their pipes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PATIENCE_S = 120.0
NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 100_000_000, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """A head without cores, and two nodes with two each."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    try:
        for _ in range(2):
            made.add_node(num_cpus=2, **NODE)
        yield made
    finally:
        made.shutdown()
        if before is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = before


@contextlib.contextmanager
def joined(cluster):
    """This process connected to the cluster, as by a caller who uses ray for other work too."""
    import ray

    with connecting._loopback():
        ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
        try:
            yield
        finally:
            ray.shutdown()


def units(count: int, **more) -> list[Unit[int]]:
    return [Unit(number, f"number {number}", **more) for number in range(count)]


def engine(cluster, workers=2, **more) -> OnRay:
    return OnRay(address=cluster.address, workers=workers, **{"cpus": 1.0, "gpus": 0.0, **more})


def wait_for(what, seconds=PATIENCE_S):
    """The first true thing that `what()` gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come")


def begun(folder: Path, number: int) -> list[int]:
    """The processes that have begun a number."""
    return sorted(int(path.name.rpartition("-")[2]) for path in folder.glob(f"begun-{number}-*"))


def meanwhile(do):
    """A thread that does something while units are at work; what it raises comes with `join`."""

    class Meanwhile(threading.Thread):
        error: BaseException | None = None

        def run(self):
            try:
                do()
            except BaseException as error:  # noqa: BLE001 - told by `join`
                self.error = error

        def join(self, timeout=None):
            super().join(timeout)
            assert self.error is None, self.error

    thread = Meanwhile(daemon=True)
    thread.start()
    return thread


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_results_are_those_of_this_process_in_order_and_each_once(cluster, capfd):
    here = [(o.index, o.attempts, o.result) for o in Here().map(Square(), units(20), progress=Silent())]
    ray = engine(cluster)
    progress, handed = Silent(), []
    found = list(ray.map(Square(), units(20), progress=progress, begun=handed.append, ordered=True))
    assert [(o.index, o.attempts, o.result) for o in found] == here
    assert sorted(handed) == list(range(20))
    assert progress.warnings == []
    facts = ray.facts()
    assert 1 <= facts.pop("workers") <= 2
    assert facts.pop("ray").count(".") >= 1
    assert facts == {"name": "ray", "nodes": [socket.gethostname()], "cpus": 1.0, "gpus": 0.0}
    assert capfd.readouterr() == ("", "")


def test_what_work_raises_and_says_comes_back_and_is_not_tried_again(cluster):
    progress = Silent()
    found = {o.index: o for o in engine(cluster, workers=1).map(Failing(), units(4), progress=progress)}
    assert [found[n].attempts for n in range(4)] == [1] * 4
    assert (found[0].result, found[2].result) == (0, 2)
    assert type(found[1].error) is DataError
    assert (str(found[1].error), found[1].error.help) == ("img/1.png: broken", "Copy it again.")
    assert "pickle" in str(found[3].error)  # what it returned cannot travel
    assert progress.warnings == ["0 was seen", "1 was seen", "2 was seen"]


def test_a_job_that_cannot_be_opened_ends_all(cluster):
    with pytest.raises(DataError) as raised:
        list(engine(cluster, 1).map(Refusing(), units(3), progress=Silent()))
    assert (str(raised.value), raised.value.help) == ("data/screw: no such folder", "Unpack it there.")
    with pytest.raises(Exception, match=r"^No module named 'foreign'") as raised:
        list(engine(cluster, 1).map(Unreadable(), units(3), progress=Silent()))
    assert type(raised.value).__name__ == "ModuleNotFoundError"


def test_libraries_compute_with_the_threads_of_this_process(cluster, monkeypatch):
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed, which tells of threads")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = "import ray_jobs; print(ray_jobs.Surroundings().open()(0, None)['pools'])"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    here = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert here.returncode == 0, here.stderr
    # Ray itself would give a worker that takes two cores two threads.
    (found,) = engine(cluster, 1, cpus=2).map(Surroundings(), units(1), progress=Silent())
    assert found.error is None
    assert (found.result["torch"], str(found.result["pools"])) == (2, here.stdout.strip())


@pytest.mark.parametrize(
    ("environ", "openmp", "openblas", "mkl"),
    [
        ({}, "cores", "cores", "cores"),
        ({"OMP_NUM_THREADS": "3"}, "3", "3", "3"),
        ({"OMP_NUM_THREADS": "3", "GOTO_NUM_THREADS": "4"}, "3", "4", "3"),
        ({"OPENBLAS_NUM_THREADS": "2", "GOTO_NUM_THREADS": "4", "MKL_NUM_THREADS": "5"}, "cores", "2", "5"),
        ({"OMP_NUM_THREADS": ""}, "cores", "cores", "cores"),
    ],
)
def test_which_variable_says_how_many_threads(environ, openmp, openblas, mkl):
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    wanted = {"OMP_NUM_THREADS": openmp, "OPENBLAS_NUM_THREADS": openblas, "MKL_NUM_THREADS": mkl}
    assert threads_variables(environ) == {name: cores if n == "cores" else n for name, n in wanted.items()}


def test_bars_of_a_worker_are_drawn_while_it_works(cluster, tmp_path):
    (tmp_path / "hold").touch()
    drawn = []

    class Drawing(Silent):
        def task(self, title, total, *, unit="images"):
            drawn.append((title, total, unit))
            (tmp_path / "hold").unlink(missing_ok=True)
            return super().task(title, total, unit=unit)

    (found,) = engine(cluster, 1).map(Bars(tmp_path), units(1), progress=Drawing())
    assert found.result == 0
    assert drawn == [("images", 10, "images")]


def test_a_killed_worker_is_replaced_and_its_unit_begun_again(cluster, tmp_path, capfd):
    (tmp_path / "hold").touch()
    killed = []

    def kill():
        killed.extend(wait_for(lambda: begun(tmp_path, 3)))
        os.kill(killed[0], signal.SIGKILL)
        wait_for(lambda: set(begun(tmp_path, 3)) - set(killed))
        (tmp_path / "hold").unlink()

    thread, progress = meanwhile(kill), Silent()
    found = {o.index: o for o in engine(cluster).map(Marked(tmp_path, held=(3,)), units(8), progress=progress)}
    thread.join(PATIENCE_S)
    assert [found[n].result[0] for n in range(8)] == [n * n for n in range(8)]
    assert [found[n].attempts for n in range(8)] == [1, 1, 1, 2, 1, 1, 1, 1]
    assert [len(begun(tmp_path, n)) for n in range(8)] == [1, 1, 1, 2, 1, 1, 1, 1]
    host = socket.gethostname()
    assert progress.warnings == [
        f"number 3: its worker was killed, or crashed on node {host}; it is begun again (2 of 3)"
    ]
    assert capfd.readouterr() == ("", "")


def test_a_unit_that_kills_its_workers_is_given_up_with_its_log_and_the_rest_is_done(cluster, tmp_path):
    given = [Unit(number, f"number {number}", tmp_path / f"{number}.log") for number in range(4)]
    job = Marked(tmp_path, held=(1,), fate="die")
    found = {o.index: o for o in engine(cluster).map(job, given, progress=Silent())}
    assert [found[n].result and found[n].result[0] for n in range(4)] == [0, None, 4, 9]
    lost = found[1].error
    assert type(lost) is UnitLost
    assert str(lost) == (
        f"given up, since its worker ended 3 times: was killed, or crashed on node {socket.gethostname()}"
    )
    assert lost.log.count("number 1 is held") == 3
    assert len(begun(tmp_path, 1)) == found[1].attempts == 3
    assert list(tmp_path.glob("*.log")) == []


def raylet_of(cluster, pid: int):
    """The node on which a process works: Ray starts workers as children of the raylet."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for node in cluster.worker_nodes:
        if node.all_processes["raylet"][0].process.pid == parent:
            return node
    raise AssertionError(f"no node has the process {pid}")


def test_a_node_that_goes_in_mid_run_takes_no_results_with_it(cluster, tmp_path, capfd):
    (tmp_path / "hold").touch()
    at_work = []

    def remove():
        at_work.extend(wait_for(lambda: begun(tmp_path, 2)))
        cluster.remove_node(raylet_of(cluster, at_work[0]), allow_graceful=False)
        wait_for(lambda: set(begun(tmp_path, 2)) - set(at_work))
        (tmp_path / "hold").unlink()

    thread, progress = meanwhile(remove), Silent()
    try:
        ray = engine(cluster, workers=None)
        job = Marked(tmp_path, held=(2,), size=1_000_000)
        found = list(ray.map(job, units(12), progress=progress, ordered=True))
    finally:
        thread.join(PATIENCE_S)
        cluster.add_node(num_cpus=2, **NODE)
    here = list(Here().map(Marked(tmp_path, size=1_000_000), units(12), progress=Silent()))
    assert [o.index for o in found] == list(range(12))
    assert all(
        a.result[0] == b.result[0] and (a.result[1] == b.result[1]).all() for a, b in zip(found, here, strict=True)
    )
    assert found[2].attempts == 2
    assert not alive(at_work[0])
    assert [w for w in progress.warnings if w.startswith("number 2: its worker ")] == progress.warnings[:1]
    assert capfd.readouterr() == ("", "")


def test_a_result_that_is_lost_before_it_is_here_is_made_again(cluster, tmp_path, monkeypatch):
    import ray

    removed = []
    get, wait = ray.get, ray.wait

    def get_after_loss(ref, **options):
        pids = begun(tmp_path, 0)
        if pids and not removed:  # the result is ready, and lies on the node of its worker
            removed.append(raylet_of(cluster, pids[0]))
            cluster.remove_node(removed[0], allow_graceful=False)
        return get(ref, **options)

    monkeypatch.setattr(on_ray, "_BARS_S", 1e9)  # the results of units alone are asked for
    monkeypatch.setattr(ray, "wait", lambda refs, **options: wait(refs, **options, fetch_local=False))
    monkeypatch.setattr(ray, "get", get_after_loss)
    progress = Silent()
    try:
        (found,) = engine(cluster, 1).map(Marked(tmp_path, size=2_000_000), units(1), progress=progress)
    finally:
        cluster.add_node(num_cpus=2, **NODE)
    assert removed
    assert (found.attempts, found.result[0], found.result[1].nbytes) == (2, 0, 2_000_000)
    assert found.result[1].flags.writeable  # as in this process
    assert len(progress.warnings) == 1
    assert progress.warnings[0].startswith("number 0: its worker was ")
    assert progress.warnings[0].endswith("; it is begun again (2 of 3)")


def test_an_early_end_leaves_no_worker(cluster, tmp_path):
    (tmp_path / "hold").touch()
    found = engine(cluster).map(Marked(tmp_path, held=(0,)), units(40), progress=Silent())
    assert next(found).index != 0
    pids = begun(tmp_path, 0)
    assert len(pids) == 1
    found.close()
    wait_for(lambda: not any(alive(pid) for pid in pids))
    import ray

    assert not ray.is_initialized()
    with joined(cluster):
        total = ray.cluster_resources()["CPU"]
        wait_for(lambda: ray.available_resources().get("CPU") == total)
        # A connection that is there already is used, and kept.
        found = OnRay(address="local", workers=None, cpus=1.0, gpus=0.0)
        assert [one.result for one in found.map(Square(), units(1), progress=Silent())] == [0]
        assert found.workers == total  # room for so many
        assert ray.is_initialized()
        assert ray.cluster_resources()["CPU"] == total


def test_a_worker_that_no_node_can_hold_is_told_at_once(cluster):
    with pytest.raises(
        RunError,
        match=r"^no node of the Ray cluster can hold a worker: it takes 3 CPUs, and the largest node has 2 CPUs and 0 GPUs$",
    ):
        list(engine(cluster, cpus=3.0).map(Square(), units(1), progress=Silent()))
    with pytest.raises(RunError, match=r": it takes 1 CPU and 0\.5 GPUs, and the largest node has 2 CPUs and 0 GPUs$"):
        list(engine(cluster, gpus=0.5).map(Square(), units(1), progress=Silent()))


def test_a_busy_cluster_is_waited_for_and_that_is_said(cluster, monkeypatch):
    import ray

    class Other:
        def here(self):
            return True

    monkeypatch.setattr(on_ray, "_BUSY_S", 1.0)
    with joined(cluster):
        others = [ray.remote(num_cpus=2)(Other).remote() for _ in range(2)]
        ray.get([other.here.remote() for other in others])

        class Freeing(Silent):
            def warn(self, message):
                super().warn(message)
                ray.kill(others[0])

        progress = Freeing()
        (found,) = engine(cluster, 1).map(Square(), units(1), progress=progress)
        assert found.result == 0
        assert progress.warnings[0].startswith("the Ray cluster has had no room for a worker (1 CPU) for ")


def test_nodes_that_differ_are_told_or_refused(cluster, monkeypatch):
    facts = dict(on_ray.facts_here(0.0))
    monkeypatch.setattr(on_ray, "facts_here", lambda gpus: {**facts, "torch": "1.0", "the processor": "an abacus"})
    progress = Silent()
    assert len(list(engine(cluster).map(Square(), units(4), progress=progress))) == 4
    host = socket.gethostname()
    assert progress.warnings == [
        f"node {host} has the processor {facts['the processor']} (here an abacus), torch {facts['torch']} (here 1.0): "
        "results may differ in their last bits from those of one machine"
    ]
    found = on_ray.__version__
    monkeypatch.setattr(on_ray, "__version__", "99.0")
    with pytest.raises(RunError, match=rf"^node {host} has uadctl {found}; this is 99\.0$") as raised:
        list(engine(cluster).map(Square(), units(1), progress=Silent()))
    assert raised.value.help == "Install the same on each node of the cluster: pip install 'uadctl[ray]==99.0'"


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_an_address_without_a_cluster_is_told(monkeypatch):
    here = f"127.0.0.1:{closed_port()}"
    with pytest.raises(RunError, match=rf"^no Ray cluster answers at {here}$") as raised:
        list(OnRay(address=here, workers=1, cpus=1.0, gpus=0.0).map(Square(), units(1), progress=Silent()))
    assert raised.value.help == (
        "Start one with `ray start --head`, or take `--address local`: one is started for this run, on this machine."
    )
    monkeypatch.setenv("RAY_ADDRESS", here)
    for address in (None, "auto"):
        with pytest.raises(RunError, match=rf"^no Ray cluster answers at {here}$"):
            list(OnRay(address=address, workers=1, cpus=1.0, gpus=0.0).map(Square(), units(1), progress=Silent()))


def test_no_cluster_on_this_machine_is_told(monkeypatch):
    from ray._private import services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Other clusters may run here.
    monkeypatch.setattr(services, "find_bootstrap_address", lambda *given: None)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    with pytest.raises(RunError, match=r"^no Ray cluster is running on this machine \(Could not find any running Ray"):
        list(OnRay(address="auto", workers=1, cpus=1.0, gpus=0.0).map(Square(), units(1), progress=Silent()))


# A driver of its own: what it prints is seen, and a head that is lost ends a process that does not watch it.
DRIVER = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
from ray_jobs import Marked, Square
from uadctl.engines import Unit
from uadctl.engines import cluster
from uadctl.errors import RunError
from uadctl.progress import Silent
cluster._HEAD_S = 3.0
folder = Path({folder!r})
ray = cluster.OnRay(address={address!r}, workers=2, cpus=1.0, gpus=0.0)
units = [Unit(n, str(n)) for n in range(4)]
progress = Silent()
try:
    found = [(o.index, o.attempts, o.result[0]) for o in ray.map(Marked(folder, held={held}), units, progress=progress)]
except RunError as error:
    found = [str(error), error.help]
(folder / "found").write_text(repr((found, progress.warnings)))
"""


def driver(folder: Path, address: str, held: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    import uadctl

    root = str(Path(uadctl.__file__).parent.parent)
    code = DRIVER.format(tests=str(Path(__file__).parent), root=root, folder=str(folder), address=address, held=held)
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def listening_elsewhere(session: int) -> list[str]:
    """Sockets of a session's processes that listen at more than the loopback address."""
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            for fd in (process / "fd").iterdir():
                inodes.add(str(fd.readlink()))
        except OSError:
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            host = words[1].rpartition(":")[0]
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                found.append(host)
    assert found  # else nothing was looked at
    return [host for host in found if host not in ("0100007F", "0" * 16 + "FFFF00000100007F", "0" * 24 + "01000000")]


def test_a_local_cluster_lives_as_long_as_the_run_on_this_machine_only_and_prints_nothing(tmp_path):
    (tmp_path / "hold").touch()
    started = driver(tmp_path, "local", held=(1,))
    try:
        wait_for(lambda: begun(tmp_path, 1) or started.poll() is not None)
        assert listening_elsewhere(started.pid) == []
        (tmp_path / "hold").unlink()
        out, err = started.communicate(timeout=PATIENCE_S)
    finally:
        started.kill()
    assert (started.returncode, out, err) == (0, "", "")
    found, warnings = eval((tmp_path / "found").read_text())
    assert (sorted(found), warnings) == ([(n, 1, n * n) for n in range(4)], [])
    assert [p for n in range(4) for p in begun(tmp_path, n) if alive(p)] == []


@pytest.mark.parametrize("gone", ["gcs_server", "raylet"])
def test_a_head_that_is_lost_ends_the_run_with_a_message(tmp_path, gone):
    from ray.cluster_utils import Cluster

    (tmp_path / "hold").touch()
    own = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **NODE})
    try:
        started = driver(tmp_path, own.address, held=(1,))
        try:
            wait_for(lambda: begun(tmp_path, 1) or started.poll() is not None)
            own.head_node.all_processes[gone][0].process.kill()
            out, err = started.communicate(timeout=PATIENCE_S)
        finally:
            started.kill()
    finally:
        own.shutdown()
    assert (started.returncode, out, err) == (0, "", "")
    (message, help_), warnings = eval((tmp_path / "found").read_text())
    assert message.startswith("the connection to the Ray cluster is lost: ")
    assert help_ == on_ray._RESUME
    assert warnings == []


@pytest.mark.parametrize(("device", "gpus", "taken"), [("cuda", None, 1.0), ("cuda", 0.5, 0.5), ("auto", None, 0.0)])
def test_a_worker_with_cuda_takes_a_gpu_unless_the_spec_says_how_much(device, gpus, taken):
    chosen = choose_engine(RunTable(name="x", engine="ray", threads=3, device=device, gpus=gpus))
    assert isinstance(chosen, OnRay)
    assert (chosen.gpus, chosen.cpus, chosen.address) == (taken, 3, None)


def test_a_local_cluster_leaves_no_token_in_the_users_home(tmp_path, monkeypatch):
    """One that lies there makes `ray start` ask for it from then on."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    found = OnRay(address="local", workers=1, cpus=1.0, gpus=0.0).map(Square(), units(2), progress=Silent())
    assert [outcome.result for outcome in found] == [0, 1]
    assert list(tmp_path.iterdir()) == []
    assert {k: v for k, v in os.environ.items() if "AUTH" in k} == {k: v for k, v in before.items() if "AUTH" in k}
