"""The scanner that finds the line of every key agrees with tomllib on what keys there are."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from uadctl.errors import SpecError
from uadctl.spec import read_spec
from uadctl.spec.lines import find_lines, split_assignment

TRICKY = '''\
# [not.a.table]
top = 1 # x = 2
"quoted key" = "a ] } = # 'x"
'literal "key"' = 'c:\\path\\'
"esc\\u0041\\"" = """
[looks.like]
a = table \\""" still
""quoted"""""
lit = \'\'\'
[[x]] \\
\'\'\'\'\'
a.b . "c.d" = {x = 1, y.z = [1, {w = "}"}], e = {}}
list = [ # [a]
  "]",
  [1, [2, 3]], # nested
  {k = 1, "k 2" = [ ]},
  1979-05-27 07:32:00, -inf, 0xf,

]
  [ table . sub ]  # trailing
x=1
[[table.rows]]
[table.rows.inner]
deep.er = true
[[table.rows]]
name = "second"
  [[table.rows.more]]
  n = 1
  [[table.rows.more]]
[model.params]
[model]
'''


def paths(value: object, key: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if key:
        yield key
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, (*key, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths(inner, (*key, number))


def test_a_text_full_of_look_alikes() -> None:
    found = find_lines(TRICKY)
    assert set(found) == set(paths(tomllib.loads(TRICKY)))
    lines = TRICKY.splitlines()
    for key, text in {
        ("top",): "top = 1 # x = 2",
        ("esc" + 'A"',): '"esc\\u0041\\"" = """',
        ("a", "b", "c.d", "y", "z", 1, "w"): 'a.b . "c.d" = {x = 1, y.z = [1, {w = "}"}], e = {}}',
        ("list", 0): '  "]",',
        ("list", 1, 1, 0): "  [1, [2, 3]], # nested",
        ("list", 2, "k 2"): '  {k = 1, "k 2" = [ ]},',
        ("list", 5): "  1979-05-27 07:32:00, -inf, 0xf,",
        ("table", "sub", "x"): "x=1",
        ("table", "rows", 0, "inner", "deep", "er"): "deep.er = true",
        ("table", "rows", 1, "name"): 'name = "second"',
        ("table", "rows", 1, "more", 0, "n"): "  n = 1",
        ("model",): "[model]",
        ("model", "params"): "[model.params]",
    }.items():
        assert lines[found[key] - 1] == text


KEYS = st.one_of(
    st.text("abc_-1", min_size=1, max_size=4),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    st.sampled_from(["a.b", "[x]", "=", '"', "'", "#", "a\\", "\n", "]", "}"]),
)
SCALARS = st.one_of(
    st.integers(-99, 99),
    st.booleans(),
    st.floats(),
    st.dates(),
    st.datetimes(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(['"""', "'''", "[a]\nb = 1\n", "# c", "]", "}", "\\", '""\n"', "''", "a = {"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=4)


def _basic(text: str) -> str:
    return tomli_w.dumps({"v": text}).removeprefix("v = ").removesuffix("\n")


@st.composite
def written_key(draw: st.DrawFn, key: str) -> str:
    styles = [_basic(key)]
    if key and key.isascii() and all(c.isalnum() or c in "_-" for c in key):
        styles.append(key)
    if key.isprintable() and "'" not in key:
        styles.append(f"'{key}'")
    return draw(st.sampled_from(styles))


@st.composite
def written_text(draw: st.DrawFn, text: str) -> str:
    styles = [_basic(text)]
    plain = all(c.isprintable() or c == "\n" for c in text)
    if plain and "'" not in text and "\n" not in text:
        styles.append(f"'{text}'")
    if plain and "'''" not in text:
        styles.append(f"'''\n{text}'''" if not text.endswith("'") else _basic(text))
    escaped = text.replace("\\", "\\\\").replace('"""', '""\\"')
    if plain and not text.startswith("\n"):
        styles += [f'"""{escaped}"""' if not text.endswith('"') else _basic(text), f'"""\\\n  {_basic(text)[1:-1]}"""']
    return draw(st.sampled_from(styles))


GAPS = st.sampled_from(["", " ", "\n", " # ] , } [a]\n  ", "\t"])


