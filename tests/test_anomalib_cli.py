"""anomalib's models on the command line: checkpoints, training, thresholds, runs that need no checkpoint any more."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import anomalib_doubles
import parts
import pytest

from uadctl import load_run, run_benchmark
from uadctl.check import check_spec
from uadctl.errors import WeightsError
from uadctl.runs.folder import RunFolder
from uadctl.spec import Overrides, read_spec
from uadctl.spec.values import shown

INSTALL = "pip install 'uadctl[anomalib]'"
OF_ONE_ALIAS = "vision_patchcore_anomalib"
OF_ANY = "vision_anomalib_checkpoint"
NO_EFFECT = "has no effect: the checkpoint learns no training image"


@pytest.fixture
def asked(monkeypatch) -> anomalib_doubles.Asked:
    return anomalib_doubles.use(monkeypatch)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A file that stands for a checkpoint; the double does not look into it."""
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"no checkpoint")
    return file


@pytest.fixture
def tiles(one_category) -> list[str]:
    """Options of a bench on the category tile: 6 training images, 2 good and 3 scratched test images."""
    return ["--dataset", "mvtec", "--root", str(one_category), "--device", "cpu"]


def run_json(ended: Any) -> dict[str, Any]:
    return json.loads((Path(ended.json["run"]) / "run.json").read_text(encoding="utf-8"))


# -- what is given, and what is said of it


def messages(uadctl, tiles, *words: object, command: str = "bench") -> str:
    """What is wrong with a command; nothing is printed, nothing is begun."""
    ended = uadctl(command, *tiles, *words, code=2)
    assert ended.out == ""
    assert not Path("runs").exists()
    return ended.err


@pytest.mark.parametrize("command", ["bench", "fit"])
@pytest.mark.parametrize("name", [OF_ONE_ALIAS, OF_ANY])
def test_a_missing_checkpoint_is_said_with_every_way_to_give_it(uadctl, tiles, command, name):
    """K07."""
    ways = "Give --checkpoint-path FILE, or model.params.checkpoint_path (in --model-kwargs: checkpoint_path)"
    expected = f"error: --model {name}: {name} needs a checkpoint and none is given. {ways}"
    if name == OF_ONE_ALIAS:
        expected += ", or [model.trainer] to train it\n"
    else:
        expected += (
            "\n  uadctl does not train it: no model of anomalib is named; the models vision_NAME_anomalib are trained\n"
        )
    assert messages(uadctl, tiles, "--model", name, command=command) == expected


def test_four_mistakes_have_four_messages(uadctl, tiles):
    """K18, K01, K02, K04, K07."""
    cases = {
        ("--model-kwargs", "{"): "error: --model-kwargs is not valid JSON: ",
        ("--model-kwargs", "[1]"): "error: --model-kwargs: expected a JSON object, found a list: [1]\n",
        (): f"error: --model {OF_ANY}: {OF_ANY} needs a checkpoint and none is given. ",
        ("--checkpoint-path", "a.ckpt", "--model-kwargs", '{"checkpoint_path": "b.ckpt"}'): (
            f"error: --checkpoint-path {Path('a.ckpt').resolve()} and the model parameter checkpoint_path = "
            f"{shown(str(Path('b.ckpt').resolve()))} conflict\n"
        ),
    }
    found = {messages(uadctl, tiles, "--model", OF_ANY, *words): start for words, start in cases.items()}
    assert len(found) == 4
    for said, start in found.items():
        assert said.startswith(start)
        assert said.count("error: ") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--checkpoint-path", "model.ckpt"],
        ["--model-kwargs", '{"checkpoint_path": "model.ckpt"}'],
        ["--checkpoint-path", "model.ckpt", "--model-kwargs", '{"checkpoint_path": "model.ckpt"}'],
    ],
)
@pytest.mark.parametrize("name", [OF_ONE_ALIAS, OF_ANY])
def test_the_checkpoint_reaches_the_constructor_once(uadctl, tiles, asked, checkpoint, monkeypatch, name, words):
    """K03, K05, K16."""
    from uadctl import plan

    built: list[dict[str, object]] = []
    create = plan.create_model

    def recording(name: str, **params: object) -> object:
        built.append({"name": name, **params})
        return create(name, **params)

    monkeypatch.setattr(plan, "create_model", recording)
    assert uadctl("bench", *tiles, "--model", name, *words, "--json").json["means"][name]["image_auroc"] == 1.0
    assert len(built) >= 2
    for given in built:
        assert given["name"] == name
        assert given["checkpoint_path"] == str(checkpoint)
        assert "trust_checkpoint" not in given
    expected = ("model.ckpt", "patchcore" if name == OF_ONE_ALIAS else None, False)
    assert asked.opened == [expected, expected]


