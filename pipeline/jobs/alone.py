"""One command at a time writes a folder: two at once would each lose what the other writes."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError


@contextmanager
def alone(folder: Path, who: str, option: str) -> Iterator[None]:
    """Hold a folder, which is made if it is not there.

    Args:
        who: the command, in an error.
        option: names the folder.

    Raises:
        ConfigError: it cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); take another {option}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: another {who} writes here; wait, or take another {option}") from error
        yield
