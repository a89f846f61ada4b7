"""What the documents hold: their blocks, the lines that a shell would get, and code within a line."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_LEFT_OUT = re.compile(r"(^|/)(\.|venv|demo-output|build|[^/]*egg-info)")
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if not _LEFT_OUT.search(str(path.relative_to(ROOT))))
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of a document."""

    path: Path
    line: int
    kind: str
    """What stands behind the fence: sh, console, yaml, or nothing."""
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Line:
    """What a shell would run."""

    where: str
    words: tuple[str, ...]
    """Without what a shell takes itself: variables before it, where its output goes."""


def blocks(kind: str | None = None) -> list[Block]:
    """Return the blocks of all documents, or those of one kind."""
    return [
        Block(path, text.count("\n", 0, found.start()) + 2, found[1], found[2])
        for path in DOCUMENTS
        for text in [path.read_text()]
        for found in _BLOCK.finditer(text)
        if kind is None or found[1] == kind
    ]


def lines() -> Iterator[Line]:
    """Yield what the blocks have a shell run: all of `sh`, and of any other what follows a prompt."""
    for block in blocks():
        text = block.text.replace("\\\n", " ")
        said = text.splitlines() if block.kind == "sh" else re.findall(r"^\$ (.*)$", text, re.MULTILINE)
        for each in said:
            for part in re.split(r" && |; ", re.sub(r"(^|\s)# .*", "", each)):
                words = shlex.split(re.sub(r"\s>.*", "", part))
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield Line(f"{block}: {part.strip()}", tuple(words))


def inline(path: Path) -> list[str]:
    """Return the code within the lines of a document, or of the docstrings of a module."""
    text = path.read_text()
    if path.suffix == ".py":
        found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, _DOCUMENTED)]
        text = "\n".join(ast.get_docstring(node) or "" for node in found)
    prose = _BLOCK.sub("", text)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
