"""The examples of the documents run, and print what stands behind them.

Each is the Python that follows `<!-- run by tests/test_examples.py -->`. A number in the comment behind a `print`
is what was printed where it was written; here it has to come near.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, ROOT

MARK = "<!-- run by tests/test_examples.py -->\n"
TEXT = "\n".join(path.read_text() for path in DOCUMENTS)
EXAMPLES = re.findall(rf"{re.escape(MARK)}```python\n(.*?)```", TEXT, re.DOTALL)
NEAR = 0.03


def title(example: str) -> str:
    """Return the first line, a comment that says what it shows."""
    return example.splitlines()[0].removeprefix("# ")


def test_every_mark_has_an_example() -> None:
    assert len(EXAMPLES) == TEXT.count(MARK) >= 4
    assert all(example.startswith("# ") and "print(" in example for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=title)
def test_an_example_prints_what_it_says(example: str, tmp_path: Path) -> None:
    said = [float(number) for number in re.findall(r"print\(.*\)  # (-?[\d.]+)", example)]
    assert len(said) == example.count("print(")
    threads = "import torch; torch.set_num_threads(1)\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", threads + example],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    printed = [float(number) for number in done.stdout.split()]
    assert printed == pytest.approx(said, abs=NEAR)
