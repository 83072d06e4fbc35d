"""Parameters of models: read from a flag, held against the constructor, merged, filled in."""

from __future__ import annotations

from typing import Literal

import msgspec
import msgspec.inspect
import pytest
from spec_models import ENTRIES, Strict

from uadctl.errors import ParamError, SpecError
from uadctl.spec import (
    MODELS,
    Overrides,
    build_model_kwargs,
    check_checkpoint,
    create_model,
    fill_params,
    get_model_signature_info,
    list_params,
    merge_checkpoint_path,
    parse_model_kwargs,
    read_spec,
    validate_user_model_kwargs,
)
from uadctl.spec.signature import rebuild_model
from uadctl.spec.values import BAD, take

STRICT_TAKES = "backend, contamination, count, device, flag, kernel, layers, limit, pretrained, ratio, weights"


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in ENTRIES:
        monkeypatch.setitem(MODELS, entry.name, entry)


def test_model_kwargs_absent_is_empty() -> None:
    assert parse_model_kwargs(None) == {}
    assert parse_model_kwargs(' {"a": [1, 2.5, "x", null, true]} ') == {"a": [1, 2.5, "x", None, True]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1,2,3]", "--model-kwargs: expected a JSON object, found a list: [1, 2, 3]"),
        ('"x"', '--model-kwargs: expected a JSON object, found a string: "x"'),
        ("null", "--model-kwargs: expected a JSON object, found null: null"),
        (
            "{a: 1}",
            "--model-kwargs is not valid JSON: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)",
        ),
        ("", "--model-kwargs is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"a": NaN}', "--model-kwargs is not valid JSON: NaN is no JSON number"),
        ('{"a": -Infinity}', "--model-kwargs is not valid JSON: -Infinity is no JSON number"),
        ('{"a": 1e999}', "--model-kwargs is not valid JSON: 1e999 is too large a number"),
        ('{"a": 1, "a": 2}', '--model-kwargs is not valid JSON: "a" is given twice'),
        ("[" * 100_000, "--model-kwargs is not valid JSON: nested too deeply"),
    ],
)
def test_model_kwargs_that_are_no_json_object(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_model_kwargs(text)
    assert str(error.value) == message
    assert error.value.help is not None
    assert isinstance(error.value, ValueError)


def test_a_checkpoint_path_is_merged_into_a_copy() -> None:
    kwargs = {"width": 3}
    assert merge_checkpoint_path(kwargs, checkpoint_path=None) == {"width": 3}
    assert merge_checkpoint_path(kwargs, checkpoint_path="m.ckpt") == {"width": 3, "checkpoint_path": "m.ckpt"}
    assert kwargs == {"width": 3}


def test_the_parameters_own_checkpoint_stays() -> None:
    assert merge_checkpoint_path({"checkpoint_path": "m"}, checkpoint_path=None) == {"checkpoint_path": "m"}
    assert merge_checkpoint_path({"checkpoint_path": "m"}, checkpoint_path="m") == {"checkpoint_path": "m"}
    assert merge_checkpoint_path({"checkpoint_path": None}, checkpoint_path="m") == {"checkpoint_path": "m"}


def test_two_different_checkpoints_conflict() -> None:
    with pytest.raises(ValueError) as error:
        merge_checkpoint_path({"checkpoint_path": "a.ckpt"}, checkpoint_path="b.ckpt")
    assert str(error.value) == ('--checkpoint-path b.ckpt and the model parameter checkpoint_path = "a.ckpt" conflict')


@pytest.mark.parametrize(
    ("name", "kwargs", "has_trainer", "message"),
    [
        (
            "vision_checkpoint",
            {},
            False,
            "vision_checkpoint needs a checkpoint and none is given. Give --checkpoint-path FILE, or "
            "model.params.checkpoint_path (in --model-kwargs: checkpoint_path)",
        ),
        (
            "vision_trainable",
            {"checkpoint_path": None},
            False,
            "vision_trainable needs a checkpoint and none is given. Give --checkpoint-path FILE, or "
            "model.params.checkpoint_path (in --model-kwargs: checkpoint_path), or [model.trainer] to train it",
        ),
        (
            "vision_trainable",
            {"checkpoint_path": "m.ckpt"},
            True,
            'vision_trainable is given both a checkpoint ("m.ckpt") and [model.trainer]',
        ),
        (
            "vision_strict",
            {"checkpoint_path": "m.ckpt"},
            False,
            "vision_strict takes no checkpoint: checkpoint_path would have no effect",
        ),
        (
            "vision_checkpoint",
            {"checkpoint_path": "m.ckpt"},
            True,
            "[model.trainer] has no effect: vision_checkpoint is not trained by uadctl",
        ),
    ],
)
def test_checkpoint_rules(name: str, kwargs: dict[str, object], has_trainer: bool, message: str) -> None:
    with pytest.raises(SpecError) as error:
        check_checkpoint(name, kwargs, has_trainer=has_trainer)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vision_winclip_anomalib", "it is not trained: it compares images with words"),
        ("vision_anomalib_checkpoint", "no model of anomalib is named; the models vision_NAME_anomalib are trained"),
    ],
)
def test_why_a_model_is_not_trained_is_part_of_the_message(name: str, reason: str) -> None:
    with pytest.raises(SpecError) as error:
        check_checkpoint(name, {}, has_trainer=True)
    assert error.value.message == f"[model.trainer] has no effect: {name} is not trained by uadctl ({reason})"
    assert error.value.help == "Remove it."
    with pytest.raises(SpecError) as error:
        check_checkpoint(name, {}, has_trainer=False)
    assert error.value.help == f"uadctl does not train it: {reason}"