def test_a_checkpoint_for_a_model_that_takes_none_is_an_error(uadctl, tiles):
    """K19; and a conflict is reported as a conflict."""
    given = ["--model", "vision_patchcore", "--checkpoint-path", "a.ckpt"]
    assert messages(uadctl, tiles, *given) == (
        "error: --checkpoint-path a.ckpt: vision_patchcore takes no checkpoint: checkpoint_path would have no effect\n"
    )
    said = messages(uadctl, tiles, *given, "--model-kwargs", '{"checkpoint_path": "b.ckpt"}')
    assert said.startswith("error: --checkpoint-path ")
    assert "conflict\n" in said


def test_an_unknown_parameter_is_refused_with_the_nearest(uadctl, tiles, asked, checkpoint):
    """K08 through the command line."""
    said = messages(
        uadctl, tiles, "--model", OF_ONE_ALIAS, "--checkpoint-path", checkpoint, "--model-kwargs", '{"inferense": "a"}'
    )
    assert said.startswith(
        f"error: --model-kwargs: inferense is not a parameter of {OF_ONE_ALIAS}; did you mean inference?\n"
    )


@pytest.mark.parametrize("command", ["bench", "fit"])
def test_help_has_an_example_of_each_option(uadctl, command):
    """K17."""
    text = " ".join(uadctl(command, "--help").out.split())
    assert "--checkpoint-path FILE Trained model for those that need one, e.g. --checkpoint-path model.ckpt" in text
    assert "--model-kwargs JSON Model parameters as a JSON object, e.g. '{\"coreset_ratio\": 0.01}'." in text
    assert (
        "--trust-checkpoint Load that file though it can run code, as a .pt does: only if you trust who made it."
        in text
    )


@pytest.mark.parametrize("command", ["bench", "fit"])
def test_without_anomalib_the_message_names_the_pip_command(uadctl, tiles, tmp_path, monkeypatch, command):
    """A02."""
    (tmp_path / "model.pt").write_bytes(b"anything")
    anomalib_doubles.block(monkeypatch)
    said = messages(uadctl, tiles, "--model", OF_ANY, "--checkpoint-path", "model.pt", command=command)
    assert "needs anomalib, which is not installed" in said
    assert INSTALL in said
    spec = write_spec(tmp_path, "fastflow", "[model.trainer]\nmax_epochs = 1\n")
    said = messages(uadctl, [], spec, command=command)
    assert "training vision_fastflow_anomalib needs anomalib, which is not installed" in said
    assert INSTALL in said


# -- a checkpoint from bench to score


def units(run: Path) -> list[Path]:
    return [unit.path for unit in RunFolder.open(run).units()]


