"""The program as a process of its own, with a plug-in model that blocks, or talks, as other libraries do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import parts

ROOT = Path(__file__).parent.parent

PLUGIN = '''
import os
import time
from pathlib import Path

import numpy as np

from uadctl.models.base import FromPredictions
from uadctl.records import Prediction
from uadctl.spec import ModelEntry

MODELS = ModelEntry(
    name="vision_blocks", target="uadctl_blocking_plugin:Blocks", summary="Its speed is odd.", pixel_map=False
)


def in_c():
    """Minutes in C, which no signal interrupts; other threads run."""
    import hashlib

    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


def in_pool():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(in_c).result()


def behind_exit():
    """The main thread goes on; the exit waits for the other."""
    from concurrent.futures import ThreadPoolExecutor

    ThreadPoolExecutor(1).submit(in_c)
    time.sleep(60)


def deaf():
    while True:
        try:
            time.sleep(0.1)
        except BaseException:
            pass


def asleep():
    time.sleep(60)


def talk():
    import logging
    import sys
    import warnings

    logging.getLogger("lightning.pytorch").info("GPU available: False")
    logging.getLogger("matplotlib.font_manager").warning("findfont: Font family %r not found.", "Ariel")
    own = logging.getLogger("torch.nonsense")
    own.propagate = False
    own.addHandler(logging.StreamHandler())
    try:
        raise KeyError("rank")
    except KeyError:
        own.exception("no rank")
    logging.warning("by the root logger")
    logging.getLogger("timm").warning("%d and %d", 1)
    warnings.warn("the transform is deprecated", FutureWarning)
    import tqdm

    for _ in tqdm.tqdm(range(3)):
        pass


class Blocks(FromPredictions):
    """A detector.

    device: the processor.
    """

    def __init__(self, *, device: str = "cpu") -> None:
        self.device = device
        self.contamination = 0.1
        self.is_ready = False

    stride = 1
    images_per_batch = 2

    @property
    def is_fitted(self):
        return self.is_ready

    def weights_state(self):
        return "none"

    def prepare(self, *, download=True):
        self._come_to("prepare")

    def fit(self, images, *, left_out=None, threshold=True, progress=None):
        for image in images:
            pass
        self._come_to("fit")
        self.is_ready = True
        return self

    def predict_batch(self, images):
        self._come_to("predict")
        return [Prediction(float(np.float32(image.mean())), None) for image in images]

    def state(self):
        import torch

        return {"nothing": torch.zeros(1)}, {}

    def restore(self, tensors, facts):
        self.is_ready = True
        return self

    def facts(self):
        return {}

    def _come_to(self, place):
        at, _, what = os.environ.get("BLOCKS", "").partition(":")
        if at == place and what:
            counted = Path(os.environ["BLOCKS_FILE"])
            n = int(counted.read_text()) + 1 if counted.exists() else 1
            counted.write_text(str(n))
            if n >= int(os.environ.get("BLOCKS_FROM", "1")):
                counted.with_suffix(".there").touch()
                globals()[what]()
'''


class Program:
    """The program with the plug-in, in a folder with a small data set, data/tile and data/zinc."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        site = folder / "site"
        info = site / "uadctl_blocking_plugin-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: uadctl-blocking-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[uadctl.models]\nblocks = uadctl_blocking_plugin:MODELS\n")
        (site / "uadctl_blocking_plugin.py").write_text(PLUGIN)
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "BLOCKS_FILE": str(folder / "blocks"),
        }
        for name in ("BLOCKS", "COLUMNS", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            self.environment.pop(name, None)
        for name in ("tile", "zinc"):
            parts.write_category(folder / "data", name, train=20, good=1, bad=1, size=(32, 32))

    MODEL = ("--dataset", "mvtec", "--root", "data", "--model", "vision_blocks", "--set", "preprocess.size=32")

    def start(self, *words: object, blocks: str = "", since: int = 1, **options: object) -> subprocess.Popen[str]:
        """blocks: PLACE:WHAT of the plug-in. since: the how many-eth time that it comes to this place."""
        self.there.unlink(missing_ok=True)
        (self.folder / "blocks").unlink(missing_ok=True)
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-m", "uadctl", *map(str, words)],
            text=True,
            cwd=self.folder,
            env={**self.environment, "BLOCKS": blocks, "BLOCKS_FROM": str(since)},
            # A shell that starts jobs in the background lets them ignore Ctrl-C; these must not inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **settings,  # type: ignore[call-overload]
        )

    def run(self, *words: object, code: int = 0, **how: object) -> tuple[str, str]:
        """stdout and stderr of a command."""
        process = self.start(*words, **how)  # type: ignore[arg-type]
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, (process.returncode, out, err)
        return out, err

    @property
    def there(self) -> Path:
        return self.folder / "blocks.there"

    def wait_there(self, process: subprocess.Popen[str]) -> None:
        """Until the plug-in has come to where it blocks."""
        wait_until(self.there.exists, process)
        time.sleep(0.2)


def wait_until(true: object, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while not true():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