def test_what_is_not_offered_is_not_built() -> None:
    with pytest.raises(SpecError) as error:
        create_model("vision_fuvas_anomalib", checkpoint_path="m.ckpt")
    assert error.value.message == (
        "vision_fuvas_anomalib is not offered: it takes videos, and uadctl takes single images"
    )


def test_a_trainer_is_filled_and_reaches_the_constructor() -> None:
    assert create_model("vision_trainable", trainer={"max_epochs": 3, "patience": None}).trainer == {
        "max_epochs": 3,
        "batch_size": 32,
        "workers": 0,
    }
    assert create_model("vision_trainable", checkpoint_path="m").trainer is None
    with pytest.raises(
        SpecError, match=r"^vision_trainable is given both a checkpoint \(\"m\"\) and \[model\.trainer\]$"
    ):
        create_model("vision_trainable", checkpoint_path="m", trainer={})
    with pytest.raises(ParamError) as error:
        create_model("vision_trainable", trainer={"epochs": 1, "max_steps": 0})
    assert [problem.message for problem in error.value.problems] == [
        "vision_trainable: trainer does not accept epochs; did you mean max_epochs?",
        "vision_trainable: trainer.max_steps = 0: expected an integer >= 1",
    ]
    assert error.value.help == "It takes: batch_size, max_epochs, max_steps, patience, workers"


def test_what_a_run_keeps_is_built_again_without_what_it_was_learned_from() -> None:
    strict = rebuild_model("strict", {"ratio": 0.5, "weights": "gone.pth", "pretrained": True}, device="cpu")
    assert (strict.given["ratio"], strict.given["weights"]) == (0.5, None)
    assert (strict.given["pretrained"], strict.given["device"]) == (False, "cpu")
    params = {"checkpoint_path": "gone.ckpt", "width": 4, "trainer": {"max_epochs": 3}}
    trainable = rebuild_model("vision_trainable", params, device="cpu")
    assert (trainable.checkpoint_path, trainable.width, trainable.trainer) == ("", 4, None)
    with pytest.raises(ParamError, match="does not accept banana"):
        rebuild_model("vision_trainable", {"banana": 1}, device="cpu")