def test_a_checkpoint_is_measured_scored_and_calibrated(uadctl, tiles, asked, checkpoint, tmp_path):
    """A15; T10: where the scores of the threshold come from is said."""
    given = ["--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt", "--pixel"]
    ended = uadctl("bench", *tiles, *given, "--json")
    cell = ended.json["results"]["tile"][OF_ONE_ALIAS]["0"]
    assert cell["metrics"]["image_auroc"] == 1.0
    assert cell["metrics"]["pixel_auroc"] > 0.9
    assert cell["counts"]["train_images"] == 0
    (timed,) = ended.json["timing"]["units"]
    assert timed["train_images"] == 0
    assert "[preprocess]" not in ended.err  # of another library's model nobody would expect the default to apply
    assert (
        f"warning: tile · {OF_ONE_ALIAS}: the threshold comes from 6 training images, which the checkpoint may have "
        "learned: it is then too low. Good images that it has not seen mend that: uadctl calibrate RUN --good DIR\n"
    ) in ended.err
    run = Path(ended.json["run"])
    facts = run_json(ended)["models"][OF_ONE_ALIAS]["tile"]
    assert facts["computed_by"] == "a double"
    assert facts["anomalib_postprocessing"]["image_threshold"] == 0.25
    (unit,) = units(run)
    limits = json.loads((unit / "thresholds.json").read_text(encoding="utf-8"))
    assert (limits["image"]["source"], limits["image"]["n"]) == ("training", 6)
    assert timed["model_bytes"] == sum(f.stat().st_size for f in (unit / "model").iterdir())

    # The file is not needed any more, nor is anybody's trust.
    checkpoint.unlink()
    opened = len(asked.opened)
    image = tmp_path / "data" / "tile" / "test" / "scratch" / "000.png"
    (line,) = uadctl("score", run, image, "--json").lines
    assert line["verdict"] == "anomaly"
    assert line["score"] == pytest.approx(load_run(run, device="cpu").detector.decision_function([image])[0])
    assert uadctl("calibrate", run, "--alpha", "0.5").code == 0
    for i in range(4):
        parts.write(tmp_path / "fresh" / f"{i}.png", parts.surface(500 + i))
    assert uadctl("calibrate", run, "--good", "fresh").code == 0
    limits = json.loads((unit / "thresholds.json").read_text(encoding="utf-8"))
    assert (limits["image"]["source"], limits["image"]["n"]) == ("given", 4)
    assert len(asked.opened) == opened
    assert asked.restored == 3
    assert uadctl("report", run).code == 0


@pytest.mark.parametrize("name", [OF_ONE_ALIAS, OF_ANY])
def test_a_real_file_is_measured_and_scored_where_anomalib_is_not_installed(uadctl, tiles, tmp_path, monkeypatch, name):
    """A15 with what anomalib writes, read natively."""
    import anomalib_files

    anomalib_doubles.block(monkeypatch)
    file = anomalib_files.write_patchcore_ckpt(tmp_path / "model.ckpt", images=[parts.surface(i) for i in range(6)])
    ended = uadctl("bench", *tiles, "--model", name, "--checkpoint-path", "model.ckpt", "--pixel", "--json")
    cell = ended.json["results"]["tile"][name]["0"]
    assert cell["metrics"]["image_auroc"] == 1.0
    assert cell["metrics"]["pixel_auroc"] > 0.8  # its weights are random
    run = Path(ended.json["run"])
    (unit,) = units(run)
    rows = (unit / "scores.csv").read_text(encoding="utf-8").splitlines()
    file.unlink()
    image = tmp_path / "data" / "tile" / "test" / "scratch" / "000.png"
    (line,) = uadctl("score", run, image, "--json").lines
    assert line["verdict"] == "anomaly"
    (row,) = [row for row in rows if row.startswith("tile/test/scratch/000.png,") or "scratch/000.png," in row]
    assert repr(line["score"]) in row.split(",")
    assert uadctl("fit", run, code=2).err.startswith("error: ")


def test_an_alias_refuses_the_checkpoint_of_another(uadctl, tiles, tmp_path):
    """A19."""
    import anomalib_files

    anomalib_files.write_padim_ckpt(tmp_path / "model.ckpt")
    said = messages(uadctl, tiles, "--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt")
    assert "a checkpoint of anomalib's padim, and vision_patchcore_anomalib wants one of patchcore\n" in said
    assert "Use the model vision_padim_anomalib, or vision_anomalib_checkpoint.\n" in said


def test_a_run_of_a_checkpoint_scores_where_anomalib_is_not_installed(uadctl, tiles, asked, checkpoint, monkeypatch):
    ended = uadctl("fit", *tiles, "--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt", "--json")
    assert ended.json["units"][0]["threshold"]["source"] == "training"
    checkpoint.unlink()
    anomalib_doubles.block(monkeypatch)
    image = Path(tiles[3]) / "tile" / "test" / "good" / "000.png"
    (line,) = uadctl("score", ended.json["run"], image, "--json").lines
    assert line["status"] == "ok"


