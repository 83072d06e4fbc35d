"""The arrows of the design: what a module imports lies below it; heavy packages are imported where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import uadctl

ROOT = Path(uadctl.__file__).parent

# Lowest first. A module may import from its own layer and those before; within "verbs" only from its own file.
LAYERS = (
    ("abrupt", "chatter", "errors", "records", "progress", "atomic", "heap", "locks", "room", "untrusted"),
    ("spec",),
    ("imaging",),
    ("datasets",),
    ("features", "memory"),
    ("models",),
    ("intake", "inference", "tiling"),
    ("metrics", "thresholds"),
    ("engines",),
    ("runs",),
    ("report",),
    ("plan",),
    ("calibrate", "check", "evaluate", "fit", "parity", "robustness", "score", "split", "submission"),
    ("bench", "cells", "service"),
    ("cli",),
)
VERBS = {"calibrate", "check", "evaluate", "fit", "parity", "robustness", "score", "split", "submission"}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

HEAVY = {"torch", "torchvision", "cv2", "tifffile", "safetensors", "sklearn", "faiss", "timm", "anomalib", "matplotlib"}
# Modules that are heavy as a whole, and imported only when they are needed.
HEAVY_MODULES = {
    "features/lite0.py": {"torch"},  # nn.Module subclasses need torch to be defined
    "features/resnet.py": {"torch", "torchvision"},
}
RICH = {"cli/console.py"}


def modules() -> list[Path]:
    found = sorted(p for p in ROOT.rglob("*.py"))
    assert len(found) > 50
    return found


def imports(tree: ast.AST, *, everywhere: bool) -> set[str]:
    """Imported modules; only those at import time unless `everywhere`. TYPE_CHECKING blocks never run."""
    found: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not everywhere:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module in ("uadctl", "uadctl.runs", "uadctl.cli", "uadctl.features", "uadctl.models"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        todo += ast.iter_child_nodes(node)
    return found


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def upward(source: str, name: str) -> list[str]:
    """What a module called `name` must not import, of what its source does import."""
    own = name.split("/")[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return []
    wrong = []
    for module in imports(ast.parse(source), everywhere=True):
        parts = module.split(".")
        if parts[0] != "uadctl" or len(parts) < 2 or parts[1] == "__version__":
            continue
        other = parts[1]
        if LEVEL[other] > LEVEL[own] or (other != own and {other, own} <= VERBS):
            wrong.append(f"{name} imports {module}")
    return wrong


def test_every_module_has_a_layer():
    names = {place(p).split("/")[0].removesuffix(".py") for p in modules()} - {"__init__", "__main__"}
    assert names == set(LEVEL)


def test_arrows_point_down():
    assert [w for p in modules() for w in upward(p.read_text(encoding="utf-8"), place(p))] == []


def test_an_arrow_that_points_up_would_be_seen():
    assert upward("def f():\n    from uadctl.cli import console", "metrics/pixel.py") == [
        "metrics/pixel.py imports uadctl.cli",
        "metrics/pixel.py imports uadctl.cli.console",
    ] or upward("def f():\n    from uadctl.cli.console import screen", "metrics/pixel.py") == [
        "metrics/pixel.py imports uadctl.cli.console"
    ]
    assert upward("from uadctl.fit import fit", "score.py") == ["score.py imports uadctl.fit"]
    assert upward("from uadctl.fit import fit", "bench.py") == []


def test_heavy_packages_are_imported_inside_functions():
    wrong = []
    for path in modules():
        tops = {m.split(".")[0] for m in imports(ast.parse(path.read_text(encoding="utf-8")), everywhere=False)}
        wrong += [f"{place(path)}: {m}" for m in sorted((tops & HEAVY) - HEAVY_MODULES.get(place(path), set()))]
    assert wrong == []


def test_only_the_console_imports_rich():
    users = {
        place(p)
        for p in modules()
        if any(m.split(".")[0] == "rich" for m in imports(ast.parse(p.read_text(encoding="utf-8")), everywhere=True))
    }
    assert users == RICH


def test_nobody_imports_click():
    for path in modules():
        assert not any(m.split(".")[0] == "click" for m in imports(ast.parse(path.read_text("utf-8")), everywhere=True))


def loaded_by(*lines: str) -> set[str]:
    """Top-level packages in sys.modules after the lines ran in a fresh interpreter."""
    code = "\n".join(
        [*lines, "import sys", "sys.stderr.write('LOADED ' + ' '.join(m.split('.')[0] for m in sys.modules))"]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("LOADED ")[2].split())


def command(*words: str, code: int = 0) -> list[str]:
    return [
        "from uadctl.cli.app import app",
        f"try: app({list(words)!r})",
        f"except SystemExit as end: assert end.code == {code}, end.code",
    ]


NOT_FOR_LISTING = HEAVY | {"open_clip", "pyod", "ray", "openvino", "numpy", "pyarrow"}


@pytest.mark.parametrize(
    "lines",
    [
        ["import uadctl"],
        ["import uadctl.spec.registry"],
        ["import uadctl", "uadctl.list_models(); uadctl.model_info('patchcore')"],
        command("--help"),
        command("bench", "--help"),
        command("models", "list"),
        command("models", "list", "--json"),
        command("datasets"),
        ["import uadctl.models.anomalib", "uadctl.models.anomalib.Fastflow"],
        command("bench", "--dataset", "mvtek", "--model", "patchcor", code=2),
    ],
    ids=lambda lines: lines[-2][-50:] if len(lines) > 1 else lines[0],
)
def test_light_work_loads_nothing_heavy(lines):
    assert loaded_by(*lines) & NOT_FOR_LISTING == set()


def test_a_heavy_import_would_be_seen():
    assert loaded_by("import uadctl", "import numpy") & NOT_FOR_LISTING == {"numpy"}


def test_every_target_of_the_registry_exists():
    from uadctl.models.base import Detector
    from uadctl.spec.data_sets import DATASETS
    from uadctl.spec.registry import BACKBONES, MODELS, load_target

    assert len(MODELS) >= 1
    for entry in MODELS.values():
        detector = load_target(entry.target)(**({"checkpoint_path": ""} if entry.requires_checkpoint else {}))
        assert isinstance(detector, Detector), entry.name
    assert len(DATASETS) >= 3
    for data in DATASETS.values():
        module = load_target(data.target)
        assert callable(module.load)
        assert callable(module.list_categories)
    assert len(BACKBONES) >= 8
    for backbone in BACKBONES.values():
        module_name = backbone.target.partition(":")[0]
        assert callable(load_target(backbone.target))
        assert callable(load_target(f"{module_name}:convert"))


def test_every_public_name_can_be_imported():
    assert len(uadctl.__all__) >= 9
    for name in uadctl.__all__:
        assert getattr(uadctl, name) is not None
    with pytest.raises(AttributeError, match=r"^module 'uadctl' has no attribute 'banana'$"):
        _ = uadctl.banana