def test_checkpoints_given_as_needed_pass() -> None:
    check_checkpoint("vision_checkpoint", {"checkpoint_path": "m"}, has_trainer=False)
    check_checkpoint("vision_trainable", {"checkpoint_path": "m"}, has_trainer=False)
    check_checkpoint("vision_trainable", {}, has_trainer=True)
    check_checkpoint("vision_strict", {}, has_trainer=False)
    check_checkpoint("vision_wrapped", {"checkpoint_path": "m"}, has_trainer=False)


def test_the_signature_is_read_without_building() -> None:
    keys, takes_any = get_model_signature_info("strict")
    assert keys == {*STRICT_TAKES.split(", "), "embedder"}
    assert takes_any is False
    assert get_model_signature_info("vision_wrapped") == ({"n_jobs"}, True)


def test_parameters_are_listed_with_type_default_choices_and_meaning() -> None:
    infos = {info.name: info for info in list_params("vision_strict")}
    assert infos["ratio"].type == "float"
    assert infos["ratio"].default == 0.1
    assert infos["ratio"].doc == "share of the patches that are kept."
    assert infos["backend"].choices == ("numpy", "torch")
    assert infos["layers"].type == "tuple[str, ...] | None"
    assert not infos["embedder"].settable
    assert not infos["ratio"].required
    assert [info.required for info in list_params("vision_checkpoint")] == [True, False, False]


def test_unknown_keys_of_a_strict_constructor_are_listed_with_what_is_taken() -> None:
    with pytest.raises(TypeError) as error:
        validate_user_model_kwargs("strict", {"ration": 1, "zzz": 2, "count": 1})
    assert str(error.value) == (
        f"vision_strict does not accept ration (did you mean ratio?), zzz. It takes: {STRICT_TAKES}"
    )
    assert isinstance(error.value, ParamError)
    assert isinstance(error.value, SpecError)


@pytest.mark.parametrize(
    ("params", "fact"),
    [
        ({"ratio": "x"}, "ratio: expected a number, found a string"),
        ({"ratio": True}, "ratio: expected a number, found true or false"),
        ({"ratio": float("nan")}, "ratio: expected a number, nan, inf and numbers beyond 1e308 are none"),
        ({"ratio": 10**400}, "ratio: expected a number, too large"),
        ({"count": 1.0}, "count: expected an integer, found a number"),
        ({"count": False}, "count: expected an integer, found true or false"),
        ({"flag": 1}, "flag: expected true or false, found an integer"),
        ({"backend": "tensor"}, 'backend: expected one of "numpy", "torch"'),
        ({"backend": "torhc"}, 'backend: expected one of "numpy", "torch"; did you mean "torch"?'),
        ({"layers": "a"}, "layers: expected a list of strings, found a string"),
        ({"layers": ["a", 1]}, "layers[1]: expected a string, found an integer"),
        ({"kernel": [3]}, "kernel: expected a list of 2 integers, found 1"),
        ({"kernel": [3, 0.5]}, "kernel[1]: expected an integer, found a number"),
        ({"limit": "x"}, "limit: expected an integer, found a string"),
        ({"embedder": object()}, "embedder: embedder is a Python object, which only create_model can be given"),
    ],
)
def test_values_of_another_type_are_refused(params: dict[str, object], fact: str) -> None:
    with pytest.raises(ParamError) as error:
        validate_user_model_kwargs("vision_strict", params)
    assert str(error.value) == f"vision_strict: {fact}"


def test_true_is_not_the_one_of_a_literal() -> None:
    heard: list[str] = []
    wanted = msgspec.inspect.type_info(Literal[1, 2])
    assert take(1, wanted, ("x",), lambda _, fact: heard.append(fact)) == 1
    assert take(True, wanted, ("x",), lambda _, fact: heard.append(fact)) is BAD
    assert heard == ["expected one of 1, 2"]


