"""A folder that a command leaves, whole or not at all.

All is written into a folder beside it, which takes its name when it is whole: what was stopped, or did not fit on
the disk, leaves nothing that looks like a result. A folder is overwritten only if there is nothing else in it.
"""

import errno
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError, TransientError


def check_folder(folder: Path, overwrite: bool, ours: Callable[[str], bool], command: str) -> None:
    """See that a folder may be written, before any work is done.

    Args:
        ours: tells whether a command like this one writes files of this name.
        command: what writes them, in words.

    Raises:
        ConfigError: it is there, and is not to be overwritten or holds more than the command leaves.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"--output {folder}: that is a file; name a folder")
    if folder.is_mount():
        raise ConfigError(f"--output {folder}: nothing can take the place of a mounted folder; name one in it")
    if not overwrite:
        raise ConfigError(f"--output {folder}: it is there already; name another folder, or give --overwrite")
    if others := sorted(path.name for path in folder.rglob("*") if not path.is_dir() and not ours(path.name)):
        raise ConfigError(
            f"--output {folder}: it holds {others[0]}, which no {command} has written; name another folder, or "
            "move that away"
        )


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes this one's place at the end of the block, or goes.

    What an earlier command left there goes only once the new one is in its place.

    Raises:
        TransientError: the disk is full.
        ConfigError: it cannot be written.
    """
    # What a link names, or `.`, has its place somewhere else.
    place = folder.resolve()
    beside = place.parent / f".{place.name}.{secrets.token_hex(4)}"
    earlier = beside.with_name(f"{beside.name}.earlier")
    try:
        with _translated(folder):
            beside.mkdir(parents=True)
        with _translated(folder):
            yield beside
        with _translated(folder):
            if place.exists():
                place.rename(earlier)
            beside.rename(place)
    finally:
        if earlier.exists() and not place.exists():
            earlier.rename(place)
        for each in (beside, earlier):
            shutil.rmtree(each, ignore_errors=True)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise TransientError(
                f"--output {folder}: the disk is full; nothing was left there: make room, or name another folder, "
                "and run the same command again"
            ) from error
        raise ConfigError(f"--output {folder}: it cannot be written ({error.strerror or error})") from error
