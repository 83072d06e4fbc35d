"""The commands in the README, the docs and the comments of specs are commands of this program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from uadctl.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "specs").glob("*.toml"))]


def commands(text: str) -> list[str]:
    """Lines that call uadctl: in shell blocks, and in comments of specs after a colon or alone."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        found += block.replace("\\\n", " ").splitlines()
    found += re.findall(r"^#.*?((?:[A-Z0-9_]+=\S+ )*uadctl .*)$", text, re.M)
    calls = []
    for line in found:
        line = re.sub(r"\s#\s.*$", "", line).strip()
        line = re.sub(r"^((?:[A-Z0-9_]+=\S+ )+)", "", line)
        if line.startswith("uadctl "):
            calls.append(line)
    return calls


CALLS = [(page.name, call) for page in PAGES for call in commands(page.read_text(encoding="utf-8"))]


def check(call: str) -> None:
    """Parse a call as the program would, without running it."""
    words = [re.sub(r"[<>…]", "", word) for word in shlex.split(call)[1:]]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("uadctl", words)


def test_there_are_commands_to_check():
    assert len(CALLS) >= 25
    assert {page for page, _ in CALLS} >= {"README.md", "quickstart.md", "report.md", "demo.toml"}


@pytest.mark.parametrize(("page", "call"), CALLS, ids=lambda value: value[:60])
def test_a_documented_command_is_a_command(page, call):
    check(call)


def test_a_wrong_command_would_be_seen():
    with pytest.raises(typer.BadParameter.__mro__[1], match="No such option"):
        check("uadctl bench specs/demo.toml --coreset 0.1")


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_of_the_program_stands_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = typer.main.get_command(app).commands
    assert len(names) >= 8
    assert [name for name in names if f"`uadctl {name}" not in text] == []
