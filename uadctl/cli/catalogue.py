"""docs/models.md, made of the registry: every model with its parameters, and the backbones."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from uadctl.cli.models import only_choices
from uadctl.spec.registry import BACKBONES, DOORS, MODELS, BackboneEntry, ModelEntry
from uadctl.spec.signature import AUTO_PARAMS, OF_CATEGORY, ParamInfo, list_params
from uadctl.spec.values import shown
from uadctl.spec.wrapped import AnomalibModel, anomalib_models, pyod_detectors

# The first of these tags or backends that a model has says where it stands on the page, which goes the other way: from
# what looks at patches to what other packages bring.
_GROUPS = (
    ("anomalib", "Trained models of anomalib"),
    ("pyod", "Classical detectors on features"),
    ("clip", "Images and words: CLIP"),
    ("memory-bank", "Memory banks"),
    ("gaussian", "Gaussians"),
)
_OTHERS = "Others"
_WIDTH = 120

_HEAD = """\
# Models

<!-- Written by: uadctl models list --markdown > docs/models.md -->

Every detector that `uadctl bench --model NAME` takes, with the parameters that `[model.params]` and `--model-kwargs`
may give it. Those marked [run] come from `[run]` unless they are given. `uadctl models show NAME` says the same of one
model on this machine, `uadctl models list --check` which of them it can run.
"""

_ANOMALIB = """\
What [anomalib](https://github.com/open-edge-platform/anomalib) has trained is evaluated here, and what it can train is
trained with its Engine, from a spec; see [anomalib.md](anomalib.md). Each model takes either

- `checkpoint_path`, a file that anomalib wrote: `model.ckpt`, `model.pt`, `model.onnx` or `model.xml` with its `.bin`.
  A file must be of the model that is named; `vision_anomalib_checkpoint` takes one of any.
- or `[model.trainer]`, which says how it is trained. The parameters below are for this only: a checkpoint has its own.
"""

_NEEDED = """\
They need `pip install 'uadctl[anomalib]'`, except that uadctl itself reads the checkpoints (`model.ckpt`) of
{native}, and ONNX and OpenVINO files of all of them.
"""

_COLUMNS = """\
In the column "trained", "one pass" means that nobody need say how many epochs, and "1 image" that a step of training
takes no more. Names of anomalib's parameters that mean something else in uadctl have "model_" in front.
"""

_PLUGINS = """\
## Models of other packages

An installed package adds models with an entry point of the group `uadctl.models`, which names a `ModelEntry` or
several:

```toml
[project.entry-points."uadctl.models"]
mine = "my_package.uadctl_models:MODELS"
```

```python
from uadctl.spec import ModelEntry

MODELS = (ModelEntry(name="vision_mine", target="my_package.detector:Mine", summary="What it does."),)
```

`target` is a class as `uadctl.models.base.Detector` describes it. A name that is taken, or a plug-in that cannot be
loaded, is left out, and `uadctl models list` says so.
"""


def page() -> str:
    """The page as Markdown. Of uadctl's own models only: it is the same on every machine."""
    groups: dict[str, list[ModelEntry]] = {title: [] for title in (_OTHERS, *reversed(dict(_GROUPS).values()))}
    for entry in (entry for entry in MODELS.values() if entry.offered):
        groups[_group(entry)[1]].append(entry)
    parts = [_HEAD]
    for title, entries in groups.items():
        if entries:
            parts.append(f"## {title}\n")
            written = _WRITTEN.get(_group(entries[0])[0])
            parts.append("\n".join(map(_section, entries)) if written is None else written(entries))
    return "\n".join([*parts, _backbones(), _PLUGINS]).rstrip()


def _group(entry: ModelEntry) -> tuple[str, str]:
    known = {entry.backend, *entry.tags}
    return next(((tag, title) for tag, title in _GROUPS if tag in known), ("", _OTHERS))


def _section(entry: ModelEntry) -> str:
    facts = [
        ("also", ", ".join(f"`{alias}`" for alias in entry.aliases)),
        ("paper", entry.paper),
        ("extra", f"`pip install 'uadctl[{entry.extra}]'`" if entry.extra else "none needed"),
        ("anomaly maps", "yes" if entry.pixel_map else "no, scores only"),
        ("checkpoint", "needed" if entry.requires_checkpoint else None),
        ("training", entry.untrained),
    ]
    lines = [f"### {entry.name}\n", _filled(entry.summary), ""]
    lines += [_filled(f"- {title}: {text}", hanging="  ") for title, text in facts if text]
    params = _parameters(entry)
    if params is None:
        lines += ["", f"Its parameters are known where `{entry.target.partition(':')[0]}` can be imported.", ""]
    else:
        rows = [(f"`{p.name}`", _code(_type(p)), _code(_default(p)), _meaning(p)) for p in params]
        lines += ["", _table(("parameter", "type", "default", "meaning"), rows), ""]
    return "\n".join(lines)


def _of_pyod(entries: Sequence[ModelEntry]) -> str:
    """A row a model, what the parameters mean that all of them share, and which detectors are no models here."""
    extras = sorted({entry.extra for entry in entries if entry.extra})
    absent = [(f"`{d.target.replace(':', '.')}`", d.reason) for d in pyod_detectors() if d.reason is not None]
    return "\n".join(
        [
            *(f"They need `pip install 'uadctl[{extra}]'`.\n" for extra in extras),
            _compact(entries),
            "PyOD has others, which uadctl does not offer:\n",
            _table(("detector", "why not"), absent),
            "",
        ]
    )


def _of_anomalib(entries: Sequence[ModelEntry]) -> str:
    """The model for any checkpoint, a row for each that names one, and which of anomalib's are no models here."""
    facts = {model.name: model for model in anomalib_models()}
    named = [entry for entry in entries if entry.anomalib_model in facts]
    native = " and ".join(f"`{entry.name}`" for entry in named if facts[str(entry.anomalib_model)].native)
    absent = [(f"`{entry.name}`", entry.reason or "") for entry in MODELS.values() if not entry.offered]
    untrained = [(f"`{entry.name}`", entry.untrained) for entry in named if entry.untrained]
    return "\n".join(
        [
            _ANOMALIB,
            _NEEDED.format(native=native),
            *(_section(entry) for entry in entries if entry not in named),
            "### vision_NAME_anomalib\n",
            _COLUMNS,
            _compact(named, trained=[_training(facts[str(entry.anomalib_model)]) for entry in named]),
            "Some are not trained by uadctl:\n",
            _table(("model", "why not"), untrained),
            "\nanomalib has others, which uadctl does not offer:\n",
            _table(("model", "why not"), absent),
            "",
        ]
    )


def _training(model: AnomalibModel) -> str:
    if not model.trainable:
        return "no"
    if model.one_pass:
        return "one pass"
    return "yes" if model.batch_size is None else f"yes, {model.batch_size} image"


# How the groups of many small models are written; the others have a section a model.
_WRITTEN: dict[str, Callable[[Sequence[ModelEntry]], str]] = {"anomalib": _of_anomalib, "pyod": _of_pyod}


def _compact(entries: Sequence[ModelEntry], *, trained: Sequence[str] = ()) -> str:
    """A row a model; below, what the parameters mean that all of them share. trained: a further cell for each row."""
    known = {entry.name: _parameters(entry) or [] for entry in entries}
    shared = [
        param
        for param in next(iter(known.values()))
        if all(any(_same(param, other) for other in params) for params in known.values())
    ]
    names = {param.name for param in shared}
    rows = []
    for i, entry in enumerate(entries):
        own = ", ".join(_with_default(p) for p in known[entry.name] if p.name not in names)
        paper = entry.paper or ""
        also = ", ".join(f"`{alias}`" for alias in entry.aliases)
        maps = "yes" if entry.pixel_map else "no"
        rows.append((f"`{entry.name}`", also, entry.summary, paper, maps, *trained[i : i + 1], own))
    further = ("trained",) if trained else ()
    headings = ("model", "also", "what it does", "paper", "maps", *further, "parameters of its own, with defaults")
    lines = [_table(headings, rows), ""]
    if shared:
        table = [(f"`{p.name}`", _code(_type(p)), _code(_default(p)), _meaning(p)) for p in shared]
        lines += ["All of them take besides:\n", _table(("parameter", "type", "default", "meaning"), table), ""]
    return "\n".join(lines)


def _same(one: ParamInfo, other: ParamInfo) -> bool:
    return (one.name, one.type, one.default, one.doc) == (other.name, other.type, other.default, other.doc)


def _parameters(entry: ModelEntry) -> list[ParamInfo] | None:
    """The parameters that a spec can give; None if the module cannot be imported here."""
    try:
        return [param for param in list_params(entry.name) if param.settable]
    except ImportError:
        return None


def _type(param: ParamInfo) -> str:
    if only_choices(param):
        return " or ".join(shown(choice) for choice in param.choices)
    return param.type.removesuffix(" | None")


def _default(param: ParamInfo) -> str:
    if param.name in AUTO_PARAMS:
        return "[run]"
    if param.name in OF_CATEGORY:
        return "the category"
    if param.required:
        return "needed"
    return "" if param.default is None else shown(param.default)


def _with_default(param: ParamInfo) -> str:
    default = _default(param)
    return f"`{param.name}` = {default}" if default else f"`{param.name}`"


def _meaning(param: ParamInfo) -> str:
    return " ".join(param.doc.split())


def _backbones() -> str:
    lines = [
        "## Backbones\n",
        _filled(
            "The networks that a model with the parameter `backbone` can be given. `uadctl models fetch NAME` brings "
            "their weights, see [weights.md](weights.md); `uadctl models show NAME` shows all layers."
        ),
        "",
        _table(
            ("backbone", "default layers", "channels", "stride", "weights", "licence", "paper"),
            [_backbone(e) for e in BACKBONES.values() if not e.family],
        ),
        "\nOf torchvision, by name:\n",
        _table(
            ("backbone", "default layers", "channels", "stride", "weights", "licence", "paper"),
            [_backbone(e) for e in BACKBONES.values() if e.family],
        ),
        "",
        _filled(
            f"Also {' and '.join(f'`{door}:NAME`' for door in sorted(DOORS))}: whatever these libraries have under "
            "NAME, with its own weights, e.g. `timm:vit_small_patch14_dinov2.lvd142m`."
        ),
        "",
    ]
    return "\n".join(lines)


def _backbone(entry: BackboneEntry) -> tuple[str, ...]:
    used = entry.layers
    return (
        f"`{entry.name}`",
        ", ".join(f"`{layer}`" for layer in used),
        ", ".join(str(entry.channels[layer]) for layer in used),
        ", ".join(str(entry.strides[layer]) for layer in used),
        f"`{entry.weights.file}`",
        entry.weights.licence,
        entry.paper,
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _filled(text: str, *, hanging: str = "") -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)