def test_a_filled_spec_of_a_checkpoint_runs_again(uadctl, tiles, asked, checkpoint):
    ended = uadctl("bench", *tiles, "--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt", "--json")
    run = Path(ended.json["run"])
    spec = read_spec(run / "spec.toml").spec
    assert spec.models[0].params == {
        "checkpoint_path": str(checkpoint),
        "inference": "training",
        "contamination": 0.1,
    }
    again = uadctl("bench", run, "--json").json
    assert again["results"] == ended.json["results"]


def test_which_way_images_go_is_a_parameter(uadctl, tiles, asked, checkpoint):
    given = ["--model", OF_ANY, "--checkpoint-path", "model.ckpt"]
    image = Path(tiles[3]) / "tile" / "test" / "scratch" / "000.png"
    scores = []
    for words in ([], ["--model-kwargs", '{"inference": "exported"}']):
        run = uadctl("fit", *tiles, *given, *words, "--json").json["run"]
        (line,) = uadctl("score", run, image, "--json").lines
        scores.append(line["score"])
    assert scores[1] == pytest.approx(2 * scores[0])


def folder_of(tmp_path: Path, *, train: int = 6, validation: int = 3) -> list[str]:
    """Options for a data set of plain folders."""
    root = tmp_path / "plain"
    for i in range(train):
        parts.write(root / "good" / f"{i:03}.png", parts.surface(i))
    for i in range(validation):
        parts.write(root / "check" / f"{i:03}.png", parts.surface(300 + i))
    for i in range(2):
        parts.write(root / "ok" / f"{i:03}.png", parts.surface(100 + i))
        parts.write(root / "bad" / f"{i:03}.png", parts.scratched(200 + i)[0])
    files = {"train": "good/*", "normal": "ok/*", "anomaly": "bad/*"} | (
        {"validation": "check/*"} if validation else {}
    )
    settings = [word for key, glob in files.items() for word in ("--set", f'dataset.files.{key}="{glob}"')]
    return ["--dataset", "folder", "--root", str(root), "--device", "cpu", *settings]


def threshold_of(ended: Any) -> dict[str, Any]:
    (unit,) = units(Path(ended.json["run"]))
    return json.loads((unit / "thresholds.json").read_text(encoding="utf-8"))["image"]


def test_validation_images_come_before_training_images(uadctl, asked, checkpoint, tmp_path):
    given = ["--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt", "--json"]
    ended = uadctl("bench", *folder_of(tmp_path), *given)
    assert (threshold_of(ended)["source"], threshold_of(ended)["n"]) == ("validation", 3)
    assert "may have learned" not in ended.err


def test_nothing_is_held_out_from_a_checkpoint(uadctl, asked, checkpoint, tmp_path):
    given = ["--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt", "--set", "calibration.holdout=0.5", "--json"]
    ended = uadctl("bench", *folder_of(tmp_path, validation=0), *given)
    assert (threshold_of(ended)["source"], threshold_of(ended)["n"]) == ("training", 6)
    assert f"[calibration] holdout = 0.5 {NO_EFFECT}\n" in ended.err
    assert any(NO_EFFECT in text for text in run_json(ended)["warnings"])
    ended = uadctl("bench", *folder_of(tmp_path), *given)
    assert (threshold_of(ended)["source"], threshold_of(ended)["n"]) == ("validation", 3)


def test_a_check_of_the_data_expects_nothing_to_be_learned(asked, checkpoint, uadctl, tmp_path):
    words = folder_of(tmp_path, train=1, validation=0)
    spec = tmp_path / "s.toml"
    text = '[model]\nname = "{}"\nparams = {{ {} }}\n[calibration]\nholdout = 0.9\n'
    reports = []
    for name, params in ((OF_ONE_ALIAS, 'checkpoint_path = "model.ckpt"'), ("vision_patchcore", "")):
        spec.write_text(text.format(name, params), encoding="utf-8")
        settings = [glob for word, glob in pairwise(words) if word == "--set"]
        overrides = Overrides(dataset="folder", root=str(tmp_path / "plain"), set=tuple(settings))
        reports.append(check_spec(read_spec(spec, overrides).spec))
    assert [error.message for error in reports[0].errors] == []
    assert [error.message for error in reports[1].errors] == [
        "plain: [calibration] holdout = 0.9 of 1 training images leaves none to learn from"
    ]


