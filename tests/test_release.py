"""What is released: a wheel and a source distribution that hold what they need, and nothing else."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.cli import app

ROOT = Path(__file__).parent.parent
_LARGEST_BYTES = 15_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built as for a release, by the setuptools that is here."""
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    _build("sdist", source, folder)
    (packed,) = folder.glob("*.tar.gz")
    # The wheel is built of what the source distribution holds, as every tool does.
    with tarfile.open(packed) as opened:
        opened.extractall(source / "unpacked", filter="data")
    (unpacked,) = (source / "unpacked").iterdir()
    _build("wheel", unpacked, folder)
    return folder


def _build(kind: str, source: Path, folder: Path) -> None:
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_packages_and_their_data(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < _LARGEST_BYTES
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for top in ("pipeline", "models") for path in (ROOT / top).rglob("*.py")}
    assert modules <= names
    assert {
        *("pipeline/py.typed", "models/py.typed", "pipeline/alert.schema.json", "pipeline/config.schema.json"),
        *("pipeline/template.yaml", "pipeline/demo/data/machines.npz", "pipeline/demo/data/ATTRIBUTION.md"),
    } <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"pipeline", "models", "offkey"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_runs_from_an_empty_folder(built: Path, tmp_path: Path) -> None:
    """Installed by pip beside the libraries that are here; the checkout is not on its path."""
    (wheel,) = built.glob("*.whl")
    place = tmp_path / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--target", str(place), str(wheel)], check=True, capture_output=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    code = (
        "import pipeline, models; print(pipeline.__file__, models.__file__); from pipeline.cli import main; main()"
    )

    def offkey(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=60
        )
        where, _, said = done.stdout.partition("\n")
        assert where == f"{place}/pipeline/__init__.py {place}/models/__init__.py"
        return said

    assert offkey("--version") == "offkey 0.1.0\n"
    assert "wrote offkey.yaml" in offkey("init")


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete"), ("zsh", "compdef"), ("fish", "complete")])
def test_shells_complete_it(shell: str, word: str) -> None:
    from typer.testing import CliRunner

    asked = {"_OFFKEY_COMPLETE": f"source_{shell}"}
    told = CliRunner().invoke(app, [], prog_name="offkey", env=asked)
    assert told.exit_code == 0
    assert word in told.output
    assert "_OFFKEY_COMPLETE" in told.output