def test_values_are_converted_to_the_constructors_types() -> None:
    given = {"ratio": 1, "layers": ["a", "b"], "kernel": [3, 5], "limit": None}
    built = build_model_kwargs("strict", user_kwargs=given, auto_kwargs={})
    assert built == {"ratio": 1.0, "layers": ("a", "b"), "kernel": (3, 5), "limit": None}
    assert type(built["ratio"]) is float
    assert given["layers"] == ["a", "b"]


def test_a_wrapped_constructor_takes_any_name() -> None:
    validate_user_model_kwargs("vision_wrapped", {"anything": {"a": [1]}})
    built = build_model_kwargs("vision_wrapped", user_kwargs={"x": 1}, auto_kwargs={"device": "cpu"})
    assert built == {"x": 1, "device": "cpu"}


def test_a_users_value_beats_an_automatic_one() -> None:
    auto = {"device": "cuda", "contamination": 0.2, "seed": 3, "batch_size": 4}
    built = build_model_kwargs("strict", user_kwargs={"device": "cpu"}, auto_kwargs=auto)
    assert built == {"device": "cpu", "contamination": 0.2}


def test_users_keys_are_never_dropped() -> None:
    with pytest.raises(ParamError, match=r"^vision_strict does not accept seed\. It takes: "):
        build_model_kwargs("strict", user_kwargs={"seed": 1}, auto_kwargs={"seed": 2})


def test_a_parameter_without_default_must_be_given() -> None:
    with pytest.raises(ParamError) as error:
        build_model_kwargs("vision_needy", user_kwargs={}, auto_kwargs={"device": "cpu"})
    assert str(error.value) == "vision_needy needs kind"


def test_defaults_are_filled_in_except_none_objects_and_the_runs_own() -> None:
    assert fill_params("strict", {"kernel": [1, 1], "limit": None}) == {
        "ratio": 0.1,
        "count": 9,
        "kernel": (1, 1),
        "backend": "torch",
        "flag": False,
        "pretrained": True,
        "contamination": 0.1,
    }
    assert fill_params("strict", {"device": "cpu"})["device"] == "cpu"
    assert fill_params("vision_wrapped", {"z": 1, "a": 2}) == {"n_jobs": 1, "a": 2, "z": 1}
    assert list(fill_params("vision_wrapped", {"z": 1, "a": 2})) == ["n_jobs", "a", "z"]


def test_create_model_builds_what_the_name_means(tmp_path) -> None:
    embedder = object()
    model = create_model("strict", ratio=1, embedder=embedder, weights=tmp_path / "w.pth")
    assert isinstance(model, Strict)
    assert model.given["ratio"] == 1.0
    assert model.given["embedder"] is embedder
    assert model.given["weights"] == str(tmp_path / "w.pth")


def test_create_model_checks_before_it_builds() -> None:
    with pytest.raises(
        ParamError, match=r"^vision_strict does not accept ration \(did you mean ratio\?\)\. It takes: "
    ):
        create_model("strict", ration=1)
    with pytest.raises(SpecError, match=r"^vision_checkpoint needs a checkpoint and none is given\. "):
        create_model("vision_checkpoint")
    with pytest.raises(SpecError, match=r'^"stritc": no such model; did you mean vision_strict\? '):
        create_model("stritc")
    assert create_model("vision_checkpoint", checkpoint_path="m").checkpoint_path == "m"


def test_no_pretrained_reaches_a_training_by_anomalib_and_no_checkpoint(tmp_path):
    spec = tmp_path / "spec.toml"
    text = '[dataset]\nname = "demo"\n[model]\nname = "vision_fastflow_anomalib"\n'
    spec.write_text(text + "[model.trainer]\nmax_epochs = 1\n", encoding="utf-8")
    reading = read_spec(spec, Overrides(pretrained=False))
    assert reading.spec.models[0].params["pre_trained"] is False
    assert reading.notes == ()
    spec.write_text(text, encoding="utf-8")
    reading = read_spec(spec, Overrides(pretrained=False, checkpoint_path="model.ckpt"))
    assert "pre_trained" not in reading.spec.models[0].params
    assert [note for note in reading.notes if "--no-pretrained has no effect" in note]
