"""Names that others chose reach a terminal, a page or a file of a program as text, and nothing else."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import run_by_hand

from uadctl.cli.console import print_table, print_told
from uadctl.report.tables import write_table
from uadctl.runs.folder import UnitFolder

# Clears a screen, rings, returns, starts a C1 sequence, turns the order of letters, ends a script, a cell, a command.
EVIL = "\x1b[2J\x07\r\x9b31m\u202e</script><img src=x>|`::error::x"
ESCAPED = "\\x1b[2J\\x07\\r\\x9b31m\\u202e</script><img src=x>|`::error::x"
MOVES = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run made by somebody else, who chose every name in it."""
    folder = run_by_hand.begin_run(tmp_path, status="failed", name=EVIL, warnings=[EVIL], notes=[EVIL])
    category = EVIL.replace("/", "_")
    images = [(f"test/{EVIL.replace('/', '_')}.png", 0, "good", 4.0), ("test/b.png", 1, EVIL, 40.0)]
    unit = run_by_hand.add_unit(folder, category, images, overlays=False, broken=[("test/c.png", EVIL)])
    UnitFolder(unit, category, "vision_patchcore", 0).write_scores(
        [path, "test", label, defect, score, 10.0, "anomaly" if label else "good", "ok", None, None]
        for path, label, defect, score in images
    )
    error = f"=cmd|' /C calc'!A0 {EVIL}"
    run_by_hand.fail_unit(folder, f"={category}", error)
    cell = json.loads((unit / "metrics.json").read_text())
    del cell["schema"]
    results = {category: {"vision_patchcore": {"0": cell}}}
    results[f"={category}"] = {"vision_patchcore": {"0": {"success": False, "error": error}}}
    run_by_hand.write_json(folder / "metrics.json", {"results": results, "means": {"vision_patchcore": {EVIL: 0.5}}})
    broken = {"category": category, "label": "vision_patchcore", "seed": 0, "metric": EVIL, "reason": EVIL}
    broken |= {"value": None, "min": 0.5, "max": None}
    run_by_hand.write_json(folder / "gate.json", {"passed": False, "limits": 1, "broken": [broken], "baseline": EVIL})
    return folder


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            assert dict(attrs).get("src") != "x"
        assert not any(name.startswith("on") for name, _ in attrs)


def test_a_report_of_such_a_run(uadctl, run, tmp_path):
    ended = uadctl("report", run, "--csv", "t.csv", "--markdown", "t.md", "--junit", "t.xml")
    assert MOVES.search(ended.out + ended.err) is None
    text = Path(ended.out.strip()).read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert len(page.tags) > 50
    assert text.count("<script") == text.count("</script>") == 2
    markdown = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert MOVES.search(markdown) is None
    assert "<img" not in markdown
    assert "&#60;img src=x" in markdown
    names = [case.attrib["name"] for case in ElementTree.parse(tmp_path / "t.xml").iter("testcase")]
    assert len(names) == 2
    assert all("\\x1b[2J\\x07" in name for name in names)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 5
    assert any(row["category"].startswith("'=\x1b[2J") for row in rows)
    assert not any(cell.startswith(("=", "@")) for row in rows for cell in row.values())


def test_other_commands_on_such_a_run(uadctl, run):
    for words in (
        ("report", "--list", run.parent),
        ("score", run, "a.png"),
        ("calibrate", run),
        ("bench", "--resume", run),
    ):
        ended = uadctl(*words, code=None)
        assert MOVES.search(ended.out + ended.err) is None, words
        assert ended.out + ended.err
    listed = uadctl("report", "--list", run.parent, "--json").json
    assert listed["runs"][0]["name"] == EVIL  # programs get the name itself


def test_tables_and_lines_on_a_terminal(capsys):
    print_table([EVIL, "n"], [[EVIL, "1"], ["two\nlines", "2"]], text_columns=1)
    print_told(EVIL)
    out = capsys.readouterr().out
    assert MOVES.search(out) is None
    assert out.count(ESCAPED) == 3
    assert "two  " in out


def test_a_spreadsheet_computes_no_name(tmp_path, run):
    from uadctl.report.reading import read_run
    from uadctl.runs.folder import RunFolder

    write_table(tmp_path / "t.csv", [read_run(RunFolder.open(run))])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as stream:
        failed = [row for row in csv.DictReader(stream) if row["metric"] == ""]
    assert [row["reason"][:13] for row in failed] == ["failed: =cmd|"]
    assert failed[0]["category"][:2] == "'="
