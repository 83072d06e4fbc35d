"""A process that has imported everything and computed nothing, and forks a child for each command that is to be ended.

    python crash_server.py      a JSON object a line on stdin, one a line on stdout

What it is asked: {"argv": [...], "cwd": "...", "kill": n, "full": n, "ever": true, "limit": bytes}. kill: SIGKILL at the
n-th step of a file that is written. full: at that step the disk is full; ever: at those after it too. limit: no file may
become larger. What it answers: {"code": exit code, or minus the signal, "out": "...", "err": "...", "points": ["step
path", ...]}.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

# What a command imports on its way: here it is there before the fork.
IMPORTED = (
    *("torch", "torchvision", "cv2", "tifffile", "safetensors.torch", "safetensors.numpy", "scipy.stats", "jinja2"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "PIL.Image"),
    *("uadctl.bench", "uadctl.models.padim", "uadctl.features.lite0", "uadctl.features.torch_runtime"),
    *("uadctl.calibrate", "uadctl.score", "uadctl.report.html", "uadctl.report.coco", "uadctl.report.markdown"),
    *(
        "uadctl.memory.gaussian",
        "uadctl.memory.index",
        "uadctl.datasets.mvtec",
        "uadctl.runs.listing",
        "uadctl.cli.app",
    ),
    *("rich.console", "rich.table", "rich.progress", "tomli_w", "torch.utils.serialization.config"),
)


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    with os.fdopen(os.dup(1), "w") as answers:
        for line in sys.stdin:
            answers.write(json.dumps(answer(json.loads(line))) + "\n")
            answers.flush()


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a child and tell how it ended."""
    pipes = {name: os.pipe() for name in ("out", "err", "points")}
    child = os.fork()
    if child == 0:
        try:
            code = _child(asked, {name: write for name, (_, write) in pipes.items()})
        except BaseException:  # noqa: BLE001 - nothing may come back into the server's loop
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    said = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector:
        for name, (read, write) in pipes.items():
            os.close(write)
            selector.register(read, selectors.EVENT_READ, name)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                said[key.data] += data
                if not data:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = {name: data.decode("utf-8", "backslashreplace") for name, data in said.items()}
    return {"code": code, **text, "points": text["points"].splitlines()}


def _child(asked: dict[str, Any], pipes: dict[str, int]) -> int:
    os.dup2(pipes["out"], 1)
    os.dup2(pipes["err"], 2)
    os.chdir(asked["cwd"])
    if "limit" in asked:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], asked["limit"]))
    from uadctl.atomic import Step, watched
    from uadctl.cli.app import app

    done = 0

    def watch(step: Step, path: Path) -> None:
        nonlocal done
        done += 1
        os.write(pipes["points"], f"{step} {path}\n".encode())
        if done == asked.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if "full" in asked and (done == asked["full"] or (done > asked["full"] and asked.get("ever"))):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with watched(watch):
        try:
            app(asked["argv"])
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    main()
