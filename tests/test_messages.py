"""What people read when something is wrong: the messages whole, as they stand on the screen."""

from __future__ import annotations

import json
import sys

import numpy as np
import parts
import pytest

from uadctl.errors import BackendMissing
from uadctl.spec import require


def test_a_spec_with_three_mistakes(uadctl, tmp_path):
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "screw.toml").write_text(
        "[run]\nseed = 0\nbatch = 4\n\n[dataset]\nname = 'demo'\n\n[[model]]\nname = 'patchcor'\n\n"
        "[[model]]\nname = 'vision_patchcore'\n[model.params]\ncoreset_fraction = 0.1\n"
    )
    ended = uadctl("bench", "specs/screw.toml", code=2)
    assert ended.out == ""
    assert ended.err == (
        "error: specs/screw.toml:3: [run] batch is not a key of [run]; did you mean batch_size?\n"
        "  [run] takes: address, batch_size, cpus, device, dir, engine, feature_cache, gpus, name, precision, seed, seeds, "
        "threads, workers\n"
        'error: specs/screw.toml:9: [model] name = "patchcor": no such model; did you mean vision_patchcore? '
        "See: uadctl models list\n"
        "error: specs/screw.toml:14: [model.params] coreset_fraction is not a parameter of vision_patchcore; "
        "did you mean coreset_ratio?\n"
        "  vision_patchcore takes: backbone, batch_size, contamination, coreset, coreset_ratio, device, faiss_index, "
        "feature_memory, knn_backend, knn_precision, knn_verify, layers, n_neighbors, neighborhood, precision, "
        "pretrained, projection_dim, runtime, seed, sigma, weights\n"
        "specs/screw.toml: 3 problems (listed above); nothing was run.\n"
    )


def test_seven_different_mistakes_have_seven_lines(uadctl, tmp_path):
    (tmp_path / "seven.toml").write_text(
        "[run]\n"
        "seed = -1\n"  # out of range
        "device = 'gpu'\n"  # not a choice
        "[dataset]\n"
        "name = 'mvtek'\n"  # no such data set
        "[preproces]\n"  # no such table
        "size = 256\n"
        "[model]\n"
        "name = 'patchcore'\n"
        "[model.params]\n"
        "layers = 'layer2'\n"  # not a list
        "coreset = 0.1\n"  # no such parameter
        "[metrics]\n"
        "pixel = 'yes'\n"  # not a boolean
    )
    ended = uadctl("bench", "seven.toml", code=2)
    assert ended.out == ""
    places = [line.split(": ")[1] for line in ended.err.splitlines() if line.startswith("error: ")]
    assert places == [f"seven.toml:{n}" for n in (2, 3, 5, 6, 11, 12, 14)]
    assert ended.err.splitlines()[-1] == "seven.toml: 7 problems (listed above); nothing was run."


def test_a_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(BackendMissing) as caught:
        require("open_clip", "clip", needed_by="vision_openclip_promptscore")
    assert str(caught.value) == (
        "vision_openclip_promptscore needs open_clip, which is not installed. "
        "Install it with: pip install 'uadctl[clip]'"
    )


@pytest.fixture
def screw(tmp_path):
    """data/screw, in the working directory of the command."""
    return parts.write_category(tmp_path / "data", "screw", train=2, good=1, bad=8)


FLAGS = ("--dataset", "mvtec", "--root", "data", "--model", "patchcore", "--set", "preprocess.size=64")


def test_a_missing_mask(uadctl, screw):
    (screw / "ground_truth/scratch/007_mask.png").unlink()
    here = screw.parent
    assert uadctl("bench", *FLAGS).err == (
        f"warning: {here}/screw/test/scratch/007.png: no mask at {here}/screw/ground_truth/scratch/007_mask.png; "
        "left out of the pixel metrics\n"
    )


def test_a_mask_of_another_size(uadctl, screw):
    mask = parts.write(screw / "ground_truth/scratch/007_mask.png", np.full((32, 48), 255, np.uint8))
    assert uadctl("bench", *FLAGS, code=1).err == (
        f"error: screw / vision_patchcore: {mask} is 32x48, its image is 64x64 (height x width)\n"
        "  A mask must have the size of its image, as displayed.\n"
    )


def test_an_undefined_metric(uadctl, tmp_path):
    parts.write_category(tmp_path / "data", "cable", train=2, good=3, bad=0)
    ended = uadctl("bench", *FLAGS, "--json")
    assert ended.err == (
        "warning: cable: image AUROC is undefined, the test split has no defect image (3 normal). Written as null.\n"
    )
    assert ended.json["results"]["cable"]["vision_patchcore"]["0"]["metrics"]["image_auroc"] is None


def test_a_toml_syntax_error_is_said_alone(uadctl, tmp_path):
    (tmp_path / "s.toml").write_text("[run]\nseed = = 1\n[dataset]\nname = 'mvtek'\n")
    ended = uadctl("bench", "s.toml", code=2)
    (line,) = ended.err.splitlines()
    assert line.startswith("error: s.toml:2: ")


def test_a_broken_gate_ends_with_3_and_keeps_the_results(uadctl, screw):
    ended = uadctl("bench", *FLAGS, "--set", "gate.image_auroc.min=1.01", "--json", code=3)
    (line,) = ended.err.splitlines()
    assert line.startswith("error: gate: ")
    assert "image_auroc is " in line
    assert "1.01" in line
    assert json.loads(ended.out)["gate"]["passed"] is False