@st.composite
def written_value(draw: st.DrawFn, value: object) -> str:
    if isinstance(value, dict):
        items = []
        for key, inner in value.items():
            blank = draw(st.sampled_from(["", " "]))
            items.append(f"{draw(written_key(key))}{blank}={blank}{draw(written_value(inner))}")
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        parts = [f"{draw(GAPS)}{draw(written_value(item))}{draw(GAPS)}" for item in value]
        end = draw(st.sampled_from(["", ","])) if parts else ""
        return "[" + ",".join(parts) + end + draw(GAPS) + "]"
    if isinstance(value, str):
        return draw(written_text(value))
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")


@st.composite
def documents(draw: st.DrawFn) -> str:
    """TOML texts in many styles: headers, arrays of tables, dotted keys, inline tables, comments that look alike."""
    text = ""

    def body(table: dict[str, object], header: str) -> None:
        nonlocal text
        later: list[tuple[str, object]] = []
        for key, value in table.items():
            name = draw(written_key(key))
            text += draw(st.sampled_from(["", "\n", "  # [c]\n", "\t"]))
            if isinstance(value, dict) and draw(st.booleans()):
                later.append((name, value))
            elif isinstance(value, dict) and value and draw(st.booleans()):
                for inner, held in value.items():
                    text += f"{name} . {draw(written_key(inner))}={draw(written_value(held))}\n"
            elif value and isinstance(value, list) and all(isinstance(v, dict) for v in value) and draw(st.booleans()):
                later.append((name, value))
            else:
                text += f"{name} = {draw(written_value(value))} # x = 1\n"
        for name, value in later:
            full = f"{header}.{name}" if header else name
            if isinstance(value, dict):
                text += f"[{full}]\n"
                body(value, full)
            elif isinstance(value, list):
                for one in value:
                    text += f" [[ {full} ]] # ]]\n"
                    body(one, full)

    body(draw(TABLES), "")
    return text


@settings(max_examples=150, deadline=None)
@given(documents())
def test_the_keys_are_tomllibs(text: str) -> None:
    found = find_lines(text)
    assert set(found) == set(paths(tomllib.loads(text)))
    # A bare name stands on the line that is claimed for it.
    lines = text.split("\n")
    for key, line in found.items():
        name = key[-1]
        if isinstance(name, str) and name.isascii() and name.isalnum():
            assert name in lines[line - 1]


@settings(max_examples=50, deadline=None)
@given(TABLES)
def test_the_keys_of_what_tomli_w_writes(table: dict[str, object]) -> None:
    text = tomli_w.dumps(table, multiline_strings=True).replace("\r\n", "\n")
    assert set(find_lines(text)) == set(paths(tomllib.loads(text)))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a=1", (("a",), "1")),
        (" a . b = x=y ", (("a", "b"), "x=y")),
        ("model.\"x.y=z\".'q' = 2", (("model", "x.y=z", "q"), "2")),
        ('"\\u0041"=', (("A",), "")),
        ("a", None),
        ("=1", None),
        ("a.=1", None),
        ("a b=1", None),
        ('"\\q"=1', None),
        ("ü=1", None),
        ("", None),
    ],
)
def test_assignments_are_parted(text: str, parts: object) -> None:
    assert split_assignment(text) == parts


def test_a_threshold_that_no_map_can_reach_is_wrong_at_its_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = '[dataset]\nname = "demo"\n[model]\nname = "patchcore"\n[calibration]\n'
    largest = "expected a number >= -3.4028234e+38 and <= 3.4028234e+38"
    sigmas = "expected a number >= 0 and <= 1000"
    wrong = {
        "pixel_threshold = 1e+39": largest,
        "pixel_threshold = -3.41e+38": largest,
        "pixel_sigmas = -1": sigmas,
        "pixel_sigmas = 1001": sigmas,
    }
    for line, expected in wrong.items():
        (tmp_path / "s.toml").write_text(f"{head}{line}\n")
        with pytest.raises(SpecError) as error:
            read_spec("s.toml")
        assert [p.message for p in error.value.problems] == [f"s.toml:6: [calibration] {line}: {expected}"]