def test_python_code_can_trust_a_file(asked, one_category, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"a pickle")
    given = {
        "root": str(one_category),
        "model": OF_ANY,
        "model_kwargs": {"checkpoint_path": str(tmp_path / "model.pt")},
    }
    with pytest.raises(WeightsError, match="runs code"):
        run_benchmark("mvtec", **given, run_dir=str(tmp_path / "runs"))
    result = run_benchmark("mvtec", **given, run_dir=str(tmp_path / "runs"), trust_checkpoint=True)
    assert not result.failed
    assert asked.opened == [("model.pt", None, True)] * 2


def test_a_split_that_is_asked_for_must_be_there(uadctl, asked, checkpoint, tmp_path):
    given = ["--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt", "--set", "calibration.split=validation"]
    ended = uadctl("bench", *folder_of(tmp_path, validation=0), *given, code=1)
    assert '[calibration] split = "validation", but it has no validation images' in ended.err


def test_images_that_the_checkpoint_knows_by_heart_are_warned_of(uadctl, asked, checkpoint, tmp_path):
    words = folder_of(tmp_path, validation=0)
    for i in range(2):
        parts.write(tmp_path / "plain" / "good" / f"{i:03}.png", parts.surface(i)[..., [0, 0, 0]])  # no red at all
    ended = uadctl("bench", *words, "--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt", "--json")
    said = [text for text in run_json(ended)["warnings"] if "near 0" in text]
    assert said == [
        f"plain · {OF_ONE_ALIAS}: 2 of 6 images for the threshold have scores near 0: the model has probably learned "
        "them, and the threshold is then too low"
    ]


# -- trust


def test_a_file_that_can_run_code_is_read_only_if_trusted(uadctl, tiles, asked, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"a pickle")
    given = [*tiles, "--model", OF_ANY, "--checkpoint-path", "model.pt"]
    for command in ("bench", "fit"):
        for words in ([], ["--dry-run"]):
            ended = uadctl(command, *given, *words, code=2)
            assert f"error: {tmp_path / 'model.pt'}: runs code\n" in ended.err
    assert asked.opened == []
    for command, opened in (("bench", 2), ("fit", 2)):
        assert uadctl(command, *given, "--trust-checkpoint", "--dry-run").code == 0
        asked.opened.clear()
        ended = uadctl(command, *given, "--trust-checkpoint", "--json")
        assert asked.opened == [("model.pt", None, True)] * opened
    run = Path(ended.json["run"])
    assert "trust" not in (run / "spec.toml").read_text(encoding="utf-8")
    (unit,) = units(run)
    assert "trust" not in (unit / "model" / "model.json").read_text(encoding="utf-8")
    # Whoever repeats the run has to say it again.
    assert uadctl("bench", run, code=2).err.count("runs code") == 1


def test_trust_that_nobody_needs_is_said(uadctl, small):
    ended = uadctl("bench", *small, "--trust-checkpoint", "--dry-run")
    assert "--trust-checkpoint has no effect: no model of the spec is given a checkpoint\n" in ended.err


# -- training


def write_spec(folder: Path, name: str, more: str) -> Path:
    """A spec of one of anomalib's models on the category tile."""
    parts.write_category(folder / "many", "tile", train=24)
    file = folder / f"{name}.toml"
    text = (
        f'[dataset]\nname = "mvtec"\nroot = "many"\n[run]\ndevice = "cpu"\n[model]\nname = "vision_{name}_anomalib"\n'
    )
    file.write_text(text + more, encoding="utf-8")
    return file


