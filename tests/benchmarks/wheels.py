"""How large the wheels are that a worker installs: `python -m tests.benchmarks.wheels`.

Those of the base dependencies and of theirs, as pip resolves them here under `constraints.txt`, without torch and
what only torch needs; and the project's own. Compressed, as they are downloaded. It needs a package index.
"""

import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_MB = 1e6


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [each for each in project["dependencies"] if not each.startswith("torch")]
    assert len(wanted) == len(project["dependencies"]) - 1
    with tempfile.TemporaryDirectory() as folder:
        theirs, own = Path(folder, "theirs"), Path(folder, "own")
        _pip("download", "--only-binary=:all:", "-c", str(ROOT / "constraints.txt"), "-d", str(theirs), *wanted)
        _pip("wheel", "--no-deps", "-w", str(own), str(ROOT))
        sizes = {path.name: path.stat().st_size for path in theirs.iterdir()}
        (project_wheel,) = own.iterdir()
        printed = {
            "without_torch_mb": round(sum(sizes.values()) / _MB, 1),
            "project_mb": round(project_wheel.stat().st_size / _MB, 1),
            "wheels": {name: round(size / _MB, 2) for name, size in sorted(sizes.items())},
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        }
    print(json.dumps(printed))


def _pip(*words: str) -> None:
    """Run pip; what it says is shown where it fails."""
    done = subprocess.run([sys.executable, "-m", "pip", "-q", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


if __name__ == "__main__":
    main()
