"""The offline commands by Ray against this process: `python -m tests.benchmarks.ray [ROWS]`.

Snapshots of 10 million rows of 16 features are written to a folder, 2 GB of it with what comes of them, and a model
of 8 numbers a code is trained. Then the same command, `offkey reduce --model`, codes all of them, in processes of
its own: first by `--engine local`, then by `--engine ray`, which starts Ray on this machine with an actor for each
processor, and ends it. `local_s` and `ray_s` are of whole commands, from their start to their end; `overhead` is
what Ray takes more, as a share. `equal` tells whether all files that they leave are the same, byte for byte.
"""

import filecmp
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.reduce import NAMES, ROWS, write_input

LEGS = ("local", "ray")


def command_s(folder: Path, engine: str) -> float:
    """Return the seconds that the command takes by an engine."""
    asked = [sys.executable, "-c", "from pipeline.cli import main; main()", "--log-level", "warning", "reduce"]
    asked += [str(folder / "offkey.yaml"), "machines", "--model", str(folder / "model"), "--no-picture", "--json"]
    # The end of the range stands in the manifest.
    asked += ["--to", "2024-01-01T00:00:00Z"]
    began_s = time.perf_counter()
    subprocess.run(
        [*asked, "--output", str(folder / engine), "--engine", engine], stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - began_s


def equal(one: Path, other: Path) -> bool:
    """Tell whether two outputs hold the same files."""
    left, right = (
        sorted(str(path.relative_to(each)) for path in each.rglob("*") if path.is_file()) for each in (one, other)
    )
    return left == right and filecmp.cmpfiles(one, other, left, shallow=False)[1:] == ([], [])


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder, rows)
        stream = {"topic": "machines", "features": list(NAMES)}
        settings = {"storage": (folder / "storage").as_uri(), "streams": {"machines": stream}}
        (folder / "offkey.yaml").write_text(json.dumps(settings))
        seconds = {engine: command_s(folder, engine) for engine in LEGS}
        found = {
            "rows": rows,
            **{f"{engine}_s": round(seconds[engine], 1) for engine in LEGS},
            "overhead": round(seconds["ray"] / seconds["local"] - 1, 3),
            "equal": equal(folder / "local", folder / "ray"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