def test_images_that_a_promise_rests_on_are_not_watched_in_training(uadctl, asked, tmp_path):
    chosen = '[calibration]\nmethod = "conformal"\nalpha = 0.2\n'
    spec = write_spec(tmp_path, "fastflow", f"[model.trainer]\nmax_epochs = 2\n{chosen}")
    ended = uadctl("fit", spec, "--json")
    assert (asked.learned, asked.watched) == ([19], [0])
    found = json.loads((units(Path(ended.json["run"]))[0] / "thresholds.json").read_text(encoding="utf-8"))
    assert (found["image"]["method"], found["image"]["n"]) == ("conformal", 5)
    assert found["image"]["guarantee"]


def test_bench_trains_and_keeps_anomalibs_own_file(uadctl, asked, tmp_path, monkeypatch):
    spec = write_spec(tmp_path, "fastflow", "[model.trainer]\nmax_epochs = 2\n")
    ended = uadctl("bench", spec, "--json")
    assert ended.json["means"]["vision_fastflow_anomalib"]["image_auroc"] == 1.0
    assert (asked.learned, asked.watched) == ([19], [5])
    assert asked.trainers == [{"max_epochs": 2, "batch_size": 32, "workers": 0}]
    assert (threshold_of(ended)["source"], threshold_of(ended)["n"]) == ("holdout", 5)
    cell = ended.json["results"]["tile"]["vision_fastflow_anomalib"]["0"]
    assert cell["counts"]["train_images"] == 19
    run = Path(ended.json["run"])
    (unit,) = units(run)
    assert (unit / "model" / "model.ckpt").stat().st_size > 20_000
    (timed,) = ended.json["timing"]["units"]
    kept = [unit / "model" / name for name in ("model.json", "model.safetensors")]
    assert timed["model_bytes"] == sum(file.stat().st_size for file in kept)
    assert json.loads(kept[0].read_text(encoding="utf-8"))["params"]["trainer"] == asked.trainers[0]
    assert "[model.trainer]\nmax_epochs = 2\nbatch_size = 32\nworkers = 0\n" in (run / "spec.toml").read_text()

    # Where nobody has anomalib the model scores all the same.
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    anomalib_doubles.block(monkeypatch)
    monkeypatch.setattr(
        "uadctl.models.anomalib.opening.restore", lambda tensors, facts, *, device: anomalib_doubles.Reddest("fastflow")
    )
    image = tmp_path / "many" / "tile" / "test" / "scratch" / "000.png"
    (line,) = uadctl("score", run, image, "--json").lines
    assert line["verdict"] == "anomaly"


def test_the_images_that_are_watched_are_those_for_the_threshold(uadctl, asked, tmp_path):
    words = folder_of(tmp_path, train=6, validation=3)
    spec = tmp_path / "s.toml"
    spec.write_text('[model]\nname = "vision_padim_anomalib"\n[model.trainer]\n', encoding="utf-8")
    ended = uadctl("fit", spec, *words, "--json")
    assert (asked.learned, asked.watched) == ([6], [3])
    assert ended.json["units"][0]["threshold"]["source"] == "validation"
    words = folder_of(tmp_path / "few", train=6, validation=0)
    ended = uadctl("fit", spec, *words, "--json")
    assert (asked.learned, asked.watched) == ([6, 6], [3, 0])
    assert ended.json["units"][0]["threshold"]["value"] is None


def test_a_broken_image_that_is_watched_is_said_once(uadctl, asked, tmp_path):
    words = folder_of(tmp_path, train=6, validation=3)
    (tmp_path / "plain" / "check" / "001.png").write_bytes(b"no image")
    spec = tmp_path / "s.toml"
    spec.write_text('[model]\nname = "vision_padim_anomalib"\n[model.trainer]\n', encoding="utf-8")
    ended = uadctl("bench", spec, *words, "--set", "dataset.on_error=skip", "--json")
    assert asked.watched == [2]
    assert ended.err.count("001.png") == 1
    assert ended.json["results"]["plain"]["vision_padim_anomalib"]["0"]["counts"]["broken_images"] == 1
    ended = uadctl("bench", spec, *words, "--json", code=1)
    assert "001.png" in ended.err


