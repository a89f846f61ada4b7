"""The Dockerfile as a list of what it does."""

import json
import re
import shlex
from dataclasses import dataclass

from tests.prometheus import DEPLOY

DOCKERFILE = DEPLOY / "Dockerfile"


@dataclass(frozen=True)
class Step:
    """One instruction."""

    stage: str
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """What stands behind the instruction, be it a list or a line."""
        words = json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)
        return [str(word) for word in words]


def steps() -> list[Step]:
    """Return all instructions, each with the name of its stage."""
    found, stage = [], ""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.partition(" AS ")[2]
        found.append(Step(stage, name, rest.strip()))
    return found


def only(name: str, stage: str) -> Step:
    (step,) = (step for step in steps() if (step.name, step.stage) == (name, stage))
    return step
