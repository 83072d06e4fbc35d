"""Steps as a spec names them: reading, writing back, every mistake with its message; the data against the code."""

from __future__ import annotations

import inspect
import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadctl.records import Step
from uadctl.spec.areas import parse_area, parse_intensity
from uadctl.spec.camera_steps import CAMERA_STEPS, PRESET_REASONS, PRESETS, read_steps
from uadctl.spec.operations import Operation, Parameter, expected, read_step
from uadctl.spec.registry import load_target

PAGE = Path(__file__).parents[1] / "docs" / "camera.md"

KNOWN = {
    "plain": Operation("plain", "m:f", "Takes nothing."),
    "turn": Operation(
        "turn",
        "m:g",
        "Takes numbers.",
        (
            Parameter("angle", "float", 2, -5.0, 5.0, "in degrees"),
            Parameter("count", "int", 3, 1, None, "how often"),
            Parameter("limit", "float", 1.5, None, 9.0, "at most"),
        ),
    ),
    "lay": Operation(
        "lay",
        "m:h",
        "Takes paths.",
        (Parameter("over", "path", None, meaning="a file"), Parameter("under", "path", "", meaning="another")),
    ),
}

READ = [
    ("plain", Step("plain")),
    (" plain ", Step("plain")),
    ("turn", Step("turn", (("angle", 2.0), ("count", 3), ("limit", 1.5)))),
    ("turn:count=7", Step("turn", (("angle", 2.0), ("count", 7), ("limit", 1.5)))),
    ("turn: limit=-1e-3, angle= 5 ", Step("turn", (("angle", 5.0), ("count", 3), ("limit", -0.001)))),
    ("lay:over=a.png", Step("lay", (("over", "a.png"), ("under", "")))),
    ("lay:over=C:\\x y=1;ü.png ,under=..", Step("lay", (("over", "C:\\x y=1;ü.png "), ("under", "..")))),
    ("lay:under=,over=a", Step("lay", (("over", "a"), ("under", "")))),
]

WRONG = [
    ("trun", 'no step is called "trun"; did you mean turn?'),
    ("", 'no step is called ""; there are: lay, plain, turn'),
    ("zzzzzz:angle=1", 'no step is called "zzzzzz"; there are: lay, plain, turn'),
    ("turn:", 'expected turn:key=value,key=value, found ""'),
    ("turn:3", 'expected turn:key=value,key=value, found "3"'),
    ("turn:angle=1,", 'expected turn:key=value,key=value, found ""'),
    ("lay:over=a,b.png", 'expected lay:key=value,key=value, found "b.png"; a path cannot hold a comma'),
    ("turn:angel=1", '"angel" is not a parameter of turn; did you mean angle?'),
    ("turn:zz=1", '"zz" is not a parameter of turn; it takes: angle, count, limit'),
    ("plain:a=1", '"a" is not a parameter of plain; it takes none'),
    ("turn:angle=1,angle=1", "angle of turn is given twice"),
    ("turn:angle=x", 'angle of turn must be a number from -5 to 5, found "x"'),
    ("turn:angle=", 'angle of turn must be a number from -5 to 5, found ""'),
    ("turn:angle=nan", 'angle of turn must be a number from -5 to 5, found "nan"'),
    ("turn:limit=-inf", 'limit of turn must be a number, at most 9, found "-inf"'),
    ("turn:angle=5.01", 'angle of turn must be a number from -5 to 5, found "5.01"'),
    ("turn:count=2.0", 'count of turn must be a whole number, at least 1, found "2.0"'),
    ("turn:count=0", 'count of turn must be a whole number, at least 1, found "0"'),
    ("lay", "lay needs lay:over=…: a file"),
    ("lay:under=x", "lay needs lay:over=…: a file"),
    ("lay:over=", 'over of lay must be a path, found ""'),
    ("lay:over=a\0b", 'over of lay must be a path, found "a\\x00b"'),
]


@pytest.mark.parametrize(("text", "step"), READ)
def test_a_step_is_read_with_its_defaults(text, step):
    found = read_step(text, KNOWN)
    assert found == step
    assert [type(value) for _, value in found.params] == [type(value) for _, value in step.params]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_every_mistake_has_its_message(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_step(text, KNOWN)


def test_an_integer_of_any_length_is_refused_by_its_bound():
    with pytest.raises(ValueError, match=r"^angle of turn must be a number from -5 to 5, found"):
        read_step("turn:angle=1" + "0" * 400, KNOWN)
    assert dict(read_step("turn:count=1" + "0" * 400, KNOWN).params)["count"] == 10**400


@given(
    st.floats(-5, 5),
    st.integers(1, 10**9),
    st.floats(max_value=9, allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_characters=",\0", exclude_categories=["Cs"])).filter(str.strip),
)
def test_what_a_step_says_reads_back_as_that_step(angle, count, limit, path):
    for step in (
        Step("turn", (("angle", angle), ("count", count), ("limit", limit))),
        Step("lay", (("over", path), ("under", ""))),
        Step("lay", (("over", path), ("under", path))),
    ):
        assert read_step(str(step), KNOWN) == step


@given(st.text() | st.from_regex(r"(turn|lay|plain):[a-z]{1,6}=.{0,9}(,[a-z]{1,6}=.{0,9})?"))
def test_any_text_is_a_step_or_an_error_of_one_line(text):
    message, step = "", None
    try:
        step = read_step(text, KNOWN)
    except ValueError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 250
    assert step is None or read_step(str(step), KNOWN) == step