def test_the_plan_tells_the_trainer_and_trains_nothing(uadctl, asked, tmp_path):
    spec = write_spec(tmp_path, "fastflow", "[model.trainer]\nmax_epochs = 2\n")
    assert "  trainer: max_epochs = 2, batch_size = 32, workers = 0\n" in uadctl("bench", spec, "--dry-run").out
    told = uadctl("bench", spec, "--dry-run", "--json").json["models"]["vision_fastflow_anomalib"]
    assert told["trainer"] == {"max_epochs": 2, "batch_size": 32, "workers": 0}
    assert asked.learned == []


def test_every_combination_of_a_grid_is_trained(uadctl, asked, tmp_path):
    more = "[model.trainer]\nmax_epochs = 2\n[model.grid]\nflow_steps = [4, 8]\n"
    ended = uadctl("bench", write_spec(tmp_path, "fastflow", more), "--json")
    assert list(ended.json["means"]) == [f"vision_fastflow_anomalib flow_steps={n}" for n in (4, 8)]
    assert asked.learned == [19, 19]


def test_random_weights_are_warned_of_and_recorded(uadctl, asked, tmp_path):
    """M06."""
    more = "[model.params]\npre_trained = false\n[model.trainer]\nmax_epochs = 2\n"
    ended = uadctl("bench", write_spec(tmp_path, "fastflow", more), "--json")
    said = "vision_fastflow_anomalib: pre_trained = false: the backbone's weights are random, the scores mean little"
    record = run_json(ended)
    assert said in record["warnings"]
    assert f"warning: {said}\n" in ended.err
    facts = record["models"]["vision_fastflow_anomalib"]["tile"]
    assert (facts["weights"], facts["validation_images"]) == ("random", 5)
    assert "  weights: random\n" in uadctl("bench", tmp_path / "fastflow.toml", "--dry-run").out


def test_what_only_the_file_tells_against_it_is_warned_of_and_recorded(uadctl, tiles, checkpoint, monkeypatch):
    anomalib_doubles.use(monkeypatch, doubt="it was written by anomalib 1.9")
    ended = uadctl("bench", *tiles, "--model", OF_ANY, "--checkpoint-path", "model.ckpt", "--json")
    said = f"{OF_ANY}: it was written by anomalib 1.9"
    assert run_json(ended)["warnings"].count(said) == 1
    assert ended.err.count(f"warning: {said}\n") == 1


def test_what_training_says_is_recorded(uadctl, tmp_path, monkeypatch):
    anomalib_doubles.use(monkeypatch, said="no validation images")
    ended = uadctl("bench", write_spec(tmp_path, "fastflow", "[model.trainer]\nmax_epochs = 2\n"), "--json")
    said = "tile · vision_fastflow_anomalib: no validation images"
    assert said in run_json(ended)["warnings"]
    assert f"warning: {said}\n" in ended.err


def test_the_plan_says_what_a_training_lacks(uadctl, asked, tmp_path, monkeypatch):
    from uadctl.models.anomalib import training

    def prepare(model, params, *, download):
        raise WeightsError(f"{model.name}: no teacher, {download}")

    monkeypatch.setattr(training, "prepare_training", prepare)
    spec = write_spec(tmp_path, "efficient_ad", "[model.trainer]\nmax_epochs = 2\n")
    assert "error: efficient_ad: no teacher, False\n" in uadctl("bench", spec, "--dry-run", code=2).err


def test_the_report_says_of_what_a_checkpoints_threshold_is_made(uadctl, tiles, asked, checkpoint, tmp_path):
    given = ["--model", OF_ONE_ALIAS, "--checkpoint-path", "model.ckpt"]
    run = uadctl("bench", *tiles, *given, "--json").json["run"]
    uadctl("report", run, "--out", tmp_path / "r")
    said = (
        "comes from 6 normal images of the training split, which the checkpoint may have learned; if so, it is too low."
    )
    (page,) = (tmp_path / "r").glob("*.html")
    assert said in page.read_text(encoding="utf-8")
