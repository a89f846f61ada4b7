"""What the documents of `deploy/` name is there: files, sections, commands and their options, metrics."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from pipeline.cli import app
from tests.prometheus import DEPLOY

README = DEPLOY.parent / "README.md"
DOCUMENTS = [DEPLOY / "README.md", DEPLOY / "runbooks.md"]
LINKING = [README, *DOCUMENTS, DEPLOY / "security.md"]


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", LINKING, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_somewhere(path: Path) -> None:
    found = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    links = [link for link in found if not link.startswith("http")]
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in map(anchor_of, headings), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_there(path: Path) -> None:
    """Those in code, with their options."""
    named = re.findall(r"(?:`|^\$ |-- )offkey ([a-z][^`\n]*)", path.read_text(), re.MULTILINE)
    assert len(named) >= 5
    for command in named:
        found: Any = get_command(app)
        words = command.split()
        while hasattr(found, "commands"):
            assert words[0] in found.commands, command
            found = found.commands[words.pop(0)]
        known = {option for parameter in found.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, command
