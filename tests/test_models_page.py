"""docs/models.md is what the registry says."""

from __future__ import annotations

from pathlib import Path

from uadctl.cli import catalogue
from uadctl.spec import BACKBONES, MODELS, ModelEntry, list_params
from uadctl.spec.wrapped import anomalib_models

PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def test_the_page_is_up_to_date(uadctl):
    assert uadctl("models", "list", "--markdown").out == PAGE.read_text(encoding="utf-8")


def test_every_model_parameter_and_backbone_is_on_it():
    text = catalogue.page()
    assert len(MODELS) >= 70
    for entry in MODELS.values():
        assert (f"### {entry.name}\n" in text) + text.count(f"| `{entry.name}` |") >= 1, entry.name
        assert all(f"`{alias}`" in text for alias in entry.aliases)
    for param in list_params("patchcore"):
        assert (f"| `{param.name}` |" in text) == param.settable
    assert all(text.count(f"| `{name}` |") == 1 for name in BACKBONES)
    assert '| `knn_backend` | `"faiss" or "numpy"' in text or '`"torch" or "numpy" or "sklearn" or "faiss"`' in text


def test_classical_models_share_one_table(monkeypatch):
    for i, (name, own) in enumerate((("Checkpoint", "first"), ("Trainable", "other"))):
        entry = ModelEntry(
            name=f"vision_classic_{i}",
            target=f"spec_models:{name}",
            summary=own,
            backend="pyod",
            extra="pyod",
            pixel_map=False,
            not_settable=("trainer",),
        )
        monkeypatch.setitem(MODELS, entry.name, entry)
    text = catalogue.page()
    section = text.split("## Classical detectors on features\n")[1].split("\n## ")[0]
    assert section.startswith("\nThey need `pip install 'uadctl[pyod]'`.\n")
    assert "| `vision_classic_1` |  | other |  | no | `checkpoint_path`, `width` = 8 |" in section


def test_anomalibs_models_are_rows_that_say_how_they_are_trained():
    text = catalogue.page()
    section = text.split("## Trained models of anomalib\n")[1].split("\n## ")[0]
    rows = {
        line.split("`")[1]: line.strip("| ").split(" | ")
        for line in section.splitlines()
        if line.startswith("| `vision_") and line.count(" | ") == 6
    }
    assert len(rows) == len([m for m in anomalib_models() if m.offered]) == 31
    assert [rows[f"vision_{name}_anomalib"][5] for name in ("patchcore", "stfpm", "efficient_ad", "winclip")] == [
        "one pass",
        "yes",
        "yes, 1 image",
        "no",
    ]
    assert [rows[f"vision_{name}_anomalib"][4] for name in ("padim", "ganomaly")] == ["yes", "no"]
    assert rows["vision_padim_anomalib"][6].endswith("`pre_trained` = true, `n_features`")
    assert "the checkpoints (`model.ckpt`) of\n`vision_padim_anomalib` and `vision_patchcore_anomalib`," in section
    assert "\n### vision_anomalib_checkpoint\n" in section
    others = section.split("anomalib has others, which uadctl does not offer:\n\n")[1]
    assert "| `vision_ai_vad_anomalib` | it takes videos, and uadctl takes single images |\n" in others
    assert others.count("\n| `vision_") == 4
    untrained = section.split("Some are not trained by uadctl:\n")[1].split("\nanomalib has others")[0]
    assert untrained.count("\n| `vision_") == 2


def test_a_model_whose_module_is_not_there_says_so(monkeypatch):
    entry = ModelEntry(name="vision_absent", target="uadctl_absent:Absent", summary="It is not there.")
    monkeypatch.setitem(MODELS, entry.name, entry)
    text = catalogue.page()
    assert "### vision_absent\n" in text
    assert "\nIts parameters are known where `uadctl_absent` can be imported.\n" in text


def test_a_stroke_in_a_cell_does_not_end_it():
    assert catalogue._table(("a",), [("x | y",)]) == "| a |\n|---|\n| x \\| y |"


def test_a_parameter_that_takes_more_than_its_choices_has_its_annotation():
    text = catalogue.page()
    assert "| `image_size` | `int \\| Literal['given']` | `448` |" in text
    assert "| `batch_size` | `int \\| Literal['auto']` | `[run]` |" in text
    assert '| `precision` | `"auto" or "bf16" or "fp16" or "fp32"` | `[run]` |' in text
