"""The folder that an offline command writes: parts, each whole or not there, and a manifest that says what of.

    OUTPUT/manifest.json          what was asked for, and of each part its rows and what was added up of them
    OUTPUT/part-000000.parquet    the first rows of the input; and so on, each of the same number of rows
    OUTPUT/model/                 where a command trains one: model.safetensors, manifest.json

A part is written under a name that begins with a dot, brought to the disk, renamed, and entered into the manifest:
what the manifest does not list is not there, and is written again. A part depends on the rows and the model alone,
so a run that goes on (`--resume`) ends in the same bytes as one that was never stopped.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.connectors.parquet import encode
from pipeline.errors import ConfigError, SnapshotError, TransientError
from pipeline.jobs.alone import alone
from pipeline.jobs.blocks import Column

MANIFEST, MODEL, REPORT, PICTURE = "manifest.json", "model", "report.json", "picture.png"
FORMAT = "offkey.parts"
_VERSION = 1


class Parts:
    """What one run writes, and what those before it have written of the same."""

    def __init__(self, path: Path, about: Mapping[str, Any], parts: list[dict[str, Any]], complete: bool) -> None:
        self.path, self._about = path, about
        self.entries = parts
        """Of each whole part: file, rows, the number of its first row, and what the command has added up of it."""
        self.complete = complete

    def add(self, columns: Mapping[str, Column], begin: int, rows: int, sums: Mapping[str, Any]) -> None:
        """Write the next part, which holds rows from number `begin` on, and enter it with these sums.

        Raises:
            TransientError: the disk is full or away; parts that are entered stay whole.
        """
        self.add_content(encoded(columns, begin, rows), begin, rows, sums)

    def add_content(self, content: bytes | memoryview, begin: int, rows: int, sums: Mapping[str, Any]) -> None:
        """Write the next part, whose bytes are there; raises as `add` does."""
        name = f"part-{len(self.entries):06d}.parquet"
        self.write(name, content)
        entry = {"file": name, "begin": begin, "rows": rows, "bytes": len(content), **sums}
        self._enter([*self.entries, entry], complete=False)
        self.entries.append(entry)

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write the report; from here on there is nothing left to do."""
        self.write(REPORT, json.dumps(report, indent=1).encode())
        self._enter(self.entries, complete=True)
        self.complete = True

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file, whole or not at all, and bring it to the disk.

        Raises:
            TransientError: the disk is full or away.
        """
        with self._explained(name):
            write_whole(self.path / name, content)

    def drawn(self, name: str, draw: Callable[[Path], None]) -> None:
        """Have a file drawn; raises as `write` does."""
        with self._explained(name):
            draw(self.path / name)

    def whole(self) -> tuple[int, int]:
        """Return how many parts the manifest lists, and how many rows they hold."""
        said = _manifest(self.path)
        entries = said["parts"] if said else []
        return len(entries), sum(entry["rows"] for entry in entries)

    def _enter(self, entries: list[dict[str, Any]], *, complete: bool) -> None:
        said = {
            "format": FORMAT,
            "format_version": _VERSION,
            "about": self._about,
            "complete": complete,
            "parts": entries,
        }
        self.write(MANIFEST, json.dumps(said, indent=1).encode())

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            whole = sum(each["rows"] for each in self.entries)
            raise TransientError(
                f"{self.path / name}: cannot be written ({error.strerror or error}); make room or mend that, then "
                f"give the same command with --resume: {whole:,} rows in {len(self.entries)} parts are whole"
            ) from error


def encoded(columns: Mapping[str, Column], begin: int, rows: int) -> memoryview:
    """Return the bytes of a part, which holds rows from number `begin` on."""
    return encode(columns, {"offkey.parts": json.dumps({"begin": begin, "rows": rows})})


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file under another name, bring it to the disk, and rename it."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def begun(path: Path) -> Mapping[str, Any] | None:
    """Return what an earlier run was asked for; None where there was none.

    Raises:
        ConfigError: the manifest cannot be read, or is of something else.
    """
    said = _manifest(path)
    return None if said is None else said["about"]


def complete(path: Path) -> bool | None:
    """Tell whether a run has written all it should; None where it is no output of ours.

    Raises:
        ConfigError: the manifest cannot be read, or is of something else.
    """
    said = _manifest(path)
    return None if said is None else bool(said["complete"])


def refuse(path: Path) -> None:
    """See that nothing is there yet: said before anything is read.

    Raises:
        ConfigError: the folder holds something.
    """
    _refuse(path, _manifest(path))


def _refuse(path: Path, said: Mapping[str, Any] | None) -> None:
    if said is not None:
        rows = sum(each["rows"] for each in said["parts"])
        state = "complete" if said["complete"] else "not complete"
        raise ConfigError(
            f"{path}: it is there already, with {rows:,} rows, {state}; --resume goes on with it, --overwrite "
            "begins anew, or take another --output"
        )
    _refuse_others(path)


def _refuse_others(path: Path) -> None:
    """Refuse a folder of something else: nothing there is ours to overwrite."""
    others = [each for each in path.iterdir() if not each.name.startswith(".")] if path.is_dir() else []
    if others:
        raise ConfigError(f"{path}: it holds other files ({others[0].name}); take another --output")


@contextmanager
def opened(path: Path, about: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Parts]:
    """Hold the folder while it is written; it is made if it is not there.

    A mistake that is found before the first part leaves nothing, so that the command can be given anew.

    Raises:
        ConfigError: it holds something, and neither `resume` nor `overwrite` fits that; or another run writes it.
    """
    was_there = path.exists()
    with alone(path, "command", "--output"):
        parts = _begin(path, about, resume, overwrite)
        try:
            yield parts
        except (ConfigError, SnapshotError):
            if not resume and not parts.entries:
                _withdraw(path, was_there)
            raise


def _begin(path: Path, about: Mapping[str, Any], resume: bool, overwrite: bool) -> Parts:
    said = _manifest(path)
    if said is None:
        _refuse_others(path)
    elif not resume and not overwrite:
        _refuse(path, said)
    for left in path.glob(".*.unfinished"):
        left.unlink()
    if said is not None and resume:
        differing = [key for key in {**about, **said["about"]} if about.get(key) != said["about"].get(key)]
        if differing:
            key = differing[0]
            raise ConfigError(
                f"{path}: it was begun with {key} {said['about'].get(key)}, and {about.get(key)} is asked for; ask "
                "for the same, or --overwrite it"
            )
        return Parts(path, about, _whole(path, said["parts"]), said["complete"])
    if said is not None:
        # First what says that anything is there: whatever is left after a cut is no part.
        (path / MANIFEST).unlink()
        for name in [each["file"] for each in said["parts"]] + [REPORT, PICTURE]:
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / MODEL, ignore_errors=True)
    parts = Parts(path, about, [], complete=False)
    parts._enter([], complete=False)
    return parts


def _withdraw(path: Path, was_there: bool) -> None:
    (path / MANIFEST).unlink()
    shutil.rmtree(path / MODEL, ignore_errors=True)
    if not was_there:
        (path / ".lock").unlink()
        path.rmdir()


def _whole(path: Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for entry in entries:
        part = path / entry["file"]
        if not part.exists() or part.stat().st_size != entry["bytes"]:
            raise ConfigError(
                f"{part}: it is listed as whole, and is gone or of another size; --overwrite begins anew"
            )
    return entries


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
        if said["format"] != FORMAT or said["format_version"] != _VERSION:
            raise ConfigError(f"{path / MANIFEST}: it is of something else; take another --output")
        return said
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise ConfigError(f"{path}: it is no folder; take another --output") from error
    except OSError as error:
        raise ConfigError(f"{path / MANIFEST}: cannot be read ({error.strerror}); take another --output") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path / MANIFEST}: it cannot be read ({error}); take another --output") from error