def test_what_a_value_must_be_is_said_in_words():
    assert expected(Parameter("a", "int", 1)) == "a whole number"
    assert expected(Parameter("a", "path", None)) == "a path"


# ---- the steps of a camera


def test_the_steps_are_those_that_the_issue_names():
    assert sorted(CAMERA_STEPS) == ["clahe", "flat_field", "gray_world", "homomorphic", "max_rgb"]
    assert all(name == step.name for name, step in CAMERA_STEPS.items())
    assert sorted(PRESETS) == [
        "industrial-colour-drift",
        "industrial-low-light",
        "industrial-metal",
        "industrial-uneven-light",
    ]


@pytest.mark.parametrize("name", sorted(CAMERA_STEPS))
def test_the_data_say_what_the_function_takes(name):
    operation = CAMERA_STEPS[name]
    signature = inspect.signature(load_target(operation.target))
    image, *taken = signature.parameters.values()
    assert image.name == "image"
    if name == "flat_field":
        # In a spec the frames are files; `dark` may be left out in both.
        assert [parameter.name for parameter in operation.parameters] == ["reference", "dark"]
        assert [(p.name, p.default) for p in taken] == [("flat", inspect.Parameter.empty), ("dark", None)]
        assert [p.default for p in operation.parameters] == [None, ""]
        return
    assert [(p.name, p.default) for p in operation.parameters] == [(p.name, p.default) for p in taken]
    assert [p.kind for p in operation.parameters] == [
        {"float": "float", "int": "int"}[str(p.annotation)] for p in taken
    ]


def test_the_bounds_in_the_data_are_values_that_the_functions_take():
    np = pytest.importorskip("numpy")
    image = np.full((4, 5, 3), 100, np.uint8)
    tried = 0
    for operation in CAMERA_STEPS.values():
        for parameter in operation.parameters:
            for bound in (parameter.low, parameter.high):
                if bound is not None:
                    value = int(bound) if parameter.kind == "int" else bound
                    load_target(operation.target)(image, **{parameter.name: value})
                    tried += 1
    assert tried == 12


def test_every_parameter_is_explained_and_its_default_is_within_bounds():
    found = [parameter for operation in CAMERA_STEPS.values() for parameter in operation.parameters]
    assert len(found) == 8
    for parameter in found:
        assert parameter.meaning
        if isinstance(parameter.default, float | int):
            assert (parameter.low or -math.inf) <= parameter.default <= (parameter.high or math.inf)


def test_presets_stand_for_their_steps():
    assert read_steps(["industrial-metal", "max_rgb"]) == (
        Step("gray_world"),
        Step("clahe", (("clip_limit", 2.0), ("grid", 8))),
        Step("max_rgb", (("percentile", 100.0),)),
    )
    assert len(PRESETS) == len(PRESET_REASONS) == 4
    for name, texts in PRESETS.items():
        assert read_steps([name]) == tuple(read_step(text, CAMERA_STEPS) for text in texts)
        # As the docs show them, so that the filled spec holds the same.
        assert [str(step) for step in read_steps([name])] == list(texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("industrial-metl", 'no step is called "industrial-metl"; did you mean industrial-metal?'),
        ("clhe", 'no step is called "clhe"; did you mean clahe?'),
        (
            "industrial-metal:clip_limit=2",
            "industrial-metal is a preset and takes no parameters; it stands for: "
            "gray_world clahe:clip_limit=2.0,grid=8",
        ),
        ("homomorphic:cutoff=0", 'cutoff of homomorphic must be a number from 0.001 to 1, found "0"'),
        (
            "flat_field",
            "flat_field needs flat_field:reference=…: a picture of an even surface, or a folder of them to average",
        ),
    ],
)
def test_a_mistake_in_a_list_of_steps_is_told(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_steps(["gray_world", text])


# ---- the page


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the page, without its head."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def said(value: float | int | str | None) -> str:
    return {None: "must be given", "": "none"}.get(value, f"{value:g}" if isinstance(value, float) else f"{value}")


def test_the_page_lists_the_steps():
    expected_rows = []
    for operation in CAMERA_STEPS.values():
        expected_rows.append([f"`{operation.name}`", "", operation.summary])
        for p in operation.parameters:
            bounds = "" if p.low is None else f", {p.low:g} to {p.high:g}"
            expected_rows.append(["", f"`{p.name}` = {said(p.default)}{bounds}", p.meaning])
    assert rows("Steps") == expected_rows
    assert len(expected_rows) == 13


def test_the_spec_on_the_page_can_be_read():
    blocks = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 1
    table = tomllib.loads(blocks[0])["preprocess"]
    assert parse_intensity(table["intensity"]) == ("window", (0.0, 4095.0))
    assert [step.name for step in read_steps(table["steps"])] == ["flat_field", "gray_world"]
    assert [parse_area(text)[0] for text in (table["roi"], *table["ignore"])] == ["polygon", "box", "mask"]


def test_the_page_lists_the_presets():
    listed = [[f"`{name}`", ", ".join(f"`{text}`" for text in PRESETS[name]), PRESET_REASONS[name]] for name in PRESETS]
    assert rows("Presets") == listed
    assert len(listed) == 4
