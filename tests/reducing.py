"""Rows to reduce, of six features that three hidden numbers tell, as Parquet files, and a model of them."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models.arrays import FloatArray
from models.codes import fit_coder
from models.files import to_files
from pipeline.connectors.parquet import Array, Coded, encode
from pipeline.jobs.parquet_input import ParquetInput
from pipeline.jobs.reduce import Options, reduce_rows

FEATURES = tuple(f"f{number}" for number in range(6))
PART_ROWS = 1_000


def drawn(rows: int, seed: int = 0) -> FloatArray:
    fixed, random = np.random.default_rng(0), np.random.default_rng(seed + 1)
    hidden = random.standard_normal((rows, 3))
    return np.asarray(np.tanh(hidden @ fixed.standard_normal((3, 6))) + 0.05 * random.standard_normal((rows, 6)))


@cache
def _model() -> dict[str, bytes]:
    coder = fit_coder(drawn(2_000, 9), 3, features=FEATURES, options={"max_epochs": 2})
    return to_files(coder.detector)


def model(folder: Path) -> Path:
    """Write a model of these features, 3 numbers a code."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _model().items():
        (folder / name).write_bytes(content)
    return folder


def write_rows(path: Path, x_NF: FloatArray, features: Sequence[str] = FEATURES, **more: Any) -> Path:
    """Write a Parquet file of rows with offsets, and series `a` and `b` in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = np.arange(len(x_NF))
    columns: dict[str, Array | Coded] = {"offset": count, "series": Coded(["a", "b"], count % 2), **more}
    columns |= dict(zip(features, np.ascontiguousarray(x_NF.T), strict=True))
    path.write_bytes(encode(columns, {}))
    return path


def options(output: Path, model: Path | None, **further: Any) -> Options:
    chosen: dict[str, Any] = {"part_rows": PART_ROWS, "about": {"model": str(model)}, **further}
    return Options(output, model=model, **chosen)


def run(rows: Path, output: Path, model: Path | None, **further: Any) -> dict[str, Any]:
    """Reduce the rows of a file or folder."""
    source = ParquetInput([rows], FEATURES)
    return reduce_rows(source, options(output, model, **further), str(rows), lambda what, done, of: None)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file that a run has left, by name."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


_CUT = """
import os, signal, sys
from pathlib import Path
from tests.reducing import run
rows, output, model, resume, step, number = sys.argv[1:]
real, seen = os.replace, 0
def replace(source, target):
    global seen
    if "part-" in str(target):
        seen += 1
        if seen == int(number) and step == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
        if seen == int(number) and step == "after":
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        real(source, target)
        if step == "entered" and str(target).endswith("manifest.json") and seen == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
run(Path(rows), Path(output), Path(model), resume=resume == "1")
"""


def run_cut(rows: Path, output: Path, model: Path, step: str, number: int, *, resume: bool = False) -> int:
    """Reduce rows in a process that is killed (SIGKILL) at a part: `before` it has its name, `after`, or `entered`.

    Returns:
        how the process ended.
    """
    done = python(_CUT, rows, output, model, int(resume), step, number)
    sys.stderr.write(done.stderr)
    return done.returncode


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    asked = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(asked, capture_output=True, text=True, env=environment, timeout=120)


def manifest(output: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((output / "manifest.json").read_bytes())
    return said


def forget_parts(output: Path, whole: int) -> None:
    """Leave what a run leaves that was killed behind so many parts."""
    said = manifest(output)
    for entry in said["parts"][whole:]:
        (output / entry["file"]).unlink()
    (output / "report.json").unlink()
    kept = {**said, "complete": False, "parts": said["parts"][:whole]}
    (output / "manifest.json").write_text(json.dumps(kept, indent=1))
