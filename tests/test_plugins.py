"""Models of other packages: found wherever a model can be named; what is wrong with one stops nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from test_layers import loaded_by

from uadctl.cli.complete import complete_model
from uadctl.spec import MODELS, list_models, list_params, read_spec, resolve_model
from uadctl.spec.plugins import find_plugins
from uadctl.spec.registry import all_models, find_model, no_such_model
from uadctl.spec.schema import spec_schema

MODULE = '''
from uadctl.spec import ModelEntry


class Mine:
    """A detector.

    width: how wide.
    """

    def __init__(self, *, width: int = 3) -> None:
        self.width = width

    def weights_state(self) -> str:
        return "none"


def entry(name, **facts):
    return ModelEntry(name=name, target="uadctl_fake_plugin:Mine", summary="A model of others.", **facts)


ONE = entry("vision_mine", aliases=("mine",), tags=("others",))
SEVERAL = [entry("vision_mine_a"), entry("vision_mine_b")]
OURS = (entry("vision_patchcore"), entry("vision_theirs", aliases=("patchcore",)), entry("vision_kept"))
AGAIN = entry("vision_again", aliases=("mine",))
MIXED = (entry("vision_mixed"), 3)
NUMBER = 7
TEXT = "vision_text"


def stream():
    yield entry("vision_streamed")
    raise RuntimeError("half way")


BROKEN = stream()


class Fussy(Mine):
    def __init__(self) -> None:
        raise SystemExit("no licence key")


FUSSY = ModelEntry(name="vision_fussy", target="uadctl_fake_plugin:Fussy", summary="It ends the program.")
ABSENT = ModelEntry(name="vision_absent", target="uadctl_fake_plugin_absent:Model", summary="It is not there.")
NAMES = (entry("vision/mine"), entry("vision_fine", aliases=("a\\nb",)), entry("x" * 65), entry(3))


class Ends:
    def __iter__(self):
        raise SystemExit(3)


ENDS = Ends()
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with these entry points of the group uadctl.models."""

    def install(**points: str) -> None:
        site = tmp_path / "site"
        info = site / "uadctl_fake_plugin-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: uadctl-fake-plugin\nVersion: 1.0\n")
        lines = [f"{name} = uadctl_fake_plugin{target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[uadctl.models]", *lines, ""]))
        (site / "uadctl_fake_plugin.py").write_text(MODULE)
        monkeypatch.syspath_prepend(site)
        find_plugins.cache_clear()

    yield install
    find_plugins.cache_clear()
    sys.modules.pop("uadctl_fake_plugin", None)


def test_a_model_is_found_by_name_alias_tag_and_in_listings(install):
    install(mine=":ONE", more=":SEVERAL")
    assert find_plugins().problems == ()
    assert find_model("mine") is resolve_model("vision_mine") is all_models()["vision_mine"]
    assert list_models("others") == ["vision_mine"]
    assert list_models() == sorted([*MODELS, "vision_mine", "vision_mine_a", "vision_mine_b"])
    assert [p.name for p in list_params("mine")] == ["width"]
    assert no_such_model("vision_mene") == "no such model; did you mean vision_mine? See: uadctl models list"
    assert "vision_mine" not in MODELS


def test_specs_schema_completion_and_commands_know_it(install, uadctl, monkeypatch):
    install(mine=":ONE")
    monkeypatch.setattr("uadctl.spec.registry.MODELS", {"vision_patchcore": MODELS["vision_patchcore"]})
    assert complete_model("vision_mi") == [("vision_mine", "A model of others.")]
    assert complete_model("min") == [("mine", "A model of others.")]
    schema = spec_schema()
    assert schema["$defs"]["vision_mine"]["properties"]["width"]["default"] == 3
    document = {"dataset": {"name": "demo"}, "model": {"name": "mine", "params": {"width": 4}}}
    jsonschema.validate(document, schema)
    Path("s.toml").write_text('[dataset]\nname = "demo"\n[model]\nname = "mine"\nparams.width = 4\n')
    assert read_spec("s.toml").spec.models[0].name == "vision_mine"
    assert uadctl("models", "show", "mine", "--json").json["weights"] == "none"
    assert "\nweights: none: it uses no network\n" in uadctl("models", "show", "mine").out
    ended = uadctl("models", "fetch", "mine", "--to", "w")
    assert (ended.out, ended.err) == ("", "note: mine uses no network: nothing to fetch\n")
    rows = {row["name"]: row for row in uadctl("models", "list", "--check", "--json").json["models"]}
    assert rows["vision_mine"]["ready"]


