"""Programs that tests need: those of the extra `dev` lie beside the interpreter, others on the PATH."""

import shutil
import sys
from pathlib import Path

import pytest


def program(name: str, remedy: str) -> str:
    """Return where a program lies; the test is skipped where it is missing, and says how to get it."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing; it comes with: {remedy}")
    return found
