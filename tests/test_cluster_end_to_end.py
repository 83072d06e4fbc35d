"""A bench and a scoring on a Ray cluster of several nodes, one of which is killed in mid-run: the bytes are the same.

The nodes are of this machine; their processes, object stores and deaths are real.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import parts
import pytest

from uadctl import load_run
from uadctl.bench import bench
from uadctl.progress import Silent
from uadctl.runs.folder import RunFolder
from uadctl.score import score
from uadctl.spec import Overrides, read_spec

pytest.importorskip("ray", reason="needs ray: pip install 'uadctl[ray]'")
from uadctl.engines import connecting
from uadctl.engines.cluster import OnRay

pytestmark = [
    pytest.mark.slow,
    # The cluster's own processes are ended by ray, which leaves their pipes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PATIENCE_S = 120.0
NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 100_000_000, "include_dashboard": False}
SPEC = """\
[run]
name = "nodes"
seeds = [0, 1, 2]
threads = 1
device = "cpu"
[dataset]
name = "mvtec"
root = "data"
[preprocess]
size = 64
[model]
name = "vision_patchcore"
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, and two nodes with one worker each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **NODE)
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories and a spec, and 250 new images with a broken one among them."""
    folder = tmp_path_factory.mktemp("world")
    for category in ("tile", "wood"):
        parts.write_category(folder / "data", category)
    (folder / "spec.toml").write_text(SPEC, encoding="utf-8")
    for i in range(250):
        parts.write(folder / "new" / f"{i:03}.png", parts.surface(i, 64, 64 + i % 3))
    (folder / "new" / "077.png").write_bytes(b"no image")
    return folder


def the_spec(world: Path, runs: str, **run: Any) -> Any:
    return read_spec(str(world / "spec.toml"), Overrides(run_dir=str(world / runs), **run)).spec


@pytest.fixture(scope="module")
def here(world: Path) -> RunFolder:
    """The bench in this process."""
    result = bench(the_spec(world, "here"))
    assert not result.failed
    return result.run


def content(run: RunFolder) -> dict[str, bytes]:
    """Every file that says what was found, not when or where."""
    left = ("run.json", "timing.json", "spec.toml")
    files = [p for p in sorted(run.path.rglob("*")) if p.is_file() and p.name not in left]
    assert len(files) > 40
    assert sum(p.name == "scores.csv" for p in files) == 6
    return {p.relative_to(run.path).as_posix(): p.read_bytes() for p in files}


def on_nodes(cluster: Any) -> dict[int, Any]:
    """By process, the workers that have come to life: the node that each is on."""
    found = {}
    for node in cluster.list_all_nodes():
        raylet = node.all_processes["raylet"][0].process.pid
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                name, rest = stat.read_text().rsplit(")", 1)
                if int(rest.split()[1]) == raylet and "Worker" in name:
                    found[int(stat.parent.name)] = node
    return found


def soon(what: Callable[[], Any]) -> Any:
    """The first true thing that `what()` gives."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come")


@contextlib.contextmanager
def killing(cluster: Any, when: Callable[[], Any]) -> Iterator[list[Any]]:
    """Kill a node that a worker is on once `when()` is true, while the block goes on."""
    killed: list[Any] = []

    def kill() -> None:
        soon(when)
        node = soon(lambda: list(on_nodes(cluster).values()))[0]
        cluster.remove_node(node, allow_graceful=False)
        killed.append(node)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield killed
    thread.join(PATIENCE_S)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the workers of a node in /proc")
def test_a_bench_whose_node_is_killed_gives_the_same_bytes(cluster: Any, world: Path, here: RunFolder) -> None:
    progress = Silent()
    spec = the_spec(world, "nodes", engine="ray", address=cluster.address)

    def two_at_work() -> bool:
        begun = [p.read_text().strip() for p in (world / "nodes").glob("*/units/*/*/*/status")]
        return begun.count("started") >= 2

    with killing(cluster, two_at_work) as killed:
        result = bench(spec, progress=progress)
    assert len(killed) == 1
    assert not result.failed
    assert [w for w in progress.warnings if "begun again (2 of 3)" in w]
    assert content(result.run) == content(here)
    assert not list(result.run.path.rglob("attempt-*"))
    (engine,) = json.loads((result.run.path / "run.json").read_text())["engines"]
    assert (engine["name"], engine["workers"]) == ("ray", 2)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the workers of a node in /proc")
def test_a_scoring_whose_node_is_killed_gives_each_line_once(cluster: Any, world: Path, here: RunFolder) -> None:
    fitted = load_run(here.path, device="cpu", category="tile", seed=0)
    alone = [msgspec.json.encode(line) for line in score(fitted, [str(world / "new")], threads=1)]
    engine, progress, lines = OnRay(address=cluster.address, workers=None, cpus=1.0, gpus=0.0), Silent(), []
    with killing(cluster, lambda: lines) as killed:
        for line in score(fitted, [str(world / "new")], threads=1, engine=engine, progress=progress):
            lines.append(msgspec.json.encode(line))
            while len(lines) == 1 and not killed:  # the others are at work meanwhile, or done and not asked for
                time.sleep(0.02)
    assert len(killed) == 1
    assert lines == alone
    assert len(lines) == 250
    assert sum(b'"status":"error"' in line for line in lines) == 1


def test_the_command_line_on_a_cluster_that_was_started_by_hand(
    world: Path, here: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray start` with a token, then --address HOST:PORT, and from outside by Ray Client."""
    pytest.importorskip("grpc", reason="needs ray's client: pip install 'uadctl[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    port, client = free_ports(2)
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with connecting._session_folder() as folder:
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        start = [*ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
        start += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        start += [f"--ray-client-server-port={client}"]
        log = (tmp_path / "head.txt").open("wb")
        head = subprocess.Popen(
            [*start, *([f"--temp-dir={folder}"] if folder else [])],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            soon(lambda: listens(port) and listens(client))
            for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"):
                runs = f"runs-{address.partition(':')[0]}"
                command = [sys.executable, "-m", "uadctl", "bench", str(world / "spec.toml"), "-q", "--engine", "ray"]
                for _ in range(3):  # the server of Ray Client may still be starting, long after it answers
                    done = subprocess.run(
                        [*command, "--address", address, "--workers", "2", "--run-dir", str(world / runs)],
                        capture_output=True,
                        text=True,
                        check=False,
                        env=environment,
                    )
                    if "Initialization failure from server" not in done.stderr:
                        break
                assert (done.returncode, done.stderr) == (0, ""), address
                (run,) = (world / runs).iterdir()
                assert content(RunFolder(run)) == content(here)
        finally:
            with contextlib.suppress(OSError):
                os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()
            log.close()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_grpc_is_a_part_of_the_extra() -> None:
    """Without it an address ray:// says what to install, and that must bring it."""
    assert importlib.util.find_spec("grpc") is not None