def test_what_is_wrong_with_one_is_said_and_the_others_stay(install, uadctl):
    install(
        a=":ONE",
        b=":AGAIN",
        c=":OURS",
        d=":MIXED",
        e=":NUMBER",
        f=":TEXT",
        g=":BROKEN",
        h=":NOTHING",
        i="_absent:MODELS",
    )
    assert sorted(find_plugins().entries) == ["vision_kept", "vision_mine", "vision_mixed"]
    assert find_plugins().problems == (
        "plug-in b (uadctl_fake_plugin:AGAIN): vision_again: another plug-in has a model called mine already",
        "plug-in c (uadctl_fake_plugin:OURS): vision_patchcore: uadctl has a model called vision_patchcore already",
        "plug-in c (uadctl_fake_plugin:OURS): vision_theirs: uadctl has a model called patchcore already",
        "plug-in d (uadctl_fake_plugin:MIXED): expected a ModelEntry, found int",
        "plug-in e (uadctl_fake_plugin:NUMBER): expected a ModelEntry, found int",
        "plug-in f (uadctl_fake_plugin:TEXT): expected a ModelEntry, found str",
        "plug-in g (uadctl_fake_plugin:BROKEN): cannot be loaded: RuntimeError: half way",
        "plug-in h (uadctl_fake_plugin:NOTHING): cannot be loaded: AttributeError: module 'uadctl_fake_plugin' has no "
        "attribute 'NOTHING'",
        "plug-in i (uadctl_fake_plugin_absent:MODELS): cannot be loaded: ModuleNotFoundError: No module named "
        "'uadctl_fake_plugin_absent'",
    )
    ended = uadctl("models", "list", "--json")
    assert ended.err == "".join(f"warning: {problem}\n" for problem in find_plugins().problems)
    assert {"vision_mine", "vision_kept", "vision_patchcore"} <= {row["name"] for row in ended.json}
    assert resolve_model("patchcore").target == "uadctl.models.patchcore:PatchCore"


def test_a_plugin_that_would_end_the_program_does_not(install, uadctl):
    install(a=":ENDS", b=":ONE")
    assert list(find_plugins().entries) == ["vision_mine"]
    assert find_plugins().problems == ("plug-in a (uadctl_fake_plugin:ENDS): cannot be loaded: SystemExit: 3",)
    assert find_plugins().sources == {"vision_mine": "plug-in b (uadctl_fake_plugin:ONE)"}


def test_names_that_no_label_could_have_are_refused(install):
    install(a=":NAMES")
    assert find_plugins().entries == {}
    said = "cannot be a model's name: results in folders have it"
    assert find_plugins().problems == tuple(
        f"plug-in a (uadctl_fake_plugin:NAMES): {name} {said}"
        for name in ('"vision/mine"', '"a\\nb"', f'"{"x" * 65}"', "3")
    )


@pytest.mark.parametrize("verb", ["show", "fetch", "verify"])
def test_a_model_that_cannot_be_built_is_said_with_its_plugin_and_target(install, uadctl, verb):
    install(fussy=":FUSSY", absent=":ABSENT")
    assert uadctl("models", verb, "vision_fussy", code=2).err == (
        "error: vision_fussy, of plug-in fussy (uadctl_fake_plugin:FUSSY): uadctl_fake_plugin:Fussy cannot be built: "
        "SystemExit: no licence key\n"
    )
    done = "imported" if verb == "show" else "built"
    assert uadctl("models", verb, "vision_absent", code=2).err == (
        "error: vision_absent, of plug-in absent (uadctl_fake_plugin:ABSENT): uadctl_fake_plugin_absent:Model cannot be "
        f"{done}: ModuleNotFoundError: No module named 'uadctl_fake_plugin_absent'\n"
    )
    rows = {row["name"]: row for row in uadctl("models", "list", "--check", "--json").json["models"]}
    assert rows["vision_fussy"]["needs"] == ["it cannot be built: SystemExit: no licence key"]


def test_the_page_of_the_docs_holds_our_own_models_only(install, uadctl):
    before = uadctl("models", "list", "--markdown").out
    install(mine=":ONE")
    assert uadctl("models", "list", "--markdown").out == before


def test_a_model_of_our_own_does_not_look_for_plugins():
    assert "importlib.metadata" not in _modules("import uadctl.spec as s; s.resolve_model('patchcore')")
    assert "importlib.metadata" in _modules("import uadctl.spec as s; s.list_models()")
    assert loaded_by("import uadctl.spec as s", "s.list_models()").isdisjoint({"torch", "numpy"})


def _modules(line: str) -> set[str]:
    code = f"{line}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
